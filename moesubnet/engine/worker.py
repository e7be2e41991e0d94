"""An engine in a child process, so that an event loop stays free of torch.

Parent and child exchange frames (`moesubnet.wire.frames`), each after its length as a little-endian
u64, over the child's stdin and stdout, with steps and rows in them as they are on the wire, in
float32; the child ends when its stdin does. Run as
`python -m moesubnet.engine.worker` by `EngineProcess` alone.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moesubnet.engine.base import Engine, Query, TokenIds
from moesubnet.engine.drafting import Continuation, draft
from moesubnet.engine.named import load_engine
from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.errors import EngineError, MoesubnetError
from moesubnet.host.children import own_pipes
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.wire import frames
from moesubnet.wire.responses import StepResponse
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import SequenceStep, StepLimits, StepRequest, Want, base_hash

_SCHEMA = "moesubnet-engine/3"
_LENGTH = struct.Struct("<Q")
_LIMITS = frames.Limits(
    max_frame_bytes=1 << 32, max_header_bytes=1 << 24, max_items=1 << 16, max_text_bytes=8_192
)
_CLOSE_TIMEOUT_S = 5.0
MAX_BATCH_SEQUENCES = 256
_NOTHING = np.empty(0, np.uint32)
_Drafted = tuple[TokenIds, StepRows]  # what was drafted, if anything, and rows


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """asked: for each query what to draft; none: its rows are wanted."""

    batch: Sequence[Query]
    want: Want
    asked: Sequence[Continuation]
    answers: asyncio.Future[list[_Drafted]]


class EngineProcess:
    """An `Engine` behind a pipe. Open it with `start`; when the child dies, the call that was
    under way raises EngineError and the next one starts another child."""

    name: str
    vocab_size: int
    context_tokens: int
    commitment: str

    def __init__(self, model: str | Path, spec: LoadedSpec, target: str, threads: int) -> None:
        self._hello: dict[str, frames.Field] = {
            "target": target,
            "model": str(model),
            "spec": str(spec.root),
            "spec_sha256": spec.sha256,
            "threads": threads,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._waiting: deque[_Call] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._forgotten: list[frames.Scalar] = []

    @classmethod
    async def start(
        cls,
        model: str | Path,
        spec: LoadedSpec,
        *,
        target: str = DEFAULT_ENGINE,
        threads: int = 1,
    ) -> EngineProcess:
        """Load `model` in a child. Raises EngineError with the child's reason."""
        self = cls(model, spec, target, threads)
        async with self._lock:
            await self._spawn()
        return self

    async def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`, but that nothing is committed. Calls that wait while the child
        computes go to it as one batch."""
        return [rows for _, rows in await self._ask(batch, want, ())] if batch else []

    async def draft(
        self, query: Query, asked: Continuation, want: Want
    ) -> tuple[TokenIds, StepRows]:
        """See `engine.drafting.draft`. Texts that wait while the child computes go on in step."""
        (answer,) = await self._ask([query], want, [asked])
        return answer

    def forget(self, session: str) -> None:
        """See `Engine.forget`; told to the child with the next batch."""
        self._forgotten.append(session)

    async def close(self) -> None:
        """Let what waits be answered and the child end; kill it if it does not."""
        if self._runner is not None:
            await self._runner
        async with self._lock:
            await self._stop()

    async def _ask(
        self, batch: Sequence[Query], want: Want, asked: Sequence[Continuation]
    ) -> list[_Drafted]:
        call = _Call(batch, want, asked, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await call.answers

    async def _run(self) -> None:
        # A task of its own: a cancelled caller must not leave its answer in the pipe.
        while calls := self._next_calls():
            await self._answer(calls)

    def _next_calls(self) -> list[_Call]:
        """What waits, oldest first, as far as it wants the same, no session comes twice and a
        batch holds it."""
        calls: list[_Call] = []
        sessions: set[str] = set()
        while self._waiting:
            mine = {query.session for query in self._waiting[0].batch}
            full = mine & sessions or len(mine) + len(sessions) > MAX_BATCH_SEQUENCES
            if calls and (full or not _alike(self._waiting[0], calls[0])):
                break
            call = self._waiting.popleft()
            if not call.answers.done():  # its caller may have left
                sessions |= mine
                calls.append(call)
        return calls

    async def _answer(self, calls: Sequence[_Call]) -> None:
        queries = [query for call in calls for query in call.batch]
        asked = [wish for call in calls for wish in call.asked]
        computing = asyncio.create_task(self._compute(queries, calls[0].want, asked))
        await asyncio.wait([computing])
        error = computing.exception()
        if error is not None and len(calls) > 1 and self._process is not None:
            for call in calls:  # one caller's query must not spoil the others'
                await self._answer([call])
            return
        begin = 0
        for call in calls:
            end = begin + len(call.batch)
            if not call.answers.done() and error is None:
                call.answers.set_result(computing.result()[begin:end])
            elif not call.answers.done() and error is not None:
                call.answers.set_exception(error)
            begin = end

    async def _compute(
        self, batch: Sequence[Query], want: Want, asked: Sequence[Continuation]
    ) -> list[_Drafted]:
        forget, self._forgotten = self._forgotten, []
        request = StepRequest(tuple(map(_step, batch)), want)
        seeds: list[frames.Scalar] = [query.seed for query in batch]
        fields: dict[str, frames.Field] = {"forget": forget, "seeds": seeds}
        if asked:
            fields["asked"] = [value for wish in asked for value in astuple(wish)]
        step = np.frombuffer(request.to_bytes(), np.uint8)
        reply = await self._exchange(frames.encode(_SCHEMA, fields, {"step": step}))
        drafted = [_NOTHING for _ in batch]
        if asked:
            ends = np.cumsum([wish.count for wish in asked])[:-1]
            drafted = np.split(reply.tensor("drafted", "u32", (None,)), ends)
            request = _extended(request, drafted)
        rows = StepResponse.from_bytes(reply.tensors["rows"].data, request, self.vocab_size).rows
        return list(zip(drafted, rows, strict=True))

    async def _exchange(self, request: bytes) -> frames.Frame:
        async with self._lock:
            if self._process is None:
                await self._spawn()
            return await self._send(request)

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "moesubnet.engine.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        try:
            reply = await self._send(frames.encode(_SCHEMA, self._hello, {}))
        except BaseException:
            await self._stop()
            raise
        self.name = str(reply.fields["name"])
        self.commitment = str(reply.fields["commitment"])
        self.vocab_size = int(str(reply.fields["vocab_size"]))
        self.context_tokens = int(str(reply.fields["context_tokens"]))

    async def _send(self, request: bytes) -> frames.Frame:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_LENGTH.pack(len(request)))
            process.stdin.write(request)
            await process.stdin.drain()
            (size,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
            reply = await process.stdout.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            await self._stop()
            raise EngineError(f"the engine's process died ({process.returncode})") from error
        frame = frames.decode(reply, schema=_SCHEMA, limits=_LIMITS)
        if "error" in frame.fields:
            raise EngineError(str(frame.fields["error"]))
        return frame

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _CLOSE_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """The child: load the engine that the first frame names, then answer until the input ends."""
    engine: Engine | None = None
    while (prefix := source.read(_LENGTH.size)) and len(prefix) == _LENGTH.size:
        request = frames.decode(
            source.read(_LENGTH.unpack(prefix)[0]), schema=_SCHEMA, limits=_LIMITS
        )
        try:
            if engine is None:
                engine = _load(request.fields)
                reply = _introduce(engine)
            else:
                reply = _answer(engine, request)
        except MoesubnetError as error:
            reply = frames.encode(_SCHEMA, {"error": str(error)[:2_000]}, {})
        sink.write(_LENGTH.pack(len(reply)))
        sink.write(reply)
        sink.flush()


def _load(fields: Mapping[str, frames.Field]) -> Engine:
    spec = load_spec(Path(str(fields["spec"])), str(fields["spec_sha256"]))
    return load_engine(
        str(fields["target"]), str(fields["model"]), spec, threads=int(str(fields["threads"]))
    )


def _introduce(engine: Engine) -> bytes:
    names = ("name", "vocab_size", "context_tokens", "commitment")
    return frames.encode(_SCHEMA, {name: getattr(engine, name) for name in names}, {})


def _step(query: Query) -> SequenceStep:
    cut = len(query.ids) - query.draft
    ids, draft = query.ids[:cut], query.ids[cut:]
    return SequenceStep(query.session, 0, base_hash(ids[:0]), ids, draft, query.first)


def _query(step: SequenceStep, seed: int) -> Query:
    ids = np.concatenate((step.append_ids, step.draft_ids))
    return Query(step.session, ids, step.first_row, len(step.draft_ids), seed)


def _answer(engine: Engine, frame: frames.Frame) -> bytes:
    forget = frame.fields["forget"]
    assert isinstance(forget, list)
    for session in forget:
        engine.forget(str(session))
    limits = StepLimits(engine.vocab_size, engine.context_tokens, MAX_BATCH_SEQUENCES)
    request = StepRequest.from_bytes(frame.tensors["step"].data, limits)
    seeds = frame.fields["seeds"]
    assert isinstance(seeds, list)
    batch = [_query(step, int(seed)) for step, seed in zip(request.sequences, seeds, strict=True)]
    tensors: dict[str, frames.Tensor] = {}
    if "asked" in frame.fields:
        values = frame.fields["asked"]
        assert isinstance(values, list)
        parts = iter(values)
        asked = [Continuation(*wish) for wish in zip(*[parts] * 4, strict=True)]
        drafted, rows = zip(*draft(engine, batch, asked, request.want), strict=True)
        tensors["drafted"] = np.concatenate(drafted).astype(np.uint32)
    else:
        rows = tuple(engine.rows(batch, request.want))
    tensors["rows"] = np.frombuffer(StepResponse(rows).to_bytes("f32"), np.uint8)
    return frames.encode(_SCHEMA, {}, tensors)


def _alike(call: _Call, other: _Call) -> bool:
    """Whether they can be one batch."""
    return call.want == other.want and bool(call.asked) == bool(other.asked)


def _extended(request: StepRequest, drafted: Sequence[TokenIds]) -> StepRequest:
    """The request for the rows that the drafted tokens were drawn from."""
    steps = [
        replace(step, append_ids=np.concatenate((step.append_ids, ids[:-1])))
        for step, ids in zip(request.sequences, drafted, strict=True)
    ]
    return StepRequest(tuple(steps), request.want)


def main() -> None:
    serve(*own_pipes())


if __name__ == "__main__":
    main()
