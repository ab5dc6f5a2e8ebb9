"""A run as data: one TOML file, every field typed, unknown keys refused with the nearest name.

The resolved config is saved in every checkpoint, so a checkpoint says how it was made.
"""

from __future__ import annotations

import ast
import difflib
import json
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import TrainingError

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class ModelConfig:
    """The network: a preset of model_patches.presets, with fields of UNetConfig changed."""

    preset: str = "tiny"
    config: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None  # a checkpoint to start from, ours or public
    gradient_checkpointing: bool = False  # less memory, about a quarter slower


@dataclass(frozen=True)
class DataConfig:
    kind: str = "tiny_world"
    frames: int = 8
    height: int = 64
    width: int = 64


@dataclass(frozen=True)
class EncoderConfig:
    """Where the frozen parts come from; "fresh" text and image encoders are tiny ones made and trained here."""

    codec: str = "demo"
    text: str = "fresh"
    motion: str = "fresh"
    image: str = "fresh"


@dataclass(frozen=True)
class OptimConfig:
    steps: int = 1000
    batch_size: int = 8
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100
    cosine_from: float = 1.0  # share of the steps after which the rate falls to zero along a cosine; 1: constant
    clip: float = 1.0
    ema: float = 0.998


@dataclass(frozen=True)
class LossConfig:
    flow_weight: float = 0.0  # gamma of FD Eq. 4; needs predict_net
    min_snr_gamma: float | None = None


@dataclass(frozen=True)
class DropoutConfig:
    """Chances that a clip's condition is left out, each drawn by itself (classifier-free guidance)."""

    text: float = 0.0
    motion: float = 0.0
    captions: float = 0.1  # both captions together
    image: float = 0.0


@dataclass(frozen=True)
class OutputConfig:
    folder: str = "runs/tiny"
    checkpoint_every: int = 500
    validate_every: int = 500
    validation_clips: int = 32
    validation_steps: int = 8
    guidance_scale: float = 2.0


@dataclass(frozen=True)
class RunConfig:
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: dict[str, Any] = field(default_factory=dict)  # fields of schedulers.ScheduleConfig
    data: DataConfig = field(default_factory=DataConfig)
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))


def load_run(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run file, or a preset by name ("demo"), with `a.b=value` overrides on top."""
    path = Path(path)
    if not path.suffix and (PRESETS / f"{path}.toml").exists():
        path = PRESETS / f"{path}.toml"
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise TrainingError(
            f"{path} cannot be read ({error.strerror}); give a .toml file or one of {names}."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides or []:
        _override(values, override)
    config = build(RunConfig, values, "")
    _check(config)
    return config


def _check(config: RunConfig) -> None:
    """Ranges, said before anything is built."""
    data, optim, output = config.data, config.optim, config.output
    least = {
        "threads": (config.threads, 1),
        "data.frames": (data.frames, 1),
        "data.height": (data.height, 8),
        "data.width": (data.width, 8),
        "optim.steps": (optim.steps, 1),
        "optim.batch_size": (optim.batch_size, 1),
        "optim.lr": (optim.lr, 0),
        "optim.warmup": (optim.warmup, 0),
        "optim.clip": (optim.clip, 0),
        "loss.flow_weight": (config.loss.flow_weight, 0),
        "output.checkpoint_every": (output.checkpoint_every, 1),
        "output.validate_every": (output.validate_every, 1),
        "output.validation_clips": (output.validation_clips, 0),
    }
    for name, (value, low) in least.items():
        if value is not None and not value >= low:
            raise TrainingError(f"{name} is {value}; expected at least {low}.")
    shares = {f"dropout.{f.name}": getattr(config.dropout, f.name) for f in fields(config.dropout)}
    shares |= {"optim.betas": max(optim.betas), "optim.ema": optim.ema, "optim.cosine_from": optim.cosine_from}
    for name, value in shares.items():
        if not 0 <= value <= 1 or (name == "optim.betas" and value == 1):
            raise TrainingError(f"{name} is {value}; expected 0 to 1.")
    if data.height % 8 or data.width % 8:
        raise TrainingError(f"data is {data.width}x{data.height}; both sides must be multiples of 8.")


def _override(values: dict, override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise TrainingError(f"--set {override!r} has no '='; write a.b=value.")
    try:
        value = {"true": True, "false": False, "none": None}[text.lower()]
    except KeyError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    *parents, leaf = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise TrainingError(f"--set {override!r}: {parent} is no table.")
    values[leaf] = value


def build(cls, values: dict, where: str):
    """A dataclass from plain data, strictly typed; errors name the field and the nearest known one."""
    hints, known = get_type_hints(cls), [f.name for f in fields(cls)]
    out = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
            raise TrainingError(f"unknown setting {where}{name}.{hint}")
        hint = hints[name]
        if is_dataclass(hint):
            if not isinstance(value, dict):
                raise TrainingError(f"{where}{name} is {value!r}; expected a table.")
            value = build(hint, value, f"{where}{name}.")
        else:
            value = _typed(hint, value, where + name)
        out[name] = value
    return cls(**out)


def _typed(hint, value, name: str):
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [h for h in get_args(hint) if h is not type(None)]
        return None if value is None else _typed(options[0], value, name)
    if origin is tuple:
        inner = get_args(hint)
        if isinstance(value, list | tuple) and len(value) == len(inner):
            return tuple(_typed(h, v, name) for h, v in zip(inner, value, strict=True))
        raise TrainingError(f"{name} is {value!r}; expected {len(inner)} values.")
    wanted = origin or hint
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TrainingError(f"{name} is {value!r}; expected {wanted.__name__}.")
    return value
