"""The past of a subnet as the page shows it, from the score sheets that the gate is fit on.

Sheets do not know the student; but their walks are public, so this router asks its own for the
same labels, each given the text before it, as validators asked experts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from moesubnet.mixture.history import perplexities, standings
from moesubnet.mixture.mixing import Float
from moesubnet.mixture.sheet import LOG_Q_FLOOR, Sheet
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.router.model import Model
from moesubnet.router.openai_api import JsonObject

EXPLAINED_EPOCHS = 2  # newest ones whose votes are told row by row
MOST_ASKED_TOKENS = 65_536  # of a sheet; usual ones have a tenth
MOST_WALK_TOKENS = 2_048  # in memory there is a law for each; usual walks have 300


class Past:
    """sheets: the revealed ones, as they are now. spec_sha256: of those whose text the student
    reads."""

    def __init__(self, sheets: Callable[[], Sequence[AnySheet]], spec_sha256: bytes) -> None:
        self._sheets, self._spec_sha256 = sheets, spec_sha256
        self._student: dict[bytes, Float | None] = {}  # what it said, by sheet; None: it failed
        self._told: tuple[frozenset[bytes], int, JsonObject] | None = None

    async def told(self) -> JsonObject:
        """See `describe_epochs`; computed anew only when there is something new to tell."""
        sheets = self._sheets()
        said = {digest: found for digest, found in self._student.items() if found is not None}
        known = frozenset(sheet.sha256 for sheet in sheets)
        if self._told is None or self._told[:2] != (known, len(said)):
            told = await asyncio.to_thread(describe_epochs, sheets, said)
            self._told = known, len(said), told
        return self._told[2]

    async def ask(self, student: Model) -> None:
        """How well the student guesses the newest sheet that it was not asked about; each is asked
        once, of the student that there is then. Raises what models raise."""
        sheets = {sheet.sha256: sheet for sheet in self._sheets()}
        self._student = {digest: x for digest, x in self._student.items() if digest in sheets}
        for digest, sheet in sorted(sheets.items(), key=lambda item: -item[1].epoch):
            if digest in self._student or sheet.spec_sha256 != self._spec_sha256:
                continue
            self._student[digest] = None
            whole = await asyncio.to_thread(sheet.read)
            if whole is not None and _is_short(whole):
                self._student[digest] = await guesses(student, whole)
                return


def _is_short(sheet: Sheet) -> bool:
    sizes = [len(ids) for ids in sheet.walks]
    return sum(sizes) <= MOST_ASKED_TOKENS and max(sizes, default=0) <= MOST_WALK_TOKENS


async def guesses(student: Model, sheet: Sheet) -> Float:
    """[M] the student's log-probability of each label, cut as the experts' are."""
    found = np.zeros(len(sheet.walk))
    for place, ids in enumerate(sheet.walks):
        session = student.open()
        try:
            laws = [forecast.mixture.law async for forecast in session.echo(ids)]
        finally:
            session.close(is_over=True)
        for item in np.flatnonzero(sheet.walk == place):
            position = int(sheet.position[item])
            found[item] = float(laws[position].at(int(ids[position])))
    return np.maximum(found, LOG_Q_FLOOR)


def describe_epochs(sheets: Sequence[AnySheet], student: Mapping[bytes, Float]) -> JsonObject:
    """Perplexities by epoch, oldest first, and the newest votes, newest first.

    student: its log-probabilities of sheets' labels, by their SHA-256, as far as it was asked."""
    by_epoch: dict[int, list[AnySheet]] = {}
    for sheet in sheets:
        by_epoch.setdefault(sheet.epoch, []).append(sheet)
    epochs = [
        {"epoch": epoch} | asdict(found)
        for epoch, of_epoch in sorted(by_epoch.items())
        if (found := perplexities(of_epoch, student)) is not None
    ]
    newest = sorted(by_epoch, reverse=True)[:EXPLAINED_EPOCHS]
    votes = [
        {
            "epoch": whole.epoch,
            "validator": whole.validator,
            "items": whole.items,
            "experts": [asdict(row) for row in standings(whole)],
        }
        for epoch in newest
        for sheet in sorted(by_epoch[epoch], key=lambda sheet: sheet.validator)
        if (whole := sheet.read())
    ]
    return {"epochs": epochs, "sheets": votes}
