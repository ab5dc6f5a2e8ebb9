"""The papers' branches on a video MODEL: how strong, when, and from which file."""

from __future__ import annotations

import weakref

from comfy_api.latest import io

from ..errors import NodeError
from ..model_patches import UNetConfig
from ..model_patches.checkpoints.compose import merge_motion, merge_patch
from ..model_patches.checkpoints.converters import sd
from ..model_patches.checkpoints.converters.recognise import recognise
from ..model_patches.checkpoints.files import Header
from ..schedulers import ScheduleConfig
from .bridge.folders import NONE, name_input_in_errors, names, path_of, read_file, stamp
from .bridge.loading import network_like, on_network, weights_of
from .bridge.model import VideoModel
from .checked import CheckedNode

STRENGTH_RANGE = (0.0, 10.0)


# Networks made from a MODEL and a file, while something still uses them: a change of strength makes none anew.
_MADE: weakref.WeakValueDictionary[tuple, VideoModel] = weakref.WeakValueDictionary()


def with_strength(model, part: str, strength: float, start: float, end: float):
    """A clone of the MODEL whose branch `part` counts `strength` between two shares of the sampling, in [0, 1]."""
    patched = model.clone()
    options = patched.model_options.setdefault("transformer_options", {})
    options["dreamfactory"] = [*options.get("dreamfactory", []), (part, strength, start, end)]
    return patched


def with_patch(model, path: str, fresh: bool = False, disable_dynamic: bool = False):
    """The video MODEL with the parts of a patch file. fresh: on weights that no other MODEL shares."""
    base = model.clone(disable_dynamic=disable_dynamic)

    def make() -> VideoModel:
        config, state = merge_patch(base.model.video_config, weights_of(base), path, read_file)
        return network_like(base, config, base.model.schedule, state, str(path))

    return on_network(base, _made(base, path, make, fresh), again=(with_patch, (model, path, True)))


def with_motion(model, path: str, fresh: bool = False, disable_dynamic: bool = False):
    """The Stable Diffusion MODEL as a video MODEL, with the motion of a file. fresh: as `with_patch`."""
    base = model.clone(disable_dynamic=disable_dynamic)

    def make() -> VideoModel:
        with name_input_in_errors("model"):
            config, state, schedule = image_network(base)
        with name_input_in_errors("motion_name"):
            merged, weights, trained = merge_motion(config, state, path, read_file)
            trained = ScheduleConfig.from_dict(trained or schedule)
            if trained.prediction != schedule["prediction"]:
                raise NodeError(
                    f"{path} was trained to predict {trained.prediction}, the model predicts "
                    f"{schedule['prediction']}; choose two of one kind (Stable Diffusion 2.1-768 predicts v, 1.x "
                    "and the 2.1 base eps)."
                )
            return network_like(base, merged, trained, weights, str(path))

    network = _made(base, path, make, fresh)
    base.object_patches.pop("model_sampling", None)  # the image model's; the motion brings its own noise
    return on_network(base, network, again=(with_motion, (model, path, True)))


def _made(base, path: str, make, fresh: bool) -> VideoModel:
    key = (id(base.model), stamp(path))
    network = _MADE.get(key)
    if fresh or network is None or network.made_from() is not base.model:
        network = make()
        network.made_from = weakref.ref(base.model)
        if not fresh:
            _MADE[key] = network
    return network


def video_model(model) -> VideoModel:
    """The network behind a MODEL input, or a sentence."""
    if not isinstance(model.model, VideoModel):
        raise NodeError("model: this is no video MODEL of DreamFactory; load one, or put motion on it first.")
    return model.model


PATCH = "Weights from models/model_patches put on the model; none uses what the model has."


def _strength_inputs(what: str, patch: str = PATCH) -> list:
    return [
        io.Model.Input("model", tooltip="A video MODEL of this pack."),
        io.Float.Input(
            "strength",
            default=1.0,
            min=STRENGTH_RANGE[0],
            max=STRENGTH_RANGE[1],
            step=0.05,
            tooltip=f"How much {what} counts: 1 as trained, 0 leaves it out and saves its time.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="From which share of the noise schedule on: 0 is pure noise.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Up to which share of the noise schedule: 1 is the finished picture.",
        ),
        io.Combo.Input(
            "patch",
            options=[NONE, *names("model_patches")],
            default=NONE,
            optional=True,
            tooltip=patch,
        ),
    ]


MODEL_OUTPUT = io.Model.Output(
    display_name="model", tooltip="The MODEL with this choice; LoRAs and patches stay on it."
)


class _Branch(CheckedNode):
    """What the three nodes share; `part` is the branch's name in `VideoUNet.forward(strengths=)`."""

    part = ""
    called = ""

    @classmethod
    def fingerprint_inputs(cls, patch=NONE, **_):
        return "" if patch == NONE else stamp(path_of("patch", patch, "model_patches"))

    @classmethod
    def has(cls, config: UNetConfig) -> bool:
        return getattr(config, cls.part) not in (False, "off")

    @classmethod
    def apply(cls, model, strength, start_percent, end_percent, patch):
        own = video_model(model)
        if end_percent < start_percent:
            raise NodeError(f"end_percent: {end_percent} comes before start_percent {start_percent}; swap them.")
        if patch != NONE:
            path = path_of("patch", patch, "model_patches")
            with name_input_in_errors("patch", path, patch):
                model = with_patch(model, path)
            own = model.model
            if not cls.has(own.video_config):
                raise NodeError(f"patch: {patch} holds no {cls.called} weights; choose another file.")
        elif not cls.has(own.video_config):
            raise NodeError(
                f"model: this network has no {cls.called}; choose a patch file that brings it, or remove this node."
            )
        return with_strength(model, cls.part, strength, start_percent, end_percent)

    @classmethod
    def execute(cls, model, strength, start_percent, end_percent, patch=NONE) -> io.NodeOutput:
        return io.NodeOutput(cls.apply(model, strength, start_percent, end_percent, patch))


class PACA(_Branch):
    part, called = "paca", "pixel-aware cross-attention"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryPACA",
            display_name="Pixel-Aware Attention (PACA)",
            category="DreamFactory/patches",
            description="How closely the clip keeps to the pixels of its first frame: cross-attention from the "
            "decoder to the first frame's latent (Factorized-Dreamer, Eq. 3).",
            search_aliases=["paca", "first frame fidelity", "pixel aware"],
            inputs=_strength_inputs("the first frame's latent"),
            outputs=[MODEL_OUTPUT],
        )


class ImageAdapter(_Branch):
    part, called = "image_adapter", "image adapter"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryImageAdapter",
            display_name="Image Adapter (DreamFactory)",
            category="DreamFactory/patches",
            description="How much the network looks at what the picture shows, through CLIP vision: decoupled "
            "cross-attention (Factorized-Dreamer, Eq. 2; IP-Adapter's structure, DynamiCrafter's too). Puts an "
            "IP-Adapter on a network that has no image adapter.",
            search_aliases=["ip-adapter", "ipadapter", "image prompt", "clip vision strength"],
            inputs=_strength_inputs(
                "the picture's content",
                f"{PATCH} Takes IP-Adapter and IP-Adapter-plus as they are: on Stable Diffusion 1.5 "
                "with motion the files for 1.5, on 2.x and networks that grew out of it those for 2.x.",
            ),
            outputs=[MODEL_OUTPUT],
        )


class SwapAttention(_Branch):
    part, called = "swap_attention", "Swap-CA"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactorySwapAttention",
            display_name="Swap-CA (DreamFactory)",
            category="DreamFactory/patches",
            description="Lets spatial and temporal features look at each other in 3-D windows, with swapped roles "
            "from block to block (VideoFactory, Eq. 2-3).",
            search_aliases=["swap ca", "swapped cross attention", "videofactory"],
            inputs=[
                *_strength_inputs("the exchange between space and time"),
                io.Combo.Input(
                    "windows",
                    options=["as trained", "global", "off"],
                    default="as trained",
                    optional=True,
                    tooltip="as trained: the checkpoint's windows. global: one window over the whole clip, slower, for "
                    "checkpoints trained with either. off: leave Swap-CA out.",
                ),
            ],
            outputs=[MODEL_OUTPUT],
        )

    @classmethod
    def execute(cls, model, strength, start_percent, end_percent, patch=NONE, windows="as trained") -> io.NodeOutput:
        patched = cls.apply(model, 0.0 if windows == "off" else strength, start_percent, end_percent, patch)
        if windows == "global":
            patched.model_options["transformer_options"]["dreamfactory_swap_windows"] = "global"
        return io.NodeOutput(patched)


class MotionOnModel(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryMotionOnModel",
            display_name="Put Motion on SD Model",
            category="DreamFactory/patches",
            description="Makes a video MODEL of your Stable Diffusion model, LoRAs included: its pictures, another "
            "file's motion. Both must be of one generation (1.x or 2.x) and predict alike (eps or v).",
            search_aliases=["animatediff", "animatelcm", "motion module", "animate checkpoint", "temporal layers"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x or 2.x MODEL from ComfyUI's loaders."),
                io.Combo.Input(
                    "motion_name",
                    options=names("model_patches", "diffusion_models"),
                    tooltip="AnimateDiff motion modules (v1 to v3, .safetensors or .ckpt) or another temporal patch in "
                    "models/model_patches; or a video network in models/diffusion_models whose motion is taken. "
                    "AnimateDiff fits Stable Diffusion 1.x, ModelScope and VideoCrafter2 fit 2.1 base.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="A video MODEL for any sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_name, **_):
        return stamp(path_of("motion_name", motion_name, "model_patches", "diffusion_models"))

    @classmethod
    def execute(cls, model, motion_name) -> io.NodeOutput:
        path = path_of("motion_name", motion_name, "model_patches", "diffusion_models")
        if isinstance(model.model, VideoModel):
            raise NodeError("model: this MODEL has motion already; give a Stable Diffusion image model.")
        with name_input_in_errors("motion_name", path, motion_name):
            return io.NodeOutput(with_motion(model, path))


def image_network(model) -> tuple[UNetConfig, dict, dict]:
    """Config, weights and noise schedule of a Stable Diffusion MODEL, as our spatial half."""
    state = weights_of(model)
    header = Header({}, {k: tuple(v.shape) for k, v in state.items()}, {k: "F32" for k in state})
    kind = recognise(header)
    if kind != "sd":
        raise NodeError(f"it holds {kind} weights; give a Stable Diffusion 1.x or 2.x image model.")
    told = model.model.model_config.unet_config  # the host knows the heads, which shapes do not tell
    heads = {"num_heads": told["num_heads"], "head_dim": None}
    if told.get("num_heads", -1) == -1:
        heads = {"num_heads": None, "head_dim": told["num_head_channels"]}
    v_prediction = model.model.model_type.name == "V_PREDICTION"
    config, weights, schedule, _ = sd.convert(state, header, {**heads, "prediction": "v" if v_prediction else "eps"})
    return config, weights, schedule
