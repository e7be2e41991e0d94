"""`moesubnet …`: one command line for every role. Each component adds its own commands.

A command ends with one of these codes, so that a script knows what to do next:

0  done
1  failed; the line on stderr says why
2  what was typed cannot work
3  the chain refused the call, or would; nothing has changed but perhaps a fee was paid
4  the other side does not answer; what was sent already may still take effect, so look first
5  a person was asked and did not agree; nothing was sent
"""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

import typer

from moesubnet import __version__
from moesubnet.errors import (
    CallRejected,
    ChainUnavailable,
    ConfigError,
    Declined,
    MoesubnetError,
    PeerUnavailable,
)

_FAILED = 1
_EXIT_CODES: dict[type[MoesubnetError], int] = {
    ConfigError: 2,
    CallRejected: 3,
    ChainUnavailable: 4,
    PeerUnavailable: 4,
    Declined: 5,
}
# What a person mends on their own machine: disk, permissions, paths. Others are faults of ours.
_THE_MACHINES = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO,
}  # fmt: skip


def build_app() -> typer.Typer:
    """The whole command tree. Importing a `cli` module is cheap: no torch, no sockets."""
    from moesubnet.chain.commands.app import add_commands as add_chain_commands
    from moesubnet.chain.devchain.cli import chain_app
    from moesubnet.chain.network.cli import network
    from moesubnet.distill.cli import distill_app
    from moesubnet.doctor import doctor
    from moesubnet.localnet.cli import localnet_app
    from moesubnet.miner.cli import expert_app, miner_app
    from moesubnet.owner.cli import spec_app
    from moesubnet.router.cli import router_app
    from moesubnet.validator.cli import validator_app

    app = typer.Typer(
        name="moesubnet",
        help="Independent language models, mixed into one better model, everyone paid.",
        epilog="Exit codes: 0 done, 1 failed, 2 typed wrongly, 3 refused by the chain, "
        "4 no answer, 5 not agreed to.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.command()
    def version() -> None:
        """Print the version."""
        typer.echo(__version__)

    add_chain_commands(app)  # wallet, balance, faucet, transfer, register, stake, subnet, weights
    app.command()(doctor)
    chain = typer.Typer(no_args_is_help=True)
    chain.add_typer(chain_app)
    chain.command()(network)
    app.add_typer(chain, name="chain", help="Run a chain: embedded, or several nodes.")
    app.add_typer(localnet_app, name="localnet")
    app.add_typer(spec_app, name="spec", help="Make and publish what a subnet's experts share.")
    app.add_typer(miner_app, name="miner", help="Serve an expert and earn with it.")
    app.add_typer(expert_app, name="expert", help="Train an expert from your own text.")
    app.add_typer(validator_app, name="validator", help="Measure experts and vote.")
    app.add_typer(router_app, name="router", help="One OpenAI-compatible endpoint over all.")
    app.add_typer(distill_app, name="distill", help="Turn the mixture into one student.")
    return app


def main() -> None:
    """Entry point: a MoesubnetError, or what the disk did not do, becomes one line on stderr and
    its exit code."""
    failed: list[BaseException] = []
    sys.argv[1:] = [_at_home(argument) for argument in sys.argv[1:]]
    try:
        build_app()()
    except* MoesubnetError as group:  # alone, or as a task group raises it
        failed += _leaves(group)
    except* OSError as group:
        said, faults = group.split(_is_the_machines)
        if faults is not None:
            raise faults.exceptions[0] if len(faults.exceptions) == 1 else faults from None
        failed += _leaves(said or group)
    for error in failed:
        typer.secho(f"error: {error}", fg="red", err=True)
    if failed:
        sys.exit(_exit_code(failed[0]))


def _at_home(argument: str) -> str:
    """`~/…` and `--option=~/…` as the shell would have written them: it leaves `~` alone in quotes,
    which a glob needs, and behind `=`."""
    return re.sub(r"^(--[a-z-]+=)?~(?=/|$)", lambda m: f"{m[1] or ''}{Path.home()}", argument)


def _is_the_machines(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _THE_MACHINES


def _exit_code(error: BaseException) -> int:
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), _FAILED)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
