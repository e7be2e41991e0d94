"""The commands a newcomer types, against a real chain: right answers, errors in words."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from moesubnet.chain.cli import add_commands
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.tables import metagraph_table
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected, ConfigError, MoesubnetError, WalletError
from moesubnet.types import Axon, Metagraph, Neuron

TOKEN = 10**9
ALICE = keypair_from_uri("//Alice").ss58_address

APP = typer.Typer(pretty_exceptions_enable=False)
add_commands(APP)


@pytest.fixture(scope="module")
def chain_url() -> Iterator[str]:
    """An embedded chain on a thread of its own: the commands run event loops themselves."""
    started: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        async with DevChain.open(seal="instant") as dev, dev.serve() as server:
            stop = asyncio.Event()
            started.append((server.url, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    url, loop, stop = started[0]
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture
def moesubnet(chain_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MOESUBNET_CHAIN", chain_url)
    monkeypatch.setenv("BT_WALLET_PATH", str(tmp_path / "wallets"))
    for name in ("BT_WALLET_PASSWORD", "BT_WALLET_PASSWORD_FILE", "BT_WALLET"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(APP, arguments)

    return run


def said(result: Result) -> str:
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def told(result: Result) -> Any:
    return json.loads(said(result))


def complaint(result: Result, kind: type[MoesubnetError]) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, kind), repr(result.exception)
    return str(result.exception)


def test_a_newcomer_gets_from_nothing_to_a_staked_neuron(moesubnet: Any) -> None:
    made = told(moesubnet("wallet", "new", "mine", "--no-password", "--json"))
    assert len(made["coldkey"]["mnemonic"].split()) == 12
    coldkey, hotkey = made["coldkey"]["address"], made["hotkey"]["address"]

    assert told(moesubnet("faucet", "mine", "--amount", "100", "--json"))["balance_rao"] == (
        100 * TOKEN
    )
    joined = told(moesubnet("register", "--wallet", "mine/default", "-y", "--json"))
    assert joined["hotkey"] == hotkey
    assert joined["price_rao"] > 0
    assert "already" in said(moesubnet("register", "-w", "mine", "--netuid", "1", "-y"))

    assert "20 τ" in said(moesubnet("stake", "add", "20", "--hotkey", "mine/default", "-y"))
    taken = told(
        moesubnet("stake", "remove", "5", "-w", "mine", "--hotkey", hotkey, "-y", "--json")
    )
    assert taken["stake_rao"] == 15 * TOKEN
    shown = told(moesubnet("stake", "list", "-w", "mine", "--json"))
    assert [(s["netuid"], s["hotkey"], s["stake_rao"]) for s in shown["stakes"]] == [
        (1, hotkey, 15 * TOKEN)
    ]
    assert shown["total_rao"] == 15 * TOKEN
    seen = said(moesubnet("subnet", "metagraph"))
    assert hotkey[:12] in seen
    assert "15.00" in seen
    rows = told(moesubnet("subnet", "metagraph", "--json"))["neurons"]
    assert [row["hotkey"] for row in rows] == [hotkey]
    balance = told(moesubnet("balance", "mine", "--json"))
    assert (balance["address"], balance["staked_rao"]) == (coldkey, 15 * TOKEN)

    assert "0 τ" in said(moesubnet("stake", "remove", "all", "-w", "mine", "-y"))
    assert "staked nothing" in said(moesubnet("stake", "list", "-w", "mine"))
    assert "no stake" in complaint(
        moesubnet("stake", "remove", "all", "-w", "mine", "-y"), ConfigError
    )


def test_tokens_are_sent_to_an_address_or_a_name(moesubnet: Any) -> None:
    made = told(moesubnet("wallet", "new", "friend", "--no-password", "--json"))
    address = made["coldkey"]["address"]
    sent = told(moesubnet("transfer", address, "2.5", "-w", "//Alice", "-y", "--json"))
    assert (sent["to"], sent["amount_rao"]) == (address, 2_500_000_000)
    assert sent["fee_rao"] > 0
    assert "sent 7 τ" in said(moesubnet("transfer", "friend", "7", "-w", "//Alice", "-y"))
    assert "9.5 τ free" in said(moesubnet("balance", "friend"))


def test_refusals_are_words_and_exit_code_1(moesubnet: Any) -> None:
    said(moesubnet("wallet", "new", "poor", "--no-password"))
    assert "faucet" in complaint(moesubnet("register", "-w", "poor", "-y"), CallRejected)
    assert "no subnet 7" in complaint(moesubnet("subnet", "metagraph", "7"), MoesubnetError)
    assert "wallet list" in complaint(moesubnet("faucet", "nobody"), WalletError)
    assert "amount" in complaint(moesubnet("faucet", ALICE, "--amount", "lots"), ConfigError)
    assert "--yes" in complaint(moesubnet("transfer", ALICE, "1", "-w", "//Bob"), ConfigError)
    assert "password" in complaint(moesubnet("wallet", "new", "locked"), WalletError)
    assert "chain dev" in complaint(
        moesubnet("balance", ALICE, "--chain", "ws://127.0.0.1:9"), MoesubnetError
    )
    assert moesubnet("register", "--nonsense").exit_code == 2


def test_there_is_no_faucet_on_a_chain_that_is_not_for_development(
    moesubnet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moesubnet.chain import cli

    monkeypatch.setattr(cli, "FAUCET_KEY", "//Bob")  # whose key is not this chain's root
    assert "no development chain" in complaint(moesubnet("faucet", ALICE), ConfigError)


def test_wallets_are_made_encrypted_restored_and_listed(
    moesubnet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no wallets" in said(moesubnet("wallet", "list"))
    monkeypatch.setenv("BT_WALLET_PASSWORD", "secret")
    made = told(moesubnet("wallet", "new", "a", "--json"))
    words = made["coldkey"]["mnemonic"]
    assert not any(words.encode() in path.read_bytes() for path in tmp_path.rglob("coldkey*"))
    second = said(moesubnet("wallet", "new", "a/second"))
    assert second.count("words") == 2  # the new hotkey's, and the advice to write them down
    restored = CliRunner().invoke(
        APP, ["wallet", "new", "b", "--restore", "--no-password", "--json"], input=words + "\n"
    )
    assert restored.exit_code == 0
    listed = told(moesubnet("wallet", "list", "--json"))["wallets"]
    assert [(w["name"], w["coldkey"], w["encrypted"]) for w in listed] == [
        ("a", made["coldkey"]["address"], True),
        ("b", made["coldkey"]["address"], False),
    ]
    assert set(listed[0]["hotkeys"]) == {"default", "second"}
    assert "encrypted" in said(moesubnet("wallet", "show", "a"))
    assert "never overwritten" in complaint(moesubnet("wallet", "new", "a"), WalletError)


def test_a_new_coldkey_s_words_are_shown_beside_an_old_hotkey(
    moesubnet: Any, tmp_path: Path
) -> None:
    old = told(moesubnet("wallet", "new", "a", "--no-password", "--json"))
    for name in ("coldkey", "coldkeypub.txt"):
        (tmp_path / "wallets" / "a" / name).unlink()
    new = told(moesubnet("wallet", "new", "a", "--no-password", "--json"))
    assert new["coldkey"]["mnemonic"] != old["coldkey"]["mnemonic"]
    assert "hotkey" not in new


def test_the_metagraph_fits_into_100_columns() -> None:
    neuron: dict[str, Any] = dict.fromkeys(Neuron.__dataclass_fields__, 65_535)
    neuron |= {"uid": 255, "hotkey": ALICE, "axon": Axon("255.255.255.255", 65_535)}
    neuron |= {"stake_rao": 21 * 10**6 * TOKEN, "emission_rao": 10**4 * TOKEN}
    neuron |= {"validator_permit": True, "last_update_block": 9_900_000}
    subnet: dict[str, Any] = dict.fromkeys(Metagraph.__dataclass_fields__, 9_999_999)
    subnet |= {"netuid": 4_095, "spec_sha256": "ab" * 32, "epoch_index": 99_999}
    far = neuron | {"axon": Axon("2001:db8:1111:2222:3333:4444:5555:6666", 65_535)}
    subnet |= {"tempo_blocks": 360, "neurons": (Neuron(**neuron), Neuron(**far))}
    rows = metagraph_table(Metagraph(**subnet)).splitlines()
    assert max(map(len, rows)) <= 100
    assert "21,000,000.00" in rows[3]
    assert "255.255.255.255:65535" in rows[3]
