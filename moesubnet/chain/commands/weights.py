"""`moesubnet weights …`"""

from __future__ import annotations

import typer

from moesubnet.chain.commands.console import NetuidArgument
from moesubnet.chain.commands.options import Asking, example, with_options
from moesubnet.types import NetUid

weights_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@weights_app.command(epilog=example("weights show 1"))
@with_options
def show(netuid: NetuidArgument = 1, *, at: Asking) -> None:
    """Who votes what, and what is promised.

    Weights are in per cent of each vote; then the votes promised but not revealed, and the score
    sheets of those that were.

    On a subnet with commit and reveal a vote counts from the epoch of its reveal on.
    """
    from moesubnet.chain.commands.tables import votes_text

    votes = at.ask(lambda client: client.votes(NetUid(netuid)))
    fields: dict[str, object] = {
        "netuid": netuid,
        "block": votes.metagraph.block,
        "epoch": votes.epoch_now,
        "weights": [
            {
                "uid": uid,
                "hotkey": votes.metagraph.neurons[uid].hotkey,
                "last_update_block": votes.metagraph.neurons[uid].last_update_block,
                "row": [{"uid": target, "u16": value} for target, value in row],
            }
            for uid, row in votes.rows.items()
        ],
        "reveals": [
            {
                "uid": uid,
                "epoch": last.epoch,
                "sheet_sha256": last.sheet_sha256,
                "vouches_for": sorted(last.vouches_for),
                "vouched_part": votes.vouched_part(uid),
            }
            for uid, last in votes.reveals.items()
        ],
        "commits": [
            {
                "uid": uid,
                "commit_hash": commit.commit_hash,
                "epoch": commit.epoch,
                "block": commit.block,
                "reveal_epoch": commit.reveal_epoch,
            }
            for uid, commits in votes.commits.items()
            for commit in commits
        ],
    }
    at.answer(fields, votes_text(votes))
