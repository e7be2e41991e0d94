"""Collects what `status` judges: the chain's view, and the sheets that validators serve."""

from __future__ import annotations

from moesubnet.chain.client import ChainClient
from moesubnet.host.paths import cache_dir
from moesubnet.miner.status import Status, look
from moesubnet.mixture.gate_sync import fetch_revealed_sheets
from moesubnet.mixture.sheet_cache import SheetCache
from moesubnet.types import Hotkey, Metagraph, NetUid
from moesubnet.wire.strangers import open_http_session


async def survey(
    chain: ChainClient, netuid: NetUid, hotkey: Hotkey, *, allow_private: bool
) -> Status:
    """Raises ChainError, and ConfigError for a hotkey that is not registered."""
    metagraph = await chain.metagraph(netuid)
    weights = await chain.weights(netuid)
    async with open_http_session() as http:
        weighted = await fetch_revealed_sheets(
            chain, metagraph, http, SheetCache(cache_dir("sheets")), allow_private=allow_private
        )
    pool_rao = await _miners_pool_rao(chain, metagraph)
    return look(hotkey, metagraph, weights, [item.sheet for item in weighted], pool_rao)


async def _miners_pool_rao(chain: ChainClient, metagraph: Metagraph) -> int | None:
    """What the last epoch paid all miners, or would have; None if it is forgotten or never was."""
    (block_hash,) = await chain.query(("System.BlockHash", metagraph.last_epoch_block))
    if not isinstance(block_hash, str) or not int(block_hash, 16):
        return None
    for ran in await chain.epoch_events(block_hash):
        if ran.netuid == metagraph.netuid:
            # Where no miner has incentive, validators get the miners' half too.
            return ran.server_rao or ran.emission_rao // 2
    return None
