"""Meeting neurons: whom we may not ask is named, once."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from substrateinterface import Keypair

from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.meeting import Meetings
from moesubnet.wire.strangers import open_http_session


async def test_an_expert_on_a_private_address_is_named_once_with_the_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never(client: ExpertClient, timeout_s: float) -> Any:
        pytest.fail("it was asked")

    alice, bob = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob"))
    hotkey, home = Hotkey(bob.ss58_address), Axon("127.0.0.1", 8200)
    options: Any = {"spec_sha256": "0x0", "vocab_size": 8, "allow_private": False}
    caplog.set_level(logging.INFO, "moesubnet.wire.meeting")
    async with open_http_session() as http:
        meetings = Meetings(http, alice, ExpertClient, never, **options)
        for _ in range(2):
            assert await meetings.meet(hotkey, home) is None
    assert len(caplog.records) == 1
    assert "127.0.0.1" in caplog.text
    assert "--allow-private" in caplog.text
