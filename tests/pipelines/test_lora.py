"""LoRA files on a network without a host: PEFT and diffusers put the same file on the same weights and must agree."""

import copy
import json
import logging
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from dreamfactory.errors import InputError
from dreamfactory.model_patches import PRESETS, CheckpointError, Conditions, UNetConfig, VideoUNet, load_unet, save_unet
from dreamfactory.model_patches.checkpoints.converters import modelscope, sd
from dreamfactory.model_patches.checkpoints.converters.diffusers_names import diffusers_names
from dreamfactory.model_patches.checkpoints.converters.keys import rename
from dreamfactory.model_patches.checkpoints.save import build
from dreamfactory.pipelines.lora import Lora, apply_lora, check_lora, parse_lora
from dreamfactory.training.tiny_world.encoders import motion_encoder, text_encoder

from ..random_weights import randomise

peft = pytest.importorskip("peft", reason="the authority on LoRA is peft, which is not installed")
logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

Pipeline: Any = StableDiffusionPipeline  # what its functions return depends on what they are asked
RANK, ALPHA, TOLERANCE = 4, 6.0, 1e-5
ATTENTION = "input_blocks.1.1.transformer_blocks.0.attn1"
SMALL = UNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(True, True), context_dim=24,
    head_dim=16, norm_groups=8, temporal_conv=True, temporal_attention=True, swap_attention="swapped",
    swap_window=(4, 3, 3), swap_head_dim=16, first_frame_concat="repeat",
)  # fmt: skip


def small() -> VideoUNet:
    torch.manual_seed(1)
    return randomise(VideoUNet(SMALL))


def run(unet: VideoUNet, frames: int = 2) -> torch.Tensor:
    torch.manual_seed(2)
    x, context = torch.randn(frames, 4, 8, 8), torch.randn(1, 5, unet.config.context_dim)
    with torch.no_grad():
        return unet(x, torch.tensor([400]), Conditions(context), num_frames=frames)


def run_peer(peer: Any, frames: int = 0) -> torch.Tensor:
    """The same numbers through a UNet2D, frames in the batch, or a UNet3D."""
    torch.manual_seed(2)
    x, context = torch.randn(frames or 2, 4, 8, 8), torch.randn(1, 5, peer.config.cross_attention_dim)
    with torch.no_grad():
        if not frames:
            return peer(x, torch.tensor([400]), context.expand(2, -1, -1)).sample
        return peer(x.transpose(0, 1)[None], torch.tensor([400]), context).sample[0].transpose(0, 1)


def error(got: torch.Tensor, expected: torch.Tensor, before: torch.Tensor) -> float:
    assert (expected - before).abs().max() > 0.01 * before.abs().max(), "the LoRA changes what comes out"
    return float((got - expected).abs().max() / expected.abs().max())


def matrices(layer: Any, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Random (down, up) for a linear layer or a convolution, of a size that shows and does not drown the rest."""
    down = torch.randn(rank, *layer.weight.shape[1:]) * layer.weight[0].numel() ** -0.5
    up = torch.randn(len(layer.weight), rank, *[1] * (layer.weight.ndim - 2)) * 0.3 * rank**-0.5
    return down, up


def layers(network: nn.Module, kinds=(nn.Linear, nn.Conv2d, nn.Conv3d)) -> dict[str, nn.Module]:
    return {name: m for name, m in network.named_modules() if isinstance(m, kinds)}


def kohya(named: dict[str, nn.Module], prefix: str = "lora_unet_") -> dict[str, torch.Tensor]:
    """As sd-scripts and LyCORIS write it: underscores, alpha in every layer."""
    state = {}
    for name, layer in named.items():
        place = prefix + name.replace(".", "_")
        state[f"{place}.lora_down.weight"], state[f"{place}.lora_up.weight"] = matrices(layer)
        state[f"{place}.alpha"] = torch.tensor(ALPHA)
    return state


def save(path, state, metadata=None) -> str:
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata)
    return str(path)


# -- what the trainer writes, against PEFT ----------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_the_trainers_file_does_what_peft_does(tmp_path, strength):
    from peft.tuners.lora.layer import LoraLayer

    from dreamfactory.training.config import LoraConfig
    from dreamfactory.training.video.lora import inject, is_lora, save_lora

    config = LoraConfig(parts=("spatial", "temporal", "swap_attention"), rank=RANK, alpha=ALPHA, feed_forward=True)
    trained, ours = small(), small()
    before = run(ours)
    inject(trained, config, 0)
    for name, weight in trained.named_parameters():
        if is_lora(name):
            weight.data = 0.1 * torch.randn(weight.shape)
    save_lora(dict(trained.named_parameters()), config, tmp_path / "lora.safetensors", torch.float32)
    for module in trained.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(strength)
    assert apply_lora(ours, None, Lora(str(tmp_path / "lora.safetensors"), strength)) == []
    assert error(run(ours), run(trained), before) <= TOLERANCE


# -- what others write for an image model, against diffusers ----------------------------------------------------


@pytest.fixture(scope="module")
def image_model():
    """diffusers' own Stable Diffusion 1.5, small."""
    torch.manual_seed(0)
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(32, 64, 64), layers_per_block=1, cross_attention_dim=768, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
    )  # fmt: skip


def as_ours(peer: nn.Module, converter=sd) -> VideoUNet:
    config, state, _, _ = converter.convert_diffusers(copy.deepcopy(peer).state_dict())
    return build(config, state)


def by_diffusers(peer: Any, path: str) -> torch.Tensor:
    """The output of diffusers' network after diffusers has read the file."""
    peer = copy.deepcopy(peer)
    state, alphas, metadata = Pipeline.lora_state_dict(path, unet_config=peer.config, return_lora_metadata=True)
    prefix = "unet" if any(k.startswith("unet.") for k in state) else None
    peer.load_lora_adapter(state, network_alphas=alphas, metadata=metadata, prefix=prefix)
    return run_peer(peer)


def kohya_diffusers(peer, folder):
    return save(folder / "lora.safetensors", kohya(layers(peer)))


def kohya_ldm(peer, folder):
    """Stable Diffusion's own names; diffusers has rules of its own to read them.

    They take an upsampling without an attention before it for an attention; that layer is left to the file above.
    """
    blocks = {n: m for n, m in layers(as_ours(peer)).items() if "block" in n and not n.endswith(".1.conv")}
    return save(folder / "lora.safetensors", kohya(blocks))


def diffusers_dotted(peer, folder):
    """train_text_to_image_lora.py of diffusers before PEFT."""
    state = {}
    for name, layer in layers(peer, nn.Linear).items():
        if ".attn" in name:
            down, up = matrices(layer)
            state |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
    return save(folder / "lora.safetensors", state)


def diffusers_processors(peer, folder):
    """The first LoRAs of diffusers, kept in attention processors."""
    state = {}
    for name, layer in layers(peer, nn.Linear).items():
        if ".attn" in name:
            place = name.replace(".to_", ".processor.to_").removesuffix(".0")
            down, up = matrices(layer)
            state |= {f"unet.{place}_lora.down.weight": down, f"unet.{place}_lora.up.weight": up}
    return save(folder / "lora.safetensors", state)


def injected(peer, **config):
    """The network with PEFT's random layers on it."""
    peer = copy.deepcopy(peer)
    named = [n for n, m in layers(peer).items() if n.endswith(("to_q", "to_out.0", "conv1", "proj_in", "conv.2"))]
    config = {"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": False, **config}
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=named, **config), peer)
    return peer


# One layer with a rank and an alpha of its own.
UNEVEN = {
    "rank_pattern": {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2},
    "alpha_pattern": {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 9.0},
}


def peft_by_pipeline(peer, folder):
    """diffusers' pipelines save PEFT's layers with their config in the file's metadata."""
    from peft.utils import get_peft_model_state_dict

    trained = injected(peer, **UNEVEN)
    config = {k: list(v) if isinstance(v, set) else v for k, v in trained.peft_config["default"].to_dict().items()}
    additions = get_peft_model_state_dict(trained)
    Pipeline.save_lora_weights(folder, additions, unet_lora_adapter_metadata=config)
    return str(folder / "pytorch_lora_weights.safetensors")


def peft_by_model(peer, folder):
    """A network alone saves the names without a prefix."""
    trained = injected(peer, use_rslora=True)
    trained._hf_peft_config_loaded = True
    trained.save_lora_adapter(folder)
    return str(folder / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    "write",
    [kohya_diffusers, kohya_ldm, diffusers_dotted, diffusers_processors, peft_by_pipeline, peft_by_model],
)
def test_an_image_models_lora_does_what_diffusers_does(tmp_path, image_model, write):
    path = write(image_model, tmp_path)
    ours, before, expected = as_ours(image_model), run_peer(image_model), by_diffusers(image_model, path)
    check_lora(Lora(path))
    assert apply_lora(ours, None, Lora(path)) == []
    assert error(run(ours), expected, before) <= TOLERANCE


def test_a_video_models_lora_does_what_peft_does(tmp_path):
    """diffusers' UNet3D: (3,1,1) convolutions over frames; PEFT's own folder with adapter_config.json."""
    torch.manual_seed(0)
    peer = randomise(
        UNet3DConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        )
    )  # fmt: skip
    ours, before = as_ours(peer, modelscope), run_peer(peer, 3)
    trained = peft.get_peft_model(
        copy.deepcopy(peer),
        peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(layers(peer)), init_lora_weights=False),
    )
    trained.save_pretrained(tmp_path)
    assert apply_lora(ours, None, Lora(str(tmp_path / "adapter_model.safetensors"))) == []
    assert error(run(ours, 3), run_peer(trained.base_model.model, 3), before) <= TOLERANCE


# -- text encoders ----------------------------------------------------------------------------------------------


def clip_layers() -> dict[str, nn.Module]:
    """CLIP's layers under the names that files have, whatever this transformers calls them."""
    named = layers(text_encoder(0).model, nn.Linear)
    return {n if n.startswith("text_model.") else f"text_model.{n}": m for n, m in named.items()}


def clip_dotted(middle: str, old: bool = False) -> dict[str, torch.Tensor]:
    """The names diffusers has had for CLIP's layers."""
    state = {}
    for name, layer in clip_layers().items():
        down, up = matrices(layer)
        if old:
            if "self_attn" not in name:
                continue
            base, leaf = name.rsplit(".", 1)
            name = f"{base}.to_{leaf.removesuffix('_proj')}"
        state |= {f"text_encoder.{name}{middle}down.weight": down, f"text_encoder.{name}{middle}up.weight": up}
    return state


@pytest.mark.parametrize(
    "make",
    [
        lambda: kohya(clip_layers(), "lora_te_"),
        lambda: kohya(clip_layers(), "lora_te1_"),
        lambda: clip_dotted(".lora_linear_layer."),
        lambda: clip_dotted("_lora.", old=True),
    ],
    ids=["lora_te", "lora_te1", "lora_linear_layer", "to_q_lora"],
)
def test_the_text_half_does_what_diffusers_does(tmp_path, make):
    path = save(tmp_path / "lora.safetensors", make())
    ours, theirs = text_encoder(0).eval(), text_encoder(0).eval()
    with torch.no_grad():
        before = ours(["a red circle"])
        state, alphas = Pipeline.lora_state_dict(path)
        Pipeline.load_lora_into_text_encoder(state, alphas, theirs.model)
        unet = small()
        kept = copy.deepcopy(unet.state_dict())
        assert apply_lora(unet, ours, Lora(path)) == []
        assert error(ours(["a red circle"]), theirs(["a red circle"]), before) <= TOLERANCE
    assert_same(unet, kept)


def test_a_level_that_some_versions_of_transformers_have_makes_no_difference(tmp_path):
    path = save(tmp_path / "lora.safetensors", kohya(clip_layers(), "lora_te_"))
    flat, nested = text_encoder(0), text_encoder(0)
    inner = getattr(flat.model, "text_model", flat.model)
    deeper, nested.model = getattr(nested.model, "text_model", nested.model), nn.Module()
    nested.model.text_model, flat.model = deeper, inner
    for encoder in (flat, nested):
        assert apply_lora(small(), encoder, Lora(path)) == []
    assert_same(deeper, inner.state_dict())


@pytest.mark.parametrize("kind", ["text", "motion"])
def test_pefts_folder_of_an_encoder(tmp_path, kind):
    """CLIP for the text, T5 for the motion, each found by its layers' names."""
    text, motion = text_encoder(0).eval(), motion_encoder(0).eval()
    encoder = {"text": text, "motion": motion}[kind]
    trained = copy.deepcopy(encoder)
    trained.model = peft.get_peft_model(
        trained.model,
        peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=list(layers(encoder.model, nn.Linear)), init_lora_weights=False
        ),
    )
    trained.model.save_pretrained(tmp_path)
    trained.model = trained.model.base_model.model
    with torch.no_grad():
        before = encoder(["the red circle moves left"])
        assert apply_lora(small(), text, Lora(str(tmp_path / "adapter_model.safetensors")), motion) == []
        got, expected = encoder(["the red circle moves left"]), trained(["the red circle moves left"])
    assert error(got, expected, before) <= TOLERANCE


# -- the equation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["input_blocks.1.0.in_layers.2", "temporal_convs.input_1.conv1.2"])
def test_convolutions_in_a_row_become_one(tmp_path, place):
    """LoCon with `lora_mid`: down 1x1, mid of the layer's kernel, up 1x1, run one after the other."""
    unet = small()
    layer: Any = unet.get_submodule(place)
    down, mid, up = torch.randn(5, 32, 1, 1), torch.randn(4, 5, *layer.kernel_size), torch.randn(32, 4, 1, 1)
    x = torch.randn(1, 32, 6, 6)
    row = F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=layer.padding), up)
    expected = layer(x) + 0.5 * ALPHA / 5 * row  # LyCORIS counts the rank at the down side
    name = "lora_unet_" + place.replace(".", "_")
    state = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}
    path = save(tmp_path / "lora.safetensors", {f"{name}.{k}": v for k, v in state.items()})
    assert apply_lora(unet, None, Lora(path, 0.5)) == []
    torch.testing.assert_close(unet.get_submodule(place)(x), expected, rtol=1e-4, atol=1e-4)


def weights_with(path: str, *strengths: float) -> dict[str, torch.Tensor]:
    unet = small()
    for strength in strengths:
        apply_lora(unet, None, Lora(path, strength))
    return unet.state_dict()


def spatial_file(folder, seed: int = 3, name: str = "lora") -> str:
    torch.manual_seed(seed)
    named = {n: m for n, m in layers(small()).items() if "block" in n and ".0.0." not in n}
    return save(folder / f"{name}.safetensors", kohya(named))


def close(a: dict, b: dict) -> None:
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5)


def assert_same(module: nn.Module, kept: dict[str, torch.Tensor]) -> None:
    state = module.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[k], kept[k]) for k in kept)


def test_strength_zero_is_nothing_and_strengths_add(tmp_path):
    path = spatial_file(tmp_path)
    unet = small()
    kept = copy.deepcopy(unet.state_dict())
    apply_lora(unet, None, Lora(path, 0.0))
    assert_same(unet, kept)
    close(weights_with(path, 0.3, 0.5), weights_with(path, 0.8))
    close(weights_with(path, 2.0, -2.0), kept)


def test_two_files_in_either_order(tmp_path):
    one, two = (Lora(spatial_file(tmp_path, seed, str(seed)), 0.7) for seed in (3, 4))
    orders = []
    for order in ((one, two), (two, one)):
        unet = small()
        for lora in order:
            apply_lora(unet, None, lora)
        orders.append(unet.state_dict())
    close(*orders)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(tmp_path, dtype):
    """Weights and file in half precision, the sum in float32 (here: float64), and the dtype stays."""
    unet = small().to(dtype)
    path = spatial_file(tmp_path)
    state = {k: v.to(dtype) for k, v in load_file(path).items()}
    save_file(state, path)
    before = unet.get_parameter(f"{ATTENTION}.to_q.weight").clone()
    name = "lora_unet_" + ATTENTION.replace(".", "_") + "_to_q"
    exact = before.double() + 0.3 * ALPHA / RANK * (
        state[f"{name}.lora_up.weight"].double() @ state[f"{name}.lora_down.weight"].double()
    )
    apply_lora(unet, None, Lora(path, 0.3))
    after = unet.get_parameter(f"{ATTENTION}.to_q.weight")
    assert after.dtype == dtype
    # The next number of the dtype at most, where float32 falls on the other side of a tie.
    assert ((after.double() - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-7).all()


def test_the_networks_own_file_stays_as_it_is(tmp_path):
    """Weights come from the file's pages; what is added must not go back there."""
    base = tmp_path / "base.safetensors"
    save_unet(small(), base, schedule={"prediction": "eps"})
    written = base.read_bytes()
    unet = load_unet(base)
    apply_lora(unet, None, Lora(spatial_file(tmp_path)))
    assert base.read_bytes() == written
    name = f"{ATTENTION}.to_q.weight"
    assert not torch.equal(unet.get_parameter(name), small().get_parameter(name))


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_layers_share_a_name(name):
    """Underscores tell the layers of every network apart, in our names and in diffusers'."""
    config = PRESETS[name]
    ours = layers(VideoUNet(config, device="meta"))
    theirs, _ = rename(ours, {own: diffusers for diffusers, own in diffusers_names(config).items()})
    meant = {}
    for names in (ours, theirs):
        for full, layer in names.items():
            assert meant.setdefault(full.replace(".", "_"), layer) is layer


# -- what is left out, and what is refused ----------------------------------------------------------------------


def one(place: str, out: int = 32, inside: int = 32, rank: int = RANK, sides=("down", "up")) -> dict[str, torch.Tensor]:
    shapes = {"down": (rank, inside), "up": (out, rank)}
    return {f"{place}.lora_{side}.weight": torch.randn(shapes[side]) for side in sides}


GOOD = "lora_unet_" + ATTENTION.replace(".", "_") + "_to_q"
CLIP = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.mark.parametrize(
    ("state", "note"),
    [
        (one("lora_unet_down_blocks_7_attentions_0_proj_in"), "no layers of these names .lora_unet_down_blocks_7_att"),
        (one("lora_unet_conv_in", 32, 4 * 9), "first convolution takes other channels"),
        (one(CLIP, 3072, 768), "text encoder is of another size"),
        (one("lora_te_text_model_encoder_layers_11_mlp_fc1", 128, 64), "text encoder has no layers of these names"),
        ({"lora_unet_conv_in.diff_b": torch.zeros(32)}, "1 parts are left out, because they are no LoRA"),
        ({"lora_unet_conv_in.alpha": torch.ones(())}, "they are no LoRA .lora_unet_conv_in.alpha"),
        ({f"unet.{ATTENTION}.to_k.lora_{s}.weight": torch.randn(sh) for s, sh in (("A", (4, 32)), ("B", (32, 4)))},
         "states no alpha; it is taken as the rank"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told(tmp_path, state, note):
    path = save(tmp_path / "lora.safetensors", {**one(GOOD), **state})
    unet, text = small(), text_encoder(0)
    kept = copy.deepcopy(unet.state_dict())
    (told,) = apply_lora(unet, text, Lora(path))
    assert_sentence(told, note)
    changed = {k for k, v in unet.state_dict().items() if not torch.equal(v, kept[k])}
    expected = {f"{ATTENTION}.to_q.weight", f"{ATTENTION}.to_k.weight"}
    assert changed == (expected if "taken as the rank" in note else {f"{ATTENTION}.to_q.weight"})


def test_no_text_encoder_is_told(tmp_path):
    path = save(tmp_path / "lora.safetensors", {**one(GOOD), **one(CLIP, 128, 64)})
    (told,) = apply_lora(small(), None, Lora(path))
    assert_sentence(told, "there is no text encoder")


def assert_sentence(told: str, match: str) -> None:
    assert re.search(match, told), told
    assert told.endswith(".")
    assert "\n" not in told
    assert ". " not in told


def nothing_finite() -> dict[str, torch.Tensor]:
    state = {**one(GOOD), **one(GOOD.replace("to_q", "to_k"))}
    state[f"{GOOD.replace('to_q', 'to_k')}.lora_up.weight"][3, 1] = torch.nan
    return state


PLACE = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2"
# Of the file alone: told before a network is read.
BY_HEADER = [
    ({f"{GOOD}.dora_scale": torch.ones(32, 1), **one(GOOD)}, "is a DoRA"),
    ({f"unet.{ATTENTION}.to_q.lora_magnitude_vector": torch.ones(32), **one(GOOD)}, "is a DoRA"),
    ({f"{GOOD}.hada_w1_a": torch.ones(32, 4)}, "is a LoHa"),
    ({f"{GOOD}.lokr_w1": torch.ones(4, 4)}, "is a LoKr"),
    ({f"{GOOD}.weight": torch.ones(32), f"{GOOD}.on_input": torch.ones(())}, "is an IA3"),
    ({f"base_model.model.{ATTENTION}.to_q.ia3_l": torch.ones(32, 1)}, "is an IA3"),
    ({f"{GOOD}.{n}.weight": torch.ones(4, 4) for n in ("a1", "a2", "b1", "b2")}, "is a GLoRA"),
    (one("down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q"),
     "is a motion LoRA of AnimateDiff"),
    (one("lora_unet_double_blocks_0_img_attn_proj"), "diffusion transformer"),
    (one("transformer.single_transformer_blocks.0.attn.to_q"), "diffusion transformer"),
    (one("lora_unet_joint_blocks_0_x_block_attn_qkv"), "diffusion transformer"),
    (one("lora_unet_blocks_0_self_attn_q"), "diffusion transformer"),
    (one("diffusion_model.blocks.0.cross_attn.k"), "diffusion transformer"),
    (one("base_model.model.transformer_blocks.3.attn1.to_q"), "diffusion transformer"),
    (one("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"), "SDXL"),
    (one("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"), "SDXL"),
    (one("lora_te2_text_model_encoder_layers_0_mlp_fc1") | one(GOOD), "SDXL"),
    (one(GOOD, sides=("down",)), "is damaged"),
    (one(GOOD, sides=("up",)), "is damaged"),
    (one(GOOD) | {f"{GOOD}.lora_up.weight": torch.ones(32, 5)}, "is damaged"),
    (one(GOOD) | {f"{GOOD}.alpha": torch.ones(3)}, "is damaged"),
    (one(GOOD) | {f"{GOOD}.lora_up.weight": torch.ones(32, 4, dtype=torch.int8)}, "is damaged"),
    ({"input_blocks.0.0.weight": torch.ones(32, 4, 3, 3)}, "is no LoRA: none of its 1 weights"),
]  # fmt: skip
# Of the file on this network.
BY_NETWORK = [
    (nothing_finite(), "not finite"),
    (one(GOOD) | {f"{GOOD}.alpha": torch.tensor(torch.inf)}, "not finite"),
    (one(GOOD) | one(f"{PLACE}_to_k", 32, 2048), r"another network: .*attn2_to_k is \[32, 2048\] where"),
    (one("lora_unet_middle_block_9_proj"), "another network: nothing of it fits"),
    (one("lora_unet_middle_block_9_proj") | one(CLIP, 128, 64), "nothing of it fits this one .lora_unet_middle"),
    (one(CLIP, 3072, 768), "nothing of it fits"),
]  # fmt: skip


@pytest.fixture(scope="module")
def standing():
    """A network and its text encoder, and their weights as they were."""
    networks = (small(), text_encoder(0))
    return *networks, [copy.deepcopy(network.state_dict()) for network in networks]


@pytest.mark.parametrize(("state", "sentence"), BY_HEADER + BY_NETWORK)
def test_a_refusal_is_one_sentence_and_changes_nothing(tmp_path, standing, state, sentence):
    lora = Lora(save(tmp_path / "lora.safetensors", state))
    unet, text, kept = standing
    with pytest.raises((InputError, CheckpointError)) as told:
        apply_lora(unet, text, lora)
    assert_sentence(str(told.value), sentence)
    for module, before in zip((unet, text), kept, strict=True):
        assert_same(module, before)
    if any(state is of_file for of_file, _ in BY_HEADER):
        with pytest.raises((InputError, CheckpointError)) as early:
            check_lora(lora)
        assert str(early.value) == str(told.value)
    else:
        check_lora(lora)


def test_the_file_says_which_network_it_is_for(tmp_path):
    path = save(tmp_path / "lora.safetensors", one(f"{PLACE}_to_k", 32, 2048), {"ss_base_model_version": "sd_v2"})
    with pytest.raises(InputError, match=r"another network \(sd_v2\)"):
        apply_lora(small(), None, Lora(path))


def test_a_broken_peft_config_is_refused(tmp_path):
    state = {f"unet.{ATTENTION}.to_q.lora_{s}.weight": torch.randn(sh) for s, sh in (("A", (4, 32)), ("B", (32, 4)))}
    path = save(tmp_path / "lora.safetensors", state)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4}))
    unet = small()
    kept = copy.deepcopy(unet.state_dict())
    with pytest.raises(CheckpointError) as told:
        apply_lora(unet, None, Lora(path))
    assert_sentence(str(told.value), "LoRA config")
    assert_same(unet, kept)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("none.safetensors", None, "does not exist"),
        ("lora.pt", b"pickle", "is no file of torch.save"),
        ("lora.safetensors", b"not a header", "no safetensors file"),
    ],
)
def test_no_file_of_the_kind(tmp_path, name, data, sentence):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=sentence):
        check_lora(Lora(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:10", "a.safetensors", 10.0),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("a:b.safetensors:.5", "a:b.safetensors", 0.5),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:1e-1", r"C:\loras\a.safetensors", 0.1),
        ("0.5", "0.5", 1.0),
        ("a:strong", "a:strong", 1.0),
    ],
)
def test_only_a_number_behind_the_last_colon_is_a_strength(text, path, strength):
    assert parse_lora(text) == Lora(path, strength)


@pytest.mark.parametrize("text", ["a:11", "a:-10.5", "a:nan", "a:inf", "a:-infinity", ":0.5", ""])
def test_a_strength_nobody_means(text):
    with pytest.raises(InputError) as told:
        parse_lora(text)
    assert_sentence(str(told.value), "expected")
