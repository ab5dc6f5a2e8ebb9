"""What makes checkpoints: `dreamfactory train RUN`. Follow a step through loop.py, trainer.py and video/objective.py.

command.py             the command             run_file.py, config.py, checks.py   a run as data
loop.py                the loop around a run   trainer.py    a run in memory: stages, steps, what comes out
task.py                what is trained, behind one interface:
  video/                 a video network         super_resolution/   an upscaler (upscaler_config.py)
sources.py, data/      clips, from disk to batches (batch.py); encode.py: the encoders that a cache asks
codec.py               between pictures and latents
start.py               what a run starts from    recipe.py     what it must share with the one it goes on from
checkpoint.py          whole or not there        state.py      what is in them
optimizer.py           rates, averages           parallel.py   processes      random.py   random numbers
logs.py, means.py, summary.py   numbers of a run
plan.py, live.py       --plan: memory            survey.py     --survey: the data
libraries.py           what a run needs, tried before it begins
tiny_world/            endless made-up clips, and the demo
"""
