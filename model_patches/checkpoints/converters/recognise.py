"""What a file holds, told from the names of its weights, and who reads it. No file name is ever parsed.

One table, first match wins: a row either names a source, with its converter, or says in a sentence what the file is and
what to do instead. A new source is a new row here and one new file beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ....errors import CheckpointError, some
from ...network.parts import PARTS
from ..files import PATCH_CODEC, Header
from . import animatediff, ip_adapter, lvdm, modelscope, sd


@dataclass(frozen=True)
class Source:
    """Public weights that are read."""

    kind: str  # of names they come in
    name: str  # what a user calls them; several kinds may be of one name
    convert: Callable  # (weights, header, overrides) -> (config, our weights, noise schedule, report)
    part: str | None = None  # of a network (`parts.PARTS`), where they are an addition to one
    what: str = ""  # that they are an addition, in a sentence


@dataclass(frozen=True)
class Pattern:
    """Every expression must be found in some key. It says which source that is, or why it is refused."""

    needs: tuple[str, ...]
    source: Source | None = None
    refusal: str | None = None


# What no other network calls its parts.
_OURS = "|".join(prefix for name, part in PARTS.items() if name != "spatial" for prefix in part.prefixes)

UPSCALER = (
    "this is an image upscaler; give it to `dreamfactory upscale`, `generate --upscale` or ComfyUI's upscale loader"
)
PATTERNS: tuple[Pattern, ...] = (
    # Add-ons that carry the names of the network they were made for come first.
    Pattern(
        (r"^base_model\.model\.",),
        refusal="this is a LoRA in PEFT's names, an addition to a network and none itself; `dreamfactory convert` "
        "renames it for ComfyUI's LoRA loader",
    ),
    Pattern(
        (r"^lora_(unet|te\d?)_",),
        refusal="this is a LoRA in kohya's names; give the network it was trained on, and this with --lora, or in "
        "ComfyUI's LoRA loader",
    ),
    Pattern((r"^(model\.1\.sub\.\d+\.RDB1|RRDB_trunk\.0|body\.\d+\.rdb1)\.",), refusal=UPSCALER),  # ESRGAN
    Pattern((r"^body\.0\.weight$", r"^body\.1\.weight$", r"^body\.2\.weight$"), refusal=UPSCALER),  # compact
    Pattern((r"^conv_first\.weight$", r"^(layers|blocks|body|params)\.0\."), refusal=UPSCALER),  # SwinIR, HAT, DAT
    Pattern((r"^head\.0\.weight$", r"^body\.0\.body\.0\.body\.0\.weight$", r"^tail\.0\."), refusal=UPSCALER),  # RCAN
    Pattern(
        (r"^ip_adapter\.\d+\.to_[kv]_ip|^image_proj\.",),
        source=Source("ip-adapter", "ip-adapter", ip_adapter.convert, "image_adapter", "this is an IP-Adapter"),
    ),
    Pattern(
        (r"(^|\.)motion_modules\.\d+\.", r"[._]lora[._]"),
        refusal="this is a motion LoRA, which changes AnimateDiff motion modules and has no place here; give the "
        "motion modules themselves",
    ),
    Pattern(
        (r"[._]lora(_[AB]|_up|_down|\.up|\.down)?\.(\w+\.)?weight$|\.lora_[AB]\b",),
        refusal="this is a LoRA in diffusers' names; give the network it was trained on, and this with --lora, or in "
        "ComfyUI's LoRA loader",
    ),
    Pattern(
        (r"(^|\.)motion_modules\.\d+\.", r"(^|\.)(controlnet_cond_embedding|controlnet_down_blocks)\."),
        refusal="this is SparseCtrl, a ControlNet for AnimateDiff, which has no place here; give AnimateDiff motion "
        "modules",
    ),
    Pattern(
        (r"(^|\.)motion_modules\.\d+\.",),
        source=Source(
            "animatediff", "animatediff", animatediff.convert, "temporal", "these are AnimateDiff motion modules"
        ),
    ),
    Pattern(
        (r"(^|\.)(input_hint_block|zero_convs|controlnet_cond_embedding|controlnet_down_blocks)\.",),
        refusal="this is a ControlNet; load it with the host's ControlNet loader and give the network it steers here",
    ),
    Pattern(
        (r"\.(time_mixer|time_stack|temporal_transformer_blocks|time_mix_inner_norm|temporal_res_block)\.",),
        refusal="this is Stable Video Diffusion, another architecture; give a ModelScope, VideoCrafter or "
        "DynamiCrafter network",
    ),
    Pattern(
        (r"(^|\.)(image_latents_proj_in|image_latents_temporal_encoder|local_image_concat)\.",),
        refusal="this is I2VGen-XL, whose image encoder has no place in this network; give a ModelScope, VideoCrafter "
        "or DynamiCrafter network",
    ),
    Pattern(
        (r"\.relative_position_[kv]\.",),
        refusal="this is VideoCrafter1's text-to-video network, which has tables of relative positions and no temporal "
        "convolutions; give VideoCrafter2 instead",
    ),
    # Networks of other families, and ours from a save that left out what they are.
    Pattern(
        (rf"^model\.diffusion_model\.({_OURS})\.",),
        refusal="this is a DreamFactory network saved without its config by ComfyUI's own save node; save it again "
        "with Save Video UNet",
    ),
    Pattern(
        (r"(^|\.)(label_emb|add_embedding)\.", r"\.transformer_blocks\.1\."),
        refusal="this is an SDXL UNet; give a Stable Diffusion 1.5 or 2.1 checkpoint",
    ),
    Pattern(
        (r"(^|\.)(label_emb|class_embedding)\.", r"(^|\.)(input_blocks|down_blocks)\."),
        refusal="this is a class-conditioned Stable Diffusion variant (unCLIP or an upscaler); give a plain Stable "
        "Diffusion 1.5 or 2.1 checkpoint",
    ),
    Pattern(
        (
            r"^(\w+\.)*(double_blocks|single_blocks|joint_blocks|single_transformer_blocks)\.\d+\.|"
            r"^(model\.diffusion_model\.|diffusion_model\.|model\.)?blocks\.\d+\.(self_attn|cross_attn|attn\d?)\.|"
            r"^transformer_blocks\.\d+\.",
        ),
        refusal="this is a diffusion transformer (as Flux, SD3, Hunyuan or Wan), no UNet; give a Stable Diffusion, "
        "ModelScope, VideoCrafter or DynamiCrafter checkpoint",
    ),
    # What the converters read.
    Pattern(
        (r"\.temopral_conv\.", r"(^|\.)input_blocks\.0\.1\.proj_in\."),
        source=Source("modelscope", "modelscope", modelscope.convert),
    ),
    Pattern(
        (r"\.temopral_conv\.", r"(^|\.)init_attn\.0\.proj_in\."),
        source=Source("lvdm", "lvdm", lvdm.convert),
    ),
    Pattern(
        (r"^(unet\.)?transformer_in\.", r"\.temp_convs\."),
        source=Source("modelscope-diffusers", "modelscope", modelscope.convert_diffusers),
    ),
    Pattern(
        (r"^(unet\.)?conv_in\.", r"^(unet\.)?time_embedding\.", r"\.attentions\."),
        source=Source("diffusers-unet2d", "sd", sd.convert_diffusers),
    ),
    Pattern(
        (
            r"(^|\.)input_blocks\.0\.0\.weight$",
            r"(^|\.)time_embed\.0\.weight$",
            r"(^|\.)middle_block\.1\.transformer_blocks\.",
            r"(^|\.)output_blocks\.",
        ),
        source=Source("sd", "sd", sd.convert),
    ),
    # What stands beside a network; after the networks, because whole checkpoints hold these as well.
    Pattern(
        (r"^(vae\.|first_stage_model\.)?(encoder|decoder)\.(conv_in|down|up|mid|down_blocks|up_blocks|mid_block)\b",),
        refusal="this is a VAE; give the file of the network (UNet) and load the VAE with the host's loader",
    ),
    Pattern(
        (
            r"(^|\.)text_model\.encoder\.|^(cond_stage_model\.)?(model\.)?transformer\.resblocks\.|"
            r"^(encoder|decoder)\.block\.\d+\.layer\.",
        ),
        refusal="this is a text encoder (CLIP or T5); give the file of the network (UNet) and load the text encoder "
        "with the host's loader",
    ),
    Pattern(
        (r"(^|\.)vision_model\.encoder\.|^(embedder\.)?(model\.)?visual\.transformer\.resblocks\.",),
        refusal="this is an image encoder (CLIP vision); give the file of the network (UNet) and load the encoder with "
        "the host's loader",
    ),
    Pattern(
        (r"(^|\.)latents$", r"(^|\.)layers\.0\.0\.to_kv\."),
        refusal="this is an image projector without its network; give the whole checkpoint",
    ),
)


# What a user may say a file is, beside "auto".
SOURCES = tuple(dict.fromkeys(pattern.source.name for pattern in PATTERNS if pattern.source))


def recognise(header: Header) -> str:
    """The kind of a file: a network ("sd", "diffusers-unet2d", "modelscope", "modelscope-diffusers", "lvdm") or an
    addition to one ("animatediff", "ip-adapter"). Raises as `source_of`."""
    return source_of(header).kind


def source_of(header: Header) -> Source:
    """Who reads a public file.

    Raises CheckpointError with a sentence that says what anything else looks like and what to do.
    """
    if PATCH_CODEC in header.metadata:
        raise CheckpointError("this is the small image codec, no network; give it where a VAE is asked for.")
    if header.kind == "upscaler":
        raise CheckpointError(UPSCALER + ".")
    if header.kind == "unet":
        raise CheckpointError("this is a DreamFactory network already; load it as it is, without converting.")
    if header.kind == "patch":
        raise CheckpointError("this is a DreamFactory patch; load its base network and apply the patch to it.")
    text = "\n".join(header.shapes)
    for pattern in PATTERNS:
        if all(re.search(need, text, re.MULTILINE) for need in pattern.needs):
            if pattern.source is None:
                raise CheckpointError(f"{pattern.refusal}.")
            return pattern.source
    keys = some(list(header.shapes)) or "none at all"
    raise CheckpointError(
        f"no known network has these weights ({keys}); give a Stable Diffusion 1.5 or 2.1, ModelScope, VideoCrafter "
        "or DynamiCrafter checkpoint."
    )
