"""Chains as files: what goes out comes back the same, and nothing else comes in."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.archive import export_blocks, fork_at, import_blocks
from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.chain import Chain
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.cli import build_app
from moesubnet.errors import ChainError, ConfigError
from moesubnet.types import Coldkey
from moesubnet.units import RAO_PER_TOKEN

BOB = Coldkey(keypair_from_uri("//Bob//cold").ss58_address)
TRANSFERS = 4


def open_chain(folder: Path) -> Chain:
    return Chain(folder, runtime_wasm(), "development")


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of four blocks with a transfer of one token each."""
    import asyncio

    folder = tmp_path_factory.mktemp("source") / "chain"

    async def live() -> None:
        async with (
            DevChain.open(folder, seal="instant") as dev,
            serve_chain(dev) as server,
            await ChainClient.connect(server.url, timeout_s=30) as client,
        ):
            for _ in range(TRANSFERS):
                await client.transfer(BOB, RAO_PER_TOKEN, keypair_from_uri("//Alice"))

    asyncio.run(live())
    return folder


@pytest.fixture
def blocks(source: Path, tmp_path: Path) -> Path:
    with closing(open_chain(source)) as chain:
        assert export_blocks(chain, tmp_path / "blocks", silent) == TRANSFERS
    return tmp_path / "blocks"


def test_an_imported_chain_is_the_exported_one(source: Path, blocks: Path, tmp_path: Path) -> None:
    with closing(open_chain(source)) as one, closing(open_chain(tmp_path / "other")) as other:
        assert import_blocks(other, blocks, silent) == TRANSFERS
        assert other.head.block == one.head.block
        assert dict(other.head.state.items()) == dict(one.head.state.items())
        again = tmp_path / "again"
        export_blocks(other, again, silent)
    assert again.read_bytes() == blocks.read_bytes()


def test_an_interrupted_import_goes_on(blocks: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(blocks.read_bytes()[:-50])
    with closing(open_chain(tmp_path / "other")) as chain:
        with pytest.raises(ConfigError, match=f"damaged in its block {TRANSFERS}"):
            import_blocks(chain, cut, silent)
        assert chain.head.block.number == TRANSFERS - 1
    with closing(open_chain(tmp_path / "other")) as chain:
        assert import_blocks(chain, blocks, silent) == 1


def test_no_flipped_byte_comes_in(blocks: Path, tmp_path: Path) -> None:
    data = blocks.read_bytes()
    with closing(open_chain(tmp_path / "other")) as chain:
        for at in range(8, len(data), 97):
            flipped = tmp_path / "flipped"
            flipped.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
            with pytest.raises((ConfigError, ChainError)):
                import_blocks(chain, flipped, silent)
        import_blocks(chain, blocks, silent)
        assert chain.head.block.number == TRANSFERS


def test_blocks_of_another_chain_are_refused(blocks: Path, tmp_path: Path) -> None:
    with closing(open_chain(tmp_path / "other")) as chain:
        chain.author(10**12, [])
        with pytest.raises(ConfigError, match="of another chain: its block 1"):
            import_blocks(chain, blocks, silent)


def test_a_fork_is_the_chain_as_it_was_and_goes_its_own_way(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with closing(open_chain(source)) as chain:
        second = chain.block_at(2)
        assert second is not None
        then = dict(chain.view(second.hash).state.items())
        head = chain.head.block
    assert fork_at(source, copy, 2, open_chain) == second
    with closing(open_chain(copy)) as chain:
        assert chain.head.block == second
        assert dict(chain.head.state.items()) == then
        chain.author(10**13, [])
        assert chain.head.block.number == 3
        assert chain.view(second.hash).state.get(b":code") == then[b":code"]
    with closing(open_chain(source)) as chain:
        assert chain.head.block == head
    with pytest.raises(ConfigError, match="exists"):
        fork_at(source, copy, 2, open_chain)
    with pytest.raises(ChainError, match="no block 99"):
        fork_at(source, tmp_path / "third", 99, open_chain)
    assert not (tmp_path / "third").exists()


def test_the_commands_say_what_they_did(source: Path, tmp_path: Path) -> None:
    def run(*words: str, text: str | None = None) -> str:
        arguments = ["chain", *words]
        done = CliRunner().invoke(build_app(), arguments, catch_exceptions=False, input=text)
        assert done.exit_code == 0, done.output
        return done.stdout

    file, other = str(tmp_path / "blocks"), str(tmp_path / "other")
    assert f"{TRANSFERS} blocks" in run("export", file, "--base-path", str(source))
    assert f"{TRANSFERS} new blocks" in run("import", file, "--base-path", other)
    assert "0 new blocks" in run("import", file, "--base-path", other)
    fork = str(tmp_path / "fork")
    assert "the head is 1 0x" in run("fork-at", "1", "--to", fork, "--base-path", other)
    with pytest.raises(ConfigError, match="--yes"):  # nobody can be asked here
        run("reset", "--base-path", other)
    assert Path(other).exists()
    assert "deleted" in run("reset", "--yes", "--base-path", other)
    assert Path(other).exists()
    with pytest.raises(ConfigError, match="no chain in"):
        run("export", file, "--base-path", other)
