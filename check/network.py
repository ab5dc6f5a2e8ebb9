"""Our networks on the device, without ComfyUI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._triton import has_triton
from torch.utils.flop_counter import FlopCounterMode

from ..model_patches import Conditions, UNetConfig, VideoUNet, load_unet, preset, save_unet
from ..model_patches.kernels import same_bits
from ..pipelines.sampling import Prompt, sample
from ..schedulers import SCHEDULES, ScheduleConfig
from .device import GIB, Here, left, peak, timed
from .report import NotHere, Wrong, close

DEMO = Path(__file__).parents[1] / "pipelines" / "demo" / "unet.safetensors"
# Relative to the CPU's clip in float32, rms, after 8 steps. fp16 has 11 bits of a number, bf16 8.
TOLERANCES = {torch.float32: 5e-4, torch.float16: 0.02, torch.bfloat16: 0.08}
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
PRESET, FRAMES, SIZE = "dynamicrafter-512", 16, (40, 64)  # the full-size network, and the clip it was made for
SMALL = {"model_channels": 32, "norm_groups": 8, "context_dim": 64, "motion_dim": 64}


def off(a: Tensor, b: Tensor) -> float:
    """rms of the difference, relative to b's."""
    a, b = a.float().cpu(), b.float().cpu()
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


# -- the demo against the CPU ---------------------------------------------------------------------------------------


def demo_prompt(config: UNetConfig, device=None, dtype=None) -> Prompt:
    """The same numbers everywhere: what the demo network is asked in every comparison."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return Prompt(
        text=randn(1, 16, config.context_dim),
        uncond_text=randn(1, 16, config.context_dim),
        motion=randn(1, 16, config.motion_dim),
        uncond_motion=randn(1, 16, config.motion_dim),
        first_frame=randn(1, config.in_channels, 8, 8),
        image_tokens=randn(1, 4, config.image_token_dim),
    )


def demo_noise(config: UNetConfig) -> Tensor:
    return torch.randn(8, config.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))


def demo_clip(device, dtype: torch.dtype) -> Tensor:
    """Latents (8, z, 8, 8): 8 DDIM steps of the demo network, guidance 1.5."""
    unet = load_unet(DEMO, dtype=dtype, device=device)
    schedule = ScheduleConfig.from_dict(unet.schedule).build(8, 64, 64)
    prompt, noise = demo_prompt(unet.config, device, dtype), demo_noise(unet.config).to(device, dtype)
    return sample(unet, schedule, prompt, noise, 8, steps=8, guidance_scale=1.5).float().cpu()


def demo(here: Here, dtype: torch.dtype) -> dict:
    """The demo network's clip, against the CPU's in float32."""
    if "demo" not in here.kept:
        here.kept["demo"] = demo_clip("cpu", torch.float32)
    with exact(dtype):
        found = off(demo_clip(here.device, dtype), here.kept["demo"])
    return close(f"the clip in {NAMES[dtype]}", found, TOLERANCES[dtype], {"rms": found, "at most": TOLERANCES[dtype]})


def exact(dtype: torch.dtype):
    """float32 is compared without TF32, which is a setting of its own."""
    return same_bits(tf32=dtype != torch.float32)


# -- a full-size network --------------------------------------------------------------------------------------------


def full_config(here: Here) -> UNetConfig:
    config = preset(PRESET)
    if not here.small:
        return config
    assert config.image_projector is not None  # the preset's has one
    projector = replace(config.image_projector, embedding_dim=64, output_dim=64, dim=32, depth=1, heads=2, head_dim=16)
    return replace(config, **SMALL, head_dim=32, image_token_dim=64, image_projector=projector)


def full_network(here: Here) -> VideoUNet:
    """Random weights in half precision; no branch is left at zero, where a wrong one would not show."""
    if "full" not in here.kept:
        torch.manual_seed(0)
        unet = VideoUNet(full_config(here), dtype=here.half, device=here.device).eval().requires_grad_(False)
        for weight in unet.parameters():
            if not weight.any():
                weight.normal_(std=0.02)
        here.kept["full"] = unet
    return here.kept["full"]


def full_inputs(here: Here, clips: int = 2) -> tuple[tuple[Tensor, Tensor, Conditions], int]:
    """Latents, timesteps and conditions, and how many frames a clip has."""
    config, generator = full_config(here), torch.Generator().manual_seed(0)
    frames, size = (FRAMES, SIZE) if not here.small else (4, (8, 8))

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(here.device, here.half)

    projector = config.image_projector
    assert projector is not None  # the preset's has one
    tokens = projector.queries * (projector.frames or 1)
    given = (randn(clips * frames, config.in_channels, *size), torch.full((clips,), 500, device=here.device))
    conditions = Conditions(
        text=randn(clips, 77, config.context_dim),
        first_frame=randn(clips, config.in_channels, *size),
        image_tokens=randn(clips, tokens, config.image_token_dim),
        frame_rate=8.0,
    )
    return (*given, conditions), frames


def save_full(here: Here) -> Path:
    """The full-size network as a file, for ComfyUI to load."""
    path = here.folder / "full.safetensors"
    if not path.exists():
        schedule = replace(SCHEDULES[PRESET], trained_shape=(FRAMES, 320, 512)).to_dict()
        save_unet(full_network(here), path, schedule=schedule)
    return path


@torch.no_grad()
def speed(here: Here) -> dict:
    """A step with guidance: two clips in a batch. Against the card's own matrix product."""
    unet, (given, frames) = full_network(here), full_inputs(here)

    def step() -> Tensor:
        return unet(*given, num_frames=frames)

    with FlopCounterMode(display=False) as counted:
        answer = step()
    if not torch.isfinite(answer).all():
        raise Wrong("the full-size network answers with what are no numbers (NaN)")
    seconds = timed(here, step)
    with same_bits():
        same = timed(here, step)
    rate = counted.get_total_flops() / seconds / 1e12
    facts: dict[str, object] = {"ms a step": 1e3 * seconds, "with the same bits always": 1e3 * same, "TFLOP/s": rate}
    if here.ceiling and here.is_card:
        facts["of the ceiling"] = f"{100 * rate / here.ceiling:.0f} %"
    facts["weights GiB"] = sum(w.nbytes for w in unet.parameters()) / GIB
    if here.is_card:
        facts["activations GiB"] = peak(here, step)
    return facts


@torch.no_grad()
def same_seed(here: Here) -> dict:
    """The same step three times: as it is, after other work on the card, and with little memory left."""
    unet, (given, frames) = full_network(here), full_inputs(here)

    def step() -> Tensor:
        with same_bits():
            return unet(*given, num_frames=frames).cpu()

    first, facts = step(), {}
    others = [torch.randn(n, n, device=here.device) for n in (257, 1023, 511)]
    others = [a @ a for a in others]
    second = step()
    del others
    needed = 0.3 + 1.2 * peak(here, step) if here.is_card else 0.0
    with left(here, needed) as tight:
        third = step() if tight else second
    facts["little memory"] = bool(tight)
    for name, found in (("after other work", second), ("with little memory left", third)):
        if not torch.equal(first, found):
            where = first_difference(unet, lambda: unet(*given, num_frames=frames))
            raise Wrong(f"{name} the same step gives other bits ({off(found, first):.1g} rms); {where}", facts)
    return facts


def first_difference(unet: VideoUNet, step) -> str:
    """The first layer that does not give the same bits for the same input, of two passes."""
    seen: list[list[tuple[str, int]]] = []

    def listen(name: str):
        def heard(module, args, result):
            if isinstance(result, Tensor):
                bits = result.contiguous().view(torch.int16 if result.element_size() == 2 else torch.int32)
                seen[-1].append((f"{name} ({type(module).__name__})", int(bits.long().sum())))

        return heard

    hooks = [m.register_forward_hook(listen(n)) for n, m in unet.named_modules() if not list(m.children())]
    try:
        for _ in range(2):
            seen.append([])
            with same_bits():
                step()
    finally:
        for hook in hooks:
            hook.remove()
    return next((f"first in {a[0]}" for a, b in zip(*seen, strict=True) if a != b), "two passes in a row are equal")


@torch.no_grad()
def cuda_graph(here: Here) -> dict:
    """The whole forward pass in one CUDA graph: the same numbers, without the pauses between kernels."""
    unet, (given, frames) = full_network(here), full_inputs(here)

    def step() -> Tensor:
        with same_bits():
            return unet(*given, num_frames=frames)

    expected = step().cpu()
    if not here.is_card:
        raise NotHere("CUDA graphs need a card; the pass itself ran")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = step()
    seconds = timed(here, graph.replay)
    found = off(answer, expected)
    del graph
    return close("the graph's answer", found, 1e-3, {"rms": found, "ms a step": 1e3 * seconds})


@torch.no_grad()
def compiled(here: Here) -> dict:
    """torch.compile of the demo network as one graph (a full-size one takes minutes)."""
    unet = load_unet(DEMO, dtype=torch.float32, device=here.device)
    prompt, noise = demo_prompt(unet.config, here.device), demo_noise(unet.config).to(here.device)
    conditions = Conditions(
        prompt.text, motion_text=prompt.motion, first_frame=prompt.first_frame, image_tokens=prompt.image_tokens
    )
    given, frames = (noise, torch.full((1,), 500, device=here.device), conditions), 8
    if here.is_card and not has_triton():
        raise NotHere("torch.compile needs Triton, which is not installed or does not know this card")
    backend = "inductor" if here.is_card else "eager"
    faster = torch.compile(unet, fullgraph=True, backend=backend)
    with exact(torch.float32):
        expected = unet(*given, num_frames=frames)
        found = off(faster(*given, num_frames=frames), expected)
    facts = {"rms": found, "backend": backend}
    facts["times as fast"] = timed(here, lambda: unet(*given, num_frames=frames)) / timed(
        here, lambda: faster(*given, num_frames=frames)
    )
    return close("the compiled network's answer", found, 5e-3, facts)
