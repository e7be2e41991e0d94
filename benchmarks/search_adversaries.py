"""Search the parameters of adversaries against the scoring, on recorded laws, without a chain.

    python benchmarks/search_adversaries.py FOLDER [--trials 200] [--walks 384] [--seed 0] [KIND …]

One sheet of many walks stands for many epochs: honest specialists, registered first, and one
adversary with random parameters. Prints, for each kind, the best of all trials: what it would be
paid against the mean honest expert, and the largest loss of an honest one. Every trial is a line
of FOLDER/trials-KIND.jsonl, so a search can be taken up again and the best replayed
(`economy.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from adversaries.aggregator import Aggregator
from adversaries.noisy_copier import NoisyCopier
from cast import SPECIALISTS, Recordings
from simulation import Law

from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import LOG_Q_FLOOR, MICRO, WHOLE, Sheet, micro_nats, sheet_seed
from moesubnet.types import Hotkey
from moesubnet.validator.pool import PREFIX_TOKENS, STEP_TOKENS
from moesubnet.validator.scoring import recount

Parameters = dict[str, Any]  # of a kind of adversary
OWN = ("all", "python-rival", "prose-weak", "cpp-better")  # what a parasite may know


def label_nats(law: Law, walks: np.ndarray) -> np.ndarray:
    """ln q of each label, [walks, steps]."""
    out = np.empty((len(walks), STEP_TOKENS))
    for k, ids in enumerate(walks):
        for step in range(STEP_TOKENS):
            position = PREFIX_TOKENS + step
            out[k, step] = law(ids[:position])[ids[position]]
    return np.maximum(out, LOG_Q_FLOOR)


def sheet_of(said: Mapping[str, np.ndarray], walks: np.ndarray, baseline: np.ndarray) -> Sheet:
    """Of a second epoch. said: label_nats by name, which stands for the hotkey; "~" came last, and
    answers as soon as anybody."""
    hotkeys = tuple(sorted(map(Hotkey, said)))
    n, count = len(hotkeys), len(walks)
    walk = Walk(uniform_gate(hotkeys), members_of(hotkeys), count)
    walk.show(walks[:, :PREFIX_TOKENS])
    log_q, log_w = [], []
    for step in range(STEP_TOKENS):
        labels = walks[:, PREFIX_TOKENS + step]
        nats = np.stack([*(said[h][:, step] for h in hotkeys), baseline[labels]], axis=1)
        log_q.append(micro_nats(nats))
        log_w.append(micro_nats(walk.log_weights()))
        walk.observe(labels, nats)
    none = (None,) * n
    return Sheet(
        netuid=1,
        epoch=1,
        validator=Hotkey("v"),
        spec_sha256=bytes(32),
        gate_sha256=bytes(32),
        previous_sha256=bytes(32),
        seed=sheet_seed(bytes(32), 1),
        hotkeys=hotkeys,
        uids=tuple(range(n)),
        age_millis=tuple(1_000 if hotkey == "~" else 2_000 for hotkey in hotkeys),
        walks=tuple(walks.astype("<u4")),
        chosen=np.ones((count, n), np.uint8),
        apart=np.full((count, n), WHOLE, np.uint8),
        walk=np.tile(np.arange(count, dtype="<u4"), STEP_TOKENS),
        position=np.repeat(np.arange(STEP_TOKENS, dtype="<u4") + PREFIX_TOKENS, count),
        senders=(Hotkey("v"),),
        sender=np.zeros((count * STEP_TOKENS, n), np.uint8),
        log_q=np.concatenate(log_q),
        log_w=np.concatenate(log_w),
        entropy=np.full((count * STEP_TOKENS, n), MICRO, np.int32),  # all tokens alike
        took_100us=np.full((count * STEP_TOKENS, n), 100, np.uint16),
        receipts=(bytes(32),) * n,
        usage_loss_ppm=(0,) * n,
        feedback_ppm=(0,) * n,
        reliability_ppm=(0,) * n,
        ema_before=none,
        ema_after=none,
        novelty_before=none,
        novelty_after=none,
        since=tuple(None if hotkey == "~" else 0 for hotkey in hotkeys),
        standing_ppm=(0,) * n,
        row_u16=(0,) * n,
    )


class Trial:
    """A sheet of recorded experts and one adversary."""

    def __init__(self, recorded: Recordings, walks: np.ndarray) -> None:
        self.walks = walks
        self.baseline = recorded.baseline.logp
        self.said = {name: label_nats(recorded.law(name), walks) for name in SPECIALISTS}

    def scores(self, adversary: np.ndarray | None) -> tuple[dict[str, int], float]:
        """By name, the adversary's as "~", and its standing."""
        said = self.said | ({"~": adversary} if adversary is not None else {})
        sheet = sheet_of(said, self.walks, self.baseline)
        result = recount(sheet)
        standing = result.standing_ppm[-1] / 1e6 if adversary is not None else 0.0
        return dict(zip(sheet.hotkeys, result.score_nano, strict=True)), standing


def copier(recorded: Recordings, chosen: Parameters) -> Law:
    """With source, sigma, flat, power."""
    rest = {key: value for key, value in chosen.items() if key != "source"}
    return NoisyCopier(recorded.law(chosen["source"]), **rest)


def mixture(recorded: Recordings, chosen: Parameters) -> Law:
    """Of sources (all specialists), with gamma and power, with a share of its own (of source's),
    and noise."""
    own = chosen.get("own", chosen.get("source"))
    mixed = Aggregator(
        [recorded.law(name) for name in chosen.get("sources", SPECIALISTS)],
        gamma=chosen["gamma"],
        power=chosen["power"],
        first=PREFIX_TOKENS,
        own=recorded.law(own) if own else None,
        share=chosen.get("share", 0.0),
    )
    return NoisyCopier(mixed, chosen.get("sigma", 0.0), flat=chosen.get("flat", 0.0))


def any_copier(rng: np.random.Generator) -> Parameters:
    return {
        "source": str(rng.choice(SPECIALISTS)),
        "sigma": float(rng.choice([0.0, rng.uniform(0, 1.5)])),
        "flat": float(rng.choice([0.0, 10 ** rng.uniform(-4, -0.5)])),
        "power": float(rng.uniform(0.6, 1.4)),
    }


def any_aggregator(rng: np.random.Generator) -> Parameters:
    return {
        "sources": sorted(rng.choice(SPECIALISTS, rng.integers(2, 5), replace=False).tolist()),
        "gamma": float(rng.uniform(0.4, 1.0)),
        "power": float(np.exp(rng.uniform(-1.6, 0.7))),
        "sigma": float(rng.choice([0.0, rng.uniform(0, 0.7)])),
        "flat": float(rng.choice([0.0, 10 ** rng.uniform(-4, -1)])),
    }


def any_parasite(rng: np.random.Generator) -> Parameters:
    return {
        "own": str(rng.choice(OWN)),
        "share": float(rng.uniform(0.01, 0.6)),
        "gamma": float(rng.uniform(0.5, 0.95)),
        "power": float(np.exp(rng.uniform(-0.7, 0.7))),
    }


def any_neighbour(rng: np.random.Generator) -> Parameters:
    """Near one expert, with the others' laws and noise for a difference: a false sibling."""
    return {
        "source": str(rng.choice(SPECIALISTS)),
        "share": float(rng.uniform(0.4, 0.97)),
        "gamma": float(rng.uniform(0.4, 0.95)),
        "power": float(np.exp(rng.uniform(-1.2, 0.7))),
        "sigma": float(rng.choice([0.0, rng.uniform(0, 0.7)])),
    }


def alone(recorded: Recordings, chosen: Parameters) -> Law:
    """Not hostile: what the parasites' own knowledge is worth by itself."""
    return recorded.law(chosen["own"])


KINDS = {  # random parameters, and the law that they make
    "copier": (any_copier, copier),
    "neighbour": (any_neighbour, mixture),
    "aggregator": (any_aggregator, mixture),
    "parasite": (any_parasite, mixture),
    "honest": (lambda rng: {"own": str(rng.choice(OWN))}, alone),
}


def search(
    trial: Trial, recorded: Recordings, kind: str, trials: int, seed: int, path: Path
) -> list[dict]:
    """What was tried before under `path`, and `trials` in all."""
    choose, law_of = KINDS[kind]
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    without, _ = trial.scores(None)
    mean = sum(without.values()) / len(without)
    with path.open("a") as log:
        for number in range(len(done), trials):
            chosen = choose(np.random.default_rng([seed, number]))
            said = label_nats(law_of(recorded, chosen), trial.walks)
            scores, standing = trial.scores(said)
            done.append(
                {
                    "earns": scores["~"] / mean,
                    "largest_loss": min(scores[name] / without[name] - 1 for name in without),
                    "standing": standing,
                    "parameters": chosen,
                }
            )
            log.write(json.dumps(done[-1]) + "\n")
            log.flush()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", nargs="*")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--walks", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_intermixed_args()
    recorded = Recordings(arguments.folder.expanduser())
    order = np.random.default_rng(arguments.seed).permutation(len(recorded.walks))
    trial = Trial(recorded, recorded.walks[order[: arguments.walks]])
    print("| kind | trials | most that one earns | standing | largest loss of others | with |")
    print("|---|---|---|---|---|---|")
    for kind in arguments.kind or KINDS:
        path = recorded.root / f"trials-{kind}.jsonl"
        trials = 4 * len(OWN) if kind == "honest" else arguments.trials
        done = search(trial, recorded, kind, trials, arguments.seed, path)
        best = max(done, key=lambda row: row["earns"])
        loss = min(row["largest_loss"] for row in done)
        cells = [kind, f"{len(done)}", f"{best['earns']:.2f}", f"{best['standing']:.2f}"]
        cells += [f"{loss:+.0%}", json.dumps(best["parameters"])]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
