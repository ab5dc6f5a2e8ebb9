"""Text and image encoders: transformers' own classes, read from a folder, never from a hub.

TextEncoder   CLIP text for the spatial half, T5 for motion text   texts -> (b, n, width)
ImageEncoder  CLIP vision for the image adapter                    images -> pooled or patch features
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError, blameless, reason, shown, some
from ..files import no_file, read_json
from ..model_patches.checkpoints.files import Header, is_pickled, read_weights, write
from ..model_patches.checkpoints.foreign_config import (
    CLIP_TEXT,
    CLIP_VISION,
    T5,
    Kind,
    check_count,
    check_tokenizer_files,
    checked,
    read_headers,
    weight_files,
)
from ..model_patches.tokens import T5_LENGTH, UNBOUNDED

MOST_TOKENS = 4096  # of one text: attention's memory grows with their square

TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model")
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = (*TOKENIZERS, *TOKENIZER_SETTINGS, "added_tokens.json", "merges.txt", "chat_template.jinja")
CONFIG = "config.json"
LAYERS = ("last", "penultimate")
FEATURES = ("pooled", "penultimate", "last")

# Means and deviations CLIP was trained with (OpenAI and OpenCLIP alike).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def one_caption(text: str, motion: str) -> str:
    """What is seen and what happens as one caption, for networks that read no motion text."""
    return text if motion == text else ", ".join(filter(None, (text, motion)))


WORD = re.compile(r"\w+(?:['’-]\w+)*")  # what stands between words is not missed


class TextEncoder(nn.Module):
    """A transformers text model with its tokenizer: texts -> tokens (b, n, width) of one fixed length n.

    CLIP: padded as CLIP was trained, `layer` "last", or "penultimate" with the final norm (SD 2.x).
    T5: padding is masked inside the encoder and comes out as zero rows, which the network sees.
    """

    model: Any  # of transformers; its output and config have fields of their own

    def __init__(self, model: nn.Module, tokenizer, length: int, layer: str = "last") -> None:
        super().__init__()
        self.model, self.tokenizer, self.length, self.layer = model, tokenizer, length, layer

    @property
    def is_t5(self) -> bool:
        return self.model.config.model_type == "t5"

    @property
    def width(self) -> int:
        return self.model.config.d_model if self.is_t5 else self.model.config.hidden_size

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        layer: str = "last",
        dtype: torch.dtype = torch.float32,
        tokenizer: str | Path | None = None,
        weights: bool = True,
    ) -> TextEncoder:
        """Read `config.json`, the tokenizer and `model.safetensors` of a folder. tokenizer: its folder, if another.

        weights: without, the encoder can tell of captions (`is_cut`, `unknown_words`) and cannot encode them.
        """
        from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

        folder = Path(folder)
        if layer not in LAYERS:
            raise InputError(f"the text encoder's layer is {shown(layer)}; expected one of {', '.join(LAYERS)}.")
        values = read_config(folder)
        kind = values["model_type"]
        if kind not in ("clip_text_model", "clip", "t5"):
            raise InputError(f"{folder} holds a {shown(kind)} model; expected a CLIP text or T5 encoder.")
        is_t5, half = kind == "t5", values.get("text_config") if kind == "clip" else values
        fields = _fields(half, T5 if is_t5 else CLIP_TEXT, folder)
        words = folder if tokenizer is None else Path(tokenizer)
        tokenizer = load_tokenizer(words)
        if is_t5:
            model = _load(T5EncoderModel, T5Config, fields, folder, dtype if weights else None)
            length = stated_length(tokenizer, words, T5_LENGTH)
        else:
            model = _load(CLIPTextModel, CLIPTextConfig, fields, folder, dtype if weights else None)
            positions = model.config.max_position_embeddings
            length = min(stated_length(tokenizer, words, positions), positions)
        check_tokens(tokenizer, length, model.config.vocab_size, words)
        return cls(model, tokenizer, length, layer).eval()

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder that every version of it reads, and ComfyUI's loaders too."""
        _save(self.model, Path(folder), prefix="" if self.is_t5 else "text_model.")
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # else the last call's padding and truncation would be written along
            backend.no_padding()
            backend.no_truncation()
        self.tokenizer.save_pretrained(folder)
        config = Path(folder) / "tokenizer_config.json"
        # transformers 5 writes a class name that earlier versions do not know; this one all do.
        config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))

    def forward(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        device = next(self.model.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        if self.is_t5:
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden * mask[..., None].to(hidden)
        if self.layer == "last":
            return self.model(input_ids=ids).last_hidden_state
        hidden = self.model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        inner = getattr(self.model, "text_model", self.model)
        return inner.final_layer_norm(hidden)

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than what is read of it."""
        return is_cut(self.tokenizer, text, self.length)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the tokenizer has no token for: a tiny vocabulary has many."""
        unknown = self.tokenizer.unk_token_id
        words = text.split()
        if unknown is None:
            return []
        return [w for w in words if unknown in self.tokenizer(w, add_special_tokens=False)["input_ids"]]


class ImageEncoder(nn.Module):
    """CLIP vision: images (b, 3, h, w) in [0, 1] -> pooled embedding (b, d), or all patch features (b, n, d).

    The picture is squashed to the encoder's square, not cropped (DynamiCrafter's way): the adapter should see
    all of it. `features` is "pooled" (IP-Adapter), "penultimate" (IP-Adapter-plus) or "last" (DynamiCrafter).
    `blank` gives the features that stand for no picture in guidance.
    """

    model: Any  # of transformers; its output and config have fields of their own

    def __init__(self, model: nn.Module, features: str = "pooled") -> None:
        super().__init__()
        self.model, self.features = model, features

    @classmethod
    def load(cls, folder: str | Path, *, features: str = "pooled", dtype: torch.dtype = torch.float32) -> ImageEncoder:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        folder = Path(folder)
        if features not in FEATURES:
            raise InputError(
                f"the image encoder's features are {shown(features)}; expected one of {', '.join(FEATURES)}."
            )
        values = read_config(folder)
        kind = values["model_type"]
        if kind not in ("clip_vision_model", "clip"):
            raise InputError(f"{folder} holds a {shown(kind)} model; expected a CLIP vision encoder.")
        half = values.get("vision_config") if kind == "clip" else values
        fields = _fields(half, CLIP_VISION, folder)
        return cls(_load(CLIPVisionModelWithProjection, CLIPVisionConfig, fields, folder, dtype), features).eval()

    def save(self, folder: str | Path) -> None:
        _save(self.model, Path(folder))

    @property
    def width(self) -> int:
        """Of the features."""
        config = self.model.config
        return config.projection_dim if self.features == "pooled" else config.hidden_size

    def forward(self, images: Tensor) -> Tensor:
        size = self.model.config.image_size
        like = next(self.model.parameters())
        # In float32 whatever the encoder's numbers: a CPU cannot resize in half precision, and pixels have 8 bits.
        x = images.to(like.device, torch.float32)
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(v).to(x)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        return self._features(((x - mean) / std).to(like))

    def blank(self, kind: str, like: Tensor) -> Tensor:
        """What stands for no picture, "grey" or "zeros" (`UNetConfig.image_uncond`), in the form of these features."""
        if kind == "zeros" and self.features == "pooled":
            return torch.zeros_like(like)
        size = self.model.config.image_size
        if kind == "zeros":
            return self._features(like.new_zeros(len(like), 3, size, size))
        return self(like.new_full((len(like), 3, size, size), 0.5))

    def _features(self, pixels: Tensor) -> Tensor:
        """Of pixels as the encoder was trained with, normalised."""
        out = self.model(pixels, output_hidden_states=self.features == "penultimate")
        if self.features == "pooled":
            return out.image_embeds
        return out.hidden_states[-2] if self.features == "penultimate" else out.last_hidden_state


def is_cut(tokenizer, text: str, length: int) -> bool:
    """Whether a text is of more tokens than `length`, those of its ends among them."""
    return len(tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]) > length


def load_tokenizer(folder: str | Path):
    """The tokenizer of a transformers folder, or of a diffusers pipeline's `tokenizer`."""
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise InputError(f"{folder} has no tokenizer; put its tokenizer.json there.")
    check_tokenizer_files(folder, TOKENIZER_FILES, TOKENIZER_SETTINGS)
    with _tokenizer_errors(folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _tokenizer_errors(folder: Path) -> Iterator[None]:
    """Whatever a library makes of a tokenizer's files, as one sentence about them."""
    try:
        yield
    except BaseException as error:  # tokenizers raises plain Exception, and what Rust panics with is no Exception
        panic = type(error).__name__ == "PanicException"
        if not (panic or isinstance(error, Exception)) or blameless(error):
            raise
        told = some([reason(error)])
        raise InputError(
            f"the tokenizer in {folder} cannot be read ({told}); put the model's own tokenizer.json there."
        ) from error


def stated_length(tokenizer, folder: Path, without: int) -> int:
    """Tokens of a text that a tokenizer was made for. without: where it states none."""
    limit = tokenizer.model_max_length
    if type(limit) in (int, float) and limit >= UNBOUNDED:
        return without
    if type(limit) is not int or not 2 <= limit <= MOST_TOKENS:
        raise InputError(
            f"the tokenizer in {folder} says model_max_length = {shown(limit)}; expected 2 to {MOST_TOKENS} tokens: "
            "put the model's own tokenizer_config.json there."
        )
    return limit


def check_tokens(tokenizer, length: int, vocabulary: int, folder: Path) -> None:
    """Refuse a tokenizer that makes no tokens, or more kinds of them than the encoder has rows for."""
    with _tokenizer_errors(folder):
        made = tokenizer(["", "a b"], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids, size = made["input_ids"], max([0, *tokenizer.get_vocab().values()]) + 1
        tokenizer.unk_token_id  # noqa: B018 (may be looked up among the tokens)
        fits = tuple(ids.shape) == (2, length) == tuple(made["attention_mask"].shape)
    size = max(size, int(ids.max()) + 1)
    if not fits or int(ids.min()) < 0 or size > vocabulary:
        raise InputError(
            f"the tokenizer in {folder} does not belong to its encoder, which has {vocabulary:,} tokens; put the "
            "model's own tokenizer.json and tokenizer_config.json there."
        )


def read_config(folder: Path) -> dict:
    """config.json of a transformers folder, whose `model_type` is a text."""
    if folder.exists() and (told := no_file(folder, or_folder=True)) is not None:
        raise InputError(f"{told}; give a transformers folder.")
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} is no encoder folder: it has no {CONFIG}.")
    values = read_json(folder / CONFIG, "put the encoder's own config.json there")
    if not isinstance(values.get("model_type"), str):
        raise InputError(f"{folder / CONFIG} does not name a model_type; put the config.json of a CLIP or T5 there.")
    return values


def _fields(values: object, known: Mapping[str, Kind], folder: Path) -> dict:
    """Of config.json, the half that describes this encoder, what may be known of it."""
    if not isinstance(values, Mapping):
        raise InputError(f"{folder / CONFIG} does not describe this encoder; put the encoder's own config.json there.")
    return checked(values, known, folder / CONFIG, sum(len(header.shapes) for header in _headers(folder)))


def _headers(folder: Path) -> list[Header]:
    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} has no weights: neither *.safetensors nor pytorch_model.bin; download them again.")
    return read_headers(files)


def _load(
    model_class: Callable, config_class: Callable, fields: Mapping, folder: Path, dtype: torch.dtype | None
) -> Any:
    """fields: of the config, checked. dtype: None builds the model without its weights."""
    headers = _headers(folder)
    with _library_errors(folder):
        config = config_class(**fields)
        with torch.device("meta"):
            empty = model_class(config)
    check_count(sum(weight.numel() for weight in empty.parameters()), headers, folder)
    if dtype is None:
        return empty.requires_grad_(False)
    # transformers would open pickles in its own way: they are opened here.
    pickled = [file for file in weight_files(folder) if is_pickled(file)]
    state = {name: weight for file in pickled for name, weight in read_weights(file).items()}
    source = (
        {"pretrained_model_name_or_path": None, "state_dict": state}
        if pickled
        else {"pretrained_model_name_or_path": folder, "local_files_only": True, "use_safetensors": True}
    )
    with _library_errors(folder), quiet():
        model, found = model_class.from_pretrained(
            **source, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    # transformers only warns of these, and goes on with random weights.
    for kind, what in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape than config.json of")):
        wrong = [key if isinstance(key, str) else key[0] for key in found[kind]]
        if wrong:
            raise InputError(f"the encoder in {folder} {what} {len(wrong)} weights ({some(wrong)}); save it again.")
    return model.to(dtype).requires_grad_(False)


@contextmanager
def _library_errors(folder: Path) -> Iterator[None]:
    """Whatever transformers makes of a checked config and of the weights, as one sentence about them."""
    try:
        yield
    except Exception as error:  # of classes of its own
        if blameless(error):
            raise
        raise InputError(f"the encoder in {folder} cannot be read: {some([reason(error)])}.") from error


def _save(model: Any, folder: Path, prefix: str = "") -> None:
    """Config and weights; weights under the names that published files have, whatever this transformers calls them."""
    with quiet():
        model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = {k if k.startswith(prefix) else prefix + k: v for k, v in load_file(path).items()}
    write(path, weights, {"format": "pt"})


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars and reports, which would stand between a user and our one sentence."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
