"""`make demo`: pictures the model has never seen, each brought to life by two captions, on one sheet."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from ...model_patches.upscaling import Enlarger
from ...pipelines.bundle import load_bundle
from ...pipelines.image_to_video import Settings, animate
from ...pipelines.sheets import clip_sheet
from ...pipelines.upscale import open_upscaler
from ...pipelines.video_files import check_output, write_gif, write_video
from ..super_resolution.validation import comparison
from .held_out import held_out

# A shape, and two things it is asked to do.
WISHES = (
    ("heart", "moves left", "moves quickly right"),
    ("cross", "moves up and to the right", "moves down and to the left"),
    ("triangle", "rotates clockwise", "moves up"),
    ("star", "grows", "bounces up and down"),
)


def show(folder: str | Path, seed: int = 7) -> str:
    """Write `sheet.png`, one upscaled mp4 a caption, `upscaled.png` and `demo.gif` into the folder; says where."""
    folder = Path(folder)
    sheet = check_output(folder / "sheet.png", ".png")
    bundle = load_bundle("demo")
    pictures = held_out(64, size=bundle.defaults.height, seed=seed)

    images, text, motion = [], [], []
    for shape, *wishes in WISHES:
        # The first picture of this shape; its caption begins with what it shows: "the red star ...".
        i = next(i for i, caption in enumerate(pictures.motion) if caption.split()[2] == shape)
        thing = " ".join(pictures.motion[i].split()[:3])
        for wish in wishes:
            images.append(pictures.first_frames[i])
            text.append(pictures.text[i])
            motion.append(f"{thing} {wish}")
    with tqdm(total=bundle.defaults.steps, desc="animating 8 clips") as bar:
        clips = animate(
            bundle, torch.stack(images), text, motion, Settings(seed=seed), on_step=lambda done, total: bar.update()
        )
    enlarge = Enlarger(open_upscaler("demo"), "cpu")
    large = torch.stack([enlarge(clip) for clip in tqdm(clips, desc="upscaling")])
    for i, clip in enumerate(large):
        name = motion[i].replace(" ", "_")
        write_video(folder / f"{i + 1}_{name}.mp4", clip, 8, settings={"text": text[i], "motion": motion[i]})
    title = "A still picture (left column) comes alive as its caption says"
    clip_sheet(sheet, clips, motion, title=title, tile=96)
    closer = [(clips[i, -1], large[i, -1]) for i in range(0, len(clips), 2)]
    comparison(folder / "upscaled.png", closer, 4, "Last frames, four times as large")
    write_gif(folder / "demo.gif", wall(F.avg_pool2d(large.flatten(0, 1), 2).unflatten(0, large.shape[:2])), 8)
    return f"look at {sheet} and upscaled.png (and the clips beside them)"


def wall(clips: torch.Tensor, columns: int = 4) -> torch.Tensor:
    """(n, t, 3, h, w) -> one clip (t, 3, rows*h, columns*w) of all of them side by side."""
    n, t, c, h, w = clips.shape
    rows = -(-n // columns)
    grid = torch.ones(rows * columns, t, c, h, w)
    grid[:n] = clips
    grid = grid.unflatten(0, (rows, columns))
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(t, c, rows * h, columns * w)
