"""What a run starts from: a network's file, or all that another run has learned, by the name of its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import TrainingError
from ..model_patches import UNetConfig, VideoUNet, load_unet
from ..model_patches.checkpoints.compose import apply_patch
from ..model_patches.checkpoints.converters.report import Report
from ..model_patches.checkpoints.files import read_header
from ..model_patches.checkpoints.load import read_network
from ..model_patches.network.presets import OVERRIDES, preset
from . import checkpoint as disk
from .config import RunConfig, StartConfig

LEARNED = "weights", "averaged"  # of a checkpoint; the average counts where there is one
UNET, UPSCALER = "unet.safetensors", "upscaler.safetensors"


def settled(config: RunConfig, say: Callable[[str], object], resume: bool = True) -> RunConfig:
    """The same, with a checkpoint where start.network names a run: that run may go on meanwhile, this start stays.

    A run that resumes goes on from the checkpoint it began with. Raises TrainingError.
    """
    given = config.start.network
    if given is None or not Path(given).is_dir() or (Path(given) / disk.MANIFEST).exists():
        return config
    own = disk.checkpoints(Path(config.output.folder) / disk.FOLDER) if resume else []
    begun = own[-1].config["start"]["network"] if own else None
    if begun and Path(begun).is_dir() and Path(begun).resolve().is_relative_to(Path(given).resolve()):
        return replace(config, start=replace(config.start, network=begun))
    path = _newest(Path(given), say)
    if path != Path(given):
        say(f"start.network {given}: its {path.name}")
    return replace(config, start=replace(config.start, network=str(path)))


def _newest(path: Path, say: Callable[[str], object] = print) -> Path:
    """A run's newest whole checkpoint; a folder with a network's file in it, as a bundle, is that file."""
    folder = path if path.name == disk.FOLDER else path / disk.FOLDER
    if not folder.is_dir() and (path / UNET).is_file():
        return path / UNET
    try:
        found = disk.newest(folder, say)
    except TrainingError as error:
        raise TrainingError(f"start.network {path}: none of its checkpoints is whole; name another run.") from error
    if found is None:
        raise TrainingError(
            f"start.network {path} is a folder without a whole checkpoint; give a run's folder, one of its "
            "checkpoints, or a network's file."
        )
    return found.path


@dataclass(frozen=True)
class Start:
    """`start.network`: a file, or the folder of a run or of one of its checkpoints."""

    given: StartConfig

    @property
    def missing(self) -> bool:
        return self.given.network is not None and not Path(self.given.network).exists()

    @cached_property
    def _checkpoint(self) -> Path | None:
        """None of a file. Raises TrainingError for one that is damaged."""
        path = Path(self.given.network or "")
        if self.given.network is None or not path.is_dir():
            return None
        if not (path / disk.MANIFEST).exists():
            path = _newest(path, lambda text: None)
            return path if path.is_dir() else None
        found = next((c for c in disk.checkpoints(path.parent) if c.path == path), None)
        wrong = f"its {disk.MANIFEST} cannot be read" if found is None else disk.damage(found)
        if wrong is not None:
            raise TrainingError(f"start.network {path} is damaged ({wrong}); name another checkpoint.")
        return path

    @cached_property
    def file(self) -> Path:
        """Of a run: its checkpoint's network. Raises TrainingError."""
        if self._checkpoint is None:
            assert self.given.network is not None  # a start at random has no file, and is not asked for one
            path = Path(self.given.network)
            return path / UNET if path.is_dir() else path
        found = next((self._checkpoint / n for n in (UNET, UPSCALER) if (self._checkpoint / n).exists()), None)
        if found is None:
            raise TrainingError(
                f"start.network {self.given.network} is a run that trained a LoRA; start from its base, or let that "
                "run go on (optim.steps)."
            )
        return found

    @property
    def files(self) -> list[Path]:
        """Whose contents make this start."""
        if self.given.network is None:
            return []
        learned = [] if self._checkpoint is None else [self._checkpoint / f"{name}.safetensors" for name in LEARNED]
        return [self.file, *(path for path in learned if path.exists())]

    @cached_property
    def learned(self) -> dict[str, Tensor]:
        """What a run trained, in float32: its averages where it keeps some. Nothing of a file."""
        return {k: w for path in self.files[1:] for k, w in load_file(path).items()}

    def network(self, say: Callable[[str], object] = print) -> VideoUNet:
        """With its patches. Raises CheckpointError, TrainingError."""
        if self.file.name == UPSCALER:
            raise TrainingError(f"start.network {self.given.network} is a run of super-resolution; name a video run.")
        unet = load_unet(self.file, overrides=self._overrides(say))
        if isinstance(unet.report, Report) and unet.report.guessed:
            say(
                f"start.network {self.file} does not say which release it is ({' and '.join(unet.report.guessed)} are "
                f"guessed); set start.release to one of {', '.join(OVERRIDES)}"
            )
        own = {k.removeprefix("unet."): w for k, w in self.learned.items() if k.startswith("unet.")}
        there = set(unet.state_dict())
        unet.load_state_dict({k: w for k, w in own.items() if k in there}, strict=False)
        for path in self.given.patches:
            unet = apply_patch(unet, path)
        return unet

    def config(self) -> UNetConfig:
        """The network's, without its weights; of a file that is not there, that of `start.release`."""
        gone = next((path for path in self.given.patches if not Path(path).exists()), None)
        if gone is not None:
            raise TrainingError(f"start.patches: {gone} is not there; download it, or leave it out of this run.")
        if self.missing:
            if self.given.release is None:
                raise TrainingError(
                    f"start.network {self.given.network} is not there; download it, or say with start.release which "
                    "preset it is like (dynamicrafter-512, modelscope, sd21, …)."
                )
            base = preset(self.given.release)
            if not self.given.patches:
                return base
            unet = VideoUNet(base)
            for path in self.given.patches:
                unet = apply_patch(unet, path)
            return unet.config
        if self.given.patches:
            return self.network(lambda text: None).config
        header = read_header(self.file)
        return header.config if header.kind == "unet" else read_network(self.file, self._overrides())[0]

    def _overrides(self, say: Callable[[str], object] = print) -> dict | None:
        """What a public file of this release does not say of itself."""
        if self.given.release is None:
            return None
        if read_header(self.file).kind == "unet":
            config = read_header(self.file).config
            if config.first_frame_concat != preset(self.given.release).first_frame_concat:
                say(f"start.release {self.given.release} is left aside: {self.file} says itself what it is")
            return None
        return OVERRIDES.get(self.given.release)

    # -- encoders that the other run trained ----------------------------------------------------------------------

    def length(self, name: str) -> int | None:
        """Tokens that an encoder was made for."""
        ends = f"trained.{name}.", "position_embedding.weight"
        return next((len(w) for k, w in self.learned.items() if k.startswith(ends[0]) and k.endswith(ends[1])), None)

    def teach(self, name: str, encoder: nn.Module) -> None:
        """Give a fresh encoder what the other run's had learned, where it had one."""
        prefix = f"trained.{name}."
        own = {k.removeprefix(prefix): w for k, w in self.learned.items() if k.startswith(prefix)}
        shapes = {k: w.shape for k, w in encoder.state_dict().items()}
        if any(shapes.get(k) != w.shape for k, w in own.items()):
            raise TrainingError(
                f"start.network {self.given.network} trained another kind of {name} encoder; name a folder as "
                f"encoders.{name}."
            )
        encoder.load_state_dict(own, strict=False)
