"""AnimateDiff's and IP-Adapter's own files, unconverted, on a checkpoint of the host's: the clip is the headless one.

The checkpoint is Stable Diffusion 1.5 with 32 channels where it has 320.
"""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import UNetConfig, apply_patch, load_unet, preset
from dreamfactory.model_patches.checkpoints.export import export_motion
from dreamfactory.pipelines.encoders import ImageEncoder
from dreamfactory.pipelines.sampling import Prompt, sample
from dreamfactory.schedulers import SCHEDULES, ScheduleConfig, spacing

from ..model_patches.checkpoints.converters.test_ip_adapter import adapters, base_projector, plus_projector
from ..there import there
from .inside.networks import PLAIN, random_network, save_network
from .server import ROOT, run_inside

INSIDE = Path(__file__).parent / "inside"
VISION = ROOT / "pipelines" / "demo" / "image_encoder"  # pooled and patch features are 64 wide
FRAMES, SIZE, STEPS, CFG, STRENGTH, CONTEXT = 4, (16, 16), 4, 2.5, 0.8, 24
SHAPE = {"model_channels": 32, "context_dim": CONTEXT}
IMAGE = UNetConfig.from_dict({**preset("sd15").to_dict(), **SHAPE})
MOVING = UNetConfig.from_dict({**preset("animatediff").to_dict(), **SHAPE})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, AnimateDiff in its own names, IP-Adapter base and plus."""
    folder = tmp_path_factory.mktemp("additions")
    torch.manual_seed(0)
    ours = save_network(folder, "ours", IMAGE, PLAIN)
    save_file(load_unet(ours).state_dict(), folder / "image.safetensors")
    export_motion(random_network(MOVING, seed=1), folder / "animatediff.safetensors")
    modules = {f"module.{k}": w for k, w in load_file(folder / "animatediff.safetensors").items()}
    torch.save({"epoch": 1, "state_dict": modules}, folder / "mm.ckpt")  # as it is published
    with torch.device("meta"):
        peer = UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128), cross_attention_dim=768, attention_head_dim=8
        )
    for kind, projector in (("base", base_projector(768, 64)), ("plus", plus_projector(768, embedding=64))):
        weights = adapters(peer, 768) | projector
        save_file(weights, folder / f"ip_{kind}.safetensors")
        parts = {name.partition(".")[0] for name in weights}
        nested = {p: {k.removeprefix(f"{p}."): w for k, w in weights.items() if k.startswith(f"{p}.")} for p in parts}
        torch.save(nested, folder / f"ip_{kind}.bin")
    return folder


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "noise": torch.randn(FRAMES, 4, *SIZE, generator=generator),
        "text": torch.randn(1, 7, CONTEXT, generator=generator),
        "uncond_text": torch.randn(1, 7, CONTEXT, generator=generator),
        # As files have pictures, and of the encoder's size: nothing is rounded or resampled on the way.
        "picture": torch.randint(0, 256, (1, 3, 64, 64), generator=generator) / 255,
        "timesteps": spacing(STEPS),
        "cfg": torch.tensor(CFG),
    }


@pytest.fixture(scope="module")
def told(host, files, inputs, tmp_path_factory):
    """(facts, latents and tokens) from inside the host."""
    folder = tmp_path_factory.mktemp("results")
    save_file(inputs, folder / "inputs.safetensors")
    paths = (files, folder / "inputs.safetensors", folder / "results.safetensors")
    facts = run_inside(host, (INSIDE / "additions.py").read_text(), *paths)
    return facts, load_file(folder / "results.safetensors")


@torch.no_grad()
def headless(files, inputs, adapter: str | None = None, uncond: str | None = None):
    """The clip, and the image tokens of both sides. uncond: another choice than the network's for no picture."""
    unet = apply_patch(load_unet(files / "ours.safetensors"), files / "animatediff.safetensors")
    prompt = Prompt(inputs["text"], inputs["uncond_text"], strengths={"image_adapter": STRENGTH})
    if adapter is not None:
        unet = apply_patch(unet, files / f"ip_{adapter}.safetensors")
        encoder = ImageEncoder.load(VISION, features=there(unet.config.image_projector).reads)
        features = encoder(inputs["picture"])
        prompt.image_tokens = unet.project_image(features)
        uncond = uncond or unet.config.uncond_image
        if uncond != "same":
            prompt.uncond_image_tokens = unet.project_image(encoder.blank(uncond, features))
    schedule = ScheduleConfig.from_dict(unet.schedule)
    assert schedule == SCHEDULES["animatediff"]
    built = schedule.build(FRAMES, 8 * SIZE[0], 8 * SIZE[1])
    latents = sample(unet, built, prompt, inputs["noise"], FRAMES, steps=STEPS, guidance_scale=CFG)
    return latents, prompt


def difference(a, b) -> float:
    """Relative to the largest number of the second."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


def test_animatediff_on_a_checkpoint_is_the_headless_clip(files, inputs, told):
    ours, _ = headless(files, inputs)
    assert difference(told[1]["animatediff"], ours) < 1e-4


def test_a_context_window_of_animatediff_is_a_clip_of_its_own(told):
    """Its frames are counted from 0, as AnimateDiff's tables of positions end at 24 or 32."""
    assert difference(told[1]["second window"], told[1]["animatediff"]) < 1e-5


def test_ip_adapter_on_it_is_the_headless_clip(files, inputs, told):
    """The picture through CLIP vision on one side of guidance, the projection of zeros on the other."""
    facts, results = told
    ours, prompt = headless(files, inputs, "base")
    assert facts["patches"] == {"base": "zeros", "plus": "zeros"}
    assert difference(results["base tokens"], there(prompt.image_tokens)[0]) < 1e-5
    assert difference(results["base uncond tokens"], there(prompt.uncond_image_tokens)[0]) < 1e-5
    assert difference(results["base"], ours) < 1e-4
    assert difference(results["base"], results["animatediff"]) > 0.01
    assert difference(results["base"], headless(files, inputs, "base", "same")[0]) > 0.01


def test_ip_adapter_plus_reads_the_layer_before_the_last(files, inputs, told):
    """What stands for no picture: pixels that are zero once they are normalised, as no picture of 8 bits is."""
    _, results = told
    ours, prompt = headless(files, inputs, "plus")
    assert difference(results["plus tokens"], there(prompt.image_tokens)[0]) < 1e-5
    assert difference(results["plus uncond tokens"], there(prompt.uncond_image_tokens)[0]) < 1e-5
    assert difference(results["plus"], ours) < 1e-4
    for other in ("same", "grey"):
        assert difference(results["plus"], headless(files, inputs, "plus", other)[0]) > 0.01


def test_the_nodes_offer_such_files(told):
    facts, _ = told
    assert {"animatediff.safetensors", "mm.ckpt", "ip_base.safetensors"} <= set(facts["motion_name"])
    assert {"ip_base.safetensors", "ip_plus.safetensors", "ip_plus.bin"} <= set(facts["patch"])
    assert facts["kept"] == ["first_frame", "frames", "grey_image", "image", "zero_image"]
