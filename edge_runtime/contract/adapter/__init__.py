"""Parallel Adapters: their shape, how they are trained, what a trainer's state has."""

# Star imports, as of the messages: this package is exactly what those modules define.
from .shape import *  # noqa: F403
from .state import *  # noqa: F403
from .training import *  # noqa: F403
