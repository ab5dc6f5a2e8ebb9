"""Upscalers on camera footage: released ones through the pack's own doors, and ours for footage.

Judges: ncnn, which the weights were released for; spandrel, which most tools open them with; what a container says.
"""

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from dreamfactory.cli import main
from dreamfactory.model_patches.upscaling.enlarge import Enlarger
from dreamfactory.model_patches.upscaling.upscaler import load_upscaler
from dreamfactory.pipelines.upscale import open_upscaler

from ...real_material import COMPACT, COUNTS, WEIGHTS, clip, frames, needs_footage, needs_weights, released

ROOT = Path(__file__).parents[3]
SCALE = 4
X4PLUS, ANIME, VIDEO = "realesrgan-x4plus", "realesrgan-x4plus-anime", "realesr-animevideov3-x4"
RELEASED = (VIDEO, ANIME, X4PLUS)
KINDS = {VIDEO: "RealESRGAN Compact", ANIME: "ESRGAN", X4PLUS: "ESRGAN"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A released network as a safetensors file of its public names."""
    folder = tmp_path_factory.mktemp("models")

    def path(name):
        file = folder / f"{name}.safetensors"
        if not file.exists():
            save_file(released(name), file)
        return file

    return path


def by_spandrel(name, pictures):
    """What spandrel makes of (n, 3, h, w), clamped to [0, 1]."""
    from dreamfactory.model_patches.upscaling.upscaler import torchvision_or_none

    try:
        with torchvision_or_none():
            from spandrel import ModelLoader
    except ImportError:
        pytest.skip("spandrel is not installed: pip install --no-deps spandrel")
    model: Any = ModelLoader().load_from_state_dict(released(name)).eval()
    with torch.no_grad():
        return torch.cat([model(picture) for picture in pictures.split(1)]).clamp(0, 1)


def by_ncnn(name, picture):
    """What ncnn makes of (3, h, w) in float32, clamped to [0, 1]."""
    ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed: pip install --no-deps ncnn")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert WEIGHTS is not None
    assert net.load_param(str(WEIGHTS / "models" / f"{name}.param")) == 0
    assert net.load_model(str(WEIGHTS / "models" / f"{name}.bin")) == 0
    extractor, values = net.create_extractor(), np.ascontiguousarray(picture.numpy())
    extractor.input("data", ncnn.Mat(values).clone())
    made = np.array(extractor.extract("output")[1])
    return torch.from_numpy(made).clamp(0, 1)


def corner(height=24, width=32):
    """Two frames of a bicycle against a wall."""
    return frames(clip("bikes"), 200, 2)[..., 120 : 120 + height, 300 : 300 + width].contiguous()


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


# -- the weights ----------------------------------------------------------------------------------------------------


@needs_weights
@pytest.mark.parametrize("name", COUNTS)
def test_every_byte_of_a_released_file_is_a_weight(name):
    weights = released(name)  # which fails where a byte is left
    assert sum(w.numel() for w in weights.values()) == COUNTS[name]
    assert all(torch.isfinite(w).all() for w in weights.values())


@needs_weights
def test_the_three_video_networks_are_one():
    first, *others = (released(name) for name in COMPACT)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


@needs_weights
@needs_footage
@pytest.mark.parametrize("name", RELEASED)
def test_pictures_are_those_of_the_program_the_weights_were_released_for(models, name):
    picture = corner()[0]
    made = Enlarger(load_upscaler(models(name)), "cpu")(picture[None])[0]
    assert (made - by_ncnn(name, picture)).abs().max() < 2e-5  # of 1: another order of adding


# -- through the doors ----------------------------------------------------------------------------------------------


@needs_weights
@needs_footage
@pytest.mark.parametrize("name", RELEASED)
def test_undivided_a_network_makes_spandrels_pictures_to_the_bit(models, name):
    small = corner()
    upscaler = load_upscaler(models(name))
    assert upscaler.scale == SCALE
    assert torch.equal(Enlarger(upscaler, "cpu")(small), by_spandrel(name, small))


@needs_weights
@needs_footage
def test_in_tiles_a_network_makes_nearly_the_same(models):
    small = frames(clip("bikes"), 200, 1)[..., 100:212, 280:440]
    whole = by_spandrel(VIDEO, small)
    made = Enlarger(load_upscaler(models(VIDEO)), "cpu", tile=96)(small)
    assert psnr(made, whole) > 60  # its 18 layers see 18 pixels around each; tiles share 16


@needs_weights
@needs_footage
@pytest.mark.parametrize("name", RELEASED)
def test_the_command_enlarges_a_picture_as_spandrel_does(models, tmp_path, name):
    small = corner()[:1]
    pixels = (small[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "in.png")
    given = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    assert main(["upscale", *given, "--model", str(models(name)), "--quiet"]) == 0
    made = torch.from_numpy(np.array(Image.open(given[1]))).permute(2, 0, 1)
    # As in a file, a pixel's colours lie side by side: the sums are then added in another order, by a bit at times.
    as_read = small.contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, (by_spandrel(name, as_read)[0] * 255).round().byte())


@needs_weights
@pytest.mark.parametrize("name", RELEASED)
def test_info_names_a_released_network(models, capsys, name):
    pytest.importorskip("spandrel", reason="spandrel is not installed: pip install --no-deps spandrel")
    assert main(["info", str(models(name))]) == 0
    said = capsys.readouterr().out
    assert f"{COUNTS[name]:,}    {KINDS[name]} x{SCALE}" in said


# -- a video --------------------------------------------------------------------------------------------------------


def piece(source, target, first, count, size):
    """So many frames of a video from the first-th on, smaller, by FFmpeg alone; with its sound of that time."""
    with av.open(str(source)) as file, av.open(str(target), "w") as out:
        picture, heard = file.streams.video[0], next(iter(file.streams.audio), None)
        stream = out.add_stream("libx264", rate=picture.average_rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size, "yuv420p", {"crf": "8"}
        stream.codec_context.time_base = picture.time_base
        # Players guess the colours of a clip by its size where it does not say them; this one shall say them.
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        copy = out.add_stream_from_template(heard) if heard else None
        taken = list(itertools.islice(file.decode(picture), first, first + count))
        for frame in taken:
            small = frame.reformat(*size, "yuv420p", interpolation="AREA", dst_colorspace=1)
            small.pts = frame.pts - taken[0].pts
            out.mux(stream.encode(small))
        out.mux(stream.encode())
        if heard:
            begin, end = (float(frame.pts * frame.time_base) for frame in (taken[0], taken[-1]))
            file.seek(0)
            for packet in file.demux(heard):
                if packet.size and begin <= packet.pts * packet.time_base < end:
                    shift = round(begin / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    packet.stream = copy
                    out.mux(packet)
    return target


def mean_colours(a, b):
    """How far the mean colours of two clips' frames lie apart, at most."""
    return (a.mean((2, 3)) - b.mean((2, 3))).abs().max()


def times(path):
    with av.open(str(path)) as file:
        return [frame.pts * frame.time_base for frame in file.decode(video=0)]


def sound(path):
    with av.open(str(path)) as file:
        return [(p.pts * p.time_base, bytes(p)) for p in file.demux(audio=0) if p.size] if file.streams.audio else []


# name, first frame, size: an animated film with sound; a camera's, over a cut; one of 30000/1001 frames a second.
PIECES = [("bigbuckbunny", 60, (160, 90)), ("bikes", 27, (160, 68)), ("carphone_pristine", 0, (176, 144))]


@needs_weights
@needs_footage
@pytest.mark.parametrize(("name", "first", "size"), PIECES)
def test_a_video_keeps_all_but_its_size(models, tmp_path, name, first, size):
    source, target = piece(clip(name), tmp_path / "in.mp4", first, 6, size), tmp_path / "out.mp4"
    assert main(["upscale", str(source), str(target), "--model", str(models(VIDEO)), "--quiet"]) == 0
    assert times(target) == times(source)
    assert len(times(target)) == 6
    assert sound(target) == sound(source)
    assert bool(sound(target)) == (name == "bigbuckbunny")
    with av.open(str(target)) as file, av.open(str(source)) as before:
        video, old = file.streams.video[0], before.streams.video[0]
        assert (video.width, video.height) == (SCALE * size[0], SCALE * size[1])
        assert video.average_rate == old.average_rate

    small, made = frames(source), frames(target)
    meant = by_spandrel(VIDEO, small)
    assert min(psnr(a, b) for a, b in zip(made, meant, strict=True)) > 36  # what H.264 takes: the same, in order
    assert mean_colours(made, meant) < 0.5 / 255
    # Made small again it is the clip that was given. This network brightens by 1 to 3 levels, of its own.
    again = torch.nn.functional.avg_pool2d(made, SCALE)
    assert mean_colours(again, small) < 4 / 255
    assert min(psnr(a, b) for a, b in zip(again, small, strict=True)) > 30


@needs_weights
@needs_footage
def test_on_animation_the_network_for_it_beats_bicubic_in_sharpness_not_in_psnr(models):
    """What GAN networks do, so that what was loaded is seen to be one: more detail, not closer to the truth."""
    truth = frames(clip("bigbuckbunny"), 60, 1)[..., 200:392, 300:556]
    small = torch.nn.functional.avg_pool2d(truth, SCALE)
    made = Enlarger(load_upscaler(models(X4PLUS)), "cpu")(small)
    plain = torch.nn.functional.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
    assert detail(plain) < 0.8 * detail(made)
    assert psnr(made, truth) > 20


def detail(picture):
    """The mean change from a pixel to its neighbour."""
    return picture.diff(dim=-1).abs().mean().item() + picture.diff(dim=-2).abs().mean().item()


# -- ours -----------------------------------------------------------------------------------------------------------


@needs_footage
@pytest.mark.parametrize("first", [11, 102, 210])
def test_the_upscaler_for_footage_is_above_bicubic_on_a_camera_it_has_not_seen(first):
    truth = frames(clip("bikes"), first, 2)[..., 40:232, 192:448]
    small = torch.nn.functional.interpolate(truth, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1)
    small = (small * 255).round() / 255
    plain = torch.nn.functional.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
    assert psnr(Enlarger(open_upscaler("footage"), "cpu")(small), truth) > psnr(plain, truth) + 0.5


def test_the_upscaler_for_footage_says_whose_it_is():
    file = ROOT / "pipelines/footage/upscaler.safetensors"
    assert file.stat().st_size < 2e6
    with safe_open(file, "pt") as opened:
        said = opened.metadata()["modelspec.description"]
    assert "Big Buck Bunny (c) copyright 2008, Blender Foundation" in said
    assert "CC BY 3.0" in said
