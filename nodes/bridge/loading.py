"""A MODEL of the host's around our network: from a file, from weights in memory, or around another network."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import comfy.patcher_extension
import torch
from torch import Tensor

from ...errors import NodeError
from ...model_patches import UNetConfig
from ...model_patches.checkpoints.files import read_weights
from ...model_patches.checkpoints.load import read_network
from ...model_patches.checkpoints.save import check_network
from ...schedulers import ScheduleConfig
from .advice import advise, note_added
from .folders import read_file
from .model import VideoConfig, VideoModel
from .tell import tell
from .windows import cut_hints_by_window

ON_LOAD = comfy.patcher_extension.CallbacksMP.ON_LOAD
MAPPED = "_comfy_tensor_file_slice"  # what the host hangs on memory that is its view of a file, not to be written to


def load_video_model(
    path: str,
    dtype: torch.dtype | None = None,
    overrides: Mapping | None = None,
    latent_format=None,
    seen: Mapping | None = None,
    disable_dynamic: bool = False,
):
    """A MODEL from a file of ours or a public one (converted in memory). Raises CheckpointError with one sentence.

    dtype: of the weights, float8 included; None leaves it to the host. seen: how the network looks at a picture, where
    a bundle says it in its place: `uncond` as UNetConfig.image_uncond, `features` as ProjectorConfig.features.
    """
    config, schedule, state, report = read_network(path, overrides, read_weights if disable_dynamic else read_file)
    if schedule is None:
        raise NodeError(f"{path} does not say with which noise schedule it was trained; save it with its schedule.")
    if report is not None:
        logging.info("DreamFactory: %s read as %s weights: %s", path, report.source, report)
        if report.guessed:
            tell(
                f"{Path(path).name} does not say which release it is ({' and '.join(report.guessed)} are guessed); "
                "choose it in Load Video UNet's release."
            )
    trained = ScheduleConfig.from_dict(schedule)
    config = _seeing(config, **seen or {})
    model = make_model(config, trained, state, dtype, str(path), latent_format, disable_dynamic)
    model.cached_patcher_init = (load_video_model, (path, dtype, overrides, latent_format, seen))  # for a second copy
    return model


def make_model(
    config: UNetConfig,
    schedule: ScheduleConfig,
    state: dict[str, Tensor],
    dtype: torch.dtype | None = None,
    name: str = "the file",
    latent_format=None,
    disable_dynamic: bool = False,
):
    """A MODEL of this config with these weights, strictly. `state` is emptied on the way, to hold weights once.

    The host's dynamic patcher takes them as they are, from the file's memory, and casts each one on its way to the
    card. The classic one gets them in the network's dtype, in memory that it may write to.
    """
    check_network(config, state, name)
    model_config = VideoConfig(config, latent_format)
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    in_file = next(v.dtype for v in state.values() if v.is_floating_point())
    supported = model_config.supported_inference_dtypes
    count = sum(v.numel() for v in state.values())
    weight = dtype or mm.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=in_file)
    model_config.set_inference_dtype(weight, mm.unet_manual_cast(weight, device, supported))
    model = VideoModel(model_config, schedule, device=offload)
    # Read when asked for: the host may put another class behind this name at its start. The patcher comes before the
    # weights, as in the host's own loader.
    patcher_class = comfy.model_patcher.ModelPatcher
    if not disable_dynamic:
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", patcher_class)
    patcher = patcher_class(model, load_device=device, offload_device=offload)
    if not patcher.is_dynamic():
        for key in list(state):
            state[key] = state[key].detach().to(offload, weight if state[key].is_floating_point() else None)
            if hasattr(state[key].untyped_storage(), MAPPED):
                state[key] = state[key].clone()
    model.diffusion_model.load_state_dict(state, strict=True, assign=True)
    if mm.force_channels_last() and not patcher.is_dynamic():  # asked of the modules before they had these weights
        model.diffusion_model.to(memory_format=torch.channels_last)
    model.diffusion_model.requires_grad_(False)
    state.clear()
    patcher.add_callback(ON_LOAD, _patch_bare_weights)
    cut_hints_by_window(patcher)
    advise(patcher)
    return patcher


def network_like(base, config: UNetConfig, schedule: ScheduleConfig, state: dict[str, Tensor], name: str) -> VideoModel:
    """A network of other weights, in the dtype and latent format of a MODEL's."""
    # The classic patcher moves and patches weights in place, and must not move another network's with them. The dynamic
    # one leaves them where they lie, so both networks read the same.
    copy = not base.is_dynamic()
    state = {k: v.detach().to(mm.unet_offload_device(), copy=copy) for k, v in state.items()}
    dtype, latent_format = base.model.get_dtype(), base.model.latent_format
    made = make_model(config, schedule, state, dtype, name, latent_format, disable_dynamic=not base.is_dynamic())
    made.model.host_state = ({}, {}, {}, set())  # what the host keeps beside a network; its clones share it
    return made.model


def on_network(base, network: VideoModel, again: tuple):
    """A MODEL around another network that keeps all that was done to `base`: LoRAs, patches, wrappers, options.

    again: (function, arguments) that make it anew, for hosts that load a second copy; they may add
    disable_dynamic=True.
    """
    model = base.clone(model_override=(network, network.host_state))
    model.size = 0
    model.parent = None
    model.clone_base_uuid = uuid.uuid4()
    model.cached_patcher_init = again
    note_added(model, base)
    if _patch_bare_weights not in model.get_all_callbacks(ON_LOAD):
        model.add_callback(ON_LOAD, _patch_bare_weights)
        cut_hints_by_window(model)
        advise(model)
    return model


def _patch_bare_weights(model, device, *_) -> None:
    """Patches (a merge's, say) on weights that belong to no layer: gates, learned queries and scales.

    The host's dynamic patcher loads such weights without them, the classic one does where memory is short.
    """
    prefix = "diffusion_model"
    for name, module in getattr(model.model, prefix).named_modules():
        if hasattr(module, "comfy_cast_weights"):
            continue
        for weight, _ in module.named_parameters(recurse=False):
            key = f"{prefix}.{name}.{weight}"
            if key in model.patches and (model.is_dynamic() or key not in model.backup):
                model.patch_weight_to_device(key, device_to=device)
                module.comfy_patched_weights = True  # or a later part of the load would patch it once more


def weights_of(model) -> dict[str, Tensor]:
    """The weights of a MODEL's network as they were loaded, without its LoRAs (those are patches beside them)."""
    prefix = "diffusion_model."
    return {k[len(prefix) :]: entries[0][0] for k, entries in model.get_key_patches(prefix).items()}


def _seeing(config: UNetConfig, uncond: str | None = None, features: str | None = None) -> UNetConfig:
    if uncond is not None:
        config = replace(config, image_uncond=uncond)
    if features is not None and config.image_projector is not None:
        config = replace(config, image_projector=replace(config.image_projector, features=features))
    return config
