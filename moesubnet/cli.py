"""`moesubnet …`: one command line for every role. Each component adds its own commands."""

from __future__ import annotations

import sys

import typer

from moesubnet import __version__
from moesubnet.errors import MoesubnetError


def build_app() -> typer.Typer:
    """The whole command tree. Importing a `cli` module is cheap: no torch, no sockets."""
    from moesubnet.chain.cli import add_commands as add_chain_commands
    from moesubnet.chain.devchain.cli import chain_app
    from moesubnet.distill.cli import distill_app
    from moesubnet.doctor import doctor
    from moesubnet.localnet.cli import localnet_app
    from moesubnet.miner.cli import expert_app, miner_app
    from moesubnet.router.cli import router_app
    from moesubnet.validator.cli import validator_app

    app = typer.Typer(
        name="moesubnet",
        help="Independent language models, mixed into one better model, everyone paid.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.command()
    def version() -> None:
        """Print the version."""
        typer.echo(__version__)

    add_chain_commands(app)  # wallet, faucet, transfer, register, stake, subnet
    app.command()(doctor)
    app.add_typer(chain_app, name="chain", help="Run a chain: embedded, or several nodes.")
    app.add_typer(localnet_app, name="localnet")
    app.add_typer(miner_app, name="miner", help="Serve an expert and earn with it.")
    app.add_typer(expert_app, name="expert", help="Train an expert from your own text.")
    app.add_typer(validator_app, name="validator", help="Measure experts and vote.")
    app.add_typer(router_app, name="router", help="One OpenAI-compatible endpoint over all.")
    app.add_typer(distill_app, name="distill", help="Turn the mixture into one student.")
    return app


def main() -> None:
    """Entry point: a MoesubnetError becomes one line on stderr and exit code 1."""
    failed: list[BaseException] = []
    try:
        build_app()()
    except* MoesubnetError as group:  # alone, or as a task group raises it
        failed += _leaves(group)
    for error in failed:
        typer.secho(f"error: {error}", fg="red", err=True)
    if failed:
        sys.exit(1)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
