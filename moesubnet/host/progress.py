"""How what runs long tells where it is: a bar for people, lines for pipes and machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

PLAIN_LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. `fraction` ∈ [0, 1] of the work; `loss` in nats per token."""

    task: str
    fraction: float
    loss: float | None
    elapsed_s: float
    tokens_per_s: float | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before there is a pace."""
        if self.fraction <= 0:
            return None
        return self.elapsed_s * (1 - self.fraction) / self.fraction

    def text(self) -> str:
        parts = [self.task, f"{self.fraction:.0%}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.eta_s is not None:
            parts.append(f"{self.eta_s:.0f} s left")
        return "  ".join(parts)


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Tell nobody."""


def json_lines(progress: Progress) -> None:
    """One JSON object a line on stdout, for a supervisor."""
    print(json.dumps(asdict(progress)), flush=True)


def plain_lines() -> OnProgress:
    """A line on stderr every ten seconds, and the last."""
    last_s: dict[str, float] = {}

    def show(progress: Progress) -> None:
        due = progress.elapsed_s - last_s.get(progress.task, -PLAIN_LINE_EVERY_S)
        if due >= PLAIN_LINE_EVERY_S or progress.fraction >= 1:
            last_s[progress.task] = progress.elapsed_s
            print(progress.text(), file=sys.stderr, flush=True)

    return show


@contextmanager
def on_terminal() -> Iterator[OnProgress]:
    """A bar per task on a terminal, plain lines anywhere else."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.task not in tasks:
                tasks[progress.task] = bars.add_task(progress.task, total=1.0, detail="")
            loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            bars.update(tasks[progress.task], completed=progress.fraction, detail=loss)

        yield show
