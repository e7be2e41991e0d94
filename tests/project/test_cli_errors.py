"""What ends a command is said in words, also when it comes out of several tasks at once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

from moesubnet import cli
from moesubnet.chain.nouns import LastReveal
from moesubnet.doctor import check_sheets
from moesubnet.errors import (
    CallRejected,
    ChainError,
    ChainUnavailable,
    ConfigError,
    Declined,
    PeerResting,
    WalletError,
)
from moesubnet.host.paths import disk_errors
from moesubnet.types import Uid


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


def test_a_home_folder_is_found_where_the_shell_leaves_it_alone(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    seen: list[str] = []

    def command(text: str, out: str, name: str) -> None:
        seen.extend([text, out, name])

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet", "~/notes/**/*.md", "~", "a~/b"])
    with pytest.raises(SystemExit):
        cli.main()
    assert seen == ["/home/ann/notes/**/*.md", "/home/ann", "a~/b"]
    assert cli._at_home("--out=~/x") == "--out=/home/ann/x"
    assert cli._at_home("--out=~x/y") == "--out=~x/y"


def test_the_doctor_takes_who_never_votes_for_no_fault() -> None:
    voted = LastReveal(7, "ab" * 32)
    found = check_sheets([(Uid(0), None), (Uid(1), voted), (Uid(2), LastReveal(7, None))])
    assert [(finding.ok, finding.text[:5]) for finding in found] == [
        (True, "uid 1"),
        (False, "uid 2"),
    ]
    assert [f.text for f in check_sheets([(Uid(0), None)])] == [
        "no validator has revealed a vote yet"
    ]


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


@pytest.mark.parametrize("bug", [ZeroDivisionError(), FileNotFoundError(2, "gone", "a")])
def test_a_bug_stays_a_traceback(monkeypatch, bug) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(_raising(bug))
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["moesubnet"])
    with pytest.raises(type(bug)):
        cli.main()


@pytest.mark.parametrize("library", ["python", "safetensors"])
def test_a_disk_that_is_full_is_one_line(monkeypatch, capsys, library) -> None:
    """`/dev/full` is such a disk, but for safetensors, which renames what it wrote."""

    def command() -> None:
        if library == "python":
            Path("/dev/full").write_text("x")
        with disk_errors(Path("a")):
            raise SafetensorError("while serializing: No space left on device (os error 28)")

    assert _end_of(command, monkeypatch) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_path_that_cannot_be_written_is_said(monkeypatch, capsys, tmp_path) -> None:
    (tmp_path / "file").touch()
    assert _end_of(lambda: (tmp_path / "file" / "x").touch(), monkeypatch) == 1
    assert f"Not a directory: '{tmp_path}/file/x'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["router run --hotkey //Alice", "chain dev", "localnet"])
def test_a_port_that_is_none_is_refused_in_words(command: str) -> None:
    option = "--router-port" if command == "localnet" else "--port"
    done = CliRunner().invoke(cli.build_app(), [*command.split(), option, "99999"])
    assert done.exit_code == 2
    assert option in done.output
