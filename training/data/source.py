"""What the trainer asks of data, whatever it is: numbered clips by bucket, and batches of them; what a report asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ...pipelines.media.decode import Unreadable
from ..batch import Batch, Bucket
from ..config import SourceConfig
from .encode import Item
from .records import LeftOut


@dataclass(frozen=True)
class Example:
    """A clip kept out of training, to look at."""

    bucket: Bucket
    index: int  # in the bucket's validation clips
    text: str
    motion: str


class Source(Protocol):
    """Clips of one `[sources.NAME]`."""

    name: str
    counts: dict[Bucket, int | None]  # training clips of each bucket; None: endless

    def fingerprints(self) -> Mapping[str, str]:
        """Of what a resumed run should find as it was, by what it is ("clips", "captions"); of made-up clips none."""
        ...

    def batch(
        self, bucket: Bucket, indices: Sequence[int], drop_text: Sequence[bool], drop_motion: Sequence[bool]
    ) -> Batch:
        """The clips of these numbers, on the CPU; captions to drop are read as "". The same call, the same bits."""
        ...

    def examples(self, count: int) -> list[Example]:
        """Up to so many validation clips (moving ones)."""
        ...

    def example_batch(self, bucket: Bucket, indices: Sequence[int]) -> Batch:
        """Validation clips by number."""
        ...

    def clip_name(self, bucket: Bucket, index: int) -> str:
        """What a person knows a training clip by."""
        ...

    def failures(self) -> list:
        """Files that this process could not read on the way, with reasons."""
        ...

    def finish_report(self, failures: Iterable = ()) -> None:
        """Bring what is written of the source up to date, at the end of a run. failures: of every process."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A source that knows what its clips should show, and measures it."""

    def measure(self, clips: Tensor, indices: Sequence[int]) -> dict[str, float]:
        """Validation clips (b, t, 3, h, w) as the network made them."""
        ...


class FileSource(Source, Protocol):
    """A source of a user's files, as its report and statistics see it."""

    source: SourceConfig
    train: dict[Bucket, list[Item]]
    validation: list[Item]
    left_out: list[LeftOut]
    captions: int  # files that hold the words of others
    merge_captions: bool  # both captions are one
    forbid_upscaling: bool  # clips are what super-resolution is to come to
    with_flow: bool

    def items(self) -> list[Item]:
        """Every clip, of training and validation."""
        ...

    def flow_of(self, item: Item) -> dict[str, Tensor]:
        """A clip's "flow" and "weight", in latent pixels. Raises Unreadable."""
        ...

    def leave_out(self, item: Item, error: Unreadable) -> None:
        """A clip that cannot be read after all."""
        ...

    def captions_for(self, kinds: Iterable[str]) -> dict[str, list[str]]:
        """Of its clips, by the kind of caption: "text" or "motion"."""
        ...

    def write_report(self, folder: Path, say: Callable[[str], object] = print, **more: object) -> dict:
        """Into a folder, with `more` in it; returns its numbers."""
        ...
