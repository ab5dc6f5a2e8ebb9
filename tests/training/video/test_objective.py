"""The loss, against its equations; the draws, against their chances."""

from typing import Any

import pytest
import torch

from dreamfactory.model_patches import UNetConfig
from dreamfactory.schedulers import ScheduleConfig, min_snr_weights, snr
from dreamfactory.training.batch import Batch
from dreamfactory.training.config import DropoutConfig, LossConfig
from dreamfactory.training.video.objective import DiffusionObjective, draw, flow_loss


class Codec(torch.nn.Module):
    latent_channels, downscale = 3, 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)


class Recorder(torch.nn.Module):
    """Stands where the network is and answers with a constant."""

    def __init__(self, answer=0.25, **config):
        super().__init__()
        self.answer, self.config = answer, UNetConfig(in_channels=3, out_channels=3, **config)

    def forward(self, x, t, conditions, num_frames, return_flow=False):
        self.seen = {"x": x, "t": t, "num_frames": num_frames, **vars(conditions)}
        answer = torch.full_like(x, self.answer)
        return (answer, torch.ones(len(x), 2, *x.shape[2:])) if return_flow else answer

    def project_image(self, features):
        return features[:, None] + 1


class Words(torch.nn.Module):
    def forward(self, captions):
        return torch.tensor([[[float(len(c))]] for c in captions])


def learner(network, loss=None, dropout=None, grey=None):
    codec: Any = Codec()
    return DiffusionObjective(network, codec, {"text": Words()}, loss or LossConfig(), dropout or DropoutConfig(), grey)


def clips(count, frames=2, size=16):
    generator = torch.Generator().manual_seed(count)
    return Batch(["a"] * count, ["b"] * count, torch.rand(count, frames, 3, size, size, generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_is_the_mean_squared_distance_to_the_target(prediction, gamma):
    """FD Eq. 7, recomputed from the noisy latents the network was shown; weighted as Hang et al. 2023."""
    network, batch = Recorder(), clips(4)
    schedule = ScheduleConfig(prediction=prediction, rescale="none").build(16, 256, 256)
    draws = draw(0, 5, range(4), (2, 3, 2, 2), 1000, DropoutConfig())
    loss, _ = learner(network, LossConfig(min_snr_gamma=gamma))(batch, draws, schedule)

    latents = Codec().encode(batch.pixels.flatten(0, 1) * 2 - 1)
    alpha = schedule.alphas_cumprod[network.seen["t"]].repeat_interleave(2)[:, None, None, None]
    noise = (network.seen["x"] - alpha.sqrt() * latents) / (1 - alpha).sqrt()
    target = noise if prediction == "eps" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    error = (target - 0.25).square().flatten(1).mean(1)
    if gamma is not None:
        error = error * min_snr_weights(snr(alpha.flatten()), prediction, gamma)
    assert loss.item() == pytest.approx(error.mean().item(), rel=1e-4)
    assert noise.std().item() == pytest.approx(1.0, abs=0.2)


def test_draws_belong_to_seed_step_and_row_alone():
    """However rows are shared out, a row's numbers are its own."""
    whole = draw(3, 7, range(6), (2, 3, 2, 2), 1000, DropoutConfig())
    for rows in ([0, 1, 2], [3], [5, 4]):
        part = draw(3, 7, rows, (2, 3, 2, 2), 1000, DropoutConfig())
        assert torch.equal(part.noise, whole.noise[rows])
        assert torch.equal(part.t, whole.t[rows])
    for other in (
        draw(4, 7, [0], (2, 3, 2, 2), 1000, DropoutConfig()),
        draw(3, 8, [0], (2, 3, 2, 2), 1000, DropoutConfig()),
    ):
        assert not torch.equal(other.noise[0], whole.noise[0])


def test_conditions_are_dropped_as_often_as_asked():
    """Each by itself, both captions together, and everything at once: chances of independent events."""
    chances = DropoutConfig(text=0.2, motion=0.1, captions=0.15, image=0.3, all=0.05)
    draws = draw(0, 0, range(4000), (1, 1, 1, 1), 10, chances)

    def either(*events):
        keep = 1.0
        for event in events:
            keep *= 1 - event
        return 1 - keep

    for dropped, expected in (
        (draws.drop_text, either(0.2, 0.15, 0.05)),
        (draws.drop_motion, either(0.1, 0.15, 0.05)),
        (draws.drop_image, either(0.3, 0.05)),
    ):
        deviation = (expected * (1 - expected) / 4000) ** 0.5
        assert dropped.float().mean().item() == pytest.approx(expected, abs=4 * deviation)


def test_a_left_out_image_leaves_no_trace():
    network = Recorder(image_adapter="all", image_projector={"kind": "linear", "embedding_dim": 2, "output_dim": 1024})
    batch = clips(4)
    batch.image = torch.rand(4, 2)
    draws = draw(0, 0, range(4), (2, 3, 2, 2), 1000, DropoutConfig())
    draws.drop_image = torch.tensor([True, False, False, True])
    schedule = ScheduleConfig().build(2, 16, 16)
    learner(network)(batch, draws, schedule)
    for name in ("first_frame", "image_tokens"):
        gone = network.seen[name].flatten(1).abs().amax(1) == 0
        assert gone.tolist() == [True, False, False, True]

    grey = torch.full((1, 2), 0.125)
    learner(network, dropout=DropoutConfig(image_means="grey"), grey=grey)(batch, draws, schedule)
    assert (network.seen["image_tokens"][[0, 3]] == 1.125).all()
    assert network.seen["first_frame"].flatten(1).abs().amax(1).min() > 0


def test_a_still_is_not_shown_to_itself_and_has_no_flow():
    network, batch = Recorder(predict_net=True), clips(3, frames=1)
    draws = draw(0, 0, range(3), (1, 3, 2, 2), 1000, DropoutConfig())
    _, parts = learner(network, LossConfig(flow_weight=1.0))(batch, draws, ScheduleConfig().build(1, 16, 16))
    assert network.seen["num_frames"] == 1
    assert not network.seen["first_frame"].any()
    assert parts.keys() == {"diffusion"}


def test_flow_joins_the_loss_by_its_weight_and_scale():
    """FD: L = L_DF + gamma L_flow; the stand-in answers 1 everywhere, the flow is 3 / scale 2 = 1.5."""
    network, batch = Recorder(), clips(2)
    batch.flow, batch.flow_weight = torch.full((2, 1, 2, 2, 2), 3.0), torch.ones(2, 1, 2, 2)
    draws = draw(0, 0, range(2), (2, 3, 2, 2), 1000, DropoutConfig())
    loss = LossConfig(flow_weight=0.5, flow_scale=2.0)
    total, parts = learner(network, loss)(batch, draws, ScheduleConfig().build(2, 16, 16))
    assert parts["flow"].item() == pytest.approx(0.25)
    assert total.item() == pytest.approx(parts["diffusion"].item() + 0.5 * 0.25)


def test_flow_loss_counts_valid_cells_and_every_clip_alike():
    flow, weight = torch.ones(2, 3, 2, 2, 2), torch.ones(2, 3, 2, 2)
    right = torch.ones(8, 2, 2, 2)
    right[3] = 99.0  # the last frame of the first clip has no forward flow
    assert flow_loss(right, flow, weight).item() == pytest.approx(0.0, abs=1e-10)
    assert flow_loss(torch.zeros(8, 2, 2, 2), flow, weight).item() == pytest.approx(1.0)
    flow[0, :, :, :, :1], weight[0, :, :, :1] = 1000.0, 0.0
    assert flow_loss(right, flow, weight).item() == pytest.approx(0.0, abs=1e-10)
    # A clip that is wrong by 1 everywhere weighs half, though half of its cells do not count.
    wrong = right.clone()
    wrong[:3] += 1
    assert flow_loss(wrong, flow, weight).item() == pytest.approx(0.5)
    halves = [flow_loss(wrong[:4], flow[:1], weight[:1]), flow_loss(wrong[4:], flow[1:], weight[1:])]
    assert torch.stack(halves).mean().item() == pytest.approx(flow_loss(wrong, flow, weight).item())
