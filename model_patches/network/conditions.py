"""What a clip is made from besides its noise: as the caller gives it, and as the layers read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from torch import Tensor

from .hooks import Hooks

STRENGTHS = ("image_adapter", "paca", "swap_attention")
SWAP_WINDOWS = ("trained", "global")


@dataclass(frozen=True)
class Conditions:
    """The conditions of b clips of t frames. Those that speak of a clip have b rows, or one that serves every clip.

    Raises ValueError for names that do not exist, and where the number of dimensions is another.
    """

    text: Tensor  # (b, n, context_dim) prompt tokens, or (b*t, n, context_dim): one prompt a frame
    _: KW_ONLY
    motion_text: Tensor | None = None  # (b, m, motion_dim) tokens of the T5 (FD 3.2)
    first_frame: Tensor | None = None  # (b, in_channels, h, w) clean latents: concatenated, and what PACA looks at
    last_frame: Tensor | None = None  # (b, in_channels, h, w), where `first_frame_concat` is "ends"
    image_tokens: Tensor | None = None  # (b, n, image_token_dim) for the image adapter, see `VideoUNet.project_image`
    frame_rate: Tensor | float | None = None  # frames a second, one number or (b,); None: the config's default
    frame_index: Tensor | None = None  # (t,) or (b, t) positions in a longer clip; None: 0, 1, 2, …
    still: bool | None = None  # leave the temporal half out; None: for single frames (VF C.3)
    strengths: Mapping[str, float] = field(default_factory=dict)  # of a branch of STRENGTHS, each 1; 0 switches it off
    swap_windows: str = "trained"  # or "global" (VF Table 2)

    def __post_init__(self) -> None:
        for name, dimensions in DIMENSIONS.items():
            tensor = getattr(self, name)
            if tensor is not None and tensor.ndim != dimensions:
                raise ValueError(f"{name} has {tensor.ndim} dimensions, {tuple(tensor.shape)}; it takes {dimensions}.")
        unknown = sorted(set(self.strengths) - set(STRENGTHS))
        if unknown:
            raise ValueError(f"unknown strength {unknown[0]!r}; choose from {', '.join(STRENGTHS)}.")
        if self.swap_windows not in SWAP_WINDOWS:
            raise ValueError(f"swap_windows is {self.swap_windows!r}; choose from {', '.join(SWAP_WINDOWS)}.")

    def for_clips(self, clips: int, frames: int) -> Conditions:
        """One row a clip everywhere (text may have one a frame); a single row serves all clips."""
        expanded = {}
        for name in DIMENSIONS:
            tensor = getattr(self, name)
            if tensor is not None:
                expanded[name] = _rows(name, tensor, clips, clips * frames if name == "text" else clips)
        return replace(self, **expanded)


DIMENSIONS = {"text": 3, "motion_text": 3, "first_frame": 4, "last_frame": 4, "image_tokens": 3}


def _rows(name: str, tensor: Tensor, clips: int, most: int) -> Tensor:
    if tensor.shape[0] in (clips, most):
        return tensor
    if tensor.shape[0] == 1:
        return tensor.expand(clips, *tensor.shape[1:])
    takes = " or ".join(str(rows) for rows in sorted({1, clips, most}))
    raise ValueError(f"{name} has {tensor.shape[0]} rows for {clips} clips; it takes {takes}.")


@dataclass
class Embedded:
    """The conditions of one forward pass as layers read them: embedded, and in the network's precision."""

    timestep: Tensor  # (b*t, 4*model_channels), with the frame rate's embedding
    text: Tensor  # (b, n, context_dim) or (b*t, n, context_dim)
    frames: int
    still: bool
    frame_index: Tensor
    motion_text: Tensor | None = None  # (b, m, motion_dim)
    image_tokens: Tensor | None = None  # (b, n, image_token_dim) or (b*t, n, image_token_dim)
    pyramid: list | None = None  # PACA's features of the first frame, one (tokens, size) a level
    strengths: Mapping[str, float] = field(default_factory=dict)
    swap_windows: str = "trained"
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def options(self) -> dict | None:
        return self.hooks.options

    def strength(self, name: str) -> float:
        return self.strengths.get(name, 1.0)
