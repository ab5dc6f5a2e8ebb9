"""Folders, bundles, LoRAs, lists and upscalers made to harm: whatever one holds, a command costs a sentence, and
neither the machine's memory, nor a wait, nor a traceback.

Every case is the real command on the demo, its network of one level, with one thing changed in one of the files that
it reads.
"""

import json
import math
import random
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.cli import main
from dreamfactory.model_patches import VideoUNet, load_unet, save_unet
from dreamfactory.model_patches.checkpoints.files import BITS

from .model_patches.checkpoints.test_hostile_headers import DEMO, LONGEST, VALUES, pack, split

PICTURE = DEMO / "pictures" / "red_circle.png"
GUARD = 60  # seconds, for what never ends
MOST = 200 * 2**10  # kilobytes that a refusal may take
TEXTS = [
    "",
    "{",
    "[" * 100_000,
    '{"a":' * 50_000,
    "1" * 5000,
    "\ud800",
    "null",
    "[]",
    "{}",
    "\xff\xfe",
    "[" + "[]," * 300_000,
]
RAW = {"errors": "surrogatepass"}


@pytest.fixture(autouse=True)
def _nothing_waits():
    """A guard, where there is one."""
    if sys.platform == "win32":
        yield
        return

    def waited(*_):
        raise BaseException("it does not end")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(2 * GUARD)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def memory(field: str) -> int:
    """Of this process, in kilobytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def forget_peak() -> bool:
    """Whether the highest memory of a process can be counted from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return memory("VmHWM") > 0


def run(capfd, tmp_path, arguments, codes=(0, 2)) -> bool:
    """Whether the command refused, in one sentence that a terminal can show, at little cost."""
    measured = forget_peak()
    before = memory("VmRSS")
    code = main([str(a) for a in arguments])
    taken = memory("VmHWM") - before
    told = capfd.readouterr().err.replace(str(tmp_path), "")
    assert code in codes, told
    if code == 0:
        return False
    lines = [line for line in told.splitlines() if line and not line.startswith("note: ")]
    sentence = lines[-1].removeprefix(f"dreamfactory {arguments[0]}: ")
    assert len(lines) == 1, lines
    assert len(sentence) <= LONGEST, sentence
    assert sentence.encode().decode() == sentence
    assert not measured or taken < MOST, f"{taken} kB for: {sentence}"
    return True


QUICK = [value for value in VALUES if repr(value) not in ("1000", "100000")]  # what is good, costs no time


def harmed(draw: random.Random, values):
    """Plain data with one thing in it changed, anywhere."""
    values = json.loads(json.dumps(values))
    if draw.random() < 0.05:
        return draw.choice(QUICK)
    key = draw.choice([*values, *values, "zz", "\ud800", "n" * 100_000])
    inside = values.get(key)
    if isinstance(inside, dict) and inside and draw.random() < 0.7:
        values[key] = harmed(draw, inside)
    elif isinstance(inside, list) and inside and draw.random() < 0.7:
        place = draw.randrange(len(inside))
        deeper = isinstance(inside[place], dict) and inside[place]
        inside[place] = harmed(draw, inside[place]) if deeper else draw.choice(QUICK)
    else:
        values[key] = draw.choice(QUICK)
    return values


def harmed_text(draw: random.Random, text: str) -> bytes:
    told = json.dumps(harmed(draw, json.loads(text))) if draw.random() < 0.85 else draw.choice([*TEXTS, text[:-20]])
    return told.encode(**RAW)


def harmed_weights(draw: random.Random, source: Path, target: Path) -> None:
    """A safetensors file whose weights have other names, shapes, numbers or words about them."""
    header, data = split(source)
    name = draw.choice([k for k in header if k != "__metadata__"])
    entry, kind = header[name], draw.choice(["lost", "field", "shape", "shape", "number", "name", "metadata"])
    count, start = math.prod(entry["shape"]), entry["data_offsets"][0]
    if kind == "lost":
        del header[name]
    elif kind == "field":
        entry[draw.choice(["shape", "dtype", "data_offsets"])] = draw.choice(VALUES)
    elif kind == "shape":
        shape = draw.choice([[count], [1, count], [count, 1, 1, 1], [0], [], [2**40, 0], [0, 2**62], [1] * 17])
        length = math.prod(shape) * (entry["data_offsets"][1] - start) // max(1, count)
        header[name] = {**entry, "shape": shape, "data_offsets": [start, start + length]}
    elif kind == "number":
        dtype = draw.choice(["F64", "I64", "BOOL", "U8", "F8_E4M3", "BF16", "C64"])
        length = count * BITS[dtype] // 8
        header[name] = {**entry, "dtype": dtype, "data_offsets": [len(data), len(data) + length]}
        data += bytes(length)
    elif kind == "name":
        number = name.replace("0", "9" * 20)
        header[draw.choice(["\ud800", "k" * 100_000, "", f"{name}x", number])] = header.pop(name)
    else:
        words = ["", "{", "[" * 100_000, "null", "[]", "1" * 5000, "\ud800", "inf", '{"a": 1}', "a\nb" * 100, "9" * 400]
        metadata = header.setdefault("__metadata__", {})
        metadata[draw.choice([*metadata, "modelspec.architecture", "dreamfactory.format"])] = draw.choice(words)
    pack(target, header, data)


def generate(out: Path, *more):
    asked = ("--text", "a red circle", "--motion", "it moves", "--image", PICTURE, "--steps", 1, "--frames", 2)
    return ["generate", *asked, "--device", "cpu", "--no-sheets", "--quiet", "--out", out, *more]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The demo, with a VAE of diffusers' beside it."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = shutil.copytree(DEMO, tmp_path_factory.mktemp("bundle") / "demo")
    torch.manual_seed(0)
    network = load_unet(folder / "unet.safetensors")
    config = replace(network.config, channel_mult=(1,), attention_levels=(True,))
    save_unet(VideoUNet(config), folder / "unet.safetensors", schedule=network.schedule)
    sizes: dict[str, Any] = {
        "block_out_channels": (8,) * 4, "latent_channels": 12, "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    AutoencoderKL(**sizes).save_pretrained(folder / "vae")
    return folder


# Files of a bundle: how many cases, and how many of them have to be refused: the rest changes what does not matter.
JSON = {
    "bundle.json": (18, 5), "text_encoder/config.json": (20, 6), "text_encoder/tokenizer.json": (20, 5),
    "text_encoder/tokenizer_config.json": (25, 5), "motion_encoder/config.json": (20, 4),
    "motion_encoder/tokenizer_config.json": (15, 3), "image_encoder/config.json": (20, 6), "vae/config.json": (20, 4),
}  # fmt: skip
WEIGHTS = {
    "codec.safetensors": (14, 5), "vae/diffusion_pytorch_model.safetensors": (10, 4),
    "text_encoder/model.safetensors": (10, 4), "motion_encoder/model.safetensors": (10, 4),
    "image_encoder/model.safetensors": (10, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", [*JSON, *WEIGHTS])
def test_a_bundle(bundle, tmp_path, capfd, name):
    draw, path = random.Random(name), bundle / name
    cases, least = (JSON | WEIGHTS)[name]
    sound = path.read_bytes()
    vae = ["--vae", bundle / "vae"] if name.startswith("vae") else []
    run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--checkpoint", bundle, *vae))  # what libraries take at first
    refused = 0
    try:
        for _ in range(cases):
            if name in JSON:
                path.write_bytes(harmed_text(draw, sound.decode()))
            else:
                path.write_bytes(sound)
                harmed_weights(draw, path, path)
            refused += run(capfd, bundle, generate(tmp_path / "o.mp4", "--checkpoint", bundle, *vae))
    finally:
        path.write_bytes(sound)
    assert refused >= least


SIZES = {
    "text_encoder": {
        "num_hidden_layers": 10**6, "hidden_size": 2**16, "intermediate_size": 10**9, "vocab_size": 4 * 10**6,
        "max_position_embeddings": 10**9, "num_attention_heads": 10**9,
    },
    "motion_encoder": {"num_layers": 10**6, "d_model": 2**16, "d_ff": 10**9, "d_kv": 2**16, "num_heads": 2**16},
    "image_encoder": {
        "num_hidden_layers": 900, "hidden_size": 2**16, "image_size": 10**6, "patch_size": 1, "projection_dim": 2**16,
    },
    "vae": {"layers_per_block": 10**6, "block_out_channels": [2**15] * 4, "latent_channels": 10**6},
}  # fmt: skip


@pytest.mark.parametrize(("part", "field"), [(part, field) for part in SIZES for field in SIZES[part]])
def test_sizes_are_bounded_before_anything_is_built(bundle, tmp_path, capfd, part, field):
    path = bundle / part / "config.json"
    sound = path.read_text()
    vae = ["--vae", bundle / "vae"] if part == "vae" else []
    run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--checkpoint", bundle, *vae))
    try:
        path.write_text(json.dumps(json.loads(sound) | {field: SIZES[part][field]}))
        assert run(capfd, bundle, generate(tmp_path / "o.mp4", "--checkpoint", bundle, *vae))
    finally:
        path.write_text(sound)


def test_a_vae_that_lacks_weights_is_refused(bundle, tmp_path, capfd):
    folder = shutil.copytree(bundle / "vae", tmp_path / "vae")
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("decoder.conv_in.weight")
    save_file(weights, path)
    assert run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--vae", folder))


def test_an_upscaler(tmp_path, capfd):
    draw, path, refused = random.Random(1), tmp_path / "x.safetensors", 0
    for _ in range(25):
        harmed_weights(draw, DEMO / "upscaler.safetensors", path)
        refused += run(capfd, tmp_path, ["upscale", PICTURE, tmp_path / "o.png", "--model", path, "--quiet"])
        run(capfd, tmp_path, ["info", path])
    assert refused > 10


def test_an_upscaler_of_more_blocks_than_weights(tmp_path, capfd):
    shapes = {
        "head.0.weight": [8, 3, 3, 3], "tail.1.weight": [3, 8, 3, 3], "body.0.body.0.body.3.conv_du.0.weight": [2, 8],
        "body.0.body.0.body.0.weight": [8, 8, 3, 3], "tail.0.0.weight": [32, 8, 3, 3],
    }  # fmt: skip
    shapes |= {f"{prefix}.{i}.x": [0] for i in range(3000) for prefix in ("body", "body.0.body")}
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * math.prod(shape)]}
        end += 4 * math.prod(shape)
    path = pack(tmp_path / "x.safetensors", header, bytes(end))
    assert run(capfd, tmp_path, ["info", path])
    assert run(capfd, tmp_path, ["upscale", PICTURE, tmp_path / "o.png", "--model", path])


def lora(path: Path) -> None:
    """For the demo's first attention, in PEFT's names."""
    name = "base_model.model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    config = {"r": 2, "lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 1}, "use_rslora": False}
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 48), f"{name}.lora_B.weight": torch.zeros(48, 2)}, path,
        metadata={"lora_adapter_metadata": json.dumps(config)},
    )  # fmt: skip


def test_a_lora(tmp_path, capfd):
    draw, sound, path = random.Random(2), tmp_path / "sound.safetensors", tmp_path / "x.safetensors"
    lora(sound)
    assert not run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--lora", sound))
    refused = 0
    for case in range(16):
        if case % 2:
            header, data = split(sound)
            header["__metadata__"]["lora_adapter_metadata"] = harmed_text(
                draw, header["__metadata__"]["lora_adapter_metadata"]
            ).decode(**RAW)
            pack(path, header, data)
        else:
            harmed_weights(draw, sound, path)
        refused += run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--lora", path))
        run(capfd, tmp_path, ["convert", path, tmp_path / "c.safetensors"])
    assert refused > 5


@pytest.mark.parametrize("pattern", ["(a+)+$", "(x|x)*y", ".*.*.*.*.*z", "[", "a" * 10_000])
def test_patterns_of_a_lora_cost_no_time(tmp_path, capfd, pattern):
    path = tmp_path / "x.safetensors"
    lora(path)
    header, data = split(path)
    config = {"r": 2, "lora_alpha": 2, "alpha_pattern": {pattern: 1}}
    header["__metadata__"]["lora_adapter_metadata"] = json.dumps(config)
    pack(path, header, data)
    assert run(capfd, tmp_path, generate(tmp_path / "o.mp4", "--lora", path))


LINE = {
    "image": str(PICTURE), "text": "a red circle", "motion": "it moves", "seed": 1, "frames": 2, "steps": 1,
    "guidance_scale": 2.0, "out": "a.mp4", "size": "64x64",
}  # fmt: skip


def listed(prompts: Path, out: Path):
    return ["generate", "--prompts", prompts, "--out", out, "--quiet", "--device", "cpu", "--no-sheets"]


def test_a_list(tmp_path, capfd):
    draw, prompts, refused = random.Random(3), tmp_path / "list.jsonl", 0
    for case in range(25):
        prompts.write_bytes(harmed_text(draw, json.dumps(LINE)) + b"\n")
        refused += run(capfd, tmp_path, listed(prompts, tmp_path / f"clips{case}"), codes=(0, 2, 3))
    assert refused > 5


@pytest.mark.parametrize(("name", "least"), [("run.json", 5), ("index.jsonl", 0)])
def test_a_lists_folder(tmp_path, capfd, name, least):
    draw, prompts, out = random.Random(name), tmp_path / "list.jsonl", tmp_path / "clips"
    prompts.write_text(json.dumps(LINE) + "\n")
    assert not run(capfd, tmp_path, listed(prompts, out))
    sound = (out / name).read_bytes()
    refused = 0
    for _ in range(15):
        (out / name).write_bytes(harmed_text(draw, sound.decode()) + b"\n")
        refused += run(capfd, tmp_path, listed(prompts, out))
        (out / name).write_bytes(sound)
    assert refused >= least


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["lvdm_dynamicrafter_512_tiny", "lvdm_videocrafter2_tiny", "modelscope_original_tiny"])
def test_public_weights(tmp_path, capfd, name):
    draw, path, refused = random.Random(name), tmp_path / "x.safetensors", 0
    for _ in range(20):
        harmed_weights(draw, FIXTURES / f"{name}.safetensors", path)
        refused += run(capfd, tmp_path, ["info", path])
        run(capfd, tmp_path, ["convert", path, tmp_path / "c.safetensors"])
    assert refused > 5


def test_a_block_of_an_enormous_number(tmp_path, capfd):
    header, data = split(FIXTURES / "lvdm_videocrafter2_tiny.safetensors")
    name = next(k for k in header if "input_blocks.1." in k)
    for number in ("9" * 9, "9" * 30, "x", "-1"):
        changed = {
            k.replace("input_blocks.1.", f"input_blocks.{number}.") if k == name else k: v for k, v in header.items()
        }
        run(capfd, tmp_path, ["info", pack(tmp_path / "x.safetensors", changed, data)])


# -- a run's own files ----------------------------------------------------------------------------------------------


def test_a_manifest_of_anything_is_no_checkpoint_or_a_sound_one(tmp_path):
    """Facts of other kinds do not make a checkpoint; those that do are numbers and names inside of its folder."""
    from dreamfactory.training.checkpoint import checkpoints, damage

    sound = {
        "format": 1, "step": 3, "stage": 0, "stage_step": 3, "ends_stage": False, "origin": {"network": "a"},
        "data": {"clips": "b"}, "born": {"x": 1}, "files": {"weights.safetensors": {"size": 3, "hash": "c"}},
    }  # fmt: skip
    draw, folder = random.Random(4), tmp_path / "step-000000003"
    folder.mkdir()
    (tmp_path / "outside").write_text("abc")
    harms = [harmed_text(draw, json.dumps(sound)) for _ in range(150)]
    for name in ("../outside", "/etc/hostname", "a\0b"):
        harms.append(json.dumps(sound | {"files": {name: {"size": 3, "hash": "c"}}}).encode())
    found = 0
    for text in [json.dumps(sound).encode(), *harms]:
        (folder / "manifest.json").write_bytes(text)
        for checkpoint in checkpoints(tmp_path):
            found += 1
            assert isinstance(damage(checkpoint), str)  # its one file is not there
            assert type(checkpoint.step) is type(checkpoint.facts["stage_step"]) is int
            assert all((folder / name).resolve().parent == folder.resolve() for name in checkpoint.facts["files"])
    assert 0 < found < 120
