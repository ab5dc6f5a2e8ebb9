"""A pipe, device, socket or folder called like a file: every command says at once what it is, and waits for nothing."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from dreamfactory.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names in folders")

DEMO = Path(__file__).parents[1] / "pipelines" / "demo"
PICTURE = DEMO / "pictures" / "red_circle.png"
CLIP = ("--text", "a red circle", "--motion", "it moves", "--steps", "1", "--frames", "2", "--device", "cpu")
RUN = ("train", "tiny", "--set", "device=cpu", "--set", "optim.steps=1", "--set", "output.folder={dir}/run")
GUARD = 60  # seconds, for what waits


def generate(*more, image: str | Path = PICTURE, out="{dir}/clip.mp4"):
    return ("generate", *CLIP, "--image", str(image), "--out", out, *more)


# {x} is what is no file. Second: the end of its name, third: whether a folder may be given there.
COMMANDS = {
    "upscale a video": (("upscale", "{x}", "{dir}/o.mp4", "--model", "demo"), ".mp4", False),
    "upscale a picture": (("upscale", "{x}", "{dir}/o.png", "--model", "demo"), ".png", False),
    "upscale onto": (("upscale", str(PICTURE), "{x}", "--model", "demo"), ".png", False),
    "upscale by": (("upscale", str(PICTURE), "{dir}/o.png", "--model", "{x}"), ".safetensors", False),
    "animate": (generate(image="{x}"), ".png", False),
    "a last frame": (generate("--last-image", "{x}"), ".png", False),
    "a network": (generate("--checkpoint", "{x}"), ".safetensors", True),
    "a LoRA": (generate("--lora", "{x}"), ".safetensors", False),
    "a VAE": (generate("--vae", "{x}"), ".safetensors", True),
    "a text encoder": (generate("--text-encoder", "{x}"), "", True),
    "a Stable Diffusion": (("generate", *CLIP, "--first-frame-from", "{x}", "--out", "{dir}/c.mp4"), ".ckpt", True),
    "an upscaler": (generate("--upscale", "{x}"), ".safetensors", False),
    "a clip": (generate(out="{x}"), ".mp4", False),
    "a list": (("generate", "--prompts", "{x}", "--out", "{dir}/clips"), ".jsonl", False),
    "a list's pictures": (("generate", "--prompts", "{list}", "--out", "{dir}/clips"), ".png", False),
    "a list's VAE": (("generate", "--prompts", "{good}", "--out", "{dir}/clips", "--vae", "{x}"), "", True),
    "a list's folder": (("generate", "--prompts", "{good}", "--out", "{x}"), "", True),
    "info": (("info", "{x}"), ".safetensors", False),
    "convert": (("convert", "{x}", "{dir}/c.safetensors"), ".safetensors", True),
    "convert onto": (("convert", str(DEMO / "unet.safetensors"), "{x}"), ".safetensors", True),
    "export": (("export", "{x}", "{dir}/c.safetensors", "--as", "animatediff"), ".safetensors", False),
    "train": (("train", "{x}"), ".toml", False),
    "train again": (("train", "{x}"), ".json", False),
    "plan": (("train", "{x}", "--plan"), ".toml", False),
    "train from": ((*RUN, "--set", "model.preset=start", "--set", "start.network={x}"), ".safetensors", True),
    "train with": ((*RUN, "--set", "encoders.codec={x}"), ".safetensors", True),
    "train into": ((*RUN, "--set", "output.folder={x}"), "", True),
    "plot": (("schedule", "--frames", "2", "--height", "64", "--width", "64", "--plot", "{x}"), ".png", False),
    "demo": (("demo", "--out", "{x}"), "", True),
    "measure": (("demo-quality", "--clips", "1", "--checkpoint", "{x}"), ".safetensors", True),
    "check": (("check", "--device", "cpu", "--only", "network", "--minutes", "0", "--out", "{x}"), ".json", False),
}


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def plug(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has to be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {"pipe": pipe, "device": device, "socket": plug, "folder": Path.mkdir}


@pytest.fixture(autouse=True)
def _nothing_waits():
    def waited(*_):
        raise BaseException("it waits")  # which nothing catches

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(GUARD)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("command", "kind"), [(c, k) for c in COMMANDS for k in KINDS if not (k == "folder" and COMMANDS[c][2])]
)
def test_what_is_no_file_is_called_what_it_is(tmp_path, capsys, command, kind):
    arguments, ending, _ = COMMANDS[command]
    path = tmp_path / f"x{ending}"
    KINDS[kind](path)
    mode = path.stat().st_mode
    (tmp_path / "good.jsonl").write_text(json.dumps({"image": str(PICTURE), "text": "a"}) + "\n")
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": str(path), "text": "a"}) + "\n")
    names = {"x": path, "dir": tmp_path, "list": tmp_path / "list.jsonl", "good": tmp_path / "good.jsonl"}
    assert main([a.format(**names) for a in arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert path.name in told or "/dev/zero" in told  # which the link leads to
    assert f" is a {kind}, no file" in told
    assert path.stat().st_mode == mode  # nothing took its place


FOLDERS = {
    "a bundle": ("bundle.json", generate("--checkpoint", "{dir}")),
    "an encoder": ("config.json", generate("--text-encoder", "{dir}")),
    "a tokenizer": ("tokenizer.json", generate("--text-encoder", "{dir}")),
    "weights": ("model.safetensors", generate("--text-encoder", "{dir}")),
    "a list's run": ("run.json", ("generate", "--prompts", "{good}", "--out", "{dir}")),
    "a list's index": ("index.jsonl", ("generate", "--prompts", "{good}", "--out", "{dir}")),
    "a list's lock": (".lock", ("generate", "--prompts", "{good}", "--out", "{dir}")),
    "a list's clip": ("00001.mp4", ("generate", "--prompts", "{good}", "--out", "{dir}")),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_nor_inside_a_folder(tmp_path, capsys, case):
    name, arguments = FOLDERS[case]
    folder = tmp_path / "folder"
    folder.mkdir()
    if "--text-encoder" in arguments:
        for file in (DEMO / "text_encoder").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / name).unlink()
    os.mkfifo(folder / name)
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"image": str(PICTURE), "text": "a", "steps": 1, "frames": 2}) + "\n")
    arguments = [a.replace("{dir}/clip.mp4", f"{tmp_path}/clip.mp4") for a in arguments]
    assert main([a.format(dir=folder, good=good) for a in arguments]) == 2
    assert f"{name} is a pipe, no file" in capsys.readouterr().err


def test_the_standard_input_is_no_file_either(tmp_path, capsys):
    read, write = os.pipe()
    before = os.dup(0)
    os.dup2(read, 0)
    try:
        assert main(["generate", "--prompts", "/dev/stdin", "--out", str(tmp_path / "clips")]) == 2
    finally:
        os.dup2(before, 0)
        for handle in (read, write, before):
            os.close(handle)
    assert "/dev/stdin is a pipe, no file" in capsys.readouterr().err
