"""Runs inside ComfyUI's interpreter: the nodes in one of its memory modes. Started by host.py.

argv: ComfyUI's folder, this pack's, the mode, the device, whether in small, the full-size network's file, the CPU's
demo clip, and the file that lines are written to.
"""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import sys
from pathlib import Path

HOST, PACK, MODE, DEVICE, SMALL, NETWORK, CLIP, OUT = sys.argv[1:9]
SMALL = SMALL == "1"
sys.path.insert(0, HOST)
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
own, sys.argv[1:] = sys.argv[1:], ["--cpu"] if DEVICE == "cpu" else []
if MODE == "classic" and DEVICE != "cpu":
    sys.argv[1:] = ["--disable-dynamic-vram"]
import comfy.cli_args  # noqa: E402

sys.argv[1:] = own
if DEVICE != "cpu":
    import cuda_malloc  # noqa: F401 (chooses the allocator, before torch is imported)
if MODE == "dynamic":
    import comfy_aimdo.control  # before its parts are imported, as ComfyUI's main.py does

    try:
        comfy_aimdo.control.init(simple_vram_headroom=None, nvml_pressure=True)
    except TypeError:  # an older one
        comfy_aimdo.control.init()

import comfy.ldm.modules.attention  # noqa: E402
import comfy.memory_management  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfyui_version  # noqa: E402
import torch  # noqa: E402

spec = importlib.util.spec_from_file_location("a_pack", f"{PACK}/__init__.py", submodule_search_locations=[PACK])
assert spec is not None  # a .py file has both
assert spec.loader is not None
sys.modules["a_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["a_pack"])
from a_pack.check.device import GIB, LEFT, Here, left  # noqa: E402
from a_pack.check.network import DEMO, NAMES, TOLERANCES, demo_noise, demo_prompt, off  # noqa: E402
from a_pack.check.report import NotHere, Wrong, close, run  # noqa: E402
from a_pack.nodes.bridge.loading import load_video_model  # noqa: E402
from a_pack.nodes.bridge.model import PREFIX  # noqa: E402

HERE = Here(torch.device("cpu" if DEVICE == "cpu" else management.get_torch_device()), Path(OUT).parent, SMALL)
FRAMES, SIZE, STEPS = (4, (8, 8), 2) if SMALL else (16, (40, 64), 4)


def start() -> dict:
    """The memory mode, turned on where ComfyUI's main.py would."""
    facts = {"version": comfyui_version.__version__, "mode": management.vram_state.name}
    if MODE == "dynamic":
        if not HERE.is_card:
            raise NotHere("ComfyUI loads dynamically only on a card")
        old = management.torch_version_numeric < (2, 8) or (management.is_amd() and management.rocm_version < (7, 14))
        if old or not (management.is_nvidia() or management.is_amd()):
            raise NotHere("ComfyUI loads in the classic mode on this card, or with this torch")
        if not comfy_aimdo.control.init_devices((d.index, 0) for d in management.get_all_torch_devices()):
            raise NotHere("comfy-aimdo does not start on this card, so ComfyUI would load in the classic mode")
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    facts["attention"] = comfy.ldm.modules.attention.optimized_attention.__name__
    facts["patcher"] = comfy.model_patcher.CoreModelPatcher.__name__
    return facts


def sampled(model, noise, positive, negative, steps, cfg):
    HERE.wait()
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "sgm_uniform", positive, negative, torch.zeros_like(noise), seed=0,
        disable_pbar=True,
    ).float().cpu()  # fmt: skip


def demo(dtype) -> dict:
    """The demo through its loader and core's sampler, against the headless clip of the CPU."""
    expected = torch.load(CLIP, weights_only=True)
    if expected is None:
        raise NotHere("there is no clip of the CPU to compare with")
    model = load_video_model(str(DEMO), dtype)
    config = model.model.video_config
    prompt, noise = demo_prompt(config), demo_noise(config)
    features = {"image_embeds": torch.zeros(1, config.image_projector.embedding_dim)}
    first = model.model.process_latent_out(prompt.first_frame)
    positive, negative = [
        [[text, {f"{PREFIX}motion_text": motion, f"{PREFIX}first_frame": first, f"{PREFIX}image": features}]]
        for text, motion in ((prompt.text, prompt.motion), (prompt.uncond_text, prompt.uncond_motion))
    ]
    # The adapter's tokens are made of vision features: here they are the ones of the comparison.
    model.model.diffusion_model.project_image = lambda seen: prompt.image_tokens.to(seen)
    found = off(model.model.process_latent_in(sampled(model, noise, positive, negative, 8, 1.5)), expected)
    # The host's trailing timesteps are those of headless generation but for one here and there.
    most = TOLERANCES[dtype] + 0.02
    return close(f"the clip in {NAMES[dtype]}", found, most, {"rms": found, "at most": most})


def conditions(config):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    width = config.image_projector.embedding_dim
    seen = {"last_hidden_state": randn(1, 257, width), "penultimate_hidden_states": randn(1, 257, width)}
    shared = {f"{PREFIX}first_frame": randn(1, config.in_channels, *SIZE), f"{PREFIX}frame_rate": 8.0}
    shared |= {f"{PREFIX}image": seen, f"{PREFIX}grey_image": seen, f"{PREFIX}zero_image": seen}
    noise = randn(FRAMES, config.in_channels, *SIZE)
    return noise, [[[randn(1, 77, config.context_dim), shared]] for _ in range(2)]


def clip(model):
    noise, (positive, negative) = conditions(model.model.video_config)
    return sampled(model, noise, positive, negative, STEPS, 7.0)


def forget() -> None:
    management.unload_all_models()
    management.soft_empty_cache()


def full() -> dict:
    """A full-size network of random weights through the loader: its peak beside the host's estimate."""
    model = load_video_model(NETWORK)
    facts = {"weights GiB": model.model_size() / GIB, "dtype": str(model.model.get_dtype()).removeprefix("torch.")}
    HERE.kept["clip"] = clip(model)
    if not torch.isfinite(HERE.kept["clip"]).all():
        raise Wrong("the clip holds what are no numbers (NaN)", facts)
    estimate = model.model.memory_required([2 * FRAMES, model.model.video_config.in_channels, *SIZE]) / GIB
    facts["estimate of activations GiB"] = estimate
    if not HERE.is_card:
        return facts
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    clip(model)
    used = (torch.cuda.max_memory_allocated() - before) / GIB
    facts |= {"activations GiB": used, "peak GiB": torch.cuda.max_memory_allocated() / GIB}
    if used > 1.1 * estimate:
        raise Wrong(f"activations take {used:.2f} GiB, ComfyUI is told {estimate:.2f}", facts)
    return facts


def again() -> dict:
    """One seed, one clip: in the same process, after another model, and loaded anew."""
    expected, different = HERE.kept.get("clip"), {}
    if expected is None:
        raise NotHere("there is no first clip")
    model = load_video_model(NETWORK)
    tries = {"in a row": lambda: None, "after another model": lambda: demo_quietly(), "loaded anew": forget}
    for name, before in tries.items():
        before()
        found = clip(model)
        if not torch.equal(found, expected):
            different[name] = off(found, expected)
    if different:
        raise Wrong("the same seed gives other bits " + ", ".join(f"{k} ({v:.1g} rms)" for k, v in different.items()))
    return {"clips": 1 + len(tries)}


def demo_quietly() -> None:
    with contextlib.suppress(Wrong, NotHere):  # that has a line of its own
        demo(torch.float32)


def tight() -> dict:
    """The same clip with little memory left."""
    expected = HERE.kept.get("clip")
    if expected is None:
        raise NotHere("there is no first clip")
    forget()
    with left(HERE, LEFT) as taken:
        model = load_video_model(NETWORK)
        found = clip(model)
        facts = {"GiB left": LEFT if taken else "all", "loaded GiB": model.loaded_size() / GIB}
    facts["same bits"] = torch.equal(found, expected)
    difference = off(found, expected)
    return close("the clip with little memory", difference, 0.02, {"rms": difference, **facts})


with torch.inference_mode(), open(OUT, "a", encoding="utf-8") as out:

    def line(name, check):
        found = run(f"ComfyUI, {MODE}: {name}", check, say=lambda text: print(text, file=sys.stderr))
        out.write(json.dumps(dataclasses.asdict(found)) + "\n")
        out.flush()
        return found

    if line("start", start).verdict == "right":
        for kind in (torch.float32, torch.float16, torch.bfloat16):
            line(f"demo in {NAMES[kind]}", lambda kind=kind: demo(kind))
        line("a full-size network", full)
        line("one seed, one clip", again)
        line(f"{LEFT} GiB left", tight)
