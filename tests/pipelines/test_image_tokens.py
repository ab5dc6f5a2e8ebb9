"""The image tokens of both sides of guidance: IP-Adapter's are diffusers', from the file and a picture to the prompt.

diffusers' pipeline encodes the picture, makes what stands for no picture, and its network projects both.
"""

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from dreamfactory.errors import InputError
from dreamfactory.model_patches import ConfigError, UNetConfig, apply_patch, load_unet, preset, save_unet
from dreamfactory.model_patches.network.config import ProjectorConfig
from dreamfactory.pipelines.bundle import INDEX, load_bundle
from dreamfactory.pipelines.encoders import CLIP_MEAN, CLIP_STD, ImageEncoder, TextEncoder
from dreamfactory.pipelines.image_to_video import Settings, encode
from dreamfactory.training.tiny_world.encoders import text_encoder

from ..model_patches.checkpoints.converters.test_ip_adapter import (
    adapters,
    base_projector,
    image_peer,
    nested,
    plus_projector,
)
from ..there import there

logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SIDE, EMBEDDED, HIDDEN = 32, 24, 40
PROJECTORS = {"base": lambda: base_projector(768, EMBEDDED), "plus": lambda: plus_projector(768, embedding=HIDDEN)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of standard classes with random weights, and diffusers' network."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, patch_size=8,
            image_size=SIDE, projection_dim=EMBEDDED, initializer_factor=3.0,
        )
    )  # fmt: skip
    ImageEncoder(vision).save(folder / "vision")
    blocks: dict[str, Any] = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    AutoencoderKL(**blocks, norm_num_groups=4, latent_channels=4).save_pretrained(folder / "vae")
    words = text_encoder(0)
    config = CLIPTextConfig(
        vocab_size=len(words.tokenizer), hidden_size=768, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    TextEncoder(CLIPTextModel(config), words.tokenizer, 16).save(folder / "text")
    return folder


def load(parts, network, **changes):
    named = {"vae": parts / "vae", "text_encoder": parts / "text", "image_encoder": parts / "vision"}
    given: dict[str, Any] = {k: str(v) for k, v in {**named, **changes}.items()}
    return load_bundle(network, **given)


def network_with(kind, folder) -> tuple[UNet2DConditionModel, dict[str, torch.Tensor]]:
    """diffusers' network and an IP-Adapter file; ours with the adapter on it as one file."""
    peer = image_peer()
    state = adapters(peer, 768) | PROJECTORS[kind]()
    peer.save_pretrained(folder / "sd")
    save_file(state, folder / "ip.safetensors")
    base = load_unet(folder / "sd" / "diffusion_pytorch_model.safetensors")
    save_unet(apply_patch(base, folder / "ip.safetensors"), folder / "unet.safetensors")
    return peer, state


@pytest.mark.parametrize("kind", PROJECTORS)
@torch.no_grad()
def test_ip_adapters_tokens_on_both_sides_are_the_peers(parts, tmp_path, kind):
    peer, state = network_with(kind, tmp_path)
    bundle = load(parts, tmp_path / "unet.safetensors")
    pictures = torch.rand(2, 3, SIDE, SIDE)
    prompt = encode(bundle, pictures, ["a", "b"], ["", ""], Settings())

    peer._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
    vision = CLIPVisionModelWithProjection.from_pretrained(parts / "vision").eval()
    nothing: Any = None  # its types ask for all parts
    scheduler: Any = DDIMScheduler()
    pipeline = StableDiffusionPipeline(
        vae=nothing, text_encoder=nothing, tokenizer=nothing, unet=peer, scheduler=scheduler, safety_checker=nothing,
        feature_extractor=nothing, image_encoder=vision, requires_safety_checker=False,
    )  # fmt: skip
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    for i, picture in enumerate(pictures):
        embeds = pipeline.prepare_ip_adapter_image_embeds([((picture - mean) / std)[None]], None, "cpu", 1, True)
        without, seen = there(peer.encoder_hid_proj)(embeds)[0].flatten(1, 2)
        assert error(there(prompt.image_tokens)[i], seen) < 1e-5
        assert error(there(prompt.uncond_image_tokens)[i], without) < 1e-5
        assert error(seen, without) > 0.05


def error(ours, theirs) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_a_networks_own_words_decide():
    """Files from before the field: DynamiCrafter's tokens a frame stand for grey."""
    assert UNetConfig().uncond_image == "same"
    assert UNetConfig(image_tokens_per_frame=16).uncond_image == "grey"
    assert UNetConfig(image_tokens_per_frame=16, image_uncond="same").uncond_image == "same"
    known = preset("dynamicrafter-512")
    old = known.to_dict()
    old.pop("image_uncond")
    assert UNetConfig.from_dict(old).uncond_image == known.uncond_image == "grey"
    with pytest.raises(ConfigError, match="image_uncond is 'gray'; expected one of same, grey, zeros"):
        UNetConfig(image_uncond="gray")


SMALL = UNetConfig(
    model_channels=32, channel_mult=(1,), attention_levels=(True,), num_res_blocks=1, context_dim=768, head_dim=16,
    image_adapter="all", image_token_dim=768,
    image_projector=ProjectorConfig(
        embedding_dim=HIDDEN, output_dim=768, queries=2, dim=16, depth=1, heads=1, head_dim=16
    ),
)  # fmt: skip


@pytest.mark.parametrize("features", ["last", "penultimate"])
@pytest.mark.parametrize("means", ["same", "grey", "zeros"])
@torch.no_grad()
def test_what_stands_for_no_picture(parts, tmp_path, means, features):
    """Of any network, through transformers' own encoder."""
    from dreamfactory.model_patches import VideoUNet

    projector = replace(there(SMALL.image_projector), features=features)
    unet = VideoUNet(replace(SMALL, image_projector=projector, image_uncond=means)).eval()
    save_unet(unet, tmp_path / "unet.safetensors", schedule={"prediction": "eps"})
    bundle = load(parts, tmp_path / "unet.safetensors")
    prompt = encode(bundle, torch.rand(1, 3, 48, 64), ["a"], [""], Settings())
    if means == "same":
        assert prompt.uncond_image_tokens is None
        return
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    pixels = torch.zeros(1, 3, SIDE, SIDE) if means == "zeros" else ((0.5 - mean) / std).expand(1, 3, SIDE, SIDE)
    out = CLIPVisionModelWithProjection.from_pretrained(parts / "vision").eval()(pixels, output_hidden_states=True)
    seen = out.last_hidden_state if features == "last" else out.hidden_states[-2]
    assert error(prompt.uncond_image_tokens, unet.project_image(seen)) < 1e-5


def test_a_bundle_may_say_otherwise_in_known_words(parts, tmp_path):
    from dreamfactory.model_patches import VideoUNet

    save_unet(VideoUNet(SMALL), tmp_path / "unet.safetensors", schedule={"prediction": "eps"})

    def bundle(**defaults):
        (tmp_path / INDEX).write_text(json.dumps({"unet": "unet.safetensors", "defaults": defaults}))
        return load(parts, tmp_path)

    assert bundle().defaults.uncond_image is None
    assert bundle(uncond_image="zeros").defaults.uncond_image == "zeros"
    with pytest.raises(InputError, match="uncond_image = 'gray'; expected one of same, grey, zeros"):
        bundle(uncond_image="gray")
