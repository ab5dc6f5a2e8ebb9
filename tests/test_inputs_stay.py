"""No command writes onto what it reads, however the two are spelt: by a link, another way there, or inside a folder."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamfactory.cli import main
from dreamfactory.files import whole
from dreamfactory.model_patches import UNetConfig, VideoUNet, save_unet

from .processes import end, send, start

DEMO = Path(__file__).parents[1] / "pipelines" / "demo"
SMALL = {
    "model_channels": 32,
    "channel_mult": (1,),
    "num_res_blocks": 1,
    "attention_levels": (True,),
    "context_dim": 16,
}


def peft(path: Path) -> None:
    prefix = "base_model.model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{prefix}.lora_A.weight": torch.ones(2, 32), f"{prefix}.lora_B.weight": torch.ones(32, 2)}, path,
        metadata={"lora_adapter_metadata": '{"r": 2, "lora_alpha": 2}'},
    )  # fmt: skip


def network(path: Path) -> None:
    config = UNetConfig(**SMALL, head_dim=16, norm_groups=8, temporal_attention=True, temporal_conv=True)
    save_unet(VideoUNet(config), path, schedule={"prediction": "eps"})


def video(path: Path, frames: int = 1) -> None:
    import av
    from PIL import Image

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", 8)
        stream.width, stream.height = 32, 32
        for _ in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32)))))
        file.mux(stream.encode())


COMMANDS = {
    "convert": ("x.safetensors", peft, ("convert", "{source}", "{target}")),
    "export": ("x.safetensors", network, ("export", "{source}", "{target}", "--as", "diffusers-unet3d")),
    "upscale": ("x.mp4", video, ("upscale", "{source}", "{target}", "--model", "demo")),
    "upscale a picture": (
        "x.png", lambda path: shutil.copy(DEMO / "pictures" / "red_circle.png", path),
        ("upscale", "{source}", "{target}", "--model", "demo"),
    ),
}  # fmt: skip
SPELLINGS = {
    "itself": lambda source: source,
    "relative": lambda source: os.path.relpath(source),
    "another way": lambda source: source.parent / "sub" / ".." / source.name,
    "a link": lambda source: made(os.symlink, source, source.with_stem("link")),
    "a hard link": lambda source: made(os.link, source, source.with_stem("hard")),
    "a linked folder": lambda source: made(os.symlink, source.parent, source.parents[1] / "other") / source.name,
}


def made(link, source: Path, place: Path) -> Path:
    link(source, place)
    return place


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_onto_its_source(tmp_path, capsys, command, spelling):
    name, write, arguments = COMMANDS[command]
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    write(folder / name)
    before = (folder / name).read_bytes()
    target = SPELLINGS[spelling](folder / name)
    assert main([a.format(source=folder / name, target=target) for a in arguments]) == 2
    assert "is what is read, and would be written over" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before


def test_nor_onto_its_model(tmp_path, capsys):
    video(tmp_path / "x.mp4")
    shutil.copy(DEMO / "upscaler.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "y.mp4").symlink_to(tmp_path / "model.safetensors")
    code = main(
        ["upscale", str(tmp_path / "x.mp4"), str(tmp_path / "y.mp4"), "--model", str(tmp_path / "model.safetensors")]
    )
    assert code == 2
    assert "would be written over" in capsys.readouterr().err


def test_nor_onto_a_file_of_a_folder_it_reads(tmp_path, capsys):
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file({"conv_in.weight": torch.zeros(8, 4, 3, 3)}, folder / "diffusion_pytorch_model.safetensors")
    target = folder / "diffusion_pytorch_model.safetensors"
    assert main(["convert", str(folder), str(target)]) == 2
    assert "would be written over" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["start.network=unet.safetensors", "encoders.codec=bundle/codec.safetensors"])
def test_a_run_does_not_write_over_what_it_starts_from(tmp_path, capsys, name):
    option, file = name.split("=")
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    source = DEMO / ("unet.safetensors" if option == "start.network" else "codec.safetensors")
    shutil.copy(source, tmp_path / "run" / file)
    (tmp_path / "linked").symlink_to(tmp_path / "run", target_is_directory=True)
    sets = [
        f"{option}={tmp_path / 'linked' / file}",
        f"output.folder={tmp_path / 'run'}",
        "device=cpu",
        "optim.steps=1",
    ]
    sets += ["model.preset=start"] if option == "start.network" else []
    arguments = [word for value in sets for word in ("--set", value)]
    assert main(["train", "demo", *arguments]) == 2
    assert f"{option} is" in (told := capsys.readouterr().err)
    assert "which this run would write over" in told
    assert (tmp_path / "run" / file).read_bytes() == source.read_bytes()


# -- killed and terminated -----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither of these signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_in_the_middle_leaves_nothing_or_is_cleaned_up_after(tmp_path, number):
    """SIGTERM takes its half away; after SIGKILL the next command that writes there does."""
    target = tmp_path / "made.mp4"
    arguments = ["upscale", tmp_path / "source.mp4", target, "--model", "demo", "--quiet"]
    video(tmp_path / "source.mp4", frames=600)
    process = start(arguments, tmp_path / "told.txt")
    while process.is_alive() and not list(tmp_path.glob(".*.tmp")):
        time.sleep(0.002)
    send(process, number)
    code, told = end(process), (tmp_path / "told.txt").read_text()
    if number == signal.SIGTERM:
        assert code == 143, told
        assert "terminated, nothing half-written was left" in told
        assert not list(tmp_path.glob(".*.tmp"))
    else:
        assert list(tmp_path.glob(".*.tmp"))
    assert not target.exists()
    (tmp_path / ".mine.download.tmp").touch()
    with whole(tmp_path / "other.txt") as temporary:
        temporary.write_text("x")
    assert not [f for f in tmp_path.glob(".*.tmp") if f.name != ".mine.download.tmp"]
    assert (tmp_path / ".mine.download.tmp").exists()  # somebody else's


def test_what_another_process_is_writing_is_not_swept_away(tmp_path):
    (tmp_path / "folder").mkdir()
    with whole(tmp_path / "one.txt") as first:
        left = first.with_name(first.name.replace("one", "old"))  # by a process that was killed
        left.touch()
        with whole(tmp_path / "folder" / ".." / "two.txt") as second:  # spelt anew, swept anew, as by another process
            assert not left.exists()
            second.write_text("2")
        first.write_text("1")
    assert (tmp_path / "one.txt").read_text() == "1"
    assert (tmp_path / "two.txt").read_text() == "2"
