import logging
import queue
import threading

import pytest

from edge_runtime.contract.errors import AllReduceClosedError, BadInputError, UnresumableError
from edge_runtime.contract.messages import Failed
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device.compute_thread import Worker
from edge_runtime.messaging.tagging import current_tag, tagged

BOUND_SECONDS = 10.0


@pytest.fixture
def failures():
    return queue.SimpleQueue()


@pytest.fixture
def worker(failures):
    worker = Worker(failures.put)
    yield worker
    assert worker.stop(BOUND_SECONDS)


def failing(error):
    def job():
        raise error

    return job


def test_jobs_run_one_after_another_in_another_thread(worker):
    seen = queue.SimpleQueue()
    for i in range(20):
        worker.submit(lambda i=i: seen.put((i, threading.current_thread())))
    found = [seen.get(timeout=BOUND_SECONDS) for _ in range(20)]
    assert [number for number, _ in found] == list(range(20))
    assert {thread for _, thread in found}.isdisjoint({threading.current_thread()})
    assert len({thread for _, thread in found}) == 1


def test_a_job_that_fails_is_told_in_its_own_words_and_the_next_one_runs(worker, failures):
    done = threading.Event()
    worker.submit(failing(BadInputError("the disk is full")))
    worker.submit(done.set)
    assert failures.get(timeout=BOUND_SECONDS) == Failed(reason="the disk is full")
    assert done.wait(BOUND_SECONDS)


def test_a_failure_that_would_come_again_is_told_as_such(worker, failures):
    worker.submit(failing(UnresumableError("the loss is not finite")))
    expected = Failed(reason="the loss is not finite", resumable=False)
    assert failures.get(timeout=BOUND_SECONDS) == expected


def test_a_bug_is_told_as_one(worker, failures, caplog):
    with caplog.at_level(logging.ERROR):
        worker.submit(failing(KeyError("x")))
        told = failures.get(timeout=BOUND_SECONDS)
        assert (told.reason, told.internal) == ("internal error: KeyError: 'x'", True)
    assert "a job failed" in caplog.text


def test_a_step_given_up_at_the_end_of_a_session_is_no_failure(worker, failures):
    done = threading.Event()
    worker.submit(failing(AllReduceClosedError("closed")))
    worker.submit(done.set)
    assert done.wait(BOUND_SECONDS)
    assert failures.empty()


def test_stopping_lets_queued_jobs_finish():
    seen = []
    worker = Worker(seen.append)
    for i in range(5):
        worker.submit(lambda i=i: seen.append(i))
    assert worker.stop(BOUND_SECONDS)
    assert seen == list(range(5))


def test_a_job_that_does_not_end_is_not_waited_for_forever():
    release = threading.Event()
    worker = Worker(lambda reason: None)
    worker.submit(lambda: release.wait(BOUND_SECONDS))
    assert not worker.stop(0.01)
    release.set()
    assert worker.stop(BOUND_SECONDS)


def test_a_job_belongs_to_what_it_was_queued_for(worker):
    seen = queue.SimpleQueue()
    tags = [Tag(session="s", term=1, reply=number) for number in range(3)]
    for tag in tags:
        with tagged(tag):
            worker.submit(lambda: seen.put(current_tag()))
    assert [seen.get(timeout=BOUND_SECONDS) for _ in tags] == tags


def test_queued_jobs_of_an_old_term_are_skipped_but_what_follows_them_is_done():
    seen, began, go = [], threading.Event(), threading.Event()
    worker = Worker(seen.append)

    def first():
        began.set()
        go.wait(BOUND_SECONDS)
        seen.append("the one that had begun")

    for term, job in ((1, first), (1, "old"), (0, "of no term"), (2, "new")):
        with tagged(Tag(session="s", term=term)):
            run = job if callable(job) else lambda job=job: seen.append(job)
            worker.submit(run, after=lambda term=term: seen.append(term))
    assert began.wait(BOUND_SECONDS)
    worker.begin_term(2)
    go.set()
    assert worker.stop(BOUND_SECONDS)
    assert seen == ["the one that had begun", 1, 1, "of no term", 0, "new", 2]


def test_what_follows_a_job_is_done_when_it_fails(worker, failures):
    done = threading.Event()
    worker.submit(failing(BadInputError("no")), after=done.set)
    assert done.wait(BOUND_SECONDS)
