"""Text encoders of any size as the host's ordinary CLIP: prompt -> (1, n, width), n fixed.

The host's own loader knows a handful of T5 and CLIP models by their layer count. Here every size is read from the
weights, and a folder's config.json decides only what shapes cannot: heads, activation, epsilon.

    a transformers folder   config.json, model.safetensors (or pytorch_model.bin, or shards and their index), tokenizer
    a file                  T5 or CLIP text weights, bare or under a prefix; the host's bundled tokenizer

The numbers are those of pipelines.encoders.TextEncoder. T5: padded to n, padding masked inside and zero outside.
CLIP: padded as CLIP was trained. A prompt longer than n is cut, where the host's CLIP would append further sections:
the networks here were trained on one. Prompt weights, embeddings, LoRA, CLIPSetLastLayer and offloading are the host's.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.t5 as t5
import comfy.utils
import folder_paths
import torch
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPTokenizer,
    T5TokenizerFast,  # pyright: ignore[reportAttributeAccessIssue] (there, but not to its checkers)
)

from ...errors import NodeError, blameless, reason
from ...model_patches.tokens import T5_LENGTH, UNBOUNDED
from .tell import tell
from .text_weights import NAMES, SCALES, Found, Source, find, own_entries, root_of

LAYERS = ("auto", "last", "penultimate")

# Sizes of the vocabulary (rows of the table) that the host's bundled tokenizers belong to; T5's table is padded.
BUNDLED_ROWS = {"t5": range(32100, 32129), "clip": range(49408, 49409)}

# CLIP models by width, as the host's LoRA keys name them.
CLIP_NAMES = {768: "l", 1024: "h", 1280: "g"}
WORD = re.compile(r"\w+(?:['’-]\w+)*")
EMBEDDING = "embedding:"  # how a prompt names one
SHOWN = 5  # unknown words that are named
OPENCLIP_H = (1024, 24)  # width, layers: SD 2.x reads the one before the last; its diffusers folders have 23


def load_text_encoder(
    path: str | Path,
    *,
    layer: str = "auto",
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    disable_dynamic: bool = False,
) -> comfy.sd.CLIP:
    """A CLIP socket from a transformers folder or a .safetensors file.

    `layer` is CLIP's only: "last", "penultimate" (with the final norm), or "auto": what SD 1.x and 2.x do.
    `max_length` is the number of tokens n; None: the tokenizer's own limit, else 120 for T5. `dtype` is that of the
    stored weights (None: the host's choice); the arithmetic is the host's float32.
    Raises NodeError or CheckpointError with one sentence.
    """
    if layer not in LAYERS:
        raise NodeError(f"the text encoder's layer is {layer!r}; expected one of {', '.join(LAYERS)}.")
    source = Source.open(path)
    found = find(source)
    config = found.read_config(source)
    found.check(source, config)
    tokenizer = load_tokenizer(source, found.kind, config)
    length = _length(source, found.kind, config, tokenizer, max_length)
    index = layer_index(source, found.kind, config, layer)
    clip = _assemble(source, found, config, tokenizer, length, index, dtype, disable_dynamic)
    clip.patcher.cached_patcher_init = (_patcher, (path, layer, max_length, dtype))  # for a second copy
    return clip


def _patcher(path, layer, max_length, dtype, disable_dynamic: bool = False):
    """As the host asks for a copy of an encoder: where hooks change its weights, or on another device."""
    return load_text_encoder(
        path, layer=layer, max_length=max_length, dtype=dtype, disable_dynamic=disable_dynamic
    ).patcher


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and its special tokens. CLIP's prompts have a start, T5's none."""

    call: Callable
    start: int | None
    end: int
    pad: int
    limit: int  # tokens it was made for; huge: it does not say

    @property
    def special_tokens(self) -> dict[str, int]:
        return ({} if self.start is None else {"start": self.start}) | {"end": self.end, "pad": self.pad}


def load_tokenizer(source: Source, kind: str, config: dict) -> Tokenizer:
    """The folder's own, else the bundled one of the host where the vocabulary is its."""
    rows = config["vocab_size"]
    folder = source.folder
    own = folder is not None and any((folder / n).exists() for n in ("tokenizer.json", "vocab.json"))
    if own:
        try:
            call = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises plain Exception
            if blameless(error):
                raise
            raise NodeError(
                f"the tokenizer in {folder} cannot be read ({reason(error)}); put the model's own tokenizer.json there."
            ) from error
        pad, limit, size = call.pad_token_id, call.model_max_length, len(call)
    elif folder is not None and kind == "t5" and (folder / "spiece.model").exists():
        call, limit = _sentencepiece(folder)
        pad, size = 0, len(call.get_vocab())
    elif rows in BUNDLED_ROWS[kind]:
        call = _bundled(kind)
        # OpenCLIP pads with 0, OpenAI with the end.
        pad = 0 if kind == "t5" or config["hidden_size"] >= 1024 else call.eos_token_id
        limit, size = call.model_max_length, rows
    else:
        raise NodeError(
            f"{source.path} has a vocabulary of {rows} tokens and no tokenizer of its own, ComfyUI's {NAMES[kind]}s "
            f"have {BUNDLED_ROWS[kind][-1]}; give its transformers folder with the tokenizer."
        )
    if size > rows:
        raise NodeError(
            f"{source.path} has a tokenizer of {size} tokens, its weights have {rows}; put its own tokenizer there."
        )
    call.model_max_length = sys.maxsize  # we cut, and say so; transformers would only warn of worse
    empty = call("")["input_ids"]
    if len(empty) != (1 if kind == "t5" else 2) or pad is None:
        expected = "an end" if kind == "t5" else "a start, an end"
        raise NodeError(f"{source.path} has a tokenizer without {expected} and a padding token; put its own there.")
    return Tokenizer(call, None if kind == "t5" else empty[0], empty[-1], pad, limit)


def _sentencepiece(folder: Path) -> tuple[SPieceTokenizer, int]:
    """transformers converts spiece.model only with protobuf, which the host lacks; the host's class reads it as is."""
    try:
        call = SPieceTokenizer(str(folder / "spiece.model"))
    except OSError as error:
        raise NodeError(f"{folder / 'spiece.model'} cannot be read: {reason(error)}.") from error
    except (ValueError, RuntimeError) as error:
        if blameless(error):
            raise
        raise NodeError(f"{folder / 'spiece.model'} is no SentencePiece model ({reason(error)}).") from error
    try:
        limit = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    except (OSError, ValueError, KeyError, TypeError):
        limit = UNBOUNDED
    return call, limit


def _bundled(kind: str):
    if kind == "t5":
        return T5TokenizerFast.from_pretrained(Path(inspect.getfile(t5)).parent / "t5_tokenizer")
    return CLIPTokenizer.from_pretrained(Path(inspect.getfile(comfy.sd1_clip)).parent / "sd1_tokenizer")


def _length(source: Source, kind: str, config: dict, tokenizer: Tokenizer, wanted: int | None) -> int:
    """Tokens of a prompt: as wanted, else the tokenizer's limit; CLIP has no more than it has positions."""
    positions = config.get("max_position_embeddings", UNBOUNDED)
    if wanted is None:
        limit = tokenizer.limit if tokenizer.limit < UNBOUNDED else T5_LENGTH
        return min(limit, positions)
    if not 2 <= wanted <= positions:
        most = "" if kind == "t5" else f" to {positions}"
        raise NodeError(f"max_length is {wanted}; {source.path} takes 2{most or ' or more'} tokens.")
    return wanted


def layer_index(source: Source, kind: str, config: dict, layer: str) -> int | None:
    """Of the layer whose output is taken; None: the last."""
    if kind == "t5":
        if layer == "penultimate":
            raise NodeError(f"{source.path} is a T5, whose last layer is always taken; choose the layer 'last'.")
        return None
    layers = config["num_hidden_layers"]
    if layer == "auto":
        layer = "penultimate" if (config["hidden_size"], layers) == OPENCLIP_H else "last"
    if layer == "penultimate" and layers < 2:
        raise NodeError(f"{source.path} has one layer, so no penultimate one; choose the layer 'last'.")
    return layers - 2 if layer == "penultimate" else None


def unknown_words(tokenizer, text: str) -> list[str]:
    """Words of a text that a tokenizer has no token for: a tiny vocabulary has many."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return []
    words = dict.fromkeys(WORD.findall(text))
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]


def _spoken(text: str) -> str:
    """A prompt without the host's syntax: weights, and embeddings by name."""
    parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
    words = " ".join(comfy.sd1_clip.unescape_important(part) for part, _ in parts).split()
    return " ".join(word for word in words if not word.startswith(EMBEDDING))


class FixedLengthTokenizer(comfy.sd1_clip.SDTokenizer):
    """One section of exactly `length` tokens; a longer prompt is cut, its end token kept."""

    def __init__(self, tokenizer: Tokenizer, length: int, name: str, width: int, embedding_directory, tokenizer_data):
        super().__init__(
            tokenizer_path="",
            tokenizer_class=SimpleNamespace(from_pretrained=lambda _: tokenizer.call),
            max_length=sys.maxsize,
            has_start_token=tokenizer.start is not None,
            pad_token=tokenizer.pad,
            pad_to_max_length=False,
            embedding_directory=embedding_directory,
            embedding_size=width,
            embedding_key=name,
        )
        self.length = length

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, disable_weights: bool = False, **_):
        """[[(token, weight[, word]), ...]]. Other nodes' wishes for padding do not apply: n is fixed."""
        [tokens] = super().tokenize_with_weights(text, return_word_ids=True, disable_weights=disable_weights)
        if len(tokens) > self.length:
            tell(f"The prompt has {len(tokens)} tokens, the text encoder takes {self.length}; the rest is left out.")
            tokens = [*tokens[: self.length - 1], tokens[-1]]
        unknown = unknown_words(self.tokenizer, text if disable_weights else _spoken(text))
        if unknown:
            told = ", ".join(map(repr, unknown[:SHOWN])) + (" and more" if len(unknown) > SHOWN else "")
            tell(f"The text encoder does not know {told}; it reads on without.")
        self.pad_tokens(tokens, self.length - len(tokens))
        return [tokens if return_word_ids else [token[:2] for token in tokens]]


def _assemble(
    source: Source,
    found: Found,
    config: dict,
    tokenizer: Tokenizer,
    length: int,
    layer: int | None,
    dtype: torch.dtype | None,
    disable_dynamic: bool,
) -> comfy.sd.CLIP:
    """The host's classes around our two."""
    is_t5 = found.kind == "t5"
    weights, quantization = _read(source, found)
    options: dict = {"layer": "last"} if layer is None else {"layer": "hidden", "layer_idx": layer}
    if is_t5:
        name, key = {"name": "t5xxl"}, "t5xxl"  # as the host's T5 LoRA keys begin
        options |= {"enable_attention_masks": True, "zero_out_masked": True}
        width = config["d_model"]
    else:
        width = config["hidden_size"]
        name = {"clip_name": CLIP_NAMES.get(width, "l")}
        key = f"clip_{name['clip_name']}"
        config = {**config, "max_position_embeddings": length}
        positions = "text_model.embeddings.position_embedding.weight"
        weights[positions] = weights[positions][:length]
        # CLIP without a projection: its pooled output as it is.
        weights.setdefault("text_projection.weight", torch.eye(width))
        options["return_projected_pooled"] = "text_projection.weight" in found.shapes
    model = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=length,
        textmodel_json_config=config,
        model_class=found.model_class,
        special_tokens=tokenizer.special_tokens,
        **options,
    )
    target = SimpleNamespace(
        params={**name, "clip_model": model},
        clip=comfy.sd1_clip.SD1ClipModel,
        tokenizer=partial(
            comfy.sd1_clip.SD1Tokenizer,
            tokenizer=partial(FixedLengthTokenizer, tokenizer, length, key, width),
            **name,
        ),
    )
    return comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(w.numel() for w in weights.values()),
        state_dict=[weights],  # whole: `Found.check` has seen to it
        model_options=({} if dtype is None else {"dtype": dtype}) | quantization,
        disable_dynamic=disable_dynamic,
    )


def _read(source: Source, found: Found) -> tuple[dict[str, Tensor], dict]:
    """The encoder's weights under the host's names, and the options that fp8 weights with scales need."""
    root = root_of(found.kind, found.prefix)
    loaded, _ = comfy.utils.convert_old_quants(source.read(), model_prefix=root, metadata=source.metadata)
    weights = own_entries(found.kind, found.prefix, loaded)
    quantization = comfy.utils.detect_layer_quantization(weights, "")
    if quantization is None and any(name.endswith(SCALES) for name in weights):
        raise NodeError(f"{source.path} is quantized in a way ComfyUI does not read; give plain weights.")
    return weights, {} if quantization is None else {"quantization_metadata": quantization}
