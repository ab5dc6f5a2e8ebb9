"""What comes out of a run: its averaged weights as a network to look at, and the files that the nodes load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, TrainingError
from ..model_patches import VideoUNet
from ..model_patches.checkpoints.save import save_patch, save_unet
from ..pipelines.bundle import Bundle, Defaults, save_bundle
from . import checkpoint as disk
from .parallel import whole
from .video import lora, models
from .video.objective import Learner

if TYPE_CHECKING:
    from .trainer import Trainer


def result(trainer: Trainer) -> Learner | None:
    """The averaged weights (or as they are, where no average is kept) in a network of its own, with its encoders.

    For the first process; the others only lend their shards. What does not train is shared, not copied.
    """
    learner, averages = trainer.learner, trainer.average.weights if trainer.average else {}
    state = {}
    for name, weight in learner.named_parameters():
        full = whole(averages.get(name, weight))
        if trainer.main:
            state[name] = full
    if not trainer.main:
        return None
    unet = VideoUNet(learner.unet.config, device="meta")
    if trainer.stage.model.lora is not None:
        lora.inject(unet, trainer.stage.model.lora, trainer.config.seed)
    unet.load_state_dict({n.removeprefix("unet."): w for n, w in state.items() if n.startswith("unet.")}, assign=True)
    unet.schedule = trainer.stage.noise.to_dict()
    encoders = {n: learner.encoder(n) for n in models.FRESH if learner.encoder(n) is not None}
    for name in learner.trained:
        prefix = f"trained.{name}."
        length = getattr(learner.trained[name], "length", None)
        encoders[name] = models.make_encoder(trainer.config, name, unet.config, length=length)
        encoders[name].to(trainer.accelerator.device)
        own = {n.removeprefix(prefix): w for n, w in state.items() if n.startswith(prefix)}
        encoders[name].load_state_dict(own, strict=False)
    made = Learner(unet, trainer.codec, encoders, trainer.stage.loss, trainer.stage.dropout, learner.grey)
    return made.requires_grad_(False).eval()


def export(trainer: Trainer, made: Learner, folder: Path) -> None:
    """The LoRA, or the network; and the trained parts alone as a patch, where others stayed as they were."""
    model, dtype = trainer.stage.model, models.DTYPES[trainer.config.output.dtype]
    try:
        if model.lora is not None:
            lora.save_lora(dict(made.unet.named_parameters()), model.lora, folder / "lora.safetensors", dtype)
            return
        metadata = {"modelspec.title": f"{trainer.folder.name}, step {trainer.step}"}
        save_unet(made.unet, folder / "unet.safetensors", dtype=dtype, metadata=metadata)
        if "all" not in model.train:
            save_patch(made.unet, folder / "patch.safetensors", model.train, dtype=dtype)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error


def deliver(trainer: Trainer, made: Learner) -> str:
    """A bundle for the headless pipeline, but of a LoRA, which needs its base; says where."""
    folder = trainer.folder
    if trainer.stage.model.lora is not None:
        return f"the LoRA is {folder / 'lora.safetensors'}"
    _save(bundle_of(trainer, made), folder / "bundle", models.elsewhere(trainer.config, made.unet.config))
    return f"the bundle for `dreamfactory generate` is in {folder / 'bundle'}"


def bundle_of(trainer: Trainer, learner) -> Bundle:
    """A result as a bundle that pipelines can run."""
    stage, output = trainer.stage, trainer.config.output
    data = stage.data
    defaults = Defaults(
        frames=data.frames,
        height=data.height,
        width=data.width,
        fps=round(data.fps or 8),
        steps=output.validation_steps,
        guidance_scale=output.guidance_scale,
    )
    text, motion, image = (learner.encoder(name) for name in ("text", "motion", "image"))
    return Bundle(learner.unet, trainer.codec, text, motion, image, stage.noise, defaults, "run")


def _save(bundle: Bundle, folder: Path, elsewhere: dict) -> None:
    """A bundle on disk: staged, then one rename. elsewhere: parts that stay where they are."""
    staged = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staged, ignore_errors=True)
    with disk.disk_errors(folder):
        save_bundle(bundle, staged, elsewhere=elsewhere)
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)
