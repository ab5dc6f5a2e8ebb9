"""The command as a user types it: forms that stay, files that are whole, mistakes that cost one sentence."""

import json

import pytest
from PIL import Image

from dreamfactory.cli import main
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.pipelines.media.files import read_image
from dreamfactory.training.tiny_world.held_out import held_out

from .videos import read_video


def run(capsys, *args):
    """(exit code, standard output, standard error)"""
    try:
        code = main([str(a) for a in args])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "first.png"
    image = held_out(1).first_frames[0]
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return path


def generate(capsys, picture, out, *more):
    fixed = (
        "--checkpoint",
        "demo",
        "--image",
        picture,
        "--text",
        "a red circle",
        "--motion",
        "the red circle moves left",
    )
    return run(capsys, "generate", *fixed, "--frames", 4, "--seed", 7, "--steps", 2, "--out", out, *more)


# -- schedule, info ---------------------------------------------------------------------------------------------


def test_schedule_json(capsys, tmp_path):
    plot = tmp_path / "curve.png"
    size = ("--frames", 16, "--height", 512, "--width", 512)
    code, out, _ = run(capsys, "schedule", *size, "--plot", plot, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["shift"] == pytest.approx(0.125)
    assert len(facts["alphas_cumprod"]) == len(facts["log_snr"]) == 1000
    assert facts["alphas_cumprod"][-1] == 0.0
    assert facts["log_snr"][-1] is None
    assert Image.open(plot).size[0] > 400


def test_schedule_table_and_rescales(capsys):
    size = ("--frames", 32, "--height", 256, "--width", 256)
    assert "0.1768" in run(capsys, "schedule", *size)[1]
    plain = json.loads(run(capsys, "schedule", *size, "--rescale", "none", "--json")[1])
    assert plain["alphas_cumprod"][-1] > 0


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("modelscope", 1_411_233_860), ("videocrafter2", 1_413_284_420), ("dynamicrafter-512", 1_438_854_980)],
)
def test_info_of_presets(capsys, preset, parameters):
    code, out, _ = run(capsys, "info", "--preset", preset, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["parameters"] == parameters == sum(facts["parts"].values())
    assert facts["config"]["model_channels"] == 320


def test_info_of_a_file_reads_its_header(capsys):
    code, out, _ = run(capsys, "info", DEMO / "unet.safetensors", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["schedule"]["prediction"] == "v"
    assert "paca" in facts["parts"]
    assert "parameters" in run(capsys, "info", DEMO / "unet.safetensors")[1]


def test_info_of_an_upscaler(capsys):
    code, out, _ = run(capsys, "info", DEMO / "upscaler.safetensors", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["upscaler"]["scale"] == 4
    assert facts["parameters"] == 968_291  # RCAN of 1 x 8 blocks
    assert "RCAN x4" in run(capsys, "info", DEMO / "upscaler.safetensors")[1]


# -- generate ---------------------------------------------------------------------------------------------------


def test_generate_writes_a_whole_clip_with_its_settings(capsys, picture, tmp_path):
    out = tmp_path / "clip.mp4"
    code, printed, _ = generate(capsys, picture, out)
    clip, settings = read_video(out)
    assert code == 0
    assert printed.strip() == str(out)
    assert clip.shape == (4, 3, 64, 64)
    assert settings["motion"] == "the red circle moves left"
    assert settings["seed"] == 7
    assert settings["sampler"] == "ddim"  # defaults are stored as what they resolved to
    assert None not in [settings[k] for k in ("guidance_scale", "guidance_rescale", "fps", "width", "frames")]
    assert Image.open(tmp_path / "clip_sheet.png").size[0] > 4 * 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "clip_sheet.png"]
    # The clip starts from the picture.
    first = read_image(picture, 64, 64)[0]
    assert (clip[0] - first).abs().mean() < 0.1


def test_the_same_seed_gives_the_same_file_and_another_does_not(capsys, picture, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        generate(capsys, picture, tmp_path / f"{name}.mp4", "--seed", seed)
    a, b, c = (read_video(tmp_path / f"{name}.mp4")[0] for name in "abc")
    # Equal up to the last bits of a matrix product, which may depend on where memory lies; a video codec turns such
    # a bit into a level or two of a pixel here and there.
    same, other = (a - b).abs().mean(), (a - c).abs().mean()
    assert same < 2 / 255
    assert other > 4 * same
    assert other > 2 / 255


def test_sizes_and_strengths_can_be_chosen(capsys, picture, tmp_path):
    out = tmp_path / "wide.mp4"
    more = ("--width", 88, "--height", 72, "--scale", 2, "--paca-strength", 0.5, "--image-strength", 0)
    assert generate(capsys, picture, out, *more)[0] == 0
    assert read_video(out)[0].shape == (4, 3, 144, 176)


def test_unknown_words_are_told_but_do_no_harm(capsys, picture, tmp_path):
    code, _, err = generate(capsys, picture, tmp_path / "a.mp4", "--motion", "the red zebra moves left")
    assert code == 0
    assert "'zebra'" in err


MISTAKES = {
    "no picture": (("--image", "nowhere.png"), "does not exist"),
    "text for a picture": (("--image", __file__), "is no picture"),
    "zero frames": (("--frames", 0), "frames is 0; expected 1 to 1024"),
    "negative frames": (("--frames", -3), "expected 1 to 1024"),
    "absurd frames": (("--frames", 10_000), "expected 1 to 1024"),
    "absurd size": (("--width", 65536, "--height", 65536), "pixels"),
    "size no multiple": (("--width", 60), "multiples of 8"),
    "zero steps": (("--steps", 0), "steps is 0"),
    "unknown sampler": (("--sampler", "magic"), "there is no sampler 'magic'"),
    "strength out of range": (("--paca-strength", -1), "paca_strength is -1.0"),
    "fps no number": (("--fps", "nan"), "fps is nan"),
    "huge seed": (("--seed", 2**64), "seed is"),
    "width zero": (("--width", 0), "multiples of 8"),
    "guidance rescale out of range": (("--guidance-rescale", 7), "expected 0 to 1"),
    "codec is no codec": (("--vae", "{tmp}/damaged.safetensors"), "no safetensors file, or is damaged"),
    "device not there": (("--device", "warp"), "'warp' cannot be used"),
    "sheet is a folder": (("--out", "{tmp}/taken.mp4"), "taken_sheet.png is a folder"),
    "missing checkpoint": (("--checkpoint", "nowhere.safetensors"), "does not exist"),
    "pickle": (("--checkpoint", "{tmp}/model.ckpt"), "is no file of torch.save"),
    "damaged checkpoint": (("--checkpoint", "{tmp}/damaged.safetensors"), "no safetensors file, or is damaged"),
    "folder without index": (("--checkpoint", "{tmp}"), "is no bundle"),
    "not a video": (("--out", "{tmp}/clip.avi"), "must end in .mp4"),
    "out is a folder": (("--out", "{tmp}/folder.mp4"), "is a folder"),
    "absurd size in a new folder": (
        ("--out", "{tmp}/new/folder/clip.mp4", "--width", 65536, "--height", 65536),
        "pixels",
    ),
    "out under a file": (("--out", "{tmp}/model.ckpt/clip.mp4"), "cannot be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence_and_nothing_else(capsys, picture, tmp_path, mistake):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a header at all")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "taken_sheet.png").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    more, sentence = MISTAKES[mistake]
    code, out, err = generate(capsys, picture, tmp_path / "clip.mp4", *(str(a).format(tmp=tmp_path) for a in more))
    assert code == 2
    assert sentence in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_info_and_schedule_mistakes(capsys):
    for args, sentence in (
        (("info", "--preset", "nothing"), "there is no preset 'nothing'"),
        (("info",), "takes a file, or --preset"),
        (("info", "nowhere.safetensors"), "does not exist"),
        (("schedule", "--frames", 0, "--height", 512, "--width", 512), "0"),
        (("schedule", "--frames", 8, "--height", 64, "--width", 64, "--plot", "curve.xyz"), "must end in .png"),
        (("convert", DEMO / "unet.safetensors", "x.safetensors"), "already"),
        (("convert", DEMO / "unet.safetensors", "x.safetensors", "--set", "headdim"), "has no '='"),
        (("train", "nowhere.toml"), "cannot be read"),
    ):
        code, _, err = run(capsys, *args)
        assert code == 2, args
        assert sentence in err, args
