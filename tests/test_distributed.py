"""Two processes on one machine (gloo, CPU) do what one does: data-parallel, and with weights sharded by FSDP 2.

A sum over two halves is rounded otherwise than a sum over the whole, so weights are compared within 1e-5 of their
norm; the images in the mix leave the temporal half unused on some steps.
"""

import pytest
import torch

from dreamfactory.training import checkpoint as disk
from dreamfactory.training.config import load_run
from dreamfactory.training.run import train

from .processes import distance, final, launch

pytest.importorskip("cv2", reason="flow needs OpenCV")

RUN = """
seed = 3
device = "cpu"
threads = 1
[model]
preset = "tiny"
config = { model_channels = 24, head_dim = 24, predict_net = true }
[sources.clips]
kind = "tiny_world"
[sources.stills]
kind = "tiny_stills"
[data]
frames = 3
mix = { clips = 0.6, stills = 0.4 }
[loss]
flow_weight = 1.0
[optim]
steps = 3
batch_size = 4
warmup = 1
[output]
validation_clips = 0
checkpoint_every = 2
loggers = []
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run by one process."""
    folder = tmp_path_factory.mktemp("one")
    file = folder / "run.toml"
    file.write_text(RUN)
    train(load_run(file, [f"output.folder={folder}"]))
    return file, final(folder)


@pytest.mark.parametrize("environment", [{}, FSDP], ids=["DDP", "FSDP"])
def test_two_processes_make_the_weights_of_one(one, tmp_path, environment):
    file, expected = one
    code, output = launch(file, tmp_path, **environment)
    assert code == 0, output[-3000:]
    assert distance(expected, final(tmp_path)) < 1e-5
    # Its last checkpoint lost, and gone on from the one before: the same to the bit.
    made = {n: t.clone() for n, t in final(tmp_path).items()}
    disk.remove(tmp_path / disk.FOLDER / "step-000000003")
    code, output = launch(file, tmp_path, **environment)
    assert code == 0, output[-3000:]
    assert "resuming" in output
    again = final(tmp_path)
    assert all(torch.equal(made[n], again[n]) for n in made)


def test_shards_compute_in_half_precision_too(one, tmp_path):
    """bf16 rounds to 8 bits: after two steps the weights are those of one process in bf16, not of one in float32."""
    file, _ = one
    changes = ["precision=bf16", "optim.steps=2"]
    train(load_run(file, [f"output.folder={tmp_path / 'one'}", *changes]))
    code, output = launch(file, tmp_path / "two", *changes, **FSDP)
    assert code == 0, output[-3000:]
    assert distance(final(tmp_path / "one"), final(tmp_path / "two")) < 1e-3


def test_a_batch_that_does_not_divide_is_told(one, tmp_path):
    code, output = launch(one[0], tmp_path, "optim.batch_size=3")
    assert code
    assert "optim.batch_size 3 does not divide among 2 processes" in output
