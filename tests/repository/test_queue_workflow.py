"""The queueing script against a small server that speaks as ComfyUI does; a real one is in tests/host."""

import base64
import hashlib
import importlib.util
import io
import json
import os
import re
import shlex
import ssl
import struct
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

SCRIPT = Path(__file__).parents[2] / "example_workflows" / "queue_workflow.py"
spec = importlib.util.spec_from_file_location("queue_workflow", SCRIPT)
assert spec is not None
assert spec.loader is not None
queue_workflow = importlib.util.module_from_spec(spec)
spec.loader.exec_module(queue_workflow)
ComfyError = queue_workflow.ComfyError


def node(kind: str, title: str | None = None, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs} | ({"_meta": {"title": title}} if title else {})


@pytest.fixture
def graph() -> dict:
    return {
        "1": node("CLIPTextEncode", "Prompt", text="old", clip=["9", 0]),
        "2": node("KSampler", "Sampler", seed=0, steps=20, **{"mode.length": 8}),
        "3": node("LoadImage", "First frame", image="example.png"),
        "4": node("SaveVideo", "Save v1.0", filename_prefix="clip"),
        "9": node("CLIPLoader"),
    }


# Titles and settings


def test_shortcut_sets_the_first_input_there_is(graph):
    queue_workflow.set_input(graph, "Sampler", ("seed", "noise_seed"), 7)
    assert graph["2"]["inputs"]["seed"] == 7
    graph["2"] = node("SamplerCustom", "Sampler", noise_seed=0)
    queue_workflow.set_input(graph, "Sampler", ("seed", "noise_seed"), 8)
    assert graph["2"]["inputs"] == {"noise_seed": 8}


def test_unknown_title_names_the_titles(graph):
    with pytest.raises(ComfyError, match=r'No nodes are titled "Motion"; there are: Prompt, Sampler, .*CLIPLoader\.$'):
        queue_workflow.set_input(graph, "Motion", ("text",), "x")


def test_title_that_two_nodes_have_is_refused(graph):
    graph["5"] = node("CLIPTextEncode", "Prompt", text="")
    with pytest.raises(ComfyError, match='2 nodes are titled "Prompt"'):
        queue_workflow.set_input(graph, "Prompt", ("text",), "x")


def test_unknown_input_names_the_inputs(graph):
    with pytest.raises(ComfyError, match=r'"Prompt" has no input txt; it has: text, clip\.'):
        queue_workflow.apply_setting(graph, "Prompt.txt=x")


@pytest.mark.parametrize(
    ("setting", "node_id", "name", "value"),
    [
        ("Sampler.steps=12", "2", "steps", 12),
        ("Sampler.steps=1e-3", "2", "steps", 0.001),
        ("Sampler.mode.length=16", "2", "mode.length", 16),
        ("Prompt.text=a = b.c", "1", "text", "a = b.c"),
        ('Prompt.text="12"', "1", "text", "12"),
        ("Prompt.text=", "1", "text", ""),
        ("Prompt.text=true", "1", "text", True),
        ("Save v1.0.filename_prefix=x/y", "4", "filename_prefix", "x/y"),
    ],
)
def test_settings(graph, setting, node_id, name, value):
    queue_workflow.apply_setting(graph, setting)
    assert graph[node_id]["inputs"][name] == value


@pytest.mark.parametrize("setting", ["Sampler.steps", "steps=3", ""])
def test_what_is_no_setting(graph, setting):
    with pytest.raises(ComfyError, match=r"TITLE\.input=value"):
        queue_workflow.apply_setting(graph, setting)


@pytest.mark.parametrize(
    "content", ['{"nodes": [], "links": []}', "[]", "{", '{"1": {"inputs": {}}}', '{"version": 1}']
)
def test_only_the_api_format_is_read(tmp_path, content):
    (tmp_path / "flow.json").write_text(content)
    with pytest.raises(ComfyError, match=r"export it with File > Export \(API\) or take it from api/"):
        queue_workflow.load_graph(tmp_path / "flow.json")


# Websocket frames: the examples of RFC 6455, 5.7


def read(data: bytes) -> tuple[bool, int, bytes]:
    return queue_workflow.read_frame(io.BytesIO(data))


def test_frames_of_the_standard():
    assert read(bytes.fromhex("810548656c6c6f")) == (True, 1, b"Hello")
    assert read(bytes.fromhex("010348656c")) == (False, 1, b"Hel")
    assert read(bytes.fromhex("80026c6f")) == (True, 0, b"lo")
    assert read(bytes.fromhex("890548656c6c6f")) == (True, 9, b"Hello")
    assert read(bytes.fromhex("827e0100") + bytes(256)) == (True, 2, bytes(256))
    assert read(bytes.fromhex("827f0000000000010000") + bytes(65536)) == (True, 2, bytes(65536))


def test_masked_frame_of_the_standard():
    frame = queue_workflow.control_frame(queue_workflow.PONG, b"Hello", bytes.fromhex("37fa213d"))
    assert frame == bytes.fromhex("8a8537fa213d7f9f4d5158")


def test_lost_connection_reads_as_its_end():
    assert read(b"")[1] == queue_workflow.CLOSE


# A whole run


def frame(kind: int, payload: bytes, last: bool = True) -> bytes:
    """A server's frame."""
    size = len(payload)
    length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
    return bytes([0x80 * last | kind]) + length + payload


def text(event: str, **data) -> bytes:
    return frame(1, json.dumps({"type": event, "data": data}).encode())


def progress(node_id: str, value: float, maximum: float) -> dict:
    state = {"state": "running", "value": value, "max": maximum, "display_node_id": node_id}
    return {node_id: state, "1": {"state": "finished", "value": 1, "max": 1, "display_node_id": "1"}}


class FakeComfy(ThreadingHTTPServer):
    """``script(prompt id)`` gives the frames that follow a queued workflow; the connection then closes."""

    daemon_threads = True
    refusal: dict | None = None
    outputs: dict = {}  # noqa: RUF012
    messages: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.script = lambda prompt_id: []
        self.queued = threading.Event()
        self.posted: list[tuple[str, dict | bytes]] = []
        self.sent_back = b""
        self.job: dict = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *args):
        """Clients that go away are a part of these tests; nothing is printed."""

    def answer(self, path: str) -> dict:
        if path == "/queue":
            return {"queue_running": [[0, self.job.get("prompt_id")]], "queue_pending": []}
        return {self.job["prompt_id"]: {"outputs": self.outputs, "status": {"messages": self.messages}}}


class Handler(BaseHTTPRequestHandler):
    server: FakeComfy
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/ws":
            self.websocket()
        elif url.path == "/view":
            query = {key: value[0] for key, value in parse_qs(url.query).items()}
            self.reply(404 if query["filename"] == "gone.mp4" else 200, json.dumps(query).encode())
        else:
            self.reply(200, json.dumps(self.server.answer(url.path)).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            self.server.posted.append((self.path, body))
            return self.reply(200, b'{"name": "picture (1).png", "subfolder": "", "type": "input"}')
        self.server.posted.append((self.path, json.loads(body)))
        if self.path == "/prompt":
            self.server.job = json.loads(body)
            refusal = self.server.refusal
            self.reply(400 if refusal else 200, json.dumps(refusal or {"node_errors": {}}).encode())
            return self.server.queued.set()
        return self.reply(200, b"")

    def websocket(self):
        self.server.queued.clear()
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.write(text("status", status={}))
        if self.server.queued.wait(10):
            for part in self.server.script(self.server.job["prompt_id"]):
                self.wfile.write(part)
                if part[0] == 0x89:  # a ping: a pong with the same payload comes back, masked
                    self.server.sent_back = self.rfile.read(6 + len(part) - 2)
        self.close_connection = True


@pytest.fixture
def comfy():
    with FakeComfy() as server:
        yield server
        server.shutdown()


def lively(prompt_id: str) -> list[bytes]:
    """A run with all that a websocket can bring: other people's events, previews, fragments, a ping among them."""
    half = text("progress_state", prompt_id=prompt_id, nodes=progress("2", 3, 12))
    whole = half[4:] if half[1] == 126 else half[2:]
    return [
        text("executing", prompt_id="someone else's", node=None),
        text("execution_cached", prompt_id=prompt_id, nodes=["9"]),
        text("progress_state", prompt_id=prompt_id, nodes=progress("2", 0, 1)),
        frame(2, b"\x00\x00\x00\x01" + bytes(300)),
        frame(1, whole[:20], last=False),
        frame(9, b"are you there?"),
        frame(0, whole[20:]),
        text("progress_state", prompt_id=prompt_id, nodes=progress("4.0.0.1", 0, 1)),
        text("executing", prompt_id=prompt_id, node=None),
    ]


def test_run_follows_the_events_and_returns_the_outputs(comfy, graph):
    comfy.script, comfy.outputs = lively, {"4": {"images": [{"filename": "a.mp4", "subfolder": "", "type": "output"}]}}
    seen = []
    outputs = queue_workflow.Comfy(comfy.address).run(graph, lambda *now: seen.append(now))
    assert outputs == comfy.outputs
    assert seen == [("Sampler", 0, 1), ("Sampler", 3, 12), ("Save v1.0", 0, 1)]
    mask, payload = comfy.sent_back[2:6], comfy.sent_back[6:]
    assert bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) == b"are you there?"


def main(comfy, tmp_path, graph, *options) -> int:
    (tmp_path / "flow.json").write_text(json.dumps(graph))
    return queue_workflow.main([str(tmp_path / "flow.json"), "--server", comfy.address, *map(str, options)])


def test_command_sets_uploads_runs_and_saves(comfy, graph, tmp_path, capsys):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    comfy.script = lively
    comfy.outputs = {
        "3": {"images": [{"filename": "preview.png", "subfolder": "", "type": "temp"}], "text": ["a word"]},
        "4": {"images": [{"filename": "a_1.mp4", "subfolder": "x y", "type": "output"}], "animated": [True]},
    }
    out = tmp_path / "new" / "clip.mp4"
    options = ["--prompt", "a red ball", "--image", tmp_path / "picture.png", "--seed", 7, "--set", "Sampler.steps=12"]
    assert main(comfy, tmp_path, graph, *options, "--out", out) == 0
    queued = comfy.job["prompt"]
    assert queued["1"]["inputs"]["text"] == "a red ball"
    assert queued["2"]["inputs"] | {"seed": 7, "steps": 12} == queued["2"]["inputs"]
    assert queued["3"]["inputs"]["image"] == "picture (1).png"
    upload = dict(comfy.posted)["/upload/image"]
    assert re.search(rb'name="image"; filename="picture.png"\r\n\r\n\x89PNG\r\n\r\n--', upload)
    assert json.loads(out.read_text()) == {"filename": "a_1.mp4", "subfolder": "x y", "type": "output"}
    assert [path.name for path in out.parent.iterdir()] == ["clip.mp4"]
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert said.err == "Sampler\nSave v1.0\n"


def test_several_files_are_numbered(tmp_path):
    found = [{"filename": "a.png", "subfolder": "x"}, {"filename": "a.png", "subfolder": "y"}, {"filename": "b.mp4"}]
    names = [path.name for path in queue_workflow.targets(found, tmp_path / "clip.mp4")]
    assert names == ["clip_1.png", "clip_2.png", "clip_3.mp4"]
    assert [path.name for path in queue_workflow.targets(found, Path())] == ["a_1.png", "a_2.png", "b_3.mp4"]
    assert [str(path) for path in queue_workflow.targets(found[1:], Path())] == ["a.png", "b.mp4"]
    (tmp_path / "clips").mkdir()
    into = queue_workflow.targets(found[1:], tmp_path / "clips")
    assert into == [tmp_path / "clips" / "a.png", tmp_path / "clips" / "b.mp4"]


def test_out_may_be_a_folder(comfy, graph, tmp_path):
    comfy.script = lively
    comfy.outputs = {"4": {"images": [{"filename": "a_1.mp4", "subfolder": "", "type": "output"}]}}
    (tmp_path / "clips").mkdir()
    assert main(comfy, tmp_path, graph, "--out", tmp_path / "clips") == 0
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["a_1.mp4"]


def test_place_that_cannot_be_written_is_told_before_anything_runs(comfy, graph, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main(comfy, tmp_path, graph, "--out", tmp_path / "file" / "clip.mp4") == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"Nothing can be written to .*clip\.mp4 \(.+\): choose another --out\.\n", told)
    assert comfy.posted == []


def test_no_draft_is_left_where_the_file_cannot_take_its_place(comfy, tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        queue_workflow.Comfy(comfy.address).fetch({"filename": "a.mp4"}, tmp_path / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("host:8188", "http://host:8188"),
        ("HTTP://host:8188/", "http://host:8188"),
        ("https://host/comfy/", "https://host/comfy"),
        ("[::1]:8188", "http://[::1]:8188"),
    ],
)
def test_addresses(server, url):
    assert queue_workflow.Comfy(server).url == url


@pytest.mark.parametrize("server", ["ws://host:8188", "ftp://host", "://host"])
def test_other_schemes_are_refused(server):
    with pytest.raises(ComfyError, match=r'^".*" is no address of a ComfyUI: write HOST:PORT or https://HOST:PORT\.$'):
        queue_workflow.Comfy(server)


@pytest.mark.parametrize("server", ["host:port", "http://[::1", "", "https://"])
def test_broken_addresses_are_told(server):
    with pytest.raises(ComfyError, match="No ComfyUI answers at"):
        queue_workflow.Comfy(server).ask("/queue")


@pytest.fixture
def certificate(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that this machine trusts, and its key."""
    paths = tmp_path / "own.crt", tmp_path / "own.key"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=127.0.0.1"]
    try:
        subprocess.run(
            [*command, "-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl that makes a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(paths[0]))
    return paths


def test_run_through_https(comfy, graph, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    comfy.socket = context.wrap_socket(comfy.socket, server_side=True)
    comfy.script, comfy.outputs = lively, {"4": {"images": [{"filename": "a.mp4"}]}}
    assert queue_workflow.Comfy(f"https://{comfy.address}").run(graph) == comfy.outputs


def test_certificate_that_nobody_trusts_is_told(comfy, graph, certificate, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ComfyError, match=r"No ComfyUI answers at https://.*certificate"):
        test_run_through_https(comfy, graph, certificate)


def test_examples_in_the_scripts_own_words_fit_their_workflows(monkeypatch, capsys, tmp_path):
    words = queue_workflow.__doc__ or ""
    examples = [shlex.split(line) for line in words.splitlines() if line.startswith("    python ")]
    assert len(examples) == 2
    queued = []
    monkeypatch.setattr(queue_workflow.Comfy, "upload", lambda self, path: str(path))
    monkeypatch.setattr(queue_workflow.Comfy, "run", lambda self, graph, progress: queued.append(graph) or {})
    monkeypatch.chdir(tmp_path)
    for _, _, workflow, *options in examples:
        queue_workflow.main([str(SCRIPT.parent / workflow), *options])
        assert "saved no file" in capsys.readouterr().err
    assert len(queued) == len(examples)


def test_refused_workflow_names_node_and_input(comfy, graph, tmp_path, capsys):
    error = {
        "message": "Value 0 smaller than min of 1",
        "details": "steps",
        "extra_info": {"input_name": "steps"},
    }
    listed = error | {
        "message": "Value not in list",
        "details": "image: 'x' not in []",
        "extra_info": {"input_name": "image"},
    }
    comfy.refusal = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"2": {"errors": [error]}, "3": {"errors": [listed]}},
    }
    assert main(comfy, tmp_path, graph) == 1
    assert capsys.readouterr().err == (
        'The server refuses the workflow: node "Sampler", input "steps": Value 0 smaller than min of 1; '
        'node "First frame", input "image": Value not in list: \'x\' not in []\n'
    )


@pytest.mark.parametrize("as_combo", [False, True], ids=["list", "COMBO"])
def test_long_lists_are_cut_to_what_comes_nearest(comfy, graph, tmp_path, capsys, as_combo):
    files = [f"runs/one_{index}/image_encoder/model.safetensors" for index in range(19)] + ["sd15_video.safetensors"]
    extra = {
        "input_name": "unet_name",
        "input_config": ["COMBO", {"options": files}] if as_combo else [files, {}],
        "received_value": "sd15_vidoe.safetensors",
    }
    error = {"message": "Value not in list", "details": f"unet_name: 'sd15_vidoe.safetensors' not in {files}"}
    comfy.refusal = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"2": {"errors": [error | {"extra_info": extra}]}},
    }
    assert main(comfy, tmp_path, graph) == 1
    told = capsys.readouterr().err
    assert "Value not in list: 'sd15_vidoe.safetensors' is none of 20; nearest: 'sd15_video.safetensors'" in told
    assert len(told) < 400


def test_missing_node_type_is_told(comfy, graph):
    comfy.refusal = {"error": {"message": "Node 'Sampler' not found.", "details": "Node ID '#2'"}, "node_errors": {}}
    with pytest.raises(ComfyError, match=r"refuses the workflow: Node 'Sampler' not found\.$"):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_workflow_of_which_only_a_part_is_accepted_is_withdrawn(comfy, graph):
    client = queue_workflow.Comfy(comfy.address)
    wrong = {
        "errors": [{"message": "Required input is missing", "details": "clip", "extra_info": {"input_name": "clip"}}]
    }
    client.ask = lambda path, data, ask=client.ask: (
        {"node_errors": {"1": wrong}} if path == "/prompt" else ask(path, data)
    )
    with pytest.raises(ComfyError, match=r'node "Prompt", input "clip": Required input is missing$'):
        client.queue(graph, "me", "an id")
    assert comfy.posted == [("/queue", {"delete": ["an id"]}), ("/interrupt", {"prompt_id": "an id"})]


def test_node_that_fails_is_named(comfy, graph):
    failed = {"node_id": "2", "exception_type": "RuntimeError", "exception_message": "out of\n luck"}
    comfy.script = lambda prompt_id: [text("execution_error", prompt_id=prompt_id, **failed)]
    with pytest.raises(ComfyError, match='Node "Sampler" failed with RuntimeError: out of luck'):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_failure_is_also_found_in_the_history(comfy, graph):
    comfy.script = lambda prompt_id: [text("executing", prompt_id=prompt_id, node=None)]
    comfy.messages = [["execution_start", {}], ["execution_interrupted", {"node_id": "2"}]]
    with pytest.raises(ComfyError, match='interrupted at node "Sampler"'):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_interruption_from_elsewhere_is_told(comfy, graph):
    comfy.script = lambda prompt_id: [text("execution_interrupted", prompt_id=prompt_id, node_id="2")]
    with pytest.raises(ComfyError, match='interrupted at node "Sampler"'):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_workflow_taken_out_of_the_queue_ends_the_wait(comfy, graph):
    comfy.script = lambda prompt_id: [text("status", status={})]
    comfy.answer = lambda path: {}
    with pytest.raises(ComfyError, match="taken out of the server's queue"):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_server_that_goes_away_is_told_with_the_node(comfy, graph):
    comfy.script = lambda prompt_id: lively(prompt_id)[:4]
    with pytest.raises(ComfyError, match=r"The server went away \(.*\); last node: Sampler"):
        queue_workflow.Comfy(comfy.address).run(graph)


def test_ctrl_c_stops_the_workflow(comfy, graph, tmp_path, capsys, monkeypatch):
    def pressed(*now):
        raise KeyboardInterrupt

    comfy.script = lively
    monkeypatch.setattr(queue_workflow, "show_progress", pressed)
    assert main(comfy, tmp_path, graph) == 130
    assert ("/interrupt", {"prompt_id": comfy.job["prompt_id"]}) in comfy.posted
    assert capsys.readouterr().err == "Interrupted.\n"


def test_nothing_saved_and_nothing_handed_out(comfy, graph, tmp_path, capsys):
    comfy.script = lively
    assert main(comfy, tmp_path, graph) == 1
    assert "saved no file" in capsys.readouterr().err
    comfy.outputs = {"4": {"images": [{"filename": "gone.mp4", "subfolder": "", "type": "output"}]}}
    assert main(comfy, tmp_path, graph, "--out", tmp_path / "clip.mp4") == 1
    assert "404" in capsys.readouterr().err
    assert not (tmp_path / "clip.mp4").exists()


def test_no_server_and_no_file(graph, tmp_path, capsys):
    with FakeComfy() as closed:
        closed.shutdown()
    assert main(closed, tmp_path, graph) == 1
    assert re.match(r"No ComfyUI answers at http://127\.0\.0\.1:\d+ \(.*refused\): start it", capsys.readouterr().err)
    assert queue_workflow.main([str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_what_has_no_ending_is_a_folder_whether_it_is_there_or_not(tmp_path):
    found = [{"filename": "a.mp4"}, {"filename": "b.mp4"}]
    out = tmp_path / "new" / "folder"
    queue_workflow.check_target(out)
    assert out.is_dir()
    assert queue_workflow.targets(found, out) == [out / "a.mp4", out / "b.mp4"]
    queue_workflow.check_target(tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()


def test_a_wire_is_not_replaced_by_a_shortcut():
    graph = {
        "1": {"class_type": "CreateList", "inputs": {}, "_meta": {"title": "Seeds"}},
        "2": {"class_type": "KSampler", "inputs": {"seed": ["1", 0]}, "_meta": {"title": "Sampler"}},
    }
    with pytest.raises(queue_workflow.ComfyError, match='"Sampler" takes its seed from "Seeds"'):
        queue_workflow.set_input(graph, "Sampler", ("seed",), 5, unwired=True)
    queue_workflow.apply_setting(graph, "Sampler.seed=5")
    assert graph["2"]["inputs"]["seed"] == 5


def test_a_picture_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(queue_workflow.ComfyError, match=r"x.png is no file: give a picture"):
        queue_workflow.Comfy("127.0.0.1:1").upload(tmp_path / "x.png")


def test_what_a_node_says_is_read_from_the_servers_binary_message():
    """Kind 3, the length of the node's id, the id, the text; previews (kind 1) say nothing."""
    said = struct.pack(">I", 3) + struct.pack(">I", 2) + b"12" + b"trained with 8 frames"
    assert queue_workflow.said_by_node(said) == {
        "type": "text",
        "data": {"node": "12", "text": "trained with 8 frames"},
    }
    assert queue_workflow.said_by_node(struct.pack(">I", 1) + bytes(40)) == {}
    assert queue_workflow.said_by_node(b"") == {}
