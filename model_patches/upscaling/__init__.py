"""Image upscalers at work on frames: our RCAN, and every network that spandrel knows."""
