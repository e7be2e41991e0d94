"""Requests under an Idempotency-Key, through the official client and real sockets."""
# ruff: noqa: F811  # the fixture of another module

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import openai
import pytest

from moesubnet.router.accounts import Cost
from moesubnet.router.ledger import DAY_S, HOLD_S, Hold, Usage
from moesubnet.router.repeats import MAX_REPEATS, Answer, Clash, Repeatable

from .conftest import client
from .test_billing import NOW_S, accounts  # noqa: F401  # the fixture
from .test_ledger import opener, server  # noqa: F401  # fixtures


def named(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def ask(url: str, secret: str, name: str, *, path: str = "completions", **options):
    """(status, headers, text) of a request as it is on the wire."""
    body = {"model": "mixture", "prompt": "the quick", "max_tokens": 5, "temperature": 1.5}
    headers = named(name) | {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/v1/{path}", json=body | options) as response:
            return response.status, response.headers, await response.text()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_finished_answer_is_repeated_and_paid_once(serve, accounts, parrot, stream) -> None:
    parrot.price_rao_per_mtoken = 3_000_000
    secret = accounts.key(budget_rao=10_000)
    url = await serve(billing=accounts.billing)
    status, _, first = await ask(url, secret, "a", stream=stream)
    assert status == 200
    spent = accounts.account().spent_rao
    assert spent > 0
    for _ in range(2):
        status, headers, again = await ask(url, secret, "a", stream=stream)
        assert (status, again) == (200, first)
        assert headers["Idempotent-Replayed"] == "true"
    assert accounts.account().spent_rao == spent
    assert parrot.opened == 1
    _, headers, other = await ask(url, secret, "b", stream=stream)
    assert "Idempotent-Replayed" not in headers
    assert other != first
    assert parrot.opened == 2


async def test_the_official_client_reads_a_repeated_stream(serve, accounts) -> None:
    api = client(await serve(billing=accounts.billing), accounts.key())

    async def read() -> str:
        stream = await api.completions.create(
            model="mixture",
            prompt="the",
            max_tokens=8,
            temperature=2,
            stream=True,
            extra_headers=named("s"),
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    assert await read() == await read()


async def test_while_it_runs_it_is_in_use_and_for_another_request_it_is_taken(
    serve, accounts, parrot
) -> None:
    parrot.goes_on.clear()
    secret = accounts.key()
    url = await serve(billing=accounts.billing)
    running = asyncio.create_task(ask(url, secret, "a"))
    for _ in range(500):
        if parrot.opened:
            break
        await asyncio.sleep(0.01)
    status, headers, text = await ask(url, secret, "a")
    assert (status, "idempotency_key_in_use" in text) == (409, True)
    assert headers["Retry-After"] == "1"
    parrot.goes_on.set()
    assert (await running)[0] == 200
    for options in ({"max_tokens": 6}, {"path": "chat/completions"}):
        body = {"messages": [{"role": "user", "content": "a"}]} if "path" in options else {}
        status, _, text = await ask(url, secret, "a", **options, **body)
        if "path" in options:
            assert status == 400  # no prompt belongs there: it is not looked at
        else:
            assert (status, "idempotency_key_reused" in text) == (422, True)
    assert parrot.opened == 1


async def test_what_failed_or_was_left_may_be_asked_anew(serve, accounts, parrot) -> None:
    secret = accounts.key()
    url = await serve(billing=accounts.billing)
    parrot.fail_after = 0
    assert (await ask(url, secret, "a"))[0] == 503
    parrot.fail_after, parrot.pause_s = None, 0.05
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(url, secret, "a", stream=True, max_tokens=30), 0.3)
    for _ in range(200):
        if accounts.account().running == 0:
            break
        await asyncio.sleep(0.01)
    parrot.pause_s = 0.0
    assert (await ask(url, secret, "a"))[0] == 200


async def test_names_are_a_keys_own(serve, accounts, parrot) -> None:
    url = await serve(billing=accounts.billing)
    for secret in (accounts.key("one"), accounts.key("two")):
        status, headers, _ = await ask(url, secret, "a")
        assert (status, "Idempotent-Replayed" in headers) == (200, False)


async def test_without_a_key_of_the_ledger_it_is_refused_by_name(serve) -> None:
    api = client(await serve())
    with pytest.raises(openai.BadRequestError) as caught:
        await api.completions.create(model="mixture", prompt="a", extra_headers=named("a"))
    assert caught.value.param == "Idempotency-Key"


def test_the_request_of_a_router_that_died_may_be_begun_again(opener) -> None:
    ledger = opener()
    key, _ = ledger.new_key("app", NOW_S)
    wanted, cost = Repeatable("n", "r"), Cost(1, 1)
    held, _ = ledger.hold(key.id, cost, NOW_S, wanted)
    assert isinstance(held, Hold)
    assert ledger.hold(key.id, cost, NOW_S, wanted)[0] is Clash.RUNNING
    ledger.give_back_expired(NOW_S + HOLD_S)
    again, account = ledger.hold(key.id, cost, NOW_S + HOLD_S, wanted)
    assert isinstance(again, Hold)
    assert account.running == 1
    ledger.settle(held, Usage("m"), NOW_S + HOLD_S, Answer("t", "of the dead"))
    assert ledger.hold(key.id, cost, NOW_S + HOLD_S, wanted)[0] is Clash.RUNNING
    ledger.settle(again, Usage("m"), NOW_S + HOLD_S, Answer("t", "x"))
    later = NOW_S + DAY_S // 2
    assert ledger.hold(key.id, cost, later, wanted)[0] == Answer("t", "x")
    assert ledger.hold(key.id, cost, later, Repeatable("n", "q"))[0] is Clash.OTHER
    assert isinstance(ledger.hold(key.id, cost, NOW_S + 2 * DAY_S, wanted)[0], Hold)


def test_routers_that_share_their_accounts_begin_a_request_once(opener) -> None:
    routers = [opener() for _ in range(3)]
    key, _ = routers[0].new_key("app", NOW_S)
    with ThreadPoolExecutor(12) as hands:
        begun = list(
            hands.map(
                lambda i: routers[i % 3].hold(key.id, Cost(1, 1), NOW_S, Repeatable("n", "r"))[0],
                range(24),
            )
        )
    assert sum(isinstance(outcome, Hold) for outcome in begun) == 1
    assert begun.count(Clash.RUNNING) == 23


def test_of_one_key_only_so_many_answers_are_kept(opener, monkeypatch) -> None:
    monkeypatch.setattr("moesubnet.router.repeats.MAX_REPEATS", 5)
    assert MAX_REPEATS > 5
    ledger = opener()
    key, _ = ledger.new_key("app", NOW_S)
    for number in range(9):
        now_s = NOW_S + number
        held, _ = ledger.hold(key.id, Cost(), now_s, Repeatable(f"{number}", "r"))
        ledger.settle(held, Usage("m"), now_s, Answer("t", f"{number}"))
    kept = []
    for number in reversed(range(9)):
        found, _ = ledger.hold(key.id, Cost(), NOW_S + 9, Repeatable(f"{number}", "r"))
        if isinstance(found, Answer):
            kept.append(number)
    assert kept == [8, 7, 6, 5, 4]
