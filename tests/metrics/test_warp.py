"""Frames moved by a flow that is known."""

import torch

from dreamfactory.metrics.warp import warp


def test_warp_follows_the_flow():
    frame, flow = torch.rand(1, 3, 12, 16), torch.zeros(1, 2, 12, 16)
    flow[:, 0], flow[:, 1] = 3, -2  # p shows what lies at p + (3, -2)
    inner = (..., slice(2, 12), slice(0, 13))
    expected = torch.roll(frame, (2, -3), dims=(2, 3))
    torch.testing.assert_close(warp(frame, flow)[inner], expected[inner], atol=1e-5, rtol=0)
