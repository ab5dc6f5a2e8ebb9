"""LoRA training: only additions train, and the file is one that ComfyUI's core loader maps."""

import pytest
import torch
from safetensors.torch import load_file

from dreamfactory.errors import TrainingError
from dreamfactory.model_patches import Conditions, load_unet
from dreamfactory.training import checkpoint as disk
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer

from ...there import there

pytest.importorskip("peft", reason="LoRA training needs peft")

SMALL = [
    "device=cpu",
    "optim.steps=3",
    "optim.batch_size=2",
    "optim.warmup=1",
    "data.frames=3",
    "model.config.model_channels=24",
    "model.config.head_dim=24",
    "model.config.swap_head_dim=24",
    "model.config.swap_attention=swapped",
    "output.validation_clips=2",
    "output.checkpoint_every=2",
    "output.dtype=fp32",
    "output.loggers=()",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A network whose every branch says something, and its encoders."""
    folder = tmp_path_factory.mktemp("base")
    train(load_run("demo", [*SMALL, "output.validation_clips=0", f"output.folder={folder}"]))
    return folder


def lora_run(base, folder, *changes):
    encoders = [f"encoders.{n}={base / 'bundle' / f'{n}_encoder'}" for n in ("text", "motion", "image")]
    start = f"start.network={base / 'unet.safetensors'}"
    return load_run("demo", [*SMALL, *encoders, start, f"output.folder={folder}", *changes])


def with_lora(unet, path):
    """W + alpha / rank * B A on every weight the file names, by the LoRA paper's formula; and how many those were."""
    state, file = dict(unet.state_dict()), load_file(path)
    done = 0
    for key, down in file.items():
        if key.endswith(".lora_A.weight"):
            module = key.removeprefix("diffusion_model.").removesuffix(".lora_A.weight")
            up, alpha = file[key.replace("lora_A", "lora_B")], file[f"diffusion_model.{module}.alpha"]
            weight = state[f"{module}.weight"]  # the host's rule: diffusion_model.<our key> without .weight
            state[f"{module}.weight"] = weight + (alpha / down.shape[0]) * (up @ down).reshape(weight.shape)
            done += 1
    unet.load_state_dict(state)
    return done


@pytest.mark.parametrize("part", ["spatial", "temporal", "swap_attention"])
def test_the_file_holds_what_was_trained(base, tmp_path, part):
    """The trained network against its base with W + alpha/rank B A, on the same input."""
    lora = f"model.lora={{'parts': ['{part}'], 'rank': 2, 'alpha': 4.0}}"
    trainer = train(lora_run(base, tmp_path, lora))
    made, plain = there(trainer.result()).get_submodule("unet"), load_unet(base / "unet.safetensors")
    x, t, text = torch.randn(6, 12, 8, 8), torch.tensor([400, 900]), torch.randn(2, 5, 64)
    before = plain(x, t, Conditions(text), num_frames=3)
    assert with_lora(plain, tmp_path / "lora.safetensors") > 3
    expected, got = plain(x, t, Conditions(text), num_frames=3), made(x, t, Conditions(text), num_frames=3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 1e-4, "the additions add something"
    checkpoint = disk.checkpoints(tmp_path / disk.FOLDER)[-1]
    assert all(".lora_" in n for n in checkpoint.tensors("weights")), "a checkpoint holds the additions alone"


def test_lora_resumes_to_the_bit(base, tmp_path):
    lora = "model.lora={'parts': ['temporal'], 'rank': 2, 'feed_forward': True}"
    train(lora_run(base, tmp_path / "whole", lora))
    trainer = Trainer(lora_run(base, tmp_path / "cut", lora), say=lambda text: None)
    trainer.folder.mkdir()
    trainer.resume()
    trainer.train_step()
    trainer.save()
    train(lora_run(base, tmp_path / "cut", lora))
    whole, cut = (load_file(tmp_path / n / "lora.safetensors") for n in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[n], cut[n]) for n in whole)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.lora={'parts': ['fusion']}"], "have no attention in this network"),
        (["model.lora={'parts': ['fussion']}"], "no part 'fussion'"),
        (["model.lora={'rank': 0}"], "expected 1 to 1024"),
        (["model.lora={}", "model.train=['paca']"], "both train and lora"),
    ],
)
def test_bad_lora_settings_are_told(base, tmp_path, changes, sentence):
    with pytest.raises(TrainingError, match=sentence):
        train(lora_run(base, tmp_path, *changes))
