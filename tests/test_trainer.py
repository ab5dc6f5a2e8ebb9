"""The trainer's promises: exact resume, a strict config, losses that are the papers' equations."""

from dataclasses import replace

import pytest
import torch

from dreamfactory.model_patches import UNetConfig
from dreamfactory.schedulers import ScheduleConfig
from dreamfactory.training.batch import Batch
from dreamfactory.training.config import DropoutConfig, LossConfig, RunConfig, load_run
from dreamfactory.training.errors import TrainingError
from dreamfactory.training.step import Models, flow_loss, training_loss
from dreamfactory.training.trainer import advance, learning_rate, load_state, prepare, save_state

SMALL = [
    "device=cpu",
    "model.config.dropout=0.1",  # so that exact resume covers the global generator as well
    "optim.steps=4",
    "optim.batch_size=2",
    "data.frames=3",
    "model.config.model_channels=24",
    "model.config.head_dim=24",
    "output.validation_clips=0",
]


def run(tmp_path, *changes):
    return prepare(load_run("demo", [*SMALL, f"output.folder={tmp_path}", *changes]))


def weights(run):
    return {k: v.detach().clone() for k, v in {**run.named_weights(), **run.named_weights(run.averaged)}.items()}


def test_a_resumed_run_makes_the_same_weights_to_the_bit(tmp_path):
    whole = run(tmp_path)
    for _ in range(4):
        advance(whole)

    first = run(tmp_path)
    for _ in range(2):
        advance(first)
    save_state(first, tmp_path)
    torch.rand(100)  # the global generator is somewhere else after a restart
    second = run(tmp_path)
    load_state(second, tmp_path)
    assert second.step == 2
    for _ in range(2):
        advance(second)

    expected, resumed = weights(whole), weights(second)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)
    assert any(not torch.equal(expected[k], weights(first)[k]) for k in expected)


def test_a_run_of_another_recipe_is_not_continued(tmp_path):
    first = run(tmp_path)
    advance(first)
    save_state(first, tmp_path)
    with pytest.raises(TrainingError, match=r"another \[optim\]"):
        load_state(run(tmp_path, "optim.batch_size=3"), tmp_path)


def test_every_weight_is_trained(tmp_path):
    """After a few steps (zero-initialised outputs open one after the other) nothing stays where it began."""
    trained = run(tmp_path, "model.config.predict_net=true", "loss.flow_weight=1.0", "optim.warmup=1")
    before = {k: v.detach().clone() for k, v in trained.named_weights().items()}
    for _ in range(4):
        advance(trained)
    # Left out: what no input reaches by design, e.g. tokens that did not occur, an encoder's unused pooling.
    free = ("token_embedding", "position_embedding", "shared", "relative_attention_bias", "post_layernorm")
    same = [
        k for k, v in trained.named_weights().items() if torch.equal(v, before[k]) and not any(f in k for f in free)
    ]
    assert same == []


def test_learning_rate_warms_up_and_falls_to_zero():
    config = load_run("demo", ["optim.steps=100", "optim.warmup=10", "optim.cosine_from=0.5", "optim.lr=1.0"])
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[50] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("optim.learning_rate=1", "unknown setting optim.learning_rate"),
        ("optim.stepps=1", "Did you mean 'steps'"),
        ("optim.steps=many", "expected int"),
        ("optim.betas=0.9", "expected 2 values"),
        ("seed", "has no '='"),
        ("data=3", "expected a table"),
        ("seed.x=3", "seed is no table"),
        ("optim.batch_size=0", "expected at least 1"),
        ("optim.betas=[0.9,5.0]", "expected 0 to 1"),
        ("threads=-1", "expected at least 1"),
        ("data.height=60", "multiples of 8"),
    ],
)
def test_settings_are_strict(change, sentence):
    with pytest.raises(TrainingError, match=sentence.replace(".", r"\.")):
        load_run("demo", [change])


def test_a_missing_run_file_names_the_presets():
    with pytest.raises(TrainingError, match="demo"):
        load_run("nowhere.toml")


def test_a_damaged_state_is_told(tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="start again with --fresh"):
        load_state(run(tmp_path), tmp_path)


def test_a_gradient_without_numbers_spoils_nothing(tmp_path):
    trained = run(tmp_path)
    before = weights(trained)
    trained.models.unet.out[2].register_full_backward_hook(lambda module, inward, outward: (inward[0] * float("inf"),))
    with pytest.raises(TrainingError, match=r"lower optim\.lr"):
        advance(trained)
    assert all(torch.equal(v, before[k]) for k, v in weights(trained).items())


def test_flow_weight_needs_predict_net(tmp_path):
    with pytest.raises(TrainingError, match="predict_net"):
        run(tmp_path, "loss.flow_weight=1.0")


def test_resolved_config_survives_json():
    config = load_run("demo")
    from dreamfactory.training.config import build

    assert build(RunConfig, config.to_dict(), "") == config


# -- the loss, against its equation -----------------------------------------------------------------------------


class _Codec(torch.nn.Module):
    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)


class _Recorder(torch.nn.Module):
    """Stands where the network is and answers with a constant."""

    def __init__(self, answer=0.25):
        super().__init__()
        self.answer, self.config = answer, UNetConfig(in_channels=3, out_channels=3)

    def forward(self, x, t, text, **kwargs):
        self.seen = {"x": x, "t": t, **kwargs}
        return torch.full_like(x, self.answer)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_loss_is_the_mean_squared_distance_to_the_target(prediction):
    """FD Eq. 7, recomputed from the noisy latents the network was shown."""
    network = _Recorder()
    models = Models(network, _Codec(), lambda texts: torch.zeros(len(texts), 1, 1), None, None)
    batch = Batch(torch.rand(4, 2, 3, 16, 16), ["a"] * 4, ["b"] * 4)
    schedule = ScheduleConfig(prediction=prediction, rescale="none").build(16, 256, 256)
    generator = torch.Generator().manual_seed(5)
    loss, _ = training_loss(models, schedule, batch, generator, DropoutConfig(captions=0.0), LossConfig())

    latents = _Codec().encode(batch.frames.flatten(0, 1) * 2 - 1)
    alpha = schedule.alphas_cumprod[network.seen["t"]].repeat_interleave(2).float()[:, None, None, None]
    noise = (network.seen["x"] - alpha.sqrt() * latents) / (1 - alpha).sqrt()
    target = noise if prediction == "eps" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    assert loss.item() == pytest.approx((target - 0.25).square().mean().item(), rel=1e-4)
    assert noise.std().item() == pytest.approx(1.0, abs=0.2)


def test_captions_are_dropped_as_often_as_asked():
    seen = []
    models = Models(
        _Recorder(), _Codec(), lambda texts: seen.extend(texts) or torch.zeros(len(texts), 1, 1), None, None
    )
    batch = Batch(torch.rand(500, 1, 3, 8, 8), ["a"] * 500, ["b"] * 500)
    schedule = ScheduleConfig().build(1, 64, 64)
    generator = torch.Generator().manual_seed(0)
    training_loss(models, schedule, batch, generator, DropoutConfig(text=0.2, captions=0.0), LossConfig())
    assert 0.15 < seen.count("") / 500 < 0.25


def test_flow_loss_counts_valid_pixels_in_latent_units():
    """A uniform flow of 8 pixels is one latent pixel at downscale 8; invalid and last frames do not count."""
    flow = torch.full((2, 3, 2, 16, 16), 8.0)
    valid = torch.ones(2, 3, 16, 16)
    batch = Batch(torch.zeros(2, 4, 3, 16, 16), [], [], flow, valid)
    right = torch.ones(8, 2, 2, 2)
    right[3] = 99.0  # the last frame of the first clip has no forward flow
    assert flow_loss(right, batch, 4).item() == pytest.approx(0.0, abs=1e-10)
    assert flow_loss(torch.zeros(8, 2, 2, 2), batch, 4).item() == pytest.approx(1.0)
    half = replace(batch, flow_valid=valid.clone())
    half.flow_valid[..., :8] = 0
    half.flow[..., :8] = 1000.0
    assert flow_loss(right, half, 4).item() == pytest.approx(0.0, abs=1e-10)
