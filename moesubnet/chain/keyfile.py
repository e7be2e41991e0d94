"""Key files in the format of the Bittensor ecosystem, so that one wallet serves every tool.

A key file is one JSON object; a coldkey's is encrypted with `$NACL` (secretbox under an Argon2i
key). The salt is the same for all wallets of the ecosystem: the cost of Argon2i, 512 MiB and some
seconds, is what stands between a stolen file and a weak password.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nacl.exceptions
import nacl.pwhash.argon2i
import nacl.secret
from substrateinterface import Keypair

from moesubnet.errors import WalletError, WrongPassword

SS58_FORMAT = 42
MAX_KEYFILE_BYTES = 65_536
NACL_PREFIX = b"$NACL"

_SALT = bytes.fromhex("137183dff15a09bc9c90b5518739e9b1")
_ARGON2I_OPS = 8
_ARGON2I_BYTES = 512 * 1024 * 1024
_LEGACY_PREFIXES = (b"gAAAAA", b"$ANSIBLE_VAULT")
_SR25519 = 1


def dump(keypair: Keypair) -> bytes:
    """The plain content of a key file. A key without its private half gives the public form."""
    fields: dict[str, str | int] = {
        "accountId": _hex(keypair.public_key),
        "publicKey": _hex(keypair.public_key),
    }
    if keypair.private_key is not None:
        fields["privateKey"] = _hex(keypair.private_key)
        # The phrase and seed of a derived key (`//Alice`) are those of its parent.
        if keypair.derive_path is None and keypair.mnemonic:
            fields["secretPhrase"] = keypair.mnemonic
        if keypair.derive_path is None and keypair.seed_hex:
            fields["secretSeed"] = _hex(keypair.seed_hex)
    fields["ss58Address"] = keypair.ss58_address
    fields["cryptoType"] = _SR25519
    return json.dumps(fields).encode()


def load(plain: bytes) -> Keypair:
    """The key in a decrypted key file; without private half if the file holds only an address.

    Raises WalletError when it is not a key file, or its address is not that of its key.
    """
    try:
        fields = json.loads(plain)
    except ValueError as error:
        raise WalletError("not a key file: it holds no JSON object") from error
    if not isinstance(fields, dict):
        raise WalletError("not a key file: it holds no JSON object")
    if fields.get("cryptoType", _SR25519) != _SR25519:
        raise WalletError("this is not an sr25519 key; only those can sign here")
    try:
        keypair = _keypair(fields)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise WalletError(f"the key in this file is malformed: {error}") from error
    if fields.get("ss58Address", keypair.ss58_address) != keypair.ss58_address:
        raise WalletError("the address in this file is not that of its key")
    return keypair


def is_encrypted(data: bytes) -> bool:
    return data.startswith((NACL_PREFIX, *_LEGACY_PREFIXES))


def encrypt(plain: bytes, password: str) -> bytes:
    """`$NACL` ‖ nonce ‖ secretbox. Takes seconds and 512 MiB, on purpose."""
    return NACL_PREFIX + bytes(_box(password).encrypt(plain))


def decrypt(data: bytes, password: str) -> bytes:
    """The plain content. Raises WrongPassword, WalletError. Takes seconds."""
    if data.startswith(_LEGACY_PREFIXES):
        raise WalletError(
            "this key file has a legacy encryption; open and save it once with `btcli wallet`"
        )
    try:
        return bytes(_box(password).decrypt(data.removeprefix(NACL_PREFIX)))
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise WrongPassword("wrong password, or the key file is damaged") from error


def read(path: Path) -> bytes:
    """The bytes of a key file, encrypted or not. Raises WalletError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEYFILE_BYTES + 1)
    except FileNotFoundError as error:
        raise WalletError(f"there is no {path}; `moesubnet wallet list` shows all keys") from error
    except OSError as error:
        raise WalletError(f"cannot read key file {path}: {error.strerror}") from error
    if len(data) > MAX_KEYFILE_BYTES:
        raise WalletError(f"{path} is too large to be a key file")
    return data


def write(path: Path, data: bytes) -> None:
    """Write a new key file: readable by its owner only, whole or not at all, never overwriting."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        _make_private(path.parent)
        if path.exists():
            raise WalletError(f"{path} exists already; keys are never overwritten")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise WalletError(f"cannot write key file {path}: {error.strerror}") from error


def _make_private(folder: Path) -> None:
    """Make `folder` and its missing parents, each of them for their owner only."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700)


def _keypair(fields: dict[str, str]) -> Keypair:
    if phrase := fields.get("secretPhrase"):
        return Keypair.create_from_mnemonic(phrase, ss58_format=SS58_FORMAT)
    if seed := fields.get("secretSeed"):
        return Keypair.create_from_seed(seed, ss58_format=SS58_FORMAT)
    if private := fields.get("privateKey"):
        return Keypair(private_key=private, ss58_format=SS58_FORMAT)
    if address := fields.get("ss58Address"):
        return Keypair(ss58_address=address, ss58_format=SS58_FORMAT)
    raise ValueError("no secretPhrase, secretSeed, privateKey or ss58Address in it")


def _box(password: str) -> nacl.secret.SecretBox:
    return nacl.secret.SecretBox(
        nacl.pwhash.argon2i.kdf(
            nacl.secret.SecretBox.KEY_SIZE,
            password.encode(),
            _SALT,
            opslimit=_ARGON2I_OPS,
            memlimit=_ARGON2I_BYTES,
        )
    )


def _hex(value: bytes | str) -> str:
    digits = value.hex() if isinstance(value, bytes) else value.removeprefix("0x")
    return f"0x{digits}"
