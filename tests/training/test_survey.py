"""`--survey` and the page of a run's beginning: what is there, counted by hand; and runs that start from others."""

import json
import os
import shutil
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dreamfactory.cli import main
from dreamfactory.errors import TrainingError
from dreamfactory.model_patches import load_unet
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.pipelines.encoders import TextEncoder
from dreamfactory.training.loop import train
from dreamfactory.training.plan import networks, show
from dreamfactory.training.run_file import PRESETS, load_run
from dreamfactory.training.trainer import Trainer

from ..pages import Page

QUICK = [
    "device=cpu", "data.frames=4", "data.height=32", "data.width=32", "optim.steps=2", "optim.batch_size=2",
    "output.validation_clips=0", "output.loggers=()", "model.config.model_channels=24", "model.config.head_dim=24",
    "model.config.channel_mult=[1]", "model.config.attention_levels=[true]",
]  # fmt: skip
# name: (width, height, frames a second, frames), words of its caption
CLIPS = {
    "a": ((64, 64, 8, 8), 3), "b": ((64, 64, 8, 16), 5), "c": ((96, 48, 25, 50), 40), "d": ((48, 96, 25, 25), 5),
    "short": ((64, 64, 8, 2), 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for i, (name, ((width, height, rate, count), words)) in enumerate(CLIPS.items()):
        with av.open(str(root / f"{name}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            picture = np.full((height, width, 3), 40 * i + 20, np.uint8)
            for _ in range(count):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
        (root / f"{name}.txt").write_text(" ".join(f"word{k}" for k in range(words)))
    Image.new("RGB", (80, 60), "red").save(root / "still.png")
    (root / "still.txt").write_text("<script>alert('a')</script> & such")
    (root / "letter.docx").write_bytes(b"PK\3\4")
    return root


def settings(folder, out):
    return [*QUICK, f"output.folder={out}", f"sources={{'mine': {{'path': {str(folder)!r}}}}}", "data.validation=1",
            "data.aspect=buckets", "data.frame_buckets=[2]"]  # fmt: skip


def surveyed(folder, out, capsys, *more):
    given = [text for one in (*settings(folder, out), *more) for text in ("--set", one)]
    assert main(["train", "tiny", "--survey", *given]) == 0
    return capsys.readouterr().out


def test_the_numbers_are_those_of_the_files(folder, tmp_path, capsys):
    told = surveyed(folder, tmp_path / "run", capsys)
    place = tmp_path / "run" / "survey" / "train"
    assert f"look at {place / 'survey.html'}" in told
    facts = json.loads((place / "data_mine.json").read_text())
    assert facts["files"] == {"found": 13, "used": 6, "captions": 6, "left_out": 1}
    found = facts["statistics"]
    assert found["videos"]["count"] == 5
    assert found["videos"]["size"] == {"64x64": 3, "96x48": 1, "48x96": 1}
    assert found["videos"]["frame_rate"] == {"8": 3, "25": 2}
    seconds = found["videos"]["duration"]
    assert (seconds["least"], seconds["median"], seconds["largest"]) == pytest.approx((0.25, 1, 2), abs=0.001)
    assert found["videos"]["seconds"] == pytest.approx(0.25 + 1 + 2 + 2 + 1, abs=0.01)
    assert sum(n for *_, n in found["videos"]["duration_histogram"]) == 5
    assert found["images"] == {"count": 1, "size": {"80x60": 1}}
    counted = found["buckets"]
    assert sum(n["training"] + n["validation"] for n in counted.values()) == 6
    assert sum(n["validation"] for n in counted.values()) == 1
    assert {size.split("x")[0] for size in counted} == {"1", "2", "4"}
    words = found["caption_words"]["text"]
    assert (words["least"], words["largest"], words["empty"], words["different"]) == (2, 40, 0, 5)
    assert all(float(a).is_integer() for a, *_ in words["histogram"])
    assert facts["captions"]["text"]["longer_than_read"] == 1
    assert "1 of 5 captions are longer" in told


def test_the_page_needs_nothing_beside_it_and_runs_nothing(folder, tmp_path, capsys):
    surveyed(folder, tmp_path / "run", capsys)
    page = Page((tmp_path / "run" / "survey" / "train" / "survey.html").read_text("utf-8"))
    assert not page.elsewhere
    assert "script" not in page.tags
    text = " ".join(page.words)
    assert "<script>alert('a')</script> & such" in text
    assert "letter.docx" in text
    assert "no video or image" in text
    assert len(page.pictures) == 5  # all but the one that is kept out
    greys = {round(np.asarray(p.convert("L")).mean() / 10) for p in page.pictures}
    assert len(greys) == 5


def test_a_survey_reads_no_network_and_leaves_no_run_behind(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--set", f"sources.mine.path={folder}", "--set", f"data.cache={tmp_path / 'cache'}"]
    assert main(["train", "lora-24gb", "--survey", *given, "--set", "output.folder=run"]) == 0
    told = capsys.readouterr().out
    assert "goes by the preset dynamicrafter-512, its start.release" in told
    assert "encoders.text: captions that it would cut are not counted; models/sd21-text-encoder is no encoder" in told
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"survey"}
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_encoder_without_its_weights_tells_the_same_of_captions(folder, tmp_path, capsys):
    whole, light = (TextEncoder.load(DEMO / "motion_encoder", weights=weights) for weights in (True, False))
    texts = [" ".join(["moves"] * count) for count in range(40)]
    assert [whole.is_cut(text) for text in texts] == [light.is_cut(text) for text in texts]
    assert whole.unknown_words("a purple dragon") == light.unknown_words("a purple dragon") != []
    surveyed(folder, tmp_path / "run", capsys, *(f"encoders.{k}={DEMO / f'{k}_encoder'}" for k in ("text", "motion")))
    counted = json.loads((tmp_path / "run/survey/train/data_mine.json").read_text())["captions"]
    assert counted["motion"]["longer_than_read"] == 1


def test_every_run_writes_the_page_when_it_begins(folder, tmp_path):
    train(load_run("tiny", settings(folder, tmp_path / "mine")))
    page = Page((tmp_path / "mine" / "data" / "train" / "survey.html").read_text("utf-8"))
    assert len(page.pictures) == 5
    train(load_run("tiny", [*QUICK, f"output.folder={tmp_path / 'tiny'}"]))
    assert Page((tmp_path / "tiny" / "data" / "train" / "survey.html").read_text("utf-8")).pictures


def test_stages_of_the_same_data_have_one_page(folder, tmp_path, capsys):
    run = tmp_path / "run.toml"
    run.write_text(
        f"[model]\npreset = 'tiny'\n[sources.mine]\npath = '{folder.as_posix()}'\n[output]\n"
        f"folder = '{(tmp_path / 'out').as_posix()}'\n[data]\nframes = 4\nheight = 32\nwidth = 32\n"
        "[[stage]]\nname = 'one'\n[[stage]]\nname = 'two'\noptim = { lr = 1e-4 }\n"
        "[[stage]]\nname = 'three'\ndata = { frames = 2 }\n"
    )
    assert main(["train", str(run), "--survey"]) == 0
    assert "two: the data of one" in capsys.readouterr().out
    assert {p.parent.name for p in (tmp_path / "out").rglob("survey.html")} == {"one", "three"}


# -- without the weights a run starts from ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(p.stem for p in PRESETS.glob("*.toml")))
def test_every_preset_is_planned_without_its_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, told = networks(load_run(name))
    start = load_run(name).start
    assert bool(told) == (start.release is not None)
    assert all(n is None or n.in_channels for n in found)


def test_the_plan_without_a_file_is_the_plan_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without = show(load_run("demo-long-clips")).splitlines()
    assert "runs/demo/bundle/unet.safetensors is not there" in without[0]
    within = show(load_run("demo-long-clips", [f"start.network={DEMO / 'unet.safetensors'}"])).splitlines()
    assert without[1:] == within


def test_a_file_that_is_not_there_and_nothing_said_of_it_is_one_sentence(tmp_path, capsys):
    gone = str(tmp_path / "gone.safetensors")
    given = ["--set", f"start.network={gone}", "--set", "model.preset=start"]
    for option in ("--plan", "--survey"):
        assert main(["train", "tiny", option, *given]) == 2
        assert "say with start.release which preset it is like" in capsys.readouterr().err
    assert main(["train", "tiny", "--plan", *given, "--set", "start.release=no-such"]) == 2
    assert "there is no preset 'no-such'" in capsys.readouterr().err


# -- from another run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A finished run's folder; its weights and averages differ."""
    out = tmp_path_factory.mktemp("other") / "run"
    train(load_run("tiny", [*QUICK, f"output.folder={out}", "optim.ema=0.9", "optim.steps=6"]))
    return out


FROM = ["model.preset=start", "seed=5"]


def begun(*more):
    config = load_run("tiny", [s for s in (*QUICK, *FROM) if "model.config" not in s] + list(more))
    trainer = Trainer(config, say=lambda text: None)
    trainer.setup_stage(None)
    return trainer


@pytest.mark.parametrize("part", ["", "checkpoints/step-000000006"])
def test_a_run_starts_from_all_that_another_has_learned(other, tmp_path, part):
    trainer = begun(f"start.network={other / part}", f"output.folder={tmp_path / 'new'}")
    averaged = load_file(other / "checkpoints/step-000000006/averaged.safetensors")
    now = dict(trainer.objective.named_parameters())
    assert len(averaged) > 100
    assert any(name.startswith("trained.text") for name in averaged)
    for name, weight in averaged.items():
        assert torch.equal(now[name], weight), name  # float32, not the file's half precision
    trainer.train_step()


def test_a_run_that_starts_from_another_resumes(other, tmp_path):
    given = [s for s in (*QUICK, *FROM) if "model.config" not in s]
    given += [f"start.network={other}", "output.checkpoint_every=1", "optim.steps=3"]
    whole = train(load_run("tiny", [*given, f"output.folder={tmp_path / 'whole'}"]))
    again = train(load_run("tiny", [*given, f"output.folder={tmp_path / 'cut'}", "optim.steps=2"]))
    again = train(load_run("tiny", [*given, f"output.folder={tmp_path / 'cut'}"]))
    for a, b in zip(whole.objective.parameters(), again.objective.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_no_start_is_one_sentence(other, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="a folder without a whole checkpoint"):
        begun(f"start.network={tmp_path / 'empty'}", f"output.folder={tmp_path / 'new'}")
    with pytest.raises(TrainingError, match=r"start\.network is .*, which this run would write over"):
        train(load_run("tiny", [*QUICK, *FROM, f"start.network={other}", f"output.folder={other}"]))
    lora = tmp_path / "lora"
    base = [f"start.network={DEMO / 'unet.safetensors'}", "model.preset=start", "model.lora.rank=2"]
    base = [*[s for s in QUICK if "model.config" not in s], *base, "model.lora.parts=('temporal',)", "model.config={}"]
    train(load_run("tiny", [*base, f"output.folder={lora}"]))
    with pytest.raises(TrainingError, match="is a run that trained a LoRA"):
        begun(f"start.network={lora}", f"output.folder={tmp_path / 'new'}")
    assert load_unet(other / "unet.safetensors")  # nothing of it was touched


def test_where_a_run_starts_does_not_move_with_the_run_it_starts_from(other, tmp_path):
    """The other run goes on between this one's beginning and its first checkpoint, and after it."""
    source = shutil.copytree(other, tmp_path / "source")
    given = [s for s in (*QUICK, *FROM) if "model.config" not in s]
    given += [f"start.network={source}", f"output.folder={tmp_path / 'mine'}"]
    trainer = Trainer(load_run("tiny", given), say=lambda text: None)
    trainer.setup_stage(None)
    train(load_run("tiny", [*QUICK, f"output.folder={source}", "optim.ema=0.9", "optim.steps=8", "output.keep=5"]))
    trainer.train_step()
    trainer.save()
    begun = json.loads((tmp_path / "mine/checkpoints/step-000000001/run.json").read_text())["start"]["network"]
    assert begun == str(source / "checkpoints/step-000000006")
    assert train(load_run("tiny", given)).step == 2  # not refused as begun with other weights


def test_once_begun_a_run_needs_its_start_no_more_until_it_resumes(other, tmp_path):
    """Saving and looking read nothing of it: the other run may take its checkpoint away."""
    source = shutil.copytree(other, tmp_path / "source")
    trainer = begun(f"start.network={source}", f"output.folder={tmp_path / 'mine'}", "output.validation_clips=1")
    shutil.rmtree(source)
    trainer.train_step()
    assert trainer.save().exists()
    assert trainer.validate()[-1] is None


@pytest.mark.parametrize("newest", [True, False])
def test_a_damaged_start_is_told(other, tmp_path, newest):
    source = shutil.copytree(other, tmp_path / "source")
    place = source / "checkpoints/step-000000006"
    data = bytearray((place / "averaged.safetensors").read_bytes())
    data[-9] ^= 1
    (place / "averaged.safetensors").write_bytes(data)
    told = (
        "none of its checkpoints is whole" if newest else r"is damaged \(averaged.safetensors is not what was written"
    )
    with pytest.raises(TrainingError, match=told):
        begun(f"start.network={source if newest else place}", f"output.folder={tmp_path / 'new'}")


def test_a_bundle_is_a_start_too_and_another_runs_captions_may_be_longer(other, tmp_path):
    trainer = begun(f"start.network={other / 'bundle'}", f"output.folder={tmp_path / 'new'}")
    assert trainer.config.start.network == str(other / "bundle" / "unet.safetensors")
    off = tmp_path / "off"
    train(load_run("tiny", [*QUICK, f"output.folder={off}", "model.config.motion_text=off", "optim.steps=1"]))
    both = begun(f"start.network={off}", f"output.folder={tmp_path / 'on'}", "model.config={'motion_text': 'added'}")
    both.train_step()
    objective: Any = both.objective
    assert objective.encoder("text").length == 32  # as the other run's was made


def test_super_resolution_starts_from_averages_too(tmp_path):
    size = ["device=cpu", "optim.steps=2", "optim.batch_size=1", "output.validation_clips=0", "output.loggers=()"]
    size += ["upscaler.groups=1", "upscaler.blocks=1", "upscaler.features=8", "upscaler.reduction=4"]
    size += ["upscaler.patch=64", "data.height=64", "data.width=64", "optim.ema=0.5"]
    train(load_run("demo-upscaler", [*size, f"output.folder={tmp_path / 'one'}"]))
    config = load_run(
        "demo-upscaler", [*size, f"start.network={tmp_path / 'one'}", f"output.folder={tmp_path / 'two'}"]
    )
    trainer = Trainer(config, say=lambda text: None)
    trainer.setup_stage(None)
    averaged = load_file(tmp_path / "one/checkpoints/step-000000002/averaged.safetensors")
    now = dict(trainer.objective.named_parameters())
    assert averaged
    assert all(torch.equal(now[name], weight) for name, weight in averaged.items())
    with pytest.raises(TrainingError, match="is a run of super-resolution; name a video run"):
        begun(f"start.network={tmp_path / 'one'}", f"output.folder={tmp_path / 'three'}")
    with pytest.raises(TrainingError, match="are asked of video networks"):
        load_run("demo-upscaler", ["output.prompts=[{text = 'a'}]"])


def test_a_page_does_not_change_what_trains(folder, tmp_path):
    """With everything in the cache, files that cannot be read any more are none of training's business."""
    clips = shutil.copytree(folder, tmp_path / "clips")
    given = [f"encoders.{name}={DEMO / f'{name}_encoder'}" for name in ("text", "motion", "image")]
    given = [*settings(clips, tmp_path / "run"), *given, f"data.cache={tmp_path / 'cache'}", "optim.steps=1"]
    train(load_run("tiny", given))
    for file in clips.glob("*.mp4"):
        state = file.stat()
        file.write_bytes(bytes(state.st_size))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    trainer = train(load_run("tiny", [*given, "optim.steps=3"]))
    mine: Any = trainer.sources["mine"]
    assert mine.left_out == mine.left_out[:1]  # the letter alone


def test_a_step_0_that_comes_again_is_in_the_numbers_once(tmp_path):
    given = [*QUICK, f"output.folder={tmp_path}", "output.validation_clips=1", "model.config={}"]
    for _ in range(2):
        runs = load_run("tiny", [x for x in given if x != "output.validation_clips=0"])
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        train(runs)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "validation_loss" in x].count(0) == 1


def test_options_that_exclude_each_other_are_told(capsys):
    assert main(["train", "tiny", "--plan", "--survey"]) == 2
    assert "give one of them" in capsys.readouterr().err


# -- going on with data and encoders that are not as they were --------------------------------------------------------


def on_clips(folder, out, *more):
    return load_run("tiny", [*settings(folder, out), "optim.steps=1", *more])


def change_captions(folder):
    (folder / "a.txt").write_text("another caption")


def change_a_clip(folder):
    """Under its name: as long, of the same size and rate, and in as many bytes."""
    data = bytearray((folder / "b.mp4").read_bytes())
    at = data.find(b"mdat") + 40
    data[at : at + 4] = bytes(255 - x for x in data[at : at + 4])
    (folder / "b.mp4").write_bytes(data)


def move_it(folder):
    return folder.rename(folder.with_name("elsewhere"))


CHANGES = {
    change_captions: "the captions of mine",
    change_a_clip: "the contents of mine",
    lambda folder: (folder / "c.mp4").unlink(): "the clips of mine",
    move_it: None,
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=["captions", "contents", "clips", "moved"])
def test_a_resumed_run_says_what_of_its_data_changed(folder, tmp_path, capsys, change, cached):
    clips = shutil.copytree(folder, tmp_path / "clips")
    more = []
    if cached:
        more = [f"data.cache={tmp_path / 'cache'}"]
        more += [f"encoders.{name}={DEMO / f'{name}_encoder'}" for name in ("text", "motion", "image")]
    train(on_clips(clips, tmp_path / "run", *more))
    capsys.readouterr()
    clips = change(clips) or clips
    train(on_clips(clips, tmp_path / "run", *more, "optim.steps=2"))
    told = capsys.readouterr().out
    said = [line.partition(" have changed")[0] for line in told.splitlines() if "have changed since step 1" in line]
    assert said == ([CHANGES[change]] if CHANGES[change] else [])


def test_an_encoder_that_moved_is_the_same_and_another_is_not(tmp_path):
    given = [*QUICK, f"output.folder={tmp_path / 'run'}"]
    for name in ("text", "motion", "image"):
        shutil.copytree(DEMO / f"{name}_encoder", tmp_path / name)
    first = [f"encoders.{name}={DEMO / f'{name}_encoder'}" for name in ("text", "motion", "image")]
    moved = [f"encoders.{name}={tmp_path / name}" for name in ("text", "motion", "image")]
    train(load_run("tiny", [*given, *first]))
    assert train(load_run("tiny", [*given, *moved, "optim.steps=3"])).step == 3
    weights = load_file(tmp_path / "motion" / "model.safetensors")
    save_file({k: w + 1e-3 for k, w in weights.items()}, tmp_path / "motion" / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match=r"holds a run with another encoders\.motion"):
        train(load_run("tiny", [*given, *moved, "optim.steps=4"]))
