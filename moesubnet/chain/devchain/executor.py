"""Calls runtime functions: compiles the code once, keeps an instance warm, feeds it host functions.

An instance is reset between calls and thrown away after a trap. Callbacks use wasmtime's unchecked
interface (arguments at an address), several times cheaper than the checked one: a block makes
hundreds of host calls. Confined to one thread.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime
from wasmtime import _bindings as ffi

from moesubnet.chain.devchain.code import BadCode, decompress
from moesubnet.chain.devchain.hostfns import HostFunctions
from moesubnet.chain.devchain.memory import HostError, LinearMemory
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.errors import ChainError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

CALL_TIMEOUT_S = 30
_MEMORY_BYTES = 256 * 1024 * 1024
_WASM_STACK_BYTES = 1024 * 1024
_WARM_INSTANCES = 2

# How arguments lie in wasmtime's 16-byte values.
_LAYOUTS = {"i32": "I12x", "i64": "Q8x"}
_HEAP_IMPORTS = {"ext_allocator_malloc_version_1", "ext_allocator_free_version_1"}
# trap or 0 = callback(environment, caller, arguments and results, their count)
_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)


class RuntimeTrap(ChainError):
    """A runtime call panicked, trapped, overran its limits or does not exist."""


class Executor:
    """Runs calls against whatever code the caller's state holds."""

    def __init__(self, host: type[HostFunctions] = HostFunctions) -> None:
        self._host = host
        self._instances: OrderedDict[bytes, _Instance] = OrderedDict()  # by code, oldest first

    def call(self, code: bytes, function: str, data: bytes, overlay: Overlay) -> bytes:
        """The SCALE-encoded answer of `function(data)`, with its writes in `overlay`.

        Raises RuntimeTrap; the overlay's changes are then garbage.
        """
        instance = self._instances.pop(code, None) or _Instance(_compiled(code), self._host)
        answer = instance.call(function, data, overlay)
        self._instances[code] = instance
        while len(self._instances) > _WARM_INSTANCES:
            self._instances.popitem(last=False)
        return answer


class _Instance:
    def __init__(self, module: wasmtime.Module, host: type[HostFunctions]) -> None:
        engine = _engine()
        self._store = store = wasmtime.Store(engine)
        store.set_limits(memory_size=_MEMORY_BYTES)
        store.set_epoch_deadline(CALL_TIMEOUT_S)
        memory = wasmtime.Memory(store, _memory_type(module))
        self._memory = LinearMemory(store, memory)
        self._host = host(self._memory)
        self._failure: BaseException | None = None  # what a host function raised
        self._callbacks: list[CFuncPtr] = []  # the store knows them only by address
        linker = wasmtime.Linker(engine)
        linker.define(store, "env", "memory", memory)
        heap = wasmtime.Instance(store, _allocator(), [memory]).exports(store)
        for name in ("malloc", "free"):
            linker.define(store, "env", f"ext_allocator_{name}_version_1", heap[name])
        for wanted in module.imports:
            if isinstance(wanted.type, wasmtime.FuncType) and wanted.name not in _HEAP_IMPORTS:
                self._define(linker, wanted.module, wanted.name or "", wanted.type)
        try:
            self._exports = linker.instantiate(store, module).exports(store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise BadCode(f"the runtime does not start: {error}") from error
        end_of_statics, heap_base = self._exports.get("__heap_base"), heap["base"]
        if not isinstance(end_of_statics, wasmtime.Global):
            raise BadCode("the runtime does not export __heap_base")
        assert isinstance(heap_base, wasmtime.Global)
        base = (end_of_statics.value(store) + 7) & ~7
        heap_base.set_value(store, base)
        self._memory.open_heap(base)

    def call(self, function: str, data: bytes, overlay: Overlay) -> bytes:
        export = self._exports.get(function)
        if not isinstance(export, wasmtime.Func):
            raise RuntimeTrap(f"Other: Exported method {function} is not found")
        depth = overlay.depth
        self._host.overlay, self._host.last_error, self._failure = overlay, "", None
        self._memory.reset()
        self._store.set_epoch_deadline(CALL_TIMEOUT_S)
        values = (ffi.wasmtime_val_raw_t * 2)()
        values[0].i32, values[1].i32 = self._memory.allocate(data), len(data)
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ffi.wasmtime_func_call_unchecked(
            self._store._context(), ctypes.byref(export._func), values, 2, ctypes.byref(trap)
        )
        if error or trap:
            raise self._explain(function, error, trap)
        if overlay.depth != depth:
            raise RuntimeTrap(f"{function}: left a storage transaction open")
        span = values[0].i64
        return self._memory.read(span & 0xFFFF_FFFF, span >> 32 & 0xFFFF_FFFF)

    def _define(
        self, linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType
    ) -> None:
        if any(str(t) not in _LAYOUTS for t in (*kind.params, *kind.results)):
            raise BadCode(f"the runtime imports {name} with an unusual signature")
        method = getattr(self._host, name, None) if name.startswith("ext_") else None
        callback = self._callback(method or _not_offered(name), [str(t) for t in kind.params])
        self._callbacks.append(callback)
        error = ffi.wasmtime_linker_define_func_unchecked(
            linker.ptr(),
            ctypes.create_string_buffer(module.encode()),
            len(module.encode()),
            ctypes.create_string_buffer(name.encode()),
            len(name.encode()),
            kind.ptr(),
            ctypes.cast(callback, ffi.wasmtime_func_unchecked_callback_t),
            None,
            _NO_FINALIZER,
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    def _callback(self, method: Callable[..., int | None], params: list[str]) -> CFuncPtr:
        arguments = struct.Struct("<" + "".join(_LAYOUTS[kind] for kind in params))
        unpack_from, pack_into = arguments.unpack_from, struct.Struct("<Q").pack_into
        values_at = (ctypes.c_char * max(arguments.size, 8)).from_address

        def callback(_env: int, _caller: int, values: int | None, _count: int) -> int:
            try:
                block = values_at(values) if values else b""
                result = method(*unpack_from(block))
                if result is not None:
                    pack_into(block, 0, result)
            except BaseException as failure:  # noqa: BLE001 - raised again on the other side of C
                self._failure = failure
                pointer = wasmtime.Trap("host function failed")._consume()
                return ctypes.cast(pointer, ctypes.c_void_p).value or 0
            return 0

        return _CALLBACK(callback)

    def _explain(
        self,
        function: str,
        error: ctypes._Pointer[ffi.wasmtime_error],
        trap: ctypes._Pointer[ffi.wasm_trap_t],
    ) -> BaseException:
        """The exception to raise for a failed call; frees what wasmtime returned."""
        native: Exception = (
            wasmtime.WasmtimeError._from_ptr(error) if error else wasmtime.Trap._from_ptr(trap)
        )
        failure = self._failure
        if failure is not None and not isinstance(failure, Exception):
            return failure
        if failure is not None:
            native = failure
        reason = self._host.last_error or str(native).strip().splitlines()[-1].strip()
        trapped = RuntimeTrap(f"{function}: {reason}")
        trapped.__cause__ = native
        return trapped


def _not_offered(name: str) -> Callable[..., int]:
    def method(*_arguments: int) -> int:
        raise HostError(f"the host does not offer {name}")

    return method


def _memory_type(module: wasmtime.Module) -> wasmtime.MemoryType:
    for wanted in module.imports:
        if isinstance(wanted.type, wasmtime.MemoryType):
            return wanted.type
    raise BadCode("the runtime does not import its memory")


@cache
def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = _WASM_STACK_BYTES
    config.memory_may_move = False
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)

    def tick() -> None:
        while True:
            time.sleep(1)
            engine.increment_epoch()

    threading.Thread(target=tick, name="wasm-deadline", daemon=True).start()
    return engine


@cache
def _allocator() -> wasmtime.Module:
    text = resources.files("moesubnet.chain.devchain").joinpath("allocator.wat").read_text()
    return wasmtime.Module(_engine(), bytes(wasmtime.wat2wasm(text)))


def _compiled(code: bytes) -> wasmtime.Module:
    """The module, from the cache if this machine compiled it before.

    A cached module is native code: it is loaded only from a directory that is ours alone, and
    wasmtime itself refuses one made by another version of it, for another CPU or other settings.
    """
    engine = _engine()
    wasmtime_version = importlib.metadata.version("wasmtime")
    key = f"{sha256(code).hexdigest()}-{wasmtime_version}-{platform.machine()}"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "moesubnet" / "wasm" / key
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours = path.parent.stat()
    trusted = ours.st_uid == os.getuid() and not ours.st_mode & 0o022
    if trusted and path.exists():
        try:
            return wasmtime.Module.deserialize_file(engine, str(path))
        except wasmtime.WasmtimeError:
            pass  # made by another build or on another machine: compile again
    try:
        module = wasmtime.Module(engine, decompress(code))
    except wasmtime.WasmtimeError as error:
        raise BadCode(f"the runtime does not compile: {error}") from error
    if trusted:
        unfinished = path.with_name(f"{key}.{os.getpid()}")
        unfinished.write_bytes(module.serialize())
        unfinished.replace(path)
    return module
