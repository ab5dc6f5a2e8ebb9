"""Whom a sentence blames: a file only for what is wrong with the file.

What the system says (a disk, a lock, too many open files) stays in its words, without advice to download again; memory
that ran out, a missing library and a bug of ours are no sentence about a file at all.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dreamfactory.cli import main
from dreamfactory.errors import blameless, is_bug, reason
from dreamfactory.model_patches import load_unet
from dreamfactory.model_patches.checkpoints.converters import convert_file_in_memory
from dreamfactory.model_patches.upscaling.enlarge import Enlarger
from dreamfactory.model_patches.upscaling.upscaler import Upscaler, load_upscaler
from dreamfactory.pipelines.bundle import DEMO, load_bundle, load_vae
from dreamfactory.pipelines.encoders import TextEncoder
from dreamfactory.pipelines.media.files import check_picture
from dreamfactory.training.data.cache import Cache

DISK = OSError(5, "Input/output error")
FULL = OSError(24, "Too many open files")
MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes.")
MISSING = ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece")
ACCUSING = ("damaged", "download", "save it again", "put its", "put the model's")


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def folder(tmp_path: Path, **files: str | None) -> Path:
    """A folder of text files; None makes a folder in a file's place, which no one can read as a file."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", ".")
        path.mkdir() if text is None else path.write_text(text)
    return tmp_path


def unet(tmp_path, patch, error):
    patch.setattr("dreamfactory.model_patches.checkpoints.files.load_file", failing(error))
    load_unet(DEMO / "unet.safetensors")


def shards(tmp_path, patch, error):
    index = {"diffusion_pytorch_model__safetensors__index__json": None}
    convert_file_in_memory(folder(tmp_path, **index))


def vae(tmp_path, patch, error):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    patch.setattr(AutoencoderKL, "from_pretrained", failing(error))
    save_file({"x": torch.zeros(10**7)}, tmp_path / "x.safetensors")
    load_vae(folder(tmp_path, config__json="{}"))


def encoder(tmp_path, patch, error):
    from transformers import CLIPTextModel

    patch.setattr(CLIPTextModel, "from_pretrained", failing(error))
    TextEncoder.load(DEMO / "text_encoder")


def tokenizer(tmp_path, patch, error):
    from transformers import AutoTokenizer

    patch.setattr(AutoTokenizer, "from_pretrained", failing(error))
    TextEncoder.load(DEMO / "text_encoder")


def config(tmp_path, patch, error):
    TextEncoder.load(folder(tmp_path, config__json=None))


def bundle(tmp_path, patch, error):
    load_bundle(folder(tmp_path, bundle__json=None))


def picture(tmp_path, patch, error):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    patch.setattr(Image, "open", failing(error))
    check_picture(tmp_path / "a.png")


def captions(tmp_path, patch, error):
    from dreamfactory.training.config import SourceConfig
    from dreamfactory.training.data import metadata

    (tmp_path / "a.jsonl").write_text("{}\n")
    patch.setattr(Path, "open", failing(error))
    metadata.read_metadata("mine", tmp_path / "a.jsonl", SourceConfig(kind="metadata", path=str(tmp_path / "a.jsonl")))


def cached(tmp_path, patch, error):
    cache = Cache(tmp_path)
    cache.store("text", "ab", {"x": torch.zeros(1)})
    patch.setattr(Path, "read_bytes", failing(error))
    if cache.load("text", "ab") is None:
        raise ValueError("its text is missing or damaged")  # what its reader says of None


def foreign(tmp_path, patch, error):
    """An upscaler that spandrel builds."""
    module = SimpleNamespace(
        ModelLoader=lambda: SimpleNamespace(load_from_state_dict=failing(error)), UnsupportedModelError=KeyError
    )
    patch.setitem(__import__("sys").modules, "spandrel", module)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    load_upscaler(tmp_path / "x.safetensors")


def enlarging(tmp_path, patch, error):
    """A network that is wrong in every precision."""

    class Network(torch.nn.Module):
        def forward(self, x):
            raise error

    Enlarger(Upscaler(Network(), 2, "it", True, True), "cpu", torch.bfloat16)(torch.zeros(1, 3, 8, 8))


BUG = TypeError("'NoneType' object is not subscriptable")
# What happens, the error behind it, what must be told, and whether the error itself must arrive.
CASES = {
    "a disk fails under a network": (unet, DISK, "cannot be read: Input/output error.", False),
    "no more files may be open": (unet, FULL, "cannot be read: Too many open files.", False),
    "memory ends under a network": (unet, MEMORY, "can't allocate memory", True),
    "a bug under a network": (unet, BUG, "NoneType", True),
    "an index that is a folder": (shards, None, "index.json is a folder, no file;", False),
    "memory ends under a VAE": (vae, MEMORY, "can't allocate memory", True),
    "memory ends under an encoder": (encoder, MEMORY, "can't allocate memory", True),
    "a library of the tokenizer's is missing": (tokenizer, MISSING, "No module named 'sentencepiece'", True),
    "memory ends under a tokenizer": (tokenizer, MemoryError(), "", True),
    "a config that is a folder": (config, None, "config.json is a folder, no file;", False),
    "a bundle that is a folder": (bundle, None, "bundle.json is a folder, no file;", False),
    "a disk fails under a picture": (picture, DISK, "cannot be read: Input/output error.", False),
    "a disk fails under captions": (captions, DISK, "cannot be read: Input/output error.", False),
    "no more files for the cache": (cached, FULL, "in the cache cannot be read: Too many open files.", False),
    "memory ends under an upscaler": (foreign, MEMORY, "can't allocate memory", True),
    "an upscaler's library is missing": (foreign, MISSING, "No module named 'sentencepiece'", True),
    "an upscaler wrong in any precision": (enlarging, RuntimeError("mat1 must be a matrix"), "mat1 must be", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_not_blamed(case, tmp_path, monkeypatch):
    happens, error, words, as_it_is = CASES[case]
    with pytest.raises(Exception) as told:  # noqa: PT011 (which one is what is looked at)
        happens(tmp_path, monkeypatch, error)
    sentence = str(told.value)
    assert words in sentence
    assert not any(word in sentence for word in ACCUSING), sentence
    assert (told.value is error) == as_it_is


def test_memory_and_libraries_cost_the_command_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("dreamfactory.libraries.shutil.which", lambda name: str(Path(sys.executable).parent / name))
    for error, code, words in (
        (MEMORY, 1, "memory ran out ([enforce fail] DefaultCPUAllocator: can't allocate memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), 1, "memory ran out (CUDA out of"),
        (MISSING, 2, "sentencepiece is not installed; pip install sentencepiece."),
        (ModuleNotFoundError("no", name="PIL"), 2, "pillow is not installed; pip install pillow."),
        (ModuleNotFoundError("no", name="diffusers"), 2, "diffusers is not installed; pip install diffusers."),
    ):
        monkeypatch.setattr("dreamfactory.pipelines.describe.describe_file", failing(error))
        assert main(["info", "x.safetensors"]) == code
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1


@pytest.mark.parametrize("error", [BUG, ModuleNotFoundError("no", name="dreamfactory.pipelines.moved")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr("dreamfactory.pipelines.describe.describe_file", failing(error))
    with pytest.raises(type(error)):
        main(["info", "x.safetensors"])


def test_whose_mistake_it_is():
    def caught(function):
        try:
            function()
        except Exception as error:
            return error

    strange: Any = SimpleNamespace(strerror=1)
    ours = caught(lambda: reason(strange))  # an int has no strip: raised in our own code
    assert isinstance(ours, AttributeError)
    assert is_bug(ours)
    nothing: Any = None
    theirs = caught(lambda: json.loads(nothing))
    assert isinstance(theirs, TypeError)
    assert not is_bug(theirs)
    assert blameless(OSError(12, os.strerror(12)))
    assert not blameless(DISK)
    assert reason(DISK) == "Input/output error"
    assert reason(ValueError("a: b.\nmore")) == "a: b"
