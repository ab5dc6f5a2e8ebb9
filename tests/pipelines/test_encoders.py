"""Encoders and bundles, against transformers' and diffusers' own classes with random weights."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfactory.errors import InputError
from dreamfactory.model_patches import CheckpointError, UNetConfig, VideoUNet, save_unet
from dreamfactory.pipelines.bundle import INDEX, KLCodec, load_bundle, load_vae
from dreamfactory.pipelines.encoders import CLIP_MEAN, CLIP_STD, ImageEncoder, TextEncoder
from dreamfactory.pipelines.image_to_video import Settings, animate
from dreamfactory.training.tiny_world.encoders import image_encoder, motion_encoder, text_encoder


def test_t5_padding_is_masked_and_comes_out_as_zero_rows():
    encoder = motion_encoder(0).eval()
    text = "the red circle moves left"
    tokens = encoder([text, "the blue star moves quickly down and to the right"])
    ids = encoder.tokenizer(text, return_tensors="pt")["input_ids"]
    alone = encoder.model(input_ids=ids).last_hidden_state
    count = ids.shape[1]
    assert tokens.shape == (2, encoder.length, encoder.width)
    assert torch.allclose(tokens[0, :count], alone[0], atol=1e-5)
    assert tokens[0, count:].abs().max() == 0


def test_clip_layers_are_transformers_own():
    encoder = text_encoder(0).eval()
    ids = encoder.tokenizer("a red circle", padding="max_length", max_length=encoder.length, return_tensors="pt")
    out = encoder.model(input_ids=ids["input_ids"], output_hidden_states=True)
    assert torch.allclose(encoder(["a red circle"]), out.last_hidden_state, atol=1e-6)
    encoder.layer = "penultimate"
    inner = getattr(encoder.model, "text_model", encoder.model)
    assert torch.allclose(encoder(["a red circle"]), inner.final_layer_norm(out.hidden_states[-2]), atol=1e-6)


def test_image_features_are_transformers_own():
    encoder = image_encoder(0).eval()
    images = torch.rand(2, 3, 64, 64)
    pixels = (images - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    out = encoder.model(pixels, output_hidden_states=True)
    for features, expected in (
        ("pooled", out.image_embeds),
        ("last", out.last_hidden_state),
        ("penultimate", out.hidden_states[-2]),
    ):
        assert torch.allclose(ImageEncoder(encoder.model, features)(images), expected, atol=1e-5)
    assert encoder(torch.rand(1, 3, 40, 80)).shape == (1, 64)  # any size is squashed to the square


def test_clip_constants_are_transformers_own():
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert list(CLIP_MEAN) == pytest.approx(OPENAI_CLIP_MEAN)
    assert list(CLIP_STD) == pytest.approx(OPENAI_CLIP_STD)


def test_folders_have_the_published_names(tmp_path):
    """Every version of transformers, and ComfyUI, reads `text_model.*` and PreTrainedTokenizerFast."""
    text_encoder(0).save(tmp_path / "text")
    keys = load_file(tmp_path / "text" / "model.safetensors").keys()
    assert all(k.startswith("text_model.") for k in keys)
    assert "text_model.embeddings.token_embedding.weight" in keys
    settings = json.loads((tmp_path / "text" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_an_encoder_folder_round_trips(tmp_path):
    for name, make, given in (
        ("text", text_encoder, ["a red circle"]),
        ("motion", motion_encoder, ["the red circle moves left"]),
        ("image", image_encoder, torch.rand(1, 3, 64, 64)),
    ):
        encoder = make(0).eval()
        encoder.save(tmp_path / name)
        assert torch.allclose(type(encoder).load(tmp_path / name)(given), encoder(given), atol=1e-5)


def test_an_encoder_that_lacks_weights_is_told(tmp_path):
    text_encoder(0).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("text_model.final_layer_norm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights"):
        TextEncoder.load(tmp_path)


def test_unknown_words_are_told():
    encoder = motion_encoder(0)
    assert encoder.unknown_words("the red zebra moves sideways") == ["zebra", "sideways"]
    assert encoder.unknown_words("the red circle moves left") == []


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """A network with its parts as a user of real weights has them: files and folders of standard classes."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = tmp_path_factory.mktemp("standard")
    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    vae = AutoencoderKL(**blocks, norm_num_groups=4, latent_channels=4, sample_size=16, scaling_factor=0.18215)
    vae.save_pretrained(folder / "vae", safe_serialization=True)
    text_encoder(0).save(folder / "text")
    motion_encoder(0).save(folder / "motion")
    image_encoder(0).save(folder / "image")
    config = UNetConfig(
        model_channels=32, channel_mult=(1,), attention_levels=(True,), num_res_blocks=1, context_dim=64, head_dim=16,
        norm_groups=8, temporal_attention=True, motion_text="added", motion_dim=64,
    )  # fmt: skip
    save_unet(VideoUNet(config), folder / "unet.safetensors", schedule={"prediction": "eps", "rescale": "none"})
    return folder


def parts(folder, **changes) -> dict[str, Any]:
    named = {"vae": "vae", "text_encoder": "text", "motion_encoder": "motion"}
    return {k: str(folder / v) for k, v in named.items()} | changes


def test_a_network_file_with_its_parts_named_makes_a_clip(standard):
    bundle = load_bundle(standard / "unet.safetensors", **parts(standard))
    assert bundle.schedule.prediction == "eps"
    clip = animate(bundle, torch.rand(1, 3, 16, 24), ["a"], ["b"], Settings(frames=2, steps=2))
    assert clip.shape == (1, 2, 3, 16, 24)


def test_a_bundle_folder_names_the_same_parts(standard):
    index = {"unet": "unet.safetensors", "codec": "vae", "text": {"path": "text"}, "motion": {"path": "motion"}}
    (standard / INDEX).write_text(json.dumps({**index, "defaults": {"frames": 2, "steps": 2, "height": 16}}))
    named = load_bundle(standard / "unet.safetensors", **parts(standard))
    bundle = load_bundle(standard)
    assert bundle.defaults.frames == 2
    image = torch.rand(1, 3, 16, 16)
    clips = [animate(b, image, ["a"], ["b"], Settings(frames=2, steps=2, guidance_scale=7.5)) for b in (named, bundle)]
    assert torch.equal(*clips)


def test_kl_codec_is_diffusers_autoencoder_with_its_scale(standard):
    codec = load_vae(standard / "vae")
    assert isinstance(codec, KLCodec)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    expected = codec.vae.encode(images).latent_dist.mode() * 0.18215
    assert torch.allclose(codec.encode(images), expected, atol=1e-5)
    assert torch.allclose(codec.decode(expected), codec.vae.decode(expected / 0.18215).sample, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vae": None}, "without a VAE"),
        ({"text_encoder": None}, "without a text encoder"),
        ({"motion_encoder": None}, "name its T5 encoder"),
        ({"text_encoder": "image"}, "expected a CLIP text or T5 encoder"),
        ({"text_encoder": "nowhere"}, "text encoder is not there: .*does not exist"),
        ({"vae": "nowhere"}, "VAE is not there: .*does not exist"),
        ({"vae": "demo"}, "12 latent channels"),
    ],
)
def test_parts_that_do_not_fit_are_told(standard, changes, sentence):
    from dreamfactory.pipelines.bundle import DEMO

    named = parts(standard)
    for key, value in changes.items():
        named[key] = None if value is None else str(standard / value)
        if value == "demo":
            named[key] = str(DEMO / "codec.safetensors")
    with pytest.raises(InputError, match=sentence):
        load_bundle(standard / "unet.safetensors", **named)


def test_an_encoder_of_another_width_is_told(standard, tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = text_encoder(0)
    config = CLIPTextConfig(
        vocab_size=len(encoder.tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    TextEncoder(CLIPTextModel(config), encoder.tokenizer, 16).save(tmp_path / "narrow")
    with pytest.raises(InputError, match="32 wide, the network reads 64"):
        load_bundle(standard / "unet.safetensors", **parts(standard, text_encoder=str(tmp_path / "narrow")))


def test_encoders_without_weights_are_told(standard, tmp_path):
    for file in (standard / "text").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="has no weights: neither"):
        TextEncoder.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"is no file of torch\.save, or is damaged"):
        TextEncoder.load(tmp_path)


def test_a_missing_network_is_told():
    with pytest.raises(CheckpointError, match="does not exist"):
        load_bundle("nowhere.safetensors")


def test_a_saved_tokenizer_does_not_remember_the_last_call(demo, tmp_path):
    demo.text(["a red circle"])  # pads and truncates
    demo.text.save(tmp_path / "text")
    stored = json.loads((tmp_path / "text" / "tokenizer.json").read_text("utf-8"))
    assert stored["padding"] is None
    assert stored["truncation"] is None
