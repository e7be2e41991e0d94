"""Conversions between the chain's integers and what people read. Money never becomes a float."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from moesubnet.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Grain:
    """How fine the units of a spec are: what is stated per token (forgetting, walks, blind items)
    in its units. token_units: how many of them a mean token has."""

    unit: str = "tokens"
    token_units: float = 1.0

    def units(self, tokens: float) -> int:
        return round(tokens * self.token_units)

    def decay(self, per_token: float) -> float:
        """A factor per token, as one per unit."""
        return float(per_token ** (1.0 / self.token_units))


TOKENS = Grain()
RAO_PER_TOKEN = 10**9
MAX_PRICE_RAO_PER_MTOKEN = 10**15  # posted: one τ a token, so that sums stay below 2^63
U16_MAX = 65_535
_WHOLE = r"(\d{1,20}|\d{1,3}(?:,\d{3}){1,6})"  # commas between thousands only: what is 1,5?


def format_rao(amount_rao: int, decimals: int | None = None) -> str:
    """`1_500_000_000` → `"1.5 τ"`; exact. With `decimals` (1 to 9) cut to a column's width."""
    sign = "-" if amount_rao < 0 else ""
    whole, rest = divmod(abs(amount_rao), RAO_PER_TOKEN)
    digits = f"{rest:09d}"
    fraction = digits.rstrip("0") if decimals is None else digits[:decimals]
    return f"{sign}{whole:,}{'.' + fraction if fraction else ''} τ"


def parse_rao(text: str) -> int:
    """`"1.5"` (tokens) → 1_500_000_000 rao; `"12rao"` → 12.

    Raises ConfigError for anything that is not an exact number of rao in u64.
    """
    cleaned = text.strip().replace("_", "")
    in_rao = re.fullmatch(rf"{_WHOLE}\s*rao", cleaned, re.ASCII)
    in_tokens = re.fullmatch(rf"{_WHOLE}(?:\.(\d{{1,9}}))?\s*τ?", cleaned, re.ASCII)
    if in_rao:
        amount_rao = _whole(in_rao[1])
    elif in_tokens:
        amount_rao = _whole(in_tokens[1]) * RAO_PER_TOKEN + int((in_tokens[2] or "").ljust(9, "0"))
    else:
        raise ConfigError(
            f"{text!r} is not an amount; write tokens with at most nine decimals ('1.5') or '12rao'"
        )
    if amount_rao >= 2**64:
        raise ConfigError(f"{text!r} is more than there can ever be")
    return amount_rao


def _whole(digits: str) -> int:
    return int(digits.replace(",", ""))


def max_upscale_u16(values: Sequence[float]) -> list[int]:
    """Weights of any scale ≥ 0 → u16 with the largest at 65535; all zero stays zero."""
    top = max(values, default=0.0)
    if top <= 0:
        return [0] * len(values)
    return [round(max(0.0, v) / top * U16_MAX) for v in values]


def parse_percent_u16(text: str) -> int:
    """`"9%"` → 5_898 of 65,535, rounded down: 18 % is then the chain's highest take.

    Raises ConfigError.
    """
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", text.strip(), re.ASCII)
    if not found or Decimal(found[1]) > 100:
        raise ConfigError(f"{text!r} is not a share; write per cent: '9%' or '12.5%'")
    return int(Decimal(found[1]) * U16_MAX / 100)


def u16_fraction(value: int) -> float:
    """A chain u16 as a fraction of one."""
    return value / U16_MAX
