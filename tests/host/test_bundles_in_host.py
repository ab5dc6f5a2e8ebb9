"""Load Bundle in the host: every part becomes a socket, what a bundle lacks a sentence, and nothing is opened outside
of the folders that the host lists models in."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.pipelines.bundle import KLCodec

from .inside.networks import FULL, PLAIN, TEXT, TINY, save_kl_vae, save_network
from .server import ROOT, run_inside

INSIDE = Path(__file__).parent / "inside"
DEMOS = {"demo": ROOT / "pipelines" / "demo", "demo_text_to_video": ROOT / "pipelines" / "demo_text_to_video"}


def write(folder: Path, index) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return folder


def old_names(weights: dict) -> dict:
    """As diffusers before 0.15 wrote an AutoencoderKL's attention."""
    renamed = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    result = {}
    for key, weight in weights.items():
        for new, old in renamed:
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        result[key] = weight
    return result


@pytest.fixture(scope="module")
def facts(host, tmp_path_factory):
    """What the host's script told of each bundle, with the tensors it made; one start of the host."""
    root = tmp_path_factory.mktemp("bundles")
    models, outside = root / "diffusion_models", root / "outside"
    demo, text_demo = (shutil.copytree(folder, models / name) for name, folder in DEMOS.items())
    whole = json.loads((demo / "bundle.json").read_text())
    assert json.loads((text_demo / "bundle.json").read_text())["codec"] == "../demo/codec.safetensors"
    shutil.copytree(demo, outside / "secrets")
    deep = shutil.copytree(text_demo, root / "checkpoints" / "deep" / "run")
    (deep.parent / "demo").mkdir()
    shutil.copy(demo / "codec.safetensors", deep.parent / "demo")
    save_network(models, "alone", TEXT, TINY)

    # A network of four latent channels, which Stable Diffusion's VAE makes; one that sees pictures.
    kl = write(models / "kl", {"unet": "unet.safetensors", "codec": "vae", "text": {"path": "text_encoder"}})
    save_network(kl, "unet", replace(TEXT, context_dim=64), TINY)
    shutil.copytree(demo / "text_encoder", kl / "text_encoder")
    vae = save_kl_vae(kl / "vae")
    old = shutil.copytree(kl, models / "kl of old")
    weights = old / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(old_names(load_file(weights)), weights.with_suffix(".bin"))  # as those folders came
    weights.unlink()
    shutil.copytree(kl / "vae", root / "vae" / "sd")
    away = shutil.copytree(kl, models / "kl elsewhere", ignore=shutil.ignore_patterns("vae"))
    write(away, {"unet": "unet.safetensors", "codec": str(root / "vae" / "sd"), "text": "text_encoder"})
    sees = write(
        models / "says how it sees",
        {
            "unet": "unet.safetensors",
            "codec": "../kl/vae",
            "text": "../kl/text_encoder",
            "image": {"path": "../demo/image_encoder", "features": "penultimate"},
            "defaults": {"uncond_image": "grey"},
        },
    )
    save_network(sees, "unet", FULL, PLAIN)

    def beside(index) -> dict:
        """An index whose parts lie in the demo's folder beside it, but for those given."""
        return {
            k: f"../demo/{v}" if isinstance(v, str) else v | {"path": f"../demo/{v['path']}"} for k, v in index.items()
        }

    parts = beside({k: v for k, v in whole.items() if k != "defaults"})
    hostile = {
        "not json": "{",
        "nested": "[" * 100_000,
        "a list": [],
        "no network": {k: v for k, v in parts.items() if k != "unet"},
        "network is a number": parts | {"unet": 7},
        "network is a folder": parts | {"unet": "../demo"},
        "network is a codec": parts | {"unet": "../demo/codec.safetensors"},
        "codec is a table": parts | {"codec": {"path": "../demo/codec.safetensors"}},
        "codec is a network": parts | {"codec": "../demo/unet.safetensors"},
        "text has another option": parts | {"text": {"path": "../demo/text_encoder", "trust_remote_code": True}},
        "text has no such layer": parts | {"text": {"path": "../demo/text_encoder", "layer": ["last"]}},
        "text is missing": parts | {"text": {"path": "text_encoder"}},
        "text is a network": parts | {"text": {"path": "../demo/unet.safetensors"}},
        "features unknown": parts | {"image": {"path": "../demo/image_encoder", "features": "all"}},
        "defaults are a list": parts | {"defaults": [1]},
        "uncond unknown": parts | {"defaults": {"uncond_image": "black"}},
        "vae of another network": parts | {"codec": "../kl/vae"},
        "too long": parts | {"codec": "x" * 5000},
        # what a run without parts of its own writes: the rest of it can still be used
        "codec outside": parts | {"codec": str(outside / "secrets" / "codec.safetensors")},
        "codec above": parts | {"codec": "../../outside/secrets/codec.safetensors"},
        "codec by a link": parts | {"codec": "linked/codec.safetensors"},
        "codec by a null": parts | {"codec": "codec\0.safetensors"},
        "encoders outside": parts
        | {k: {"path": str(outside / "secrets" / f"{k}_encoder")} for k in ("motion", "image")},
        "network outside": parts | {"unet": "/proc/self/mem"},
        "no motion": {k: v for k, v in parts.items() if k != "motion"},
        "nothing but a network": {"unet": parts["unet"]},
    }
    for name, index in hostile.items():
        folder = write(models / name, index)
        shutil.copy(demo / "codec.safetensors", folder / "any.safetensors")  # a bundle holds files that the host lists
    (models / "codec by a link" / "linked").symlink_to(outside / "secrets", target_is_directory=True)

    broken = {
        "kl of another class": {"_class_name": "AutoencoderTiny"},
        "kl of three levels": {"block_out_channels": [32, 64, 64]},
        "kl of a million levels": {"block_out_channels": [32] * 1_000_000},
        "kl too wide": {"block_out_channels": [32, 64, 64, 128]},
        "kl of words": {"block_out_channels": "wide"},
        "kl of no scale": {"scaling_factor": 0},
        "kl cut": {},
        "kl without weights": {},
        "kl no pickle": {},
    }
    for name, changes in broken.items():
        folder = shutil.copytree(kl, models / name)
        config = json.loads((folder / "vae" / "config.json").read_text()) | changes
        (folder / "vae" / "config.json").write_text(json.dumps(config))
    cut = models / "kl cut" / "vae" / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:10_000])
    for name in ("kl without weights", "kl no pickle"):
        (models / name / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (models / "kl no pickle" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")

    elsewhere = ["../outside/secrets", str(outside / "secrets"), ".", "", "nowhere", "kl/../kl", "alone.safetensors"]
    good = ["demo", "demo_text_to_video", "deep/run"]
    (root / "names.json").write_text(json.dumps([*good, *hostile, *broken, *elsewhere]))
    torch.manual_seed(1)
    inputs = {"latents": torch.randn(2, 4, 4, 4), "images": torch.rand(2, 32, 32, 3)}
    save_file(inputs, root / "inputs.safetensors")
    told = run_inside(host, (INSIDE / "bundles.py").read_text(), root)
    return {
        **told, "made": load_file(root / "results.safetensors"), "inputs": inputs, "vae": vae, "elsewhere": elsewhere,
        "outside": outside,
    }  # fmt: skip


SOCKETS = ["ModelPatcher", "CLIP", "CLIP", "ClipVisionModel", "CodecVAE"]


def test_folders_with_a_bundle_are_listed_and_nothing_else(facts):
    listed = facts["listed"]
    assert listed == sorted(listed)
    assert {"demo", "demo_text_to_video", "deep/run", "kl", "kl elsewhere", "not json"} <= set(listed)
    assert not {".", "deep", "kl/vae", "demo/text_encoder", "a file alone.safetensors", "../outside/secrets"} & {
        *listed
    }


def test_a_whole_bundle_fills_every_socket(facts):
    assert facts["told"]["demo"] == SOCKETS


def test_a_text_bundle_has_three_parts_and_two_sentences(facts):
    for name in ("demo_text_to_video", "deep/run"):
        model, text, motion, vision, vae = facts["told"][name]
        assert [model, text, vae] == ["ModelPatcher", "CLIP", "CodecVAE"]
        assert motion == (
            f"NodeError: motion text: {name} has no motion text encoder (T5), and its network reads none; disconnect "
            "this wire."
        )
        assert vision == (
            f"NodeError: clip vision: {name} has no image encoder, and its network reads none; disconnect this wire."
        )


@pytest.mark.parametrize("name", ["kl", "kl of old", "kl elsewhere"])
@torch.no_grad()
def test_an_autoencoder_kl_folder_is_diffusers_own(facts, name):
    codec, made, inputs = KLCodec(facts["vae"]), facts["made"], facts["inputs"]
    scale = facts[f"{name}: scale"]
    assert scale == codec.vae.config.scaling_factor == 0.3
    images = (codec.decode(inputs["latents"] * scale) + 1) / 2
    assert (made[f"{name}: images"].movedim(-1, 1) - images.clamp(0, 1)).abs().max() < 1e-4
    latents = codec.encode(inputs["images"].movedim(-1, 1) * 2 - 1)
    assert (made[f"{name}: latents"] * scale - latents).abs().max() < 1e-4 * latents.abs().max()


def test_the_host_can_make_a_copy_of_the_vae(facts):
    assert torch.equal(facts["made"]["copied: images"], facts["made"]["kl elsewhere: images"])


def test_what_a_bundle_says_of_how_its_network_sees_counts(facts):
    assert facts["sees"] == ["grey", "penultimate"]


def test_a_part_written_over_in_place_is_loaded_again(facts):
    before, after = facts["stamps"]
    assert before != after
    assert "there is no bundle" in facts["stamp of none"]


REFUSED = {
    "not json": "not json/bundle.json is not valid JSON: Expecting property name",
    "nested": "nested/bundle.json is not valid JSON: maximum recursion depth",
    "a list": "a list/bundle.json names no 'unet'",
    "no network": "no network/bundle.json names no 'unet'",
    "network is a number": "network is a number/bundle.json says unet = 7; expected a path.",
    "network is a folder": "demo is a folder, no file; give a .safetensors file.",
    "network is a codec": "codec.safetensors",
    "codec is a table": 'bundle.json says codec = {"path": "../demo/codec.safetensors"}; expected a path.',
    "codec is a network": "unet.safetensors",
    "text has another option": "expected a path, or path and layer.",
    "text has no such layer": "the text encoder's layer is ['last']; expected one of",
    "text is missing": "text is missing/bundle.json puts its text encoder at 'text_encoder', and nothing is there",
    "text is a network": "is a diffusion network; expected the weights of a T5 or CLIP text encoder",
    "features unknown": "image_projector.features is 'all'; expected pooled, penultimate or last.",
    "defaults are a list": "bundle.json says defaults = [1]; expected settings by their names.",
    "uncond unknown": "image_uncond is 'black'",
    "vae of another network": "the VAE of vae of another network makes 4 latent channels, its network takes 12",
    "too long": "and nothing is there; copy it.",
    "kl of another class": "says _class_name = 'AutoencoderTiny' in config.json; ComfyUI's VAE has 'AutoencoderKL'.",
    "kl of three levels": "kl of three levels/vae has 3 levels",
    "kl of a million levels": "has 1000000 levels",
    "kl too wide": "weights that are missing, unknown or of another shape than config.json asks for",
    "kl of words": "has a config.json without sensible sizes or scale",
    "kl of no scale": "has a config.json without sensible sizes or scale",
    "kl cut": "diffusion_pytorch_model.safetensors",
    "kl without weights": "kl without weights/vae has no diffusion_pytorch_model.safetensors (or .bin); download",
    "kl no pickle": "diffusion_pytorch_model.bin is no file of torch.save, or is damaged",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_bundle_is_one_sentence_that_names_the_input(facts, name):
    told = facts["told"][name]
    assert isinstance(told, str), told
    assert told.startswith("NodeError: bundle_name: ")
    assert REFUSED[name] in told
    assert told.endswith(".")
    assert "\n" not in told
    assert len(told) < 6000


def test_a_name_that_is_not_listed_opens_nothing(facts):
    for name in facts["elsewhere"]:
        assert facts["told"][name] == (
            f"NodeError: bundle_name: there is no bundle {name!r} in models/diffusion_models or models/checkpoints: a "
            "folder with bundle.json; refresh and choose again."
        )


@pytest.mark.parametrize(
    ("name", "output", "what", "entry", "node"),
    [
        ("codec outside", "vae", "VAE", "{outside}/secrets/codec.safetensors", "Load VAE"),
        ("codec above", "vae", "VAE", "../../outside/secrets/codec.safetensors", "Load VAE"),
        ("codec by a link", "vae", "VAE", "linked/codec.safetensors", "Load VAE"),
        ("codec by a null", "vae", "VAE", "codec\\x00.safetensors", "Load VAE"),
        ("encoders outside", "motion text", "motion text encoder (T5)", "{outside}/secrets/motion_encoder",
         "Load Text Encoder (any size)"),
        ("encoders outside", "clip vision", "image encoder", "{outside}/secrets/image_encoder", "Load CLIP Vision"),
        ("network outside", "model", "network", "/proc/self/mem", "Load Video UNet"),
    ],
)  # fmt: skip
def test_a_part_outside_the_hosts_folders_is_not_opened_and_the_rest_works(facts, name, output, what, entry, node):
    told = facts["told"][name]
    sentences = [s for s in told if s not in SOCKETS]
    assert len(sentences) == (2 if name == "encoders outside" else 1)
    where = entry.format(outside=facts["outside"])
    assert (
        f"NodeError: {output}: {name}/bundle.json puts the {what} at '{where}', outside of ComfyUI's model folders; "
        f"copy it into the bundle and name it there, or load it with {node}."
    ) in sentences


def test_a_part_that_a_bundle_does_not_name_is_told_with_its_loader(facts):
    assert facts["told"]["no motion"][2] == (
        "NodeError: motion text: no motion comes without the motion text encoder (T5) that its network reads; load it "
        "with Load Text Encoder (any size)."
    )
    model, *rest = facts["told"]["nothing but a network"]
    assert model == "ModelPatcher"
    assert all("comes without the" in sentence for sentence in rest)


def test_on_windows_no_path_outside_is_followed(facts):
    """Following one that names another machine would call it, and tell it who calls."""
    inside = {path for path, (lies_inside, _) in facts["windows"].items() if lies_inside}
    assert inside == {r"C:\models\b\x"}
    for path, (_, asked) in facts["windows"].items():
        assert path in inside or set(asked) <= {r"C:\models\a", r"C:\models\b"}
