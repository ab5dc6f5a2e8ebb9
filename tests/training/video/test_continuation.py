"""Long clips piece by piece: how pieces are cut, what training gives and counts, what sampling leaves as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamfactory.errors import ConfigError, InputError, TrainingError
from dreamfactory.model_patches import Conditions, VideoUNet
from dreamfactory.model_patches.network.long_clip import default_overlap, pieces
from dreamfactory.model_patches.network.presets import preset
from dreamfactory.pipelines.bundle import load_bundle
from dreamfactory.pipelines.image_to_video import Settings, animate, seen_at_once
from dreamfactory.pipelines.sampling import Prompt, sample
from dreamfactory.schedulers import ScheduleConfig
from dreamfactory.training.batch import Batch
from dreamfactory.training.config import DropoutConfig
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer
from dreamfactory.training.video.objective import Continued, draw

from ...random_weights import randomise
from ...there import there
from .test_objective import Recorder, clips, learner

NOTHING_DROPPED = DropoutConfig(captions=0.0)


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 15, 24, 64])
@pytest.mark.parametrize(("length", "overlap"), [(8, 1), (8, 4), (8, 7), (16, 4), (2, 1)])
@pytest.mark.parametrize("reach", [0, 5, 100])
def test_pieces_make_every_frame_once(frames, length, overlap, reach):
    made = 0
    plan = pieces(frames, length, overlap, reach)
    for piece in plan:
        assert piece.start + piece.known == made  # each begins with the last frames of the one before
        made = piece.start + piece.length
        assert 0 <= piece.picture <= piece.start
        assert piece.distance == (min(reach, piece.start) if reach else 0)
    assert made >= frames
    assert len(plan) == 1 or plan[-1].start + plan[-1].known < frames  # none is made for nothing


def test_an_overlap_is_at_most_what_was_trained():
    tiny = preset("tiny")
    assert default_overlap(tiny, 8) == 1
    assert default_overlap(replace(tiny, known_frames=3), 8) == 3
    assert default_overlap(replace(tiny, known_frames=12), 8) == 4
    assert default_overlap(preset("modelscope"), 16) == 4  # animates no picture


# -- training -----------------------------------------------------------------------------------------------------


def test_the_share_is_a_chance_and_other_draws_do_not_change():
    shape = (8, 3, 2, 2)
    drawn = draw(1, 2, range(400), shape, 1000, DropoutConfig(), Continued(0.3, 4, 6))
    plain = draw(1, 2, range(400), shape, 1000, DropoutConfig())
    assert torch.equal(drawn.t, plain.t)
    assert torch.equal(drawn.noise, plain.noise)
    assert plain.known is None
    known, start = there(drawn.known), there(drawn.start)
    goes_on = known > 0
    assert 0.2 < goes_on.float().mean() < 0.4
    assert set(known[goes_on].tolist()) == {1, 2, 3, 4}
    assert set(start[goes_on].tolist()) == set(range(7))
    assert not start[~goes_on].any()


def test_known_frames_are_shown_without_noise_and_do_not_count():
    frames, schedule = 4, ScheduleConfig().build(4, 16, 16)
    draws = draw(0, 5, range(3), (frames, 3, 2, 2), 1000, NOTHING_DROPPED, Continued(1.0, 3, 0))
    draws.known = torch.tensor([0, 1, 3])
    network, batch = Recorder(), clips(3, frames)
    total, _ = learner(network, dropout=NOTHING_DROPPED)(batch, draws, schedule)
    latents, _ = learner(network).latents(batch)
    x, t = network.seen["x"].unflatten(0, (3, frames)), network.seen["t"].view(3, frames)
    latents = latents.unflatten(0, (3, frames))
    expected = []
    for clip, known in enumerate(draws.known.tolist()):
        assert torch.equal(x[clip, :known], latents[clip, :known])
        assert t[clip].tolist() == [0] * known + [int(draws.t[clip])] * (frames - known)
        assert not torch.allclose(x[clip, known:], latents[clip, known:])
        target = schedule.target(latents[clip], draws.noise[clip], int(draws.t[clip]))
        expected.append((0.25 - target[known:]).square().mean())
    assert torch.allclose(total, torch.stack(expected).mean(), rtol=1e-5)


def test_of_a_short_bucket_a_frame_is_left_to_learn():
    draws = draw(1, 2, range(100), (2, 3, 2, 2), 1000, DropoutConfig(), Continued(1.0, 4, 0))
    assert set(there(draws.known).tolist()) == {1}
    draws = draw(0, 5, range(3), (2, 3, 2, 2), 1000, NOTHING_DROPPED, Continued(1.0, 4, 0))
    total, _ = learner(Recorder(), dropout=NOTHING_DROPPED)(clips(3, 2), draws, ScheduleConfig().build(2, 16, 16))
    assert total.isfinite()


def test_a_window_keeps_the_picture_it_left():
    batch = clips(2, 6)
    flow, weight = torch.rand(2, 5, 2, 2, 2), torch.rand(2, 5, 2, 2)
    batch.flow, batch.flow_weight = flow, weight
    cut = batch.window(torch.tensor([0, 3]), 3)
    assert torch.equal(cut.pixels[0], batch.pixels[0, :3])
    assert torch.equal(cut.pixels[1], batch.pixels[1, 3:])
    assert torch.equal(cut.moves[0][1], flow[1, 3:5])
    assert torch.equal(cut.moves[1][0], weight[0, :2])
    assert torch.equal(there(cut.picture), batch.pixels[:, 0])
    assert batch.window(torch.zeros(2, dtype=torch.long), 6) is batch


def test_the_network_sees_the_picture_from_before_its_clip():
    network, batch = Recorder(first_frame_concat="repeat"), clips(2, 5)
    draws = draw(0, 5, range(2), (3, 3, 2, 2), 1000, NOTHING_DROPPED, Continued(1.0, 2, 2))
    draws.start = torch.tensor([0, 2])
    learner(network)(batch.window(draws.start, 3), draws, ScheduleConfig().build(3, 16, 16))
    first = learner(network).encoded(batch.pixels[:, 0])
    assert torch.equal(network.seen["first_frame"], first)
    assert network.seen["frame_index"].tolist() == [[0, 1, 2], [2, 3, 4]]  # counted from the picture


def test_latents_of_a_cache_are_cut_alike():
    latents = torch.rand(1, 5, 3, 2, 2)
    cut = Batch(["a"], latents=latents).window(torch.tensor([2]), 3)
    assert torch.equal(there(cut.latents), latents[:, 2:])
    assert torch.equal(there(cut.picture), latents[:, 0])


SMALL = [
    "device=cpu", "optim.steps=4", "optim.batch_size=2", "data.frames=3", "model.config.model_channels=24",
    "model.config.head_dim=24", "output.validation_clips=2", "output.validate_every=4", "output.checkpoint_every=2",
    "output.loggers=()", "continuation.share=0.5", "model.config.known_frames=2", "model.config.first_frame_reach=4",
    "model.config.channel_mult=[1]", "model.config.attention_levels=[true]",
]  # fmt: skip


def test_a_run_is_resumed_to_the_bit(tmp_path):
    """And what it leaves says that it may be given first frames."""
    whole = train(load_run("demo", [*SMALL, f"output.folder={tmp_path / 'whole'}"]))
    first = Trainer(load_run("demo", [*SMALL, f"output.folder={tmp_path / 'cut'}"]))
    first.resume()
    for _ in range(2):
        first.train_step()
    first.save()
    second = train(load_run("demo", [*SMALL, f"output.folder={tmp_path / 'cut'}"]))
    for (name, a), (_, b) in zip(whole.objective.named_parameters(), second.objective.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    made = load_bundle(tmp_path / "whole" / "bundle").unet.config
    assert (made.known_frames, made.first_frame_reach) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["continuation.share=0.5"], "model.config.known_frames is 0; set it to 1 to 7"),
        (["continuation.share=0.5", "model.config.known_frames=8"], "known_frames is 8; set it to 1 to 7"),
        (["continuation.share=2"], "expected 0 to 1"),
        (["model.config.known_frames=-1"], "expected a whole number, 0 for off"),
    ],
)
def test_settings_that_no_run_could_use(changes, sentence, tmp_path):
    with pytest.raises((TrainingError, ConfigError)) as error:
        train(load_run("demo", [*changes, f"output.folder={tmp_path}"]))
    assert sentence in str(error.value)


# -- sampling -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_positions_of_each_clip_are_as_those_of_one():
    torch.manual_seed(0)
    unet = randomise(VideoUNet(preset("tiny")))
    x, text = torch.randn(6, 12, 8, 8), torch.randn(2, 5, 64)
    motion, first = torch.randn(2, 5, 64), torch.randn(2, 12, 8, 8)
    given: dict[str, Any] = {"text": text, "motion_text": motion, "first_frame": first}
    index = torch.tensor([[0, 1, 2], [5, 6, 7]])
    both = unet(x, torch.tensor([500, 500]), Conditions(**given, frame_index=index), num_frames=3)
    for clip in range(2):
        own = Conditions(**{k: v[clip : clip + 1] for k, v in given.items()}, frame_index=index[clip])
        rows = slice(3 * clip, 3 * clip + 3)
        alone = unet(x[rows], torch.tensor([500]), own, num_frames=3)
        assert torch.allclose(both[rows], alone, atol=1e-4)


@pytest.mark.parametrize("known_frames", [0, 2])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++2m", "euler_a"])
@torch.no_grad()
def test_known_frames_stay_and_the_others_follow_them(known_frames, sampler):
    torch.manual_seed(0)
    unet = randomise(VideoUNet(replace(preset("tiny"), known_frames=known_frames)))
    schedule = ScheduleConfig(shift_reference=64.0).build(4, 64, 64)
    prompt = Prompt(
        torch.randn(1, 5, 64), torch.randn(1, 5, 64), torch.randn(1, 5, 64), torch.randn(1, 5, 64),
        first_frame=torch.randn(1, 12, 8, 8),
    )  # fmt: skip
    noise, known = torch.randn(4, 12, 8, 8), torch.randn(1, 2, 12, 8, 8)

    def made(given):
        prompt.known = given
        generators = [torch.Generator().manual_seed(0)]
        return sample(unet, schedule, prompt, noise, 4, steps=4, sampler=sampler, generators=generators)

    ours, other = made(known), made(known + 0.5)
    assert torch.equal(ours[:2], known[0])
    assert (ours[2:] - other[2:]).abs().max() > 1e-4
    assert not torch.allclose(ours[2:], made(None)[2:])


def test_a_long_clip_begins_as_a_short_one():
    bundle = load_bundle("demo")
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    text, motion = ["a red circle", "a blue square"], ["it moves up", "it moves left"]
    steps = []
    long = animate(
        bundle, pictures, text, motion, Settings(frames=13, steps=2, seed=4),
        on_step=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    short = animate(bundle, pictures, text, motion, Settings(steps=2, seed=4))
    assert long.shape == (2, 13, 3, 64, 64)
    assert torch.allclose(long[:, :8], short, atol=1e-4)
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {len(steps)}
    alone = animate(bundle, pictures[1:], text[1:], motion[1:], Settings(frames=13, steps=2, seed=5))
    assert torch.allclose(long[1:], alone, atol=1e-4)  # whatever else is in the batch


@pytest.mark.parametrize("overlap", [0, 8, 20])
def test_an_overlap_that_leaves_no_room_is_refused(overlap):
    with pytest.raises(InputError, match="context_overlap is"):
        animate(
            load_bundle("demo"), torch.rand(1, 3, 64, 64), ["a"], ["b"], Settings(frames=20, context_overlap=overlap)
        )


def test_a_network_that_joins_two_pictures_is_not_cut():
    bundle = load_bundle("demo")
    bundle.unet.config = replace(bundle.unet.config, first_frame_concat="ends")
    settings = Settings(frames=20)
    assert seen_at_once(bundle, settings, 20)[0] == 20
    with pytest.raises(InputError, match="joins two pictures"):
        seen_at_once(bundle, replace(settings, context_length=8), 20)
