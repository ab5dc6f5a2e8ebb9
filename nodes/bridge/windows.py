"""What is given by frame, cut to the frames that a network sees together: the host's context windows, and pieces.

The host cuts tensors of a conditioning that hold one row a frame; hints of ControlNets it leaves whole, so that every
window would follow those of the first frames. They are cut here, in whatever way they are given: one for all, one a
frame, or fewer than frames, which ControlNet repeats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...errors import NodeError
from .tell import tell

KEY = "dreamfactory_windows"  # of wrapper and callback in the host
KEPT = 16  # ControlNets of windows that hold their hints ready, at most
PREFIX = "dreamfactory_"  # of what a conditioning holds for our networks (model.py)
PROMPTS, HINTS = "prompts", "ControlNet hints"
BY_FRAME = {"mask": "masks", "pooled_output": PROMPTS}  # of a conditioning's values, beside the text itself


def cut_hints_by_window(patcher) -> None:
    """Let a MODEL's ControlNets follow the host's context windows."""
    kept = _Kept()

    def calculate(executor, model, conds, x, timestep, options):
        window = options.get("transformer_options", {}).get("context_window")
        if window is not None and window.dim == 0:
            frames = frames_of(window)
            cuts: dict = {}  # one for both sides of guidance, which the host runs together then
            conds = [_with_cut_hints(cond, frames, kept, cuts) for cond in conds]
        return executor(model, conds, x, timestep, options)

    patcher.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calculate)
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, lambda _: kept.clear())


def frames_of(window) -> list[int]:
    """Frames of the whole clip that a context window holds, its anchor in front."""
    anchor = getattr(window, "causal_anchor_index", None)
    return ([anchor] if anchor is not None and anchor >= 0 else []) + list(window.index_list)


class _Kept(dict):
    """ControlNets with the hints of a window, of the first windows: every step asks for them anew."""

    def cut(self, control, frames: Sequence[int]):
        key = (id(control), tuple(frames))
        if key in self:
            return self[key][1]
        cut = cut_control(control, lambda count: [f % count for f in frames])
        if len(self) < KEPT:
            self[key] = control, cut  # the first is held, so that no other takes its id
        return cut


def _with_cut_hints(cond: list[dict] | None, frames: Sequence[int], kept: _Kept, cuts: dict) -> list[dict] | None:
    if cond is None or not any(entry.get("control") is not None for entry in cond):
        return cond
    entries = [dict(entry) for entry in cond]
    for entry in entries:
        control = entry.get("control")
        if control is not None:
            if id(control) not in cuts:
                cuts[id(control)] = kept.cut(control, frames)
            entry["control"] = cuts[id(control)]
    return entries


def cut_control(control, rows: Callable[[int], list[int] | slice]):
    """A ControlNet, and those before it, with the hints of some frames; weights and settings are shared.

    rows(count): which of so many hints; asked only where there are several.
    """
    cut = copy.copy(control)
    cut.cond_hint = cut.extra_concat = None  # made again from what is cut
    cut.cond_hint_original = _rows(control.cond_hint_original, rows)
    cut.extra_concat_orig = [_rows(c, rows) for c in control.extra_concat_orig]
    if control.previous_controlnet is not None:
        cut.previous_controlnet = cut_control(control.previous_controlnet, rows)
    return cut


def _rows(values, rows: Callable[[int], list[int] | slice]):
    if not isinstance(values, Tensor) or len(values) < 2:
        return values
    return values[rows(len(values))]


def check_by_frame(side: str, conditioning: list, frames: int, least: int, whole: bool = False) -> None:
    """Refuse, before anything is sampled, what is given by frame for fewer of a clip's frames than `least`.

    whole: the clip ends with `frames`; prompts and masks are for all of them then, as KSampler asks. Hints may be
    fewer (the last one stands for the rest) or more, which is told.
    """
    for what, count in sorted(_counts(conditioning)):
        hints = what == HINTS
        if count < least or (whole and not hints and count != frames):
            raise NodeError(
                f"{side}: it holds {count} {what} for a clip of {frames} frames; give one, or one for each frame."
            )
        if count < frames:
            tell(f"{side} holds {count} {what} for a clip of {frames} frames; the last one stands for the rest.")
        elif count > frames and whole:
            tell(f"{side} holds {count} {what} for a clip of {frames} frames; those beyond its end count for nothing.")


def _counts(conditioning: list) -> set[tuple[str, int]]:
    """(what, how many) of all that is given by frame."""
    found = set()

    def note(what: str):
        def rows(count: int) -> slice:
            found.add((what, count))
            return slice(None)

        return rows

    for text, values in conditioning:
        _rows(text, note(PROMPTS))
        for name, what in BY_FRAME.items():
            _rows(_by_frame(values, name), note(what))
        if values.get("control") is not None:
            cut_control(values["control"], note(HINTS))
    return found


def cut_conditioning(sides: Sequence[list], start: int, length: int) -> list[list]:
    """A whole clip's conditionings as those of its frames [start, start + length); the last row stands for what lies
    beyond. ControlNets that both sides share stay shared: the host runs them together."""
    cuts: dict[int, object] = {}

    def rows(count: int) -> list[int]:
        return [min(frame, count - 1) for frame in range(start, start + length)]

    def cut(text: Tensor, values: dict) -> list:
        values = dict(values)
        for name in BY_FRAME:
            if name in values:
                values[name] = values[name] if (v := _by_frame(values, name)) is None else _rows(v, rows)
        control = values.get("control")
        if control is not None:
            if id(control) not in cuts:
                cuts[id(control)] = cut_control(control, rows)
            values["control"] = cuts[id(control)]
        return [_rows(text, rows), values]

    for side in sides:
        for _, values in side:
            _refuse_several(values.get(PREFIX + "first_frame"))
    return [[cut(text, values) for text, values in side] for side in sides]


def _by_frame(values: dict, name: str) -> Tensor | None:
    """A conditioning's value where it holds rows: a mask of one picture (h, w) does not."""
    value = values.get(name)
    return value if isinstance(value, Tensor) and not (name == "mask" and value.ndim < 3) else None


def _refuse_several(pictures) -> None:
    if isinstance(pictures, Tensor) and len(pictures) > 1:
        raise NodeError(
            f"first_frame: it holds {len(pictures)} pictures, and a long clip goes on from its own last frames; give "
            "Image to Video one."
        )
