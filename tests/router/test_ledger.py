"""Keys and money in SQLite and in PostgreSQL, with many hands on them at once."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moesubnet.errors import ConfigError, StateUnavailable
from moesubnet.router.accounts import Cost, Limits, Refusal
from moesubnet.router.database import open_database
from moesubnet.router.ledger import HOLD_S, Hold, Ledger, Usage
from tests.router import postgres

NOW_S = 1_800_000_000

Opener = Callable[[], Ledger]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    programs = postgres.binaries()
    if programs is None:
        pytest.skip(postgres.NO_POSTGRES)
    with tempfile.TemporaryDirectory() as folder, postgres.running(programs, Path(folder)) as it:
        yield it


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same accounts as often as one likes: each is a router of its own."""
    state = str(tmp_path / "accounts.sqlite3")
    if request.param == "postgresql":
        server = request.getfixturevalue("server")
        schema = f"t{uuid.uuid4().hex}"
        import psycopg

        with psycopg.connect(server.url) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        state = f"{server.url}&options=-csearch_path%3D{schema}"
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        opened.append(Ledger(open_database(state)))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


def held(outcome: Hold | Refusal) -> Hold:
    assert isinstance(outcome, Hold)
    return outcome


def test_a_secret_opens_its_key_and_is_stored_nowhere(opener: Opener, tmp_path: Path) -> None:
    ledger = opener()
    key, secret = ledger.new_key("app", NOW_S, models=["mixture"], expires_s=NOW_S + 10)
    assert ledger.key_of(secret) == key
    assert ledger.key_of(secret + "x") is None
    assert key.is_valid(NOW_S)
    assert not key.is_valid(NOW_S + 10)
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_names_are_taken_once_and_a_revoked_key_stays_known(opener: Opener) -> None:
    ledger = opener()
    key, secret = ledger.new_key("app", NOW_S)
    with pytest.raises(ConfigError, match="app"):
        ledger.new_key("app", NOW_S)
    assert not ledger.revoke("app", NOW_S + 5).is_valid(NOW_S)
    assert ledger.revoke(key.id, NOW_S + 9).revoked_s == NOW_S + 5
    assert ledger.key_of(secret) == ledger.key_named("app")
    with pytest.raises(ConfigError, match="router key list"):
        ledger.key_named("nobody")


def test_limits_change_under_a_running_request(opener: Opener) -> None:
    ledger = opener()
    key, _ = ledger.new_key("app", NOW_S, limits=Limits(budget_rao=100))
    one = held(ledger.hold(key.id, Cost(rao=80), NOW_S)[0])
    assert ledger.limit("app", {"budget_rao": 50, "parallel": 9}).account.free_rao == 0
    assert isinstance(ledger.hold(key.id, Cost(rao=1), NOW_S)[0], Refusal)
    ledger.settle(one, Usage("mixture", rao=30), NOW_S)
    assert ledger.key_named("app").account.free_rao == 20


def test_twenty_hands_of_three_routers_on_a_budget_for_seven(opener: Opener) -> None:
    first = opener()
    key, _ = first.new_key("app", NOW_S, limits=Limits(budget_rao=70, budget_tokens=10**6))
    routers = [first, opener(), opener()]

    def request(index: int) -> Hold | Refusal:
        return routers[index % 3].hold(key.id, Cost(tokens=3, rao=10), NOW_S)[0]

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(request, range(20)))
    holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
    assert len(holds) == 7
    with ThreadPoolExecutor(7) as pool:
        list(
            pool.map(
                lambda hold: routers[1].settle(hold, Usage("mixture", 1, 1, rao=4), NOW_S), holds
            )
        )
    account = first.key_named("app").account
    assert (account.spent_rao, account.held_rao, account.free_rao) == (28, 0, 42)
    assert (account.spent_tokens, account.held_tokens, account.running) == (14, 0, 0)


def test_settling_twice_pays_once(opener: Opener) -> None:
    ledger = opener()
    key, _ = ledger.new_key("app", NOW_S, limits=Limits(budget_rao=100))
    one = held(ledger.hold(key.id, Cost(tokens=9, rao=60), NOW_S)[0])
    used = Usage("mixture", 4, 5, 50, owed={"5A": (9, 30), "5B": (7, 20)})
    for _ in range(3):
        ledger.settle(one, used, NOW_S)
    assert ledger.key_named("app").account.spent_rao == 50
    [(day, total, requests)] = ledger.usage(key.id)
    assert (day, requests, total.prompt_tokens, total.rao) == (NOW_S // 86_400, 1, 4, 50)
    assert ledger.owed() == {"5A": (9, 30), "5B": (7, 20)}


def test_a_router_that_died_between_hold_and_settlement_costs_nobody_anything(
    opener: Opener,
) -> None:
    dead, living = opener(), opener()
    key, _ = living.new_key("app", NOW_S, limits=Limits(budget_rao=100))
    lost = held(dead.hold(key.id, Cost(rao=60), NOW_S)[0])
    kept = held(living.hold(key.id, Cost(rao=40), NOW_S)[0])
    living.renew([kept.id], NOW_S + HOLD_S - 1)
    assert living.give_back_expired(NOW_S + HOLD_S) == 1
    assert living.give_back_expired(NOW_S + HOLD_S) == 0
    account = living.key_named("app").account
    assert (account.spent_rao, account.held_rao, account.free_rao) == (0, 40, 60)

    # It was only cut off: it settles what the budget still has, once.
    again = held(living.hold(key.id, Cost(rao=50), NOW_S + HOLD_S)[0])
    for _ in range(2):
        dead.settle(lost, Usage("mixture", rao=55), NOW_S + HOLD_S)
    account = living.key_named("app").account
    assert (account.spent_rao, account.held_rao, account.free_rao) == (10, 90, 0)
    living.settle(again, Usage("mixture", rao=50), NOW_S + HOLD_S)
    assert living.key_named("app").account.spent_rao == 60


def test_a_server_that_stops_is_said_to_be_away_and_nothing_is_lost(
    server: postgres.Server,
) -> None:
    ledger = Ledger(open_database(server.url))
    try:
        key, _ = ledger.new_key("survivor", NOW_S, limits=Limits(budget_rao=100))
        one = held(ledger.hold(key.id, Cost(rao=60), NOW_S)[0])
        server.stop()
        try:
            with pytest.raises(StateUnavailable):
                ledger.settle(one, Usage("mixture", rao=50), NOW_S)
        finally:
            server.start()
        ledger.settle(one, Usage("mixture", rao=50), NOW_S)
        account = ledger.key_named("survivor").account
        assert (account.spent_rao, account.held_rao, account.free_rao) == (50, 0, 50)
    finally:
        ledger.close()
