"""`python -m dreamfactory` is the `dreamfactory` command."""

import sys

from .cli import main

sys.exit(main())
