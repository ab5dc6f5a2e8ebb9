"""Our parts as the host's own objects: MODEL, CLIP, CLIP_VISION, VAE, sampling, files.

model.py           MODEL: the host's BaseModel around the network     loading.py   of a file, around another's
sampling.py        the schedule as model_sampling                      known.py     frames that are there already
windows.py         what is given by frame, cut to what a network sees
text_encoder.py    CLIP, of any size; on disk: text_weights.py        vision_encoder.py   CLIP_VISION
codec.py           VAE: the demo's codec                              kl_vae.py    diffusers' folders
bundle_files.py    what lies in a bundle, and where                   folders.py   files the host lists
tell.py            what a person should know before a run is wasted   advice.py    what is told when sampling begins
"""
