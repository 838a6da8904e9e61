import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from coordinator.planner.simulation.simulate import simulate
from coordinator.render.gantt import COLOURS, MAX_DEVICES, MEANINGS, WIDTH, gantt_svg
from tests.coordinator.planner.large_problems import t5_large
from tests.coordinator.planner.simulation.test_simulate import device, plan_of, small, spread

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("a", "b<&>c")


def chart(samples=20, shards=None):
    made = small(device("a", rate=1e8), device("b<&>c", layer=3e-3, rate=1e8), samples=samples)
    plan = plan_of([(3, {"a": 1.0}), (4, {"b<&>c": 1.0})], shards or {"a": 2, "b<&>c": 2})
    return gantt_svg(simulate(made, plan), plan)


def texts_of(svg):
    return [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def bars_of(svg):
    """Number of bars by lane."""
    of_colour = {colour: lane for lane, both in COLOURS.items() for colour in both}
    fills = [each.get("fill") for each in ElementTree.fromstring(svg).iter(f"{SVG}rect")]
    return Counter(of_colour[fill] for fill in fills if fill in of_colour)


def test_a_short_fill_is_drawn_whole():
    svg = chart()
    texts = texts_of(svg)
    assert "fill" in texts
    assert {"a  0..2", "b<&>c  3..3"} <= set(texts)
    # Every micro-batch on both devices, and each of the legend's.
    assert bars_of(svg)["compute"] == 2 * 5 + 1
    assert all(texts.count(str(number)) >= 2 for number in range(5))


def test_a_long_fill_is_drawn_from_both_ends():
    texts = texts_of(chart(samples=4000))
    assert {"the fill begins", "the fill ends", "first steps of an epoch"} <= set(texts)
    assert "998" in texts
    assert "500" not in texts


def test_what_was_not_played_is_behind_the_last_that_was():
    made = small(device("a"), samples=40_000)
    plan = plan_of([(4, {"a": 1.0})], {"a": 4})
    ticks = [text for text in texts_of(gantt_svg(simulate(made, plan), plan)) if text[-1:] == "s"]
    last = 10_000 * 3.1 * 0.04
    assert any(abs(float(tick.split()[0]) - last) < 2 for tick in ticks if tick[0].isdigit())


def test_the_axis_is_in_seconds_and_the_legend_says_what_is_drawn():
    texts = texts_of(chart())
    assert "0 s" in texts
    shown = {lane for lane, meaning in MEANINGS.items() if meaning in texts}
    assert shown == {"compute", "send", "receive", "train"}


@pytest.mark.parametrize("count", [8, 64])
def test_the_chart_of_many_devices_is_light_and_inside_the_page(count):
    made, plan = spread(t5_large(), count, samples=480)
    svg = gantt_svg(simulate(made, plan), plan)
    assert len(svg) < 1_000_000
    page = ElementTree.fromstring(svg)
    height = float(page.get("height"))
    for each in page.iter(f"{SVG}rect"):
        assert float(each.get("x", 0)) + float(each.get("width")) <= WIDTH + 1
        assert float(each.get("y", 0)) + float(each.get("height")) <= height
    names = [text for text in texts_of(svg) if text.startswith("d") and ".." in text]
    assert len(names) == min(count, MAX_DEVICES)
    hidden = count - MAX_DEVICES
    assert any(f"{hidden} more devices are not drawn" in text for text in texts_of(svg)) == (
        hidden > 0
    )


def test_a_simulation_of_nothing_is_an_empty_chart():
    made = small(device("a"), fill_samples=0, samples=0)
    plan = plan_of([(4, {"a": 1.0})], {"a": 4})
    assert sum(bars_of(gantt_svg(simulate(made, plan), plan)).values()) == 0
