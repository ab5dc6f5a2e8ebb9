"""A program of the user's that prints a caption."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import InputError, SettingsError, place, reason
from ..files import only_file
from .words import NoWords, one_line

IMAGE, CLIP = "{image}", "{clip}"
SECONDS = 300.0  # for one clip
MOST = 2**16  # bytes of one caption
SCRIPTS = (".py", ".sh", ".bash", ".zsh", ".js", ".mjs", ".ts", ".pl", ".rb", ".lua", ".jl", ".r", ".ps1", ".bat")
LARGEST = 2**24  # bytes of a script that are looked at
TOLD = 2000  # bytes kept of what goes to stderr


def check_command(command: Sequence[str]) -> None:
    """Raises SettingsError with one sentence."""
    example = 'such as captions.command="mycaptioner {image}"'
    if not command or not command[0].strip():
        raise SettingsError(f"captions.command is empty; give the program that prints a caption, {example}.")
    if not any(IMAGE in part or CLIP in part for part in command[1:]):
        raise SettingsError(
            f"captions.command does not say where the picture's path goes; put {IMAGE} there ({CLIP} is the clip's), "
            f"{example}."
        )
    program = os.path.expanduser(command[0])
    if shutil.which(program) is None:
        remedy = "make it executable, or name its interpreter first" if os.path.isfile(program) else "give its path"
        raise SettingsError(f"captions.command: {place(program)} is no program that can be run; {remedy}.")


def run(command: Sequence[str], clip: str, image: Path, video: Path | None, seconds: float = SECONDS) -> str:
    """What the program prints of a clip, on one line. Raises InputError with one sentence that names the clip: NoWords
    where another clip may have a caption all the same."""
    start = f"captions.command: {place(command[0])}"
    if video is None and any(CLIP in part for part in command):
        raise InputError(f"captions.command asks for {CLIP}, and {clip} has no file of its own; use {IMAGE}.")
    paths = {IMAGE: str(image), CLIP: str(video)}
    words = [os.path.expanduser(command[0]), *(_filled(part, paths) for part in command[1:])]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=os.name != "nt",  # so that what it starts ends with it
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{start} cannot be run for {clip}: {reason(error)}.") from error
    printed, complaint, late = _heard(process, seconds)
    if late:
        raise NoWords(f"{start} took more than {seconds:g} seconds for {clip}; it was ended.")
    if len(printed) > MOST:
        raise NoWords(f"{start} printed more than {MOST:,} bytes for {clip}; expected a caption.")
    if process.returncode != 0:
        last = one_line(complaint.strip().rpartition("\n")[2])
        how = f"by signal {-process.returncode}" if process.returncode < 0 else f"with error {process.returncode}"
        raise NoWords(f"{start} ended {how} for {clip}" + (f": {last[:200].rstrip('.')}." if last else "."))
    text = one_line(printed.decode(errors="replace"))
    if not text:
        raise NoWords(f"{start} printed nothing for {clip}; expected a caption.")
    return text


def scripts(command: Sequence[str]) -> list[str]:
    """Digests of the scripts that a command runs, be they its program or what an interpreter is given: an edited one
    says other things."""
    program = shutil.which(os.path.expanduser(command[0])) or ""
    found = [path for path in command[1:] if os.path.splitext(path)[1].lower() in SCRIPTS]
    digests = []
    for path, is_script in ((program, False), *((path, True) for path in found)):
        try:
            only_file(path)
            with open(path, "rb") as file:
                if is_script or file.read(2) == b"#!":
                    file.seek(0)
                    digests.append(hashlib.blake2b(file.read(LARGEST), digest_size=16).hexdigest())
        except (OSError, ValueError):  # no file, which the program itself may complain of
            continue
    return digests


def _filled(part: str, paths: dict[str, str]) -> str:
    """Braces in a path are not looked at again."""
    pieces = part.split(IMAGE)
    return paths[IMAGE].join(piece.replace(CLIP, paths[CLIP]) for piece in pieces)


def _heard(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, str, bool]:
    """What a process printed, up to a byte too many, the end of what it complained of, and whether it took too long."""
    assert process.stdout is not None
    assert process.stderr is not None
    late, complaint = threading.Event(), bytearray()

    def too_late() -> None:
        late.set()
        _end(process)

    def listen(stream) -> None:
        while piece := stream.read1(TOLD):
            complaint.extend(piece)
            del complaint[:-TOLD]

    timer = threading.Timer(seconds, too_late)
    listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
    timer.start()
    listener.start()
    try:
        printed = process.stdout.read(MOST + 1)
        if len(printed) <= MOST:
            process.wait()
    finally:  # also where the user ends us
        timer.cancel()
        if process.poll() is None:
            _end(process)
            process.wait()
        listener.join(1)
        process.stdout.close()
    return printed, complaint.decode(errors="replace"), late.is_set()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process, and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
