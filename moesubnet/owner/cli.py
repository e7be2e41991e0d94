"""`moesubnet spec …`: what a subnet's owner publishes."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.host.options import AsJson, Port

if TYPE_CHECKING:
    from moesubnet.owner.check import Findings
    from moesubnet.spec.content import LoadedSpec

MAX_CONTEXT = 8_192  # unless asked for more: every expert must serve it


class Unit(StrEnum):
    """What laws are over."""

    TOKENS = "tokens"
    BYTES = "bytes"


spec_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="Folder with spec.json.")]


@spec_app.callback()
def _group() -> None:
    """Make, check, show and serve a subnet's spec.

    The spec says what every expert of a subnet has in common: tokenizer, vocabulary, context, chat
    template, where texts end (or unit bytes, which every model can forecast), and the public text
    with the baseline counted on it. Its hash goes on chain (`moesubnet subnet set-spec`); whoever
    joins fetches the folder and checks it.
    """


@spec_app.command()
def new(
    text: Annotated[
        list[str],
        typer.Option(
            help="Public text for the baseline and for students: a file or quoted glob, may be "
            'repeated; .jsonl lines with a "text" (and a "domain"), or one document a file.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write. A spec is never written over.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A model of the family: its folder, or its hub id. No weights are read. Of unit "
            "bytes it only says how long a mean token is, and may be left out.",
        ),
    ] = None,
    unit: Annotated[
        Unit,
        typer.Option(
            help="What experts forecast: the family's tokens, or bytes, which models of every "
            "family do."
        ),
    ] = Unit.TOKENS,
    context: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Tokens, or bytes, that every expert must take; by default the model's own, at "
            f"most {MAX_CONTEXT:,} tokens or what these have of bytes.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the spec is called; the model's name by default.")
    ] = None,
    min_stake: Annotated[
        str, typer.Option(help="Stake in tokens that a caller of experts needs.")
    ] = "1",
    as_json: AsJson = False,
) -> None:
    """Make the spec of a model's family.

    \b
        moesubnet spec new --from google/gemma-3-270m-it --text public.jsonl --out gemma-spec
        moesubnet spec new --unit bytes --text public.jsonl --out any-spec
        moesubnet spec show gemma-spec
        moesubnet spec serve gemma-spec --port 8300
        moesubnet subnet set-spec NETUID --spec gemma-spec --url http://MY.SERVER:8300 --wallet mine

    From the model come tokenizer.json, the chat template with its special tokens, bos, the
    vocabulary's size, and every stop id that generation_config.json, config.json, the tokenizer or
    the template's end of turn name. Conversations of every shape are tried: a template that does
    not work is refused here. The text becomes part of the spec: publish nothing private.
    With --unit bytes all this is the same for everybody: experts forecast bytes, a model of any
    tokenizer through an adapter that `miner run` uses by itself, and a conversation travels as
    roles and text, for each to render by its own template.
    To change something by hand, edit spec.json before it is on chain and run `spec check`.
    """
    from moesubnet.errors import ConfigError
    from moesubnet.host.paths import text_files
    from moesubnet.host.progress import on_terminal
    from moesubnet.owner.build import build_spec, mean_token_bytes
    from moesubnet.spec.byte_unit import TOKEN_BYTES
    from moesubnet.spec.family import every_family, read_family
    from moesubnet.units import parse_rao

    _need_libraries()
    files, stake_rao = text_files(text), parse_rao(min_stake)
    if base is None and unit == Unit.TOKENS:
        raise ConfigError("give the family with --from MODEL, or take --unit bytes for any model")
    family = None if base is None else read_family(base)
    called = "bytes" if family is None else family.folder.resolve().name
    if unit == Unit.BYTES:
        token_bytes = TOKEN_BYTES if family is None else mean_token_bytes(family, files)
        family = every_family(family, token_bytes)
    assert family is not None
    own = family.context_tokens
    if unit == Unit.TOKENS and context is not None and own is not None and context > own:
        raise ConfigError(
            f"the model was made for {own:,} tokens, less than --context {context:,}: every expert "
            "would have to take more than its family can"
        )
    most = round(MAX_CONTEXT * family.token_units)
    with on_terminal() as progress:
        built = build_spec(
            family,
            files,
            out,
            name=(name or called)[:64],
            context_tokens=context or min(own or most, most),
            min_caller_stake_rao=stake_rao,
            on_progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(_facts(built.spec) | {"notes": built.findings.notes}))
        return
    typer.echo(_card(built.spec))
    reasons = [f"{token_id} ({', '.join(why)})" for token_id, why in sorted(family.stops.items())]
    typer.echo(f"\nstop ids come from   {'; '.join(reasons)}")
    typer.echo(f"public text          {built.documents:,} documents, {built.tokens:,} {unit.value}")
    _say(built.findings)
    typer.echo(f"\nnext: moesubnet spec serve {out}, or put the folder behind any web server")


@spec_app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Say what a spec contains, with a conversation as it writes it."""
    from moesubnet.spec.content import load_spec

    spec = load_spec(folder)
    typer.echo(json.dumps(_facts(spec)) if as_json else _card(spec))


@spec_app.command()
def check(folder: Folder, as_json: AsJson = False) -> None:
    """Check a spec.

    Hashes, tokenizer, baseline, text, and the template on conversations of every shape.

    Ends with status 1 if anybody who joins would meet a problem.
    """
    from moesubnet.owner.check import check_spec
    from moesubnet.spec.content import load_spec

    _need_libraries()
    spec = load_spec(folder)
    findings = check_spec(spec)
    if as_json:
        facts = {"sha256": spec.sha256, "problems": findings.problems, "notes": findings.notes}
        typer.echo(json.dumps(facts))
    else:
        _say(findings)
        if not findings.problems:
            typer.echo(f"spec {spec.spec.name!r} is sound; its hash is {spec.sha256}")
    if findings.problems:
        raise typer.Exit(1)


@spec_app.command()
def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every address of this machine.")
    ] = "0.0.0.0",
    port: Port = 8_300,
) -> None:
    """Serve a spec's files to whoever joins.

    Nothing else in the folder is served.

    Any static web server does as well. Those who have fetched a spec keep it, but newcomers need
    this as long as the chain names it.
    """
    import asyncio

    from moesubnet.owner.check import check_spec
    from moesubnet.spec.content import load_spec

    _need_libraries()
    spec = load_spec(folder)
    findings = check_spec(spec)
    _say(findings)
    if findings.problems:
        raise typer.Exit(1)
    asyncio.run(_serve(spec, host, port))


async def _serve(spec: LoadedSpec, host: str, port: int) -> None:
    from moesubnet.host.interrupt import stop_event
    from moesubnet.owner.server import build_app
    from moesubnet.wire.listening import serve as listen

    listening = await listen(build_app(spec), host, port)
    address = "MY.ADDRESS" if host in ("0.0.0.0", "::") else host
    typer.echo(
        f"serving spec {spec.sha256[:12]}… on {host}:{listening.port}; Ctrl-C stops. Publish it:\n"
        f"  moesubnet subnet set-spec NETUID --spec {spec.root} "
        f"--url http://{address}:{listening.port} --wallet OWNER"
    )
    await stop_event().wait()
    await listening.close()


def _need_libraries() -> None:
    from importlib.util import find_spec

    from moesubnet.errors import ConfigError

    if missing := [n for n in ("transformers", "tokenizers", "jinja2") if find_spec(n) is None]:
        raise ConfigError(f"this needs {', '.join(missing)}: pip install 'moesubnet[spec]'")


def _say(findings: Findings) -> None:
    for note in findings.notes:
        typer.echo(f"note: {note}", err=True)
    for problem in findings.problems:
        typer.secho(f"problem: {problem}", fg="red", err=True)


def _facts(spec: LoadedSpec) -> dict[str, object]:
    from moesubnet.owner.build import file_sizes

    said = spec.spec.model_dump(exclude={"tokenizer", "public_text", "baseline"})
    return {"sha256": spec.sha256, "folder": str(spec.root), "bytes": file_sizes(spec)} | said


def _card(spec: LoadedSpec) -> str:
    from moesubnet.errors import PromptError
    from moesubnet.owner.build import file_sizes
    from moesubnet.spec.template import Template
    from moesubnet.spec.tokenizer import load_tokenizer
    from moesubnet.units import format_rao

    said = spec.spec
    spelled = load_tokenizer(spec.tokenizer_path).id_to_token
    sizes = [f"{path} {size / 1e6:,.1f} MB" for path, size in file_sizes(spec).items()]
    rows = {
        "name": said.name,
        "hash": spec.sha256,
        "unit": said.unit
        if said.unit == "tokens"
        else f"bytes, of any model; {said.token_units:g} to a mean token",
        "vocabulary": f"{said.vocab_size:,}",
        "context": f"{said.context_tokens:,} {said.unit}",
        "texts begin with": f"{said.bos_id} {spelled(said.bos_id)}",
        "and end with": ", ".join(f"{i} {spelled(i)}" for i in said.stop_ids),
        "callers need": format_rao(said.min_caller_stake_rao),
        "files": ", ".join(sizes),
    }
    text = "\n".join(f"{name:18} {value}" for name, value in rows.items())
    talk = [{"role": "user", "content": "Who was Ada?"}]
    try:
        shown = Template(said.chat_template, said.special_tokens).render(talk)
    except PromptError as error:
        return f"{text}\nchat               the template refuses: {error}"
    if not said.chat_template:
        return f"{text}\nchat               no template"
    return f"{text}\na question reads\n" + "\n".join(f"  | {line}" for line in shown.split("\n"))
