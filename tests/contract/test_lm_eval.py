"""lm-eval's completions client scores the mixture and the student, offline, on a task of its own.

What it makes of the answers is compared with the miners' full rows and nothing of the router's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moesubnet.mixture.baseline import load_baseline
from moesubnet.router.app import build_app
from moesubnet.router.service import Service
from moesubnet.wire.listening import serve as listen
from tests.contract.environments import python_with, run
from tests.router.conftest import spec, tokenizer  # noqa: F401  # fixtures
from tests.router.test_drafted_streams import student_of
from tests.router.test_mixed_streams import network, open_model  # noqa: F401  # fixtures

# ruff: noqa: F811

PACKAGES = "lm-eval==0.4.13", "tenacity==9.2.1", "aiohttp==3.14.5", "transformers==5.23.0"
JOURNEY = Path(__file__).with_name("lm_eval_journey.py")
QUESTIONS = [
    {"question": "the quick brown", "choices": [" fox", " dog", "zz"], "answer": 0},
    {"question": "jumps over", "choices": [" the lazy", " a", " é 世"], "answer": 2},
    {"question": "STOP", "choices": [" here", "s"], "answer": 1},
]
TEXTS = [{"text": "the quick brown fox jumps over the lazy dog"}, {"text": "naïve café 世界"}]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
"""
CHOICE = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""
TEXT = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
"""


def some(salt: int):
    """A law for every text, of its own for each salt."""

    def law(ids: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([salt, *ids.tolist()])
        return np.log(rng.dirichlet(np.full(300, 0.3)) + 1e-6).astype(np.float32)

    return law


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name, rows, rest in (("own_choice", QUESTIONS, CHOICE), ("own_text", TEXTS, TEXT)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, file=file) + rest)
    return tmp_path


@pytest.mark.parametrize("model", ["mixture", "student"])
async def test_it_scores_what_the_miners_rows_say(
    spec, tokenizer, network, open_model, tasks, model
) -> None:
    python = python_with(*PACKAGES)
    for name, salt in (("one", 1), ("two", 2)):
        await network.mine(name, some(salt))
    student = student_of(some(3))
    service = Service(spec, {"mixture": await open_model(), "student": student})
    server = await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0)
    out = await run(
        *(python, JOURNEY, f"http://127.0.0.1:{server.port}", model, spec.root, tasks, 63),
        cwd=tasks,
        env={"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )
    await server.close()
    found = json.loads(out.splitlines()[-1])["samples"]

    laws = [some(1), some(2)] if model == "mixture" else [some(3)]
    base = load_baseline(spec).law.logp.astype(np.float64)

    def rows(ids: list[int]) -> np.ndarray:
        """Probabilities after these ids: nobody was measured yet, so all members count alike."""
        said = [law(np.array(ids, np.uint32)).astype(np.float64) for law in laws]
        p = [np.exp(row) / np.exp(row).sum() for row in said]
        return np.mean([*p, np.exp(base)] if model == "mixture" else p, axis=0)

    def score(context: list[int], rest: list[int]) -> tuple[float, bool]:
        ids, total, greedy = list(context), 0.0, True
        for token_id in rest:
            p = rows(ids)
            total += float(np.log(p[token_id]))
            greedy &= int(p.argmax()) == token_id
            ids.append(token_id)
        return total, greedy

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    for said, question in zip(found["own_choice"], QUESTIONS, strict=True):
        for (logp, greedy), choice in zip(said, question["choices"], strict=True):
            whole, context = encode(question["question"] + choice), encode(question["question"])
            expected = score(context, whole[len(context) :])
            assert float(logp) == pytest.approx(expected[0], abs=0.02)
            assert json.loads(str(greedy).lower()) == expected[1]
    for said, text in zip(found["own_text"], TEXTS, strict=True):
        value = said[0] if isinstance(said, list) else said
        assert float(value) == pytest.approx(score([0], encode(text["text"]))[0], abs=0.05)
