"""Claim: a validator need not measure. It publishes another's sheet as its own, records and all:
the experts signed for the routers, which both go through.

What they signed names the walk's session, and that name is a hash of the validator that asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesubnet.mixture.sheet import Sheet
    from moesubnet.types import Hotkey


def as_own(sheet: Sheet, copier: Hotkey) -> Sheet:
    """A published sheet under the copier's name; its receipts are served as they are."""
    return replace(sheet, validator=copier, senders=(copier, *sheet.senders[1:]))
