"""The network of both papers: read `unet.py` beside FD Fig. 2 and VF Fig. 3."""
