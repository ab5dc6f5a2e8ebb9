"""Runs that an earlier trainer began go on: the same weights, averages and moments, and the same steps from there.

fixtures/checkpoints holds, of a video run in two stages and of a super-resolution run with a GAN, a checkpoint in the
middle and the weights at the end, as the trainer of November 2026 wrote them (with stages that had the tables of both).
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.training import checkpoint as disk
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer

from ..there import there

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"


@pytest.mark.parametrize("kind", ["video", "upscaler"])
def test_an_old_run_goes_on(tmp_path, kind):
    folder = shutil.copytree(FIXTURES / kind, tmp_path / kind)
    changes = [f"output.folder={folder}"] + ([f"encoders.text={DEMO / 'text_encoder'}"] if kind == "video" else [])
    trainer = Trainer(load_run(FIXTURES / f"{kind}.toml", changes), say=lambda text: None)
    found = there(disk.newest(folder / disk.FOLDER))
    assert trainer.resume()
    assert trainer.step == found.step
    for name, held in trainer.state_dict().items():  # what it was built from is what it would write
        stored = found.tensors(name)
        assert held.keys() == stored.keys(), name
        assert all(torch.equal(held[k], stored[k]) for k in stored), name
    while not trainer.done:
        trainer.train_step()
    expected = load_file(folder / "final.safetensors")
    weights = trainer.state_dict()["weights"]
    assert weights.keys() == expected.keys()
    # Machines that multiply in another order differ in the last bits, which Adam may make larger.
    for name, weight in expected.items():
        assert torch.allclose(weights[name], weight, rtol=1e-3, atol=1e-4), name
