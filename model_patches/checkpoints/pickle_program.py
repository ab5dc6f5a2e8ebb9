"""What a pickle would do when it is read, found without reading it: a walk over its program with nothing behind it.

A pickle is a program for a small stack machine. torch's `weights_only` reader runs such programs and refuses most of
what they could call, but not what merely fills the memory (`bytearray(10**12)`, codecs that double a text forty times),
and it knows of what optimizers and loggers leave beside weights only that it knows nothing of it. This walk moves
placeholders instead of values. It refuses what no saved weights need, and says of every class that torch does not know
what is done with its objects, so that an empty one can stand in (`pickles.py`).
"""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from ...errors import CheckpointError, some

MAX_PROGRAM = 2**26  # bytes; the weights themselves lie elsewhere
MAX_STEPS = 1_000_000  # of one file: a large checkpoint with its optimizer has some hundred thousand
MAX_COPIED = 2**25  # characters and items that calls may copy
MAX_NAME = 200  # characters of a class's
MAX_UNKNOWN = 500  # classes that torch does not know; it looks all of them up at each name and call
PROTOCOL = 2  # torch.save's

# What saved weights consist of: what may be called, and what is only named.
CALLED = {
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "_codecs.encode",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
STORAGE = re.compile(r"torch\.(cuda\.)?\w+Storage|torch\.storage\.(Untyped|Typed)Storage")
NUMBERS = re.compile(r"torch\.(float|bfloat|u?int|complex|bool)[0-9a-z_]*")
TENSORS = re.compile(r"torch\.(\w+\.)*\w*Tensor")  # may be named, as in a type of numbers; called they have any size
# Of what torch itself would call, all the rest.
OTHERS_OF_TORCH = re.compile(r"torch\._|builtins\.bytearray$|torch\.serialization\.")
# What files ask for that were made to do something: nothing of it would be run, but whoever has one should know.
HOSTILE = re.compile(
    r"(os|posix|nt|subprocess|shutil|socket|runpy|importlib|ctypes|pty|webbrowser|commands|popen2|pip|_posixsubprocess)"
    r"(\.|$)|builtins\.(eval|exec|execfile|compile|open|__import__|breakpoint|input|globals|vars)$"
)


@dataclass(eq=False)
class _Thing:
    """What an instruction leaves on the stack, if what becomes of it matters.

    kind: "global" (a name), "made" (an object of a class that torch does not know), "dict", "list" or "tuple".
    """

    kind: str
    name: str = ""
    size: int = 0
    items: tuple = field(default=(), repr=False)
    flat: bool = True  # of a list: what is in it may be looked for in a set


class _Limited:
    """A stream that ends after so many bytes."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.stream, self.left = stream, most

    def read(self, size: int) -> bytes:
        return self._taken(self.stream.read(min(size, self.left)))

    def readline(self) -> bytes:
        return self._taken(self.stream.readline(min(self.left, 4 * MAX_NAME)))

    def _taken(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data


class Program:
    """A walk over one or several pickles of a file.

    unknown: {class or function that torch does not know: what stands in for it: "list" or "dict" where its objects
    are filled as one, else "object"}. stored: {key of a storage: numbers in it}.

    `walk` raises CheckpointError with the end of a sentence about the file ("names os.system, …").
    """

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}
        self.stored: dict[str, int] = {}
        self._steps = self._copied = 0

    def walk(self, stream: IO[bytes]) -> None:
        """One pickle, to its end."""
        self._stack: list = []
        self._below: list[list] = []
        self._memo: dict[int, object] = {}
        try:
            for opcode, argument, _ in _steps(_Limited(stream, MAX_PROGRAM)):
                self._steps += 1
                if self._steps > MAX_STEPS:
                    raise CheckpointError("has more entries than any checkpoint; it was made to keep its reader busy")
                step = STEPS.get(opcode.name)
                if step is None:
                    raise CheckpointError(
                        f"is pickled in a way that torch's weights_only reader does not read ({opcode.name}, protocol "
                        f"{opcode.proto}); save it again with torch.save as it is by default"
                    )
                step(self, argument)
        except CheckpointError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError("is cut short or damaged; copy or download it again") from error

    # -- names and calls

    def _protocol(self, number: int) -> None:
        if number != PROTOCOL:
            raise CheckpointError(
                f"is pickled with protocol {number}, torch's weights_only reader reads {PROTOCOL}; save it again with "
                "torch.save as it is by default"
            )

    def _global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if HOSTILE.match(full):
            raise CheckpointError(f"names {some([full])}, which no weights need; it was made to run code: delete it")
        if module == "sys":
            raise CheckpointError(f"names {some([full])}, which torch's reader never reads; save its state_dict alone")
        if len(full) > MAX_NAME or not full.isprintable():
            raise CheckpointError(f"names {some([full])}, which is no class; download it again")
        ours = full in CALLED or any(known.fullmatch(full) for known in (STORAGE, NUMBERS, TENSORS))
        if not ours and OTHERS_OF_TORCH.match(full):
            raise CheckpointError(
                f"holds {some([full])} and not plain tensors alone; save it again as a state_dict of dense tensors"
            )
        if not ours:
            self.unknown.setdefault(full, "object")
            if len(self.unknown) > MAX_UNKNOWN:
                raise CheckpointError("names more classes than any checkpoint; it was made to keep its reader busy")
        self._stack.append(_Thing("global", full))

    def _call(self, _) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        name = called.name if isinstance(called, _Thing) and called.kind == "global" else ""
        if name in self.unknown:
            self._stack.append(_Thing("made", name))
        elif name in CALLED:
            self._count(name, arguments.items if isinstance(arguments, _Thing) else ())
            is_dict = name in ("collections.OrderedDict", "collections.Counter")
            self._stack.append(_Thing("dict") if is_dict else None)
        elif name:
            raise CheckpointError(f"calls {some([name])}, which no weights need; do not use it")
        else:  # as protocol 2 writes a class inside of another
            raise CheckpointError("holds an object of a nested class beside its weights; save its state_dict alone")

    def _count(self, name: str, arguments: tuple) -> None:
        """What a call copies: one large text or list can be copied by each of a million calls."""
        if name == "_codecs.encode" and (len(arguments) != 2 or arguments[1] != "latin1"):
            raise CheckpointError("calls a codec other than latin1, which no weights need; do not use it")
        looked_up = name in ("builtins.set", "collections.OrderedDict", "collections.Counter")
        if looked_up and not all(_is_flat(a) for a in arguments):
            raise CheckpointError("looks up what nothing is looked up by; it was made to keep its reader busy")
        self._copied += sum(len(a) if isinstance(a, (str, bytes)) else getattr(a, "size", 0) for a in arguments)
        if self._copied > MAX_COPIED:
            raise CheckpointError("copies more than any checkpoint does; it was made to fill the memory: do not use it")

    def _storage(self, _) -> None:
        given = self._stack.pop().items
        if given[0] != "storage" or not STORAGE.fullmatch(given[1].name):
            raise CheckpointError("refers to something other than numbers; download it again")
        key, count = given[2], given[4]
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise ValueError("no storage")
        self.stored[key] = max(count, self.stored.get(key, 0))
        self._stack.append(None)

    # -- filling objects

    def _fill(self, kind: str, count: int) -> None:
        """The topmost object gets so many items as a dict or list does."""
        target = self._stack[-1]
        if target.kind == "made":
            if self.unknown[target.name] not in ("object", kind):
                raise CheckpointError(f"fills {some([target.name])} in two ways; save it again as a state_dict")
            self.unknown[target.name] = kind
        elif target.kind != kind:
            raise ValueError("no such container")
        target.size += count

    def _append(self, _) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list) -> None:
        self._fill("list", len(items))
        self._stack[-1].flat &= all(map(_is_key, items))

    def _set_item(self, _) -> None:
        self._look_up(self._stack[-2:])
        del self._stack[-2:]
        self._fill("dict", 1)

    def _set_items(self, _) -> None:
        items = self._to_mark()
        self._look_up(items)
        self._fill("dict", len(items) // 2)

    def _look_up(self, items: list) -> None:
        """Keys and values by turns. Hashing a tuple in tuples takes any time, and more stack than there is."""
        if not all(map(_is_key, items[::2])):
            raise CheckpointError("looks up what nothing is looked up by; it was made to keep its reader busy")

    def _build(self, _) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if target.kind == "made" and self.unknown[target.name] == "list":
            raise CheckpointError(f"holds {some([target.name])}, a list with attributes; save its state_dict alone")
        if target.kind == "dict" and isinstance(state, _Thing):
            self._count("attributes", (state,))
        elif target.kind != "made":
            raise CheckpointError("changes what it holds after it is made, which no weights need; do not use it")

    # -- the stack

    def _mark(self, _) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, items: list) -> None:
        self._stack.append(_Thing("tuple", size=len(items), items=tuple(items)))

    def _last(self, count: int) -> None:
        items = self._stack[-count:]
        del self._stack[-count:]
        if len(items) < count:
            raise IndexError
        self._tuple(items)

    def _remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]


def _is_plain(value: object) -> bool:
    """Not many of these have one hash: whole numbers of more than 64 bits may."""
    return not isinstance(value, _Thing) and not (isinstance(value, int) and value.bit_length() > 64)


def _is_key(value: object) -> bool:
    if isinstance(value, _Thing) and value.kind == "tuple":
        return value.size <= MAX_NAME and all(map(_is_plain, value.items))
    return _is_plain(value) or (isinstance(value, _Thing) and value.kind in ("global", "made"))


def _is_flat(value: object) -> bool:
    """Of what a set or dict is made from: the keys of a dict were looked at when it was filled."""
    return isinstance(value, _Thing) and (value.kind == "dict" or (value.kind == "list" and value.flat))


def _steps(stream: _Limited) -> Iterator[tuple]:
    yield from pickletools.genops(stream)  # pyright: ignore[reportArgumentType] (the stub asks for more than it reads)


def _push(self: Program, argument: object) -> None:
    self._stack.append(argument)


def _nothing(self: Program, argument: object) -> None:
    pass


# The instructions that torch's reader knows.
STEPS: dict[str, Callable[[Program, Any], None]] = {  # the argument is of its instruction's type
    "PROTO": Program._protocol,
    "GLOBAL": Program._global,
    "REDUCE": Program._call,
    "NEWOBJ": Program._call,
    "BINPERSID": Program._storage,
    "BUILD": Program._build,
    "APPEND": Program._append,
    "APPENDS": Program._appends,
    "SETITEM": Program._set_item,
    "SETITEMS": Program._set_items,
    "MARK": Program._mark,
    "TUPLE": lambda self, _: self._tuple(self._to_mark()),
    "TUPLE1": lambda self, _: self._last(1),
    "TUPLE2": lambda self, _: self._last(2),
    "TUPLE3": lambda self, _: self._last(3),
    "EMPTY_TUPLE": lambda self, _: self._tuple([]),
    "EMPTY_DICT": lambda self, _: self._stack.append(_Thing("dict")),
    "EMPTY_LIST": lambda self, _: self._stack.append(_Thing("list")),
    "EMPTY_SET": _push,
    "BINPUT": Program._remember,
    "LONG_BINPUT": Program._remember,
    "BINGET": lambda self, place: self._stack.append(self._memo[place]),
    "LONG_BINGET": lambda self, place: self._stack.append(self._memo[place]),
    "SHORT_BINSTRING": _push,
    "STOP": _nothing,
    **dict.fromkeys(
        ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _push
    ),
}
