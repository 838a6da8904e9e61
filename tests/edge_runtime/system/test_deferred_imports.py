"""A device trains without PyTorch's compiler, and gets it if it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAIN = """
import hashlib, sys
{first}
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.parallel_adapters import Trainer
from tests.edge_runtime.parallel_adapters.samples import batch, config
for kind in ("attention", "mlp"):
    shape = config(kind=kind)
    trainer = Trainer(shape, TrainingOptions(), total_steps=3)
    for seed in range(3):
        data = batch(5, seed=seed)
        trainer.gradients(data)
        trainer.apply(trainer.flat_gradient, data.count)
    print(hashlib.sha256(trainer.state()).hexdigest())
print("torch._decomp" in sys.modules, "torch.export.exported_program" in sys.modules)
"""
DEFER = (
    "from edge_runtime.system.deferred_imports import defer_compiler_of_pytorch as defer; defer()"
)


def said(code: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


def test_it_trains_to_the_same_bit_without_the_compiler():
    *whole, _ = said(TRAIN.format(first=""))
    *states, imported = said(TRAIN.format(first=DEFER))
    assert states == whole
    assert imported == "False False"


ASKED = (
    "torch.export.export(torch.nn.Linear(2, 3), (x,)).module()(x)",
    "torch.compile(torch.sin, backend='eager')(x)",
    "torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)",
    "torch.optim.AdamW([torch.nn.Parameter(x)]).step()",
)


@pytest.mark.parametrize("asked", [ASKED, ASKED[::-1]], ids=["export first", "optimizer first"])
def test_what_is_asked_for_works(asked):
    lines = (DEFER, "import torch, torch.utils.checkpoint", "x = torch.ones(4, 2)", *asked)
    assert said("\n".join((*lines, "print('done')"))) == ["done"]


def test_modules_of_what_was_left_out_can_be_imported():
    code = f"{DEFER}\nimport torch, torch.export.graph_signature as g\nprint(g.__name__)"
    assert said(code) == ["torch.export.graph_signature"]


def test_nothing_is_left_out_of_a_pytorch_that_is_there_already():
    assert said(f"import sys, torch; {DEFER}; print('torch._decomp' in sys.modules)") == ["True"]
