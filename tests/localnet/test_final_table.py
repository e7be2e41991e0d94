"""The table that a localnet ends in, as a person reads it."""

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from moesubnet.localnet.distilling import final_table


def shown(report: dict[str, Any]) -> list[str]:
    prepared: Any = SimpleNamespace(expert_reports={})
    console = Console(width=100)
    with console.capture() as caught:
        console.print(final_table(report, prepared, {"5F…": "miner-python"}))  # type: ignore[dict-item]
    return [" ".join(line.split()) for line in caught.get().splitlines()]


def test_the_table_says_how_sure_its_figures_and_its_verdicts_are():
    losses = {"5F…": 3.0, "gated mixture": 2.9}
    rows = [
        {"name": name, "loss": {"cpp": nats, "prose": 4.0}, "error": {"cpp": 0.03, "prose": 0.04}}
        for name, nats in losses.items()
    ]
    report: dict[str, Any] = {
        "rows": rows,
        "verdicts": {"gated mixture below every expert": True, "student below": False},
        "margins": {"gated mixture below every expert": [0.05, 0.0123]},
        "collect_cpu_s": 1.0,
        "student": {"cpu_s": 1.0},
        "tokens": 5,
        "elapsed_s": 4.0,
    }
    lines = shown(report)
    assert "expert python 20.1 54.6 33.1" in lines
    assert "standard error ±3.0% ±4.1% ±2.5%" in lines, "mixed: √(0.03² + 0.04²) / 2"
    assert "yes gated mixture below every expert (0.050 ± 0.012 nats a token)" in lines
    assert "NO student below" in lines

    del report["margins"]  # as older versions stored it
    for row in rows:
        del row["error"]
    lines = shown(report)
    assert "yes gated mixture below every expert" in lines
    assert not any("standard error" in line for line in lines)
