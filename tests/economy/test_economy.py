"""An economy of five kinds of attackers, played through the real code and the real runtime."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from adversaries.aggregator import Aggregator
from adversaries.echo import Echo
from adversaries.liar import Liar
from adversaries.ngram_cache import NgramCache
from adversaries.noisy_copier import NoisyCopier
from adversaries.swarm import swarm
from simulation import HONEST_S, Member, play
from tokenizers import Tokenizer
from virtual_time import run

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.watched import silenced
from moesubnet.validator.pool import PREFIX_TOKENS, WINDOW_TOKENS
from moesubnet.validator.scoring import recount

ROOT = Path(__file__).resolve().parents[2]
# Text that seldom changes: what is earned here depends on it.
SOURCES = {
    "python": "moesubnet/chain/devchain/*.py",
    "json": "tests/vectors/yuma_random.json",
    "rust": "chain_pallet/yuma/src/*.rs",
}
PER_SHEET = ("walks", "senders", "contradicted")
EPOCHS, WARM_UP, WALKS = 7, 3, 16
VALIDATORS = ("validator-0", "validator-1")
HOSTILE = ("copy", "swarm-0", "swarm-1", "swarm-2", "aggregator", "liar", "echo")


@pytest.fixture(scope="module")
def texts(tiny_spec):
    """Token ids by kind: what experts learn from, and windows that nobody has seen."""
    tokenizer = Tokenizer.from_file(str(tiny_spec.tokenizer_path))
    seen, walks = {}, []
    for kind, pattern in SOURCES.items():
        text = "\n".join(path.read_text() for path in sorted(ROOT.glob(pattern)))
        ids = np.array(tokenizer.encode(text[:160_000]).ids, np.uint32)
        windows = ids[: len(ids) // WINDOW_TOKENS * WINDOW_TOKENS].reshape(-1, WINDOW_TOKENS)
        learnt = np.arange(len(windows)) % 4 > 0
        seen[kind] = [windows[learnt].ravel()]
        walks += list(windows[~learnt][:100])
    order = np.random.default_rng(0).permutation(len(walks))
    return seen, np.stack(walks)[order]


def remembered(law):
    """Relays ask for what was asked already."""
    known = {}

    def answer(ids):
        key = ids.tobytes()
        if key not in known:
            known[key] = law(ids).astype(np.float16)
        return known[key]

    return answer


@pytest.fixture(scope="module")
def economy(texts, tiny_spec):
    seen, walks = texts
    vocab_size = tiny_spec.spec.vocab_size
    baseline = Unigram.build(np.concatenate([ids for kind in seen.values() for ids in kind]), 300)
    experts = {kind: remembered(NgramCache(ids, vocab_size, order=4)) for kind, ids in seen.items()}
    source = experts["rust"]
    hostile = {
        "copy": NoisyCopier(source, 0.3),
        **{f"swarm-{i}": copy for i, copy in enumerate(swarm(source, 3, 0.5))},
        "aggregator": Aggregator(list(experts.values()), first=PREFIX_TOKENS),
        "liar": Liar(source),
        "echo": Echo(vocab_size),
    }
    assert set(hostile) == set(HOSTILE)
    private = {name: walks[index :: len(VALIDATORS)] for index, name in enumerate(VALIDATORS)}
    judges = [Member(name, stake_tokens=1_000) for name in VALIDATORS]

    members = [
        *(Member(name, law) for name, law in experts.items()),
        *(Member(name, law, delay_s=HONEST_S + 0.01) for name, law in hostile.items()),  # they wait
        *judges,
    ]
    return run(play(members, private, tiny_spec, baseline, epochs=EPOCHS, walks_per_epoch=WALKS))


def test_the_hostile_earn_next_to_nothing(economy):
    paid = {name: economy.tokens(name, WARM_UP) for name in (*SOURCES, *HOSTILE)}
    mean = sum(paid[name] for name in SOURCES) / len(SOURCES)
    assert mean > 0
    assert sum(paid[name] for name in ("copy", "swarm-0", "swarm-1", "swarm-2")) < 0.05 * mean
    for name in ("aggregator", "liar", "echo"):
        assert paid[name] < 0.05 * mean, name


def test_they_take_nothing_from_the_honest(economy):
    """Against the same sheets without their columns."""
    honest = sorted(Member(name).hotkey for name in SOURCES)
    beside, alone = np.zeros(len(SOURCES)), np.zeros(len(SOURCES))
    for sheet in economy.sheets:
        columns = [sheet.hotkeys.index(hotkey) for hotkey in honest]
        beside += np.array(recount(sheet).score_nano)[columns]
        alone += recount(only(sheet, columns)).score_nano
    assert np.all(beside > 0.95 * alone)


def only(sheet, columns):
    """The sheet had nobody else been asked."""
    per_expert = {
        field.name: tuple(getattr(sheet, field.name)[i] for i in columns)
        for field in dataclasses.fields(sheet)
        if isinstance(getattr(sheet, field.name), tuple) and field.name not in PER_SHEET
    }
    items = {name: getattr(sheet, name)[:, [*columns, -1]] for name in ("log_q", "log_w")}
    return dataclasses.replace(
        sheet,
        **per_expert,
        **items,
        entropy=sheet.entropy[:, columns],
        chosen=sheet.chosen[:, columns],
        apart=sheet.apart[:, columns],
        sender=sheet.sender[:, columns],
        took_100us=sheet.took_100us[:, columns],
    )


def test_the_script_of_the_docs_recounts_every_kind_of_sheet(
    economy, tmp_path, monkeypatch, capsys
):
    """Newcomers, seniors, averages of before and of none."""
    text = (ROOT / "docs/incentive.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for sheet in (economy.sheets[0], economy.sheets[-1]):
        path = tmp_path / "sheet"
        path.write_bytes(sheet.to_bytes())
        monkeypatch.setattr(sys, "argv", ["recount.py", str(path)])
        exec(compile(code, "docs/incentive.md", "exec"), {})
        printed = capsys.readouterr().out
        assert sheet.sha256.hex() in printed
        assert int(printed.rsplit(maxsplit=1)[1]) <= 1


def test_everything_is_paid_out_and_every_vote_can_be_recounted(economy):
    ledger = economy
    assert len(ledger.paid_rao) == EPOCHS
    totals = [sum(epoch.values()) for epoch in ledger.paid_rao[WARM_UP:]]
    assert max(totals) - min(totals) < 100  # rao that do not divide are carried
    assert len(ledger.sheets) >= 2 * (EPOCHS - 2)
    assert silenced([WeightedSheet(sheet, 1) for sheet in ledger.sheets]) == {}
    for sheet in ledger.sheets:
        again = recount(sheet)
        assert again.row_u16 == sheet.row_u16
        assert again.standing_ppm == sheet.standing_ppm
        assert np.array_equal(again.apart, sheet.apart)
