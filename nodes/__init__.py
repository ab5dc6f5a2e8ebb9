"""The ComfyUI door: V3 nodes, one topic a file, and the bridge that makes our network a native model of the host.

loaders.py        load video UNet, text encoder
bundles.py        load a bundle whole, the demo's or one's own
conditioning.py   image to video                            prompts.py   one prompt a frame
long_clip.py      KSampler Long Clip                        continue_clip.py, pieces.py   a piece at a time
patches.py        PACA, image adapter, Swap-CA, motion on an SD model
schedule.py       noise schedule with its curve (curve.py), rescale CFG over a whole clip
upscale.py        a clip larger, by any image upscaler
save.py           a network with its LoRAs, on disk
extension.py      the list of nodes                         checked.py   what every node looks at before it works
bridge/           our parts as the host's own objects

The only folder that imports comfy; it imports neither training nor pipelines.
"""
