"""``python -m edge_runtime`` is ``pacplus-device``."""

import sys

from .cli import main

sys.exit(main())
