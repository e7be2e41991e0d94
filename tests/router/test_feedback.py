"""What users say of answers: by the key that paid, once, in proportion, and within a rate."""

from __future__ import annotations

from typing import Any

import aiohttp
import openai
import pytest
from substrateinterface import Keypair

from moesubnet.router import feedback, usage
from moesubnet.router.usage import UsageBook
from moesubnet.types import Hotkey
from moesubnet.wire.usage import Usage
from tests.router.conftest import ParrotModel
from tests.router.test_billing import Accounts, Serve, accounts, complete

__all__ = ["accounts"]


async def post(url: str, key: str, body: object) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/feedback", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_ratings_reach_the_summary_weighed_by_what_was_paid(
    serve: Serve, accounts: Accounts, parrot: ParrotModel
) -> None:
    parrot.price_rao_per_mtoken = 10**9
    book = UsageBook(Keypair.create_from_uri("//Router", ss58_format=42), 1)
    book.turn(1, {})
    url = await serve(billing=accounts.billing, ratings=book)
    mine, other = accounts.key("mine"), accounts.key("other")
    one, two = await complete(url, mine), await complete(url, mine, max_tokens=8)
    streamed = [part async for part in await complete(url, mine, stream=True)]
    assert (await post(url, mine, {"response_id": one.id, "rating": 1.0}))[0] == 200
    assert (await post(url, mine, {"response_id": one.id, "rating": 0.5}))[0] == 200
    assert (await post(url, mine, {"response_id": two.id, "preferred": streamed[0].id}))[0] == 200
    assert (await post(url, other, {"response_id": one.id, "rating": -1.0}))[0] == 404
    assert (await post(url, mine, {"response_id": "cmpl-1", "rating": -1.0}))[0] == 404
    status, said = await post(url, mine, {"response_id": one.id, "preferred": "cmpl-1"})
    assert (status, said["error"]["param"]) == (404, "preferred")
    for wrong in (
        {"response_id": one.id},
        {"response_id": one.id, "rating": 2.0},
        {"response_id": one.id, "rating": 1.0, "preferred": two.id},
        {"response_id": one.id, "preferred": one.id},
    ):
        assert (await post(url, mine, wrong))[0] == 400
    book.turn(2, {})
    rows = Usage.proven(book.summary(1), Hotkey(book.signer.ss58_address)).rows
    [seen] = [row for row in rows if row.hotkey == "parrot"]
    paid = accounts.account("mine").spent_rao
    assert 0 < seen.heard_rao <= paid
    assert -seen.heard_rao < seen.liked_rao < seen.heard_rao


async def test_a_key_has_a_rate_and_who_has_none_cannot_rate(
    serve: Serve, accounts: Accounts, parrot: ParrotModel, monkeypatch: Any
) -> None:
    monkeypatch.setattr(feedback, "AT_ONCE", 2.0)
    monkeypatch.setattr(feedback, "PER_S", 0.0)
    book = UsageBook(Keypair.create_from_uri("//Router", ss58_format=42), 1)
    url = await serve(billing=accounts.billing, ratings=book, api_keys=("house",))
    key = accounts.key()
    answer = await complete(url, key)
    rating = {"response_id": answer.id, "rating": 1.0}
    assert (await post(url, "house", rating))[0] == 403
    assert [(await post(url, key, rating))[0] for _ in range(3)] == [200, 200, 429]


async def test_requests_that_were_refused_push_no_answer_out(
    serve: Serve, accounts: Accounts, parrot: ParrotModel, monkeypatch: Any
) -> None:
    monkeypatch.setattr(usage, "RATED_CAPACITY", 1)
    parrot.price_rao_per_mtoken = 10**9
    book = UsageBook(Keypair.create_from_uri("//Router", ss58_format=42), 1)
    url = await serve(billing=accounts.billing, ratings=book)
    key, poor = accounts.key("mine"), accounts.key("poor", budget_rao=1)
    answer = await complete(url, key)
    with pytest.raises(openai.APIStatusError):
        await complete(url, poor)
    assert (await post(url, key, {"response_id": answer.id, "rating": 1.0}))[0] == 200
