"""What a miner would answer, out of laws that a test knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from aiohttp import web
from substrateinterface import Keypair

from moesubnet.engine.base import Query
from moesubnet.types import Hotkey
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.lanes import Given, Lane, pack_answers
from moesubnet.wire.rows import StepRows
from moesubnet.wire.server import BODY
from moesubnet.wire.step import SequenceStep, Want


def answer_to(step: SequenceStep, laws: np.ndarray, want: Want) -> StepRows:
    """laws: f32 [step.end - step.first_law + 1, V], of the positions from `step.first_law`."""
    ids = np.concatenate((np.zeros(step.base_len, np.uint32), step.append_ids, step.draft_ids))
    query = Query(step.session, ids, step.first_row, len(step.draft_ids))
    return query.answer(laws, want).bind()


def dense_rows(rows: StepRows, vocab_size: int) -> np.ndarray:
    """f32 [rows, V]: the tail evenly over what is not listed."""
    out = np.empty((rows.count, vocab_size), np.float32)
    for index, row in enumerate(out):
        ids, logprobs, tail = rows.row(index)
        if ids is None:
            row[:] = logprobs
        else:
            row[:] = np.log(max(tail, 1e-30) / max(1, vocab_size - len(np.unique(ids))))
            row[ids] = logprobs
    return out


async def laned(
    request: web.Request,
    body: bytes,
    caller: Keypair,
    signer: Keypair,
    *,
    status: int = 200,
    spoil: Callable[[bytes], bytes] = lambda frame: frame,
) -> web.Response:
    """A neuron's answer to a lane: the same to all its steps. spoil: what becomes of the frame."""
    lane = Lane.from_bytes(request.get(BODY) or await request.read(), request.query_string)
    given = [Given(place, status, body) for place in range(len(lane.steps))]
    nonce_ns = int(request.headers["X-Bittensor-Nonce"])
    frame = pack_answers(given, lane, nonce_ns, Hotkey(caller.ss58_address), signer)
    return web.Response(body=spoil(frame), content_type=CONTENT_TYPE)
