"""`moesubnet router key …`, as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moesubnet.errors import ConfigError
from moesubnet.router.accounts import Cost
from moesubnet.router.cli import router_app
from moesubnet.router.database import open_database
from moesubnet.router.ledger import Hold, Ledger, Usage

Type = Callable[..., str]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "accounts.sqlite3"


@pytest.fixture
def key(state: Path) -> Type:
    """`key("list")` types it; raises what it refuses."""

    def typed(*words: str) -> str:
        done = CliRunner().invoke(router_app, ["key", *words, "--state", str(state)])
        if done.exception is not None:
            raise done.exception
        return done.output

    return typed


def shown(key: Type, name: str = "app") -> dict[str, Any]:
    return dict(json.loads(key("show", name, "--json")))


def test_a_keys_limits_models_and_end_are_changed_and_taken_away(key: Type, state: Path) -> None:
    made = key("new", "app", "--models", "student", "--expires", "7d")
    assert f"kept in {state}," in made  # another router's keys are elsewhere
    secret = made.split()[0]
    ledger = Ledger(open_database(state))
    assert ledger.key_of(secret) is not None
    ledger.close()
    first = shown(key)
    assert first["models"] == ["student"]
    said = key("limit", "app", "--models", "mixture, student", "--expires", "30d", "--rpm", "1,200")
    assert "mixture student" in said
    assert "1,200 requests a minute" in said
    longer = shown(key)
    assert longer["expires_s"] >= first["expires_s"] + 23 * 86_400
    key("limit", "app", "--models", "none", "--expires", "none", "--rpm", "none")
    free = shown(key)
    assert (free["models"], free["expires_s"]) == (None, None)
    assert free["rates"]["requests_per_minute"] is None
    assert "revoked" in key("revoke", "app")
    assert "app" in key("list")


def test_what_one_key_owes_to_experts_is_shown_with_it(key: Type, state: Path) -> None:
    for name in ("app", "other"):
        key("new", name)
    ledger = Ledger(open_database(state))
    for name, positions in (("app", 9), ("other", 5)):
        held, _ = ledger.hold(ledger.key_named(name).id, Cost(10, 10), 0)
        assert isinstance(held, Hold)
        ledger.settle(held, Usage("mixture", 4, 5, 9, {"5Expert": (positions, 9)}), 0)
    ledger.close()
    assert shown(key)["owed"] == {"5Expert": {"positions": 9, "rao": 9}}
    assert "9 positions" in key("show", "app")
    assert "14 positions" in key("owed")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("new", "app", "--models", " ,"), "names no model"),
        (("new", "app", "--expires", "soon"), "90m, 12h or 30d"),
        (("new", "app", "--budget", "lots"), "not an amount"),
        (("new", "app", "--rpm", "-1"), "no whole number"),
        (("new", "a/b"), "no name"),
        (("limit", "nobody", "--rpm", "1"), "router key list"),
        (("show", "nobody"), "router key list"),
    ],
)
def test_what_is_typed_wrongly_is_said(key: Type, words: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        key(*words)
