"""The demos through a real server: a copied bundle makes the same clip, an output that is not there a sentence, and the
second demo is headless generation's clip."""

import json
import shutil
import time
import uuid
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfactory.pipelines.bundle import load_bundle
from dreamfactory.pipelines.image_to_video import Settings, animate

from .server import ROOT, queue_workflow

API = ROOT / "example_workflows" / "api"
DEMOS = {"demo": ROOT / "pipelines" / "demo", "demo_text_to_video": ROOT / "pipelines" / "demo_text_to_video"}
PARTS = 5  # outputs that Load Bundle has as Load Demo Bundle has them


def graph_of(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text("utf-8"))


def node(graph: dict, title: str) -> dict:
    return next(n for n in graph.values() if n["_meta"]["title"] == title)


def add(graph: dict, title: str, kind: str, **inputs) -> str:
    name = str(max(int(k) for k in graph) + 1)
    graph[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return name


def frames(server, graph: dict, path: Path) -> list[bytes]:
    saved = [f for f in queue_workflow.saved_files(server.client.run(graph)) if f["filename"].endswith(".mp4")]
    with av.open(str(server.client.fetch(saved[0], path))) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


@pytest.fixture(scope="module")
def bundled(server):
    """The server, with the demos' bundles copied to where a user would put a run's."""
    for name, folder in DEMOS.items():
        shutil.copytree(folder, server.models("diffusion_models") / "runs" / name, dirs_exist_ok=True)
    return server


@pytest.mark.parametrize("name", DEMOS)
def test_a_copied_bundle_makes_the_demos_clip(bundled, tmp_path, name):
    graph = graph_of(name)
    expected = frames(bundled, graph, tmp_path / "demo.mp4")
    loader = add(graph, "Bundle", "DreamFactoryLoadBundle", bundle_name=f"runs/{name}", weight_dtype="default")
    for other in graph.values():
        for key, value in other["inputs"].items():
            if isinstance(value, list) and value[0] == "1" and value[1] < PARTS:
                other["inputs"][key] = [loader, value[1]]
    assert frames(bundled, graph, tmp_path / "bundle.mp4") == expected


def test_an_old_graph_without_the_demos_choice_is_the_first_demo(server, tmp_path):
    graph = graph_of("demo")
    expected = frames(server, graph, tmp_path / "new.mp4")
    del node(graph, "Load demo bundle")["inputs"]["demo"]
    assert frames(server, graph, tmp_path / "old.mp4") == expected


ABSENT = {
    "motion text": ("Prompt", "clip", 2, "has no motion text encoder (T5), and its network reads none"),
    "clip vision": ("Clip", "clip_vision", 3, "has no image encoder, and its network reads none"),
    "picture": ("Clip", "first_frame", 5, "begins without a picture"),
}


def wired_wrongly(output: str) -> tuple[dict, str, str]:
    """The second demo's graph with a wire from an output it does not have; the wire's other end, the sentence."""
    graph = graph_of("demo_text_to_video")
    title, field, index, why = ABSENT[output]
    node(graph, title)["inputs"][field] = ["1", index]
    return graph, title, f"{output}: the demo 'text to video' {why}; disconnect this wire."


@pytest.mark.parametrize("output", ABSENT)
def test_a_wire_from_an_absent_output_is_one_sentence_at_its_other_end(server, output):
    graph, title, sentence = wired_wrongly(output)
    for _ in range(2):  # from the loader, and from the host's cache
        with pytest.raises(queue_workflow.ComfyError) as caught:
            server.client.run(graph)
        assert str(caught.value) == f'Node "{title}" failed with DreamFactory.NodeError: {sentence}'


def test_who_only_asks_for_the_history_is_told_too(server):
    """Without a websocket: ComfyUI's own blocker would leave a run there that succeeded with nothing."""
    graph, _, sentence = wired_wrongly("motion text")
    prompt = str(uuid.uuid4())
    server.client.ask("/prompt", {"prompt": graph, "prompt_id": prompt})
    end = time.monotonic() + 60
    while not (found := server.client.ask(f"/history/{prompt}")):
        assert time.monotonic() < end
        time.sleep(0.2)
    status = found[prompt]["status"]
    assert status["status_str"] == "error"
    assert [data["exception_message"].strip() for event, data in status["messages"] if event == "execution_error"] == [
        sentence
    ]


def test_a_wire_that_nobody_needs_stops_nothing(server, tmp_path):
    graph = graph_of("demo_text_to_video")
    add(graph, "Nobody's", "CLIPTextEncode", clip=["1", 2], text="")
    assert frames(server, graph, tmp_path / "clip.mp4")


def test_the_template_is_as_its_bundle_says():
    graph = graph_of("demo_text_to_video")
    defaults = json.loads((DEMOS["demo_text_to_video"] / "bundle.json").read_text("utf-8"))["defaults"]
    clip, sampler = node(graph, "Clip")["inputs"], node(graph, "Sampler")["inputs"]
    assert [clip[k] for k in ("frames", "height", "width")] == [defaults[k] for k in ("frames", "height", "width")]
    assert (sampler["steps"], sampler["cfg"]) == (defaults["steps"], defaults["guidance_scale"])
    assert node(graph, "Create video")["inputs"]["fps"] == defaults["fps"]


def test_the_text_to_video_template_is_the_headless_clip(server):
    """Every part at once: tokens, noise of the seed, schedule, guidance, decoder. The host spaces its timesteps within
    one of ours and writes 8 bits."""
    graph = graph_of("demo_text_to_video")
    (decode,) = (key for key, n in graph.items() if n["class_type"] == "VAEDecode")
    still = add(graph, "Frames", "SaveImage", images=[decode, 0], filename_prefix="frames")
    saved = server.client.run(graph)[still]["images"]
    pictures = [Image.open(server.base / "output" / f["subfolder"] / f["filename"]) for f in saved]
    theirs = torch.stack([torch.from_numpy(np.array(p.convert("RGB"), dtype=np.float32) / 255) for p in pictures])

    text, sampler = node(graph, "Prompt")["inputs"]["text"], node(graph, "Sampler")["inputs"]
    bundle = load_bundle(DEMOS["demo_text_to_video"])
    ours = animate(bundle, text=[text], settings=Settings(seed=sampler["seed"]))[0].movedim(1, -1)
    assert theirs.shape == ours.shape
    assert theirs.std() > 0.05  # a picture, not one colour
    assert (theirs - ours).abs().mean() < 0.005
    assert (theirs - ours).abs().max() < 0.05
