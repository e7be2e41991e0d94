"""The runtime's host: calls, traps, memory, and what its functions answer."""

from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path

import psutil
import pytest
import wasmtime
from coincurve import PrivateKey
from substrateinterface import Keypair, KeypairType

from moesubnet.chain.devchain import executor
from moesubnet.chain.devchain.accounts import dev_authority_secrets, funded_dev_accounts
from moesubnet.chain.devchain.blob import decompress, runtime_wasm
from moesubnet.chain.devchain.code import BadCode, RuntimeVersion, embedded_version
from moesubnet.chain.devchain.compiled import _compiled, _kept, engine
from moesubnet.chain.devchain.executor import Executor, RuntimeTrap
from moesubnet.chain.devchain.genesis import build_genesis
from moesubnet.chain.devchain.hostfns import HostFunctions, twox
from moesubnet.chain.devchain.memory import HostError, LinearMemory
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import vec
from moesubnet.chain.devchain.trie import Trie
from moesubnet.errors import ConfigError


def call(function: str, data: bytes = b"") -> bytes:
    return Executor().call(runtime_wasm(), function, data, Overlay(Trie()))


@pytest.fixture
def host() -> HostFunctions:
    store = wasmtime.Store(wasmtime.Engine())
    kind = wasmtime.MemoryType(wasmtime.Limits(1, 64))
    memory = LinearMemory(store, wasmtime.Memory(store, kind))
    memory.open_heap(1024)
    return HostFunctions(memory)


def give(host: HostFunctions, data: bytes) -> int:
    return host._memory.allocate(data) | len(data) << 32


def at(host: HostFunctions, pointer: int, length: int) -> bytes:
    return host._memory.read(pointer, length)


def test_the_version_in_the_blob_is_the_one_the_runtime_answers() -> None:
    answered = RuntimeVersion.decode(call("Core_version"))
    embedded = embedded_version(runtime_wasm())
    assert embedded is not None
    assert sorted(embedded.apis) == sorted(answered.apis)
    assert embedded.spec_name == answered.spec_name == "moesubnet"
    assert embedded.spec_version == answered.spec_version
    assert embedded.state_version == answered.state_version == 1
    assert RuntimeVersion.decode(answered.encode()) == answered


def test_a_trap_names_the_reason_and_leaves_the_executor_usable() -> None:
    running, state = Executor(), Overlay(Trie())
    with pytest.raises(RuntimeTrap, match="Codec error"):
        running.call(runtime_wasm(), "Core_initialize_block", b"\xff", state)
    with pytest.raises(RuntimeTrap, match="Exported method Nothing_here is not found"):
        running.call(runtime_wasm(), "Nothing_here", b"", state)
    assert running.call(runtime_wasm(), "Core_version", b"", state) == call("Core_version")


def test_traps_and_large_calls_leave_no_memory_behind() -> None:
    running, process = Executor(), psutil.Process()
    running.call(runtime_wasm(), "Core_version", b"", Overlay(Trie()))
    gc.disable()
    try:
        before = process.memory_info()
        for garbage in (b"\xff", b"\xff" * 20_000_000):
            for _ in range(8):
                with pytest.raises(RuntimeTrap):
                    running.call(runtime_wasm(), "Core_initialize_block", garbage, Overlay(Trie()))
        large = vec(bytes(20_000_000))
        running.call(runtime_wasm(), "GenesisBuilder_get_preset", b"\1" + large, Overlay(Trie()))
        after = process.memory_info()
    finally:
        gc.enable()
    assert after.rss - before.rss < 2**27  # one of them takes 2**25 at least
    assert after.vms - before.vms < 2**33  # and reserves 2**32


def test_an_instance_forgets_the_previous_call() -> None:
    running = Executor()
    names = [
        running.call(runtime_wasm(), "GenesisBuilder_preset_names", b"", Overlay(Trie()))
        for _ in range(50)
    ]
    assert names == [call("GenesisBuilder_preset_names")] * 50


def test_code_that_is_no_runtime_is_refused() -> None:
    empty_module = b"\0asm\1\0\0\0"
    for code in (b"", b"garbage", empty_module, runtime_wasm()[:1000]):
        with pytest.raises(BadCode):
            Executor().call(code, "Core_version", b"", Overlay(Trie()))
    with pytest.raises(BadCode):
        embedded_version(decompress(runtime_wasm())[:-1])


def test_genesis_is_the_same_every_time_and_presets_differ() -> None:
    running = Executor()
    development = build_genesis(running, runtime_wasm(), "development")
    again = build_genesis(Executor(), runtime_wasm(), "development")
    local = build_genesis(running, runtime_wasm(), "local")
    assert development.block == again.block
    assert development.block.hash != local.block.hash
    assert "Alice" in funded_dev_accounts(development.state)
    assert funded_dev_accounts(Trie()) == []
    with pytest.raises(ConfigError, match="development"):
        build_genesis(running, runtime_wasm(), "mainnet")


def test_development_keys_are_those_everyone_derives() -> None:
    alice = "88dc3417d5058ec4b4503e0c12ea1a0a89be200fe98922423d4334014fa6b0ee"
    assert bytes.fromhex(alice) in dev_authority_secrets()


def test_compiled_code_is_kept_for_this_user_alone_and_made_again_if_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "moesubnet" / "wasm"
    code = bytes(wasmtime.wat2wasm("(module)"))
    _compiled(code)
    (kept,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
    kept.write_bytes(b"damaged")
    _compiled(code)
    assert kept.stat().st_size > 100
    for number in range(10):
        _compiled(bytes(wasmtime.wat2wasm(f"(module (memory {number}))")))
    assert len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("exposed", ["folder", "file", "link"])
def test_compiled_code_that_others_can_write_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exposed: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "moesubnet" / "wasm"
    code = bytes(wasmtime.wat2wasm("(module)"))
    _compiled(code)
    (kept,) = folder.iterdir()
    assert _kept(folder, kept.name) is not None
    if exposed == "folder":
        folder.chmod(0o777)
    elif exposed == "file":
        kept.chmod(0o666)
    else:
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    assert _kept(folder, kept.name) is None
    _compiled(code)  # compiles, whatever lies there


def test_a_home_that_cannot_be_written_costs_only_the_time_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _compiled(bytes(wasmtime.wat2wasm("(module)")))


def test_code_with_other_signatures_reaches_no_memory_of_ours() -> None:
    results = "i64 " * 64
    code = wasmtime.wat2wasm(
        '(module (import "env" "memory" (memory 1))'
        ' (import "env" "ext_logging_max_level_version_1" (func $level))'
        ' (global (export "__heap_base") i32 (i32.const 8))'
        f' (func (export "wide") (result {results}) {"(i64.const -1)" * 64})'
        ' (func (export "none") (param i32 i32) (result i64) call $level (i64.const 0)))'
    )
    with pytest.raises(RuntimeTrap, match="no entry"):
        Executor().call(bytes(code), "wide", b"", Overlay(Trie()))
    assert Executor().call(bytes(code), "none", b"", Overlay(Trie())) == b""


def test_wild_pointers_are_errors_and_never_reads_of_our_own_memory(host: HostFunctions) -> None:
    last_byte = 0x1_0000 - 1
    assert at(host, last_byte, 1) == b"\0"
    for pointer, length in ((last_byte, 2), (0, 0x1_0001), (0xFFFF_FFFF, 1)):
        with pytest.raises(HostError):
            at(host, pointer, length)
        with pytest.raises(HostError):
            host.ext_storage_get_version_1(pointer | length << 32)


def test_the_heap_grows_up_to_its_limit(host: HostFunctions) -> None:
    pointer = host._memory.allocate(b"x" * 1_000_000)
    assert at(host, pointer, 1_000_000) == b"x" * 1_000_000
    for _ in range(2):
        host._memory.allocate(b"x" * 1_000_000)
    with pytest.raises(HostError, match="exhausted"):
        host._memory.allocate(b"x" * 1_000_000)


def test_hashes_are_the_known_ones(host: HostFunctions) -> None:
    data = give(host, b"System")
    assert twox(b"System", 2).hex() == "26aa394eea5630e07c48ae0c9558cef7"
    assert twox(b"abc", 1).hex() == "990977adf52cbc44"
    nothing = give(host, b"")
    assert at(host, host.ext_hashing_keccak_256_version_1(nothing), 32).hex() == (
        "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    )
    digest = hashlib.blake2b(b"System", digest_size=16).digest()
    assert at(host, host.ext_hashing_blake2_128_version_1(data), 16) == digest


def test_the_instance_hashes_names_as_the_host_does() -> None:
    store = wasmtime.Store(engine())
    store.set_epoch_deadline(100)
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(2, 4)))
    inside = wasmtime.Instance(store, executor._inside(), [memory]).exports(store)
    heap = LinearMemory(store, memory)
    heap.open_heap(1024)
    inside["base"].set_value(store, 1024)  # type: ignore[union-attr]
    for length in range(200):
        data = os.urandom(length)
        memory.write(store, data, 0x1_0003)  # unaligned
        for name, words in (("twox_64", 1), ("twox_128", 2)):
            digest = inside[name](store, 0x1_0003 | length << 32)  # type: ignore[operator]
            assert heap.read(digest, 8 * words) == twox(data, words)
        heap.reset()
    with pytest.raises(wasmtime.Trap):
        inside["twox_64"](store, 0x1_FFFF | 2 << 32)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [KeypairType.SR25519, KeypairType.ED25519])
def test_signatures_verify_until_a_bit_flips(host: HostFunctions, kind: int) -> None:
    signer = Keypair.create_from_seed("0x" + "07" * 32, crypto_type=kind)
    verify = (
        host.ext_crypto_sr25519_verify_version_2
        if kind == KeypairType.SR25519
        else host.ext_crypto_ed25519_verify_version_1
    )
    message, signature = b"pay Bob", signer.sign(b"pay Bob")

    def verified(signed: bytes, text: bytes, key: bytes) -> int:
        allocate = host._memory.allocate
        return verify(allocate(signed), give(host, text), allocate(key))

    assert verified(signature, message, signer.public_key)
    assert not verified(signature, b"pay Eve", signer.public_key)
    assert not verified(signature, message, bytes(31) + b"\7")
    for i in (0, 31, 32, 63):
        flipped = signature[:i] + bytes((signature[i] ^ 0x80,)) + signature[i + 1 :]
        assert not verified(flipped, message, signer.public_key)


def test_ecdsa_keys_are_recovered_and_each_fault_has_its_code(host: HostFunctions) -> None:
    key, digest = PrivateKey(b"\7" * 32), hashlib.sha256(b"message").digest()
    signature = key.sign_recoverable(digest, hasher=None)

    def recovered(signed: bytes) -> bytes:
        span = host.ext_crypto_secp256k1_ecdsa_recover_compressed_version_2(
            host._memory.allocate(signed), host._memory.allocate(digest)
        )
        return at(host, span & 0xFFFF_FFFF, span >> 32)

    assert recovered(signature) == b"\0" + key.public_key.format()
    ethereum = signature[:64] + bytes((signature[64] + 27,))
    assert recovered(ethereum) == b"\0" + key.public_key.format()
    assert recovered(signature[:64] + b"\x09") == b"\1\1"
    assert recovered(b"\xff" * 64 + b"\0") == b"\1\0"
    assert recovered(bytes(64) + b"\0") == b"\1\2"


def test_partial_reads_return_how_much_was_left(host: HostFunctions) -> None:
    host.overlay.set(b"key", b"0123456789")
    key, out = give(host, b"key"), give(host, b"....")

    def read(offset: int) -> bytes:
        span = host.ext_storage_read_version_1(key, out, offset)
        return at(host, span & 0xFFFF_FFFF, span >> 32)

    assert read(3) == b"\1" + (7).to_bytes(4, "little")
    assert at(host, out & 0xFFFF_FFFF, 4) == b"3456"
    assert read(99) == b"\1" + bytes(4)
    host.overlay.set(b"key", None)
    assert read(0) == b"\0"


def test_a_call_that_does_not_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = wasmtime.wat2wasm(
        '(module (import "env" "memory" (memory 1))'
        ' (global (export "__heap_base") i32 (i32.const 1024))'
        ' (func (export "spin") (param i32 i32) (result i64) (loop (br 0)) (i64.const 0)))'
    )
    monkeypatch.setattr(executor, "CALL_TIMEOUT_S", 1)
    with pytest.raises(RuntimeTrap, match="interrupt"):
        Executor().call(bytes(endless), "spin", b"", Overlay(Trie()))


def test_a_host_function_that_we_lack_traps_only_when_it_is_called() -> None:
    asking = wasmtime.wat2wasm(
        '(module (import "env" "memory" (memory 1))'
        ' (import "env" "ext_unheard_of_version_9" (func $ask (param i32) (result i64)))'
        ' (global (export "__heap_base") i32 (i32.const 1024))'
        ' (func (export "ask") (param i32 i32) (result i64) (call $ask (i32.const 1)))'
        ' (func (export "echo") (param i32 i32) (result i64)'
        "  (i64.or (i64.extend_i32_u (local.get 0))"
        "          (i64.shl (i64.extend_i32_u (local.get 1)) (i64.const 32)))))"
    )
    running, state = Executor(), Overlay(Trie())
    assert running.call(bytes(asking), "echo", b"hello", state) == b"hello"
    with pytest.raises(RuntimeTrap, match="does not offer ext_unheard_of_version_9"):
        running.call(bytes(asking), "ask", b"", state)
    assert running.call(bytes(asking), "echo", b"hello", state) == b"hello"
