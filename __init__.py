"""DreamFactory: Factorized-Dreamer and VideoFactory, open and working, for ComfyUI and headless use.

The repository root is this package, and a ComfyUI node pack. Importing it loads nothing heavy: take what you need
from ``dreamfactory.model_patches`` (networks and checkpoints), ``dreamfactory.schedulers`` (the noise schedule),
``dreamfactory.pipelines`` (text + image -> video) or ``dreamfactory.training``; ComfyUI asks ``comfy_entrypoint``.
"""

import logging

__version__ = "0.1.0"

NEEDS = (0, 33)  # ComfyUI's version

try:
    from comfyui_version import __version__ as _host
except ImportError:  # not inside ComfyUI
    _host = None

if _host is not None:
    WEB_DIRECTORY = "./web"
    if tuple(int(n) for n in _host.split(".")[:2]) < NEEDS:
        logging.error(
            "ComfyUI-DreamFactory needs ComfyUI %d.%d or newer, this is %s: update ComfyUI to get its nodes.",
            *NEEDS,
            _host,
        )
        NODE_CLASS_MAPPINGS: dict = {}  # an old host takes this for a pack without nodes, and starts
    else:

        async def comfy_entrypoint():
            from .nodes.extension import DreamFactoryExtension

            return DreamFactoryExtension()
