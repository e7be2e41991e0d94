"""What our client makes of a subtensor network, which lacks what only our own chain has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from moesubnet.chain import calls, timelock
from moesubnet.chain.nouns import Epoch
from moesubnet.chain.rpc import extrinsics, submission
from moesubnet.chain.rpc.extrinsics import Call
from moesubnet.chain.rpc.link import Link
from moesubnet.chain.rpc.storage import NoSuchItem, Storage, StorageItem
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.chain.weights import VoteScheme, vote_scheme
from moesubnet.errors import ChainError, ConfigError, SpecError
from moesubnet.spec.source import find_spec
from moesubnet.types import BlockNumber, Coldkey, Hotkey, NetUid

if TYPE_CHECKING:
    from conftest import LiveChain

NETUID = NetUid(1)
ALICE = keypair_from_uri("//Alice")
OURS_ALONE = {"SubnetSpecs", "LastReveal", "SubnetHyperparams", "Stake", "LastTrim"}
BLOCK_SECONDS, TEMPO_BLOCKS = 12.0, 360
QUICKNET_GENESIS_S, ROUND_S = 1_692_803_367, 3  # drand's network that subtensor follows


def epoch_at(block: int, last_epoch_block: int) -> Epoch:
    return Epoch(
        block=BlockNumber(block),
        tempo_blocks=TEMPO_BLOCKS,
        epoch_index=7,
        last_epoch_block=BlockNumber(last_epoch_block),
        next_epoch_block=BlockNumber(last_epoch_block + TEMPO_BLOCKS),
        blocks_since_last_step=block - last_epoch_block,
        reveal_period_epochs=1,
    )


@pytest.mark.parametrize(
    ("commit_reveal", "has_drand", "scheme"),
    [
        (False, False, VoteScheme.PLAIN),
        (False, True, VoteScheme.PLAIN),
        (True, False, VoteScheme.HASHED),
        (True, True, VoteScheme.TIMELOCKED),
    ],
)
def test_the_chain_says_how_to_vote(
    commit_reveal: bool, has_drand: bool, scheme: VoteScheme
) -> None:
    assert vote_scheme(commit_reveal=commit_reveal, has_drand=has_drand) == scheme


def test_a_timelocked_vote_opens_in_the_epoch_after_its_own() -> None:
    pytest.importorskip("bittensor_core", reason="pip install 'moesubnet[subtensor]'")
    for done in (1, 100, 350):
        epoch = epoch_at(10_000 + done, 10_000)
        now_s = time.time()
        commit, reveal_round = timelock.encrypted_commit(
            epoch, [1, 2], [65_535, 9], 0, BLOCK_SECONDS, ALICE.public_key
        )
        opens_in_s = QUICKNET_GENESIS_S + (reveal_round - 1) * ROUND_S - now_s
        blocks_left = TEMPO_BLOCKS - done
        assert opens_in_s >= (blocks_left - 1) * BLOCK_SECONDS, "never in its own epoch"
        assert opens_in_s <= (blocks_left + TEMPO_BLOCKS // 2) * BLOCK_SECONDS
        assert len(commit) > 100


def test_a_timelocked_vote_holds_every_uid_and_value_once() -> None:
    pytest.importorskip("bittensor_core", reason="pip install 'moesubnet[subtensor]'")

    def size(count: int) -> int:
        uids = range(count)
        commit, _ = timelock.encrypted_commit(
            epoch_at(10_100, 10_000), uids, uids, 0, BLOCK_SECONDS, ALICE.public_key
        )
        return len(commit)

    assert size(30) - size(10) == 20 * (2 + 2)
    with pytest.raises(OverflowError):
        timelock.encrypted_commit(
            epoch_at(10_100, 10_000), [1], [65_536], 0, BLOCK_SECONDS, ALICE.public_key
        )


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelock, "import_module", lambda name: __import__("no_such_module"))
    with pytest.raises(ConfigError, match=r"moesubnet\[subtensor\]"):
        timelock.encrypted_commit(
            epoch_at(10_100, 10_000), [1], [1], 0, BLOCK_SECONDS, ALICE.public_key
        )


def test_the_call_has_upstreams_arguments() -> None:
    call = calls.commit_timelocked(NETUID, b"\1\2", 77)
    assert str(call) == "SubtensorModule.commit_timelocked_mechanism_weights"
    assert call.args == {
        "netuid": 1,
        "mecid": 0,
        "commit": "0x0102",
        "reveal_round": 77,
        "commit_reveal_version": 4,
    }


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our chain, as if its metadata lacked what only our pallet has."""
    find = Storage._find

    def without_ours(self: Storage, name: str) -> StorageItem:
        if name in OURS_ALONE:
            raise NoSuchItem(name)
        return find(self, name)

    monkeypatch.setattr(Storage, "_find", without_ours)


@pytest.mark.usefixtures("foreign")
async def test_without_our_own_items_the_client_goes_on_or_says_what_it_needs(
    live: LiveChain,
) -> None:
    client, hotkey = live.client, Hotkey(ALICE.ss58_address)
    await client.register(NETUID, hotkey, ALICE)
    metagraph = await client.metagraph(NETUID)
    assert hotkey in metagraph.by_hotkey
    assert metagraph.spec_sha256 is None
    with pytest.raises(SpecError, match="--spec FOLDER"):
        await find_spec(None, metagraph)
    assert await client.last_reveal(NETUID, hotkey) is None
    assert await client.last_vote_block(NETUID, hotkey) is not None
    with pytest.raises(ChainError, match="btcli stake"):
        await client.stakes(Coldkey(ALICE.ss58_address))
    with pytest.raises(ChainError, match="cannot take"):
        await client.submit(calls.commit_timelocked(NETUID, b"\1", 1), ALICE)


async def test_what_we_sign_is_what_the_official_codec_would_sign(live: LiveChain) -> None:
    core = pytest.importorskip("bittensor_core", reason="pip install 'moesubnet[subtensor]'")
    await live.blocks(3)

    def sign(link: Link, call: Call) -> tuple[bytes, bytes]:
        pending = submission._sign(link, call, ALICE)
        runtime = link.request("state_getRuntimeVersion")
        official = core.Runtime(
            bytes.fromhex(link.request("state_getMetadata")[2:]),
            runtime["specVersion"],
            runtime["transactionVersion"],
        )
        hashes = [link.request("chain_getBlockHash", number) for number in (0, 3)]
        body = official.compose_call(call.module, call.function, dict(call.args))
        payload = official.signature_payload(
            body,
            era={"period": extrinsics.ERA_BLOCKS, "current": 3},
            nonce=pending.nonce,
            tip=0,
            tip_asset_id=None,
            genesis_hash=bytes.fromhex(hashes[0][2:]),
            era_block_hash=bytes.fromhex(hashes[1][2:]),
        )
        data = bytes.fromhex(pending.signed[-1][2:])
        signature = official.decode_extrinsic(data)["signature"]["Sr25519"]
        assert data.endswith(body)
        return bytes(payload), bytes.fromhex(signature[2:])

    for call in (
        calls.transfer(Coldkey(ALICE.ss58_address), 5),
        calls.serve_axon(NETUID, "fd00::7", 9_000),
        calls.set_weights(NETUID, [0, 1], [65_535, 0], 7),
        calls.reveal_weights(NETUID, [0], [1], [5] * 24, 0),
    ):
        payload, signature = await live.client._run(lambda link, call=call: sign(link, call))
        assert core.verify(payload, signature, ALICE.ss58_address)
