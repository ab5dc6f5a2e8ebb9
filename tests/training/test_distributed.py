"""Two processes on one machine (gloo, CPU) do what one does: data-parallel, and with weights sharded by FSDP 2.

A sum over two halves is rounded otherwise than a sum over the whole, so weights are compared within 1e-5 of their
norm; the images in the mix leave the temporal half unused on some steps.
"""

import csv
import json

import av
import pytest
import torch

from dreamfactory.training import checkpoint as disk
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run

from ..processes import ACCELERATE, TORCHRUN, distance, final, launch

pytest.importorskip("cv2", reason="flow needs OpenCV")

RUN = """
seed = 3
device = "cpu"
threads = 1
[model]
preset = "tiny"
config = { model_channels = 24, head_dim = 24, channel_mult = [1], attention_levels = [true], predict_net = true }
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
LAUNCHERS = {  # and how many processes it starts where there is no card
    "torchrun": (TORCHRUN, 2),
    "accelerate launch": (ACCELERATE, 1),
    "accelerate launch --multi_gpu": ((*ACCELERATE, "--multi_gpu"), 2),
}
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
    changes = ["precision=bf16", "optim.steps=2", "model.config.predict_net=false", "loss.flow_weight=0.0"]
    train(load_run(file, [f"output.folder={tmp_path / 'one'}", *changes]))
    code, output = launch(file, tmp_path / "two", *changes, **FSDP)
    assert code == 0, output[-3000:]
    assert distance(final(tmp_path / "one"), final(tmp_path / "two")) < 1e-3


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_find_each_other_without_being_told_of_the_cpu(one, tmp_path, launcher):
    """Each launcher by itself, device "auto", on a machine without a card."""
    if torch.cuda.is_available():
        pytest.skip("there is a card, which both processes would share")
    command, count = LAUNCHERS[launcher]
    alone = {"ACCELERATE_USE_CPU": "false", "HF_HOME": str(tmp_path / "no-config")}
    code, output = launch(one[0], tmp_path, "device=auto", launcher=command, **alone)
    assert code == 0, output[-3000:]
    off = distance(one[1], final(tmp_path))
    assert off < 1e-5
    assert (off > 0) == (count > 1)  # rounded otherwise: there were two


def test_a_batch_that_does_not_divide_is_told(one, tmp_path):
    code, output = launch(one[0], tmp_path, "optim.batch_size=3")
    assert code
    assert "optim.batch_size 3 does not divide among 2 processes" in output


def test_what_either_process_cannot_read_is_in_the_report(tmp_path):
    """Ten videos whose second half is gone although their tables say otherwise: found out when frames are read."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for k in range(40):
        with av.open(str(clips / f"{k:02d}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", 8, options={"g": "1"})
            stream.width = stream.height = 32
            generator = torch.Generator().manual_seed(k)
            for _ in range(3):
                noise = torch.randint(0, 255, (32, 32, 3), generator=generator, dtype=torch.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(noise.numpy(), format="rgb24")))
            file.mux(stream.encode())
        (clips / f"{k:02d}.txt").write_text("noise")
        if k < 10:
            data = bytearray((clips / f"{k:02d}.mp4").read_bytes())
            start = data.find(b"mdat") + 4
            length = int.from_bytes(data[start - 8 : start - 4], "big") - 8
            data[start + length // 2 : start + length] = bytes(length - length // 2)
            (clips / f"{k:02d}.mp4").write_bytes(data)
    file = tmp_path / "run.toml"
    own = "[sources.mine]\npath = '" + clips.as_posix() + "'\n"
    made_up = RUN.index("[sources.clips]"), RUN.index("[data]")
    file.write_text(RUN[: made_up[0]] + own + RUN[made_up[1] :])
    quick = ["data.mix={}", "data.height=32", "data.width=32", "data.validation=0", "loss.flow_weight=0.0"]
    code, output = launch(file, tmp_path / "run", *quick, "optim.steps=12")
    assert code == 0, output[-3000:]
    with (tmp_path / "run" / "data" / "train" / "left_out_mine.csv").open(encoding="utf-8") as table:
        assert sorted(row["file"] for row in csv.DictReader(table)) == [f"{k:02d}.mp4" for k in range(10)]
    files = json.loads((tmp_path / "run" / "data" / "train" / "data_mine.json").read_text())["files"]
    assert files == {"found": 80, "used": 30, "captions": 40, "left_out": 10}
