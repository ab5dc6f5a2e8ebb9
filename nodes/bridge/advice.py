"""Runs that would be a pity: told once, when sampling begins."""

from __future__ import annotations

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...model_patches.network.long_clip import animates_picture, is_far, stated_length
from .sampling import TOGETHER, frames_together
from .tell import tell

KEY = "dreamfactory_advice"
ADDED = "dreamfactory_added"  # in a MODEL's options
TERMINAL = 1000.0  # sigma from which on a schedule ends in pure noise
CUT, BEGINS, NOISE = 0.6, 0.95, 0.95  # of the timesteps: below, sampling begins late on purpose (denoise); where it
# should begin; from where on a step is of noise alone
UNSUITED = ("dpm_fast", "dpm_adaptive")  # samplers that work in log SNR, which has no end here
WASTED, FEW = 0.35, 5  # share of steps in noise alone; of fewer steps one is more than that


def advise(patcher) -> None:
    """Let a MODEL say what does not suit it."""

    def sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        for text in (
            _length(guider.model_patcher, len(noise)),
            _made_for(getattr(guider, "conds", {}), len(noise), not latent_image.any()),
            _scheduler(guider.model_patcher.get_model_object("model_sampling"), sigmas, latent_image),
            _sampler(guider.model_patcher.get_model_object("model_sampling"), sampler),
            _unread(guider.model_patcher.model, getattr(guider, "conds", {})),
            _merge(guider.model_patcher),
        ):
            if text:
                tell(text)
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    patcher.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)


def be_quiet(model) -> None:
    """Let a MODEL say no more of it."""
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)


def advise_on_pieces(model, sides, frames: int, overlap: int, empty: bool) -> None:
    """The same of a clip that is made in pieces, for all of it. sides: its conditionings; empty: its latent is."""
    config = model.model.video_config
    conds = {i: [values for _, values in side] for i, side in enumerate(sides)}
    told = [_made_for(conds, frames, empty)]
    if not animates_picture(config):
        told.append(
            "The network animates no picture, so pieces go on from their last frames alone, and seams show; take "
            "KSampler with Context Windows for longer clips."
        )
    elif config.known_frames and overlap > config.known_frames:
        told.append(
            f"The network was trained to take over up to {config.known_frames} frames and is given {overlap}; more "
            "deform what moves."
        )
    for text in filter(None, told):
        tell(text)


def _length(model, frames: int) -> str:
    """Far fewer or more frames than trained."""
    network = model.model
    trained = stated_length(network.video_config, network.schedule.trained_shape)
    seen = frames_together(model, frames)
    if trained is None or not is_far(seen, trained):
        return ""
    told = f"The network was trained with {trained} frames and sees {seen} at once"
    if TOGETHER in model.model_options:
        return f"{told}; give a context_length of about {trained}."
    if seen < trained:
        return f"{told}; about {trained} look best."
    remedy = "Context Windows"
    if animates_picture(network.video_config):
        remedy = "KSampler Long Clip"
    elif network.video_config.first_frame_concat == "ends":
        remedy = "Continue Clip and Join Clips, from picture to picture,"
    return f"{told}; take {remedy} for longer clips."


def _made_for(conds: dict, frames: int, empty: bool) -> str:
    """A latent that was repeated or cut after Image to Video; a longer one with a clip in it is meant as it is."""
    made = {entry.get("dreamfactory_frames") for side in conds.values() for entry in side or ()} - {None, frames}
    if not made or (frames > min(made) and not empty):
        return ""
    has = f"The latent has {frames} frame{'s' if frames > 1 else ''}, and Image to Video was asked for {min(made)}"
    if frames < min(made):
        return (
            f"{has}; the clip has the latent's. What follows the clip's size, as Noise Schedule, is to follow it too."
        )
    return (
        f"{has}: repeated latents make one clip longer. For a clip from each of several pictures use Rebatch Images, "
        "for variations the number beside Run."
    )


def note_added(model, base) -> None:
    """Parts that a MODEL has beyond `base`: where that was merged, they are no part of the merge."""
    if _merged(base):
        added = {name for name, _ in model.model.named_parameters()} - {n for n, _ in base.model.named_parameters()}
        model.model_options[ADDED] = model.model_options.get(ADDED, frozenset()) | added


def _merged(model) -> dict[str, list]:
    """Whose patches are another network's weights, by their shapes; LoRAs are given in other forms."""
    found = {}
    for key, patches in model.patches.items():
        shapes = [p[1][0][0].shape for p in patches if isinstance(p[1], list) and isinstance(p[1][0][0], Tensor)]
        if shapes:
            found[key] = shapes
    return found


def _merge(model) -> str:
    """A merge with a network of other inputs or parts: the host leaves out what does not fit."""
    merged = _merged(model)
    if not merged:
        return ""
    added = model.model_options.get(ADDED, ())
    own = {name: weight.shape for name, weight in model.model.named_parameters() if name not in added}
    left = [key for key, shape in own.items() if any(s != shape for s in merged.get(key, [None]))]
    if not left:
        return ""
    first = left[0].removeprefix("diffusion_model.")
    return (
        f"A merge leaves {len(left)} of {len(own)} weights as they are ({first} is the first): the other network has "
        "other inputs or parts; merge two of one kind."
    )


def _sampler(sampling, sampler) -> str:
    """Samplers that cannot begin in pure noise."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if float(sampling.sigma_max) < TERMINAL or not any(bad in name for bad in UNSUITED):
        return ""
    return "This sampler cannot begin in pure noise, as this network does, and leaves colours; take euler or ddim."


def _unread(network, conds: dict) -> str:
    """A frame rate for a network that was trained without one."""
    given = any(entry.get("dreamfactory_frame_rate") for side in conds.values() for entry in side or ())
    if not given or network.video_config.frame_rate_embedding != "off":
        return ""
    return "This network reads no frame rate; Image to Video's frame_rate does nothing."


def _scheduler(sampling, sigmas, latent_image) -> str:
    """A schedule that ends in pure noise, and steps that begin after it or stay in it."""
    if float(sampling.sigma_max) < TERMINAL or len(sigmas) < 3 or latent_image.any():
        return ""
    last = len(sampling.sigmas) - 1
    steps = sampling.timestep(sigmas[:-1].to(sampling.sigmas)).float() / last
    if CUT < float(steps[0]) < BEGINS:
        return (
            f"The scheduler begins at timestep {round(float(steps[0]) * last)}, and this network's noise ends at "
            f"{last}; take sgm_uniform, simple or normal."
        )
    if len(steps) >= FEW and float((steps > NOISE).float().mean()) > WASTED:
        return "The scheduler spends most steps in pure noise with this network; take sgm_uniform, simple or normal."
    return ""
