"""Record the laws that real experts give along walks, for economies that are played without models.

    python benchmarks/record_laws.py FOLDER [--walks 1280] [--pool 0] [--seed 0] [--base MODEL]

Trains what is missing (about 15 minutes on one quiet core) and writes:

    FOLDER/corpora, spec, experts   as a localnet has them
    FOLDER/walks.npy                u32 [walks, 48]: windows of a validator's private text
    FOLDER/laws/<expert>.npy        float16 [walks, 16, V]: the law of each token after the prefix

With --base FOLDER is that of `scripts/localnet --base MODEL`, and the laws are those of its
adapters, and of the model itself as `all`: V = 49,152 of SmolLM2 makes 1.6 MB a walk and expert.

Nothing is invented: honest experts are models trained on one kind of text or on all, siblings are
short further trainings of one checkpoint, whole or by an adapter (LoRA), and cheap selves are one
model with rounded weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.localnet.kinds import LORA_RANK, Small
from moesubnet.localnet.prepare import prepare_corpora
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.documents import read_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.base_model import load_base
from moesubnet.training.dataset import encode, random_windows, stream
from moesubnet.training.expert import BATCH_TOKENS, train_expert
from moesubnet.training.head import split_model
from moesubnet.training.model import save_model
from moesubnet.training.optimizers import adamw
from moesubnet.training.trainer import Schedule, next_token_loss, train
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, TextPool
from moesubnet.wire.protocol import Want

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from adversaries.cheap_self import round_weights

DOMAINS = ("python", "cpp", "prose", "maths")


@dataclass(frozen=True)
class Recipe:
    """How an expert comes about: trained on `domains` for `steps`, from noise or from another
    expert, by an adapter of this rank if there is one; or another expert with its matrices rounded
    to `bits`, by groups of so many weights or row by row."""

    domains: tuple[str, ...] = ()
    steps: int = 0
    seed: int = 0
    parent: str | None = None
    rank: int | None = None
    bits: int | None = None
    group: int | None = None


RECIPES = {
    **{domain: Recipe((domain,), 300, seed) for seed, domain in enumerate(DOMAINS)},
    "all": Recipe(DOMAINS, 400, 10),
    "python-rival": Recipe(("python",), 300, 11),  # as good, of its own making
    "cpp-better": Recipe(("cpp",), 700, 12),
    "prose-weak": Recipe(("prose",), 100, 13),
    **{f"all-{domain}": Recipe((domain,), 80, 20, parent="all") for domain in DOMAINS},
    **{
        f"lora-{domain}": Recipe((domain,), 120, 30, parent="all", rank=LORA_RANK)
        for domain in DOMAINS
    },
    "maths-1": Recipe(("maths",), 60, 21, parent="maths"),
    "maths-2": Recipe(("maths",), 60, 22, parent="maths"),
    "maths-8bit": Recipe(parent="maths", bits=8),
    "maths-4bit": Recipe(parent="maths", bits=4),
    "maths-4bit-32": Recipe(parent="maths", bits=4, group=32),  # as GGUF's formats of 4 bits
}
WALKS_AT_ONCE = 64
FURTHER_LR = 1e-3  # a sibling stays near its parent
ADAPTER_LR = 5e-3  # an adapter begins at nothing


def make_expert(root: Path, name: str, spec: LoadedSpec, seed: int) -> Path:
    """The model folder of RECIPES[name], made unless it is there. seed: another makes others."""
    recipe, out = RECIPES[name], root / (f"experts-{seed}" if seed else "experts") / name
    recipe = replace(recipe, seed=recipe.seed + 1_000 * seed)
    texts = [root / "corpora" / "experts" / f"{domain}.jsonl" for domain in recipe.domains]
    if recipe.parent is None:
        train_expert(texts, out, spec, budget_s=0, min_steps=recipe.steps, seed=recipe.seed)
    elif not (out / "model.safetensors").exists():
        parent = make_expert(root, recipe.parent, spec, seed)
        if recipe.bits is None:
            model = train_further(parent, texts, spec, name, recipe)
        else:
            model = LlamaForCausalLM.from_pretrained(parent)
            round_weights(model, recipe.bits, recipe.group)
        save_model(model, spec, out)
    return out


def train_further(
    parent: Path, texts: list[Path], spec: LoadedSpec, name: str, recipe: Recipe
) -> LlamaForCausalLM:
    """The whole model, or an adapter that is merged then; a few steps at a low rate."""
    torch.set_num_threads(1)
    model = load_base(
        parent,
        lora_rank=recipe.rank,
        low_precision=False,
        seed=recipe.seed,
        device=torch.device("cpu"),
    )
    documents = [document.text for path in texts for document in read_documents(path)]
    ids = stream(encode(documents, load_tokenizer(spec.tokenizer_path)), spec.spec.bos_id)
    window, split = spec.spec.context_tokens, split_model(model)

    def batch_loss(model: LlamaForCausalLM, step: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng([recipe.seed, step])
        windows = random_windows(ids, BATCH_TOKENS // window, window, spec.spec.bos_id, rng)
        return next_token_loss(split, windows), windows.size

    if recipe.rank is None:
        train(model, batch_loss, Schedule(name, name, 0.0, recipe.steps, peak_lr=FURTHER_LR))
        return model
    schedule = Schedule(name, name, 0.0, recipe.steps, peak_lr=ADAPTER_LR)
    optimizer = adamw(model, schedule.peak_lr, schedule.weight_decay)
    train(model, batch_loss, schedule, optimizers=[optimizer])
    return model.merge_and_unload()


def load(
    root: Path, name: str, spec: LoadedSpec, seed: int, base: str | None
) -> TransformersEngine:
    if base is None:
        return TransformersEngine(str(make_expert(root, name, spec, seed)), spec)
    adapter = None if name == "all" else str(root / "experts" / name)
    return TransformersEngine(base, spec, adapter=adapter)


def record(engine: TransformersEngine, spec: LoadedSpec, walks: np.ndarray) -> np.ndarray:
    """float16 [walks, tokens − prefix, V]."""
    laws = np.empty((len(walks), walks.shape[1] - PREFIX_TOKENS, spec.spec.vocab_size), np.float16)
    for begin in range(0, len(walks), WALKS_AT_ONCE):
        part = range(begin, min(begin + WALKS_AT_ONCE, len(walks)))
        queries = [Query(f"{k}", walks[k][:-1], PREFIX_TOKENS) for k in part]
        laws[begin : part.stop] = [rows.logprobs for rows in engine.rows(queries, Want("full"))]
        for query in queries:
            engine.forget(query.session)
    return laws


def draw_walks(root: Path, spec: LoadedSpec, count: int, pool_index: int, seed: int) -> np.ndarray:
    """u32 [count, 48]: those that were drawn before, or new ones."""
    path = root / "walks.npy"
    if not path.exists():
        tokenizer = load_tokenizer(spec.tokenizer_path)
        pool = TextPool.load(
            str(root / f"corpora/validators/{pool_index}.jsonl"),
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        )
        windows = pool.draw([ONE_WINDOW] * count, {}, b"recording %d" % seed)
        np.save(path, np.stack([window.ids for window in windows]).astype("<u4"))
    return np.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--walks", type=int, default=1280)
    parser.add_argument("--pool", type=int, default=0, choices=(0, 1), help="whose private text")
    parser.add_argument("--seed", type=int, default=0, help="of the experts and of the walks")
    parser.add_argument("--experts", nargs="*", choices=list(RECIPES))
    parser.add_argument("--base", help="what the localnet in FOLDER is of")
    arguments = parser.parse_args()
    root = arguments.folder.expanduser()
    names = arguments.experts or (list(RECIPES) if arguments.base is None else [*DOMAINS, "all"])
    if not (root / "spec" / "spec.json").exists():  # else what is there belongs together
        small = Small(seconds=0.0)  # of its training nothing is used
        prepare_corpora(root / "corpora", small, 0, 2)
        small.make_spec(root / "corpora", root / "spec")
    spec = load_spec(root / "spec")
    walks = draw_walks(root, spec, arguments.walks, arguments.pool, arguments.seed)
    (root / "laws").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in names:
        engine = load(root, name, spec, arguments.seed, arguments.base)
        laws = record(engine, spec, walks)
        np.save(root / "laws" / f"{name}.npy", laws)
        labels = walks[:, PREFIX_TOKENS:].astype(np.intp)
        said = np.take_along_axis(laws, labels[:, :, None], 2).astype(np.float64)
        print(f"{name:14} {said.mean():.3f} nats a token on {len(walks)} walks", flush=True)


if __name__ == "__main__":
    main()
