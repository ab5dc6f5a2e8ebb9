"""Files: what is written comes back bit for bit, what cannot be read is said in one sentence."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dreamfactory.model_patches import (
    CheckpointError,
    Conditions,
    ProjectorConfig,
    UNetConfig,
    VideoUNet,
    apply_patch,
    load_unet,
    read_header,
    save_patch,
    save_unet,
)
from dreamfactory.model_patches.checkpoints import files
from dreamfactory.model_patches.checkpoints.converters import convert_file, convert_file_in_memory
from dreamfactory.model_patches.codec import PatchAutoencoder, PatchCodecConfig, save_codec
from dreamfactory.model_patches.network.hooks import Hooks

from ...random_weights import Network

BASE = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(True, True),
    context_dim=16,
    head_dim=8,
    norm_groups=8,
    temporal_conv=True,
    temporal_attention=True,
)
EVERYTHING = replace(
    BASE,
    init_temporal=True,
    motion_text="added",
    motion_dim=20,
    fusion="conv",
    temporal_skips=True,
    swap_attention="swapped",
    swap_head_dim=8,
    image_adapter="all",
    image_token_dim=10,
    image_scale="learnable",
    image_projector=ProjectorConfig(embedding_dim=24, output_dim=10, dim=12, depth=1, heads=2, head_dim=4),
    paca=True,
    first_frame_concat="repeat",
    frame_rate_embedding="fps",
    predict_net=True,
)
SCHEDULE = {"prediction": "v", "rescale": "lin", "trained_shape": [16, 256, 256]}


@pytest.fixture(autouse=True)
def _setup():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@torch.no_grad()
def randomise(module: Network) -> Network:
    for weight in module.parameters():
        weight.copy_(torch.randn_like(weight))
    return module


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message, which must be one sentence for a person."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert "Traceback" not in message
    return message


# -- round trips ----------------------------------------------------------------------------------------------


def test_round_trip_is_exact(tmp_path):
    unet = randomise(VideoUNet(EVERYTHING))
    save_unet(unet, tmp_path / "a.safetensors", schedule=SCHEDULE, metadata={"modelspec.author": "someone"})
    back = load_unet(tmp_path / "a.safetensors")
    assert back.config == EVERYTHING
    assert back.schedule == SCHEDULE
    assert not back.training
    state = back.state_dict()
    assert list(state) == list(unet.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in unet.state_dict().items())
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata["modelspec.author"] == "someone"
    assert header.metadata["modelspec.prediction_type"] == "v"
    # Written again without a schedule, it keeps its own.
    save_unet(back, tmp_path / "b.safetensors")
    assert load_unet(tmp_path / "b.safetensors").schedule == SCHEDULE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_dtypes(tmp_path):
    unet = randomise(VideoUNet(BASE))
    save_unet(unet, tmp_path / "half.safetensors", dtype=torch.float16)
    assert {v.dtype for v in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}
    assert {p.dtype for p in load_unet(tmp_path / "half.safetensors", dtype=None).parameters()} == {torch.float16}
    assert {p.dtype for p in load_unet(tmp_path / "half.safetensors").parameters()} == {torch.float32}


def test_patch_carries_one_part_to_another_base(tmp_path):
    trained = randomise(VideoUNet(replace(BASE, paca=True)))
    save_patch(trained, tmp_path / "paca.safetensors", ["paca"])
    assert all(k.startswith("paca") for k in load_file(tmp_path / "paca.safetensors"))
    base = randomise(VideoUNet(BASE))
    patched = apply_patch(base, tmp_path / "paca.safetensors")
    assert patched.config == replace(BASE, paca=True)
    expected = base.state_dict() | {k: w for k, w in trained.state_dict().items() if k.startswith("paca")}
    assert patched.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[key]) for key, weight in patched.state_dict().items())
    assert base.config == BASE
    with pytest.raises(CheckpointError) as error:
        load_unet(tmp_path / "paca.safetensors")
    assert "patch" in sentence(error)
    with pytest.raises(CheckpointError) as error:
        save_patch(base, tmp_path / "none.safetensors", ["paca"])
    assert "no weights of paca" in sentence(error)
    with pytest.raises(CheckpointError) as error:
        save_patch(base, tmp_path / "none.safetensors", ["pakka"])
    assert "no part 'pakka'" in sentence(error)
    save_unet(base, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError) as error:
        apply_patch(base, tmp_path / "base.safetensors")
    assert "no patch" in sentence(error)


# -- files that are no network of ours ------------------------------------------------------------------------


def header_only(path, header) -> None:
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def test_unreadable_files(tmp_path):
    good = tmp_path / "good.safetensors"
    save_unet(VideoUNet(BASE), good)
    content = good.read_bytes()
    cases = {
        "missing": "does not exist",
        "folder": "is a folder",
        "cut": "cut short by",
        "cut in the header": "no safetensors file",
        "garbage": "no safetensors file",
        "empty": "no safetensors file",
        "list": "no safetensors file",
        "no shape": "no safetensors file",
        "too short": "damaged",
        "negative": "damaged",
        "two in one place": "cannot be read: safetensors says",
        "strange numbers": "kind of number that is not known here",
        "pickle.ckpt": "is a pickle that torch.save did not write",
        "nothing inside": "no known network",
    }
    paths = {name: tmp_path / (name if "." in name else f"{name}.safetensors") for name in cases}
    paths["folder"].mkdir()
    paths["cut"].write_bytes(content[:-1000])
    paths["cut in the header"].write_bytes(content[:500])
    paths["garbage"].write_bytes(bytes(range(256)) * 10)
    paths["empty"].write_bytes(b"")
    header_only(paths["list"], [])
    header_only(paths["no shape"], {"a": {"dtype": "F32", "data_offsets": [0, 0]}})
    metadata = read_header(good).metadata
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 0]}
    header_only(paths["too short"], {"__metadata__": metadata, "a": entry})
    header_only(paths["negative"], {"__metadata__": metadata, "a": {**entry, "shape": [-1, 0]}})
    header_only(paths["strange numbers"], {"__metadata__": metadata, "a": {**entry, "dtype": "F4_E2M1"}})
    two = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header_only(paths["two in one place"], {"__metadata__": metadata, "a": two, "b": two})
    with paths["two in one place"].open("ab") as file:
        file.write(bytes(4))
    paths["pickle.ckpt"].write_bytes(b"\x80\x02}q\x00.")
    save_file({}, paths["nothing inside"])
    for name, expected in cases.items():
        with pytest.raises(CheckpointError) as error:
            load_unet(paths[name])
        assert expected in sentence(error), name


def test_a_sound_file_is_not_called_damaged(tmp_path, monkeypatch):
    """What the system or the machine has to say keeps its own words; what is no answer of a file goes on as it is."""
    path = tmp_path / "sound.safetensors"
    save_unet(VideoUNet(BASE), path)
    told = {}
    for name, error in {
        "disk": OSError(5, "Input/output error"),
        "memory": MemoryError(),
        "map": RuntimeError("unable to mmap 3 bytes: Cannot allocate memory (12)"),
        "bug": TypeError("'NoneType' object is not subscriptable"),
    }.items():

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("dreamfactory.model_patches.checkpoints.files.load_file", fail)
            with pytest.raises(type(error) if name != "disk" else CheckpointError) as caught:
                load_unet(path)
        told[name] = str(caught.value)
    assert told["disk"].endswith("sound.safetensors cannot be read: Input/output error.")
    assert not any("damaged" in text or "download" in text for text in told.values())


def keys(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(4, 4) for name in names}


UNET = ("input_blocks.0.0.weight", "time_embed.0.weight", "middle_block.1.transformer_blocks.0.norm1.weight")
LDM = tuple("model.diffusion_model." + k for k in (*UNET, "output_blocks.0.0.in_layers.0.weight"))
DIFFUSERS = ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.attentions.0.norm.weight")
STRANGERS = {
    "SDXL UNet": keys(
        *LDM, "model.diffusion_model.label_emb.0.0.weight", "model.diffusion_model.x.transformer_blocks.1.a.weight"
    ),
    "an SDXL": keys(*DIFFUSERS, "add_embedding.linear_1.weight", "down_blocks.1.x.transformer_blocks.1.a.weight"),
    "unCLIP": keys(*LDM, "model.diffusion_model.label_emb.0.0.weight"),
    "kohya": keys("lora_unet_input_blocks_1_1_proj_in.lora_down.weight", "lora_unet_input_blocks_1_1_proj_in.alpha"),
    "LoRA in diffusers": keys("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"),
    "LoRA in diffusers' names": keys("unet.down_blocks.0.attentions.0.processor.to_q_lora.up.weight"),
    "PEFT": keys("base_model.model.input_blocks.1.1.proj_in.lora_A.default.weight"),
    "AnimateDiff": keys("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"),
    "ControlNet": keys("control_model.input_hint_block.0.weight", *LDM),
    "a ControlNet": keys(*DIFFUSERS, "controlnet_cond_embedding.conv_in.weight"),
    "VAE": keys("first_stage_model.encoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight"),
    "a VAE": keys("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight"),
    "text encoder": keys("text_model.encoder.layers.0.mlp.fc1.weight"),
    "image encoder": keys("vision_model.encoder.layers.0.mlp.fc1.weight"),
    "T5": keys("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"),
    "IP-Adapter": keys("ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"),
    "VideoCrafter1": keys(
        *LDM,
        "model.diffusion_model.x.attn1.relative_position_k.embeddings_table",
        "model.diffusion_model.init_attn.0.w",
    ),
    "Stable Video Diffusion": keys(*DIFFUSERS, "down_blocks.0.attentions.0.time_mixer.mix_factor"),
    "I2VGen-XL": keys(*DIFFUSERS, "image_latents_proj_in.0.weight", "transformer_in.norm.weight"),
    "diffusion transformer": keys("double_blocks.0.img_attn.qkv.weight"),
    "Wan": keys("model.diffusion_model.blocks.0.self_attn.q.weight"),
    "image projector": keys("image_proj_model.latents", "image_proj_model.layers.0.0.to_kv.weight"),
    "DreamFactory network saved without its config": keys(*LDM, "model.diffusion_model.temporal_attentions.middle_1.a"),
    "an image upscaler": keys("conv_first.weight", "body.0.rdb1.conv1.weight"),
    "image upscaler": keys("body.0.weight", "body.1.weight", "body.2.weight"),
    "is an image upscaler": keys("conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight"),
    "this is an image upscaler": keys("head.0.weight", "body.0.body.0.body.0.weight", "tail.0.weight"),
    "no known network": keys("fc.weight"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_named(tmp_path, name):
    path = tmp_path / "x.safetensors"
    save_file(STRANGERS[name], path)
    with pytest.raises(CheckpointError) as error:
        load_unet(path)
    assert name in sentence(error)
    assert path.name in str(error.value)
    if name not in ("PEFT", "LoRA in diffusers"):  # renamed for the host's LoRA loader: converters/test_lora.py
        with pytest.raises(CheckpointError):
            convert_file(path, tmp_path / "y.safetensors")
        assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_our_other_files_are_named(tmp_path):
    save_codec(
        PatchAutoencoder(PatchCodecConfig(latent_channels=4, latent_width=8, detail_width=8)),
        tmp_path / "c.safetensors",
    )
    with pytest.raises(CheckpointError, match="image codec"):
        load_unet(tmp_path / "c.safetensors")
    save_unet(VideoUNet(BASE), tmp_path / "u.safetensors")
    with pytest.raises(CheckpointError, match="already"):
        convert_file_in_memory(tmp_path / "u.safetensors")


@pytest.mark.parametrize("kind", ["ours", "public"])
def test_incomplete_networks(tmp_path, kind):
    """A weight too few, too many, of another shape; in our file and in Stable Diffusion's."""
    spatial = replace(BASE, temporal_conv=False, temporal_attention=False)
    path = tmp_path / "x.safetensors"
    save_unet(VideoUNet(spatial), path)
    state, metadata = load_file(path), read_header(path).metadata if kind == "ours" else None
    overrides = {"head_dim": 8, "norm_groups": 8}

    def load(changed):
        save_file(changed, path, metadata)
        if kind == "ours":
            return load_unet(path)
        return convert_file_in_memory(path, overrides=overrides)

    load(state)
    lost = "output_blocks.1.0.in_layers.2.bias"
    for changed, expected in (
        ({k: v for k, v in state.items() if k != lost}, f"lacks 1 weights.*{lost}"),
        ({**state, "input_blocks.1.0.extra": torch.zeros(2)}, r"unexpected 1 weights.*input_blocks\.1\.0\.extra"),
        ({**state, lost: torch.zeros(7)}, r"in_layers\.2\.bias is \(7,\)"),
    ):
        with pytest.raises(CheckpointError, match=expected) as error:
            load(changed)
        sentence(error)


def test_a_config_that_cannot_be_built(tmp_path):
    path = tmp_path / "x.safetensors"
    save_unet(VideoUNet(BASE), path)
    state, metadata = load_file(path), read_header(path).metadata
    config = BASE.to_dict()
    for value, expected in (
        (json.dumps({**config, "pacca": True}), "Did you mean 'paca'"),
        (json.dumps({**config, "head_dim": 7}), "heads of 7"),
        ("{", "dreamfactory.config"),
    ):
        save_file(state, path, {**metadata, files.CONFIG: value})
        with pytest.raises(CheckpointError) as error:
            load_unet(path)
        assert expected in sentence(error)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    unet = VideoUNet(BASE)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    for place, expected in (
        (tmp_path / "no" / "x.safetensors", "cannot be written"),
        (tmp_path / "file" / "x.safetensors", "cannot be written"),
        (tmp_path / "folder.safetensors", "cannot be written"),
        (tmp_path / "x.ckpt", "must end in .safetensors"),
    ):
        with pytest.raises(CheckpointError) as error:
            save_unet(unet, place)
        assert expected in sentence(error)
    save_unet(unet, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_unet(unet, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors", "x.safetensors"]


def test_conversion_says_early_that_it_cannot_write(tmp_path):
    for place in (tmp_path / "x.ckpt", tmp_path / "no" / "x.safetensors"):
        with pytest.raises(CheckpointError) as error:
            convert_file(tmp_path / "never_read.safetensors", place)
        assert "never_read" not in sentence(error)


# -- the host's operations ------------------------------------------------------------------------------------


class HostOperations:
    """As ComfyUI's: classes of its own in place of torch's."""

    class Linear(nn.Linear):
        pass

    class Conv2d(nn.Conv2d):
        pass

    class GroupNorm(nn.GroupNorm):
        pass

    class LayerNorm(nn.LayerNorm):
        pass


def test_every_weight_comes_from_the_hosts_operations(tmp_path):
    save_unet(randomise(VideoUNet(EVERYTHING)), tmp_path / "x.safetensors")
    unet = load_unet(tmp_path / "x.safetensors", operations=HostOperations, dtype=torch.bfloat16)
    own = {getattr(HostOperations, n) for n in ("Linear", "Conv2d", "GroupNorm", "LayerNorm")}
    bare = set()
    for module in unet.modules():
        if list(module.parameters(recurse=False)) and type(module) not in own:
            # Bare weights sit in leaf modules only, where a host's offloading sees them.
            assert not list(module.children())
            bare.add(type(module).__name__)
    assert bare == {"Queries", "LearnableScale", "TemporalSkip"}
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    assert all(p.ndim <= 4 for p in unet.parameters())  # 5-D weights break channels-last
    x, text = torch.randn(2, 4, 8, 8), torch.randn(1, 3, 16)
    with torch.no_grad():
        out = unet(x.bfloat16(), torch.tensor([5]), Conditions(text), num_frames=2)
    assert out.dtype == torch.bfloat16


def test_attention_is_the_hosts_to_choose():
    calls = []

    def attention(q, k, v, heads, transformer_options=None):
        assert q.ndim == k.ndim == v.ndim == 3
        calls.append(transformer_options)
        return torch.zeros_like(q)

    unet = VideoUNet(BASE, attention=attention)
    options = {"uuids": [1]}
    with torch.no_grad():
        x, text = torch.randn(2, 4, 8, 8), torch.randn(1, 3, 16)
        unet(x, torch.tensor([5]), Conditions(text), num_frames=2, hooks=Hooks(options))
    # 7 transformers of space and 7 of time, two attentions each, all given the host's options.
    assert calls == [options] * 28
