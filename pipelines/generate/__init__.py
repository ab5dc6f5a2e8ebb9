"""`dreamfactory generate`: text -> picture -> video -> larger video, for one prompt or ten thousand.

request.py   what is asked for: one clip, or a list in JSON lines
plan.py      every default in its place and everything checked, before anything is computed
engine.py    the work: pictures, clips, enlarged clips, some at a time, resumable
folder.py    the folder of a list: its clips, its index, what it was begun with
command.py   the command's options
"""
