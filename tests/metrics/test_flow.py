"""Optical flow against motions that are known: textures that are shifted by a given distance, the tiny world."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamfactory.errors import LibraryError
from dreamfactory.metrics.flow import clip_flow, to_latent_units
from dreamfactory.training.tiny_world import render as tiny_render, world as tiny_world

pytest.importorskip("cv2")


def texture(seed, size=256):
    """Smooth random colours, (3, size, size) in [0, 1]."""
    noise = torch.rand(1, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def window(image, dx, dy, size=128):
    """A view of a large picture in which everything has moved by (dx, dy) pixels, which may be fractions."""
    n = image.shape[-1]
    at = torch.arange(size, dtype=torch.float64) + (n - size) / 2
    x, y = (2 * (at - dx) + 1) / n - 1, (2 * (at - dy) + 1) / n - 1
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).float()
    return F.grid_sample(image[None], grid[None], mode="bicubic", align_corners=False)[0].clamp(0, 1)


def uint8(frames):
    return (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, -2), (-3.5, 1.25), (8, 6)])
def test_a_shifted_texture_has_the_flow_it_was_shifted_by(dx, dy):
    image = texture(1)
    flow, valid = clip_flow(uint8(torch.stack([window(image, k * dx, k * dy) for k in range(3)])))
    assert (flow.shape, flow.dtype) == ((2, 2, 128, 128), torch.float32)
    assert (valid.shape, valid.dtype) == ((2, 128, 128), torch.bool)
    error = (flow - torch.tensor([dx, dy], dtype=torch.float32)[:, None, None]).norm(dim=1)
    assert error[valid].mean() < 0.2
    # What stays inside is valid, what leaves the frame is not.
    at = torch.arange(128)
    stays = ((at + dx >= 0) & (at + dx < 127))[None, :] & ((at + dy >= 0) & (at + dy < 127))[:, None]
    leaves = ((at + dx < -1) | (at + dx > 128))[None, :] | ((at + dy < -1) | (at + dy > 128))[:, None]
    assert valid[:, stays].float().mean() > 0.9
    if leaves.any():
        assert valid[:, leaves].float().mean() < 0.1


def test_what_comes_to_be_hidden_is_not_valid():
    ground, patch = texture(2), texture(3)
    frames = []
    for k in range(2):
        frame = window(ground, 0, 0).clone()
        frame[:, 40:90, 40 + 8 * k : 90 + 8 * k] = patch[:, :50, :50]
        frames.append(frame)
    flow, valid = clip_flow(uint8(torch.stack(frames)))
    covered = valid[0, 45:85, 91:97]  # ground that the patch comes to lie on
    inside, ground_far = (slice(50, 80), slice(50, 80)), (slice(100, 120), slice(10, 110))
    assert covered.float().mean() < 0.25
    assert valid[0][inside].float().mean() > 0.95
    assert (flow[0][:, inside[0], inside[1]] - torch.tensor([8.0, 0])[:, None, None]).norm(dim=0).mean() < 0.2
    assert valid[0][ground_far].float().mean() > 0.95
    assert flow[0][:, ground_far[0], ground_far[1]].norm(dim=0).mean() < 0.2


def test_it_has_the_tiny_world_s_convention():
    # Its renderer knows the flow in closed form. Shapes without texture move visibly at their edges only.
    torch.manual_seed(0)
    specs = tiny_world.sample_specs(24, torch.Generator().manual_seed(4), "train")
    truth, defined = tiny_render.flow(specs, 2, 128)
    clips = tiny_render.render(specs, 2, 128)
    cover = tiny_render.coverage(specs, 2, 128)[:, 0] > 0.5
    asked, found = [], []
    for i in range(len(specs)):
        flow, valid = clip_flow(uint8(clips[i]))
        here = cover[i] & valid[0] & defined[i, 0]
        if here.sum() < 50 or truth[i, 0][:, here].mean(1).norm() < 1:
            continue
        asked.append(truth[i, 0][:, here].mean(1))
        found.append(flow[0][:, here].mean(1))
    asked, found = torch.stack(asked), torch.stack(found)
    assert len(asked) >= 10
    assert F.cosine_similarity(asked, found).median() > 0.95
    assert ((found * asked).sum(1) / asked.square().sum(1)).median() == pytest.approx(1, abs=0.25)


def test_the_same_clip_has_the_same_bits():
    image = texture(5)
    frames = uint8(torch.stack([window(image, 3 * k, k, 64) for k in range(4)]))
    one, two = clip_flow(frames), clip_flow(frames.copy())
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    alone = clip_flow(frames[1:3])
    assert torch.equal(one[0][1:2], alone[0])


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (40, 24)])
def test_small_frames_have_flow_too(size):
    frames = (np.random.default_rng(0).random((3, *size, 3)) * 255).astype(np.uint8)
    flow, valid = clip_flow(frames)
    assert flow.shape == (2, 2, *size)
    assert valid.shape == (2, *size)
    assert clip_flow(frames[:1])[0].shape == (0, 2, *size)


def test_latent_units_are_cells_of_their_valid_pixels():
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0] = 8.0  # eight pixels are one latent pixel
    flow[:, 1, :8, :8] = -4.0
    valid = torch.ones(1, 16, 24, dtype=torch.bool)
    flow[:, :, :8, 8:12], valid[:, :8, 8:12] = 1000.0, False  # half a cell that must not count
    valid[:, 8:, 16:] = False
    latent, weight = to_latent_units(flow, valid, 8)
    assert torch.allclose(latent[0, 0], torch.tensor([[1.0, 1, 1], [1, 1, 0]]))
    assert torch.allclose(latent[0, 1], torch.tensor([[-0.5, 0, 0], [0, 0, 0]]))
    assert torch.equal(weight[0], torch.tensor([[1, 0.5, 1], [1, 1, 0]]))
    assert to_latent_units(flow, valid, 4)[0].shape == (1, 2, 4, 6)


def test_without_opencv_it_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(LibraryError, match=r"pip install opencv-python-headless, or set loss.flow_weight to 0\.$"):
        clip_flow(np.zeros((2, 32, 32, 3), np.uint8))
