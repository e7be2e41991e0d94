"""What a person sees while a local network runs: stages, progress, a live table; or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from moesubnet.host.progress import Progress
from moesubnet.units import format_rao


@dataclass(frozen=True, slots=True)
class ExpertRow:
    """One miner as the chain and the validators see it. Fractions in 0..1."""

    uid: int
    name: str
    alive: bool
    answers: int  # calls answered to the router
    weights: Sequence[float]  # per validator, its share of that validator's vote
    incentive: float
    emission_rao: int  # paid at the last epoch
    stake_rao: int


@dataclass(frozen=True, slots=True)
class ValidatorRow:
    uid: int
    name: str
    alive: bool
    permit: bool
    dividends: float
    emission_rao: int
    stake_rao: int
    last_sheet_epoch: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole network at one block."""

    block: int
    epoch: int
    blocks_to_epoch: int
    experts: Sequence[ExpertRow]
    validators: Sequence[ValidatorRow]
    paid_rao: int  # incentive paid at the last epoch, all miners
    mixture_ppl: float | None  # on the newest revealed sheets
    best_expert_ppl: float | None
    why_unpaid: str | None


class Screen(Protocol):
    """Where a run tells what it does."""

    def stage(self, title: str) -> None: ...
    def progress(self, task: str, fraction: float, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def snapshot(self, snapshot: Snapshot) -> None: ...
    def table(self, name: str, table: Mapping[str, Any], rendered: RenderableType) -> None: ...
    def close(self) -> None: ...


class JsonScreen:
    """One JSON object a line on stdout."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def _emit(self, event: str, **data: Any) -> None:
        elapsed_s = round(time.monotonic() - self._start_s, 2)
        print(json.dumps({"t_s": elapsed_s, "event": event, **data}), flush=True)

    def stage(self, title: str) -> None:
        self._emit("stage", title=title)

    def progress(self, task: str, fraction: float, text: str) -> None:
        self._emit("progress", task=task, fraction=round(fraction, 4), text=text)

    def note(self, text: str) -> None:
        self._emit("note", text=text)

    def snapshot(self, snapshot: Snapshot) -> None:
        self._emit("snapshot", **asdict(snapshot))

    def table(self, name: str, table: Mapping[str, Any], rendered: RenderableType) -> None:
        self._emit("table", name=name, **table)

    def close(self) -> None:
        pass


class TextScreen:
    """Lines for a pipe or a log file: progress now and then, a snapshot an epoch."""

    PROGRESS_EVERY_S = 10.0

    def __init__(self) -> None:
        self._console = Console(width=100, highlight=False)
        self._start_s = time.monotonic()
        self._progress_s: dict[str, float] = {}
        self._epoch = -1

    def _say(self, text: str) -> None:
        clock = _clock(time.monotonic() - self._start_s)
        _print_line(self._console, f"[{clock}] {text}")

    def stage(self, title: str) -> None:
        self._say(f"== {title}")

    def progress(self, task: str, fraction: float, text: str) -> None:
        now = time.monotonic()
        if fraction >= 1.0 or now - self._progress_s.get(task, -1e9) >= self.PROGRESS_EVERY_S:
            self._progress_s[task] = now
            self._say(f"{task}: {fraction:4.0%} {text}")

    def note(self, text: str) -> None:
        self._say(text)

    def snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.epoch != self._epoch:
            self._epoch = snapshot.epoch
            self._console.print(render_snapshot(snapshot))

    def table(self, name: str, table: Mapping[str, Any], rendered: RenderableType) -> None:
        self._console.print(rendered)

    def close(self) -> None:
        pass


@dataclass(slots=True)
class _Task:
    fraction: float
    text: str


@dataclass
class LiveScreen:
    """A terminal: notes scroll, the table and the bars stay at the bottom."""

    console: Console = field(default_factory=lambda: Console(highlight=False))

    def __post_init__(self) -> None:
        self._start_s = time.monotonic()
        self._title = ""
        self._tasks: dict[str, _Task] = {}
        self._snapshot: Snapshot | None = None
        self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._render)
        self._live.start()

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._snapshot is not None:
            parts.append(render_snapshot(self._snapshot))
        for name, task in self._tasks.items():
            line = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=1.0, completed=task.fraction, width=28)
            line.add_row(f"{name:<22}", bar, f"{task.fraction:4.0%}", task.text)
            parts.append(line)
        parts.append(
            Text(f"{_clock(time.monotonic() - self._start_s)}  {self._title}", style="bold")
        )
        return Group(*parts)

    def stage(self, title: str) -> None:
        self._tasks.clear()
        self._title = title
        self.note(f"== {title}")

    def progress(self, task: str, fraction: float, text: str) -> None:
        if fraction >= 1.0:
            self._tasks.pop(task, None)
            self.note(f"{task}: {text}")
        else:
            self._tasks[task] = _Task(fraction, text)

    def note(self, text: str) -> None:
        clock = _clock(time.monotonic() - self._start_s)
        _print_line(self._live.console, f"[{clock}] {text}")

    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def table(self, name: str, table: Mapping[str, Any], rendered: RenderableType) -> None:
        self._live.console.print(rendered)

    def close(self) -> None:
        self._live.stop()


def open_screen(*, as_json: bool) -> Screen:
    """JSON lines, a live terminal, or plain lines when stdout is not a terminal."""
    if as_json:
        return JsonScreen()
    return LiveScreen() if sys.stdout.isatty() else TextScreen()


def training_text(report: Progress) -> str:
    """Loss, pace and time left of a training, where known."""
    parts = [] if report.loss is None else [f"loss {report.loss:.3f}"]
    if report.tokens_per_s is not None:
        parts.append(f"{report.tokens_per_s:,.0f} tokens/s")
    if report.fraction < 1 and report.eta_s is not None:
        parts.append(f"{report.eta_s:.0f} s left")
    return "  ".join(parts) or ("done" if report.fraction >= 1 else "")


def _print_line(console: Console, text: str) -> None:
    """As it is: a command that is broken into lines cannot be copied."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _mark(alive: bool) -> str:
    return "●" if alive else "[red]✗[/red]"


def render_snapshot(snapshot: Snapshot) -> RenderableType:
    """The live view, at most 100 columns."""
    experts = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("uid", "expert", "", "answers", "votes", "incentive", "paid/epoch", "stake"):
        left = title in ("expert", "")
        experts.add_column(title, justify="left" if left else "right", no_wrap=True)
    for row in snapshot.experts:
        experts.add_row(
            str(row.uid),
            row.name,
            _mark(row.alive),
            str(row.answers),
            " ".join(f"{share:.2f}" for share in row.weights) or "–",
            f"{row.incentive:.3f}",
            format_rao(row.emission_rao, decimals=3),
            format_rao(row.stake_rao, decimals=3),
        )
    judges = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("uid", "validator", "", "permit", "sheet", "dividends", "paid/epoch", "stake"):
        left = title in ("validator", "")
        judges.add_column(title, justify="left" if left else "right", no_wrap=True)
    for judge in snapshot.validators:
        sheet = "–" if judge.last_sheet_epoch is None else f"epoch {judge.last_sheet_epoch}"
        judges.add_row(
            str(judge.uid),
            judge.name,
            _mark(judge.alive),
            "yes" if judge.permit else "no",
            sheet,
            f"{judge.dividends:.3f}",
            format_rao(judge.emission_rao, decimals=3),
            format_rao(judge.stake_rao, decimals=3),
        )
    lines: list[RenderableType] = [experts, judges]
    if snapshot.mixture_ppl is not None and snapshot.best_expert_ppl is not None:
        lines.append(
            Text(
                f"perplexity on the validators' newest private text: mixture "
                f"{snapshot.mixture_ppl:.1f}, best single expert {snapshot.best_expert_ppl:.1f}"
            )
        )
    if snapshot.why_unpaid:
        lines.append(Text(snapshot.why_unpaid, style="yellow"))
    title = (
        f"block {snapshot.block} · epoch {snapshot.epoch} · "
        f"next epoch in {snapshot.blocks_to_epoch} blocks"
    )
    return Panel(Group(*lines), title=title, width=100, title_align="left")
