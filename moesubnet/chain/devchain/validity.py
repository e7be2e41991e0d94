"""What the runtime says about a transaction, and the JSON-RPC errors that clients know it by."""

from __future__ import annotations

from dataclasses import dataclass

from moesubnet.chain.devchain.scale import Reader
from moesubnet.errors import ChainError

_CUSTOM_INVALID, _CUSTOM_UNKNOWN = 7, 2
_FUTURE, _EXHAUSTS_RESOURCES = 2, 6
_INVALID = (
    "Transaction call is not expected",
    "Inability to pay some fees (e.g. account balance too low)",
    "Transaction will be valid in the future",
    "Transaction is outdated",
    "Transaction has a bad signature",
    "Transaction has an ancient birth block",
    "Transaction would exhaust the block limits",
    "InvalidTransaction custom error",
    "A call was labelled as mandatory, but resulted in an Error.",
    "Transaction dispatch is mandatory; transactions must not be validated.",
    "Invalid signing address",
    "The implicit data was unable to be calculated",
    "The transaction extension did not authorize any origin",
)
_UNKNOWN = (
    "Could not lookup information required to validate the transaction",
    "Could not find an unsigned validator for the unsigned transaction",
)


class PoolError(ChainError):
    """The pool does not take a transaction. `code` and `data` are those of Substrate's nodes."""

    code: int
    message: str
    data: str | None

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(f"{message}: {data}" if data else message)
        self.code, self.message, self.data = code, message, data


class InvalidTransaction(PoolError):
    """The runtime does not take it. `future` and `exhausts_resources` may pass by themselves."""

    def __init__(self, code: int, message: str, data: str, reason: int | None = None) -> None:
        super().__init__(code, message, data)
        self.future = reason == _FUTURE
        self.exhausts_resources = reason == _EXHAUSTS_RESOURCES


@dataclass(frozen=True, slots=True)
class ValidTransaction:
    """Tags order transactions: each of `requires` is in the `provides` of one that goes before."""

    priority: int
    requires: tuple[bytes, ...]
    provides: tuple[bytes, ...]
    longevity_blocks: int


def read_error(r: Reader) -> InvalidTransaction:
    """Decode a `TransactionValidityError`."""
    unknown, reason = r.uint(1) == 1, r.uint(1)
    if unknown:
        custom = reason == _CUSTOM_UNKNOWN
        text = f"Custom error: {r.uint(1)}" if custom else _text(_UNKNOWN, reason)
        return InvalidTransaction(1011, "Unknown Transaction Validity", text)
    text = f"Custom error: {r.uint(1)}" if reason == _CUSTOM_INVALID else _text(_INVALID, reason)
    return InvalidTransaction(1010, "Invalid Transaction", text, reason)


def read_validity(data: bytes) -> ValidTransaction:
    """Decode a `TransactionValidity`; raises the InvalidTransaction that it may be."""
    r = Reader(data)
    if r.uint(1):
        raise read_error(r)
    return ValidTransaction(
        priority=r.uint(8),
        requires=tuple(r.vec() for _ in range(r.compact())),
        provides=tuple(r.vec() for _ in range(r.compact())),
        longevity_blocks=r.uint(8),
    )


def _text(texts: tuple[str, ...], reason: int) -> str:
    return texts[reason] if reason < len(texts) else f"reason {reason}"
