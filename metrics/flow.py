"""Optical flow of a clip: OpenCV's DIS, with a mask of where it can be trusted.

The target of PredictNet (FD Eq. 4), and what super-resolution must not shimmer along.

As everywhere here flow is forward, (dx, dy) in pixels per frame, y down: frame t at p shows what frame t+1 shows at
p + flow(p). A pixel is valid where the flow back from there returns (what is about to be hidden, or was uncovered,
does not), and where it does not lead out of the frame.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..libraries import library

METHOD = "dis-medium/1"  # of cached flow; a change of what is computed here changes it


def opencv(without: str = "set loss.flow_weight to 0") -> ModuleType:
    """The module cv2. Raises LibraryError."""
    cv2 = library("cv2", "optical flow", without)
    # Several threads work on clips already; OpenCV's own would only contend with them.
    cv2.setNumThreads(1)
    return cv2


def clip_flow(frames: np.ndarray) -> tuple[Tensor, Tensor]:
    """frames (t, h, w, 3) uint8 -> flow (t-1, 2, h, w) float32, and where it is valid (t-1, h, w) bool."""
    cv2 = opencv()
    luma = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    height, width = frames.shape[1:3]
    flows = np.zeros((len(luma) - 1, height, width, 2), np.float32)
    valid = np.zeros((len(luma) - 1, height, width), bool)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for i, (now, later) in enumerate(pairwise(luma)):
        forward, backward = dis.calc(now, later, None), dis.calc(later, now, None)
        to_x, to_y = x + forward[..., 0], y + forward[..., 1]
        back = cv2.remap(backward, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        lengths = np.square(forward).sum(-1) + np.square(back).sum(-1)
        returns = np.square(forward + back).sum(-1) <= 0.01 * lengths + 0.5
        # The frame ends half a pixel beyond the centres of its outermost pixels.
        inside = (to_x >= -0.5) & (to_x <= width - 0.5) & (to_y >= -0.5) & (to_y <= height - 0.5)
        flows[i], valid[i] = forward, returns & inside
    return torch.from_numpy(flows).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(valid)


def to_latent_units(flow: Tensor, valid: Tensor, downscale: int) -> tuple[Tensor, Tensor]:
    """Flow (t-1, 2, h, w) in pixels -> (t-1, 2, h/d, w/d) in latent pixels, and the weight (t-1, h/d, w/d) of a cell.

    A cell's flow is the mean over its valid pixels (zero without any), its weight their share.
    """
    here = valid[:, None].to(flow)
    weight = F.avg_pool2d(here, downscale)
    mean = F.avg_pool2d(flow * here, downscale) / weight.clamp(min=1e-6)
    return mean / downscale, weight[:, 0]
