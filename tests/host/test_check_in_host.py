"""The check's lines inside a real ComfyUI, on the CPU: what a card says only there is "not here"."""

import torch

from dreamfactory.check import device, host as comfy, network


def test_the_lines_inside(host, tmp_path, monkeypatch):
    monkeypatch.setattr(comfy, "find", lambda: host)
    here = device.Here(torch.device("cpu"), tmp_path, small=True)
    network.demo(here, torch.float32)
    comfy.prepare(here)
    lines = [line for mode in comfy.MODES for line in comfy.lines(here, mode, lambda text: None)]
    verdicts = {line.name: line.verdict for line in lines}
    assert verdicts.pop("ComfyUI, dynamic: start") == "not here"
    assert set(verdicts.values()) == {"right"}, [line.told for line in lines]
    assert len(verdicts) == 7
    assert next(x for x in lines if "2.5 GiB" in x.name).facts["same bits"]
