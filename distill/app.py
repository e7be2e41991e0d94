"""Meeting the experts: from the chain's metagraph to a panel, a gate and a baseline."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from moesubnet.chain.client import ChainClient
from moesubnet.distill.run import Teacher
from moesubnet.distill.walks import Members
from moesubnet.errors import ConfigError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.source import find_spec
from moesubnet.types import Hotkey, NetUid, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import want_for
from moesubnet.wire.roster import Roster
from moesubnet.wire.strangers import open_http_session

STEP_DEADLINE_S = 60.0  # nobody waits for a word: a slow expert is better than none
# Whole windows are sent to trusted experts only, and five models of one busy machine took minutes.
TRUSTED_DEADLINE_S = 600.0
REST_S = 5.0


@contextlib.asynccontextmanager
async def meet_experts(
    chain_url: str,
    netuid: NetUid,
    signer: Signer,
    spec_dir: Path | None,
    sheets_dir: Path,
    *,
    allow_private: bool,
    prefill: bool = False,
) -> AsyncIterator[tuple[LoadedSpec, Teacher]]:
    """The subnet's spec and everyone who serves it now, weighed by the gate of revealed sheets.
    prefill: they will be sent whole windows, so they are trusted.

    Raises ConfigError when nobody serves it, SpecError, ChainError.
    """
    async with await ChainClient.connect(chain_url) as chain, open_http_session() as http:
        metagraph = await chain.metagraph(netuid)
        spec = await find_spec(spec_dir, metagraph, allow_private=allow_private)
        gates = GateSync(
            chain, http, sheets_dir, allow_private=allow_private, grain=spec.spec.grain
        )
        await gates.refresh(metagraph)
        roster = Roster(
            http,
            signer,
            spec_sha256=spec.sha256,
            vocab_size=spec.spec.vocab_size,
            allow_private=allow_private,
        )
        await roster.refresh(metagraph)
        if not roster.met:
            raise ConfigError(f"no expert serves this spec on netuid {netuid}; are miners running?")
        clients = roster.clients
        panel = panel_over(clients, spec.spec.vocab_size, prefill=prefill)
        yield (
            spec,
            Teacher(
                Members(panel, tuple(sorted(clients)), gates.gate, load_baseline(spec)),
                {hotkey: met.card.model_commitment for hotkey, met in roster.met.items()},
                {hotkey: client.axon for hotkey, client in clients.items()},
            ),
        )


def panel_over(
    clients: Mapping[Hotkey, ExpertClient], vocab_size: int, *, prefill: bool = False
) -> Panel:
    """Everybody is waited for: nobody else waits for an answer here."""
    base_s = TRUSTED_DEADLINE_S if prefill else STEP_DEADLINE_S
    return Panel(clients, base_s=base_s, want=want_for(vocab_size), rest_s=REST_S)
