"""Queue an API workflow on a running ComfyUI, watch it, and fetch what it saved. Needs nothing but Python.

    python queue_workflow.py api/animate_image.json --prompt "waves roll in" --image picture.png --out clip.mp4
    python queue_workflow.py api/demo.json --server 127.0.0.1:8188 --set "Sampler.steps=12"

Nodes are found by their titles. Exit codes: 0 done, 1 an error (one sentence), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import difflib
import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

# What the options of the same name set: a node's title, and the first of these inputs that the node has.
SHORTCUTS = {
    "prompt": ("Prompt", ("text",)),
    "motion": ("Motion", ("text",)),
    "image": ("First frame", ("image",)),
    "seed": ("Sampler", ("seed", "noise_seed")),
}
TIMEOUT = 60.0  # seconds for one answer of the server
LINE = "\r\x1b[K" if sys.stderr.isatty() else ""  # on a terminal, overwrites what the line shows
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10  # kinds of websocket frames; 0 goes on with a message


class ComfyError(Exception):
    """The workflow cannot be run as asked; the message is one sentence for the user."""


def load_graph(path: str | os.PathLike) -> dict:
    """{node id: {"class_type", "inputs", "_meta": {"title"}}}; the browser's own format cannot be queued."""
    graph: Any = None
    with contextlib.suppress(ValueError):
        graph = json.loads(Path(path).read_text(encoding="utf-8"))
    nodes = graph.values() if isinstance(graph, dict) else [None]
    if not all(isinstance(n, dict) and "class_type" in n and isinstance(n.get("inputs"), dict) for n in nodes):
        raise ComfyError(f"{path} is not in the API format: export it with File > Export (API) or take it from api/.")
    return graph


def title_of(graph: dict, node_id: str) -> str:
    node = graph.get(node_id) or graph.get(node_id.split(".")[0], {})  # "3.0.0.1" stands inside what node 3 became
    return node.get("_meta", {}).get("title") or node.get("class_type") or f"#{node_id}"


def set_input(graph: dict, title: str, names: tuple[str, ...], value, unwired: bool = False) -> None:
    """Set the first of ``names`` that the node with this title has; a wire there stays where ``unwired`` is asked."""
    titles = {node_id: title_of(graph, node_id) for node_id in graph}
    found = [node_id for node_id in graph if titles[node_id] == title]
    if len(found) != 1:
        raise ComfyError(f'{len(found) or "No"} nodes are titled "{title}"; there are: {", ".join(titles.values())}.')
    inputs = graph[found[0]]["inputs"]
    name = next((name for name in names if name in inputs), None)
    if name is None:
        raise ComfyError(f'The node "{title}" has no input {" or ".join(names)}; it has: {", ".join(inputs)}.')
    if unwired and isinstance(inputs[name], list):
        source = title_of(graph, str(inputs[name][0]))
        raise ComfyError(f'"{title}" takes its {name} from "{source}": set it there, by --set.')
    inputs[name] = value


def apply_setting(graph: dict, setting: str) -> None:
    """Apply "TITLE.input=value": JSON where it is JSON, else the text itself. Titles and inputs may hold dots."""
    key, equals, value = setting.partition("=")
    if not equals or "." not in key:
        raise ComfyError(f'"{setting}" is no setting: write it as "TITLE.input=value".')
    fitting = [title for title in (title_of(graph, node_id) for node_id in graph) if key.startswith(title + ".")]
    title = max(fitting, key=len, default=key.partition(".")[0])
    with contextlib.suppress(ValueError):
        value = json.loads(value)
    set_input(graph, title, (key[len(title) + 1 :],), value)


def refusal(graph: dict, answer: dict) -> str:
    """The sentence for a workflow that the server did not accept, from the JSON it answered."""
    said = []
    for node_id, node in (answer.get("node_errors") or {}).items():
        for error in node["errors"]:
            name = error.get("extra_info", {}).get("input_name", "")
            details = error["details"].removeprefix(name).lstrip(" :,-")  # they repeat the name in front
            details = nearest_choices(error) or details
            place = f'node "{title_of(graph, node_id)}"' + (f', input "{name}"' if name else "")
            said.append(": ".join(part for part in (place, error["message"], details) if part))
    return f"The server refuses the workflow: {'; '.join(said) or answer['error']['message']}"


def nearest_choices(error: dict) -> str:
    """What is wanted and what comes nearest, where the server prints every file of a long list; else ""."""
    extra = error.get("extra_info", {})
    config: list[Any] = extra.get("input_config") or [None]
    kind, *rest = config
    choices = [str(choice) for choice in (rest[0].get("options", []) if kind == "COMBO" and rest else kind or [])]
    value = extra.get("received_value")
    if not isinstance(value, str) or sum(map(len, choices)) < 200:
        return ""
    near = difflib.get_close_matches(value, choices, n=3, cutoff=0.4)
    return f"{value!r} is none of {len(choices)}" + (f"; nearest: {', '.join(map(repr, near))}" if near else "")


def check_event(graph: dict, event: str, data: dict) -> None:
    """Raise where an event says that the workflow stopped while it ran."""
    if event == "execution_interrupted":
        raise ComfyError(f'The run was interrupted at node "{title_of(graph, data["node_id"])}".')
    if event == "execution_error":
        reason = " ".join(data["exception_message"].split())
        raise ComfyError(f'Node "{title_of(graph, data["node_id"])}" failed with {data["exception_type"]}: {reason}')


def open_websocket(url: str) -> BufferedIOBase:
    """Connect to an http or https address and shake hands (RFC 6455, 4.1)."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.netloc, timeout=TIMEOUT)) as connection:
        connection.connect()
        connection.sock.settimeout(None)  # events may be far apart
        stream = connection.sock.makefile("rwb")  # keeps the connection open
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
    head += f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    stream.write(head.encode())
    stream.flush()
    answer = b"".join(iter(lambda: stream.readline().rstrip(b"\r\n"), b""))  # an empty line ends it
    proof = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    if not answer.startswith(b"HTTP/1.1 101 ") or base64.b64encode(proof) not in answer:
        raise ComfyError(f"{parts.netloc} opens no websocket: is it a ComfyUI?")
    return stream


def read_frame(stream: BufferedIOBase) -> tuple[bool, int, bytes]:
    """(ends its message, kind, payload) of a server's frame (RFC 6455, 5.2); a lost connection reads as its end."""
    first, size = stream.read(2) or (CLOSE, 0)
    if size > 125:
        size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
    return first >= 0x80, first & 0x0F, stream.read(size)


def control_frame(kind: int, payload: bytes, mask: bytes) -> bytes:
    """A client's frame, masked; those that control the connection hold at most 125 bytes."""
    return bytes([0x80 | kind, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def receive(stream: BufferedIOBase) -> dict:
    """The next message, {"type", "data"}; of binary ones what a node says, {"type": "text"}, and none of a preview."""
    message, message_kind = b"", TEXT
    while True:
        last, kind, payload = read_frame(stream)
        if kind == CLOSE:
            raise ConnectionError("it closed the connection")
        if kind == PING:
            stream.write(control_frame(PONG, payload, os.urandom(4)))
            stream.flush()
        if kind < CLOSE:  # control frames may come between the parts of a message
            message, message_kind = message + payload, kind or message_kind
            if last:
                return json.loads(message) if message_kind == TEXT else said_by_node(message)


def said_by_node(message: bytes) -> dict:
    """A binary message of the server: kind 3 holds a node's id, with its length before it, and a text."""
    if message[:4] != (3).to_bytes(4, "big"):
        return {}
    start = 8 + int.from_bytes(message[4:8], "big")
    node, text = message[8:start].decode(errors="replace"), message[start:].decode(errors="replace")
    return {"type": "text", "data": {"node": node, "text": text}}


class Comfy:
    """A running ComfyUI at "host:port", or at an http or https address."""

    def __init__(self, server: str = "127.0.0.1:8188"):
        scheme, mark, place = server.rpartition("://")
        if mark and scheme.lower() not in ("http", "https"):
            raise ComfyError(f'"{server}" is no address of a ComfyUI: write HOST:PORT or https://HOST:PORT.')
        self.url = f"{scheme.lower() or 'http'}://{place.rstrip('/')}"
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to one's own machine

    def _http(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The answer to GET, or to POST with a body."""
        try:
            request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if body else {})
            with self.opener.open(request, timeout=TIMEOUT) as answer:
                return answer.read()
        except urllib.error.HTTPError as answer:
            if answer.code == 400 and path == "/prompt":  # the answer says what is wrong
                return answer.read()
            raise ComfyError(f"The server answers {path} with {answer.code} {answer.reason}: see its log.") from answer
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ComfyError(f"No ComfyUI answers at {self.url} ({reason}): start it, or give --server.") from error

    def ask(self, path: str, data: dict | None = None) -> dict:
        """The JSON answer; ``data`` is posted as JSON."""
        return json.loads(self._http(path, json.dumps(data).encode() if data else None) or b"{}")

    def upload(self, path: str | os.PathLike) -> str:
        """Copy a picture into the server's input folder; returns the name that Load Image knows it by."""
        if not Path(path).is_file():
            raise ComfyError(f"{path} is no file: give a picture.")
        mark, name = uuid.uuid4().hex, Path(path).name.replace('"', "_")
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        body = head.encode() + Path(path).read_bytes() + f"\r\n--{mark}--\r\n".encode()
        stored = json.loads(self._http("/upload/image", body, f"multipart/form-data; boundary={mark}"))
        return "/".join(part for part in (stored.get("subfolder"), stored["name"]) if part)

    def queue(self, graph: dict, client_id: str, prompt_id: str) -> None:
        """Put the workflow into the queue; its events go to the websocket of ``client_id``. Both ids are UUIDs."""
        said = self.ask("/prompt", {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id})
        if said.get("error") or said.get("node_errors"):
            self.interrupt(prompt_id)  # where one of several branches is wrong, the server runs the others
            raise ComfyError(refusal(graph, said))

    def interrupt(self, prompt_id: str) -> None:
        """Take the workflow out of the queue, or stop it."""
        self.ask("/queue", {"delete": [prompt_id]})
        self.ask("/interrupt", {"prompt_id": prompt_id})

    def run(self, graph: dict, on_progress: Callable = lambda title, step, steps: None) -> dict:
        """Queue and wait → {node id: {"images": [{"filename", ...}], ...}}, what the browser would be shown."""
        client, prompt_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.ask("/queue")  # says so if there is no server
        with open_websocket(f"{self.url}/ws?clientId={client}") as events:
            try:
                self.queue(graph, client, prompt_id)
                self._follow(graph, prompt_id, events, on_progress)
            except KeyboardInterrupt:
                self.interrupt(prompt_id)
                raise
        entry = self.ask(f"/history/{prompt_id}").get(prompt_id)
        if entry is None:
            raise ComfyError("The workflow was taken out of the server's queue before it ran.")
        for event, data in entry["status"]["messages"]:
            check_event(graph, event, data)
        return entry["outputs"]

    def _follow(self, graph: dict, prompt_id: str, events: BufferedIOBase, on_progress: Callable) -> None:
        """Return when the workflow is over: no node runs, or it is in the queue no longer."""
        title = "none"
        while True:
            try:
                message = receive(events)
            except (OSError, ValueError) as error:
                raise ComfyError(f"The server went away ({error}); last node: {title}; see its log.") from error
            event, data = message.get("type", ""), message.get("data") or {}
            if event == "status" and prompt_id not in json.dumps(self.ask("/queue")):
                return
            if event == "text" and data["node"] in graph and data["text"]:
                print(f"{LINE}{title_of(graph, data['node'])}: {data['text']}", file=sys.stderr, flush=True)
            if data.get("prompt_id") != prompt_id:
                continue
            check_event(graph, event, data)
            if event == "executing" and data["node"] is None:
                return
            for node in data["nodes"].values() if event == "progress_state" else ():
                if node["state"] == "running":
                    title = title_of(graph, node["display_node_id"])
                    on_progress(title, node["value"], node["max"])

    def fetch(self, file: dict, path: Path) -> Path:
        """Download one of ``saved_files``; it appears whole or not at all."""
        query = urlencode({key: file.get(key, "") for key in ("filename", "subfolder", "type")})
        content, draft = self._http(f"/view?{query}"), draft_of(path)
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def draft_of(path: Path) -> Path:
    """The hidden file beside ``path`` that is written first."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def saved_files(outputs: dict) -> list[dict]:
    """Every {"filename", "subfolder", "type"} in what ``run`` returned; previews only where nothing was saved."""
    lists = [value for output in outputs.values() for value in output.values() if isinstance(value, list)]
    found = [item for items in lists for item in items if isinstance(item, dict) and "filename" in item]
    return [file for file in found if file.get("type") == "output"] or found


def targets(found: list[dict], out: Path) -> list[Path]:
    """Where the files go: to ``out``, or into that folder by the server's names; numbered where paths are equal.

    What has no ending is a folder.
    """
    names = [Path(file["filename"]) for file in found]
    paths = [out / name.name if is_folder(out) else out for name in names]
    if len(set(paths)) == len(paths):
        return paths
    return [path.with_name(f"{path.stem}_{n + 1}{names[n].suffix}") for n, path in enumerate(paths)]


def is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def check_target(out: Path) -> None:
    """Make the folder that the files go to and write into it; called before a run, that none is lost."""
    draft = draft_of(out / "draft" if is_folder(out) else out)
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise ComfyError(f"Nothing can be written to {out} ({error.strerror}): choose another --out.") from error


def show_progress(title: str, step: float, steps: float) -> None:
    """A bar on a terminal; in a log one line a node."""
    bar = f" [{'#' * round(30 * step / steps):30}] {step:g}/{steps:g}" if steps > 1 else ""
    if LINE or not bar:
        print(f"{LINE}{title}{bar}", end="" if LINE else "\n", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Queue an API workflow on a running ComfyUI and fetch what it saved.")
    parser.add_argument("workflow", help="a workflow in the API format (JSON)")
    parser.add_argument("--server", default="127.0.0.1:8188", metavar="HOST:PORT", help="or https://HOST:PORT")
    for option, (title, inputs) in SHORTCUTS.items():
        kind, about = int if option == "seed" else str, f'sets {" or ".join(inputs)} of the node titled "{title}"'
        parser.add_argument(f"--{option}", type=kind, help=about)
    parser.add_argument("--set", action="append", default=[], metavar="TITLE.INPUT=VALUE", help="sets any other input")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FILE", help="or a folder; default: this folder")
    args = parser.parse_args(argv)
    try:
        graph, comfy = load_graph(args.workflow), Comfy(args.server)
        check_target(args.out)
        for option, (title, inputs) in SHORTCUTS.items():
            if (value := getattr(args, option)) is not None:
                set_input(graph, title, inputs, comfy.upload(value) if option == "image" else value, unwired=True)
        for setting in args.set:
            apply_setting(graph, setting)
        found = saved_files(comfy.run(graph, show_progress))
        if not found:
            raise ComfyError("The workflow ran, but saved no file: does it end in a Save node?")
        print(LINE, end="", file=sys.stderr)
        for file, path in zip(found, targets(found, args.out), strict=True):
            print(comfy.fetch(file, path))
    except (ComfyError, OSError, KeyboardInterrupt) as error:
        print(f"{LINE}{str(error) or 'Interrupted.'}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
