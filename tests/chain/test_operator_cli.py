"""The commands an operator types: buy a subnet and run it, delegate, look at votes, try first."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import typer

from moesubnet.chain import calls, proposal
from moesubnet.chain.commands import console
from moesubnet.chain.commands.tables import (
    changes_table,
    event_line,
    hyperparams_table,
    subnet_card,
    subnets_table,
    votes_text,
)
from moesubnet.chain.hyperparams import HYPERPARAMS, OwnerLimits, format_value, parse_changes
from moesubnet.chain.nouns import Epoch, LastReveal, Votes, WeightCommit
from moesubnet.chain.rpc.advice import ADVICE
from moesubnet.chain.rpc.link import Link
from moesubnet.chain.rpc.view import Event
from moesubnet.chain.subnets import Subnet, as_text
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected, ChainError, ConfigError, Declined, WalletError
from moesubnet.types import Metagraph, NetUid, Neuron, Uid
from moesubnet.units import parse_percent_u16

if TYPE_CHECKING:
    from conftest import Commands, LiveChain

TOKEN = 10**9
ALICE, BOB = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")


def new_wallet(moesubnet: Commands, name: str, tokens: int) -> Any:
    made = moesubnet.tells("wallet", "new", name, "--no-password")
    moesubnet.says("faucet", name, "--amount", str(tokens))
    return made


def test_an_operator_buys_a_subnet_tunes_it_and_makes_it_smaller(moesubnet: Commands) -> None:
    keys = new_wallet(moesubnet, "mine", 500)
    price_rao = moesubnet.tells("subnet", "list")["next_price_rao"]
    bought = moesubnet.tells(
        "subnet", "create", "--hotkey", "mine/default", "--name", "tiny", "--symbol", "ε", "-y"
    )
    netuid = str(bought["netuid"])
    assert (bought["uid"], bought["hotkey"]) == (0, keys["hotkey"]["address"])
    assert 0 < bought["price_rao"] <= price_rao

    found = moesubnet.tells("subnet", "info", netuid)
    assert (found["name"], found["symbol"]) == ("tiny", "ε")
    assert found["owner_coldkey"] == keys["coldkey"]["address"]
    assert (found["neurons"], found["emission_share"]) == (1, 0)
    assert "tiny (ε)" in moesubnet.says("subnet", "info", netuid)
    assert "tiny" in moesubnet.says("subnet", "list")

    changed = moesubnet.tells(
        *("subnet", "hyperparams", netuid, "-w", "mine", "-y"),
        *("--set", "immunity_period=1,000", "--set", "min_burn=0.25", "--set", "yuma3=no"),
    )["changed"]
    assert changed["immunity_period"] == {"old": 5_000, "new": 1_000}
    now = moesubnet.tells("subnet", "hyperparams", netuid)["hyperparams"]
    assert (now["immunity_period"], now["min_burn"], now["yuma3"]) == (1_000, TOKEN // 4, False)
    shown = moesubnet.says("subnet", "hyperparams", netuid)
    assert "0.25 τ" in shown
    assert "each once in 720 blocks, none in the last 2" in shown

    for name in ("tinier", "0xab", "0x", "日本"):
        moesubnet.says("subnet", "set-name", netuid, "--name", name, "-w", "mine", "-y")
        assert moesubnet.tells("subnet", "info", netuid)["name"] == name
    assert moesubnet.tells("subnet", "trim", netuid, "64", "-w", "mine", "-y")["pruned"] == []
    assert moesubnet.tells("subnet", "info", netuid)["slots"] == 64


def test_an_operator_s_mistakes_are_explained(moesubnet: Commands) -> None:
    new_wallet(moesubnet, "mine", 1)
    hyperparams = ("subnet", "hyperparams", "1", "-w", "//Alice", "-y", "--set")
    wrong = [
        (ConfigError, "NAME=VALUE", (*hyperparams, "tempo")),
        (ConfigError, "lists them", (*hyperparams, "nonsense=1")),
        (ConfigError, "whole number, counted in blocks", (*hyperparams, "tempo=soon")),
        (ConfigError, "yes or no", (*hyperparams, "yuma3=maybe")),
        (ConfigError, "twice", (*hyperparams, "tempo=31", "--set", "tempo=32")),
        (ConfigError, "already", (*hyperparams, "tempo=30")),
        (ChainError, "out of range", (*hyperparams, "tempo=70000")),
        (CallRejected, "only root", (*hyperparams, "kappa=1")),
        (CallRejected, "HyperparamOutOfBounds: tempo: ", (*hyperparams, "tempo=3")),
        (CallRejected, "NotSubnetOwner", ("subnet", "trim", "1", "64", "-w", "mine", "-y")),
        (CallRejected, "CannotAffordLockCost", ("subnet", "create", "-w", "mine", "-y")),
        (ConfigError, "64 bytes", ("subnet", "create", "--name", "é" * 33, "-w", "mine", "-y")),
        (ChainError, "no subnet 9", ("subnet", "info", "9")),
        (ChainError, "no subnet 9", ("subnet", "hyperparams", "9")),
        (ChainError, "no subnet 9", ("weights", "show", "9")),
        (
            CallRejected,
            "SubnetNotExists",
            ("stake", "add", "1", "-w", "//Bob", "--netuid", "9", "-y"),
        ),
        (CallRejected, "AmountTooLow", ("stake", "add", "0", "-w", "//Alice", "-y")),
        (WalletError, "wallet list", ("subnet", "create", "--hotkey", "nobody/default", "-y")),
        (ConfigError, "never registered", ("stake", "delegate", "//Zoe", "1", "-w", "mine", "-y")),
        (ConfigError, "per cent", ("stake", "take", "9", "-w", "mine", "-y")),
    ]
    moesubnet.says("register", "-w", "//Alice", "-y")
    for kind, words, command in wrong:
        assert words in moesubnet.fails(kind, *command), command


def test_nothing_of_a_subnet_changes_just_before_its_epoch(moesubnet: Commands) -> None:
    epoch = moesubnet.ask(lambda client: client.epoch(NetUid(1)))
    moesubnet.chain.blocks(max(0, epoch.next_epoch_block - epoch.block - 2))
    change = ("subnet", "hyperparams", "1", "--set", "bonds_penalty=1", "-w", "//Alice", "-y")
    said = moesubnet.fails(CallRejected, *change)
    assert said.startswith("AdminActionProhibitedDuringWeightsWindow: ")
    assert "once the epoch has run" in said
    moesubnet.chain.blocks(3)
    moesubnet.says(*change)


def test_a_subnet_that_another_buys_first_costs_only_the_fee(moesubnet: Commands) -> None:
    new_wallet(moesubnet, "mine", 1_000)
    coldkey = moesubnet.ask(lambda client: client.subnets())[0].owner_coldkey
    assert coldkey == ALICE.ss58_address
    taken = NetUid(1)
    call = calls.register_network(BOB.ss58_address, taken, "late", "")
    before_rao = moesubnet.ask(lambda client: client.balance_rao(BOB.ss58_address))
    with pytest.raises(CallRejected, match="NotSubnetOwner"):
        moesubnet.ask(lambda client: client.submit(call, BOB))
    after_rao = moesubnet.ask(lambda client: client.balance_rao(BOB.ss58_address))
    assert 0 < before_rao - after_rao < TOKEN // 100


CHANGES = (
    ("transfer", "//Dave", "1.5", "-w", "//Charlie"),
    ("register", "-w", "//Charlie"),
    ("stake", "add", "3", "-w", "//Alice"),
    ("stake", "delegate", "//Alice", "3", "-w", "//Charlie"),
    ("stake", "remove", "1", "-w", "//Charlie", "--hotkey", "//Alice"),
    ("stake", "take", "5%", "-w", "//Alice"),
    ("subnet", "set-name", "2", "--name", "open", "-w", "//Alice"),
    ("subnet", "hyperparams", "2", "--set", "bonds_moving_average=800000", "-w", "//Alice"),
    ("subnet", "trim", "2", "200", "-w", "//Alice"),
    ("subnet", "create", "-w", "//Charlie"),
    ("faucet", "//Dave"),
)


@pytest.mark.slow
def test_a_dry_run_names_the_real_fee_and_sends_nothing(moesubnet: Commands) -> None:
    if moesubnet.ask(lambda client: client.metagraph(NetUid(1))).neurons == ():
        moesubnet.says("register", "-w", "//Alice", "-y")
    for command in CHANGES:
        before = moesubnet.ask(lambda client: client.head())
        tried = moesubnet.tells(*command, "--dry-run")
        assert tried["accepted"], (command, tried)
        payer = tried["signer"]
        assert moesubnet.ask(lambda client: client.head()) == before
        held_rao = moesubnet.ask(lambda client, p=payer: client.balance_rao(p))
        assert tried["balance_rao"] == held_rao
        moesubnet.says(*command, "-y")
        head = moesubnet.ask(lambda client: client.head())
        events = moesubnet.ask(lambda client, h=head: client.events(h.hash))
        paid = [e.fields["actual_fee"] for e in events if e.name == "TransactionFeePaid"]
        assert paid == [tried["fee_rao"]], command
    told = moesubnet.says("stake", "add", "3", "-w", "//Alice", "--dry-run")
    assert "nothing is signed or sent" in told
    assert "amount_staked = 3000000000 (3 τ)" in told
    assert max(map(len, told.splitlines())) <= 100


def test_a_dry_run_asks_for_no_password_and_refuses_as_the_chain_would(
    moesubnet: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BT_WALLET_PASSWORD", "secret")
    moesubnet.says("wallet", "new", "locked")
    monkeypatch.delenv("BT_WALLET_PASSWORD")
    refused = moesubnet("transfer", "//Bob", "1", "-w", "locked", "--dry-run", "--json")
    assert isinstance(refused.exception, CallRejected)
    tried = json.loads(refused.stdout)
    assert (tried["accepted"], tried["refusal"]) == (False, "Payment")
    moesubnet.says("faucet", "locked", "--amount", "2")
    assert moesubnet.tells("transfer", "//Bob", "1", "-w", "locked", "--dry-run")["accepted"]
    # What covers the amount but not the fee beside it is too little.
    assert "Token." in moesubnet.fails(CallRejected, "transfer", "//Bob", "2", "-w", "locked", "-y")
    # A refusal comes before the password is asked for; what would work needs it.
    assert "NotEnoughBalance" in moesubnet.fails(
        CallRejected, "stake", "add", "9", "-w", "locked", "--hotkey", "//Alice", "-y"
    )
    assert "password" in moesubnet.fails(
        WalletError, "transfer", "//Bob", "1", "-w", "locked", "-y"
    )


async def test_a_runtime_that_cannot_say_beforehand_is_still_asked_for_the_fee(
    live: LiveChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal, "TRY", "NoSuchRuntimeApi_dry_run_call")
    call = calls.add_stake(NetUid(9), ALICE.ss58_address, 1)  # which no chain would take
    tried = await live.client.propose(call, ALICE.ss58_address)
    assert (tried.accepted, tried.refusal) == (None, None)
    assert tried.fee_rao > 0
    assert "cannot say" in proposal.describe(tried)[1]
    poor = keypair_from_uri("//Poor").ss58_address
    refusal = (await live.client.propose(call, poor)).refusal
    assert refusal is not None
    assert refusal.name == "Payment"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("payment_queryInfo", None),
        ("payment_queryInfo", {"partialFee": "much"}),
        ("payment_queryInfo", {"partialFee": str(2**64)}),
        ("payment_queryInfo", {"partialFee": "-1"}),
        ("state_call", "0xno"),
        ("state_call", None),
        ("state_call", "0x"),
        ("state_call", "0x01ff"),
    ],
)
async def test_a_node_that_answers_nonsense_to_a_dry_run_is_found_out(
    live: LiveChain, monkeypatch: pytest.MonkeyPatch, method: str, answer: object
) -> None:
    honest = Link.request

    def request(link: Link, asked: str, *params: object) -> object:
        return answer if asked == method else honest(link, asked, *params)

    monkeypatch.setattr(Link, "request", request)
    with pytest.raises(ChainError):
        await live.client.propose(calls.transfer(BOB.ss58_address, 1), ALICE.ss58_address)


def test_a_person_who_does_not_agree_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer in (False, typer.Abort()):
        monkeypatch.setattr(typer, "confirm", _answering(answer))
        with pytest.raises(Declined, match="nothing has changed"):
            console.confirm("Burn it?", yes=False)
    monkeypatch.setattr(typer, "confirm", _answering(True))
    console.confirm("Burn it?", yes=False)


def _answering(answer: bool | Exception) -> Any:
    def confirm(*_: object, **__: object) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return confirm


def test_a_nominator_sees_the_take_and_gets_its_stake_back(moesubnet: Commands) -> None:
    new_wallet(moesubnet, "vera", 100)
    new_wallet(moesubnet, "nora", 100)
    moesubnet.says("register", "-w", "vera", "-y")
    hotkey = moesubnet.tells("wallet", "show", "vera")["hotkeys"]["default"]

    assert moesubnet.tells("stake", "take", "-w", "vera")["take_u16"] == 11_796
    assert moesubnet.tells("stake", "take", "9%", "-w", "vera", "-y")["take_u16"] == 5_898
    assert "it may rise from block" in moesubnet.says("stake", "take", "--hotkey", hotkey)
    said = moesubnet.fails(CallRejected, "stake", "take", "18%", "-w", "vera", "-y")
    assert "too recently" in said
    moesubnet.chain.blocks(31)
    moesubnet.says("stake", "take", "18%", "-w", "vera", "-y")

    told = moesubnet.says("stake", "delegate", hotkey, "7", "-w", "nora", "-y")
    assert "takes 18.00%" in told
    assert max(map(len, told.splitlines()[:-1])) <= 100
    moesubnet.says("stake", "delegate", hotkey, "2", "-w", "nora", "--netuid", "2", "-y")
    listed = moesubnet.tells("stake", "list", "-w", "nora")
    assert [s["netuid"] for s in listed["stakes"]] == [1, 2]
    assert listed["total_rao"] >= 9 * TOKEN
    assert "everywhere" in moesubnet.says("stake", "list", "-w", "nora")
    held = moesubnet.tells("balance", "nora")
    assert held["total_rao"] == held["free_rao"] + held["staked_rao"]
    moesubnet.says("stake", "remove", "all", "-w", "nora", "--hotkey", hotkey, "-y")


def test_votes_are_shown_by_voter_and_target_and_so_are_promises(moesubnet: Commands) -> None:
    assert "nobody" in moesubnet.says("weights", "show", "2")
    moesubnet.says("register", "-w", "//Eve", "--netuid", "2", "-y")
    eve = keypair_from_uri("//Eve")
    slots = moesubnet.ask(lambda client: client.metagraph(NetUid(2))).by_hotkey
    uid = slots[eve.ss58_address].uid
    moesubnet.ask(lambda client: client.set_weights(NetUid(2), [uid], [9], 0, eve))
    told = moesubnet.tells("weights", "show", "2")
    assert told["weights"][0]["row"] == [{"uid": uid, "u16": 65_535}]
    assert "100.0" in moesubnet.says("weights", "show", "2")
    moesubnet.says("register", "-w", "//Eve", "-y")
    moesubnet.ask(lambda client: client.commit_weights(NetUid(1), [0], [1], [1], 0, eve))
    (commit,) = moesubnet.tells("weights", "show", "1")["commits"]
    assert commit["reveal_epoch"] == commit["epoch"] + 1
    assert "to be revealed in epoch" in moesubnet.says("weights", "show", "1")


def test_watching_tells_a_line_a_block_and_ends_quietly_on_ctrl_c(moesubnet: Commands) -> None:
    command = [sys.executable, "-m", "moesubnet", "subnet", "watch", "1", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as process:
        lines: Iterator[str] = iter(process.stdout or ())
        first = json.loads(next(lines))
        moesubnet.says("stake", "add", "1", "-w", "//Alice", "-y")
        second = json.loads(next(lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, process.stderr and process.stderr.read()
    assert second["block"] > first["block"]
    assert "StakeAdded" in {event["name"] for event in second["events"]}
    assert {"neurons", "next_epoch_block"} <= second.keys()


async def test_every_hyperparameter_is_explained_and_root_s_are_marked(live: LiveChain) -> None:
    now = await live.client.hyperparams(NetUid(1))
    assert set(now) == set(HYPERPARAMS)
    for name, value in now.items():
        update = {other: value if other == name else None for other in now}
        call = calls.set_hyperparams(NetUid(1), update)
        tried = await live.client.propose(call, ALICE.ss58_address)
        is_roots = tried.refusal is not None and tried.refusal.name == "OnlyRootMaySet"
        assert is_roots == HYPERPARAMS[name].root_only, name


def test_values_are_written_as_they_are_shown() -> None:
    now = {"tempo": 30, "max_burn": TOKEN, "yuma3": True, "alpha_sigmoid_steepness": 1}
    typed = ["tempo=1_000", "max_burn=2.5", "yuma3=Off", "alpha_sigmoid_steepness=-7"]
    assert list(parse_changes(typed, now).values()) == [1_000, 2_500_000_000, False, -7]
    assert parse_changes(["max_burn=12rao"], now) == {"max_burn": 12}
    assert format_value("max_burn", 2_500_000_000) == "2.5 τ"
    assert format_value("owner_cut", 11_796) == "11,796 (18.0%)"


@pytest.mark.parametrize(("text", "take_u16"), [("18%", 11_796), ("0 %", 0), ("12.5%", 8_191)])
def test_a_take_is_in_per_cent_rounded_down(text: str, take_u16: int) -> None:
    assert parse_percent_u16(text) == take_u16


@pytest.mark.parametrize("text", ["18", "-1%", "101%", "0.18", "ten%", "1e1%"])
def test_what_is_no_take_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="per cent"):
        parse_percent_u16(text)


def test_every_table_fits_into_100_columns_and_strangers_cannot_steer_the_terminal() -> None:
    most = 2**64 - 1
    numbers: dict[str, Any] = dict.fromkeys(Subnet.__dataclass_fields__, 65_535)
    numbers |= {"name": as_text(("\x1b[2J" + "ñ" * 60).encode()), "symbol": as_text(b"\xff\n" * 32)}
    numbers |= {"owner_coldkey": ALICE.ss58_address, "owner_hotkey": ALICE.ss58_address}
    numbers |= {"registration_price_rao": 100 * TOKEN, "spec_sha256": "ab" * 32}
    subnet = Subnet(**numbers | {"spec_url": "https://example.org/" + "x" * 236})
    epoch = Epoch(*[99_999_999] * 7)  # type: ignore[arg-type]
    values = dict.fromkeys(HYPERPARAMS, 65535) | {"max_difficulty": most, "max_burn": 10**14}
    neuron: dict[str, Any] = dict.fromkeys(Neuron.__dataclass_fields__, 0)
    neurons = tuple(Neuron(**neuron | {"uid": uid}) for uid in range(256))
    metagraph: dict[str, Any] = dict.fromkeys(Metagraph.__dataclass_fields__, 9_999_999)
    votes = {
        "few": {Uid(255): tuple((Uid(t), 5_000) for t in range(12)), Uid(1): ()},
        "many": {Uid(255): tuple((Uid(t), 65_535) for t in range(256))},
    }
    commit = WeightCommit("0x", 99_999, 9_999_999, 100_000)  # type: ignore[arg-type]
    reveals = {Uid(255): LastReveal(99_999, "f" * 64)}
    texts = [
        subnets_table((subnet,), most),
        subnet_card(subnet, epoch),
        hyperparams_table(values, OwnerLimits(*[9_999_999] * 4)),
        changes_table(values, values),
        event_line(9_999_999, Event("P", "SubnetNamed", 1, {"name": b"\x1b" * 99, "symbol": b"x"})),
        *(
            votes_text(
                Votes(
                    Metagraph(**metagraph | {"neurons": neurons}),
                    7,
                    rows,
                    {Uid(255): (commit,)},
                    reveals,
                )
            )
            for rows in votes.values()
        ),
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 100, text
        assert text.replace("\n", "").isprintable(), text


def test_every_command_s_help_has_an_example_that_can_be_typed(moesubnet: Commands) -> None:
    root = typer.main.get_command(moesubnet.app)
    for path, command in _leaves(root, ()):
        lines = [x for x in (command.epilog or "").splitlines() if x.startswith("  ")]
        assert lines, path
        for line in lines:
            assert len(line) <= 98
            program, *words = shlex.split(line)
            assert (program, *words)[: len(path) + 1] == ("moesubnet", *path)
            command.make_context(path[-1], words[len(path) :])


def test_advice_names_only_commands_that_exist(moesubnet: Commands) -> None:
    root = typer.main.get_command(moesubnet.app)
    paths = {path for path, _ in _leaves(root, ())}
    for name, text in ADVICE.items():
        for code in text.split("`")[1::2]:
            if code.startswith("moesubnet "):
                assert tuple(code.split()[1:]) in paths, name


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _leaves(child, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command
