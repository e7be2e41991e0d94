"""What the runtime can ask of its host: Substrate's host functions, one method each.

Methods are named as the runtime imports them; its heap and its two commonest hashes are in
`host.wat` instead. An i32 argument is a pointer to bytes of known length, a number or a bool; an
i64 is a pointer in the low half and a length in the high half. Results are laid out alike. An
import without a method here traps when, and only when, it is called.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache

import coincurve
import ed25519_zebra
import sr25519
import xxhash
from Crypto.Hash import keccak

from moesubnet.chain.devchain.code import BadCode, embedded_version
from moesubnet.chain.devchain.memory import HostError, LinearMemory
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import Reader, ScaleError, option
from moesubnet.chain.devchain.trie import Trie, ordered_root

_log = logging.getLogger("moesubnet.chain.runtime")
_TRACE = 5
_LOG_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, _TRACE)
_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class HostFunctions:
    """Host functions over one instance's memory. `overlay` is the storage of the current call."""

    def __init__(self, memory: LinearMemory) -> None:
        self._memory = memory
        self.overlay = Overlay(Trie())
        self.last_error = ""  # the runtime's last error log: its panic message, if it panicked

    def _read(self, span: int) -> bytes:
        return self._memory.read(span & 0xFFFF_FFFF, span >> 32)

    def _give(self, data: bytes) -> int:
        return self._memory.allocate(data) | len(data) << 32

    # storage

    def ext_storage_get_version_1(self, key: int) -> int:
        return self._give(option(self.overlay.get(self._read(key))))

    def ext_storage_read_version_1(self, key: int, out: int, offset: int) -> int:
        value = self.overlay.get(self._read(key))
        if value is None:
            return self._give(b"\0")
        left = value[offset:]
        self._memory.write(out & 0xFFFF_FFFF, left[: out >> 32])
        return self._give(b"\1" + len(left).to_bytes(4, "little"))

    def ext_storage_set_version_1(self, key: int, value: int) -> None:
        self.overlay.set(self._read(key), self._read(value))

    def ext_storage_clear_version_1(self, key: int) -> None:
        self.overlay.set(self._read(key), None)

    def ext_storage_exists_version_1(self, key: int) -> int:
        return self.overlay.get(self._read(key)) is not None

    def ext_storage_append_version_1(self, key: int, item: int) -> None:
        self.overlay.append(self._read(key), self._read(item))

    def ext_storage_next_key_version_1(self, key: int) -> int:
        return self._give(option(self.overlay.next_key(self._read(key))))

    def ext_storage_clear_prefix_version_2(self, prefix: int, limit: int) -> int:
        encoded = Reader(self._read(limit))
        most = encoded.uint(4) if encoded.uint(1) else None
        visited, all_gone = self.overlay.clear_prefix(self._read(prefix), most)
        return self._give(bytes((not all_gone,)) + visited.to_bytes(4, "little"))

    def ext_storage_root_version_2(self, state_version: int) -> int:
        return self._give(self.overlay.merged().root(state_version))

    def ext_storage_start_transaction_version_1(self) -> None:
        self.overlay.start_transaction()

    def ext_storage_commit_transaction_version_1(self) -> None:
        self.overlay.commit_transaction()

    def ext_storage_rollback_transaction_version_1(self) -> None:
        self.overlay.rollback_transaction()

    # tries and hashes

    def ext_trie_blake2_256_ordered_root_version_2(self, values: int, state_version: int) -> int:
        encoded = Reader(self._read(values))
        listed = [encoded.vec() for _ in range(encoded.compact())]
        return self._memory.allocate(ordered_root(listed, state_version))

    def ext_hashing_blake2_128_version_1(self, data: int) -> int:
        digest = hashlib.blake2b(self._read(data), digest_size=16).digest()
        return self._memory.allocate(digest)

    def ext_hashing_blake2_256_version_1(self, data: int) -> int:
        digest = hashlib.blake2b(self._read(data), digest_size=32).digest()
        return self._memory.allocate(digest)

    def ext_hashing_twox_256_version_1(self, data: int) -> int:
        return self._memory.allocate(twox(self._read(data), 4))

    def ext_hashing_keccak_256_version_1(self, data: int) -> int:
        digest = keccak.new(digest_bits=256, data=self._read(data)).digest()
        return self._memory.allocate(digest)

    def ext_hashing_sha2_256_version_1(self, data: int) -> int:
        return self._memory.allocate(hashlib.sha256(self._read(data)).digest())

    # signatures

    def ext_crypto_sr25519_verify_version_2(self, signature: int, message: int, key: int) -> int:
        read = self._memory.read
        signed, public, text = read(signature, 64), read(key, 32), self._read(message)
        # A block asks again what the pool asked before. Signed payloads are hashed above 256 bytes.
        verify = _verify_known if len(text) <= 256 else _verify
        return verify(signed, text, public)

    def ext_crypto_ed25519_verify_version_1(self, signature: int, message: int, key: int) -> int:
        read = self._memory.read
        signed, public = read(signature, 64), read(key, 32)
        return bool(ed25519_zebra.ed_verify(signed, self._read(message), public))

    def ext_crypto_secp256k1_ecdsa_recover_compressed_version_2(
        self, signature: int, message: int
    ) -> int:
        signed, digest = self._memory.read(signature, 65), self._memory.read(message, 32)
        return self._give(_recover(signed, digest))

    # the rest

    def ext_logging_log_version_1(self, level: int, target: int, message: int) -> None:
        text = self._read(message).decode(errors="replace")
        if level == 0:  # a stranger's bytes can cause these; the caller of the call reports them
            self.last_error = text
            return
        where = self._read(target).decode(errors="replace")
        _log.log(_LOG_LEVELS[min(level, 4)], "%s: %s", where, text)

    def ext_logging_max_level_version_1(self) -> int:
        # 0 is off, 1 errors only, which we always want: a panic's message is one.
        enabled = _log.getEffectiveLevel()
        return max(1, sum(level >= enabled for level in _LOG_LEVELS))

    def ext_misc_print_utf8_version_1(self, data: int) -> None:
        _log.info("%s", self._read(data).decode(errors="replace"))

    def ext_misc_print_hex_version_1(self, data: int) -> None:
        _log.info("0x%s", self._read(data).hex())

    def ext_misc_print_num_version_1(self, number: int) -> None:
        _log.info("%d", number)

    def ext_misc_runtime_version_version_1(self, code: int) -> int:
        try:
            version = embedded_version(self._read(code))
        except (BadCode, ScaleError, UnicodeDecodeError):
            version = None
        return self._give(option(None if version is None else version.encode()))

    def ext_panic_handler_abort_on_panic_version_1(self, message: int) -> None:
        self.last_error = self._read(message).decode(errors="replace")
        raise HostError(self.last_error)


def twox(data: bytes, words: int) -> bytes:
    """xxh64 with seeds 0 to words - 1, each little-endian: Substrate's `twox_64` and so on."""
    return b"".join(xxhash.xxh64_digest(data, seed)[::-1] for seed in range(words))


def _verify(signature: bytes, message: bytes, key: bytes) -> bool:
    try:
        return bool(sr25519.verify(signature, message, key))
    except ValueError:  # not the encoding of a signature or of a key
        return False


_verify_known = lru_cache(8192)(_verify)


def _recover(signature: bytes, digest: bytes) -> bytes:
    """SCALE `Result<[u8; 33], EcdsaVerifyError>`: the key that signed `digest`."""
    recovery = signature[64] - 27 if signature[64] > 26 else signature[64]
    if recovery > 3:
        return b"\1\1"  # BadV
    scalars = (signature[:32], signature[32:64])
    if any(int.from_bytes(scalar, "big") >= _SECP256K1_ORDER for scalar in scalars):
        return b"\1\0"  # BadRS
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes((recovery,)), digest, hasher=None
        )
    except ValueError:
        return b"\1\2"  # BadSignature
    return b"\0" + key.format(compressed=True)
