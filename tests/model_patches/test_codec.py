"""The patch codec: PCA in closed form before training, sharp pictures after it, a file that travels."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches.checkpoints.files import PATCH_CODEC
from dreamfactory.model_patches.codec import PatchAutoencoder, PatchCodecConfig, load_codec, save_codec
from dreamfactory.training.tiny_world.codec import CodecTraining, evaluate, pca_codec, random_frames, train_codec

DEMO = Path(__file__).parents[2] / "pipelines" / "demo" / "codec.safetensors"
SMALL = PatchCodecConfig(latent_channels=5, latent_width=16, detail_width=8)


def frames(n: int, seed: int, split: str = "train", size: int = 64) -> torch.Tensor:
    return random_frames(n, torch.Generator().manual_seed(seed), split, size)


def random_codec(config: PatchCodecConfig = SMALL) -> PatchAutoencoder:
    """A codec whose residual branch and biases are not zero, as after training."""
    torch.manual_seed(0)
    codec = PatchAutoencoder(config)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return codec.eval()


def test_an_untrained_codec_reconstructs_as_the_closed_form_pca():
    images, channels = frames(40, 0), 7
    codec = pca_codec(images, PatchCodecConfig(channels))
    # Eckart-Young: the best rank-7 approximation of the centred patches is the truncated SVD.
    cells = images.view(40, 3, 8, 8, 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 192).double()
    mean = cells.mean(0)
    u, s, v = torch.linalg.svd(cells - mean, full_matrices=False)
    best = (u[:, :channels] * s[:channels]) @ v[:channels] + mean
    best = best.view(40, 8, 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(40, 3, 64, 64).float()
    with torch.no_grad():
        assert torch.allclose(codec(images), best, atol=1e-4)


def test_principal_latents_are_centred_half_whitened_and_of_unit_scale():
    images = frames(200, 0)
    codec = pca_codec(images)
    with torch.no_grad():
        latents = codec.encode(images).transpose(0, 1).flatten(1)
    cells = images.view(200, 3, 8, 8, 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 192).double()
    values = torch.linalg.eigvalsh(torch.cov(cells.T)).flip(0)[:12]
    ratio = latents.var(1) / values.sqrt()  # half-whitened: the variance is what the std was
    assert torch.allclose(ratio, ratio.mean().expand(12), rtol=1e-2)
    assert latents.mean(1).abs().max() < 1e-4
    assert latents.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)


def test_rescaling_centres_and_scales_the_latents():
    codec, images = random_codec(), frames(4, 1)
    with torch.no_grad():
        latents = codec.encode(images).transpose(0, 1).flatten(1)
        codec.rescale_latents(latents.mean(1), latents.std(1))
        rescaled = codec.encode(images).transpose(0, 1).flatten(1)
    assert rescaled.mean(1).abs().max() < 1e-4
    assert rescaled.square().mean().sqrt().item() == pytest.approx(1, abs=1e-2)


def test_rescaling_leaves_pictures_alone_away_from_the_border():
    codec = random_codec()
    images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = codec(images)
        codec.rescale_latents(torch.full((5,), 0.3), torch.linspace(0.5, 2, 5))
        after = codec(images)
    # Padding reaches 3 latent cells and 5 half-resolution pixels inward: 34 pixels.
    assert torch.allclose(before[..., 40:120, 40:120], after[..., 40:120, 40:120], atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_shapes(height, width):
    codec = random_codec()
    assert codec.latent_channels == 5
    assert codec.downscale == 8
    assert codec.scaling_factor == 1.0
    latents = codec.encode(torch.zeros(2, 3, height, width))
    assert latents.shape == (2, 5, height // 8, width // 8)
    assert codec.decode(latents).shape == (2, 3, height, width)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 8 pixels, not 60x64"):
        random_codec().encode(torch.zeros(1, 3, 64, 60))


def test_operations_make_every_layer():
    class Counting:
        made = 0

        class Conv2d(torch.nn.Conv2d):
            def __init__(self, *args, **kwargs):
                Counting.made += 1
                super().__init__(*args, **kwargs)

    codec = PatchAutoencoder(SMALL, operations=Counting, dtype=torch.float64)
    assert all(p.dtype == torch.float64 for p in codec.parameters())
    assert len(list(codec.parameters())) == 2 * Counting.made


def test_save_and_load_is_a_round_trip(tmp_path):
    codec = random_codec()
    path = tmp_path / "codec.safetensors"
    save_codec(codec, path, torch.float32)
    loaded = load_codec(path)
    assert loaded.config == SMALL
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for key, value in codec.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert [p.name for p in path.parent.iterdir()] == ["codec.safetensors"]

    save_codec(codec, path)
    assert load_codec(path, dtype=None).analysis.weight.dtype == torch.float16
    assert load_codec(path).analysis.weight.dtype == torch.float32


def test_unreadable_files_are_named(tmp_path):
    path = tmp_path / "codec.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        load_codec(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_codec(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no codec of ours"):
        load_codec(path)
    save_file({"weight": torch.zeros(1)}, path, metadata={PATCH_CODEC: '{"sizes": 1}'})
    with pytest.raises(ValueError, match="cannot be read"):
        load_codec(path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    save_codec(random_codec(), path)
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**weights, "extra": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match="has unexpected 1 weights of 22: extra"):
        load_codec(path)
    other = {**json.loads(metadata[PATCH_CODEC]), "latent_channels": 6}
    save_file(weights, path, {PATCH_CODEC: json.dumps(other)})
    with pytest.raises(ValueError, match=r"of another shape: analysis\.weight is"):
        load_codec(path)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small convolutions are slower on more
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_training_improves_on_principal_components():
    images = frames(64, 5, "held_out")
    codec = train_codec(CodecTraining(steps=100, batch=4, rate=3e-3))
    assert evaluate(codec, images) > evaluate(pca_codec(frames(512, 6)), images) + 0.3


@pytest.mark.usefixtures("one_thread")
def test_training_for_a_number_of_steps_repeats_exactly():
    one, two = (train_codec(CodecTraining(steps=4, batch=2, size=32)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_demo_codec_is_sharp_small_and_normalised():
    codec = load_codec(DEMO)
    images = frames(256, 7, "held_out")
    assert DEMO.stat().st_size < 600_000
    assert evaluate(codec, images) >= 36
    latents = codec.encode(images)
    assert latents.mean((0, 2, 3)).abs().max() < 0.15
    assert latents.std().item() == pytest.approx(1, abs=0.05)
