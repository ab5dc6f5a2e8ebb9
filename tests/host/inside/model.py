"""Runs inside the host: loading, dtypes, offload, LoRA, ControlNet, patches and motion on an image model.

argv: a folder with full, plain (full without PACA and adapter), video, sd1, sd2 and their inputs, and patch files.
"""

import json
import sys
from pathlib import Path

import comfy.controlnet
import comfy.lora
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import folder_paths
import torch
from a_pack.errors import NodeError
from a_pack.model_patches import Conditions, load_unet
from a_pack.model_patches.checkpoints.load import read_network
from a_pack.model_patches.network.hooks import Hooks
from a_pack.nodes.bridge.loading import load_video_model, make_model
from a_pack.nodes.patches import MotionOnModel, with_motion, with_patch, with_strength
from a_pack.schedulers import ScheduleConfig
from a_pack.tests.host.inside.common import both, conditioning, difference, image_model, listen, randn
from safetensors.torch import load_file

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])
CPU = torch.device("cpu")


def path(name):
    return str(FOLDER / f"{name}.safetensors")


def inputs_of(name):
    return load_file(FOLDER / f"{name}_inputs.safetensors")


def answer(model, inputs, sigma=1.0):
    """What the network answers to noise of one sigma, through all that the host does around one call."""
    own, noise = model.model, inputs["noise"]
    [[text, values]] = conditioning(model, inputs, "positive")
    conds = own.extra_conds(cross_attn=text, noise=noise, device=CPU, prompt_type="positive", **values)
    ready = {k: v.process_cond(batch_size=len(noise), area=None).cond for k, v in conds.items()}
    ready["c_crossattn"] = ready.get("c_crossattn", text)
    sigma, options = torch.tensor(sigma), model.model_options["transformer_options"]
    denoised = own.apply_model(noise * sigma, sigma.expand(len(noise)), transformer_options=options, **ready)
    return (noise * sigma / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma


def made(config, schedule, state):
    return make_model(config, ScheduleConfig.from_dict(schedule), dict(state))


# -- weights ------------------------------------------------------------------------------------------------------


def dtypes():
    facts, inputs = {}, inputs_of("full")
    reference = answer(load_video_model(path("full")), inputs)
    for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        model = load_video_model(path("full"), getattr(torch, name))
        facts[name] = {
            "error": ((answer(model, inputs) - reference).std() / reference.std()).item(),
            "kinds": sorted({str(w.dtype) for w in model.model.diffusion_model.parameters()}),
            "told": str(model.model.get_dtype()),
            "computed": str(model.model.get_dtype_inference()),
            "bytes": model.model_size() / load_video_model(path("full")).model_size(),
        }
    return facts


def bare(model):
    """Weights that belong to no layer."""
    modules = model.model.diffusion_model.named_modules(prefix="diffusion_model")
    own = {n: m for n, m in modules if not hasattr(m, "comfy_cast_weights")}
    return {f"{n}.{k}": w for n, m in own.items() for k, w in m.named_parameters(recurse=False)}


def offload():
    """A part of the weights is left behind and cast when used; also with a LoRA, and with changed bare weights."""
    facts, inputs = {}, inputs_of("full")
    lora = lora_file(names()["full"], "diffusers")[0]
    for kind in ("plain", "lora", "bare"):
        answers, shares = [], []
        for share in (2.0, 0.5, 0.0):
            model = load_video_model(path("full"))
            if kind == "lora":
                model = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)[0]
            if kind == "bare":
                model.add_patches({k: ("diff", (torch.full_like(w, 0.5),)) for k, w in bare(model).items()})
            model.partially_load(CPU, extra_memory=int(model.model_size() * share))
            modules = [m for m in model.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
            shares.append(sum(m.comfy_cast_weights for m in modules) / len(modules))
            answers.append(answer(model, inputs))
        model.partially_load(CPU, extra_memory=2 * model.model_size())  # the rest, onto what is there
        answers.append(answer(model, inputs))
        model.detach()
        answers.append(answer(model, inputs))
        facts[kind] = {
            "cast": shares, "differences": [(a - answers[0]).abs().max().item() for a in answers],
        }  # fmt: skip
    return facts


# -- LoRA ---------------------------------------------------------------------------------------------------------


def names():
    """{network: {style: {name in the LoRA: our weight}}}"""
    block, ours = "transformer_blocks.0", "transformer_blocks_0"
    kohya = {
        f"lora_unet_down_blocks_0_attentions_0_{ours}_attn1_to_q": f"input_blocks.1.1.{block}.attn1.to_q",
        f"lora_unet_down_blocks_1_attentions_0_{ours}_attn2_to_out_0": f"input_blocks.3.1.{block}.attn2.to_out.0",
        f"lora_unet_mid_block_attentions_0_{ours}_ff_net_0_proj": f"middle_block.1.{block}.ff.net.0.proj",
        f"lora_unet_up_blocks_0_attentions_1_{ours}_ff_net_2": f"output_blocks.1.1.{block}.ff.net.2",
        f"lora_unet_up_blocks_1_attentions_1_{ours}_attn2_to_v": f"output_blocks.3.1.{block}.attn2.to_v",
        "lora_unet_up_blocks_1_attentions_0_proj_in": "output_blocks.2.1.proj_in",
        "lora_unet_up_blocks_0_resnets_1_conv1": "output_blocks.1.0.in_layers.2",
        "lora_unet_down_blocks_0_resnets_0_time_emb_proj": "input_blocks.1.0.emb_layers.1",
        "lora_unet_down_blocks_0_downsamplers_0_conv": "input_blocks.2.0.op",
        "lora_unet_up_blocks_0_upsamplers_0_conv": "output_blocks.1.2.conv",
    }
    processors = {
        f"unet.down_blocks.1.attentions.0.{block}.attn1.processor.to_q_lora": f"input_blocks.3.1.{block}.attn1.to_q",
        f"unet.mid_block.attentions.0.{block}.attn2.processor.to_k_lora": f"middle_block.1.{block}.attn2.to_k",
        f"unet.up_blocks.1.attentions.0.{block}.attn1.processor.to_v_lora": f"output_blocks.2.1.{block}.attn1.to_v",
        f"unet.up_blocks.0.attentions.1.{block}.attn2.processor.to_out_lora":
            f"output_blocks.1.1.{block}.attn2.to_out.0",
    }  # fmt: skip
    temporal = {
        f"lora_unet_temporal_attentions_middle_1_{ours}_attn1_to_q": f"temporal_attentions.middle_1.{block}.attn1.to_q",
        "lora_unet_temporal_convs_input_1_conv1_2": "temporal_convs.input_1.conv1.2",
    }
    plain = [
        f"temporal_attentions.input_1.{block}.attn2.to_k", "motion_attentions.output_2.attn.to_v",
        "paca_attentions.output_1.attn.to_q", "swap_attentions.output_1.attn.to_k", "image_adapters.output_0.to_v_ip",
        f"output_blocks.0.1.{block}.attn1.to_q", "conv_fusions.input_1.conv",
    ]  # fmt: skip
    generic = {f"diffusion_model.{k}": k for k in plain}
    return {
        "full": {"kohya": kohya, "diffusers": processors, "temporal, kohya": temporal, "ours": generic},
        "sd": {"kohya": {k: v for k, v in kohya.items() if "attentions" in k}},
    }


def lora_file(styles, style, network="full", rank=2, alpha=1.5):
    """A LoRA of this style, and the change it means for each weight at strength 1."""
    state = load_file(path(network))
    lora, changes = {}, {}
    for i, (name, key) in enumerate(styles[style].items()):
        weight = state[f"{key}.weight"]
        down = randn(rank, *weight.shape[1:], seed=2 * i) * weight[0].numel() ** -0.5
        up = randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), seed=2 * i + 1)
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) / rank**0.5
        lora_up, lora_down = up / rank**0.5, down
        if style == "ours":
            lora |= {f"{name}.lora_A.weight": lora_down, f"{name}.lora_B.weight": lora_up}
        elif style == "diffusers":
            lora |= {f"{name}.down.weight": lora_down, f"{name}.up.weight": lora_up}
        else:
            lora |= {f"{name}.lora_down.weight": lora_down, f"{name}.lora_up.weight": lora_up}
            lora[f"{name}.alpha"] = torch.tensor(alpha)
            change = change * alpha / rank
        changes[f"{key}.weight"] = change
    return lora, changes


def loras():
    """Each style of names, against the same changes made to the weights by hand."""
    facts, inputs, strength = {}, inputs_of("full"), 0.7
    config, schedule, state, _ = read_network(path("full"))
    plain = answer(load_video_model(path("full")), inputs)
    for style in names()["full"]:
        lora, changes = lora_file(names()["full"], style)
        changed = {k: v + strength * changes[k] if k in changes else v for k, v in state.items()}
        expected = answer(made(config, schedule, changed), inputs)
        model = comfy.sd.load_lora_for_models(load_video_model(path("full")), None, lora, strength, 0.0)[0]
        patched = len(model.patches)
        comfy.model_management.load_models_gpu([model])
        got = answer(model, inputs)
        model.detach()
        facts[style] = {
            "error": difference(got, expected), "effect": difference(expected, plain), "patched": patched,
            "wanted": len(changes), "undone": difference(answer(model, inputs), plain),
        }  # fmt: skip
    return facts


# -- ControlNet ---------------------------------------------------------------------------------------------------


class Residuals(comfy.controlnet.ControlBase):
    """A ControlNet that always says the same."""

    def __init__(self, residuals):
        super().__init__()
        self.residuals = residuals

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        return {k: [r if r is None else r.clone() for r in v] for k, v in self.residuals.items()}


def control():
    """One Euler step to sigma 0 with a ControlNet, against the network with its residuals."""
    inputs, plain = inputs_of("video"), load_unet(path("video"))
    noise = inputs["noise"]
    f, h, w = len(noise), *noise.shape[2:]
    sizes = {
        "input": [(32, h, w), (32, h, w), (32, h // 2, w // 2), (64, h // 2, w // 2)],
        "middle": [(64, h // 2, w // 2)],
        "output": [(32, h, w), (32, h, w), (32, h // 2, w // 2), (64, h // 2, w // 2)],
    }
    residuals = {k: [randn(f, *s, seed=i) for i, s in enumerate(v)] for k, v in sizes.items()}
    residuals["input"][1] = residuals["output"][2] = None
    model = load_video_model(path("video"))
    [[text, values]] = conditioning(model, inputs, "positive")
    positive = [[text, {**values, "control": Residuals(residuals)}]]
    out = comfy.sample.sample(
        model, noise, 1, 1.0, "euler", "sgm_uniform", positive, positive, torch.zeros_like(noise), disable_pbar=True
    )
    sampling = model.model.model_sampling
    sigma = sampling.sigma_max
    x = noise * (1 + sigma**2).sqrt()
    control = Residuals(residuals).get_control(None, None, None, None, None)
    t = sampling.timestep(sigma).reshape(1)
    seen = sampling.calculate_input(sigma, x)
    direct = plain(seen, t, Conditions(inputs["text"]), num_frames=f, hooks=Hooks(control=control))
    without = plain(seen, t, Conditions(inputs["text"]), num_frames=f)
    expected = sampling.calculate_denoised(sigma, direct, x)
    return {
        "error": difference(model.model.process_latent_in(out), expected), "effect": difference(without, direct),
    }  # fmt: skip


# -- patches ------------------------------------------------------------------------------------------------------


def patches():
    """Parts from a patch file on a base that lacks them, with a LoRA, a strength and a wrapper on the base."""
    inputs = inputs_of("full")
    full = answer(load_video_model(path("full")), inputs)
    facts = {"plain": difference(answer(with_patch(load_video_model(path("plain")), path("patch")), inputs), full)}

    lora, _ = lora_file(names()["full"], "kohya")
    model = with_strength(load_video_model(path("plain")), "image_adapter", 0.5, 0.0, 1.0)
    model = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)[0]
    calls = listen(model)
    facts["effect"] = difference(answer_loaded(model, inputs), full)
    patched = with_patch(model, path("patch"))  # while the LoRA is in the base's weights
    again, arguments = patched.cached_patcher_init

    expected = with_strength(load_video_model(path("full")), "image_adapter", 0.5, 0.0, 1.0)
    expected = comfy.sd.load_lora_for_models(expected, None, lora, 0.7, 0.0)[0]
    expected = answer_loaded(expected, inputs)
    facts["with all that was on the base"] = difference(answer_loaded(patched, inputs), expected)
    sides, noise = both(patched, inputs), inputs["noise"]
    comfy.sample.sample(
        patched, noise, 2, 2.0, "euler", "sgm_uniform", *sides, torch.zeros_like(noise), disable_pbar=True
    )
    facts["calls heard"] = len(calls)
    facts["made again"] = difference(answer_loaded(again(*arguments, disable_dynamic=True), inputs), expected)
    bfloat = with_patch(load_video_model(path("plain"), torch.bfloat16), path("patch"))
    facts["kinds"] = sorted({str(w.dtype) for w in bfloat.model.diffusion_model.parameters()})
    return facts | sharing(model, with_patch, path("patch"))


def sharing(base, make, file):
    """Parameters that a network made from `base` shares with it, with a second of the kind, with a fresh one."""
    first, second, fresh = make(base, file), make(base.clone(), file), make(base, file, fresh=True)

    def weights(model):
        return {w.data_ptr() for w in model.model.diffusion_model.parameters() if w.numel()}

    return {
        "shared with the base": len(weights(first) & weights(base)),
        "shared by a second MODEL": second.model is first.model,
        "shared with a fresh one": len(weights(first) & weights(fresh)),
    }


def answer_loaded(model, inputs):
    comfy.model_management.load_models_gpu([model])
    return answer(model, inputs)


# -- motion on an image model -------------------------------------------------------------------------------------


class WithFourHeads(comfy.supported_models.SD15):
    """A fine-tune whose heads are no Stable Diffusion's: only the host knows."""

    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}  # noqa: RUF012


def motion():
    folder_paths.add_model_folder_path("model_patches", str(FOLDER))
    facts = {}
    families = {"sd1": comfy.supported_models.SD15, "sd2": comfy.supported_models.SD20, "sd1_4_heads": WithFourHeads}
    for name, family in families.items():
        stem = name.removesuffix("_4_heads")
        inputs = inputs_of(stem)
        image = image_model(path(stem), family)
        still = frame_by_frame(image, inputs)
        moving = MotionOnModel.execute(image, f"{name}_still.safetensors").result[0]
        facts[name] = {
            "still": difference(answer_loaded(moving, inputs), still),
            "type": type(moving.model).__name__,
            "sigmas": difference(moving.model.model_sampling.sigmas, image.model.model_sampling.sigmas),
            "latents": type(moving.model.latent_format).__name__,
        }
        if name == stem:
            # By hand: the image model's weights with the LoRA, the patch's temporal weights, plain torch.
            lora, changes = lora_file(names()["sd"], "kohya", stem)
            lora_only = {k: v for k, v in lora.items() if "temporal" not in k}
            video, schedule, _, _ = read_network(path(f"{stem}_video"))
            state = load_file(path(stem))
            state = {k: v + 0.7 * changes[k] if k in changes else v for k, v in state.items()}
            temporal = load_file(path(f"{stem}_motion"))
            by_hand = answer(made(video, schedule, {**state, **temporal}), inputs)
            with_lora = comfy.sd.load_lora_for_models(image, None, lora_only, 0.7, 0.0)[0]
            moving = MotionOnModel.execute(with_lora, f"{stem}_motion.safetensors").result[0]
            facts[name]["motion"] = difference(answer_loaded(moving, inputs), by_hand)
            facts[name]["effect"] = difference(still, by_hand)
            whole = MotionOnModel.execute(with_lora, f"{stem}_video.safetensors").result[0]
            facts[name]["of a whole network"] = difference(answer_loaded(whole, inputs), by_hand)
            facts[name]["image model as before"] = difference(frame_by_frame(image, inputs), still)
    image = image_model(path("sd1"), families["sd1"])
    facts |= sharing(image, with_motion, path("sd1_motion"))
    facts["refused"] = {
        "sdxl": refusal(lambda: MotionOnModel.execute(sdxl(), "sd1_motion.safetensors")),
        "video": refusal(lambda: MotionOnModel.execute(load_video_model(path("full")), "sd1_motion.safetensors")),
        "other heads": refusal(
            lambda: MotionOnModel.execute(image_model(path("sd1"), WithFourHeads), "sd1_motion.safetensors")
        ),
        "no motion": refusal(
            lambda: MotionOnModel.execute(image_model(path("sd1"), families["sd1"]), "sd1_paca.safetensors")
        ),
        "other": refusal(
            lambda: MotionOnModel.execute(image_model(path("sd2"), families["sd2"]), "sd1_motion.safetensors")
        ),
    }
    return facts


def frame_by_frame(image, inputs):
    """The image model's answer to each frame alone, in our terms."""
    comfy.model_management.load_models_gpu([image])
    out = []
    for frame in inputs["noise"].split(1):
        denoised = image.model.apply_model(frame, torch.ones(1), c_crossattn=inputs["text"])
        out.append((frame / 2 - denoised) * 2**0.5)
    return torch.cat(out)


def sdxl():
    config = comfy.supported_models.SDXL(
        dict(
            image_size=32, in_channels=4, out_channels=4, model_channels=64, num_res_blocks=[1, 1], channel_mult=(1, 2),
            transformer_depth=[0, 2], transformer_depth_middle=2, transformer_depth_output=[0, 0, 2, 2],
            context_dim=24, adm_in_channels=40, num_classes="sequential", use_spatial_transformer=True, legacy=False,
            use_linear_in_transformer=True,
        )
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return comfy.model_patcher.ModelPatcher(config.get_model({}, ""), CPU, CPU)


# -- what a user may forget ---------------------------------------------------------------------------------------


def refusal(action):
    try:
        action()
    except NodeError as error:
        return str(error)
    return None


def refusals():
    inputs = inputs_of("full")
    model = load_video_model(path("full"))

    def told(side="positive", **changes):
        own = {k: v for k, v in {**inputs, **changes}.items() if v is not None}
        positive, negative = both(model, inputs)
        changed = conditioning(model, {"text": None, "uncond_text": None, **own}, side)
        positive, negative = (changed, negative) if side == "positive" else (positive, changed)
        noise = inputs["noise"]
        return refusal(
            lambda: comfy.sample.sample(
                model, noise, 1, 2.0, "euler", "simple", positive, negative, torch.zeros_like(noise), disable_pbar=True
            )
        )

    return {
        "nothing": told(),
        "no text": told(text=None),
        "text": told(text=randn(1, 7, 768)),
        "no motion": told(motion=None),
        "motion": told("negative", uncond_motion=randn(1, 5, 4096)),
        "no picture": told(first_frame=None),
        "picture": told(first_frame=randn(1, 4, 8, 8)),
        "channels": told(first_frame=randn(1, 3, 8, 6)),
        "pictures": told(first_frame=randn(3, 4, 8, 6)),
        "prompts": told(text=randn(3, 5, 24)),
        "last picture": told(last_frame=randn(1, 4, 8, 6)),
        "no vision": told(image=None),
        "vision": told(image=randn(1, 1280)),
    }


CHECKS = (dtypes, offload, loras, control, patches, motion, refusals)
with torch.inference_mode():
    facts = {check.__name__: check() for check in CHECKS}
print(json.dumps(facts))
