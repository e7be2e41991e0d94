"""Meeting the experts: from the chain's metagraph to a panel, a gate and a baseline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from moesubnet.chain.client import ChainClient
from moesubnet.distill.run import Teacher
from moesubnet.distill.walks import Members
from moesubnet.errors import AuthError, ConfigError, PeerError, WireError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.source import find_spec
from moesubnet.types import NetUid, Neuron, Signer
from moesubnet.wire.client import ExpertClient, open_http_session
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import ExpertCard, want_for

CARD_TIMEOUT_S = 5.0
STEP_DEADLINE_S = 60.0  # nobody waits for a word: a slow expert is better than none
REST_S = 5.0

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def meet_experts(
    chain_url: str,
    netuid: NetUid,
    signer: Signer,
    spec_dir: Path | None,
    sheets_dir: Path,
    *,
    allow_private: bool,
) -> AsyncIterator[tuple[LoadedSpec, Teacher]]:
    """The subnet's spec and everyone who serves it now, weighed by the gate of revealed sheets.

    Raises ConfigError when nobody serves it, SpecError, ChainError.
    """
    async with await ChainClient.connect(chain_url) as chain, open_http_session() as http:
        metagraph = await chain.metagraph(netuid)
        spec = await find_spec(spec_dir, metagraph, allow_private=allow_private)
        gates = GateSync(chain, http, sheets_dir, allow_private=allow_private)
        await gates.refresh(metagraph)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_meet(http, signer, neuron, spec, allow_private))
                for neuron in metagraph.neurons
                if neuron.axon is not None and neuron.hotkey != signer.ss58_address
            ]
        met = {m[0].hotkey: m for task in tasks if (m := task.result()) is not None}
        if not met:
            raise ConfigError(f"no expert serves this spec on netuid {netuid}; are miners running?")
        clients = {hotkey: client for hotkey, (client, _) in met.items()}
        panel = Panel(
            clients,
            base_s=STEP_DEADLINE_S,
            want=want_for(spec.spec.vocab_size),
            rest_s=REST_S,
        )
        yield (
            spec,
            Teacher(
                Members(panel, tuple(sorted(met)), gates.gate, load_baseline(spec)),
                {hotkey: card.model_commitment for hotkey, (_, card) in met.items()},
                {hotkey: client.axon for hotkey, client in clients.items()},
            ),
        )


async def _meet(
    http: aiohttp.ClientSession,
    signer: Signer,
    neuron: Neuron,
    spec: LoadedSpec,
    allow_private: bool,
) -> tuple[ExpertClient, ExpertCard] | None:
    """A client and a card, or None for who is no expert of this spec."""
    assert neuron.axon is not None
    try:
        client = ExpertClient(
            http,
            signer,
            neuron.hotkey,
            neuron.axon,
            vocab_size=spec.spec.vocab_size,
            allow_private=allow_private,
        )
        card = await client.card(timeout_s=CARD_TIMEOUT_S)
    except (PeerError, WireError, AuthError) as error:
        # Validators and routers have axons too.
        log.debug("no card from uid=%d: %s", neuron.uid, error)
        return None
    if card.hotkey != neuron.hotkey or card.spec_sha256 != spec.sha256:
        log.info("uid=%d serves another spec; not asked", neuron.uid)
        return None
    return client, card
