"""The validator's commands, as a person types them."""

import asyncio
import contextlib
import dataclasses
import json
import sqlite3

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from moesubnet.errors import ConfigError, FrameError
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_W_NONE, micro_nats
from moesubnet.validator.cli import validator_app
from moesubnet.validator.records import Phase
from moesubnet.validator.state import State
from tests.sheets import sheet_of, voted

MINER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"  # //Alice


@pytest.fixture
def sheet():
    return voted(
        sheet_of(
            (MINER,),
            epoch=7,
            validator="5V",
            uids=(3,),
            walks=tuple(np.zeros(34, "<u4") for _ in range(4)),
            walk=np.repeat(np.arange(4, dtype="<u4"), 2),
            position=np.tile(np.array([32, 33], "<u4"), 4),
            log_q=micro_nats(np.log(np.tile([0.5, 0.01], (8, 1)))),
            log_w=micro_nats(np.full((8, 2), np.log(0.5))),
            entropy=np.full((8, 1), 500_000, np.int32),
        )
    )


def run(*arguments):
    return CliRunner().invoke(validator_app, arguments)


@pytest.mark.parametrize("who", [MINER, "//Alice"])
def test_explain_reads_the_own_state_or_a_published_sheet(tmp_path, sheet, who):
    state = State(tmp_path / "validator.sqlite3")
    state.close_epoch(sheet, (1, 2), Phase.PREPARED, [], b"")
    state.close()
    (tmp_path / "some.sheet").write_bytes(sheet.to_bytes())
    own = run("explain", who, "--state-dir", str(tmp_path))
    published = run("explain", who, "--sheet", str(tmp_path / "some.sheet"))
    assert own.exit_code == published.exit_code == 0
    assert own.output == published.output
    assert "uid 3" in own.output
    assert "It earns because" in own.output
    assert len(own.output.splitlines()) <= 24


def test_explain_sees_a_vote_that_does_not_follow_from_its_sheet(tmp_path, sheet):
    path = tmp_path / "some.sheet"
    path.write_bytes(sheet.to_bytes().replace(b"\xcd\xff\xff", b"\xcd\x00\x09"))  # not canonical
    assert isinstance(run("explain", MINER, "--sheet", str(path)).exception, FrameError)
    path.write_bytes(sheet.to_bytes().replace(b"\xcd\xff\xff", b"\xcd\x7f\xff"))
    assert "RECOUNT DISAGREES" in run("explain", MINER, "--sheet", str(path)).output


def test_who_was_not_asked_is_not_told_to_look_at_its_axon(tmp_path, sheet):
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    log_q[:, 0], log_w[:, 0] = LOG_Q_ABSENT, LOG_W_NONE
    nobody = {"log_q": log_q, "log_w": log_w, "entropy": np.zeros((8, 1), np.int32)}
    path = tmp_path / "some.sheet"
    path.write_bytes(voted(dataclasses.replace(sheet, **nobody)).to_bytes())
    said = run("explain", MINER, "--sheet", str(path)).output
    assert "nobody asked it" in said
    assert "axon" not in said


def test_explain_says_what_is_missing(tmp_path, sheet):
    for arguments, words in (
        (("--state-dir", str(tmp_path / "none")), "moesubnet miner status"),
        (("--state-dir", str(tmp_path / "none")), "--sheet HASH --axon IP:PORT"),
        (("--axon", "127.0.0.1:1"), "which sheet?"),
        (("--sheet", str(tmp_path / "none")), "cannot read"),
    ):
        result = run("explain", MINER, *arguments)
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)
    State(tmp_path / "validator.sqlite3").close()
    result = run("explain", MINER, "--state-dir", str(tmp_path))
    assert "no epoch is closed" in str(result.exception)
    (tmp_path / "some.sheet").write_bytes(sheet.to_bytes())
    result = run("explain", "5Nobody", "--sheet", str(tmp_path / "some.sheet"))
    assert "not in this sheet" in str(result.exception)


def test_audit_without_a_state_folder_leads_to_the_axon_and_a_miner_to_its_status(tmp_path):
    result = run("audit", "ab" * 32, "--state-dir", str(tmp_path / "none"))
    assert isinstance(result.exception, ConfigError)
    assert "--axon IP:PORT" in str(result.exception)
    assert "moesubnet miner status" in str(result.exception)


async def test_explain_reads_a_sheet_from_the_validator_that_publishes_it(sheet):
    async def serve(request):
        known = request.match_info["sha256"] == sheet.sha256.hex()
        return web.Response(body=sheet.to_bytes(), status=200 if known else 404)

    app = web.Application()
    app.router.add_get("/v1/sheet/{sha256}", serve)
    async with TestServer(app) as server:
        address = f"127.0.0.1:{server.port}"
        result = await asyncio.to_thread(
            run, "explain", MINER, "--sheet", sheet.sha256.hex(), "--axon", address
        )
        assert "It earns because" in result.output
        missing = await asyncio.to_thread(
            run, "explain", MINER, "--sheet", "ab" * 32, "--axon", address
        )
        assert "does not publish" in str(missing.exception)


def test_help_says_that_the_text_becomes_public():
    words = run("run", "--help").output
    assert "PUBLISHED" in words
    assert "public from then on" in " ".join(words.split())


def test_explain_works_beside_a_validator_that_is_writing(tmp_path, sheet):
    state = State(tmp_path / "validator.sqlite3")
    state.close_epoch(sheet, (1, 2), Phase.PREPARED, [], b"")
    with sqlite3.connect(tmp_path / "validator.sqlite3") as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO score VALUES ('h', 1)")
        result = run("explain", MINER, "--state-dir", str(tmp_path))
    state.close()
    assert result.exit_code == 0, result.exception
    assert "the vote is right" in result.output


def test_explain_before_the_first_sheet_says_when_there_will_be_one(tmp_path):
    State(tmp_path / "validator.sqlite3").close()
    result = run("explain", MINER, "--state-dir", str(tmp_path))
    assert isinstance(result.exception, ConfigError)
    assert "wait for the middle" in str(result.exception)


def test_explain_touches_no_state_of_another_version(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "validator.sqlite3")) as db:
        db.execute("CREATE TABLE vote (epoch INTEGER PRIMARY KEY)")
    result = run("explain", MINER, "--state-dir", str(tmp_path))
    assert isinstance(result.exception, ConfigError)
    assert "another version" in str(result.exception)
    with contextlib.closing(sqlite3.connect(tmp_path / "validator.sqlite3")) as db:
        assert db.execute("SELECT count(*) FROM vote").fetchone() == (0,)


def test_explain_answers_programs_in_json(tmp_path, sheet):
    path = tmp_path / "7.sheet"
    path.write_bytes(sheet.to_bytes())
    result = run("explain", MINER, "--sheet", str(path), "--json")
    found = json.loads(result.output)
    assert found["hotkey"] == MINER
    assert found["standing"] == 1.0
    assert found["seniors"] == 0
    assert found["vote_u16"] == 65_535
    assert found["average_before_nats"] is None
    assert found["items_answered"] == 8


def test_audit_of_a_file_without_evidence_counts_again_and_says_what_it_could_not_check(
    tmp_path, sheet
):
    State(tmp_path / "validator.sqlite3").close()
    path = tmp_path / "7.sheet"
    path.write_bytes(sheet.to_bytes())
    result = run("audit", str(path), "--state-dir", str(tmp_path))
    assert "the vote is right" in result.output
    assert result.exit_code == 0
    lie = dataclasses.replace(sheet, ema_after=(1,), row_u16=(3,))
    path.write_bytes(lie.to_bytes())
    result = run("audit", str(path), "--state-dir", str(tmp_path), "--json")
    assert json.loads(result.output)["clean"] is False
    assert result.exit_code == 1
    for name, words in (("ab" * 32, "no sheet"), ("zz" * 32, "hex digits"), ("none", "read")):
        result = run("audit", name, "--state-dir", str(tmp_path))
        assert words in str(result.exception)
