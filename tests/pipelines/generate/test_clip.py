"""`dreamfactory generate` for one clip: text alone, text and picture, enlarged; what has no place is refused."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamfactory.cli import main
from dreamfactory.model_patches import VideoUNet, load_unet, preset
from dreamfactory.pipelines.bundle import DEMO, Bundle, Defaults, KLCodec, load_bundle, save_bundle
from dreamfactory.pipelines.generate.plan import Networks, Planner
from dreamfactory.pipelines.generate.request import Request
from dreamfactory.pipelines.image_to_video import Settings, animate
from dreamfactory.pipelines.media.files import write_video
from dreamfactory.pipelines.turns import Turns
from dreamfactory.schedulers import ScheduleConfig

from ...random_weights import randomise
from ...videos import read_video
from ..test_text_to_image import sd1

PICTURE = DEMO / "pictures" / "red_circle.png"
CAPTIONS = ("--text", "a red circle", "--motion", "the red circle moves left")


def run(capsys, *args):
    """(exit code, standard output, standard error)"""
    try:
        code = main(["generate", *map(str, args)])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def text_alone(tmp_path_factory):
    """A bundle of VideoFactory's form: random, narrow, reading captions and nothing else."""
    demo = load_bundle("demo")
    torch.manual_seed(0)
    narrow = {"model_channels": 24, "norm_groups": 4, "head_dim": 12, "swap_attention": "swapped", "swap_head_dim": 12}
    off = {"first_frame_concat": "off", "paca": False, "image_adapter": "off", "motion_text": "off"}
    unet = VideoUNet(type(preset("tiny")).from_dict({**preset("tiny").to_dict(), **narrow, **off}))
    randomise(unet)
    folder = tmp_path_factory.mktemp("networks") / "text-alone"
    defaults = Defaults(frames=4, height=32, width=48, fps=8, steps=2, guidance_scale=3.0)
    save_bundle(Bundle(unet, demo.codec, demo.text, schedule=ScheduleConfig(), defaults=defaults), folder)
    return folder


# -- text to video ------------------------------------------------------------------------------------------------


def test_a_clip_of_text_alone(capsys, text_alone, tmp_path):
    code, out, err = run(capsys, "--checkpoint", text_alone, *CAPTIONS, "--out", tmp_path / "clip.mp4")
    clip, told = read_video(tmp_path / "clip.mp4")
    assert (code, out.strip()) == (0, str(tmp_path / "clip.mp4"))
    assert clip.shape == (4, 3, 32, 48)
    assert told["text"] == "a red circle"
    assert told["image"] is None
    assert "4 frames of 48x32 in" in err
    assert "peak memory" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "clip_sheet.png"]


def test_both_captions_are_one_prompt_where_one_is_read(text_alone):
    """A network without motion text reads "text, motion", as it was trained."""
    bundle = load_bundle(text_alone)
    apart = animate(bundle, None, ["a red circle"], ["it moves up"], Settings(seed=3))
    joined = animate(bundle, None, ["a red circle, it moves up"], [""], Settings(seed=3))
    assert torch.equal(apart, joined)
    assert apart.shape == (1, 4, 3, 32, 48)
    assert animate(bundle, None, ["a"], ["b"], Settings(frames=2), size=(40, 64)).shape == (1, 2, 3, 40, 64)


def test_a_negative_prompt_is_guidance_s_other_half(text_alone):
    """cond = uncond: whatever the scale, guidance then changes nothing (Ho and Salimans)."""
    bundle = load_bundle(text_alone)

    def make(scale, **changes):
        return animate(bundle, None, ["a red circle"], [""], Settings(guidance_scale=scale), **changes)

    alone = make(1.0)
    assert torch.allclose(make(7.0, negative=["a red circle"]), alone, atol=1e-4)
    assert not torch.allclose(make(7.0, negative=["a blue star"]), make(7.0), atol=1e-3)
    assert torch.allclose(make(7.0, negative=[""]), make(7.0), atol=1e-6)


def test_seeds_of_their_own_give_the_clips_of_their_own(text_alone):
    bundle, texts = load_bundle(text_alone), ["a red circle", "a blue star", "a heart"]
    together = animate(bundle, None, texts, ["", "", ""], Settings(), seeds=[9, 4, 7])
    for i, seed in enumerate((9, 4, 7)):
        alone = animate(bundle, None, texts[i : i + 1], [""], Settings(seed=seed))
        assert torch.allclose(together[i], alone[0], atol=1e-4)


MISPLACED = {
    "no caption": (("--checkpoint", "{text}"), "say with --text what it should show"),
    "a picture for text alone": (("--checkpoint", "{text}", *CAPTIONS, "--image", PICTURE), "leave --image out"),
    "a drawn picture for text alone": (
        ("--checkpoint", "{text}", *CAPTIONS, "--first-frame-from", DEMO / "unet.safetensors"),
        "which draws no pictures alone",
    ),
    "no picture": (CAPTIONS, "name one by --image"),
    "a last frame": (("--image", PICTURE, "--last-image", PICTURE), "has no place for a last frame"),
    "two first frames": (("--image", PICTURE, "--first-frame-from", "sd"), "give one of the two"),
    "half a letter": (("--image", PICTURE, "--text", "a \ud83d"), "text holds characters that are no text"),
    "no place to compute": (("--image", PICTURE, "--device", "meta"), "device 'meta' cannot be used"),
    "a drawn frame's steps": (("--image", PICTURE, "--first-frame-steps", 4), "name what draws it"),
    "a tokenizer for nothing": (("--image", PICTURE, "--first-frame-tokenizer", "x"), "give that too"),
    "two enlargers": (("--image", PICTURE, "--upscale", "demo", "--scale", 2), "give one of the two"),
    "size and scale": (("--image", PICTURE, "--size", "64x64", "--scale", 2), "give one of the two"),
    "size and another width": (("--image", PICTURE, "--size", "64x64", "--width", 72), "differ"),
    "size of no form": (("--image", PICTURE, "--size", "big"), "write width x height"),
    "size the VAE cannot make": (("--image", PICTURE, "--size", "100x60"), "multiples of 8"),
    "larger than the upscaler makes": (("--image", PICTURE, "--upscale", "demo", "--size", "1376x768"), "asks for x"),
    "odd size": (("--image", PICTURE, "--upscale", "demo", "--size", "255x255"), "even numbers"),
    "no upscaler": (("--image", PICTURE, "--upscale", "nowhere.safetensors"), "does not exist"),
    "a network as upscaler": (("--image", PICTURE, "--upscale", DEMO / "unet.safetensors"), "upscale"),
    "no LoRA": (("--image", PICTURE, "--lora", "nowhere.safetensors:0.5"), "does not exist"),
    "no batch": (("--image", PICTURE, "--batch", 0), "batch is 0"),
    "batch of a list": (("--image", PICTURE, "--batch", 2), "--batch is of a list"),
    "too large a scale": (("--image", PICTURE, "--scale", 99), "scale is 99"),
    "a list's name": (("--prompts", "nowhere.jsonl", "--image", PICTURE), "is one file; give a folder"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_what_has_no_place_costs_one_sentence(capsys, text_alone, tmp_path, case):
    args, sentence = MISPLACED[case]
    out = tmp_path / "clip.mp4"
    code, printed, err = run(capsys, *(str(a).format(text=text_alone) for a in args), "--out", out)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert printed == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_s_own_mistakes_cost_one_sentence(capsys):
    for args, sentence in (
        ((), "--out is missing; see `dreamfactory generate --help`."),
        (("--out",), "--out needs a value"),
        (("--out", "x.mp4", "--step", "1", "--imgae", "y"), "did you mean --image? See `dreamfactory generate"),
        (("--out", "x.mp4", "--steps", "ten"), "--steps is 'ten', expected a whole number"),
        (("--out", "x.mp4", "--attention", "flash"), "--attention is 'flash', expected one of"),
        (("--out", "x.mp4", "y"), "there is no place for 'y'"),
    ):
        code, _, err = run(capsys, *args)
        assert code == 2
        assert sentence in err, args
        assert len(err.strip().splitlines()) == 1


def test_a_picture_is_not_written_over(capsys, tmp_path):
    picture = tmp_path / "boat_sheet.png"
    picture.write_bytes(PICTURE.read_bytes())
    code, _, err = run(capsys, "--image", picture, *CAPTIONS, "--out", tmp_path / "boat.mp4")
    assert code == 2
    assert "written over the picture" in err
    assert picture.read_bytes() == PICTURE.read_bytes()


def test_what_does_nothing_is_told(capsys, text_alone, tmp_path):
    nothing = ("--paca-strength", 0.5, "--image-strength", 0, "--negative", "a star", "--guidance-scale", 1)
    more = (
        "--guidance-rescale",
        0.7,
        "--frame-rate",
        8,
        "--context-overlap",
        1,
        "--steps",
        1,
        "--frames",
        2,
        "--quiet",
    )
    code, _, err = run(capsys, "--checkpoint", text_alone, *CAPTIONS, *nothing, *more, "--out", tmp_path / "x.mp4")
    assert code == 0
    for option in ("paca-strength", "image-strength", "negative", "guidance-rescale", "frame-rate", "context-overlap"):
        assert f"--{option}" in err, option


# -- enlarged in the same run -------------------------------------------------------------------------------------


def test_enlarged_in_the_same_run(capsys, tmp_path):
    """What `dreamfactory upscale` makes of the clip, but for the codec between the two."""
    fixed = ("--image", PICTURE, *CAPTIONS, "--frames", 3, "--steps", 2, "--quiet")
    assert run(capsys, *fixed, "--out", tmp_path / "small.mp4")[0] == 0
    assert run(capsys, *fixed, "--upscale", "demo", "--out", tmp_path / "whole.mp4")[0] == 0
    assert run(capsys, *fixed, "--upscale", "demo", "--size", "200x120", "--out", tmp_path / "cropped.mp4")[0] == 0
    command = ["upscale", str(tmp_path / "small.mp4"), str(tmp_path / "after.mp4"), "--model", "demo", "--quiet"]
    assert main(command) == 0
    whole, told = read_video(tmp_path / "whole.mp4")
    after, _ = read_video(tmp_path / "after.mp4")
    assert whole.shape == after.shape == (3, 3, 256, 256)
    assert (whole - after).abs().mean() < 0.01
    assert read_video(tmp_path / "cropped.mp4")[0].shape == (3, 3, 120, 200)
    assert (told["upscale"], told["size"], told["width"]) == ("demo", "256x256", 64)


# -- a small card -------------------------------------------------------------------------------------------------


class Watched(torch.nn.Linear):
    """A network that tells where it is."""

    def __init__(self, where):
        super().__init__(4, 4)
        self.where = where

    def to(self, *args, **kwargs):
        self.where[id(self)] = str(args[0])
        return self


@pytest.mark.parametrize("memory", [None, 10**9, 200])
def test_networks_take_turns_where_memory_is_short(memory):
    """Weights of 80 bytes each; with 200 bytes of a card one is there at a time, with more all stay."""
    where = {}
    first, second, third = (Watched(where) for _ in range(3))
    turns = Turns("meta", memory)
    for network in (first, second, third):
        turns(network)
        on = [k for k, place in where.items() if place == "meta"]
        assert id(network) in on
        if memory == 200:
            assert on == [id(network)]
    assert len(on) == (1 if memory == 200 else 3)
    turns.over()
    assert set(where.values()) == {"cpu"}


def test_turns_on_a_cpu_change_nothing(text_alone):
    plain = animate(load_bundle(text_alone), None, ["a red circle"], [""], Settings(seed=5))
    taken = animate(load_bundle(text_alone, turns=Turns("cpu")), None, ["a red circle"], [""], Settings(seed=5))
    assert torch.equal(plain, taken)


def test_every_part_has_its_turn_before_it_computes(text_alone):
    """In the order of the path: encoders, network, codec."""
    bundle: Any = load_bundle(text_alone)
    order = []
    bundle.turns = lambda *parts: order.append([type(part).__name__ for part in parts])
    animate(bundle, None, ["a red circle"], [""], Settings())
    assert order == [["TextEncoder"], ["VideoUNet"], ["VideoUNet"], ["PatchAutoencoder"]]
    demo: Any = load_bundle("demo")
    demo.turns = bundle.turns
    order.clear()
    animate(demo, torch.rand(1, 3, 64, 64), ["a red circle"], ["it moves up"], Settings(frames=2, steps=1))
    assert order[:4] == [["TextEncoder"], ["TextEncoder"], ["PatchAutoencoder"], ["ImageEncoder"]]
    assert order[4:] == [["VideoUNet"], ["VideoUNet"], ["PatchAutoencoder"]]


# -- a first frame that is drawn ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A diffusers folder of Stable Diffusion's form, of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd")
    sd1(folder).save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def test_text_picture_video_larger_video(capsys, painter, tmp_path):
    """Factorized-Dreamer's whole path in one command; the picture is kept, and makes the same clip by itself."""
    fixed = (*CAPTIONS, "--frames", 3, "--steps", 2, "--quiet", "--seed", 5)
    drawn = ("--first-frame-from", painter, "--first-frame-steps", 2, "--first-frame-size", "64x48")
    code, _, err = run(capsys, *fixed, *drawn, "--upscale", "demo", "--out", tmp_path / "clip.mp4")
    assert code == 0, err
    names = ["clip.mp4", "clip_first_frame.png", "clip_sheet.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    clip, told = read_video(tmp_path / "clip.mp4")
    assert clip.shape == (3, 3, 256, 256)
    assert told["first_frame"] == "clip_first_frame.png"
    assert (told["first_frame_size"], told["first_frame_steps"], told["first_frame_seed"]) == ("64x48", 2, 5)
    with Image.open(tmp_path / "clip_first_frame.png") as picture:
        assert picture.size == (64, 48)
        assert json.loads(picture.info["dreamfactory"])["text"] == "a red circle"
    again = tmp_path / "again.mp4"
    picture = tmp_path / "clip_first_frame.png"
    assert run(capsys, *fixed, "--image", picture, "--upscale", "demo", "--out", again)[0] == 0
    assert torch.equal(read_video(again)[0], clip)


def test_a_drawn_picture_needs_text_and_a_size_it_can_have(capsys, painter, tmp_path):
    out = ("--out", tmp_path / "clip.mp4")
    for args, sentence in (
        (("--motion", "it moves"), "there is no text"),
        ((*CAPTIONS, "--first-frame-size", "63x64"), "draws multiples of"),
        ((*CAPTIONS, "--first-frame-size", "0x0"), "draws multiples of"),
        ((*CAPTIONS, "--first-frame-steps", 0), "first_frame_steps is 0"),
    ):
        code, _, err = run(capsys, "--first-frame-from", painter, *args, *out)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert sentence in err
    assert list(tmp_path.iterdir()) == []


def test_networks_that_read_a_picture_are_known_by_their_config():
    from dreamfactory.pipelines.image_to_video import reads_picture

    with_picture = {"factorized-dreamer", "dynamicrafter-512", "videocrafter1-i2v", "dreamfactory", "tiny"}
    without = {"videofactory", "videofactory-base", "modelscope", "videocrafter2", "animatediff", "sd15"}
    assert all(reads_picture(preset(name)) for name in with_picture)
    assert not any(reads_picture(preset(name)) for name in without)
    assert reads_picture(load_unet(DEMO / "unet.safetensors").config)


def test_what_a_painter_has_no_place_for_is_told_where_it_was_asked_for():
    ignores = {"negative": "A knows no negative prompt", "guidance_scale": "A knows no guidance scale"}
    painter: Any = SimpleNamespace(ignores=ignores, notes=[], guidance_scale=1.0, name="A", is_cut=lambda text: False)
    planner = Planner(Networks(first_frame_from="a"), load_bundle("demo"), painter, None, {})
    still: dict[str, Any] = {"first_frame_guidance_scale": 1.0, "guidance_scale": 3.0}
    plain = Request(text="a red circle", motion="the red circle moves up", **still)
    own = replace(plain, image="a.png", first_frame_negative="grey")  # draws nothing
    assert planner.notes([plain, own]) == []
    assert planner.notes([replace(plain, first_frame_negative="grey")]) == [
        "A knows no negative prompt; --first-frame-negative does nothing."
    ]
    assert planner.notes([replace(plain, first_frame_guidance_scale=5.0)]) == [
        "A knows no guidance scale; --first-frame-guidance-scale does nothing."
    ]


def test_weights_that_an_index_names_elsewhere_are_a_folder_s_own(text_alone, tmp_path):
    """A list does not go on where any file it reads has changed."""
    folder = tmp_path / "bundle"
    shutil.copytree(text_alone, folder)
    shutil.move(folder / "codec.safetensors", tmp_path / "codec.safetensors")
    index = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(index | {"codec": "../codec.safetensors"}))
    load_bundle(folder)
    before = Networks(checkpoint=str(folder)).fingerprints()
    data = (tmp_path / "codec.safetensors").read_bytes()
    (tmp_path / "codec.safetensors").write_bytes(data[:-1] + b"x")
    after = Networks(checkpoint=str(folder)).fingerprints()
    assert [file for file in after if after[file] != before[file]] == [str(folder / ".." / "codec.safetensors")]


def test_kl_vaes_stay_whole_where_the_rest_is_in_half_precision(tmp_path):
    """float16 is too small for Stable Diffusion's; the codecs of ours fit."""
    AutoencoderKL(latent_channels=12, norm_num_groups=8, block_out_channels=(8,)).save_pretrained(tmp_path)
    demo = load_bundle("demo", dtype=torch.float16)
    assert next(demo.codec.parameters()).dtype == torch.float16
    assert next(load_bundle("demo", vae=str(tmp_path), dtype=torch.float16).codec.parameters()).dtype == torch.float32


def test_a_bundle_with_another_s_vae_is_saved_beside_it(tmp_path):
    AutoencoderKL(latent_channels=12, norm_num_groups=8, block_out_channels=(8,)).save_pretrained(tmp_path / "vae")
    bundle = load_bundle("demo", vae=str(tmp_path / "vae"))
    with pytest.raises(ValueError, match="name its folder in `elsewhere`"):
        save_bundle(bundle, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    save_bundle(bundle, tmp_path / "saved", elsewhere={"codec": "../vae"})
    assert isinstance(load_bundle(tmp_path / "saved").codec, KLCodec)


def test_a_clip_of_no_frames_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "clip.mp4", iter(()), 8)
    assert list(tmp_path.iterdir()) == []


def test_captions_that_are_not_read_to_the_end_are_told(text_alone):
    bundle = load_bundle(text_alone)
    planner = Planner(Networks(), bundle, None, None, {})
    long = Request(
        text=" ".join(["a red circle"] * (bundle.text.length // 2)), motion="it moves up", guidance_scale=3.0
    )
    short = Request(text="a red circle", motion="it moves up, left", guidance_scale=3.0)
    assert planner.notes([short]) == []
    (told,) = planner.notes([short, long, replace(long, negative=long.text)])
    assert "does not read to the end of 'a red circle a red" in told
    assert "and of 1 more; what matters should come first" in told


@pytest.mark.parametrize("length", [200, 240, 241, 251])
def test_names_as_long_as_a_file_system_takes(capsys, text_alone, tmp_path, length):
    """They cost a sentence before the work, or nothing."""
    out = tmp_path / ("a" * (length - 4) + ".mp4")
    code, _, err = run(capsys, "--checkpoint", text_alone, "--text", "a red circle", "--out", out)
    if length + len("_sheet.png") - len(".mp4") <= 255:
        assert code == 0, err
        assert len(list(tmp_path.iterdir())) == 2
    else:
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert "name too long" in err


def test_a_name_that_is_no_text_costs_a_sentence(capsys, text_alone, tmp_path):
    fixed = ("--checkpoint", text_alone, "--text", "a red circle")
    code, printed, err = run(capsys, *fixed, "--out", tmp_path / "\udcff.mp4")
    assert (code, printed, len(err.strip().splitlines())) == (2, "", 1)
    assert "no text; choose another name" in err


@pytest.mark.parametrize("args", [["generate", "--out", "x.mp4"], ["generate", "--bogus"], ["upscale", "--bogus"]])
def test_under_a_launcher_the_first_process_speaks_for_all(capsys, monkeypatch, args):
    """But for commands that no launcher shares; and one clip waits for nobody."""
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for rank in "01":
        for name, value in {**told, "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        try:
            code = main(args)
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == (rank == "0" or args[0] == "upscale")


@pytest.mark.parametrize(
    ("part", "file", "key"),
    [
        ("network", "unet.safetensors", "out.2.weight"),
        ("VAE", "codec.safetensors", "synthesis.weight"),
        ("text encoder", "text_encoder/model.safetensors", None),
    ],
)
def test_weights_that_are_no_numbers_are_blamed_on_their_file(capsys, tmp_path, part, file, key):
    shutil.copytree(DEMO, tmp_path / "mine")
    weights = load_file(tmp_path / "mine" / file)
    with safe_open(tmp_path / "mine" / file, "pt") as opened:
        metadata = opened.metadata()
    name = key or next(k for k, v in weights.items() if v.ndim == 2 and "final" not in k)
    weights[name][:] = float("nan")
    save_file(weights, tmp_path / "mine" / file, metadata)
    short = ("--image", PICTURE, *CAPTIONS, "--frames", 2, "--steps", 2, "--quiet", "--out", tmp_path / "x.mp4")
    code, _, err = run(capsys, "--checkpoint", tmp_path / "mine", *short)
    assert code == 2
    assert f"the {part} of " in err
    assert "is damaged" in err
    assert not (tmp_path / "x.mp4").exists()
