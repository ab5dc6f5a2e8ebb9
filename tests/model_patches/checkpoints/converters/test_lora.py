"""LoRAs in PEFT's names become names that ComfyUI's LoRA loader maps, with PEFT's own scale."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import CheckpointError
from dreamfactory.model_patches.checkpoints.converters import convert_file
from dreamfactory.model_patches.network.presets import preset
from dreamfactory.model_patches.network.unet import VideoUNet

RANK = 4
# diffusers' module (UNet2DConditionModel, UNet3DConditionModel) -> Stable Diffusion's, or ours
PLACES = {
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": "input_blocks.2.1.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": "middle_block.1.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2": "output_blocks.11.1.transformer_blocks.0.ff.net.2",
    "up_blocks.1.temp_attentions.0.transformer_blocks.0.attn1.to_v": (
        "temporal_attentions.output_3.transformer_blocks.0.attn1.to_v"
    ),
}
OURS = "temporal_attentions.input_4.transformer_blocks.0.attn2.to_k"


def lora(modules, prefix: str, middle: str = "") -> dict:
    return {
        f"{prefix}{module}.lora_{side}{middle}.weight": torch.randn((RANK, 8) if side == "A" else (8, RANK))
        for module in modules
        for side in "AB"
    }


@pytest.mark.parametrize(
    ("prefix", "middle"), [("unet.", ""), ("base_model.model.", ""), ("base_model.model.unet.", ".default")]
)
def test_every_module_gets_the_hosts_name_and_keeps_its_weights(tmp_path, prefix, middle):
    state = lora([*PLACES, OURS], prefix, middle)
    save_file(state, tmp_path / "peft.safetensors")
    report = convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
    out = load_file(tmp_path / "host.safetensors")
    expected = {
        f"diffusion_model.{ours}.lora_{side}.weight": state[f"{prefix}{theirs}.lora_{side}{middle}.weight"]
        for theirs, ours in {**PLACES, OURS: OURS}.items()
        for side in "AB"
    }
    assert out.keys() == expected.keys()
    assert all(torch.equal(out[k], v) for k, v in expected.items())
    assert len(report.loaded) == len(expected)
    keys = VideoUNet(preset("modelscope"), device="meta").state_dict()
    for key in out:
        assert key.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0] + ".weight" in keys


def test_pefts_scale_becomes_alpha(tmp_path):
    """PEFT scales by lora_alpha / r (rank-stabilised: / sqrt(r)); the host by alpha / rank."""
    save_file(lora(PLACES, "base_model.model."), tmp_path / "peft.safetensors")
    for config, scale in (({"r": RANK, "lora_alpha": 8}, 2.0), ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 4.0)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
        out = load_file(tmp_path / "host.safetensors")
        alphas = [v for k, v in out.items() if k.endswith(".alpha")]
        assert len(alphas) == len(PLACES)
        assert all(float(alpha) / RANK == scale for alpha in alphas)


def test_scale_from_diffusers_metadata(tmp_path):
    told = {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 2})}
    save_file(lora(PLACES, "unet."), tmp_path / "peft.safetensors", told)
    convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
    out = load_file(tmp_path / "host.safetensors")
    assert float(out["diffusion_model.input_blocks.2.1.transformer_blocks.0.attn1.to_q.alpha"]) == 2.0


def test_other_weights_keep_their_names_and_strangers_are_told(tmp_path):
    other = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(RANK, 8)}
    odd = lora(["down_blocks.9.nothing"], "unet.")
    save_file({**lora(PLACES, "unet."), **other, **odd}, tmp_path / "peft.safetensors")
    report = convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
    out = load_file(tmp_path / "host.safetensors")
    assert other.keys() <= out.keys()
    assert set(report.unexpected) == odd.keys()


def test_a_lora_of_something_else_is_refused(tmp_path):
    save_file(lora(["layers.0.attention.wq"], "base_model.model."), tmp_path / "peft.safetensors")
    with pytest.raises(CheckpointError, match="none of its 2 weights"):
        convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
    assert not (tmp_path / "host.safetensors").exists()


NAME = next(iter(PLACES))
HARMED = {
    "one side": ({f"unet.{NAME}.lora_A.weight": torch.ones(RANK, 8)}, "has lora_A alone"),
    "the other": ({f"unet.{NAME}.lora_B.weight": torch.ones(8, RANK)}, "has lora_B alone"),
    "two ranks": (
        {f"unet.{NAME}.lora_A.weight": torch.ones(RANK, 8), f"unet.{NAME}.lora_B.weight": torch.ones(8, 2)},
        "are 4x8 and 8x2",
    ),
    "no matrix": (
        {f"unet.{NAME}.lora_A.weight": torch.ones(RANK, 8), f"unet.{NAME}.lora_B.weight": torch.ones(8)},
        "is damaged",
    ),
    "two LoRAs": (lora([NAME], "unet.", ".one") | lora([NAME], "unet.", ".two"), "holds several LoRAs"),
}


@pytest.mark.parametrize("case", HARMED)
def test_a_lora_that_is_not_whole_is_refused(tmp_path, case):
    state, told = HARMED[case]
    save_file({**lora(list(PLACES)[1:], "unet."), **state}, tmp_path / "peft.safetensors")
    with pytest.raises(CheckpointError, match=told):
        convert_file(tmp_path / "peft.safetensors", tmp_path / "host.safetensors")
    assert not (tmp_path / "host.safetensors").exists()
