"""Chains as files: blocks out and in, and a copy of a chain that ends at an older block.

A file of blocks is what Substrate nodes read and write with `import-blocks --binary` and
`export-blocks --binary`: a little-endian u64 count, then each block in SCALE with an empty option
of justifications behind it.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from moesubnet.chain.devchain.chain import Chain
from moesubnet.chain.devchain.header import Block
from moesubnet.chain.devchain.scale import Reader
from moesubnet.errors import ChainError, ConfigError

_COUNT_BYTES = 8
_NO_JUSTIFICATIONS = b"\0"

OnBlock = Callable[[int, int], None]  # blocks done, of how many


def export_blocks(chain: Chain, file: Path, on_block: OnBlock) -> int:
    """Write all blocks but the genesis to `file`. Returns how many."""
    count = chain.head.block.number
    temporary = file.with_name(f"{file.name}.tmp")
    with temporary.open("wb") as out:
        out.write(count.to_bytes(_COUNT_BYTES, "little"))
        for number in range(1, count + 1):
            block = chain.block_at(number)
            assert block is not None
            out.write(block.encode() + _NO_JUSTIFICATIONS)
            on_block(number, count)
    os.replace(temporary, file)
    return count


def import_blocks(chain: Chain, file: Path, on_block: OnBlock) -> int:
    """Execute every block of `file` that the chain does not have. Returns how many were new.

    What is there already must be the same, so an import that was interrupted goes on. Raises
    ConfigError for a file of another chain, ChainError for a block that is wrong.
    """
    with file.open("rb") as handle:
        try:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file
            raise ConfigError(f"{file} holds no blocks") from error
        with data:
            return _import(chain, file, Reader(data), on_block)  # type: ignore[arg-type]  # slices as bytes


def _import(chain: Chain, file: Path, reader: Reader, on_block: OnBlock) -> int:
    count, new = reader.uint(_COUNT_BYTES), 0
    for done in range(1, count + 1):
        try:
            block = Block.read(reader)
            if reader.uint(1):
                for _ in range(reader.compact()):  # a node's justifications; here all is final
                    reader.take(4)
                    reader.vec()
        except ChainError as error:
            raise ConfigError(f"{file} ends or is damaged in its block {done}: {error}") from error
        known = chain.block_at(block.number)
        if known is None:
            chain.add(block)
            new += 1
        elif known.hash != block.hash:
            raise ConfigError(
                f"{file} is of another chain: its block {block.number} is 0x{block.hash.hex()}, "
                f"the one here is 0x{known.hash.hex()}"
            )
        on_block(done, count)
    return new


def fork_at(source: Path, target: Path, number: int, open_chain: Callable[[Path], Chain]) -> Block:
    """Copy the chain in folder `source` to `target` and rewind the copy to block `number`.

    Returns that block. Raises ConfigError when `target` exists or the source is in use.
    """
    if target.exists():
        raise ConfigError(f"{target} exists: name a folder that does not")
    open_chain(source).close()  # whole, of this runtime, and nobody writes it
    shutil.copytree(source, target)
    chain = open_chain(target)
    try:
        chain.rewind(number)
        return chain.head.block
    except BaseException:
        chain.close()
        shutil.rmtree(target)
        raise
    finally:
        chain.close()
