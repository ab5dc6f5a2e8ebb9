"""What comes out of a run: its averaged weights as a network to look at, and the files that the nodes load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..model_patches import VideoUNet
from ..model_patches.checkpoint import save_patch, save_unet
from ..model_patches.errors import CheckpointError
from . import lora, models
from .errors import TrainingError
from .parallel import whole
from .step import Learner

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
        encoders[name] = models.make_encoder(trainer.config, name, unet.config).to(trainer.accelerator.device)
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
