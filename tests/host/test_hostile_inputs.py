"""What users get wrong, through a real server's API: one clear sentence that names the node's input, and the server
goes on. Every case is the demo workflow with something broken in it."""

import copy
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dreamfactory.model_patches import UNetConfig, VideoUNet, save_patch, save_unet
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan
from dreamfactory.schedulers import ScheduleConfig

from .server import ROOT, queue_workflow

ELSEWHERE = str(ROOT / "pipelines" / "demo" / "text_encoder")  # an encoder, and in no folder of models
DEMO = ROOT / "example_workflows" / "api" / "demo.json"


@pytest.fixture(scope="module")
def files(server):
    """Wrong files of every sort, where the loaders list them."""
    unets, patches = server.models("diffusion_models"), server.models("model_patches")
    encoders = server.models("text_encoders")
    (unets / "noise.safetensors").write_bytes(bytes(range(256)) * 8)
    save_file(
        {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.zeros(2, 2)}, unets / "lora.safetensors"
    )
    save_file({"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}, unets / "vae.safetensors")
    small = {
        "model_channels": 32,
        "channel_mult": (1,),
        "num_res_blocks": 1,
        "attention_levels": (True,),
        "context_dim": 64,
    }
    image = VideoUNet(UNetConfig(**small, head_dim=16, norm_groups=8))
    save_unet(image, unets / "image_only.safetensors", schedule=ScheduleConfig().to_dict())
    video = VideoUNet(UNetConfig(**small, head_dim=16, norm_groups=8, temporal_attention=True, paca=True))
    save_unet(video, unets / "small.safetensors", schedule=ScheduleConfig().to_dict())
    whole = (unets / "small.safetensors").read_bytes()
    (unets / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (encoders / "unet.safetensors").write_bytes(whole)
    (encoders / "cut.safetensors").write_bytes(whole[:100])
    for named, setting in {
        "tokenizer_config.json": "fast_tokenizer_files",
        "config.json": "configuration_files",
    }.items():
        folder = encoders / f"leads out by {named}"
        shutil.copytree(ELSEWHERE, folder)
        settings = json.loads((folder / named).read_text("utf-8")) | {setting: ["//elsewhere/share/tokenizer.1.json"]}
        (folder / named).write_text(json.dumps(settings), encoding="utf-8")
    (unets / "not_listed.gguf").write_bytes(b"none")
    save_patch(video, patches / "other_shape.safetensors", ["paca"])
    save_patch(video, patches / "temporal.safetensors", ["temporal"])
    save_patch(video, unets / "patch.safetensors", ["paca"])
    like_the_checkpoint = UNetConfig(
        model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(True, True), context_dim=64,
        head_dim=16, temporal_attention=True,
    )  # fmt: skip
    save_unet(VideoUNet(like_the_checkpoint), unets / "predicts_v.safetensors", schedule=ScheduleConfig().to_dict())
    upscalers = server.models("upscale_models")
    (upscalers / "unet.safetensors").write_bytes(whole)
    save_rcan(RCAN(RCANConfig(groups=1, blocks=1, features=8, reduction=4, scale=2)), upscalers / "x2.safetensors")
    return server


def demo() -> dict:
    return json.loads(DEMO.read_text("utf-8"))


def node(graph: dict, title: str) -> dict:
    return next(n for n in graph.values() if n["_meta"]["title"] == title)


def add(graph: dict, title: str, kind: str, **inputs) -> list:
    """Put one more node into a graph; returns its first output."""
    name = str(max(int(k) for k in graph) + 1)
    graph[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return [name, 0]


def load(name: str):
    def breaks(graph):
        node(graph, "Noise schedule")["inputs"]["model"] = add(
            graph, "Video UNet", "DreamFactoryLoadVideoUNet", unet_name=name, weight_dtype="default"
        )

    return breaks


def encoder(name: str):
    def breaks(graph):
        node(graph, "Prompt")["inputs"]["clip"] = add(
            graph, "Encoder", "DreamFactoryLoadTextEncoder", encoder_name=name, layer="auto"
        )

    return breaks


def change(title: str, **inputs):
    def breaks(graph):
        node(graph, title)["inputs"].update(inputs)

    return breaks


def without(title: str, name: str):
    def breaks(graph):
        del node(graph, title)["inputs"][name]

    return breaks


def patch(kind: str, **inputs):
    def breaks(graph):
        schedule = node(graph, "Noise schedule")["inputs"]
        values = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "patch": "none", **inputs}
        schedule["model"] = add(graph, "Patch", kind, model=schedule["model"], **values)

    return breaks


def motion(name: str):
    def breaks(graph):
        schedule = node(graph, "Noise schedule")["inputs"]
        schedule["model"] = add(
            graph, "Motion on", "DreamFactoryMotionOnModel", model=schedule["model"], motion_name=name
        )

    return breaks


def motion_on(checkpoint: str, name: str):
    def breaks(graph):
        base = add(graph, "Checkpoint", checkpoint)
        moving = add(graph, "Motion on", "DreamFactoryMotionOnModel", model=base, motion_name=name)
        node(graph, "Sampler")["inputs"]["model"] = moving

    return breaks


def upscaler(name: str):
    def breaks(graph):
        node(graph, "Upscale")["inputs"] |= {"width": 256, "height": 256}  # else it follows the clip and the model
        node(graph, "Upscale")["inputs"]["upscale_model"] = add(
            graph, "Upscale model", "UpscaleModelLoader", model_name=name
        )

    return breaks


def no_frames(graph):
    node(graph, "Upscale")["inputs"]["images"] = add(graph, "No frames", "StandInNoFrames")


def linked(title: str, name: str, text: str):
    """A value that comes from another node: the host looks at typed ones only."""

    def breaks(graph):
        node(graph, title)["inputs"][name] = add(graph, "Value", "StandInAnything", text=text)

    return breaks


def both(*breaks):
    def breaks_all(graph):
        for one in breaks:
            one(graph)

    return breaks_all


def rescaled(multiplier):
    def breaks(graph):
        sampler = node(graph, "Sampler")["inputs"]
        sampler["model"] = add(
            graph, "Rescale", "DreamFactoryRescaleCFG", model=sampler["model"], multiplier=multiplier
        )

    return breaks


def save(prefix: str):
    def breaks(graph):
        model = node(graph, "Sampler")["inputs"]["model"]
        add(
            graph, "Save", "DreamFactorySaveVideoUNet", model=model, filename_prefix=prefix, weight_dtype="default"
        )  # fmt: skip

    return breaks


def picture(batch: int = 1):
    def breaks(graph):
        inputs = node(graph, "Image to video")["inputs"]
        inputs["first_frame"] = add(graph, "Picture", "EmptyImage", width=64, height=64, batch_size=batch, color=255)

    return breaks


def last_frame_alone(graph):
    inputs = node(graph, "Image to video")["inputs"]
    inputs["last_frame"] = inputs.pop("first_frame")
    del inputs["clip_vision"]


def plain_negative(graph):
    prompts = {n["_meta"]["title"]: k for k, n in graph.items()}
    node(graph, "Sampler")["inputs"]["negative"] = [prompts["Negative prompt"], 0]


def other_latent(graph):
    latent = add(graph, "Empty", "EmptyLatentImage", width=128, height=64, batch_size=8)
    node(graph, "Sampler")["inputs"]["latent_image"] = latent


CASES = {
    # wrong file in each loader: who says it, what the sentence must hold
    "no safetensors": (load("noise.safetensors"), "Video UNet", "unet_name", "no safetensors file"),
    "cut short": (load("cut.safetensors"), "Video UNet", "unet_name", "cut short"),
    "a LoRA": (load("lora.safetensors"), "Video UNet", "unet_name", "LoRA"),
    "a VAE": (load("vae.safetensors"), "Video UNet", "unet_name", "vae.safetensors"),
    "a patch": (load("patch.safetensors"), "Video UNet", "unet_name", "is a patch"),
    "no such file": (load("nothing.safetensors"), "Video UNet", "unet_name", "nothing.safetensors"),
    "a UNet as text encoder": (encoder("unet.safetensors"), "Encoder", "encoder_name", "unet.safetensors"),
    "a cut text encoder": (encoder("cut.safetensors"), "Encoder", "encoder_name", "cut.safetensors"),
    "motion twice": (motion("temporal.safetensors"), "Motion on", "model", "has motion already"),
    "SDXL in the motion node": (
        motion_on("StandInLabelledCheckpoint", "temporal.safetensors"), "Motion on", "model", "SDXL",
    ),
    "motion of another shape": (
        motion_on("StandInCheckpoint", "temporal.safetensors"), "Motion on", "motion_name", "of one kind",
    ),
    "no motion in the motion file": (
        motion_on("StandInCheckpoint", "image_only.safetensors"), "Motion on", "motion_name", "without motion",
    ),
    "v motion on an eps model": (
        motion_on("StandInCheckpoint", "predicts_v.safetensors"), "Motion on", "motion_name", "predicts eps",
    ),
    "an encoder above the folder": (
        both(encoder("unet.safetensors"), linked("Encoder", "encoder_name", "../../outside")),
        "Encoder", "encoder_name", "there is no",
    ),
    "an encoder elsewhere": (
        both(encoder("unet.safetensors"), linked("Encoder", "encoder_name", ELSEWHERE)),
        "Encoder", "encoder_name", "there is no",
    ),
    "a network above the folder": (
        both(load("small.safetensors"), linked("Video UNet", "unet_name", "../diffusion_models/small.safetensors")),
        "Video UNet", "unet_name", "there is no",
    ),
    "a network that is not listed": (
        both(load("small.safetensors"), linked("Video UNet", "unet_name", "not_listed.gguf")),
        "Video UNet", "unet_name", "there is no",
    ),
    "a network on another machine": (
        both(load("small.safetensors"), linked("Video UNet", "unet_name", r"\\elsewhere\share\small.safetensors")),
        "Video UNet", "unet_name", "there is no",
    ),
    "a patch elsewhere": (
        both(patch("DreamFactoryPACA"), linked("Patch", "patch", "/model_patches/../other_shape.safetensors")),
        "Patch", "patch", "none of its choices",
    ),
    "motion elsewhere": (
        both(motion_on("StandInCheckpoint", "temporal.safetensors"), linked("Motion on", "motion_name", "/etc/passwd")),
        "Motion on", "motion_name", "there is no",
    ),
    "a tokenizer that names files elsewhere": (
        encoder("leads out by tokenizer_config.json"), "Encoder", "encoder_name", "outside of its folder",
    ),
    "a config that names files elsewhere": (
        encoder("leads out by config.json"), "Encoder", "encoder_name", "outside of its folder",
    ),
    "saved out of the output folder": (save("../../elsewhere"), "Save", "filename_prefix", "no place in the output"),
    "saved at the root": (save("/elsewhere"), "Save", "filename_prefix", "no place in the output folder"),
    "a choice that there is not": (
        linked("Noise schedule", "shift", "maybe"), "Noise schedule", "shift",
        "none of its choices",
    ),
    # numbers
    "NaN": (rescaled(float("nan")), "Rescale", "multiplier", "nan is not within 0 to 1"),
    "infinity by a link": (
        both(rescaled(0.5), linked("Rescale", "multiplier", "inf")),
        "Rescale", "multiplier", "inf is not within 0 to 1",
    ),
    "too much by a link": (
        both(patch("DreamFactoryPACA"), linked("Patch", "strength", "1e6")),
        "Patch", "strength", "not within",
    ),
    "no frames by a link": (
        linked("Image to video", "frames", "-3"), "Image to video", "frames", "-3.0 is not within 1 to",
    ),
    "a NUL in a name": (
        save("diffusion_models/a\0b"), "Save", "filename_prefix", "NUL character",
    ),
    # sizes
    "0 frames": (change("Image to video", frames=0), "Image to video", "frames", "min"),
    "10 000 frames": (change("Image to video", frames=10_000), "Image to video", "frames", "max"),
    "more than any machine holds": (
        change("Image to video", width=8192, height=8192, frames=1024), "Image to video", "frames", "latents alone",
    ),
    "odd width": (change("Image to video", width=67), "Image to video", "width", "multiple of 8"),
    "latent of another size": (other_latent, "Sampler", "first_frame", "16x8"),
    "3 pictures": (picture(3), "Image to video", "first_frame", "3 pictures for 8 frames"),
    # wiring
    "no positive": (without("Image to video", "positive"), "Image to video", "positive", "missing"),
    "one side of motion": (
        without("Image to video", "motion_negative"), "Image to video", "motion_negative", "both sides",
    ),
    "negative past the node": (plain_negative, "Sampler", "negative", "Image to Video"),
    "no first frame": (without("Image to video", "first_frame"), "Sampler", "positive", "first frame"),
    "no CLIP vision": (without("Image to video", "clip_vision"), "Sampler", "positive", "CLIP vision"),
    "last frame alone": (last_frame_alone, "Image to video", "last_frame", "first_frame"),
    # strengths and patches
    "strength out of range": (patch("DreamFactoryPACA", strength=99.0), "Patch", "strength", "max"),
    "end before start": (
        patch("DreamFactoryPACA", start_percent=0.8, end_percent=0.2), "Patch", "end_percent", "swap them",
    ),
    "no Swap-CA there": (patch("DreamFactorySwapAttention", windows="global"), "Patch", "model", "Swap-CA"),
    "patch of another network": (
        patch("DreamFactoryPACA", patch="other_shape.safetensors"), "Patch", "patch", "other_shape.safetensors",
    ),
    "schedule out of range": (change("Noise schedule", shift_factor=1e9), "Noise schedule", "shift_factor", "max"),
    # larger
    "an x2 model for x4": (upscaler("x2.safetensors"), "Upscale", "width", "choose a x4 model"),
    "larger than x4": (change("Upscale", height=1000), "Upscale", "height", "64x64 times 4 is 256x256"),
    "fp16 with an RCAN": (change("Upscale", precision="fp16"), "Upscale", "precision", "choose fp32 or bf16"),
    "tiles of 10": (change("Upscale", tile=10), "Upscale", "tile", "64 or more"),
    "no frames at once": (change("Upscale", frames_at_once=0), "Upscale", "frames_at_once", "min"),
    "no frames at all": (no_frames, "Upscale", "images", "no picture"),
    "unknown choice": (change("Noise schedule", shift="maybe"), "Noise schedule", "shift", "maybe"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_that_names_the_input(files, case):
    breaks, title, name, words = CASES[case]
    graph = copy.deepcopy(demo())
    breaks(graph)
    with pytest.raises(queue_workflow.ComfyError) as told:
        files.client.run(graph)
    sentence = str(told.value)
    assert f'"{title}"' in sentence
    assert name in sentence
    assert words in sentence
    assert len(sentence) < 600, sentence
    assert "Traceback" not in sentence
    assert str(files.base) not in sentence  # files are named as the node lists them


def test_what_is_no_upscaler_is_told_by_the_hosts_loader(files):
    graph = demo()
    upscaler("unet.safetensors")(graph)
    with pytest.raises(queue_workflow.ComfyError, match=r'"Upscale model" failed with .*UnsupportedModelError'):
        files.client.run(graph)


def odd_pictures() -> dict:
    def alpha(graph):
        plain = add(graph, "Plain", "EmptyImage", width=80, height=64, batch_size=1, color=0x3060C0)
        mask = add(graph, "Mask", "SolidMask", value=0.5, width=80, height=64)
        return add(graph, "Alpha", "JoinImageWithAlpha", image=plain, alpha=mask)

    def sized(width, height):
        return lambda graph: add(graph, "Plain", "EmptyImage", width=width, height=height, batch_size=1, color=0x808080)

    return {"with alpha": alpha, "1x1": sized(1, 1), "8k": sized(7680, 4320), "a sliver": sized(1000, 3)}


def test_a_grey_picture_is_taken(files, tmp_path):
    Image.new("L", (50, 70), 128).save(tmp_path / "grey.png")
    graph = demo()
    name = files.client.upload(tmp_path / "grey.png")
    node(graph, "Image to video")["inputs"]["first_frame"] = add(graph, "Picture", "LoadImage", image=name)
    node(graph, "Sampler")["inputs"]["steps"] = 1
    assert queue_workflow.saved_files(files.client.run(graph))


@pytest.mark.parametrize("which", odd_pictures())
def test_odd_pictures_are_taken(files, which):
    graph = demo()
    node(graph, "Image to video")["inputs"]["first_frame"] = odd_pictures()[which](graph)
    node(graph, "Sampler")["inputs"]["steps"] = 1
    assert queue_workflow.saved_files(files.client.run(graph))


def test_the_server_lives_and_the_next_good_job_runs(files):
    assert queue_workflow.saved_files(files.client.run(demo()))
