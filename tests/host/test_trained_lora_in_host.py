"""A LoRA that the trainer saved goes through the host's own LoRA loader; PEFT itself says what it must do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamfactory.model_patches import VideoUNet, load_unet, save_unet
from dreamfactory.training.config import LoraConfig

from .inside.networks import FULL, SHIFTED, inputs_for, save_network
from .server import run_inside

pytest.importorskip("peft", reason="LoRA training needs peft")
INSIDE = Path(__file__).parent / "inside"


@pytest.mark.parametrize("part", ["spatial", "temporal", "swap_attention"])
def test_every_addition_finds_its_weight(host, tmp_path, part):
    from peft.tuners.tuners_utils import BaseTunerLayer

    from dreamfactory.training.video.lora import inject, is_lora, save_lora

    save_file(inputs_for(FULL, 8, (8, 6)), tmp_path / "base_inputs.safetensors")
    unet = load_unet(save_network(tmp_path, "base", FULL, SHIFTED))
    config = LoraConfig(parts=(part,), rank=2, alpha=3.0, feed_forward=True)
    inject(unet, config, 0)
    generator = torch.Generator().manual_seed(0)
    for name, weight in unet.named_parameters():
        if is_lora(name):
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    save_lora(dict(unet.named_parameters()), config, tmp_path / "lora.safetensors", torch.float32)

    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    names = {n: n.replace(".base_layer.", ".") for n in unet.state_dict() if not is_lora(n)}
    merged = VideoUNet(FULL)
    merged.load_state_dict({names[n]: w for n, w in unet.state_dict().items() if n in names})
    save_unet(merged, tmp_path / "merged.safetensors", schedule=SHIFTED.to_dict())

    facts = run_inside(host, (INSIDE / "trained_lora.py").read_text(), tmp_path)
    assert facts["patched"] == facts["wanted"] > 3
    assert facts["effect"] > 0.01
    assert facts["error"] < 1e-5
