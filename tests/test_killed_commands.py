"""Every command that writes, ended at random moments: each file is there whole or not at all, what was read is as it
was, and nothing half-written stays: SIGTERM takes its own away, after SIGKILL the same command does.

    KILLS=20 python -m pytest tests/test_killed_commands.py        the long version; one of each signal otherwise
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from dreamfactory.model_patches import UNetConfig, VideoUNet, save_unet
from dreamfactory.model_patches.checkpoints.files import read_header
from dreamfactory.pipelines.media.files import is_whole

from .processes import FORKS, end, send, start
from .test_inputs_stay import DEMO, SMALL, peft, video
from .videos import read_video

pytestmark = pytest.mark.skipif(not FORKS, reason="Windows has neither forks nor these signals")

KILLS = int(os.environ.get("KILLS", "1"))
TERMINATED, STOPPED = 143, 130
PICTURE = DEMO / "pictures" / "red_circle.png"
CLIP = ["--text", "a red circle", "--steps", "2", "--frames", "2", "--device", "cpu"]
RUN = """
device = "cpu"
threads = 1
[model]
config = { model_channels = 24, head_dim = 24, channel_mult = [1], attention_levels = [true] }
[sources.clips]
kind = "tiny_world"
[data]
frames = 2
[optim]
steps = 2
batch_size = 1
[output]
checkpoint_every = 1
keep = 1
validation_clips = 0
loggers = []
"""


def prompts(path):
    lines = [{"image": str(PICTURE), "text": "a red circle", "seed": seed} for seed in range(3)]
    path.write_text("".join(json.dumps(line | {"steps": 1, "frames": 2}) + "\n" for line in lines))


def exported(path):
    more = {
        "temporal_attention": True,
        "temporal_conv": True,
        "init_temporal": True,
        "init_temporal_heads": 8,
        "init_temporal_head_dim": 16,
    }
    config = UNetConfig(**SMALL, head_dim=16, norm_groups=8, **more)
    save_unet(VideoUNet(config), path, schedule={"prediction": "eps"})


def written(text):
    return lambda path: path.write_text(text)


def copied(source):
    return lambda path: shutil.copy(source, path)


# What is read, and the command. Everything is written into {out}, a folder.
COMMANDS = {
    "generate": ({"a.png": copied(PICTURE)}, ["generate", *CLIP, "--image", "{a.png}", "--out", "{out}/clip.mp4"]),
    "a list": (
        {"list.jsonl": prompts},
        ["generate", "--prompts", "{list.jsonl}", "--batch", "1", "--device", "cpu", "--out", "{out}"],
    ),
    "upscale": (
        {"a.mp4": lambda path: video(path, frames=8)}, ["upscale", "{a.mp4}", "{out}/b.mp4", "--model", "demo"],
    ),
    "upscale a picture": ({"a.png": copied(PICTURE)}, ["upscale", "{a.png}", "{out}/b.png", "--model", "demo"]),
    "convert": (
        {"a.safetensors": copied(Path(__file__).parent / "fixtures" / "lvdm_videocrafter2_tiny.safetensors")},
        ["convert", "{a.safetensors}", "{out}/b.safetensors"],
    ),
    "convert a LoRA": ({"a.safetensors": peft}, ["convert", "{a.safetensors}", "{out}/b.safetensors"]),
    "export": (
        {"a.safetensors": exported}, ["export", "{a.safetensors}", "{out}/b.safetensors", "--as", "diffusers-unet3d"],
    ),
    "export a folder": (
        {"a.safetensors": exported}, ["export", "{a.safetensors}", "{out}/b", "--as", "diffusers-unet3d"],
    ),
    "plot": ({}, ["schedule", "--frames", "2", "--height", "64", "--width", "64", "--plot", "{out}/b.png"]),
    "check": (
        {}, ["check", "--device", "cpu", "--only", "network", "--minutes", "0", "--out", "{out}/check.json"],
    ),
    "train": ({"run.toml": written(RUN)}, ["train", "{run.toml}", "--set", "output.folder={out}"]),
}  # fmt: skip


def run(arguments: list[str], log: Path, number: int | None = None, after: float = 0.0) -> int:
    """The exit code; of a signal its negative number. number: the signal, sent after so many seconds."""
    process = start(arguments, log)
    if number is not None:
        process.join(after)
        send(process, number)
    return end(process)


def check_whole(path: Path) -> None:
    """A file that a program of its kind reads to its end."""
    if path.suffix == ".mp4":
        assert is_whole(path)
        assert len(read_video(path)[0])
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".safetensors":
        read_header(path)
        load_file(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())


def temporary(path: Path) -> bool:
    return path.name.endswith(".tmp") or any(part.startswith(".staged-") for part in path.parts)


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def kinds(found: set[Path]) -> set[str]:
    """Names without the number of a checkpoint's step: how many there are is for the moment to say."""
    return {"/".join("step" if part.startswith("step-") else part for part in path.parts) for path in found}


@pytest.mark.parametrize("command", COMMANDS)
def test_ended_at_any_moment(tmp_path, command):
    sources, arguments = COMMANDS[command]
    draw, log = random.Random(command), tmp_path / "log.txt"
    for name, write in sources.items():
        write(tmp_path / name)
    given = {name: (tmp_path / name).read_bytes() for name in sources}

    def into(folder: str) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        named = {"{out}": tmp_path / folder, **{f"{{{name}}}": tmp_path / name for name in sources}}
        told = list(arguments)
        for mark, path in named.items():
            told = [argument.replace(mark, str(path)) for argument in told]
        return told

    # Twice: the second run, of what is in the machine's memory then, tells how long the work takes.
    for folder in ("first", "whole"):
        began = time.monotonic()
        assert run(into(folder), log) == 0, log.read_text()
        took = time.monotonic() - began
    expected = kinds(files(tmp_path / "whole"))
    assert expected
    assert not any(map(temporary, files(tmp_path / "whole")))

    ended = 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        out = tmp_path / number.name
        for attempt in range(KILLS + 8):
            if attempt >= KILLS and ended:
                break  # more are for a machine whose pace has changed since
            code = run(into(out.name), log, number, draw.uniform(0.05, 1) * took)
            ended += code != 0
            took *= 0.6 if code == 0 else 1
            assert code in (0, -number, *((TERMINATED, STOPPED) if number == signal.SIGTERM else ())), log.read_text()
            left = files(out)
            if number == signal.SIGTERM:
                assert not any(map(temporary, left)), left
            there = {path for path in left if not temporary(path)}
            assert kinds(there) <= expected
            for path in there:
                check_whole(out / path)
            assert {name: (tmp_path / name).read_bytes() for name in sources} == given
        assert run(into(out.name), log) == 0, log.read_text()
        assert kinds(files(out)) == expected  # and nothing is left of what was killed
        for path in files(out):
            check_whole(out / path)
    assert ended, "no moment fell on the work"
