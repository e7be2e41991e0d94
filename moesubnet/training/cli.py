"""`moesubnet expert train`: from a folder of text to an expert that a miner can serve."""

from __future__ import annotations

import glob
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import ask_chain
from moesubnet.errors import ConfigError
from moesubnet.host.options import DEFAULT_CHAIN, Chain, Netuid
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.types import NetUid

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient

SLOW_TOKENS_PER_S = 1_500


def train(
    text: Annotated[list[str], typer.Option(help="Files to learn from; a glob, may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the expert; an interrupted run continues.")],
    spec: Annotated[
        Path | None,
        typer.Option(help="Folder with the subnet's spec.json; by default the owner's, by chain."),
    ] = None,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Training time, seconds.")] = 120.0,
    min_steps: Annotated[int, typer.Option(min=1, help="Steps to do however long it takes.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the first weights and the batches.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Start over instead of continuing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
) -> None:
    """Train a small expert from raw text with the subnet's tokenizer."""
    paths = sorted({Path(name) for pattern in text for name in glob.glob(pattern, recursive=True)})
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise ConfigError(f"no file matches {' '.join(text)}")
    loaded = load_spec(spec) if spec else ask_chain(chain, partial(_published_spec, netuid))

    from moesubnet.training.expert import train_expert
    from moesubnet.training.progress import json_lines, on_terminal

    run = partial(
        train_expert, paths, out, loaded, budget_s=seconds, min_steps=min_steps, seed=seed
    )
    if as_json:
        report = run(resume=not fresh, progress=json_lines)
        print(json.dumps({"report": asdict(report)}), flush=True)
        return
    with on_terminal() as progress:
        report = run(resume=not fresh, progress=progress)
    typer.echo(
        f"{out}: {report.parameters:,} parameters, {report.steps} steps over "
        f"{report.train_tokens:,} tokens in {report.elapsed_s:.0f} s\n"
        f"held-out perplexity {report.held_out_perplexity:.1f}"
    )
    if report.seen_tokens < SLOW_TOKENS_PER_S * report.elapsed_s:
        typer.echo(
            f"This machine trains slowly ({report.seen_tokens / report.elapsed_s:,.0f} tokens/s): "
            "a longer --seconds makes a better expert."
        )


async def _published_spec(netuid: int, client: ChainClient) -> LoadedSpec:
    from moesubnet.spec.source import find_spec

    return await find_spec(None, await client.metagraph(NetUid(netuid)))


if __name__ == "__main__":
    typer.run(train)
