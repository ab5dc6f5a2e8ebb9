"""Text encoders on disk: what a folder or file holds, its sizes read from the weights, and the host's models of them.

Source   files and the shapes of their weights, read from headers only
Found    the one encoder among them, under the host's names, strictly checked
T5, CLIPText   the host's models, with what it fixes made free
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.t5 as t5
import comfy.utils
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ...errors import NodeError, blameless, reason, some
from ...files import MAX_SETTINGS, parse
from ...model_patches import read_header
from ...model_patches.checkpoints.files import MAX_ITEMS, PICKLES, SAFETENSORS
from .folders import read_file

# A transformers folder's weights and the list of their shards: the first that is there.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = "{}.index.json"
FURTHER = {"config.json": ("configuration_files",), "tokenizer_config.json": ("fast_tokenizer_files", "gguf_file")}

MODEL_TYPES = {"t5": "t5", "mt5": "t5", "umt5": "t5", "clip": "clip", "clip_text_model": "clip"}
NAMES = {"t5": "T5 encoder", "clip": "CLIP text encoder"}

# The key by which an encoder is found, and so the prefix of all its others.
T5_MARK = "encoder.block.0.layer.0.SelfAttention.q.weight"
CLIP_MARK = "embeddings.token_embedding.weight"

# What published files hold besides the encoder: the other half, tied copies, constants.
IGNORED = re.compile(
    r"(decoder|lm_head|vision_model|visual_projection)\.|encoder\.embed_tokens\.weight$|logit_scale$|spiece_model$"
    r"|text_model\.embeddings\.position_ids$|scaled_fp8$"
)
# What fp8 weights come with; the host's quantized operations read it.
SCALES = (".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant")

ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh"}  # transformers' other name of the same function

# What a file is when it is no text encoder, by a part of its weights' names.
OTHERS = {
    "input_blocks.": "a diffusion network",
    "down_blocks.": "a diffusion network or a VAE",
    "vision_model.": "a CLIP vision encoder",
    "patch_embedding": "an image encoder",
    "encoder.down.": "a VAE",
    "synthesis.": "an image codec",
    "word_embeddings": "a BERT-like encoder",
    "layers.0.self_attn.": "a language model",
}


@dataclass(frozen=True)
class Source:
    """Weights on disk: `files` with the shape of every weight, and the transformers folder they are of, if any."""

    path: Path
    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    folder: Path | None

    @classmethod
    def open(cls, path: str | Path) -> Source:
        """Read headers only. A folder's model.safetensors (or pytorch_model.bin) stands for its folder."""
        path = Path(path)
        if path.name in WHOLE and (path.parent / "config.json").exists():
            path = path.parent
        folder = path if path.is_dir() else None
        if folder:
            _check_names(folder)
        files = _folder_files(path) if folder else (path,)
        shapes: dict[str, tuple[int, ...]] = {}
        metadata: dict[str, str] = {}
        for file in files:
            header = read_header(file)
            shapes |= header.shapes
            metadata |= header.metadata
        return cls(path, files, shapes, metadata, folder)

    def model_type(self) -> str | None:
        """What the folder's config.json says it holds; None for a bare file."""
        if self.folder is None:
            return None
        file = self.folder / "config.json"
        try:
            return parse(file.read_bytes(), MAX_SETTINGS)["model_type"]
        except FileNotFoundError as error:
            raise NodeError(f"{self.folder} is no encoder folder: it has no config.json.") from error
        except OSError as error:
            raise NodeError(f"{file} cannot be read: {reason(error)}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NodeError(f"{file} does not name a model_type; put the encoder's own config.json there.") from error

    def config(self) -> Any:
        """The folder's config as transformers reads it, with its defaults; None for a bare file."""
        if self.folder is None:
            return None
        try:
            return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers checks types with classes of its own
            if blameless(error):
                raise
            told = " ".join(str(error).split()) or type(error).__name__
            raise NodeError(f"{self.folder / 'config.json'} cannot be understood: {told.rstrip('.')}.") from error

    def read(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for file in self.files:
            weights |= read_file(file)
        return weights


def _check_names(folder: Path) -> None:
    """Lists of further files, which transformers would open wherever they point, hold names and no paths."""
    for file, lists in FURTHER.items():
        try:
            settings = parse((folder / file).read_bytes(), MAX_ITEMS)
        except (OSError, ValueError, RecursionError):
            continue  # who needs it says so
        for key in lists:
            named = settings.get(key) if isinstance(settings, dict) else None
            for name in named if isinstance(named, list) else [named]:
                if isinstance(name, str) and PureWindowsPath(name).name != name:
                    raise NodeError(
                        f"{folder / file} names {name!r}, outside of its folder; put the model's own {file} there."
                    )


def _folder_files(folder: Path) -> tuple[Path, ...]:
    for name in WHOLE:
        index = folder / INDEX.format(name)
        if (folder / name).exists():
            return (folder / name,)
        if index.exists():
            return _shards(index)
    others = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (*SAFETENSORS, *PICKLES)]
    expected = f"{WHOLE[0]} (or {WHOLE[1]}), and no {INDEX.format(WHOLE[0])} with its shards"
    if others:
        raise NodeError(f"{folder} has {others[0].name}, but no {expected}; choose the file itself.")
    raise NodeError(f"{folder} has no {expected}; download its weights again.")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = parse(index.read_bytes(), MAX_ITEMS)["weight_map"].values()
        # Names only: an index does not lead out of its folder.
        return tuple(index.parent / Path(name).name for name in sorted(set(names)))
    except OSError as error:
        raise NodeError(f"{index} cannot be read: {reason(error)}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NodeError(f"{index} is no index of shards, or is damaged; download it again.") from error


@dataclass(frozen=True)
class Found:
    """An encoder in a source: its kind, the prefix of its mark on disk, and its shapes under the host's names."""

    kind: str  # "t5" or "clip"
    prefix: str
    shapes: dict[str, tuple[int, ...]]

    def read_config(self, source: Source) -> dict:
        return _t5_config(self, source) if self.kind == "t5" else _clip_config(self, source)

    @property
    def model_class(self) -> type[nn.Module]:
        return T5 if self.kind == "t5" else CLIPText

    def shape(self, name: str, source: Source, dims: int = 2) -> tuple[int, ...]:
        """Of a weight that the sizes are read from."""
        shape = self.shapes.get(name, ())
        if len(shape) != dims:
            what = f"has {name} of shape {list(shape)}" if shape else f"lacks {name}"
            raise NodeError(f"{source.path} {what}; it is no whole {NAMES[self.kind]}: download or save it again.")
        return shape

    def layers(self, pattern: str) -> int:
        return 1 + max((int(m[1]) for m in map(re.compile(pattern).match, self.shapes) if m), default=-1)

    def check(self, source: Source, config: dict) -> None:
        """Every weight there and of its shape, and none besides: the host would only log it and go on."""
        with torch.device("meta"):
            model = self.model_class(config, torch.float32, torch.device("meta"), nn)
        expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        absent = [k for k in expected if k not in self.shapes and k != "text_projection.weight"]
        if absent:
            raise NodeError(
                f"{source.path} lacks {len(absent)} weights of its {NAMES[self.kind]} ({some(absent)}); "
                "download or save it again."
            )
        extra = [k for k in self.shapes if k not in expected and not k.endswith(SCALES)]
        if extra:
            raise NodeError(
                f"{source.path} has {len(extra)} weights that no {NAMES[self.kind]} has ({some(extra)}); "
                "give a plain T5 or CLIP text encoder."
            )
        for name, shape in self.shapes.items():
            if shape != expected.get(name, shape):
                raise NodeError(
                    f"{source.path} has {name} of shape {list(shape)}, its other weights ask for "
                    f"{list(expected[name])}; download or save it again."
                )


def find(source: Source) -> Found:
    """The one text encoder among the weights, by its marks."""
    declared = source.model_type()
    if declared is not None and declared not in MODEL_TYPES:
        raise NodeError(f"{source.path} holds a {declared!r} model; expected a T5 or CLIP text encoder.")
    found = [
        (kind, name.removesuffix(mark))
        for kind, mark in (("t5", T5_MARK), ("clip", CLIP_MARK))
        for name in source.shapes
        if name.endswith(mark)
    ]
    if declared is not None and found and MODEL_TYPES[declared] not in {kind for kind, _ in found}:
        raise NodeError(
            f"{source.path} says in config.json that it is a {declared!r} model, but its weights are those of a "
            f"{NAMES[found[0][0]]}; put the config.json of the weights there."
        )
    if len(found) > 1:
        raise NodeError(
            f"{source.path} holds {len(found)} text encoders ({some([prefix or 'bare' for _, prefix in found])}); "
            "give a file with one of them."
        )
    if not found:
        what = next((v for part, v in OTHERS.items() if any(part in k for k in source.shapes)), "something else")
        raise NodeError(f"{source.path} is {what}; expected the weights of a T5 or CLIP text encoder.")
    kind, prefix = found[0]
    return Found(kind, prefix, own_entries(kind, prefix, source.shapes))


def own_entries(kind: str, prefix: str, weights: dict) -> dict:
    """The encoder's entries under the host's names. transformers 5 leaves CLIP's `text_model.` away, the host not."""
    root = root_of(kind, prefix)
    inside = ("embeddings.", "encoder.", "final_layer_norm.") if kind == "clip" and root == prefix else ()
    own = {}
    for name, value in weights.items():
        if name.startswith(root):
            name = name[len(root) :]
            own["text_model." + name if name.startswith(inside) else name] = value
    if kind == "t5" and "encoder.embed_tokens.weight" in own:
        own.setdefault("shared.weight", own["encoder.embed_tokens.weight"])
    return {name: value for name, value in own.items() if not IGNORED.match(name)}


def root_of(kind: str, prefix: str) -> str:
    """The prefix of the whole model, CLIP's projection included."""
    return prefix.removesuffix("text_model.") if kind == "clip" else prefix


def _t5_config(found: Found, source: Source) -> dict:
    attention = "encoder.block.{}.layer.0.SelfAttention."
    first = attention.format(0)
    inner, width = found.shape(first + "q.weight", source)
    buckets, heads = found.shape(first + "relative_attention_bias.weight", source)
    dense = "encoder.block.0.layer.1.DenseReluDense."
    gated = dense + "wi_0.weight" in found.shapes
    config = {
        "d_model": width,
        "num_heads": heads,
        "d_kv": inner // heads,
        "num_layers": found.layers(r"encoder\.block\.(\d+)\."),
        "d_ff": found.shape(dense + ("wi_0.weight" if gated else "wi.weight"), source)[0],
        "is_gated_act": gated,
        "vocab_size": found.shape("shared.weight", source)[0],
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        # The first T5 has a plain ReLU, every gated one since v1.1 a GELU.
        "dense_act_fn": "gelu_pytorch_tanh" if gated else "relu",
        # To the host the name says only this: every layer has its own table of relative positions.
        "model_type": "umt5" if attention.format(1) + "relative_attention_bias.weight" in found.shapes else "t5",
    }
    declared = source.config()
    if declared is not None:
        _agree(source, config, declared, ("num_heads", "d_kv", "is_gated_act"))
        config["relative_attention_max_distance"] = declared.relative_attention_max_distance
        config["layer_norm_epsilon"] = declared.layer_norm_epsilon
        config["dense_act_fn"] = _activation(source, declared.dense_act_fn, t5.activations)
    return config


def _clip_config(found: Found, source: Source) -> dict:
    vocabulary, width = found.shape("text_model.embeddings.token_embedding.weight", source)
    projection = found.shapes.get("text_projection.weight", (width, width))
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": found.shape("text_model.embeddings.position_embedding.weight", source)[0],
        "num_hidden_layers": found.layers(r"text_model\.encoder\.layers\.(\d+)\."),
        "intermediate_size": found.shape("text_model.encoder.layers.0.mlp.fc1.weight", source)[0],
        "projection_dim": projection[0],
        "eos_token_id": None,  # the host finds the end by the tokenizer's
        "layer_norm_eps": 1e-5,
        # In every public CLIP a head is 64 wide; OpenAI's have the sigmoid form of GELU, OpenCLIP's the exact one.
        "num_attention_heads": width // 64,
        "hidden_act": "gelu" if width >= 1024 else "quick_gelu",
    }
    declared = source.config()
    if declared is None:
        if width % 64:
            raise NodeError(
                f"{source.path} is {width} wide, so its number of heads is unknown; give its folder with config.json."
            )
        return config
    declared = getattr(declared, "text_config", None) or declared
    config["num_attention_heads"] = declared.num_attention_heads
    config["layer_norm_eps"] = declared.layer_norm_eps
    config["hidden_act"] = _activation(source, declared.hidden_act, comfy.clip_model.ACTIVATIONS)
    if declared.num_attention_heads < 1 or width % declared.num_attention_heads:
        raise NodeError(
            f"{source.path} says in config.json that it has {declared.num_attention_heads} heads, its weights are "
            f"{width} wide; put the config.json of the weights there."
        )
    return config


def _agree(source: Source, config: dict, declared, names: Iterable[str]) -> None:
    for name in names:
        if getattr(declared, name) != config[name]:
            raise NodeError(
                f"{source.path} says in config.json {name} = {getattr(declared, name)}, its weights have "
                f"{config[name]}; put the config.json of the weights there."
            )


def _activation(source: Source, name: str, known: dict[str, Callable]) -> str:
    name = ACTIVATIONS.get(name, name)
    if name not in known:
        raise NodeError(f"{source.path} has the activation {name!r}; ComfyUI's encoders know {', '.join(known)}.")
    return name


class T5(t5.T5):
    """The host's T5 with what it fixes: epsilon and the relative position buckets."""

    def __init__(self, config: dict, dtype, device, operations) -> None:
        super().__init__(config, dtype, device, operations)
        buckets, heads = config["relative_attention_num_buckets"], config["num_heads"]
        for module in list(self.modules()):
            if isinstance(module, t5.T5LayerNorm):
                module.variance_epsilon = config["layer_norm_epsilon"]
            if isinstance(module, t5.T5Attention) and module.relative_attention_bias is not None:
                module.relative_attention_num_buckets = buckets
                module.relative_attention_max_distance = config["relative_attention_max_distance"]
                module.relative_attention_bias = operations.Embedding(buckets, heads, device=device, dtype=dtype)


class CLIPText(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model with what it fixes: vocabulary, projection and epsilon."""

    def __init__(self, config: dict, dtype, device, operations) -> None:
        super().__init__(config, dtype, device, operations)
        width = config["hidden_size"]
        self.set_input_embeddings(operations.Embedding(config["vocab_size"], width, dtype=dtype, device=device))
        self.text_projection = operations.Linear(
            width, config["projection_dim"], bias=False, dtype=dtype, device=device
        )
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config["layer_norm_eps"]
