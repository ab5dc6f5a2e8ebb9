"""Headers made to harm: whatever one holds, it costs a sentence, and neither the machine's memory nor a traceback."""

import json
import os
import random
import struct
import sys
from pathlib import Path

import pytest

from dreamfactory.cli import main
from dreamfactory.model_patches import CheckpointError, ConfigError, load_unet, read_header, save_patch
from dreamfactory.model_patches.codec import load_codec
from dreamfactory.pipelines.describe import describe_file
from dreamfactory.schedulers import ScheduleConfig, ScheduleError

DEMO = Path(__file__).parents[3] / "pipelines" / "demo"
SENTENCES = (CheckpointError, ConfigError, ScheduleError)
LONGEST = 300
VALUES = [
    None, True, False, 0, -1, 1, 3, 1000, 100_000, 10**9, 2**63, 10**30, -(10**30), 1.5, 1e308, 1e-300, float("nan"),
    float("inf"), "", "x", "\ud800", "a\nb" * 50, "9" * 5000, [], [[]], [0] * 10, [1] * 5000, [True], ["x"], [None],
    {}, {"a": 1}, {"a": {"b": [1] * 100}}, list(range(50)),
]  # fmt: skip


def split(path: Path) -> tuple[dict, bytes]:
    """Header and weights of a file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def pack(path: Path, header, weights: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + weights)
    return path


def harmed(draw: random.Random, header: dict) -> dict:
    """The header with one thing in it changed, anywhere."""
    header = json.loads(json.dumps(header))
    metadata, value = header["__metadata__"], draw.choice(VALUES)
    kind = draw.choice(["config", "config", "config", "schedule", "projector", "weight", "metadata", "name"])
    keys = [k for k in metadata if k.endswith(("config", "codec"))]
    if kind == "schedule" and "dreamfactory.schedule" in metadata:
        keys = ["dreamfactory.schedule"]
    if kind in ("config", "schedule", "projector"):
        settings = json.loads(metadata[keys[0]])
        if kind == "projector":
            own = {**(settings.get("image_projector") or {}), draw.choice(["kind", "dim", "depth", "zz"]): value}
            settings["image_projector"] = draw.choice([value, own])
        elif draw.random() < 0.1:
            settings = value
        else:
            settings[draw.choice([*settings, "zz", "\ud800", "n" * 100_000])] = value
        text = draw.choice(["", "{", "[" * 100_000, "1" * 5000, "\ud800", "null"])
        metadata[keys[0]] = json.dumps(settings) if draw.random() < 0.9 else text
    elif kind == "weight":
        name = draw.choice([k for k in header if k != "__metadata__"])
        header[name] = value if draw.random() < 0.2 else {
            **header[name], draw.choice(["shape", "dtype", "data_offsets", "zz"]): value
        }  # fmt: skip
    elif kind == "metadata" and draw.random() < 0.3:
        header["__metadata__"] = value
    elif kind == "metadata":
        metadata[draw.choice(list(metadata))] = value
    else:
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        header[draw.choice(["\ud800", "k" * 100_000, "", "input_blocks.0.0.weight"])] = draw.choice([value, entry])
    return header


def open_network(path: Path) -> None:
    describe_file(path)
    ScheduleConfig.from_dict(load_unet(path).schedule or {})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("file", "opened"), [("unet", open_network), ("codec", load_codec)])
def test_a_harmed_header_is_read_or_refused_in_a_sentence(tmp_path, file, opened, seed):
    header, weights = split(DEMO / f"{file}.safetensors")
    draw, refused = random.Random(seed), 0
    for _ in range(60):
        path = pack(tmp_path / "x.safetensors", harmed(draw, header), weights)
        try:
            opened(path)
        except SENTENCES as error:
            refused += 1
            told = str(error).replace(str(tmp_path), "")
            assert told.encode().decode() == told  # a terminal can show it
            assert len(told) <= LONGEST
            assert "\n" not in told
    assert refused > 40  # the rest changed what does not matter


SIZES = {
    "many blocks": {"num_res_blocks": 1000},
    "more": {"num_res_blocks": 10**5},
    "many levels": {"channel_mult": [1] * 500, "attention_levels": [True] * 500, "temporal_attention_levels": None},
    "wide": {"model_channels": 32 * 10**6},
    "wider": {"model_channels": 8192, "channel_mult": [64, 64]},
    "a deep projector": {"image_projector": {"kind": "resampler", "dim": 8, "depth": 10**6}},
    "many queries": {"image_projector": {"kind": "resampler", "dim": 8, "queries": 2**60}},
    "a long table": {"context_dim": 2**62},
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_bounded_before_anything_is_built(tmp_path, monkeypatch, case):
    def never(*_, **__):
        raise AssertionError("built")

    header, weights = split(DEMO / "unet.safetensors")
    config = json.loads(header["__metadata__"]["dreamfactory.config"]) | SIZES[case]
    header["__metadata__"]["dreamfactory.config"] = json.dumps(config)
    path = pack(tmp_path / "x.safetensors", header, weights)
    monkeypatch.setattr("dreamfactory.pipelines.describe.VideoUNet", never)
    monkeypatch.setattr("dreamfactory.model_patches.checkpoints.save.VideoUNet", never)
    for opened in (describe_file, load_unet):
        with pytest.raises(CheckpointError, match=r"at most|1 to 8"):
            opened(path)


HEADERS = {
    "half a million lists": b"[" + b"[]," * 500_000 + b"1]",
    "numbers": b"[" + b"0," * 1_000_000 + b"0]",
    "deep": b"[" * 1_000_000,
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(600_000)) + b"}",
    "a list": b"[]",
    "a number": b"1" * 5000,
    "not UTF-8": b'{"\xff": 1}',
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_fill_memory_are_not_parsed(tmp_path, case):
    path = pack(tmp_path / "x.safetensors", HEADERS[case], b"")
    with pytest.raises(CheckpointError, match="no safetensors file, or is damaged"):
        read_header(path)


def test_a_stated_length_is_not_read_beyond_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**24) + b"{}")
    with pytest.raises(CheckpointError, match="cut short"):
        read_header(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "x.safetensors")
    assert main(["info", str(tmp_path / "x.safetensors")]) == 2
    assert "is a pipe, no file" in capsys.readouterr().err


def test_weights_are_counted_from_what_is_there(tmp_path, capsys):
    header, weights = split(DEMO / "unet.safetensors")
    kept = {"__metadata__": header["__metadata__"]}
    for name in list(header)[1:4]:
        kept[name] = header[name]
    path = pack(tmp_path / "x.safetensors", kept, weights)
    assert main(["info", str(path)]) == 2
    assert f"lacks {len(header) - 4} weights of {len(header) - 1}" in capsys.readouterr().err


def test_a_patch_holds_its_parts(tmp_path, capsys):
    unet = load_unet(DEMO / "unet.safetensors")
    save_patch(unet, tmp_path / "whole.safetensors", ["paca"])
    assert main(["info", str(tmp_path / "whole.safetensors")]) == 0
    header, weights = split(tmp_path / "whole.safetensors")
    del header[next(k for k in header if k != "__metadata__")]
    assert main(["info", str(pack(tmp_path / "cut.safetensors", header, weights))]) == 2
    assert "lacks 1 weights of" in capsys.readouterr().err
