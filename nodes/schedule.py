"""The noise schedule of a clip's size (FD 3.3), with its curve, and guidance rescale."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..errors import NodeError
from ..schedulers import ScheduleConfig, log_snr_curves
from .bridge.folders import name_input_in_errors
from .bridge.sampling import frames_together, rescale_whole_clip, with_schedule
from .checked import CheckedNode
from .conditioning import MAX_FRAMES
from .curve import draw

OWN = "checkpoint"


class NoiseSchedule(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryNoiseSchedule",
            display_name="Noise Schedule (DreamFactory)",
            category="DreamFactory/sampling",
            description="Larger and longer clips need more noise to lose their layout. Shifts the signal-to-noise "
            "ratio by the clip's size and rescales it to end in pure noise, as the network was trained "
            "(Factorized-Dreamer, section 3.3). Place it last before the sampler; use the schedulers sgm_uniform, "
            "simple or normal. ComfyUI's ModelSamplingDiscrete after this node would undo the shift.",
            search_aliases=["snr shift", "zero terminal snr", "zsnr", "log snr", "beta schedule", "v prediction"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="A video MODEL of this pack."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="The clip to sample: its size replaces frames, width and height."
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=MAX_FRAMES, tooltip="Frames of the clip, where no latent is wired."
                ),
                io.Int.Input(
                    "width", default=512, min=8, max=8192, step=8, tooltip="Pixels, where no latent is wired."
                ),
                io.Int.Input(
                    "height", default=512, min=8, max=8192, step=8, tooltip="Pixels, where no latent is wired."
                ),
                io.Combo.Input(
                    "shift",
                    options=[OWN, "clip size", "fixed", "off"],
                    default=OWN,
                    tooltip="How the schedule follows the clip's size. checkpoint: as the network was trained. clip "
                    "size: SNR times s squared, s = D / sqrt(T*H*W). fixed: s given below. off: Stable Diffusion's.",
                ),
                io.Float.Input(
                    "shift_reference",
                    default=256.0,
                    min=8.0,
                    max=8192.0,
                    step=8.0,
                    tooltip="D of 'clip size', in pixels: a still picture of D x D keeps Stable Diffusion's noise.",
                ),
                io.Float.Input(
                    "shift_factor",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.005,
                    tooltip="s of 'fixed': below 1 means more noise.",
                ),
                io.Combo.Input(
                    "rescale",
                    options=[OWN, "lin", "printed", "none"],
                    default=OWN,
                    tooltip="End in pure noise: lin as Lin et al. 2023, printed as Factorized-Dreamer's Eq. 6, none "
                    "leaves a rest of signal.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=[OWN, "v", "eps", "x0"],
                    default=OWN,
                    tooltip="What the network predicts. Change it only if you know the file says it wrongly.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The MODEL with this schedule."),
                io.Image.Output(display_name="curve", tooltip="Log SNR over the timesteps, as the paper's Fig. 5."),
                io.Float.Output(display_name="s", tooltip="The shift s of the paper's Eq. 5."),
            ],
        )

    @classmethod
    def execute(
        cls, model, frames, width, height, shift, shift_reference, shift_factor, rescale, prediction, latent=None
    ) -> io.NodeOutput:
        own = getattr(model.model, "schedule", None)
        if own is None:
            raise NodeError("model: this is no video MODEL of DreamFactory; load one, or put motion on it first.")
        if latent is not None:
            if latent["samples"].ndim != 4:
                raise NodeError(
                    "latent: wire a clip with its frames in the batch, as Image to Video (DreamFactory) gives it."
                )
            frames, _, height, width = latent["samples"].shape
            pixels = model.model.latent_format.spacial_downscale_ratio
            height, width = height * pixels, width * pixels
        seen = frames_together(model, frames)  # as far as is known here: windows may come later
        with name_input_in_errors("shift"):
            config = configure(own, shift, shift_reference, shift_factor, rescale, prediction)
            schedule = config.build(seen, height, width)
        size = {"frames": seen, "height": height, "width": width}
        picture = draw(log_snr_curves(config, **size), f"{seen} frames of {width}×{height}")
        shown = {"config": config.to_dict(), "own": own.to_dict(), **size, "shift": schedule.shift}
        patched = with_schedule(model, config, frames, height, width)
        return io.NodeOutput(patched, picture, schedule.shift, ui={"dreamfactory_schedule": [shown]})


def configure(
    own: ScheduleConfig, shift: str, reference: float, factor: float, rescale: str, prediction: str
) -> ScheduleConfig:
    """The checkpoint's schedule with the node's choices put in."""
    choices: dict = {}
    if shift != OWN:
        choices["shift"] = factor if shift == "fixed" else None
        choices["shift_reference"] = reference if shift == "clip size" else None
    if rescale != OWN:
        choices["rescale"] = rescale
    if prediction != OWN:
        choices["prediction"] = prediction
    return replace(own, **choices)


class RescaleCFG(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryRescaleCFG",
            display_name="Rescale CFG (whole clip)",
            category="DreamFactory/sampling",
            description="Keeps strong guidance from burning the picture (Lin et al. 2023). The contrast is measured "
            "over the whole clip, as DynamiCrafter and VideoCrafter do; ComfyUI's RescaleCFG measures each frame by "
            "itself, which evens out flicker and motion.",
            search_aliases=["rescale cfg", "guidance rescale", "cfg", "overexposed", "burned"],
            inputs=[
                io.Model.Input("model", tooltip="Any video MODEL with frames in the batch."),
                io.Float.Input(
                    "multiplier",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 leaves guidance as it is, 1 restores the full contrast of the prompt's own answer. "
                    "DynamiCrafter uses 0.7.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The MODEL with rescaled guidance.")],
        )

    @classmethod
    def execute(cls, model, multiplier) -> io.NodeOutput:
        return io.NodeOutput(rescale_whole_clip(model, multiplier))
