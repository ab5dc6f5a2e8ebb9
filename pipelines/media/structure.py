"""Whether a file is whole, by how its container is built: `flaw`.

Decoders do not tell: of a Matroska file or a transport stream that was cut short they read what is there, and are done;
where a stretch is no Matroska they go on behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid", b"meta")
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
IN_ANY = (0xEC, 0xBF)  # padding, checksums
IN_SEGMENT = (0x114D9B74, 0x1549A966, 0x1654AE6B, CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, *IN_ANY)
IN_CLUSTER = (0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, *IN_ANY)
PACKETS = ((188, 0), (192, 4), (204, 0))  # bytes of a transport stream's packet; where in it its mark stands
MARK, MARKS = 0x47, 4  # and how many of them tell
EXTENSION, PICTURE, TRAILER = 0x21, 0x2C, 0x3B  # what the blocks of a gif begin with


class _Damaged(Exception):
    """At a byte there is not what has to be there."""


def flaw(path: Path) -> str:
    """What is wrong with the file, to be said after its name; "": nothing, or it cannot be told, as of what was written
    while it went on. Raises OSError."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for end in ENDS:
            try:
                should = end(file, size)
            except _Damaged as place:
                return f"is damaged at byte {place}"
            if should is not None:
                return f"is cut short: {should - size:,} bytes at its end are missing" if should > size else ""
    return ""


def _matroska(file: BinaryIO, size: int) -> int | None:
    """RFC 9559; that of a segment whose length is told, which live streams leave open."""
    place = 0
    while True:
        name, place, length = _element(file, place)
        if name == SEGMENT:
            break
        if name not in (EBML, *IN_ANY) or length is None:
            return None
        place += length
    if length is None:
        return None
    end = place + length
    while place < min(end, size):
        place = _child(file, place, size, IN_SEGMENT)
    return end


def _child(file: BinaryIO, begin: int, size: int, known: tuple[int, ...]) -> int:
    """Where an element ends that is one of those known. Of a cluster, what is in it is looked at too."""
    name, place, length = _element(file, begin)
    if name not in known:
        if begin + 12 > size:
            return size  # cut through
        raise _Damaged(begin)
    if length is None:
        return size  # it goes on as long as it does
    end = place + length
    while name == CLUSTER and place < min(end, size):
        place = _child(file, place, size, IN_CLUSTER)
    if name == CLUSTER and place > end and end < size:
        raise _Damaged(end)
    return end


def _element(file: BinaryIO, place: int) -> tuple[int, int, int | None]:
    """Its name, where what is in it begins, and how long that is; None: it is not told (RFC 8794, 4 to 6)."""
    head = _read(file, place, 12)
    long = _leading(head, 4)
    wide = _leading(head[long:], 8)
    if not long or not wide:
        return 0, place, None
    length = int.from_bytes(head[long : long + wide], "big") & ((1 << 7 * wide) - 1)
    name = int.from_bytes(head[:long], "big")
    return name, place + long + wide, None if length == (1 << 7 * wide) - 1 else length


def _leading(head: bytes, most: int) -> int:
    """Bytes of the number that they begin with; 0: it is none."""
    long = 9 - head[0].bit_length() if head else 0
    return long if long <= min(most, len(head)) else 0


def _boxes(file: BinaryIO, size: int) -> int | None:
    """Of the last box of an mp4 (ISO/IEC 14496-12, 4.2). What follows boxes and is none does not count."""
    place = None
    while (head := _read(file, place or 0, 16))[4:8] in BOXES:
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return size  # it goes to the end
        place = (place or 0) + length
    return place


def _riff(file: BinaryIO, size: int) -> int | None:
    """Of the last list of an avi. Some are never told how long they became."""
    place = None
    while (head := _read(file, place or 0, 12))[:4] == b"RIFF" and head[8:11] == b"AVI":
        length = int.from_bytes(head[4:8], "little")
        if not 0 < length < 0xFFFFFFF0:
            return size
        place = (place or 0) + 8 + length
    return place


def _gif(file: BinaryIO, size: int) -> int | None:
    """GIF89a, 18 to 27. Where it ends is told by its trailer alone: one byte is missing at least."""
    head = _read(file, 0, 13)
    if head[:4] != b"GIF8" or len(head) < 13:
        return None
    place = 13 + _colours(head[10])
    while kind := _read(file, place, 1):
        if kind[0] == TRAILER:
            return size
        if kind[0] == PICTURE:
            place += 10 + _colours((_read(file, place, 10) + bytes(10))[9]) + 1
        elif kind[0] == EXTENSION:
            place += 2
        else:
            raise _Damaged(place)
        while part := _read(file, place, 1):
            place += 1 + part[0]
            if not part[0]:
                break
    return max(place, size) + 1


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _packets(file: BinaryIO, size: int) -> int | None:
    """Of the last packet of a transport stream (ISO/IEC 13818-1, 2.4.3.2)."""
    for length, mark in PACKETS:
        if size >= MARKS * length and all(_read(file, k * length + mark, 1)[0] == MARK for k in range(MARKS)):
            return -(-size // length) * length
    return None


def _read(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


# Of each kind of container: where the file should end. None: it is of another kind, or does not tell.
ENDS: tuple[Callable[[BinaryIO, int], int | None], ...] = (_matroska, _boxes, _riff, _gif, _packets)
