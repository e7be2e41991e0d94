"""How the chosen experts of one stream are asked: a panel whose answers become laws."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from moesubnet.errors import PeerResting
from moesubnet.mixture.law import Law, law_of
from moesubnet.router.model import TokenIds
from moesubnet.router.weighing import Heard
from moesubnet.types import Hotkey
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.asked import Asked, PanelError
from moesubnet.wire.line import HELD_S, Line
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.patience import Paces
from moesubnet.wire.protocol import StepResponse, Want

LAST_HELD_S = 600.0  # where nobody else could answer: as long as OpenAI's clients wait
REST_S = 1.0  # an expert that failed is left alone so long, doubling while it fails


MAX_ECHOED_TOKENS = 256  # whose laws are asked for at once
MAX_ECHOED_LOGS = 2**20  # where laws are of the whole vocabulary: 2 MB an answer


def echo_parts(prompt_ids: TokenIds, vocab_size: int) -> Iterator[tuple[int, TokenIds, int]]:
    """How to ask for the laws of all positions of a text: (the first of them, ids to send, how
    many laws) of each call. There is one position more than there are tokens."""
    size = max(1, min(MAX_ECHOED_TOKENS, MAX_ECHOED_LOGS // vocab_size))
    for start in range(0, max(len(prompt_ids), 1), size):
        ids = prompt_ids[start : start + size]
        is_first = start == 0
        yield start + (not is_first), ids, len(ids) + is_first


class Asking:
    """report: told of each expert what became of every call to it. lines: of all streams. is_last:
    whether nobody else could answer."""

    def __init__(
        self,
        clients: Mapping[Hotkey, Asked],
        *,
        base_s: float,
        want: Want,
        paces: Paces,
        lines: Mapping[Hotkey, Line],
        is_last: bool,
        report: Callable[[Hotkey, StepResponse | PanelError], None],
    ) -> None:
        self.experts: Sequence[Hotkey] = sorted(clients)
        self._panel = Panel(
            clients,
            base_s=base_s,
            want=want,
            rest_s=REST_S,
            paces=paces,
            lines=lines,
            held_s=LAST_HELD_S if is_last else HELD_S,
        )
        self._report = report

    async def extend(
        self,
        sequence: PanelSequence,
        ids: TokenIds,
        first: int,
        worth: Mapping[Hotkey, float],
        bases: Callable[[int], Awaitable[tuple[str, Sequence[Law]]]],
        further: Mapping[Hotkey, int],
        resting: Collection[Hotkey] = (),
        ahead: Ahead | None = None,
    ) -> Heard:
        """Append ids to the sequence and hear the laws of the positions `first` … len(sequence),
        in one call to each. worth: what each one's answer is worth waiting for. bases: asked
        when they have answered for the last member's name, and its law of each of so many
        positions, which has the shape of the others' tails. further: how many tokens an expert
        should go on with. resting: who is not asked. ahead: how an expert that is asked alone
        should draw them; the sequence goes on with all but the last, and their laws are heard
        too."""
        asked = [hotkey for hotkey in self.experts if hotkey not in resting]
        answers = await self._panel.advance(
            [sequence],
            [ids],
            first=first,
            members=asked,
            weights=worth,
            further=further,
            ahead=ahead,
        )
        rows, proofs = {}, {}
        for hotkey, answer in answers.items():
            self._report(hotkey, answer)
            if isinstance(answer, StepResponse):
                rows[hotkey] = answer.rows[0]
                if answer.proof is not None:
                    proofs[hotkey] = answer.proof
        last, base_laws = await bases(len(sequence.ids) + 1 - first)
        laws = [
            [law_of(rows[h], row, base) if h in rows else base for h in self.experts] + [base]
            for row, base in enumerate(base_laws)
        ]
        said = {key: s for key in asked if (s := sequence.said(key)) is not None}
        alive = np.array([*(key in rows for key in self.experts), True])
        guesses = [rows[key].further.tolist() for key in further if key in rows]
        unsent = frozenset(k for k, answer in answers.items() if isinstance(answer, PeerResting))
        return Heard(laws, alive, last, said, proofs, guesses[0] if guesses else [], unsent)

    async def ask(self, sequence: PanelSequence, hotkey: Hotkey) -> StepResponse | PanelError:
        """One expert's law of the token after a sequence."""
        answers = await self._panel.advance([sequence], [sequence.ids[:0]], members=[hotkey])
        self._report(hotkey, answers[hotkey])
        return answers[hotkey]

    async def close(self, sequence: PanelSequence) -> None:
        """Tell the experts that it is over; never fails."""
        await self._panel.close([sequence])
