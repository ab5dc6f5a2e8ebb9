"""Frames on their way to the encoders."""

import numpy as np
import torch

from dreamfactory.training.data.encode import resize_crop


def test_frames_cover_the_size_and_are_cropped_at_the_centre():
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8)[None, None, :, None], (2, 64, 1, 3))  # 64 x 128
    exact = resize_crop(ramp, 64, 64)
    assert torch.equal(exact, torch.from_numpy(ramp[:, :, 32:96]).permute(0, 3, 1, 2) / 255)
    half = resize_crop(ramp, 32, 32)
    assert half.shape == (2, 3, 32, 32)
    pairs = torch.from_numpy(ramp[0, 0, 32:96, 0].astype(np.float32)).view(32, 2).mean(1) / 255
    assert torch.allclose(half[0, 0, 16], pairs, atol=0.005)
    assert resize_crop(ramp, 128, 64).shape == (2, 3, 128, 64)
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255  # finer than the small picture can show: grey, not stripes
    assert (resize_crop(stripes, 16, 16)[..., 2:-2] - 0.5).abs().max() < 0.02
