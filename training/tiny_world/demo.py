"""`make demo`: never-seen pictures brought to life by captions, and clips of captions alone, on two sheets."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ...model_patches.upscaling.enlarge import Enlarger
from ...pipelines.bundle import Bundle, load_bundle
from ...pipelines.image_to_video import Settings, animate
from ...pipelines.media.files import check_output, write_gif, write_video
from ...pipelines.media.sheets import clip_sheet, comparison, video_grid
from ...pipelines.upscale import open_upscaler
from .held_out import held_out

# A shape, and two things it is asked to do.
WISHES = (
    ("heart", "moves left", "moves quickly right"),
    ("cross", "moves up and to the right", "moves down and to the left"),
    ("triangle", "rotates clockwise", "moves up"),
    ("star", "grows", "bounces up and down"),
)
# What text alone is asked for, in combinations of colour, shape and background that were never trained on.
PROMPTS = (
    ("a red circle on a plain background", "the red circle moves quickly left"),
    ("a yellow moon on a cloudy background", "the yellow moon moves down and to the right"),
    ("a purple square on a plain background", "the purple square moves right"),
    ("a red star on a dotted background", "the red star moves up"),
    ("a white heart on a plain background", "the white heart grows"),
    ("a white cross on a striped background", "the white cross moves up and to the left"),
    ("the orange triangle on a dotted background", "the orange triangle moves slowly down"),
    ("a pink circle on a plain background", "the pink circle bounces up and down"),
)


def show(folder: str | Path, seed: int = 7) -> str:
    """Write a sheet, upscaled mp4s and a GIF of either demo, and `upscaled.png`, into the folder; says where."""
    folder = Path(folder)
    sheets = check_output(folder / "sheet.png", ".png"), check_output(folder / "text_to_video.png", ".png")
    _show_pictures(sheets[0], seed)
    _show_prompts(sheets[1], seed)
    return f"look at {sheets[0]}, {sheets[1].name} and upscaled.png (and the clips beside them)"


def _show_pictures(sheet: Path, seed: int) -> None:
    """Factorized-Dreamer's recipe: a first frame and two captions."""
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
    clips = _animate(bundle, torch.stack(images), text, motion, seed)
    title = "A still picture (left column) comes alive as its caption says"
    clip_sheet(sheet, clips, motion, title=title, tile=96)
    large = _enlarge(clips)
    _write(sheet, "demo.gif", large, text, motion)
    closer = [(clips[i, -1], large[i, -1]) for i in range(0, len(clips), 2)]
    comparison(sheet.with_name("upscaled.png"), closer, 4, "Last frames, four times as large")


def _show_prompts(sheet: Path, seed: int) -> None:
    """VideoFactory's: captions alone."""
    text, motion = (list(captions) for captions in zip(*PROMPTS, strict=True))
    clips = _animate(load_bundle("demo-text-to-video"), None, text, motion, seed)
    clip_sheet(sheet, clips, [", ".join(pair) for pair in PROMPTS], title="Captions alone make the clip", tile=96)
    _write(sheet, "text_to_video.gif", _enlarge(clips), text, motion)


def _animate(bundle: Bundle, images: Tensor | None, text: list[str], motion: list[str], seed: int) -> Tensor:
    with tqdm(total=bundle.defaults.steps, desc=f"making {len(text)} clips") as bar:

        def on_step(done: int, total: int) -> None:
            bar.update()

        return animate(bundle, images, text, motion, Settings(seed=seed), on_step=on_step)


def _enlarge(clips: Tensor) -> Tensor:
    enlarge = Enlarger(open_upscaler("demo"), "cpu")
    return torch.stack([enlarge(clip) for clip in tqdm(clips, desc="upscaling")])


def _write(sheet: Path, gif: str, clips: Tensor, text: list[str], motion: list[str]) -> None:
    """One mp4 a clip, and all of them on one GIF."""
    for i, clip in enumerate(clips):
        path = sheet.with_name(f"{sheet.stem}_{i + 1}_{motion[i].replace(' ', '_')}.mp4")
        write_video(path, clip, 8, settings={"text": text[i], "motion": motion[i]})
    write_gif(sheet.with_name(gif), video_grid(F.avg_pool2d(clips.flatten(0, 1), 2).unflatten(0, clips.shape[:2])), 8)
