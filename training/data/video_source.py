"""A user's captioned videos and images as a source: numbered clips by bucket, raw or as frozen encoders see them.

A file that turns out unreadable in the middle of a run does not end it: the next readable clip of its bucket takes
its place, the same one in every run, and the report names it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import TrainingError
from ...metrics.flow import opencv
from ...pipelines.encoders import one_caption
from ...pipelines.media.decode import Unreadable
from ..batch import Batch, Bucket
from ..config import DataConfig, SourceConfig
from . import report
from .buckets import DoesNotFit, assign, buckets_for
from .cache import Cache, key_of
from .encode import TRAINED, Encoders, Encodings, Item
from .picks import choose_frames
from .probing import Probed, ends_of, probe_all
from .read import nothing_usable, read_records
from .records import LeftOut
from .source import Example


class VideoSource:
    """`[sources.name]`, read with the sizes and times of a stage's `data`.

    validation: moving clips kept out of training, at most half of them; which ones depends on their names alone.
    downscale: of the codec, for flow. rate: what the network's frame rate embedding reads, "fps", "stride" or None.
    merge_captions: both captions become one, for a network without motion text.
    forbid_upscaling: clips are what super-resolution is to come to: those that would have to be enlarged are left out,
    as it would learn that truth is blurred; and stills serve for validation too.
    cache with `encoders`: batches are encoded, and what is not cached yet is encoded at once. `encode_all` does it all
    beforehand and lets go of the encoders. Without either batches are raw.
    """

    def __init__(
        self,
        name: str,
        source: SourceConfig,
        data: DataConfig,
        *,
        seed: int,
        validation: int,
        with_flow: bool,
        downscale: int,
        cache: Cache | None,
        encoders: Encoders | None = None,
        rate: str | None = None,
        merge_captions: bool = False,
        forbid_upscaling: bool = False,
    ) -> None:
        self.forbid_upscaling, self.merge_captions = forbid_upscaling, merge_captions
        self.name, self.source, self.data, self.rate = name, source, data, rate
        self.with_flow, self.downscale, self.cache, self.encoders = with_flow, downscale, cache, encoders
        self._lock, self._broken, self._named = threading.Lock(), set(), set()
        self._told: report.Told | None = None
        if with_flow:
            opencv()  # that it is missing is told before an hour of reading
        self.encodings: Encodings | None = None
        if encoders is not None:
            self.set_encoder_fingerprints(encoders.fingerprints)
        buckets = buckets_for(data)
        found = read_records(name, source)
        records, self.left_out, self.captions = found.records, list(found.left_out), found.captions
        if merge_captions:
            records = [replace(r, text=one_caption(r.text, r.motion)) for r in records]
        files, unreadable = probe_all(records, cache, data.workers, f"reading {name}")
        self.left_out += unreadable
        fitting = [(file, bucket) for file in files if (bucket := self._bucket(file, buckets))]
        if not fitting:
            raise nothing_usable(name, Path(source.path), self.left_out)
        shown = [f.record.name for f, bucket in fitting if bucket.frames > 1 or forbid_upscaling]
        kept_out = _kept_out(shown, validation)
        train, self.validation = [], []
        for file, bucket in fitting:
            if file.record.name in kept_out:
                self.validation += self._items(file, bucket, 1)
            else:
                train += self._items(file, bucket, data.windows if bucket.frames > 1 else 1)
        clips = {item.file.record.name for item in [*train, *self.validation]}
        for file, bucket in fitting:
            if file.record.name not in clips:
                self.left_out.append(LeftOut(file.record.name, f"too short: no clip of size {bucket} is in it"))
        # Mixed, so that the clip that takes an unreadable one's place is of another file.
        train.sort(key=lambda i: key_of(seed, i.file.record.name, i.picks))
        self.validation.sort(key=lambda i: _order(i.file.record.name))
        self.train, self._kept = _by_bucket(train), _by_bucket(self.validation)
        self.counts: dict[Bucket, int | None] = {bucket: len(items) for bucket, items in self.train.items()}

    # -- what there is ---------------------------------------------------------------------------------------------

    def _bucket(self, file: Probed, buckets: list[Bucket]) -> Bucket | None:
        """The clip's size; None, and a line in left_out, where it has none."""
        probe, want = file.probe, self.source
        try:
            if want.min_height is not None and probe.height < want.min_height:
                raise DoesNotFit(f"too small: {probe.height} pixels high, min_height is {want.min_height}")
            if want.min_aspect is not None and probe.width / probe.height < want.min_aspect:
                shape = f"{probe.width}x{probe.height}"
                raise DoesNotFit(
                    f"too narrow: {shape} is {probe.width / probe.height:.2f} wide, min_aspect is {want.min_aspect:.2f}"
                )
            bucket = assign(probe, file.record.media, self.data, buckets)
            if self.forbid_upscaling and (probe.height < bucket.height or probe.width < bucket.width):
                sizes = f"{probe.width}x{probe.height}", f"{bucket.width}x{bucket.height}"
                raise DoesNotFit(f"too small: {sizes[0]} would have to be enlarged to {sizes[1]}")
            return bucket
        except DoesNotFit as error:
            self.left_out.append(LeftOut(file.record.name, str(error)))
            return None

    def _items(self, file: Probed, bucket: Bucket, windows: int) -> list[Item]:
        if file.record.media == "image":
            return [Item(file, bucket, (0,))]
        fps, stride = self.data.fps, self.data.stride
        chosen = [choose_frames(file.probe, bucket.frames, fps, stride, w, windows) for w in range(windows)]
        return [Item(file, bucket, picks) for picks in dict.fromkeys(tuple(c) for c in chosen if c)]

    def fingerprints(self) -> dict[str, str]:
        """Of what trains and what is kept out: another one says that it changed since a checkpoint was written.

        Contents are told by a cache's hash of them, without a cache by length and both ends of each file.
        """
        items = self.items()
        by = "whole" if self.cache is not None else "ends"  # they do not compare
        files = sorted({item.file.record.name: item.file for item in items}.items())
        return {
            "clips": key_of(*([i.file.record.name, str(i.bucket)] for i in items)),
            "captions": key_of(*([name, file.record.text, file.record.motion] for name, file in files)),
            f"contents, {by}": key_of(*([name, file.content or ends_of(file.record)] for name, file in files)),
        }

    def items(self) -> list[Item]:
        """Every clip, of training and validation."""
        return [item for _, items in sorted(self.train.items()) for item in items] + self.validation

    def captions_for(self, kinds: Iterable[str]) -> dict[str, list[str]]:
        """Of its clips, by the kind of caption: "text" or "motion"."""
        return {kind: [getattr(item.file.record, kind) for item in self.items()] for kind in kinds}

    def set_encoder_fingerprints(self, fingerprints: dict[str, str | None]) -> None:
        """Which encoders the cached values are of. From then on batches are encoded."""
        self._broken.clear()  # what was not in the cache may be now
        if self.cache is not None:
            self.encodings = Encodings(self.cache, fingerprints, self.downscale, self.with_flow)

    # -- batches -----------------------------------------------------------------------------------------------------

    def batch(
        self, bucket: Bucket, indices: Sequence[int], drop_text: Sequence[bool], drop_motion: Sequence[bool]
    ) -> Batch:
        return self._batch(self.train[bucket], bucket, list(zip(indices, drop_text, drop_motion, strict=True)))

    def examples(self, count: int) -> list[Example]:
        chosen = self.validation[:count]
        records = [item.file.record for item in chosen]
        return [
            Example(item.bucket, self._kept[item.bucket].index(item), record.text, record.motion)
            for item, record in zip(chosen, records, strict=True)
        ]

    def example_batch(self, bucket: Bucket, indices: Sequence[int]) -> Batch:
        return self._batch(self._kept[bucket], bucket, [(index, False, False) for index in indices])

    def _batch(self, items: list[Item], bucket: Bucket, wanted: list[tuple[int, bool, bool]]) -> Batch:
        def row(item: Item, drop_text: bool, drop_motion: bool) -> dict:
            record = item.file.record
            values: dict[str, str | Tensor | None] = {**self._pixels(item)}
            values["text"] = self._caption("text", "" if drop_text else record.text)
            values["motion"] = self._caption("motion", "" if drop_motion else record.motion)
            values["frame_rate"] = self._frame_rate(item)
            return values

        rows = [self._readable(items, bucket, index, lambda i, d=drops: row(i, *d)) for index, *drops in wanted]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        text = _captions(columns["text"])
        assert text is not None  # every network reads it
        return Batch(
            text=text,
            motion=_captions(columns["motion"]),
            frames=_stacked(columns, "frames"),
            latents=_stacked(columns, "latents"),
            image=_stacked(columns, "image"),
            flow=_stacked(columns, "flow", torch.float32),
            flow_weight=_stacked(columns, "weight", torch.float32),
            frame_rate=_stacked(columns, "frame_rate"),
        )

    def _readable(self, items: list[Item], bucket: Bucket, index: int, make: Callable[[Item], dict]) -> dict:
        """Of the clip of this number, or of the next one that can be read."""
        first = None
        for item in (items[(index + k) % len(items)] for k in range(len(items))):
            if item in self._broken:
                continue
            try:
                return make(item)
            except Unreadable as error:
                first = first or f"{item.file.record.name} is {error}"
                self.leave_out(item, error)
        raise TrainingError(
            f"sources.{self.name}: none of the {len(items)} clips of size {bucket} can be read"
            f"{f'; {first}' if first else ''}; check that the files are still where they were."
        )

    def leave_out(self, item: Item, error: Unreadable) -> None:
        """A clip that cannot be read after all; its file is named once."""
        name = item.file.record.name
        with self._lock:
            self._broken.add(item)
            if name not in self._named:
                self._named.add(name)
                self.left_out.append(LeftOut(name, str(error)))
                if self._told is not None:
                    report.add(self, self._told)

    def _pixels(self, item: Item) -> dict[str, Tensor]:
        """Frames, or latents and image features; and flow."""
        if self.encodings:
            return self.encodings.read(item, self.encoders)
        values = {"frames": item.frames()}
        if self.with_flow and item.bucket.frames > 1:
            values |= item.flow(values["frames"], self.downscale)
        return values

    def flow_of(self, item: Item) -> dict[str, Tensor]:
        key = self.encodings.keys(item).get("flow") if self.encodings else None
        cached = self.encodings.cache.load("flow", key) if self.encodings and key else None
        return item.flow(item.frames(), self.downscale) if cached is None else cached

    def _caption(self, kind: str, caption: str) -> str | Tensor | None:
        if self.encodings is None or self.encodings.stated.get(kind) == TRAINED:
            return caption
        if self.encodings.stated.get(kind) is None:
            return None
        return self.encodings.tokens(kind, caption, self.encoders)

    def _frame_rate(self, item: Item) -> Tensor | None:
        """A still has none; the network takes its default."""
        if self.rate is None or item.bucket.frames == 1:
            return None
        fps, stride, own = self.data.fps, self.data.stride, item.file.probe.fps
        if self.rate == "fps":
            return torch.tensor(fps or own / stride)
        return torch.tensor(max(1.0, own / fps) if fps else float(stride))

    def report(self) -> dict:
        return report.report(self)

    def write_report(self, folder: str | Path, say: Callable[[str], object] = print, **more: object) -> dict:
        """data_<name>.json, with `more` in it, and left_out_<name>.csv with every file and its reason.

        What fails later is added to both, and told by `say`. Returns the contents of the first.
        """
        self._told = report.Told(Path(folder), say, more)
        return report.write(self, self._told)

    def clip_name(self, bucket: Bucket, index: int) -> str:
        """Of the clip of this number, or of the one that took its place."""
        items = self.train[bucket]
        turn = (items[(index + k) % len(items)] for k in range(len(items)))
        return next((item for item in turn if item not in self._broken), items[index]).file.record.name

    def failures(self) -> list[LeftOut]:
        """What this process found unreadable on the way."""
        with self._lock:
            return [left for left in self.left_out if left.file in self._named]

    def finish_report(self, failures: Iterable[LeftOut] = ()) -> None:
        """With all that failed meanwhile, in other processes too."""
        known = {left.file for left in self.left_out}
        self.left_out += [left for left in dict.fromkeys(failures) if left.file not in known]
        if self._told is not None:
            report.write(self, self._told)


def _order(name: str) -> str:
    return key_of("validation", name)


def _kept_out(names: list[str], count: int) -> set[str]:
    """Names for validation. By their hash, so that more data leaves the choice as it is, but for few."""
    distinct = sorted(set(names), key=_order)
    return set(distinct[: min(count, len(distinct) // 2)])


def _by_bucket(items: Sequence[Item]) -> dict[Bucket, list[Item]]:
    found: dict[Bucket, list[Item]] = defaultdict(list)
    for item in items:
        found[item.bucket].append(item)
    return dict(found)


def _captions(rows: list) -> list[str] | Tensor | None:
    """As they are, or their tokens; None where the network does not read them."""
    if rows[0] is None:
        return None
    return rows if isinstance(rows[0], str) else torch.stack(rows)


def _stacked(columns: Mapping[str, list], name: str, dtype: torch.dtype | None = None) -> Tensor | None:
    values = columns.get(name)
    if values is None or values[0] is None:
        return None
    return torch.stack(values).to(dtype)
