"""Our network as a native model of the host: core samplers, LoRA, ControlNet, offload, dtypes and previews apply.

    VideoConfig   what the host asks of an architecture
    HostUNet      the network, called as the host calls one
    VideoModel    conditions in, frames counted, strengths and positions of this step

Frames are in the batch, (t, c, h, w), one clip a latent. Where conditional and unconditional run together the batch
is (clips*t, ...) with `len(cond_or_uncond)` clips: frames are counted from that, never from a stored number, since a
context window may bring one frame more than its length (its anchor).

A conditioning's dictionary may hold, on the positive and the negative side alike (see ../conditioning.py):

    dreamfactory_motion_text   (1, m, motion_dim) T5 tokens
    dreamfactory_first_frame   (1, c, h, w) latents as the VAE gives them, or one a frame: a context window then starts
    dreamfactory_last_frame    from the picture at its own start
    dreamfactory_image         CLIP vision output of the first frame (or of each); and what some models were trained to
    dreamfactory_grey_image    see in its place without condition: that of a grey picture, or of pixels that are zero
    dreamfactory_zero_image    once they are normalised
    dreamfactory_frame_rate    one number
    dreamfactory_distance      frames from the picture to the clip's first one, where it goes on from others
    dreamfactory_frames        frames that Image to Video was asked for
"""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...errors import NodeError
from ...model_patches import Conditions, UNetConfig, VideoUNet
from ...model_patches.kernels import same_bits
from ...model_patches.network.hooks import Hooks
from ...model_patches.network.layout import layout
from ...schedulers import ScheduleConfig
from .codec import CodecLatents
from .known import is_known, known_rows
from .sampling import VideoSampling, by_frame
from .windows import PREFIX, frames_of

# What a network sees of a picture -> where it lies in a conditioning; what it reads of that -> the host's name.
SEEN = {"same": "image", "grey": "grey_image", "zeros": "zero_image"}
FEATURES = {"pooled": "image_embeds", "penultimate": "penultimate_hidden_states", "last": "last_hidden_state"}
SHAPE_WITHOUT_RECORD = (16, 256, 256)  # frames, height, width: for a shift by clip size that nobody told the size of


class VideoConfig(comfy.supported_models_base.BASE):
    """What the host wants to know of an architecture."""

    unet_extra_config: ClassVar[dict] = {}  # the host's default would inject num_heads into every config
    latent_format = comfy.latent_formats.SD15
    supported_inference_dtypes: ClassVar[list] = [torch.float16, torch.bfloat16, torch.float32]
    memory_usage_factor = 1.25  # benchmarks/memory.py

    def __init__(self, config: UNetConfig, latent_format: comfy.latent_formats.LatentFormat | None = None) -> None:
        super().__init__({"video_config": config, **_described(config)})
        if latent_format is not None:
            self.latent_format = latent_format
        elif config.in_channels != self.latent_format.latent_channels:
            self.latent_format = CodecLatents(config.in_channels)


class HostUNet(VideoUNet):
    """The network built from the host's operations, with the host's attention and calling form."""

    def __init__(self, video_config: UNetConfig, operations, dtype=None, device=None, **described) -> None:
        # On no device: weights are assigned, which costs neither the time nor the memory of random ones.
        # Stable Diffusion 2.x overflows half precision inside attention; the host asks its kernels for float32 there.
        precision = torch.float32 if video_config.linear_projection and video_config.head_dim == 64 else None
        attention = partial(_host_attention, precision=precision)
        super().__init__(
            video_config, operations=operations, attention=attention, dtype=dtype, device=torch.device("meta")
        )
        self.dtype = dtype

    def forward(self, x, timesteps, context, control=None, transformer_options=None, **conds):
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._predict, self, wrappers)
        return executor.execute(x, timesteps, context, control, options, **conds)

    def _predict(self, x, timesteps, context, control, transformer_options, *, num_frames, **conds):
        hooks = Hooks(transformer_options, control)
        return super().forward(x, timesteps, Conditions(context, **conds), num_frames=num_frames, hooks=hooks)


class VideoModel(comfy.model_base.BaseModel):
    """BaseModel around HostUNet."""

    def __init__(self, model_config: VideoConfig, schedule: ScheduleConfig, device=None) -> None:
        kind = comfy.model_base.ModelType.EPS
        if schedule.prediction == "v":
            kind = comfy.model_base.ModelType.V_PREDICTION
        super().__init__(model_config, kind, device=device, unet_model=HostUNet)
        self.schedule = schedule
        self.model_sampling = VideoSampling(schedule.build(*(schedule.trained_shape or SHAPE_WITHOUT_RECORD)))

    @property
    def video_config(self) -> UNetConfig:
        return self.model_config.unet_config["video_config"]

    # -- conditions -------------------------------------------------------------------------------------------

    def extra_conds(self, **kwargs) -> dict:
        """What the network looks at, from one entry of a conditioning."""
        out = super().extra_conds(**kwargs)
        config, noise, side = self.video_config, kwargs["noise"], kwargs.get("prompt_type") or "positive"
        if noise.ndim != 4:
            raise NodeError(
                f"latent_image: it has {noise.ndim} dimensions; this video model wants frames in the batch, as Image "
                "to Video (DreamFactory) gives them."
            )
        text = kwargs.get("cross_attn")
        if text is None:
            raise NodeError(f"{side}: the conditioning has no text; encode a prompt, an empty one will do.")
        if text.shape[-1] != config.context_dim:
            raise NodeError(
                f"{side}: the prompt's tokens are {text.shape[-1]} wide, this video model reads {config.context_dim}; "
                "encode it with the text encoder the model was trained with."
            )
        if text.shape[0] not in (1, len(noise)):
            raise NodeError(
                f"{side}: it holds {text.shape[0]} prompts for {len(noise)} frames; give one, or one a frame."
            )
        out["text_rows"] = comfy.conds.CONDConstant("clip" if text.shape[0] == 1 else "frame")

        motion = kwargs.get(PREFIX + "motion_text")
        if config.motion_text != "off":
            if motion is None:
                raise NodeError(
                    f"{side}: this video model reads motion text and the conditioning has none; wire motion text "
                    "through Image to Video (DreamFactory)."
                )
            if motion.shape[-1] != config.motion_dim:
                raise NodeError(
                    f"{side}: the motion text's tokens are {motion.shape[-1]} wide, this video model reads "
                    f"{config.motion_dim}; encode it with the T5 the model was trained with."
                )
            out["motion_text"] = ClipTokens(motion)

        first, last = kwargs.get(PREFIX + "first_frame"), kwargs.get(PREFIX + "last_frame")
        if config.first_frame_concat != "off" or config.paca:
            if first is None:
                raise NodeError(
                    f"{side}: this video model animates a first frame and the conditioning has none; wire positive "
                    "and negative through Image to Video (DreamFactory)."
                )
            out["first_frame"] = ClipLatents(self._frame("first_frame", first, noise))
        if last is not None:
            if config.first_frame_concat != "ends":
                raise NodeError(
                    "last_frame: this video model has no place for it; only interpolation networks do. If it is one, "
                    "choose its release in Load Video UNet."
                )
            out["last_frame"] = ClipLatents(self._frame("last_frame", last, noise))

        if config.image_adapter != "off" and config.image_projector is not None:
            out["image_tokens"] = ClipTokens(self._image_tokens(side, kwargs))
        rate = kwargs.get(PREFIX + "frame_rate")
        if rate is not None and config.frame_rate_embedding != "off":
            out["frame_rate"] = comfy.conds.CONDConstant(float(rate))
        if kwargs.get(PREFIX + "distance"):
            out["distance"] = comfy.conds.CONDConstant(int(kwargs[PREFIX + "distance"]))
        mask = kwargs.get("denoise_mask")
        known = None if mask is None or not config.known_frames else is_known(mask, config.known_frames).cpu()
        if known is not None and known.any():
            out["known"] = comfy.conds.CONDRegular(known_rows(known))
        return out

    def scale_latent_inpaint(self, sigma, noise, latent_image, denoise_mask=None, **kwargs) -> Tensor:
        """What the network sees of frames that a noise mask keeps."""
        seen = super().scale_latent_inpaint(sigma=sigma, noise=noise, latent_image=latent_image, **kwargs)
        if denoise_mask is None or not self.video_config.known_frames:
            return seen
        known = is_known(denoise_mask, self.video_config.known_frames).reshape(-1, 1, 1, 1)
        return torch.where(known, latent_image.to(seen), seen)

    def _frame(self, name: str, latents: Tensor, noise: Tensor) -> Tensor:
        if latents.shape[1] != noise.shape[1]:
            raise NodeError(
                f"{name}: its latent has {latents.shape[1]} channels, the clip's {noise.shape[1]}; use the VAE the "
                "model was trained with."
            )
        if latents.shape[2:] != noise.shape[2:]:
            raise NodeError(
                f"{name}: its latent is {_size(latents)}, the clip's is {_size(noise)}; make both with one Image to "
                "Video (DreamFactory), a second pass of another size with a second one."
            )
        if len(latents) not in (1, len(noise)):
            raise NodeError(
                f"{name}: it holds {len(latents)} pictures for {len(noise)} frames; give one, or one a frame."
            )
        return self.process_latent_in(latents)

    def _image_tokens(self, side: str, kwargs: dict) -> Tensor:
        """Tokens of the image adapter; run once here, not in every step."""
        config, projector = self.video_config, self.video_config.image_projector
        assert projector is not None  # extra_conds asks
        reads = projector.reads
        # The sides of the host's guiders that should see the picture; any other stands for no condition.
        means = "same" if side in ("positive", "middle") else config.uncond_image
        zeros = means == "zeros" and reads == "pooled"
        seen = kwargs.get(PREFIX + ("image" if zeros else SEEN[means]))
        if seen is None:
            raise NodeError(
                f"{side}: this video model looks at the first frame through CLIP vision and the conditioning has none; "
                "wire a first frame and a CLIP vision model into Image to Video (DreamFactory)."
            )
        features = seen[FEATURES[reads]]
        features = torch.zeros_like(features) if zeros else features
        count = len(kwargs[PREFIX + "image"][FEATURES[reads]]) if PREFIX + "image" in kwargs else 1
        features = features.expand(count, *features.shape[1:])  # one for each picture, as the other side has
        if features.shape[-1] != projector.embedding_dim:
            raise NodeError(
                f"clip_vision: its features are {features.shape[-1]} wide, this video model reads "
                f"{projector.embedding_dim}; load the CLIP vision model it was trained with."
            )
        return self.diffusion_model.project_image(features.to(kwargs["device"], self.get_dtype_inference()))

    # -- one step ---------------------------------------------------------------------------------------------

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = {} if transformer_options is None else transformer_options
        clips = len(options.get("cond_or_uncond", (0,)))
        frames = x.shape[0] // clips
        if kwargs.pop("text_rows", None) == "clip" and c_crossattn is not None:
            c_crossattn = c_crossattn[::frames]
        window = options.get("context_window")
        self._check_pictures(window, kwargs.get("first_frame"), kwargs.get("image_tokens"), clips)
        for name in ("first_frame", "last_frame", "image_tokens"):
            if name in kwargs and kwargs[name].shape[0] > clips:
                kwargs[name] = kwargs[name][::frames]  # a window starts from the picture at its own start
        kwargs["num_frames"] = frames
        kwargs["strengths"] = self._strengths(t, options.get("dreamfactory", ()))
        if "distance" in kwargs:
            kwargs["frame_index"] = torch.arange(frames, device=x.device) + kwargs.pop("distance")
        if "known" in kwargs:  # frames without noise: what the network answers to them counts for nothing
            t = t * kwargs.pop("known").to(t).flatten()
        if options.get("dreamfactory_swap_windows"):
            kwargs["swap_windows"] = options["dreamfactory_swap_windows"]
        if window is not None:  # packs that give something by frame ask here which frames these are
            options = {**options, "ad_params": by_frame(frames_of(window), window.total_frames)}
        with same_bits():
            return super()._apply_model(
                x, t, c_concat=c_concat, c_crossattn=c_crossattn, control=control, transformer_options=options, **kwargs
            )

    def _check_pictures(self, window, first: Tensor | None, tokens: Tensor | None, clips: int) -> None:
        """First frames that would not count, or would not lead to one clip.

        A window is a clip of its own, its frames counted from 0: beyond its training length a network never saw a
        number, and from one picture windows that start elsewhere would show it twice.
        """
        rows = max((len(seen) for seen in (first, tokens) if seen is not None), default=0)
        several = rows > clips
        if window is None and several:
            raise NodeError(
                f"first_frame: {rows // clips} pictures for one clip, of which only the first could count; "
                "give one. For a clip from each picture, put Rebatch Images (batch_size 1) before Image to Video; for "
                "one picture a context window, Context Windows that are shorter than the clip."
            )
        if first is None:
            return
        if window is not None and self.video_config.first_frame_concat == "ends":
            raise NodeError("model: an interpolation network joins two pictures; sample it without context windows.")
        if window is not None and not several:
            raise NodeError(
                "model: context windows of a network that animates one first frame would each begin with it, and the "
                "clip with ghosts; take Context Windows out and sample with KSampler Long Clip (DreamFactory), or give "
                "Image to Video a picture of its own for every frame."
            )

    def _strengths(self, sigma: Tensor, wanted) -> dict[str, float]:
        """Strengths of the network's branches at this step.

        A node counts within its range; where several of one branch do, they multiply; where none does, it is off.
        """
        last = len(self.model_sampling.sigmas) - 1
        done = None
        active: dict[str, list[float]] = {}
        for part, strength, start, end in wanted:
            counts = (start, end) == (0.0, 1.0)
            if not counts:
                if done is None:
                    done = 1.0 - float(self.model_sampling.timestep(sigma).max()) / last
                counts = start <= done <= end
            active.setdefault(part, []).extend([strength] if counts else [])
        return {part: math.prod(values) if values else 0.0 for part, values in active.items()}


class ClipTokens(comfy.conds.CONDCrossAttn):
    """Tokens of a whole clip: one row, however many frames the batch has."""

    def process_cond(self, batch_size, **kwargs):
        return self._copy_with(self.cond)


class ClipLatents(comfy.conds.CONDNoiseShape):
    """Latents of a whole clip, cut to the area of the conditioning; one row, or one a frame."""

    def process_cond(self, batch_size, area, **kwargs):
        cut = super().process_cond(batch_size, area, **kwargs).cond
        return self._copy_with(cut if self.cond.shape[0] > 1 else cut[:1])


# -- parts --------------------------------------------------------------------------------------------------------


def _host_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict | None = None, precision=None
) -> Tensor:
    """The host's choice of kernel, and of packs that override it."""
    return optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=transformer_options or {})


def _described(config: UNetConfig) -> dict:
    """The spatial half in the host's words: its LoRA loader and other packs read them."""
    plan = layout(config)
    levels = len(config.channel_mult)
    heads = {"num_heads": config.num_heads or -1, "num_head_channels": config.head_dim or -1}
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "num_res_blocks": [config.num_res_blocks] * levels,
        "transformer_depth": [int(p.spatial_attention) for p in plan.inputs if not p.downsample],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [int(p.spatial_attention) for p in reversed(plan.outputs)],
        "context_dim": config.context_dim,
        "use_linear_in_transformer": config.linear_projection,
        **heads,
    }


def _size(latents: Tensor) -> str:
    return f"{latents.shape[-1]}x{latents.shape[-2]}"
