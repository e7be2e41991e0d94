"""The options that many commands have, said once: dataclasses that a command asks for.

`Keys` ⊂ `Asking` ⊂ `Changing`: looking at keys, asking a chain, changing it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from moesubnet.chain.commands.console import (
    DryRun,
    Finalized,
    WalletsDir,
    Yes,
    account,
    ask_chain,
    confirm,
)
from moesubnet.errors import ChainUnavailable, WalletError
from moesubnet.host.options import DEFAULT_CHAIN, AsJson, Chain
from moesubnet.types import Coldkey
from moesubnet.units import format_rao

if TYPE_CHECKING:
    from moesubnet.chain.client import Call, ChainClient, Receipt
    from moesubnet.chain.rpc.connection import Wait

T = TypeVar("T")


@dataclass(frozen=True)
class Keys:
    """Options of a command that looks at keys."""

    wallets: WalletsDir = None
    as_json: AsJson = False

    def account(self, text: str, *, hotkey: bool = False) -> str:
        """The address that `text` means: an address itself, or a key of a wallet, or //URI."""
        return account(text, self.wallets, hotkey=hotkey)

    def answer(self, fields: Mapping[str, object], text: str) -> None:
        """Say `text` to people, or `fields` as one JSON object to machines."""
        typer.echo(json.dumps(fields) if self.as_json else text)

    def remark(self, text: str) -> None:
        """Tell people, who may be asked also with --json, something that they should know first."""
        typer.echo(text, err=True)


@dataclass(frozen=True)
class Asking(Keys):
    """Options of a command that asks a chain."""

    chain: Chain = DEFAULT_CHAIN

    def ask(self, question: Callable[[ChainClient], Awaitable[T]]) -> T:
        """Connect, ask, disconnect."""
        return ask_chain(self.chain, question)


@dataclass(frozen=True)
class Changing(Asking):
    """Options of a command that changes a chain."""

    yes: Yes = False
    dry_run: DryRun = False
    finalized: Finalized = False

    def submit(self, call: Call, signer: str, question: str | None) -> Receipt:
        """Try the call, ask the person (unless `question` is None), unlock the key, send, wait.

        `signer` is whose coldkey signs. A dry run ends here. Raises CallRejected also for what the
        chain would refuse, before anybody types a password; Declined, WalletError.
        """
        from moesubnet.chain.proposal import describe
        from moesubnet.chain.wallet import load_coldkey

        address = Coldkey(self.account(signer))
        proposal = self.ask(lambda client: client.propose(call, address))
        if self.dry_run:
            fields, text = describe(proposal)
            asked = f"\nquestion   {question}" if question else ""
            self.answer(fields | {"question": question}, text + asked)
        if proposal.refusal:
            raise proposal.refusal
        if self.dry_run:
            raise typer.Exit
        if question is not None:
            fee = format_rao(proposal.fee_rao)
            confirm(f"{question} {address} signs; the fee is {fee}.", self.yes)
        coldkey = load_coldkey(signer, self.wallets)
        if coldkey.ss58_address != address:
            raise WalletError(
                f"the public file of {signer} names {address}, its key is {coldkey.ss58_address}: "
                "put the right file back; nothing was sent"
            )
        wait: Wait = "finalization" if self.finalized else "inclusion"
        try:
            return self.ask(lambda client: client.submit(call, coldkey, wait=wait))
        except KeyboardInterrupt:
            raise ChainUnavailable(
                f"not waiting any more; {call} may still come into a block: look first"
            ) from None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the dataclass that its last parameter asks for.

    `def show(name: Name, *, at: Asking)` becomes `show NAME --wallets --json --chain`.
    """
    *own, last = inspect.signature(command, eval_str=True).parameters.values()
    options: Any = last.annotation
    hints = get_type_hints(options, include_extras=True)
    shared = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=hints[option.name],
        )
        for option in fields(options)
    ]

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {option.name: arguments.pop(option.name) for option in shared}
        command(**arguments, **{last.name: options(**values)})

    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = inspect.Signature([*named, *shared])  # type: ignore[attr-defined]
    return run


def example(*lines: str) -> str:
    """What a command's help ends with; `\\b` keeps its lines whole, to be copied."""
    return "\n".join(["\b", "For example:", *(f"  moesubnet {line}" for line in lines)])
