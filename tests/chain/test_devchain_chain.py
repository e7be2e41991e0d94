"""The embedded chain runs the real runtime: money moves, blocks replay, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path

import pytest
from substrateinterface import Keypair

from moesubnet.chain.devchain import DevChain
from moesubnet.chain.devchain import chain as chain_module
from moesubnet.chain.devchain import store as store_module
from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.chain import Chain, NewHead, StateDiscarded, UnknownBlock
from moesubnet.chain.devchain.executor import Executor
from moesubnet.chain.devchain.genesis import build_genesis
from moesubnet.chain.devchain.header import Block, Header
from moesubnet.chain.devchain.hostfns import twox
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import compact, vec
from moesubnet.chain.devchain.trie import Trie
from moesubnet.chain.devchain.validity import PoolError
from moesubnet.errors import ChainError, ConfigError

ALICE, BOB = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob"))
TOKEN = 10**9
_BALANCES, _TRANSFER_ALLOW_DEATH = 5, 0
_SYSTEM, _REMARK = 0, 0


def transfer(
    chain: DevChain,
    nonce: int,
    value_rao: int = TOKEN,
    *,
    signer: Keypair = ALICE,
    dest: bytes = BOB.public_key,
    tip_rao: int = 0,
    born: Block | None = None,
    period_blocks: int = 64,
) -> bytes:
    """A signed transfer, put together by hand; mortal if `born` names the block it starts at."""
    body = bytes((_BALANCES, _TRANSFER_ALLOW_DEATH, 0)) + dest + compact(value_rao)
    return signed(
        chain, body, nonce, signer=signer, tip_rao=tip_rao, born=born, period_blocks=period_blocks
    )


def signed(
    chain: DevChain,
    body: bytes,
    nonce: int,
    *,
    signer: Keypair = ALICE,
    tip_rao: int = 0,
    born: Block | None = None,
    period_blocks: int = 64,
) -> bytes:
    era = b"\0"
    if born is not None:
        bits = period_blocks.bit_length() - 2 | born.number % period_blocks << 4
        era = bits.to_bytes(2, "little")
    extra = era + compact(nonce) + compact(tip_rao) + b"\0"
    version = chain.version
    implied = b"".join(
        (
            version.spec_version.to_bytes(4, "little"),
            version.transaction_version.to_bytes(4, "little"),
            chain.genesis_hash,
            chain.genesis_hash if born is None else born.hash,
            b"\0",
        )
    )
    payload = body + extra + implied
    if len(payload) > 256:
        payload = blake2b(payload, digest_size=32).digest()
    signature = signer.sign(payload)
    return vec(b"\x84\0" + signer.public_key + b"\1" + signature + extra + body)


def free_rao(state: Trie, account: bytes = BOB.public_key) -> int:
    hashed = blake2b(account, digest_size=16).digest()
    value = state.get(twox(b"System", 2) + twox(b"Account", 2) + hashed + account)
    return 0 if value is None else int.from_bytes(value[16:24], "little")


@pytest.fixture
async def chain() -> AsyncIterator[DevChain]:
    async with DevChain.open(seal="manual", clock=lambda: 1_700_000_000.0) as opened:
        yield opened


async def code_of(chain: DevChain, extrinsic: bytes) -> tuple[int, str | None]:
    with pytest.raises(PoolError) as raised:
        await chain.submit(extrinsic)
    return raised.value.code, raised.value.data


async def test_a_transfer_moves_money_and_costs_a_fee(chain: DevChain) -> None:
    before, alice_before = (free_rao(chain.head.state, k.public_key) for k in (BOB, ALICE))
    await chain.submit(transfer(chain, 0, 5 * TOKEN))
    block = await chain.produce_block()
    assert len(block.extrinsics) == 2  # the timestamp and the transfer
    assert free_rao(chain.head.state) == before + 5 * TOKEN
    assert free_rao(chain.head.state, ALICE.public_key) < alice_before - 5 * TOKEN


async def test_a_failing_transfer_is_included_and_costs_a_fee(chain: DevChain) -> None:
    before, alice_before = (free_rao(chain.head.state, k.public_key) for k in (BOB, ALICE))
    await chain.submit(transfer(chain, 0, 2**63))
    block = await chain.produce_block()
    assert len(block.extrinsics) == 2
    assert free_rao(chain.head.state) == before
    assert free_rao(chain.head.state, ALICE.public_key) < alice_before


async def test_nonces_sent_backwards_are_included_forwards(chain: DevChain) -> None:
    before = free_rao(chain.head.state)
    for nonce in (2, 1, 0):
        await chain.submit(transfer(chain, nonce))
    assert len((await chain.produce_block()).extrinsics) == 4
    assert free_rao(chain.head.state) == before + 3 * TOKEN
    code, reason = await code_of(chain, transfer(chain, 1, 7))
    assert (code, reason) == (1010, "Transaction is outdated")


async def test_a_future_nonce_waits_until_a_later_block_frees_it(chain: DevChain) -> None:
    await chain.submit(transfer(chain, 1))
    assert len((await chain.produce_block()).extrinsics) == 1
    await chain.submit(transfer(chain, 0))
    assert len((await chain.produce_block()).extrinsics) == 3


async def test_forged_altered_and_foreign_transactions_are_refused(chain: DevChain) -> None:
    good = transfer(chain, 0)
    altered = bytearray(good)
    altered[-1] ^= 1
    bad_signature = (1010, "Transaction has a bad signature")
    assert await code_of(chain, bytes(altered)) == bad_signature
    pauper = Keypair.create_from_seed(bytes(range(32)).hex())
    code, reason = await code_of(chain, transfer(chain, 0, signer=pauper))
    assert code == 1010
    assert "fees" in (reason or "")
    async with DevChain.open(seal="manual", preset="local") as other:
        assert await code_of(other, good) == bad_signature
    for garbage in (b"", b"\0", vec(b""), vec(b"\x84"), vec(os.urandom(200)), good + b"\0"):
        assert (await code_of(chain, garbage))[0] in (1001, 1002)
    await chain.submit(good)
    assert (await code_of(chain, good))[0] == 1013
    await chain.produce_block()
    assert (await code_of(chain, good))[0] == 1012


async def test_a_mortal_transaction_dies_with_its_era(chain: DevChain) -> None:
    born = chain.head.block
    await chain.submit(transfer(chain, 0, born=born, period_blocks=8))
    waiting = transfer(chain, 2, born=born, period_blocks=8)
    await chain.submit(waiting)
    assert len((await chain.produce_block()).extrinsics) == 2
    for _ in range(8):
        await chain.produce_block()
    assert len(chain.pool) == 0
    late = transfer(chain, 1, born=born, period_blocks=8)
    assert (await code_of(chain, late))[1] in (
        "Transaction has a bad signature",  # the era has come round: another birth block
        "Transaction has an ancient birth block",
    )


async def test_a_higher_tip_replaces_a_waiting_transaction(chain: DevChain) -> None:
    before = free_rao(chain.head.state)
    await chain.submit(transfer(chain, 0, 1 * TOKEN))
    assert (await code_of(chain, transfer(chain, 0, 2 * TOKEN)))[0] == 1014
    await chain.submit(transfer(chain, 0, 3 * TOKEN, tip_rao=TOKEN))
    await chain.produce_block()
    assert free_rao(chain.head.state) == before + 3 * TOKEN


async def test_blocks_chain_carry_slots_and_are_reproducible(chain: DevChain) -> None:
    async with DevChain.open(seal="manual", clock=lambda: 1_700_000_000.0) as twin:
        for number in range(1, 4):
            parent = chain.head.block
            nonce_order = [transfer(chain, number - 1)]
            for extrinsic in nonce_order:
                await chain.submit(extrinsic)
                await twin.submit(extrinsic)
            block = await chain.produce_block()
            assert block == await twin.produce_block()
            assert block.hash == block.header.hash() != parent.hash
            assert (block.number, block.header.parent_hash) == (number, parent.hash)
            # The clock stands still, so slots run ahead of it by one a block.
            assert block.header.slot() == 1_700_000_000_000 // chain.slot_ms + number - 1
            assert Header.decode(block.header.encode()) == block.header


async def test_another_instance_replays_our_blocks_to_the_same_roots(chain: DevChain) -> None:
    state = chain.head.state
    blocks = []
    for nonce in range(4):
        value_rao = 2**63 if nonce == 2 else TOKEN
        await chain.submit(transfer(chain, nonce, value_rao))
        blocks.append(await chain.produce_block())
    verifier = Executor()
    for block in blocks:
        overlay = Overlay(state)
        verifier.call(runtime_wasm(), "Core_execute_block", block.unsealed(), overlay)
        state = overlay.merged()
        assert state.root(1) == block.header.state_root
    forged = Block(block.hash, block.header, block.extrinsics[:1])
    with pytest.raises(ChainError):
        verifier.call(runtime_wasm(), "Core_execute_block", forged.unsealed(), Overlay(state))


async def test_a_full_block_leaves_the_rest_for_the_next(chain: DevChain) -> None:
    before = free_rao(chain.head.state)
    for nonce in range(200):
        await chain.submit(transfer(chain, nonce, 1))
    while len(chain.pool):
        await chain.produce_block()
    assert free_rao(chain.head.state) == before + 200
    assert len(chain.pool) == 0


async def test_a_transaction_too_large_for_the_rest_of_a_block_lets_smaller_ones_pass(
    chain: DevChain,
) -> None:
    remark = bytes((_SYSTEM, _REMARK)) + vec(bytes(3_000_000))  # a block has room for one of them
    for nonce in (0, 1):
        await chain.submit(signed(chain, remark, nonce, tip_rao=TOKEN))
    await chain.submit(transfer(chain, 0, signer=BOB, dest=ALICE.public_key))
    sizes = [len(body) > 1_000_000 for body in (await chain.produce_block()).extrinsics[1:]]
    assert sizes == [True, False]
    assert len((await chain.produce_block()).extrinsics[1:]) == 1


async def test_instant_sealing_makes_a_block_for_what_is_submitted_and_no_other() -> None:
    async with DevChain.open(seal="instant") as chain:
        before = free_rao(chain.head.state)
        included = asyncio.Event()
        await chain.submit(transfer(chain, 0), lambda s: included.set() if s != "ready" else None)
        await asyncio.wait_for(included.wait(), 10)
        await asyncio.sleep(0.05)
        assert chain.head.block.number == 1
        assert free_rao(chain.head.state) == before + TOKEN


async def test_interval_sealing_makes_blocks_as_time_passes() -> None:
    async with DevChain.open(seal=0.02) as chain:
        heads = asyncio.Queue[NewHead]()
        stop = chain.listen(heads.put_nowait)
        numbers = [(await heads.get()).view.block.number for _ in range(3)]
        stop()
        assert numbers == [1, 2, 3]


async def test_a_clock_that_is_set_back_does_not_stop_the_chain() -> None:
    looks = count()

    def clock() -> float:  # an hour back after the first three looks at it
        return time.time() - (3600 if next(looks) > 2 else 0)

    async with DevChain.open(seal=0.02, clock=clock) as chain:
        heads = asyncio.Queue[NewHead]()
        chain.listen(heads.put_nowait)
        blocks = [(await asyncio.wait_for(heads.get(), 30)).view.block for _ in range(5)]
        slots = [block.header.slot() or 0 for block in blocks]
        assert slots == list(range(slots[0], slots[0] + 5))


def test_a_full_disk_stops_the_chain_with_a_word_and_no_harm(tmp_path: Path) -> None:
    chain = Chain(tmp_path, runtime_wasm(), "development")
    database = chain._store._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    blocks = (chain.author(0, []) for _ in count())
    with pytest.raises(ChainError, match="make room"):
        list(islice(blocks, 500))
    head = chain.head.block
    database.execute("PRAGMA max_page_count = 100000")
    assert chain.author(0, []).view.block.header.parent_hash == head.hash
    chain.close()
    chain = Chain(tmp_path, runtime_wasm(), "development")  # verifies the state's root
    assert chain.head.block.number == head.number + 1
    chain.close()


async def test_a_restart_goes_on_where_the_chain_stopped(tmp_path: Path) -> None:
    clock = count(1_700_000_000, 10)
    async with DevChain.open(tmp_path, seal="manual", clock=lambda: next(clock)) as chain:
        await chain.submit(transfer(chain, 0))
        await chain.produce_block()
        head, genesis = chain.head, chain.genesis_hash
    async with DevChain.open(tmp_path, seal="manual", clock=lambda: 1_800_000_000) as chain:
        assert chain.head.block == head.block
        assert dict(chain.head.state.items()) == dict(head.state.items())
        assert chain.genesis_hash == genesis
        await chain.submit(transfer(chain, 1))
        block = await chain.produce_block()
        assert block.header.slot() == 1_800_000_000_000 // chain.slot_ms  # time jumps to now
        assert len(block.extrinsics) == 2


async def test_old_states_are_rebuilt_and_beyond_the_limit_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "HISTORY_BLOCKS", 20)
    monkeypatch.setattr(chain_module, "_VIEWS_IN_MEMORY", 4)
    chain = Chain(tmp_path, runtime_wasm(), "development")
    states = {chain.head.block.hash: dict(chain.head.state.items())}
    for _ in range(30):
        new = chain.author(0, [])
        states[new.view.block.hash] = dict(new.view.state.items())
        assert len(chain._views) <= 4
    for number in (30, 27, 12, 29, 10):
        block = chain.block_at(number)
        assert block is not None
        assert dict(chain.view(block.hash).state.items()) == states[block.hash]
    for number in (0, 9):
        block = chain.block_at(number)
        assert block is not None
        with pytest.raises(StateDiscarded, match="keeps the state of its last"):
            chain.view(block.hash)
    with pytest.raises(UnknownBlock):
        chain.view(b"\7" * 32)
    chain.close()


async def test_a_store_of_another_kind_in_use_or_damaged_is_refused(tmp_path: Path) -> None:
    async with DevChain.open(tmp_path, seal="manual") as chain:
        await chain.produce_block()
        with pytest.raises(ConfigError, match="in use"):
            Chain(tmp_path, runtime_wasm(), "development")
    with pytest.raises(ConfigError, match=r"another preset.*--fresh"):
        Chain(tmp_path, runtime_wasm(), "local")
    with pytest.raises(ConfigError, match=r"another runtime.*--fresh"):
        Chain(tmp_path, runtime_wasm() + b"\0", "development")
    with contextlib.closing(sqlite3.connect(tmp_path / "chain.sqlite")) as db, db:
        db.execute("UPDATE state SET value = x'00' WHERE key = (SELECT min(key) FROM state)")
    with pytest.raises(ChainError, match="damaged"):
        Chain(tmp_path, runtime_wasm(), "development")
    fresh = Chain(tmp_path, runtime_wasm(), "development", fresh=True)
    assert fresh.head.block.number == 0
    fresh.close()
    (tmp_path / "chain.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="not a chain"):
        Chain(tmp_path, runtime_wasm(), "development")


_SEALER = """
import asyncio, sys
from pathlib import Path
from moesubnet.chain.devchain import DevChain
async def main():
    async with DevChain.open(Path(sys.argv[1]), seal=0.001) as chain:
        chain.listen(lambda new: print(new.view.block.hash.hex(), flush=True))
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.chaos
def test_a_chain_killed_at_any_moment_loses_no_block_that_it_announced(tmp_path: Path) -> None:
    last = -1
    for delay_s in (0.05, 0.11, 0.02):
        with subprocess.Popen(
            [sys.executable, "-c", _SEALER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            announced = process.stdout.readline()
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
            announced = [announced, *process.stdout.readlines()]
        whole = [line.strip() for line in announced if line.endswith("\n")]
        chain = Chain(tmp_path, runtime_wasm(), "development")  # verifies the state's root
        newest = chain.block(bytes.fromhex(whole[-1]))
        assert newest is not None
        assert chain.head.block.number - newest.number in (0, 1)
        assert chain.head.block.number > last
        last = chain.head.block.number
        chain.close()


async def test_runtime_calls_on_any_block_leave_no_trace(chain: DevChain) -> None:
    genesis, before = chain.head.block, chain.head.state.root(1)
    await chain.submit(transfer(chain, 0))
    await chain.produce_block()

    async def nonce(block: Block) -> int:
        answer = await chain.run(
            chain.chain.call, block.hash, "AccountNonceApi_account_nonce", ALICE.public_key
        )
        return int.from_bytes(answer, "little")

    assert await nonce(genesis) == 0
    assert await nonce(chain.head.block) == 1
    header = Header(genesis.hash, 1, bytes(32), bytes(32), ())
    await chain.run(chain.chain.call, genesis.hash, "Core_initialize_block", header.encode())
    view = await chain.run(chain.chain.view, genesis.hash)
    assert view.state.root(1) == before


def test_genesis_roots_are_those_of_an_independent_implementation() -> None:
    smoldot = pytest.importorskip("smoldot_light", reason="needs the package smoldot-light")

    genesis = build_genesis(Executor(), runtime_wasm(), "development")
    # Synthetic entries on top: long, short, shared and nested keys, values around 32 bytes.
    extra = {
        blake2b(bytes(2 + i // 7), digest_size=1 + i % 40, salt=i.to_bytes(4)).digest(): bytes(
            i % 70
        )
        for i in range(3_000)
    }
    state = genesis.state.update(extra)
    header = Header(bytes(32), 0, state.root(1), Trie().root(1), ())
    spec = {
        "name": "test", "id": "test", "chainType": "Development", "bootNodes": [],
        "telemetryEndpoints": None, "protocolId": "test", "properties": {}, "codeSubstitutes": {},
        "genesis": {"raw": {
            "top": {f"0x{k.hex()}": f"0x{v.hex()}" for k, v in state.items()},
            "childrenDefault": {},
        }},
    }  # fmt: skip
    client = smoldot.SmoldotClient()
    added = client.add_chain(json.dumps(spec))
    request = {"jsonrpc": "2.0", "id": 1, "method": "chainSpec_v1_genesisHash", "params": []}
    client.json_rpc_request(added, json.dumps(request))
    deadline = time.monotonic() + 20
    answers: list[str] = []
    while not answers and time.monotonic() < deadline:
        answers = list(client.drain_responses(added, max=1))
        time.sleep(0.01)
    assert json.loads(answers[0])["result"] == f"0x{header.hash().hex()}"
