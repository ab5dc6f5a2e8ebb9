"""Texts of any origin as one line that every file can hold."""

from __future__ import annotations

import unicodedata

from ..errors import InputError

LONGEST = 10_000  # characters of a caption: whatever is longer is none
UNSEEN = ("Cc", "Cs")  # control characters, halves of a character


class NoWords(InputError):
    """Why one clip has no words, which may have nothing to do with the others."""


def one_line(text: str) -> str:
    """On one line, single spaces between words, nothing that controls a terminal or that no file can hold."""
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in UNSEEN)
    return " ".join(kept.replace("\ufeff", "").split())
