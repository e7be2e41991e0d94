"""`moesubnet validator replay`: an open expert's answers against its weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.host.options import DEFAULT_CHAIN, AllowPrivate, AsJson, Chain, Netuid, SpecDir

if TYPE_CHECKING:
    from moesubnet.engine.open_weights import Weights
    from moesubnet.spec.content import LoadedSpec
    from moesubnet.types import Hotkey
    from moesubnet.validator.checks import Claim, Record
    from moesubnet.validator.published import Published
    from moesubnet.validator.replay import Replay

GIB = 2**30


def replay(
    hotkey: Annotated[str, typer.Argument(help="The miner's hotkey (SS58), or //URI.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="The weights, if you have them: a model's folder or .gguf file. By default they "
            "are fetched from where the expert's card offers them."
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Folder of the adapter that goes with --weights.")
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option(help="Hash of another validator's sheet, with its answers, by --axon."),
    ] = None,
    axon: Annotated[
        str | None, typer.Option(help="IP:PORT of the validator that publishes --sheet.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="Precisions to try; the nearest counts. By default as the folder has it, and "
            "float32."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    most_gib: Annotated[float, typer.Option(min=0.0, help="Most GiB to download.")] = 20.0,
    wary: Annotated[
        bool,
        typer.Option(
            help="Load safetensors only, in memory of four times --most-gib and 4 GiB, and be the "
            "first to go where the system lacks memory. So a validator's own replays are."
        ),
    ] = False,
    state_dir: Annotated[
        Path | None, typer.Option(help="Your validator's: its sheets, and where the verdict goes.")
    ] = None,
    spec: SpecDir = None,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    allow_private: AllowPrivate = False,
    as_json: AsJson = False,
) -> None:
    """Check that an open expert answers with the weights it offers.

    Of an expert whose card names where its weights are (`miner run --open URL`), take its signed
    answers from your newest sheet that has them (or from any validator's), let the weights say the
    same places in one reading, and compare: the median over the likeliest 32 tokens of
    |exp(Δ log p) − 1|, then over all answers. `ok` below 0.05; `cheat` above 0.2; between them, or
    where who never ran the model would pass as well, `unproven`, which costs nobody anything. Only
    answers of epochs in which your validator read that claim on its card can make a `cheat`; and an
    expert that says otherwise on chain than on its card is `unproven`, whatever it answers.

    It is kept beside your validator's state (`moesubnet validator checks` shows it), and the
    answers of each epoch, in groups of 32 by walks, go to a sequential test as pairs that are asked
    twice do. Whom that calls a cheat gives no valid answer in your sheets, until later replays say
    otherwise or its card offers these weights no more. Ends with status 1 where these answers are a
    cheat's.
    """
    from moesubnet.chain.wallet import hotkey_address
    from moesubnet.errors import ConfigError
    from moesubnet.host.paths import data_dir
    from moesubnet.types import Hotkey
    from moesubnet.validator.checks import Verdict

    if (sheet is None) != (axon is None):
        raise ConfigError("another validator's sheet is named by --sheet HASH and --axon IP:PORT")
    address = hotkey_address(hotkey) if hotkey.startswith("//") else Hotkey(hotkey)
    folder = state_dir or data_dir("validator")
    loaded, card, lie = asyncio.run(_asked(chain, netuid, address, spec, allow_private))
    commitment, url = card
    typer.echo(f"expert {address}: {commitment}, {url or 'private'}", err=True)
    if lie is not None:
        typer.echo(f"this proves nothing: {lie}", err=True)
    if weights is None and url is None:
        raise ConfigError(
            f"{address} offers its weights to nobody: a private expert can only be asked "
            "(`moesubnet validator checks`). If you have them: --weights FOLDER"
        )
    published = _published(folder, address, sheet, axon)
    if wary:
        _bound_memory(4 * int(most_gib * GIB) + 4 * GIB)
    most_bytes = int(most_gib * GIB)
    have = _weights(weights, adapter, card, loaded, most_bytes, allow_private, wary)
    found = _replayed(published, address, have, loaded, commitment, dtype, threads)
    epoch = published.sheet.epoch
    if lie is not None:
        found = replace(found, verdict=Verdict.UNPROVEN, why=lie, over=())
    found, record = _judged(found, folder, address, epoch, commitment)
    kept = {"record": None if record is None else asdict(record) | {"verdict": record.verdict}}
    typer.echo(json.dumps(asdict(found) | kept) if as_json else _as_text(found, epoch, record))
    if found.verdict == Verdict.CHEAT:
        raise typer.Exit(1)


async def _asked(
    chain: str, netuid: int, hotkey: Hotkey, spec_dir: Path | None, allow_private: bool
) -> tuple[LoadedSpec, tuple[str, str | None], str | None]:
    """The subnet's spec; commitment and URL on the expert's card now, and what the chain says
    against them. Raises ConfigError where it shows none."""
    from moesubnet.chain.client import ChainClient
    from moesubnet.errors import ConfigError, PeerError, WireError
    from moesubnet.spec.source import find_spec
    from moesubnet.types import NetUid
    from moesubnet.wire.addresses import check_axon
    from moesubnet.wire.client import read_card
    from moesubnet.wire.meeting import CARD_TIMEOUT_S
    from moesubnet.wire.protocol import ExpertCard
    from moesubnet.wire.said import otherwise
    from moesubnet.wire.strangers import open_http_session

    async with await ChainClient.connect(chain) as client:
        metagraph = await client.metagraph(NetUid(netuid))
    loaded = await find_spec(spec_dir, metagraph, allow_private=allow_private)
    neuron = metagraph.by_hotkey.get(hotkey)
    if neuron is None or neuron.axon is None:
        raise ConfigError(f"{hotkey} has no address on subnet {netuid}: nobody can ask its card")
    try:
        check_axon(neuron.axon, allow_private=allow_private)
        async with open_http_session() as http:
            card = await read_card(http, hotkey, neuron.axon, ExpertCard, timeout_s=CARD_TIMEOUT_S)
    except (PeerError, WireError) as error:
        raise ConfigError(f"{hotkey} shows no card at {neuron.axon.url}: {error}") from error
    lie = otherwise(card, neuron, metagraph)
    return loaded, (card.model_commitment, card.weights_url), lie


def _published(folder: Path, hotkey: Hotkey, sheet: str | None, axon: str | None) -> Published:
    """Another's sheet, or the newest here that has answers of this expert."""
    from moesubnet.errors import ConfigError
    from moesubnet.validator.archive import Archive
    from moesubnet.validator.published import fetched, own

    if axon is not None:
        return asyncio.run(fetched(axon, sheet, None))
    with contextlib.closing(Archive.open(folder / "validator.sqlite3")) as archive:
        if (digest := archive.newest_answered(hotkey)) is not None:
            return own(archive, digest.hex(), None)
    raise ConfigError(
        f"no sheet here has answers of {hotkey} (they are kept for some epochs): wait for one, or "
        "name another validator's, --sheet HASH --axon IP:PORT (hashes: moesubnet weights show)"
    )


def _weights(
    given: str | None,
    adapter: str | None,
    card: tuple[str, str | None],
    spec: LoadedSpec,
    max_bytes: int,
    allow_private: bool,
    only_safetensors: bool,
) -> Weights:
    from moesubnet.engine.open_weights import Weights, fetch_weights, give_tokenizer
    from moesubnet.errors import ConfigError
    from moesubnet.host.progress import on_terminal

    if given is not None:
        return Weights(given, adapter)
    commitment, url = card
    assert url is not None
    if spec.spec.unit == "bytes":
        raise ConfigError("over bytes a model needs its own tokenizer: give its folder, --weights")

    def say(size_bytes: int) -> None:
        typer.echo(f"{url} offers {size_bytes:,} bytes", err=True)

    with on_terminal() as show:
        have = asyncio.run(
            fetch_weights(
                url,
                commitment,
                max_bytes=max_bytes,
                allow_private=allow_private,
                on_size=say,
                on_progress=show,
                only_safetensors=only_safetensors,
            )
        )
    give_tokenizer(have, spec.tokenizer_path)
    return have


def _bound_memory(most_bytes: int) -> None:
    """Of this process, as far as the system can: a stranger's config may ask for any size."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _replayed(
    published: Published,
    hotkey: Hotkey,
    weights: Weights,
    spec: LoadedSpec,
    commitment: str,
    dtypes: list[str] | None,
    threads: int,
) -> Replay:
    from moesubnet.engine.named import load_engine
    from moesubnet.errors import ConfigError
    from moesubnet.validator.replay import compare, own_laws, signed_answers

    sheet, bodies = published.sheet, published.answers.get(hotkey)
    if published.receipts is None or bodies is None:
        raise ConfigError(f"the sheet of epoch {sheet.epoch} comes without answers of {hotkey}")
    if sheet.spec_sha256.hex() != spec.sha256.removeprefix("0x"):
        raise ConfigError(f"the sheet of epoch {sheet.epoch} is of another spec than the subnet's")
    answers = signed_answers(sheet, published.receipts, bodies, sheet.hotkeys.index(hotkey))
    has_dtype = not weights.model.lower().endswith(".gguf")
    ours = {}
    for dtype in dtypes or (["auto", "float32"] if has_dtype else ["auto"]):
        options = {"dtype": dtype} if has_dtype else {}
        if weights.adapter is not None:
            options["adapter"] = weights.adapter
        engine = load_engine("auto", weights.model, spec, threads=threads, **options)
        if engine.commitment != commitment:
            raise ConfigError(
                f"{weights.model} has the commitment {engine.commitment}, the card says "
                f"{commitment}: these are other weights"
            )
        ours[dtype] = own_laws(engine, sheet, answers)
    return compare(answers, ours, spec.spec.vocab_size)


def _judged(
    found: Replay, folder: Path, hotkey: Hotkey, epoch: int, commitment: str
) -> tuple[Replay, Record | None]:
    """The verdict as far as it can be held against the expert; kept where a validator runs, with
    the record of all its replays."""
    from moesubnet.validator.checkbook import FILE, Checkbook
    from moesubnet.validator.checks import Replayed, Verdict
    from moesubnet.validator.replay import held_against

    if not (folder / FILE).exists():
        claims: list[Claim] = []
        book = None
    else:
        book = Checkbook.existing(folder)
        claims = book.claims(hotkey)
    if why := held_against(claims, epoch, commitment):
        found = replace(found, over=())
        if found.verdict == Verdict.CHEAT:
            found = replace(found, verdict=Verdict.UNPROVEN, why=why)
    record = None
    if book is not None:
        nearest = min(found.medians.values(), default=0.0)
        with contextlib.closing(book):
            note = Replayed(epoch, commitment, found.rows, nearest, found.verdict)
            book.note_replay(hotkey, note, found.over)
            record = book.records("replay")[hotkey]
    return found, record


def _as_text(found: Replay, epoch: int, record: Record | None) -> str:
    from moesubnet.validator.checks import REPLAY_ROWS

    lines = [f"{found.rows} signed answers of epoch {epoch}", "", "our precision     median ratio"]
    lines += [f"{name:16}  {median:12.4f}" for name, median in found.medians.items()]
    lines += ["", "who never ran it  median ratio"]
    lines += [f"{name:16}  {median:12.4f}" for name, median in found.impostors.items()]
    lines += ["", f"{found.verdict}: {found.why}"]
    if record is not None and record.pairs:
        lines += [
            f"of {record.pairs} groups of {REPLAY_ROWS} answers, in all epochs, {record.over} "
            f"were another's: {record.verdict}"
        ]
    return "\n".join(lines)
