"""What a finished run looks like: one page with its stages, its curves and its last clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import whole
from .logs import METRICS, read


def write_summary(trainer) -> Path:
    """`summary.md` and `curves.png` in the run's folder; returns the page."""
    folder: Path = trainer.folder
    lines = read(folder / METRICS)
    pictures = sorted((folder / "validation").glob("step-*.png"))
    ends = [trainer.config.first_step(i) for i in range(1, len(trainer.config.stages))]
    curves = _curves(lines, ends, trainer.task.headline, folder / "curves.png")
    page = [
        f"# {folder.name}",
        "",
        "| stage | clips | steps | loss | validation loss | measures |",
        "|---|---|---|---|---|---|",
    ]
    config, last = trainer.config, 0
    for i, stage in enumerate(config.stages):
        last = config.first_step(i) + stage.optim.steps
        training = [x for x in lines if trainer.task.headline in x and x["step"] <= last]
        checked = [x for x in lines if "validation_loss" in x and x["step"] <= last]
        data = stage.data
        loss = f"{training[-1][trainer.task.headline]:.4f}" if training else ""
        held = f"{checked[-1]['validation_loss']['loss']:.4f}" if checked and checked[-1]["validation_loss"] else ""
        scores = ", ".join(f"{k} {v:.3f}" for k, v in checked[-1]["validation"].items()) if checked else ""
        size = f"{data.frames}x{data.height}x{data.width}"
        page.append(f"| {stage.name} | {size} | {stage.optim.steps:,} | {loss} | {held} | {scores} |")
    if curves is not None:
        page += ["", f"![Loss and validation loss by step]({curves.name})"]
    if pictures:
        page += ["", f"![Clips kept out of training, at the end](validation/{pictures[-1].name})"]
    path = folder / "summary.md"
    with whole(path) as temporary:
        temporary.write_text("\n".join(page) + "\n")
    return path


def _curves(lines: list[dict], ends: list[int], headline: str, path: Path) -> Path | None:
    """Loss by step, smoothed, and the validation loss at its timesteps; dotted lines where a stage ends."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    training = [(x["step"], x[headline]) for x in lines if headline in x]
    checked = [x for x in lines if x.get("validation_loss")]
    if not training:
        return None
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    steps, losses = zip(*training, strict=True)
    axes.plot(steps, losses, color="0.8", linewidth=0.8)
    axes.plot(steps, _smooth(losses), color="tab:blue", label="training, smoothed")
    names = sorted(n for n in (checked[-1]["validation_loss"] if checked else {}) if n.startswith("loss"))
    for i, name in enumerate(names):
        shade: dict[str, Any] = (
            {"color": "black", "linewidth": 2} if name == "loss" else {"color": plt.cm.viridis(i / len(names))}
        )
        points = [(x["step"], x["validation_loss"][name]) for x in checked if name in x["validation_loss"]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"validation {name}", **shade)
    for step in ends:
        axes.axvline(step, color="0.5", linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel={"l1": "mean absolute error"}.get(headline, "mean squared error"), yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return path


def _smooth(values, share: float = 0.05) -> list[float]:
    out, mean = [], 0.0
    for i, value in enumerate(values, start=1):
        mean += max(share, 1 / i) * (value - mean)
        out.append(mean)
    return out
