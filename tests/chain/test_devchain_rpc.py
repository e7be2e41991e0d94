"""Clients of the ecosystem talk to the chain as to a node, and garbage does not stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from substrateinterface import Keypair, SubstrateInterface
from substrateinterface.exceptions import SubstrateRequestException

from moesubnet.chain.devchain import DevChain, server
from moesubnet.chain.devchain.chain import NewHead
from moesubnet.chain.devchain.server import Server, serve_chain
from moesubnet.chain.devchain.validity import PoolError

ALICE, BOB = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob"))
TOKEN = 10**9
ACCOUNTS = "0x26aa394eea5630e07c48ae0c9558cef7b99d880ec681799c0cf30e8886371da9"


@pytest.fixture
async def chain() -> AsyncIterator[DevChain]:
    async with DevChain.open(seal="instant") as opened:
        yield opened


@pytest.fixture
async def served(chain: DevChain) -> AsyncIterator[Server]:
    async with serve_chain(chain) as running:
        yield running


@contextlib.contextmanager
def connected(served: Server) -> Iterator[SubstrateInterface]:
    with SubstrateInterface(url=served.url) as client:
        yield client


def http_url(served: Server) -> str:
    return served.url.replace("ws://", "http://")


@contextlib.asynccontextmanager
async def socket(served: Server) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as http, http.ws_connect(served.url) as opened:
        yield opened


async def ask(opened: aiohttp.ClientWebSocketResponse, method: str, *params: Any) -> dict[str, Any]:
    await opened.send_json({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    answer: dict[str, Any] = await opened.receive_json(timeout=10)
    return answer


async def test_substrate_interface_pays_watches_and_reads(served: Server) -> None:
    def journey() -> None:
        with connected(served) as client:
            before = client.query("System", "Account", [BOB.ss58_address]).value["data"]["free"]
            transfer = {"dest": BOB.ss58_address, "value": 2 * TOKEN}
            call = client.compose_call("Balances", "transfer_keep_alive", transfer)
            for nonce in range(2):
                signed = client.create_signed_extrinsic(call, ALICE, era={"period": 64})
                receipt = client.submit_extrinsic(signed, wait_for_finalization=True)
                assert receipt.is_success
                assert receipt.total_fee_amount > 0
                assert client.get_account_nonce(ALICE.ss58_address) == nonce + 1
            after = client.query("System", "Account", [BOB.ss58_address]).value["data"]["free"]
            assert after == before + 4 * TOKEN
            older = client.query(
                "System", "Account", [BOB.ss58_address], block_hash=client.get_block_hash(1)
            )
            assert older.value["data"]["free"] == before + 2 * TOKEN

            too_much = client.compose_call(
                "Balances", "transfer_keep_alive", {"dest": BOB.ss58_address, "value": 2**63}
            )
            receipt = client.submit_extrinsic(
                client.create_signed_extrinsic(too_much, ALICE), wait_for_inclusion=True
            )
            assert not receipt.is_success
            events = [event.value["event_id"] for event in receipt.triggered_events]
            assert "ExtrinsicFailed" in events
            with pytest.raises(SubstrateRequestException, match="1012"):
                client.submit_extrinsic(signed)

            block = client.get_block(receipt.block_hash)
            assert block["header"]["number"] == 3
            assert len(block["extrinsics"]) == 2
            assert client.get_constant("Aura", "SlotDuration").value == 1000
            accounts = {account.value for account, _ in client.query_map("System", "Account")}
            assert {ALICE.ss58_address, BOB.ss58_address} <= accounts

    await asyncio.to_thread(journey)


async def test_a_call_that_the_guard_refuses_carries_its_pool_code(served: Server) -> None:
    def journey() -> None:
        with connected(served) as client:
            call = client.compose_call(
                "SubtensorModule",
                "serve_axon",
                {
                    "netuid": 1, "version": 1, "ip": 2130706433, "port": 9000, "ip_type": 4,
                    "protocol": 0, "placeholder1": 0, "placeholder2": 0,
                },
            )  # fmt: skip
            with pytest.raises(SubstrateRequestException, match="Custom error: 10"):
                client.submit_extrinsic(client.create_signed_extrinsic(call, ALICE))

    await asyncio.to_thread(journey)


async def test_subscriptions_push_after_their_answer_and_in_order(
    chain: DevChain, served: Server
) -> None:
    async with socket(served) as opened:
        first = await ask(opened, "chain_subscribeFinalizedHeads")
        pushed = await opened.receive_json(timeout=10)
        assert pushed["method"] == "chain_finalizedHead"
        assert pushed["params"]["subscription"] == first["result"]
        for _ in range(3):
            await chain.produce_block()
        numbers = [(await opened.receive_json())["params"]["result"]["number"] for _ in range(3)]
        assert numbers == ["0x1", "0x2", "0x3"]
        assert (await ask(opened, "chain_unsubscribeFinalizedHeads", first["result"]))["result"]

        now = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb"  # Timestamp.Now
        watched = await ask(opened, "state_subscribeStorage", [now, ACCOUNTS])
        pushed = await opened.receive_json(timeout=10)
        assert [key for key, _ in pushed["params"]["result"]["changes"]] == [now, ACCOUNTS]
        await chain.produce_block()
        pushed = await opened.receive_json(timeout=10)
        assert pushed["params"]["subscription"] == watched["result"]
        assert [key for key, _ in pushed["params"]["result"]["changes"]] == [now]


async def test_queries_answer_as_a_node_does(chain: DevChain, served: Server) -> None:
    block = await chain.produce_block()
    head, genesis = f"0x{block.hash.hex()}", f"0x{chain.genesis_hash.hex()}"
    async with socket(served) as opened:

        async def result(method: str, *params: Any) -> Any:
            return (await ask(opened, method, *params))["result"]

        assert await result("chain_getBlockHash", 0) == genesis
        assert await result("chain_getBlockHash", [0, "0x1", 99]) == [genesis, head, None]
        assert await result("chain_getHead") == await result("chain_getFinalizedHead") == head
        assert (await result("chain_getHeader", head))["parentHash"] == genesis
        assert await result("chain_getBlock", "0x" + "00" * 32) is None
        assert (await result("system_health"))["isSyncing"] is False
        assert (await result("state_getRuntimeVersion", None))["specName"] == "moesubnet"
        methods = (await result("rpc_methods"))["methods"]
        assert {"state_call", "chain_subscribeNewHeads", "account_nextIndex"} <= set(methods)

        everything = await result("state_getKeysPaged", "0x", 1000, None, head)
        pages, after = [], None
        while page := await result("state_getKeysPaged", "0x", 7, after, head):
            pages += page
            after = page[-1]
        assert pages == everything == sorted(everything)
        some = everything[:50]
        (queried,) = await result("state_queryStorageAt", some, head)
        assert queried["block"] == head
        assert queried["changes"] == [[key, await result("state_getStorage", key)] for key in some]

        v15 = await result("state_call", "Metadata_metadata_at_version", "0x0f000000", head)
        assert bytes.fromhex(v15[2:]).startswith(b"\1")
        assert (await result("state_getMetadata")).startswith("0x6d657461")
        assert await result("system_accountNextIndex", ALICE.ss58_address) == 0
        assert await result("account_nextIndex", f"0x{ALICE.public_key.hex()}") == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", -32700),
        ("{", -32700),
        ("[" * 100_000, -32700),
        ('{"id":' + "9" * 5000 + "}", -32700),
        ("[]", -32600),
        ("7", -32600),
        ('{"id":1}', -32600),
        ('{"id":{},"method":"system_name"}', -32600),
        ('{"id":1,"method":"no_such"}', -32601),
        ('{"id":1,"method":"__init__"}', -32601),
        ('{"id":1,"method":"table"}', -32601),
        ('{"id":1,"method":"system_name","params":{"a":1}}', -32602),
        ('{"id":1,"method":"system_name","params":[1,2,3]}', -32602),
        ('{"id":1,"method":"state_getStorage","params":["0xzz"]}', -32602),
        ('{"id":1,"method":"state_getStorage","params":[[]]}', -32602),
        ('{"id":1,"method":"state_getStorage","params":["0x00","0x00"]}', -32602),
        ('{"id":1,"method":"chain_getBlockHash","params":[-1]}', -32602),
        ('{"id":1,"method":"chain_getBlockHash","params":[true]}', -32602),
        ('{"id":1,"method":"state_getKeysPaged","params":["0x",1001]}', -32602),
        ('{"id":1,"method":"system_accountNextIndex","params":["5Gr"]}', -32602),
        ('{"id":1,"method":"state_call","params":["Core_version\\u0000","0x"]}', 4003),
        ('{"id":1,"method":"state_call","params":["__heap_base","0x"]}', 4003),
        ('{"id":1,"method":"state_call","params":["Core_execute_block","0xff"]}', 4003),
        ('{"id":1,"method":"state_getStorage","params":["0x","0x' + "07" * 32 + '"]}', 4003),
        ('{"id":1,"method":"author_submitExtrinsic","params":["0x280403000b"]}', 1001),
        ('{"id":1,"method":"author_submitAndWatchExtrinsic","params":["0x0484"]}', 1002),
        ('{"id":1,"method":"payment_queryInfo","params":["0x00"]}', 4003),
    ],
)
async def test_garbage_is_answered_with_an_error(
    chain: DevChain, served: Server, message: str, code: int
) -> None:
    async with socket(served) as opened:
        await opened.send_str(message)
        assert (await opened.receive_json(timeout=10))["error"]["code"] == code
        assert (await ask(opened, "system_name"))["result"]
    await chain.produce_block()


async def test_http_answers_single_requests_and_batches(served: Server) -> None:
    one = {"jsonrpc": "2.0", "id": "a", "method": "system_chain", "params": []}
    note = {"jsonrpc": "2.0", "method": "system_chain"}
    live = {"jsonrpc": "2.0", "id": 2, "method": "chain_subscribeNewHeads"}
    async with aiohttp.ClientSession() as http:

        async def post(body: object) -> Any:
            async with http.post(http_url(served), data=json.dumps(body)) as response:
                return json.loads(await response.text() or "null")

        assert (await post(one))["result"] == "moesubnet development"
        assert [answer["id"] for answer in await post([one, note, one])] == ["a", "a"]
        assert await post(note) is None
        assert (await post(live))["error"]["code"] == -32601
        assert (await post([one] * 1000))["error"]["code"] == -32600


async def test_pages_and_names_from_elsewhere_are_turned_away(served: Server) -> None:
    body = json.dumps({"id": 1, "method": "system_name"})
    async with aiohttp.ClientSession() as http:

        async def status(**headers: str) -> int:
            async with http.post(http_url(served), data=body, headers=headers) as response:
                return response.status

        assert await status() == 200
        assert await status(Origin="http://localhost:3000") == 200
        assert await status(Origin="https://polkadot.js.org") == 200
        assert await status(Origin="https://evil.example") == 403
        assert await status(Origin="null") == 403
        assert await status(Host="evil.example:9944") == 403
        assert await status(Host="[") == 403
        assert await status(Origin="http://[") == 403
        assert await status(Host="localhost") == 200
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(served.url, headers={"Origin": "https://evil.example"})


async def test_raw_bytes_on_the_port_harm_nobody(
    served: Server, caplog: pytest.LogCaptureFixture
) -> None:
    requests = (
        b"\0" * 5000,
        os.urandom(5000),
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    for request in requests:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            writer.write_eof()
            assert b" 200 " not in await asyncio.wait_for(reader.read(200), 10)
        writer.close()
    async with socket(served) as opened:
        assert (await ask(opened, "system_name"))["result"]
    assert "Traceback" not in caplog.text


async def test_a_message_over_the_limit_ends_only_its_connection(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_REQUEST_BYTES", 1000)
    async with socket(served) as opened:
        await opened.send_str("x" * 2000)
        closed = await opened.receive(timeout=10)
        assert closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    async with socket(served) as opened:
        assert (await ask(opened, "system_name"))["result"]


async def test_a_client_that_does_not_read_is_cut_off(
    chain: DevChain, served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MOST_QUEUED_BYTES", 8_000)
    async with socket(served) as opened:
        await ask(opened, "chain_subscribeNewHeads")
        (listener,) = chain._listeners
        new = NewHead(chain.head, {}, (), ())
        for _ in range(50):  # in one go, so that nothing can be sent in between
            listener(new)
        for _ in range(500):
            if not chain._listeners:
                break
            await asyncio.sleep(0.01)
        assert not chain._listeners
    async with socket(served) as opened:
        assert (await ask(opened, "system_name"))["result"]


async def test_subscriptions_are_counted(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesubnet.chain.devchain.subscriptions.MOST_SUBSCRIPTIONS", 2)
    async with socket(served) as opened:
        for _ in range(2):
            await ask(opened, "chain_subscribeNewHeads")
            await opened.receive_json(timeout=10)
        assert "error" in await ask(opened, "chain_subscribeNewHeads")


async def test_many_free_calls_of_one_hotkey_take_one_place_in_pool_and_block() -> None:
    def signed(function: str, args: dict[str, object], nonces: range) -> list[bytes]:
        with connected(served) as client:
            call = client.compose_call("SubtensorModule", function, {"netuid": 1, **args})
            return [
                bytes(client.create_signed_extrinsic(call, ALICE, nonce=nonce).data.data)
                for nonce in nonces
            ]

    async with DevChain.open(seal="manual") as dev, serve_chain(dev) as served:
        args: dict[str, object] = {"hotkey": ALICE.ss58_address, "limit_price": TOKEN}
        (joining,) = await asyncio.to_thread(signed, "register_limit", args, range(1))
        await dev.submit(joining)
        await dev.produce_block()
        hashes = ("0x11", "0x22")
        commits = []
        for byte, nonces in zip(hashes, (range(1, 21), range(2, 3)), strict=True):
            args = {"commit_hash": byte + byte[2:] * 31}
            commits.append(await asyncio.to_thread(signed, "commit_weights", args, nonces))
        (first, *queued), (rival,) = commits
        await dev.submit(first)
        for other in (*queued, rival):
            with pytest.raises(PoolError, match="Priority is too low") as refused:
                await dev.submit(other)
            assert refused.value.code == 1014
        assert dev.pool.ready() == [first]
        block = await dev.produce_block()
        assert first in block.extrinsics
        assert len(block.extrinsics) == 2  # the time, and the one commit
        await dev.submit(rival)  # its turn comes in the next block
        assert rival in (await dev.produce_block()).extrinsics
