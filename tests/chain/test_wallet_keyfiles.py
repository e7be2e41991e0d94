"""Key files: the ecosystem's format both ways, encrypted at rest, private to their owner."""

import base64
import json
import stat
from itertools import cycle
from pathlib import Path

import pytest
from substrateinterface import Keypair

from moesubnet.chain import keyfile, wallet
from moesubnet.errors import WalletError, WrongPassword

GOLDEN = Path(__file__).parents[1] / "vectors" / "wallet"
GOLDEN_PASSWORD = "correct horse"
DEV_PHRASE = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
DEV_ROOT_ADDRESS = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV"
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture(autouse=True)
def no_ambient_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("BT_WALLET_PASSWORD", "BT_WALLET_PASSWORD_FILE", wallet.ROOT_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def refuse_to_ask(prompt: str) -> str:
    raise AssertionError(f"asked for a password: {prompt}")


def test_a_coldkey_that_the_official_tool_encrypted_opens_and_signs() -> None:
    keypair = keyfile.load(keyfile.decrypt(keyfile.read(GOLDEN / "coldkey"), GOLDEN_PASSWORD))
    assert keypair.ss58_address == DEV_ROOT_ADDRESS
    assert keypair.verify(b"text", keypair.sign(b"text"))


def test_our_plain_file_says_the_same_as_the_official_one() -> None:
    official = json.loads((GOLDEN / "hotkey").read_bytes())
    ours = json.loads(keyfile.dump(Keypair.create_from_mnemonic(DEV_PHRASE)))
    assert ours == official


def test_a_new_wallet_is_encrypted_private_and_opens_with_its_password_only(
    tmp_path: Path,
) -> None:
    made = wallet.create_coldkey("alice", "a password", root=tmp_path / "wallets")
    assert made.path.read_bytes().startswith(keyfile.NACL_PREFIX)
    assert made.mnemonic.encode() not in made.path.read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {path.name for path in files} == {"coldkey", "coldkeypub.txt"}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    with pytest.raises(WalletError, match="wrong password"):
        wallet.load_coldkey("alice", tmp_path / "wallets", ask=lambda _: "another")
    typed = iter(["a pasword", "a password"])
    opened = wallet.load_coldkey("alice", tmp_path / "wallets", ask=lambda _: next(typed))
    assert opened.ss58_address == made.address
    assert opened.mnemonic == made.mnemonic


def test_a_mistyped_password_is_asked_for_again_three_times_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "_ARGON2I_BYTES", 8192)  # three of them cost seconds
    wallet.create_coldkey("alice", "a password", root=tmp_path)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "another"

    with pytest.raises(WrongPassword):
        wallet.load_coldkey("alice", tmp_path, ask=ask)
    assert len(asked) == 3
    assert [prompt.startswith("wrong; once more") for prompt in asked] == [False, True, True]
    monkeypatch.setenv("BT_WALLET_PASSWORD", "another")
    with pytest.raises(WrongPassword):
        wallet.load_coldkey("alice", tmp_path, ask=refuse_to_ask)


@pytest.mark.parametrize(
    ("password", "weak"),
    [("pw", True), ("aaaaaaaaaaaa", True), ("1234567", True), ("four random words", False)],
)
def test_a_weak_password_is_known(password: str, weak: bool) -> None:
    assert wallet.is_weak(password) is weak


def test_addresses_are_read_without_a_password(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "coldkey").write_bytes((GOLDEN / "coldkey").read_bytes())
    with pytest.raises(WalletError, match="missing"):
        wallet.coldkey_address("w", tmp_path)
    keyfile.write(
        tmp_path / "w" / "coldkeypub.txt",
        keyfile.dump(Keypair(ss58_address=DEV_ROOT_ADDRESS, ss58_format=42)),
    )
    assert wallet.coldkey_address("w", tmp_path) == DEV_ROOT_ADDRESS


def test_the_public_file_holds_nothing_secret(tmp_path: Path) -> None:
    made = wallet.create_hotkey("w/h", tmp_path)
    public = json.loads((tmp_path / "w" / "hotkeys" / "hpub.txt").read_bytes())
    assert set(public) == {"accountId", "publicKey", "ss58Address", "cryptoType"}
    assert public["ss58Address"] == made.address


def test_a_hotkey_is_plain_and_loads_by_name(tmp_path: Path) -> None:
    default = wallet.create_hotkey("w", tmp_path)
    second = wallet.create_hotkey("w/second", tmp_path)
    assert wallet.load_hotkey("w", tmp_path, ask=refuse_to_ask).ss58_address == default.address
    assert wallet.load_hotkey("w/second", tmp_path).ss58_address == second.address
    assert wallet.hotkey_address("w/second", tmp_path) == second.address


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    before = wallet.create_hotkey("w", tmp_path).address
    with pytest.raises(WalletError, match="never overwritten"):
        wallet.create_hotkey("w", tmp_path)
    assert wallet.hotkey_address("w", tmp_path) == before


def test_a_mnemonic_restores_the_same_key(tmp_path: Path) -> None:
    made = wallet.create_coldkey("old", None, tmp_path)
    restored = wallet.create_coldkey("new", None, tmp_path, mnemonic=made.mnemonic)
    assert restored.address == made.address
    with pytest.raises(WalletError, match="mnemonic"):
        wallet.create_coldkey("typo", None, tmp_path, mnemonic="not one of these words")


def test_a_password_comes_from_each_variable_of_the_ecosystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w" / "coldkey"
    assert wallet.password_from_environment(path) is None
    (tmp_path / "secret").write_text("from file\n")
    monkeypatch.setenv("BT_WALLET_PASSWORD_FILE", str(tmp_path / "secret"))
    assert wallet.password_from_environment(path) == "from file"
    variable = "BT_PW_" + str(path).replace("/", "_").replace(".", "_").upper()
    masked = bytes(a ^ b for a, b in zip(b"by path", cycle(variable.encode())))
    monkeypatch.setenv(variable, base64.b64encode(masked).decode())
    assert wallet.password_from_environment(path) == "by path"
    monkeypatch.setenv("BT_WALLET_PASSWORD", "plain")
    assert wallet.password_from_environment(path) == "plain"


def test_the_official_tools_masked_password_is_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As `bittensor_core.save_password_to_environment("BT_PW_X", "hunter2")` leaves it.
    monkeypatch.setenv("BT_PW_X", "KiExJDItag==")
    assert wallet.password_from_environment(Path("x")) == "hunter2"
    monkeypatch.setenv("BT_PW_X", "not base64 !")
    with pytest.raises(WalletError, match="BT_PW_X"):
        wallet.password_from_environment(Path("x"))


def test_development_keys_come_by_uri() -> None:
    assert wallet.load_hotkey("//Alice").ss58_address == ALICE
    assert wallet.coldkey_address("//Alice") == ALICE
    assert wallet.keypair_from_uri("//Alice//hot").ss58_address != ALICE


@pytest.mark.parametrize("spec", ["", "..", "a/../b", "a/b/c", "/etc", "a/", "///x", "//Al///pw"])
def test_a_spec_that_names_no_key_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(WalletError):
        wallet.load_hotkey(spec, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"publicKey": "0x00"}',
        b'{"secretSeed": "0x12"}',
        b'{"privateKey": 7}',
        b'{"ss58Address": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ"}',
        b'{"cryptoType": 0, "secretSeed": "0x' + b"11" * 32 + b'"}',
        b'{"ss58Address": "' + ALICE.encode() + b'", "secretSeed": "0x' + b"11" * 32 + b'"}',
    ],
)
def test_a_malformed_key_file_is_a_wallet_error(content: bytes) -> None:
    with pytest.raises(WalletError):
        keyfile.load(content)


def test_an_address_alone_cannot_sign(tmp_path: Path) -> None:
    keyfile.write(
        tmp_path / "w" / "hotkeys" / "default",
        keyfile.dump(Keypair(ss58_address=ALICE, ss58_format=42)),
    )
    with pytest.raises(WalletError, match="only an address"):
        wallet.load_hotkey("w", tmp_path)


def test_wallets_are_listed_without_passwords(tmp_path: Path) -> None:
    assert wallet.list_wallets(tmp_path / "nowhere") == ()
    cold = wallet.create_coldkey("b", None, tmp_path)
    hot = wallet.create_hotkey("a/h", tmp_path)
    (tmp_path / ".hidden").mkdir()
    hotkeys_only, whole = wallet.list_wallets(tmp_path)
    assert (hotkeys_only.name, hotkeys_only.coldkey) == ("a", None)
    assert hotkeys_only.hotkeys == (("h", hot.address),)
    assert (whole.coldkey, whole.encrypted, whole.hotkeys) == (cold.address, False, ())
    with pytest.raises(WalletError, match="no wallet"):
        wallet.show_wallet("c", tmp_path)
