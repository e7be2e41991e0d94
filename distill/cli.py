"""`moesubnet distill …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.host.options import DEFAULT_CHAIN, AllowPrivate, Chain, LogLevel, Netuid, SpecDir
from moesubnet.training.options import PrecisionOption, Seed, Track

if TYPE_CHECKING:
    from moesubnet.distill.forecast import Settings
    from moesubnet.distill.run import Report
    from moesubnet.host.progress import OnProgress
    from moesubnet.types import Signer

LOW_KEPT_MASS = 0.8

distill_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@distill_app.callback()
def _group() -> None:
    """Turn the mixture into one student."""


@distill_app.command()
def run(
    hotkey: Annotated[
        str, typer.Option(help="Key that signs calls to miners: a wallet `name/hotkey`, or //URI.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the student; an interrupted run goes on.")],
    spec: SpecDir = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <domain>.jsonl that nothing was trained on: also run the plain "
            "opponents and print the table. Without it only the student is made."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin the student as this model (its folder or hub id, with the subnet's "
            "tokenizer) instead of as a small one, from nothing. Without --lora all of its weights "
            "are trained.",
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="RANK",
            help="Of a model --from: train a LoRA adapter of this rank in its place. The student "
            "is the model with the adapter merged.",
        ),
    ] = None,
    student_seconds: Annotated[
        float, typer.Option(min=1.0, help="Training time of the student, seconds.")
    ] = 150.0,
    min_steps: Annotated[
        int, typer.Option(min=1, help="The student's steps to do however long it takes.")
    ] = 1,
    epochs: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="In place of --student-seconds: how often the targets are read.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Windows of 128 tokens in a step, over all devices.")
    ] = 8,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="With --from: the highest; by default 2e-4 of an adapter, else 2e-5, and that of "
            "small ones where the model has under 20 M parameters."
        ),
    ] = None,
    precision: PrecisionOption = "auto",
    track: Track = None,
    fresh: Annotated[
        bool, typer.Option(help="Train anew instead of continuing; targets are kept.")
    ] = False,
    written: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="TOKENS",
            help="Also learn from so many tokens that the mixture writes itself, from beginnings "
            "of the public text: a router's drafts of such text are kept more often.",
        ),
    ] = 0,
    prefill: Annotated[
        bool,
        typer.Option(
            help="Send whole windows at once. The same numbers sooner, but only where every "
            "expert is trusted: it sees each token before it answers for it."
        ),
    ] = False,
    samples: Annotated[
        bool,
        typer.Option(
            help="Large vocabularies: keep 32 labels drawn from the mixture instead of the fewest "
            "tokens that hold most of it."
        ),
    ] = False,
    seed: Seed = 0,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    allow_private: AllowPrivate = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
    log_level: LogLevel = "warning",
) -> None:
    """Train a student on the mixture's laws of the public text.

    They are collected through the miners; then a model is trained on them.

    \b
        moesubnet distill run --hotkey mine/default --out student
        moesubnet distill run --hotkey mine/default --out student \\
            --from google/gemma-3-270m --lora 16 --epochs 2

    With --from it says first what memory training will take, and before it begins what time. With
    --test the student is then compared with plain training, every expert and the mixtures. Without
    it one window in twenty is held out (none of which half occurs in the rest) and measured before
    and after, in a tenth of --student-seconds each at most, beside the mixture. The same command
    goes on with what was interrupted. On several devices, the same command behind
    `torchrun --nproc-per-node N -m` or `accelerate launch --multi_gpu -m`: the first process
    collects, then all of them train.
    """
    import asyncio
    import json
    from dataclasses import asdict

    from moesubnet.chain.wallet import load_hotkey
    from moesubnet.distill.forecast import Settings
    from moesubnet.errors import ConfigError
    from moesubnet.host.log import set_up_logging
    from moesubnet.host.progress import json_lines, on_terminal
    from moesubnet.training.team import launched
    from moesubnet.training.tracking import tracked

    set_up_logging(log_level)
    if base is None and learning_rate is not None:
        raise ConfigError("--learning-rate is of a model to start --from")
    if launched()[0] != 0:
        from moesubnet.distill.jobs import work_in_team

        work_in_team(None)
        return
    settings = Settings(
        out,
        test,
        student_s=student_seconds,
        min_steps=min_steps,
        base=base,
        lora_rank=lora,
        epochs=epochs,
        batch=batch,
        lr=learning_rate,
        precision=precision,
        fresh=fresh,
        written_tokens=written,
        prefill=prefill,
        samples=samples,
        seed=seed,
    )
    where = (chain, netuid, load_hotkey(hotkey), spec, allow_private)

    def distilled(on_progress: OnProgress) -> Report:
        with tracked(track, out, on_progress) as on_progress:
            return asyncio.run(_run(*where, settings, on_progress))

    if as_json:
        print(json.dumps({"report": asdict(distilled(json_lines))}), flush=True)
        return
    with on_terminal() as progress:
        report = distilled(progress)
    _show(report, out)


async def _run(
    chain: str,
    netuid: int,
    signer: Signer,
    spec_dir: Path | None,
    allow_private: bool,
    settings: Settings,
    on_progress: OnProgress,
) -> Report:
    from dataclasses import replace

    from moesubnet.distill.app import meet_experts
    from moesubnet.distill.run import distill
    from moesubnet.types import NetUid

    async with meet_experts(
        chain,
        NetUid(netuid),
        signer,
        spec_dir,
        settings.out / "work" / "sheets",
        allow_private=allow_private,
        prefill=settings.prefill,
    ) as (spec, teacher):
        settings = replace(settings, window=min(settings.window, spec.spec.context_tokens))
        return await distill(spec, teacher, settings, on_progress, _say)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _show(report: Report, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from moesubnet.training.measured import margin_words

    console = Console()
    if report.rows:
        domains = list(report.rows[0].perplexity)
        table = Table("perplexity on the final test", *domains)
        for row in report.rows:
            table.add_row(row.name, *(f"{row.perplexity[domain]:.1f}" for domain in domains))
        console.print(table)
        for claim, holds in report.verdicts.items():
            by = margin_words(report.margins, claim)
            console.print(f"{'yes' if holds else 'NO '}  {claim}{by}")
    console.print(
        f"targets: {report.tokens:,} tokens in {report.collect_s:.0f} s, "
        f"{report.collect_cpu_s:.0f} CPU-seconds of all processes; "
        f"student: {report.student.steps} steps, {report.student.cpu_s:.0f} CPU-seconds"
    )
    if report.student.perplexity_before is not None:
        console.print(report.student.held_out_words)
    if report.kept_mass < LOW_KEPT_MASS:
        console.print(
            f"The kept heads hold only {report.kept_mass:.0%} of the mixture's mass: "
            "try --samples, whose labels are drawn from the whole of it, the tail in the "
            "baseline's proportions."
        )
    console.print(f"student {report.student_sha256[:16]} in {out}")
