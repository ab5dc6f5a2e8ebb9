"""Save Video UNet inside the host: LoRAs and merges in the weights, config and schedule in the header, whole or not."""

from dataclasses import replace

import pytest
from safetensors.torch import save_file

from dreamfactory.model_patches import read_header
from dreamfactory.schedulers import ScheduleConfig

from .inside.networks import FULL, inputs_for, save_network
from .server import run_inside

SCRIPT = """
import hashlib, os, resource
from pathlib import Path
import comfy.model_management, comfy.model_patcher, comfy.sample, comfy.sd, folder_paths, torch
from comfy_extras.nodes_model_merging import ModelMergeSimple, ModelSave
from safetensors.torch import load_file
from a_pack.errors import NodeError
from a_pack.nodes.bundles import LoadDemo
from a_pack.nodes.bridge.loading import load_video_model
from a_pack.nodes.save import SaveVideoUNet
from a_pack.tests.host.inside.common import both, difference, randn

torch.set_num_threads(1)
FOLDER, CPU = Path(sys.argv[1]), torch.device("cpu")
OUTPUT = FOLDER / "output"
folder_paths.set_output_directory(str(OUTPUT))


def lora_on(model, rank=2):
    # On every linear and convolution, in the plain names that fit all of them.
    lora = {}
    for key, weight in model.model.diffusion_model.state_dict().items():
        if weight.ndim > 1 and key.endswith(".weight"):
            name, seed = "diffusion_model." + key.removesuffix(".weight"), len(lora)
            lora[name + ".lora_A.weight"] = randn(rank, *weight.shape[1:], seed=seed) * weight[0].numel() ** -0.5
            lora[name + ".lora_B.weight"] = 0.3 * randn(len(weight), rank, *[1] * (weight.ndim - 2), seed=seed + 1)
    return comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)[0]


def clip(model, inputs):
    sides, noise = both(model, inputs), inputs["noise"]
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "sgm_uniform", *sides, torch.zeros_like(noise), seed=0, disable_pbar=True
    )


def save(model, prefix="diffusion_models/saved", dtype="default"):
    [shown] = SaveVideoUNet.execute(model, prefix, dtype).ui["text"]
    return shown


def saved(*args, **kwargs):
    return str(OUTPUT / save(*args, **kwargs))


def digest(path):
    weights = load_file(path)
    return hashlib.sha256(b"".join(weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()


def refusal(what):
    try:
        what()
    except NodeError as error:
        return str(error)


def left():
    return sorted(str(p.relative_to(OUTPUT)) for p in OUTPUT.rglob("*") if p.is_file())


facts = {}
base, other = (load_video_model(str(FOLDER / f"{name}.safetensors")) for name in ("full", "other"))
inputs = load_file(FOLDER / "inputs.safetensors")
plain = clip(base, inputs)
merged = ModelMergeSimple().merge(lora_on(base), other, 0.6)[0]
bare = [k for k in merged.patches if not k.endswith((".weight", ".bias"))]
facts["bare weights merged"] = len(bare)

# Saved before anything is loaded, with another MODEL of these weights loaded, loaded as a whole, and in part.
facts["shown"] = save(merged)
first = str(OUTPUT / facts["shown"])
comfy.model_management.load_models_gpu([base])
digests = [digest(first), digest(saved(merged))]
expected = clip(merged, inputs)
comfy.model_management.load_models_gpu([merged])
digests.append(digest(saved(merged)))
merged.detach()
merged.partially_load(CPU, extra_memory=merged.model_size() // 2)
digests.append(digest(saved(merged)))
merged.detach()
facts["different"] = len(set(digests))

facts["effect"] = difference(expected, plain)
for name in ("default", "fp32", "fp16", "bf16"):
    path = saved(merged, dtype=name)
    back = load_video_model(path)
    kinds = sorted({str(w.dtype) for w in load_file(path).values()})
    facts[name] = {"error": difference(clip(back, inputs), expected), "kinds": kinds}
facts["after"] = difference(clip(merged, inputs), expected)
facts["unpatched"] = all(
    torch.equal(weight, load_file(FOLDER / "full.safetensors")[key]) for key, weight in load_file(saved(base)).items()
)

# A MODEL in half precision: the file keeps it, and a change is rounded once.
half = lora_on(load_video_model(str(FOLDER / "full.safetensors"), torch.float16))
path = saved(half)
facts["half"] = {
    "kinds": sorted({str(w.dtype) for w in load_file(path).values()}),
    "error": difference(clip(load_video_model(path), inputs), clip(half, inputs)),
}
fp8 = load_video_model(str(FOLDER / "full.safetensors"), torch.float8_e4m3fn)
path = saved(fp8)
facts["fp8"] = {
    "kinds": sorted({str(w.dtype) for w in load_file(path).values()}),
    "error": difference(clip(load_video_model(path), inputs), clip(fp8, inputs)),
}

demo = lora_on(LoadDemo.execute("default", "red circle").result[0])
facts["demo"] = saved(demo, "demo")
back = load_video_model(facts["demo"], latent_format=demo.model.latent_format)
x = randn(8, back.model.video_config.in_channels, 8, 8)
values = {
    "context": randn(1, 6, back.model.video_config.context_dim), "num_frames": 8,
    "motion_text": randn(1, 6, back.model.video_config.motion_dim), "first_frame": x[:1],
    "image_tokens": randn(1, 4, back.model.video_config.image_token_dim),
}
answers = []
for model in (demo, back):
    comfy.model_management.load_models_gpu([model])
    answers.append(model.model.diffusion_model(x, torch.tensor([500.0]), **values))
facts["demo error"] = difference(*answers)

# What is refused, and what it leaves behind.
ModelSave().save(merged, "core/saved")
[core] = (OUTPUT / "core").iterdir()
try:
    load_video_model(str(core))
except ValueError as error:
    facts["core"] = str(error)
image = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), CPU, CPU)
facts["no video"] = refusal(lambda: save(image))
(OUTPUT / "file").write_bytes(b"")
before = left()
facts["refused"] = {p: refusal(lambda: save(merged, p)) for p in ("file/x", "../x", "", "sub/..", "x" * 300)}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
facts["refused"]["full/x"] = refusal(lambda: save(merged, "full/x"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
(OUTPUT / "locked").mkdir(mode=0o555)
facts["refused"]["locked/x"] = refusal(lambda: save(merged, "locked/x")) if os.geteuid() else None
facts["left behind"] = sorted({*left()} - {*before})
print(json.dumps(facts))
"""
SCHEDULE = ScheduleConfig(trained_shape=(8, 128, 128))  # told apart from the default by the header alone
CONFIG = replace(FULL, image_scale="learnable", image_adapter="all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def facts(host, folder):
    save_network(folder, "full", CONFIG, SCHEDULE)
    save_network(folder, "other", CONFIG, SCHEDULE, seed=1)
    save_file(inputs_for(CONFIG, 8, (8, 6)), folder / "inputs.safetensors")
    return run_inside(host, SCRIPT, folder)


def test_saved_and_loaded_again_it_gives_the_same_clip(facts):
    """A LoRA and a merge over it, bare weights (scales, queries, gates) included."""
    assert facts["bare weights merged"] > 0
    assert facts["effect"] > 0.01
    assert facts["default"] == {"error": pytest.approx(0, abs=1e-6), "kinds": ["torch.float32"]}
    assert facts["fp32"] == facts["default"]
    assert facts["demo error"] < 1e-6
    assert facts["unpatched"]


@pytest.mark.parametrize(("name", "kind", "most"), [("fp16", "float16", 0.02), ("bf16", "bfloat16", 0.1)])
def test_weights_are_kept_as_asked(facts, name, kind, most):
    assert facts[name]["kinds"] == [f"torch.{kind}"]
    assert 0 < facts[name]["error"] < most


def test_default_keeps_what_is_in_memory(facts):
    assert facts["half"]["kinds"] == ["torch.float16"]
    assert facts["half"]["error"] < 1e-6
    assert facts["fp8"] == {"error": 0, "kinds": ["torch.float8_e4m3fn"]}


def test_it_does_not_matter_what_is_loaded(facts):
    """Not at all, another MODEL on the same weights, the whole, a part; and the MODEL stays as it was."""
    assert facts["different"] == 1
    assert facts["after"] == 0


def test_the_header_tells_config_and_schedule(facts, folder):
    assert facts["shown"] == "diffusion_models/saved_00001_.safetensors"
    header = read_header(folder / "output" / facts["shown"])
    assert header.config == CONFIG
    assert ScheduleConfig.from_dict(header.schedule) == SCHEDULE
    assert header.kind == "unet"


def test_a_file_of_the_hosts_own_save_is_named(facts):
    assert "saved without its config by ComfyUI's own save node; save it again with Save Video UNet." in facts["core"]


def test_other_models_are_refused(facts):
    assert facts["no video"].startswith("model: this is no video MODEL of DreamFactory;")


def test_places_that_cannot_be_written(facts, folder):
    """One sentence that names the input and no folder of the computer; nothing half-written."""
    for prefix, told in facts["refused"].items():
        if told is None:  # root may write everywhere
            continue
        assert told.startswith("filename_prefix: "), prefix
        assert told.endswith("."), told
        assert "\n" not in told
        assert str(folder) not in told
    assert "File too large" in facts["refused"]["full/x"]
    assert facts["left behind"] == []
