"""Long raw videos -> single-scene, captioned clips in shards.

VideoFactory's HD-VG-130M pipeline (section 3, appendix C.1).
"""
