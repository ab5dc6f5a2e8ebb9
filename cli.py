"""The `dreamfactory` command. Each subcommand reads its arguments here and calls one function elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from .errors import DreamFactoryError, nearest, out_of_memory, printable, reason
from .libraries import fault
from .pipelines.generate.processes import is_launched, leave

EXIT_CODES = """\
Exit codes: 0 done; 1 memory ran out (one sentence), or a bug (its traceback); 2 a mistake in what was asked (one
sentence on standard error, nothing written); 3 some clips of a list could not be made (`generate --prompts`), some
sources could not be read (`curate`), or there is no card (`check`); 130 interrupted, 143 terminated. `check` ends with
1 where something is wrong.
"""


def schedule(args: argparse.Namespace) -> None:
    from .pipelines.media.files import check_output
    from .pipelines.schedule_plot import draw, table
    from .schedulers import ScheduleConfig

    if args.plot:
        check_output(args.plot, ".png")
    config = ScheduleConfig(rescale=args.rescale, shift_reference=args.reference)
    noise = config.build(args.frames, args.height, args.width)
    if args.plot:
        draw(args.plot, args.frames, args.height, args.width, config)
    if args.json:
        # JSON has no infinities: the end of the schedule (SNR 0) is null.
        log_snr = [x if math.isfinite(x) else None for x in noise.log_snr.tolist()]
        print(json.dumps({"shift": noise.shift, "alphas_cumprod": noise.alphas_cumprod.tolist(), "log_snr": log_snr}))
        return
    print(f"{args.frames} frames of {args.width}x{args.height} pixels: shift s = {noise.shift:.4f}")
    print(table(noise))
    if args.plot:
        print(f"plot: {args.plot}")


def info(args: argparse.Namespace) -> None:
    from .errors import InputError
    from .pipelines.describe import describe_file, describe_preset, readable

    if (args.file is None) == (args.preset is None):
        raise InputError("info takes a file, or --preset NAME.")
    facts = describe_preset(args.preset) if args.preset else describe_file(args.file)
    print(json.dumps(facts) if args.json else readable(facts))


def convert(args: argparse.Namespace) -> None:
    from .errors import InputError
    from .model_patches.checkpoints.converters import convert_file
    from .schedulers import ScheduleConfig

    for pair in args.set:
        if "=" not in pair:
            raise InputError(f"--set {pair!r} has no '='; write field=value.")
    values = {k: _value(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    report = convert_file(
        args.source,
        args.target,
        args.origin,
        overrides=values,
        dtype=_dtype(args.dtype),
        check_schedule=ScheduleConfig.from_dict,
    )
    print(json.dumps(report.to_dict()) if args.json else f"{report}\nwritten: {args.target}")


def export(args: argparse.Namespace) -> None:
    from .model_patches.checkpoints.export import export_file

    report = export_file(args.source, args.target, args.names, dtype=_dtype(args.dtype))
    print(json.dumps(report.to_dict()) if args.json else f"{report}\nwritten: {args.target} ({args.names})")


def upscale(args: argparse.Namespace) -> None:
    from .pipelines.placement import placement
    from .pipelines.upscale import parse_size, upscale_video

    out = upscale_video(
        args.source,
        args.target,
        args.model,
        size=None if args.size is None else parse_size(args.size),
        scale=args.scale,
        tile=args.tile,
        chunk=args.frames_at_once,
        crf=args.crf,
        quiet=args.quiet,
        # Upscalers were mostly trained, and some only compute right, in fp32.
        **placement(args.device, args.dtype, fallback="fp32"),
    )
    print(out)


def train(args: argparse.Namespace) -> None:
    from .training.command import run

    run(args)


def demo(args: argparse.Namespace) -> None:
    from .training.tiny_world.demo import show

    print(show(args.out, args.seed))


def demo_quality(args: argparse.Namespace) -> None:
    from .training.tiny_world.quality import measure_bundle

    print(json.dumps(measure_bundle(args.checkpoint, args.clips)))


class Parser(argparse.ArgumentParser):
    """A mistake costs one sentence, where argparse would print every option there is."""

    def error(self, message: str) -> NoReturn:
        for pattern, sentence in MISTAKES.items():
            message = re.sub(pattern, sentence, message)
        if self.prog.split()[-1] in ("generate", "train") and is_launched() and os.environ["RANK"] != "0":
            self.exit(2)  # the first process says so for all
        joint = " See" if message.endswith("?") else "; see"
        self.exit(2, f"{self.prog}: {printable(message)}{joint} `{self.prog} --help`.\n")

    def unknown(self, arguments: list[str]) -> NoReturn:
        """Arguments that nothing takes."""
        first = arguments[0].split("=")[0]
        options = [option for action in self._actions for option in action.option_strings]
        near = nearest(first, options) if first.startswith("-") else None
        self.error(f"there is no place for {first!r}" + (f"; did you mean {near}?" if near else ""))


# argparse's messages, as a person would say them.
MISTAKES = {
    r"^the following arguments are required: command$": "say what to do, such as `dreamfactory demo`",
    r"^the following arguments are required: (.*)$": r"\1 is missing",
    r"^argument (.*?): expected one argument$": r"\1 needs a value",
    r"^argument (.*?): invalid int value: (.*)$": r"\1 is \2, expected a whole number",
    r"^argument (.*?): invalid float value: (.*)$": r"\1 is \2, expected a number",
    r"^argument command: invalid choice: (\S+) \(choose from (.*)\)$": r"there is no command \1, known: \2",
    r"^argument (.*?): invalid choice: (.*) \(choose from (.*)\)$": r"\1 is \2, expected one of \3",
}


def parser() -> Parser:
    from .curation import command as curation
    from .curation.quality import command as curation_quality
    from .pipelines.generate import command as generation
    from .training.command import add_arguments

    top = Parser(
        prog="dreamfactory",
        description="Factorized-Dreamer and VideoFactory, headless.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, function, text: str, example: str) -> Parser:
        about = {"description": text, "epilog": example, "formatter_class": argparse.RawDescriptionHelpFormatter}
        sub = commands.add_parser(name, help=text, **about)
        sub.set_defaults(run_command=function, parser=sub)
        return sub

    text = "captions, and a picture where one is animated, into an mp4; one clip or a list"
    generation.add_arguments(command("generate", generation.run, text, generation.ABOUT))

    text = "enlarge a video's frames, or a picture, by an image upscaler"
    sub = command("upscale", upscale, text, "dreamfactory upscale clip.mp4 large.mp4 --model footage")
    sub.add_argument("source", help="a video; or a picture: .png, .jpg, .webp")
    sub.add_argument("target", help="the .mp4 to write; .png for a picture")
    sub.add_argument("--model", required=True, help="footage, demo, or a weight file; what is no RCAN needs spandrel")
    sub.add_argument("--size", metavar="WxH", help="of the target, at most what the model makes; cropped to fit")
    sub.add_argument("--scale", type=int, help="what the model has to be: refuse another")
    sub.add_argument("--tile", type=int, metavar="PIXELS", help="side of a tile, 64 up; default as memory allows")
    sub.add_argument("--frames-at-once", type=int, default=4, metavar="N", help="in memory; more need more of it")
    sub.add_argument("--crf", type=int, default=16, help="quality of the H.264: 0 lossless, 51 smallest")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    sub.add_argument("--dtype", default="auto", choices=("auto", "fp32", "fp16", "bf16"), help="auto: fp32")
    sub.add_argument("--quiet", action="store_true", help="no progress bar, no sizes")

    sub = command(
        "info",
        info,
        "parameters by part, config and schedule of a file or a preset",
        "dreamfactory info --preset videofactory",
    )
    sub.add_argument("file", nargs="?")
    sub.add_argument("--preset")
    sub.add_argument("--json", action="store_true")

    sub = command(
        "schedule",
        schedule,
        "the noise schedule of a clip size: table, curve, numbers",
        "dreamfactory schedule --frames 16 --height 512 --width 512 --plot curve.png",
    )
    sub.add_argument("--frames", type=int, required=True)
    sub.add_argument("--height", type=int, required=True, help="pixels")
    sub.add_argument("--width", type=int, required=True, help="pixels")
    sub.add_argument("--rescale", default="lin", choices=("lin", "printed", "none"), help="zero terminal SNR")
    sub.add_argument("--reference", type=float, default=256.0, help="D of Factorized-Dreamer's Eq. 5, pixels")
    sub.add_argument("--plot", metavar="PNG")
    sub.add_argument("--json", action="store_true")

    text = "public weights into this pack's format, PEFT LoRAs into ComfyUI's names"
    sub = command(
        "convert", convert, text, "dreamfactory convert dynamicrafter_512.safetensors dynamicrafter.safetensors"
    )
    sub.add_argument("source", help="a weight file (.safetensors, .ckpt, .pt, .pth, .bin), or a diffusers folder")
    sub.add_argument("target", help="the .safetensors to write")
    # checkpoints.converters.SOURCES and checkpoints.export.FORMS, which would bring torch.
    sources = ("auto", "sd", "modelscope", "lvdm", "animatediff", "ip-adapter")
    sub.add_argument("--from", dest="origin", default="auto", choices=sources)
    sub.add_argument(
        "--set", action="append", default=[], metavar="field=value", help="a config field the file cannot tell"
    )
    sub.add_argument(
        "--dtype", choices=("fp32", "fp16", "bf16"), help="of the weights on disk; default as in the source"
    )
    sub.add_argument("--json", action="store_true")

    text = "a network, or its temporal half, into names that other software reads"
    sub = command("export", export, text, "dreamfactory export network.safetensors motion.safetensors --as animatediff")
    sub.add_argument("source", help="a network's .safetensors, or a temporal patch")
    sub.add_argument("target", help="the .safetensors to write; for diffusers also a folder")
    forms = ("animatediff", "diffusers-motion", "diffusers-unet3d")
    sub.add_argument("--as", dest="names", required=True, choices=forms, help="whose names")
    sub.add_argument(
        "--dtype", choices=("fp32", "fp16", "bf16"), help="of the weights on disk; default as in the source"
    )
    sub.add_argument("--json", action="store_true")

    sub = command("train", train, "train from a run file or a preset", "dreamfactory train tiny")
    add_arguments(sub)

    text = "long raw videos into single-scene clips with captions, in shards that train reads"
    curation.add_arguments(command("curate", curation.run, text, curation.ABOUT))

    text = "how well does `curate` see? on made-up videos of which everything is known"
    curation_quality.add_arguments(command("curate-quality", curation_quality.run, text, curation_quality.ABOUT))

    sub = command(
        "demo",
        demo,
        "animate never-seen pictures with the demo model, onto one sheet",
        "dreamfactory demo --out out/demo",
    )
    sub.add_argument("--out", default="out/demo")
    sub.add_argument("--seed", type=int, default=7)

    from .check import command as card

    text = "does it run on my card? one table and a JSON file, in about five minutes"
    sub = command("check", card.check, text, "dreamfactory check")
    card.add_arguments(sub)

    sub = command(
        "demo-quality",
        demo_quality,
        "measure the demo model on held-out clips; JSON comes last",
        "dreamfactory demo-quality --clips 16",
    )
    sub.add_argument("--checkpoint", default="demo")
    sub.add_argument("--clips", type=int, default=160, choices=range(1, 10001), metavar="1..10000")
    return top


def main(argv: list[str] | None = None) -> int:
    try:
        code = _run(argv)
    except SystemExit as stop:
        leave(stop.code)
        raise
    leave(code)
    return code


class Terminated(BaseException):
    """SIGTERM, as an exception: what is half-written is taken away on its way out."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise Terminated; only the main thread may listen."""
    asked = False

    def stop(*_) -> NoReturn:
        nonlocal asked
        asked = True
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Exception as error:
        if asked:  # it fell on a library's compiled code, which makes another error of it
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(argv: list[str] | None) -> int:
    """The exit code."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        args.parser.unknown(unknown)
    try:
        with terminable():
            code = args.run_command(args)
    except Terminated:
        print(f"dreamfactory {args.command}: terminated, nothing half-written was left", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(f"dreamfactory {args.command}: interrupted, nothing half-written was left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except DreamFactoryError as error:
        print(f"dreamfactory {args.command}: {printable(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        found = fault(error)
        if out_of_memory(error):
            told = printable(reason(error))
            print(f"dreamfactory {args.command}: memory ran out ({told}); {LESS}.", file=sys.stderr)
            return 1
        if found is None:
            raise
        print(f"dreamfactory {args.command}: {printable(found)}.", file=sys.stderr)
        return 2
    return code or 0


LESS = "give fewer frames, a smaller size or batch, or half precision, or free some"


def _dtype(name: str | None):
    from .model_patches.dtypes import DTYPES

    return None if name is None else DTYPES[name]


def _value(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
