"""Distillation inside a local network, and the final table that it ends in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesubnet.errors import ConfigError
from moesubnet.host.progress import Progress
from moesubnet.host.supervisor import Supervisor
from moesubnet.localnet.plan import Plan
from moesubnet.localnet.prepare import Prepared
from moesubnet.localnet.view import Screen, training_text
from moesubnet.training.measured import margin_words
from moesubnet.types import Hotkey

FinalReport = Mapping[str, Any]  # report.json of `moesubnet distill run`, plus our own figures


def stored_report(plan: Plan) -> FinalReport | None:
    """The report of an earlier, finished distillation."""
    path = plan.student_dir / "report.json"
    finished = path.is_file() and (plan.student_dir / "manifest.json").is_file()
    return json.loads(path.read_text()) if finished else None


async def run_distillation(
    plan: Plan, prepared: Prepared, supervisor: Supervisor, screen: Screen
) -> FinalReport:
    """Run `moesubnet distill run` to its end. Raises ConfigError with its last words."""
    process = plan.distiller(prepared.corpora / "test")

    def show(line: str) -> None:
        try:
            said = json.loads(line)
            report = Progress(**said)
        except ValueError:
            screen.note(f"distiller: {line}")
        except TypeError:
            pass  # its last line, the report, which is read from its file
        else:
            screen.progress(report.task, report.fraction, training_text(report))

    process.on_line = show
    code = await supervisor.run(process)
    report = stored_report(plan)
    if code != 0 or report is None:
        raise ConfigError(
            f"distillation ended with exit code {code}; start again to go on where it stopped. "
            f"Its log ends with\n{process.last_lines()}"
        )
    return report


def final_table(
    report: FinalReport, prepared: Prepared, names: Mapping[Hotkey, str]
) -> RenderableType:
    """Perplexities on the final test part, costs, and whether each promise was kept."""
    rows = report["rows"]
    domains = list(rows[0]["loss"])
    title = Text("Perplexity on the final test part, which nothing was trained on", style="bold")
    table = Table(box=None)
    table.add_column("model")
    for domain in (*domains, "mixed"):
        table.add_column(domain, justify="right")
    best = {domain: min(row["loss"][domain] for row in rows) for domain in domains}
    for row in rows:
        loss = row["loss"]
        cells = [
            f"[bold]{math.exp(loss[d]):.1f}[/bold]" if loss[d] == best[d] else _ppl(loss[d])
            for d in domains
        ]
        mixed = _ppl(math.fsum(loss.values()) / len(loss))
        name = names.get(row["name"], row["name"]).replace("miner-", "expert ")
        table.add_row(name, *cells, mixed)
    if errors := rows[-1].get("error"):
        # Of the last row; the others' are nearly the same, as most of it is the text's.
        off = [f"±{math.expm1(errors[d]):.1%}" for d in domains]
        mixed_off = math.hypot(*errors.values()) / len(errors)
        table.add_row("standard error", *off, f"±{math.expm1(mixed_off):.1%}", style="dim")
    verdicts = [
        Text(
            f"{'yes' if kept else 'NO '}  {claim}{margin_words(report.get('margins', {}), claim)}",
            style="green" if kept else "red",
        )
        for claim, kept in report["verdicts"].items()
    ]
    training_s = sum(expert.cpu_s for expert in prepared.expert_reports.values())
    costs = Text(
        f"CPU-seconds: experts' own training {training_s:.0f} · collecting targets (miners and "
        f"distiller) {report['collect_cpu_s']:.0f} · student {report['student']['cpu_s']:.0f} · "
        f"plain, equal steps {_cpu(report, 'plain_equal_steps')} · "
        f"plain, equal CPU {_cpu(report, 'plain_equal_cpu')}\n"
        f"{report['tokens']:,} public tokens, {report['elapsed_s']:.0f} s in all"
    )
    return Group(title, table, *verdicts, costs)


def _ppl(loss: float) -> str:
    return f"{math.exp(loss):.1f}"


def _cpu(report: FinalReport, run: str) -> str:
    return f"{report[run]['cpu_s']:.0f}" if report.get(run) else "–"
