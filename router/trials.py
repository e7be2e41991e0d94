"""Strangers' grammars are tried in a process that may die of them.

A schema of some hundred bytes can take llguidance gigabytes (twenty patterns that must all hold) or
overflow its stack (a thousand references in a row): both end the process that compiles it, and a
thread cannot be given up. So a grammar is first compiled in a fork of a small process, with little
CPU time, memory and stack, and here only if it came through. `Trials` runs this module as
`python -m moesubnet.router.trials`; the two exchange msgpack, each after its length as a
little-endian u32, over the child's stdin and stdout, and the child ends when its stdin does.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import msgpack
import psutil

from moesubnet.host.children import own_pipes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CPU_S = 0.5  # of all grammars of a request; what apps send takes milliseconds
MEMORY_BYTES = 64 * 2**20
STACK_BYTES = 2**20  # an eighth of a thread's here
# What llguidance may take: half or less of what it allows itself, and states of 2 kB.
LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 5_000,
    "max_grammar_size": 50_000,
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Words:
    """A spec's tokens as llguidance asks for them: their bytes, empty for those that text never
    becomes. encode: text → ids, where there is a tokenizer."""

    tokens: Sequence[bytes]
    stop_ids: Sequence[int]
    special_token_ids: Sequence[int]
    encode: Callable[[str], Sequence[int]] | None = None
    bos_token_id: None = None

    @property
    def eos_token_id(self) -> int:
        return self.stop_ids[0]

    def vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self), eos_token=list(self.stop_ids))

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text that a grammar leaves no choice about, where it stands: some tokenizers
        put a space before it, or know no token for a part."""
        raw = text.encode()
        ids = list(self.encode(text)) if self.encode else []
        return ids if b"".join(self.tokens[i] for i in ids) == raw else self._greedy(raw)

    def _greedy(self, raw: bytes) -> list[int]:
        ids, at = list[int](), 0
        while at < len(raw):
            ends = range(min(len(raw), at + self._longest), at, -1)
            end = next((end for end in ends if raw[at:end] in self._ids), 0)
            if not end:
                break
            ids.append(self._ids[raw[at:end]])
            at = end
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = frozenset(self.special_token_ids)
        return {word: i for i, word in enumerate(self.tokens) if word and i not in special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=1)


def compiled(vocabulary: LLTokenizer, rules: str) -> LLMatcher:
    """rules: of `lark`. What cannot be honoured is in the matcher's error."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(**LIMITS, verbose_errors=False)  # type: ignore[arg-type]
    return LLMatcher(vocabulary, "%llguidance {}\n" + rules, log_level=0, limits=limits)


class Trials:
    """One process, started with the first trial; one trial at a time. Blocking, thread-safe."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tried(self, grammars: Sequence[str]) -> list[str]:
        """Of each why it cannot be honoured, or nothing; of as many as came to an end: the next
        one took too much of what all may take."""
        with self._turn:
            for _ in range(2):  # somebody may have killed it
                process = self._process or self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    _write(process.stdin, list(grammars))
                    return [str(why) for why in _read(process.stdout)]
                except (OSError, EOFError):
                    process.kill()
                    self._process = None
            return []

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "moesubnet.router.trials"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        weakref.finalize(self, _end, process)
        assert process.stdin is not None
        words = self._words
        parts = list(words.tokens), list(words.stop_ids), list(words.special_token_ids)
        _write(process.stdin, parts)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """The child: a fork for each request, so that nothing of a trial stays."""
    vocabulary = Words(*_read(source)).vocabulary()
    while True:
        try:
            grammars = _read(source)
        except EOFError:
            return
        out, into = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(out)
                _try(vocabulary, grammars, into)
            finally:
                os._exit(0)
        os.close(into)
        said = list[str]()
        with os.fdopen(out, "rb") as pipe:
            try:
                while len(said) < len(grammars):
                    said.append(_read(pipe))
            except EOFError:
                pass  # it died
        os.waitpid(pid, 0)
        _write(sink, said)


def _try(vocabulary: LLTokenizer, grammars: Sequence[str], into: int) -> None:
    _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + MEMORY_BYTES)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)  # of CPU, and ends it
    _limit(resource.RLIMIT_STACK, STACK_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # its last words
    with os.fdopen(into, "wb") as pipe:
        for rules in grammars:
            matcher = compiled(vocabulary, rules)
            if not matcher.is_error():
                matcher.compute_bitmask()  # the first step's is the largest
            _write(pipe, matcher.get_error())


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _read(source: IO[bytes]) -> Any:
    """Raises EOFError."""
    prefix = source.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(prefix)
    said = source.read(size)
    if len(said) < size:
        raise EOFError
    return msgpack.unpackb(said)


def _write(sink: IO[bytes], said: object) -> None:
    packed: bytes = msgpack.packb(said)
    sink.write(_LENGTH.pack(len(packed)) + packed)
    sink.flush()


def main() -> None:
    serve(*own_pipes())


if __name__ == "__main__":
    main()
