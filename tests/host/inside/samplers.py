"""Runs inside the host: its samplers on our networks, one result a case.

argv: a JSON file of cases, a safetensors file of inputs, a safetensors file to write.
"""

import json
import sys

import comfy.sample
import comfy.samplers
import torch
from a_pack.nodes.bridge.loading import load_video_model
from a_pack.nodes.bridge.sampling import rescale_whole_clip
from a_pack.tests.host.inside.common import both, listen
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
cases, inputs_path, results_path = sys.argv[1:4]
everything = load_file(inputs_path)
results, facts = {}, {}
with open(cases) as file:
    for case in json.load(file):
        model = load_video_model(case["network"])
        sampling = model.model.model_sampling
        prefix = case["inputs"] + "."
        inputs = {k[len(prefix) :]: v for k, v in everything.items() if k.startswith(prefix)}
        positive, negative = both(model, inputs)
        if case["rescale"]:
            model = rescale_whole_clip(model, case["rescale"])
        calls = listen(model)
        noise, cfg = inputs["noise"], case["cfg"]
        rest = (positive, negative, torch.zeros_like(noise))
        if case["timesteps"]:
            sampler = comfy.samplers.sampler_object(case["sampler"])
            sigmas = torch.cat([sampling.sigmas[case["timesteps"]], torch.zeros(1)])
            out = comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, *rest, disable_pbar=True, seed=0)
        else:
            steps, sampler = case["steps"], case["sampler"]
            out = comfy.sample.sample(
                model, noise, steps, cfg, sampler, "sgm_uniform", *rest, disable_pbar=True, seed=0
            )
        results[case["name"]] = model.model.process_latent_in(out)
        facts[case["name"]] = {
            "last_sigma": float(sampling.sigma_max),
            "timesteps": [int(call["timesteps"].max()) for call in calls],
            "clips": [call["x"].shape[0] // len(noise) for call in calls],
        }
save_file(results, results_path)
print(json.dumps(facts))
