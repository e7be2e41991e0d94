"""What the documents show exists: links, commands, code, the worked examples."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from moesubnet.cli import build_app
from moesubnet.mixture.sheet import Sheet, micro_nats
from tests.sheets import sheet_of, voted

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
INLINE = re.compile(r"`([^`\n]+)`")


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language; "" for those that name none."""
    return [body for found, body in FENCE.findall(text_of(name)) if found == language]


def prose(name: str) -> str:
    return FENCE.sub("", text_of(name))


def arguments(line: str) -> list[str]:
    """The words after `moesubnet`, without comments and the ellipses of prose."""
    return [word for word in shlex.split(line, comments=True)[1:] if word != "…"]


def whole_commands(name: str) -> list[str]:
    """The lines of blocks that someone would copy."""
    lines = "\n".join(blocks(name, "") + blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*moesubnet\s", line)]


@pytest.fixture(scope="module")
def command_line() -> Any:
    return typer.main.get_command(build_app())


def every_command(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, under in getattr(command, "commands", {}).items():
        yield from every_command(under, (*words, name))
    yield " ".join(words), command


def test_examples_in_help_keep_their_lines(command_line: Any) -> None:
    for words, command in every_command(command_line):
        shown = command.get_help(command.context_class(command, info_name=words))
        for line in (command.help or "").splitlines():
            if line.startswith("    "):
                assert line.strip() in map(str.strip, shown.splitlines()), f"{words} --help"


def test_no_list_of_commands_cuts_what_one_does(command_line: Any) -> None:
    for words, command in every_command(command_line):
        under = getattr(command, "commands", {})
        for name, one in under.items():
            room = 78 - 6 - max(map(len, under))  # as click reckons
            assert not one.get_short_help_str(room).endswith("..."), f"{words} {name}"


def leaf(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` name, as deep as they go, and what is left of them."""
    while words and not words[0].startswith("-"):
        if not (subcommands := getattr(command, "commands", {})):
            break
        assert words[0] in subcommands, f"there is no command {words[0]!r}"
        command, words = subcommands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    for target in LINK.findall(prose(name)):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_can_be_copied_is_complete(name: str, command_line: Any) -> None:
    for line in whole_commands(name):
        command, words = leaf(command_line, arguments(line))
        command.make_context(line, words)  # an unknown option or a missing one raises


@pytest.mark.parametrize("name", NAMES)
def test_a_command_named_in_prose_exists_with_its_options(name: str, command_line: Any) -> None:
    for code in INLINE.findall(prose(name)):
        if re.match(r"moesubnet\s", code):
            command, words = leaf(command_line, arguments(code))
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            used = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert used <= options | {"--help"}, code


@pytest.mark.parametrize("name", NAMES)
def test_a_script_that_is_shown_can_be_run(name: str) -> None:
    for script in re.findall(r"\bscripts/[a-z][a-z-]*\b", text_of(name)):
        assert os.access(ROOT / script, os.X_OK), script


@pytest.mark.parametrize("name", NAMES)
def test_python_in_documents_compiles(name: str) -> None:
    for body in blocks(name, "python"):
        compile(body, name, "exec")


def test_the_worked_frame_is_what_the_code_writes() -> None:
    (code,) = blocks("docs/protocol.md", "python")
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/protocol.md", "exec"), namespace)
    dump = next(body for body in blocks("docs/protocol.md", "") if body.startswith("0000  "))
    rows = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?){1,16})", dump, re.MULTILINE)
    assert bytes.fromhex("".join(rows)) == namespace["request_bytes"]


def test_the_signed_text_of_the_protocol_has_the_hash_that_it_names() -> None:
    text = next(b for b in blocks("docs/protocol.md", "") if b.startswith("btauth/1")).rstrip("\n")
    assert hashlib.sha256(text.encode()).hexdigest() in text_of("docs/protocol.md")


def voted_sheet() -> Sheet:
    """Three experts, one of them a clone of the first, 16 walks of 4 items; some are silent."""
    rng = np.random.default_rng(5)
    walk = np.repeat(np.arange(16, dtype="<u4"), 4)
    log_q = micro_nats(np.log(rng.uniform(0.02, 0.6, (64, 4)) * [1.0, 1.0, 0.5, 0.2]))
    log_w = micro_nats(np.log(rng.dirichlet(np.ones(4), 64)))
    log_q[:9, 2], log_w[:9, 2] = -(2**31) + 1, -(2**31)
    chosen = (rng.random((16, 3)) < 0.8).astype(np.uint8)
    took = rng.integers(90, 110, (64, 3))
    took[:40, 0] = took[:40, 1] + 5  # in most walks it waits for the other one
    entropy = rng.integers(0, 3_000_000, (64, 3))
    unvoted = sheet_of(
        ("a", "b", "c"),
        uids=(4, 0, 2),
        took_100us=np.where(log_q[:, :-1] < -(2**30), 0, took).astype("<u2"),
        entropy=np.where(log_q[:, :-1] < -(2**30), 0, entropy).astype("<i4"),
        walks=tuple(np.zeros(8, "<u4") for _ in range(16)),
        chosen=chosen,
        walk=walk,
        position=np.tile(np.arange(4, 8, dtype="<u4"), 16),
        log_q=log_q,
        log_w=log_w,
        usage_loss_ppm=(70_000, 0, 20_000),
        feedback_ppm=(-50_000, 30_000, 0),
        ema_before=(None, 400_000_000, 100_000_000),
    )
    return voted(unvoted)


def test_the_script_that_recounts_a_vote_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = voted_sheet()
    path = tmp_path / "sheet"
    path.write_bytes(sheet.to_bytes())
    monkeypatch.setattr(sys, "argv", ["recount.py", str(path)])
    (code,) = blocks("docs/incentive.md", "python")
    exec(compile(code, "docs/incentive.md", "exec"), {})
    printed = capsys.readouterr().out
    assert sheet.sha256.hex() in printed
    assert int(printed.rsplit(maxsplit=1)[1]) <= 1
    assert len(set(sheet.row_u16)) == 3, "the sheet tells the experts apart"
