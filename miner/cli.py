"""`moesubnet miner …` and `moesubnet expert …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.host.options import (
    DEFAULT_CHAIN,
    AllowPrivateHere,
    AsJson,
    Chain,
    Host,
    LogLevel,
    Netuid,
    Port,
    SpecDir,
)
from moesubnet.training.cli import train
from moesubnet.units import MAX_PRICE_RAO_PER_MTOKEN

miner_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
expert_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
expert_app.command("train")(train)


@expert_app.callback()
def _expert_group() -> None:
    """Train an expert from your own text."""


@miner_app.callback()
def _miner_group() -> None:
    """Serve an expert and earn with it."""


@miner_app.command()
def run(
    model: Annotated[
        str,
        typer.Option(
            help="A Hugging Face model (its folder or its hub id; safetensors only), a .gguf file, "
            "or what the server at --upstream calls it."
        ),
    ] = "",
    upstream: Annotated[
        str | None,
        typer.Option(
            help="URL of a server that runs the model already: llama.cpp's, vLLM, or another that "
            "takes token ids and gives log-probabilities by id. Its key, if it wants one: "
            "MOESUBNET_UPSTREAM_KEY."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Of a model at --upstream in a subnet over bytes: the folder or hub id with its "
            "tokenizer.json, config.json and chat template (no weights are read); by default "
            "--model, where that is one."
        ),
    ] = None,
    hotkey: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that serves: a wallet `name/hotkey`, or //URI; `default` if not given. "
            "Several serve an --adapter each, in this order, on ports one after the other."
        ),
    ] = None,
    coldkey: Annotated[
        str | None,
        typer.Option(
            help="Key that pays the registration, if there is none yet: a wallet or //URI. "
            "By default the hotkey's own wallet, where its coldkey is on this machine."
        ),
    ] = None,
    max_price: Annotated[
        str,
        typer.Option(
            help="Most tokens that a slot may cost. It is bought again when the hotkey has lost it."
        ),
    ] = "2",
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    spec: SpecDir = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    external_ip: Annotated[
        str | None, typer.Option(help="Address to publish on chain; --host if not given.")
    ] = None,
    external_port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port to publish; the real one if not given."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the model: transformers (folders; any device), gguf (.gguf files on "
            "a CPU, extra gguf; their own precision, no adapters), upstream (--upstream; as many "
            "tokens of a law as the server names), or a class `package.module:Class` that can be "
            "imported. auto chooses by the model."
        ),
    ] = DEFAULT_ENGINE,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Precision: float32, bfloat16, float16, or int8 (weights in 8 bits, extra int8). "
            "By default as the folder has it, where the device computes in that."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, …, or auto: spread over all devices, memory and disk (by "
            "accelerate). By default the accelerator, if there is one."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of a LoRA of this model, as peft saves it (extra lora). With several "
            "--hotkey one for each; `-` is the model alone."
        ),
    ] = None,
    open_at: Annotated[
        list[str] | None,
        typer.Option(
            "--open",
            metavar="URL",
            help="Where everybody can fetch these weights: the folder that `moesubnet miner "
            "offer` makes, or a .gguf file. The card says so when validators know the expert as "
            "one of its own, after some four epochs: before, a quicker copy would take its pay. "
            "With several --hotkey one for each; `-` is a private one, which says only a hash.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    name: Annotated[
        str | None, typer.Option(help="What the expert calls itself; the model's by default.")
    ] = None,
    price_rao_per_mtoken: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_PRICE_RAO_PER_MTOKEN,
            help="Asked price, rao per million tokens. Routers do not ask who is 16 times as dear "
            "as usual, unless a caller names it.",
        ),
    ] = 0,
    queue_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that may wait to be computed; then callers get 429.")
    ] = 65_536,
    allow_private: AllowPrivateHere = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve a model and earn by what it adds.

    Routers, validators and distillers ask it for its next-token laws.

    The model needs the subnet's tokenizer; one that was trained with another is refused (train
    your own with `moesubnet expert train`), but where the subnet is over bytes: there any joins.
    The hotkey is registered if its coldkey is here,
    otherwise the command for that is printed. Ctrl-C answers what is under way, then stops.

    From elsewhere than this machine nobody reaches 127.0.0.1. On a public server:

    \b
        moesubnet miner run --model my-expert --hotkey mine/default \\
            --host 0.0.0.0 --port 8200 --external-ip 203.0.113.7

    One process serves several adapters of a model that it loads once, each as an expert of its
    own:

    \b
        moesubnet miner run --model BASE --port 8200 --hotkey mine/prose --adapter prose \\
            --hotkey mine/code --adapter code

    The weights stay yours. With --open anybody may check that your answers are theirs
    (`moesubnet validator replay`); `moesubnet miner offer` lays out what to publish.

    Another inference engine needs two methods: see examples/custom_engine.py and --engine.
    """
    import asyncio

    from moesubnet.chain.wallet import load_hotkey
    from moesubnet.host.log import set_up_logging
    from moesubnet.miner.run import MinerConfig, Seat, run_miner
    from moesubnet.types import NetUid
    from moesubnet.units import parse_rao
    from moesubnet.wire.addresses import names_loopback

    set_up_logging(log_level)
    if not model and upstream is None:
        raise typer.BadParameter("say what to serve: --model MODEL or --upstream URL")
    options = {"dtype": dtype, "device": device, "upstream": upstream, "tokenizer": tokenizer}
    hotkeys, adapters = hotkey or ["default"], adapter or ["-"]
    if len(hotkeys) != len(adapters) or len(set(hotkeys)) != len(hotkeys):
        raise typer.BadParameter("give one --adapter for each --hotkey (`-`: the model alone)")
    urls = open_at or ["-"] * len(hotkeys)
    if len(urls) != len(hotkeys):
        raise typer.BadParameter("give one --open for each --hotkey (`-`: its weights are private)")
    if open_at and upstream is not None:
        raise typer.BadParameter("of a model at --upstream nobody sees the weights: no --open")
    if len(set(adapters)) != len(adapters):
        raise typer.BadParameter("each --hotkey serves another --adapter: copies earn nothing more")
    if name and len(hotkeys) > 1:
        raise typer.BadParameter("with several --hotkey each is called by its adapter: no --name")
    seats = tuple(
        Seat(
            signer=load_hotkey(key),
            hotkey_spec=key,
            adapter=None if folder == "-" else folder,
            name=(name or Path(model if len(hotkeys) == 1 or folder == "-" else folder).name)[:64],
            port=port and port + place,
            external_port=external_port and external_port + place,
            weights_url=None if url == "-" else url,
        )
        for place, (key, folder, url) in enumerate(zip(hotkeys, adapters, urls, strict=True))
    )
    config = MinerConfig(
        chain_url=chain,
        netuid=NetUid(netuid),
        seats=seats,
        coldkey_spec=coldkey,
        max_price_rao=parse_rao(max_price),
        model=model,
        engine=engine,
        engine_options={key: value for key, value in options.items() if value is not None},
        threads=threads,
        spec_dir=spec,
        host=host,
        external_ip=external_ip,
        price_rao_per_mtoken=price_rao_per_mtoken,
        queue_tokens=queue_tokens,
        allow_private=names_loopback(chain) if allow_private is None else allow_private,
    )
    asyncio.run(run_miner(config))


@miner_app.command()
def offer(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    model: Annotated[str, typer.Option(help="As for `miner run`: a folder, hub id or .gguf file.")],
    adapter: Annotated[
        str | None, typer.Option(help="Folder of the LoRA that goes with it.")
    ] = None,
) -> None:
    """Lay out a folder for `miner run --open`.

    The weights, and the sums that prove them.

    Copy it to a web server, then say its URL to `miner run --open`; everybody may then hold your
    answers against these weights. Prints the commitment, which is on your expert's card whether
    you publish them or not. Nothing leaves this machine.
    """
    from moesubnet.engine.open_weights import SUMS, lay_out

    folder = out.expanduser()
    typer.echo(lay_out(model, adapter, folder))
    where = "URL" if (folder / SUMS).exists() else f"URL/{Path(model).name}"
    typer.echo(f"publish {out}, then: moesubnet miner run … --open {where}", err=True)


@miner_app.command()
def status(
    hotkey: Annotated[
        str, typer.Option(help="The miner: an address, a wallet `name/hotkey`, or //URI.")
    ] = "default",
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    allow_private: AllowPrivateHere = None,
    as_json: AsJson = False,
) -> None:
    """Say a miner's rank and value, what it will earn, and why."""
    import json
    from dataclasses import asdict

    from moesubnet.chain.commands.console import account, ask_chain
    from moesubnet.miner.status import render
    from moesubnet.miner.survey import survey
    from moesubnet.types import Hotkey, NetUid
    from moesubnet.wire.addresses import names_loopback

    address = Hotkey(account(hotkey, None, hotkey=True))
    is_local = names_loopback(chain) if allow_private is None else allow_private
    found = ask_chain(
        chain,
        lambda client: survey(client, NetUid(netuid), address, allow_private=is_local),
    )
    typer.echo(json.dumps(asdict(found)) if as_json else render(found))
