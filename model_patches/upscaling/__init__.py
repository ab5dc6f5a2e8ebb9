"""Image upscalers at work on frames: our RCAN, and every network that spandrel knows.

rcan.py       the network (VF 4)
upscaler.py   what a file or spandrel's descriptor is
enlarge.py    at work on frames, in strips or tiles
sizes.py      an exact size
"""
