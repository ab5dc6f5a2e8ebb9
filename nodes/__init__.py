"""The ComfyUI door: V3 nodes, one topic a file, and the bridge that makes our network a native model of the host.

    loaders.py        load video UNet, text encoder
    bundles.py        load a bundle whole, the demo's or one's own      bundle_files.py: what lies in one, and where
    text_encoder.py, text_weights.py, vision_encoder.py, codec.py, kl_vae.py   what those sockets hold, on core classes
    conditioning.py   image to video                prompts.py   one prompt a frame
    patches.py        PACA, image adapter, Swap-CA, motion on an SD model
    save.py           a network with its LoRAs, on disk
    upscale.py        a clip larger, by any image upscaler
    schedule.py       noise schedule with its curve (curve.py), rescale CFG over a whole clip
    model.py          the bridge: BaseModel around the network       sampling.py: the schedule as model_sampling
    folders.py        files the host lists; errors.py: a user's mistake in one sentence; extension.py: the list of nodes

The only folder that imports comfy; it imports neither training nor pipelines.
"""
