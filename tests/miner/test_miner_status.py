"""What `miner status` says, for every reason a miner can have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesubnet.errors import ConfigError
from moesubnet.miner.status import Status, explain, look, render
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Axon, BlockNumber, Hotkey, Metagraph, Uid

from .conftest import metagraph_of, neuron

TAO = 10**9
MINER = neuron(0, "//Miner", 0)
OTHER = neuron(1, "//Other", 0)
BIG, SMALL = neuron(2, "//Big", 700 * TAO), neuron(3, "//Small", 300 * TAO)


def network(**changes: object) -> Metagraph:
    here = {"axon": Axon("127.0.0.1", 9), "registered_at_block": BlockNumber(0)}
    return metagraph_of([replace(MINER, **(here | changes)), OTHER, BIG, SMALL])


def sheet_of(validator: Hotkey, ema_nano: int | None, standing_ppm: int = 1_000_000) -> Sheet:
    empty = np.zeros((0, 3), np.int32)
    return Sheet(
        netuid=1,
        epoch=2,
        validator=validator,
        spec_sha256=bytes(32),
        gate_sha256=bytes(32),
        previous_sha256=bytes(32),
        seed=bytes(32),
        hotkeys=(MINER.hotkey, OTHER.hotkey),
        uids=(0, 1),
        age_millis=(5_000,) * 2,
        walks=(),
        chosen=np.zeros((0, 2), np.uint8),
        apart=np.zeros((0, 2), np.uint8),
        walk=np.zeros(0, np.uint32),
        position=np.zeros(0, np.uint32),
        senders=(validator,),
        sender=np.zeros((0, 2), np.uint8),
        log_q=empty,
        log_w=empty,
        entropy=empty,
        took_100us=empty,
        receipts=(bytes(32), bytes(32)),
        usage_loss_ppm=(0,) * 2,
        feedback_ppm=(0,) * 2,
        reliability_ppm=(10**6, 10**6),
        ema_before=(None, None),
        ema_after=(ema_nano, 10**9),
        novelty_before=(None,) * 2,
        novelty_after=(None,) * 2,
        since=(None,) * 2,
        standing_ppm=(standing_ppm, 1_000_000),
        row_u16=(0, 65_535),
    )


def votes(big: tuple[int, int], small: tuple[int, int]) -> dict[Uid, tuple[tuple[Uid, int], ...]]:
    rows = {BIG.uid: big, SMALL.uid: small}
    return {uid: ((Uid(0), a), (Uid(1), b)) for uid, (a, b) in rows.items()}


def status(metagraph: Metagraph | None = None, **given: object) -> Status:
    arguments = {"weights": {}, "sheets": [], "pool_rao": 1_000} | given
    return look(MINER.hotkey, metagraph or network(), **arguments)  # type: ignore[arg-type]


def test_the_forecast_clips_votes_to_what_half_the_stake_supports() -> None:
    agreed = status(weights=votes((30, 70), (30, 70)))
    assert agreed.forecast == pytest.approx(0.3)
    assert agreed.forecast_rao == 300
    # The small validator alone wants to give everything: it moves nothing.
    clipped = status(weights=votes((30, 70), (100, 0)))
    assert clipped.forecast == pytest.approx(0.3 / (0.3 + 0.7 * 0.7))
    assert status(weights=votes((0, 100), (100, 0))).forecast == 0


def test_the_reason_is_named() -> None:
    said = {
        "no axon is on chain": status(network(axon=None)),
        "No validator votes yet": status(),
        "in proportion to what it adds": status(weights=votes((30, 70), (30, 70))),
        "validator 3 votes more": status(weights=votes((30, 70), (100, 0))),
        "within three epochs": status(
            network(registered_at_block=BlockNumber(70)), weights=votes((0, 9), (0, 9))
        ),
        "adds nothing": status(
            weights=votes((0, 9), (0, 9)), sheets=[sheet_of(BIG.hotkey, -(10**6))]
        ),
        "No validator has measured": status(
            weights=votes((0, 9), (0, 9)), sheets=[sheet_of(BIG.hotkey, None)]
        ),
        "Less than half of the stake": status(weights=votes((0, 9), (9, 0))),
        "those that were there before say too": status(
            weights=votes((0, 9), (0, 9)), sheets=[sheet_of(BIG.hotkey, 10**9, standing_ppm=20_000)]
        ),
    }
    for text, found in said.items():
        assert text in explain(found), text


def test_the_screen_shows_rank_value_and_pay() -> None:
    earning = network(incentive_u16=20_000, emission_rao=77, consensus_u16=65_535)
    screen = render(
        status(
            earning,
            weights=votes((30, 70), (30, 70)),
            sheets=[sheet_of(BIG.hotkey, 250_000_000), sheet_of(SMALL.hotkey, 150_000_000)],
        )
    )
    for text in (
        "1 of 2 miners; 1 earn",
        "+0.2000 nats/token",
        "300 rao",
        "last paid  77 rao",
        "70.0% of the",
    ):
        assert text in screen, text
    assert "not known" in render(status(pool_rao=None))


def test_the_rank_is_among_all_who_were_measured_not_only_those_who_earn() -> None:
    unpaid = status(sheets=[sheet_of(BIG.hotkey, -1)])
    assert "rank       none yet, of 2 miners; 0 earn" in render(unpaid)


def test_a_stranger_is_told_how_to_register() -> None:
    with pytest.raises(ConfigError, match="moesubnet register"):
        look(Hotkey("5Stranger"), network(), {}, [], None)
