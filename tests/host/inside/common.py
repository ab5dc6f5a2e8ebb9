"""What the scripts share, inside the host."""

import comfy.model_detection
import comfy.model_patcher
import comfy.patcher_extension
import torch
from a_pack.nodes.bridge.model import PREFIX
from safetensors.torch import load_file


def conditioning(model, inputs, side):
    """Our tensors as a CONDITIONING: side is "positive" or "negative". Pictures go back to the VAE's scale."""
    un = "un" if side == "negative" else ""
    un = un and un + "cond_"
    values = {}
    if "motion" in inputs:
        values["motion_text"] = inputs[f"{un}motion"]
    for name in ("first_frame", "last_frame"):
        if name in inputs:
            values[name] = model.model.process_latent_out(inputs[name])
    for name in ("image", "grey_image"):
        if name in inputs:
            pooled = inputs[name].ndim == 2
            values[name] = {"image_embeds" if pooled else "last_hidden_state": inputs[name]}
    if "frame_rate" in inputs:
        values["frame_rate"] = float(inputs["frame_rate"])
    return [[inputs[f"{un}text"], {PREFIX + k: v for k, v in values.items()}]]


def both(model, inputs):
    return conditioning(model, inputs, "positive"), conditioning(model, inputs, "negative")


def image_model(path, family):
    """A MODEL of the host's own classes, as its checkpoint loader makes one."""
    state, cpu = load_file(path), torch.device("cpu")
    config = family(comfy.model_detection.detect_unet_config(state, ""))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state, "")
    model.load_model_weights(dict(state), "")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def listen(model):
    """Everything the network of this MODEL is asked from now on, one dict a call."""
    calls = []

    def heard(executor, x, timesteps, context, control, transformer_options, **conds):
        calls.append({"x": x, "timesteps": timesteps, "context": context, "options": transformer_options, **conds})
        return executor(x, timesteps, context, control, transformer_options, **conds)

    model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, heard)
    return calls


def difference(a, b):
    """Relative to the largest number of the second."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return ((a - b).abs().max() / b.abs().max()).item()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
