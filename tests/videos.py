"""Clips as tests look at them."""

from pathlib import Path

import av
import torch
from torch import Tensor

from dreamfactory.pipelines.media.files import kept_settings
from dreamfactory.pipelines.media.viewer import Viewer


def read_video(path: str | Path) -> tuple[Tensor, dict]:
    """(t, 3, h, w) in [0, 1] and the settings `write_video` stored ({} if none)."""
    with av.open(str(path)) as file:
        viewer = Viewer(file.streams.video[0])
        decoded = (frame for packet in file.demux(viewer.stream) for frame in viewer.decode(packet))
        frames = [torch.from_numpy(viewer.pixels(frame)) for frame in viewer.whole(decoded)]
        settings = kept_settings(file.metadata.get("comment"))
    return torch.stack(frames).permute(0, 3, 1, 2).float() / 255, settings
