"""The network's choices against their alternatives, as ratios of processor time, side by side in one run.

    OMP_NUM_THREADS=1 python benchmarks/network.py [--out benchmarks/network.json]

One thread, `time.process_time`, variants taken in turn, the least of several rounds: on a busy machine only such
ratios repeat. Every pair is checked to give the same numbers before it is timed. Below 1 the first is quicker.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from dreamfactory.model_patches import Conditions, UNetConfig, VideoUNet
from dreamfactory.model_patches.network.attention import Factory, MultiHeadAttention, sdpa_attention
from dreamfactory.model_patches.network.swap_attention import SwapAttention, window_attention
from dreamfactory.model_patches.network.temporal import TemporalConv

Network = TypeVar("Network", bound=nn.Module)


def ratio(
    first: Callable[[], Tensor], second: Callable[[], Tensor], rounds: int = 5, same: float | None = 1e-3
) -> float:
    """Processor time of the first over the second's; their results must agree (same: None skips that)."""
    a, b = first(), second()
    if same is not None:
        difference = ((a - b).abs().max() / b.abs().max()).item()
        assert difference < same, f"the two differ by {difference}"
    best = [float("inf")] * 2
    for _ in range(rounds):
        for i, work in enumerate((first, second)):
            start = time.process_time()
            work()
            best[i] = min(best[i], time.process_time() - start)
    return round(best[0] / best[1], 3)


def fill(module: Network) -> Network:
    """Random weights everywhere, zero-initialised outputs included."""
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.02)
    return module.eval()


def temporal_conv() -> float:
    """(3,1) 2-D convolutions against the same weights as (3,1,1) 3-D convolutions, 320 channels, 16x32x32."""
    ours = fill(TemporalConv(Factory(), 320, 32, 0.0))
    theirs = [nn.Conv3d(320, 320, (3, 1, 1), padding=(1, 0, 0)) for _ in range(4)]
    layers = [ours.conv1, ours.conv2, ours.conv3, ours.conv4]
    for conv, layer in zip(theirs, layers, strict=True):
        weights = layer[-1].state_dict()
        conv.load_state_dict({"weight": weights["weight"][..., None], "bias": weights["bias"]})
    x = torch.randn(16, 320, 32, 32)

    def reference() -> Tensor:
        h = rearrange(x, "(b t) c h w -> b c t h w", t=16)
        for conv, layer in zip(theirs, layers, strict=True):
            h = conv(layer[1](layer[0](h)))
        return rearrange(h, "b c t h w -> (b t) c h w")

    return ratio(lambda: ours(x, 16), reference)


def text_folded() -> float:
    """77 text tokens once per clip against once per frame, 640 channels, 16 frames of 16x16."""
    attn = fill(MultiHeadAttention(Factory(), 640, 1024, 10))
    x, text = torch.randn(16, 256, 640), torch.randn(1, 77, 1024)
    return ratio(lambda: attn(x, text), lambda: attn(x, repeat(text, "1 n c -> t n c", t=16)))


def paca_folded() -> float:
    """First-frame keys and values once per clip against once per frame, 320 channels, 16 frames of 32x32."""
    attn = fill(MultiHeadAttention(Factory(), 320, 320, 5))
    x, y = torch.randn(16, 1024, 320), torch.randn(1, 1024, 320)
    return ratio(lambda: attn(x, y), lambda: attn(x, repeat(y, "1 n c -> t n c", t=16)), rounds=3)


def swap_window_against_global() -> float:
    """Attention of one Swap-CA site in 8x3x6 windows against one global window (fused), 320 channels, 16x32x32."""
    q, k, v = (torch.randn(1, 16, 32, 32, 320) for _ in range(3))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa_attention(q, k, v, 5)

    return ratio(
        lambda: window_attention(attend, q, k, v, (8, 3, 6), 0),
        lambda: window_attention(attend, q, k, v, (16, 32, 32), 0),
        rounds=2,
        same=None,
    )


def swap_shifted_against_plain() -> float:
    """A site whose windows are shifted in time against one whose are not: [4 | 8 | 4] costs fewer pairs."""
    plain, shifted = (fill(SwapAttention(Factory(), 320, 32, 64, (8, 3, 6), "spatial", s)) for s in (False, True))
    s, t = torch.randn(16, 320, 32, 32), torch.randn(16, 320, 32, 32)
    return ratio(lambda: shifted(s, t, 16), lambda: plain(s, t, 16), rounds=3, same=None)


def swap_share_of_network() -> float:
    """The half-width VideoFactory network with Swap-CA over the same without, 16x16x16 (the paper: 1.095)."""
    base = UNetConfig(model_channels=160, head_dim=32, swap_head_dim=32, temporal_conv=True, temporal_attention=True)
    fields = base.to_dict() | {"fusion": "conv", "temporal_skips": True}
    without = fill(VideoUNet(UNetConfig.from_dict(fields)))
    with_swap = fill(VideoUNet(UNetConfig.from_dict(fields | {"swap_attention": "swapped"})))
    inputs = torch.randn(16, 4, 16, 16), torch.tensor([500]), Conditions(torch.randn(1, 77, 1024))
    return ratio(
        lambda: with_swap(*inputs, num_frames=16), lambda: without(*inputs, num_frames=16), rounds=3, same=None
    )


def network_against_diffusers() -> float:
    """ModelScope's network at half width against diffusers' UNet3DConditionModel with the same weights, 8x16x16."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    from dreamfactory.model_patches.checkpoints.converters.modelscope import convert_diffusers
    from dreamfactory.model_patches.checkpoints.files import Header
    from dreamfactory.model_patches.checkpoints.save import build

    peer = fill(UNet3DConditionModel(block_out_channels=(160, 320, 640, 640), attention_head_dim=32))
    state = {k: v.detach() for k, v in peer.state_dict().items()}
    header = Header({}, {k: tuple(v.shape) for k, v in state.items()}, {})
    config, weights, _, _ = convert_diffusers(state, header, {})
    ours = build(config, weights).eval()
    x, t, text = torch.randn(1, 4, 8, 16, 16), torch.tensor([500]), torch.randn(1, 77, 1024)

    def us() -> Tensor:
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        return rearrange(ours(frames, t, Conditions(text), num_frames=8), "(b t) c h w -> b c t h w", t=8)

    return ratio(us, lambda: peer(x, t, text).sample, rounds=4)


CASES = (
    network_against_diffusers,
    temporal_conv,
    text_folded,
    paca_folded,
    swap_window_against_global,
    swap_shifted_against_plain,
    swap_share_of_network,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/network.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/network.py",
        "machine": f"{platform.machine()} CPU, 1 thread, float32, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "ratios": {},
    }
    with torch.no_grad():
        for case in CASES:
            result["ratios"][case.__name__] = {"ratio": case(), "what": case.__doc__}
            print(case.__name__, result["ratios"][case.__name__]["ratio"], flush=True)
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
