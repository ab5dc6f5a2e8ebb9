"""What a run starts from: a network's file, or all that another run has learned, by the name of its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from ..model_patches import UNetConfig, VideoUNet, load_unet
from ..model_patches.files import read_header
from ..model_patches.load import read_network
from ..model_patches.presets import OVERRIDES, preset
from . import checkpoint as disk
from .config import StartConfig
from .errors import TrainingError

LEARNED = "weights", "averaged"  # of a checkpoint; the average counts where there is one
UNET, UPSCALER = "unet.safetensors", "upscaler.safetensors"


@dataclass(frozen=True)
class Start:
    """`start.network`: a file, or the folder of a run or of one of its checkpoints."""

    given: StartConfig

    @property
    def _is_run(self) -> bool:
        return self.given.network is not None and Path(self.given.network).is_dir()

    @cached_property
    def file(self) -> Path:
        """Of a run: its newest checkpoint's network. Raises TrainingError."""
        path = Path(self.given.network)
        if not self._is_run:
            return path
        folder = self._checkpoint
        found = next((folder / name for name in (UNET, UPSCALER) if (folder / name).exists()), None)
        if found is None:
            raise TrainingError(
                f"start.network {path} is a run that trained a LoRA; start from its base, or let that run go on "
                "(optim.steps)."
            )
        return found

    @cached_property
    def _checkpoint(self) -> Path:
        path = Path(self.given.network)
        if (path / disk.MANIFEST).exists():
            return path
        found = disk.newest(path / disk.FOLDER, lambda text: None)
        if found is None:
            raise TrainingError(
                f"start.network {path} is a folder without a whole checkpoint; give a run's folder, one of its "
                "checkpoints, or a network's file."
            )
        return found.path

    @cached_property
    def learned(self) -> dict[str, Tensor]:
        """What a run trained, in float32: its averages where it keeps some. Nothing of a file."""
        return {k: w for path in self.files[1:] for k, w in load_file(path).items()}

    @property
    def files(self) -> list[Path]:
        """Whose contents make this start."""
        if self.given.network is None:
            return []
        learned = [self._checkpoint / f"{name}.safetensors" for name in LEARNED] if self._is_run else []
        return [self.file, *(path for path in learned if path.exists())]

    def network(self, say: Callable[[str], object] = print) -> VideoUNet:
        """Raises CheckpointError, TrainingError."""
        unet = load_unet(self.file, overrides=self._overrides())
        if unet.report is not None and unet.report.guessed:
            say(
                f"start.network {self.file} does not say which release it is ({' and '.join(unet.report.guessed)} are "
                f"guessed); set start.release to one of {', '.join(OVERRIDES)}"
            )
        own = {k.removeprefix("unet."): w for k, w in self.learned.items() if k.startswith("unet.")}
        if own:
            unet.load_state_dict(own, strict=False)
        return unet

    def config(self) -> UNetConfig:
        """The network's, without building it; of a file that is not there, that of `start.release`."""
        if self.missing:
            if self.given.release is None:
                raise TrainingError(
                    f"start.network {self.given.network} is not there; download it, or say with start.release which "
                    "preset it is like (dynamicrafter-512, modelscope, sd21, …)."
                )
            return preset(self.given.release)
        header = read_header(self.file)
        return header.config if header.kind == "unet" else read_network(self.file, self._overrides())[0]

    @property
    def missing(self) -> bool:
        return self.given.network is not None and not Path(self.given.network).exists()

    def _overrides(self) -> dict | None:
        """What a public file of this release does not say of itself."""
        told = OVERRIDES.get(self.given.release)
        return told if told and read_header(self.file).kind != "unet" else None

    def teach(self, name: str, encoder: nn.Module) -> bool:
        """Give a fresh encoder what the other run's had learned; whether there was something."""
        prefix = f"trained.{name}."
        own = {k.removeprefix(prefix): w for k, w in self.learned.items() if k.startswith(prefix)}
        if own:
            encoder.load_state_dict(own, strict=False)
        return bool(own)
