"""`moesubnet chain dev`: starts, says where it is, ends cleanly, refuses to be exposed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from moesubnet.chain.devchain.cli import chain_app
from moesubnet.errors import ConfigError

_RUN = [sys.executable, "-c", "from moesubnet.chain.devchain.cli import chain_app; chain_app()"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_reports_itself_and_blocks_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    command = [*_RUN, "dev", "--port", "0", "--seal", "0.02", "--json", "--base-path", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["event"] == "started"
        assert started["genesis"].startswith("0x")
        url = started["endpoint"].replace("ws://", "http://")
        body = {"jsonrpc": "2.0", "id": 1, "method": "chain_getBlockHash", "params": [0]}
        with urlopen(Request(url, json.dumps(body).encode()), timeout=10) as response:
            assert json.load(response)["result"] == started["genesis"]
        assert json.loads(process.stdout.readline())["event"] == "block"
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    assert (tmp_path / "chain.sqlite").exists()


def test_it_refuses_an_address_that_others_reach_while_everyone_can_sign(tmp_path: Path) -> None:
    arguments = ["dev", "--host", "0.0.0.0", "--port", "0", "--base-path", str(tmp_path)]
    refused = CliRunner().invoke(chain_app, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert "//Alice" in str(refused.exception)
    assert "--unsafe-bind-public" in str(refused.exception)


@pytest.mark.parametrize("seal", ["never", "0", "-1", "nan"])
def test_a_seal_that_makes_no_sense_is_refused(tmp_path: Path, seal: str) -> None:
    refused = CliRunner().invoke(chain_app, ["dev", f"--seal={seal}", "--base-path", str(tmp_path)])
    assert refused.exit_code == 2


def test_the_chain_package_loads_neither_the_engine_nor_the_server() -> None:
    check = (
        "import sys, moesubnet.chain, moesubnet.chain.devchain, moesubnet.chain.devchain.cli\n"
        "sys.exit(bool({'wasmtime', 'aiohttp', 'sqlite3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
