"""Runs inside the host: Load Bundle on bundles of every sort, good and hostile.

argv: a folder that holds diffusion_models, checkpoints and vae with the bundles of ../test_bundles_in_host.py. Tensors
go into it as results.safetensors; the JSON line says the rest.
"""

import json
import ntpath
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import torch
from a_pack.nodes.bridge import folders
from a_pack.nodes.bundles import Absent, LoadBundle
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])
for kind in ("diffusion_models", "checkpoints", "vae"):
    folder_paths.folder_names_and_paths[kind] = ([str(FOLDER / kind)], {".safetensors"})


def load(name):
    return LoadBundle.execute(bundle_name=name, weight_dtype="default").result


def told(name):
    """The sentence of a refusal; else what came out, the sentence of an absent output in its place."""
    try:
        return [absent(output) if isinstance(output, Absent) else type(output).__name__ for output in load(name)]
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def absent(output):
    try:
        return output.message
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


names = json.loads((FOLDER / "names.json").read_text())
facts = {"listed": LoadBundle.define_schema().inputs[0].options, "told": {name: told(name) for name in names}}
made = {}
inputs = load_file(FOLDER / "inputs.safetensors")
with torch.inference_mode():
    for name in ("kl", "kl of old", "kl elsewhere"):
        model, text, _, _, vae = load(name)
        made[f"{name}: images"] = vae.decode(inputs["latents"])
        made[f"{name}: latents"] = vae.encode(inputs["images"])
        facts[f"{name}: scale"] = model.model.latent_format.scale_factor
    function, arguments = vae.patcher.cached_patcher_init  # as the host makes a copy for another device
    vae.first_stage_model.load_state_dict(function(*arguments).model.state_dict())
    made["copied: images"] = vae.decode(inputs["latents"])
    model = load("says how it sees")[0]
    facts["sees"] = [model.model.video_config.uncond_image, model.model.video_config.image_projector.reads]

before = LoadBundle.fingerprint_inputs(bundle_name="kl", weight_dtype="default")
weights = FOLDER / "diffusion_models" / "kl" / "vae" / "diffusion_pytorch_model.safetensors"
shutil.copy(weights, weights.with_suffix(".again"))
weights.with_suffix(".again").replace(weights)
facts["stamps"] = [before, LoadBundle.fingerprint_inputs(bundle_name="kl", weight_dtype="default")]
facts["stamp of none"] = LoadBundle.fingerprint_inputs(bundle_name="../outside", weight_dtype="default")


def followed(path):
    """Whether a path is held to lie in C:/models, on Windows, and which paths the file system was asked about."""
    asked = []

    def real(p):
        asked.append(str(p))
        return ntpath.abspath(p)

    kept = folders.os, folders.folder_paths.is_within_directory
    paths = SimpleNamespace(abspath=ntpath.abspath, realpath=real, commonpath=ntpath.commonpath)
    folders.os = SimpleNamespace(path=paths)
    folders.folder_paths.is_within_directory = lambda root, target: bool(real(root) and real(target))
    try:
        return folders.is_inside(path, [r"C:\models\a", r"C:\models\b"]), asked
    finally:
        folders.os, folders.folder_paths.is_within_directory = kept


windows = (
    r"\\elsewhere\share\x",
    "//elsewhere/share/x",
    r"D:\x",
    r"C:\models\b\x",
    r"C:\models\a\..\c",
    r"\\?\UNC\else\x",
)
facts["windows"] = {path: followed(path) for path in windows}
save_file({k: v.contiguous() for k, v in made.items()}, FOLDER / "results.safetensors")
print(json.dumps(facts))
