"""llama.cpp by its own calls: a model, its sequences, and the logits of what was fed.

llama-cpp-python's classes know one sequence; these calls know up to 256 in one pool of cells, each
cell of as many sequences as share it. Everything here is for one thread at a time.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from moesubnet.engine.base import LogProbs
from moesubnet.errors import EngineError

log = logging.getLogger(__name__)

NO_EXTRA = (
    "GGUF files are run by llama-cpp-python, which is not installed: pip install 'moesubnet[gguf]' "
    "compiles it for some minutes and needs cmake and a C++ compiler. Without one, serve the file "
    "by llama.cpp's own server, from any package or wheel that has it, and pass --upstream URL"
)
_LEVELS = {3: logging.INFO, 4: logging.ERROR}  # of ggml: warnings are about what we mean to do
BATCH_TOKENS = 512
GIB = 1 << 30


class NoRoom(Exception):
    """All cells are taken."""


@dataclass(frozen=True, slots=True)
class Fed:
    """One token to feed. laws: whether the logits after it are wanted."""

    sequence: int
    position: int
    token: int
    wanted: bool


@cache
def bindings() -> Any:
    """llama.cpp's calls. Raises EngineError, with the way out, where they are not installed."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # a library that lacks one of its own
        raise EngineError(f"{NO_EXTRA} ({error})") from error
    calls: Any = llama_cpp.llama_cpp
    calls.moesubnet_log = calls.llama_log_callback(_log)  # lives as long as they do
    calls.llama_log_set(calls.moesubnet_log, None)
    return calls


def _log(level: int, text: bytes, _: object) -> None:
    log.log(_LEVELS.get(level, logging.DEBUG), text.decode("utf-8", "replace").rstrip())


class LlamaModel:
    """A GGUF file. vocabulary_only: without its weights, to look at. (What it then says of itself
    is read from its metadata: llama.cpp's own answers would end the process.)"""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        self.calls = calls = bindings()
        calls.llama_backend_init()
        params = calls.llama_model_default_params()
        params.vocab_only = vocabulary_only
        self.handle = calls.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise EngineError(
                f"llama.cpp {_version()} cannot load {path}: it is damaged, or of an architecture "
                "that this version does not know"
            )
        self._vocab = calls.llama_model_get_vocab(self.handle)

    @property
    def vocab_size(self) -> int:
        return int(self.calls.llama_vocab_n_tokens(self._vocab))

    @property
    def longest_tokens(self) -> int:
        """The context that it was trained for."""
        return self.number("{arch}.context_length")

    @property
    def forgets_nothing(self) -> bool:
        """Whether its memory is attention's, which can be rolled back to any length."""
        calls = self.calls
        return not (
            calls.llama_model_is_recurrent(self.handle) or calls.llama_model_is_hybrid(self.handle)
        )

    def text_of(self, token: int) -> bytes:
        """A token as the vocabulary writes it."""
        return bytes(self.calls.llama_vocab_get_text(self._vocab, token) or b"")

    def tokenize(self, text: str) -> list[int]:
        """Without a beginning; typed control tokens are text."""
        data = text.encode()
        ids = (self.calls.llama_token * (len(data) + 8))()
        count = self.calls.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[: max(0, count)])

    def metadata(self, key: str) -> str:
        """`{arch}` in the key stands for the architecture's name; empty where there is none."""
        if "{arch}" in key:
            key = key.replace("{arch}", self.metadata("general.architecture"))
        value = ctypes.create_string_buffer(4_096)
        size = self.calls.llama_model_meta_val_str(self.handle, key.encode(), value, len(value))
        return value.value.decode("utf-8", "replace") if size >= 0 else ""

    def number(self, key: str, otherwise: int = 0) -> int:
        """Of metadata; the largest, where each layer has its own."""
        return max(map(int, re.findall(r"\d+", self.metadata(key))), default=otherwise)

    @property
    def cell_bytes(self) -> int:
        """Keys and values of one token in half precision, as if all layers were alike."""
        heads = self.number("{arch}.attention.head_count", 1)
        width = self.number(
            "{arch}.attention.key_length", self.number("{arch}.embedding_length") // max(1, heads)
        )
        kv_heads = self.number("{arch}.attention.head_count_kv", heads)
        return max(1, 2 * 2 * self.number("{arch}.block_count") * kv_heads * width)

    def close(self) -> None:
        if self.handle:
            self.calls.llama_model_free(self.handle)
            self.handle = None


class LlamaContext:
    """A pool of cells over a model. sequences: how many may be open."""

    def __init__(self, model: LlamaModel, *, cells: int, threads: int) -> None:
        self._model, calls = model, model.calls
        self.sequences = int(calls.llama_max_parallel_sequences())
        params = calls.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = self.sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # sequences that share a beginning share its cells
        params.swa_full = True  # sliding windows too can be rolled back
        params.no_perf = True
        self._context = calls.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(
                f"llama.cpp could not make room for {cells} tokens: too little memory"
            )
        self._memory = calls.llama_get_memory(self._context)
        self._batch = calls.llama_batch_init(BATCH_TOKENS, 0, 1)

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from `length` on."""
        if not self._model.calls.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise EngineError("llama.cpp cannot roll this model back")

    def fork(self, source: int, target: int, length: int) -> None:
        """The target becomes the source's first `length` tokens, in the same cells."""
        self.cut(target, 0)
        self._model.calls.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def feed(self, tokens: Sequence[Fed]) -> list[LogProbs]:
        """At most BATCH_TOKENS of them; the logits, float32 [V], of those that are wanted, in
        order. Raises NoRoom, after which nothing has changed, and EngineError."""
        calls, batch = self._model.calls, self._batch
        batch.n_tokens = len(tokens)
        for i, fed in enumerate(tokens):
            batch.token[i], batch.pos[i] = fed.token, fed.position
            batch.n_seq_id[i], batch.logits[i] = 1, fed.wanted
            batch.seq_id[i][0] = fed.sequence
        status = calls.llama_decode(self._context, batch)
        if status == 1:
            raise NoRoom
        if status != 0:
            raise EngineError(f"llama.cpp failed on a batch ({status})")
        size = self._model.vocab_size
        return [
            np.ctypeslib.as_array(calls.llama_get_logits_ith(self._context, i), (size,)).copy()
            for i, fed in enumerate(tokens)
            if fed.wanted
        ]

    def close(self) -> None:
        if self._context:
            self._model.calls.llama_batch_free(self._batch)
            self._model.calls.llama_free(self._context)
            self._context = None


def _version() -> str:
    import llama_cpp

    return f"(llama-cpp-python {llama_cpp.__version__})"
