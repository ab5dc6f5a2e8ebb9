"""All reading and writing of pictures and video.

viewer.py      from a video's packets to pictures, as a player shows them     hdr.py   HDR as ordinary video
decode.py      videos and images in files or tar shards: what they are, some of their frames
frames.py      frames of ordinary video             fields.py      interlaced frames made whole
stills.py      pictures                             kinds.py       what a file is
files.py       a clip or picture, in and out        transcode.py   a video through an upscaler, its sound and times kept
playback.py    a video from its beginning to its end    clips.py   pieces of it, encoded into files
sheets.py      contact sheets and grids             sidecars.py    captions beside a video or picture
"""
