"""One dataclass that says everything about a network's shape.

Shapes alone do not tell 8 heads from C/64 heads, or a table of positions from none, so a checkpoint carries
this config in its header and no file name is ever parsed for meaning. Where a paper is silent or contradicts
itself the choice is a field here, with the reading beside it. FD = Factorized-Dreamer, VF = VideoFactory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ...errors import ConfigError, nearest, shown

# Far beyond any network's, so that a header cannot ask for one that no machine builds.
LEVELS = 8
MOST = {
    "num_res_blocks": 4, "in_channels": 4096, "out_channels": 4096, "model_channels": 8192, "channel_mult": 64,
    "norm_groups": 8192, "num_heads": 1024, "temporal_num_heads": 1024, "init_temporal_heads": 1024, "head_dim": 8192,
    "init_temporal_head_dim": 8192, "swap_head_dim": 8192, "swap_window": 4096, "flow_channels": 4096,
    "image_tokens_per_frame": 65536, "known_frames": 65536, "first_frame_reach": 65536, "frame_rate_default": 65536,
    "depth": 64, "heads": 1024, "ff_mult": 64, "frames": 4096, "queries": 65536,
}  # fmt: skip
WIDEST = 65536  # of tokens, and of anything that is not named above

CHOICES = {
    "temporal_positions": ("none", "sinusoidal"),
    "temporal_norm": ("clip", "frame"),
    "motion_text": ("off", "added", "replace"),
    "fusion": ("sum", "conv", "conv_except_swap"),
    "swap_attention": ("off", "swapped", "spatial_query", "temporal_query"),
    "first_frame_concat": ("off", "repeat", "ends"),
    "frame_rate_embedding": ("off", "fps", "stride"),
    "image_adapter": ("off", "up", "all"),
    "image_scale": ("fixed", "learnable"),
    "image_uncond": (None, "same", "grey", "zeros"),
}


@dataclass(frozen=True)
class ProjectorConfig:
    """Image features -> image tokens of the adapter.

    `linear` is IP-Adapter's base form (one pooled vector -> `queries` tokens); `resampler` is the perceiver of
    IP-Adapter-plus, VideoCrafter and DynamiCrafter. `frames` gives each frame its own queries (DynamiCrafter).
    `features`: what of the vision encoder goes in, "pooled", "penultimate" (IP-Adapter-plus) or "last"; None is
    "pooled" for linear and "last" for a resampler (LVDM).
    """

    kind: str = "resampler"
    embedding_dim: int = 1280
    output_dim: int = 1024
    queries: int = 16
    dim: int = 1024
    depth: int = 4
    heads: int = 12
    head_dim: int = 64
    ff_mult: int = 4
    frames: int | None = None
    features: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "resampler"):
            raise ConfigError(f"image_projector.kind is {shown(self.kind)}; expected 'linear' or 'resampler'.")
        for name in ("embedding_dim", "output_dim", "queries", "dim", "depth", "heads", "head_dim", "ff_mult"):
            _whole(f"image_projector.{name}", getattr(self, name))
        if self.frames is not None:
            _whole("image_projector.frames", self.frames)
        if self.features not in (None, "pooled", "penultimate", "last"):
            raise ConfigError(
                f"image_projector.features is {shown(self.features)}; expected pooled, penultimate or last."
            )

    @property
    def reads(self) -> str:
        """What of the vision encoder goes in: "pooled", "penultimate" or "last"."""
        return self.features or ("pooled" if self.kind == "linear" else "last")


@dataclass(frozen=True)
class UNetConfig:
    """The spatio-temporal UNet. Defaults are Stable Diffusion 2.1's spatial half with every addition off."""

    # Spatial half (Stable Diffusion).
    in_channels: int = 4  # latent channels; first-frame channels are added by `first_frame_concat`
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    context_dim: int = 1024  # width of the text tokens
    num_heads: int | None = None  # SD 1.5: 8 heads at every width ...
    head_dim: int | None = 64  # ... SD 2.1: heads of 64. Exactly one of the two is set.
    linear_projection: bool = True  # SD 2.1; SD 1.5 projects with 1x1 convolutions
    norm_groups: int = 32

    # Temporal half (ModelScope's layout). Heads follow the spatial rule unless set (AnimateDiff: 8).
    temporal_conv: bool = False
    temporal_attention: bool = False
    temporal_attention_levels: tuple[bool, ...] | None = None  # None: where the spatial attention is
    temporal_attention_middle: bool = True
    temporal_num_heads: int | None = None
    temporal_positions: str = "none"
    temporal_norm: str = "clip"  # GroupNorm of temporal transformers; AnimateDiff's own code takes it by "frame"
    init_temporal: bool = False
    init_temporal_heads: int = 8
    init_temporal_head_dim: int = 64  # inner width 512, whatever the model's width
    dropout: float = 0.0  # inside temporal convolutions, in training only (ModelScope: 0.1)

    # Motion text (FD 3.2). `added`: a third attention, zero at its output, so imported weights stay exact.
    # `replace`: motion text takes the place of the second self-attention, as the paper can be read literally.
    motion_text: str = "off"
    motion_dim: int = 4096  # T5 v1.1 XXL; the paper does not state T5's size

    # VideoFactory. `conv_except_swap` keeps plain sums where Swap-CA will come: the form to train before it.
    fusion: str = "sum"
    temporal_skips: bool = False
    swap_attention: str = "off"
    swap_window: tuple[int, int, int] | None = (8, 3, 6)  # F, H, W; None: one global window (VF Table 2)
    swap_shift: bool = True  # every second site shifts its windows in time by ceil(F_w / 2)
    swap_head_dim: int = 64

    # First frame. FD Fig. 2 feeds the noisy latent "along with the latent first frame": extra input channels,
    # repeated over the frames, or at the two ends with zeros between (DynamiCrafter's interpolation).
    first_frame_concat: str = "off"
    paca: bool = False
    paca_positions: bool = True  # 2-D sine positions on PACA's queries and keys; not stated in FD

    # Image adapter (FD Eq. 2). The figure places it in the up path, the text does not say: `up` | `all`.
    image_adapter: str = "off"
    image_token_dim: int = 1024
    image_tokens_per_frame: int | None = None  # set: n * frames tokens are split frame by frame
    image_scale: str = "fixed"  # learnable: times tanh(alpha) + 1 (DynamiCrafter 256)
    image_projector: ProjectorConfig | None = None
    # What stands for no picture in guidance: the "same" tokens as beside the prompt, those of a "grey" picture (LVDM),
    # or of "zeros" for the pooled embedding, and for an encoder's normalised pixels where a resampler reads its patches
    # (IP-Adapter). None is "grey" for tokens a frame (DynamiCrafter's files from before this field), else "same".
    image_uncond: str | None = None

    # Long clips, piece by piece: how many first frames a piece may be given as they are, without noise and at timestep
    # 0 (Chen et al. 2024, Diffusion Forcing); and how many frames before its clip the first frame may lie.
    known_frames: int = 0
    first_frame_reach: int = 0

    frame_rate_embedding: str = "off"
    frame_rate_default: int = 8

    predict_net: bool = False  # FD Eq. 4: only in the last training stage, never needed to sample
    flow_channels: int = 2

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_levels", "temporal_attention_levels", "swap_window"):
            value = getattr(self, name)
            if value is not None:
                if not isinstance(value, list | tuple):
                    raise ConfigError(f"{name} is {shown(value)}; expected a list.")
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.image_projector, dict):
            object.__setattr__(self, "image_projector", _build(ProjectorConfig, self.image_projector))
        if self.image_projector is not None and not isinstance(self.image_projector, ProjectorConfig):
            raise ConfigError(f"image_projector is {shown(self.image_projector)}; expected its settings, or null.")
        self._check()

    def _check(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} is {shown(value)}; expected one of {', '.join(filter(None, allowed))}.")
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if isinstance(default, bool) and not isinstance(value, bool):
                raise ConfigError(f"{name} is {shown(value)}; expected true or false.")
        levels = len(self.channel_mult)
        if not 1 <= levels <= LEVELS:
            raise ConfigError(
                f"channel_mult has {levels} entries; expected one positive number a level, 1 to {LEVELS}."
            )
        for multiple in self.channel_mult:
            _whole("channel_mult", multiple)
        for name in ("attention_levels", "temporal_attention_levels"):
            value = getattr(self, name)
            if value is not None and len(value) != levels:
                raise ConfigError(f"{name} has {len(value)} entries for {levels} levels; give one a level.")
            if value is not None and not all(isinstance(there, bool) for there in value):
                raise ConfigError(f"{name} is {shown(value)}; expected true or false a level.")
        for name in (
            "in_channels",
            "out_channels",
            "model_channels",
            "num_res_blocks",
            "context_dim",
            "norm_groups",
            "motion_dim",
            "image_token_dim",
            "swap_head_dim",
            "init_temporal_heads",
            "init_temporal_head_dim",
            "flow_channels",
            "frame_rate_default",
        ):
            _whole(name, getattr(self, name))
        for name in ("num_heads", "head_dim", "temporal_num_heads", "image_tokens_per_frame"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name))
        for name in ("known_frames", "first_frame_reach"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"{name} is {shown(value)}; expected a whole number, 0 for off.")
            if value:
                _whole(name, value)
        if (self.num_heads is None) == (self.head_dim is None):
            raise ConfigError(
                f"num_heads is {self.num_heads} and head_dim {self.head_dim}; set exactly one of them "
                "(SD 1.5: num_heads 8; SD 2.1: head_dim 64)."
            )
        if self.model_channels % self.norm_groups:  # as wide as the first convolution makes it
            raise ConfigError(f"{self.model_channels} channels do not divide into norm_groups {self.norm_groups}.")
        for channels in {self.model_channels * m for m in self.channel_mult}:
            if channels > WIDEST:
                raise ConfigError(f"model_channels times channel_mult is {channels:,}; expected {WIDEST:,} at most.")
            if channels % self.norm_groups:
                raise ConfigError(f"{channels} channels do not divide into norm_groups {self.norm_groups}.")
            divisor = self.num_heads or self.head_dim
            if divisor is not None and channels % divisor:
                raise ConfigError(f"{channels} channels do not divide into heads of {divisor}.")
            if self.temporal_num_heads and channels % self.temporal_num_heads:
                raise ConfigError(f"{channels} channels do not divide into {self.temporal_num_heads} temporal heads.")
            if self.swap_attention != "off" and channels % self.swap_head_dim:
                raise ConfigError(f"{channels} channels do not divide into swap_head_dim {self.swap_head_dim}.")
            if self.paca and self.paca_positions and channels % 4:
                raise ConfigError(f"PACA's 2-D positions need a width divisible by 4, not {channels}.")
        if self.swap_window is not None:
            if len(self.swap_window) != 3:
                raise ConfigError(f"swap_window is {shown(self.swap_window)}; expected three sizes (F, H, W).")
            for side in self.swap_window:
                _whole("swap_window", side)
        if self.paca and not any(self.attention_levels):
            raise ConfigError("paca needs an attention level: it sits in the decoder's spatial transformers.")
        projector = self.image_projector
        if self.image_adapter != "off" and projector is not None and projector.output_dim != self.image_token_dim:
            raise ConfigError(
                f"image_projector makes tokens {projector.output_dim} wide, image_token_dim is {self.image_token_dim}; "
                "make them equal."
            )
        if not (self.temporal_conv or self.temporal_attention):
            needs = {
                "fusion": self.fusion != "sum",
                "swap_attention": self.swap_attention != "off",
                "temporal_skips": self.temporal_skips,
            }
            for name, used in needs.items():
                if used:
                    raise ConfigError(f"{name} needs a temporal half; set temporal_conv or temporal_attention.")
        if self.motion_text != "off" and not self.temporal_attention:
            raise ConfigError("motion_text needs temporal_attention: motion tokens enter the temporal transformers.")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {shown(self.dropout)}; expected a number in [0, 1).")

    # -- derived facts, asked for by name ---------------------------------------------------------------------

    @property
    def concat_channels(self) -> int:
        """Input channels of the first convolution."""
        return self.in_channels * (1 if self.first_frame_concat == "off" else 2)

    @property
    def uncond_image(self) -> str:
        """What stands for no picture in guidance: "same", "grey" or "zeros"."""
        return self.image_uncond or ("grey" if self.image_tokens_per_frame else "same")

    def heads(self, channels: int) -> int:
        """Spatial attention heads at a width."""
        if self.head_dim is not None:
            return channels // self.head_dim
        assert self.num_heads is not None  # one of the two is set
        return self.num_heads

    def temporal_heads(self, channels: int) -> int:
        """Temporal attention heads at a width."""
        return self.temporal_num_heads or self.heads(channels)

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> UNetConfig:
        """Strict: an unknown field is an error that names the nearest one."""
        return _build(cls, values)


DEFAULTS = {f.name: f.default for f in fields(UNetConfig)}


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {shown(value)}; expected a positive whole number.")
    most = MOST.get(name.rsplit(".", 1)[-1], WIDEST)
    if value > most:
        raise ConfigError(f"{name} is {shown(value)}; expected {most:,} at most.")


def _build(cls, values: dict):
    if not isinstance(values, dict):
        raise ConfigError(f"a network config must be a JSON object, not {type(values).__name__}.")
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known:
            near = nearest(name, known)
            hint = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(f"{cls.__name__} has no field {shown(name)}.{hint}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} cannot be read: {error}.") from error


__all__ = ["ProjectorConfig", "UNetConfig"]
