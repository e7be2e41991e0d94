"""Whether a validator voted what its sheet says. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesubnet.mixture.sheet_cache import AnySheet

if TYPE_CHECKING:
    from moesubnet.chain.nouns import Votes


def differs_on_chain(sheet: AnySheet, votes: Votes) -> int | None:
    """The largest difference of a u16 between a sheet's vote and the row on chain that names it;
    None where no row is known to be this sheet's: another was revealed since, or a plain vote came.

    Who registered when the sheet's epoch had begun, or later, is passed over: the chain leaves out
    of a reveal whoever changed hands since the commit.
    """
    metagraph = votes.metagraph
    voter = metagraph.by_hotkey.get(sheet.validator)
    if voter is None:
        return None
    reveal, waiting = votes.reveals.get(voter.uid), votes.commits.get(voter.uid)
    if reveal is None or reveal.sheet_sha256 != sheet.sha256.hex():
        return None
    begun = metagraph.last_epoch_block - metagraph.tempo_blocks * (
        metagraph.epoch_index - sheet.epoch
    )
    # A plain vote empties the queue, and moves `last_update_block` as a commit does.
    if waiting:
        is_the_last = waiting[0].epoch == sheet.epoch + 1
    else:
        is_the_last = voter.last_update_block < begun + metagraph.tempo_blocks
    if not is_the_last:
        return None
    here = {n.hotkey: n.uid for n in metagraph.neurons if n.registered_at_block < begun}
    row = dict(votes.rows.get(voter.uid, ()))
    said = dict(zip(sheet.hotkeys, sheet.row_u16, strict=True))
    return max((abs(row.get(u, 0) - said.get(h, 0)) for h, u in here.items()), default=0)
