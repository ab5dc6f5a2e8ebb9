"""A real ComfyUI for the tests: as a running server, or as a library in a process of its own.

On the CPU, unless COMFYUI_ON_CARD is set: then as an artist starts it, on the card and with its own choices. The tests
that send graphs to a server hold there too; those that compare bits with the CPU's do not.
"""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
PACK = "ComfyUI-DreamFactory"
MODELS = ("checkpoints", "clip_vision", "diffusion_models", "loras", "text_encoders", "upscale_models", "vae")
BOOT = 180.0  # seconds to the first answer
ON_CARD = bool(os.environ.get("COMFYUI_ON_CARD"))
DEVICE = [] if ON_CARD else ["--cpu"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # small networks: see tests/conftest.py


def import_file(path: Path) -> ModuleType:
    """A module from a file that lies in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


queue_workflow = import_file(ROOT / "example_workflows" / "queue_workflow.py")


@dataclass(frozen=True)
class Server:
    """A running ComfyUI with this repository as its only custom node pack."""

    client: Any  # queue_workflow.Comfy
    base: Path  # holds input/, output/, models/, custom_nodes/
    log_path: Path

    def models(self, kind: str) -> Path:
        """The folder of one kind of model, such as "vae"; files put there are listed without a restart."""
        folder = self.base / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def start(host: tuple[Path, str], base: Path, *further: str) -> Iterator[Server]:
    """Start the server in the empty folder ``base``, wait until it answers, stop it at the end. further: options."""
    folder, python = host
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
    (base / "custom_nodes" / "stand_ins").symlink_to(ROOT / "tests" / "host" / "stand_ins", target_is_directory=True)
    port = free_port()
    server = Server(queue_workflow.Comfy(f"127.0.0.1:{port}"), base, base / "server.log")
    for kind in MODELS:
        server.models(kind)
    options = [*DEVICE, "--use-pytorch-cross-attention", "--port", str(port), "--base-directory", str(base)]
    options += [
        "--preview-method",
        "latent2rgb",
        "--disable-api-nodes",
        "--database-url",
        f"sqlite:///{base / 'db.sqlite'}",
        *further,
    ]
    with open(server.log_path, "w") as log:
        process = subprocess.Popen([python, "main.py", *options], cwd=folder, stdout=log, stderr=log, env=ENVIRONMENT)
    try:
        wait(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(server: Server, process: subprocess.Popen) -> None:
    end = time.monotonic() + BOOT
    while True:
        try:
            server.client.ask("/system_stats")
            return
        except queue_workflow.ComfyError as error:
            if process.poll() is not None:
                raise AssertionError(f"ComfyUI ended with {process.returncode}:\n{server.log()[-3000:]}") from error
            if time.monotonic() > end:
                raise AssertionError(f"ComfyUI does not answer after {BOOT} s:\n{server.log()[-3000:]}") from error
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PRELUDE = """
import importlib.util, json, sys
sys.path.insert(0, {host!r})
import comfy.options
comfy.options.enable_args_parsing()
own, sys.argv[1:] = sys.argv[1:], {options!r}
import comfy.cli_args
sys.argv[1:] = own

# As the host loads a pack: the repository root under a name of the host's choosing.
spec = importlib.util.spec_from_file_location(
    "a_pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["a_pack"] = pack
spec.loader.exec_module(pack)
"""


def run_inside(host: tuple[Path, str], script: str, *args, options: str = "", timeout: float = 600.0) -> dict:
    """Run Python source in the host's interpreter → the JSON object on the last line it prints.

    The script can import ``comfy`` (on the CPU) and this repository as ``a_pack``; ``args`` are its
    ``sys.argv[1:]``, as text; ``options`` are the host's own, beside DEVICE. ``json`` and ``sys`` are imported already.
    """
    folder, python = host
    source = PRELUDE.format(host=str(folder), root=str(ROOT), options=[*DEVICE, *options.split()]) + script
    command = [python, "-c", source, *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT)
    if done.returncode != 0:
        raise AssertionError(f"The script failed inside the host:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
