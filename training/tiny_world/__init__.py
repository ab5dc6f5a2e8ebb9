"""The tiny world: endless captioned clips with known motion, and how well a network plays them."""
