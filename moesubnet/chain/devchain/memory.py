"""Linear memory of a runtime instance, and the host's side of the heap in `allocator.wat`.

The engine reserves the address space up front, so the memory never moves and is read and written
by address. Every access is checked against its size: pointers come from the runtime.
"""

from __future__ import annotations

import ctypes

import wasmtime

from moesubnet.errors import ChainError

_PAGE_BYTES = 0x1_0000
_LARGEST_BLOCK_BYTES = 0x200_0000
_BUMP_OFFSET = 92  # see allocator.wat
_HEAP_HEAD_BYTES = 96


class HostError(ChainError):
    """The runtime asked the host for something it does not offer, or passed it a wild pointer."""


class LinearMemory:
    """Reads, writes and allocates in `memory`."""

    def __init__(self, store: wasmtime.Store, memory: wasmtime.Memory) -> None:
        self._store = store
        self._memory = memory
        self._address = ctypes.addressof(memory.data_ptr(store).contents)
        self._size = memory.data_len(store)
        self._start = 0
        self._image = b""

    def open_heap(self, heap_base: int) -> None:
        """Lay an empty heap at `heap_base` (8-aligned) and remember how everything is now."""
        heap_start = heap_base + _HEAP_HEAD_BYTES
        self._reserve(heap_start)
        self._bump = ctypes.c_uint32.from_address(self._address + heap_base + _BUMP_OFFSET)
        self._bump.value = heap_start
        # Statics and an empty heap; what lies before (the stack) and after needs no restoring.
        image = self.read(0, heap_start)
        self._start = len(image) - len(image.lstrip(b"\0"))
        self._image = image[self._start :]

    def reset(self) -> None:
        """As after instantiation: statics restored, heap empty."""
        ctypes.memmove(self._address + self._start, self._image, len(self._image))

    def read(self, pointer: int, length: int) -> bytes:
        self._check(pointer + length)
        return ctypes.string_at(self._address + pointer, length)

    def write(self, pointer: int, data: bytes) -> None:
        self._check(pointer + len(data))
        ctypes.memmove(self._address + pointer, data, len(data))

    def allocate(self, data: bytes) -> int:
        """Pointer to a new block that holds `data`; the runtime frees it."""
        if len(data) > _LARGEST_BLOCK_BYTES:
            raise HostError(f"{len(data)} bytes do not fit into one block")
        order = ((len(data) or 1) - 1 | 7).bit_length() - 3
        block = self._bump.value + 8
        end = block + (8 << order)
        if end > self._size:
            self._reserve(end)
        self._bump.value = end
        address = self._address + block
        # All eight bytes: the runtime keeps its alignment offset in the last two, and frees by it.
        ctypes.c_uint64.from_address(address - 8).value = order
        ctypes.memmove(address, data, len(data))
        return block

    def _check(self, end: int) -> None:
        if end > self._size:
            self._size = self._memory.data_len(self._store)  # the runtime may have grown it
            if end > self._size:
                raise HostError(f"access up to {end} in a memory of {self._size} bytes")

    def _reserve(self, end: int) -> None:
        self._size = self._memory.data_len(self._store)
        if end > self._size:
            pages = (end - self._size + _PAGE_BYTES - 1) // _PAGE_BYTES
            try:
                self._memory.grow(self._store, pages)
            except wasmtime.WasmtimeError as error:
                raise HostError("the runtime's heap is exhausted") from error
            self._size = self._memory.data_len(self._store)
