"""WebDataset shards: tar files whose members of one key are one sample, read where they lie.

000017.mp4, 000017.txt (or .json) and 000017.motion.txt are the sample "000017". Headers are read once; a member is
read later by seeking to its offset, so nothing is extracted and shards may be shuffled freely.
"""

from __future__ import annotations

import glob
import tarfile
from pathlib import Path

from ...errors import TrainingError, reason
from ...files import files_below, is_hidden
from ...pipelines.media.kinds import media_of
from ...pipelines.media.sidecars import CAPTIONS, NoCaption, sidecar_captions
from .records import Found, LeftOut, Record


def expand(pattern: str) -> list[str]:
    """`shards/{000..012}.tar` and `{a,b}/*.tar` as the paths they stand for; a folder as the shards below it, but for
    those in hidden folders."""
    if (root := Path(pattern)).is_dir():
        return sorted(str(p) for p in root.rglob("*.tar") if not is_hidden(str(p.parent.relative_to(root))))
    found = []
    for path in _alternatives(pattern):
        # A shard that a range names and that is not there is told; a star stands for what is there.
        found += sorted(glob.glob(path)) if glob.has_magic(path) and not Path(path).exists() else [path]
    return list(dict.fromkeys(found))


def _alternatives(pattern: str) -> list[str]:
    """Braces as a shell and WebDataset read them; where they do not come in pairs, or a file is there that is called
    so, all of it is a name."""
    if "{" not in pattern or Path(pattern).exists():
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))  # a backslash parts folders on Windows
    except ValueError:  # UnbalancedBracesError
        return [pattern]


def read_shards(name: str, pattern: str, uncaptioned: bool = False) -> Found:
    shards = expand(pattern)
    if not shards:
        raise TrainingError(f"sources.{name}.path {pattern} matches no .tar shard; check the pattern.")
    root = Path(pattern) if Path(pattern).is_dir() else _common(shards)
    records, left_out, captions = [], [], 0
    for shard in map(Path, shards):
        label = shard.relative_to(root).as_posix()
        try:
            samples, others, whole = _samples(shard)
            found = _records(shard, label, samples, uncaptioned)
        except FileNotFoundError:
            left_out.append(LeftOut(label, f"missing file: {shard} does not exist"))
            continue
        except tarfile.TarError as error:
            left_out.append(LeftOut(label, f"no shard: it is no plain tar file ({error})"))
            continue
        except OSError as error:
            left_out.append(LeftOut(label, f"unreadable: {reason(error)}"))
            continue
        records += found.records
        left_out += found.left_out
        left_out += [LeftOut(f"{label}/{member}", why) for member, why in others.items()]
        captions += found.captions
        if not whole:
            left_out.append(LeftOut(label, f"cut short: only its first {len(samples)} samples can be read"))
    if Path(pattern).is_dir():
        left_out += _beside(root)
    return Found(records, left_out, captions)


def _beside(root: Path) -> list[LeftOut]:
    """What lies in a folder of shards and is none; of a hidden folder itself alone, whose files may be very many."""
    left_out = []

    def hidden(folder: Path) -> bool:
        if folder.name.startswith("."):
            label = folder.relative_to(root).as_posix()
            left_out.append(LeftOut(label, "hidden: its name begins with a dot, and nothing in it is read"))
        return folder.name.startswith(".")

    for file in files_below(root, skip=hidden):
        if file.suffix != ".tar":
            label = file.relative_to(root).as_posix()
            left_out.append(LeftOut(label, "beside shards: of this folder its tar files are read alone"))
    return left_out


def _common(shards: list[str]) -> Path:
    """The deepest folder above all shards."""
    folders = {Path(s).parent for s in shards}
    root = min(folders, key=lambda f: len(f.parts))
    while not all(f.is_relative_to(root) for f in folders):
        root = root.parent
    return root


def _samples(shard: Path) -> tuple[dict[str, dict[str, tarfile.TarInfo]], dict[str, str], bool]:
    """Members by key and by what follows its first dot; why others are in no sample; whether the shard has its end."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    others: dict[str, str] = {}
    size = shard.stat().st_size
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while True:
            try:
                member = tar.next()
            except (tarfile.TarError, OSError):
                return samples, others, False
            if member is None:
                break
            if member.offset_data + member.size > size:
                return samples, others, False
            folder, _, base = member.name.rpartition("/")
            key, dot, ending = base.partition(".")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                others[member.name] = "no regular file: a link or hole in a shard is not read"
            elif not key:
                others[member.name] = "hidden: its name begins with a dot"
            elif not dot:
                others[member.name] = "no sample: its name has no ending"
            else:
                samples.setdefault(f"{folder}/{key}" if folder else key, {})["." + ending.lower()] = member
        # tarfile ends silently at anything that is no header; a whole archive ends with a block of zeros.
        file.seek(tar.offset)
        return samples, others, file.read(512) == bytes(512)


def _records(shard: Path, label: str, samples: dict[str, dict[str, tarfile.TarInfo]], uncaptioned: bool) -> Found:
    records, left_out, captions = [], [], 0
    with shard.open("rb") as file:

        def content(member: tarfile.TarInfo | None) -> bytes | None:
            if member is None:
                return None
            file.seek(member.offset_data)
            return file.read(member.size)

        for key, members in samples.items():
            kinds = {ending: media_of(Path(ending).suffix or ending) for ending in members}
            # The video where there is one: an image beside it is its thumbnail.
            found = ((e, kind) for kind in ("video", "image") for e in sorted(kinds) if kinds[e] == kind)
            ending, media = next(found, (None, None))
            for other, beside in members.items():
                if other in CAPTIONS and ending is not None:
                    captions += 1
                elif other != ending:
                    left_out.append(LeftOut(f"{label}/{beside.name}", _why(kinds[other], media)))
            if ending is None or media is None:
                continue
            member = members[ending]
            name = f"{label}/{member.name}"
            try:
                text, motion = sidecar_captions(key, lambda wanted, members=members: content(members.get(wanted)))
            except NoCaption as error:
                if not uncaptioned:
                    left_out.append(LeftOut(name, str(error)))
                    continue
                text = motion = ""
            suffix = Path(member.name).suffix.lower()
            records.append(Record(name, shard, member.offset_data, member.size, media, text, motion, suffix))
    return Found(records, left_out, captions)


def _why(kind: str | None, of: str | None) -> str:
    """Why a member is left out of a sample that is a video, an image, or neither."""
    if of is None:
        return "no video or image: the sample has none"
    if kind is None:
        return "no video or image: its ending is of neither, nor of a caption"
    return f"second {kind}: its sample is another" if kind == of else "thumbnail: the sample is a video"
