"""What may be imported from outside; a change here is a change for users."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import coordinator
import pacplus


def test_the_public_names_are_these() -> None:
    assert coordinator.__all__ == [
        "AdapterChoice",
        "Cluster",
        "DataDescription",
        "FieldNames",
        "GenerationOptions",
        "LoadedRun",
        "MergedModel",
        "Observer",
        "PlanResult",
        "Prediction",
        "Report",
        "TrainResult",
        "TrainingOptions",
        "describe_data",
        "evaluate",
        "load",
        "merge",
        "parse_emulate",
        "plan",
        "predict",
        "train",
    ]


@pytest.mark.parametrize("name", coordinator.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    assert inspect.getdoc(getattr(coordinator, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = coordinator.tarin


def test_options_of_the_functions_have_names() -> None:
    arguments = {
        name: [
            parameter.name + ("" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else "=")
            for parameter in inspect.signature(getattr(coordinator, name)).parameters.values()
        ]
        for name in ("train", "plan", "evaluate", "predict", "load", "merge")
    }
    how = ["task=", "cluster=", "adapter=", "options=", "fields=", "cache_dtype="]
    use = ["generation=", "cluster=", "observer="]
    run = ["cache_quota_bytes=", "encrypt_cache=", "max_length=", "plan=", "resume="]
    run += ["wait_seconds=", "tune=", "observer=", "auto_batch_size=", "keep=", "patience="]
    planned = ["max_length=", "simulated=", "observer=", "auto_batch_size="]
    assert arguments == {
        "train": ["bundle", "data", "output=", "evaluation=", "held_out=", *how, *run],
        "plan": ["bundle", "data", *how[:2], "profiles=", *how[2:], *planned],
        "evaluate": ["run", "data", "bundle=", "ignored=", *use],
        "predict": ["run", "texts", "bundle=", "ignored=", *use],
        "load": ["run", "bundle="],
        "merge": ["run", "output", "bundle=", "progress="],
    }


@pytest.mark.parametrize(
    "name", ["TrainResult", "PlanResult", "Prediction", "MergedModel", "Report", "Cluster"]
)
def test_results_are_frozen_values(name: str) -> None:
    cls = getattr(coordinator, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert "__dict__" not in dir(cls)


def test_the_package_is_imported_without_what_it_needs_later() -> None:
    code = (
        "import coordinator, sys; "
        "print(sorted({'numpy', 'zmq', 'torch', 'onnx_ir'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_pacplus_hands_on_the_same_names_and_two_of_other_packages() -> None:
    assert set(pacplus.__all__) == {*coordinator.__all__, "export_model", "load_adapter"}
    assert pacplus.train is coordinator.train
    for name in pacplus.__all__:
        assert inspect.getdoc(getattr(pacplus, name)), name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = pacplus.tarin


def test_pacplus_is_imported_without_what_it_needs_later() -> None:
    code = "import pacplus, sys; print(sorted({'numpy', 'zmq', 'torch'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
