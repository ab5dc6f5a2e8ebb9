"""Every template through a real server, to a video that decodes with the right size and number of frames.

Files that no test can have are stood in for: a small network of random weights under the file's name, and small
loaders (`stand_ins`) for core's loaders of big files. Everything else of a template runs as it is.

The demos' thumbnails are made of the clips they give; after a change of weights write them anew:

    WRITE_THUMBNAILS=1 python -m pytest tests/host/test_templates.py -k "video and demo"
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from dreamfactory.model_patches import ProjectorConfig, UNetConfig, VideoUNet, preset, save_unet
from dreamfactory.model_patches.checkpoints.export import export_motion
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan
from dreamfactory.schedulers import SCHEDULES

from .server import ROOT, queue_workflow

TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
API = ROOT / "example_workflows" / "api"
STAND_INS = {
    "CheckpointLoaderSimple": "StandInCheckpoint",
    "CLIPLoader": "StandInText",
    "CLIPVisionLoader": "StandInVision",
    "ControlNetLoader": "StandInControlNet",
    "VAELoader": "StandInVae",
}

# The small networks' shape: that of the stand-in checkpoint, with the demo encoders' widths.
SMALL = {
    "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (True, True),
    "context_dim": 64, "head_dim": 16, "temporal_conv": True, "temporal_attention": True,
    "frame_rate_embedding": "fps",
}  # fmt: skip
UPSCALED = (380, 256)  # four times 96x64, and four columns less
DEMO_SIZE = (256, 256)  # the demos run as they are
CLIPS = {"variations": 3}  # videos of one run, where it is not one
FILMED = 20  # frames of the video that a template is given: more than a context window
SIZES = {
    "demo": DEMO_SIZE,
    "variations": DEMO_SIZE,
    "demo_text_to_video": DEMO_SIZE,
    "text_to_video_upscaled": UPSCALED,
    "video_to_video": (128, 80),  # the least megapixels that Scale Image has, in the shape of 90x60
}
SHOWN = (0, 2, 5, 7)  # frames of a demo's thumbnail
VISION_WIDTH = json.loads((ROOT / "pipelines/demo/image_encoder/config.json").read_text("utf-8"))["hidden_size"]
NETWORKS = {
    "dynamicrafter_1024_v1_bf16.safetensors": (
        UNetConfig(
            **SMALL,
            first_frame_concat="repeat",
            image_adapter="all",
            image_token_dim=64,
            image_tokens_per_frame=4,
            image_projector=ProjectorConfig(
                embedding_dim=VISION_WIDTH, output_dim=64, queries=4, dim=32, depth=1, heads=2, head_dim=16, frames=16
            ),
        ),
        "dynamicrafter-1024",
    ),
    "modelscope_text_to_video.safetensors": (UNetConfig(**SMALL, init_temporal=True), "modelscope"),
}
MOTION = replace(
    preset("animatediff"), model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(True, False),
    temporal_attention_levels=(True, True), context_dim=64,
)  # fmt: skip
(crafter, _) = NETWORKS["dynamicrafter_1024_v1_bf16.safetensors"]
NETWORKS["dynamicrafter_512_interp_v1_bf16.safetensors"] = (
    replace(crafter, first_frame_concat="ends"), "dynamicrafter-512",
)  # fmt: skip


@pytest.fixture(scope="module")
def small(server):
    """The server, with small networks under the names that the templates give."""
    upscaler = RCAN(RCANConfig(groups=1, blocks=1, features=8, reduction=4))
    save_rcan(upscaler, server.models("upscale_models") / "RealESRGAN_x4plus.safetensors")
    for name, (config, schedule) in NETWORKS.items():
        torch.manual_seed(0)
        unet = VideoUNet(config)
        for weight in unet.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.02)
        save_unet(unet, server.models("diffusion_models") / name, schedule=SCHEDULES[schedule].to_dict())
    torch.manual_seed(0)
    export_motion(VideoUNet(MOTION), server.models("model_patches") / "mm_sd15_v3.safetensors")
    return server


def shrink(graph: dict) -> dict:
    """The graph with stand-ins, two steps and little pictures; wiring, frames and choices stay."""
    for node in graph.values():
        inputs, kind = node["inputs"], node["class_type"]
        if kind in STAND_INS:
            of_15 = inputs.get("ckpt_name", "").startswith("v1-5")
            node["class_type"], node["inputs"] = "StandInCheckpoint15" if of_15 else STAND_INS[kind], {}
        if "release" in inputs:
            inputs["release"] = "from the file"  # the small networks say it themselves
        if kind in ("KSampler", "DreamFactoryKSamplerLongClip"):
            inputs["steps"] = 2
        if kind in ("DreamFactoryImageToVideo", "EmptyLatentImage") and not isinstance(inputs["width"], list):
            inputs["width"], inputs["height"] = 96, 64
        if kind == "ImageScaleToTotalPixels":
            inputs["megapixels"] = 0.01
        if kind == "DreamFactoryUpscaleVideo":
            inputs["width"], inputs["height"] = UPSCALED
    return graph


def one(graph: dict, kind: str) -> dict:
    (node,) = [n for n in graph.values() if n["class_type"] == kind]
    return node["inputs"]


def frames_of(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as file:
        return [frame.to_image() for frame in file.decode(video=0)]


def film(path: Path) -> Path:
    """A square that goes to the right, FILMED frames at 8 a second, without a sound."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", 8)
        stream.width, stream.height = 90, 60
        for i in range(FILMED):
            picture = Image.new("RGB", (90, 60), (200, 80, 40))
            picture.paste((20, 60, 200), (3 * i, 20, 3 * i + 20, 40))
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return path


def thumbnail(pictures: list[Image.Image]) -> Image.Image:
    """Four frames, two by two."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 2 * width, i // 2 * height))
    return sheet


@pytest.mark.parametrize("name", [p.stem for p in TEMPLATES])
def test_template_runs_to_a_video(small, name, tmp_path):
    graph = json.loads((API / f"{name}.json").read_text("utf-8"))
    graph = graph if SIZES.get(name) == DEMO_SIZE else shrink(graph)
    frames = one(graph, "DreamFactoryImageToVideo")["frames"]
    frames = FILMED if isinstance(frames, list) else frames  # as many as the video has
    picture = tmp_path / "example.png"
    Image.new("RGB", (90, 60), (200, 80, 40)).save(picture)
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = small.client.upload(picture)
        if node["class_type"] == "LoadVideo":
            node["inputs"]["file"] = small.client.upload(film(tmp_path / "video.mp4"))
    saved = [f for f in queue_workflow.saved_files(small.client.run(graph)) if f["filename"].endswith(".mp4")]
    assert len(saved) == CLIPS.get(name, 1)
    clips = [frames_of(small.client.fetch(file, tmp_path / f"{i}.mp4")) for i, file in enumerate(saved)]
    for clip in clips:
        assert [picture.size for picture in clip] == [SIZES.get(name, (96, 64))] * frames
    assert len({clip[-1].tobytes() for clip in clips}) == len(clips)  # each is another
    if os.environ.get("WRITE_THUMBNAILS") and SIZES.get(name) == DEMO_SIZE:
        shown = [clip[-1] for clip in clips] + [clips[0][0]] if len(clips) > 1 else [clips[0][i] for i in SHOWN]
        thumbnail(shown).save(API.parent / f"{name}.jpg", quality=88)


@pytest.mark.parametrize("name", [p.stem for p in TEMPLATES])
def test_template_uses_only_nodes_and_choices_there_are(server, name):
    info = server.client.ask("/object_info")
    for node in json.loads((API / f"{name}.json").read_text("utf-8")).values():
        known = info[node["class_type"]]["input"]
        declared = {**known.get("required", {}), **known.get("optional", {})}
        for key in node["inputs"]:
            assert key.split(".")[0] in declared, f"{node['class_type']} has no input {key}"


WINDOW, SIDEBAR, BARS = (1920, 1080), 60, 110  # pixels of a full-HD screen, and what of it is not canvas
LEGIBLE = 0.6  # of the size that titles and widgets have unscaled


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_template_opens_legible_and_in_sight(path):
    graph = json.loads(path.read_text("utf-8"))
    scale, (right, down) = graph["extra"]["ds"]["scale"], graph["extra"]["ds"]["offset"]
    assert scale >= LEGIBLE
    boxes = [(*n["pos"], *n["size"]) for n in graph["nodes"]] + [tuple(g["bounding"]) for g in graph["groups"]]
    for x, y, width, height in boxes:
        assert (x + right) * scale >= SIDEBAR
        assert (x + width + right) * scale <= WINDOW[0]
        assert (y + down) * scale >= 0
        assert (y + height + down) * scale <= WINDOW[1] - BARS


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_groups_are_as_large_as_what_they_hold(path):
    graph = json.loads(path.read_text("utf-8"))
    for x, y, width, height in (g["bounding"] for g in graph["groups"]):
        held = [n for n in graph["nodes"] if x <= n["pos"][0] < x + width and y <= n["pos"][1] < y + height]
        assert held
        assert y + height - max(n["pos"][1] + n["size"][1] for n in held) <= 60
        assert x + width - max(n["pos"][0] + n["size"][0] for n in held) <= 60


FILES = (".safetensors",)
FOLDERS = (
    "checkpoints",
    "clip_vision",
    "controlnet",
    "diffusion_models",
    "model_patches",
    "text_encoders",
    "upscale_models",
    "vae",
)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_every_file_a_template_needs_says_where_it_comes_from(path):
    """As core's templates do: the front end offers what is missing for download, into the folder that is named."""
    for node in json.loads(path.read_text("utf-8"))["nodes"]:
        needed = [v for v in node.get("widgets_values") or () if isinstance(v, str) and v.endswith(FILES)]
        offered = node["properties"].get("models", [])
        assert [m["name"] for m in offered] == needed
        for model in offered:
            assert model["url"].startswith("https://")
            assert model["url"].endswith(FILES)  # the front end offers no other
            assert model["directory"] in FOLDERS


def test_every_template_has_its_thumbnail_and_its_twin():
    assert TEMPLATES
    for path in TEMPLATES:
        assert path.with_suffix(".jpg").stat().st_size > 2000
        assert (API / path.name).is_file()


def test_twins_hold_what_the_templates_show():
    """Node by node: kinds, titles, links and widget values of the browser's file are in the API file."""
    for path in TEMPLATES:
        ui, api = json.loads(path.read_text("utf-8")), json.loads((API / path.name).read_text("utf-8"))
        nodes = {str(n["id"]): n for n in ui["nodes"] if n["type"] not in ("MarkdownNote", "Note")}
        assert nodes.keys() == api.keys()
        links = {link[0]: (str(link[1]), link[2]) for link in ui["links"]}
        for key, node in nodes.items():
            assert node["type"] == api[key]["class_type"]
            assert node.get("title", node["type"]) == api[key]["_meta"]["title"]
            wired = {i["name"]: links[i["link"]] for i in node.get("inputs", ()) if i.get("link") is not None}
            assert wired == {k: tuple(v) for k, v in api[key]["inputs"].items() if isinstance(v, list)}
            values = {str(v) for v in api[key]["inputs"].values() if not isinstance(v, list)}
            assert values <= {str(v) for v in node.get("widgets_values", ())} | {
                str(float(v)) for v in node.get("widgets_values", ()) if isinstance(v, int)
            }
