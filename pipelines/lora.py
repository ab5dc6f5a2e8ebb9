"""LoRA files (Hu et al. 2021) put on a network, for `dreamfactory generate --lora FILE[:strength]`.

    W += strength * alpha / rank * up @ down                      up (out, rank), down (rank, in)
    of a convolution, the weight of the three in a row            up (out, rank, 1, 1), [mid (rank, rank, h, w)],
                                                                  down (rank, in, h, w), with mid (rank, in, 1, 1)

A layer goes by different names: ours (Stable Diffusion's own and our additions), diffusers', with dots or kohya's
underscores, wrapped by PEFT or not. All of them are compared with underscores, so one table a network tells them apart.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, some
from ..model_patches import VideoUNet, read_header
from ..model_patches.checkpoints.converters.diffusers_names import diffusers_names
from ..model_patches.checkpoints.converters.keys import rename
from ..model_patches.checkpoints.converters.lora import stated_alpha
from ..model_patches.checkpoints.files import Header, read_weights
from .encoders import TextEncoder

STRONGEST = 10.0

# <layer>.lora_down.weight (kohya), .lora_A[.default].weight (PEFT), .lora.down.weight, _lora.down.weight and
# .lora_linear_layer.down.weight (diffusers), and .alpha beside them
KEY = re.compile(r"(.+?)(?:[._]lora(?:_linear_layer)?[._](A|B|down|up|mid)(?:\.\w+)?\.weight|\.(alpha))")
SIDES = {"A": "down", "B": "up"}
UNET, TEXT = "unet", "text_encoder"
OWNERS = {
    UNET: re.compile(r"lora_unet_|lycoris_|unet\.|(?:model\.)?diffusion_model\."),
    TEXT: re.compile(r"lora_te1?_|text_encoder\.|text_encoders\.clip_[lh]\.transformer\.|(?=text_model\.)"),
}
Shape = tuple[int, ...]

_START = r"^(?:base_model\.model\.)?(?:model\.)?(?:lora_unet_|lycoris_|unet\.|diffusion_model\.)?_?"
_KIND = "{}, another kind of addition than LoRA; give a LoRA (lora_down and lora_up, or lora_A and lora_B)"
_NETWORK = "a LoRA for {}, another network; give one for Stable Diffusion 1.5 or 2.1, ModelScope or DreamFactory"
# What names say of a file that has no place here: (expression, what it is; what to give). First match wins.
REFUSED: tuple[tuple[str, str], ...] = (
    (r"\.dora_scale$|\.lora_magnitude_vector\b", _KIND.format("a DoRA")),
    (r"\.hada_", _KIND.format("a LoHa")),
    (r"\.lokr_", _KIND.format("a LoKr")),
    (r"\.on_input$|\.ia3_l\b", _KIND.format("an IA3")),
    (r"\.[ab][12]\.weight$", _KIND.format("a GLoRA")),
    (
        r"(^|[._])motion_modules[._]\d",
        "a motion LoRA of AnimateDiff, which changes motion modules and has no place here; give a LoRA for the network "
        "itself",
    ),
    (
        rf"{_START}(double_blocks|single_blocks|joint_blocks|single_transformer_blocks|transformer_blocks|blocks)[._]\d"
        r"|^(base_model\.model\.)?transformer\.|^lora_transformer_",
        _NETWORK.format("a diffusion transformer (as Flux, SD3, Hunyuan or Wan)"),
    ),
    (
        r"(down_|mid_|up_|input_|middle_|output_)blocks?[._]\S*transformer_blocks[._][1-9]"
        r"|^(lora_te|text_encoder_|text_encoders\.clip_)[23g][._]",
        _NETWORK.format("SDXL or its kind"),
    ),
)


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how much of it is added. Raises InputError without a file, or for a strength nobody means."""

    path: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("a LoRA is given without its file; expected FILE or FILE:strength.")
        if not abs(self.strength) <= STRONGEST:
            raise InputError(
                f"{self.path} has strength {self.strength}; expected -{STRONGEST:g} to {STRONGEST:g} (1: as trained)."
            )


def parse_lora(text: str) -> Lora:
    """FILE or FILE:strength. A path may have colons of its own: only a number behind the last one is a strength."""
    path, colon, number = text.rpartition(":")
    try:
        strength = float(number) if colon else None
    except ValueError:
        strength = None
    return Lora(text) if strength is None else Lora(path, strength)


def check_lora(lora: Lora) -> None:
    """What the file's header tells, before a network is read.

    Raises CheckpointError or InputError with one sentence: no readable safetensors file, no LoRA, another kind of
    addition, one for another kind of network, or incomplete.
    """
    _additions(Path(lora.path), read_header(lora.path))


@torch.no_grad()
def apply_lora(unet: VideoUNet, text: TextEncoder | None, lora: Lora, motion: TextEncoder | None = None) -> list[str]:
    """Add a LoRA to the weights, in place: computed in float32, kept in each weight's own dtype on its device.

    Returns sentences that say what was left out and why. Raises CheckpointError or InputError with one sentence if
    the file cannot be used or nothing of it fits; then every weight is as it was.
    """
    path, header = Path(lora.path), read_header(lora.path)
    additions, others = _additions(path, header)
    made_for = header.metadata.get("modelspec.architecture") or header.metadata.get("ss_base_model_version")
    foreign = f"{path} is a LoRA for another network" + (f" ({some([made_for])})" if made_for else "")
    remedy = "give one that was trained on this network, or on the one it was made from"

    weights = {UNET: _unet_weights(unet), TEXT: _encoder_weights(motion) | _encoder_weights(text)}
    none = {UNET: "this network has no layers of these names", TEXT: "the text encoder has no layers of these names"}
    if text is None and motion is None:
        none[TEXT] = "there is no text encoder"
    first = unet.get_parameter("input_blocks.0.0.weight")
    fits: list[tuple[Addition, str, Tensor]] = []
    left: dict[str, list[str]] = defaultdict(list)
    for addition in additions:
        owner, weight = _find(addition, weights)
        if weight is None:
            left[none[owner]].append(addition.name)
        elif _solid(addition.shape) == _solid(weight.shape):
            fits.append((addition, owner, weight))
        elif owner == TEXT:
            left["the text encoder is of another size"].append(addition.name)
        elif weight is first:
            # It reads the first frame too where a network sees one, of which an image model's LoRA knows nothing.
            left["this network's first convolution takes other channels"].append(addition.name)
        else:
            shapes = f"{list(addition.shape)} where this one has {list(weight.shape)}"
            raise InputError(f"{foreign}: {addition.name} is {shapes}; {remedy}.")
    # A text encoder's half alone proves nothing: CLIP-L stands beside Stable Diffusion 1.5, SDXL and Flux alike.
    absent = left[none[UNET]]
    if not fits or (absent and all(owner == TEXT for _, owner, _ in fits)):
        names = absent or [addition.name for addition in additions]
        raise InputError(f"{foreign}: nothing of it fits this one ({some(names)}); {remedy}.")

    state = read_weights(path)
    for key in (key for addition, _, _ in fits for key in addition.keys.values()):
        if not torch.isfinite(state[key].float()).all():
            raise InputError(f"{path} has numbers in {key} that are not finite; train or download it again.")
    stated = {owner: stated_alpha(path, header, owner) for addition, owner, _ in fits if addition.alpha_is_apart}
    for addition, owner, weight in fits:
        matrices = {side: state[key] for side, key in addition.keys.items()}
        alpha = stated[owner] if addition.alpha_is_apart else None
        if alpha is not None:
            matrices["alpha"] = torch.tensor(alpha(addition.layer, len(matrices["down"])))
        _merge(weight, lora.strength, **matrices)

    left["they are no LoRA"] = others
    notes = [f"{path.name}: {len(n)} parts are left out, because {why} ({some(n)})." for why, n in left.items() if n]
    if None in stated.values():
        notes.append(f"{path.name} states no alpha; it is taken as the rank (PEFT has it in adapter_config.json).")
    return notes


@dataclass(frozen=True)
class Addition:
    """What a file adds to one layer."""

    name: str  # as the file has it
    owner: str | None  # UNET, TEXT, or None where the name does not say
    layer: str  # its name there
    keys: dict[str, str]  # "down", "up" [, "mid"] [, "alpha"] -> the weight's name in the file
    shape: tuple[int, ...]  # of what is added

    @property
    def alpha_is_apart(self) -> bool:
        """PEFT keeps it in a config."""
        return ".lora_A." in self.keys["down"] and "alpha" not in self.keys


def _additions(path: Path, header: Header) -> tuple[list[Addition], list[str]]:
    """What a file adds, layer by layer, and the names of its weights that are no LoRA."""
    text = "\n".join(header.shapes)
    for expression, sentence in REFUSED:
        if re.search(expression, text, re.MULTILINE):
            raise InputError(f"{path} is {sentence}.")
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for key in header.shapes:
        if match := KEY.fullmatch(key):
            name, side, alpha = match.groups()
            found[name][alpha or SIDES.get(side, side)] = key
    found = {name: keys for name, keys in found.items() if keys.keys() != {"alpha"}}
    used = {key for keys in found.values() for key in keys.values()}
    if not used:
        raise InputError(
            f"{path} is no LoRA: none of its {len(header.shapes)} weights is a lora_down or lora_up, lora_A or lora_B; "
            "give a LoRA file."
        )
    additions = []
    for name, keys in found.items():
        shape = _shape(**{side: header.shapes[key] for side, key in keys.items()})
        if shape is None or not all(header.dtypes[key].startswith(("F", "BF")) for key in keys.values()):
            raise InputError(f"{path} is damaged: the weights of {name} make no LoRA; download or save it again.")
        additions.append(Addition(name, *_split(name), keys, shape))
    return additions, [key for key in header.shapes if key not in used]


def _shape(up: Shape = (), down: Shape = (), mid: Shape | None = None, alpha: Shape = ()) -> Shape | None:
    """The shape of up @ [mid @] down; None where one is missing or they do not fit each other."""
    first = down if mid is None else mid
    if min(len(up), len(down), len(first)) < 2 or math.prod(up[2:]) != 1 or math.prod(alpha) != 1:
        return None
    if mid is not None and (mid[1] != down[0] or math.prod(down[2:]) != 1):
        return None
    return (up[0], down[1], *first[2:]) if up[1] == first[0] > 0 else None


def _split(name: str) -> tuple[str | None, str]:
    """(whose layer it is, its name there) from a name in a file."""
    name = name.replace("base_model.model.", "").replace(".processor", "")
    for owner, prefix in OWNERS.items():
        if match := prefix.match(name):
            return owner, name[match.end() :]
    return None, name


def _unet_weights(unet: VideoUNet) -> dict[str, Tensor]:
    """{a layer's name with underscores, ours and diffusers': its weight}."""
    ours = _weights(unet)
    theirs, _ = rename(ours, {own: diffusers for diffusers, own in diffusers_names(unet.config).items()})
    named = {_flat(name): weight for name, weight in (theirs | ours).items()}
    return named | {n.removesuffix("_0"): weight for n, weight in named.items() if n.endswith("_to_out_0")}


def _encoder_weights(encoder: TextEncoder | None) -> dict[str, Tensor]:
    """The same of CLIP or T5, and by the names diffusers once gave CLIP's projections (`self_attn.to_q`)."""
    named = {_flat(n): weight for n, weight in _weights(encoder.model).items()} if encoder is not None else {}
    return named | {re.sub(r"_(q|k|v|out)_proj$", r"_to_\1", n): weight for n, weight in named.items()}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: m.weight for name, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


def _flat(name: str) -> str:
    return name.replace(".", "_").removeprefix("text_model_")  # a level that not all versions of transformers have


def _find(addition: Addition, weights: dict[str, dict[str, Tensor]]) -> tuple[str, Tensor | None]:
    """Whose layer it is and its weight; None where there is none of the name."""
    for owner in [addition.owner] if addition.owner else weights:
        if (weight := weights[owner].get(_flat(addition.layer))) is not None:
            return owner, weight
    return addition.owner or UNET, None


def _solid(shape: Shape) -> list[int]:
    """Axes of size 1 come and go: Linear and 1x1 convolution, (3,1,1) in Conv3d and (3,1) in Conv2d."""
    return [n for n in shape if n != 1]


def _merge(weight: Tensor, strength: float, up: Tensor, down: Tensor, mid=None, alpha: Tensor | None = None) -> None:
    up, down = (matrix.to(weight.device, torch.float32).flatten(1) for matrix in (up, down))
    scale = 1.0 if alpha is None else float(alpha) / len(down)
    if mid is not None:
        down = torch.einsum("ab...,bi->ai...", mid.to(down), down).flatten(1)
    total = weight.flatten(1).to(torch.float32, copy=True).addmm_(up, down, alpha=strength * scale)
    weight.copy_(total.reshape(weight.shape))
