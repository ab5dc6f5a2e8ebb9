"""Does it run on my card? `dreamfactory check`, `make gpu-check`: one table, one JSON file, about five minutes.

    command.py   the arguments, and which lines there are
    report.py    a line: right, wrong or not here, and why; the table
    device.py    the card: what it is, what its matrix units and its memory give at best
    network.py   our networks on it: against the CPU, twice, as a CUDA graph, compiled, against the ceiling
    upscaler.py  RCAN in less and less memory
    trainer.py   thirty steps, stopped in the middle and resumed, in every precision
    host.py      ComfyUI: finds one, and runs inside.py in it in both memory modes
    inside.py    the lines inside ComfyUI

Nothing is downloaded and nothing is kept but the JSON. Every line also runs on a CPU, in small (`--device cpu`).
"""
