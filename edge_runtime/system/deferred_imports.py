"""Leaves out what PyTorch imports to compile and to export models, until it is asked for.

A device that trains does neither, but ``import torch`` loads all of it: a third of the time that
the import takes, and 18 MB. What else needs a compiler asks for it: ``torch.optim``,
``torch.utils.checkpoint``.
"""

import importlib
import sys
import types
from typing import Any

COMPILER = ("torch._meta_registrations", "torch.export", "torch._dynamo")
"""Kernels of tensors without data, by which a compiler learns shapes, what writes graphs, and what
traces programs. PyTorch imports the first before the others, which fail without it."""


def defer_compiler_of_pytorch() -> None:
    """Has PyTorch imported without it, where it is not imported yet.

    For processes of a device alone: until one of the modules is asked for, tensors without data
    (``device="meta"``) have few operations.
    """
    if "torch" not in sys.modules:
        for name in COMPILER:
            sys.modules.setdefault(name, _Deferred(name))


class _Deferred(types.ModuleType):
    """Takes the place of a module, and imports it when anything of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # Python looks at every module for these
            raise AttributeError(name)
        for each in (COMPILER[0], self.__name__):
            if isinstance(sys.modules.get(each), _Deferred):
                del sys.modules[each]
                importlib.import_module(each)
        return getattr(sys.modules[self.__name__], name)
