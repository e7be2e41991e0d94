"""When weights that are offered to everybody are shown: not before their expert is a senior.

Of two newcomers that say the same, validators take the quicker for the one that repeats nobody; who
has fetched the weights need not wait for anybody's answers. Once validators have seen that an
expert has something of its own, its copies come after it, however quick they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesubnet.chain.client import ChainClient
from moesubnet.host.paths import cache_dir
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.gate_sync import fetch_revealed_sheets
from moesubnet.mixture.sheet import Summary
from moesubnet.mixture.sheet_cache import SheetCache
from moesubnet.types import Hotkey, Metagraph
from moesubnet.wire.strangers import open_http_session

# An expert that is another now begins anew with the sheet after the next: prefixes that it answered
# in one epoch are asked again in the following one.
EPOCHS_UNTIL_SEEN = 2


async def may_open(
    chain: ChainClient, metagraph: Metagraph, hotkey: Hotkey, commitment: str, allow_private: bool
) -> bool:
    """Whether the weights of this commitment may be shown, or were already. Raises ChainError."""
    neuron = metagraph.by_hotkey[hotkey]
    if metagraph.has_models and (neuron.model is None or neuron.model.commitment != commitment):
        return False
    if neuron.model is not None and neuron.model.is_open:
        return True
    async with open_http_session() as http:
        sheets = await fetch_revealed_sheets(
            chain, metagraph, http, SheetCache(cache_dir("sheets")), allow_private=allow_private
        )
    return is_senior(metagraph, hotkey, sheets)


def is_senior(metagraph: Metagraph, hotkey: Hotkey, sheets: Sequence[WeightedSheet]) -> bool:
    """Whether it is one, for what it answered since it said on chain what it serves, to validators
    with more than half of the stake of all that show sheets."""
    neuron, tempo = metagraph.by_hotkey[hotkey], metagraph.tempo_blocks
    said = neuron.model.block if neuron.model else neuron.registered_at_block
    ago_epochs = -(-max(0, metagraph.last_epoch_block - said) // tempo)
    first = metagraph.epoch_index - ago_epochs + EPOCHS_UNTIL_SEEN
    newest = {s.sheet.validator: s for s in sorted(sheets, key=lambda s: s.sheet.epoch)}.values()
    knowing_rao = sum(s.stake_rao for s in newest if _knows(s.sheet, hotkey, first))
    return 2 * knowing_rao > sum(s.stake_rao for s in newest)


def _knows(sheet: Summary, hotkey: Hotkey, first_epoch: int) -> bool:
    since = dict(zip(sheet.hotkeys, sheet.since, strict=True))
    return sheet.epoch >= first_epoch and since.get(hotkey) is not None
