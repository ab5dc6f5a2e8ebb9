"""Look at a run on clips it has never seen: motion measured from pixels, and a sheet for the eye."""

from __future__ import annotations

from pathlib import Path

from ...pipelines.bundle import Bundle
from ...pipelines.image_to_video import Settings, animate
from ...pipelines.sheets import clip_sheet
from ..config import RunConfig
from ..data.tiny_measure import measure
from .held_out import held_out


def validate(bundle: Bundle, config: RunConfig, sheet: Path | None = None) -> dict[str, float]:
    """Animate held-out first frames and measure them."""
    clips = held_out(config.output.validation_clips, frames=config.data.frames, size=config.data.height)
    made = animate(bundle, clips.first_frames, clips.text, clips.motion, Settings(seed=1))
    if sheet is not None:
        clip_sheet(sheet, made[:12], clips.motion[:12])
    return measure(made, clips.specs, clips.first_frames).summary()
