"""`moesubnet expert train`: from a folder of text to an expert that a miner can serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import ask_chain
from moesubnet.errors import ConfigError
from moesubnet.host.options import DEFAULT_CHAIN, AllowPrivateHere, Chain, Netuid, SpecDir
from moesubnet.host.paths import text_files
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.training.options import PrecisionOption, Seed, Track
from moesubnet.types import NetUid
from moesubnet.wire.addresses import names_loopback

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient
    from moesubnet.host.progress import OnProgress
    from moesubnet.training.expert import ExpertReport
    from moesubnet.training.fine_tuned import FineTuneReport
    from moesubnet.training.finetune import FineTuning

_OF_A_MODEL = ("lora", "merge", "epochs", "window", "batch", "learning_rate", "precision")
_OF_A_SMALL_ONE = ("min_steps",)
SLOW_TOKENS_PER_S = 1_500
SMALL_EXPERT_S = 120.0
STOPPED = 130  # as a shell says of what Ctrl-C ended


def train(
    ctx: typer.Context,
    text: Annotated[list[str], typer.Option(help="Files to learn from; a glob, may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the expert; an interrupted run continues.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from this model: its folder, or its hub id. It needs the subnet's "
            "tokenizer. Without it a small model is trained from nothing.",
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train an adapter of this rank (8 to 64 are usual) instead of all weights of "
            "--from: a fraction of the memory. Needs moesubnet[lora].",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Write base and adapter as one model, not as an adapter."),
    ] = False,
    spec: SpecDir = None,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    allow_private: AllowPrivateHere = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Training time, seconds: 120 by default; with --from an end before --epochs are "
            "done, none by default.",
        ),
    ] = None,
    min_steps: Annotated[
        int, typer.Option(min=1, help="Without --from: steps to do however long it takes.")
    ] = 300,
    epochs: Annotated[
        float, typer.Option(min=0.01, help="With --from: how often the text is read.")
    ] = 2.0,
    window: Annotated[
        int, typer.Option(min=32, help="With --from: tokens that the model sees at once.")
    ] = 1_024,
    batch: Annotated[
        int, typer.Option(min=1, help="With --from: windows of a step, over all devices.")
    ] = 8,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0, help="With --from: the highest; by default 2e-4 of an adapter, else 2e-5."
        ),
    ] = None,
    precision: PrecisionOption = "auto",
    track: Track = None,
    seed: Seed = 0,
    fresh: Annotated[bool, typer.Option(help="Start over instead of continuing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
) -> None:
    """Train an expert on your own text.

    From a model that you have, or a small one from nothing.

    \b
        moesubnet expert train --text '~/notes/**/*.md' --out my-expert
        moesubnet expert train --from google/gemma-3-270m --lora 16 \\
            --text '~/code/**/*.py' --out my-adapter

    With --from it says first what memory and time it will take. One text in twenty is held out
    (none that also occurs in the rest) and measured before and after, in a tenth of --seconds
    each at most. Ctrl-C keeps the work, twice
    ends at once; the same command goes on. On several devices, the same command behind
    `torchrun --nproc-per-node N -m` or `accelerate launch --multi_gpu -m`.
    """
    paths = text_files(text)
    if others := _given(ctx, _OF_A_MODEL if base is None else _OF_A_SMALL_ONE):
        way = "with a model to start --from" if base is None else "without --from"
        raise ConfigError(f"only {way}: {others}")
    is_local = names_loopback(chain) if allow_private is None else allow_private
    published = partial(_published_spec, netuid, is_local)
    loaded = load_spec(spec) if spec else ask_chain(chain, published)
    from moesubnet.engine.named import needs_adapter

    if base is not None and needs_adapter(base, loaded):
        raise ConfigError(
            "this subnet is over bytes, and a model learns over its own tokens. Make the spec of "
            f"its family: moesubnet spec new --from {base} --text … --out own-spec; train with "
            "--spec own-spec; miner run serves what comes of it here"
        )

    from moesubnet.host.progress import json_lines, on_terminal
    from moesubnet.training.tracking import tracked

    def run(progress: OnProgress) -> ExpertReport | FineTuneReport | None:
        with tracked(track, out, progress) as progress:
            if base is None:
                from moesubnet.training.expert import train_expert

                return train_expert(
                    paths,
                    out,
                    loaded,
                    budget_s=SMALL_EXPERT_S if seconds is None else seconds,
                    min_steps=min_steps,
                    seed=seed,
                    resume=not fresh,
                    progress=progress,
                )
            from moesubnet.training.finetune import FineTuning

            settings = FineTuning(
                base=base,
                lora_rank=lora,
                merge=merge,
                window=min(window, loaded.spec.context_tokens),
                batch=batch,
                epochs=epochs,
                seconds=seconds,
                lr=learning_rate,
                precision=precision,
                seed=seed,
            )
            return _fine_tune(paths, out, loaded, settings, progress, fresh=fresh)

    if as_json:
        report = run(json_lines)
        print(json.dumps({"report": report and asdict(report)}), flush=True)
    else:
        with on_terminal() as progress:
            report = run(progress)
    if report is None:
        typer.echo(f"stopped; {out} holds what there is, and the same command goes on", err=True)
        raise typer.Exit(STOPPED)
    if not as_json:
        typer.echo(_in_words(out, report))


def _given(ctx: typer.Context, names: Sequence[str]) -> str:
    """Those of the options that were typed."""
    typed = [name for name in names if str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")]
    return ", ".join("--" + name.replace("_", "-") for name in typed)


def _fine_tune(
    paths: list[Path],
    out: Path,
    spec: LoadedSpec,
    settings: FineTuning,
    progress: OnProgress,
    *,
    fresh: bool,
) -> FineTuneReport | None:
    from moesubnet.host.interrupt import first_interrupt
    from moesubnet.training.finetune import fine_tune
    from moesubnet.training.team import team_of_this_process

    with team_of_this_process() as team, first_interrupt() as should_stop:
        report = fine_tune(
            paths,
            out,
            spec,
            settings,
            resume=not fresh,
            on_progress=progress,
            say=lambda text: typer.echo(text, err=True) if team.rank == 0 else None,
            should_stop=should_stop,
            team=team,
        )
    if team.rank != 0:
        raise typer.Exit(STOPPED if report is None else 0)
    return report


def _in_words(out: Path, report: ExpertReport | FineTuneReport) -> str:
    from moesubnet.training.expert import ExpertReport

    if not isinstance(report, ExpertReport):
        gained = report.perplexity_after < report.perplexity_before
        return (
            f"{out}: {report.trained_parameters:,} of {report.parameters:,} parameters trained, "
            f"{_work(report)}\n{report.held_out_words}"
            + (
                ""
                if gained
                else "\nIt got worse: give more text, fewer --epochs, or a smaller --learning-rate."
            )
        )
    text = f"{out}: {report.parameters:,} parameters, {_work(report)}\n{report.held_out_words}"
    if report.seen_tokens < SLOW_TOKENS_PER_S * report.elapsed_s:
        text += (
            f"\nThis machine trains slowly ({report.seen_tokens / report.elapsed_s:,.0f} "
            "tokens/s): a longer --seconds makes a better expert."
        )
    return text


def _work(report: ExpertReport | FineTuneReport) -> str:
    """Tokens that it read again count again."""
    return (
        f"{report.steps} steps in {report.elapsed_s:.0f} s; they read {report.seen_tokens:,} "
        f"tokens, of a text of {report.train_tokens:,}"
    )


async def _published_spec(netuid: int, allow_private: bool, client: ChainClient) -> LoadedSpec:
    from moesubnet.spec.source import find_spec

    metagraph = await client.metagraph(NetUid(netuid))
    return await find_spec(None, metagraph, allow_private=allow_private)


if __name__ == "__main__":
    typer.run(train)
