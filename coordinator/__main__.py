"""``python -m coordinator`` is ``pacplus``."""

from .cli import main

main()
