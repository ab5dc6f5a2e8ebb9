"""Every command line that the README and the guides print is run, in a folder where small files stand for real ones.

What they print is run as it is; options are added behind it so that it takes seconds (fewer steps, smaller sizes), and
nothing is taken away. What cannot be run here is listed with the reason, and its options are looked up.

    WRITE_COMMANDS=benchmarks/commands.md pytest tests/repository/test_printed_commands.py

writes the list: every line, where it is printed, and what came of it.
"""

import os
import re
import shlex
import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

from dreamfactory.cli import main, parser
from dreamfactory.model_patches import ProjectorConfig, UNetConfig, VideoUNet, save_unet
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan
from dreamfactory.schedulers import SCHEDULES
from dreamfactory.training.run_file import load_run
from dreamfactory.training.tiny_world.encoders import image_encoder, motion_encoder

from ..curation.tiny_models import blip2, save
from ..footage import film
from ..pipelines.test_text_to_image import sd1, single_file
from ..random_weights import randomise

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").glob("*.md"))
PRESETS = sorted((ROOT / "training/presets").glob("*.toml"))
CURATIONS = sorted((ROOT / "curation/presets").glob("*.toml"))
COMMAND = re.compile(r"(\.venv/bin/)?(dreamfactory|accelerate|torchrun|python|make|git|comfy|cd|pip)\b")

ELSEWHERE = {  # how it begins: why it is not run here
    "make": "sets itself up anew; what it calls then has tests of its own",
    "cd ComfyUI": "clones this repository",
    "comfy node": "asks the Comfy registry",
    "accelerate launch": "tests/training/test_distributed.py launches two processes",
    "python example_workflows/queue_workflow.py": "needs a running ComfyUI: tests/host runs it",
    ".venv/bin/python -m pytest": "runs tests, which run by themselves",
    ".venv/bin/python tests/host": "needs a running ComfyUI",
    "python benchmarks/": "a measurement of minutes or hours",
    "dreamfactory train demo-upscaler --set threads=1": "is run below with other options",
}
NETWORK = UNetConfig(
    model_channels=64, channel_mult=(1, 2), attention_levels=(True, False), num_res_blocks=1, context_dim=768,
    head_dim=16, norm_groups=8, temporal_attention=True, temporal_conv=True,
)  # fmt: skip
PICTURE = {
    "first_frame_concat": "repeat", "image_adapter": "all", "image_token_dim": 768, "image_uncond": "grey",
    "image_projector": ProjectorConfig(
        embedding_dim=64, output_dim=768, queries=4, dim=32, depth=1, heads=2, head_dim=16
    ),
}  # fmt: skip
SHORT = "--frames 2 --steps 1 --width 64 --height 64"
QUICK = (
    "--set device=cpu --set optim.steps=1 --set optim.batch_size=1 --set optim.accumulate=1 --set data.frames=2 "
    "--set data.height=64 --set data.width=64 --set output.validation_clips=0 --set output.loggers=() "
    "--set precision=fp32 --set data.workers=0 --set optim.optimizer=adamw"
)
ADDED = {  # how it begins: what is added behind it
    "dreamfactory generate --checkpoint demo": "--steps 1",
    "dreamfactory generate --checkpoint videofactory": f"{SHORT} --size 256x256",
    "dreamfactory generate --checkpoint factorized": f"{SHORT} --first-frame-steps 1 --first-frame-size 64x64",
    "dreamfactory generate": SHORT,
    "dreamfactory curate": "--quiet --set scenes.detector=content --set scores.text=none --set clips.speed=ultrafast",
    "dreamfactory train demo-upscaler": f"{QUICK} --set upscaler.patch=64",
    "dreamfactory train": QUICK,
}


def lines(text):
    """Command lines of a page's blocks (of a run file's comments): whole, without what is said behind them."""
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        command = re.split(r"\s{2,}#|\s#\s", line.strip())[0].strip()
        if COMMAND.match(command):
            yield re.sub(r"\s+", " ", command)


def printed():
    found = {}
    for page in PAGES:
        for command in lines(page.read_text("utf-8")):
            found.setdefault(command, page)
    for preset in [*PRESETS, *CURATIONS]:
        for line in re.findall(r"^#\s+(dreamfactory .*)$", preset.read_text("utf-8"), re.MULTILINE):
            found.setdefault(re.sub(r"\s+\(.*\)$", "", line.strip()), preset)
    return found


def reason(command):
    return next((why for start, why in ELSEWHERE.items() if command.startswith(start)), None)


RUN = [command for command in printed() if reason(command) is None]


def test_what_is_not_run_is_listed_with_a_reason_and_nothing_else_is():
    assert len(RUN) >= 15
    for start in ELSEWHERE:
        assert any(command.startswith(start) for command in printed()), f"{start} is printed nowhere"
    for command in printed():
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text(), command
        if command.startswith("python "):
            assert (ROOT / command.split()[1]).exists(), command
        for word in command.split():
            assert not word.startswith("tests/") or (ROOT / word).exists(), command


def test_commands_within_sentences_exist_with_their_options():
    words = set()
    for page in PAGES:
        words |= set(re.findall(r"`(dreamfactory \w[^`]*)`", page.read_text("utf-8")))
    assert len(words) > 10
    commands: Any
    (commands,) = [a for a in parser()._actions if a.dest == "command"]
    for line in words:
        _, name, *rest = line.split()
        assert name in commands.choices, line
        known = {o for action in commands.choices[name]._actions for o in action.option_strings}
        assert {w for w in rest if w.startswith("--")} <= known, line
    for name, command in commands.choices.items():  # the examples that --help ends with
        for line in re.findall(r"^dreamfactory (.*?)\s*$", (command.epilog or "").replace("\\\n", " "), re.MULTILINE):
            assert parser().parse_args(shlex.split(line, comments=True)).command == name


# -- files of the names that are printed ------------------------------------------------------------------------------


def network(path, seed=0, **changes):
    torch.manual_seed(seed)
    config = UNetConfig.from_dict({**NETWORK.to_dict(), **{k: v for k, v in changes.items() if k != "image_projector"}})
    if "image_projector" in changes:
        from dataclasses import replace

        config = replace(config, image_projector=changes["image_projector"])
    save_unet(randomise(VideoUNet(config)), path, schedule=SCHEDULES["modelscope"].to_dict())


def video(path, frames=12):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", 8)
        stream.width, stream.height = 96, 64
        for k in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (96, 64), (20 * k, 90, 40)))))
        file.mux(stream.encode())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Every file and folder that a printed command names, small."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    shelf = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    drawer = sd1(shelf)
    drawer.save_pretrained(shelf / "sd1", safe_serialization=True)
    from safetensors.torch import save_file

    save_file(single_file(drawer), shelf / "v1-5-pruned-emaonly.safetensors")
    text = shelf / "openclip-h-text"
    shutil.copytree(shelf / "sd1/text_encoder", text)
    for file in (shelf / "sd1/tokenizer").iterdir():
        shutil.copy(file, text)
    sizes: dict[str, Any] = {
        "block_out_channels": (8,) * 4, "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    AutoencoderKL(**sizes, scaling_factor=0.18215).save_pretrained(shelf / "sd-vae", safe_serialization=True)
    motion_encoder(0).save(shelf / "t5")
    image_encoder(0).save(shelf / "openclip-h-vision")
    (shelf / "models").mkdir()
    for name, source in {
        "sd-vae": "sd-vae", "sd21-text-encoder": "openclip-h-text", "t5-v1_1-xxl": "t5",
        "clip-vit-h-vision": "openclip-h-vision",
    }.items():  # fmt: skip
        shutil.copytree(shelf / source, shelf / "models" / name)
    network(shelf / "videofactory.safetensors")
    network(shelf / "factorized-dreamer.safetensors", **PICTURE, paca=True, motion_text="added", motion_dim=64)
    network(shelf / "dynamicrafter-512.safetensors", **PICTURE)
    network(shelf / "models/dynamicrafter_512_fp16_pruned.safetensors", **PICTURE, motion_dim=64)
    shutil.copy(
        ROOT / "tests/fixtures/lvdm_dynamicrafter_512_tiny.safetensors",
        shelf / "dynamicrafter_512_fp16_pruned.safetensors",
    )
    save_rcan(RCAN(RCANConfig(groups=1, blocks=1, features=8, reduction=4)), shelf / "upscaler.safetensors")
    video(shelf / "clip.mp4")
    Image.new("RGB", (120, 80), "teal").save(shelf / "photo.jpg")
    Image.new("RGB", (64, 64), "teal").save(shelf / "first.png")
    for folder in ("my-clips", "data/clips"):
        (shelf / folder).mkdir(parents=True)
        for name in ("one", "two", "three"):
            video(shelf / folder / f"{name}.mp4")
            (shelf / folder / f"{name}.txt").write_text("a red circle moves")
    film(shelf / "videos" / "holiday.mp4", [1, 2])
    (shelf / "videos.csv").write_text("file_name,caption\nvideos/holiday.mp4,at the sea\n")
    save(shelf / "models" / "blip2-opt-2.7b", blip2)
    headless = (ROOT / "docs/headless.md").read_text("utf-8")
    (shelf / "prompts.jsonl").write_text("".join(re.findall(r'^\{"image".*\}\n', headless, re.MULTILINE)))
    (shelf / "my-run.toml").write_text(run_files()[0])
    for name in ("pipelines", "example_workflows", "benchmarks"):
        (shelf / name).symlink_to(ROOT / name, target_is_directory=True)
    return shelf


def run_files():
    """Whole run files that the guide prints: those that name a source."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/training.md").read_text("utf-8"), re.DOTALL)
    return [block for block in blocks if "[sources." in block]


def run(command, folder, monkeypatch):
    """The exit code. Ours are run in this process: their imports take longer than most of them."""
    plain = command.removeprefix(".venv/bin/")
    added = next((more for start, more in ADDED.items() if plain.startswith(start)), "")
    program, *given = [*shlex.split(plain), *shlex.split(added)]
    if plain.startswith("dreamfactory train") and (PRESETS[0].parent / f"{given[1]}.toml").exists():
        stages = load_run(given[1]).stages
        for stage in stages if len(stages) > 1 else ():  # what a stage says itself counts before what the run says
            size = {"data.height": 64, "data.width": 64, "optim.steps": 1}
            given += [w for name, value in size.items() for w in ("--set", f"stage.{stage.name}.{name}={value}")]
    monkeypatch.chdir(folder)
    assert program == "dreamfactory", f"say in ELSEWHERE why {program} is not run here"
    return main(given)


@pytest.fixture(scope="module")
def outcomes():
    """What came of a command, by command; the list, where it was asked for."""
    outcomes = {}
    yield outcomes
    place = os.environ.get("WRITE_COMMANDS")
    if place:
        Path(place).write_text(listed(outcomes), "utf-8")


def listed(outcomes):
    rows = ["| line | printed in | what came of it |", "|---|---|---|"]
    for command, page in printed().items():
        came = outcomes.get(command) or f"not run here: {reason(command)}"
        quoted = command.replace("|", "\\|")
        rows.append(f"| `{quoted}` | {page.relative_to(ROOT).as_posix()} | {came} |")
    about = f"Written by `tests/repository/test_printed_commands.py` ({date.today()}, on a CPU)."
    told = (
        "Files of the names that the lines give were small ones, and options were added so that a line takes seconds."
    )
    return "\n".join(["# Every command line of the README and the guides", "", about, told, "", *rows, ""])


@pytest.mark.parametrize("command", RUN, ids=[re.sub(r"[^\x20-\x7e]", "…", c) for c in RUN])
def test_a_printed_command_does_what_it_says(command, shelf, tmp_path, monkeypatch, outcomes):
    folder = shutil.copytree(shelf, tmp_path / "here", symlinks=True)
    outcomes[command], began = "failed", time.perf_counter()
    assert run(command, folder, monkeypatch) == 0
    words = shlex.split(command)
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists()
    outcomes[command] = f"ran, {time.perf_counter() - began:.0f} s"


@pytest.mark.parametrize("block", range(len(run_files())))
def test_a_printed_run_file_is_whole(block, shelf, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(shelf, tmp_path / "here", symlinks=True)
    (folder / "printed.toml").write_text(run_files()[block])
    small = "--set data.frames=2"
    monkeypatch.chdir(folder)
    assert main(shlex.split(f"train printed.toml --plan {small}")) == 0
    assert "GiB" in capsys.readouterr().out
