"""Clips, from what lies on disk to batches.

read.py                what a user has, as captioned files (records.py): folder.py, metadata.py, shards.py
probing.py             what these files are      buckets.py, picks.py   a clip's size, and which frames make it
video_source.py        numbered clips by bucket, raw or encoded         source.py   what the trainer asks of any source
encode.py, cache.py    clips as frozen encoders see them, kept          precompute.py   all of them, before training
mix.py                 which clips a step takes: a pure function of seed and step
captions.py, statistics.py, survey_page.py, report.py   what a person is told of it
"""
