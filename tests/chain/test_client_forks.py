"""Forks: a call whose block loses goes on in the fork that won, and is executed once.

Two embedded chains with a common past stand behind one address; the test says which of them the
node believes in, and what is final. So every block here is one of the real runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from moesubnet.chain import calls
from moesubnet.chain.client import ChainClient, Receipt
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.rpc import extrinsics, submission
from moesubnet.chain.rpc.connection import Wait
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Coldkey, Hotkey, NetUid
from moesubnet.validator.records import Phase
from moesubnet.validator.state import State
from moesubnet.validator.weights import PATIENCE_BLOCKS, Votes, salt_for
from tests.sheets import sheet_of

NETUID = NetUid(1)
ALICE, VALIDATOR, MINER = (keypair_from_uri(f"//{name}") for name in ("Alice", "Vera", "Mia"))
CAROL = Coldkey(keypair_from_uri("//Carol").ss58_address)
TOKEN = 10**9
COMMON_BLOCKS = 5


@dataclass
class ForkedNode:
    """A node that hears of two forks of one chain."""

    forks: tuple[DevChain, DevChain]
    urls: tuple[str, str]
    http: aiohttp.ClientSession
    final: int | None  # number of the last final block; None: the head
    best: int = 0  # which fork wins now
    deaf: bool = False  # it takes transactions and forgets them
    hangs_up: bool = False  # on who submits a transaction, once a block has it
    heads_until_it_loses: int = 0  # with the last of so many asks for the head, the other fork wins
    offers: int = 0  # of transactions
    url: str = ""

    @property
    def chain(self) -> DevChain:
        return self.forks[self.best]

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type == WSMsgType.TEXT:
                request = json.loads(message.data)
                answer = await self.answer(request)
                if self.hangs_up and request["method"] == "author_submitExtrinsic":
                    self.hangs_up = False
                    await self.blocks(1)
                    await ws.close()
                    break
                await ws.send_str(answer)
        return ws

    async def answer(self, request: dict[str, Any]) -> str:
        answer = await self._answer(request)
        if request["method"] == "chain_getHead":
            self.heads_until_it_loses -= 1
            if self.heads_until_it_loses == 0:
                self.best = 1 - self.best
        return answer

    async def _answer(self, request: dict[str, Any]) -> str:
        if request["method"] == "chain_getFinalizedHead" and self.final is not None:
            request |= {"method": "chain_getBlockHash", "params": [self.final]}
        self.offers += request["method"] == "author_submitExtrinsic"
        if request["method"] == "author_submitExtrinsic" and self.deaf:
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "0x"})
        async with self.http.post(self.urls[self.best], json=request) as response:
            return await response.text()

    async def blocks(self, count: int, *, then: int | None = None) -> None:
        """New blocks of the winning fork, or of the fork that wins with them."""
        growing = self.best if then is None else then
        for _ in range(count):
            await self.forks[growing].produce_block()
        self.best = growing

    async def offered(self) -> None:
        """Wait until it was sent a transaction, whatever it did with it."""
        async with asyncio.timeout(20):
            while not self.offers:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.01)

    async def heard(self, count: int = 1) -> None:
        """Wait until transactions wait in the winning fork's pool."""
        async with asyncio.timeout(20):
            while len(self.chain.pool.ready()) < count:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def forked(folder: Path, live_through: Callable[[DevChain], Awaitable[None]]) -> Any:
    """A node whose two forks have a past in common."""
    async with DevChain.open(folder / "past", seal="instant") as past:
        await live_through(past)
        final = past.head.block.number
    async with contextlib.AsyncExitStack() as stack:
        forks, urls = [], []
        for name, lead_s in (("one", 0), ("other", 1_000)):  # other times, so other blocks
            shutil.copytree(folder / "past", folder / name)
            chain = DevChain.open(
                folder / name, seal="manual", clock=lambda lead_s=lead_s: time.time() + lead_s
            )
            forks.append(await stack.enter_async_context(chain))
            server = await stack.enter_async_context(serve_chain(forks[-1]))
            urls.append(server.url.replace("ws://", "http://"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        made = ForkedNode((forks[0], forks[1]), (urls[0], urls[1]), http, final)
        app = web.Application()
        app.router.add_get("/", made.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        yield made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_REBROADCAST_S", 0.05)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ForkedNode]:
    async def some_blocks(past: DevChain) -> None:
        for _ in range(COMMON_BLOCKS):
            await past.produce_block()

    async with forked(tmp_path, some_blocks) as made:
        yield made


@pytest.fixture
async def client(node: ForkedNode) -> AsyncIterator[ChainClient]:
    async with await ChainClient.connect(node.url, timeout_s=30) as client:
        yield client


def pay(client: ChainClient, wait: Wait = "finalization") -> asyncio.Task[Receipt]:
    return asyncio.create_task(client.submit(calls.transfer(CAROL, TOKEN), ALICE, wait=wait))


async def paid(client: ChainClient) -> tuple[int, int]:
    """What Carol got, in tokens, and Alice's next nonce."""
    (account,) = await client.query(("System.Account", ALICE.ss58_address))
    return await client.balance_rao(CAROL) // TOKEN, account["nonce"]  # type: ignore[index]


async def test_a_receipt_says_whether_its_block_is_final(
    node: ForkedNode, client: ChainClient
) -> None:
    for final, is_final in ((COMMON_BLOCKS, False), (None, True)):
        node.final = final
        paying = pay(client, "inclusion")
        await node.heard()
        await node.blocks(1)
        assert (await paying).is_final is is_final


async def test_a_call_that_was_taken_by_a_node_that_hung_up_is_not_sent_with_another_nonce(
    node: ForkedNode, client: ChainClient
) -> None:
    node.hangs_up = True
    paying = pay(client, "inclusion")
    receipt = await asyncio.wait_for(paying, 20)
    assert receipt.block == COMMON_BLOCKS + 1
    assert node.chain.pool.ready() == []
    assert await paid(client) == (1, 1)


async def test_a_call_whose_block_loses_comes_into_the_winning_fork(
    node: ForkedNode, client: ChainClient
) -> None:
    paying = pay(client)
    await node.heard()
    (sent,) = node.chain.pool.ready()
    await node.blocks(2)
    await node.blocks(3, then=1)
    await node.heard()
    assert node.chain.pool.ready() == [sent], "the same bytes: their era and nonce are good"
    assert not paying.done()
    await node.blocks(1)
    node.final = None
    receipt = await asyncio.wait_for(paying, 20)
    assert (receipt.block, receipt.is_final) == (COMMON_BLOCKS + 4, True)
    assert await paid(client) == (1, 1)


async def test_forks_that_win_in_turn_execute_a_call_once_and_the_last_one_counts(
    node: ForkedNode, client: ChainClient
) -> None:
    paying = pay(client)
    for fork in (0, 1):
        node.best = fork
        await node.heard()
        await node.blocks(2 + fork)
    await node.blocks(3, then=0)
    await asyncio.sleep(0.3)  # time for reminders, of what is in a block already
    assert node.chain.pool.ready() == []
    node.final = COMMON_BLOCKS + 1
    receipt = await asyncio.wait_for(paying, 20)
    assert receipt.block == COMMON_BLOCKS + 1
    assert await paid(client) == (1, 1)


async def test_a_call_that_outlives_its_era_is_signed_anew_with_its_nonce(
    node: ForkedNode, client: ChainClient
) -> None:
    paying = pay(client)
    await node.heard()
    (sent,) = node.chain.pool.ready()
    await node.blocks(1)
    await node.blocks(extrinsics.ERA_BLOCKS + 2, then=1)
    await node.heard()
    (again,) = node.chain.pool.ready()
    assert again != sent
    await node.blocks(1)
    # The fork that took so long loses after all to one where the first bytes were in time.
    await node.blocks(extrinsics.ERA_BLOCKS + 4, then=0)
    node.final = None
    receipt = await asyncio.wait_for(paying, 20)
    assert receipt.block == COMMON_BLOCKS + 1
    assert await paid(client) == (1, 1)


async def test_a_nonce_is_lost_only_to_a_transaction_that_is_final(
    node: ForkedNode, client: ChainClient
) -> None:
    node.deaf = True
    paying = pay(client)
    await node.offered()
    async with await ChainClient.connect(node.urls[0].replace("http", "ws")) as other:
        taking = asyncio.create_task(other.transfer(CAROL, 5 * TOKEN, ALICE))
        await node.heard()
        await node.blocks(1)
        await taking
    node.deaf = False
    await asyncio.sleep(0.3)
    assert not paying.done(), "the other's block may lose yet"
    await node.blocks(2, then=1)
    await node.heard()
    await node.blocks(1)
    await node.blocks(9, then=0)
    node.final = None
    with pytest.raises(CallRejected) as refusal:
        await asyncio.wait_for(paying, 20)
    assert refusal.value.name == "Stale"
    assert await paid(client) == (5, 1)


async def test_calls_go_on_where_finality_stands_still(
    node: ForkedNode, client: ChainClient
) -> None:
    """Two of four validators are down for longer than an era: nothing is final, blocks go on."""
    await node.blocks(2 * extrinsics.ERA_BLOCKS)
    paying = pay(client, "inclusion")
    await node.heard()
    await node.blocks(1)
    receipt = await asyncio.wait_for(paying, 20)
    assert not receipt.is_final
    assert await paid(client) == (1, 1)


@pytest.mark.parametrize(
    ("again", "heads"), [(False, 1), (False, 2), (True, 1), (True, 2), (True, 3), (True, 4)]
)
async def test_a_fork_that_wins_while_a_call_is_signed_costs_another_signature(
    node: ForkedNode, client: ChainClient, again: bool, heads: int
) -> None:
    """The node knows nothing more of the block that it gave as the head a moment ago."""
    await node.blocks(2, then=1)
    await node.blocks(3, then=0)
    node.deaf, node.heads_until_it_loses = again, 0 if again else heads
    paying = pay(client, "inclusion")
    if again:
        await node.offered()
        for fork in (1, 0):  # what was forgotten is too old now
            await node.blocks(extrinsics.ERA_BLOCKS + 2, then=fork)
        node.deaf, node.heads_until_it_loses = False, heads
    await node.heard()
    node.heads_until_it_loses = 0
    await node.blocks(1)
    await asyncio.wait_for(paying, 20)
    assert await paid(client) == (1, 1)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_the_forks_do_three_calls_are_executed_once_each(
    node: ForkedNode, client: ChainClient, seed: int
) -> None:
    draw = random.Random(seed)
    paying = [pay(client) for _ in range(3)]
    await node.heard(3)  # what a node takes and forgets, it gives the same nonce
    for _ in range(12):
        await asyncio.sleep(0.05)
        fork, node.deaf = draw.randrange(2), draw.random() < 0.3
        highest = max(each.head.block.number for each in node.forks)
        await node.blocks(max(1, highest + 1 - node.forks[fork].head.block.number), then=fork)
    node.deaf, node.final = False, None
    async with asyncio.timeout(20):
        while not all(each.done() for each in paying):
            await asyncio.sleep(0.05)
            await node.blocks(1)
    receipts = [each.result() for each in paying]
    assert len({(receipt.block_hash, receipt.extrinsic_hash) for receipt in receipts}) == 3
    assert await paid(client) == (3, 3)


def sheet_for(epoch: int) -> Sheet:
    """Nothing measured, everything for the miner, uid 1."""
    validator, miner = VALIDATOR.ss58_address, MINER.ss58_address
    voted = {"uids": (1,), "row_u16": (65_535,)}
    return sheet_of((miner,), netuid=NETUID, epoch=epoch, validator=validator, **voted)


async def join_and_vote_for(past: DevChain) -> None:
    """A validator with a permit and a miner, and the first epoch behind them."""
    async with serve_chain(past) as server, await ChainClient.connect(server.url) as client:
        for hotkey in (VALIDATOR, MINER):
            await client.register(NETUID, Hotkey(hotkey.ss58_address), ALICE)
        await client.add_stake(NETUID, Hotkey(VALIDATOR.ss58_address), 1_000 * TOKEN, ALICE)
        next_block = (await client.epoch(NETUID)).next_epoch_block
        while past.head.block.number < next_block:
            await past.produce_block()


async def test_a_vote_reaches_the_chain_whichever_fork_wins(tmp_path: Path) -> None:
    async with (
        forked(tmp_path, join_and_vote_for) as node,
        await ChainClient.connect(node.url, timeout_s=30) as client,
    ):
        epoch = await client.epoch(NETUID)
        state = State(tmp_path / "validator.sqlite3")
        votes = Votes(client, NETUID, VALIDATOR, state)
        sheet = sheet_for(epoch.epoch_index)
        state.close_epoch(sheet, salt_for(sheet), Phase.PREPARED, [], b"")

        async def step(*, sends: bool) -> None:
            """What a validator does for its votes at every block."""

            async def on_block() -> None:
                now = await client.epoch(NETUID)
                await votes.reveal_due(now)
                await votes.commit_due(now, commit_reveal=True)

            acting = asyncio.create_task(on_block())
            if sends:
                await node.heard()
                await node.blocks(1)
            await asyncio.wait_for(acting, 20)

        def phase() -> Phase:
            (vote,) = state.waiting_votes() or state.fresh_votes(0)
            return vote.phase

        await step(sends=True)
        assert phase() == Phase.COMMITTED

        await node.blocks(2, then=1)
        await step(sends=False)
        assert phase() == Phase.PREPARED
        await node.blocks(PATIENCE_BLOCKS)
        await step(sends=True)
        assert phase() == Phase.COMMITTED

        await node.blocks(epoch.next_epoch_block - 1 - node.chain.head.block.number)
        await step(sends=True)
        assert phase() == Phase.REVEALED
        assert state.archive.is_public(sheet.sha256)

        count = epoch.next_epoch_block + 3 - node.forks[0].head.block.number
        await node.blocks(count, then=0)
        assert await client.weights(NETUID) == {}
        await step(sends=True)  # finds that it is gone, and sends it again
        assert phase() == Phase.REVEALED
        assert await client.weights(NETUID) == {0: ((1, 65_535),)}
        last = await client.last_reveal(NETUID, Hotkey(VALIDATOR.ss58_address))
        assert last is not None
        assert last.sheet_sha256 == sheet.sha256.hex()
        state.close()
