"""Keys with budgets at the router's door, through real sockets and the official client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from moesubnet.errors import StateUnavailable
from moesubnet.router.accounts import Limits
from moesubnet.router.billing import Billing
from moesubnet.router.database import open_database
from moesubnet.router.ledger import Ledger
from tests.router.conftest import ParrotModel, client

NOW_S = 1_800_000_000


class Accounts:
    """A ledger and the billing over it, on a clock that stands still."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(open_database(path))
        self.billing = Billing(self.ledger, clock_s=lambda: NOW_S)

    def key(self, name: str = "app", **options: Any) -> str:
        limits = Limits(**{k: v for k, v in options.items() if k != "models"})
        models = options.get("models")
        return self.ledger.new_key(name, NOW_S, limits=limits, models=models)[1]

    def account(self, name: str = "app") -> Any:
        return self.ledger.key_named(name).account


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    accounts = Accounts(tmp_path / "accounts.sqlite3")
    yield accounts
    await accounts.billing.close()


Serve = Callable[..., Any]


async def complete(url: str, key: str, max_tokens: int = 5, **options: Any) -> Any:
    return await client(url, key).completions.create(
        model="mixture", prompt="the quick", max_tokens=max_tokens, **options
    )


async def live(url: str, key: str) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(f"{url}/v1/moesubnet/live") as response:
            return await response.json()


async def test_without_keys_everybody_is_served_and_from_the_first_key_on_nobody_without(
    serve: Serve, accounts: Accounts
) -> None:
    url = await serve(billing=accounts.billing)
    await complete(url, "any")
    secret = accounts.key()
    with pytest.raises(openai.AuthenticationError):
        await complete(url, "any")
    await complete(url, secret)
    accounts.ledger.revoke("app", NOW_S)
    with pytest.raises(openai.AuthenticationError):
        await complete(url, secret)


async def test_a_request_pays_for_what_was_delivered_and_experts_for_what_they_answered(
    serve: Serve, accounts: Accounts, parrot: ParrotModel
) -> None:
    parrot.price_rao_per_mtoken = 3_000_000  # 3 rao a token
    secret = accounts.key(budget_rao=10_000)
    url = await serve(billing=accounts.billing)
    answer = await complete(url, secret)
    assert answer.usage.completion_tokens == 5
    prompt_tokens = answer.usage.prompt_tokens
    account = accounts.account()
    # The parrot answered the prompt and each token but the last, whose law nobody needs.
    positions = prompt_tokens + 4
    assert account.spent_rao == 3 * positions
    assert account.spent_tokens == prompt_tokens + 5
    assert (account.held_rao, account.held_tokens, account.running) == (0, 0, 0)
    assert accounts.ledger.owed() == {"parrot": (positions, 3 * positions)}


async def test_twenty_parallel_requests_on_a_budget_for_one_pay_once(
    serve: Serve, accounts: Accounts, parrot: ParrotModel
) -> None:
    parrot.price_rao_per_mtoken = 1_000_000_000
    one = accounts.key("probe")
    url = await serve(billing=accounts.billing)
    await complete(url, one)
    cost_rao = accounts.account("probe").spent_rao
    secret = accounts.key(budget_rao=3 * cost_rao)  # one may cost almost as much
    parrot.goes_on.clear()  # until the others have been refused
    asked = [asyncio.create_task(complete(url, secret)) for _ in range(20)]
    while sum(task.done() for task in asked) < 19:
        await asyncio.wait([t for t in asked if not t.done()], return_when="FIRST_COMPLETED")
    parrot.goes_on.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    refused = [e for e in outcomes if isinstance(e, openai.APIStatusError)]
    assert len(refused) == 19
    assert {(e.status_code, e.code) for e in refused} == {(402, "budget_exceeded")}
    account = accounts.account()
    assert (account.spent_rao, account.held_rao) == (cost_rao, 0)
    assert account.free_rao == 2 * cost_rao


async def test_rates_are_said_in_headers_and_a_refusal_says_when_to_come_again(
    serve: Serve, accounts: Accounts
) -> None:
    secret = accounts.key(requests_per_minute=1, tokens_per_minute=1_000)
    url = await serve(billing=accounts.billing)
    raw = await client(url, secret).completions.with_raw_response.create(
        model="mixture", prompt="the quick", max_tokens=5
    )
    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(raw.headers["x-ratelimit-remaining-tokens"]) < 1_000
    with pytest.raises(openai.RateLimitError) as refused:
        await complete(url, secret)
    headers = refused.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 1_000
    assert accounts.account().running == 0


async def test_a_request_is_logged_by_the_name_its_client_knows_and_without_its_text(
    serve: Serve, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="moesubnet")
    secret = accounts.key()
    url = await serve(billing=accounts.billing)
    answer = await client(url, secret).completions.create(
        model="mixture", prompt="the quick", max_tokens=5
    )
    with pytest.raises(openai.AuthenticationError) as refused:
        await complete(url, "sk-moe-wrong")
    served, turned_away = [
        dict(part.split("=", 1) for part in record.getMessage().split()[1:])
        for record in caplog.records
        if record.getMessage().startswith("request ")
    ]
    assert served["id"] == answer._request_id
    assert (served["status"], served["model"]) == ("200", "mixture")
    assert (served["prompt_tokens"], served["completion_tokens"]) == ("5", "5")
    assert served["key"] == accounts.ledger.keys()[0].id
    assert turned_away["id"] == refused.value.request_id
    assert (turned_away["status"], turned_away["key"]) == ("401", "-")
    assert "quick" not in caplog.text
    assert secret not in caplog.text


async def test_a_key_sees_itself_and_only_the_models_that_it_may_use(
    serve: Serve, accounts: Accounts
) -> None:
    secret = accounts.key(models=["student"], budget_tokens=100)
    url = await serve(billing=accounts.billing)
    assert (await client(url, secret).models.list()).data == []
    with pytest.raises(openai.PermissionDeniedError, match="mixture"):
        await complete(url, secret)
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/v1/key") as answer:
        told = await answer.json()
    assert (told["name"], told["models"], told["budget"]["free_tokens"]) == (
        "app",
        ["student"],
        100,
    )
    assert secret not in str(told)


async def test_a_reader_who_leaves_pays_for_what_it_was_sent(
    serve: Serve, accounts: Accounts, parrot: ParrotModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Three:
        """Writes as many tokens, the first among them, and then waits."""

        left = 2

        async def wait(self) -> None:
            self.left -= 1
            if self.left < 0:
                await asyncio.Event().wait()

    url = await serve(billing=accounts.billing)
    parrot.price_rao_per_mtoken = 1_000_000
    secret = accounts.key(budget_rao=10_000)
    whole = (await complete(url, secret, max_tokens=3)).usage
    before_rao = accounts.account().spent_rao
    assert before_rao == whole.total_tokens - 1  # nobody was asked what follows the last token
    monkeypatch.setattr(parrot, "goes_on", Three())
    stream = await complete(url, secret, max_tokens=40, stream=True)
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 3:
            break
    await stream.close()
    async with asyncio.timeout(10):
        while accounts.account().running:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    account = accounts.account()
    assert account.held_rao == 0
    assert account.spent_tokens == 2 * whole.total_tokens
    assert account.spent_rao == before_rao + whole.total_tokens  # it was asked what follows
    assert account.spent_rao + account.free_rao == 10_000


@pytest.mark.parametrize("name", ["", "mine"])
async def test_a_reader_who_leaves_while_its_price_is_held_holds_nothing(
    serve: Serve, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """And may ask again at once, also under the same Idempotency-Key."""
    secret = accounts.key(budget_rao=10_000, parallel=1)
    url = await serve(billing=accounts.billing)
    real, asked, answers = accounts.ledger.hold, threading.Event(), threading.Event()

    def hold(*args: Any) -> Any:
        asked.set()
        assert answers.wait(10.0)
        return real(*args)

    monkeypatch.setattr(accounts.ledger, "hold", hold)
    named = {"extra_headers": {"Idempotency-Key": name}} if name else {}
    leaving = asyncio.create_task(complete(url, secret, **named))
    await asyncio.to_thread(asked.wait, 10.0)
    leaving.cancel()
    async with asyncio.timeout(10):
        while (await live(url, secret))["running"]:  # noqa: ASYNC110  # it is noticed
            await asyncio.sleep(0.01)
    answers.set()
    async with asyncio.timeout(10):
        while accounts.billing._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    account = accounts.account()
    assert (account.running, account.held_rao, account.spent_rao) == (0, 0, 0)
    assert (await complete(url, secret, **named)).usage.completion_tokens == 5


async def test_a_request_that_fails_before_its_first_token_costs_nothing(
    serve: Serve, accounts: Accounts, parrot: ParrotModel
) -> None:
    parrot.price_rao_per_mtoken, parrot.fail_after = 1_000_000, 0
    secret = accounts.key(budget_rao=10_000)
    url = await serve(billing=accounts.billing)
    with pytest.raises(openai.InternalServerError):
        await complete(url, secret)
    account = accounts.account()
    assert (account.spent_rao, account.held_rao, account.free_rao) == (0, 0, 10_000)


async def test_a_settlement_waits_for_a_database_that_is_away(
    serve: Serve, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = accounts.key(budget_tokens=1_000)
    url = await serve(billing=accounts.billing)
    real, away = accounts.ledger.settle, True

    def settle(*args: Any) -> None:
        if away:
            raise StateUnavailable("away")
        real(*args)

    monkeypatch.setattr(accounts.ledger, "settle", settle)
    answer = await complete(url, secret)
    assert accounts.account().held_tokens > 0
    away = False
    await accounts.billing._settle_again()
    account = accounts.account()
    assert (account.held_tokens, account.spent_tokens) == (0, answer.usage.total_tokens)
