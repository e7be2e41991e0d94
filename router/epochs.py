"""The past of a subnet as the page shows it, from the score sheets that the gate is fit on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from moesubnet.mixture.history import perplexities, standings
from moesubnet.mixture.sheet import Sheet
from moesubnet.router.openai_api import JsonObject

EXPLAINED_EPOCHS = 2  # newest ones whose votes are told row by row


def describe_epochs(sheets: Sequence[Sheet]) -> JsonObject:
    """Perplexities by epoch, oldest first, and the newest votes, newest first."""
    by_epoch: dict[int, list[Sheet]] = {}
    for sheet in sheets:
        by_epoch.setdefault(sheet.epoch, []).append(sheet)
    epochs = [
        {"epoch": epoch} | asdict(found)
        for epoch, of_epoch in sorted(by_epoch.items())
        if (found := perplexities(of_epoch)) is not None
    ]
    newest = sorted(by_epoch, reverse=True)[:EXPLAINED_EPOCHS]
    votes = [
        {
            "epoch": sheet.epoch,
            "validator": sheet.validator,
            "items": len(sheet.walk),
            "experts": [asdict(row) for row in standings(sheet)],
        }
        for epoch in newest
        for sheet in sorted(by_epoch[epoch], key=lambda sheet: sheet.validator)
    ]
    return {"epochs": epochs, "sheets": votes}
