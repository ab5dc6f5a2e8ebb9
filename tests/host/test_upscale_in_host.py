"""Upscalers in the host: RCAN files of ours in its own loader, and our node with networks of spandrel's."""

import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan

from .server import queue_workflow, run_inside

INSIDE = Path(__file__).parent / "inside"
SMALL: dict[str, Any] = {"groups": 1, "blocks": 2, "features": 8, "reduction": 4}
NETWORKS = {
    "x4": RCANConfig(**SMALL),
    "x2": RCANConfig(**SMALL, scale=2),
    "x3": RCANConfig(**SMALL, scale=3),
    "mean shift": RCANConfig(**SMALL, mean_shift=True),
    "wide": RCANConfig(groups=2, blocks=1, features=32, reduction=16),
}


def random_rcan(config: RCANConfig) -> RCAN:
    """Of random weights, whose images have contrast."""
    torch.manual_seed(0)
    network: Any = RCAN(config).requires_grad_(False)
    network.tail[1].weight *= 3
    network.tail[1].bias += 0.5
    if config.mean_shift:
        network.tail[1].weight *= 10
        for layer, sign in ((network.sub_mean, -1), (network.add_mean, 1)):
            layer.weight.copy_(torch.eye(3)[:, :, None, None])
            layer.bias.copy_(sign * 255 * torch.tensor([0.4488, 0.4371, 0.4040]))
    return network


@pytest.fixture(scope="module")
def facts(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upscalers")
    for name, config in NETWORKS.items():
        save_rcan(random_rcan(config), folder / f"{name}.safetensors", dtype=None)
    return run_inside(host, (INSIDE / "upscale.py").read_text(), folder)


# -- files of ours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_hosts_loader_computes_what_ours_does(facts, name):
    told = facts["ours"][name]
    assert (told["name"], told["scale"]) == ("RCAN", NETWORKS[name].scale)
    assert told["off"].pop("contrast") > 0.02
    assert max(told["off"].values()) < 1e-5, told["off"]


def test_spandrels_rcan_still_spoils_its_input_where_ours_does_not(facts):
    """Why templates wire no RCAN into core's own node."""
    assert facts["ours"]["mean shift"]["spoils"]


def test_the_demos_upscaler_opens(facts):
    assert facts["demo"] == [4, 4]


# -- the node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rrdb", "compact", "rcan", "swinir"])
def test_a_clip_is_its_frames_through_the_network(facts, name):
    told = facts["whole"][name]
    assert told["contrast"] > 0.02
    assert told["off"] < 1e-5
    assert told["result"] == ["torch.float32", "cpu", True, True]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("bf16", "rrdb"), ("bf16", "rcan"), ("bf16", "swinir"), ("fp16", "compact")],
)
def test_half_precision_is_close(facts, kind, name):
    assert 0 < facts[kind][name]["off"] < 0.1


@pytest.mark.parametrize("name", ["compact", "rcan"])
def test_in_tiles_it_is_the_same_clip(facts, name):
    assert facts["tiles"][name]["off"] < 1e-5


def test_model_and_clip_stay_as_they_were(facts):
    """Weights, their type and place, tensors that networks keep beside them, hooks, and what the model computes."""
    for kind in ("whole", "bf16", "fp16", "tiles"):
        for name, told in facts[kind].items():
            assert told["same"], (kind, name)
            assert told["images"], (kind, name)


def test_weights_that_the_host_moves_meanwhile_are_no_matter(facts):
    assert facts["moved by the host"] == {"rcan": True, "compact": True}


def test_what_the_host_has_pinned_is_not_copied(facts):
    assert facts["pinned"] < 1e-5


def test_too_little_memory_makes_tiles(facts):
    assert facts["short of memory"] < 1e-5


def test_the_host_is_asked_for_memory(facts):
    one, four, tiled, ours, ours_four, ours_tiled, ours_half = facts["room"]  # none on a CPU
    frame = 3 * 4 * 384 * 4 * 192 * 344
    assert one == four
    assert frame < one < 1.01 * frame
    assert tiled < one
    assert 3.9 * frame < ours_four < 4.1 * ours
    assert ours_tiled < ours
    assert ours_half == ours_four / 2


def test_cancel_stops_between_layers(facts):
    assert {name: len(ran) for name, ran in facts["cancelled"].items()} == {"rrdb": 1, "rcan": 1}


def test_progress_shows_the_newest_frame(facts):
    assert facts["shown"] == [[n, 5, "JPEG", [166, 140]] for n in range(1, 6)]
    assert facts["together"] == [[n, 5, "JPEG", [332, 280]] for n in (2, 4, 5)]


def test_grey_and_see_through_pictures_are_taken(facts):
    odd = facts["odd"]
    assert odd["grey"] < 1e-5
    assert odd["alpha"] < 1e-5
    assert odd["pixel"] == [1, 2, 2, 3]
    assert odd["one row"] == [1, 2, 166, 3]


def test_sizes(facts):
    assert facts["sizes"] == {
        "none": [1376, 768],
        "both": [1376, 768],
        "width": [1000, 558],
        "height": [896, 500],
        "up to the edge": [1376, 768],
        "a sliver": [100, 2],
        "odd edge": [27, 26],
    }
    assert facts["cropped"] == [5, 140, 100, 3]


REFUSED = {
    "no frames": ("images: ", "no picture"),
    "nothing": ("upscale_model: ", "is no upscaler (NoneType)"),
    "restores": ("upscale_model: ", "x2 or more"),
    "grey model": ("upscale_model: ", "RGB"),
    "x2": ("width: 344x192 times 2 is 688x384; 1376x768 asks for x4", "x4 model"),
    "height": ("height: ", "500"),
    "fp16": ("precision: ", "choose fp32 or bf16"),
    "tile": ("tile: 10 pixels", "64 or more"),
    "holes": ("images: ", "frames 3 to 3"),
    "fails in bf16": (
        "upscale_model: the model fails in bf16 (expected m1 and m2 to have the same dtype); ",
        "choose fp32",
    ),
    "memory": ("images: 300 frames of 1376x768 need 3.8 GB of memory and 2.1 GB are free", "dreamfactory upscale"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_sentence_that_names_the_input(facts, case):
    begins, words = REFUSED[case]
    sentence = facts["refused"][case]
    assert sentence.startswith(begins), sentence
    assert words in sentence
    assert len(sentence) < 300


# -- through the API --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(server):
    save_rcan(random_rcan(NETWORKS["wide"]), server.models("upscale_models") / "wide.safetensors")
    return server


def graph(frames: int, colour: int) -> dict:
    def node(kind, title, **inputs):
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}

    return {
        "1": node("EmptyImage", "Clip", width=96, height=64, batch_size=frames, color=colour),
        "2": node("UpscaleModelLoader", "Upscale model", model_name="wide.safetensors"),
        "3": node(
            "DreamFactoryUpscaleVideo", "Upscale", images=["1", 0], upscale_model=["2", 0], width=0, height=0,
            frames_at_once=4,
        ),
        "4": node("CreateVideo", "Create video", images=["3", 0], fps=8.0, bit_depth=8),
        "5": node(
            "SaveVideo", "Save video", video=["4", 0], filename_prefix="video/upscaled", format="auto",
            **{"format.codec": "auto"},
        ),
    }  # fmt: skip


def test_progress_and_pictures_arrive(served):
    client, prompt = str(uuid.uuid4()), str(uuid.uuid4())
    steps, pictures = [], 0
    with queue_workflow.open_websocket(f"{served.client.url}/ws?clientId={client}") as events:
        served.client.queue(graph(6, 0x3060C0), client, prompt)
        while True:
            last, kind, payload = queue_workflow.read_frame(events)
            assert last
            if kind == 2:
                pictures += b"\xff\xd8\xff" in payload[:200]  # a JPEG
                continue
            message = json.loads(payload)
            if message["type"] == "progress" and message["data"]["node"] == "3":
                steps.append((message["data"]["value"], message["data"]["max"]))
            if message["type"] == "executing" and message["data"]["node"] is None:
                break
    assert steps == [(n, 6) for n in range(1, 7)]
    assert pictures == 6
    assert queue_workflow.saved_files(served.client.ask(f"/history/{prompt}")[prompt]["outputs"])


def test_cancel_ends_the_run_and_the_server_lives(served):
    reached = threading.Event()
    cancelled = []

    def cancel():
        assert reached.wait(60)
        served.client.ask("/interrupt", {"reason": "enough"})
        cancelled.append(time.monotonic())

    def on_progress(title, step, steps):
        if title == "Upscale" and step >= 2:
            reached.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(queue_workflow.ComfyError, match='interrupted at node "Upscale"'):
        served.client.run(graph(400, 0xC06030), on_progress)
    canceller.join()
    assert time.monotonic() - cancelled[0] < 10
    assert queue_workflow.saved_files(served.client.run(graph(3, 0x80C080)))
