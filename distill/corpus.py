"""The texts of distillation as token windows: the public transfer set and the final test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.documents import read_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import Ids, cold_windows, encode, split_held_out, stream

WINDOW = 128
HELD_OUT_EVERY = 10  # of the public text, a plain run is judged on a tenth


def public_windows(spec: LoadedSpec, window: int, seed: int) -> Ids:
    """Cold windows uint32 [M, window] of the whole public set, in random order."""
    texts = sorted(read_documents(spec.path(spec.spec.public_text)), key=lambda d: d.domain)
    documents = encode([text.text for text in texts], load_tokenizer(spec.tokenizer_path))
    windows = cold_windows(stream(documents, spec.spec.bos_id), window)
    return windows[np.random.default_rng(seed).permutation(len(windows))]


def public_streams(spec: LoadedSpec, window: int) -> tuple[Ids, Ids]:
    """For a plain run: (uint32 [n] to train on, cold windows [M, window] held out of it)."""
    documents = _encoded(spec, spec.path(spec.spec.public_text))
    return split_held_out(documents, spec.spec.bos_id, window, HELD_OUT_EVERY)


def test_windows(spec: LoadedSpec, folder: Path, window: int) -> dict[str, Ids]:
    """Domain → cold windows, from `folder`/<domain>.jsonl. Raises ConfigError."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ConfigError(f"{folder} holds no <domain>.jsonl to test on")
    return {
        path.stem: cold_windows(stream(_encoded(spec, path), spec.spec.bos_id), window)
        for path in files
    }


def _encoded(spec: LoadedSpec, path: Path) -> list[Ids]:
    texts = [document.text for document in read_documents(path)]
    return encode(texts, load_tokenizer(spec.tokenizer_path))
