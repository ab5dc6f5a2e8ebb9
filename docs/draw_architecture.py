"""Draws docs/architecture.svg from the imports of the code: `make architecture`.

A room is a package of the repository, or a module that stands alone at its root. Where a room stands in the picture is
said here (`ROOMS`); what stands on what is read from the code, so a new import is a new arrow. The drawn rooms and
arrows carry their names (`data-room`, `data-from`, `data-to`), by which tests/repository/test_architecture_picture.py
compares the committed picture with the code. grimp, which reads the imports, comes with import-linter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import grimp

PACKAGE = "dreamfactory"
PICTURE = Path(__file__).with_name("architecture.svg")
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Room:
    """A box: its floor, counted from the top, its left and right, its colour and what lives in it."""

    floor: int
    left: int
    right: int
    colour: str
    about: str
    floors: int = 1  # of its height


WIDE, MAIN = (30, 1170), (30, 900)
ROOMS = {
    "cli": Room(0, *WIDE, "#475569", "the dreamfactory command"),
    "check": Room(1, *WIDE, "#b45309", "does it run on my card?"),
    "curation": Room(2, 30, 325, "#a21caf", "makes sets of clips"),
    "training": Room(2, 350, 900, "#be123c", "makes checkpoints"),
    "pipelines": Room(3, *MAIN, "#1d4ed8", "the headless door: caption to clip"),
    "pipelines.media": Room(4, *MAIN, "#0e7490", "all reading and writing of video"),
    "metrics": Room(5, *MAIN, "#7c3aed", "what is measured; torch only"),
    "nodes": Room(2, 930, 1170, "#15803d", "the ComfyUI door", floors=4),
    "schedulers": Room(6, 30, 325, "#334155", "the noise schedule; torch only"),
    "model_patches": Room(6, 350, 1170, "#334155", "the networks and their files; torch only"),
    "files": Room(7, 30, 390, "#64748b", "files, written whole or not at all"),
    "settings": Room(7, 420, 780, "#64748b", "what run files may say"),
    "libraries": Room(7, 810, 1170, "#64748b", "a missing library, in one sentence"),
    "errors": Room(8, *WIDE, "#64748b", "what is said to a person"),
}
INSIDE = {"__main__": "cli"}  # modules that are parts of another room
GROUND = ("files", "settings", "libraries", "errors")  # nearly all stand on these: written in each box instead of drawn

TOP, HEIGHT, GAP = 24, 78, 44
TEXT = 350  # where the words of the main column begin; arrows keep to its sides
LANES = {
    "schedulers": range(52, 320, 22),
    "nodes": range(960, 1150, 22),
    "curation": range(62, 320, 22),
}  # that end there
FROM = {"curation": range(62, 320, 22), "files": (200,), "settings": (600,), "libraries": (990,)}  # arrows begin
OTHER_LANES = range(668, 895, 17)


def room_of(module: str) -> str | None:
    """The room of a module; None for the package itself, which only the host calls."""
    parts = module.split(".")[1:]
    if not parts:
        return None
    name = next((n for n in (".".join(parts[:2]), parts[0]) if n in ROOMS), INSIDE.get(parts[0]))
    if name is None:
        raise SystemExit(f"{parts[0]} has no place in the picture; give it one in ROOMS of docs/draw_architecture.py.")
    return name


def read_code() -> tuple[set[tuple[str, str]], dict[str, list[str]]]:
    """Who imports whom, by room, and the packages within each room."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    arrows, inner = set(), {name: [] for name in ROOMS}
    for module in sorted(graph.modules):
        room = room_of(module)
        if room is None:
            continue
        if module != f"{PACKAGE}.{room}" and graph.find_children(module):
            inner[room].append(module.removeprefix(f"{PACKAGE}.{room}."))
        others = {room_of(m) for m in graph.find_modules_directly_imported_by(module)}
        arrows |= {(room, other) for other in others if other not in (None, room)}
    return arrows, inner


def read_picture(path: Path = PICTURE) -> tuple[set[tuple[str, str]], dict[str, list[str]]]:
    """The same, as a picture shows it."""
    tree = ElementTree.parse(path)
    arrows = {(g.attrib["data-from"], g.attrib["data-to"]) for g in tree.iter(f"{SVG}g") if "data-from" in g.attrib}
    inner = {
        g.attrib["data-room"]: g.attrib["data-inner"].split() for g in tree.iter(f"{SVG}g") if "data-room" in g.attrib
    }
    return arrows, inner


# -- drawing ----------------------------------------------------------------------------------------------------------


def top_of(room: Room) -> int:
    return TOP + room.floor * (HEIGHT + GAP)


def bottom_of(room: Room) -> int:
    return top_of(room) + room.floors * (HEIGHT + GAP) - GAP


def text(x: int, y: int, words: str, size: int = 13, **more: str) -> str:
    extra = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in more.items())
    return f'<text x="{x}" y="{y}" font-size="{size}"{extra}>{escape(words)}</text>'


def box(name: str, inner: list[str]) -> str:
    room = ROOMS[name]
    top, words = top_of(room), TEXT if room.left < TEXT < room.right - 300 else room.left + 16
    words += 16 if words == room.left else 0
    parts = [
        f'<rect x="{room.left}" y="{top}" width="{room.right - room.left}" height="{bottom_of(room) - top}" rx="9" '
        f'fill="#fff" fill-opacity="0.9" stroke="{room.colour}" stroke-width="1.6"/>',
        text(words, top + 25, name.replace(".", "/"), 17, font_weight="700", fill=room.colour),
        text(words, top + 44, room.about, fill="#334155"),
    ]
    shown = [n for n in inner if "." not in n]
    step, at = (20, top + 64) if room.floors > 1 else (0, top + 64)
    x = words
    for child in shown:
        parts.append(text(x, at, f"{child}/", 12, fill="#64748b", font_family="ui-monospace, monospace"))
        x, at = (x, at + step) if step else (x + 8 * len(child) + 18, at)
    return f'<g data-room="{name}" data-inner="{" ".join(inner)}">{"".join(parts)}</g>'


def lanes(arrows: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """An x for each arrow between floors, so that none runs along another."""
    taken: list[tuple[int, range]] = []
    found = {}
    for source, target in arrows:
        floors = sorted((ROOMS[source].floor, ROOMS[target].floor))
        crossed = (
            range(*floors) if floors[0] == ROOMS[source].floor else range(len(ROOMS))
        )  # upwards: a lane of its own
        choice = FROM.get(source) or LANES.get(target) or OTHER_LANES
        free = (x for x in choice if all(x != t or not set(r) & set(crossed) for t, r in taken))
        found[source, target] = x = next(free)
        taken.append((x, crossed))
    return found


def arrow(source: str, target: str, x: int) -> str:
    a, b = ROOMS[source], ROOMS[target]
    upwards = a.floor > b.floor
    begin, end = (top_of(a), bottom_of(b) + 7) if upwards else (bottom_of(a), top_of(b) - 7)
    if source == "nodes":  # beside the others: it comes down behind them
        x = 1040 if target == "model_patches" else 1000
    line = f"M{x},{begin} V{end}"
    if (source, target) == ("nodes", "schedulers"):
        line = f"M{x},{begin} v16 H308 V{end}"
    if (source, target) == ("curation", "model_patches"):
        line = f"M{x},{begin} V{end - 12} H372 V{end}"
    dashed = ' stroke-dasharray="5 4"' if upwards else ""
    marker = f'marker-end="url(#{source.replace(".", "-")})"'
    return (
        f'<g data-from="{source}" data-to="{target}"><path d="{line}" fill="none" stroke="{a.colour}" '
        f'stroke-width="1.8"{dashed} {marker}/></g>'
    )


def ground_marks(source: str, targets: list[str]) -> str:
    """That a room stands on the ground floors, in its corner."""
    room = ROOMS[source]
    y, marks = bottom_of(room) - 12, []
    for target in targets:
        words = text(room.right - 12, y, f"• {target}", 11, fill="#64748b", text_anchor="end")
        marks.append(f'<g data-from="{source}" data-to="{target}">{words}</g>')
        y -= 15
    return "".join(marks)


def draw(arrows: set[tuple[str, str]], inner: dict[str, list[str]]) -> str:
    drawn = sorted(
        ((a, b) for a, b in arrows if b not in GROUND or a in GROUND),
        key=lambda e: (abs(ROOMS[e[1]].floor - ROOMS[e[0]].floor), ROOMS[e[0]].floor, ROOMS[e[1]].floor, e),
    )
    place = lanes([e for e in drawn if e[0] != "nodes"])
    height = bottom_of(ROOMS["errors"]) + 56
    heads = "".join(
        f'<marker id="{name.replace(".", "-")}" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="5" markerHeight="5" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{room.colour}"/></marker>'
        for name, room in ROOMS.items()
    )
    lines = [arrow(a, b, place.get((a, b), 0)) for a, b in drawn]
    boxes = [box(name, inner[name]) for name in ROOMS]
    marks = [
        ground_marks(name, [t for t in reversed(GROUND) if (name, t) in arrows]) for name in ROOMS if name not in GROUND
    ]
    legend = [
        text(
            30,
            height - 26,
            "An arrow is an import, in the colour of who imports; it passes behind the rooms between the two. "
            "• stands for an arrow to one of the ground floors.",
        ),
        text(
            30,
            height - 8,
            "Dashed: training takes the command's exit codes. Drawn from the code by `make architecture`.",
        ),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1200 {height}" width="1200" height="{height}" '
            'font-family="system-ui, sans-serif">',
            f"<defs>{heads}</defs>",
            '<rect width="100%" height="100%" fill="#f8fafc"/>',
            *lines,
            *boxes,
            *marks,
            *legend,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(*read_code()), "utf-8")
    print(f"drawn: {PICTURE}")
