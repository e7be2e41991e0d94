"""Two routers, a process and (where root may) a network namespace each, that share nothing but a
PostgreSQL server: one is killed in the middle of an answer, then the server is; and the server is
stopped while both are busy."""
# ruff: noqa: F811  # the fixture of another module

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from moesubnet.router.accounts import Account, Limits
from moesubnet.router.database import open_database
from moesubnet.router.ledger import Ledger
from moesubnet.spec.content import LoadedSpec
from tests.router import postgres
from tests.router.test_ledger import server  # noqa: F401  # the fixture

ROOT = Path(__file__).resolve().parents[2]
BUDGET_RAO = 10_000
GREEDY = {"temperature": 0}
TOKENS = 25  # fewer than the parrot still knows
PATIENCE_S = 60.0
CALLER = """
import sys, urllib.error, urllib.request
url, key, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers))
except urllib.error.HTTPError as error:
    answer = error
for line in answer:
    print(line.decode(), end="", flush=True)
"""

# Callers that ask one request after another, each again until it is answered; a line of each try.
CROWD = """
import json, os, sys, threading, time, urllib.error, urllib.request
url, key, body, callers, requests = sys.argv[1:]
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}

def ask():
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers))
    except urllib.error.HTTPError as error:
        answer = error
    said = json.load(answer)
    line = json.dumps(said.get("usage") or said["error"]["code"])
    os.write(1, line.encode() + bytes([10]))  # in one: print writes a line's end by itself
    return "usage" in said

def call():
    for _ in range(int(requests)):
        while not ask():
            time.sleep(0.1)

threads = [threading.Thread(target=call) for _ in range(int(callers))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
CALLERS, REQUESTS = 4, 5


class Router:
    """A process; its callers stand where it does, as nobody else reaches it."""

    def __init__(self, state: str, spec: LoadedSpec, place: list[str]) -> None:
        self._place = place
        self.process = subprocess.Popen(
            [*place, sys.executable, "-m", "tests.router.one_router", state, str(spec.root)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    @cached_property
    def _url(self) -> str:
        assert self.process.stdout is not None
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1/completions"

    def ask(self, key: str, *, max_tokens: int, stream: bool = False) -> subprocess.Popen[str]:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return self._call(CALLER, key, {"max_tokens": max_tokens} | more)

    def crowd(self, key: str) -> subprocess.Popen[str]:
        return self._call(CROWD, key, {"max_tokens": 8}, str(CALLERS), str(REQUESTS))

    def _call(
        self, program: str, key: str, options: dict[str, object], *more: str
    ) -> subprocess.Popen[str]:
        body = json.dumps({"model": "mixture", "prompt": "the quick"} | options | GREEDY)
        return subprocess.Popen(
            [*self._place, sys.executable, "-c", program, self._url, key, body, *more],
            stdout=subprocess.PIPE,
            text=True,
        )


def places(stack: ExitStack) -> list[list[str]]:
    """What to put before a command to run it in one of two network namespaces; nothing where none
    can be made, which `test_the_two_stand_in_networks_of_their_own` says."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return [[], []]
    found = []
    for _ in range(2):
        name = f"moe{uuid.uuid4().hex[:8]}"
        if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
            return [[], []]
        stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        found.append(["ip", "netns", "exec", name])
    return found


@pytest.fixture
def routers(
    server: postgres.Server, tiny_spec: LoadedSpec
) -> Iterator[tuple[Ledger, list[Router]]]:
    import psycopg

    schema = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server.url) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    state = f"{server.url}&options=-csearch_path%3D{schema}"
    with ExitStack() as stack:
        ledger = Ledger(open_database(state))
        stack.callback(ledger.close)
        started = []
        for place in places(stack):
            started.append(Router(state, tiny_spec, place))
            stack.callback(started[-1].process.wait)
            stack.callback(started[-1].process.kill)
        yield ledger, started


def account_of(ledger: Ledger) -> Account:
    account = ledger.key_named("app").account
    assert account.free_rao is not None
    assert account.spent_rao + account.held_rao + account.free_rao == BUDGET_RAO
    return account


def when_nothing_is_held(ledger: Ledger) -> Account:
    until_s = time.monotonic() + PATIENCE_S
    while (account := account_of(ledger)).held_rao and time.monotonic() < until_s:
        time.sleep(0.1)
    assert (account.held_rao, account.held_tokens, account.running) == (0, 0, 0)
    return account


def price(usage: dict[str, int]) -> int:
    """The parrot answers the prompt and each token but the last, whose law nobody needs."""
    return usage["total_tokens"] - 1


def test_what_is_spent_and_free_is_the_budget_whoever_dies(
    server: postgres.Server, routers: tuple[Ledger, list[Router]]
) -> None:
    ledger, (mortal, other) = routers
    _, key = ledger.new_key("app", int(time.time()), limits=Limits(budget_rao=BUDGET_RAO))
    whole = json.loads(other.ask(key, max_tokens=4).communicate()[0])
    spent_rao = price(whole["usage"])
    assert when_nothing_is_held(ledger).spent_rao == spent_rao

    broken = mortal.ask(key, max_tokens=TOKENS, stream=True)
    assert broken.stdout is not None
    assert broken.stdout.readline().startswith("data: ")
    assert account_of(ledger).held_rao > 0
    mortal.process.kill()
    broken.communicate()
    # Nobody settled it: the other one gives back what was held, and the broken answer is free.
    assert when_nothing_is_held(ledger).spent_rao == spent_rao

    stream = other.ask(key, max_tokens=TOKENS, stream=True)
    assert stream.stdout is not None
    first = stream.stdout.readline()
    server.stop()
    try:
        refused = json.loads(other.ask(key, max_tokens=4).communicate()[0])
        assert refused["error"]["code"] == "accounts_unavailable"
        events = (first + stream.communicate()[0]).split("data: ")[1:]
    finally:
        server.start()
    assert events[-1].strip() == "[DONE]"
    spent_rao += price(json.loads(events[-2])["usage"])
    assert when_nothing_is_held(ledger).spent_rao == spent_rao
    whole = json.loads(other.ask(key, max_tokens=4).communicate()[0])
    assert when_nothing_is_held(ledger).spent_rao == spent_rao + price(whole["usage"])


def test_the_two_stand_in_networks_of_their_own() -> None:
    with ExitStack() as stack:
        found = places(stack)
        if not all(found):
            pytest.skip("ROUTERS SHARE A NETWORK HERE: namespaces take root and `ip` (iproute2)")
        look = ["readlink", "/proc/self/ns/net"]
        assert len({subprocess.check_output([*place, *look]) for place in [*found, []]}) == 3


def test_what_is_spent_and_free_is_the_budget_when_the_server_stops_under_load(
    server: postgres.Server, routers: tuple[Ledger, list[Router]]
) -> None:
    """Forty requests through both: each is answered in the end, and paid for once."""
    ledger, both = routers
    _, key = ledger.new_key("app", int(time.time()), limits=Limits(budget_rao=BUDGET_RAO))
    crowds = [router.crowd(key) for router in both]
    said: list[list[Any]] = [[], []]

    def hear(until: Callable[[Any], bool]) -> None:
        for crowd, heard in zip(crowds, said, strict=True):
            assert crowd.stdout is not None
            for line in crowd.stdout:
                heard.append(json.loads(line))
                if until(heard[-1]):
                    break

    hear(lambda one: "total_tokens" in one)
    while not account_of(ledger).running:
        time.sleep(0.01)
    server.stop()
    try:
        hear(lambda one: one == "accounts_unavailable")
    finally:
        server.start()
    hear(lambda one: False)
    assert all("accounts_unavailable" in heard for heard in said)
    answered = [[one for one in heard if "total_tokens" in one] for heard in said]
    assert [len(heard) for heard in answered] == [CALLERS * REQUESTS] * 2
    spent_rao = sum(price(usage) for heard in answered for usage in heard)
    assert when_nothing_is_held(ledger).spent_rao == spent_rao
