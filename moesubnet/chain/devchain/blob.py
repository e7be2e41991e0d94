"""The compiled runtime that ships with the package, and the hash of the sources behind it.

`scripts/build-runtime` compiles the runtime and calls this module to store or compare it; a test
refuses a blob whose sources have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

BLOB = Path(__file__).with_name("runtime.compact.compressed.wasm")
SOURCES_SHA256 = Path(__file__).with_name("runtime.sources.sha256")
WORKSPACE = Path(__file__).parents[3] / "chain_pallet"

# Marks zstd-compressed code for every Substrate executor.
COMPRESSED_PREFIX = bytes((82, 188, 83, 118, 70, 219, 142, 5))
MAX_WASM_BYTES = 50 * 1024 * 1024

# What the blob is compiled from, relative to the Cargo workspace.
_SOURCES = ("Cargo.toml", "Cargo.lock", "yuma", "pallets", "runtime")
_NOT_IN_BLOB = {"tests", "benches", "examples", "fuzz", "target"}


def runtime_wasm() -> bytes:
    """The runtime as it stands under `:code`: zstd behind `COMPRESSED_PREFIX`."""
    return BLOB.read_bytes()


def decompress(code: bytes) -> bytes:
    """Plain WASM of `code`, which may be compressed or not. ValueError above 50 MiB."""
    if not code.startswith(COMPRESSED_PREFIX):
        return code
    import zstandard

    frame = code[len(COMPRESSED_PREFIX) :]
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
            wasm: bytes = reader.read(MAX_WASM_BYTES + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"the code is not valid zstd: {error}") from error
    if len(wasm) > MAX_WASM_BYTES:
        raise ValueError(f"the code unpacks to more than {MAX_WASM_BYTES} bytes")
    return wasm


def compress(wasm: bytes) -> bytes:
    import zstandard

    return COMPRESSED_PREFIX + zstandard.ZstdCompressor(level=19).compress(wasm)


def sources_sha256(root: Path = WORKSPACE) -> str:
    """SHA-256 (hex) over path and content of every source of the blob, in order of path."""
    digest = hashlib.sha256()
    for path in sorted(_sources(root), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(root: Path) -> set[Path]:
    found = set()
    for name in _SOURCES:
        for path in [root / name, *(root / name).rglob("*")]:
            inside = _NOT_IN_BLOB.isdisjoint(path.relative_to(root).parts)
            if inside and path.is_file() and (path.suffix == ".rs" or path.stem == "Cargo"):
                found.add(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wasm", type=Path, help="what cargo built")
    parser.add_argument("--check", action="store_true", help="compare with the committed blob")
    arguments = parser.parse_args()
    wasm = arguments.wasm.read_bytes()
    if not arguments.check:
        BLOB.write_bytes(compress(wasm))
        SOURCES_SHA256.write_text(sources_sha256() + "\n")
        print(f"{BLOB}: {BLOB.stat().st_size} bytes, {len(wasm)} unpacked")
    elif decompress(runtime_wasm()) != wasm:
        # Another compiler gives other bytes; the blob names its own in the section `producers`.
        sys.exit("the committed blob differs from this build: other sources or another rustc")


if __name__ == "__main__":
    main()
