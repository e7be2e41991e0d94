"""`moesubnet chain export|import|reset|fork-at`: the embedded chain's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import confirm
from moesubnet.errors import ConfigError

if TYPE_CHECKING:
    from moesubnet.chain.devchain.archive import OnBlock
    from moesubnet.chain.devchain.chain import Chain

Preset = Annotated[str, typer.Option(help="Genesis of the chain: development or local.")]
BasePath = Annotated[
    Path | None, typer.Option(help="Where the chain lives.  [default: the user's data folder]")
]


def chain_folder(base_path: Path | None, preset: str) -> Path:
    """The folder that `chain dev` uses with the same options."""
    from platformdirs import user_data_path

    return base_path or user_data_path("moesubnet") / "chain" / preset


def export(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    preset: Preset = "development",
    base_path: BasePath = None,
) -> None:
    """Write the chain's blocks to a file.

    `moesubnet chain import` reads it, and so does `moesubnet-node import-blocks --binary`.
    """
    from moesubnet.chain.devchain.archive import export_blocks

    with closing(_existing(chain_folder(base_path, preset), preset)) as chain, _bar() as on_block:
        count = export_blocks(chain, file, on_block)
    typer.echo(f"{file}: {count:,} blocks, {file.stat().st_size:,} bytes")


def import_(
    file: Annotated[Path, typer.Argument(help="File that `chain export` wrote.", exists=True)],
    preset: Preset = "development",
    base_path: BasePath = None,
) -> None:
    """Read blocks from a file, executing and checking each.

    Blocks that are there already are passed over, so an interrupted import goes on.
    """
    from moesubnet.chain.devchain.archive import import_blocks

    with closing(_open(chain_folder(base_path, preset), preset)) as chain, _bar() as on_block:
        new = import_blocks(chain, file, on_block)
        head = chain.head.block
    typer.echo(f"{new:,} new blocks; the head is {head.number} 0x{head.hash.hex()}")


def reset(
    preset: Preset = "development",
    base_path: BasePath = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the chain. The next start begins at block 0."""
    folder = chain_folder(base_path, preset)
    with closing(_existing(folder, preset)) as chain:
        number = chain.head.block.number
    confirm(f"Delete the chain of {number:,} blocks in {folder}?", yes)
    for file in folder.glob("chain.sqlite*"):  # the folder may hold other things
        file.unlink()
    typer.echo(f"deleted the chain in {folder}")


def fork_at(
    block: Annotated[int, typer.Argument(min=0, help="The last block of the copy.")],
    to: Annotated[Path, typer.Option(help="Folder for the copy; it must not exist.")],
    preset: Preset = "development",
    base_path: BasePath = None,
) -> None:
    """Copy the chain as it was after a block, to try something there.

    It reaches back 4,096 blocks. The original is not touched; run the copy with
    `moesubnet chain dev --base-path COPY`.
    """
    from moesubnet.chain.devchain import archive

    source = chain_folder(base_path, preset)
    head = archive.fork_at(source, to, block, lambda folder: _existing(folder, preset))
    typer.echo(f"{to}: the head is {head.number} 0x{head.hash.hex()}")


def _existing(folder: Path, preset: str) -> Chain:
    if not (folder / "chain.sqlite").exists():
        raise ConfigError(f"there is no chain in {folder}: name its --base-path")
    return _open(folder, preset)


def _open(folder: Path, preset: str) -> Chain:
    from moesubnet.chain.devchain.blob import runtime_wasm
    from moesubnet.chain.devchain.chain import Chain

    return Chain(folder, runtime_wasm(), preset)


@contextmanager
def _bar() -> Iterator[OnBlock]:
    """A bar of blocks on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("blocks", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
