"""The host's samplers on our networks, against our own headless sampling and the host's own schedules."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import load_unet
from dreamfactory.pipelines.sampling import Prompt, sample
from dreamfactory.schedulers import SCHEDULES, ScheduleConfig, diffusers_bridge, drop_unusable, spacing

from .inside.networks import CRAFTER, FULL, IMAGE, PLAIN, SHIFTED, TEXT, TINY, inputs_for, save_network
from .server import ROOT, run_inside

INSIDE = Path(__file__).parent / "inside"
# What the host takes on a GPU; its choice for a CPU keeps memory low and cannot be compiled.
FUSED = "comfy.cli_args.args.use_pytorch_cross_attention = True\n"
# diffusers' DDIM is only exact where the number of steps divides 1000.
FRAMES, SIZE, STEPS, CFG = 8, (8, 6), 8, 2.5

SCHEDULED = {
    "v, zero SNR": (FULL, SHIFTED),
    "v, zero SNR, signal scale": (CRAFTER, SCHEDULES["dynamicrafter-512"]),
    "v, zero SNR, strong shift": (FULL, replace(SHIFTED, trained_shape=(16, 512, 512))),
    "eps": (FULL, PLAIN),
    "eps, signal scale": (CRAFTER, SCHEDULES["videocrafter2"]),
    "eps, zero SNR": (FULL, SCHEDULES["factorized-dreamer-paper"]),
    "x0": (FULL, replace(SHIFTED, prediction="x0")),
    "text alone": (TEXT, TINY),
}
LEFT_OUT = {("eps, zero SNR", "dpmpp_2m")}  # our headless sampling offers DDIM alone there
SPACED_BY_THE_HOST = ("v, zero SNR, strong shift", "eps", "text alone", "demo")
DEMO = ROOT / "pipelines" / "demo" / "unet.safetensors"


def build(config: ScheduleConfig):
    return config.build(*(config.trained_shape or (16, 256, 256)))


def timesteps_of(config: ScheduleConfig) -> list[int]:
    schedule = build(config)
    return drop_unusable(spacing(STEPS), schedule.effective_alphas_cumprod, schedule.prediction).tolist()


@torch.no_grad()
def headless(path, config: ScheduleConfig, inputs, sampler: str, rescale: float):
    unet = load_unet(path)
    tokens = {}
    if "image" in inputs:
        tokens["image_tokens"] = unet.project_image(inputs["image"])
    if unet.config.image_tokens_per_frame is not None:
        tokens["uncond_image_tokens"] = unet.project_image(inputs["grey_image"])
    named = ("text", "uncond_text", "motion", "uncond_motion", "first_frame", "last_frame")
    prompt = Prompt(**{k: inputs[k] for k in named if k in inputs}, **tokens)
    return sample(
        unet, build(config), prompt, inputs["noise"], FRAMES, steps=STEPS, guidance_scale=CFG,
        guidance_rescale=rescale, sampler=sampler, spacing="trailing",
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(host, tmp_path_factory):
    """{(network, sampler): what the host's script told, with the latents of both}; one start of the host."""
    folder = tmp_path_factory.mktemp("sampling")
    networks = {name: (save_network(folder, name, *pair), *pair) for name, pair in SCHEDULED.items()}
    demo = load_unet(DEMO)
    networks["demo"] = (DEMO, demo.config, ScheduleConfig.from_dict(demo.schedule))
    inputs = {name: inputs_for(config, FRAMES, SIZE) for name, (_, config, _) in networks.items()}

    cases, peers = [], {}
    for name, (path, _, schedule) in networks.items():
        for sampler, peer, rescale in (
            ("euler", "ddim", 0.0),
            ("ddim", "ddim", 0.7),
            ("dpmpp_2m", "dpm++2m", 0.0),
            ("KSampler", None, 0.0),
        ):
            if (name, sampler) not in LEFT_OUT and (peer or name in SPACED_BY_THE_HOST):
                peers[name, sampler] = (path, schedule, inputs[name], peer or "ddim", rescale)
                cases.append({
                    "name": f"{name}: {sampler}", "network": str(path), "inputs": name, "rescale": rescale, "cfg": CFG,
                    "sampler": sampler if peer else "euler", "steps": STEPS,
                    "timesteps": timesteps_of(schedule) if peer else None,
                })  # fmt: skip
    save_file({f"{n}.{k}": v for n, found in inputs.items() for k, v in found.items()}, folder / "inputs.safetensors")
    (folder / "cases.json").write_text(json.dumps(cases))
    paths = [folder / name for name in ("cases.json", "inputs.safetensors", "results.safetensors")]
    told = run_inside(host, FUSED + (INSIDE / "samplers.py").read_text(), *paths)
    theirs = load_file(folder / "results.safetensors")

    results = {}
    with pytest.MonkeyPatch.context() as patch:
        for case, arguments in peers.items():
            name = ": ".join(case)
            # Both count an infinite sigma with the same number.
            patch.setattr(diffusers_bridge, "SMALLEST_ALPHAS_CUMPROD", 1 / (1 + told[name]["last_sigma"] ** 2))
            results[case] = {**told[name], "theirs": theirs[name], "ours": headless(*arguments)}
            results[case]["wanted_timesteps"] = timesteps_of(arguments[1])
    return results


# -- against our headless sampling --------------------------------------------------------------------------------


def test_euler_and_ddim_are_our_ddim(results):
    """DDIM without added noise is Euler's method in sigma; guidance rescale (in "ddim") is measured on whole clips.

    Where the last timestep has no signal ours is exact and the host's sigma is a large number.
    """
    for (network, sampler), result in results.items():
        if sampler in ("euler", "ddim"):
            tolerance = 3e-3 if result["last_sigma"] > 1000 else 1e-5
            assert difference(result["theirs"], result["ours"]) < tolerance, (network, sampler)


def test_dpmpp_2m_is_diffusers_dpm_solver(results):
    for (network, sampler), result in results.items():
        if sampler == "dpmpp_2m":
            assert difference(result["theirs"], result["ours"]) < 1e-4, network


def test_the_network_is_asked_at_the_timesteps_of_the_sigmas(results):
    for (network, sampler), result in results.items():
        if sampler != "KSampler":
            assert result["timesteps"] == result["wanted_timesteps"], network
        assert set(result["clips"]) == {2}, network  # conditional and unconditional together


def test_sgm_uniform_visits_our_trailing_timesteps(results):
    """The host spaces between 999 and 0 and does not round: within one timestep of ours."""
    for (network, sampler), result in results.items():
        if sampler == "KSampler":
            pairs = zip(result["timesteps"], result["wanted_timesteps"], strict=True)
            assert all(abs(a - b) <= 1 for a, b in pairs), network
    demo = results["demo", "KSampler"]
    assert difference(demo["theirs"], demo["ours"]) < 0.02


def difference(a, b) -> float:
    """Relative to the largest number of the second."""
    return ((a - b).abs().max() / b.abs().max()).item()


# -- against the host itself --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name, config, schedule in (("full", FULL, SHIFTED), ("image", IMAGE, PLAIN)):
        save_network(folder, name, config, schedule)
        save_file(inputs_for(config, FRAMES, SIZE), folder / f"{name}_inputs.safetensors")
    return run_inside(host, FUSED + (INSIDE / "sampling.py").read_text(), folder)


def test_schedules_are_the_hosts_where_it_has_them(facts):
    """eps and zero-terminal-SNR v without shift: tables, input, denoised and percentages of the host's own classes."""
    assert facts["schedules"]["eps"] < 1e-6
    assert facts["schedules"]["v, zero SNR"] < 1e-6


def test_schedules_undo_what_training_did(facts):
    """A network that answers its training target gives back the clean latent, for every preset, at any shift."""
    assert facts["schedules"]["training"] < 1e-5
    assert facts["schedules"]["inverse"] < 1e-5


def test_every_timestep_has_a_sigma_of_its_own(facts):
    """However far a shift goes: sampling starts at the last timestep, not at a neighbour of equal noise."""
    assert facts["schedules"]["rising"]
    assert facts["schedules"]["starts_at_the_end"]


def test_one_batch_or_two_give_the_same_clip(facts):
    """Prompts of other lengths on the two sides included; nor does it matter if a prompt is given once a frame."""
    passes = facts["passes"]
    assert passes["clips"] == [[2], [1]]
    assert passes["together_and_apart"] < 1e-4
    assert passes["rows"] == [1, FRAMES]
    assert passes["one_prompt_a_frame"] < 1e-4


@pytest.mark.parametrize("fix", [False, True])
def test_context_windows_show_the_network_their_own_frames(facts, fix):
    """12 frames in windows of 8 that overlap by 4; causal_window_fix puts one frame in front of the second."""
    window = facts["windows"][f"a frame, {fix}"]
    assert window["finite"]
    first, second = window["calls"]
    for call, index in ((first, [*range(8)]), (second, [*range(3 if fix else 4, 12)])):
        assert call["frames"] == len(index)
        assert not call["positions"]  # a window's frames are counted from its own picture
        assert call["told"] == {"sub_idxs": index, "full_length": 12, "context_length": len(index)}
        offsets = [100 if side else 0 for side in call["sides"]]  # negative prompts say 100 more
        assert call["prompts"] == [i + offset for offset in offsets for i in index]
        assert call["motion"][0] == 2
        assert call["pictures"] == [index[0]] * 2  # the picture at the start of the window
        assert call["seen"] == [index[0]] * 2  # and what CLIP vision saw of it


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("count", [1, 5, 12, 20])
def test_hints_are_those_of_the_window(facts, count, fix):
    """One hint is for all; one a frame, or more, are the frames' own; fewer are repeated, as ControlNet does."""
    found = facts["hints"][f"{count}, {fix}"]
    assert found["whole"] == [count, count]  # what the graph holds is left as it was
    windows = [list(range(8)), list(range(3 if fix else 4, 12))] * 2  # of two steps
    assert len(found["first"]) == len(found["sides"]) == len(windows)
    for seen, later, frames, sides in zip(found["first"], found["second"], windows, found["sides"], strict=True):
        expected = [0] if count == 1 else [f % count for f in frames] * sides
        assert seen == expected
        assert later == [100 + f for f in expected]


@pytest.mark.parametrize("fix", [False, True])
def test_context_windows_change_nothing_without_a_temporal_half(facts, fix):
    assert facts["windows"][f"image network, {fix}"] < 1e-5


PIECES = [list(range(8)), list(range(4, 12)), list(range(8, 16))]


@pytest.mark.parametrize("count", [1, 14, 16, 20])
def test_pieces_take_their_own_frames_of_everything(facts, count):
    """Prompts, masks and hints by frame; packs are told the frames. The last hint stands for what is missing."""
    found = facts["long_clips"][str(count)]
    assert found["finite"]
    assert found["frames"] == 16
    assert found["same"] == [True, count, 16]
    each = [frames for frames in PIECES for _ in range(2)]  # two steps
    assert found["prompts"] == found["told_frames"] == each
    assert found["hints"] == ([[0]] * 6 if count == 1 else [[min(f, count - 1) for f in frames] for frames in each])


def test_hints_that_end_before_the_clip_are_refused(facts):
    told = facts["long_clips"]["5"]["told"]
    assert told.startswith("positive: it holds 5 ControlNet hints for a clip of 16 frames")
    assert facts["long_clips"]["calls before"] == 0  # nothing was sampled for it


def test_pieces_are_sampled_with_clones_of_the_model_itself(facts):
    """A clone of a clone that nobody holds is a memory leak to the host."""
    assert facts["long_clips"]["cloned from"] == [True] * 3


def test_prompts_are_one_or_one_a_frame(facts):
    for name, count in (("too many prompts", 20), ("too few prompts", 12)):
        assert f"positive: it holds {count} prompts for a clip of 16 frames" in facts["long_clips"][name]


def test_hints_of_a_clip_whose_last_piece_reaches_beyond_it_are_enough(facts):
    """And both sides of guidance run together, with one ControlNet."""
    assert facts["long_clips"]["18 for 18"] == {"told": [], "rows": [16], "hints": 18}


def test_a_clip_that_fits_is_ksamplers(facts):
    """With the latent's own mask and draws, and what it says beside its samples."""
    assert facts["long_clips"]["fits"] == {"difference": 0.0, "beside": ["batch_index", "noise_mask"]}


def test_pieces_of_one_frame_and_draws_of_other_frames_are_refused(facts):
    for name in ("of pictures", "of one"):
        assert "context_length: a piece of 1 frame" in facts["long_clips"][name]
        assert "single pictures" in facts["long_clips"][name]
    assert "batch_index names 2 frames, and it has 16" in facts["long_clips"]["index"]


def test_a_schedule_by_size_is_one_by_what_the_network_sees_together(facts):
    """Under context windows that is a window: a clip of 24 frames, 8 at a time, has the noise of 8."""
    found = facts["window_schedules"]
    assert set(found) == {"none", "before", "after", "short clip", "over other frames", "first", "cloned", "sampled"}
    for name, (sigmas, shift) in found.items():
        assert sigmas < 1e-6, name
        assert shift < 1e-9, name


@pytest.mark.parametrize("cache", ["EasyCacheNode", "LazyCacheNode"])
def test_caches_skip_steps(facts, cache):
    never, often = facts["helpers"][f"{cache}, 0.0"], facts["helpers"][f"{cache}, 0.5"]
    assert never == {"calls": 8, "finite": True, "difference": 0.0}
    assert often["calls"] < 8
    assert often["finite"]


def test_compiling_traces_the_network_in_one_graph(facts):
    """No graph breaks, no second compilation in eight steps, and the same numbers."""
    assert facts["helpers"]["compiled, whole"] == {"difference": 0.0, "graphs": 1, "breaks": 0}
    assert facts["helpers"]["compiled, blocks"] == {"difference": 0.0, "graphs": 2, "breaks": 0}


def test_strengths_switch_at_their_percents_and_multiply(facts):
    """PACA times 0.5 from 0.2 to 0.6, times 3 from 0.4 on; the image adapter at a quarter throughout."""
    assert len(facts["strengths"]["asked"]) == 20
    for timestep, strengths in facts["strengths"]["asked"]:
        done = 1 - timestep / 999
        # A node counts within its range; where none does, the branch is off.
        active = [strength for strength, start, end in ((0.5, 0.2, 0.6), (3.0, 0.4, 1.0)) if start <= done <= end]
        assert strengths == {"paca": math.prod(active) if active else 0.0, "image_adapter": 0.25}


@pytest.mark.parametrize("part", ["paca", "image_adapter", "swap_attention"])
def test_strength_zero_is_a_network_without_the_branch(facts, part):
    strengths = facts["strengths"]
    assert strengths[f"{part} matters"] > 0.01
    assert strengths[f"{part} at 0"] < 1e-6
    assert strengths[f"{part} at 1"] < 1e-6


def test_windows_of_swap_attention(facts):
    assert facts["strengths"]["global windows"] < 1e-6
    assert facts["strengths"]["windows off"] < 1e-6


def test_latents_of_our_own_have_a_preview(facts):
    """The first frame, a pixel a latent; colours are (x + 1) / 2 of factors and bias."""
    previews = facts["previews"]
    assert previews["size"] == [6, 4]
    assert previews["colour"] == [255, 191, 63]
    assert previews["demo"] == [8, 8]
    assert previews["none"]
    assert previews["scale"] == 0
