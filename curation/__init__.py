"""Long raw videos -> single-scene, captioned clips in shards: `dreamfactory curate SOURCES OUT`.

VideoFactory's HD-VG-130M pipeline (section 3, appendix C.1). Follow a video through process.py.

command.py, curate.py     the command; what a run does
begun.py, tools.py        which set OUT holds, whose turn it is there; what is installed
config.py, run_file.py    a run as data; presets/ are the paper's choices and others
sources.py                what SOURCES holds
rows.py                   what is written down of a source and a clip
process.py                one source -> its rows and clips, a pure function:
  analysis.py               one way through the video: which clips are in it, what is seen of them
  scenes.py, transnet.py    where scenes end
  pictures.py, scores.py    bars; motion, sharpness, hashes
  overlay.py, marks.py, tiled.py   logos and watermarks   text.py, strokes.py, still.py   burned-in text
runners/                  children, Ray            store.py    what is done already, in OUT/.work
assemble.py               rows of all sources -> the set: filters.py, duplicates.py, annotate.py, shards.py
captions.py, categories.py   words: commands.py, image_to_text.py, model_folders.py, words.py
report.py, report_page.py, report_pictures.py   what came of it
quality/                  made-up videos whose scenes, overlays and duplicates are known
"""
