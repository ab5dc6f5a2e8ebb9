"""What a run shows of itself: sheets from step 0 on, truth beside samples, prompts of one's own."""

from typing import Any

import av
import pytest
import torch
from PIL import Image, ImageDraw

from dreamfactory.errors import SettingsError, TrainingError
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.pipelines.media.sheets import comparison_sheet, spaced
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer

from ...there import there

PACE = ["device=cpu", "optim.steps=2", "optim.batch_size=2", "optim.lr=0.0", "output.loggers=()"]
OF_DEMO = [
    f"start.network={DEMO / 'unet.safetensors'}", "model.preset=start", "model.config={}", "schedule.prediction=v",
    "schedule.rescale=lin", "schedule.spacing=trailing", "data.height=64", "data.width=64",
    *(f"encoders.{name}={DEMO / f'{name}_encoder'}" for name in ("text", "motion", "image")),
]  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "circle.png"
    image = Image.new("RGB", (256, 256), (90, 120, 140))
    ImageDraw.Draw(image).ellipse((90, 90, 160, 160), fill=(230, 40, 40))
    image.save(path)
    return path


def asking(picture, *motions):
    prompts = [{"text": "a red circle", "motion": m, "picture": str(picture)} for m in motions]
    return f"output.prompts={prompts!r}"


def frames(path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def across(image):
    """Where the red is, from 0 (left) to 1."""
    image = torch.tensor(image).float()
    red = (image[..., 0] - image[..., 1:].amax(-1) - 60).clamp(min=0)
    return float((red.sum(0) * torch.linspace(0, 1, red.shape[1])).sum() / red.sum())


def test_ones_own_pictures_move_as_asked_from_step_0_on(picture, tmp_path):
    train(load_run("tiny", [*PACE, *OF_DEMO, "output.validation_clips=0", f"output.folder={tmp_path}",
                            asking(picture, "the red circle moves left", "the red circle moves right")]))  # fmt: skip
    made = sorted(p.name for p in (tmp_path / "validation").iterdir())
    assert made == [f"step-00000000{s}{kind}" for s in (0, 2) for kind in ("-prompts.mp4", ".png")]
    left, right = ([f[:, k * 64 : (k + 1) * 64] for f in frames(tmp_path / "validation" / made[0])] for k in (0, 1))
    assert len(left) == 8
    assert across(left[-1]) < across(left[0]) - 0.1
    assert across(right[-1]) > across(right[0]) + 0.1
    assert "![" in (tmp_path / "summary.md").read_text()


def test_prompts_are_encoded_before_a_cache_lets_the_encoders_go(picture, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for k in range(4):
        with av.open(str(clips / f"{k}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", 8)
            stream.width = stream.height = 64
            for _ in range(8):
                file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64), (40 * k, 90, 90)))))
            file.mux(stream.encode())
        (clips / f"{k}.txt").write_text("a plain background")
    shots = []
    for name, cache in (("raw", "none"), ("cached", str(tmp_path / "cache"))):
        given = [f"sources={{'mine': {{'path': {str(clips)!r}}}}}", f"data.cache={cache}", "output.validation_clips=1"]
        given += [f"output.folder={tmp_path / name}", asking(picture, "the red circle moves up")]
        trainer = Trainer(load_run("tiny", [*PACE, *OF_DEMO, *given]), say=lambda text: None)
        trainer.setup_stage(None)
        objective: Any = trainer.objective
        assert (objective.encoder("text") is None) == (name == "cached")
        _, _, sheet, problem = trainer.validate()
        assert problem is None
        sheet = there(sheet)
        shots.append(torch.tensor(frames(sheet.with_name(f"{sheet.stem}-prompts.mp4"))[-1]).float())
    assert (shots[0] - shots[1]).abs().mean() < 2  # a cache keeps half precision, an mp4 less


def test_truth_and_sample_are_side_by_side(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("dreamfactory.training.video.validation.comparison_sheet", lambda *a, **k: seen.append((a, k)))
    trainer = Trainer(load_run("tiny", [*PACE, "output.validation_clips=3", f"output.folder={tmp_path}"]), say=print)
    trainer.setup_stage(None)
    trainer.validate()
    validation: Any = trainer.validation
    ((_, rows, captions), how), source = seen[0], validation.source
    assert list(how["heads"]) == ["first frame", "truth", "sample"]
    truth = source.example_batch(validation.bucket, [0, 1, 2]).frames
    assert captions == [e.motion for e in validation.examples]
    for (first, true, made), clip in zip(rows, truth, strict=True):
        assert torch.equal(first[0], clip[0])
        assert torch.equal(true, spaced(clip, 4))
        assert made.shape == true.shape
    width = frames(tmp_path / "validation" / "step-000000000.mp4")[0].shape[1]
    assert width == 4 * 2 * trainer.stage.data.width


def test_a_resumed_run_does_not_begin_with_a_sheet(tmp_path, monkeypatch):
    given = [*PACE, "output.validation_clips=2", f"output.folder={tmp_path}", "output.validate_every=100"]
    train(load_run("tiny", [*given, "optim.steps=1"]))
    looked, validate = [], Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda trainer: looked.append(trainer.step) or validate(trainer))
    train(load_run("tiny", given))
    assert looked == [2]


def test_prompts_that_a_network_cannot_be_asked_are_one_sentence(picture, tmp_path):
    def begun(preset, *more):
        trainer = Trainer(load_run(preset, ["device=cpu", f"output.folder={tmp_path}", *more]), say=lambda text: None)
        trainer.setup_stage(None)

    with pytest.raises(TrainingError, match=r"output.prompts\[1\] has no picture, and this network animates one"):
        begun("tiny", "output.prompts=[{'text': 'a'}]")
    with pytest.raises(TrainingError, match=r"output.prompts\[2\].picture: .*gone.png"):
        begun("tiny", f"output.prompts=[{{'picture': {str(picture)!r}}}, {{'picture': 'gone.png'}}]")
    with pytest.raises(TrainingError, match="this network sees no picture; leave it out"):
        begun("tiny-videofactory", asking(picture, "moves"))
    with pytest.raises(SettingsError, match=r"unknown setting output\.prompts\[1\]\.words"):
        begun("tiny", "output.prompts=[{'words': 'a'}]")


def test_a_sheets_rows_may_differ_in_size_and_lack_a_group(tmp_path):
    wide, high = torch.rand(2, 3, 20, 40), torch.rand(3, 3, 64, 32)
    comparison_sheet(tmp_path / "s.png", [[wide[:1], None, wide], [None, high, high]], ["a", "b"], heads="xyz", tile=40)
    with Image.open(tmp_path / "s.png") as sheet:
        colours = len(sheet.getcolors(10**6))
    assert colours > 1000  # noise of all of them is on it
