"""Training an upscaler: the losses' properties, and the trainer's promises for another kind of network."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreamfactory.errors import TrainingError
from dreamfactory.metrics.warp import changes
from dreamfactory.model_patches.checkpoints.files import read_header, read_weights
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, rcan_of, save_rcan, start_bilinear
from dreamfactory.model_patches.upscaling.sizes import bicubic
from dreamfactory.pipelines.media.files import write_video
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import from_dict, load_run
from dreamfactory.training.super_resolution.discriminator import Discriminator, SpectralConv
from dreamfactory.training.super_resolution.losses import gan, temporal
from dreamfactory.training.super_resolution.measures import lanczos, measure
from dreamfactory.training.trainer import Trainer

from ...processes import distance, final, launch
from ...there import there

pytest.importorskip("cv2", reason="the temporal term needs optical flow")

RUN = """
seed = 3
device = "cpu"
threads = 1
[upscaler]
groups = 1
blocks = 1
features = 8
reduction = 4
patch = 32
discriminator = 4
[sources.clips]
kind = "tiny_world"
[sources.stills]
kind = "tiny_stills"
[data]
frames = 2
height = 64
width = 64
mix = { clips = 0.7, stills = 0.3 }
images_per_clip = 2
[loss]
temporal_weight = 0.5
[optim]
steps = 3
batch_size = 2
warmup = 1
ema = 0.9
[output]
validation_clips = 0
checkpoint_every = 1
keep = 20
loggers = []
[[stage]]
name = "l1"
[[stage]]
name = "gan"
loss = { gan_weight = 0.1 }
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    return lambda folder, *changes: load_run(file, [f"output.folder={tmp_path / folder}", *changes])


def state(trainer):
    named = {**dict(trainer.objective.named_parameters()), **dict(trainer.objective.named_buffers())}
    named |= {f"average.{n}": w for n, w in trainer.average.weights.items()}
    return {n: w.detach().clone() for n, w in named.items()}


# -- the network's start ------------------------------------------------------------------------------------------


def test_a_fresh_network_enlarges_as_bilinear_interpolation():
    network, x = RCAN(RCANConfig(1, 2, 16, 4)), torch.rand(2, 3, 11, 14)
    start_bilinear(network)
    expected = x
    for _ in range(2):
        expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (..., slice(8, -8), slice(8, -8))  # a convolution pads with zeros where interpolation repeats the border
    torch.testing.assert_close(network(x)[inner], expected[inner], atol=1e-5, rtol=0)


def test_all_of_a_fresh_network_learns():
    network = RCAN(RCANConfig(1, 2, 16, 4))
    start_bilinear(network)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x, before = torch.rand(2, 3, 8, 8), {n: p.detach().clone() for n, p in network.named_parameters()}
    for _ in range(5):
        optimizer.zero_grad()
        (network(x) - 0.3).square().mean().backward()
        optimizer.step()
    still = [n for n, p in network.named_parameters() if torch.equal(p, before[n])]
    assert not still


# -- losses -------------------------------------------------------------------------------------------------------


def test_the_discriminator_has_the_published_number_of_weights():
    # Real-ESRGAN's training log: "Network: UNetDiscriminatorSN, with parameters: 4,376,897"
    assert sum(p.numel() for p in Discriminator(64).parameters()) == 4_376_897


def test_spectral_norm_is_the_largest_singular_value():
    layer = SpectralConv(6, 10, 3)
    for step in range(200):
        normalised = layer.normalised(step)
    expected = layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    torch.testing.assert_close(normalised, expected, atol=1e-4, rtol=1e-4)
    before = layer.u.clone()
    layer.eval().normalised(200)
    assert torch.equal(layer.u, before)


def test_either_side_of_the_gan_learns_from_its_own_loss_alone():
    judge, made = Discriminator(4), torch.rand(2, 3, 16, 16, requires_grad=True)
    fools, judges = gan(judge, made, torch.rand(2, 3, 16, 16))
    fools.backward(retain_graph=True)
    assert there(made.grad).abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    made.grad = None
    judges.backward()
    assert made.grad is None
    assert all(there(p.grad).abs().sum() > 0 for p in judge.parameters())


def test_gan_losses_are_goodfellows():
    judge, made, truth = Discriminator(4), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    judge.eval()
    fools, judges = gan(judge, made, truth)
    with torch.no_grad():
        weights = judge.normalised()
        fake, real = judge(made, weights), judge(truth, weights)
    ones, zeros = torch.ones_like(fake), torch.zeros_like(fake)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(fools, bce(fake, ones))
    torch.testing.assert_close(judges, (bce(fake, zeros) + bce(real, ones)) / 2)


def test_an_error_that_moves_along_costs_nothing_and_one_that_shimmers_does():
    truth, flow = torch.rand(1, 3, 3, 16, 16), torch.zeros(1, 2, 2, 16, 16)
    flow[:, :, 0] = 1
    valid = torch.ones(1, 2, 16, 16)
    valid[..., -1] = 0  # leaves the frame
    error = 0.1 * torch.rand(1, 1, 3, 16, 16)
    moving = torch.cat([torch.roll(error, t, dims=-1) for t in range(3)], dim=1)
    valid[..., :3] = 0  # what a roll brings in from the other side
    assert temporal(truth + moving, truth, flow, valid) < 1e-6
    shimmer = temporal(truth + error * torch.tensor([1.0, -1, 1])[:, None, None, None], truth, flow, valid)
    assert shimmer > 0.05
    assert changes(moving, flow, valid) < 1e-6


def test_measures_agree_with_their_definitions():
    truth = torch.rand(2, 3, 32, 32)
    made = (truth + 0.1).clamp(0, 1)
    scores = measure({"made": made, "truth": truth}, truth)
    mse = (made - truth).square().mean(dim=(1, 2, 3))
    assert math.isclose(scores["made"]["psnr"], (-10 * mse.log10()).mean().item(), rel_tol=1e-4)
    assert scores["truth"]["ssim"] == pytest.approx(1.0)
    small = torch.full((1, 3, 6, 7), 0.4)
    for enlarge in (bicubic, lanczos):
        assert enlarge(small, 4).shape == (1, 3, 24, 28)
        assert (enlarge(small, 4) - 0.4).abs().max() < 1 / 255


# -- the trainer's promises ---------------------------------------------------------------------------------------


def test_a_run_stopped_after_every_step_ends_with_the_same_bits(recipe):
    """Over the change from L1 to GAN; what power iteration found so far is part of it."""
    whole = train(recipe("whole"))
    config, pieces = recipe("pieces"), None
    for _ in range(config.steps + 1):
        pieces = Trainer(config, say=lambda text: None)
        pieces.folder.mkdir(parents=True, exist_ok=True)
        pieces.resume()
        if pieces.done:
            break
        pieces.train_step()
        pieces.save()
    assert there(pieces).step == whole.step == config.steps
    expected, got = state(whole), state(pieces)
    assert set(expected) == set(got)
    assert any("discriminator" in n and n.endswith(".u") for n in expected)
    assert all(torch.equal(expected[n], got[n]) for n in expected)


def test_accumulated_rounds_and_two_processes_do_what_one_does(recipe, tmp_path):
    """The discriminator's power iteration too: one a step, whatever shares it."""
    four = ("optim.batch_size=4",)
    train(recipe("one", *four))
    train(recipe("rounds", *four, "optim.accumulate=2"))
    code, said = launch(tmp_path / "run.toml", tmp_path / "two", *four)
    assert code == 0, said[-2000:]
    expected = final(tmp_path / "one")
    for name in ("rounds", "two"):
        assert distance(expected, final(tmp_path / name)) < 1e-5, name


def test_a_run_leaves_an_upscaler_and_pictures(recipe, tmp_path):
    train(recipe("run", "output.validation_clips=2", "data.height=96", "data.width=96", "optim.steps=2"))
    folder = tmp_path / "run"
    header = read_header(folder / "upscaler.safetensors")
    assert header.kind == "upscaler"
    network = there(rcan_of(read_weights(folder / "upscaler.safetensors")))
    assert network.config == RCANConfig(1, 1, 8, 4)
    with Image.open(sorted((folder / "validation").glob("*.png"))[-1]) as sheet:
        assert sheet.width > 4 * 96
    assert re.search(r"\| gan \| 2x96x96 \| 2 \| 0\.\d+ \| 0\.\d+ \| psnr ", (folder / "summary.md").read_text())
    assert (folder / "curves.png").exists()


def test_the_damage_is_learnt_to_be_undone(recipe, tmp_path):
    """Sixty steps of a very small network are better than the bilinear interpolation they began with."""
    more = ("optim.steps=60", "optim.lr=2e-3", "stage.gan.loss.gan_weight=0.0", "degradation.chance=0.0")
    trainer = train(recipe("run", *more, "optim.ema=0.5", "output.checkpoint_every=100"))
    clips: Any = trainer.sources["clips"]
    clips.examples(8)
    truth = torch.cat([clips.example_batch(clips.bucket, [i]).frames for i in range(8)])
    made: Any = trainer.result()
    small = made.damaged(truth, [(0, i) for i in range(8)])
    fresh = RCAN(made.network.config)
    start_bilinear(fresh)
    with torch.no_grad():
        errors = [(n(small) - truth.flatten(0, 1)).abs().mean() for n in (made.network, fresh)]
    assert errors[0] < errors[1]


def test_clips_without_captions_are_taken_by_super_resolution_alone(recipe, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(2):
        write_video(folder / f"{i}.mp4", torch.rand(3, 3, 64, 64))
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(folder / "still.png")
    where = ["sources.clips.kind=folder", f"sources.clips.path={folder}", "data.mix.stills=0.1", "optim.steps=1"]
    train(recipe("run", *where))
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(
            load_run(
                "tiny",
                [
                    f"output.folder={tmp_path / 'video'}",
                    "sources.tiny.kind=folder",
                    where[1].replace("clips.path", "tiny.path"),
                ],
            )
        )


def test_a_run_starts_from_an_rcan_file(recipe, tmp_path):
    network = RCAN(RCANConfig(1, 1, 8, 4))
    save_rcan(network, tmp_path / "start.safetensors", dtype=None)
    trainer = Trainer(recipe("run", f"start.network={tmp_path / 'start.safetensors'}"), say=lambda text: None)
    trainer.folder.mkdir()
    trainer.resume()
    for name, weight in trainer.objective.get_submodule("network").named_parameters():
        assert torch.equal(weight, network.state_dict()[name])
    save_rcan(RCAN(RCANConfig(1, 2, 8, 4)), tmp_path / "other.safetensors")
    other = Trainer(recipe("no", f"start.network={tmp_path / 'other.safetensors'}"), say=lambda text: None)
    with pytest.raises(TrainingError, match=r"set \[upscaler\] to these"):
        other.resume()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("upscaler.patch=36", "upscaler.patch is 36; expected a multiple of 8"),
        ("upscaler.patch=128", "fits into data's 64x64"),
        ("upscaler.reduction=9", "upscaler.reduction is 9; expected at most 8"),
        ("upscaler.features=2", "upscaler.features is 2; expected at least 3"),
        ("data.frames=1", "loss.temporal_weight compares frames, and data.frames is 1"),
        ("stage.gan.upscaler.discriminator=8", "upscaler differs between stages"),
        ("upscaler.groups=0", "upscaler.groups is 0; expected at least 1"),
        ("stage.2.upscaler.blocks=2", "upscaler differs between stages"),
        ("data.cache=somewhere", "leave it out for super-resolution"),
        ("loss.flow_weight=1.0", "loss.flow_weight is of video networks"),
        ("model.train=('paca',)", "model is of video networks"),
        ("degradation.first.jpeg_range=(0, 9)", "jpeg_range"),
        ("optim.lr_scale.paca=2.0", "choose from network, discriminator"),
        ("start.patches=('a.safetensors',)", "start.patches are of video networks"),
    ],
)
def test_wrong_settings_are_one_sentence(recipe, change, says):
    with pytest.raises(TrainingError) as error:
        Trainer(recipe("run", change), say=lambda text: None).resume()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["loss.gan_weight=0.1", "loss.temporal_weight=0.1", "degradation.chance=0.5"])
def test_settings_of_super_resolution_are_refused_elsewhere(change):
    with pytest.raises(TrainingError, match=r"add \[upscaler\]"):
        load_run("demo", [change])


def test_a_patch_must_fit_every_bucket(recipe):
    changes = ("data.aspect=buckets", "upscaler.patch=64")
    with pytest.raises(TrainingError, match="choose a smaller patch, or aspect 'fixed'"):
        Trainer(recipe("run", *changes), say=lambda text: None)


def test_what_would_have_to_be_enlarged_is_no_truth(recipe, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "small.mp4", torch.rand(3, 3, 48, 80))
    write_video(folder / "large.mp4", torch.rand(3, 3, 80, 80))
    where = ["sources.clips.kind=folder", f"sources.clips.path={folder}", "data.mix.stills=0.1", "optim.steps=1"]
    train(recipe("run", *where))
    said = (tmp_path / "run" / "data" / "l1" / "left_out_clips.csv").read_text()
    assert "too small: 80x48 would have to be enlarged to 64x64" in said
    assert "large.mp4" not in said


def test_a_folder_of_pictures_is_validated_on_some_of_them(recipe, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (80, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    where = ["sources.clips.kind=folder", f"sources.clips.path={folder}", "data.mix.stills=0.1", "optim.steps=1"]
    train(recipe("run", *where, "data.validation=2", "output.validation_clips=2"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = next(line["validation"] for line in lines if line.get("validation"))
    assert set(scores) == {"psnr", "ssim", "bicubic_psnr", "bicubic_ssim"}  # a still does not shimmer
    assert list((tmp_path / "run" / "validation").glob("*.png"))


def test_a_start_that_does_not_fit_says_what_it_is(recipe, tmp_path):
    for name, config, says in (
        ("x2", RCANConfig(1, 1, 8, 4, scale=2), "enlarges x2; give an RCAN of x4"),
        ("mean", RCANConfig(1, 1, 8, 4, mean_shift=True), "shifts its images' mean"),
    ):
        save_rcan(RCAN(config), tmp_path / f"{name}.safetensors")
        trainer = Trainer(recipe("run", f"start.network={tmp_path / name}.safetensors"), say=lambda text: None)
        with pytest.raises(TrainingError, match=says):
            trainer.resume()


def test_a_stage_has_the_tables_of_its_kind_alone(recipe):
    """What a run wrote when every stage had the tables of both is read all the same."""
    video, upscaler = load_run("demo").to_dict(), recipe("run").to_dict()
    assert not {"degradation", "upscaler"} & video["stages"][0].keys()
    assert not {"model", "schedule", "dropout", "continuation"} & upscaler["stages"][0].keys()
    before = [{**s, "schedule": {}, "dropout": {"text": 0.5}, "model": {"preset": "x"}} for s in upscaler["stages"]]
    before = [{**s, "loss": {**s["loss"], "flow_weight": 0.0}} for s in before]
    assert from_dict({**upscaler, "stages": before}) == from_dict(upscaler)
    before = [{**s, "upscaler": None, "loss": {**s["loss"], "gan_weight": 0.0}} for s in video["stages"]]
    assert from_dict({**video, "stages": before}) == load_run("demo")
