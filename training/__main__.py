"""`python -m dreamfactory.training run.toml [--set a.b=value ...]`, the same as `dreamfactory train`.

`accelerate launch -m dreamfactory.training run.toml` starts it on several processes.
"""

from __future__ import annotations

import sys

from ..cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
