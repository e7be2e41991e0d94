"""What one client may take from the chain: memory, connections, time; and what it cannot forge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from moesubnet.chain.devchain import DevChain, jsonrpc, server
from moesubnet.chain.devchain.scale import compact, vec
from moesubnet.chain.devchain.server import Server, serve_chain
from moesubnet.chain.devchain.validity import PoolError
from moesubnet.chain.wallet import keypair_from_uri

ALICE = keypair_from_uri("//Alice")
CODE = "0x3a636f6465"  # about a megabyte of hexadecimal behind ten characters
METADATA = {"id": 1, "method": "state_call", "params": ["Metadata_metadata", "0x"]}


@pytest.fixture
async def served() -> AsyncIterator[Server]:
    async with DevChain.open(seal="manual") as chain, serve_chain(chain) as running:
        yield running


@contextlib.asynccontextmanager
async def socket(served: Server) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(served.url, max_msg_size=0) as opened,
    ):
        yield opened


async def ask(opened: aiohttp.ClientWebSocketResponse, method: str, *params: Any) -> dict[str, Any]:
    await opened.send_json({"id": 7, "method": method, "params": params})
    answer: dict[str, Any] = await opened.receive_json(timeout=30)
    return answer


async def test_an_answer_that_would_be_huge_is_refused_before_it_is_made(served: Server) -> None:
    async with socket(served) as opened:
        for method in ("state_queryStorageAt", "state_subscribeStorage"):
            keys = [f"{CODE}{i:02x}" for i in range(3)] + [CODE] * 1000
            refused = await ask(opened, method, keys)
            if method == "state_queryStorageAt":
                assert refused["error"]["code"] == -32008
            else:  # a key that is named twice is watched once
                pushed = await opened.receive_json(timeout=30)
                assert len(pushed["params"]["result"]["changes"]) == 4
        await opened.send_json([METADATA] * 200)
        assert (await opened.receive_json(timeout=30))["error"]["code"] == -32011
        assert (await ask(opened, "system_name"))["result"]


async def test_watched_keys_are_counted_over_the_connection(served: Server) -> None:
    def keys(start: int, count: int) -> list[str]:
        return [f"0x{i:08x}" for i in range(start, start + count)]

    async with socket(served) as opened:
        assert "error" in await ask(opened, "state_subscribeStorage", ["0x" + "00" * 1025])
        assert "error" in await ask(opened, "state_subscribeStorage", keys(0, 4097))
        first = await ask(opened, "state_subscribeStorage", keys(0, 4096))
        await opened.receive_json(timeout=30)
        assert "error" in await ask(opened, "state_subscribeStorage", keys(5000, 1))
        assert (await ask(opened, "state_unsubscribeStorage", first["result"]))["result"]
        assert "result" in await ask(opened, "state_subscribeStorage", keys(5000, 1))


@pytest.mark.parametrize("text", ["1e999", "1.5", "[]"])
async def test_an_id_is_a_whole_number_a_text_or_null(served: Server, text: str) -> None:
    async with socket(served) as opened:
        await opened.send_str(f'{{"id":{text},"method":"system_name"}}')
        assert (await opened.receive_json(timeout=10))["error"]["code"] == -32600


@pytest.mark.parametrize("text", ['{"id":NaN}', '{"id":1,"method":"system_name","id":2}'])
async def test_what_has_no_one_meaning_is_no_request(served: Server, text: str) -> None:
    async with socket(served) as opened:
        await opened.send_str(text)
        assert (await opened.receive_json(timeout=10))["error"]["code"] == -32700


async def test_a_client_that_asks_and_never_reads_is_not_worked_for(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = jsonrpc.Methods.answer

    async def counting(self: jsonrpc.Methods, text: str | bytes) -> str | None:
        nonlocal calls
        calls += 1
        return await real(self, text)

    monkeypatch.setattr(jsonrpc.Methods, "answer", counting)
    monkeypatch.setattr(server, "_SEND_TIMEOUT_S", 0.5)
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    body = json.dumps(METADATA).encode()
    writer.write((bytes((0x81, 0x80 | len(body), 0, 0, 0, 0)) + body) * 500)
    await asyncio.sleep(3)
    # Each answer is over 600 kB: what the kernel's buffers do not take must not be made.
    assert 0 < calls < 50
    writer.close()
    async with socket(served) as opened:
        assert (await ask(opened, "system_name"))["result"]


async def test_silent_connections_cannot_use_up_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    async with DevChain.open(seal="manual") as chain, serve_chain(chain) as served:
        silent = [await asyncio.open_connection(served.host, served.port) for _ in range(40)]
        for _, writer in silent:
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        ended = [asyncio.create_task(reader.read()) for reader, _ in silent]
        done, open_ones = await asyncio.wait(ended, timeout=2)
        assert len(open_ones) == 15
        assert len(done) == 25
        for _, writer in silent:
            writer.close()
        await asyncio.wait(ended, timeout=5)
        async with socket(served) as opened:
            assert (await ask(opened, "system_name"))["result"]
        assert (await chain.produce_block()).number == 1
    assert not caplog.records


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BODY_TIMEOUT_S", 0.2)
    async with DevChain.open(seal="manual") as chain, serve_chain(chain) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()


async def test_posts_that_trickle_shut_nobody_out(served: Server) -> None:
    silent = [await asyncio.open_connection(served.host, served.port) for _ in range(300)]
    for _, writer in silent:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n{")
    url = f"http://{served.host}:{served.port}"
    async with aiohttp.ClientSession() as http:
        async with http.post(url, json={"id": 1, "method": "system_name"}) as answer:
            assert (await answer.json())["result"]
    for _, writer in silent:
        writer.close()


async def test_no_flipped_bit_of_an_extrinsic_is_taken() -> None:
    async with DevChain.open(seal="manual") as chain:
        remark = b"\0\0" + vec(b"hello")
        extra = b"\0" + compact(0) + compact(0) + b"\0"
        version = chain.version
        numbers = (version.spec_version, version.transaction_version)
        implied = b"".join(n.to_bytes(4, "little") for n in numbers) + chain.genesis_hash * 2
        signature = ALICE.sign(remark + extra + implied + b"\0")
        good = vec(b"\x84\0" + ALICE.public_key + b"\1" + signature + extra + remark)
        for bit in range(8 * len(good)):
            altered = bytearray(good)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(PoolError):
                await chain.submit(bytes(altered))
        for length in range(len(good)):
            for cut in (good[:length], vec(good[2 : 2 + length])):
                if cut != good:
                    with pytest.raises(PoolError):
                        await chain.submit(cut)
        await chain.submit(good)
        assert good in (await chain.produce_block()).extrinsics
