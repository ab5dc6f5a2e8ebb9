"""How well long clips hold: three times the demo's length, piece by piece, against the true clips.

Shapes that move slowly or turn on the spot, and stay in the picture for all of the clip: quick ones leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ...model_patches.network.long_clip import pieces
from ...pipelines.bundle import Bundle
from ...pipelines.image_to_video import Settings, animate, seen_at_once
from .measure import centroids, measure, shape_mask
from .render import ClipSpec, background, coverage, render
from .world import CLOCKWISE, COUNTERCLOCKWISE, DIRECTIONS, captions, sample_specs

SEED = 31_000
FRAMES, SIZE = 24, 64
STAYS = 0.9  # share of the shape's first area that is in the picture in every frame
NEAR = (0.8, 1.25)  # of the true area
BATCH = 16


def long_specs(count: int, frames: int = FRAMES) -> ClipSpec:
    """The same held-out clips for the same arguments: two thirds move slowly, one third turns."""
    specs = sample_specs(40 * count, torch.Generator().manual_seed(SEED), "held_out")
    goes = (specs.motion < len(DIRECTIONS)) & (specs.speed == 0)
    turns = (specs.motion == CLOCKWISE) | (specs.motion == COUNTERCLOCKWISE)
    area = coverage(specs, frames, SIZE).sum((-1, -2))
    stays = area.amin(1) > STAYS * area[:, 0]
    turning = (turns & stays).nonzero()[:, 0][: count // 3]
    return specs[torch.cat([(goes & stays).nonzero()[:, 0][: count - len(turning)], turning])]


def measure_long_clips(bundle: Bundle, count: int = 33, overlaps: Sequence[int] = (1, 4)) -> dict:
    """Scores by overlap, of those that leave room for new frames; none where the network sees all frames at once."""
    specs = long_specs(count)
    text, motion = captions(specs, canonical=True)
    truth = render(specs, FRAMES, SIZE)
    result: dict = {"clips": len(specs), "frames": FRAMES}
    for overlap in overlaps:
        settings, made = Settings(frames=FRAMES, seed=1, context_overlap=overlap), []
        length, _ = seen_at_once(bundle, replace(settings, context_overlap=None), FRAMES)
        if not overlap < length < FRAMES:
            continue
        for start in tqdm(range(0, len(specs), BATCH), desc=f"long clips, {overlap} frames taken over"):
            part = slice(start, start + BATCH)
            here = replace(settings, seed=settings.seed + start)
            made.append(animate(bundle, truth[part, 0], text[part], motion[part], here))
        plan = pieces(FRAMES, length, overlap, bundle.unet.config.first_frame_reach)
        seams = [piece.start + piece.known for piece in plan[1:]]
        result[f"overlap_{overlap}"] = score_long_clips(torch.cat(made), specs, seams)
    return result


def score_long_clips(made: Tensor, specs: ClipSpec, seams: Sequence[int]) -> dict[str, float]:
    """made: (b, t, 3, h, w) in [0, 1]; seams: the first frames of each piece that are new.

    seam_jump: change between frames at a seam over that elsewhere. drift: of the background from first to last frame,
    1/255. area, area_near: the shape's at the end over the true one, and the share of clips within 0.8 to 1.25.
    centre: distance of its centre from the true one at the end, pixels. direction: as `measure.py`.
    """
    frames, size = made.shape[1], made.shape[-1]
    truth, ground = render(specs, frames, size), background(specs, size)
    path, area = centroids(shape_mask(made, ground))
    true_path, true_area = centroids(shape_mask(truth, ground))
    reach = F.max_pool2d(coverage(specs, frames, size).amax(1, keepdim=True), 7, stride=1, padding=3)
    still = (reach == 0).float()[:, 0]
    moved = (made[:, -1] - made[:, 0]).abs().mean(1)
    drift = 255 * (moved * still).sum((-1, -2)) / still.sum((-1, -2))
    change = (made[:, 1:] - made[:, :-1]).abs().mean((2, 3, 4))
    at_seam = torch.zeros(frames - 1, dtype=torch.bool)
    at_seam[[seam - 1 for seam in seams]] = True
    ratio = area[:, -1] / true_area[:, -1]
    away = (path[:, -1] - true_path[:, -1]).norm(dim=-1) * size
    found = measure(made, specs)
    scores = {
        "seam_jump": change[:, at_seam].mean(1) / change[:, ~at_seam].mean(1),
        "drift": drift,
        "area": ratio,
        "area_near": ((ratio > NEAR[0]) & (ratio < NEAR[1])).float(),
        "centre": away,
        "direction": found.direction_right[found.directional].float(),
        "video_psnr": found.video_psnr,
    }
    # A shape that is gone has no centre, and is no near area either.
    return {name: round(values.nanmean().item(), 3) for name, values in scores.items()}
