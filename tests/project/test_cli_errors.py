"""What ends a command is said in words, also when it comes out of several tasks at once."""

import asyncio
from collections.abc import Callable

import pytest
import typer

from moesubnet import cli
from moesubnet.errors import (
    CallRejected,
    ChainError,
    ChainUnavailable,
    ConfigError,
    Declined,
    PeerResting,
    WalletError,
)


async def _raise(error: Exception) -> None:
    raise error


async def _together() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise(ChainError("another chain answers")))


def _fail_together() -> None:
    asyncio.run(_together())


def _raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def _end_of(fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> object:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(fail)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("fail", "words"),
    [(_raising(WalletError("no such key")), "no such key"), (_fail_together, "another chain")],
)
def test_an_error_is_one_line_and_exit_code_1(monkeypatch, capsys, fail, words) -> None:
    assert _end_of(fail, monkeypatch) == 1
    assert capsys.readouterr().err.strip().startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a wrong amount"), 2),
        (CallRejected("NotSubnetOwner"), 3),
        (ChainUnavailable("no chain answers"), 4),
        (PeerResting("failed a moment ago"), 4),
        (Declined("nothing was sent"), 5),
    ],
)
def test_an_exit_code_says_what_to_do_next(monkeypatch, error, code) -> None:
    assert _end_of(_raising(error), monkeypatch) == code


def test_a_bug_stays_a_traceback(monkeypatch) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(lambda: 1 / 0)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
