"""`moesubnet validator …`"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.host.options import (
    DEFAULT_CHAIN,
    AllowPrivate,
    AsJson,
    Chain,
    Host,
    LogLevel,
    Netuid,
    Port,
    SpecDir,
)
from moesubnet.validator.replay_command import replay

if TYPE_CHECKING:
    from moesubnet.types import Hotkey
    from moesubnet.validator.archive import Archive
    from moesubnet.validator.checkbook import Check

validator_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

StateDir = Annotated[
    Path | None,
    typer.Option(help="Scores, votes and used text. Keep it: used text is never used again."),
]


@validator_app.callback()
def _group() -> None:
    """Measure what each expert adds to the mixture, and vote."""


@validator_app.command()
def run(
    hotkey: Annotated[
        str, typer.Option(help="Key that votes: a wallet `name/hotkey`, or //URI. Needs stake.")
    ],
    text: Annotated[
        str,
        typer.Option(
            help="Private text that no miner has seen: a file or quoted glob; .jsonl lines with "
            'a "text" or, as users chat, {"messages": [{"role", "content"}, …]}; or one document '
            "a file. Each part is used once and then PUBLISHED."
        ),
    ],
    spec: SpecDir = None,
    state_dir: StateDir = None,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    host: Host = "127.0.0.1",
    port: Port = 8091,
    external_ip: Annotated[
        str | None, typer.Option(help="Address to publish on chain; --host if not given.")
    ] = None,
    walks: Annotated[
        int,
        typer.Option(
            min=8,
            max=128,
            help="Walks an epoch; each spends some 110 tokens of private text (see --dry-run).",
        ),
    ] = 32,
    feedback: Annotated[
        bool,
        typer.Option(
            help="Let what routers say of users' ratings move scores, by 5 % at most either way. "
            "Who pays a router can rate."
        ),
    ] = False,
    replay_gib: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Each epoch replay the answers of one expert that offers its weights, by lot, in "
            "a process of its own: fetch at most so many GiB from its owner's address, and keep as "
            "many. 0: none.",
        ),
    ] = 0.0,
    allow_private: AllowPrivate = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say how long the text lasts, what becomes public and what an epoch costs; send "
            "nothing.",
        ),
    ] = False,
    log_level: LogLevel = "info",
) -> None:
    """Score every expert on your private text, and vote.

    Each epoch's vote is committed, and revealed in the next.

    Each epoch some text is walked token by token through experts; no label is sent before its
    answer is scored. The answers, the text itself and the vote that follows make a score sheet.
    Its hash goes on chain with the vote, and once the vote is revealed the sheet is served to
    everyone: that text is public from then on. Do not give text that must stay secret.

    Where users chat, give conversations too: plain text alone tells miners which prompts are yours,
    and they can serve these alone. A conversation is asked from its beginning, under the subnet's
    template: the first answers, as many as chats have turns, are walks. Of those that ask the same
    one is used.

    Stop and start at any time: nothing is lost, no text is used twice. When the text is spent, the
    last vote is repeated until you add more. 100,000 tokens last about 24 epochs; --dry-run says
    it for your text and the subnet as it is.
    """
    import asyncio

    from moesubnet.chain.wallet import load_hotkey
    from moesubnet.host.log import set_up_logging
    from moesubnet.types import NetUid
    from moesubnet.validator.run import ValidatorConfig, dry_run, run_validator

    set_up_logging(log_level)
    signer = load_hotkey(hotkey)
    config = ValidatorConfig(
        chain_url=chain,
        netuid=NetUid(netuid),
        signer=signer,
        hotkey_spec=hotkey,
        spec_dir=spec,
        text=text,
        state_dir=state_dir or _default_state_dir(),
        host=host,
        port=port,
        external_ip=external_ip,
        allow_private=allow_private,
        walks_per_epoch=walks,
        with_feedback=feedback,
        replay_gib=replay_gib,
    )
    if dry:
        typer.echo(asyncio.run(dry_run(config)))
        return
    asyncio.run(run_validator(config))


@validator_app.command()
def explain(
    hotkey: Annotated[str, typer.Argument(help="The miner's hotkey (SS58), or //URI.")],
    state_dir: StateDir = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            help="A published sheet instead of your own last one: its file, or its hash "
            "(`moesubnet weights show` lists them) together with --axon."
        ),
    ] = None,
    axon: Annotated[
        str | None, typer.Option(help="IP:PORT of the validator that publishes --sheet HASH.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say on one screen why a miner earns what it earns.

    From your own newest sheet, also while your validator runs, or from any validator's. The vote
    is recounted from it; your last 32 say whether the miner answers otherwise through one router
    than through others. A miner reads what all say of it with `moesubnet miner status`.
    """
    import asyncio

    from moesubnet.chain.wallet import hotkey_address
    from moesubnet.errors import ConfigError
    from moesubnet.mixture.sheet import Sheet
    from moesubnet.types import Hotkey
    from moesubnet.validator.explain import explain as explain_sheet
    from moesubnet.validator.explain import facts
    from moesubnet.validator.senders import EPOCHS

    sheets: list[Sheet]
    if axon is not None:
        from moesubnet.validator.published import fetched

        if sheet is None:
            raise ConfigError("which sheet? --sheet HASH; `moesubnet weights show` lists them")
        sheets = [asyncio.run(fetched(axon, *_named(sheet), evidence=False)).sheet]
    elif sheet is not None:
        sheets = [Sheet.from_bytes(_read(Path(sheet)))]
    else:
        with contextlib.closing(_own_archive(state_dir, "--sheet HASH --axon")) as archive:
            sheets = archive.newest_sheets(EPOCHS)
    if not sheets:
        raise ConfigError("no epoch is closed yet: wait for the middle of the next one")
    address = hotkey_address(hotkey) if hotkey.startswith("//") else Hotkey(hotkey)
    told = _own_checks(state_dir, address) if axon is None and sheet is None else {}
    if as_json:
        typer.echo(json.dumps(facts(sheets, address) | {"checks": told}))
        return
    typer.echo(explain_sheet(sheets, address))
    for check, of in told.items():
        typer.echo(f"check         {check}: {of['verdict']}, {of['apart']} of {of['pairs']} apart")


@validator_app.command()
def audit(
    sheet: Annotated[str, typer.Argument(help="A sheet's hash (64 hex digits), or its file.")],
    axon: Annotated[
        str | None,
        typer.Option(help="IP:PORT of the validator to ask; your own state if not given."),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="The subnet's spec folder. Answers that list part of a vocabulary (above 8,192 "
            "tokens) are checked only with its baseline."
        ),
    ] = None,
    state_dir: StateDir = None,
    chain: Annotated[
        str | None,
        typer.Option(
            help="Chain endpoint. With it, also check that nothing was asked after the sheet could "
            "be read, and that the row on chain is the sheet's, while it is its validator's last."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a validator's sheet against what the experts signed.

    Recounts the vote; checks, item by item, that the expert signed an answer to exactly the
    question that the sheet describes, before any expert was sent the answer's token; and, for the
    epochs whose answers are still kept, that each answer says what the sheet says. Ends with
    status 1 if anything contradicts the sheet.
    """
    import asyncio
    from dataclasses import replace

    from moesubnet.chain.commands.console import ask_chain
    from moesubnet.mixture.baseline import load_baseline
    from moesubnet.spec.content import load_spec
    from moesubnet.types import NetUid
    from moesubnet.validator.audit import as_json as to_json
    from moesubnet.validator.audit import as_text
    from moesubnet.validator.audit import audit as audit_sheet
    from moesubnet.validator.published import fetched, own
    from moesubnet.validator.voted import differs_on_chain

    name, body = _named(sheet)
    if axon is None:
        with contextlib.closing(_own_archive(state_dir, "--axon")) as archive:
            found = own(archive, name, body)
    else:
        found = asyncio.run(fetched(axon, name, body))
    baseline = None
    if spec is not None:
        baseline = load_baseline(load_spec(spec, found.sheet.spec_sha256.hex())).law
    public_s = None
    if chain is not None:
        netuid, following = NetUid(found.sheet.netuid), found.sheet.epoch + 1
        public_s = ask_chain(chain, lambda client: client.epoch_begun_s(netuid, following))
        if public_s is None:
            typer.echo(f"{chain} does not say when epoch {following} began: not checked", err=True)
    result = audit_sheet(found.sheet, found.receipts, found.answers, baseline, public_s)
    if chain is not None:
        votes = ask_chain(chain, lambda client: client.votes(netuid))
        result = replace(result, chain_differs=differs_on_chain(found.sheet, votes))
    typer.echo(json.dumps(to_json(result)) if as_json else as_text(found.sheet, result))
    if not result.is_clean:
        raise typer.Exit(1)


@validator_app.command()
def checks(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """What asking each expert the same twice has told your validator.

    A prefix that is never published goes to every expert by two callers at once. `ok`: 14 pairs in
    a row agree; `cheat`: answers so far apart, so often, that an honest expert is called so once
    in a million pairs; `unproven`: neither, and nobody loses anything by it. The last column is
    the same prefix asked again some epochs later: a new model may differ. A line `drafted` is of
    pairs of which one had drafts, as users' calls have; a line `replayed` of replays of its
    weights, where they are open: groups of 32 answers, the newest epoch's median ratio and what
    these answers alone say (`moesubnet validator replay`).
    """
    from dataclasses import asdict

    from moesubnet.validator.checkbook import TABLES, Checkbook
    from moesubnet.validator.checks import Verdict

    with contextlib.closing(Checkbook.existing(state_dir or _default_state_dir())) as book:
        hotkeys = sorted(set().union(*map(book.records, TABLES)))
        told = {hotkey: book.told(hotkey) for hotkey in hotkeys}
        later = {hotkey: book.changes(hotkey)[-8:] for hotkey in hotkeys}
        replayed = book.replayed()
    nothing = {"verdict": str(Verdict.UNPROVEN), "pairs": 0, "apart": 0}
    if as_json:
        rows = [
            {
                "hotkey": hotkey,
                **told[hotkey].get("callers", nothing),
                "drafted": told[hotkey].get("drafts", nothing),
                "later": [
                    {"epoch": e, "again": a, "distance": round(d, 4)} for e, a, d in later[hotkey]
                ],
                "replayed": asdict(replayed[hotkey]) | {"record": told[hotkey]["replay"]}
                if hotkey in replayed
                else None,
            }
            for hotkey in hotkeys
        ]
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'expert':48}  verdict   pairs  apart  asked again later")
    for hotkey in hotkeys:
        last: dict[Check, str] = {
            "callers": " ".join(f"{distance:.2f}" for *_, distance in later[hotkey]) or "–",
            "drafts": "drafted",
            "replay": "replayed",
        }
        if (again := replayed.get(hotkey)) is not None:
            last["replay"] += f", of epoch {again.epoch}: {again.ratio:.4f}, {again.verdict}"
        for check, words in last.items():
            if check == "callers" or check in told[hotkey]:
                of = told[hotkey].get(check, nothing)
                name = hotkey if check == "callers" else ""
                figures = f"{of['verdict']:8}  {of['pairs']:5}  {of['apart']:5}"
                typer.echo(f"{name:48}  {figures}  {words}")


@validator_app.command()
def evidence(
    hotkey: Annotated[str, typer.Argument(help="The miner's hotkey (SS58), or //URI.")] = "",
    state_dir: StateDir = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; HOTKEY.evidence by default.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Instead: verify this file, whoever made it.")
    ] = None,
) -> None:
    """Write what shows that an expert contradicts its signed answers.

    Pairs of answers to one prefix, given within a minute, each with the request, the nonce and the
    expert's signature: no trust in you is needed. `--check FILE` verifies such a file, offline.
    Ends with status 1 where nothing is proven: fewer than 3 pairs further apart than honest
    rounding goes.
    """
    from moesubnet.chain.wallet import hotkey_address
    from moesubnet.errors import ConfigError
    from moesubnet.types import Hotkey
    from moesubnet.validator.checkbook import Checkbook
    from moesubnet.validator.evidence import Evidence

    if check is not None:
        found = Evidence.from_bytes(_read(check))
    elif not hotkey:
        raise ConfigError("name a HOTKEY of `moesubnet validator checks`, or --check FILE")
    else:
        address = hotkey_address(hotkey) if hotkey.startswith("//") else Hotkey(hotkey)
        with contextlib.closing(Checkbook.existing(state_dir or _default_state_dir())) as book:
            kept = book.evidence(address)
        if kept is None:
            typer.echo(f"{address} never answered one prefix in two ways here")
            raise typer.Exit(1)
        found, path = kept, out or Path(f"{address}.evidence")
        path.write_bytes(found.to_bytes())
        typer.echo(f"written: {path}")
    apart = ", ".join(f"{distance:.3f}" for distance in found.distances())
    typer.echo(f"expert {found.expert}: {len(found.pairs)} signed pairs, apart by {apart}")
    typer.echo("PROVEN: it contradicts itself" if found.is_proven else "not enough to prove it")
    if not found.is_proven:
        raise typer.Exit(1)


validator_app.command()(replay)


def _named(sheet: str) -> tuple[str | None, bytes | None]:
    """(hash, None) or (None, content of the file)."""
    if len(sheet) == 64 and not Path(sheet).exists():
        return sheet, None
    return None, _read(Path(sheet))


def _own_checks(state_dir: Path | None, hotkey: Hotkey) -> dict[Check, dict[str, object]]:
    from moesubnet.validator.checkbook import FILE, Checkbook

    folder = state_dir or _default_state_dir()
    if not (folder / FILE).exists():
        return {}
    with contextlib.closing(Checkbook.existing(folder)) as book:
        return book.told(hotkey)


def _own_archive(state_dir: Path | None, instead: str) -> Archive:
    from moesubnet.errors import ConfigError
    from moesubnet.validator.archive import Archive

    path = (state_dir or _default_state_dir()) / "validator.sqlite3"
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist: no validator runs here. Give --state-dir, or ask one that "
            f"publishes its sheets: {instead} IP:PORT (hashes: moesubnet weights show; "
            "addresses: moesubnet subnet metagraph). "
            "What a miner earns and why: moesubnet miner status"
        )
    return Archive.open(path)


def _default_state_dir() -> Path:
    from moesubnet.host.paths import data_dir

    return data_dir("validator")


def _read(path: Path) -> bytes:
    from moesubnet.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
