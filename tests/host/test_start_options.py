"""The demo under the options that ComfyUI can be started with: its clip, but for what a smaller type of number loses.

`--highvram`, `--gpu-only`, `--lowvram` and `--novram` exclude `--cpu`: they are for a card (COMFYUI_ON_CARD=1).
"""

import pytest

from .server import ON_CARD, run_inside, start
from .test_runs_on_server import demo, pictures

SCRIPT = """
import logging, torch
logging.getLogger().setLevel(logging.ERROR)
torch.set_num_threads(1)
import comfy.sample
import nodes as core
from a_pack.nodes.conditioning import ImageToVideo
from a_pack.nodes.bundles import LoadDemo
from a_pack.nodes.upscale import UpscaleVideo

with torch.inference_mode():
    model, text, motion, vision, vae, picture, upscaler = LoadDemo.execute("default", "red circle").result
    encode = core.CLIPTextEncode().encode
    texts = [encode(text, "a red circle")[0], encode(text, "")[0]]
    moves = [encode(motion, "the red circle moves quickly left")[0], encode(motion, "")[0]]
    positive, negative, latent = ImageToVideo.execute(
        *texts, vae, 64, 64, 8, picture, None, vision, *moves
    ).result
    samples = core.KSampler().sample(
        model, 7, 4, 1.5, "euler", "sgm_uniform", positive, negative, latent, denoise=1.0
    )[0]
    images = core.VAEDecode().decode(vae, samples)[0]
    larger = UpscaleVideo.execute(images, upscaler, 128, 128, 4).result[0]
weights = list(model.model.diffusion_model.parameters())
last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights if w.ndim == 4 and min(w.shape[1:3]) > 1]
print(json.dumps({
    "images": [round(x, 5) for x in images[::3, ::4, ::4].flatten().tolist()],
    "larger": [round(x, 5) for x in larger[::3, ::8, ::8].flatten().tolist()],
    "kinds": sorted({str(w.dtype) for w in weights}),
    "channels last": sum(last) / len(last),
}))
"""
# What is lost, rms in levels of 1; and what the network's weights are kept in.
OPTIONS = {
    "--force-fp16": (0.01, "float16"),
    "--bf16-unet --bf16-vae --bf16-text-enc --fast": (0.02, "bfloat16"),
    "--fp8_e4m3fn-unet --fp8_e4m3fn-text-enc --disable-dynamic-vram": (0.1, "float8_e4m3fn"),
    "--force-channels-last --use-split-cross-attention --disable-smart-memory --fp16-intermediates --deterministic": (
        1e-3,
        "float32",
    ),
}


@pytest.fixture(scope="module")
def plain(host):
    return run_inside(host, SCRIPT)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_demo_under_an_option(host, plain, options):
    most, kind = OPTIONS[options]
    found = run_inside(host, SCRIPT, options=options)
    for what in ("images", "larger"):
        pairs = list(zip(found[what], plain[what], strict=True))
        assert sum((a - b) ** 2 for a, b in pairs) < most**2 * len(pairs), what
    assert found["kinds"] == [f"torch.{kind}"]
    assert found["channels last"] == ("channels-last" in options)


@pytest.mark.skipif(not ON_CARD, reason="these options are for a card: COMFYUI_ON_CARD=1 runs them there")
@pytest.mark.parametrize("options", ["--highvram", "--gpu-only", "--lowvram", "--novram", "--reserve-vram 2"])
def test_the_demo_under_a_cards_option(host, plain, options):
    found = run_inside(host, SCRIPT, options=options)
    assert found["kinds"] == plain["kinds"]
    for what in ("images", "larger"):
        pairs = list(zip(found[what], plain[what], strict=True))
        assert sum((a - b) ** 2 for a, b in pairs) < 1e-3**2 * len(pairs), what


def test_without_a_cache_of_results(host, tmp_path):
    """Every node again in every run, and nothing of a run is left when it ends: the same clip."""
    with start(host, tmp_path / "base", "--cache-none") as server:
        first, second = (pictures(server, demo(seed=3), tmp_path / f"{n}.mp4") for n in (1, 2))
    assert first == second
