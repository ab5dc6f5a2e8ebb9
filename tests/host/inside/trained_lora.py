"""Runs inside the host: a LoRA that the trainer wrote, on its base, against the network with the additions merged.

argv: a folder with base, lora, merged and base_inputs.
"""

import json
import sys
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from a_pack.nodes.bridge.loading import load_video_model
from a_pack.tests.host.inside.common import conditioning, difference
from safetensors.torch import load_file

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])


def answer(model, inputs):
    own, noise = model.model, inputs["noise"]
    [[text, values]] = conditioning(model, inputs, "positive")
    conds = own.extra_conds(cross_attn=text, noise=noise, device=torch.device("cpu"), prompt_type="positive", **values)
    ready = {k: v.process_cond(batch_size=len(noise), area=None).cond for k, v in conds.items()}
    ready["c_crossattn"] = ready.get("c_crossattn", text)
    options = model.model_options["transformer_options"]
    return own.apply_model(noise, torch.ones(len(noise)), transformer_options=options, **ready)


inputs = load_file(FOLDER / "base_inputs.safetensors")
lora = comfy.utils.load_torch_file(str(FOLDER / "lora.safetensors"), safe_load=True)
plain = load_video_model(str(FOLDER / "base.safetensors"))
before = answer(plain, inputs)
tuned = comfy.sd.load_lora_for_models(plain, None, lora, 1.0, 0.0)[0]
comfy.model_management.load_models_gpu([tuned])
got = answer(tuned, inputs)
expected = answer(load_video_model(str(FOLDER / "merged.safetensors")), inputs)
print(
    json.dumps(
        {
            "patched": len(tuned.patches),
            "wanted": sum(k.endswith("lora_A.weight") for k in lora),
            "error": difference(got, expected),
            "effect": difference(expected, before),
        }
    )
)
