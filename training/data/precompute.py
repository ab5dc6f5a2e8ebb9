"""Filling the cache with what frozen encoders make of a source's clips, before training begins."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tqdm import tqdm

from ...errors import TrainingError
from ...pipelines.media.decode import Unreadable
from .encode import CAPTIONS, Encoders, Encodings, Item
from .video_source import VideoSource

FIRST_LOOK, LOOK_AGAIN = 4, 500  # clips after which the space that the others need is estimated


def encode_all(source: VideoSource, encoders: Encoders, rank: int = 0, world: int = 1, desc: str = "encoding") -> None:
    """Fill the cache with this process's share of a source's clips, and with the empty captions.

    What is there is not made again, so it may be killed at any time. When it is done the source lets go of its
    encoders: batches come from the cache alone.
    """
    if source.cache is None:
        raise TrainingError(f"sources.{source.name} has no cache to encode into; set data.cache.")
    source.set_encoder_fingerprints(encoders.fingerprints)
    encodings = source.encodings
    assert encodings is not None  # there is a cache
    for kind in CAPTIONS if rank == 0 else ():
        if kind in encodings.frozen and not source.cache.has(kind, encodings.caption_key(kind, "")):
            encodings.make_tokens(kind, "", encoders)
    todo = [(item, kinds) for item in source.items()[rank::world] if (kinds := encodings.lacking(item))]
    written = 0
    with closing(_decoded(source, encodings, todo)) as clips:
        for done, (item, kinds, frames) in enumerate(tqdm(clips, desc, len(todo), disable=None, unit="clip"), start=1):
            for kind in kinds:
                if kind in CAPTIONS:
                    caption = getattr(item.file.record, kind)
                    # Many clips may share a caption.
                    if not source.cache.has(kind, encodings.caption_key(kind, caption)):
                        written += encodings.make_tokens(kind, caption, encoders)[1]
                elif kind == "flow":  # a thread has made it
                    written += source.cache.path(kind, encodings.keys(item)[kind]).stat().st_size
                else:
                    written += encodings.make(kind, item, frames, encoders)[1]
            if done == FIRST_LOOK or done % LOOK_AGAIN == 0:
                source.cache.check_space(written / done * (len(todo) - done) * world, f"{len(todo) * world:,} clips")
    source.encoders = None


def _decoded(
    source: VideoSource, encodings: Encodings, todo: Sequence[tuple[Item, list[str]]]
) -> Generator[tuple, None, None]:
    """(item, kinds, frames) in order. Threads decode ahead and make the flow; unreadable clips come without kinds."""

    def work(entry: tuple[Item, list[str]]) -> tuple:
        item, kinds = entry
        try:
            frames = item.frames() if any(kind not in CAPTIONS for kind in kinds) else None
        except Unreadable as error:
            source.leave_out(item, error)
            return item, [], None
        if frames is not None and "flow" in kinds:
            encodings.make("flow", item, frames, None)
        return item, kinds, frames

    workers = max(1, source.data.workers)
    pool, waiting, rest = ThreadPoolExecutor(workers), deque(), iter(todo)
    try:
        # Few wait at a time: decoded clips are large.
        waiting.extend(pool.submit(work, entry) for entry in itertools.islice(rest, 2 * workers))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, entry) for entry in itertools.islice(rest, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
