"""A library that is missing or broken: the right one is named, and what is advised leaves torch as it is."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreamfactory import libraries
from dreamfactory.cli import main
from dreamfactory.errors import InputError, LibraryError, blameless
from dreamfactory.libraries import fault, install, library, pip
from dreamfactory.training.logs import Log

NMS = "raise RuntimeError('operator torchvision::nms does not exist')"
LAZY = """  # as diffusers and transformers import their own modules, when something of theirs is asked for
def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)
    try:
        import {name}.models
    except Exception as error:
        raise {kind} from error
"""


@pytest.fixture
def put(tmp_path, monkeypatch):
    """put(name, code): a library, in place of the one that may be there. version, asks: what pip knows of it."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name, code="", version=None, asks="", **modules):
        for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        (tmp_path / name).mkdir()
        for module, text in {"__init__": code, **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text)
        if version:
            facts = tmp_path / f"{name}-{version}.dist-info"
            facts.mkdir()
            asked = f"Requires-Dist: {asks}\n" if asks else ""
            (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}")
            (facts / "top_level.txt").write_text(name)
        importlib.invalidate_caches()

    yield put
    for loaded in [m for m, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[loaded]


def failure(name) -> Exception:
    """What importing a module raises."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return error
    pytest.fail(f"{name} is imported without an error")


def test_what_is_missing_is_named_with_the_line_that_brings_it(monkeypatch):
    for name in ("peft", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        LibraryError, match=r"^optical flow needs opencv-python-headless, which is not installed; .*pip "
    ):
        library("cv2", "optical flow", "set loss.flow_weight to 0")
    with pytest.raises(LibraryError, match=r"pip install opencv-python-headless, or set loss.flow_weight to 0\.$"):
        library("cv2", "optical flow", "set loss.flow_weight to 0")
    with pytest.raises(LibraryError, match=r"pip install peft torch==[\w.]+, which leaves torch as it is\.$"):
        library("peft", "LoRA training")
    assert str(fault(ModuleNotFoundError("no", name="peft"))).startswith("peft is not installed; ")


def test_all_that_is_missing_is_one_sentence(monkeypatch):
    for name in ("peft", "cv2", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)  # as no other test had asked for it
    wanted = {"cv2": ("flow", "set a"), "json": ("b", ""), "peft": ("LoRA", ""), "pyarrow.parquet": ("flow", "")}
    expected = "flow and LoRA need opencv-python-headless, peft and pyarrow, which are not installed; "
    with pytest.raises(
        LibraryError, match=expected + r".*pip install opencv-python-headless peft pyarrow torch==\S+, "
    ):
        libraries.libraries(wanted)


@pytest.mark.parametrize("kind", ["RuntimeError('Failed to import')", "ModuleNotFoundError('Could not import module')"])
def test_a_library_under_another_is_the_one_that_is_named(put, kind):
    """Of a broken torchvision transformers makes a ModuleNotFoundError without a name, diffusers a RuntimeError."""
    put("torch", version="2.13.0+cpu")
    put("torchvision", NMS, version="0.27.0", asks="torch (==2.12.0)")
    put("lazyone", LAZY.format(name="lazyone", kind=kind), models="import torchvision")
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever the library makes of it)
        library("lazyone", "a test").Thing  # noqa: B018
    told = str(fault(caught.value))
    assert told.startswith(
        "torchvision 0.27.0 cannot be imported (operator torchvision::nms does not exist): "
        "it was made for torch 2.12.0, and this is 2.13.0+cpu; "
    )
    assert blameless(caught.value)


# torch, torchvision and what it asks for, and what is advised.
TORCHVISION = {
    "of pip's own index": ("2.12.1", "0.26.0", "torch==2.11.0", "install --no-deps torchvision==0.27.1, which leaves"),
    "of torch's own": ("2.13.0+cpu", "0.27.0", "torch==2.12.0", "uninstall torchvision, which DreamFactory"),
    "for a card beside a CPU's": (
        "2.13.0+cpu",
        "0.28.0",
        "torch==2.13.0",
        "for another build of torch than 2.13.0+cpu",
    ),
    "the right one, broken": ("2.13.0", "0.28.0", "torch==2.13.0", "uninstall torchvision, which DreamFactory"),
    "not known yet": ("3.1.0", "0.28.0", "torch==2.13.0", "or install the one for torch 3.1.0"),
}


@pytest.mark.parametrize("case", TORCHVISION)
def test_a_torchvision_for_another_torch(put, case):
    torch, torchvision, asks, words = TORCHVISION[case]
    put("torch", version=torch)
    put("torchvision", NMS, version=torchvision, asks=asks)
    told = str(fault(failure("torchvision")))
    assert words in told
    assert not re.search(r"pip install (?!--no-deps)", told)  # which would bring a torch of its own


def test_other_ways_to_be_broken(put, monkeypatch):
    put("torch", version="2.13.0+cpu")
    put("outdated", "from lowlevel import gone", version="1.2")
    put("lowlevel", version="0.9")
    assert str(fault(failure("outdated"))).startswith("outdated 1.2 cannot be imported (cannot import name 'gone' from")
    assert "pip install --upgrade outdated lowlevel" in str(fault(failure("outdated")))
    put("damaged", "from . import part", version="3", part="x = (")
    assert "pip install --force-reinstall --no-deps damaged" in str(fault(failure("damaged")))
    put("halved", "import nothing_of_this_name")
    told = str(fault(failure("halved")))
    assert told.startswith("nothing_of_this_name, which halved needs, is not installed; ")
    put("sub", "import lowlevel.inner")
    assert "pip install --upgrade sub lowlevel" in str(fault(failure("sub")))
    with pytest.raises(
        LibraryError, match=r"^a test needs halved, and nothing_of_this_name, which halved needs, is not"
    ):
        library("halved", "a test")
    with pytest.raises(LibraryError, match=r"^a test needs damaged, which cannot be imported \('\(' was never closed"):
        library("damaged", "a test", "set it to 0")
    put("bz2_of_ours", "import _bz2")
    monkeypatch.setitem(sys.modules, "_bz2", None)
    assert "Python was built without; use another Python" in str(fault(failure("bz2_of_ours")))
    # Libraries say some things themselves.
    told = fault(ImportError("\nT5Tokenizer requires the SentencePiece library but it was not found.\nMore"))
    assert str(told) == "a library is missing: T5Tokenizer requires the SentencePiece library but it was not found"


def test_what_is_no_librarys_fault():
    assert fault(ModuleNotFoundError("no", name="dreamfactory.moved")) is None
    assert fault(InputError("no")) is None
    assert fault(failure("dreamfactory.moved")) is None
    with pytest.raises(ModuleNotFoundError, match=r"dreamfactory\.moved"):
        library("dreamfactory.moved", "a test")
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        importlib.import_module("json").loads("{")
    assert fault(caught.value) is None
    assert not blameless(caught.value)


def test_lines_are_for_the_python_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for program in ("pip", "python"):
            (tmp_path / folder / program).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "here" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    assert pip("install", "a", "b<2") == "pip install a 'b<2'"
    monkeypatch.setenv("PATH", str(tmp_path / "there"))
    assert pip("install", "a") == f"{Path('here') / 'python'} -m pip install a"
    monkeypatch.chdir(tmp_path / "there")
    assert pip("install", "a") == f"{tmp_path / 'here' / 'python'} -m pip install a"
    monkeypatch.setitem(sys.modules, "pip", None)  # as uv makes environments
    assert pip("install", "a") == f"uv pip install --python {tmp_path / 'here' / 'python'} a"


def test_every_extra_that_asks_for_torch_is_installed_beside_the_torch_that_is_there():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    extras = project[project.index("[project.optional-dependencies]") : project.index("[project.scripts]")]
    for name in set(re.findall(r'"([a-z][\w-]*)\W', extras)) - {"comfyui-dreamfactory"}:
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if any(re.match(r"torch\b(?!.*extra)", text) for text in asked):
            assert name.replace("-", "_") in libraries.ON_TORCH, f"{name} asks for torch"
    assert "--no-deps" in install("spandrel")
    assert "pip" not in install("torch")


# -- the commands -----------------------------------------------------------------------------------------------------

# What is missing, how the command is given, and what is said.
RUNS = {
    "all that training needs": (
        ("accelerate", "matplotlib"),
        "",
        "training needs accelerate and matplotlib, which are",
    ),
    "a validation's measures": (("torchmetrics",), "demo-upscaler", "validation needs torchmetrics, which is not"),
    "an upscaler's flow": (("cv2",), "demo-upscaler", "set loss.temporal_weight and output.validation_clips to 0."),
    "flow": (
        ("cv2",),
        "--set loss.flow_weight=1.0 --set model.config.predict_net=true --set sources.mine.path=clips",
        "or set loss.flow_weight and output.validation_clips to 0.",
    ),
    "a measure": (("cv2",), "", "optical flow needs opencv-python-headless, which is not installed; "),
    "a LoRA": (("peft",), "--set model.lora.rank=4", "LoRA training needs peft, which is not installed; "),
    "an optimizer": (("prodigyopt",), "--set optim.optimizer=prodigy --set optim.lr=1.0", "needs prodigyopt, which is"),
    "a list": (("pyarrow",), "--set sources.mine.path=list.parquet", "reading .parquet needs pyarrow, which is not"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_says_what_it_needs_before_anything_is_made(case, tmp_path, monkeypatch, capsys):
    missing, options, words = RUNS[case]
    for name in missing:
        for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    run = options if options.startswith("demo") else f"tiny {options}"
    assert main(["train", *run.split(), "--set", "output.folder=run"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [None, "raise TypeError('Descriptors cannot be created directly.')"])
def test_a_run_goes_on_without_a_board(code, put, tmp_path, monkeypatch):
    for loaded in [m for m in sys.modules if m.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, loaded)
    if code is None:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
    else:
        put("tensorboard", code, version="2.9")
    said = []
    Log(tmp_path, 0, ("tensorboard",), said.append).close()
    (told,) = said
    assert told.startswith(
        "tensorboard is not installed; " if code is None else "tensorboard 2.9 cannot be imported (De"
    )
    assert "pip install " in told
    assert told.endswith(" tensorboard. Until then numbers go to metrics.jsonl alone")


def test_a_clip_says_what_it_needs_before_a_network_is_read(tmp_path, monkeypatch, capsys):
    for name in ("diffusers", "xformers"):
        for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("dreamfactory.pipelines.generate.engine.load_bundle", None)
    clip = ["generate", "--text", "a", "--motion", "b", "--image", str(PICTURE), "--out", str(tmp_path / "a.mp4")]
    assert main([*clip, "--sampler", "euler"]) == 2
    assert "sampler euler needs diffusers, which is not installed; " in capsys.readouterr().err
    assert main([*clip, "--attention", "xformers"]) == 2
    assert "or choose --attention sdpa." in capsys.readouterr().err


PICTURE = Path(__file__).parents[1] / "pipelines/demo/pictures/red_circle.png"


def test_a_torch_that_cannot_be_imported_is_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "dreamfactory", "info", "x.safetensors"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dreamfactory info: torch ")
    assert "cannot be imported (libcudart.so.13: cannot open shared object file); install torch as its" in done.stderr
    assert done.stderr.count("\n") == 1
