"""An engine that fails is heard of in the miner's log, in few lines."""

import pytest

from moesubnet.errors import EngineError, FrameError
from moesubnet.miner.failures import MOST_CHARACTERS, QUIET_S, Failures


def fail(failures: Failures, error: Exception) -> None:
    with pytest.raises(type(error)), failures.watched():
        raise error


def test_one_line_tells_of_all_calls_that_failed_meanwhile(caplog) -> None:
    now_s = [100.0]
    failures = Failures(lambda: now_s[0])
    for _ in range(50):
        fail(failures, EngineError("out of memory"))
    assert [r.getMessage() for r in caplog.records] == [
        "the engine failed, 1 calls got no answer: out of memory"
    ]
    now_s[0] += QUIET_S
    fail(failures, EngineError("x" * 10_000))
    assert "50 calls" in caplog.records[1].getMessage()
    assert len(caplog.records[1].getMessage()) < MOST_CHARACTERS + 100


def test_a_caller_s_own_mistake_is_no_failure(caplog) -> None:
    fail(Failures(), FrameError("a stranger wrote this"))
    assert not caplog.records
