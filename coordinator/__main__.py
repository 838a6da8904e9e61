"""``python -m coordinator`` is ``pacplus``."""

from .cli.main import main

main()
