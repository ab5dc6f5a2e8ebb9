"""The GPU check: what a line says, what it does without a card, and its card-only branches on a pretended one."""

import contextlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamfactory.check import device, host, network, report, trainer, upscaler
from dreamfactory.check.report import NotHere, Wrong
from dreamfactory.cli import main
from dreamfactory.model_patches.kernels import same_bits


class Pretended(device.Here):
    """A CPU that says it is a card."""

    @property
    def is_card(self):
        return True

    @property
    def half(self):
        return torch.bfloat16


@pytest.fixture
def here(tmp_path):
    return device.Here(torch.device("cpu"), tmp_path, small=True)


@pytest.fixture
def card(tmp_path, monkeypatch):
    """torch.cuda's part in the check, answered by the CPU. Whatever is asked to be left free, so much is."""

    class Graph:
        def replay(self):
            pass

    class Stream:
        def wait_stream(self, other):
            pass

    free = [2**24]

    @contextlib.contextmanager
    def left(here, gib):
        with original(here, 2**24 / device.GIB):  # nothing is taken, as so much is free
            free[0] = int(gib * device.GIB)
            yield True
            free[0] = 2**24

    original = device.left
    for module in (network, upscaler):
        monkeypatch.setattr(module, "left", left)
    answers = {
        "synchronize": lambda *_: None, "empty_cache": lambda: None, "reset_peak_memory_stats": lambda *_: None,
        "memory_allocated": lambda *_: 2**20, "max_memory_allocated": lambda *_: 2**21,
        "memory_reserved": lambda *_: 2**20, "mem_get_info": lambda *_: (free[0], 2**30), "Stream": Stream,
        "stream": lambda _: contextlib.nullcontext(), "current_stream": Stream, "CUDAGraph": Graph,
        "graph": lambda _: contextlib.nullcontext(),
        "get_device_properties": lambda _: SimpleNamespace(name="Pretended", major=9, minor=0),
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    found = Pretended(torch.device("cpu"), tmp_path, small=True)
    return found


def test_without_a_card_it_says_so_and_ends_with_3(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["check", "--out", str(tmp_path / "check.json")]) == 3
    assert "there is no card that torch" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_verdicts(capsys):
    def failing(error):
        def check():
            raise error

        return check

    told = {
        "right": (lambda: {"rms": 0.00123}, "rms 0.00123"),
        "wrong": (failing(Wrong("it is 2 off", {"rms": 2.0})), "it is 2 off"),
        "not here": (failing(NotHere("no card")), "no card"),
    }
    for verdict, (check, shown) in told.items():
        line = report.run("a line", check)
        assert (line.verdict, line.shown) == (verdict, shown)
        assert shown in capsys.readouterr().out
    missing = report.run("x", failing(ModuleNotFoundError("no", name="av")))
    assert missing.verdict == "not here"
    assert missing.shown.startswith("av is not installed; ")
    bug = report.run("x", failing(KeyError("strange")))
    assert bug.verdict == "wrong"
    assert "Traceback" in bug.facts["traceback"]
    assert "KeyError" in bug.told
    with pytest.raises(Wrong, match="nan off"):
        report.close("it", float("nan"), 1.0, {})


def test_the_table_as_json(tmp_path, capsys):
    out = tmp_path / "a" / "check.json"
    assert main(["check", "--device", "cpu", "--only", "upscaler", "--out", str(out)]) == 0
    told = json.loads(out.read_text("utf-8"))
    assert told["torch"] == torch.__version__
    assert [line["verdict"] for line in told["lines"]] == ["right"] * 2
    assert "2 right, 0 wrong, 0 not here" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", network.NAMES)
def test_the_demo_is_the_cpus(here, dtype):
    facts = network.demo(here, dtype)
    assert facts["rms"] <= facts["at most"]
    assert (facts["rms"] == 0) == (dtype == torch.float32)


def test_a_network_that_computes_wrongly_is_found(here, monkeypatch):
    network.demo(here, torch.float32)
    forward: Any = network.VideoUNet.forward
    monkeypatch.setattr(network.VideoUNet, "forward", lambda self, x, *a, **k: forward(self, x, *a, **k) * 1.01)
    with pytest.raises(Wrong, match="the clip in fp32 is"):
        network.demo(here, torch.float32)
    monkeypatch.setattr(network.VideoUNet, "forward", lambda self, x, *a, **k: forward(self, x, *a, **k) / 0)
    with pytest.raises(Wrong, match="no numbers"):
        network.speed(here)


def test_other_bits_are_found_and_placed(here, monkeypatch):
    """A layer that adds in any order is named."""
    unet = network.full_network(here)
    name, layer = next((n, m) for n, m in unet.named_modules() if n.endswith("ff.net.2"))
    forward: Any = layer.forward
    calls = []

    def any_order(x):
        calls.append(1)
        return forward(x) + 1e-2 * len(calls)

    monkeypatch.setattr(layer, "forward", any_order)
    with pytest.raises(Wrong, match=f"first in {name} \\(Linear\\)"):
        network.same_seed(here)


def test_the_lines_of_a_card_on_a_pretended_one(card):
    """Every branch that only a card takes has been run."""
    assert device.about(card)["device"] == "Pretended"
    assert device.ceilings(card).keys() == {"TFLOP/s", "copy GB/s"} if card.is_card else None
    assert {"activations GiB", "of the ceiling"} <= network.speed(card).keys()
    assert network.same_seed(card)["little memory"] is True
    assert network.cuda_graph(card)["rms"] == 0
    ladder = upscaler.ladder(card)
    assert list(ladder) == [f"{gib} GiB" for gib in upscaler.SIZES]
    assert all("GiB" in told for told in ladder.values())  # the peak of each
    with device.left(card, 2**24 / device.GIB) as tight:
        assert tight
    with device.left(card, 0.9) as tight:  # more than is free
        assert not tight


def test_the_command_with_a_card(card, monkeypatch, tmp_path, capsys):
    """The first card is taken by its number; a number too high, and what is no device, cost a sentence."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(device, "Here", lambda *args, **kwargs: card)
    out = tmp_path / "check.json"
    assert main(["check", "--only", "upscaler", "--out", str(out)]) == 0
    assert chosen == [torch.device("cuda", 0)]
    assert json.loads(out.read_text())["device"] == "Pretended"
    for given, words in (
        ("cuda:3", "there are 1 cards here"),
        ("warp", "expected cuda"),
        ("mps", "knows cuda and cpu"),
    ):
        assert main(["check", "--device", given, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
    assert main(["check", "--out", f"{out}/x.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_lines_after_the_time_are_left_out(tmp_path, capsys):
    out = tmp_path / "check.json"
    assert main(["check", "--device", "cpu", "--minutes", "0", "--out", str(out)]) == 0
    assert {line["verdict"] for line in json.loads(out.read_text())["lines"]} == {"not here"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_stopped_and_resumed(here, precision):
    assert trainer.resume(here, precision)["steps"] == 4


def test_training_in_fp16_is_for_a_card(here):
    with pytest.raises(NotHere, match="fp16 needs a GPU"):
        trainer.resume(here, "fp16")


def test_where_a_comfyui_is(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(NotHere, match="which holds no ComfyUI"):
        host.find()
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").touch()
    assert host.find()[0] == tmp_path
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "nothing"))
    with pytest.raises(NotHere, match="which is no program"):
        host.find()


def test_a_comfyui_that_does_not_start_is_told(here, monkeypatch, tmp_path):
    monkeypatch.setattr(host, "find", lambda: (tmp_path, sys.executable))  # an empty folder
    network.demo(here, torch.float32)
    host.prepare(here)
    (line,) = host.lines(here, "classic", lambda text: None)
    assert line.verdict == "wrong"
    assert "No module named 'comfy'" in line.told


def test_cudnns_settings_are_put_back(monkeypatch):
    """Nested, with and without TF32, and after an error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cudnn = torch.backends.cudnn

    def now():
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32

    def fail():
        with same_bits():
            assert now() == (True, False, before[2])
            with same_bits(tf32=False):
                assert now() == (True, False, False)
            assert now() == (True, False, before[2])
            raise KeyError

    before = now()
    with pytest.raises(KeyError):
        fail()
    assert now() == before
