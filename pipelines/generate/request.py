"""What is asked for: one clip, or a list of them in JSON lines.

A field of `Request` is an option of `dreamfactory generate` (with dashes) and a key of a line of `--prompts` alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ...errors import InputError, nearest, reason, some
from ...files import MAX_SETTINGS, no_file
from ..image_to_video import Settings

SHOWN = 5  # problems, and lines of each, that a refusal of a list names


@dataclass(frozen=True)
class Request:
    """One clip. None takes the default of the network, of Stable Diffusion for the first frame."""

    text: str = ""  # what is seen
    motion: str = ""  # what happens
    negative: str = ""  # what to stay away from
    negative_motion: str = ""
    image: str | None = None  # the first frame
    last_image: str | None = None  # the last frame, for networks that interpolate
    seed: int = 0
    frames: int | None = None
    width: int | None = None  # pixels
    height: int | None = None
    size: str | None = None  # of the file, "1376x768": enlarged, where there is an upscaler
    fps: float | None = None
    scale: int = 1  # enlarges pixels as they are
    steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    eta: float = 0.0
    frame_rate: float | None = None
    context_length: int | None = None  # frames that the network sees at once
    context_overlap: int | None = None  # frames that a piece of a long clip takes over
    image_strength: float = 1.0
    paca_strength: float = 1.0
    swap_strength: float = 1.0
    # Of the picture that a text-to-image network draws:
    first_frame_size: str | None = None  # "512x512"
    first_frame_steps: int | None = None
    first_frame_guidance_scale: float | None = None
    first_frame_seed: int | None = None  # None: the clip's
    first_frame_negative: str = ""
    out: str | None = None  # of a list: the file's name in its folder

    @property
    def settings(self) -> Settings:
        """How the clip is sampled."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


KEYS = tuple(f.name for f in fields(Request))
TYPES = get_type_hints(Request)


def read_prompts(path: str | Path, base: Request, check: Callable[[int, Request], object]) -> list[tuple[int, Request]]:
    """(number of the line, what it asks for) of a file of JSON lines; base: what a line does not say.

    The seed of the base counts on from clip to clip. Pictures are named from the file's folder on. check: refuses what
    a line asks for, by an InputError. Raises InputError, which names every line that cannot be used.
    """
    path = Path(path)
    if (told := no_file(path)) is not None:
        raise InputError(f"{told}; give a file of JSON lines.")
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text; save it as UTF-8.") from error
    found, wrong = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = from_line(line, replace(base, seed=base.seed + len(found) + len(wrong)), path.parent)
            check(number, request)
            found.append((number, request))
        except InputError as error:
            wrong.append((number, str(error)))
    refuse_lines(path, wrong)
    if not found:
        raise InputError(f'{path} holds no prompt; write one JSON object a line, such as {{"text": "a red circle"}}.')
    return found


def refuse_lines(path: str | Path, wrong: list[tuple[int, str]]) -> None:
    """One sentence that names every line of a list that cannot be used; nothing where there is none."""
    if not wrong:
        return
    alike: dict[str, list[int]] = {}
    for number, problem in wrong:
        alike.setdefault(problem.rstrip("."), []).append(number)
    told = [f"{_lines(numbers)}: {problem}" for problem, numbers in list(alike.items())[:SHOWN]]
    left = sum(map(len, list(alike.values())[SHOWN:]))
    told += [f"and {left} more line{'s' if left > 1 else ''}"] if left else []
    sentence = "; ".join(told)
    raise InputError(f"{path}, {sentence}{'' if sentence.endswith('?') else '.'}")


def _lines(numbers: list[int]) -> str:
    """ "line 7", "lines 1, 2 and 4" """
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    if len(numbers) > SHOWN:
        return f"{len(numbers)} lines, {numbers[0]} first"
    return f"lines {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def from_line(line: str, base: Request, folder: Path) -> Request:
    """A line of JSON on top of what it does not say. folder: from which its pictures are named. Raises InputError."""
    try:
        if sum(map(line.count, ",[{")) > MAX_SETTINGS:
            raise ValueError("more entries than a clip has")
        values = json.loads(line, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise InputError("it is not valid JSON for a clip (nested too deeply); write one flat object.") from error
    except json.JSONDecodeError as error:
        told = f"{error.msg}, character {error.colno}"
        raise InputError(
            f'it is not valid JSON ({told}); write one object a line, {{"text": "a red circle"}}'
        ) from error
    except ValueError as error:
        raise InputError(f"it is not valid JSON ({some([reason(error)])}).") from error
    if not isinstance(values, dict):
        own = values if isinstance(values, str) else "a red circle"
        raise InputError(f'it is no JSON object; write {{"text": {json.dumps(own)[:60]}}} or the like.')
    for key, value in values.items():
        _check(key, value)
    drawn = [key for key in values if key.startswith("first_frame") and values[key] not in (None, "")]
    if drawn and values.get("image") is not None:
        raise InputError(f"image names a first frame, and {drawn[0]} is of one that is drawn; give one of the two.")
    said = values | {k: str(folder / values[k]) for k in ("image", "last_image") if values.get(k) is not None}
    return replace(
        base, **{k: float(v) if type(v) is int and TYPES[k] in (float, float | None) else v for k, v in said.items()}
    )


def _check(key: str, value: Any) -> None:
    if key not in KEYS:
        near = nearest(key, KEYS)
        hint = f"did you mean {near!r}?" if near else "`dreamfactory generate --help` names them all."
        raise InputError(f"there is no setting {some([key])!r} of a clip; {hint}")
    kinds = get_args(TYPES[key]) or (TYPES[key],)
    if value is None and type(None) in kinds:
        return
    wanted = next(kind for kind in kinds if kind is not type(None))
    fits = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
    if wanted is str and isinstance(value, str) and not is_text(value):
        raise InputError(f"{key} holds characters that are no text; write it again.")
    if fits and isinstance(value, int | float) and not abs(value) < 2**63:
        raise InputError(f"{key} is {str(value)[:20]}…; expected a number that a machine can hold.")
    if not fits:
        names = {str: "text in quotes", int: "a whole number", float: "a number"}
        raise InputError(f"{key} is {json.dumps(value)[:60]}; expected {names[wanted]}.")


def _once(pairs: list[tuple[str, Any]]) -> dict:
    """An object whose keys are there once each: JSON's readers keep the last one without a word."""
    pairs = [(key.replace("-", "_"), value) for key, value in pairs]
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in names if names.count(k) > 1)!r} is there twice")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def is_text(value: str) -> bool:
    """Whether a tokenizer and a file system can take it."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
