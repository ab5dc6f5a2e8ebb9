"""From a folder of captioned videos to a checkpoint, as a researcher would, with files that are no videos in it."""

import csv
import json
import shutil
from typing import Any

import pytest
import torch
from PIL import Image

from dreamfactory.errors import TrainingError
from dreamfactory.pipelines.bundle import DEMO, load_bundle
from dreamfactory.pipelines.media.files import write_video
from dreamfactory.training import checkpoint as disk
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.tiny_world.world import captions, render, sample_specs
from dreamfactory.training.trainer import Trainer

from ..there import there

pytest.importorskip("cv2", reason="flow needs OpenCV")

RUN = """
seed = 5
device = "cpu"
threads = 1

[model]
preset = "tiny"
config = {{ model_channels = 24, head_dim = 24, channel_mult = [1], attention_levels = [true] }}

[encoders]
codec = "demo"
text = "{demo}/text_encoder"
motion = "{demo}/motion_encoder"
image = "{demo}/image_encoder"

[sources.mine]
path = "{videos}"

[data]
frames = 4
height = 64
width = 64
fps = 8.0
validation = 2

[dropout]
text = 0.3
captions = 0.3
image = 0.3

[optim]
steps = 3
batch_size = 2
warmup = 1

[output]
validation_clips = 2
validation_steps = 2
checkpoint_every = 2
loggers = []
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine clips and one still, and beside them: no video, one cut short, one without a caption, one too short."""
    folder = tmp_path_factory.mktemp("videos")
    specs = sample_specs(12, torch.Generator().manual_seed(0))
    text, motion = captions(specs)
    for i, clip in enumerate(render(specs, 6, 64)):
        clip = clip[:2] if i == 11 else clip
        write_video(folder / f"clip{i:02}.mp4", clip, 8)
        if i != 10:
            (folder / f"clip{i:02}.txt").write_text(text[i])
            (folder / f"clip{i:02}.motion.txt").write_text(motion[i])
    (folder / "clip09.mp4").write_bytes((folder / "clip09.mp4").read_bytes()[:900])
    (folder / "notes.mp4").write_text("no video")
    (folder / "notes.txt").write_text("a caption")
    return folder


def run(videos, folder, *changes):
    file = folder / "run.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(RUN.format(demo=DEMO, videos=videos))
    return load_run(file, [f"output.folder={folder}", *changes])


def test_a_folder_of_videos_becomes_a_checkpoint_and_a_report(videos, tmp_path, capsys):
    train(run(videos, tmp_path))
    report = json.loads((tmp_path / "data" / "train" / "data_mine.json").read_text())
    assert report["clips"] == {"4x64x64": 7}
    assert len(report["validation"]) == 2
    with (tmp_path / "data" / "train" / "left_out_mine.csv").open() as file:
        left = {row["file"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)}
    assert left.keys() == {"clip09.mp4", "clip10.mp4", "clip11.mp4", "notes.mp4"}
    assert "caption" in left["clip10.mp4"]
    assert "short" in left["clip11.mp4"]
    assert "4 left out" in capsys.readouterr().out
    assert (tmp_path / "validation" / "step-000000003.mp4").exists()
    bundle = load_bundle(tmp_path / "bundle")  # its encoders stay where they are
    assert bundle.defaults.frames == 4
    assert not (tmp_path / "bundle" / "text_encoder").exists()


@pytest.mark.parametrize("flow", [False, True])
def test_the_cache_changes_nothing_but_the_rounding(videos, tmp_path, flow):
    """Latents, tokens, features and flow in half precision, caption dropout included."""
    changes = ["model.config.predict_net=true", "loss.flow_weight=1.0"] if flow else []
    made = []
    for cache in (None, tmp_path / "cache"):
        trainer = Trainer(
            run(videos, tmp_path / str(bool(cache)), *changes, *([f"data.cache={cache}"] if cache else []))
        )
        trainer.resume()
        made.append([trainer.train_step() for _ in range(3)])
    for online, cached in zip(*made, strict=True):
        for name in ("diffusion", *(["flow"] if flow else [])):
            assert float(cached[name]) == pytest.approx(float(online[name]), rel=3e-3)


def test_a_cached_run_goes_on_without_its_encoders_and_ends_whole(videos, tmp_path, monkeypatch):
    config = run(videos, tmp_path, f"data.cache={tmp_path / 'cache'}")
    trainer = Trainer(config, say=lambda text: None)
    trainer.resume()
    trainer.train_step()
    trainer.save()
    whole = train(run(videos, tmp_path / "whole", f"data.cache={tmp_path / 'cache'}"))
    cut = train(config)
    objective: Any = cut.objective
    assert objective.encoder("text") is None
    a, b = (there(disk.newest(t.folder / disk.FOLDER)).tensors("weights") for t in (whole, cut))
    assert all(torch.equal(a[n], b[n]) for n in a)
    load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["sources.mine.path=nowhere"], "nowhere"),
        (["data.frames=40"], "too short"),
        (["encoders.text=fresh", "data.cache=cache"], "encoders.text trains"),
        (["encoders.text=nowhere"], "nowhere"),
        (["start.network=nowhere.safetensors"], "does not exist"),
        (["start.patches=['patch.safetensors']"], "start.network"),
        (["model.preset=start"], "start.network"),
        (["model.config.context_dim=32"], "encoders.text is 64 wide, the network reads 32"),
        (["model.config.in_channels=4", "model.config.out_channels=4"], "makes 12 latent channels"),
        (["model.train=['swap_attention']"], "of which its network has no weights"),
    ],
)
def test_mistakes_are_told_in_a_sentence(videos, tmp_path, changes, sentence):
    from dreamfactory.errors import CheckpointError, InputError

    with pytest.raises((TrainingError, CheckpointError, InputError), match=sentence) as error:
        train(run(videos, tmp_path, *changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["model.train=['temporal']", "model.lora={'rank':2}"])
def test_stills_are_left_out_where_only_motion_trains(videos, tmp_path, capsys, what):
    """A picture among the clips ends no run that it cannot teach anything."""
    if "lora" in what:
        pytest.importorskip("peft", reason="LoRA training needs peft")
    folder = tmp_path / "mixed"
    shutil.copytree(videos, folder)
    for i in range(6):
        Image.new("RGB", (64, 64), (i * 40, 0, 0)).save(folder / f"picture{i}.png")
        (folder / f"picture{i}.txt").write_text("a red picture")
    train(run(folder, tmp_path / "run", what, "optim.steps=8", "output.validation_clips=0"))
    assert "still images are left out" in capsys.readouterr().out


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="empty"):
        train(run(tmp_path / "empty", tmp_path / "run"))


def test_weights_of_another_network_are_told(videos, tmp_path):
    """A start that does not fit names the field, and nothing is written but the folder."""
    from dreamfactory.errors import CheckpointError
    from dreamfactory.model_patches import UNetConfig, VideoUNet, preset
    from dreamfactory.model_patches.checkpoints.save import save_unet

    one_level = {"channel_mult": (1,), "attention_levels": (True,)}
    other = UNetConfig.from_dict({**preset("tiny").to_dict(), **one_level, "model_channels": 24, "head_dim": 12})
    save_unet(VideoUNet(other), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="head_dim is 12 in the source and 24"):
        train(run(videos, tmp_path / "run", f"start.network={tmp_path / 'other.safetensors'}"))
    assert not (tmp_path / "run" / disk.FOLDER).exists()
