"""What ends a command is said in words, also when it comes out of several tasks at once."""

import asyncio

import pytest
import typer

from moesubnet import cli
from moesubnet.errors import ChainError, ConfigError


async def _raise(error: Exception) -> None:
    raise error


async def _together() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise(ChainError("another chain answers")))


def _fail_alone() -> None:
    raise ConfigError("a wrong option")


def _fail_together() -> None:
    asyncio.run(_together())


@pytest.mark.parametrize(
    ("fail", "words"), [(_fail_alone, "a wrong option"), (_fail_together, "another chain answers")]
)
def test_an_error_is_one_line_and_exit_code_1(monkeypatch, capsys, fail, words) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(fail)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == f"error: {words}"


def test_a_bug_stays_a_traceback(monkeypatch) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(lambda: 1 / 0)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
