"""Our noise schedule as the host's `model_sampling`, and guidance rescale over a whole clip.

The host samples x = x0 + sigma*eps. A table of effective alphas_cumprod gives sigma = sqrt((1 - a) / a); where a
checkpoint scales its signal (VideoCrafter, DynamiCrafter: x_t = sqrt(a)*s*x0 + sqrt(1-a)*eps) the input is scaled and
the answer brought back here, so every sampler of the host works unchanged. With r = sigma*s:

    input     x * s / sqrt(1 + r^2)
    v         x0 = x / (1 + r^2) - v * r / (s * sqrt(1 + r^2))
    eps       x0 = x - sigma * eps
    x0        x0 = answer / s
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import comfy.model_sampling
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...errors import NodeError
from ...schedulers import NoiseSchedule, ScheduleConfig, last_usable, rescale_guidance

# alphas_cumprod at zero terminal SNR, as the host writes it: sigma stays finite (4518.8). A shift can take the
# timestep before beyond that; the last one then has twice its sigma, which is what the host's number is without shift.
TERMINAL = 4.8973451890853435e-08
# The printed rescale makes the first timestep noise-free; its sigma must still have a logarithm.
CLEANEST = 1 - 1e-6
CPU = torch.device("cpu")
CLONED = "dreamfactory_schedule"  # the callback's name in the host
TOGETHER = "dreamfactory_together"  # in a MODEL's options: frames of a piece


class VideoSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """A NoiseSchedule in the host's terms. sigma is one number, or one a frame.

    Its tables are no buffers, as the host's own are: loading dynamically, the host puts the buffers that it saw first
    back under the same names whenever a MODEL is loaded again, so that a second schedule on one network would sample
    with the tables of the first.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._begin()
        super().__init__()
        ac = schedule.effective_alphas_cumprod
        if ac[-1] == 0 and schedule.prediction == "eps":
            # eps says nothing of x0 without signal: sampling starts at the last step that has some.
            ac = ac[: last_usable(ac) + 1]
        elif ac[-1] == 0:
            ac = torch.cat([ac[:-1], (ac[-2:-1] / 4).clamp(max=TERMINAL)])
        self.prediction = schedule.prediction
        ac = ac.clamp(max=CLEANEST)
        self.set_sigmas(((1 - ac) / ac).sqrt())
        self.tables[CPU]["signal_scale"] = schedule.signal_scale[: len(ac)].float()

    def _begin(self) -> None:
        self.__dict__["tables"] = {}  # by device; the host's constructor writes into it

    def set_sigmas(self, sigmas: Tensor) -> None:
        """sigmas (n,), rising. The host's own form of it."""
        scale = self.tables.get(CPU, {}).get("signal_scale")
        if scale is not None and len(scale) != len(sigmas):
            raise NodeError(
                f"model: its noise schedule has {len(scale)} timesteps, another node sets {len(sigmas)}; take it out."
            )
        self.tables.clear()
        self.tables[CPU] = {"sigmas": sigmas.float(), "log_sigmas": sigmas.log().float()}
        if scale is not None:
            self.tables[CPU]["signal_scale"] = scale

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Nothing: whoever puts tables here by name puts back those of another schedule."""

    @property
    def sigmas(self) -> Tensor:
        return self.tables[CPU]["sigmas"]

    @property
    def log_sigmas(self) -> Tensor:
        return self.tables[CPU]["log_sigmas"]

    def table(self, name: str, device: torch.device) -> Tensor:
        """A table where a step needs it; copied there once, not in every step."""
        if device not in self.tables:
            self.tables[device] = {name: table.to(device) for name, table in self.tables[CPU].items()}
        return self.tables[device][name]

    def timestep(self, sigma: Tensor) -> Tensor:
        distance = sigma.log() - self.table("log_sigmas", sigma.device)[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        sigma, scale = self._at(sigma, noise)
        return noise * scale / (1 + (sigma * scale) ** 2).sqrt()

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        sigma, scale = self._at(sigma, model_output)
        if self.prediction == "eps":
            return model_input - model_output * sigma
        if self.prediction == "x0":
            return model_output / scale
        r = sigma * scale
        return model_input / (1 + r**2) - model_output * r / (scale * (1 + r**2).sqrt())

    def calculate_output(self, sigma: Tensor, denoised: Tensor, model_input: Tensor) -> Tensor:
        """The network's answer that `calculate_denoised` would turn into `denoised`."""
        sigma, scale = self._at(sigma, denoised)
        if self.prediction == "eps":
            return (model_input - denoised) / sigma
        if self.prediction == "x0":
            return denoised * scale
        r = sigma * scale
        return (model_input / (1 + r**2) - denoised) * scale * (1 + r**2).sqrt() / r

    def _at(self, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sigma and the signal scale of its timestep, shaped to multiply `like`."""
        shape = (-1,) + (1,) * (like.ndim - 1) if sigma.nelement() > 1 else ()
        scale = self.table("signal_scale", sigma.device)[self.timestep(sigma).long()]
        return sigma.reshape(shape), scale.reshape(shape)


class Velocity(comfy.model_sampling.V_PREDICTION):
    """v-space of models that are not ours."""

    sigma_data = 1.0

    def calculate_output(self, sigma: Tensor, denoised: Tensor, model_input: Tensor) -> Tensor:
        sigma = comfy.model_sampling.reshape_sigma(sigma, denoised.ndim)
        return (model_input / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma


def rescale_whole_clip(model, phi: float):
    """A clone of the MODEL whose guidance keeps the contrast of the conditional answer (Lin et al. 2023).

    The standard deviation is taken over a whole clip (c, t, h, w) of the network's own answers, as DynamiCrafter and
    VideoCrafter were tuned; the host's RescaleCFG takes it frame by frame, which evens out flicker and motion.
    phi in [0, 1].
    """

    def guide(args: dict) -> Tensor:
        x, sigma = args["input"], args["sigma"]
        # Asked for at every step: a schedule node may come after this one.
        space = args["model"].model_sampling
        space = space if hasattr(space, "calculate_output") else Velocity()
        cond = space.calculate_output(sigma, args["cond_denoised"], x)
        uncond = space.calculate_output(sigma, args["uncond_denoised"], x)
        guided = uncond + args["cond_scale"] * (cond - uncond)
        given = [entry.get("model_conds", {}).get("known") for entry in args.get("input_cond") or ()]
        known = int((given[0].cond == 0).sum()) if given and given[0] is not None else 0
        rescaled = rescale_guidance(guided, cond, phi, x.shape[0], known)
        return x - space.calculate_denoised(sigma, rescaled, x)

    patched = model.clone()
    patched.set_model_sampler_cfg_function(guide)
    return patched


def with_schedule(model, schedule: ScheduleConfig, frames: int, height: int, width: int):
    """A clone of the MODEL that samples with the schedule of a clip's size, in pixels; under context windows with that
    of a window's."""
    patched = model.clone()

    def built(seen: int) -> NoiseSchedule:
        return schedule.build(seen, height, width)

    patched.add_object_patch("model_sampling", WindowedSampling(built, frames, patched))
    patched.remove_callbacks_with_key(CallbacksMP.ON_CLONE, CLONED)
    patched.add_callback_with_key(CallbacksMP.ON_CLONE, CLONED, _follow)
    return patched


def _follow(model, clone) -> None:
    """A clone's sampling asks the clone for its windows."""
    sampling = clone.object_patches.get("model_sampling")
    if isinstance(sampling, WindowedSampling):
        clone.object_patches["model_sampling"] = WindowedSampling(sampling.built, sampling.frames, clone)


class WindowedSampling(VideoSampling):
    """The schedule of what a network sees together: a whole clip, or one of the host's context windows.

    Windows may come before the schedule in a graph or after it, so the MODEL is asked for them when sampling begins.
    """

    def __init__(self, built: Callable[[int], NoiseSchedule], frames: int, model) -> None:
        self.__dict__.update(built=built, frames=frames, by_frames={}, model=weakref.ref(model))
        super().__init__(built(self.seen()))

    def _begin(self) -> None:
        self.by_frames[self.seen()] = {}

    def seen(self) -> int:
        """Frames that a pass of the network has."""
        model = self.model()
        return self.frames if model is None else frames_together(model, self.frames)

    @property
    def tables(self) -> dict:
        seen = self.seen()
        if seen not in self.by_frames:
            self.by_frames[seen] = VideoSampling(self.built(seen)).tables
        return self.by_frames[seen]


def frames_together(model, frames: int) -> int:
    """How many of a clip's frames the MODEL's network sees at once: all, a piece, or a context window of the host's."""
    frames = model.model_options.get(TOGETHER, frames)
    windows = model.model_options.get("context_handler")
    if windows is None or windows.dim != 0:
        return frames
    return min(frames, windows.context_length)


def seen_together(model, frames: list[int], total: int):
    """A clone of the MODEL for a sampler that makes these frames of a clip, and the others at other times.

    Of the MODEL itself: a loaded clone that nobody holds any more falls back to the one it was cloned from, and where
    that is gone as well the host speaks of a memory leak.
    """
    patched = model.clone()
    patched.model_options[TOGETHER] = len(frames)
    return tell_frames(patched, [min(f, total - 1) for f in frames], total)


def tell_frames(model, frames: list[int], total: int):
    """Say in a MODEL's options which frames of a clip it sees, where packs look that give something by frame."""
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    options["ad_params"] = by_frame(frames, total)
    return model


def by_frame(frames: list[int], total: int) -> dict:
    """Which frames of a clip a network sees, in AnimateDiff-Evolved's words, which IP-Adapter packs read."""
    return {"sub_idxs": list(frames), "full_length": total, "context_length": len(frames)}
