"""Networks on disk.

load.py, save.py        read any file this pack understands; write ours
compose.py              patches on a base, motion on an image model
warm_start.py           grow a network out of another
files.py                what a file says of itself
pickles.py              torch.save's files; pickle_program.py: what one would do
foreign_config.py       what folders of transformers and diffusers may say
converters/             public weights -> ours
export.py               the other way: ours -> AnimateDiff and diffusers
"""
