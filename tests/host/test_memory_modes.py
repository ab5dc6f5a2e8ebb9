"""Every loader and node in each of the host's ways of loading: the same clip, text and files, to the bit.

On a card ComfyUI builds modules without weights and lets ModelPatcherDynamic fill them (inside/memory_modes.py).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import VideoUNet, load_unet, save_patch, save_unet

from .inside.memory_modes import MODES
from .inside.networks import FULL, PLAIN, SD1, SHIFTED, TEMPORAL, TEXT, TINY, inputs_for, save_kl_vae, save_network
from .server import ROOT, run_inside

INSIDE = Path(__file__).parent / "inside"
DEMO = ROOT / "pipelines" / "demo"
FRAMES, SIZE = 8, (8, 6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    networks, patches, loras, encoders = (
        folder / name for name in ("diffusion_models", "model_patches", "loras", "text_encoders")
    )
    for place in (networks, patches, loras, encoders, folder / "output" / "diffusion_models"):
        place.mkdir(parents=True)
    full = load_unet(save_network(networks, "full", FULL, SHIFTED))
    save_network(networks, "other", FULL, SHIFTED, seed=1)
    save_unet(full, networks / "half.safetensors", schedule=SHIFTED.to_dict(), dtype=torch.float16)
    save_patch(full, patches / "patch.safetensors", ["paca", "image_adapter"])
    plain = VideoUNet(replace(FULL, paca=False, image_adapter="off", image_projector=None))
    plain.load_state_dict({k: v for k, v in full.state_dict().items() if k in plain.state_dict()})
    save_unet(plain, networks / "plain.safetensors", schedule=SHIFTED.to_dict())
    shutil.copy(ROOT / "tests/fixtures/lvdm_dynamicrafter_512_tiny.safetensors", networks / "dynamicrafter.safetensors")
    crafter = load_unet(networks / "dynamicrafter.safetensors", overrides={"signal_scale": 0.7}).config

    save_file(load_unet(save_network(folder, "sd1", SD1, PLAIN, seed=1)).state_dict(), networks / "sd1.safetensors")
    moving = load_unet(save_network(networks, "sd1_video", replace(SD1, **TEMPORAL), PLAIN))
    save_patch(moving, patches / "sd1_motion.safetensors", ["temporal"])
    for name, config in (("full", FULL), ("dynamicrafter", crafter), ("sd1", SD1)):
        save_file(inputs_for(config, FRAMES, SIZE), folder / f"{name}_inputs.safetensors")
    for name in ("text_encoder", "motion_encoder"):
        shutil.copytree(DEMO / name, encoders / name)
    shutil.copytree(DEMO / "text_encoder", networks / "bundle" / "text_encoder")
    save_network(networks / "bundle", "unet", replace(TEXT, context_dim=64), TINY)
    save_kl_vae(networks / "bundle" / "vae")
    index = {"unet": "unet.safetensors", "codec": "vae", "text": "text_encoder"}
    (networks / "bundle" / "bundle.json").write_text(json.dumps(index))

    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    # In the plain names, on one projection of every transformer, and on a convolution and a norm's neighbour.
    lora = {}
    for key, weight in full.state_dict().items():
        if key.endswith((".to_q.weight", ".to_v.weight", ".proj_in.weight", "in_layers.2.weight")):
            name = "diffusion_model." + key.removesuffix(".weight")
            lora[f"{name}.lora_A.weight"] = randn(2, *weight.shape[1:]) * weight[0].numel() ** -0.5
            lora[f"{name}.lora_B.weight"] = 0.3 * randn(len(weight), 2, *[1] * (weight.ndim - 2))
    save_file(lora, loras / "lora.safetensors")
    text = load_file(DEMO / "text_encoder" / "model.safetensors")
    key = next(k for k in text if k.endswith("layers.0.self_attn.q_proj.weight"))
    name, (outputs, inputs) = "lora_te_text_model_encoder_layers_0_self_attn_q_proj", text[key].shape
    lora = {f"{name}.lora_down.weight": randn(2, inputs) * 0.2, f"{name}.lora_up.weight": randn(outputs, 2)}
    save_file(lora, loras / "text_lora.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(host, files):
    """{mode: (facts, {name: what came out})}"""
    source, found = (INSIDE / "modes.py").read_text(), {}
    for mode in MODES:
        facts = run_inside(host, source, files, mode)
        found[mode] = facts, load_file(files / f"{mode}.safetensors")
        shutil.rmtree(files / "output" / "diffusion_models")
        (files / "output" / "diffusion_models").mkdir()
    return found


def test_every_node_was_used(made):
    for mode in MODES:
        assert made[mode][0]["unused"] == []


def test_the_modes_are_what_they_say(made):
    """What would be loaded dynamically on a card is; our codec is loaded as a whole, as it is tiny."""
    for mode, name in (("classic", "ModelPatcher"), ("lazy", "ModelPatcher"), ("dynamic", "PatcherOnACard")):
        patchers = dict(made[mode][0]["patchers"])
        assert patchers.pop("vae") == "ModelPatcher"
        assert set(patchers.values()) == {name}
        assert made[mode][0]["hooked encoder"] == "ModelPatcher"


@pytest.mark.parametrize("mode", ["lazy", "dynamic"])
def test_the_same_bits(made, mode):
    """In reduced precision the dynamic patcher leaves small weights as they are in the file: closer, not equal."""
    (_, expected), (_, found) = made["classic"], made[mode]
    assert found.keys() == expected.keys()
    reduced = {f"full {d}" for d in ("bf16", "fp16", "fp8_e4m3fn")} | {"text_encoder fp16", "motion_encoder fp16"}
    reduced |= {"full from a file in half precision"} if mode == "dynamic" else set()
    different = [k for k in expected if not torch.equal(found[k], expected[k])]
    if mode == "lazy":
        assert different == []
    assert set(different) <= reduced
    for name in different:
        most = 0.25 if "fp8" in name else 0.05
        assert (found[name] - expected[name]).std() < most * expected[name].std(), name


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_trivially_the_same(made, mode):
    _, found = made[mode]
    for a, b in (
        ("lora", "lora taken off"), ("lora as a hook", "lora taken off"), ("PACA", "the base after it"),
        ("PACA over a LoRA", "PACA"), ("motion on a model with a LoRA", "motion of sd1_motion"),
        ("motion, a LoRA as a hook", "motion of sd1_motion"), ("merged", "lora"),
        ("text, a LoRA as a hook", "text_encoder default"),
    ):  # fmt: skip
        assert not torch.equal(found[a], found[b]), (a, b)
    for name, tensor in found.items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_does_not_outlive_its_model(made, mode):
    assert all(made[mode][0]["schedules"])


def test_weights_stay_in_their_file(made):
    """Loaded dynamically, all of a network's bytes are the host's view of the file: not read twice, nor held twice."""
    told = made["dynamic"][0]
    for name in ("from the file", "public, from the file", "patched, from the file"):
        assert told[name] > 0.99, name


@pytest.mark.parametrize("mode", MODES)
def test_a_vision_encoder_of_an_odd_size_is_refused(made, mode):
    assert "is no vision encoder of a size ComfyUI knows" in made[mode][0]["standard vision"]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_saved_keeps_the_type_it_was_loaded_in(made, mode):
    assert set(made[mode][0]["saved kinds"]) == {"torch.bfloat16"}
