import dataclasses
import io

import pytest
from rich.console import Console

from coordinator.api.plan import PlanResult
from coordinator.planner import evaluate
from coordinator.planner.baselines import Alternative, compare
from coordinator.planner.simulation.simulate import simulate
from coordinator.protocol.record import SessionRecord
from coordinator.render.plan import proof, show_plan
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Prediction, Stage, StageDevice
from edge_runtime.contract.profile import HandlingProfile, LinkProfile
from tests.coordinator.planner.problems import manifest, problem, profile

LINK = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e8, latency_seconds=1e-3)
NAMES = ("raspberry-pi-5-1", "jetson-orin-nano-2", "[link=x]y", "left-out")
PROFILES = tuple(
    dataclasses.replace(
        profile(name, layer=layer, link=LINK), handling=HandlingProfile(seconds_per_byte=1e-9)
    )
    for name, layer in zip(NAMES, (1e-5, 3e-5, 1e-6, 1.0), strict=True)
)
PLAN = Plan(
    stages=(
        Stage(
            first=0,
            last=4,
            devices=(
                StageDevice(device=DeviceId(NAMES[0]), share=0.75),
                StageDevice(device=DeviceId(NAMES[1]), share=0.25),
            ),
        ),
        Stage(first=4, last=7, devices=(StageDevice(device=DeviceId(NAMES[2])),)),
    ),
    owners=(
        Owner(device=DeviceId(NAMES[0]), shards=tuple(range(12))),
        Owner(device=DeviceId(NAMES[2]), shards=tuple(range(12, 16))),
    ),
    num_shards=16,
    micro_batch_size=8,
)


def result(profiles=PROFILES, **changes):
    made = problem(*profiles)
    plan = dataclasses.replace(PLAN, predicted=evaluate(made, PLAN))
    fields = {
        "plan": plan,
        "record": SessionRecord(),
        "manifest": manifest(),
        "dilation": 1.0,
        "profiles": made.profiles,
        "problem": made,
        "alternatives": compare(made),
    }
    return PlanResult(**{**fields, **changes})


def shown(of):
    console = Console(file=io.StringIO(), width=80)
    show_plan(of, console)
    return console.file.getvalue()


def line_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_everything_fits_80_columns():
    text = shown(result(simulated=simulate(problem(*PROFILES), PLAN), dilation=2.5))
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES[:3])
def test_names_are_whole_in_both_tables_and_in_the_drawing(name):
    lines = [line for line in shown(result()).splitlines() if name in line]
    assert len([line for line in lines if line.startswith(name)]) == 2
    assert len([line for line in lines if line.startswith(f"  ┃  {name}")]) >= 1


def test_the_table_says_who_does_what():
    lines = [line.split() for line in shown(result()).splitlines()]
    first = next(line for line in lines if line and line[0] == NAMES[0])
    assert first[1:5] == ["0..3", "75", "%", "12"]
    assert "1000 MB" not in shown(result())  # of memory, 95 % may be used
    assert "of 950 MB" in shown(result())


def test_the_drawing_shows_what_passes_the_cut_and_bars_of_busy_time():
    text = shown(result())
    per_sample = problem(*PROFILES).carried_bytes[4] / 1000
    assert f"{per_sample:.3g} kB a sample" in text
    assert "embeddings.0 to layer.3" in text
    bars = [line.count("█") for line in text.splitlines() if "┃" in line]
    assert max(bars) == 24


def test_what_limits_the_fill_is_named():
    assert "waits for" in (line := line_of(shown(result()), "the fill ("))
    predicted = result().plan.predicted
    bottleneck = max(predicted.devices, key=lambda name: predicted.devices[name].fill_seconds)
    assert bottleneck in line
    narrow = tuple(
        dataclasses.replace(each, link=dataclasses.replace(LINK, up_bits_per_second=1e6))
        for each in PROFILES
    )
    assert "its link, sending for" in shown(result(narrow))
    fast = LinkProfile(up_bits_per_second=1e12, down_bits_per_second=1e12)
    wide = tuple(dataclasses.replace(each, link=fast) for each in PROFILES)
    assert "its processor, computing for" in shown(result(wide))


def test_what_limits_an_epoch_is_named():
    assert "the exchange of gradients" in line_of(shown(result()), "an epoch waits")
    slow = dataclasses.replace(
        PROFILES[0], trainer=dataclasses.replace(PROFILES[0].trainer, seconds_per_sample=1.0)
    )
    text = shown(result((slow, *PROFILES[1:])))
    assert f"waits for {NAMES[0]}: its training" in line_of(text, "an epoch waits")


def test_alternatives_are_compared():
    other = result().plan
    twice = dataclasses.replace(
        other,
        predicted=dataclasses.replace(
            other.predicted, total_seconds=2 * other.predicted.total_seconds
        ),
    )
    rows = (Alternative(name="slower", plan=twice), Alternative(name="too large", plan=None))
    text = shown(result(alternatives=rows))
    assert line_of(text, "slower").rstrip().endswith("2.00 x as long")
    assert line_of(text, "too large").rstrip().endswith("does not fit")


def test_devices_that_are_left_out_are_named():
    assert line_of(shown(result()), "left out").endswith("left-out")


def test_dilation_is_said():
    assert "2.50 times as long" in shown(result(dilation=2.5))
    assert "times as long" not in shown(result())


@pytest.mark.parametrize(
    ("bound", "said"),
    [(0.0, "not known"), (10.0, "none is faster"), (9.0, "more than 10.0 % faster")],
)
def test_what_is_proven_is_said(bound, said):
    predicted = Prediction(
        total_seconds=10.0, fill_seconds=4.0, epoch_seconds=2.0, devices={}, bound_seconds=bound
    )
    assert said in proof(predicted)


def test_the_simulation_stands_beside_the_prediction():
    of = result(simulated=simulate(problem(*PROFILES), PLAN))
    text = shown(of)
    assert text.rstrip().splitlines()[-1].split()[0] == "total"
    assert "played" in text
    assert "played" not in shown(result())
