"""``python -m edge_runtime`` is ``pacplus-device``."""

import sys

from .device.cli import main

sys.exit(main())
