"""The cache: what was stored is there, whole, or not there; the index knows files as they are now."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreamfactory.errors import TrainingError
from dreamfactory.pipelines.media.decode import Probe
from dreamfactory.training.data import probing
from dreamfactory.training.data.cache import Cache, key_of
from dreamfactory.training.data.probing import content_of, probe_all
from dreamfactory.training.data.records import LeftOut, Record

from ...there import there


def record(path, offset=0, size=None, media="video"):
    return Record(Path(path).name, Path(path), offset, size, media, "t", "m", Path(path).suffix)


def a_probe():
    return Probe(64, 48, np.array([3, 4, 6, 1000]), 0.001, np.array([0, 2]), False)


def test_values_come_back_bit_for_bit(tmp_path):
    cache, key = Cache(tmp_path / "new" / "cache"), key_of("a", 1)
    value = {"flow": torch.randn(3, 2).half(), "weight": torch.rand(3), "n": torch.tensor([7])}
    assert cache.load("flow", key) is None
    assert not cache.has("flow", key)
    size = cache.store("flow", key, value, {"file": "x.mp4"})
    assert cache.path("flow", key) == tmp_path / "new" / "cache" / "flow" / key[:2] / f"{key}.safetensors"
    assert cache.path("flow", key).stat().st_size == size
    assert cache.has("flow", key)
    back = there(Cache(tmp_path / "new" / "cache").load("flow", key))
    assert back.keys() == value.keys()
    assert all(torch.equal(back[k], value[k]) and back[k].dtype == value[k].dtype for k in value)
    assert cache.load("latents", key) is None


def test_keys_depend_on_every_part_and_on_nothing_else():
    assert key_of("a", 1, (2, 3)) == key_of("a", 1, [2, 3])
    keys = {key_of(*p) for p in (("a", 1), ("a", "1"), ("a", 1, None), ("a1",), (["a", 1],), ("a", 1.5), ("ä", 1))}
    assert len(keys) == 7
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 20, "half", "zeros"])
def test_a_damaged_value_is_not_there_and_may_be_stored_again(tmp_path, damage):
    cache, key = Cache(tmp_path), key_of("x")
    cache.store("text", key, {"text": torch.randn(40, 40)})
    path = cache.path("text", key)
    whole = path.read_bytes()
    path.write_bytes(there({"half": whole[: len(whole) // 2], "zeros": bytes(len(whole))}.get(damage, damage)))
    assert not cache.has("text", key)
    assert cache.load("text", key) is None
    cache.store("text", key, {"text": torch.ones(3)})
    assert torch.equal(there(cache.load("text", key))["text"], torch.ones(3))


@pytest.mark.parametrize("place", [1, 9, 700])
def test_a_flipped_bit_is_found_and_the_value_made_again(tmp_path, place):
    cache, key = Cache(tmp_path), key_of("x")
    value = {"text": torch.randn(20, 20).half(), "empty": torch.zeros(0), "number": torch.tensor(3)}
    cache.store("text", key, value)
    assert all(torch.equal(there(cache.load("text", key))[name], kept) for name, kept in value.items())
    path = cache.path("text", key)
    data = bytearray(path.read_bytes())
    data[len(data) - place] ^= 4
    path.write_bytes(data)
    assert cache.load("text", key) is None
    assert not cache.has("text", key)  # so that it is encoded again


def test_values_from_before_checksums_are_read(tmp_path):
    cache, key = Cache(tmp_path), key_of("x")
    cache.path("text", key).parent.mkdir(parents=True)
    save_file({"text": torch.ones(3)}, cache.path("text", key))
    assert torch.equal(there(cache.load("text", key))["text"], torch.ones(3))


def test_many_may_write_the_same_key(tmp_path):
    cache, key, value = Cache(tmp_path), key_of("x"), {"a": torch.arange(1000)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.store("a", key, value), range(40)))
    assert torch.equal(there(cache.load("a", key))["a"], value["a"])
    assert [p.name for p in cache.path("a", key).parent.iterdir()] == [f"{key}.safetensors"]


def test_a_full_disk_is_told_beforehand(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.check_space(10, "1 clip")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 3 * 10**9))
    cache.check_space(2.9e9, "1,000 clips")
    with pytest.raises(TrainingError, match=r"the cache of 1,000 clips needs about 5 GB more and .* has 3 GB free"):
        cache.check_space(5e9, "1,000 clips")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be made"):
        Cache(tmp_path / "file" / "cache")


# -- the index -----------------------------------------------------------------------------------------------------


def test_the_index_knows_a_file_until_it_changes(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"one")
    clip, member = record(tmp_path / "a.mp4"), record(tmp_path / "a.mp4", 1, 2)
    index = Cache(tmp_path / "cache").index
    assert index.find(clip) is None
    index.add(clip, "hash", a_probe())
    for known in (index, Cache(tmp_path / "cache").index):
        content, found = there(known.find(clip))
        assert content == "hash"
        assert (found.width, found.height, found.unit, found.counted) == (64, 48, 0.001, False)
        assert found.pts.tolist() == [3, 4, 6, 1000]
        assert found.keys.tolist() == [0, 2]
        assert found.times == pytest.approx([0, 0.001, 0.003, 0.997])
        assert known.find(member) is None
    later = os.stat(tmp_path / "a.mp4").st_mtime_ns + 10**9
    os.utime(tmp_path / "a.mp4", ns=(later, later))
    assert index.find(clip) is None
    index.add(clip, "other", a_probe())
    assert there(Cache(tmp_path / "cache").index.find(clip))[0] == "other"
    (tmp_path / "a.mp4").unlink()
    assert index.find(clip) is None


def test_a_line_that_was_cut_short_counts_for_nothing_and_spoils_nothing(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    cache = Cache(tmp_path)
    cache.index.add(record(tmp_path / "a"), "A", a_probe())
    cache.index.add(record(tmp_path / "b"), "B", a_probe())
    lines = cache.index.path.read_bytes()
    cache.index.path.write_bytes(lines[:-20])
    cache = Cache(tmp_path)
    assert there(cache.index.find(record(tmp_path / "a")))[0] == "A"
    assert cache.index.find(record(tmp_path / "b")) is None
    cache.index.add(record(tmp_path / "c"), "C", a_probe())
    cache.index.path.write_bytes(cache.index.path.read_bytes() + b'5\n{"v": 1}\n\xff\xfe\n')
    again = Cache(tmp_path).index
    assert [there(again.find(record(tmp_path / n)))[0] for n in "ac"] == ["A", "C"]


def test_probing_reads_each_file_once(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4", "bad.mp4"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    read = []

    def fake(clip):
        read.append(clip.name)
        if clip.name == "bad.mp4":
            raise probing.Unreadable("unreadable: it is bad")
        return a_probe()

    monkeypatch.setattr(probing, "probe", fake)
    records = [record(tmp_path / n) for n in ("b.mp4", "bad.mp4", "a.mp4")]
    for _ in range(2):
        found, left_out = probe_all(records, Cache(tmp_path / "cache"), 3, "reading")
        assert [f.record.name for f in found] == ["b.mp4", "a.mp4"]
        assert left_out == [LeftOut("bad.mp4", "unreadable: it is bad")]
        assert found[0].content == content_of(records[0]) != found[1].content
    # A file that could not be read is tried again: perhaps its disk was not there.
    assert sorted(read) == ["a.mp4", "b.mp4", "bad.mp4", "bad.mp4"]
    assert probe_all(records, None, 0, "reading")[0][0].content == ""


def test_content_is_that_of_the_member_not_of_its_place(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "tar").write_bytes(b"xxxcontentyyy")
    assert content_of(record(tmp_path / "file")) == content_of(record(tmp_path / "tar", 3, 7))
    assert content_of(record(tmp_path / "file")) != content_of(record(tmp_path / "tar", 3, 8))
