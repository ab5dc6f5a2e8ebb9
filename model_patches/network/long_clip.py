"""Clips longer than a network sees at once: piece by piece, each going on from the last frames of the one before.

    piece 1   0 ........ 7
    piece 2           4 ........ 11        its first `overlap` frames are known: they stay as they are
    piece 3                    8 ........ 15

A piece's first frame, which a network sees through PACA and its input channels, is the first of the known ones; a
network that was trained with a picture from before its clip (`first_frame_reach`) keeps looking at the clip's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import UNetConfig

FAR = 2  # times as many or as few frames as a network was trained with are other clips than it knows
USUAL_LENGTH = 16  # frames that public networks were trained with, where their files do not say


@dataclass(frozen=True)
class Piece:
    """Frames [start, start + length) of a clip, of which the first `known` are there already."""

    start: int
    length: int
    known: int
    picture: int  # the frame that is shown to the network as the first; 0 is the picture it all began with

    @property
    def distance(self) -> int:
        """Frames from the picture to the piece's first one: the network counts its frames from the picture."""
        return self.start - self.picture


def pieces(frames: int, length: int, overlap: int, reach: int) -> list[Piece]:
    """Cut a clip into pieces that a network sees at once; the last may reach beyond its end.

    length: frames of a piece; overlap: frames that a piece takes over from the one before, at least 1 and less than
    length; reach: `UNetConfig.first_frame_reach`.
    """
    if frames <= length:
        return [Piece(0, frames, 0, 0)]
    starts = range(0, frames - overlap, length - overlap)
    return [Piece(s, length, overlap if s else 0, picture_at(s, reach)) for s in starts]


def picture_at(start: int, reach: int) -> int:
    """Which frame of the clip is the first frame of a piece: the earliest that the network can look back to."""
    return max(0, start - reach) if reach else start


def animates_picture(config: UNetConfig) -> bool:
    """Whether a network's clip begins with a picture that it is given, and can go on from its own last one."""
    return config.first_frame_concat == "repeat" or (config.paca and config.first_frame_concat == "off")


def stated_length(config: UNetConfig, trained_shape: tuple[int, int, int] | None) -> int | None:
    """How many frames a network was trained to see at once, where its file says so; trained_shape: of its schedule."""
    if trained_shape is not None:
        return trained_shape[0]
    return None if config.image_projector is None else config.image_projector.frames


def is_far(seen: int, trained: int) -> bool:
    """Whether a network sees far more or fewer frames at once than it was trained with; one is a picture."""
    return trained != 1 and seen > 1 and not trained <= FAR * seen <= FAR**2 * trained


def trained_length(config: UNetConfig, trained_shape: tuple[int, int, int] | None) -> int:
    """The same, or what is usual."""
    return stated_length(config, trained_shape) or USUAL_LENGTH


def default_overlap(config: UNetConfig, length: int) -> int:
    """As many frames as a network was trained to be given, at most half of what it sees.

    One that was not goes on best from its last frame, as from any picture; one that animates none needs to see more.
    """
    if config.known_frames:
        return max(1, min(config.known_frames, length // 2))
    return 1 if animates_picture(config) else max(1, length // 4)
