"""The network inside a real ComfyUI: its casting weights and its attention give the same numbers as plain torch."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import importlib.util, json, sys
sys.path.insert(0, {host!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.ops, torch
from comfy.ldm.modules.attention import optimized_attention

# As the host loads a pack: the repository root under a name of the host's choosing.
spec = importlib.util.spec_from_file_location(
    "a_pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["a_pack"] = pack
spec.loader.exec_module(pack)
from a_pack.model_patches import Conditions, load_unet

path = {root!r} + "/pipelines/demo/unet.safetensors"
plain = load_unet(path)
hosted = load_unet(path, operations=comfy.ops.manual_cast, attention=optimized_attention)
kinds = {{type(m).__module__ for m in hosted.modules() if any(True for _ in m.parameters(recurse=False))}}
torch.manual_seed(0)
config = plain.config
conditions = Conditions(
    torch.randn(2, 16, config.context_dim),
    motion_text=torch.randn(2, 16, config.motion_dim),
    first_frame=torch.randn(2, config.in_channels, 8, 9),
    image_tokens=torch.randn(2, 4, config.image_token_dim),
)
args = torch.randn(16, config.in_channels, 8, 9), torch.tensor([3, 700]), conditions
with torch.no_grad():
    a, b = plain(*args, num_frames=8), hosted(*args, num_frames=8)
    half = load_unet(path, operations=comfy.ops.manual_cast, attention=optimized_attention, dtype=torch.bfloat16)
    c = half(*args, num_frames=8)
loaded = sorted(m for m in ("diffusers", "transformers.models.t5", "torchvision") if m in sys.modules)
scale = a.abs().max()
print(json.dumps(dict(
    error=((a - b).abs().max() / scale).item(), cast=((a - c).abs().max() / scale).item(),
    finite=bool(torch.isfinite(c).all()), kinds=sorted(kinds), loaded=loaded,
)))
"""


def test_host_operations_and_attention_give_the_same_numbers(host):
    folder, python = host
    script = SCRIPT.format(host=str(folder), root=str(ROOT))
    done = subprocess.run([python, "-c", script], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["error"] < 1e-5
    assert facts["finite"]
    assert facts["cast"] < 0.05  # bfloat16 weights, cast by the host at use
    # Every weight sits in a host class, but for gates and tables in leaf modules of ours.
    assert any(kind.startswith("comfy.ops") for kind in facts["kinds"])
    assert not any(kind.startswith("torch.nn") for kind in facts["kinds"])
