"""Calls runtime functions: compiles the code once, keeps an instance warm, feeds it host functions.

An instance is reset between calls and thrown away after a trap. Callbacks use wasmtime's unchecked
interface (arguments at an address), several times cheaper than the checked one: a block makes
hundreds of host calls. Confined to one thread.
"""

from __future__ import annotations

import ctypes
import struct
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import wasmtime
from wasmtime import _bindings as ffi

from moesubnet.chain.devchain.code import BadCode
from moesubnet.chain.devchain.compiled import compiled, engine
from moesubnet.chain.devchain.hostfns import HostFunctions
from moesubnet.chain.devchain.memory import HostError, LinearMemory
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.errors import ChainError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

CALL_TIMEOUT_S = 30
_MEMORY_BYTES = 256 * 1024 * 1024
_WARM_INSTANCES, _WARM_MEMORY_BYTES = 2, 64 * 1024 * 1024

# How arguments lie in wasmtime's 16-byte values.
_LAYOUTS = {"i32": "I12x", "i64": "Q8x"}
_ENTRY = (["i32", "i32"], ["i64"])  # type of what a runtime exports to be called
# What the instance is offered inside of it, without calling out: imports by exports of host.wat.
_INSIDE = {
    "ext_allocator_malloc_version_1": "malloc",
    "ext_allocator_free_version_1": "free",
    "ext_hashing_twox_64_version_1": "twox_64",
    "ext_hashing_twox_128_version_1": "twox_128",
}
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
        instance = self._instances.pop(code, None) or _Instance(compiled(code), self._host)
        try:
            answer = instance.call(function, data, overlay)
        except BaseException:
            instance.close()
            raise
        if instance.memory_bytes > _WARM_MEMORY_BYTES:
            instance.close()
            return answer
        self._instances[code] = instance
        if len(self._instances) > _WARM_INSTANCES:
            self._instances.popitem(last=False)[1].close()
        return answer

    def close(self) -> None:
        """Give the memory of warm instances back."""
        while self._instances:
            self._instances.popitem()[1].close()


class _Instance:
    def __init__(self, module: wasmtime.Module, host: type[HostFunctions]) -> None:
        self._store = store = wasmtime.Store(engine())
        store.set_limits(memory_size=_MEMORY_BYTES)
        store.set_epoch_deadline(CALL_TIMEOUT_S)
        memory = wasmtime.Memory(store, _memory_type(module))
        self._memory = LinearMemory(store, memory)
        self._host = host(self._memory)
        self._entries: dict[str, wasmtime.Func] = {}
        self._failure: BaseException | None = None  # what a host function raised
        self._callbacks: list[CFuncPtr] = []  # the store knows them only by address
        linker = wasmtime.Linker(engine())
        linker.define(store, "env", "memory", memory)
        inside = wasmtime.Instance(store, _inside(), [memory]).exports(store)
        for wanted_name, name in _INSIDE.items():
            linker.define(store, "env", wanted_name, inside[name])
        for wanted in module.imports:
            if isinstance(wanted.type, wasmtime.FuncType) and wanted.name not in _INSIDE:
                self._define(linker, wanted.module, wanted.name or "", wanted.type)
        try:
            self._exports = linker.instantiate(store, module).exports(store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise BadCode(f"the runtime does not start: {error}") from error
        end_of_statics, heap_base = self._exports.get("__heap_base"), inside["base"]
        if not isinstance(end_of_statics, wasmtime.Global):
            raise BadCode("the runtime does not export __heap_base")
        assert isinstance(heap_base, wasmtime.Global)
        base = (end_of_statics.value(store) + 7) & ~7
        heap_base.set_value(store, base)
        self._memory.open_heap(base)

    @property
    def memory_bytes(self) -> int:
        return self._memory.size_bytes

    def close(self) -> None:
        """Give its memory back now; the garbage collector comes late to cycles."""
        self._store.close()

    def call(self, function: str, data: bytes, overlay: Overlay) -> bytes:
        entry = self._entry(function)
        depth = overlay.depth
        self._host.overlay, self._host.last_error, self._failure = overlay, "", None
        self._memory.reset()
        self._store.set_epoch_deadline(CALL_TIMEOUT_S)
        values = (ffi.wasmtime_val_raw_t * 2)()
        values[0].i32, values[1].i32 = self._memory.allocate(data), len(data)
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ffi.wasmtime_func_call_unchecked(
            self._store._context(), ctypes.byref(entry._func), values, 2, ctypes.byref(trap)
        )
        if error or trap:
            raise self._explain(function, error, trap)
        if overlay.depth != depth:
            raise RuntimeTrap(f"{function}: left a storage transaction open")
        span = values[0].i64
        return self._memory.read(span & 0xFFFF_FFFF, span >> 32 & 0xFFFF_FFFF)

    def _entry(self, function: str) -> wasmtime.Func:
        """An export to call. Nothing else checks its type: another would write past our values."""
        entry = self._entries.get(function)
        if entry is None:
            export = self._exports.get(function)
            if not isinstance(export, wasmtime.Func):
                raise RuntimeTrap(f"Other: Exported method {function} is not found")
            kind = export.type(self._store)
            if ([*map(str, kind.params)], [*map(str, kind.results)]) != _ENTRY:
                raise RuntimeTrap(f"Other: Exported method {function} is no entry of a runtime")
            entry = self._entries[function] = export
        return entry

    def _define(
        self, linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType
    ) -> None:
        if any(str(t) not in _LAYOUTS for t in (*kind.params, *kind.results)):
            raise BadCode(f"the runtime imports {name} with an unusual signature")
        method = getattr(self._host, name, None) if name.startswith("ext_") else None
        params = [str(t) for t in kind.params]
        callback = self._callback(method or _not_offered(name), params, len(kind.results))
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

    def _callback(
        self, method: Callable[..., int | None], params: list[str], results: int
    ) -> CFuncPtr:
        arguments = struct.Struct("<" + "".join(_LAYOUTS[kind] for kind in params))
        unpack_from, pack_into = arguments.unpack_from, struct.Struct("<Q").pack_into
        values_at = (ctypes.c_char * max(arguments.size, 8)).from_address

        def callback(_env: int, _caller: int, values: int | None, _count: int) -> int:
            try:
                block = values_at(values) if values else b""
                result = method(*unpack_from(block))
                if results:
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
def _inside() -> wasmtime.Module:
    text = resources.files("moesubnet.chain.devchain").joinpath("host.wat").read_text()
    return wasmtime.Module(engine(), bytes(wasmtime.wat2wasm(text)))
