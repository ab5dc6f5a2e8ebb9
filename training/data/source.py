"""What the trainer asks of data, whatever it is: numbered clips by bucket, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..batch import Batch, Bucket


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
