"""Runs inside the host: RCAN files of ours in spandrel and core's loader; our node with upscalers of spandrel's.

argv: a folder with the files of ../test_upscale_in_host.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import spandrel
import torch
from a_pack.errors import NodeError
from a_pack.model_patches.upscaling.upscaler import load_upscaler
from a_pack.nodes import upscale
from a_pack.nodes.bundles import DEMO
from a_pack.nodes.upscale import UpscaleVideo, isolated_copy, load_upscale_model
from comfy_extras.nodes_upscale_model import UpscaleModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RCAN import RCAN
from spandrel.architectures.SwinIR import SwinIR

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])
folder_paths.add_model_folder_path("upscale_models", str(FOLDER))
SIZES = [(10, 8), (1, 8), (8, 1), (3, 5), (33, 17)]
FRAMES, HEIGHT, WIDTH = 5, 70, 83


def described(network, seed=0) -> Any:
    """As core's loader gives it, with weights that make a picture."""
    torch.manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
        elif not name.endswith("norm.weight") and "norm" not in name:
            torch.nn.init.uniform_(weight, 0.05, 0.15)
    descriptor: Any = spandrel.ModelLoader().load_from_state_dict(network.state_dict()).eval()
    device = management.get_torch_device()
    descriptor.patcher = upscale.comfy.model_patcher.CoreModelPatcher(descriptor.model, device, device)
    return descriptor


def rrdb():
    return described(ESRGAN(num_filters=8, num_blocks=1, scale=4, plus=False))


def compact(scale=2):
    return described(Compact(num_feat=8, num_conv=2, upscale=scale))


def rcan():
    return described(RCAN(n_resgroups=1, n_resblocks=2, n_feats=8, reduction=4, norm=True))


def swinir(**last):
    shape = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "img_size": 64}
    return described(SwinIR(**shape, **(last or {"upscale": 2, "upsampler": "pixelshuffle"})))


def run(descriptor, images, width=0, height=0, frames_at_once=4, **choices):
    return UpscaleVideo.execute(images, descriptor, width, height, frames_at_once, **choices).result[0]


def alone(descriptor, images):
    """Frame by frame through the network, whole."""
    frames = images.movedim(-1, 1)
    return torch.cat([descriptor(frame[None].clone()) for frame in frames]).movedim(1, -1)


def refusal(*args, **kwargs):
    try:
        run(*args, **kwargs)
    except NodeError as error:
        return str(error)
    return None


def off(a, b):
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


# -- files of ours in the host's hands --------------------------------------------------------------------------------


def opened(name):
    """What core's loader gives and what ours does, over sizes; and how much there is to be seen."""
    (descriptor,) = UpscaleModelLoader.execute(name).result
    ours, told = load_upscaler(FOLDER / name), {}
    for h, w in SIZES:
        x = torch.rand(2, 3, h, w)
        whole = torch.cat([descriptor(frame[None].clone()) for frame in x])
        told[f"{h}x{w}"] = off(ours.network(x).clamp(0, 1), whole)
        told["contrast"] = whole.std().item()
    facts = {"name": descriptor.architecture.id, "scale": descriptor.scale, "off": told}
    spoilt = torch.rand(1, 3, 8, 8)
    kept = spoilt.clone()
    descriptor(spoilt)
    return facts | {"spoils": not torch.equal(spoilt, kept)}


# -- the node -------------------------------------------------------------------------------------------------------


def used(descriptor, images, **choices):
    """What using the node on a model leaves: how far off, and whether anything has changed."""
    whole, kept = alone(descriptor, images), images.clone()
    state = {k: (v.dtype, v.device, v.clone()) for k, v in descriptor.model.state_dict(keep_vars=True).items()}
    ids = [id(p) for p in descriptor.model.parameters()]
    plain = {k: v for k, v in vars(descriptor.model).items() if isinstance(v, torch.Tensor)}
    kinds = {k: (v.dtype, v.device) for k, v in plain.items()}
    hooks = [len(m._forward_pre_hooks) for m in descriptor.model.modules()]
    result = run(descriptor, images, **choices)
    now = descriptor.model.state_dict(keep_vars=True)
    same = ids == [id(p) for p in descriptor.model.parameters()]
    same &= all(now[k].dtype == d and now[k].device == at and torch.equal(now[k], v) for k, (d, at, v) in state.items())
    same &= all(
        (getattr(descriptor.model, k).dtype, getattr(descriptor.model, k).device) == v for k, v in kinds.items()
    )
    same &= hooks == [len(m._forward_pre_hooks) for m in descriptor.model.modules()]
    same &= torch.equal(alone(descriptor, images), whole)
    return {
        "off": off(result, whole),
        "contrast": whole.std().item(),
        "same": same,
        "images": torch.equal(images, kept),
        "result": [str(result.dtype), str(result.device), result.is_contiguous(), result.min().item() >= 0],
    }


def moved_by_the_host():
    """The host moves its parameters in place while a network of ours computes with the same weights."""
    told = {}
    for name, descriptor in (("rcan", rcan()), ("compact", compact())):
        x = torch.rand(1, 3, 12, 9)
        upscaler = isolated_copy(descriptor)
        before = (upscaler.call or upscaler.network)(x.clone())
        for weight in descriptor.model.parameters():
            weight.data = weight.data.to(torch.float16)
        told[name] = torch.equal((upscaler.call or upscaler.network)(x.clone()), before)
    return told


class Pinned:
    """Stands for the host's buffers of pinned memory, which free it when they go: no copy may be made."""

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


def pinned():
    descriptor = compact()
    descriptor.model.dynamic_pins = {"cpu": {"weights": (Pinned(), [])}}
    return off(run(descriptor, CLIP[:1]), alone(descriptor, CLIP[:1]))


def short_of_memory(most):
    """A network that has memory for a side of that many pixels only."""
    descriptor = compact()
    whole = alone(descriptor, CLIP)

    def ask(module, args):
        if max(args[0].shape[-2:]) > most:
            raise torch.OutOfMemoryError("out of memory")

    descriptor.model.register_forward_pre_hook(ask)
    return off(run(descriptor, CLIP), whole)


def only_in_fp32():
    """A network that says it computes in bf16, and does not."""
    descriptor = compact()

    def mixes(module, args):
        if args[0].dtype != torch.float32:
            raise RuntimeError("expected m1 and m2 to have the same dtype\nand more")

    descriptor.model.register_forward_pre_hook(mixes)
    return descriptor


def no_memory():
    free, management.get_free_memory = management.get_free_memory, lambda *_: int(2.1e9)
    try:
        many = torch.zeros(1, 1, 1, 3).expand(300, 192, 344, 3)
        return refusal(compact(4), many, 1376, 768)
    finally:
        management.get_free_memory = free


def room_asked():
    """Bytes that the host is asked for on a GPU: a frame at a time for spandrel's networks, so many for ours."""
    asked, gpu = [], torch.device("cuda")

    def ask(descriptor, count, tile, device=gpu, dtype=torch.float32):
        upscaler = isolated_copy(descriptor)
        images = torch.zeros(1 if upscale.one_by_one(upscaler, device) else count, 192, 344, 3)
        upscale.make_room(upscaler, device, dtype, images, tile)

    free, management.free_memory = management.free_memory, lambda needed, device: asked.append(needed)
    try:
        for descriptor in (compact(4), rcan()):
            for count, tile in ((1, 0), (4, 0), (4, 64)):
                ask(descriptor, count, tile)
        ask(rcan(), 4, 0, dtype=torch.bfloat16)
        ask(rcan(), 4, 0, device=torch.device("cpu"))
    finally:
        management.free_memory = free
    return [n - management.extra_reserved_memory() for n in asked]


def cancelled_within_a_frame():
    """Layers that still run after Cancel was pressed in the first one."""
    told = {}
    for name, make in (("rrdb", rrdb), ("rcan", rcan)):
        ran = []
        plain = upscale.stop_if_cancelled

        def layer(module, args, ran=ran, plain=plain):
            plain()
            if not list(module.children()):
                ran.append(type(module).__name__)
                management.interrupt_current_processing(True)

        upscale.stop_if_cancelled = layer
        try:
            run(make(), CLIP)
        except management.InterruptProcessingException:
            told[name] = ran
        finally:
            upscale.stop_if_cancelled = plain
            management.interrupt_current_processing(False)
    return told


def shown(descriptor):
    """What the progress bar is told, two frames at once where the network takes as many."""
    told = []
    comfy.utils.set_progress_bar_global_hook(lambda *args, **kwargs: told.append(args))
    result = run(descriptor, CLIP, frames_at_once=2)
    comfy.utils.set_progress_bar_global_hook(None)
    assert off(result, alone(descriptor, CLIP)) < 1e-5
    return [[done, total, kind, image.size] for done, total, (kind, image, _) in told]


def together():
    """As on a GPU, where an RCAN's frames go through it together."""
    plain, upscale.one_by_one = upscale.one_by_one, lambda upscaler, device: False
    try:
        return shown(rcan())
    finally:
        upscale.one_by_one = plain


def odd_images():
    """Grey, with alpha, of one pixel; what comes from them is what their RGB pictures give."""
    descriptor, grey, alpha = compact(), CLIP[..., :1], torch.cat([CLIP, CLIP[..., :1]], -1)
    return {
        "grey": off(run(descriptor, grey), alone(descriptor, grey.expand(-1, -1, -1, 3))),
        "alpha": off(run(descriptor, alpha), alone(descriptor, CLIP * CLIP[..., :1] + 1 - CLIP[..., :1])),
        "pixel": list(run(descriptor, CLIP[:1, :1, :1]).shape),
        "one row": list(run(descriptor, CLIP[:1, :1]).shape),
    }


def sized(width, height, scale=4, h=192, w=344):
    return list(reversed(upscale.result_size(scale, h, w, height, width)))


with torch.inference_mode():
    torch.manual_seed(1)
    CLIP = torch.rand(FRAMES, HEIGHT, WIDTH, 3)
    holes = CLIP.clone()
    holes[3, 0, 0, 0] = float("nan")
    half = {"frames_at_once": 2}
    facts = {
        "ours": {path.stem: opened(path.name) for path in sorted(FOLDER.glob("*.safetensors"))},
        "demo": [
            load_upscale_model(DEMO / "upscaler.safetensors").scale,
            load_upscaler(DEMO / "upscaler.safetensors").scale,
        ],
        "whole": {
            "rrdb": used(rrdb(), CLIP),
            "compact": used(compact(), CLIP, **half),
            "rcan": used(rcan(), CLIP),
            "swinir": used(swinir(), CLIP[:2]),
        },
        "bf16": {
            "rrdb": used(rrdb(), CLIP[:2], precision="bf16"),
            "rcan": used(rcan(), CLIP[:2], precision="bf16"),
            "swinir": used(swinir(), CLIP[:1], precision="bf16"),
        },
        "fp16": {"compact": used(compact(), CLIP[:2], precision="fp16")},
        "tiles": {
            "compact": used(compact(), CLIP, tile=64),
            "rcan": used(rcan(), CLIP, tile=64),
        },
        "moved by the host": moved_by_the_host(),
        "pinned": pinned(),
        "short of memory": short_of_memory(66),
        "room": room_asked(),
        "cancelled": cancelled_within_a_frame(),
        "shown": shown(compact()),
        "together": together(),
        "odd": odd_images(),
        "sizes": {
            "none": sized(0, 0),
            "both": sized(1376, 768),
            "width": sized(1000, 0),
            "height": sized(0, 500),
            "up to the edge": sized(1376, 0),
            "a sliver": sized(100, 0, h=3, w=1000),
            "odd edge": sized(27, 0, scale=3, h=9, w=9),
        },
        "cropped": list(run(compact(), CLIP, 100, 140).shape),
        "refused": {
            "no frames": refusal(compact(), CLIP[:0]),
            "nothing": refusal(None, CLIP),
            "restores": refusal(swinir(upscale=1), CLIP),
            "grey model": refusal(described(Compact(num_in_ch=1, num_out_ch=1, num_conv=1)), CLIP),
            "x2": refusal(compact(), torch.rand(1, 192, 344, 3), 1376, 768),
            "height": refusal(compact(), CLIP, 0, 500),
            "fp16": refusal(rcan(), CLIP, precision="fp16"),
            "tile": refusal(compact(), CLIP, tile=10),
            "holes": refusal(compact(), holes),
            "memory": no_memory(),
            "fails in bf16": refusal(only_in_fp32(), CLIP, precision="bf16"),
        },
    }
print(json.dumps(facts))
