"""A call, and the bytes that an account signs and sends for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scalecodec.exceptions import RemainingScaleBytesNotEmptyException

from moesubnet.chain.rpc.link import Link
from moesubnet.errors import ChainError
from moesubnet.types import BlockNumber

ERA_BLOCKS = 128  # a transaction can be included for about this long after its anchor
_SR25519 = b"\x01"


@dataclass(frozen=True, slots=True)
class Call:
    """A call by the names in the chain's metadata; `args` as substrate-interface takes them."""

    module: str
    function: str
    args: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


class Account(Protocol):
    """Whose call it is."""

    @property
    def ss58_address(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...


def next_nonce(link: Link, account: Account) -> int:
    """The account's next nonce, counting what waits in the pool."""
    return int(link.request("system_accountNextIndex", account.ss58_address))


def build_extrinsic(
    interface: Any,
    composed: Any,
    account: Account,
    sign: Callable[[bytes], bytes],
    nonce: int,
    anchor: BlockNumber,
) -> bytes:
    """A call's bytes, good for `ERA_BLOCKS` from `anchor` on; `sign` takes its payload to 64."""
    era = {"period": ERA_BLOCKS, "current": anchor}
    payload = interface.generate_signature_payload(call=composed, era=dict(era), nonce=nonce)
    extrinsic = interface.create_signed_extrinsic(
        call=composed,
        keypair=account,
        era=dict(era),
        nonce=nonce,
        signature=_SR25519 + sign(bytes(payload.data)),
    )
    return bytes(extrinsic.data.data)


def compose(interface: Any, call: Call, head_hash: str) -> Any:
    """The library's form of a call. Raises ChainError if the chain's metadata has no such one."""
    try:
        return interface.compose_call(
            call.module, call.function, dict(call.args), block_hash=head_hash
        )
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        RemainingScaleBytesNotEmptyException,
    ) as error:
        raise ChainError(f"this chain cannot take {call}: {error}") from error
