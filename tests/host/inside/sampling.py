"""Runs inside the host: what its sampling asks of our networks, and what its helpers around sampling change.

argv: a folder with full.safetensors, image.safetensors and their inputs, <name>_inputs.safetensors.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import comfy.controlnet
import comfy.model_base
import comfy.sample
import comfy.samplers
import latent_preview
import torch
import torch._dynamo.utils
from a_pack.model_patches.checkpoints.load import read_network
from a_pack.nodes.bridge import windows as by_window
from a_pack.nodes.bridge.codec import CodecLatents
from a_pack.nodes.bridge.loading import load_video_model, make_model
from a_pack.nodes.bridge.sampling import VideoSampling
from a_pack.nodes.bundles import DEMO, LoadDemo
from a_pack.nodes.long_clip import KSamplerLongClip
from a_pack.nodes.patches import SwapAttention, with_strength
from a_pack.nodes.schedule import NoiseSchedule
from a_pack.schedulers import SCHEDULES, ScheduleConfig
from a_pack.tests.host.inside.common import both, difference, listen, randn
from comfy.cli_args import LatentPreviewMethod, args
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from safetensors.torch import load_file

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])
STEPS, CFG, SIZE = 4, 2.5, (8, 6)


def network(name):
    return load_video_model(str(FOLDER / f"{name}.safetensors"))


def inputs_of(name):
    return load_file(FOLDER / f"{name}_inputs.safetensors")


def run(model, sides, noise, steps=STEPS, cfg=CFG):
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "sgm_uniform", *sides, torch.zeros_like(noise),
        disable_pbar=True, seed=0,
    )  # fmt: skip


def schedules():
    """Our tables and formulas against the host's own classes, and against our training targets."""
    facts = {}
    kinds = comfy.model_base.ModelType
    for name, schedule, kind, zsnr in (
        ("eps", SCHEDULES["stable-diffusion"], kinds.EPS, False),
        ("v, zero SNR", ScheduleConfig(shift_reference=None), kinds.V_PREDICTION, True),
    ):
        ours = VideoSampling(schedule.build(16, 256, 256))
        theirs = comfy.model_base.model_sampling(None, kind) if not zsnr else zero_snr(kind)
        x, answer = randn(8, 4, 8, 6, seed=1), randn(8, 4, 8, 6, seed=2)
        errors = [difference(ours.sigmas, theirs.sigmas)]
        for t in (0, 13, 500, 998, 999):
            sigma = theirs.sigmas[t]
            errors.append(difference(ours.calculate_input(sigma, x), theirs.calculate_input(sigma, x)))
            a, b = (s.calculate_denoised(sigma.expand(8), answer, x * sigma) for s in (ours, theirs))
            errors.append(difference(a, b))
        errors += [abs(ours.percent_to_sigma(p) / theirs.percent_to_sigma(p) - 1) for p in (0.001, 0.3, 0.999)]
        facts[name] = max(errors)

    worst, back, rising, ends = 0.0, 0.0, True, []
    clean, noise = randn(4, 4, 8, 6, seed=3), randn(4, 4, 8, 6, seed=4)
    for schedule in (*SCHEDULES.values(), ScheduleConfig(prediction="x0")):
        for shape in ((1, 256, 256), (16, 512, 512), (64, 1024, 1024)):
            built = schedule.build(*shape)
            sampling = VideoSampling(built)
            rising = rising and bool((sampling.sigmas.diff() > 0).all())
            last = len(sampling.sigmas) - 1
            ends.append(int(sampling.timestep(sampling.sigma_max)) == last)
            for t in (1, last // 3, 2 * last // 3, last - 1):
                sigma = sampling.sigmas[t]
                x, seen = clean + sigma * noise, sampling.calculate_input(sigma, clean + sigma * noise)
                answer = built.target(clean, noise, t)
                denoised = sampling.calculate_denoised(sigma, answer, x)
                # eps is brought to x0 by a difference of numbers as large as sigma.
                worst = max(worst, difference(denoised, clean) / max(1.0, float(sigma)))
                worst = max(worst, difference(seen, built.add_noise(clean, noise, t)))
                again = sampling.calculate_output(sigma, sampling.calculate_denoised(sigma, answer, x), x)
                back = max(back, difference(again, answer) / max(1.0, float(sigma)))
    return facts | {"training": worst, "inverse": back, "rising": rising, "starts_at_the_end": all(ends)}


def zero_snr(kind):
    made = comfy.model_base.model_sampling(None, kind)
    made._register_schedule(beta_schedule="linear", timesteps=1000, linear_start=0.00085, linear_end=0.012, zsnr=True)
    return made


def passes():
    """Conditional and unconditional in one batch, and one after the other."""
    inputs = inputs_of("full")
    # Other lengths on the two sides: the host repeats tokens until they fit.
    inputs |= {"uncond_text": randn(1, 14, 24, seed=5), "uncond_motion": randn(1, 10, 20, seed=6)}
    outs, clips = [], []
    for together in (True, False):
        model = network("full")
        if not together:
            model.model.memory_required = lambda *args, **kwargs: float("inf")
        calls = listen(model)
        outs.append(run(model, both(model, inputs), inputs["noise"]))
        clips.append(sorted({len(c["options"]["cond_or_uncond"]) for c in calls}))
    model = network("full")
    frames = len(inputs["noise"])
    rows = {**inputs, "text": inputs["text"].expand(frames, -1, -1)}
    calls = listen(model)
    per_frame = run(model, both(model, rows), inputs["noise"])
    return {
        "together_and_apart": difference(outs[1], outs[0]),
        "clips": clips,
        "one_prompt_a_frame": difference(per_frame, outs[0]),
        "rows": sorted({c["context"].shape[0] for c in calls}),
    }


def windowed(model, fix, length=8, overlap=4):
    return ContextWindowsManualNode.execute(
        model, length, overlap, "standard_static", 1, False, "pyramid", 0, False, causal_window_fix=fix
    ).result[0]


def windows():
    """Every frame's prompt and picture carry the frame's number: what does each window show the network?"""
    frames, facts = 12, {}
    inputs = inputs_of("full")
    numbers = torch.arange(float(frames))
    noise = randn(frames, 4, *SIZE, seed=7)
    features = randn(frames, inputs["image"].shape[-1], seed=8)
    for fix in (False, True):
        model = network("full")
        tokens = model.model.diffusion_model.project_image(features)[:, 0, 0]
        own = {**inputs, "text": numbers.reshape(-1, 1, 1).expand(-1, 7, 24).clone(), "image": features}
        own["uncond_text"] = own["text"] + 100
        own["first_frame"] = numbers.reshape(-1, 1, 1, 1).expand(-1, 4, *SIZE).clone()
        calls = listen(model)
        out = run(windowed(model, fix), both(model, own), noise, steps=1)
        facts[f"a frame, {fix}"] = {
            "finite": bool(out.isfinite().all()),
            "calls": [
                {
                    "frames": c["num_frames"],
                    "positions": "frame_index" in c,
                    "told": c["options"]["ad_params"],
                    "prompts": [round(v) for v in c["context"][:, 0, 0].tolist()],
                    "pictures": [round(v, 3) for v in c["first_frame"][:, 0, 0, 0].tolist()],
                    "seen": [int((tokens - v).abs().argmin()) for v in c["image_tokens"][:, 0, 0]],
                    "motion": list(c["motion_text"].shape),
                    "sides": c["options"]["cond_or_uncond"],
                }
                for c in calls
            ],
        }
    # Without a temporal half a frame does not know in which window it is.
    own = inputs_of("image")
    whole = run(network("image"), both(network("image"), own), noise)
    for fix in (False, True):
        model = network("image")
        facts[f"image network, {fix}"] = difference(run(windowed(model, fix), both(model, own), noise), whole)
    return facts


class Hinted(torch.nn.Module):
    """Stands where a ControlNet's network is and notes the numbers on the hints it is given."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, x, hint, timesteps, context, **extra):
        self.seen.append([round(v) for v in hint[:, 0, 0, 0].tolist()])
        return {"input": [], "middle": [], "output": []}


def hints():
    """Which hints two chained ControlNets see in each window, by how many they were given."""
    frames, facts = 12, {}
    for count in (1, 5, 12, 20):
        for fix in (False, True):
            model, nets = network("full"), []
            inputs = inputs_of("full")
            inputs["first_frame"] = randn(frames, 4, *SIZE, seed=3)
            given = torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(-1, 3, 8 * SIZE[0], 8 * SIZE[1])
            first, second = (comfy.controlnet.ControlNet(Hinted(), load_device=torch.device("cpu")) for _ in range(2))
            first.set_cond_hint(given)
            second.set_cond_hint(given + 100).set_previous_controlnet(first)
            nets = [first.control_model.seen, second.control_model.seen]
            positive, negative = both(model, inputs)
            for side in (positive, negative):
                side[0][1]["control"] = second
            calls = listen(model)
            run(windowed(model, fix), (positive, negative), randn(frames, 4, *SIZE, seed=7), steps=2)
            facts[f"{count}, {fix}"] = {
                "first": nets[0], "second": nets[1], "sides": [len(c["options"]["cond_or_uncond"]) for c in calls],
                "whole": [len(first.cond_hint_original), len(second.cond_hint_original)],
            }  # fmt: skip
    return facts


def long_clips():
    """What the pieces of a clip show the network of what is given by frame: 16 frames, 8 at once, 4 taken over."""
    frames, facts = 16, {}
    inputs, numbers = inputs_of("full"), torch.arange(16.0)
    inputs["text"] = numbers.reshape(-1, 1, 1).expand(-1, 7, 24).clone()
    room = {"samples": torch.zeros(frames, 4, *SIZE)}
    sampling = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    for count in (1, 5, 14, 16, 20):
        model, net = network("full"), comfy.controlnet.ControlNet(Hinted(), load_device=torch.device("cpu"))
        net.set_cond_hint(torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(-1, 3, 8 * SIZE[0], 8 * SIZE[1]))
        positive, negative = both(model, inputs)
        mask = (numbers / 16 + 0.1).reshape(-1, 1, 1).expand(-1, *SIZE).clone()
        positive[0][1] |= {"control": net, "mask": mask, "mask_strength": 1.0}
        calls = listen(model)
        try:
            made = KSamplerLongClip.execute(
                model, **sampling, positive=positive, negative=negative, latent_image=room, context_length=8,
                context_overlap=4,
            ).result[0]["samples"]  # fmt: skip
        except ValueError as error:
            facts[str(count)], facts["calls before"] = {"told": str(error)}, len(calls)
            continue
        asked = [c for c in calls if 0 in c["options"]["cond_or_uncond"]]
        facts[str(count)] = {
            "finite": bool(made.isfinite().all()), "frames": len(made), "hints": net.control_model.seen,
            "prompts": [sorted({round(v) for v in c["context"][:, 0, 0].tolist()})[-8:] for c in asked],
            "told_frames": [c["options"]["ad_params"]["sub_idxs"] for c in asked],
            "same": [bool(positive[0][1]["control"] is net), len(net.cond_hint_original), len(positive[0][1]["mask"])],
        }  # fmt: skip
    facts["fits"] = a_clip_that_fits(sampling, inputs)
    facts["cloned from"] = cloned_from(sampling)
    model = network("full")
    model.model.schedule = replace(model.model.schedule, trained_shape=(1, 64, 64))
    positive, negative = both(model, inputs_of("full"))
    for name, length, index in (("of pictures", 0, None), ("of one", 1, None), ("index", 8, [0, 1])):
        latent = room if index is None else room | {"batch_index": index}
        try:
            KSamplerLongClip.execute(
                model, **sampling, positive=positive, negative=negative, latent_image=latent, context_length=length,
                context_overlap=0,
            )  # fmt: skip
        except ValueError as error:
            facts[name] = str(error)
    for name, count in (("too many prompts", 20), ("too few prompts", 12)):
        text = {**inputs, "text": torch.zeros(count, 7, 24)}
        positive, negative = both(model, text)
        try:
            KSamplerLongClip.execute(
                model, **sampling, positive=positive, negative=negative, latent_image=room, context_length=8,
                context_overlap=4,
            )  # fmt: skip
        except ValueError as error:
            facts[name] = str(error)
    facts["18 for 18"] = hints_for_all_frames(sampling)
    return facts


def cloned_from(sampling):
    """Whether what pieces are sampled with was cloned from the MODEL itself, which the host keeps."""
    model, found, real = network("full"), [], comfy.sample.sample
    positive, negative = both(model, inputs_of("full"))

    def sample(seen, *args, **kwargs):
        found.append(seen.parent is model)
        return real(seen, *args, **kwargs)

    comfy.sample.sample = sample
    try:
        KSamplerLongClip.execute(
            model, **sampling, positive=positive, negative=negative,
            latent_image={"samples": torch.zeros(16, 4, *SIZE)}, context_length=8, context_overlap=4,
        )  # fmt: skip
    finally:
        comfy.sample.sample = real
    return found


def hints_for_all_frames(sampling):
    model, net = network("full"), comfy.controlnet.ControlNet(Hinted(), load_device=torch.device("cpu"))
    net.set_cond_hint(torch.arange(18.0).reshape(-1, 1, 1, 1).expand(-1, 3, 8 * SIZE[0], 8 * SIZE[1]))
    positive, negative = both(model, inputs_of("full"))
    for side in (positive, negative):
        side[0][1]["control"] = net
    calls, said = listen(model), []
    kept, by_window.tell = by_window.tell, said.append
    try:
        KSamplerLongClip.execute(
            model, **sampling, positive=positive, negative=negative,
            latent_image={"samples": torch.zeros(18, 4, *SIZE)}, context_length=8, context_overlap=4,
        )  # fmt: skip
    finally:
        by_window.tell = kept
    rows = sorted({len(c["options"]["cond_or_uncond"]) * 8 for c in calls})
    return {"told": said, "rows": rows, "hints": len(net.cond_hint_original)}


def a_clip_that_fits(sampling, inputs):
    """It is KSampler's: the frames' own draws of the seed, mask, and what the latent says beside its samples."""
    model = network("full")
    positive, negative = both(model, inputs_of("full"))
    given = randn(4, 4, *SIZE, seed=5)
    mask = torch.ones(4, 1, *SIZE)
    mask[1] = 0
    latent = {"samples": given, "noise_mask": mask, "batch_index": [3, 4, 5, 9], "downscale_ratio_spacial": 8}
    made = KSamplerLongClip.execute(
        model, **sampling, positive=positive, negative=negative, latent_image=latent, context_length=8,
        context_overlap=4,
    ).result[0]  # fmt: skip
    noise = comfy.sample.prepare_noise(given, sampling["seed"], latent["batch_index"])
    wanted = comfy.sample.sample(
        model, noise, sampling["steps"], sampling["cfg"], sampling["sampler_name"], sampling["scheduler"], positive,
        negative, given, denoise=1.0, noise_mask=mask, disable_pbar=True, seed=sampling["seed"],
    )  # fmt: skip
    return {"difference": difference(made.pop("samples"), wanted), "beside": sorted(made)}


def window_schedules():
    """A shift by the clip's size is one by what the network sees together, wherever the windows stand in the graph."""

    def shifted(model, frames=24):
        choices = {"shift": "clip size", "shift_reference": 64.0, "shift_factor": 1.0}
        own = {"rescale": "checkpoint", "prediction": "checkpoint"}
        made = NoiseSchedule.execute(model, frames, 48, 64, **choices, **own).result
        return made[0], made[2]

    def wanted(frames):
        config = replace(network("full").model.schedule, shift=None, shift_reference=64.0)
        built = config.build(frames, 64, 48)
        return VideoSampling(built).sigmas, built.shift

    facts, bare = {}, network("full")
    orders = {
        "none": (lambda: shifted(bare), 24),
        "before": (lambda: shifted(windowed(bare, False)), 8),
        "short clip": (lambda: shifted(windowed(bare, False), frames=4), 4),
        "over other frames": (lambda: shifted(windowed(bare, False, length=30)), 24),
    }
    for name, (made, frames) in orders.items():
        model, shift = made()
        sigmas, right = wanted(frames)
        facts[name] = [difference(model.get_model_object("model_sampling").sigmas, sigmas), abs(shift - right)]
    first, _ = shifted(bare)
    later = windowed(first, False)  # a clone, which asks for its own windows
    again = later.clone()
    for name, model, frames in (("first", first, 24), ("after", later, 8), ("cloned", again, 8)):
        facts[name] = [difference(model.get_model_object("model_sampling").sigmas, wanted(frames)[0]), 0.0]
    noise, inputs = randn(12, 4, *SIZE, seed=9), inputs_of("full")
    inputs["first_frame"] = randn(12, 4, *SIZE, seed=3)
    model = windowed(shifted(bare, frames=12)[0], False)
    calls = listen(model)
    run(model, both(model, inputs), noise)
    first = float(calls[0]["options"]["sigmas"][0]) / float(wanted(8)[0][-1])  # pure noise, as the scheduler begins
    return facts | {"sampled": [abs(first - 1), 0.0]}


def helpers():
    """Caches and the compile wrapper around the demo network."""
    demo = load_video_model(str(DEMO / "unet.safetensors"))
    inputs = {
        "noise": randn(8, 12, 8, 8), "text": randn(1, 16, 64, seed=1), "uncond_text": randn(1, 16, 64, seed=2),
        "motion": randn(1, 16, 64, seed=3), "uncond_motion": randn(1, 16, 64, seed=4),
        "first_frame": randn(1, 12, 8, 8, seed=5), "image": randn(1, 64, seed=6), "grey_image": randn(1, 64, seed=7),
    }  # fmt: skip

    def out(model):
        return run(model, both(model, inputs), inputs["noise"], steps=8)

    plain, facts = out(demo), {}
    for node in (EasyCacheNode, LazyCacheNode):
        for threshold in (0.0, 0.5):
            model = node.execute(demo, threshold, 0.15, 0.95, False).result[0]
            calls = listen(model)
            result = out(model)
            facts[f"{node.__name__}, {threshold}"] = {
                "calls": len(calls), "finite": bool(result.isfinite().all()), "difference": difference(result, plain),
            }  # fmt: skip
    blocks = ["diffusion_model.temporal_attentions.middle_1", "diffusion_model.middle_block.1"]
    for name, keys in (("whole", ["diffusion_model"]), ("blocks", blocks)):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = demo.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model, backend="eager", options=options, keys=keys)
        error, counters = difference(out(model), plain), torch._dynamo.utils.counters
        facts[f"compiled, {name}"] = {
            "difference": error,
            "graphs": counters["stats"]["unique_graphs"],
            "breaks": sum(counters["graph_break"].values()),
        }
    return facts


def strengths():
    """The branches' strengths, and when they change."""
    facts, inputs, noise = {}, inputs_of("full"), inputs_of("full")["noise"]

    def out(model, steps=STEPS):
        calls = listen(model)
        return run(model, both(model, inputs), noise, steps=steps), calls

    plain = out(network("full"))[0]
    ranged = with_strength(with_strength(network("full"), "paca", 0.5, 0.2, 0.6), "paca", 3.0, 0.4, 1.0)
    ranged = with_strength(ranged, "image_adapter", 0.25, 0.0, 1.0)
    facts["asked"] = [[int(c["timesteps"].max()), c["strengths"]] for c in out(ranged, steps=20)[1]]

    def without(**changes):
        """The same weights in a network whose config differs."""
        config, schedule, state, _ = read_network(str(FOLDER / "full.safetensors"))
        config = type(config).from_dict({**config.to_dict(), **changes})
        kept = set(type(network("full").model.diffusion_model)(config, torch.nn).state_dict())
        return make_model(config, ScheduleConfig.from_dict(schedule), {k: v for k, v in state.items() if k in kept})

    off = {
        "paca": out(without(paca=False))[0],
        "image_adapter": out(without(image_adapter="off", image_projector=None))[0],
        "swap_attention": out(without(swap_attention="off", fusion="conv_except_swap"))[0],
    }
    for part, expected in off.items():
        facts[f"{part} at 0"] = difference(out(with_strength(network("full"), part, 0.0, 0.0, 1.0))[0], expected)
        facts[f"{part} at 1"] = difference(out(with_strength(network("full"), part, 1.0, 0.0, 1.0))[0], plain)
        facts[f"{part} matters"] = difference(expected, plain)
    swapped = {w: SwapAttention.execute(network("full"), 1.0, 0.0, 1.0, "none", w).result[0] for w in ("global", "off")}
    facts["global windows"] = difference(out(swapped["global"])[0], out(without(swap_window=None, swap_shift=False))[0])
    facts["windows off"] = difference(out(swapped["off"])[0], off["swap_attention"])
    return facts


def previews():
    """The host's latent2rgb previewer on latents of our own."""
    args.preview_method = LatentPreviewMethod.Auto
    factors = torch.eye(5)[:, :3].tolist()
    plain = CodecLatents(5, (factors, [0.0, 0.5, -0.5]))
    latents = torch.zeros(8, 5, 4, 6)
    latents[0, 0] = 1.0
    picture = latent_preview.get_previewer(torch.device("cpu"), plain).decode_latent_to_preview(latents)
    picture_name = LoadDemo.define_schema().inputs[1].options[0]
    demo = LoadDemo.execute("default", picture_name).result[0].model.latent_format
    seen = latent_preview.get_previewer(torch.device("cpu"), demo).decode_latent_to_preview(randn(8, 12, 8, 8))
    return {
        "size": list(picture.size), "colour": list(picture.getpixel((0, 0))), "demo": list(seen.size),
        "none": latent_preview.get_previewer(torch.device("cpu"), CodecLatents(5)) is None,
        "scale": difference(plain.process_out(plain.process_in(latents)), latents),
    }  # fmt: skip


with torch.inference_mode():
    facts = {
        check.__name__: check()
        for check in (schedules, passes, windows, hints, long_clips, window_schedules, helpers, strengths, previews)
    }
print(json.dumps(facts))
