"""`moesubnet router key …`: who may use a router, for how much and how fast."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.errors import ConfigError
from moesubnet.host.options import AsJson
from moesubnet.units import format_rao, parse_rao

if TYPE_CHECKING:
    from moesubnet.router.keys import Key
    from moesubnet.router.ledger import Ledger

key_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

State = Annotated[
    str | None,
    typer.Option(
        envvar="MOESUBNET_ROUTER_STATE",
        help="Where keys, budgets and usage are kept: an SQLite file (by default accounts.sqlite3 "
        "in the router's --state-dir), or postgresql://USER:PASSWORD@HOST/DATABASE, which several "
        "routers may share.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the key, or its id.")]
Models = Annotated[
    str | None,
    typer.Option(help="Models that it may use, separated by commas; or `none`: all, the default."),
]
Expires = Annotated[
    str | None,
    typer.Option(
        help="How long it is valid from now: `30d`, `12h`, `90m`; or `none`: for good, the default."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="What it may spend, in tokens of the chain (`1.5`) or `12rao`; or `none`."),
]
BudgetTokens = Annotated[
    str | None, typer.Option(help="How many tokens of text it may read and write; or `none`.")
]
Period = Annotated[
    str | None,
    typer.Option(help="Refill its budgets every `30d`, `1d`, `12h`; or `none`: never."),
]
PerMinute = Annotated[str | None, typer.Option(help="Most requests in a minute; or `none`.")]
TokensPerMinute = Annotated[str | None, typer.Option(help="Most tokens in a minute; or `none`.")]
Parallel = Annotated[str | None, typer.Option(help="Most requests at once; or `none`.")]

_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


@key_app.callback()
def _group() -> None:
    """Keys for the router's callers: budgets, rates, models, an end.

    A running router goes by them at once: nothing needs a restart.
    """


@key_app.command()
def new(
    name: Annotated[str, typer.Argument(help="What you call it; it shows in reports.")],
    models: Models = None,
    expires: Expires = None,
    budget: Budget = None,
    budget_tokens: BudgetTokens = None,
    period: Period = None,
    rpm: PerMinute = None,
    tpm: TokensPerMinute = None,
    parallel: Parallel = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, once.

    The price of the largest answer is taken out of the budget before a request begins and what was
    not used is given back, so requests at the same time cannot spend it twice. From the first key
    on the router serves nobody without one.

    \b
    For example:
      moesubnet router key new app --budget 2.5 --period 30d --rpm 60
      moesubnet router key new guest --models student --budget-tokens 100000 --expires 7d
    """
    from moesubnet.router.accounts import Limits

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}", name):
        raise ConfigError(f"{name!r} is no name: 1 to 64 letters, digits, spaces and ._@-")
    now_s = int(time.time())
    limits = Limits(**_limits(budget, budget_tokens, period, rpm, tpm, parallel))
    with _ledger(state) as ledger:
        key, secret = ledger.new_key(
            name, now_s, limits=limits, models=_models(models), expires_s=_end_s(expires, now_s)
        )
    if as_json:
        typer.echo(json.dumps({"id": key.id, "name": name, "secret": secret}))
        return
    typer.echo(f"{secret}\n\nThis is the only time that it is shown. {_line(key, now_s)}")
    if "://" not in (where := _accounts(state)):  # a database's URL holds its password
        typer.echo(f"It is kept in {where}, for the routers that have this --state.")


@key_app.command("list")
def list_(state: State = None, as_json: AsJson = False) -> None:
    """All keys with what they have left."""
    now_s = int(time.time())
    with _ledger(state) as ledger:
        keys = ledger.keys()
    if as_json:
        from moesubnet.router.billing import describe

        typer.echo(json.dumps([describe(key, (), now_s) for key in keys]))
        return
    for key in keys:
        typer.echo(_line(key, now_s))
    if not keys:
        typer.echo("no keys: `moesubnet router key new NAME` makes one")


@key_app.command()
def show(name: Name, state: State = None, as_json: AsJson = False) -> None:
    """One key: limits, spent, held, its use, what it owes experts."""
    from moesubnet.router.billing import describe

    now_s = int(time.time())
    with _ledger(state) as ledger:
        key = ledger.key_named(name)
        described = describe(key, ledger.usage(key.id), now_s)
        owed = ledger.owed(key.id)
        described["owed"] = {hotkey: {"positions": n, "rao": r} for hotkey, (n, r) in owed.items()}
    if as_json:
        typer.echo(json.dumps(described))
        return
    typer.echo(_line(key, now_s))
    account = key.account.at(now_s)
    typer.echo(
        f"spent {format_rao(account.spent_rao)} and {account.spent_tokens:,} tokens; held by "
        f"{account.running} running requests: {format_rao(account.held_rao)} and "
        f"{account.held_tokens:,} tokens"
    )
    for row in described["usage"]:
        typer.echo(
            f"  {row['day']}  {row['model']:<16} {row['requests']:>8,} requests "
            f"{row['prompt_tokens']:>12,} read {row['completion_tokens']:>12,} written  "
            f"{format_rao(row['rao'])}"
        )
    _echo_owed(owed)


@key_app.command()
def limit(
    name: Name,
    models: Models = None,
    expires: Expires = None,
    budget: Budget = None,
    budget_tokens: BudgetTokens = None,
    period: Period = None,
    rpm: PerMinute = None,
    tpm: TokensPerMinute = None,
    parallel: Parallel = None,
    state: State = None,
) -> None:
    """Change some of a key's limits, from its next request on. `none` takes a limit away."""
    from moesubnet.router.keys import models_column

    changes: dict[str, str | int | None] = {}
    changes.update(_limits(budget, budget_tokens, period, rpm, tpm, parallel))
    if models is not None:
        changes["models"] = models_column(_models(models))
    if expires is not None:
        changes["expires_s"] = _end_s(expires, int(time.time()))
    if not changes:
        raise ConfigError("nothing to change: give --budget, --rpm or another limit")
    with _ledger(state) as ledger:
        key = ledger.limit(name, changes)
    typer.echo(_line(key, int(time.time())))


@key_app.command()
def revoke(name: Name, state: State = None) -> None:
    """End a key for good. Requests that run are finished; its usage stays in the books."""
    now_s = int(time.time())
    with _ledger(state) as ledger:
        key = ledger.revoke(name, now_s)
    typer.echo(_line(key, now_s))


@key_app.command()
def owed(
    receipts: Annotated[
        Path | None,
        typer.Option(
            help="Also write to this file, as JSON lines, what shows that they answered: for every "
            "request and expert of the last 30 days a receipt that the expert signed."
        ),
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """What each expert is owed for answers to keyed callers.

    Nothing is paid yet: settlement on chain is to come.
    """
    with _ledger(state) as ledger:
        sums = ledger.owed()
        if receipts is not None:
            receipts.write_text("".join(f"{json.dumps(row)}\n" for row in ledger.receipts()))
    if as_json:
        rows = {key: {"positions": n, "rao": rao} for key, (n, rao) in sums.items()}
        typer.echo(json.dumps(rows))
        return
    _echo_owed(sums)
    if not sums:
        typer.echo("nothing yet")


def _echo_owed(sums: dict[str, tuple[int, int]]) -> None:
    for hotkey, (positions, rao) in sorted(sums.items(), key=lambda item: -item[1][1]):
        typer.echo(f"{hotkey}  {positions:>14,} positions  {format_rao(rao)}")


def accounts_of(state: str | None, state_dir: Path) -> str:
    """Where `--state` says that accounts are; by default in the router's folder."""
    return state or str(state_dir / "accounts.sqlite3")


def parse_seconds(text: str) -> int:
    """`30d`, `12h`, `90m`. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text.strip(), re.ASCII)
    if not found or int(found[1]) == 0:
        raise ConfigError(f"{text!r} is no length of time: write 90m, 12h or 30d")
    return int(found[1]) * _UNITS_S[found[2]]


def _accounts(state: str | None) -> str:
    from moesubnet.host.paths import data_dir

    return accounts_of(state, data_dir("router"))


@contextmanager
def _ledger(state: str | None) -> Iterator[Ledger]:
    from moesubnet.router.database import open_database
    from moesubnet.router.ledger import Ledger

    ledger = Ledger(open_database(_accounts(state)))
    try:
        yield ledger
    finally:
        ledger.close()


def _limits(
    budget: str | None,
    budget_tokens: str | None,
    period: str | None,
    rpm: str | None,
    tpm: str | None,
    parallel: str | None,
) -> dict[str, int | None]:
    """The limits that were given; `none` is None. Raises ConfigError."""
    given = {
        "budget_rao": (budget, parse_rao),
        "budget_tokens": (budget_tokens, _count),
        "period_s": (period, parse_seconds),
        "requests_per_minute": (rpm, _count),
        "tokens_per_minute": (tpm, _count),
        "parallel": (parallel, _count),
    }
    return {
        name: None if text == "none" else parse(text)
        for name, (text, parse) in given.items()
        if text is not None
    }


def _models(text: str | None) -> list[str] | None:
    """None for all. Raises ConfigError where none is named, as by a variable that is not set."""
    if text is None or text == "none":
        return None
    named = [name.strip() for name in text.split(",") if name.strip()]
    if not named:
        raise ConfigError("--models names no model; `none` allows all")
    return named


def _end_s(text: str | None, now_s: int) -> int | None:
    return None if text is None or text == "none" else now_s + parse_seconds(text)


def _count(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not re.fullmatch(r"\d{1,18}", digits, re.ASCII):
        raise ConfigError(f"{text!r} is no whole number")
    return int(digits)


def _line(key: Key, now_s: int) -> str:
    account = key.account.at(now_s)
    limits = account.limits
    parts = [f"{key.name} ({key.id})"]
    if key.revoked_s is not None:
        parts.append("revoked")
    elif key.expires_s is not None:
        ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.expires_s))
        parts.append(f"{'valid until' if key.is_valid(now_s) else 'expired'} {ends}")
    parts.append("all models" if key.models is None else " ".join(key.models))
    if limits.budget_rao is not None and account.free_rao is not None:
        parts.append(f"{format_rao(account.free_rao)} of {format_rao(limits.budget_rao)} left")
    if limits.budget_tokens is not None:
        parts.append(f"{account.free_tokens:,} of {limits.budget_tokens:,} tokens left")
    if limits.period_s is not None:
        parts.append(f"refilled every {_duration(limits.period_s)}")
    for count, unit in (
        (limits.requests_per_minute, "requests a minute"),
        (limits.tokens_per_minute, "tokens a minute"),
        (limits.parallel, "at once"),
    ):
        if count is not None:
            parts.append(f"{count:,} {unit}")
    return " · ".join(parts)


def _duration(seconds: int) -> str:
    for unit in "dh":
        if seconds % _UNITS_S[unit] == 0:
            return f"{seconds // _UNITS_S[unit]}{unit}"
    return f"{seconds // 60}m"
