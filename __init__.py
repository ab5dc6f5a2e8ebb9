"""DreamFactory: Factorized-Dreamer and VideoFactory, open and working, for ComfyUI and headless use.

The repository root is this package. Importing it loads nothing heavy: take what you need from
``dreamfactory.model_patches`` (networks and checkpoints), ``dreamfactory.schedulers`` (the noise schedule),
``dreamfactory.pipelines`` (text + image -> video) or ``dreamfactory.training``.
"""

__version__ = "0.1.0"
