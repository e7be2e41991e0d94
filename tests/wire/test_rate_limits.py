"""Token buckets in bounded memory."""

from __future__ import annotations

from moesubnet.limits import RateLimiter


def test_a_burst_then_the_rate() -> None:
    now_s = [0.0]
    limiter = RateLimiter(2.0, 3.0, clock_s=lambda: now_s[0])
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]
    assert limiter.take("b")
    now_s[0] = 0.5
    assert [limiter.take("a") for _ in range(2)] == [True, False]
    now_s[0] = 100.0
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_cost_is_taken_whole_or_not_at_all() -> None:
    limiter = RateLimiter(0.0, 3.0)
    assert not limiter.take("a", 4.0)
    assert limiter.take("a", 3.0)
    assert not limiter.take("a", 0.5)


def test_memory_is_bounded_by_forgetting_who_came_longest_ago() -> None:
    limiter = RateLimiter(0.0, 1.0, capacity=10)
    assert limiter.take("victim")
    for i in range(9):
        assert limiter.take(str(i))
        assert not limiter.take("victim")  # coming back keeps its empty bucket
    for i in range(10, 1_000):
        limiter.take(str(i))
    assert len(limiter._buckets) == 10
