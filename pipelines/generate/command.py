"""`dreamfactory generate`: its options. What torch brings is imported when the command runs."""

from __future__ import annotations

import argparse
import logging
import os

ABOUT = """\
One clip:
  dreamfactory generate --image first.png --text "a red circle" --motion "the red circle moves left" --out clip.mp4
  dreamfactory generate --checkpoint demo-text-to-video --text "a blue moon, the blue moon moves left" --out clip.mp4

Text, picture, video, larger video:
  dreamfactory generate --checkpoint NETWORK --first-frame-from SD --text "a boat at sea" --motion "the boat rocks" \\
      --upscale UPSCALER --size 1376x768 --out clip.mp4

A list, on several cards:
  accelerate launch -m dreamfactory generate --checkpoint NETWORK --prompts prompts.jsonl --out clips/

Exit codes: 0 all clips are there; 1 memory ran out, or a bug; 2 a mistake in what was asked, one sentence; 3 some clips
of a list could not be made, and are named; 130 interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] --out CLIP.mp4"
    what = parser.add_argument_group(
        "what", 'a clip: --text "a red circle" --motion "it moves left"; or a list: --prompts prompts.jsonl'
    )
    add = what.add_argument
    add("--text", default="", help="what is seen; with --first-frame-from what the picture shows")
    add("--motion", default="", help="what happens")
    add("--negative", default="", metavar="TEXT", help="what to stay away from")
    add("--negative-motion", default="", metavar="TEXT", help="the same of what happens, where T5 reads it")
    add("--image", help="the first frame, for networks that animate one")
    add("--last-image", help="the last frame, for networks that interpolate")
    add(
        "--frames",
        type=int,
        help="number of frames; networks that animate a picture make more than they learned in pieces",
    )
    add("--width", type=int, help="pixels, before any enlarging")
    add("--height", type=int, help="pixels, before any enlarging")
    add("--seed", type=int, default=0, help="the same seed, the same clip; in a list it counts on")
    add(
        "--prompts",
        metavar="FILE",
        help="JSON lines, a clip each: text, motion, image, seed, size, and every option of this group and the next "
        "two, with _ for -; an option given here is what a line does not say",
    )

    how = parser.add_argument_group("how", "--steps 30 --sampler dpm++2m --guidance-scale 7.5")
    add = how.add_argument
    add("--steps", type=int, help="denoising steps")
    add("--sampler", help="ddim, euler, euler_a, dpm++2m or unipc")
    add("--guidance-scale", type=float, help="1 is off; how strongly captions are followed")
    add("--guidance-rescale", type=float, help="0 is off; keeps strong guidance from burning")
    add("--eta", type=float, default=0.0, help="noise added back in each step (DDIM), 0 to 1")
    add("--frame-rate", type=float, help="frame-rate condition, for networks that have one")
    add(
        "--context-length",
        type=int,
        metavar="N",
        help="frames the network sees at once; default: as trained if it animates a picture, else all",
    )
    add("--context-overlap", type=int, metavar="N", help="frames a piece of a long clip takes over from the one before")
    add("--image-strength", type=float, default=1.0, help="image adapter")
    add("--paca-strength", type=float, default=1.0, help="pixel-aware cross-attention")
    add("--swap-strength", type=float, default=1.0, help="Swap-CA")

    first = parser.add_argument_group(
        "first frame, drawn", "--first-frame-from sd15.safetensors --first-frame-size 512x512 --first-frame-steps 30"
    )
    add = first.add_argument
    add(
        "--first-frame-from",
        metavar="SD",
        help="what draws --text: a Stable Diffusion 1.5 / 2.1 file, or the folder of any diffusers text-to-image",
    )
    add("--first-frame-size", metavar="WxH", help="it is cropped to the clip's; default as it was trained")
    add("--first-frame-steps", type=int, metavar="N")
    add("--first-frame-guidance-scale", type=float, metavar="S")
    add("--first-frame-seed", type=int, metavar="N", help="default: the clip's")
    add("--first-frame-negative", default="", metavar="TEXT")
    add("--first-frame-tokenizer", metavar="FOLDER", help="for a single file; default the video network's own")

    network = parser.add_argument_group(
        "network", "--checkpoint dynamicrafter.safetensors --vae vae/ --text-encoder clip/ --lora style.safetensors:0.8"
    )
    add = network.add_argument
    add(
        "--checkpoint",
        default="demo",
        help="'demo', 'demo-text-to-video', a bundle folder, or a network's file (.safetensors, .ckpt)",
    )
    add("--vae", help="an AutoencoderKL folder, or a codec file")
    add("--text-encoder", help="a transformers CLIP text folder")
    add("--motion-encoder", help="a transformers T5 folder")
    add("--image-encoder", help="a transformers CLIP vision folder")
    add("--text-layer", choices=("last", "penultimate"), help="penultimate: a whole OpenCLIP text folder")
    add("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="several times, if you like")
    add("--upscale", metavar="MODEL", help="enlarge the clip: footage, demo, or an upscaler's file")
    add("--attention", default="sdpa", choices=("sdpa", "xformers", "math"))
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--dtype", default="auto", choices=("auto", "fp32", "fp16", "bf16"), help="auto: fp32 on a CPU, else fp16")

    output = parser.add_argument_group("output", "--out clip.mp4 --size 1376x768; of a list --out clips/ --batch 4")
    add = output.add_argument
    add("--out", required=True, help="the .mp4 to write, with a contact sheet beside it; of a list the folder")
    add("--size", metavar="WxH", help="of the file: what --upscale makes is cropped to it")
    add("--fps", type=float, help="frames per second of the file")
    add("--scale", type=int, default=1, metavar="1..16", help="enlarge the pixels as they are")
    add("--batch", type=int, metavar="N", help="clips of a list in one pass; default as memory allows")
    add("--no-sheets", action="store_true", help="no contact sheets")
    add("--quiet", action="store_true", help="no progress, no figures")


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    # The same bits wherever memory lies: MKL's products may otherwise depend on it, and with them a list gone on with.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    # What libraries think of each other is none of the user's business: their errors stay.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import sys

    from ...errors import InputError
    from ..lora import parse_lora
    from ..placement import placement
    from .engine import Failed, generate
    from .plan import Networks
    from .processes import RefusedElsewhere, is_launched, processes
    from .request import KEYS, Request

    request = Request(**{key: getattr(args, key) for key in KEYS})
    named = [name for name in Networks.__dataclass_fields__ if name != "lora"]
    if args.prompts is None and is_launched():
        if os.environ["RANK"] == "0":
            raise InputError(
                "several processes share a list, and this is one clip; give --prompts, or start one process."
            )
        return 2
    group = processes(args.device)
    device = group.device if args.device == "auto" and group.device else args.device
    try:
        lora = group.agree(lambda: tuple(parse_lora(text) for text in args.lora))
        out = generate(
            request,
            Networks(lora=lora, **{name: getattr(args, name) for name in named}),
            prompts=args.prompts,
            batch=args.batch,
            sheets=not args.no_sheets,
            quiet=args.quiet,
            group=group,
            **group.agree(lambda: placement(device, args.dtype)),
        )
    except RefusedElsewhere:
        return 2
    except Failed as error:
        if group.main:
            print(error, file=sys.stderr)
        group.close()
        return 3
    if group.main:
        print(out)
    group.close()
    return 0
