"""Which files are videos and which are pictures: by their names where those tell, by their content where not."""

from __future__ import annotations

from pathlib import Path

import av
import av.error
import av.stream
from PIL import Image

from .frames import CONTAINERS

VIDEOS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv",
    ".asf", ".flv", ".ogv", ".3gp", ".3g2",
)  # fmt: skip
IMAGES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
HEAD = 4096  # bytes that tell a text from other files


def media_of(suffix: str) -> str | None:
    return "video" if suffix in VIDEOS else "image" if suffix in IMAGES else None


def media_in(file: Path) -> str | None:
    """ "video" or "image", whatever a regular file is called; None: what decoders open is neither."""
    return media_of(file.suffix.lower()) or _sniff(file)


def _sniff(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
        if not head or _is_text(head):
            return None
        try:
            with Image.open(file):
                return "image"
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            pass
        with av.open(str(file.absolute()), options={"format_whitelist": CONTAINERS}) as container:
            stream = container.streams.best("video")
            is_cover = stream is not None and stream.disposition & av.stream.Disposition.attached_pic  # a song's
            return None if stream is None or is_cover else "video"
    except (av.error.FFmpegError, OSError, ValueError, UnicodeError):
        return None


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head[: HEAD - 4].decode()  # the last character may be cut
    except UnicodeDecodeError as error:
        return error.start > HEAD - 8
    return True
