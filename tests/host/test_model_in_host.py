"""Our networks as MODELs of the host: dtypes, offload, LoRA, ControlNet, patch files, motion on its own models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamfactory.model_patches import VideoUNet, load_unet, save_patch, save_unet

from .inside.networks import FULL, PLAIN, SD1, SD2, SHIFTED, TEMPORAL, VIDEO, inputs_for, save_network
from .server import run_inside

INSIDE = Path(__file__).parent / "inside"
FRAMES, SIZE = 8, (8, 6)


@pytest.fixture(scope="module")
def facts(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")

    def path(name):
        return folder / f"{name}.safetensors"

    for name, config in (("full", FULL), ("video", VIDEO), ("sd1", SD1), ("sd2", SD2)):
        save_file(inputs_for(config, FRAMES, SIZE), path(f"{name}_inputs"))

    full = load_unet(save_network(folder, "full", FULL, SHIFTED))
    save_patch(full, path("patch"), ["paca", "image_adapter"])
    plain = VideoUNet(replace(FULL, paca=False, image_adapter="off", image_projector=None))
    plain.load_state_dict({k: v for k, v in full.state_dict().items() if k in plain.state_dict()})
    save_unet(plain, path("plain"), schedule=SHIFTED.to_dict())
    save_network(folder, "video", VIDEO, PLAIN)

    for name, config in (("sd1", SD1), ("sd2", SD2)):
        moving = replace(config, **TEMPORAL)
        save_file(load_unet(save_network(folder, name, config, PLAIN, seed=1)).state_dict(), path(name))
        save_patch(
            load_unet(save_network(folder, f"{name}_video", moving, PLAIN)), path(f"{name}_motion"), ["temporal"]
        )
        torch.manual_seed(0)
        save_patch(VideoUNet(moving), path(f"{name}_still"), ["temporal"])
    torch.manual_seed(0)
    save_patch(VideoUNet(replace(SD1, **TEMPORAL, num_heads=4)), path("sd1_4_heads_still"), ["temporal"])
    save_patch(VideoUNet(replace(SD1, paca=True)), path("sd1_paca"), ["paca"])
    return run_inside(host, (INSIDE / "model.py").read_text(), folder)


# -- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "most"), [("bfloat16", 0.02), ("float16", 0.005), ("float8_e4m3fn", 0.2), ("float8_e5m2", 0.4)]
)
def test_weights_are_kept_as_asked(facts, dtype, most):
    """Every weight, gates and norms included; the answer is off by what the dtype loses (rms, random weights)."""
    kept = facts["dtypes"][dtype]
    assert kept["kinds"] == [f"torch.{dtype}"]
    assert kept["told"] == f"torch.{dtype}"
    assert kept["computed"] == "torch.float32"  # on a CPU
    assert kept["bytes"] == pytest.approx(0.25 if "float8" in dtype else 0.5, abs=0.01)
    assert kept["error"] < most


@pytest.mark.parametrize("loaded", ["plain", "lora", "bare"])
def test_offloaded_weights_give_the_same_bits(facts, loaded):
    """All weights on the device, a half, none, then the rest after all; with a LoRA on them, and with gates changed."""
    offload = facts["offload"][loaded]
    whole, half, none = offload["cast"]
    assert whole == 0 < half < none == 1
    *differences, taken_off = offload["differences"]
    assert differences == [0, 0, 0, 0]
    assert (taken_off > 0) == (loaded != "plain")


@pytest.mark.parametrize("style", ["kohya", "diffusers", "temporal, kohya", "ours"])
def test_a_lora_is_its_change_of_the_weights(facts, style):
    """W + strength * alpha / rank * B A, and nothing remains when it is taken off."""
    lora = facts["loras"][style]
    assert lora["patched"] == lora["wanted"]
    assert lora["effect"] > 0.01
    assert lora["error"] < 1e-5
    assert lora["undone"] == 0


def test_control_residuals_reach_the_network(facts):
    assert facts["control"]["effect"] > 0.01
    assert facts["control"]["error"] < 1e-5


# -- patch files ----------------------------------------------------------------------------------------------------


def test_a_patch_on_its_base_is_the_whole_network(facts):
    assert facts["patches"]["effect"] > 0.01
    assert facts["patches"]["plain"] < 1e-6
    assert facts["patches"]["kinds"] == ["torch.bfloat16"]  # the base's dtype


def test_a_patch_keeps_what_was_done_to_its_base(facts):
    """LoRA, strengths and wrappers; also when the host makes it once more."""
    assert facts["patches"]["with all that was on the base"] < 1e-6
    assert facts["patches"]["calls heard"] == 2
    assert facts["patches"]["made again"] < 1e-6


# -- motion on the host's own models --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd1_4_heads"])
def test_motion_that_says_nothing_leaves_the_image_model(facts, family):
    """A zero-initialised temporal half: every frame is the host's own model's answer, heads as the host has them."""
    motion = facts["motion"][family]
    assert motion["still"] < 1e-5
    assert motion["sigmas"] < 1e-6
    assert motion["type"] == "VideoModel"
    assert motion["latents"] == "SD15"


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_motion_is_the_merge_of_both_files(facts, family):
    """The image model's weights with its LoRA, and the temporal weights, put together by hand."""
    motion = facts["motion"][family]
    assert motion["effect"] > 0.01
    assert motion["motion"] < 1e-5
    assert motion["of a whole network"] < 1e-5
    assert motion["image model as before"] == 0


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("sdxl", "model: this is an SDXL UNet; give a Stable Diffusion 1.5 or 2.1 checkpoint."),
        ("video", "model: this MODEL has motion already; give a Stable Diffusion image model."),
        ("other heads", "motion_name: sd1_motion.safetensors was trained with the attention heads of another"),
        ("no motion", "motion_name: sd1_paca.safetensors is a patch without a temporal half (paca)"),
        (
            "other",
            "motion_name: sd1_motion.safetensors was made for a network with model_channels = 32, this one has 64",
        ),
    ],
)
def test_motion_refuses_what_does_not_fit(facts, case, sentence):
    assert sentence in facts["motion"]["refused"][case]


def test_networks_made_from_a_base_share_no_weights_with_it_and_are_made_once(facts):
    """The host moves a model's weights in place. A strength changed in a node makes no network anew."""
    for kind in ("patches", "motion"):
        assert facts[kind]["shared with the base"] == 0
        assert facts[kind]["shared by a second MODEL"] is True
        assert facts[kind]["shared with a fresh one"] == 0


# -- what a user may forget -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("no text", "positive: the conditioning has no text; encode a prompt"),
        ("text", "positive: the prompt's tokens are 768 wide, this video model reads 24"),
        ("no motion", "positive: this video model reads motion text and the conditioning has none"),
        ("motion", "negative: the motion text's tokens are 4096 wide, this video model reads 20"),
        ("no picture", "positive: this video model animates a first frame and the conditioning has none"),
        ("picture", "first_frame: its latent is 8x8, the clip's is 6x8; make both with one Image to Video"),
        ("channels", "first_frame: its latent has 3 channels, the clip's 4; use the VAE"),
        ("pictures", "first_frame: it holds 3 pictures for"),
        ("prompts", "positive: it holds 3 prompts for"),
        ("last picture", "last_frame: this video model has no place for it"),
        ("no vision", "positive: this video model looks at the first frame through CLIP vision"),
        ("vision", "clip_vision: its features are 1280 wide, this video model reads 40"),
    ],
)
def test_a_missing_or_misfitting_condition_is_named(facts, case, sentence):
    assert facts["refusals"]["nothing"] is None
    assert facts["refusals"][case].startswith(sentence)
