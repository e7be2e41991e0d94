"""Wallets as the Bittensor ecosystem lays them out: `<root>/<name>/{coldkey, hotkeys/<hotkey>}`.

A *spec* names a key on every command line: `//Alice` is a development key, `name` the wallet of
that name with its hotkey `default`, `name/hotkey` one of its other hotkeys.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from substrateinterface import Keypair

from moesubnet.chain import keyfile
from moesubnet.errors import WalletError, WrongPassword
from moesubnet.types import Coldkey, Hotkey

DEFAULT_NAME = "default"
ROOT_VARIABLE = "BT_WALLET_PATH"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_PUBLIC_SUFFIX = "pub.txt"

PASSWORD_ATTEMPTS = 3
MIN_PASSWORD_CHARS = 8
MIN_DISTINCT_CHARS = 5

AskPassword = Callable[[str], str]  # prompt → password


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just written. The mnemonic is in memory only: show it once, then forget it."""

    path: Path
    address: str
    mnemonic: str


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """What a wallet's folder shows without a password."""

    name: str
    path: Path
    coldkey: Coldkey | None  # None if the folder holds hotkeys only
    encrypted: bool
    hotkeys: tuple[tuple[str, Hotkey], ...]  # (name, address), by name


def wallets_root(root: Path | None = None) -> Path:
    """`root`, else `$BT_WALLET_PATH`, else `~/.bittensor/wallets`."""
    return (root or Path(os.environ.get(ROOT_VARIABLE) or "~/.bittensor/wallets")).expanduser()


def keypair_from_uri(uri: str) -> Keypair:
    """The development key of a URI such as `//Alice` or `//Alice//stash`. Everybody knows it."""
    if not is_uri(uri) or "///" in uri:
        raise WalletError(f"{uri!r} is not a development key; write it like //Alice")
    try:
        return Keypair.create_from_uri(uri, ss58_format=keyfile.SS58_FORMAT)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise WalletError(f"{uri!r} is not a development key; write it like //Alice") from error


def is_uri(spec: str) -> bool:
    return spec.startswith("//")


def load_coldkey(spec: str, root: Path | None = None, ask: AskPassword | None = None) -> Keypair:
    """The coldkey of `//Alice` or `name`. Decrypting takes seconds: not on an event loop.

    `ask` gets a password from a person when no variable holds it; by default the terminal does.
    Raises WalletError.
    """
    if is_uri(spec):
        return keypair_from_uri(spec)
    name, _ = split_spec(spec)
    return _load(wallets_root(root) / name / "coldkey", ask)


def load_hotkey(spec: str, root: Path | None = None, ask: AskPassword | None = None) -> Keypair:
    """The hotkey of `//Alice`, `name` or `name/hotkey`; otherwise as `load_coldkey`."""
    if is_uri(spec):
        return keypair_from_uri(spec)
    name, hotkey = split_spec(spec)
    return _load(wallets_root(root) / name / "hotkeys" / hotkey, ask)


def coldkey_address(spec: str, root: Path | None = None) -> Coldkey:
    """Address of a coldkey, without a password."""
    if is_uri(spec):
        return Coldkey(keypair_from_uri(spec).ss58_address)
    name, _ = split_spec(spec)
    return Coldkey(_address(wallets_root(root) / name / "coldkey"))


def hotkey_address(spec: str, root: Path | None = None) -> Hotkey:
    """Address of a hotkey, without a password."""
    if is_uri(spec):
        return Hotkey(keypair_from_uri(spec).ss58_address)
    name, hotkey = split_spec(spec)
    return Hotkey(_address(wallets_root(root) / name / "hotkeys" / hotkey))


def create_coldkey(
    name: str, password: str | None, root: Path | None = None, mnemonic: str | None = None
) -> NewKey:
    """Write a coldkey and its public file; plain if `password` is None. Takes seconds otherwise.

    `mnemonic` restores an old key. Raises WalletError if the wallet has one already.
    """
    folder = wallets_root(root) / split_spec(name)[0]
    return _create(folder / "coldkey", folder / f"coldkey{_PUBLIC_SUFFIX}", password, mnemonic)


def create_hotkey(spec: str, root: Path | None = None) -> NewKey:
    """Write a hotkey, plain as the ecosystem does: it signs unattended and owns no funds."""
    name, hotkey = split_spec(spec)
    folder = wallets_root(root) / name / "hotkeys"
    return _create(folder / hotkey, folder / f"{hotkey}{_PUBLIC_SUFFIX}", None, None)


def list_wallets(root: Path | None = None) -> tuple[WalletEntry, ...]:
    """Every wallet under the root, by name. Files that are no keys are left out."""
    folder = wallets_root(root)
    if not folder.is_dir():
        return ()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return tuple(show_wallet(name, root) for name in names if _NAME.fullmatch(name))


def show_wallet(name: str, root: Path | None = None) -> WalletEntry:
    """One wallet, without a password. Raises WalletError if there is none of that name."""
    folder = wallets_root(root) / split_spec(name)[0]
    if not folder.is_dir():
        raise WalletError(f"no wallet {name!r} in {folder.parent}; make it: moesubnet wallet new")
    hotkeys = folder / "hotkeys"
    names = sorted(path.name for path in hotkeys.iterdir()) if hotkeys.is_dir() else []
    coldkey = folder / "coldkey"
    return WalletEntry(
        name=name,
        path=folder,
        coldkey=Coldkey(_address(coldkey)) if _has_key(coldkey) else None,
        encrypted=coldkey.is_file() and keyfile.is_encrypted(keyfile.read(coldkey)),
        hotkeys=tuple(
            (name, Hotkey(_address(hotkeys / name)))
            for name in names
            if _NAME.fullmatch(name) and not name.endswith((_PUBLIC_SUFFIX, ".tmp"))
        ),
    )


def split_spec(spec: str) -> tuple[str, str]:
    """`name` or `name/hotkey` → (name, hotkey). Raises WalletError."""
    name, slash, hotkey = spec.partition("/")
    hotkey = hotkey if slash else DEFAULT_NAME
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(hotkey)):
        raise WalletError(
            f"{spec!r} names no key; write a wallet ('miner'), one of its hotkeys "
            "('miner/second') or a development key ('//Alice')"
        )
    return name, hotkey


def password_from_environment(path: Path) -> str | None:
    """The password of the key file at `path`, from the ecosystem's variables.

    `BT_WALLET_PASSWORD`, then `BT_PW_<PATH>` (base64 of the password XOR the variable's name, as
    btcli stores it), then the first line of the file that `BT_WALLET_PASSWORD_FILE` names.
    """
    if password := os.environ.get("BT_WALLET_PASSWORD"):
        return password
    variable = "BT_PW_" + str(path).replace(os.sep, "_").replace(".", "_").upper()
    if masked := os.environ.get(variable):
        try:
            raw = base64.b64decode(masked, validate=True)
            return bytes(a ^ b for a, b in zip(raw, cycle(variable.encode()))).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise WalletError(f"{variable} does not hold a password as btcli stores it") from error
    if file := os.environ.get("BT_WALLET_PASSWORD_FILE"):
        try:
            return Path(file).expanduser().read_text().strip()
        except OSError as error:
            raise WalletError(f"cannot read password file {file}: {error.strerror}") from error
    return None


def is_weak(password: str) -> bool:
    """Whether who stole the key file would find the password: each guess costs them seconds."""
    return len(password) < MIN_PASSWORD_CHARS or len(set(password)) < MIN_DISTINCT_CHARS


def ask_on_terminal(prompt: str) -> str:
    """Read a password without echo. Raises WalletError when nobody can answer."""
    if not sys.stdin.isatty():
        raise WalletError(
            "a password is needed and there is no terminal to ask on: "
            "set BT_WALLET_PASSWORD_FILE or BT_WALLET_PASSWORD"
        )
    return getpass.getpass(prompt)


def _load(path: Path, ask: AskPassword | None) -> Keypair:
    data = keyfile.read(path)
    if keyfile.is_encrypted(data):
        data = _decrypt(path, data, ask or ask_on_terminal)
    keypair = keyfile.load(data)
    if keypair.private_key is None:
        raise WalletError(f"{path} holds only an address; the key itself is needed to sign")
    return keypair


def _decrypt(path: Path, data: bytes, ask: AskPassword) -> bytes:
    """With the environment's password, or with a person's, who may mistype it twice."""
    if password := password_from_environment(path):
        return keyfile.decrypt(data, password)
    said = ""
    for _ in range(PASSWORD_ATTEMPTS - 1):
        try:
            return keyfile.decrypt(data, ask(f"{said}password for {path}: "))
        except WrongPassword:
            said = "wrong; once more, "
    return keyfile.decrypt(data, ask(f"{said}password for {path}: "))


def _create(path: Path, public: Path, password: str | None, mnemonic: str | None) -> NewKey:
    try:
        phrase = mnemonic or Keypair.generate_mnemonic(12)
        keypair = Keypair.create_from_mnemonic(phrase, ss58_format=keyfile.SS58_FORMAT)
    except ValueError as error:
        raise WalletError("not a valid mnemonic: check the words and their order") from error
    plain = keyfile.dump(keypair)
    if path.exists():
        raise WalletError(f"{path} exists already; keys are never overwritten")
    keyfile.write(path, plain if password is None else keyfile.encrypt(plain, password))
    public.unlink(missing_ok=True)  # of a key that is gone
    keyfile.write(public, keyfile.dump(_public_half(keypair)))
    return NewKey(path, keypair.ss58_address, phrase)


def _public_half(keypair: Keypair) -> Keypair:
    return Keypair(public_key=keypair.public_key, ss58_format=keyfile.SS58_FORMAT)


def _has_key(path: Path) -> bool:
    return path.is_file() or path.with_name(path.name + _PUBLIC_SUFFIX).is_file()


def _address(path: Path) -> str:
    """Address of the key at `path`: from its public file, or from the key if it is plain."""
    public = path.with_name(path.name + _PUBLIC_SUFFIX)
    if public.is_file():
        return str(keyfile.load(keyfile.read(public)).ss58_address)
    data = keyfile.read(path)
    if keyfile.is_encrypted(data):
        raise WalletError(f"{public} is missing, and the key is encrypted; copy that file back")
    return str(keyfile.load(data).ss58_address)
