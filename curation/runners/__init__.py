"""How sources are worked on: one after the other, in several processes, or by Ray. The same comes out.

worker.py   a child process for each that works, since decoders crash and hang
pool.py     inline and processes
on_ray.py   Ray
"""
