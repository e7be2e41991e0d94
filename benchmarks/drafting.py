"""Speculative mixture against token by token: tokens a second over distances, and nats lost.

    python benchmarks/drafting.py FOLDER [--student FOLDER] [--nats [--draws 3]]

FOLDER is a local network's (`moesubnet localnet`): its experts, spec, texts and revealed sheets are
used, and its student unless another is given; the gate is what its router fits on these sheets.
Four miners, each a process, answer over HTTP behind a proxy that delays bytes and connections
(distance.py); the router's own model writes streams one after the other, drafted and, for every
other prompt, undrafted. Prompts are windows of the final test part. Eight minutes on a quiet
machine; --nats leaves all of that out.

Markdown tables: tokens a second, the time to the first token of long prompts, what the drafts did,
and what acceptance and times predict; and nats lost, by walking the same test part with the
router's rules of drafting and of evidence, under this gate and under one that knows nothing. There
the text is given: a token x of it came as a kept draft with probability min(1, q(x) / m(x)), which
is what drafting gives a token of law m. Who says yes to every draft is honest on all other
tokens: so it weighs what it did, and a drafted token's law, over what may be drafted, is that of
the mixture with q in the place of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from unittest import mock

import aiohttp
import numpy as np
from neurons import book_of, subnet
from substrateinterface import Keypair

from moesubnet.engine.base import Query
from moesubnet.engine.worker import EngineProcess
from moesubnet.mixture import choosing
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.draft_length import DraftLength, Pace, entropy_nats
from moesubnet.mixture.drafting import Drawn, next_token
from moesubnet.mixture.gate import Gate, WeightedSheet, fit, uniform_gate
from moesubnet.mixture.law import Law
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import Sheet
from moesubnet.router.mixed import MixtureModel, MixtureSession
from moesubnet.router.model import Drawing
from moesubnet.router.student import StudentModel
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.types import Axon, Hotkey, Metagraph
from moesubnet.wire.step import MAX_FULL_VOCAB, NUCLEUS_MASS, Want
from moesubnet.wire.strangers import open_http_session

HERE = Path(__file__).resolve().parent
ROUTER = Keypair.create_from_uri("//Router")
PROMPT_TOKENS, LONG_PROMPT_TOKENS, TOKENS, SEED = 64, 180, 64, 0
WINDOW, WINDOWS = 250, 10  # of each domain, for nats
ROUND_TRIPS_MS = (0, 40, 100)
TEMPERATURES = (1.0, 0.7, 0.0)


def windows(root: Path, spec: LoadedSpec, each: int) -> dict[str, list[np.ndarray]]:
    """Some windows of each domain's final test part, drawn by SEED."""
    tokenizer, rng = load_tokenizer(spec.tokenizer_path), np.random.default_rng(SEED)
    found = {}
    for path in sorted((root / "corpora" / "test").glob("*.jsonl")):
        cut = []
        for line in path.read_text().splitlines():
            ids = tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
            cut += [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW, WINDOW)]
        found[path.stem] = [np.array(cut[i], np.uint32) for i in rng.permutation(len(cut))[:each]]
    return found


def gate_of(root: Path, spec: LoadedSpec) -> Gate:
    """What the local network's router fits on all revealed sheets, of equal stakes."""
    files = sorted((root / "router" / "sheets").glob("*.sheet"))
    sheets = [WeightedSheet(Sheet.from_bytes(file.read_bytes()), 1) for file in files]
    return fit(sheets, grain=spec.spec.grain)


def hotkey_of(name: str) -> Hotkey:
    return Hotkey(Keypair.create_from_uri(f"//{name}").ss58_address)


# -- the network -------------------------------------------------------------------------------


def nobody_else() -> Metagraph:
    """As its miners see it: a router that may ask."""
    return subnet({Hotkey(ROUTER.ss58_address): None})


async def mine(model: str, spec_dir: str, name: str) -> None:
    """One miner in this process; prints its port and serves until its input ends."""
    from moesubnet.engine.transformers_engine import TransformersEngine
    from moesubnet.miner.app import build_app
    from moesubnet.miner.expert import Expert
    from moesubnet.wire.listening import serve

    spec, signer = load_spec(Path(spec_dir)), Keypair.create_from_uri(f"//{name}")

    class Callers:
        def current(self) -> Metagraph:
            return nobody_else()

    engine = TransformersEngine(model, spec)
    expert = Expert(engine, spec, Callers(), hotkey=Hotkey(signer.ss58_address), name=name)
    listening = await serve(build_app(expert, signer, Callers()), "127.0.0.1", 0)
    print(listening.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


def child(*arguments: object) -> tuple[subprocess.Popen[str], list[int]]:
    """A process of ours, and the ports that it printed."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, [int(port) for port in process.stdout.readline().split()]


# -- tokens a second ---------------------------------------------------------------------------


@dataclass
class Seen:
    """What the streams of one way of writing did."""

    tokens: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    rounds: list[tuple[int, float, float]] = field(default_factory=list)  # drafted, drafting, all
    kept: int = 0
    judged: int = 0  # drafts whose predecessors were kept
    student: list[float] = field(default_factory=list)  # its weight

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def acceptance(self) -> float:
        return self.kept / max(1, self.judged)

    @property
    def predicted(self) -> float:
        """Tokens a second by acceptance, draft lengths, and the times of rounds and drafting."""
        drafted, drafting_s, all_s = (np.array(column) for column in zip(*self.rounds, strict=True))
        tokens = (1 - self.acceptance ** (drafted + 1)) / (1 - self.acceptance)
        per_draft_s = drafting_s.sum() / max(1, drafted.sum())
        asking_s = np.median(all_s - drafting_s)
        return float(tokens.sum() / (asking_s + per_draft_s * drafted).sum())


def watch(session: MixtureSession, seen: Seen) -> None:
    """Note every round of a session, and how much of it was drafting."""
    drafting = session._drafting
    draft, took, spent = drafting.drafts, drafting.took, [0.0]

    async def timed(*arguments: object):  # type: ignore[no-untyped-def]
        since_s = time.monotonic()
        drafts = await draft(*arguments)  # type: ignore[arg-type]
        spent[0] = time.monotonic() - since_s
        return drafts

    def noted(drafted: int, seconds: float) -> None:
        seen.rounds.append((drafted, spent[0], seconds))
        took(drafted, seconds)

    drafting.drafts, drafting.took = timed, noted  # type: ignore[method-assign]


async def write(model: MixtureModel, prompt: np.ndarray, temperature: float, seen: Seen) -> None:
    session, rng = model.open(), np.random.default_rng(SEED)
    watch(session, seen)
    forecast = await session.start(prompt, Drawing(temperature, 1.0, TOKENS))
    seen.rounds.clear() if not seen.tokens else seen.rounds.pop()  # the prompt's
    since_s = time.monotonic()
    for left in range(TOKENS - 1, 0, -1):
        m, drafts = forecast.mixture, forecast.drafts
        token = next_token(Drawn.of(m.log_drawn, m.law.ids, temperature, 1.0), drafts, rng)
        seen.student.append(forecast.weights["baseline"])
        if drafts:
            seen.judged += 1
            seen.kept += token == drafts[0].token_id
        forecast = await session.append(token, Drawing(temperature, 1.0, left))
    seen.seconds += time.monotonic() - since_s
    seen.tokens += TOKENS - 1
    session.close()


async def first_token_s(model: MixtureModel, prompt: np.ndarray) -> float:
    session, since_s = model.open(), time.monotonic()
    await session.start(prompt, Drawing(1.0, 1.0, TOKENS))
    took_s = time.monotonic() - since_s
    session.close()
    return took_s


async def mixture(
    http: aiohttp.ClientSession,
    spec: LoadedSpec,
    names: Sequence[str],
    ports: Sequence[int],
    *,
    deadline_s: float,
    gate: Gate | None = None,
) -> MixtureModel:
    """A router's, of these miners. gate: by default one that knows nothing."""
    axons = {
        hotkey_of(name): Axon("127.0.0.1", port) for name, port in zip(names, ports, strict=True)
    }
    known = gate or uniform_gate(grain=spec.spec.grain)
    return MixtureModel(
        await book_of(http, ROUTER, spec, axons),
        lambda: known,
        load_baseline(spec),
        vocab_size=spec.spec.vocab_size,
        deadline_s=deadline_s,
        top_k=len(names),
    )


async def speed(
    spec: LoadedSpec,
    names: Sequence[str],
    ports: Sequence[int],
    gate: Gate,
    student: StudentModel,
    prompts: Sequence[np.ndarray],
    longs: Sequence[np.ndarray],
    temperature: float,
) -> tuple[float, Seen, Seen]:
    """The measured round trip of an empty call, and how it went undrafted and drafted."""
    async with open_http_session() as http:
        model = await mixture(http, spec, names, ports, deadline_s=10.0, gate=gate)
        model.student = student
        await write(model, prompts[0], temperature, Seen())  # connections, pace
        round_trips = []
        client = next(iter(model.serving().values()))
        for _ in range(5):
            since_s = time.monotonic()
            await client.card(timeout_s=5.0)
            round_trips.append(time.monotonic() - since_s)
        plain, drafted = Seen(), Seen()
        for place, prompt in enumerate(prompts):
            if place % 2 == 0:  # its time varies little
                with mock.patch.object(DraftLength, "may_draft", False):
                    await write(model, prompt, temperature, plain)
            await write(model, prompt, temperature, drafted)
        for prompt in longs:
            drafted.first_s.append(await first_token_s(model, prompt))
        return min(round_trips), plain, drafted


# -- nats --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """How a text is walked: who drafts, how many tokens of the prompt are blind, whether rounds go
    undrafted where much evidence has been missed, and which expert says yes to every draft."""

    drafter: Literal["nobody", "student", "expert"]
    blind: int = 2
    round_trip_s: float = 0.04
    drafted_s: float = 0.004
    is_mindful: bool = True
    yes_man: int | None = None


@dataclass(frozen=True)
class Said:
    """Of one text. log_p: [tokens, members] of its tokens, the student last; guess: [tokens,
    members] the likeliest; drafts: [tokens] the probability with which the student drafts them."""

    log_p: np.ndarray
    guess: np.ndarray
    drafts: np.ndarray

    def then(self, other: Said, at: int) -> Said:
        """This up to a token, and from there on the other."""
        parts = zip(
            (self.log_p, self.guess, self.drafts),
            (other.log_p, other.guess, other.drafts),
            strict=True,
        )
        return Said(*(np.concatenate((one[:at], two[at:])) for one, two in parts))


def walk(
    ids: np.ndarray, said: Said, gate: Gate, experts: Sequence[Hotkey], rules: Rules, seed: int
) -> np.ndarray:
    """Nats of each token after the prompt."""
    weigh, pace, nats = Walk(gate, members_of(experts)), Pace(), list[float]()
    length, start = DraftLength(pace.round_s), PROMPT_TOKENS - rules.blind
    rng = np.random.default_rng(seed)
    place, block, unknown = 0, 0, 1.0  # in the round's draft, and its length
    asked, guesser, next_guesser, was_right = 0, 0, 0, False  # of an expert that drafts
    weigh.show(ids[None, :start])
    for at in range(start, len(ids)):
        log_p, token = said.log_p[at], int(ids[at])
        log_w = weigh.log_weights()[0]
        if at < PROMPT_TOKENS:
            weigh.observe(ids[at : at + 1], log_p[None])
            continue
        if place == 0:
            ahead = int(rules.drafter == "expert")
            chosen = 0 if rules.drafter == "nobody" else length.choose(ahead=ahead)
            block = chosen
            if rules.drafter == "expert":
                block = asked if was_right else 0
                guesser, next_guesser, asked = next_guesser, int(log_w[:-1].argmax()), chosen
            block, unknown = min(block, len(ids) - at - 1), weigh.unknown()
            for n in {0, chosen + ahead * (chosen > 0)}:
                pace.took(n, rules.round_trip_s + 0.01 + n * rules.drafted_s)
        said_p, drafted_p, surplus = np.exp(log_w + log_p), said.drafts[at], 0.0
        if place < block and rules.yes_man is not None:
            weight = float(np.exp(log_w[rules.yes_man]))
            said_p[rules.yes_man] = weight * drafted_p
            surplus = weight * (1.0 - drafted_p)  # where the draft is this token
        chance = float(said_p.sum())
        nats.append(-np.log(chance))
        if place == block:
            weigh.observe(ids[at : at + 1], log_p[None])
            if asked:
                was_right = bool(said.guess[at, next_guesser] == token)
                length.drafted(0.0, kept=was_right)
            length.counted()
            place = 0
            continue
        if rules.drafter == "expert":
            kept = bool(said.guess[at, guesser] == token)
        else:
            kept = bool(rng.random() < min(drafted_p, chance + surplus) / chance)
        missed = entropy_nats(np.exp(log_w).tolist()) * unknown * rules.is_mindful
        length.drafted(missed, kept=kept)
        weigh.show(ids[None, at : at + 1])
        place, was_right = (place + 1, was_right) if kept else (0, False)
    return np.array(nats)


def ask_all(models: Sequence[Path], spec: LoadedSpec, texts: Sequence[np.ndarray]) -> list[Said]:
    """Of each text; the last model is the student."""
    from moesubnet.engine.transformers_engine import TransformersEngine

    shape = (len(texts), WINDOW, len(models))
    log_p, guess, drafts = np.empty(shape), np.empty(shape, np.int64), np.empty(shape[:2])
    for column, model in enumerate(models):
        engine = TransformersEngine(str(model), spec)
        for place, ids in enumerate(texts):
            (rows,) = engine.rows([Query("walk", ids[:-1], 0)], Want("full"))
            laws = [Law(row) for row in rows.logprobs]
            guess[place, :, column] = rows.logprobs.argmax(-1)
            for at, law in enumerate(laws):
                log_p[place, at, column] = law.at(int(ids[at]))
                if model == models[-1]:
                    listed = law.head(spec.spec.vocab_size, NUCLEUS_MASS)
                    drawn = Drawn.of(listed.logp, listed.ids, 1.0, 1.0)
                    drafts[place, at] = drawn.of_token(int(ids[at]))
    return [Said(*of_text) for of_text in zip(log_p, guess, drafts, strict=True)]


def lost(
    names: Sequence[str],
    models: Sequence[Path],
    experts: Sequence[Hotkey],
    spec: LoadedSpec,
    gate: Gate,
    texts: dict[str, list[np.ndarray]],
    draws: int,
) -> None:
    """draws: how often it is drawn which drafts are kept; means of them."""
    every = [ids for of_domain in texts.values() for ids in of_domain]
    said = ask_all(models, spec, every)
    ways = {
        "undrafted, 8 blind tokens of the prompt": Rules("nobody", 8),
        "undrafted, 2 blind tokens": Rules("nobody"),
        "the student drafts, 0 ms": Rules("student", round_trip_s=0.0),
        "the student drafts, 40 ms": Rules("student"),
        "the student drafts, 100 ms": Rules("student", round_trip_s=0.1),
        "the same, no blind token of the prompt": Rules("student", 0, round_trip_s=0.1),
        "the same, whatever evidence is missed": Rules(
            "student", round_trip_s=0.1, is_mindful=False
        ),
        **{
            f"the student drafts, 100 ms, and {name} says yes": Rules(
                "student", round_trip_s=0.1, yes_man=column
            )
            for column, name in enumerate(names)
        },
        "the heaviest expert drafts, 40 ms": Rules("expert"),
        "the heaviest expert drafts, 100 ms": Rules("expert", round_trip_s=0.1),
    }
    half = (WINDOW + PROMPT_TOKENS) // 2
    moved = [*range(WINDOWS, len(every)), *range(WINDOWS)]  # to a text of another domain
    sets = {
        "texts of one kind": (every, said),
        "texts that change their kind halfway": (
            [
                np.concatenate((ids[:half], every[to][half:]))
                for ids, to in zip(every, moved, strict=True)
            ],
            [of_text.then(said[to], half) for of_text, to in zip(said, moved, strict=True)],
        ),
    }
    ignorant = uniform_gate(grain=spec.spec.grain)
    for of_gate, known in {"the sheets' gate": gate, "a gate that knows nothing": ignorant}.items():
        print(f"\n| nats a token (change), {of_gate} | {' | '.join(sets)} |", end="")
        print(f"\n{'|---' * (1 + len(sets))}|")
        usual: dict[str, float] = {}
        for name, rules in ways.items():
            cells = []
            for kind, (ids, of_kind) in sets.items():
                nats = [
                    walk(text, of_text, known, experts, rules, 1_000 * draw + place).mean()
                    for draw in range(draws)
                    for place, (text, of_text) in enumerate(zip(ids, of_kind, strict=True))
                ]
                mean = statistics.fmean(nats)
                usual.setdefault(kind, mean)
                cells.append(f"{mean:.3f} ({100 * (mean / usual[kind] - 1):+.2f} %)")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


async def run(
    root: Path, student_dir: Path, prompts_each: int, draws: int, *, is_of_nats: bool
) -> None:
    spec = load_spec(root / "spec")
    assert spec.spec.vocab_size <= MAX_FULL_VOCAB
    found = {  # by the hotkeys that a local network gives them, of which its sheets speak
        f"miner-{path.name}//hotkey": path for path in (root / "experts").iterdir() if path.is_dir()
    }
    names = sorted(found, key=hotkey_of)
    experts, gate = [found[name] for name in names], gate_of(root, spec)
    texts = windows(root, spec, WINDOWS)
    kinds, hotkeys = [path.name for path in experts], [hotkey_of(name) for name in names]
    if is_of_nats:
        lost(kinds, [*experts, student_dir], hotkeys, spec, gate, texts, draws)
        return
    prompts = [ids[:PROMPT_TOKENS] for kind in texts.values() for ids in kind[:prompts_each]]
    longs = [ids[:LONG_PROMPT_TOKENS] for kind in texts.values() for ids in kind[prompts_each:][:2]]
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; V = "
        f"{spec.spec.vocab_size}, {len(names)} experts (in sheets: {len(gate.hotkeys)}), "
        f"{len(prompts)} streams of {TOKENS} tokens after {PROMPT_TOKENS}; first tokens after "
        f"{LONG_PROMPT_TOKENS}; seed {SEED}\n"
    )
    heads = [
        "added round trip (measured)",
        "temperature",
        "undrafted tokens/s",
        "drafted",
        "ratio",
    ]
    heads += ["predicted, of it", "kept α", "drafted a round", "tokens a round trip"]
    heads += ["student's weight", "first token, median"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    children = [
        child(__file__, "--mine", path, root / "spec", name)
        for name, path in zip(names, experts, strict=True)
    ]
    targets = [ports[0] for _, ports in children]
    engine = await EngineProcess.start(student_dir, spec)
    try:
        for added_ms in ROUND_TRIPS_MS:
            proxy, ports = child(HERE / "distance.py", added_ms, *targets)
            children.append((proxy, ports))
            for temperature in TEMPERATURES:
                student = StudentModel(engine)
                # All four are asked, also about texts that the gate is sure of.
                with mock.patch.object(choosing, "CHOSEN_MASS", 1.0):
                    rtt_s, plain, drafted = await speed(
                        spec, names, ports, gate, student, prompts, longs, temperature
                    )
                predicted = f"{drafted.predicted:.1f}, {drafted.rate / drafted.predicted:.2f}"
                cells = [
                    f"{added_ms} ms ({rtt_s * 1e3:.1f})",
                    f"{temperature}",
                    f"{plain.rate:.1f}",
                    f"{drafted.rate:.1f}",
                    f"{drafted.rate / plain.rate:.2f}×",
                    predicted,
                    f"{drafted.acceptance:.2f}",
                    f"{statistics.fmean(n for n, _, _ in drafted.rounds):.1f}",
                    f"{drafted.tokens / len(drafted.rounds):.2f}",
                    f"{statistics.fmean(drafted.student):.2f}",
                    f"{statistics.median(drafted.first_s) * 1e3:.0f} ms",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)
    finally:
        await engine.close()
        for process, _ in children:
            process.communicate()
    lost(kinds, [*experts, student_dir], hotkeys, spec, gate, texts, draws)


def main() -> None:
    if sys.argv[1:2] == ["--mine"]:
        asyncio.run(mine(*sys.argv[2:5]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--student", type=Path, help="by default FOLDER/student")
    parser.add_argument("--prompts", type=int, default=2, help="streams of each domain")
    parser.add_argument("--nats", action="store_true", help="only what is lost")
    parser.add_argument("--draws", type=int, default=1, help="of what is lost")
    arguments = parser.parse_args()
    root = arguments.folder.expanduser()
    student = arguments.student or root / "student"
    work = run(root, student, arguments.prompts, arguments.draws, is_of_nats=arguments.nats)
    asyncio.run(work)


if __name__ == "__main__":
    main()
