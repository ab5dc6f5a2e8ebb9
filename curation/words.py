"""Texts of any origin as one line that every file can hold."""

from __future__ import annotations

import unicodedata

UNSEEN = ("Cc", "Cs")  # control characters, halves of a character


def tidy(text: str) -> str:
    """On one line, single spaces between words, nothing that controls a terminal or that no file can hold."""
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in UNSEEN)
    return " ".join(kept.replace("\ufeff", "").split())
