"""HDR, interlaced and transparent videos: pictures of them are what the standards say, in training and in `upscale`
alike, and every frame keeps its number and time.

What is expected comes from the standards' published numbers, written down here a second time and the other way round
(a colour is made into HDR), from FFmpeg's own scaler, or from the picture that was put into a file.
"""

import csv
import io
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import av.codec.codec
import av.filter
import numpy as np
import pytest
import torch
from av.codec.context import Flags
from PIL import Image

from dreamfactory.errors import CannotShow
from dreamfactory.pipelines.media import hdr
from dreamfactory.pipelines.media.decode import Unreadable, probe, read_frames
from dreamfactory.pipelines.media.fields import Deinterlacer
from dreamfactory.pipelines.media.files import read_image
from dreamfactory.pipelines.media.frames import SCALER
from dreamfactory.pipelines.media.viewer import Viewer
from dreamfactory.training.data.cache import Cache, key_of
from dreamfactory.training.data.encode import RESIZE, Encodings

from ...training.data.test_records import reasons
from ...training.data.test_video_source import CLIP, FakeEncoders, everything, source
from ...videos import read_video
from ..test_upscale import copying, run, save_rcan
from .test_decode import record

PQ, HLG, SDR = 16, 18, 1  # transfers; all these numbers are ITU-T H.273's
BT709, UNSTATED, BT2020, ICTCP = 1, 2, 9, 14


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes 2 x 2 pixels of each."""
    path = tmp_path_factory.mktemp("model") / "x2.safetensors"
    save_rcan(copying(2), path, torch.float32)
    return path


def write(path, codec, frames, *, options=None, tags=None, flags=0, metadata=None):
    """Frames, 8 a second. tags: primaries, transfer, matrix, range."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg does not write {codec}")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.options, context = options or {}, stream.codec_context
        stream.metadata.update(metadata or {})
        context.flags |= flags
        if tags:
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
        for k, frame in enumerate(frames):
            frame.pts, frame.time_base = k, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def of_numbers(numbers, form="yuv420p10le", size: tuple[int, int] = (64, 48)):
    """A frame of one colour, as a file states it."""
    frame = av.VideoFrame(*size, form)
    for plane, number in zip(frame.planes, numbers, strict=True):
        plane.update(np.full(plane.buffer_size // 2, number, np.uint16).tobytes())
    return frame


def trained_on(path):
    """All frames as training reads them."""
    found = probe(record(path))
    return read_frames(record(path), found, range(len(found.times)))


def alike(frame, shown):
    """Within three levels; or a 500th of white, as ten bits of HDR are coarser than eight where it is dark."""
    levels = np.abs(colour(frame) - shown)
    light = np.abs((colour(frame) / 255) ** 2.4 - (np.array(shown) / 255) ** 2.4)
    return ((levels <= 3) | (light < 0.002)).all()


def colour(frames):
    return np.asarray(frames, float).reshape(-1, 3).mean(0)


# -- HDR: the standards' numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "nits"), [(58, 203), (50.8, 100), (75.2, 1000), (90.2, 4000), (100, 10_000)])
def test_pq_has_its_published_points(percent, nits):
    """BT.2408 table 1 (reference white), BT.2390 (4,000 nits); to the last digit that they print."""
    assert hdr.nits_to_pq(nits) == pytest.approx(percent / 100, abs=6e-4 if nits != 203 else 1e-3)
    assert hdr.pq_to_nits(hdr.nits_to_pq(nits)) == pytest.approx(nits)


def test_hlg_has_its_published_points():
    """BT.2100 table 5: the two halves meet at 1/12; BT.2408 table 1: grey of 18 % at 38 %, reference white at 75 %."""
    assert hdr.hlg_to_scene(np.array([0, 0.5, 1])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)
    for percent, nits in ((38, 26), (75, 203)):
        assert 1000 * hdr.hlg_to_scene(np.array(percent / 100)) ** 1.2 == pytest.approx(nits, abs=0.6)


def test_the_way_from_bt2020_is_the_one_of_bt2087():
    """Its printed matrix; and BT.2020's weights of luminance."""
    printed = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    assert np.linalg.solve(hdr.to_xyz(BT709), hdr.to_xyz(BT2020)) == pytest.approx(np.array(printed), abs=6e-5)
    assert hdr.to_xyz(BT2020)[1] == pytest.approx([0.2627, 0.6780, 0.0593], abs=6e-5)


def test_the_tone_map_is_smooth_leaves_the_dark_alone_and_ends_at_white():
    nits = np.geomspace(0.01, 1000, 5000)
    dimmed = hdr.dimmed(nits)
    assert dimmed[nits < 85] == pytest.approx(nits[nits < 85], rel=1e-9)
    assert dimmed[-1] == pytest.approx(203)
    assert hdr.dimmed(np.array([1001.0, 10_000])) == pytest.approx([203, 203])
    slope = np.gradient(dimmed, nits)
    assert (slope > -1e-9).all()
    assert np.abs(np.diff(slope)).max() < 0.02  # no corner at the knee


# -- HDR: colours that were made into it come back ---------------------------------------------------------------------


def pq(nits):
    """ST 2084, from its equation (5.2) in exact fractions."""
    y = (np.asarray(nits) / 10_000) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg(nits):
    """BT.2100 table 5, backwards: what a screen of 1,000 nits shows -> the scene's light -> its signal."""
    light = np.asarray(nits) / 1000
    luminance = light @ (0.2627, 0.6780, 0.0593)
    scene = light * luminance ** (1 / 1.2 - 1)
    upper = 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


# BT.2087: of linear light, BT.709 to BT.2020.
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def as_hdr(shown, transfer, primaries=BT2020, full=False):
    """An 8-bit colour of a BT.1886 screen with a white of 203 nits (BT.2408), as 10-bit Y'CbCr of BT.2100, table 9."""
    light = 203 * (np.asarray(shown) / 255) ** 2.4
    if primaries == BT2020:
        light = TO_BT2020 @ light
    r, g, b = (pq if transfer == PQ else hlg)(light)
    luma = 0.2627 * r + 0.6780 * g + 0.0593 * b
    chroma = (b - luma) / 1.8814, (r - luma) / 1.4746
    if full:
        return [round(1023 * luma), *(round(1023 * c + 512) for c in chroma)]
    return [round(876 * luma + 64), *(round(896 * c + 512) for c in chroma)]


HDR = {
    "HEVC in MP4": ("a.mp4", "libx265", {"x265-params": "log-level=none:lossless=1"}),
    "HEVC in Matroska": ("a.mkv", "libx265", {"x265-params": "log-level=none:lossless=1"}),
    "H.264 in a transport stream": ("a.ts", "libx264", {"qp": "0"}),
    "ProRes": ("a.mov", "prores_ks", {"qscale": "2"}),
}
# Below the knee of the tone map, which leaves them as they are: greys, skin, leaves, and BT.709's own red, green, blue.
COLOURS = [(20, 20, 20), (118, 118, 118), (175, 140, 120), (70, 110, 40), (175, 0, 0), (0, 175, 0), (0, 0, 175)]


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("name", HDR)
def test_colours_made_into_hdr_come_back(tmp_path, name, transfer):
    file, codec, options = HDR[name]
    form = "yuv422p10le" if codec == "prores_ks" else "yuv420p10le"
    frames = [of_numbers(as_hdr(shown, transfer), form) for shown in COLOURS]
    write(tmp_path / file, codec, frames, options=options, tags=(BT2020, transfer, BT2020, 1))
    read = trained_on(tmp_path / file)
    assert len(read) == len(COLOURS)
    for frame, shown in zip(read, COLOURS, strict=True):
        assert alike(frame, shown), shown


@pytest.mark.parametrize(("primaries", "full"), [(BT709, False), (BT2020, True)])
def test_primaries_and_range_are_those_that_are_stated(tmp_path, primaries, full):
    shown = (70, 110, 40)
    frames = [of_numbers(as_hdr(shown, PQ, primaries, full))] * 2
    write(tmp_path / "a.mkv", "libx264", frames, options={"qp": "0"}, tags=(primaries, PQ, BT2020, 1 + full))
    assert np.abs(colour(trained_on(tmp_path / "a.mkv")) - shown).max() <= 2


def test_hdr_as_rgb_is_read_too(tmp_path):
    shown = np.array((70, 110, 40))
    codes = np.round(1023 * pq(TO_BT2020 @ (203 * (shown / 255) ** 2.4))).astype(int)
    frames = [of_numbers(codes[[1, 2, 0]], "gbrp10le")] * 2
    write(tmp_path / "a.mkv", "ffv1", frames, tags=(BT2020, PQ, 0, 2))
    assert np.abs(colour(trained_on(tmp_path / "a.mkv")) - shown).max() <= 2


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, 0.5807), (HLG, 0.75)])
def test_reference_white_is_near_white_and_what_is_brighter_is_brighter_still(tmp_path, transfer, signal):
    """203 nits: 230 of 255 by BT.2390's curve; taken for ordinary video it was a grey of 150 or 191."""
    brighter = 0.7518 if transfer == PQ else 1.0  # 1,000 nits
    frames = [of_numbers((round(64 + 876 * code), 512, 512)) for code in (signal, brighter)]
    write(tmp_path / "a.mkv", "libx264", frames, options={"qp": "0"}, tags=(BT2020, transfer, BT2020, 1))
    white, brightest = trained_on(tmp_path / "a.mkv")
    assert colour(white) == pytest.approx([230] * 3, abs=2)
    assert colour(brightest) == pytest.approx([255] * 3, abs=1)


def test_ffmpegs_own_scaler_agrees_below_the_knee():
    frame = of_numbers(as_hdr((175, 140, 120), PQ))
    if not hasattr(frame, "color_trc"):
        pytest.skip("PyAV before 16 does not convert transfers")
    frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = BT2020, PQ, BT2020, 1
    try:
        theirs = frame.reformat(
            format="rgb24", interpolation=SCALER, dst_colorspace=BT709, dst_color_trc=BT709, dst_color_primaries=BT709
        )
    except TypeError:
        pytest.skip("PyAV before 17 does not convert primaries")
    signal = hdr.Signal(PQ, BT2020, BT2020, False, 10)
    stored = frame.reformat(format="yuv444p16le").to_ndarray()
    assert np.abs(colour(theirs.to_ndarray()) - colour(hdr.to_sdr(stored, signal))).max() <= 3


def test_what_only_the_container_states_counts(tmp_path):
    """HEVC's decoder forgets it."""
    shown = (118, 118, 118)
    frames = [of_numbers(as_hdr(shown, PQ))] * 3
    options = {"x265-params": "log-level=none:lossless=1"}
    write(tmp_path / "bare.mkv", "libx265", frames, options=options, tags=(UNSTATED, UNSTATED, UNSTATED, 1))
    with av.open(str(tmp_path / "bare.mkv")) as bare, av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream_from_template(bare.streams.video[0])
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = BT2020, PQ, BT2020
        for packet in bare.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    assert np.abs(colour(trained_on(tmp_path / "a.mkv")) - shown).max() <= 3
    assert colour(trained_on(tmp_path / "bare.mkv"))[0] < 110  # nobody says that this one is HDR


def test_upscale_makes_ordinary_video_of_hdr_and_says_so(capsys, model, tmp_path):
    shown = (175, 140, 120)
    frames = [of_numbers(as_hdr(shown, HLG)) for _ in range(3)]
    write(tmp_path / "in.mp4", "libx264", frames, options={"qp": "0"}, tags=(BT2020, HLG, BT2020, 1))
    code, _, err = run(capsys, tmp_path / "in.mp4", tmp_path / "out.mp4", "--model", model, "--quiet")
    assert (code, err) == (0, "note: in.mp4 is HDR; it becomes ordinary video, in BT.709.\n")
    assert np.abs(colour(trained_on(tmp_path / "out.mp4")) - shown).max() <= 4
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert file.streams.video[0].codec_context.color_trc == SDR
    assert np.abs(255 * colour(read_video(tmp_path / "in.mp4")[0].permute(0, 2, 3, 1)) - shown).max() <= 3


def test_hdr_that_cannot_be_read_is_named(capsys, model, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name, matrix in (("plain.mkv", BT2020), ("ictcp.mkv", ICTCP)):
        frames = [of_numbers((573, 512, 512)) for _ in range(8)]
        write(root / name, "libx264", frames, options={"qp": "0"}, tags=(BT2020, PQ, matrix, 1))
        (root / name).with_suffix(".txt").write_text("words", "utf-8")
    of = source(root)
    of.write_report(tmp_path / "out")
    why = reasons(of.left_out)
    assert list(why) == ["ictcp.mkv"]
    assert why["ictcp.mkv"].startswith("hdr: its colours are stored by matrix 14 of H.273")
    assert of.report()["left_out"] == {"hdr": 1}
    with (tmp_path / "out" / "left_out_mine.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == ["ictcp.mkv", why["ictcp.mkv"]]
    code, _, err = run(capsys, root / "ictcp.mkv", tmp_path / "out.mp4", "--model", model)
    assert code == 2
    assert "ictcp.mkv cannot be shown; hdr: its colours are stored by matrix 14" in err


def test_dolby_vision_without_a_base_picture_is_named(tmp_path):
    """No encoder at hand writes it: a plain frame that says what its decoder says of it."""

    class Dolby:
        side_data = (SimpleNamespace(type=SimpleNamespace(name="DOVI_METADATA")),)

        def __getattr__(self, name):
            return getattr(plain, name)

    dolby: Any = Dolby()
    for tags, is_named in (((UNSTATED, UNSTATED, UNSTATED, 2), True), ((BT2020, HLG, BT2020, 1), False)):
        path = write(tmp_path / "a.mkv", "libx264", [of_numbers((573, 512, 512))] * 2, tags=tags)
        with av.open(str(path)) as file:
            viewer = Viewer(file.streams.video[0])
            plain = next(frame for packet in file.demux(viewer.stream) for frame in viewer.decode(packet))
            assert viewer.ways(plain) == ("" if is_named else "hdr/1")
            if is_named:
                with pytest.raises(CannotShow, match="hdr: Dolby Vision without a base picture"):
                    viewer.ways(dolby)
            else:
                assert viewer.ways(dolby) == "hdr/1"


# -- interlaced --------------------------------------------------------------------------------------------------------

WIDE, HIGH, STEP = 160, 96, 8  # pixels, and how many a bar moves from frame to frame
BACK, BAR = 50, 200  # luma


def bar_at(x):
    """(HIGH, WIDE) of a bar on a ground that is brighter further down."""
    picture = np.repeat(BACK + np.arange(HIGH)[:, None] // 4, WIDE, 1).astype(np.uint8)
    picture[:, x : x + 40] = BAR
    return picture


def woven(k, top_first=True):
    """Two fields of frame k, seen half a step apart."""
    first, second = bar_at(10 + STEP * k), bar_at(10 + STEP * k + STEP // 2)
    frame = first.copy()
    frame[1 if top_first else 0 :: 2] = second[1 if top_first else 0 :: 2]
    return frame


def grey_frame(luma, form="yuv420p"):
    chroma = np.full(luma.size // 2, 128, np.uint8)
    stacked = np.concatenate([luma.ravel(), chroma]).reshape(-1, luma.shape[1])
    frame = av.VideoFrame.from_ndarray(stacked, format="yuv420p")
    return frame if form == "yuv420p" else frame.reformat(format=form)


def combing(frames):
    """How much a line differs from the mean of those above and below it."""
    luma = np.asarray(frames, float).mean(-1)
    return np.abs(2 * luma[:, 1:-1] - luma[:, :-2] - luma[:, 2:]).mean() / 2


INTERLACED = {  # and whether the top field is the first one
    "H.264 in MP4": ("a.mp4", "libx264", "yuv420p", {"qp": "4", "bf": "2", "g": "4"}, True),
    "H.264, bottom first": ("a.mkv", "libx264", "yuv420p", {"qp": "4", "bf": "2", "g": "4"}, False),
    "MPEG-2 in a transport stream": ("a.ts", "mpeg2video", "yuv420p", {"b": "20M", "bf": "2", "g": "4"}, True),
    "MPEG-2 in a programme stream": ("a.mpg", "mpeg2video", "yuv420p", {"b": "20M", "g": "4"}, False),
    "MPEG-4 in AVI": ("a.avi", "mpeg4", "yuv420p", {"b": "20M", "g": "4"}, True),
    "ProRes": ("a.mov", "prores_ks", "yuv422p10le", {"qscale": "2"}, True),
}


def as_fields(frames, top_first):
    """Frames that say they are interlaced."""
    graph = av.filter.Graph()
    start = graph.add_buffer(
        width=frames[0].width, height=frames[0].height, format=frames[0].format, time_base=Fraction(1, 8)
    )
    mode = "tff" if top_first else "bff"
    graph.link_nodes(start, graph.add("setfield", f"mode={mode}"), graph.add("buffersink")).configure()
    said = []
    for frame in frames:
        graph.vpush(frame)
        said.append(graph.vpull())
    return said


def interlaced(path, name, count=11):
    _, codec, form, options, top_first = INTERLACED[name]
    frames = as_fields([grey_frame(woven(k, top_first), form) for k in range(count)], top_first)
    return write(path, codec, frames, options=options, flags=Flags.interlaced_dct | Flags.interlaced_me)


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_video_has_no_combs_and_every_frame_its_number_and_time(tmp_path, name):
    path = interlaced(tmp_path / INTERLACED[name][0], name)
    found = probe(record(path))
    assert found.times == pytest.approx(np.arange(11) / 8, abs=2e-3)
    frames = read_frames(record(path), found, range(11))
    with av.open(str(path)) as file:
        stored = [frame for packet in file.demux(video=0) for frame in packet.decode()]
        assert len(stored) == 11
        assert all(frame.interlaced_frame for frame in stored)
        assert combing([frame.to_ndarray(format="rgb24") for frame in stored]) > 3
    assert combing(frames) < 0.7
    for k, frame in enumerate(frames):
        truth = (bar_at(10 + STEP * k) - 16.0) * 255 / 219
        assert np.abs(frame.mean(-1) - truth).mean() < 2, k


@pytest.mark.parametrize("name", INTERLACED)
def test_an_interlaced_frame_is_the_same_in_whichever_clip_it_is_read(tmp_path, name):
    path = interlaced(tmp_path / INTERLACED[name][0], name)
    found = probe(record(path))
    frames = read_frames(record(path), found, range(11))
    for picks in (*([k] for k in range(11)), [4, 8], [9, 3], [5, 5, 6]):
        assert (read_frames(record(path), found, picks) == frames[picks]).all(), picks


def test_upscale_makes_interlaced_video_whole_and_keeps_its_times(capsys, model, tmp_path):
    source = interlaced(tmp_path / "in.mp4", "H.264 in MP4")
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", model, "--quiet")
    assert (code, err) == (0, "note: in.mp4 is interlaced; the two fields of each frame become one picture.\n")
    with av.open(str(tmp_path / "out.mp4")) as file:
        frames = list(file.decode(video=0))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(k, 8) for k in range(11)]
    small = [frame.to_ndarray(format="rgb24")[::2, ::2] for frame in frames]
    assert combing(small) < 0.7
    assert combing(255 * read_video(source)[0].permute(0, 2, 3, 1).numpy()) < 0.7


def test_interlaced_video_is_turned_and_has_its_colours_as_any_other(tmp_path):
    """A recording on its side, in BT.709 of full range, which no small video is by default."""
    red = np.array((200, 80, 30))
    luma = float(red @ (0.2126, 0.7152, 0.0722))
    numbers = luma, 128 + (red[2] - luma) / 1.8556, 128 + (red[0] - luma) / 1.5748
    frames = []
    for _ in range(4):
        frame = av.VideoFrame(160, 96, "yuv420p")
        for plane, number in zip(frame.planes, numbers, strict=True):
            plane.update(bytes([round(number)]) * plane.buffer_size)
        frames.append(frame)
    frames, flags = as_fields(frames, True), Flags.interlaced_dct | Flags.interlaced_me
    path = write(tmp_path / "a.mp4", "libx264", frames, options={"qp": "1"}, tags=(1, 1, 1, 2), flags=flags)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    numbers = [n.to_bytes(4, "big", signed=True) for n in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)]
    data[place : place + 36] = b"".join(numbers)  # a quarter to the right
    path.write_bytes(data)
    assert probe(record(path)).ways == "fields/1"
    read = trained_on(path)
    assert read.shape == (4, 160, 96, 3)
    assert np.abs(colour(read) - red).max() <= 2


def test_hdr_may_be_interlaced_too(tmp_path):
    """As 1080i in HLG is broadcast."""
    frames = [of_numbers(as_hdr((118, 118, 118), HLG)) for _ in range(6)]
    tags = BT2020, HLG, BT2020, 1
    write(tmp_path / "a.ts", "libx264", frames, options={"qp": "0", "x264-params": "tff=1"}, tags=tags)
    assert probe(record(tmp_path / "a.ts")).ways == "hdr/1+fields/1"
    assert np.abs(colour(trained_on(tmp_path / "a.ts")) - 118).max() <= 3


def decoded(path):
    with av.open(str(path)) as file:
        return [frame for packet in file.demux(video=0) for frame in packet.decode()]


def test_frames_that_are_not_interlaced_pass_as_they_are_and_at_once(tmp_path):
    plain = decoded(write(tmp_path / "a.mp4", "libx264", [grey_frame(bar_at(10 + 8 * k)) for k in range(6)]))
    deinterlacer = Deinterlacer()
    for frame in plain:
        (out,) = deinterlacer.take(frame)
        assert out is frame
    assert deinterlacer.rest() == []
    assert deinterlacer.filter is None


def test_a_video_that_is_interlaced_in_part_keeps_every_frame(tmp_path):
    plain = decoded(write(tmp_path / "a.mkv", "libx264", [grey_frame(bar_at(10 + 8 * k)) for k in range(8)]))
    both = decoded(interlaced(tmp_path / "b.mkv", "H.264 in MP4"))
    large = decoded(write(tmp_path / "c.mkv", "libx264", [grey_frame(np.full((64, 64), 90, np.uint8))] * 2))
    mixed = [*plain[:3], *both[3:6], *plain[6:], *large]
    for k, frame in enumerate(mixed):
        frame.pts = 100 * k + 7
    before = [frame.to_ndarray() for frame in mixed]
    deinterlacer = Deinterlacer()
    out = [done for frame in mixed for done in deinterlacer.take(frame)] + deinterlacer.rest()
    assert [frame.pts for frame in out] == [frame.pts for frame in mixed]
    assert {frame.time_base for frame in out} == {mixed[0].time_base}
    for k, (one, two) in enumerate(zip(before, out, strict=True)):
        assert (one == two.to_ndarray()).all() == (k not in (3, 4, 5)), k
    assert combing([frame.to_ndarray(format="rgb24") for frame in out[3:6]]) < 0.7


# -- transparent -------------------------------------------------------------------------------------------------------


def see_through():
    """(48, 64, 4): red, half of it, and green that nobody sees, a third of the picture each."""
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[:, :22], picture[:, 22:43], picture[:, 43:] = (255, 0, 0, 255), (255, 0, 0, 128), (0, 255, 0, 0)
    return picture


ON_WHITE = [(255, 0, 0), (255, 127, 127), (255, 255, 255)]
TRANSPARENT = {
    "VP9 in WebM": ("a.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "2M"}),
    "VP8 in WebM": ("a.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "2M"}),
    "VP9 in Matroska": ("a.mkv", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "2M"}),
    "ProRes 4444": ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16"}),
    "PNG in MOV": ("a.mov", "png", "rgba", {}),
    "Animation in MOV": ("a.mov", "qtrle", "argb", {}),
    "FFV1": ("a.mkv", "ffv1", "yuva420p", {}),
}


def transparent(path, name):
    _, codec, form, options = TRANSPARENT[name]
    frames = [av.VideoFrame.from_ndarray(see_through(), format="rgba").reformat(format=form) for _ in range(5)]
    alpha = {"alpha_mode": "1"} if path.suffix in (".webm", ".mkv") else {}  # as the ffmpeg command writes it
    return write(path, codec, frames, options=options, metadata=alpha)


def lies_on_white(picture, tolerance=6):
    return all(
        np.abs(colour(picture[8:40, left + 6 : left + 16]) - meant).max() <= tolerance
        for left, meant in zip((0, 21, 42), ON_WHITE, strict=True)
    )


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_can_be_seen_through_lies_on_white(capsys, model, tmp_path, name):
    path = transparent(tmp_path / TRANSPARENT[name][0], name)
    found = probe(record(path))
    assert found.times == pytest.approx(np.arange(5) / 8, abs=2e-3)
    assert all(lies_on_white(frame) for frame in read_frames(record(path), found, range(5)))
    assert lies_on_white(read_frames(record(path), found, [3])[0])
    assert all(lies_on_white(255 * frame.permute(1, 2, 0)) for frame in read_video(path)[0])
    code, _, err = run(capsys, path, tmp_path / "out.mp4", "--model", model, "--quiet")
    assert (code, err) == (0, "")
    frames = trained_on(tmp_path / "out.mp4")
    assert len(frames) == 5
    assert all(lies_on_white(frame[::2, ::2], 12) for frame in frames)


def paletted():
    """A PNG of red, and of green that nobody sees, by its palette."""
    image = Image.fromarray((np.arange(64) >= 32).astype(np.uint8)[None].repeat(48, 0), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    data = io.BytesIO()
    image.save(data, "PNG", transparency=1)
    return data.getvalue()


def test_a_palette_may_be_seen_through(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for k in range(3):
            packet = av.Packet(paletted())
            packet.pts = packet.dts = k
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 8), stream, True
            out.mux(packet)
    (tmp_path / "a.png").write_bytes(paletted())
    picture = record(tmp_path / "a.png", "image")
    video, still = trained_on(tmp_path / "a.mov")[1], read_frames(picture, probe(picture), [0])[0]
    assert (video == still).all()
    assert video[5, 5].tolist() == [255, 0, 0]
    assert video[5, 50].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_a_transparent_picture_lies_on_white_at_every_door(capsys, model, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(see_through()).save(path, **options)
    picture = record(path, "image")
    assert lies_on_white(read_frames(picture, probe(picture), [0])[0], 1)
    assert lies_on_white(255 * read_image(path, 48, 64)[0].permute(1, 2, 0), 1)  # generate --image
    if kind != "tiff":
        assert run(capsys, path, tmp_path / "out.png", "--model", model)[0] == 0
        with Image.open(tmp_path / "out.png") as large:
            assert lies_on_white(np.asarray(large)[::2, ::2], 1)


# -- where FFmpeg lacks what it takes ----------------------------------------------------------------------------------


def test_where_no_filter_makes_whole_frames_it_is_said(capsys, model, tmp_path, monkeypatch):
    path = interlaced(tmp_path / "a.mp4", "H.264 in MP4")
    found = probe(record(path))
    monkeypatch.setattr("av.filter.filters_available", {"null"})
    with pytest.raises(Unreadable, match=r"^interlaced: this FFmpeg has no filter bwdif"):
        read_frames(record(path), found, [3])
    with pytest.raises(Unreadable, match=r"^interlaced: "):
        probe(record(path))
    code, _, err = run(capsys, path, tmp_path / "out.mp4", "--model", model)
    assert code == 2
    assert "a.mp4 cannot be shown; interlaced: this FFmpeg has no filter bwdif" in err


def test_where_no_decoder_reads_transparency_it_is_said(tmp_path, monkeypatch):
    path = transparent(tmp_path / "a.webm", "VP9 in WebM")
    monkeypatch.setattr("dreamfactory.pipelines.media.viewer.WITH_ALPHA", {"vp9": "no-such-decoder"})
    with pytest.raises(Unreadable, match=r"^transparent: this FFmpeg has no no-such-decoder"):
        probe(record(path))
    with av.open(str(path)) as file, pytest.raises(CannotShow):
        Viewer(file.streams.video[0])


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_cached_values_are_keyed_by_what_is_done_to_frames(tmp_path):
    """Those of ordinary videos keep the keys they had; of the others nothing older counts."""
    root = tmp_path / "data"
    root.mkdir()
    frames = [of_numbers((300 + 20 * k, 512, 512), size=(40, 32)) for k in range(6)]
    write(root / "hdr.mkv", "libx264", frames, options={"qp": "0"}, tags=(BT2020, PQ, BT2020, 1))
    write(root / "plain.mkv", "libx264", frames, options={"qp": "0"}, tags=(BT709, SDR, BT709, 1))
    both = [grey_frame(np.full((32, 40), 90, np.uint8)) for _ in range(6)]
    write(root / "fields.mkv", "libx264", both, options={"x264-params": "tff=1"})
    for path in list(root.iterdir()):
        path.with_suffix(".txt").write_text(path.name, "utf-8")
    cache = Cache(tmp_path / "cache")
    encoders = FakeEncoders()
    of = source(root, cache=cache, encoders=encoders)
    everything(of)
    ways = {"hdr.mkv": "+hdr/1", "fields.mkv": "+fields/1", "plain.mkv": ""}
    encodings = Encodings(cache, encoders.fingerprints, 8, False)
    for item in of.train[CLIP]:
        size = RESIZE + ways[item.file.record.name], 32, 32
        assert encodings.keys(item)["latents"] == key_of("latents", item.file.content, item.picks, *size, "c1")
        again = Cache(tmp_path / "cache").index.find(item.file.record)
        assert again is not None
        assert again[1].ways == item.file.probe.ways == ways[item.file.record.name][1:]
    assert RESIZE == "cover-bicubic/1"


def test_a_survey_counts_what_is_not_seen_as_stored(tmp_path):
    from dreamfactory.training.data.statistics import statistics

    from ...training.data.test_video_source import source

    frames = [of_numbers(as_hdr((128, 128, 128), HLG)) for _ in range(6)]
    for name in ("one", "two"):
        write(tmp_path / f"{name}.mp4", "libx264", frames, options={"qp": "0"}, tags=(BT2020, HLG, BT2020, 1))
        (tmp_path / f"{name}.txt").write_text("grey")
    assert statistics(source(tmp_path))["videos"]["changed"] == {"HDR, tone-mapped": 2}
