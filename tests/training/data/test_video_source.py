"""A folder of real small files as a source: which clips, which bits, what replaces the unreadable, what is cached.

Every clip has a grey of its own, so a batch says by itself which clips are in it.
"""

import csv
import json
import shutil
import tarfile
from typing import Any

import pytest
import torch
from PIL import Image

from dreamfactory.errors import TrainingError
from dreamfactory.metrics.flow import clip_flow, to_latent_units
from dreamfactory.pipelines.media.files import write_video
from dreamfactory.pipelines.media.sheets import to_uint8
from dreamfactory.training.batch import Bucket
from dreamfactory.training.config import DataConfig, SourceConfig
from dreamfactory.training.data.cache import Cache
from dreamfactory.training.data.precompute import encode_all
from dreamfactory.training.data.report import dataset_rms
from dreamfactory.training.data.video_source import VideoSource

from ...there import there

CLIP = Bucket(4, 32, 32)
DATA = {"frames": 4, "height": 32, "width": 32, "validation": 0, "workers": 2}


def level(i):
    return 30 + 12 * i


def clip(i, frames=6, height=32, width=40):
    """Grey i, with a square that moves right by two pixels a frame."""
    frames = torch.full((frames, 3, height, width), level(i) / 255)
    for k in range(len(frames)):
        frames[k, :, 8:20, 6 + 2 * k : 18 + 2 * k] += 0.2 * torch.rand(3, 12, 12, generator=seeded(i))
    return frames


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def which(frames):
    """The clips' numbers by a corner that nothing moves through."""
    return ((frames[:, :, :, :4, :4].mean((1, 2, 3, 4)) * 255 - 30) / 12).round().int().tolist()


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten clips of six frames, 8 a second."""
    root = tmp_path_factory.mktemp("ten")
    for i in range(10):
        write_video(root / f"{i}.mp4", clip(i), fps=8)
        (root / f"{i}.txt").write_text(f"grey {i}")
        (root / f"{i}.motion.txt").write_text(f"moves {i}")
    return root


@pytest.fixture
def folder(ten, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(ten, tmp_path / "data")


def source(path, *, cache=None, encoders=None, validation=0, with_flow=False, rate=None, seed=0, given=None, **data):
    return VideoSource(
        "mine",
        SourceConfig(path=str(path), **(given or {})),
        DataConfig(**{**DATA, **data}),
        seed=seed,
        validation=validation,
        with_flow=with_flow,
        downscale=8,
        cache=cache,
        encoders=encoders,
        rate=rate,
    )


def everything(of, bucket=CLIP, drop=False) -> Any:
    """One batch of all clips, whatever it holds of a batch's parts."""
    count = of.counts[bucket]
    return of.batch(bucket, range(count), [drop] * count, [drop] * count)


def same(one, two):
    for name, value in vars(one).items():
        other = getattr(two, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name
        else:
            assert value == other, name


class FakeEncoders:
    """Any functions of their inputs; counts what it is asked, and may die after so many."""

    def __init__(self, dies_after=None, **fingerprints):
        self.fingerprints = {"codec": "c1", "text": "t1", "motion": "m1", "image": "i1", **fingerprints}
        self.asked, self.dies_after = [], dies_after

    def _note(self, what):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(what)

    def latents(self, frames):
        self._note("latents")
        assert frames.shape[1:] == (3, 32, 32)
        return torch.nn.functional.avg_pool2d(frames, 8) * 3 - 1

    def image(self, frame):
        self._note("image")
        return frame.mean((1, 2))

    def text(self, caption):
        self._note(f"text {caption}")
        return torch.tensor([[len(caption), sum(caption.encode())], [1, 2]]).float()

    def motion(self, caption):
        self._note(f"motion {caption}")
        return torch.tensor([[-len(caption), sum(caption.encode()) % 97]]).half()


# -- raw batches ---------------------------------------------------------------------------------------------------


def test_every_clip_comes_once_with_its_captions(ten):
    of = source(ten)
    assert of.counts == {CLIP: 10}
    batch = everything(of)
    assert (batch.frames.shape, batch.frames.dtype) == ((10, 4, 3, 32, 32), torch.float32)
    assert sorted(which(batch.frames)) == list(range(10))
    assert batch.text == [f"grey {i}" for i in which(batch.frames)]
    assert batch.motion == [f"moves {i}" for i in which(batch.frames)]
    assert batch.latents is batch.image is batch.flow is batch.frame_rate is None
    assert of.left_out == []


def test_the_same_call_gives_the_same_bits(ten):
    one, two, other = source(ten, with_flow=True), source(ten, with_flow=True), source(ten, seed=1)
    same(everything(one), everything(one))
    same(everything(one), everything(two))
    assert which(everything(other).frames) != which(everything(one).frames)
    part = one.batch(CLIP, [7, 2], [False] * 2, [False] * 2)
    assert torch.equal(part.pixels, everything(one).frames[[7, 2]])


def test_captions_are_dropped_each_by_itself(ten):
    of = source(ten)
    batch = of.batch(CLIP, [0, 1, 2], [True, False, False], [False, True, False])
    i, j, k = which(batch.frames)
    assert batch.text == ["", f"grey {j}", f"grey {k}"]
    assert batch.motion == [f"moves {i}", "", f"moves {k}"]


def test_flow_is_that_of_the_frames_in_latent_pixels(ten):
    batch = everything(source(ten, with_flow=True))
    assert batch.flow.shape == (10, 3, 2, 4, 4)
    assert batch.flow_weight.shape == (10, 3, 4, 4)
    assert batch.flow.dtype == batch.flow_weight.dtype == torch.float32
    pixels = (batch.frames[3] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    flow, weight = to_latent_units(*clip_flow(pixels), 8)
    assert torch.allclose(batch.flow[3], flow, atol=1e-3)
    assert torch.allclose(batch.flow_weight[3], weight, atol=1e-3)
    # The square moves right by 2 pixels, a quarter of a latent pixel.
    assert batch.flow[:, :, 0].amax((1, 2, 3)).median() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("rate", "data", "expected"),
    [
        (None, {}, None),
        ("fps", {"frames": 2, "fps": 4.0}, 4),
        ("fps", {"frames": 2, "stride": 2}, 4),
        ("stride", {"frames": 2, "stride": 3}, 3),
        ("stride", {"frames": 2, "fps": 4.0}, 2),
    ],
)
def test_the_frame_rate_is_what_the_network_reads(ten, rate, data, expected):
    of = source(ten, rate=rate, **data)
    rates = everything(of, Bucket(data.get("frames", 4), 32, 32)).frame_rate
    assert (rates is None) == (expected is None)
    assert expected is None or rates.tolist() == pytest.approx([expected] * 10)


def test_windows_are_clips_of_their_own(ten):
    of = source(ten, windows=3)
    assert of.counts == {CLIP: 30}
    assert sorted(which(everything(of).frames)) == sorted(list(range(10)) * 3)
    assert source(ten, windows=9).counts == {CLIP: 30}  # six frames have no more than three stretches of four


def test_images_and_clips_of_several_shapes_have_buckets_of_their_own(folder):
    Image.fromarray(to_uint8(clip(0)[0])).save(folder / "still.png")
    (folder / "still.txt").write_text("a still")
    write_video(folder / "wide.mp4", clip(1, width=80))
    (folder / "wide.json").write_text('{"text": "wide"}')
    write_video(folder / "short.mp4", clip(2, frames=3))
    (folder / "short.txt").write_text("short")
    write_video(folder / "shorter.mp4", clip(2, frames=2))
    (folder / "shorter.txt").write_text("too short")
    of = source(folder, aspect="buckets", frame_buckets=(3,), with_flow=True)
    assert sum(there(n) for n in of.counts.values()) == 13
    assert {str(b)[0] for b in of.counts} == {"1", "3", "4"}
    (wide,) = [b for b in of.counts if b.width >= 1.8 * b.height]
    batch = of.batch(wide, [0], [False], [False])
    assert (batch.text, batch.pixels.shape) == (["wide"], (1, 4, 3, wide.height, wide.width))
    (still,) = [b for b in of.counts if b.frames == 1]
    batch = of.batch(still, [0], [False], [False])
    assert (batch.text, batch.motion, batch.flow) == (["a still"], ["a still"], None)
    assert [(left.file, left.reason) for left in of.left_out] == [
        ("shorter.mp4", "too short: 2 frames at stride 1 are 2; the shortest bucket has 3")
    ]


def test_filters_leave_out_what_is_too_small_or_narrow(folder):
    write_video(folder / "big.mp4", clip(1, height=64, width=128))
    (folder / "big.txt").write_text("big")
    of = source(folder, given={"min_height": 48})
    assert of.counts == {CLIP: 1}
    assert of.left_out[0].reason == "too small: 32 pixels high, min_height is 48"
    of = source(folder, given={"min_aspect": 1.5})
    assert of.left_out[0].reason == "too narrow: 40x32 is 1.25 wide, min_aspect is 1.50"
    with pytest.raises(TrainingError, match=r"11 were left out, most of them as .*too small"):
        source(folder, given={"min_height": 720})


def test_shards_give_the_same_clips_as_the_folder(ten, tmp_path):
    for shard, numbers in enumerate(("0123", "456789")):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for path in sorted(p for p in ten.iterdir() if p.name[0] in numbers):
                tar.add(path, path.name)
    one, two = everything(source(ten)), everything(source(tmp_path))
    order = [one.text.index(text) for text in two.text]
    assert torch.equal(one.frames[order], two.frames)


# -- validation ----------------------------------------------------------------------------------------------------


def test_validation_clips_are_never_trained_on_and_stay_the_same(folder):
    of = source(folder, validation=3, windows=2)
    kept = [e.text for e in of.examples(99)]
    assert len(kept) == 3
    assert of.counts == {CLIP: 14}
    assert not set(kept) & set(everything(of).text)
    assert [e.text for e in source(folder, validation=3, seed=5).examples(2)] == kept[:2]
    for example in of.examples(99):
        batch = of.example_batch(example.bucket, [example.index])
        assert batch.text == [example.text] == [f"grey {which(batch.frames)[0]}"]
        assert batch.motion == [example.motion]
    together = of.example_batch(CLIP, [0, 2])
    assert together.pixels.shape[0] == 2
    # More data: most of the choice stays.
    for i in range(5):
        shutil.copy(folder / "0.mp4", folder / f"new{i}.mp4")
        (folder / f"new{i}.txt").write_text("new")
    assert len(set(kept) & {e.text for e in source(folder, validation=3).examples(99)}) >= 1
    assert len(source(folder, validation=99).validation) == 7  # at most half


# -- the unreadable ------------------------------------------------------------------------------------------------


def test_one_unreadable_file_among_ten_is_left_out(folder):
    (folder / "3.mp4").write_bytes(b"")
    of = source(folder)
    assert of.counts == {CLIP: 9}
    assert [(left.file, left.reason.partition(":")[0]) for left in of.left_out] == [("3.mp4", "unreadable")]


def test_a_file_that_becomes_unreadable_is_replaced_the_same_way_every_time(folder):
    of = source(folder, validation=1)
    before = everything(of)
    lost = [2, 3]
    for index in lost:
        (folder / f"{which(before.frames)[index]}.mp4").write_bytes(b"gone")
    after = everything(of)
    expected = before.frames.clone()
    expected[lost] = before.frames[4]  # the next that can be read
    assert torch.equal(after.frames, expected)
    assert after.text[2] == after.text[3] == before.text[4]
    same(after, everything(of))
    assert sorted(left.file for left in of.left_out) == sorted(f"{which(before.frames)[i]}.mp4" for i in lost)
    for i in range(10):
        (folder / f"{i}.mp4").unlink()
    with pytest.raises(TrainingError, match=r"none of the 9 clips of size 4x32x32 can be read; .*mp4 is unreadable"):
        everything(of)
    with pytest.raises(TrainingError, match="none of the 1 clips"):
        of.example_batch(CLIP, [0])


# -- encoded -------------------------------------------------------------------------------------------------------


def test_cached_batches_are_what_the_encoders_make_of_the_raw_ones(ten, tmp_path):
    raw: Any = source(ten, with_flow=True, rate="fps", validation=2)
    of: Any = source(ten, with_flow=True, rate="fps", validation=2, cache=Cache(tmp_path))
    of.encoders = FakeEncoders()
    encode_all(of, of.encoders)
    assert of.encoders is None
    count, encoders = of.counts[CLIP], FakeEncoders()
    drop_text, drop_motion = [i % 3 == 0 for i in range(count)], [i % 4 == 0 for i in range(count)]
    for batch, plain in (
        (of.batch(CLIP, range(count), drop_text, drop_motion), raw.batch(CLIP, range(count), drop_text, drop_motion)),
        (of.example_batch(CLIP, [0, 1]), raw.example_batch(CLIP, [0, 1])),
    ):
        assert batch.frames is None
        assert torch.equal(batch.latents, torch.stack([encoders.latents(f) for f in plain.frames]))
        assert torch.equal(batch.image, torch.stack([encoders.image(f[0]) for f in plain.frames]))
        assert torch.equal(batch.text, torch.stack([encoders.text(c) for c in plain.text]))
        assert torch.equal(batch.motion, torch.stack([encoders.motion(c) for c in plain.motion]))
        assert torch.equal(batch.flow, plain.flow)
        assert torch.equal(batch.flow_weight, plain.flow_weight)
        assert torch.equal(batch.frame_rate, plain.frame_rate)
        assert len(batch) == len(plain)
    assert [e.text for e in of.examples(2)] == [e.text for e in raw.examples(2)]


def test_with_encoders_batches_fill_the_cache_as_they_go(ten, tmp_path):
    encoders = FakeEncoders()
    of = source(ten, cache=Cache(tmp_path), encoders=encoders)
    first = of.batch(CLIP, [0, 1], [False] * 2, [True] * 2)
    assert sorted(a.split()[0] for a in encoders.asked) == ["image"] * 2 + ["latents"] * 2 + ["motion"] + ["text"] * 2
    asked = len(encoders.asked)
    same(first, of.batch(CLIP, [0, 1], [False] * 2, [True] * 2))
    assert len(encoders.asked) == asked


def test_encoding_that_is_killed_goes_on_where_it_was(ten, tmp_path):
    of = source(ten, cache=Cache(tmp_path), with_flow=True, validation=2)
    killed, rest, idle = FakeEncoders(dies_after=17), FakeEncoders(), FakeEncoders()
    with pytest.raises(KeyboardInterrupt):
        encode_all(of, killed)
    encode_all(of, rest)
    assert len(killed.asked) == 17
    assert sorted(killed.asked + rest.asked) == sorted(
        ["latents", "image"] * 10
        + [f"text grey {i}" for i in range(10)]
        + [f"motion moves {i}" for i in range(10)]
        + ["text ", "motion "]
    )
    encode_all(source(ten, cache=Cache(tmp_path), with_flow=True, validation=2), idle)
    assert idle.asked == []


def test_processes_share_the_work(ten, tmp_path):
    asked = []
    for rank in range(3):
        encoders = FakeEncoders()
        encode_all(source(ten, cache=Cache(tmp_path), validation=2), encoders, rank, 3)
        asked.append(encoders.asked.count("latents"))
    assert sorted(asked) == [3, 3, 4]
    idle = FakeEncoders()
    encode_all(source(ten, cache=Cache(tmp_path), validation=2), idle)
    assert idle.asked == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"motion": "m2"}, {"motion"}),
        ({"text": "t2"}, {"text"}),
        ({"codec": "c2"}, {"latents"}),
        ({"image": "i2"}, {"image"}),
        ({"image": None}, set()),
    ],
)
def test_another_encoder_encodes_its_own_part_anew(ten, tmp_path, change, again):
    encode_all(source(ten, cache=Cache(tmp_path)), FakeEncoders())
    encoders = FakeEncoders(**change)
    of = source(ten, cache=Cache(tmp_path))
    encode_all(of, encoders)
    assert {a.split()[0] for a in encoders.asked} == again
    assert len(encoders.asked) == (11 if again & {"text", "motion"} else 10 if again else 0)
    assert (everything(of).image is None) == ("image" in change and change["image"] is None)


def test_what_a_network_does_not_read_is_none(ten, tmp_path):
    of = source(ten, cache=Cache(tmp_path))
    encode_all(of, FakeEncoders(motion=None, image=None))
    batch = everything(of)
    assert batch.motion is batch.image is None
    assert batch.text.shape == (10, 2, 2)


def test_a_renamed_file_is_not_encoded_again_and_a_changed_one_is(folder, tmp_path):
    encode_all(source(folder, cache=Cache(tmp_path / "c")), FakeEncoders())
    for end in ("mp4", "txt", "motion.txt"):
        (folder / f"4.{end}").rename(folder / f"renamed.{end}")
    encoders = FakeEncoders()
    encode_all(source(folder, cache=Cache(tmp_path / "c")), encoders)
    assert encoders.asked == []
    write_video(folder / "5.mp4", clip(11))
    encode_all(source(folder, cache=Cache(tmp_path / "c")), encoders)
    assert sorted(encoders.asked) == ["image", "latents"]


def test_a_damaged_value_is_encoded_again_or_its_clip_replaced(ten, tmp_path):
    of: Any = source(ten, cache=Cache(tmp_path))
    encode_all(of, FakeEncoders())
    before = everything(of)
    item = of.train[CLIP][5]
    path = of.cache.path("latents", of.encodings.keys(item)["latents"])
    path.write_bytes(path.read_bytes()[:-9])
    after = everything(of)
    assert torch.equal(after.latents[5], before.latents[6])
    assert torch.equal(after.text[5], before.text[6])
    assert [left.file for left in of.left_out] == [item.file.record.name]
    encoders = FakeEncoders()
    again = source(ten, cache=Cache(tmp_path))
    encode_all(again, encoders)
    assert encoders.asked == ["latents"]
    same(everything(again), before)


def test_a_lost_empty_caption_is_one_sentence(ten, tmp_path):
    of: Any = source(ten, cache=Cache(tmp_path))
    encode_all(of, FakeEncoders())
    of.cache.path("text", of.encodings.caption_key("text", "")).unlink()
    with pytest.raises(TrainingError, match="lost the text tokens of the empty caption"):
        of.batch(CLIP, [0], [True], [False])
    assert of.left_out == []


def test_what_cannot_be_decoded_is_left_out_of_the_cache(folder, tmp_path):
    of = source(folder, cache=Cache(tmp_path / "c"))
    (folder / "7.mp4").write_bytes(b"gone since")
    encode_all(of, FakeEncoders())
    assert [left.file for left in of.left_out] == ["7.mp4"]
    assert len(everything(of)) == 10
    assert [left.file for left in of.left_out] == ["7.mp4"]


def test_a_disk_that_will_be_full_is_told_after_the_first_clips(ten, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    encoders = FakeEncoders()
    with pytest.raises(TrainingError, match="the cache of 10 clips needs about"):
        encode_all(source(ten, cache=Cache(tmp_path)), encoders)
    assert encoders.asked.count("latents") == 4
    with pytest.raises(TrainingError, match="has no cache to encode into"):
        encode_all(source(ten), encoders)


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_counts_what_is_there_and_what_is_not(folder, tmp_path):
    (folder / "1.txt").unlink()
    (folder / "2.mp4").write_text("no video")
    write_video(folder / "3.mp4", clip(3, frames=2))
    Image.fromarray(to_uint8(clip(0)[0])).save(folder / "still.png")
    (folder / "still.txt").write_text("a still, é")
    of = source(folder, validation=2)
    of.write_report(tmp_path / "out", flow_rms=0.5)
    report = json.loads((tmp_path / "out" / "data_mine.json").read_text("utf-8"))
    assert report == {**of.report(), "flow_rms": 0.5}
    assert report["clips"] == {"4x32x32": 5}
    assert report["images"] == {"1x32x32": 1}
    assert len(report["validation"]) == 2
    assert report["left_out"] == {"no caption": 1, "unreadable": 1, "too short": 1}
    with (tmp_path / "out" / "left_out_mine.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {"1.mp4", "2.mp4", "3.mp4"}
    assert all(row["reason"] for row in rows)


def test_the_flow_s_typical_size_is_measured(ten, tmp_path):
    of = source(ten, with_flow=True)
    batch = everything(of)
    squares = batch.flow.square().mean(2) * batch.flow_weight
    expected = (squares.sum() / batch.flow_weight.sum()).sqrt().item()
    assert dataset_rms(of) == pytest.approx(expected, rel=1e-3)
    cached = source(ten, with_flow=True, cache=Cache(tmp_path))
    encode_all(cached, FakeEncoders())
    assert dataset_rms(cached) == pytest.approx(expected, rel=1e-3)
    assert 0 < dataset_rms(of, clips=3) < 1
