"""The training loop: small, resumable to the bit, and open to look at.

Everything random comes from a generator seeded by (seed, step), so a run that was killed and resumed makes the
same weights as one that was not. State is written whole or not at all, as safetensors.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..model_patches import VideoUNet, load_unet, preset
from ..model_patches.config import UNetConfig
from ..pipelines.bundle import DEMO, Bundle, Defaults, load_vae, save_bundle
from ..pipelines.encoders import ImageEncoder, TextEncoder
from ..schedulers import NoiseSchedule, ScheduleConfig
from .config import RunConfig, build
from .data.tiny_dataset import TinyWorld
from .errors import TrainingError
from .step import Models, training_loss
from .tiny_encoders import image_encoder, motion_encoder, text_encoder

STATE, METRICS = "state.safetensors", "metrics.jsonl"


@dataclass
class Run:
    """A run in memory: models, their averaged copy, optimizer and the step it has reached."""

    config: RunConfig
    schedule_config: ScheduleConfig
    schedule: NoiseSchedule
    models: Models
    averaged: Models
    optimizer: torch.optim.Optimizer
    data: TinyWorld
    step: int = 0

    def named_weights(self, models: Models | None = None) -> dict[str, Tensor]:
        trained = (models or self.models).trained() if models is None else _same_modules(models, self.models)
        return {f"{name}.{key}": p for name, module in trained.items() for key, p in module.named_parameters()}


def _same_modules(models: Models, like: Models) -> dict[str, nn.Module]:
    return {name: getattr(models, name) for name in like.trained()}


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The one source of randomness of a step; `stream` keeps training and validation apart."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 8 + stream)


def prepare(config: RunConfig) -> Run:
    """Build everything a run needs; raises TrainingError or CheckpointError before any work is done."""
    if config.data.kind != "tiny_world":
        raise TrainingError(f"data.kind is {config.data.kind!r}; this version trains on 'tiny_world' only.")
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    network = UNetConfig.from_dict({**preset(config.model.preset).to_dict(), **config.model.config})
    if config.loss.flow_weight > 0 and not network.predict_net:
        raise TrainingError("loss.flow_weight needs the network's predict_net; set model.config.predict_net = true.")
    data = config.data
    shape = (data.frames, data.height, data.width)
    schedule_config = ScheduleConfig.from_dict({**config.schedule, "trained_shape": shape})

    reads_motion = network.motion_text != "off"
    models = Models(
        unet=_network(network, config).to(device),
        codec=load_vae(DEMO / "codec.safetensors" if config.encoders.codec == "demo" else config.encoders.codec).to(
            device
        ),
        text=_encoder(config, "text", text_encoder, TextEncoder).to(device),
        motion=_encoder(config, "motion", motion_encoder, TextEncoder).to(device) if reads_motion else None,
        image=_encoder(config, "image", image_encoder, ImageEncoder).to(device) if network.image_projector else None,
    )
    models.unet.checkpoint_gradients(config.model.gradient_checkpointing)
    for module in models.trained().values():
        module.train()
    averaged = replace(models, **{k: copy.deepcopy(m).requires_grad_(False) for k, m in models.trained().items()})
    weights = [p for m in models.trained().values() for p in m.parameters()]
    optim = config.optim
    # Norms, biases and gates are not decayed: they have no scale to keep in check.
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    world = TinyWorld(data, with_flow=config.loss.flow_weight > 0)
    return Run(config, schedule_config, schedule_config.build(*shape), models, averaged, optimizer, world)


def _device(name: str) -> torch.device:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r} is not there: {str(error).splitlines()[0]}") from error


def _network(network: UNetConfig, config: RunConfig) -> VideoUNet:
    torch.manual_seed(config.seed)
    unet = VideoUNet(network)
    if config.model.init_from:
        from ..model_patches.warm_start import extend

        unet, report = extend(load_unet(config.model.init_from), network)
        print(report)
        unet.requires_grad_(True)
    if network.predict_net and not config.model.init_from:
        unet.start_predict_net()
    return unet


def _encoder(config: RunConfig, name: str, make, cls):
    where = getattr(config.encoders, name)
    return make(config.seed) if where == "fresh" else cls.load(where)


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, constant, then a cosine down to zero from `cosine_from` of the steps on."""
    optim = config.optim
    rate = optim.lr * min(1.0, (step + 1) / max(1, optim.warmup))
    start = optim.cosine_from * optim.steps
    if step > start:
        rate *= 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, optim.steps - start)))
    return rate


def advance(run: Run) -> dict[str, float]:
    """One optimizer step; returns its numbers."""
    config, generator = run.config, step_generator(run.config.seed, run.step)
    batch = run.data.batch(config.optim.batch_size, generator)
    # Dropout inside modules draws from the global generator: tie it to the step as well.
    torch.manual_seed(generator.initial_seed())
    loss, parts = training_loss(run.models, run.schedule, batch, generator, config.dropout, config.loss)
    if not math.isfinite(loss.item()):
        raise TrainingError(f"the loss became {loss.item()} at step {run.step}; lower optim.lr and resume.")
    loss.backward()
    weights = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, config.optim.clip)
    if not math.isfinite(norm):
        raise TrainingError(f"a gradient became {norm.item()} at step {run.step}; lower optim.lr and resume.")
    rate = learning_rate(config, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    _average(run)
    return {**parts, "grad_norm": norm.item(), "lr": rate}


@torch.no_grad()
def _average(run: Run) -> None:
    """Exponential moving average, quicker at first so that early weights are forgotten."""
    decay = min(run.config.optim.ema, (1 + run.step) / (10 + run.step))
    for name in run.models.trained():
        averaged = list(getattr(run.averaged, name).parameters())
        torch._foreach_lerp_(averaged, list(getattr(run.models, name).parameters()), 1 - decay)


# -- state on disk --------------------------------------------------------------------------------------------


def save_state(run: Run, folder: Path) -> None:
    """Everything needed to go on, in one file: a temporary one and a rename."""
    state = {f"weights.{k}": v for k, v in run.named_weights().items()}
    state.update({f"averaged.{k}": v for k, v in run.named_weights(run.averaged).items()})
    for name, weight in run.named_weights().items():
        for key, value in run.optimizer.state[weight].items():
            state[f"optimizer.{key}.{name}"] = value
    meta = {"step": str(run.step), "config": json.dumps(run.config.to_dict())}
    tensors = {k: v.detach().contiguous() for k, v in state.items()}
    temporary = folder / (STATE + ".tmp")
    try:
        save_file(tensors, temporary, meta)
        os.replace(temporary, folder / STATE)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(run: Run, folder: Path) -> None:
    """Continue a saved run; its config must be this one's, but for `_recipe`'s exceptions."""
    path = folder / STATE
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        saved = build(RunConfig, json.loads(meta["config"]), "")
        state = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); start again with --fresh.") from error
    saved, now = _recipe(saved), _recipe(run.config)
    if saved != now:
        changed = next(k for k in now if saved.get(k) != now[k])
        raise TrainingError(
            f"{folder} holds a run with another [{changed}]; choose another output.folder or restore that setting."
        )
    with torch.no_grad():
        for prefix, weights in (
            ("weights", run.named_weights()),
            ("averaged", run.named_weights(run.averaged)),
        ):
            for name, weight in weights.items():
                weight.copy_(state[f"{prefix}.{name}"])
    for name, weight in run.named_weights().items():
        keys = [k for k in state if k.startswith("optimizer.") and k.endswith(f".{name}")]
        moments = {k.split(".")[1]: state[k].clone() for k in keys if k.split(".", 2)[2] == name}
        run.optimizer.state[weight] = moments
    run.step = int(meta["step"])


def _recipe(config: RunConfig) -> dict:
    """What a run must have in common with one it continues: all but its length, pace, place and machine."""
    values = config.to_dict()
    for name in ("output", "threads", "device"):
        values.pop(name)
    for name in ("steps", "cosine_from", "lr"):
        values["optim"].pop(name)
    values["model"].pop("gradient_checkpointing")
    return values


def bundle_of(run: Run) -> Bundle:
    """The averaged weights as a bundle that pipelines can run."""
    models, data = run.averaged, run.config.data
    defaults = Defaults(
        frames=data.frames,
        height=data.height,
        width=data.width,
        fps=8,
        steps=run.config.output.validation_steps,
        guidance_scale=run.config.output.guidance_scale,
    )
    for module in (models.unet, models.text, models.motion, models.image):
        if module is not None:
            module.eval()
    return Bundle(
        models.unet, models.codec, models.text, models.motion, models.image, run.schedule_config, defaults, "run"
    )


def train(config: RunConfig, *, resume: bool = True) -> Run:
    """Train to the end, or to the first Ctrl-C or SIGTERM, which saves and stops. Returns the run."""
    from .evaluation.validate import validate

    run, output = prepare(config), config.output
    folder = Path(output.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"output.folder {folder} cannot be made: {error.strerror}.") from error
    if not resume:
        for name in (STATE, METRICS):
            (folder / name).unlink(missing_ok=True)
    elif (folder / STATE).exists():
        load_state(run, folder)
        print(f"resuming {folder} at step {run.step}")
    _forget_after(folder / METRICS, run.step)
    started, first = time.time(), run.step
    with _Stop() as stop, (folder / METRICS).open("a") as log, tqdm(total=config.optim.steps, initial=run.step) as bar:
        while run.step < config.optim.steps and not stop.asked:
            numbers = advance(run)
            bar.update()
            if run.step % 20 == 0:
                speed = (run.step - first) / (time.time() - started)
                bar.set_postfix(loss=f"{numbers['diffusion']:.4f}", steps_per_s=f"{speed:.2f}")
                log.write(json.dumps({"step": run.step, **numbers}) + "\n")
                log.flush()
            last = run.step == config.optim.steps
            if run.step % output.checkpoint_every == 0 or last:
                save_state(run, folder)
            if output.validation_clips and (run.step % output.validate_every == 0 or last):
                scores = validate(bundle_of(run), config, folder / f"validation_{run.step:06d}.png")
                tqdm.write(f"step {run.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
                log.write(json.dumps({"step": run.step, "validation": scores}) + "\n")
    if stop.asked:
        save_state(run, folder)
        print(f"stopped at step {run.step}; run the same command to go on")
    else:
        export(run, folder / "bundle")
        print(f"the bundle is in {folder / 'bundle'}")
    return run


def export(run: Run, folder: Path) -> None:
    """The averaged weights as a bundle on disk: staged, then one rename."""
    staged = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staged, ignore_errors=True)
    save_bundle(bundle_of(run), staged)
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines))


class _Stop:
    """Turns the first SIGTERM or Ctrl-C into a request; a second one acts at once."""

    def __init__(self) -> None:
        self.asked, self.before = False, {}

    def __enter__(self) -> _Stop:
        self.before = {name: signal.signal(name, self._ask) for name in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)

    def _ask(self, number, frame) -> None:
        self.asked = True
        signal.signal(number, self.before[number])
