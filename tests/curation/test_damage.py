"""A file that is damaged or cut short says so in its source's row, and one that is whole says nothing."""

import pytest

pytest.importorskip("scenedetect", reason="cuts are proposed by it: pip install scenedetect-headless")
pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

import av
import numpy as np

from dreamfactory.curation.analysis import Analysis, Seconds
from dreamfactory.curation.config import CurationConfig, ScenesConfig

from ..footage import film

SUFFIXES = (".mkv", ".ts", ".avi", ".mp4")


def row(path):
    analysis = Analysis(path, CurationConfig(scenes=ScenesConfig(detector="content")), Seconds())
    for _ in analysis:
        pass
    return analysis.source


def saved(path, source, kind, late=0, **options):
    """The same packets in another file. late: units of the source's time."""
    with av.open(str(source)) as from_, av.open(str(path), "w", format=kind, options=options) as out:
        stream = out.add_stream_from_template(from_.streams.video[0])
        for packet in from_.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                out.mux(packet)
    return path


def gif(path, frames=30):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8"
        rng = np.random.default_rng(0)
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 96, 3), np.uint8), format="rgb24")
            out.mux(stream.encode(frame.reformat(format="rgb8")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Files that are whole, by name."""
    folder = tmp_path_factory.mktemp("whole")
    plain = film(folder / "plain.mp4", [1, 2, 3], frames=40, keys=30)
    return {
        **{suffix: film(folder / f"film{suffix}", [1, 2, 3], frames=40, keys=30) for suffix in SUFFIXES},
        ".gif": gif(folder / "moving.gif"),
        "index in front": saved(folder / "front.mp4", plain, "mp4", movflags="faststart"),
        "fragmented": saved(folder / "fragments.mp4", plain, "mp4", movflags="frag_keyframe+empty_moov"),
        "written live": saved(folder / "live.mkv", plain, "matroska", live="1"),
        "late mkv": saved(folder / "late.mkv", plain, "matroska", late=12288 * 7),
        "late ts": saved(folder / "late.ts", plain, "mpegts", late=12288 * 7),
    }


def harmed(path, source, harm):
    path = path / f"harmed{source.suffix}"
    path.write_bytes(harm(source.read_bytes()))
    return path


def cut(part):
    return lambda data: data[: int(part * len(data))]


def holed(data):
    """A tenth of it is noise."""
    start, length = int(0.55 * len(data)), len(data) // 10
    return data[:start] + np.random.default_rng(0).bytes(length) + data[start + length :]


NAMES = (*SUFFIXES, ".gif", "index in front", "fragmented", "written live", "late mkv", "late ts")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_whole_says_nothing(sound, name):
    source = row(sound[name])
    assert (source.problem, source.damaged) == ("", 0)
    assert source.frames == (30 if name == ".gif" else 120)


@pytest.mark.parametrize("part", [0.4, 0.6, 0.85])
@pytest.mark.parametrize("name", [".mkv", ".ts", ".avi", ".gif", "index in front", "fragmented", "late mkv"])
def test_a_file_that_is_cut_short_says_so_and_what_is_there_is_read(sound, tmp_path, name, part):
    source = row(harmed(tmp_path, sound[name], cut(part)))
    assert source.problem or source.damaged
    assert source.frames > 5


@pytest.mark.parametrize("name", [".mkv", ".ts", ".avi", ".gif", "index in front", "late mkv"])
def test_a_file_with_a_hole_says_so_and_is_read_on(sound, tmp_path, name):
    source = row(harmed(tmp_path, sound[name], holed))
    assert source.problem or source.damaged
    assert source.frames > (10 if name == ".gif" else 60)


def test_the_sentence_says_how_much_is_missing(sound, tmp_path):
    size = sound[".mkv"].stat().st_size
    path = harmed(tmp_path, sound[".mkv"], lambda data: data[:-1000])
    assert path.stat().st_size == size - 1000
    assert row(path).problem == f"{path} is cut short: 1,000 bytes at its end are missing; copy or save it again."


def test_what_lies_behind_the_end_of_a_file_does_not_matter(sound, tmp_path):
    for name in (".mkv", ".mp4", ".avi", ".gif"):
        source = row(harmed(tmp_path, sound[name], lambda data: data + bytes(1000)))
        assert (source.problem, source.damaged) == ("", 0), name
