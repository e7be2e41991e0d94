import hashlib
from pathlib import Path

import pytest

from moesubnet.spec.content import Baseline, Spec, SpecFile, save_spec


@pytest.fixture
def spec_folder(tmp_path: Path) -> Path:
    """A spec whose files are plain bytes: enough for what only hashes them."""
    files = {}
    for name in ("tokenizer.json", "public.jsonl", "unigram.npy"):
        (tmp_path / name).write_text(name)
        files[name] = SpecFile(path=name, sha256=hashlib.sha256(name.encode()).hexdigest())
    spec = Spec(
        name="test",
        tokenizer=files["tokenizer.json"],
        vocab_size=8,
        bos_id=0,
        stop_ids=(0,),
        context_tokens=64,
        chat_template="",
        min_caller_stake_rao=1,
        public_text=files["public.jsonl"],
        baseline=Baseline(kind="unigram", file=files["unigram.npy"]),
    )
    save_spec(tmp_path, spec)
    return tmp_path
