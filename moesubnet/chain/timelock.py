"""Votes encrypted to a future round of drand: how a subtensor network keeps them secret.

Nobody can read such a commit before its round, and from then on everybody can: the chain reveals
it by itself. The encryption is bittensor-core's, the official client's own; nothing here asks a
network. Its schedule of epochs is that of the chain's `Epoch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from moesubnet.chain.nouns import Epoch
from moesubnet.errors import ConfigError

COMMIT_REVEAL_VERSION = 4  # what the call says about the format of its commit


def encrypted_commit(
    epoch: Epoch,
    uids: Sequence[int],
    values: Sequence[int],
    version_key: int,
    block_seconds: float,
    hotkey_public_key: bytes,
) -> tuple[bytes, int]:
    """The commit of a vote that is sent now, and the drand round at which it opens.

    `uids` and `values` are u16. Raises ConfigError if bittensor-core is not installed.
    """
    commit, reveal_round = load_timelock().get_encrypted_commit_v2(
        uids=[int(uid) for uid in uids],
        weights=[int(value) for value in values],
        version_key=version_key,
        last_epoch_block=epoch.last_epoch_block,
        pending_epoch_at=epoch.pending_epoch_at,
        subnet_epoch_index=epoch.epoch_index,
        tempo=epoch.tempo_blocks,
        blocks_since_last_step=epoch.blocks_since_last_step,
        current_block=epoch.block,
        subnet_reveal_period_epochs=epoch.reveal_period_epochs,
        block_time=block_seconds,
        hotkey=hotkey_public_key,
    )
    return bytes(commit), int(reveal_round)


def load_timelock() -> Any:
    """The library. Raises ConfigError that says what to install."""
    try:
        return import_module("bittensor_core")
    except ImportError as error:
        raise ConfigError(
            "votes on this chain are encrypted to drand, which needs bittensor-core: "
            "pip install 'moesubnet[subtensor]'"
        ) from error
