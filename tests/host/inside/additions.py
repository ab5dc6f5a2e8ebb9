"""Runs inside the host: AnimateDiff's and IP-Adapter's own files through our nodes, on a checkpoint of the host's.

argv: a folder with the files of ../test_additions_in_host.py, a safetensors file of inputs, one to write.
"""

import json
import sys
from pathlib import Path

import comfy.sample
import comfy.samplers
import comfy.supported_models
import folder_paths
import torch
from a_pack.nodes.bridge.model import PREFIX
from a_pack.nodes.bridge.vision_encoder import load_vision_encoder
from a_pack.nodes.bundles import DEMO
from a_pack.nodes.conditioning import ImageToVideo
from a_pack.nodes.patches import ImageAdapter, MotionOnModel
from a_pack.tests.host.inside.common import image_model, listen
from a_pack.tests.host.stand_ins import tiny_vae
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
folder, inputs_path, results_path = map(Path, sys.argv[1:4])
folder_paths.add_model_folder_path("model_patches", str(folder))
inputs = load_file(inputs_path)
timesteps, cfg = inputs["timesteps"].tolist(), float(inputs["cfg"])


def clip(model, positive, negative, noise):
    sampling = model.get_model_object("model_sampling")
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = torch.cat([sampling.sigmas[timesteps], torch.zeros(1)])
    latents = torch.zeros_like(noise)
    out = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, latents, disable_pbar=True, seed=0
    )
    return model.model.process_latent_in(out)


def offered(node, name):
    (found,) = [i for i in node.define_schema().inputs if i.id == name]
    return list(found.options)


with torch.inference_mode():
    vision = load_vision_encoder(DEMO / "image_encoder")
    noise = inputs["noise"]
    frames, _, height, width = noise.shape
    sides = ([[inputs["text"], {}]], [[inputs["uncond_text"], {}]])
    picture = inputs["picture"].movedim(1, -1)
    positive, negative, _ = ImageToVideo.execute(
        *sides, tiny_vae(), width * 8, height * 8, frames, first_frame=picture, clip_vision=vision
    ).result
    seen = negative[0][1]
    image = image_model(folder / "image.safetensors", comfy.supported_models.SD15)
    moving = MotionOnModel.execute(image, "mm.ckpt").result[0]
    results = {"animatediff": clip(moving, positive, negative, noise)}
    windows = ContextWindowsManualNode.execute(
        moving, frames, 0, "standard_static", 1, False, "flat", 0, False, causal_window_fix=False
    ).result[0]
    longer = clip(windows, positive, negative, torch.cat([noise.flip(0), noise]))
    results["second window"] = longer[frames:]
    facts = {"patches": {}}
    for name in ("base", "plus"):
        model = ImageAdapter.execute(
            moving, 0.8, 0.0, 1.0, "ip_base.bin" if name == "base" else "ip_plus.safetensors"
        ).result[0]
        calls = listen(model)
        results[name] = clip(model, positive, negative, noise)
        # The uncond side's tokens, as the network got them.
        uncond = calls[0]["options"]["cond_or_uncond"].index(1)
        results[f"{name} tokens"] = calls[0]["image_tokens"][1 - uncond].contiguous()
        results[f"{name} uncond tokens"] = calls[0]["image_tokens"][uncond].contiguous()
        facts["patches"][name] = model.model.video_config.uncond_image
facts |= {
    "motion_name": offered(MotionOnModel, "motion_name"),
    "patch": offered(ImageAdapter, "patch"),
    "kept": sorted(key.removeprefix(PREFIX) for key in seen if key.startswith(PREFIX)),
}
save_file({k: v.clone() for k, v in results.items()}, results_path)
print(json.dumps(facts))
