"""The commands a newcomer types, against a real chain: right answers, errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moesubnet.chain import keyfile, wallet
from moesubnet.chain.commands.tables import metagraph_table
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected, ConfigError, MoesubnetError, WalletError
from moesubnet.types import Axon, Metagraph, Neuron

if TYPE_CHECKING:
    from conftest import Commands

TOKEN = 10**9
ALICE = keypair_from_uri("//Alice").ss58_address


def test_a_newcomer_gets_from_nothing_to_a_staked_neuron(moesubnet: Commands) -> None:
    made = moesubnet.tells("wallet", "new", "mine", "--no-password")
    assert len(made["coldkey"]["mnemonic"].split()) == 12
    coldkey, hotkey = made["coldkey"]["address"], made["hotkey"]["address"]

    assert moesubnet.tells("faucet", "mine", "--amount", "100")["balance_rao"] == (100 * TOKEN)
    joined = moesubnet.tells("register", "--wallet", "mine/default", "-y")
    assert joined["hotkey"] == hotkey
    assert joined["price_rao"] > 0
    assert "already" in moesubnet.says("register", "-w", "mine", "--netuid", "1", "-y")

    assert "20 τ" in moesubnet.says("stake", "add", "20", "--hotkey", "mine/default", "-y")
    taken = moesubnet.tells("stake", "remove", "5", "-w", "mine", "--hotkey", hotkey, "-y")
    assert taken["stake_rao"] == 15 * TOKEN
    shown = moesubnet.tells("stake", "list", "-w", "mine")
    assert [(s["netuid"], s["hotkey"], s["stake_rao"]) for s in shown["stakes"]] == [
        (1, hotkey, 15 * TOKEN)
    ]
    assert shown["total_rao"] == 15 * TOKEN
    seen = moesubnet.says("subnet", "metagraph")
    assert hotkey[:12] in seen
    assert "15.00" in seen
    rows = moesubnet.tells("subnet", "metagraph")["neurons"]
    assert [row["hotkey"] for row in rows] == [hotkey]
    balance = moesubnet.tells("balance", "mine")
    assert (balance["address"], balance["staked_rao"]) == (coldkey, 15 * TOKEN)

    assert "0 τ" in moesubnet.says("stake", "remove", "all", "-w", "mine", "-y")
    assert "staked nothing" in moesubnet.says("stake", "list", "-w", "mine")
    assert "no stake" in moesubnet.fails(ConfigError, "stake", "remove", "all", "-w", "mine", "-y")


def test_a_weak_password_is_used_only_by_who_insists(
    moesubnet: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "_ARGON2I_BYTES", 8192)
    typed = iter(["pw", "", "four random words", "mistyped", "pw", "pw"])
    monkeypatch.setattr(wallet, "ask_on_terminal", lambda prompt: next(typed))
    said = moesubnet("wallet", "new", "mine", typed="n\ny\n")
    assert said.exit_code == 0
    assert said.stderr.count("weak") == 3
    assert said.stderr.count("Use it all the same?") == 2
    assert "the passwords differ" in said.stderr
    monkeypatch.setenv("BT_WALLET_PASSWORD", "pw")
    assert "warning: this password is weak" in moesubnet("wallet", "new", "other").stderr


def test_tokens_are_sent_to_an_address_or_a_name(moesubnet: Commands) -> None:
    made = moesubnet.tells("wallet", "new", "friend", "--no-password")
    address = made["coldkey"]["address"]
    sent = moesubnet.tells("transfer", address, "2.5", "-w", "//Alice", "-y")
    assert (sent["to"], sent["amount_rao"]) == (address, 2_500_000_000)
    assert sent["fee_rao"] > 0
    text = moesubnet.says("transfer", "friend", "7", "-w", "//Alice", "-y", "--finalized")
    assert "sent 7 τ in block" in text
    assert ", final;" in text
    assert "9.5 τ free" in moesubnet.says("balance", "friend")


def test_refusals_are_words_and_exit_code_1(moesubnet: Commands) -> None:
    moesubnet.says("wallet", "new", "poor", "--no-password")
    assert "faucet" in moesubnet.fails(CallRejected, "register", "-w", "poor", "-y")
    assert "no subnet 7" in moesubnet.fails(MoesubnetError, "subnet", "metagraph", "7")
    assert "wallet list" in moesubnet.fails(WalletError, "faucet", "nobody")
    assert "amount" in moesubnet.fails(ConfigError, "faucet", ALICE, "--amount", "lots")
    assert "--yes" in moesubnet.fails(ConfigError, "transfer", ALICE, "1", "-w", "//Bob")
    assert "password" in moesubnet.fails(WalletError, "wallet", "new", "locked")
    assert "chain dev" in moesubnet.fails(
        MoesubnetError, "balance", ALICE, "--chain", "ws://127.0.0.1:9"
    )
    assert moesubnet("register", "--nonsense").exit_code == 2


def test_there_is_no_faucet_on_a_chain_that_is_not_for_development(
    moesubnet: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moesubnet.chain.commands import app as cli

    monkeypatch.setattr(cli, "FAUCET_KEY", "//Bob")  # whose key is not this chain's root
    assert "no development chain" in moesubnet.fails(ConfigError, "faucet", ALICE)


def test_wallets_are_made_encrypted_restored_and_listed(
    moesubnet: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no wallets" in moesubnet.says("wallet", "list")
    monkeypatch.setenv("BT_WALLET_PASSWORD", "secret")
    made = moesubnet.tells("wallet", "new", "a")
    words = made["coldkey"]["mnemonic"]
    assert not any(words.encode() in path.read_bytes() for path in tmp_path.rglob("coldkey*"))
    second = moesubnet.says("wallet", "new", "a/second")
    assert second.count("words") == 2  # the new hotkey's, and the advice to write them down
    restored = moesubnet(
        "wallet", "new", "b", "--restore", "--no-password", "--json", typed=words + "\n"
    )
    assert restored.exit_code == 0
    listed = moesubnet.tells("wallet", "list")["wallets"]
    assert [(w["name"], w["coldkey"], w["encrypted"]) for w in listed] == [
        ("a", made["coldkey"]["address"], True),
        ("b", made["coldkey"]["address"], False),
    ]
    assert set(listed[0]["hotkeys"]) == {"default", "second"}
    assert "encrypted" in moesubnet.says("wallet", "show", "a")
    assert "never overwritten" in moesubnet.fails(WalletError, "wallet", "new", "a")


def test_a_new_coldkey_s_words_are_shown_beside_an_old_hotkey(
    moesubnet: Commands, tmp_path: Path
) -> None:
    old = moesubnet.tells("wallet", "new", "a", "--no-password")
    for name in ("coldkey", "coldkeypub.txt"):
        (tmp_path / "wallets" / "a" / name).unlink()
    new = moesubnet.tells("wallet", "new", "a", "--no-password")
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
