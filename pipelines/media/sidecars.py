"""Words that lie beside a video or picture: clip.txt, clip.motion.txt where the motion has words of its own, or
clip.json with "text" or "caption", and "motion"."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable

CAPTIONS = (".motion.txt", ".txt", ".json")  # what may lie beside a file, the longest ending first


class NoCaption(ValueError):
    """Why a file has none."""


def decoded(raw: bytes) -> str:
    """Text in UTF-8, or UTF-16 where it begins by saying so. Raises UnicodeDecodeError."""
    return raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def tidy(caption: object) -> str:
    """One line without needless space; what is no text has none."""
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def sidecar_captions(stem: str, read: Callable[[str], bytes | None]) -> tuple[str, str]:
    """(text, motion) from the files beside a video; `read` gives the bytes of stem + suffix, or None. NoCaption."""

    def words(suffix: str) -> str | None:
        raw = read(suffix)
        if raw is None:
            return None
        try:
            return decoded(raw)
        except UnicodeDecodeError as error:
            raise NoCaption(f"no caption: {stem}{suffix} is no UTF-8 text") from error

    stated, text, motion = words(".json"), words(".txt"), words(".motion.txt")
    said = {}
    if stated is not None:
        try:
            said = json.loads(stated)
        except (ValueError, RecursionError) as error:
            raise NoCaption(f"no caption: {stem}.json is no valid JSON") from error
        said = said if isinstance(said, dict) else {}
    caption = tidy(text) or tidy(said.get("text")) or tidy(said.get("caption"))
    if not caption:
        if text is None and stated is None:
            raise NoCaption(f"no caption: there is no {stem}.txt or {stem}.json")
        where = f"{stem}.txt is empty" if stated is None else f'{stem}.json has no "text" or "caption"'
        raise NoCaption(f"no caption: {where}")
    return caption, tidy(motion) or tidy(said.get("motion")) or caption
