"""What is given by frame, cut to the frames that a network sees together: the host's context windows, and pieces.

The host cuts tensors of a conditioning that hold one row a frame; hints of ControlNets it leaves whole, so that every
window would follow those of the first frames. They are cut here, in whatever way they are given: one for all, one a
frame, or fewer than frames, which ControlNet repeats.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from .errors import NodeError

KEY = "dreamfactory_windows"  # of wrapper and callback in the host
KEPT = 16  # ControlNets of windows that hold their hints ready, at most
BY_FRAME = ("mask", "pooled_output")  # of a conditioning's values, beside the text itself


def cut_hints_by_window(patcher) -> None:
    """Let a MODEL's ControlNets follow the host's context windows."""
    kept = _Kept()

    def calculate(executor, model, conds, x, timestep, options):
        window = options.get("transformer_options", {}).get("context_window")
        if window is not None and window.dim == 0:
            frames = frames_of(window)
            conds = [_with_cut_hints(cond, frames, kept) for cond in conds]
        return executor(model, conds, x, timestep, options)

    patcher.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calculate)
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, lambda _: kept.clear())


def frames_of(window) -> list[int]:
    """Frames of the whole clip that a context window holds, its anchor in front."""
    anchor = getattr(window, "causal_anchor_index", None)
    return ([anchor] if anchor is not None and anchor >= 0 else []) + list(window.index_list)


class _Kept(OrderedDict):
    """ControlNets with the hints of a window, the last ones used; the same one for both sides of guidance."""

    def cut(self, control, frames: Sequence[int]):
        key = (id(control), tuple(frames))
        if key not in self:
            self[key] = cut_control(control, lambda count: [f % count for f in frames])
        self.move_to_end(key)
        if len(self) > KEPT:
            self.popitem(last=False)
        return self[key]


def _with_cut_hints(cond: list[dict] | None, frames: Sequence[int], kept: _Kept) -> list[dict] | None:
    if cond is None or not any(entry.get("control") is not None for entry in cond):
        return cond
    entries = [dict(entry) for entry in cond]
    for entry in entries:
        if entry.get("control") is not None:
            entry["control"] = kept.cut(entry["control"], frames)
    return entries


def cut_control(control, rows: Callable[[int], Sequence[int]]):
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


def _rows(values, rows: Callable[[int], Sequence[int]]):
    if not isinstance(values, Tensor) or len(values) < 2:
        return values
    return values[list(rows(len(values)))]


def cut_conditioning(side: str, conditioning: list, start: int, length: int, known: int) -> list:
    """A whole clip's conditioning as that of its frames [start, start + length), the first `known` of them made.

    Raises NodeError where something is given by frame, and not for these.
    """
    piece = range(start, start + length)

    def rows(what: str) -> Callable[[int], Sequence[int]]:
        def chosen(count: int) -> list[int]:
            if count <= start + (known if start else 0):
                raise NodeError(
                    f"{side}: it holds {count} {what}, and the piece's frames are {piece[0] + 1} to {piece[-1] + 1} of "
                    "the clip; give one, or one for each frame of the whole clip."
                )
            if count <= piece[-1]:
                logging.warning(
                    "DreamFactory: %s holds %d %s, and the piece ends with frame %d; the last one stands for the rest.",
                    side, count, what, piece[-1] + 1,
                )  # fmt: skip
            return [min(f, count - 1) for f in piece]

        return chosen

    cut = []
    for text, values in conditioning:
        values = dict(values)
        for name in BY_FRAME:
            if isinstance(values.get(name), Tensor):
                if name == "mask" and values[name].ndim < 3:
                    continue
                values[name] = _rows(values[name], rows("masks" if name == "mask" else "prompts"))
        if values.get("control") is not None:
            values["control"] = cut_control(values["control"], rows("ControlNet hints"))
        _refuse_several(side, values.get("dreamfactory_first_frame"))
        cut.append([_rows(text, rows("prompts")), values])
    return cut


def _refuse_several(side: str, pictures) -> None:
    if isinstance(pictures, Tensor) and len(pictures) > 1:
        raise NodeError(
            f"{side}: it holds {len(pictures)} first frames, and a long clip goes on from its own last ones; give "
            "Image to Video one first_frame."
        )
