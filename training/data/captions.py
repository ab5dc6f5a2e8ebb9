"""What text encoders make of a source's captions: how many are longer than what they read, which words they lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ...pipelines.encoders import WORD, TextEncoder

LOOKED_AT = 100_000  # captions of a source, evenly spread, where it has more


def read_by(encoders: Mapping[str, TextEncoder], captions: Mapping[str, Iterable[str]]) -> dict[str, dict]:
    """By encoder ("text", "motion"): captions looked at, those that are cut, and how often unknown words come.

    Plain data, for the data report. captions: of a source, by encoder.
    """
    return {name: _read(encoder, sorted(set(captions[name]) - {""})) for name, encoder in encoders.items()}


def _read(encoder: TextEncoder, captions: list[str]) -> dict:
    looked = captions[:: -(-len(captions) // LOOKED_AT) or 1]
    words = Counter(word for caption in looked for word in WORD.findall(caption))
    unknown = set(encoder.unknown_words(" ".join(words)))
    return {
        "captions": len(captions),
        "looked_at": len(looked),
        "longer_than_read": sum(map(encoder.is_cut, looked)),
        "tokens_read": encoder.length,
        "unknown_words": {word: count for word, count in words.most_common() if word in unknown},
    }


def sentences(found: Mapping[str, Mapping]) -> list[str]:
    """What a person should know of it before hours of training."""
    told = []
    for name, facts in found.items():
        if facts["longer_than_read"]:
            told.append(
                f"{facts['longer_than_read']} of {facts['looked_at']} captions are longer than the "
                f"{facts['tokens_read']} tokens that the {name} encoder reads; the rest of them is cut off"
            )
        words = list(facts["unknown_words"])
        if words:
            shown = ", ".join(map(repr, words[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
            told.append(f"the {name} encoder does not know {shown}; it reads on without")
    return told
