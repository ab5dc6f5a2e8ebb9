"""What a user does besides pressing Run: cancel, run again, look at previews, take the workflow out of the video."""

import json
import threading
import time
import uuid

import av
import pytest

from .server import ROOT, queue_workflow

DEMO = ROOT / "example_workflows" / "api" / "demo.json"


def demo(**sampler) -> dict:
    graph = json.loads(DEMO.read_text("utf-8"))
    node(graph, "Sampler")["inputs"].update(sampler)
    return graph


def node(graph: dict, title: str) -> dict:
    return next(n for n in graph.values() if n["_meta"]["title"] == title)


def pictures(server, graph: dict, path) -> list[bytes]:
    (saved,) = queue_workflow.saved_files(server.client.run(graph))
    with av.open(str(server.client.fetch(saved, path))) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


def test_cancel_stops_the_run_and_the_next_one_is_clean(server, tmp_path):
    before = pictures(server, demo(seed=3), tmp_path / "before.mp4")
    started = threading.Event()

    def cancel():
        assert started.wait(60)
        server.client.ask("/interrupt", {"reason": "enough"})  # whatever runs

    def on_progress(title, step, steps):
        if title == "Sampler" and step > 1:
            started.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(queue_workflow.ComfyError, match="interrupted at node"):
        server.client.run(demo(steps=600, seed=3), on_progress)
    canceller.join()
    end = time.monotonic() + 30  # the server says it is interrupted a moment before the queue is empty
    while any(server.client.ask("/queue").values()):
        assert time.monotonic() < end
        time.sleep(0.1)
    # Another name, so that nothing comes from the cache but the loaders.
    again = demo(seed=3)
    node(again, "Save video")["inputs"]["filename_prefix"] = "video/again"
    node(again, "Image to video")["inputs"]["width"] = 64
    assert pictures(server, again, tmp_path / "after.mp4") == before


def test_the_sampler_shows_its_steps_and_previews(server):
    """Progress of every step, and a picture with each: binary messages on the websocket."""
    client, prompt = str(uuid.uuid4()), str(uuid.uuid4())
    steps, previews = set(), 0
    with queue_workflow.open_websocket(f"{server.client.url}/ws?clientId={client}") as events:
        graph = demo(seed=11, steps=4)
        server.client.queue(graph, client, prompt)
        while True:
            last, kind, payload = queue_workflow.read_frame(events)
            assert last
            if kind == 2:
                previews += 1
                continue
            message = json.loads(payload)
            data = message["data"]
            if message["type"] == "progress" and graph[data["node"]]["class_type"] == "KSampler":
                steps.add(data["value"])
            if message["type"] == "executing" and data["node"] is None:
                break
    assert max(steps) == 4
    assert previews >= 3


def test_the_video_carries_its_workflow(server, tmp_path):
    graph = demo(seed=12)
    (saved,) = queue_workflow.saved_files(server.client.run(graph))
    with av.open(str(server.client.fetch(saved, tmp_path / "clip.mp4"))) as file:
        stored = json.loads(file.metadata["prompt"])
    assert {n["class_type"] for n in stored.values()} == {n["class_type"] for n in graph.values()}
    assert node(stored, "Motion")["inputs"]["text"] == node(graph, "Motion")["inputs"]["text"]
