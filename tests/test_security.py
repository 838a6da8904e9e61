"""SECURITY.md promises nothing that no test holds; and what an attacker once could do.

Each row was tried on the code of before issue 11 with a small rogue device, and did harm there:

strangers hold 1,000 connections
    edge_runtime/transport/test_reserve.py::test_a_process_that_strangers_besiege_goes_on
a version, or another part of the header, that is an array
    edge_runtime/contract/test_codec_fuzz.py::test_an_array_in_place_of_a_part_of_the_header_is_refused
    end_to_end/siege/test_siege.py::test_a_run_outlives_rogue_devices_and_ends_as_it_would_without_them
a deeply nested header
    edge_runtime/contract/test_codec_fuzz.py::test_deep_nesting_is_refused
a field of millions of small arrays
    edge_runtime/contract/test_codec_fuzz.py::test_a_field_of_a_million_small_values_costs_little_and_is_not_printed
    edge_runtime/contract/test_codec_fuzz.py::test_a_field_of_many_arrays_is_refused_before_they_are_made
a profile with huge or tiny times, or without a block
    coordinator/session/test_value_checks.py::test_a_profile_that_no_device_has_is_refused
    faults/test_attackers.py::test_who_sends_what_cannot_be_is_left_out_the_second_time_and_the_result_is_right
NaN in states, outputs, losses or an adapter
    edge_runtime/cache/test_store.py::test_the_cache_takes_in_nothing_that_is_not_finite
    edge_runtime/backbone/test_role.py::test_rows_of_a_peer_that_are_not_finite_are_refused
    coordinator/session/test_value_checks.py::test_a_loss_that_is_no_number_is_refused
    coordinator/session/test_value_checks.py::test_a_state_that_is_not_finite_is_refused
    coordinator/session/test_failures.py::test_what_is_not_finite_stops_a_session_of_one_device_for_good
    faults/test_attackers.py::test_who_sends_what_cannot_be_is_left_out_the_second_time_and_the_result_is_right
a wrong count or a tiny scale with a gradient
    edge_runtime/training/test_allreduce.py::test_parts_that_cannot_be_are_rejected_and_the_right_one_is_still_taken
    edge_runtime/training/test_allreduce.py::test_a_scale_that_no_trainer_rounds_with_is_rejected
    edge_runtime/training/test_allreduce.py::test_a_gradient_far_beyond_all_others_is_rejected
    edge_runtime/training/test_allreduce.py::test_a_wrong_number_of_samples_is_put_down_to_its_sender_and_the_step_waits
a checkpoint that is garbage
    coordinator/runs/test_checkpoints.py::test_one_that_is_garbage_replaces_nothing
    coordinator/runs/test_checkpoints.py::test_a_damaged_one_is_passed_over_for_the_one_before_which_is_said
texts with escapes, line breaks, a megabyte
    edge_runtime/contract/test_checks.py::test_the_text_of_a_message_is_one_short_printable_line
    edge_runtime/contract/test_checks.py::test_texts_of_a_profile_are_short_printable_lines
one that stops amid a step and keeps its heartbeat
    faults/test_attackers.py::test_who_stops_amid_its_work_but_keeps_its_heartbeat_is_named_and_the_run_goes_on
    coordinator/session/test_generating.py::test_a_device_that_hangs_while_prompts_are_continued_is_named
garbage, wrong dtype, bad route, gradient of a wrong step, credit not sent
    faults/test_attackers.py::test_whom_two_devices_reject_is_left_out_and_the_run_goes_on
    coordinator/cluster/test_server.py::test_a_message_that_is_none_counts_as_a_failure_of_its_sender
    conformance/test_hostile_peer.py::test_no_message_of_a_peer_breaks_a_device
    edge_runtime/device/test_device.py::test_a_refused_message_of_a_peer_is_reported_and_credited
    edge_runtime/training/test_allreduce.py::test_parts_out_of_turn_are_rejected
    faults/test_attackers.py::test_who_stops_amid_its_work_but_keeps_its_heartbeat_is_named_and_the_run_goes_on
a late profile of another session (no attacker)
    coordinator/cluster/test_server.py::test_what_belongs_to_another_session_reaches_nobody
    coordinator/cluster/test_profile_store.py::test_impossible_times_are_thrown_away
a device that is killed, or sleeps for 45 s (no attacker)
    coordinator/cluster/test_server.py::test_a_device_whose_connection_ended_is_lost_if_it_does_not_come_back
    coordinator/session/test_failures.py::test_a_device_that_is_only_silent_has_a_moment_to_wake
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGES, sources

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)
ATTACKED = re.findall(r"^    ([\w/]+\.py)::(test_\w+)$", __doc__, re.MULTILINE)
NAMED += [(f"tests/{file}", name) for file, name in ATTACKED]


def promises() -> list[tuple[str, str]]:
    """The rows of the table: promise and tests."""
    section = TEXT.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [(promise.strip(), tests.strip()) for promise, tests in rows[2:]]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("promise", "tests"), promises())
def test_every_promise_names_a_test(promise: str, tests: str) -> None:
    assert re.fullmatch(r"(`tests/[\w/]+\.py::test_\w+` ?)+", tests), promise


def test_the_table_is_found() -> None:
    assert len(promises()) > 10
    assert len(NAMED) >= len(promises()) + len(ATTACKED)
    assert len(ATTACKED) > 25


def test_links_to_it_lead_there() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(
            r"\]\(([^)#]*[Ss][Ee][Cc][Uu][Rr][Ii][Tt][Yy]\.md)", page.read_text()
        ):
            assert (page.parent / link).resolve() == ROOT / "SECURITY.md", page


@pytest.mark.parametrize("package", PACKAGES)
def test_no_code_of_a_model_repository_is_run(package: str) -> None:
    for file in sources(package):
        assert not re.search(r"trust_remote_code\s*=\s*True", (ROOT / file).read_text("utf-8"))
