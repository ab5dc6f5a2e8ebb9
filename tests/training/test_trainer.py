"""The trainer's promises: exact resume, stages that follow one another, checkpoints that are whole or not there."""

import importlib.util
import json
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from transformers import get_scheduler

from dreamfactory.errors import TrainingError
from dreamfactory.model_patches import load_unet
from dreamfactory.training import checkpoint as disk
from dreamfactory.training.config import OptimConfig
from dreamfactory.training.logs import METRICS, forget_after, read
from dreamfactory.training.loop import train
from dreamfactory.training.optimizer import learning_rate, make_optimizer, state_bytes
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer

from ..there import there

SMALL = [
    "device=cpu",
    "model.config.dropout=0.1",  # so that exact resume covers the global generator as well
    "optim.steps=4",
    "optim.batch_size=2",
    "data.frames=3",
    "model.config.model_channels=24",
    "model.config.head_dim=24",
    "model.config.channel_mult=[1]",
    "model.config.attention_levels=[true]",
    "output.validation_clips=0",
    "output.checkpoint_every=2",
    "output.loggers=()",
]
STAGES = """
seed = 3
device = "cpu"

[model]
preset = "tiny"
config = { model_channels = 24, head_dim = 24, swap_head_dim = 24 }

[sources.clips]
kind = "tiny_world"
[sources.stills]
kind = "tiny_stills"

[data]
frames = 2
mix = { clips = 0.7, stills = 0.3 }
images_per_clip = 2

[optim]
steps = 2
batch_size = 2
warmup = 1

[output]
validation_clips = 0
checkpoint_every = 2
loggers = []

[[stage]]
name = "small"
data = { height = 32, width = 32 }

[[stage]]
name = "large"

[[stage]]
name = "flow"
model = { config = { predict_net = true, swap_attention = "swapped" } }
loss = { flow_weight = 1.0 }
data = { mix = { clips = 1.0 } }
"""


def run(tmp_path, *changes):
    return load_run("demo", [*SMALL, f"output.folder={tmp_path}", *changes])


def begun(config):
    trainer = Trainer(config, say=lambda text: None)
    trainer.folder.mkdir(parents=True, exist_ok=True)
    trainer.resume()
    return trainer


def weights(trainer):
    """What trains and its average, copied."""
    now = {f"weights.{n}": p for n, p in trainer.objective.named_parameters()}
    return {n: w.detach().clone() for n, w in {**now, **trainer.average.weights}.items()}


def final(folder):
    """Everything a run ends with, as its last checkpoint has it."""
    last = disk.checkpoints(folder / disk.FOLDER)[-1]
    # Copies: what safetensors reads stays mapped to the file, which some tests damage.
    return {f"{k}.{n}": t.clone() for k in ("weights", "averaged", "optimizer") for n, t in last.tensors(k).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "prodigy"])
def test_a_resumed_run_makes_the_same_weights_to_the_bit(tmp_path, optimizer):
    library = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}.get(optimizer)
    if library:
        pytest.importorskip(library, reason=f"{optimizer} needs {library}")
    change = f"optim.optimizer={optimizer}", f"optim.lr={1.0 if optimizer == 'prodigy' else 2e-3}"
    whole = begun(run(tmp_path / "whole", *change))
    for _ in range(4):
        whole.train_step()

    first = begun(run(tmp_path / "cut", *change))
    for _ in range(2):
        first.train_step()
    first.save()
    torch.rand(100)  # the global generator is somewhere else after a restart
    second = begun(run(tmp_path / "cut", *change))
    assert second.step == 2
    for _ in range(2):
        second.train_step()

    assert same(weights(whole), weights(second))
    assert not same(weights(whole), weights(first))


def test_stages_stopped_anywhere_make_the_same_weights_to_the_bit(tmp_path):
    """Two resolutions, images in the mix, then PredictNet and Swap-CA: cut at every single step."""
    file = tmp_path / "run.toml"
    file.write_text(STAGES)
    config = load_run(file, [f"output.folder={tmp_path / 'whole'}"])
    train(config)
    assert [s.name for s in config.stages] == ["small", "large", "flow"]

    config = load_run(file, [f"output.folder={tmp_path / 'cut'}"])
    for step in range(1, config.steps + 1):
        trainer = begun(config)
        assert trainer.step == step - 1
        trainer.train_step()
        trainer.save()
    assert same(final(tmp_path / "whole"), final(tmp_path / "cut"))
    kept = [c.step for c in disk.checkpoints(tmp_path / "whole" / disk.FOLDER)]
    assert {2, 4, 6} <= set(kept), "the end of a stage is a checkpoint that stays"


def test_a_new_stage_starts_equal_to_the_last_one(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(STAGES)
    trainer = begun(load_run(file, [f"output.folder={tmp_path}"]))
    for stage in range(2):
        for _ in range(2):
            trainer.train_step()
        before = weights(trainer)
        trainer.save()
        trainer.setup_stage(disk.newest(tmp_path / disk.FOLDER))
        assert trainer.stage_index == stage + 1
        after = weights(trainer)
        assert all(torch.equal(after[n], w) for n, w in before.items())
    new = {n.split(".")[2] for n in after.keys() - before.keys() if n.startswith("weights.")}
    assert new == {"predict_net", "swap_attentions"}
    moments = trainer.optimizer.state[trainer.learning()["unet.out.2.weight"]]
    assert moments["step"] == 4, "the optimizer goes on where it was"


def test_a_checkpoint_is_what_the_nodes_load(tmp_path):
    train(run(tmp_path))
    last = disk.checkpoints(tmp_path / disk.FOLDER)[-1]
    unet = load_unet(last.path / "unet.safetensors")
    averaged = last.tensors("averaged")
    for name, weight in unet.state_dict().items():
        torch.testing.assert_close(weight, averaged[f"unet.{name}"].half().float(), rtol=0, atol=0)
    assert there(unet.schedule)["prediction"] == "v"
    assert there(unet.schedule)["trained_shape"] == [3, 64, 64]
    assert load_run(last.path / "run.json") == run(tmp_path)


def test_a_run_of_another_recipe_is_not_continued(tmp_path):
    train(run(tmp_path))
    with pytest.raises(TrainingError, match=r"another optim.batch_size \(2, here 4\)"):
        begun(run(tmp_path, "optim.batch_size=4"))
    assert begun(run(tmp_path, "optim.steps=6")).step == 4, "a longer run goes on"


def test_every_weight_is_trained(tmp_path):
    """After a few steps (zero-initialised outputs open one after the other) nothing stays where it began."""
    pytest.importorskip("cv2", reason="flow needs OpenCV")
    trainer = begun(
        run(tmp_path, "model.config.predict_net=true", "loss.flow_weight=1.0", "optim.warmup=1", "optim.steps=9")
    )
    before = weights(trainer)
    for _ in range(4):
        trainer.train_step()
    # Left out: what no input reaches by design, e.g. tokens that did not occur, an encoder's unused pooling.
    free = ("token_embedding", "position_embedding", "shared", "relative_attention_bias", "post_layernorm")
    after = weights(trainer)
    names = [n for n in after if n.startswith("weights.") and not any(f in n for f in free)]
    assert [n for n in names if torch.equal(after[n], before[n])] == []


def test_only_the_parts_that_are_asked_for_train(tmp_path):
    base = tmp_path / "base"
    train(run(base))
    start = f"start.network={base / 'unet.safetensors'}"
    config = run(tmp_path / "run", start, "model.train=['paca']", "encoders.text=" + str(base / "bundle/text_encoder"),
                 "encoders.motion=" + str(base / "bundle/motion_encoder"),
                 "encoders.image=" + str(base / "bundle/image_encoder"))  # fmt: skip
    trainer = begun(config)
    before = weights(trainer)
    for _ in range(4):
        trainer.train_step()
    after = weights(trainer)
    changed = {n for n in after if n.startswith("weights.") and not torch.equal(after[n], before[n])}
    assert changed
    assert all(n.startswith(("weights.unet.paca_attentions", "weights.unet.paca_pyramid")) for n in changed)
    trainer.save()
    stored = disk.checkpoints(tmp_path / "run" / disk.FOLDER)[-1]
    assert {n.split(".")[1] for n in stored.tensors("weights")} == {"paca_attentions", "paca_pyramid"}
    from dreamfactory.model_patches.checkpoints.compose import apply_patch

    whole = load_unet(stored.path / "unet.safetensors")
    patched = apply_patch(load_unet(base / "unet.safetensors"), stored.path / "patch.safetensors")
    assert same(whole.state_dict(), patched.state_dict())


def test_accumulated_rounds_make_the_gradient_of_the_whole_batch(tmp_path):
    """Without dropout in the modules, which draws for each round by itself."""
    plain = ["model.config.dropout=0.0", "optim.batch_size=4"]
    made = []
    for rounds in (1, 2, 4):
        trainer = begun(run(tmp_path / str(rounds), *plain, f"optim.accumulate={rounds}"))
        made.append(trainer.train_step())
    for other in made[1:]:
        assert other["grad_norm"] == pytest.approx(made[0]["grad_norm"], rel=1e-4)
        assert float(other["diffusion"]) == pytest.approx(float(made[0]["diffusion"]), rel=1e-5)


def test_learning_rate_warms_up_and_falls_to_zero():
    changes = ["optim.steps=100", "optim.warmup=10", "optim.cosine_from=0.5", "optim.lr=1.0"]
    optim = load_run("demo", changes).stages[0].optim
    rates = [learning_rate(optim, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[50] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cosine_with_restarts"])
def test_schedules_are_those_of_transformers(schedule):
    """Whose warm-up begins at 0; ours at its first step, so that no step is lost."""
    changes = ["optim.steps=50", "optim.warmup=10", f"optim.schedule={schedule}", "optim.lr=1.0"]
    optim = load_run("tiny", [*changes, *(["optim.cycles=3"] if "restarts" in schedule else [])]).stages[0].optim
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    extra = {"scheduler_specific_kwargs": {"num_cycles": 3}} if "restarts" in schedule else {}
    peer = get_scheduler(name, theirs, num_warmup_steps=10, num_training_steps=50, **extra)
    rates = []
    for _ in range(51):
        rates.append(peer.get_last_lr()[0])
        theirs.step()
        peer.step()
    assert [learning_rate(optim, step) for step in range(9)] == pytest.approx(rates[1:10])
    assert [learning_rate(optim, step) for step in range(10, 51)] == pytest.approx(rates[10:], abs=1e-12)


def test_a_resumed_schedule_and_its_contradictions(tmp_path):
    begun(run(tmp_path)).save()
    pace = "optim.schedule=cosine", "optim.cosine_from=1.0"
    assert begun(run(tmp_path, *pace)).step == 0  # it may change
    for change, told in (
        (["optim.schedule=linear", "optim.cosine_from=0.5"], "falls by itself"),
        (["optim.cosine_from=1.0", "optim.cycles=2"], "optim.cycles are of"),
        (["optim.optimizer=prodigy", "optim.lr=1e-4"], r"set optim\.lr = 1\.0"),
        (["optim.schedule=cosin"], "expected one of constant, linear, cosine"),
    ):
        with pytest.raises(TrainingError, match=told):
            run(tmp_path, *change)


def test_what_an_optimizer_keeps_is_counted():
    module = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Conv2d(4, 6, 3))
    for name in ("adamw", "adafactor", "prodigy"):
        if name == "prodigy" and importlib.util.find_spec("prodigyopt") is None:
            continue
        optim = replace(OptimConfig(), optimizer=name, lr=1.0)
        optimizer = make_optimizer({n: p for n, p in module.named_parameters()}, optim)
        for weight in module.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        kept = sum(
            value.nbytes for state in optimizer.state.values() for kind, value in state.items()
            if isinstance(value, torch.Tensor) and value.ndim
        )  # fmt: skip
        assert kept == state_bytes(name, module.parameters()), name


def test_a_gradient_without_numbers_spoils_nothing(tmp_path):
    trainer = begun(run(tmp_path))
    before = weights(trainer)
    head = trainer.objective.get_submodule("unet.out.2")
    head.register_full_backward_hook(lambda module, inward, outward: (inward[0] * float("inf"),))
    with pytest.raises(TrainingError, match=r"lower optim\.lr"):
        trainer.train_step()
    assert same(weights(trainer), before)


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path, capsys):
    train(run(tmp_path))
    expected = final(tmp_path)
    for cut in (b"half a file", None):
        newest = disk.checkpoints(tmp_path / disk.FOLDER)[-1]
        file = newest.path / "weights.safetensors"
        if cut is None:  # one bit, of the same size
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            cut = bytes(data)
        file.write_bytes(cut)
        trainer = train(run(tmp_path))
        assert "is damaged" in capsys.readouterr().out
        assert trainer.step == 4
        assert same(final(tmp_path), expected)


def test_a_full_disk_costs_nothing(tmp_path, monkeypatch, capsys):
    """Writing stops in the middle of a save: the checkpoint before stays, training goes on, the next save is whole."""
    real = disk.save_file

    def fails(tensors, path, *args):
        if "step-000000004" in str(path) or ".staged-4" in str(path):
            real({n: t for n, t in list(tensors.items())[:2]}, path, *args)
            raise OSError(28, "No space left on device")
        real(tensors, path, *args)

    monkeypatch.setattr(disk, "save_file", fails)
    config = run(tmp_path, "optim.steps=6")
    train(config)
    assert "No space left on device" in capsys.readouterr().out
    assert [c.step for c in disk.checkpoints(tmp_path / disk.FOLDER)] == [2, 6]
    assert not list((tmp_path / disk.FOLDER).glob(".staged*"))
    monkeypatch.undo()
    train(run(tmp_path / "whole", "optim.steps=6"))
    assert same(final(tmp_path), final(tmp_path / "whole"))


def test_too_little_room_is_said_before_writing(tmp_path, monkeypatch):
    trainer = begun(run(tmp_path))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(TrainingError, match=r"needs .* GiB and .* are free; make room"):
        trainer.save()
    assert not list((tmp_path / disk.FOLDER).iterdir())


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with disk.only_run(tmp_path), pytest.raises(TrainingError, match="another run is writing"):
        train(run(tmp_path))


def test_fresh_moves_an_earlier_run_aside(tmp_path):
    train(run(tmp_path))
    expected = final(tmp_path)
    train(run(tmp_path, "optim.batch_size=4"), resume=False)
    assert not same(final(tmp_path), expected)
    assert same(final(tmp_path / "before-1"), expected)


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(run(tmp_path, "optim.steps=9", "output.keep=2", "output.checkpoint_every=2"))
    assert [c.step for c in disk.checkpoints(tmp_path / disk.FOLDER)] == [6, 8, 9]


def test_other_starting_weights_are_another_run(tmp_path):
    train(run(tmp_path / "a"))
    train(run(tmp_path / "b", "seed=1"))
    start = tmp_path / "start.safetensors"
    start.write_bytes((tmp_path / "a" / "unet.safetensors").read_bytes())
    train(run(tmp_path / "run", f"start.network={start}"))
    start.write_bytes((tmp_path / "b" / "unet.safetensors").read_bytes())
    with pytest.raises(TrainingError, match="begun with other weights"):
        train(run(tmp_path / "run", f"start.network={start}", "optim.steps=6"))


def test_numbers_of_steps_done_again_are_forgotten(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    forget_after(path, 2)
    assert [line["step"] for line in read(path)] == [1, 2]


def test_a_run_leaves_its_numbers_and_pictures(tmp_path):
    pytest.importorskip("cv2", reason="flow needs OpenCV")
    changes = ["output.validation_clips=3", "output.validate_every=2", "output.log_every=1"]
    train(run(tmp_path, *changes, "output.loggers=['tensorboard']"))
    lines = read(tmp_path / METRICS)
    assert [x["step"] for x in lines if "diffusion" in x] == [1, 2, 3, 4]
    checked = [x for x in lines if "validation_loss" in x]
    assert [x["step"] for x in checked] == [0, 2, 4]
    quantiles = [v for k, v in checked[0]["validation_loss"].items() if k.startswith("loss@")]
    assert checked[0]["validation_loss"]["loss"] == pytest.approx(sum(quantiles) / len(quantiles))
    assert {"direction_accuracy", "first_frame_psnr", "flow_epe"} <= checked[0]["validation"].keys()
    assert {p.name for p in (tmp_path / "validation").iterdir()} >= {"step-000000004.png", "step-000000004.mp4"}
    assert (tmp_path / "curves.png").exists()
    assert re.search(r"\| train \| 3x64x64 \| 4 \|", (tmp_path / "summary.md").read_text())
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["defaults"]["frames"] == 3


def test_validation_loss_is_the_same_every_time(tmp_path):
    trainer = begun(run(tmp_path, "output.validation_clips=10"))
    device = torch.device("cpu")
    first = trainer.validation.loss(trainer.result(), device)
    torch.rand(3)
    assert trainer.validation.loss(trainer.result(), device) == first


# -- stages that train less, or stop -----------------------------------------------------------------------------

FREEZING = """
device = "cpu"
[model]
config = { model_channels = 24, head_dim = 24 }
[sources.clips]
kind = "tiny_world"
[data]
frames = 2
height = 32
width = 32
[optim]
steps = 3
batch_size = 2
warmup = 1
ema = 0.9
[output]
validation_clips = 0
checkpoint_every = 100
dtype = "fp32"
loggers = []
[[stage]]
name = "all"
[[stage]]
name = "motion"
model = { train = ["temporal"], config = { motion_text = "added" } }
"""


def test_weights_that_stop_learning_stay_as_they_were_averaged(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(FREEZING)
    train(load_run(file, [f"output.folder={tmp_path}"]))
    first, last = disk.checkpoints(tmp_path / disk.FOLDER)
    averaged, made = first.tensors("averaged"), load_unet(last.path / "unet.safetensors").state_dict()
    frozen = [n for n in made if not n.startswith(("temporal_convs", "temporal_attentions"))]
    assert all(torch.equal(made[n], averaged[f"unet.{n}"]) for n in frozen)


def test_what_a_stage_adds_is_averaged_by_its_own_age(tmp_path):
    """The first update forgets the start quickly, however old the run: decay (1 + 1) / (10 + 1) at age 1."""
    from dreamfactory.training.optimizer import Average

    old, new = torch.zeros(1), torch.zeros(1)
    average = Average({"old": old, "new": new}, 0.9999, 5000)
    average.born["old"] = 0
    average.update({"old": torch.ones(1), "new": torch.ones(1)}, 5001)
    assert average.weights["new"].item() == pytest.approx(1 - 2 / 11)
    assert average.weights["old"].item() == pytest.approx(1 - 5002 / 5011)


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    train(run(tmp_path))
    with pytest.raises(TrainingError, match="has done 4 steps of stage 'train' already"):
        begun(run(tmp_path, "optim.steps=3"))


def test_a_failed_look_is_no_failed_run(tmp_path, monkeypatch, capsys):
    from dreamfactory.errors import InputError
    from dreamfactory.training.video.validation import Validation

    def fails(*args):
        raise InputError("sampling ended in numbers that are no picture")

    monkeypatch.setattr(Validation, "sample", fails)
    trainer = train(run(tmp_path, "output.validation_clips=2", "output.validate_every=2"))
    assert trainer.done
    assert "validation failed, training goes on: sampling ended" in capsys.readouterr().out


def test_stopping_at_the_end_of_a_stage_keeps_it(tmp_path, monkeypatch):
    file = tmp_path / "run.toml"
    file.write_text(FREEZING)
    config = load_run(file, [f"output.folder={tmp_path}"])
    real = Trainer.train_step

    def stops(self, load=None):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, load)

    monkeypatch.setattr(Trainer, "train_step", stops)
    assert not train(config).done
    monkeypatch.undo()
    ends = disk.checkpoints(tmp_path / disk.FOLDER)[0]
    assert (ends.step, ends.facts["ends_stage"]) == (3, True)
    train(config)
    assert [c.step for c in disk.checkpoints(tmp_path / disk.FOLDER)] == [3, 6]


def test_checkpoints_without_one_whole_are_not_begun_over(tmp_path, capsys):
    train(run(tmp_path))
    for c in disk.checkpoints(tmp_path / disk.FOLDER):
        (c.path / "manifest.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"none of the .* is whole; begin anew with --fresh"):
        train(run(tmp_path))
    assert "cannot be read" in capsys.readouterr().out


def test_a_metrics_file_with_rubbish_in_it_is_read(tmp_path):
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n[]\n{"x": 2}\n\xff\xfe\n{"step": "a"}\n')
    forget_after(tmp_path / METRICS, 5)
    assert read(tmp_path / METRICS) == [{"step": 1}]


def test_what_is_logged_is_the_mean_since_the_last_line(tmp_path, monkeypatch):
    """Of every step, in all and by source and bucket; not of the last step alone."""
    seen = []
    advance = Trainer.train_step

    def noted(self, load=None):
        take = self.mix.at(self.stage_step)
        numbers = advance(self, load)
        seen.append(
            (f"{take.source.name} {take.bucket}", float(numbers[self.task.headline]), float(numbers["grad_norm"]))
        )
        return numbers

    monkeypatch.setattr(Trainer, "train_step", noted)
    changes = ["output.log_every=3", "optim.steps=7", "output.validation_clips=0", f"output.folder={tmp_path / 'run'}"]
    changes += ["sources.stills.kind=tiny_stills", "data.mix.tiny=0.5", "data.mix.stills=0.5", "output.loggers=()"]
    headline = train(load_run("tiny", ["device=cpu", "optim.batch_size=2", *changes])).task.headline
    lines = [line for line in read(tmp_path / "run" / "metrics.jsonl") if headline in line]
    assert [line["step"] for line in lines] == [3, 6, 7]
    for line, steps in zip(lines, (seen[:3], seen[3:6], seen[6:]), strict=True):
        assert line[headline] == pytest.approx(sum(loss for _, loss, _ in steps) / len(steps), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(sum(norm for *_, norm in steps) / len(steps), rel=1e-5)
        for of in {of for of, *_ in steps}:
            own = [loss for other, loss, _ in steps if other == of]
            assert line["buckets"][of] == pytest.approx(sum(own) / len(own), rel=1e-5)
        assert set(line["buckets"]) == {of for of, *_ in steps}
        assert line["data_s"] >= 0
        assert line["compute_s"] > 0
    assert len({of for of, *_ in seen}) == 2


@pytest.mark.parametrize("field", ["frames", None])
def test_a_gradient_that_is_no_number_names_clip_or_rate(tmp_path, field):
    """What is to blame: numbers of a clip, which is named, or else the rate."""
    trainer = Trainer(load_run("tiny", ["device=cpu", "optim.batch_size=2", f"output.folder={tmp_path / 'run'}"]))
    trainer.resume()
    load = trainer.load(0)
    if field is None:
        next(iter(trainer.objective.get_submodule("unet").parameters())).data.fill_(float("nan"))
    else:
        getattr(load[0][0], field)[1].fill_(float("nan"))
    with pytest.raises(TrainingError) as told:
        trainer.train_step(load)
    name = trainer.mix.at(0).source.clip_name(trainer.mix.at(0).bucket, trainer.mix.at(0).indices[1])
    if field is None:
        assert "its clips are sound" in str(told.value)
        assert "lower optim.lr" in str(told.value)
    else:
        assert f"the {field} of {name} (tiny) hold numbers that are none" in str(told.value)
        assert "lower optim.lr" not in str(told.value)
