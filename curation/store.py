"""What is done already, in OUT/.work: whatever is here is whole, whoever was killed when.

    .work/run.json            the settings and sources that the set is made with
    .work/sources/KEY.json    of a source: its content's id, or why it failed
    .work/clips/ID/           of a content: its rows and clips (process.py)
    .work/captions/…          words by captioner and content (words of kept clips)
    .work/tmp/                what is being made; left by the killed, swept by the next of the same shard

A source is found again by its name, size and time, and what was made of it by its content: a file that was moved or
touched is read, but not decoded again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import CannotWrite, reason
from ..files import whole
from .sources import Listed, key

WORK = ".work"
OUTDATED = "outdated"  # a file beside rows


@dataclass(frozen=True)
class Outcome:
    """What came of a source."""

    key: str
    label: str
    source_id: str = ""  # "": it could not be read
    problem: str = ""  # why it failed; "": it did not
    seconds: float = 0.0  # of processor time, this time
    hours: float = 0.0  # of video


class Store:
    """Of one OUT. Raises CannotWrite where that cannot be written."""

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / WORK
        self.keys: dict[str, str] = {}

    @property
    def run(self) -> Path:
        return self.work / "run.json"

    def begin(self) -> None:
        with writing(self.out):
            for name in ("sources", "clips", "captions", "tmp"):
                (self.work / name).mkdir(parents=True, exist_ok=True)

    def sweep(self, shard: str) -> None:
        """What a killed process of that shard left, which does not run any more."""
        for name in (shard, "gone"):
            for left in (self.work / "tmp").glob(f"{name}.*"):
                shutil.rmtree(left, ignore_errors=True)

    def key(self, listed: Listed) -> str:
        """Of a source as it is when it is first asked for: files that change while a run works stay what they were."""
        if listed.label not in self.keys:
            self.keys[listed.label] = key(listed)
        return self.keys[listed.label]

    def outcome(self, key: str) -> Outcome | None:
        """None: nothing came of it yet, or it failed, which it may not the next time."""
        found = self.told(key)
        return None if found is None or found.problem or not self.has(found.source_id) else found

    def told(self, key: str) -> Outcome | None:
        """What was written down of a source; None: nothing."""
        try:
            return Outcome(**json.loads((self.work / "sources" / f"{key}.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def tell(self, outcome: Outcome) -> None:
        with writing(self.out), whole(self.work / "sources" / f"{outcome.key}.json") as temporary:
            temporary.write_text(json.dumps(asdict(outcome)), "utf-8")

    def clips(self, source_id: str) -> Path:
        return self.work / "clips" / source_id[:2] / source_id

    def has(self, source_id: str) -> bool:
        place = self.clips(source_id)
        return bool(source_id) and place.is_dir() and not (place / OUTDATED).exists()

    def outdate(self, source_id: str) -> None:
        """What was made of a content has to be made again, and stays until that is done."""
        with writing(self.out):
            (self.clips(source_id) / OUTDATED).touch()

    @contextmanager
    def making(self, source_id: str, shard: str) -> Iterator[Path]:
        """An empty folder that becomes the content's, in place of one that is outdated; unless another one has become
        it meanwhile."""
        place = self.work / "tmp" / f"{shard}.{secrets.token_hex(6)}"
        try:
            with writing(self.out):
                place.mkdir()
            yield place
            target = self.clips(source_id)
            with writing(self.out):
                target.parent.mkdir(exist_ok=True)
                if (target / OUTDATED).exists():
                    os.rename(target, self.work / "tmp" / f"gone.{place.name}")
                try:
                    os.rename(place, target)
                except OSError:
                    if not target.is_dir():
                        raise
        finally:
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(self.work / "tmp" / f"gone.{place.name}", ignore_errors=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What the system says of OUT, as a sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CannotWrite):
            raise
        raise CannotWrite(
            f"{out} cannot be written to: {reason(error)}; what is done stays: mend that, and give the same line again."
        ) from error
