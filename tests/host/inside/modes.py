"""Runs inside the host: every loader and every node of the pack in one of the host's ways of loading.

argv: a folder with the files of ../test_memory_modes.py, and the mode (memory_modes.MODES). What comes out, tensor by
tensor, goes into the folder as MODE.safetensors; the JSON line says what has no number.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from a_pack.tests.host.inside import memory_modes

FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
memory_modes.start(MODE)

import comfy.hooks  # noqa: E402 (the mode comes first)
import comfy.model_management as management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from a_pack.nodes.bridge.loading import weights_of  # noqa: E402
from a_pack.nodes.bridge.vision_encoder import load_vision_encoder  # noqa: E402
from a_pack.nodes.bundles import DEMO  # noqa: E402
from a_pack.nodes.extension import NODES  # noqa: E402
from a_pack.tests.host.inside.common import both, randn  # noqa: E402
from comfy_extras.nodes_hooks import CreateHookLora, SetClipHooks  # noqa: E402
from comfy_extras.nodes_model_merging import ModelMergeSimple  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import nodes  # noqa: E402

torch.set_num_threads(1)
logging.getLogger().setLevel(logging.ERROR)
for kind in ("diffusion_models", "model_patches", "text_encoders", "loras"):
    folder_paths.add_model_folder_path(kind, str(FOLDER / kind))
folder_paths.add_model_folder_path("diffusion_models", str(FOLDER / "output" / "diffusion_models"))
folder_paths.set_output_directory(str(FOLDER / "output"))

NODE = {node.define_schema().node_id.removeprefix("DreamFactory"): node for node in NODES}
core: Any = nodes  # the host's, not ours
made, unused = {}, set(NODE)
facts: dict[str, Any] = {"patchers": {}}


def use(node: str, **inputs):
    unused.discard(node)
    return NODE[node].execute(**inputs).result


def keep(name: str, tensor: torch.Tensor) -> None:
    made[name] = tensor.detach().to("cpu", torch.float32).contiguous().clone()


def unet(name: str, dtype: str = "default", **choices):
    (model,) = use("LoadVideoUNet", unet_name=f"{name}.safetensors", weight_dtype=dtype, **choices)
    facts["patchers"][name] = type(model).__name__
    return model


def clip(model, inputs: dict, sides=None, steps: int = 2):
    noise = inputs["noise"]
    return comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "sgm_uniform", *(sides or both(model, inputs)), torch.zeros_like(noise),
        seed=0, disable_pbar=True,
    )  # fmt: skip


def inputs_of(name: str) -> dict:
    return load_file(FOLDER / f"{name}_inputs.safetensors")


def evict() -> None:
    """What another model's load does on a card that is full."""
    for memory in memory_modes.RESIDENT:
        memory.evict()


def from_file(model) -> float:
    """The share of a network's bytes that are still the host's view of the file."""
    own = weights_of(model).values()
    seen = [w for w in own if hasattr(w.untyped_storage(), "_comfy_tensor_file_slice")]
    whole = [w for w in seen if w.storage_offset() == 0 and w.nbytes == w.untyped_storage().nbytes()]
    return sum(w.nbytes for w in whole) / sum(w.nbytes for w in own)


# -- networks ---------------------------------------------------------------------------------------------------------


def networks():
    inputs = inputs_of("full")
    for dtype in ("default", "bf16", "fp16", "fp8_e4m3fn"):
        model = unet("full", dtype)
        if dtype == "default":
            facts["from the file"] = from_file(model)
        keep(f"full {dtype}", clip(model, inputs))
    keep("full from a file in half precision", clip(unet("half"), inputs))
    model = unet("dynamicrafter", release="DynamiCrafter 512")
    facts["public, from the file"] = from_file(model)
    keep("public file", clip(model, inputs_of("dynamicrafter")))


def additions():
    """LoRA, hooks, merging, saving, and the same weights under several MODELs."""
    inputs, model = inputs_of("full"), unet("full")
    plain = clip(model, inputs)
    lora = load_file(FOLDER / "loras" / "lora.safetensors")
    with_lora = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)[0]
    keep("lora", clip(with_lora, inputs))
    evict()
    keep("lora, after another model", clip(with_lora, inputs))
    keep("lora taken off", clip(model, inputs))
    assert torch.equal(made["lora taken off"], plain.float())
    merged = ModelMergeSimple().merge(with_lora, unet("other"), 0.6)[0]
    keep("merged", clip(merged, inputs))
    unused.discard("SaveVideoUNet")
    [shown] = NODE["SaveVideoUNet"].execute(merged, "diffusion_models/saved", "default").ui["text"]
    for name, weight in load_file(FOLDER / "output" / shown).items():
        keep(f"saved {name}", weight)
    keep("saved", clip(unet(Path(shown).stem), inputs))
    half = comfy.sd.load_lora_for_models(unet("full", "bf16"), None, lora, 0.7, 0.0)[0]
    [shown] = NODE["SaveVideoUNet"].execute(half, "diffusion_models/half", "default").ui["text"]
    for name, weight in load_file(FOLDER / "output" / shown).items():
        keep(f"saved in half precision {name}", weight)
        facts.setdefault("saved kinds", []).append(str(weight.dtype))

    hooks = CreateHookLora().create_hook("lora.safetensors", 0.7, 0.0)[0]
    sides = [[[text, {**values, "hooks": hooks}] for text, values in side] for side in both(model, inputs)]
    keep("lora as a hook", clip(model, inputs, sides))
    patched = use("PACA", model=unet("plain"), strength=1.0, start_percent=0.0, end_percent=1.0, patch=PATCH)[0]
    keep("lora as a hook on a patched model", clip(patched, inputs, sides))


PATCH = "patch.safetensors"


def branches():
    inputs, plain = inputs_of("full"), unet("plain")
    span = {"start_percent": 0.0, "end_percent": 1.0}
    for name, node in (("PACA", "PACA"), ("Image Adapter", "ImageAdapter")):
        (patched,) = use(node, model=plain, strength=0.8, patch=PATCH, **span)
        keep(name, clip(patched, inputs))
        facts["patched, from the file"] = from_file(patched)
    base = comfy.sd.load_lora_for_models(plain, None, load_file(FOLDER / "loras" / "lora.safetensors"), 0.7, 0.0)[0]
    (patched,) = use("PACA", model=base, strength=0.8, patch=PATCH, **span)
    keep("PACA over a LoRA", clip(patched, inputs))
    keep("the base after it", clip(plain, inputs))
    (swapped,) = use("SwapAttention", model=unet("full"), strength=0.5, windows="global", **span)
    keep("Swap-CA", clip(swapped, inputs))
    (early,) = use("PACA", model=unet("full"), strength=1.0, start_percent=0.0, end_percent=0.5)
    keep("PACA, the first half", clip(early, inputs))


def schedules():
    """Two schedules on one network in turn, the host's own between them: each samples as it does alone."""
    inputs, model = inputs_of("full"), unet("full")
    fixed = {"frames": 8, "width": 64, "height": 48, "shift_reference": 64.0, "rescale": "checkpoint"}
    fixed |= {"prediction": "checkpoint", "shift": "fixed"}
    low, high = (use("NoiseSchedule", model=model, shift_factor=s, **fixed)[0] for s in (0.2, 1.0))
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    theirs = ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]
    alone = {"low": clip(low, inputs), "none": clip(unet("full"), inputs)}
    for turn, schedule in enumerate((high, low, theirs, model, low, theirs, high)):
        keep(f"schedule {turn}", clip(schedule, inputs))
    facts["schedules"] = [
        torch.equal(made["schedule 1"], alone["low"]), torch.equal(made["schedule 4"], alone["low"]),
        torch.equal(made["schedule 0"], made["schedule 6"]), torch.equal(made["schedule 3"], alone["none"]),
        not torch.equal(made["schedule 0"], made["schedule 1"]),
    ]  # fmt: skip
    (rescaled,) = use("RescaleCFG", model=low, multiplier=0.7)
    keep("rescaled guidance", clip(rescaled, inputs))


def image_model():
    """A MODEL of the host's classes, as its checkpoint loader makes one in this mode."""
    state = comfy.utils.load_torch_file(str(FOLDER / "diffusion_models" / "sd1.safetensors"))
    config = comfy.supported_models.SD15(comfy.model_detection.detect_unet_config(state, ""))
    config.set_inference_dtype(torch.float32, None)
    device = management.get_torch_device()
    model = config.get_model(state, "")
    patcher = comfy.model_patcher.CoreModelPatcher(model, device, management.unet_offload_device())
    model.load_model_weights(dict(state), "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (again, ())
    return patcher


def again(disable_dynamic: bool = False):
    chosen = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcher
    try:
        return image_model()
    finally:
        comfy.model_patcher.CoreModelPatcher = chosen


def motion():
    inputs, image = inputs_of("sd1"), image_model()
    for name in ("sd1_motion", "sd1_video"):
        (moving,) = use("MotionOnModel", model=image, motion_name=f"{name}.safetensors")
        keep(f"motion of {name}", clip(moving, inputs))
    facts["motion, from the file"] = from_file(moving)
    lora = load_file(FOLDER / "loras" / "lora.safetensors")
    changed = comfy.sd.load_lora_for_models(image, None, lora, 0.7, 0.0)[0]
    (moving,) = use("MotionOnModel", model=changed, motion_name="sd1_motion.safetensors")
    keep("motion on a model with a LoRA", clip(moving, inputs))
    hooks = CreateHookLora().create_hook("lora.safetensors", 0.7, 0.0)[0]
    sides = [[[text, {**values, "hooks": hooks}] for text, values in side] for side in both(moving, inputs)]
    (moving,) = use("MotionOnModel", model=image, motion_name="sd1_motion.safetensors")
    keep("motion, a LoRA as a hook", clip(moving, inputs, sides))


# -- the whole demo graph ---------------------------------------------------------------------------------------------


def demo():
    model, text, motion, vision, vae, picture, upscaler = use("LoadDemo", weight_dtype="default", picture="red circle")
    facts["patchers"] |= {
        name: type(thing.patcher).__name__
        for name, thing in (("text", text), ("motion", motion), ("vision", vision), ("vae", vae), ("up", upscaler))
    }
    encode = core.CLIPTextEncode().encode
    seen, nothing = (encode(text, prompt)[0] for prompt in ("a red circle on a plain background", ""))
    moves, stays = (encode(motion, prompt)[0] for prompt in ("the red circle moves quickly left", ""))
    for name, side in (("text", seen), ("motion text", moves)):
        keep(name, side[0][0])
    seen_by = vision.encode_image(picture, crop=False)
    for name in ("image_embeds", "last_hidden_state", "penultimate_hidden_states"):
        keep(f"vision {name}", seen_by[name])
    (travel,) = use("PromptPerFrame", clip=text, prompts="0: a red circle\n4: a blue square", frames=8, blend=True)
    keep("prompts", travel[0][0])
    positive, negative, latent = use(
        "ImageToVideo", positive=seen, negative=nothing, vae=vae, width=64, height=64, frames=8, first_frame=picture,
        clip_vision=vision, motion_positive=moves, motion_negative=stays,
    )  # fmt: skip
    shifted, curve, _ = use(
        "NoiseSchedule", model=model, frames=8, width=64, height=64, shift="checkpoint", shift_reference=64.0,
        shift_factor=1.0, rescale="checkpoint", prediction="checkpoint", latent=latent,
    )  # fmt: skip
    keep("curve", curve)
    samples = core.KSampler().sample(
        shifted, 7, 4, 1.5, "euler", "sgm_uniform", positive, negative, latent, denoise=1.0
    )[0]
    keep("latents", samples["samples"])
    images = core.VAEDecode().decode(vae, samples)[0]
    keep("images", images)
    goes_on = use(
        "ContinueClip", model=shifted, positive=positive, negative=negative, vae=vae, context_length=0,
        context_overlap=2, loop=False, samples=samples,
    )  # fmt: skip
    piece = core.KSampler().sample(shifted, 8, 4, 1.5, "euler", "sgm_uniform", *goes_on[:3], denoise=1.0)[0]
    (joined,) = use("JoinClips", clip=samples, piece=piece, context_overlap=goes_on[3], hold_colours=1.0)
    keep("joined", joined["samples"])
    (long,) = use(
        "KSamplerLongClip", model=shifted, seed=7, steps=4, cfg=1.5, sampler_name="euler", scheduler="sgm_uniform",
        positive=positive, negative=negative, latent_image={"samples": torch.zeros(14, *latent["samples"].shape[1:])},
        denoise=1.0, context_length=0, context_overlap=2,
    )  # fmt: skip
    keep("long", long["samples"])
    (larger,) = use(
        "UpscaleVideo", images=images, upscale_model=upscaler, width=256, height=256, frames_at_once=4
    )  # fmt: skip
    keep("enlarged", larger)

    # A LoRA schedule on the text encoder, which the host asks of a copy of it.
    hooks = CreateHookLora().create_hook("text_lora.safetensors", 0.0, 1.0)[0]
    changed = SetClipHooks().apply_hooks(text, True, False, hooks)[0]
    facts["hooked encoder"] = type(changed.patcher).__name__
    changed.cond_stage_model = changed.patcher.model  # which CLIP.clone of the host forgets where it makes a copy
    keep("text, a LoRA as a hook", encode(changed, "a red circle")[0][0][0])


def bundle():
    """A bundle whose VAE is a folder of diffusers'."""
    model, text, _, _, vae = use("LoadBundle", bundle_name="bundle", weight_dtype="default")
    facts["patchers"] |= {"bundle's text": type(text.patcher).__name__, "bundle's vae": type(vae.patcher).__name__}
    seen, nothing = (core.CLIPTextEncode().encode(text, prompt)[0] for prompt in ("a red circle moves left", ""))
    positive, negative, latent = use(
        "ImageToVideo", positive=seen, negative=nothing, vae=vae, width=64, height=48, frames=8
    )  # fmt: skip
    samples = core.KSampler().sample(model, 7, 2, 3.0, "euler", "sgm_uniform", positive, negative, latent, denoise=1.0)
    keep("bundle's latents", samples[0]["samples"])
    keep("bundle's images", core.VAEDecode().decode(vae, samples[0])[0])
    keep("bundle's encoded", vae.encode(randn(2, 48, 64, 3).sigmoid()))


def encoders():
    for name in ("motion_encoder", "text_encoder"):
        for dtype in ("default", "fp16"):
            (clip,) = use("LoadTextEncoder", encoder_name=name, weight_dtype=dtype)
            keep(f"{name} {dtype}", core.CLIPTextEncode().encode(clip, "the red circle moves left")[0][0][0])
    facts["standard vision"] = None
    (FOLDER / "odd").mkdir(exist_ok=True)
    weights = load_file(DEMO / "image_encoder" / "model.safetensors")
    whole = load_vision_encoder(DEMO / "image_encoder")
    keep("vision, from a folder", whole.encode_image(randn(1, 64, 64, 3).sigmoid(), crop=False)["image_embeds"])
    # A file without its config, of no size that the host knows: a sentence in every mode, not a network of noise.
    deep = {}
    for key, weight in weights.items():
        for layer in range(24 if "layers.0." in key else 1):
            deep[key.replace("layers.0.", f"layers.{layer}.")] = weight.clone()
    save_file(deep, FOLDER / "odd" / "vision.safetensors")
    try:
        load_vision_encoder(FOLDER / "odd" / "vision.safetensors")
    except ValueError as error:
        facts["standard vision"] = str(error).replace(str(FOLDER), "")


with torch.inference_mode():
    for part in (networks, additions, branches, schedules, motion, demo, bundle, encoders):
        part()
facts["unused"] = sorted(unused)
save_file(made, FOLDER / f"{MODE}.safetensors")
print(json.dumps(facts))
