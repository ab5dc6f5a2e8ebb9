"""Which frames of a video make a clip: read at a given rate by the times they are shown at, or every n-th."""

from __future__ import annotations

import numpy as np

from ...pipelines.media.decode import Probe


def frames_at(probe: Probe, fps: float | None, stride: int) -> int:
    """How many frames a video has when read at so many a second, or every stride-th."""
    if fps is None:
        return (len(probe.times) - 1) // stride + 1
    return int((probe.times[-1] + probe.interval / 2) * fps + 1e-6) + 1


def choose_frames(
    probe: Probe, frames: int, fps: float | None, stride: int, window: int = 0, windows: int = 1
) -> list[int] | None:
    """Numbers of a clip's frames: the window-th of `windows` stretches, evenly spaced; a single one is the middle.

    fps: the frames nearest to these times, from the stretch's first frame on. None where the video is too short.
    """
    if frames_at(probe, fps, stride) < frames:
        return None
    share = 0.5 if windows == 1 else window / (windows - 1)
    if fps is None:
        first = round((len(probe.times) - 1 - (frames - 1) * stride) * share)
        return [first + k * stride for k in range(frames)]
    latest = max(float(probe.times[-1]) - (frames - 1) / fps, 0.0)
    first = _nearest(probe.times, latest * share)
    if first and probe.times[first] > latest + 1e-6:
        first -= 1
    return [_nearest(probe.times, float(probe.times[first]) + k / fps) for k in range(frames)]


def _nearest(times: np.ndarray, time: float) -> int:
    """The frame nearest to a time. Of two the earlier, whatever the rounding: stretches of a clip are alike then."""
    after = int(np.searchsorted(times, time))
    if after == 0:
        return 0
    if after == len(times) or time - times[after - 1] <= times[after] - time + 1e-6:
        return after - 1
    return after
