"""Leaves out what PyTorch imports to compile and to export models, until it is asked for.

A device that trains does neither, but ``import torch`` loads all of it: a third of the time that
the import takes, and 18 MB.
"""

import importlib
import sys
import types
from typing import Any

COMPILER = ("torch._meta_registrations", "torch.export")
"""Kernels of tensors without data, by which a compiler learns shapes; and what writes graphs."""


def defer_compiler_of_pytorch() -> None:
    """Has PyTorch imported without it, where it is not imported yet.

    For processes of the device alone: whoever compiles or exports in the same process would have
    to ask for these modules first.
    """
    if "torch" not in sys.modules:
        for name in COMPILER:
            sys.modules.setdefault(name, _Deferred(name))


class _Deferred(types.ModuleType):
    """Takes the place of a module, and imports it when anything of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # Python looks at every module for these
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
