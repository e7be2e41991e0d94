"""How calibrated honest experts are, and what over-correcting for the others gains and shows.

Walks the experts of a localnet through a validator's private text: a gate is fitted on the first
epochs, the later ones are scored. Then one expert at a time replaces its law p by a mixture of p
and its best response to the others, (p·Σw − Σ_{j≠i} w_j q_j) / w_i, cut below at 1e-5 / V, in the
parts `SHARES`. Prints two Markdown tables; gaps in nats per token with 1.28 standard errors.

    python benchmarks/calibration.py ~/.local/share/moesubnet/localnet
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import Gate, WeightedSheet, fit, uniform_gate
from moesubnet.mixture.law import Law
from moesubnet.mixture.mixing import members_of
from moesubnet.mixture.sheet import WHOLE, Sheet, sheet_seed
from moesubnet.spec.content import load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.types import Hotkey
from moesubnet.validator.calibration import calibration
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, STEP_TOKENS, TextPool
from moesubnet.validator.scoring import recount
from moesubnet.validator.weighed import Weighed, score_step
from moesubnet.wire.step import Want

WALKS, GATE_EPOCHS, EPOCHS = 32, 4, 12
SHARES = (0.1, 0.25, 0.5, 1.0)


class Economy:
    """Laws of all experts on all walks, and the sheets that follow from them."""

    def __init__(self, root: Path, dtype: str = "auto") -> None:
        """dtype: what its experts compute in."""
        spec = load_spec(root / "spec")
        tokenizer = load_tokenizer(spec.tokenizer_path)
        pool = TextPool.load(
            str(root / "corpora/validators/0.jsonl"),
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        )
        windows = pool.draw([ONE_WINDOW] * EPOCHS * WALKS, {}, b"calibration")
        self.walks = np.stack([window.ids for window in windows])
        self.names = sorted(path.name for path in (root / "experts").iterdir())
        self.baseline = load_baseline(spec).law
        engines = (
            TransformersEngine(str(root / "experts" / n), spec, dtype=dtype) for n in self.names
        )
        self.laws = np.stack([self._laws(engine) for engine in engines])  # [n, walks, 16, V]

    def _laws(self, engine: TransformersEngine) -> np.ndarray:
        laws = []
        for k, ids in enumerate(self.walks):
            rows = engine.rows([Query(f"{k}", ids[:-1], PREFIX_TOKENS)], Want("full"))
            laws.append(rows[0].logprobs)
            engine.forget(f"{k}")
        return np.stack(laws).astype(np.float16)

    def sheet(self, epoch: int, gate: Gate, leaning: int = -1, share: float = 0.0) -> Sheet:
        """The measurements of one epoch while expert `leaning` over-corrects."""
        of_epoch = slice(epoch * WALKS, (epoch + 1) * WALKS)
        ids = self.walks[of_epoch].astype("<u4")
        names = members_of(map(Hotkey, self.names))[:-1]
        weighed = [Weighed(gate, row[:PREFIX_TOKENS], names, names) for row in ids]
        all_there = np.ones(len(names) + 1, bool)
        steps = []
        for t in range(STEP_TOKENS):
            laws = self.laws[:, of_epoch, t].astype(np.float32)
            laws -= np.log(np.exp(laws).sum(axis=-1, keepdims=True))
            if leaning >= 0:
                weight = np.exp([walk.log_weights(all_there) for walk in weighed])
                laws[leaning] = self._leaning(laws, weight, leaning, share)
            labels = ids[:, PREFIX_TOKENS + t]
            values = [[*map(Law, of)] for of in laws]
            steps.append(score_step(weighed, PREFIX_TOKENS + t, labels, values, self.baseline))
        n, columns = len(self.names), tuple(range(len(self.names)))
        return Sheet(
            netuid=1,
            epoch=epoch,
            validator=Hotkey("v"),
            spec_sha256=bytes(32),
            gate_sha256=gate.sha256,
            previous_sha256=bytes(32),
            seed=sheet_seed(bytes(32), epoch),
            hotkeys=tuple(map(Hotkey, self.names)),
            uids=columns,
            age_millis=(0,) * n,
            walks=tuple(ids),
            chosen=np.concatenate([[w.chosen] for w in weighed]),
            apart=np.full((len(ids), n), WHOLE, np.uint8),
            walk=np.tile(np.arange(WALKS, dtype="<u4"), STEP_TOKENS),
            position=np.repeat(np.arange(PREFIX_TOKENS, ids.shape[1], dtype="<u4"), WALKS),
            senders=(Hotkey("v"),),
            sender=np.zeros((len(ids) * STEP_TOKENS, n), np.uint8),
            log_q=np.concatenate([step.log_q for step in steps]),
            log_w=np.concatenate([step.log_w for step in steps]),
            entropy=np.concatenate([step.entropy for step in steps]),
            took_100us=np.concatenate([step.took_100us for step in steps]),
            receipts=(bytes(32),) * n,
            usage_loss_ppm=(0,) * n,
            feedback_ppm=(0,) * n,
            reliability_ppm=(0,) * n,
            ema_before=(None,) * n,
            ema_after=(None,) * n,
            novelty_before=(None,) * n,
            novelty_after=(None,) * n,
            since=(None,) * n,
            standing_ppm=(0,) * n,
            row_u16=(0,) * n,
        )

    def _leaning(self, laws: np.ndarray, weight: np.ndarray, i: int, share: float) -> np.ndarray:
        others = weight.T[:, :, None] * np.exp(
            [*laws, np.broadcast_to(self.baseline.logp, laws[i].shape)]
        )
        honest = np.exp(laws[i])
        best = (honest - np.delete(others, i, 0).sum(axis=0)) / weight[:, i, None]
        best = np.maximum(best, 1e-5 / laws.shape[-1])
        best /= best.sum(axis=-1, keepdims=True)
        return np.log(share * best + (1 - share) * honest)


def row(name: str, sheets: Sequence[Sheet], column: int) -> str:
    gaps = [calibration(sheet, column) for sheet in sheets]
    cells = [f"{np.mean([recount(sheet).value_nats[column] for sheet in sheets]):+.3f}"]
    cells.append(f"{np.mean([np.exp(s.log_w[:, column] / 1e6).mean() for s in sheets]):.2f}")
    for kind in (0, 1):
        gap, error = (np.array([getattr(g[kind], f) for g in gaps]) for f in ("nats", "error_nats"))
        cells += [f"{gap.mean():+.3f} ± {error.mean():.3f}", f"{np.mean(gap > error):.0%}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    torch.set_num_threads(1)
    economy = Economy(Path(sys.argv[1]).expanduser())
    first = [economy.sheet(epoch, uniform_gate()) for epoch in range(GATE_EPOCHS)]
    gate = fit([WeightedSheet(sheet, 1) for sheet in first])
    later = range(GATE_EPOCHS, EPOCHS)
    print(f"{len(later)} epochs of {WALKS} walks, gate fitted on {GATE_EPOCHS} before\n")
    print("| expert | value | weight | gap, all items | flagged | by weight | flagged |")
    print("|---|---|---|---|---|---|---|")
    honest = [economy.sheet(epoch, gate) for epoch in later]
    for column, name in enumerate(economy.names):
        print(row(name, honest, column))
        for share in SHARES:
            sheets = [economy.sheet(epoch, gate, column, share) for epoch in later]
            print(row(f"{name}, leaning {share:g}", sheets, column), flush=True)


if __name__ == "__main__":
    main()
