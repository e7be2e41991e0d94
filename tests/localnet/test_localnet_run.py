"""What a person meets around a run: taken ports, Ctrl-C, lines to copy."""

import asyncio
import os
import signal
import socket
import sys

import pytest

from moesubnet.errors import ConfigError
from moesubnet.localnet import prepare, run
from moesubnet.localnet.kinds import FromBase, Small
from moesubnet.localnet.plan import Plan
from moesubnet.localnet.run import Options, run_localnet, until_interrupted
from moesubnet.localnet.view import JsonScreen, TextScreen


async def test_a_taken_port_is_told_before_anything_is_trained(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(run, "prepare")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = Options(tmp_path, 0, Small(1.0), False, "embedded", port, 0, 20_000, "table")
        with pytest.raises(ConfigError, match=f"port {port}, which chain needs"):
            await run_localnet(options, JsonScreen())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_second_signal_does_not_cut_the_cleanup_short(number) -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            cleaned.append(True)

    for delay_s in (0.05, 0.1, 0.15):
        asyncio.get_running_loop().call_later(delay_s, os.kill, os.getpid(), number)
    await asyncio.wait_for(until_interrupted(work(), JsonScreen()), 5.0)
    assert cleaned == [True]


def test_a_command_to_copy_is_not_broken_into_lines(capsys) -> None:
    command = "curl -d '" + "long words :x: " * 20 + "'"
    TextScreen().note(command)
    assert command in capsys.readouterr().out


def test_what_to_try_works_where_the_client_is_not_installed(tmp_path, monkeypatch) -> None:
    """`moesubnet[all]`, which a localnet installs, does not bring it."""
    plan, prompts = Plan(tmp_path, Small(1.0)), {"python": "import os\n"}
    assert "pip install" not in run.next_steps(plan, prompts)
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    install = f"{sys.executable} -m pip install openai\n"
    before, found, after = run.next_steps(plan, prompts).partition(install)
    assert found
    assert "curl" in before
    assert "from openai import OpenAI" in after


def test_text_that_was_cut_stays_whatever_is_installed_later(tmp_path, monkeypatch) -> None:
    cut = []
    monkeypatch.setattr(prepare, "build", lambda corpora, seed, **_: cut.append(seed) or {})
    for seed, installed in ((0, ["before"]), (0, []), (1, [])):
        monkeypatch.setattr("importlib.metadata.distributions", lambda found=installed: found)
        prepare.prepare_corpora(tmp_path / "corpora", Small(1.0), seed, 2)
    assert cut == [0, 1]


def test_a_student_of_a_base_learns_in_an_adapter_as_its_experts_do(tmp_path) -> None:
    """Two whole ones side by side, of 270 M parameters, are 15 GB beside the miners."""
    plan = Plan(tmp_path, FromBase(str(tmp_path), 300.0))
    typed = plan.distiller(tmp_path / "test").argv
    base = typed.index("--from")
    assert typed[base : base + 4] == ("--from", str(tmp_path), "--lora", "16")
