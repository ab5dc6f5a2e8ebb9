"""What a folder of transformers or diffusers says of its network, held to what such a network can be.

The libraries build whatever a config.json asks for, and only then look at the weights. So every field that they get
from here is known, of its type and within its bounds; no layer more than there are weights; and (`check_count`) the
network no larger than its files. What else a config says (code of its own, another attention, another quantization) is
left out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError, shown, some
from ...files import no_file, read_json
from .files import Header, read_header

WIDEST, MOST_LAYERS, MOST_WORDS = 2**16, 1000, 2**22
SLACK = 2**20  # numbers
COUNTS = re.compile(r"layers|blocks|depth")  # fields that say how many of something there are
PICKLED = re.compile(r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin")  # transformers' and diffusers' plain weights
MAX_TOKENIZER = 2**26  # bytes of one of a tokenizer's files
MAX_TOKENIZER_ITEMS = 2_000_000


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    most: int = WIDEST
    least: int = 1

    def read(self, value: object) -> int | None:
        return value if type(value) is int and self.least <= value <= self.most else None

    def __str__(self) -> str:
        return f"a whole number, {self.least} to {self.most}"


@dataclass(frozen=True)
class Number:
    """A number, finite and not negative."""

    most: float = 1e6

    def read(self, value: object) -> float | None:
        if type(value) is not int and type(value) is not float:
            return None
        return float(value) if 0 <= value <= self.most else None  # nan is in no range

    def __str__(self) -> str:
        return f"a number, 0 to {self.most:g}"


@dataclass(frozen=True)
class Name:
    """A short text."""

    def read(self, value: object) -> str | None:
        return value if isinstance(value, str) and 0 < len(value) <= 60 and value.isprintable() else None

    def __str__(self) -> str:
        return "a name"


@dataclass(frozen=True)
class Switch:
    def read(self, value: object) -> bool | None:
        return value if isinstance(value, bool) else None

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Several:
    """A list of one kind of value."""

    of: Whole | Name
    most: int = 32

    def read(self, value: object) -> list | None:
        if not isinstance(value, list) or not 0 < len(value) <= self.most:
            return None
        return value if all(self.of.read(v) is not None for v in value) else None

    def __str__(self) -> str:
        return f"a list of 1 to {self.most}, each {self.of}"


Kind = Whole | Number | Name | Switch | Several
LAYERS, TOKEN = Whole(MOST_LAYERS), Whole(MOST_WORDS, 0)

CLIP_TEXT: dict[str, Kind] = {
    "vocab_size": Whole(MOST_WORDS), "hidden_size": Whole(), "intermediate_size": Whole(2**18),
    "projection_dim": Whole(), "num_hidden_layers": LAYERS, "num_attention_heads": Whole(),
    "max_position_embeddings": Whole(), "hidden_act": Name(), "layer_norm_eps": Number(1), "bos_token_id": TOKEN,
    "eos_token_id": TOKEN, "pad_token_id": TOKEN,
}  # fmt: skip
CLIP_VISION: dict[str, Kind] = {
    "hidden_size": Whole(), "intermediate_size": Whole(2**18), "projection_dim": Whole(), "num_hidden_layers": LAYERS,
    "num_attention_heads": Whole(), "num_channels": Whole(3, 3), "image_size": Whole(4096), "patch_size": Whole(4096),
    "hidden_act": Name(), "layer_norm_eps": Number(1),
}  # fmt: skip
T5: dict[str, Kind] = {
    "vocab_size": Whole(MOST_WORDS), "d_model": Whole(), "d_kv": Whole(), "d_ff": Whole(2**18), "num_layers": LAYERS,
    "num_heads": Whole(), "relative_attention_num_buckets": Whole(2**12),
    "relative_attention_max_distance": Whole(2**20), "layer_norm_epsilon": Number(1), "feed_forward_proj": Name(),
    "tie_word_embeddings": Switch(), "eos_token_id": TOKEN, "pad_token_id": TOKEN,
}  # fmt: skip
KL_VAE: dict[str, Kind] = {
    "in_channels": Whole(3, 3), "out_channels": Whole(3, 3), "down_block_types": Several(Name()),
    "up_block_types": Several(Name()), "block_out_channels": Several(Whole()), "layers_per_block": Whole(32),
    "act_fn": Name(), "latent_channels": Whole(4096), "norm_num_groups": Whole(), "sample_size": Whole(2**14),
    "scaling_factor": Number(), "force_upcast": Switch(), "use_quant_conv": Switch(), "use_post_quant_conv": Switch(),
    "mid_block_add_attention": Switch(),
}  # fmt: skip


def checked(values: Mapping, known: Mapping[str, Kind], file: Path, weights: int, *, nulls: bool = True) -> dict:
    """The known fields of a config. Those that are not there have the library's default.

    weights: how many the files hold: a layer has at least one. nulls: whether null is the default too. Raises
    CheckpointError with one sentence.
    """
    kept = {}
    for name, kind in known.items():
        if name not in values or (nulls and values[name] is None):
            continue
        kept[name] = kind.read(values[name])
        if kept[name] is None:
            raise CheckpointError(
                f"{file} says {name} = {shown(values[name])}; expected {kind}: put the network's own config.json there."
            )
        if kind is LAYERS and kept[name] > weights:
            raise CheckpointError(
                f"{file} says {name} = {kept[name]}, and there are {weights} weights; put the network's own "
                "config.json there."
            )
    return kept


def check_sizes(values: Mapping, file: Path, weights: int, most: int = MOST_WORDS) -> None:
    """The same for a config of any class: no whole number beyond `most`, no more layers than there can be.

    weights: how many the files hold; 0: it is not known.
    """
    together = 1
    for name, value in values.items():
        found = [n for n in _leaves(value) if type(n) is int]
        if any(abs(n) > most for n in found):
            raise CheckpointError(
                f"{file} says {some([name])} = {shown(value)}; expected {most:,} at most: download or save it again."
            )
        if weights and COUNTS.search(name):
            together *= max([1, *found])
    if weights and together > 10 * weights + MOST_LAYERS:
        raise CheckpointError(
            f"{file} asks for {together:,} layers, and there are {weights:,} weights; download or save both again."
        )


def _leaves(value: object) -> Iterator[object]:
    """Of lists and objects in each other, as deep as JSON was read."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, dict)):
            waiting += value.values() if isinstance(value, dict) else value
        else:
            yield value


def weight_files(folder: str | os.PathLike) -> list[Path]:
    """The weights in a transformers or diffusers folder: safetensors, where there are none torch.save's."""
    found = sorted(Path(folder).glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(Path(folder).glob("*pytorch_model*.bin"))
    return [file for file in pickled if PICKLED.fullmatch(file.name)] or pickled  # before variants in half precision


def read_headers(files: Iterable[str | os.PathLike]) -> list[Header]:
    """Of a network's weight files; damaged ones are told in a sentence, by the libraries they are not."""
    return [read_header(file) for file in files]


def numbers_in(headers: Iterable[Header]) -> int:
    """All weights' numbers together."""
    return sum(math.prod(shape) for header in headers for shape in header.shapes.values())


def check_count(needed: int, headers: Iterable[Header], folder: Path) -> None:
    """Refuse a network far larger than its files: what is missing would be made up, in memory.

    A few weights too few are left to the library, which names them.
    """
    there = numbers_in(headers)
    if needed > 2 * there + SLACK:
        raise CheckpointError(
            f"{folder} has a config.json of a network with {needed:,} numbers, and its weights have {there:,}; "
            "download or save both again."
        )


def check_tokenizer_files(folder: Path, names: Iterable[str], settings: Iterable[str]) -> None:
    """Refuse what no tokenizer is: no file, far too long, settings that are none or that lead out of the folder.

    names: files that are read if they are there; settings: those of them that hold settings.
    """
    for name in names:
        file = folder / name
        if not os.path.lexists(file):
            continue
        if (told := no_file(file)) is not None:
            raise CheckpointError(f"{told}; put the model's own {name} there.")
        if file.stat().st_size > MAX_TOKENIZER or _marks(file) > MAX_TOKENIZER_ITEMS:
            raise CheckpointError(f"{file} is larger than any tokenizer's; put the model's own {name} there.")
    for name in settings:
        if os.path.lexists(folder / name):
            values = read_json(folder / name, f"put the model's own {name} there")
            check_names(values, folder / name)


def _marks(file: Path) -> int:
    """Entries of JSON, at most."""
    if file.suffix != ".json":
        return 0
    text = file.read_bytes()
    return sum(text.count(mark) for mark in (b",", b"[", b"{"))


def check_names(values: Mapping, file: Path) -> None:
    """Further files that settings name, which the libraries would open wherever they point, are names and no paths."""
    for key, named in values.items():
        if not key.endswith(("_file", "_files")):
            continue
        for name in named if isinstance(named, list) else [named]:
            if name is not None and not (isinstance(name, str) and _is_name(name)):
                raise CheckpointError(
                    f"{file} names {shown(name)}, outside of its folder; put the model's own {file.name} there."
                )


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 255 and name.isprintable() and name not in (".", "..") and not set(name) & set("/\\:")
