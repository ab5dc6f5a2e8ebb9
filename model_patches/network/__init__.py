"""The network of both papers: read `unet.py` beside FD Fig. 2 and VF Fig. 3.

config.py, presets.py   every choice as a field, networks by name
layout.py, parts.py     where everything sits, which weights belong to which part
conditions.py           what a clip is made from besides its noise
unet.py, blocks.py      the whole forward pass
spatial.py              Stable Diffusion's blocks
temporal.py             ModelScope's temporal half, motion text (FD 3.2), temporal skips (VF 4)
swap_attention.py       Swap-CA, VF Eq. 2-3
image_adapter.py        FD Eq. 2
paca.py                 FD Eq. 3
predict_net.py          FD Eq. 4
attention.py            attention functions and what every transformer is made of
hooks.py                what a host attaches to a forward pass
long_clip.py            clips longer than the network sees at once
"""
