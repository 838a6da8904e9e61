import pytest

from coordinator.cli.options import duration, training_options
from edge_runtime.contract.errors import UsageError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("0s", 0.0), ("0.5s", 0.5)],
)
def test_a_time_has_a_number_and_a_unit(given: str, seconds: float) -> None:
    assert duration(given, "--wait") == seconds


@pytest.mark.parametrize(
    "given", ["", "10", "m", "-1s", "1d", "10 m", "1e3s", "nan", "1h30m", "5s "]
)
def test_what_is_no_time_is_said_with_the_option(given: str) -> None:
    with pytest.raises(UsageError, match=f"^--wait {given}: give a time such as 90s, 10m or 2h$"):
        duration(given, "--wait")


def test_a_batch_size_is_a_number_or_chosen_later():
    sizes = {given: training_options(3, given, None, 0).batch_size for given in ("auto", "4", "16")}
    assert sizes == {"auto": 16, "4": 4, "16": 16}


@pytest.mark.parametrize("given", ["", "few", "-4", "4.0", "Auto"])
def test_what_is_no_batch_size_is_said(given: str) -> None:
    with pytest.raises(UsageError, match=f"^--batch-size {given}: give a number of samples, or"):
        training_options(3, given, None, 0)


def test_a_weight_decay_out_of_range_is_said_with_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--weight-decay must be finite and not"):
        training_options(3, "auto", None, 0, weight_decay=-1.0)
