"""The client against the real runtime: join, stake, serve, vote, get paid, be refused."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moesubnet.chain.client import Call, ChainClient
from moesubnet.chain.hyperparams import HYPERPARAMS
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected, ChainError
from moesubnet.types import Axon, NetUid, ServedModel

if TYPE_CHECKING:
    from conftest import LiveChain, LiveNode

NETUID, OPEN_NETUID = NetUid(1), NetUid(2)
TOKEN = 10**9
ALICE, BOB = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")
VALIDATOR, MINER, IDLER = (keypair_from_uri(f"//{name}") for name in ("Vera", "Mia", "Ida"))
SHEET = bytes(range(32))
SALT = [int.from_bytes(SHEET[i : i + 2], "little") for i in range(0, 32, 2)] + [7] * 8
SALT += [0b101, *[0] * 14, 1 << 15]  # vouches for uids 0, 2 and 255


async def settle(client: ChainClient, netuid: NetUid = NETUID) -> None:
    """A validator (uid 0), a miner (1) and one who does nothing (2), all Bob's."""
    for hotkey in (VALIDATOR, MINER, IDLER):
        await client.register(netuid, hotkey.ss58_address, BOB)
    await client.add_stake(netuid, VALIDATOR.ss58_address, 1_000 * TOKEN, BOB)


async def test_joining_shows_in_the_metagraph(live: LiveChain) -> None:
    client = live.client
    price_rao = await client.burn_price_rao(NETUID)
    before_rao = await client.balance_rao(BOB.ss58_address)
    receipt = await client.register(NETUID, MINER.ss58_address, BOB)
    registered = receipt.event("SubtensorModule", "NeuronRegistered")
    assert registered is not None
    assert registered.fields["hotkey"] == MINER.ss58_address
    assert registered.fields["price_rao"] <= price_rao
    spent_rao = registered.fields["price_rao"] + receipt.fee_rao
    assert receipt.fee_rao > 0
    assert await client.balance_rao(BOB.ss58_address) == before_rao - spent_rao
    assert await client.burn_price_rao(NETUID) > price_rao

    await client.add_stake(NETUID, MINER.ss58_address, 5 * TOKEN, BOB)
    await client.remove_stake(NETUID, MINER.ss58_address, 2 * TOKEN, BOB)
    served = await client.serve_axon(NETUID, "127.0.0.1", 9_000, MINER)
    assert served.fee_rao == 0
    metagraph = await client.metagraph(NETUID)
    neuron = metagraph.by_hotkey[MINER.ss58_address]
    assert (metagraph.block, metagraph.block_hash) == (served.block, served.block_hash)
    assert (neuron.uid, neuron.coldkey) == (0, BOB.ss58_address)
    assert neuron.axon == Axon("127.0.0.1", 9_000)
    assert neuron.stake_rao == 3 * TOKEN
    assert neuron.registered_at_block == receipt.block
    assert metagraph.owner_coldkey == ALICE.ss58_address
    assert metagraph.has_models
    assert neuron.model is None
    said = await client.commit_model(NETUID, "ab" * 32, True, MINER)
    assert said.fee_rao == 0
    neuron = (await client.metagraph(NETUID)).by_hotkey[MINER.ss58_address]
    assert neuron.model == ServedModel("ab" * 32, True, said.block)
    assert await client.stake_rao(NETUID, MINER.ss58_address, BOB.ss58_address) == 3 * TOKEN
    (position,) = await client.stakes(BOB.ss58_address)
    assert (position.netuid, position.hotkey) == (NETUID, MINER.ss58_address)
    assert position.stake_rao == 3 * TOKEN

    older = await client.metagraph(NETUID, receipt.block_hash)
    assert older.block == receipt.block
    assert older.by_hotkey[MINER.ss58_address].stake_rao == 0
    await client.serve_axon(NETUID, "fd00::7", 9_001, MINER)
    ipv6 = (await client.metagraph(NETUID)).by_hotkey[MINER.ss58_address].axon
    assert ipv6 == Axon("fd00::7", 9_001)


async def test_a_committed_vote_is_revealed_and_paid(live: LiveChain) -> None:
    client = live.client
    await settle(client)
    start = await client.epoch(NETUID)
    await live.until_block(start.next_epoch_block)  # from here on the validator has a permit
    await client.commit_weights(NETUID, [1, 2], [65_535, 0], SALT, 0, VALIDATOR)
    (commit,) = await client.weight_commits(NETUID, VALIDATOR.ss58_address)
    epoch = await client.epoch(NETUID)
    assert (commit.epoch, commit.reveal_epoch) == (epoch.epoch_index, epoch.epoch_index + 1)
    with pytest.raises(CallRejected) as early:
        await client.reveal_weights(NETUID, [1, 2], [65_535, 0], SALT, 0, VALIDATOR)
    assert early.value.name == "RevealTooEarly"

    # The block before the boundary: a call sent now comes into the next epoch.
    await live.until_block(epoch.next_epoch_block - 1)
    assert (await client.epoch(NETUID)).epoch_now == commit.reveal_epoch
    await client.reveal_weights(NETUID, [1, 2], [65_535, 0], SALT, 0, VALIDATOR)
    reveal = await client.last_reveal(NETUID, VALIDATOR.ss58_address)
    assert reveal is not None
    assert (reveal.epoch, reveal.sheet_sha256) == (commit.epoch, SHEET.hex())
    assert await client.last_reveal(NETUID, MINER.ss58_address) is None
    votes = await client.votes(NETUID)
    voter = votes.metagraph.by_hotkey[VALIDATOR.ss58_address].uid
    assert votes.reveals[voter].vouches_for == {0, 2}  # and nobody who has no slot
    assert votes.vouched_part(voter) is None  # it votes alone
    assert await client.weights(NETUID) == {0: ((1, 65_535), (2, 0))}
    assert await client.weight_commits(NETUID, VALIDATOR.ss58_address) == ()

    await live.until_block((await client.epoch(NETUID)).next_epoch_block)
    metagraph = await client.metagraph(NETUID)
    (ran,) = await client.epoch_events(metagraph.block_hash)
    assert ran.emission_rao == ran.server_rao + ran.validator_rao + ran.dust_rao > 0
    validator, miner, idler = metagraph.neurons
    assert miner.incentive_u16 == 65_535
    assert validator.dividends_u16 == 65_535
    assert miner.emission_rao == ran.server_rao > 0
    assert (idler.incentive_u16, idler.emission_rao) == (0, 0)
    assert await client.bonds(NETUID) != {}


async def test_a_subnet_without_commit_and_reveal_takes_open_votes(live: LiveChain) -> None:
    client = live.client
    await settle(client, OPEN_NETUID)
    await live.until_block((await client.epoch(OPEN_NETUID)).next_epoch_block)
    assert not (await client.metagraph(OPEN_NETUID)).commit_reveal
    await client.set_weights(OPEN_NETUID, [1, 2], [1, 3], 0, VALIDATOR)
    assert await client.weights(OPEN_NETUID) == {0: ((1, 21_845), (2, 65_535))}


async def test_the_owner_publishes_the_spec(live: LiveChain) -> None:
    assert (await live.client.metagraph(NETUID)).spec_sha256 is None
    await live.client.set_subnet_spec(NETUID, SHEET.hex(), "file:///spec", ALICE)
    metagraph = await live.client.metagraph(NETUID)
    assert (metagraph.spec_sha256, metagraph.spec_url) == (SHEET.hex(), "file:///spec")


async def test_refusals_carry_the_chains_name_and_what_to_do(
    any_live: LiveChain | LiveNode,
) -> None:
    client = any_live.client
    await settle(client)
    mia, vera = MINER.ss58_address, VALIDATOR.ss58_address
    stranger = keypair_from_uri("//Stranger")
    refused: list[tuple[str, str, Any]] = [
        ("HotKeyAlreadyRegisteredInSubNet", "", client.register(NETUID, mia, BOB)),
        ("RegistrationPriceLimitExceeded", "run it again", client.register(
            NETUID, stranger.ss58_address, BOB, limit_price_rao=1)),
        ("NonAssociatedColdKey", "another coldkey", client.register(OPEN_NETUID, vera, ALICE)),
        ("SubnetNotExists", "subnet list", client.add_stake(NetUid(9), mia, TOKEN, BOB)),
        ("NotEnoughStakeToWithdraw", "", client.remove_stake(NETUID, mia, TOKEN, BOB)),
        ("InvalidPort", "", client.serve_axon(NETUID, "127.0.0.1", 0, MINER)),
        ("HotKeyNotRegisteredInNetwork", "moesubnet register", client.serve_axon(
            NETUID, "127.0.0.1", 1, ALICE)),
        ("HotKeyNotRegisteredInNetwork", "", client.commit_model(
            NETUID, "ab" * 32, True, ALICE)),
        ("NeuronNoValidatorPermit", "most stake", client.set_weights(
            OPEN_NETUID, [1], [1], 0, MINER)),
        ("NoWeightsCommitFound", "", client.reveal_weights(
            NETUID, [1], [1], SALT, 0, VALIDATOR)),
        ("NotSubnetOwner", "owns", client.set_subnet_spec(NETUID, SHEET.hex(), "x", BOB)),
        ("Payment", "faucet", client.transfer(ALICE.ss58_address, TOKEN, stranger)),
        ("Arithmetic.Underflow", "balance", client.transfer(
            ALICE.ss58_address, 10**18, BOB)),
    ]  # fmt: skip
    for hotkey in (mia, IDLER.ss58_address):
        await client.register(OPEN_NETUID, hotkey, BOB)
    for name, advice, call in refused:
        with pytest.raises(CallRejected) as refusal:
            await call
        assert refusal.value.name == name
        assert advice in str(refusal.value)


async def test_what_the_chain_does_not_have_is_said(live: LiveChain) -> None:
    with pytest.raises(ChainError, match="no subnet 7"):
        await live.client.metagraph(NetUid(7))
    with pytest.raises(ChainError, match=r"cannot take Nothing\.at_all"):
        await live.client.submit(Call("Nothing", "at_all", {}), ALICE)
    with pytest.raises(ChainError, match="no storage item"):
        await live.client.query(("Nothing.AtAll",))
    with pytest.raises(ChainError, match="no block"):
        await live.client.metagraph(NETUID, "0x" + "00" * 32)


async def test_a_failure_inside_sudo_is_a_failure(any_live: LiveChain | LiveNode) -> None:
    shares = {
        "call_module": "SubtensorModule",
        "call_function": "set_emission_shares",
        "call_args": {"shares": [(99, 1)]},
    }
    with pytest.raises(CallRejected) as refusal:
        await any_live.client.submit(Call("Sudo", "sudo", {"call": shares}), ALICE)
    assert refusal.value.name == "InvalidEmissionShares"


async def test_many_calls_of_one_key_at_once_all_come_in(any_live: LiveChain | LiveNode) -> None:
    carol, other = (
        keypair_from_uri("//Carol").ss58_address,
        ChainClient.connect(any_live.client.url),
    )
    async with await other as second:
        receipts = await asyncio.gather(
            *(
                client.transfer(carol, TOKEN + n, ALICE)
                for n in range(8)
                for client in (any_live.client, second)
            )
        )
    assert len({receipt.extrinsic_hash for receipt in receipts}) == 16
    assert await any_live.client.balance_rao(carol) == 2 * sum(TOKEN + n for n in range(8))


async def test_a_call_can_wait_for_finality(any_live: LiveChain | LiveNode) -> None:
    call = Call("System", "remark", {"remark": "0x00"})
    receipt = await any_live.client.submit(call, ALICE, wait="finalization")
    assert receipt.event("System", "ExtrinsicSuccess") is not None


async def test_our_decoder_agrees_with_the_library(live: LiveChain, tmp_path: Path) -> None:
    await settle(live.client)
    head = await live.client.head()

    def both(link: Any) -> list[tuple[Any, Any]]:
        view = link.view(head.hash)
        pairs = []
        for item, *keys in (
            ("System.Account", BOB.ss58_address),
            ("SubtensorModule.SubnetHyperparams", 1),
            ("SubtensorModule.Keys", 1, 2),
            ("SubtensorModule.ValidatorPermit", 1),
            ("SubtensorModule.TotalHotkeyAlpha", VALIDATOR.ss58_address, 1),
            ("SubtensorModule.Stake", 1, VALIDATOR.ss58_address, BOB.ss58_address),
            ("Balances.TotalIssuance",),
            ("Aura.Authorities",),
        ):
            pallet, name = item.split(".")
            theirs = link.interface.query(pallet, name, list(keys), block_hash=head.hash).value
            (ours,) = view.get((item, *keys))
            pairs.append((ours, theirs))
        theirs = [
            (e.value["module_id"], e.value["event_id"])
            for e in link.interface.get_events(head.hash)
        ]
        pairs.append(([(e.pallet, e.name) for e in view.events()], theirs))
        return pairs

    for ours, theirs in await live.client._run(both):
        assert as_lists(ours) == as_lists(theirs)


def as_lists(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [as_lists(member) for member in value]
    if isinstance(value, dict):
        return {name: as_lists(member) for name, member in value.items()}
    return value


async def test_an_owner_is_told_which_hyperparameter_is_wrong(live: LiveChain) -> None:
    update = dict.fromkeys(HYPERPARAMS) | {"tempo": 9, "bonds_penalty": 1}
    call = Call("SubtensorModule", "set_hyperparams", {"netuid": NETUID, "update": update})
    with pytest.raises(CallRejected, match=r"HyperparamOutOfBounds: tempo: "):
        await live.client.submit(call, ALICE)
    update["tempo"] = 20
    await live.client.submit(call, ALICE)
    assert (await live.client.epoch(NETUID)).tempo_blocks == 20


@pytest.mark.parametrize("tempo", [10, 90])
async def test_a_new_tempo_leaves_the_running_epoch_its_length(live: LiveChain, tempo: int) -> None:
    before = await live.client.epoch(NETUID)
    update = dict.fromkeys(HYPERPARAMS) | {"tempo": tempo, "immunity_period": 500}
    call = Call("SubtensorModule", "set_hyperparams", {"netuid": NETUID, "update": update})
    await live.client.submit(call, ALICE)
    after = await live.client.epoch(NETUID)
    assert after.next_epoch_block == before.next_epoch_block
    await live.until_block(after.next_epoch_block)
    ran = await live.client.epoch(NETUID)
    assert ran.last_epoch_block == before.next_epoch_block
    assert ran.next_epoch_block == ran.last_epoch_block + tempo


async def test_the_time_at_which_an_epoch_began_is_on_the_chain(live: LiveChain) -> None:
    client = live.client
    for _ in range(70):
        await live.dev.produce_block()
    now = await client.epoch(NETUID)
    assert now.epoch_index >= 2
    head_s = await client.timestamp_s()
    begun = [await client.epoch_begun_s(NETUID, epoch) for epoch in range(1, now.epoch_index + 1)]
    assert all(at is not None for at in begun)
    gaps = {round(later - earlier) for earlier, later in itertools.pairwise(begun)}
    assert len(gaps) <= 1
    assert begun[-1] <= head_s
    assert await client.epoch_begun_s(NETUID, now.epoch_index + 1) is None
