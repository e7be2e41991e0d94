"""What experts are owed is kept with what they signed; miners, sockets and books are real."""
# ruff: noqa: F811  # fixtures of other modules, as arguments

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from moesubnet.errors import BadSignature
from moesubnet.router.app import build_app
from moesubnet.router.billing import Billing
from moesubnet.router.cli import router_app
from moesubnet.router.database import open_database
from moesubnet.router.ledger import HOLD_S, Ledger
from moesubnet.router.receipts import KEPT_S, Receipt
from moesubnet.router.service import Service
from moesubnet.types import Hotkey
from moesubnet.wire.listening import serve as listen

from .conftest import client
from .test_billing import NOW_S
from .test_mixed_streams import ROUTER, network, open_model, sharp  # noqa: F401

ROUTER_HOTKEY = Hotkey(ROUTER.ss58_address)


@pytest.fixture
async def paid(spec, network, open_model, tmp_path):
    """(URL, secret, ledger, path of its file) of a router over two miners with prices."""
    for name, price in (("dear", 3_000_000), ("cheap", 1_000_000)):
        await network.mine(name, lambda ids: sharp(5, 0.5), price=price)
    path = tmp_path / "accounts.sqlite3"
    ledger = Ledger(open_database(path), ROUTER_HOTKEY)
    billing = Billing(ledger, clock_s=lambda: NOW_S)
    _, secret = ledger.new_key("app", NOW_S)
    service = Service(spec, {"mixture": await open_model()})
    app = build_app(lambda: service, billing=billing)
    server = await listen(app, "127.0.0.1", 0, grace_s=1.0)
    yield f"http://127.0.0.1:{server.port}", secret, ledger, path
    await server.close()
    await billing.close()


def receipt_in(row) -> Receipt:
    return Receipt(**{k: v for k, v in row.items() if k not in ("at_s", "request", "router")})


@pytest.mark.parametrize("n", [1, 3])
async def test_what_is_owed_is_kept_with_what_experts_signed(paid, n) -> None:
    url, secret, ledger, path = paid
    await client(url, secret).completions.create(
        model="mixture", prompt="the quick", max_tokens=6, n=n
    )
    rows, owed = ledger.receipts(), ledger.owed()
    assert len(owed) == 2
    for hotkey, (positions, rao) in owed.items():
        own = [row for row in rows if row["hotkey"] == hotkey]
        assert len(own) == n
        assert (sum(r["positions"] for r in own), sum(r["rao"] for r in own)) == (positions, rao)
    for row in rows:
        receipt_in(row).verify(ROUTER_HOTKEY)
        assert row["router"] == ROUTER_HOTKEY
        with pytest.raises(BadSignature):
            receipt_in(row | {"body_sha256": "00" * 32}).verify(ROUTER_HOTKEY)
        with pytest.raises(BadSignature):
            receipt_in(row).verify(Hotkey(rows[0]["hotkey"]))

    written = path.parent / "receipts.jsonl"
    options = ["key", "owed", "--receipts", str(written), "--state", str(path)]
    said = CliRunner().invoke(router_app, options)
    assert said.exit_code == 0, said.output
    assert [json.loads(line) for line in written.read_text().splitlines()] == rows


async def test_receipts_are_forgotten_and_sums_are_not(paid) -> None:
    url, secret, ledger, _ = paid
    await client(url, secret).completions.create(model="mixture", prompt="the", max_tokens=2)
    owed = ledger.owed()
    ledger.give_back_expired(NOW_S + HOLD_S)
    assert len(ledger.receipts()) == 2
    ledger.give_back_expired(NOW_S + KEPT_S)
    assert ledger.receipts() == []
    assert ledger.owed() == owed
