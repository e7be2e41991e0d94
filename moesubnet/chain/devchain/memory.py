"""Linear memory of a runtime instance, and the host's side of the heap in `host.wat`.

The engine reserves the address space up front, so the memory never moves and views of it stay
good. Every access is checked against its size: pointers come from the runtime.
"""

from __future__ import annotations

import wasmtime

from moesubnet.errors import ChainError

_PAGE_BYTES = 0x1_0000
_LARGEST_BLOCK_BYTES = 0x200_0000
_BUMP_OFFSET = 92  # see host.wat
_HEAP_HEAD_BYTES = 96
_ZEROS = bytes(4096)


class HostError(ChainError):
    """The runtime asked the host for something it does not offer, or passed it a wild pointer."""


class LinearMemory:
    """Reads, writes and allocates in `memory`."""

    def __init__(self, store: wasmtime.Store, memory: wasmtime.Memory) -> None:
        self._store = store
        self._memory = memory
        self._bump = 0  # index of the bump pointer in `_words`
        self._start = 0
        self._image = b""
        self._map()

    def open_heap(self, heap_base: int) -> None:
        """Lay an empty heap at `heap_base` (8-aligned) and remember how everything is now."""
        heap_start = heap_base + _HEAP_HEAD_BYTES
        self._grow_to(heap_start)
        self._bump = (heap_base + _BUMP_OFFSET) // 4
        self._words[self._bump] = heap_start
        # Statics and an empty heap; what lies before (the stack) and after needs no restoring.
        image = self.read(0, heap_start)
        while image.startswith(_ZEROS, self._start):
            self._start += len(_ZEROS)
        self._image = image[self._start :]

    @property
    def size_bytes(self) -> int:
        return len(self._bytes)

    def reset(self) -> None:
        """As after `open_heap`: statics restored, heap empty."""
        self._bytes[self._start : self._start + len(self._image)] = self._image

    def read(self, pointer: int, length: int) -> bytes:
        data = self._bytes[pointer : pointer + length].tobytes()
        if len(data) != length:
            self._check(pointer + length)
            return self._bytes[pointer : pointer + length].tobytes()
        return data

    def write(self, pointer: int, data: bytes) -> None:
        end = pointer + len(data)
        if end > len(self._bytes):
            self._check(end)
        self._bytes[pointer:end] = data

    def allocate(self, data: bytes) -> int:
        """Pointer to a new block that holds `data`; the runtime frees it."""
        length = len(data)
        if length > _LARGEST_BLOCK_BYTES:
            raise HostError(f"{length} bytes do not fit into one block")
        order = ((length or 1) - 1 | 7).bit_length() - 3
        block = self._words[self._bump] + 8
        end = block + (8 << order)
        if end > len(self._bytes):
            self._grow_to(end)
        self._words[self._bump] = end
        # All eight bytes: the runtime keeps its alignment offset in the last two, and frees by it.
        self._longs[block // 8 - 1] = order
        self._bytes[block : block + length] = data
        return block

    def _check(self, end: int) -> None:
        self._map()  # the runtime may have grown it
        if end > len(self._bytes):
            raise HostError(f"access up to {end} in a memory of {len(self._bytes)} bytes")

    def _grow_to(self, end: int) -> None:
        self._map()
        if end > len(self._bytes):
            pages = (end - len(self._bytes) + _PAGE_BYTES - 1) // _PAGE_BYTES
            try:
                self._memory.grow(self._store, pages)
            except wasmtime.WasmtimeError as error:
                raise HostError("the runtime's heap is exhausted") from error
            self._map()

    def _map(self) -> None:
        """Views of the memory at its present size: no view reaches beyond it."""
        self._bytes = memoryview(self._memory.get_buffer_ptr(self._store)).cast("B")
        self._words = self._bytes.cast("I")
        self._longs = self._bytes.cast("Q")
