"""The committed runtime is the one that the sources beside it compile to."""

from pathlib import Path

import pytest

from moesubnet.chain.devchain import blob


def test_the_blob_was_built_from_the_sources_in_this_checkout() -> None:
    built_from = blob.SOURCES_SHA256.read_text().strip()
    assert built_from == blob.sources_sha256(), "run scripts/build-runtime and commit the blob"


def test_the_blob_unpacks_to_wasm_with_a_readable_version() -> None:
    wasm = blob.decompress(blob.runtime_wasm())
    assert wasm.startswith(b"\0asm\x01\0\0\0")
    assert b"runtime_version" in wasm
    assert b"moesubnet" in wasm


def test_the_sources_hash_sees_every_change_that_reaches_the_blob(tmp_path: Path) -> None:
    source = tmp_path / "runtime" / "src" / "lib.rs"
    source.parent.mkdir(parents=True)
    source.write_text("fn a() {}")
    before = blob.sources_sha256(tmp_path)
    (tmp_path / "runtime" / "tests").mkdir()
    (tmp_path / "runtime" / "tests" / "a.rs").write_text("fn test() {}")
    assert blob.sources_sha256(tmp_path) == before
    source.rename(source.with_name("main.rs"))
    renamed = blob.sources_sha256(tmp_path)
    assert renamed != before
    source.with_name("main.rs").write_text("fn b() {}")
    assert blob.sources_sha256(tmp_path) not in (before, renamed)


def test_a_blob_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob, "MAX_WASM_BYTES", 1000)
    assert blob.decompress(blob.compress(bytes(1000))) == bytes(1000)
    with pytest.raises(ValueError, match="more than 1000"):
        blob.decompress(blob.compress(bytes(1001)))
    with pytest.raises(ValueError, match="not valid zstd"):
        blob.decompress(blob.COMPRESSED_PREFIX + b"garbage")
