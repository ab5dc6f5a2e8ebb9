"""`dreamfactory generate`: text -> picture -> video -> larger video, for one prompt or ten thousand.

request.py   what is asked for: one clip, or a list in JSON lines
plan.py      every default in its place and everything checked, before anything is computed
studio.py    the networks at work: pictures, clips, enlarged clips
engine.py    the whole: checked, read, and one clip made, or
batches.py   a list of them, some at a time, resumable
folder.py    the folder of a list: its clips, its index, what it was begun with
processes.py the share of a list that one process has
command.py   the command's options
"""
