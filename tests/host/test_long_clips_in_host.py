"""Clips longer than the network through a real server: the sampler of pieces is headless generation's long clip and the
same pieces by hand; what would not count, or not lead to one clip, is refused with a sentence."""

import json
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfactory.model_patches import UNetConfig, VideoUNet, load_unet, save_patch, save_unet
from dreamfactory.pipelines.bundle import load_bundle
from dreamfactory.pipelines.image_to_video import Settings, animate

from .server import ROOT

DEMO = ROOT / "pipelines" / "demo"
FRAMES, LENGTH = 24, 8
KNOWN = "known_frames.safetensors"  # the demo's network, as one that was trained to be given its first frames
MOVING = UNetConfig(  # the stand-in checkpoint's shape, with motion
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(True, True), context_dim=64,
    head_dim=16, temporal_attention=True,
)  # fmt: skip
REACHING = "reaching.safetensors"  # and to look back to the clip's picture


class Graph(dict):
    """A graph in the API's form, put together by name."""

    def add(self, kind: str, **inputs) -> str:
        key = str(len(self) + 1)
        self[key] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        return key


def demo(frames: int, first_frame=None, unet: str | None = None, **more) -> tuple[Graph, dict]:
    """The demo up to its sampler; links by name."""
    graph = Graph()
    load = graph.add("DreamFactoryLoadDemo", demo="picture to video", picture="yellow star", weight_dtype="default")
    text = graph.add("CLIPTextEncode", text="a yellow star on a plain background", clip=[load, 1])
    motion = graph.add("CLIPTextEncode", text="the yellow star moves slowly up", clip=[load, 2])
    empty, still = (graph.add("CLIPTextEncode", text="", clip=[load, i]) for i in (1, 2))
    clip = graph.add(
        "DreamFactoryImageToVideo", width=64, height=64, frames=frames, frame_rate=0, positive=[text, 0],
        negative=[empty, 0], vae=[load, 4], first_frame=first_frame or [load, 5], clip_vision=[load, 3],
        motion_positive=[motion, 0], motion_negative=[still, 0], **more,
    )  # fmt: skip
    model = [load, 0]
    if unet is not None:
        model = [
            graph.add("DreamFactoryLoadVideoUNet", unet_name=unet, weight_dtype="default", release="from the file"),
            0,
        ]
    return graph, {
        "model": model, "vae": [load, 4], "vision": [load, 3], "picture": [load, 5],
        "positive": [clip, 0], "negative": [clip, 1], "latent_image": [clip, 2],
    }  # fmt: skip


SAMPLING = {"seed": 7, "steps": 8, "cfg": 1.5, "sampler_name": "ddim", "scheduler": "sgm_uniform", "denoise": 1.0}


def sampler(graph: Graph, links: dict, kind: str = "KSampler", **more) -> list:
    wired = {k: links[k] for k in ("model", "positive", "negative", "latent_image")}
    return [graph.add(kind, **{**SAMPLING, **wired, **more}), 0]


def long_sampler(graph: Graph, links: dict, overlap: int = 0, length: int = 0, **more) -> list:
    kind = "DreamFactoryKSamplerLongClip"
    return sampler(graph, links, kind, context_length=length, context_overlap=overlap, **more)


def shown(server, graph: Graph, links: dict, latent: list | None = None, images: list | None = None) -> torch.Tensor:
    """(t, h, w, 3) in [0, 1] of what a graph makes."""
    if images is None:
        images = [graph.add("VAEDecode", samples=latent, vae=links["vae"]), 0]
    save = graph.add("SaveImage", images=images, filename_prefix=f"long/{uuid.uuid4()}")
    saved = server.client.run(graph)[save]["images"]
    pictures = [Image.open(server.base / "output" / f["subfolder"] / f["filename"]) for f in saved]
    return torch.stack([torch.from_numpy(np.array(p.convert("RGB"), dtype=np.float32) / 255) for p in pictures])


def refusal(server, graph: Graph, latent: list) -> str:
    """The sentence a graph is refused with while it runs."""
    graph.add("SaveLatent", samples=latent, filename_prefix="never")
    prompt = str(uuid.uuid4())
    server.client.ask("/prompt", {"prompt": graph, "prompt_id": prompt})
    end = time.monotonic() + 60
    while not (found := server.client.ask(f"/history/{prompt}")):
        assert time.monotonic() < end
        time.sleep(0.2)
    (told,) = [data for event, data in found[prompt]["status"]["messages"] if event == "execution_error"]
    assert "NodeError" in told["exception_type"], told
    return told["exception_message"].strip()


@pytest.fixture(scope="module")
def networks(server):
    """Files of the demo's network whose configs say that it may be given first frames."""
    unet = load_unet(DEMO / "unet.safetensors")
    for name, fields in ((KNOWN, {"known_frames": 4, "first_frame_reach": 0}),
                         (REACHING, {"known_frames": 4, "first_frame_reach": 6})):  # fmt: skip
        unet.config = replace(unet.config, **fields)
        save_unet(unet, server.models("diffusion_models") / name, schedule=unet.schedule)
    return server


def headless(unet: str | None, networks, overlap: int, frames: int = FRAMES) -> torch.Tensor:
    bundle = load_bundle("demo")
    if unet is not None:
        bundle.unet = load_unet(networks.models("diffusion_models") / unet)
    picture = Image.open(DEMO / "pictures" / "yellow_star.png").convert("RGB")
    picture = torch.from_numpy(np.array(picture, dtype=np.float32) / 255).movedim(-1, 0)[None]
    settings = Settings(frames=frames, seed=7, context_overlap=overlap, guidance_scale=1.5)
    text, motion = ["a yellow star on a plain background"], ["the yellow star moves slowly up"]
    return animate(bundle, picture, text, motion, settings)[0].movedim(1, -1)


@pytest.mark.parametrize(("unet", "overlap"), [(None, 1), (None, 4), (KNOWN, 4), (KNOWN, 2), (REACHING, 3)])
def test_the_sampler_is_headless_generation(networks, unet, overlap):
    """The host spaces its timesteps within one of ours, which four pieces add up, and writes 8 bits."""
    graph, links = demo(FRAMES, unet=unet)
    theirs = shown(networks, graph, links, long_sampler(graph, links, overlap))
    ours = headless(unet, networks, overlap)
    assert theirs.shape == ours.shape == (FRAMES, 64, 64, 3)
    assert (theirs - ours).abs().mean() < 0.006
    assert (theirs - ours).abs().flatten().quantile(0.99) < 0.06


def by_hand(server, unet: str | None, overlap: int, pieces: int) -> torch.Tensor:
    """KSampler, Continue Clip, KSampler, Join Clips, and again."""
    graph, links = demo(LENGTH, unet=unet)
    clip = sampler(graph, links)
    for number in range(1, pieces):
        goes_on = graph.add(
            "DreamFactoryContinueClip", model=links["model"], positive=links["positive"], negative=links["negative"],
            vae=links["vae"], samples=clip, context_length=0, context_overlap=overlap, loop=False,
        )  # fmt: skip
        piece = {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]}
        made = sampler(graph, piece, seed=SAMPLING["seed"] + number)
        join = graph.add("DreamFactoryJoinClips", clip=clip, piece=made, context_overlap=[goes_on, 3], hold_colours=1.0)
        clip = [join, 0]
    return shown(server, graph, links, clip)


@pytest.mark.parametrize(("unet", "overlap"), [(None, 1), (KNOWN, 4), (REACHING, 4)])
def test_the_sampler_is_its_pieces_by_hand(networks, unet, overlap):
    graph, links = demo(FRAMES, unet=unet)
    whole = shown(networks, graph, links, long_sampler(graph, links, overlap))
    pieces = by_hand(networks, unet, overlap, pieces=4)
    shared = min(len(pieces), FRAMES)
    assert (whole[:shared] - pieces[:shared]).abs().max() < 1.5 / 255  # decoded in other batches, to 8 bits


def test_a_clip_that_fits_is_sampled_as_ksampler_does(server):
    graph, links = demo(LENGTH)
    expected = shown(server, graph, links, sampler(graph, links))
    graph, links = demo(LENGTH)
    assert torch.equal(shown(server, graph, links, long_sampler(graph, links)), expected)


def test_known_frames_stay_as_they_are(networks):
    graph, links = demo(LENGTH, unet=KNOWN)
    before = sampler(graph, links)
    goes_on = graph.add(
        "DreamFactoryContinueClip", model=links["model"], positive=links["positive"], negative=links["negative"],
        vae=links["vae"], samples=before, context_length=0, context_overlap=4, loop=False,
    )  # fmt: skip
    piece = {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]}
    after = sampler(graph, piece)
    ends = graph.add("LatentFromBatch", samples=before, batch_index=4, length=4)
    begins = graph.add("LatentFromBatch", samples=after, batch_index=0, length=4)
    assert torch.equal(shown(networks, graph, links, [ends, 0]), shown(networks, graph, links, [begins, 0]))


# -- what would not count -----------------------------------------------------------------------------------------


def windows(graph: Graph, model: list, length: int = LENGTH, overlap: int = 2, **more) -> list:
    settings = {
        "context_length": length, "context_overlap": overlap, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False,
        "cond_retain_index_list": "", "split_conds_to_windows": False, "latent_retain_index_list": "",
        "causal_window_fix": False,
    }  # fmt: skip
    return [graph.add("ContextWindowsManual", model=model, **{**settings, **more}), 0]


def several(graph: Graph, picture: list, count: int) -> list:
    return [graph.add("RepeatImageBatch", image=picture, amount=count), 0]


def test_windows_from_one_first_frame_are_refused(server):
    graph, links = demo(FRAMES)
    links["model"] = windows(graph, links["model"])
    told = refusal(server, graph, sampler(graph, links))
    assert "KSampler Long Clip" in told
    assert "ghosts" in told


def test_several_pictures_for_one_clip_are_refused(server):
    graph, links = demo(LENGTH, first_frame=["9", 0])
    assert several(graph, links["picture"], LENGTH) == ["7", 0]
    graph["6"]["inputs"]["first_frame"] = ["7", 0]
    told = refusal(server, graph, sampler(graph, links))
    assert f"{LENGTH} pictures for one clip" in told
    assert "Rebatch Images" in told


def test_rebatch_images_makes_a_clip_of_each_picture(server):
    graph, links = demo(LENGTH)
    other = graph.add("DreamFactoryLoadDemo", demo="picture to video", picture="red circle", weight_dtype="default")
    both = graph.add("ImageBatch", image1=links["picture"], image2=[other, 5])
    graph["6"]["inputs"]["first_frame"] = [graph.add("RebatchImages", images=[both, 0], batch_size=1), 0]
    made = shown(server, graph, links, sampler(graph, links))
    assert made.shape[0] == 2 * LENGTH
    graph, links = demo(LENGTH)
    assert torch.equal(made[:LENGTH], shown(server, graph, links, sampler(graph, links)))


def test_the_wrong_number_of_pictures_says_what_to_do(server):
    graph, links = demo(LENGTH)
    graph["6"]["inputs"]["first_frame"] = several(graph, links["picture"], 3)
    assert "3 pictures for 8 frames" in (told := refusal(server, graph, sampler(graph, links)))
    assert "Rebatch Images" in told


REFUSED = {
    "both": ({"samples": True, "images": True}, "samples: wire the clip so far as samples, or as images"),
    "neither": ({}, "samples: wire the clip so far as samples, or as images"),
    "loop and target": ({"samples": True, "loop": True, "last_frame": True}, "loop: it ends where the clip began"),
    "all of the network": ({"samples": True, "context_overlap": 8}, "context_overlap: 8 of 8 frames leave no room"),
    "more than there is": (
        {"samples": True, "context_length": 24, "context_overlap": 12}, "context_overlap: 12 frames of a clip of 8",
    ),
    "no place for a target": ({"samples": True, "last_frame": True}, "last_frame: this video model has no place"),
    "no place for a loop": ({"samples": True, "loop": True}, "loop: this video model has no place"),
    "odd size": ({"images": "odd"}, "images: 60x64 pixels do not divide into latents of 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_continue_clip_refuses(server, case):
    changes, told = REFUSED[case]
    graph, links = demo(LENGTH)
    made = sampler(graph, links)
    inputs = {"context_length": 0, "context_overlap": 0, "loop": False, **changes}
    if inputs.get("samples"):
        inputs["samples"] = made
    if inputs.get("images") == "odd":
        inputs["images"] = [
            graph.add(
                "ImageScale", image=links["picture"], upscale_method="area", width=60, height=64, crop="disabled"
            ),
            0,
        ]
    elif inputs.get("images"):
        inputs["images"] = links["picture"]
    if inputs.get("last_frame"):
        inputs["last_frame"] = links["picture"]
    goes_on = graph.add(
        "DreamFactoryContinueClip",
        **{**{k: links[k] for k in ("model", "positive", "negative", "vae")}, **inputs},
    )
    piece = {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]}
    assert told in refusal(server, graph, sampler(graph, piece))


def test_a_video_goes_on(server):
    """Pictures as the clip so far: any video, brought back to its own colours where both hold the same frames."""
    graph, links = demo(LENGTH)
    video = several(graph, links["picture"], 12)
    goes_on = graph.add(
        "DreamFactoryContinueClip", model=links["model"], positive=links["positive"], negative=links["negative"],
        vae=links["vae"], images=video, context_length=0, context_overlap=3, loop=False,
    )  # fmt: skip
    piece = {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]}
    made = graph.add("VAEDecode", samples=sampler(graph, piece), vae=links["vae"])
    join = graph.add(
        "DreamFactoryJoinClips", clip=video, piece=[made, 0], context_overlap=[goes_on, 3], hold_colours=1.0
    )
    clip = shown(server, graph, links, images=[join, 0])
    assert len(clip) == 12 + LENGTH - 3
    assert torch.equal(clip[:1].expand(12, -1, -1, -1), clip[:12])
    assert (clip[12:] - clip[11]).abs().mean() > 0.005  # it moves


def test_a_video_is_shown_itself(networks):
    """The network looks at the video it goes on from, whatever picture Image to Video was given, if any at all."""

    def made(picture: bool) -> torch.Tensor:
        graph, links = demo(LENGTH, unet=REACHING)
        other = graph.add("DreamFactoryLoadDemo", demo="picture to video", picture="red circle", weight_dtype="default")
        if not picture:
            del graph["6"]["inputs"]["first_frame"], graph["6"]["inputs"]["clip_vision"]
        goes_on = graph.add(
            "DreamFactoryContinueClip", model=links["model"], positive=links["positive"], negative=links["negative"],
            vae=links["vae"], images=several(graph, [other, 5], 6), clip_vision=links["vision"], context_length=0,
            context_overlap=3, loop=False,
        )  # fmt: skip
        piece = {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]}
        return shown(networks, graph, links, sampler(graph, piece))

    assert torch.equal(made(picture=True), made(picture=False))


@pytest.mark.parametrize("ends_in", ["black", "one colour", "grey"])
def test_flat_frames_do_not_flatten_what_follows(server, ends_in):
    """Shared frames without contrast say where the colours lie, and not how strong they are."""
    graph, links = demo(LENGTH)
    colour = {"black": 0, "one colour": 0xFF0000, "grey": 0x808080}[ends_in]
    clip = [graph.add("EmptyImage", width=64, height=64, batch_size=3, color=colour), 0]
    piece = several(graph, links["picture"], 4)
    join = graph.add("DreamFactoryJoinClips", clip=clip, piece=piece, context_overlap=1, hold_colours=1.0)
    held = shown(server, graph, links, images=[join, 0])[3:]
    graph, links = demo(LENGTH)
    plain = shown(server, graph, links, images=links["picture"])
    level = torch.tensor([colour >> 16, colour >> 8 & 255, colour & 255]) / 255
    expected = (plain - plain.mean(dim=(1, 2), keepdim=True) + level).clamp(0, 1)
    assert (held - expected).abs().max() < 2 / 255


def test_an_overlap_that_nothing_is_cut_by_is_none(server):
    graph, links = demo(4)
    expected = shown(server, graph, links, sampler(graph, links))
    graph, links = demo(4)
    assert torch.equal(shown(server, graph, links, long_sampler(graph, links, overlap=8)), expected)


def test_windows_and_pieces_are_one_too_many(server):
    graph, links = demo(FRAMES)
    links["model"] = windows(graph, links["model"])
    assert "makes its own pieces" in refusal(server, graph, long_sampler(graph, links))


def test_the_schedule_is_that_of_a_piece(server):
    """Noise Schedule with the long clip's latent wired, before the sampler: a piece has the noise of its own size."""
    plain, links = demo(FRAMES)
    expected = shown(server, plain, links, long_sampler(plain, links))
    graph, links = demo(FRAMES)
    choices = {k: "checkpoint" for k in ("shift", "rescale", "prediction")}
    scheduled = graph.add(
        "DreamFactoryNoiseSchedule", model=links["model"], latent=links["latent_image"], frames=16, width=64, height=64,
        shift_reference=64, shift_factor=1, **choices,
    )  # fmt: skip
    links["model"] = [scheduled, 0]
    assert torch.equal(shown(server, graph, links, long_sampler(graph, links)), expected)


def test_join_clips_refuses_what_does_not_fit(server):
    graph, links = demo(LENGTH)
    clip = sampler(graph, links)
    small = graph.add("LatentUpscale", samples=clip, upscale_method="area", width=96, height=96, crop="disabled")
    join = graph.add("DreamFactoryJoinClips", clip=clip, piece=[small, 0], context_overlap=1, hold_colours=1.0)
    assert "join two of one size" in refusal(server, graph, [join, 0])
    graph, links = demo(LENGTH)
    clip = sampler(graph, links)
    join = graph.add("DreamFactoryJoinClips", clip=clip, piece=clip, context_overlap=9, hold_colours=1.0)
    assert "9 shared frames, and there are 8 and 8" in refusal(server, graph, [join, 0])


def test_the_files_say_what_they_are(networks):
    assert (
        json.loads(json.dumps(load_unet(networks.models("diffusion_models") / REACHING).config.to_dict()))[
            "first_frame_reach"
        ]
        == 6
    )


@pytest.fixture(scope="module")
def ends(networks):
    """The demo's network as one that joins two pictures: its input channels are the two ends."""
    unet = load_unet(DEMO / "unet.safetensors")
    unet.config = replace(unet.config, known_frames=0, first_frame_reach=0, first_frame_concat="ends")
    save_unet(unet, networks.models("diffusion_models") / "ends.safetensors", schedule=unet.schedule)
    return networks


def joined(graph: Graph, links: dict, **more) -> list:
    before = sampler(graph, links)
    goes_on = graph.add(
        "DreamFactoryContinueClip", samples=before,
        **{"context_length": 0, "context_overlap": 1, "loop": False, **more},
        **{k: links[k] for k in ("model", "positive", "negative", "vae")},
    )  # fmt: skip
    return sampler(graph, {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]})


def test_an_interpolation_network_goes_to_a_target_or_back(ends):
    """What the network is shown as the other end counts; without one there is none, and it says so."""
    made = []
    for target in ("loop", "last_frame"):
        graph, links = demo(LENGTH, unet="ends.safetensors", last_frame=["1", 5])
        other = graph.add("DreamFactoryLoadDemo", demo="picture to video", picture="red circle", weight_dtype="default")
        more = {"loop": True} if target == "loop" else {"last_frame": [other, 5]}
        made.append(shown(ends, graph, links, joined(graph, links, **more)))
    assert (made[0] - made[1]).abs().mean() > 0.005
    assert torch.equal(made[0][:1], made[1][:1])  # the known frame
    graph, links = demo(LENGTH, unet="ends.safetensors", last_frame=["1", 5])
    assert "wire where the piece ends, or loop" in refusal(ends, graph, joined(graph, links))
    graph, links = demo(FRAMES, unet="ends.safetensors", last_frame=["1", 5])
    assert "joins two pictures in 8 frames" in refusal(ends, graph, long_sampler(graph, links))


# -- told before a run is wasted ----------------------------------------------------------------------------------


def told(server, graph: Graph, latent: list) -> str:
    """What ComfyUI's log says of a run."""
    before = len(server.log())
    graph.add("SaveLatent", samples=latent, filename_prefix="told")
    server.client.run(graph)
    return "\n".join(line for line in server.log()[before:].splitlines() if "DreamFactory:" in line)


def test_a_clip_that_suits_is_told_nothing(server):
    graph, links = demo(LENGTH)
    graph["2"]["inputs"]["text"] = "a (yellow:1.2) star on a plain ((background:0.9)), embedding:nothing"
    assert told(server, graph, sampler(graph, links, seed=11)) == ""
    graph, links = demo(FRAMES)
    assert told(server, graph, long_sampler(graph, links, seed=11)) == ""
    graph, links = demo(LENGTH)
    first = sampler(graph, links, seed=11)
    links["latent_image"] = [graph.add("LatentBatch", samples1=first, samples2=first), 0]  # a joined clip, refined
    assert "asked for" not in told(server, graph, sampler(graph, links, denoise=0.4))


def test_short_pieces_are_told_once(server):
    graph, links = demo(LENGTH)
    assert told(server, graph, long_sampler(graph, links, overlap=1, length=3, seed=13)).count("sees 3 at once") == 1


def test_what_would_spoil_a_long_clip_is_told(server):
    graph, links = demo(FRAMES)
    said = told(server, graph, long_sampler(graph, links, overlap=6, seed=15))
    assert "trained to take over up to 4 frames and is given 6" in said
    assert said.count("trained to take over") == 1
    graph, links = demo(FRAMES)
    said = told(server, graph, long_sampler(graph, links, length=FRAMES, seed=15))
    assert f"sees {FRAMES} at once; give a context_length of about 8" in said
    graph, links = demo(FRAMES)
    links["latent_image"] = [graph.add("VAEEncode", pixels=links["picture"], vae=links["vae"]), 0]
    said = told(server, graph, long_sampler(graph, links, seed=15))
    assert f"The latent has 1 frame, and Image to Video was asked for {FRAMES}" in said
    graph, links = demo(LENGTH)
    links["latent_image"] = [graph.add("RepeatLatentBatch", samples=links["latent_image"], amount=3), 0]
    assert "asked for 8: repeated latents" in told(server, graph, long_sampler(graph, links, seed=15))


def test_a_text_network_is_sent_to_windows(server):
    graph = Graph()
    load = graph.add("DreamFactoryLoadDemo", demo="text to video", picture="red circle", weight_dtype="default")
    text = graph.add("CLIPTextEncode", text="a red circle moves up", clip=[load, 1])
    clip = graph.add(
        "DreamFactoryImageToVideo", width=64, height=64, frames=FRAMES, frame_rate=0, positive=[text, 0],
        negative=[text, 0], vae=[load, 4],
    )  # fmt: skip
    links = {"model": [load, 0], "positive": [clip, 0], "negative": [clip, 1], "latent_image": [clip, 2]}
    said = told(server, graph, long_sampler(graph, links, steps=2))
    assert "seams show; take KSampler with Context Windows" in said


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_samplers_that_cannot_begin_in_noise_are_told(server, name):
    graph, links = demo(LENGTH)
    assert "cannot begin in pure noise" in told(server, graph, sampler(graph, links, sampler_name=name, steps=4))


def test_a_frame_rate_that_nothing_reads_is_told(server):
    graph, links = demo(LENGTH)
    graph["6"]["inputs"]["frame_rate"] = 30
    assert "reads no frame rate" in told(server, graph, sampler(graph, links, seed=16))


def test_a_low_denoise_is_no_fault_of_the_scheduler(server):
    graph, links = demo(LENGTH)
    assert told(server, graph, sampler(graph, links, denoise=0.001, steps=4, seed=17)) == ""


@pytest.mark.parametrize(("overlap", "words"), [(1, "the first 4 are"), (0, "the first 4 are"), (3, "the first 4 are")])
def test_a_piece_joined_by_other_frames_is_told(networks, overlap, words):
    graph, links = demo(LENGTH, unet=KNOWN)
    clip = sampler(graph, links)
    goes_on = graph.add(
        "DreamFactoryContinueClip", model=links["model"], positive=links["positive"], negative=links["negative"],
        vae=links["vae"], samples=clip, context_length=0, context_overlap=4, loop=False,
    )  # fmt: skip
    made = sampler(graph, {**links, "positive": [goes_on, 0], "negative": [goes_on, 1], "latent_image": [goes_on, 2]})
    join = graph.add("DreamFactoryJoinClips", clip=clip, piece=made, context_overlap=overlap, hold_colours=1.0)
    assert words in told(networks, graph, [join, 0])


def test_a_piece_of_which_nothing_is_new_is_refused(server):
    graph, links = demo(LENGTH)
    clip = sampler(graph, links)
    join = graph.add("DreamFactoryJoinClips", clip=clip, piece=clip, context_overlap=8, hold_colours=1.0)
    assert "all 8 frames of the piece" in refusal(server, graph, [join, 0])


def test_an_interpolation_network_is_not_sent_to_windows(ends):
    graph, links = demo(20, unet="ends.safetensors", last_frame=["1", 5])
    said = told(ends, graph, sampler(graph, links, seed=11))
    assert "take Continue Clip and Join Clips, from picture to picture, for longer clips" in said


@pytest.mark.parametrize(("frames", "words"), [(3, "about 8 look best"), (20, "take KSampler Long Clip")])
def test_lengths_that_were_not_trained_are_told(server, frames, words):
    graph, links = demo(frames)
    said = told(server, graph, sampler(graph, links, seed=11))
    assert f"sees {frames} at once" in said
    assert words in said
    assert said.count("sees") == 1


def test_a_repeated_latent_is_told(server):
    graph, links = demo(LENGTH)
    links["latent_image"] = [graph.add("RepeatLatentBatch", samples=links["latent_image"], amount=2), 0]
    said = told(server, graph, sampler(graph, links, seed=11))
    assert "has 16 frames, and Image to Video was asked for 8: repeated latents" in said
    graph, links = demo(LENGTH)
    cut = graph.add("LatentFromBatch", samples=links["latent_image"], batch_index=0, length=5)
    said = told(server, graph, sampler(graph, {**links, "latent_image": [cut, 0]}, seed=11))
    assert "has 5 frames, and Image to Video was asked for 8; the clip has the latent's" in said


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [("ddim_uniform", "The scheduler begins at timestep"), ("exponential", "most steps in pure noise")],
)
def test_schedulers_that_do_not_suit_are_told(server, scheduler, words):
    graph, links = demo(LENGTH)
    said = told(server, graph, sampler(graph, links, scheduler=scheduler, steps=10, seed=12))
    assert words in said


@pytest.mark.parametrize("scheduler", ["sgm_uniform", "simple", "normal", "beta"])
def test_schedulers_that_suit_are_not(server, scheduler):
    graph, links = demo(LENGTH)
    assert told(server, graph, sampler(graph, links, scheduler=scheduler, steps=10, seed=12)) == ""


def test_words_that_the_demo_does_not_know_are_told(server):
    graph, links = demo(LENGTH)
    graph["2"]["inputs"]["text"] = "a crimson star on a plain zeppelin"
    assert "does not know 'crimson', 'zeppelin'" in told(server, graph, sampler(graph, links))


def test_a_merge_with_a_network_of_other_parts_is_told(networks):
    """And one of two networks of one kind is not."""
    graph, links = demo(LENGTH)
    other = graph.add("DreamFactoryLoadDemo", demo="text to video", picture="red circle", weight_dtype="default")
    links["model"] = [graph.add("ModelMergeSimple", model1=links["model"], model2=[other, 0], ratio=0.5), 0]
    said = told(networks, graph, sampler(graph, links))
    assert "A merge leaves" in said
    assert "merge two of one kind" in said
    graph, links = demo(LENGTH)
    same = graph.add("DreamFactoryLoadVideoUNet", unet_name=KNOWN, weight_dtype="default", release="from the file")
    links["model"] = [graph.add("ModelMergeSimple", model1=links["model"], model2=[same, 0], ratio=0.5), 0]
    assert told(networks, graph, sampler(graph, links, seed=3)) == ""


def test_parts_that_join_a_merged_network_are_no_part_of_the_merge(server):
    """Two checkpoints merged, then motion put on: nothing is left out."""
    network = VideoUNet(MOVING)
    save_patch(network, server.models("model_patches") / "moving.safetensors", ["temporal"])
    graph = Graph()
    first, second = (graph.add("StandInCheckpoint") for _ in range(2))
    merged = graph.add("ModelMergeSimple", model1=[first, 0], model2=[second, 0], ratio=0.5)
    moving = graph.add("DreamFactoryMotionOnModel", model=[merged, 0], motion_name="moving.safetensors")
    text = graph.add("CLIPTextEncode", text="a red circle", clip=[first, 1])
    empty = graph.add("EmptyLatentImage", width=64, height=64, batch_size=4)
    links = {"model": [moving, 0], "positive": [text, 0], "negative": [text, 0], "latent_image": [empty, 0]}
    assert "A merge leaves" not in told(server, graph, sampler(graph, links, steps=1))
