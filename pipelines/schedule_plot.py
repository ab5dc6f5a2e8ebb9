"""The paper's Fig. 5 for any clip: log SNR over the timestep, as a picture and as a table."""

import os
from pathlib import Path

import torch

from ..files import whole
from ..schedulers import NoiseSchedule, ScheduleConfig, log_snr_curves


def draw(path: str | os.PathLike, frames: int, height: int, width: int, config: ScheduleConfig | None = None) -> Path:
    """Draw log SNR over t, as PNG or what the suffix says: original, shifted, shifted + rescaled (FD Fig. 5).

    ``height`` and ``width`` in pixels; ``config`` defaults to the recommended schedule. The file appears
    whole or not at all. Needs matplotlib.
    """
    from matplotlib.figure import Figure

    config = config or ScheduleConfig()
    path = Path(path)
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    curves = log_snr_curves(config, frames, height, width)
    for (label, values), style in zip(curves.items(), ("-", "--", "-", ":"), strict=False):
        axes.plot(torch.arange(1, len(values) + 1).numpy(), values.numpy(), style, label=label, linewidth=1.8)
    axes.set(title=f"{frames} frames of {width}×{height} pixels", xlabel="timestep t", ylabel="log SNR (natural)")
    if config.rescale != "none":
        # log 0 cannot be drawn: the curve ends one step before its last.
        axes.annotate("−∞ at the last step →", (0.9, 0.04), xycoords="axes fraction", ha="right", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png")
    return path


def table(schedule: NoiseSchedule, rows: int = 11) -> str:
    """Evenly spaced timesteps of a schedule (0-based) as text: t, √ᾱ, √(1−ᾱ), s, log SNR (natural)."""
    ac, log = schedule.alphas_cumprod, schedule.log_snr
    lines = [f"{'t':>5} {'signal':>9} {'noise':>9} {'scale':>7} {'log SNR':>9}"]
    for t in torch.linspace(0, len(ac) - 1, rows).round().long().tolist():
        signal, noise = float(ac[t]) ** 0.5, float(1 - ac[t]) ** 0.5
        lines.append(f"{t:5d} {signal:9.6f} {noise:9.6f} {float(schedule.signal_scale[t]):7.4f} {float(log[t]):9.3f}")
    return "\n".join(lines)
