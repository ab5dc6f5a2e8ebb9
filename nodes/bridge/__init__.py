"""Our parts as the host's own objects: MODEL, CLIP, CLIP_VISION, VAE, sampling, files."""
