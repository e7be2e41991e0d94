"""The client side of the wire (Bittensor's "dendrite"): one ExpertClient for each expert.

Peers are strangers (`strangers`): signed calls are answered with receipts, and whatever goes wrong
is an error of `moesubnet.errors`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import aiohttp

from moesubnet.errors import (
    MalformedAuth,
    PeerError,
    PeerRefused,
    PeerUnavailable,
    UnknownBase,
    WireError,
)
from moesubnet.types import Axon, Hotkey, Signer
from moesubnet.wire.addresses import check_axon
from moesubnet.wire.departures import Answer, Departures, Parcel, carry
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.lanes import LANE_PATH, Lane, unpack_answers
from moesubnet.wire.protocol import (
    Card,
    CloseRequest,
    ExpertCard,
    GenerateChunk,
    GenerateRequest,
    Proof,
    StepRequest,
    StepResponse,
    StreamReceipt,
    max_answer_bytes,
    read_answers,
)
from moesubnet.wire.signing import (
    off_loop,
    sign_request,
    signed_text,
    verify_receipt,
)
from moesubnet.wire.strangers import (
    MAX_SMALL_BYTES,
    ErrorBody,
    code_of,
    get_public,
    open_response,
    read_frames,
    read_lines,
)
from moesubnet.wire.strict_json import parse_as

MAX_PROMPTS = 60  # at once to one neuron, which lets one address have more connections
END_S = 0.25  # from the last answer of a request to its end: who holds it back keeps no lane
_Card = TypeVar("_Card", bound=Card)


class _Signed(NamedTuple):
    """What names a signed request in its receipts."""

    nonce_ns: int
    text_sha256: bytes


class ExpertClient:
    """Talks to one neuron. PeerUnavailable at construction if its address may not be used."""

    _lane_path = LANE_PATH

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        hotkey: Hotkey,
        axon: Axon,
        *,
        vocab_size: int,
        allow_private: bool = False,
    ) -> None:
        check_axon(axon, allow_private=allow_private)
        self.hotkey = hotkey
        self.axon = axon
        self.commits = False  # whether its last card says that it commits to rows
        self.draws_ahead = False  # whether it says so, and has not been found to do otherwise
        self.held_s = 0.0  # so long it is waited for where it answers others' steps; see `Parcel`
        self._http = http
        self._signer = signer
        self._vocab_size = vocab_size
        self._last_nonce_ns = 0
        self._places = asyncio.Semaphore(MAX_PROMPTS)
        self._departures = Departures(self._carry)

    def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> Awaitable[StepResponse]:
        """One step: a prompt in a request of its own, else in a lane with what else is to leave.

        `timeout_s` begins when its turn has come, and `on_its_way` is called then: that we ask
        too much at once is not the expert's fault.

        Raises PeerUnavailable, PeerRefused, UnknownBase, WireError (FrameError, BadDistribution),
        AuthError (the receipt is missing or wrong).
        """
        return self._sent(request, self._parcel(request, timeout_s, on_its_way, self.held_s))

    async def forward(self, request: StepRequest, *, timeout_s: float) -> tuple[int, bytes, Proof]:
        """One step for somebody else: status (200 or 409), body and proof. Nothing of the answer
        is looked at but its receipt. Raises as `step` does, but no UnknownBase."""
        parcel = self._parcel(request, timeout_s, reads=False)
        status, body, nonce_ns, receipt = await self._sent(request, parcel)
        return status, body, Proof.of(request, nonce_ns, receipt, body, step=parcel.body)

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        """Tell the expert that nobody goes on with these (at most 256). Raises PeerError."""
        body = CloseRequest(sessions=list(sessions)).model_dump_json().encode()
        async with self._post("/v1/close", body, "application/json", timeout_s):
            pass  # whether it kept its word does not matter to us

    async def generate(
        self, request: GenerateRequest, *, timeout_s: float
    ) -> AsyncIterator[GenerateChunk]:
        """The expert's own continuation, chunk by chunk; proven only once the iterator ends.

        Use `contextlib.aclosing` to stop early. Raises as `step` does.
        """
        body = request.model_dump_json().encode()
        hasher, left, finished = hashlib.sha256(), request.max_tokens, False
        call = self._post("/v1/generate", body, "application/json", timeout_s)
        async with call as (response, signed):
            async for line in read_lines(response):
                if finished:
                    self._check_receipt(_receipt_of(line), signed, hasher.digest())
                    return
                hasher.update(line)
                try:
                    chunk = parse_as(GenerateChunk, line)
                except ValueError:
                    raise WireError("a chunk of the stream is malformed") from None
                left -= len(chunk.ids)
                if left < 0 or any(token >= self._vocab_size for token in chunk.ids):
                    raise WireError("more tokens than asked for, or outside the vocabulary")
                finished = chunk.finish_reason is not None
                if len(chunk.logprobs) != len(chunk.ids) or not (chunk.ids or finished):
                    raise WireError("a chunk is empty or lacks log-probabilities")
                yield chunk
        raise MalformedAuth("the stream ended without a receipt")

    async def card(self, *, timeout_s: float) -> ExpertCard:
        """What the expert says of itself; WireError when it is malformed or another's."""
        card = await read_card(self._http, self.hotkey, self.axon, ExpertCard, timeout_s=timeout_s)
        self.commits, self.draws_ahead = card.commits, card.draws_ahead
        return card

    async def get_public(self, path: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """An unsigned GET of at most `max_bytes`, for what is checked by its content hash."""
        return await get_public(
            self._http, self.axon, path, max_bytes=max_bytes, timeout_s=timeout_s
        )

    def _parcel(
        self,
        request: StepRequest,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
        held_s: float = 0.0,
        *,
        reads: bool = True,
    ) -> Parcel:
        """reads: whether the answer is, as soon as it is there."""
        return Parcel(
            request.to_bytes(),
            max_answer_bytes(request, self._vocab_size),
            timeout_s,
            on_its_way,
            stream=request.sequences[0].session,
            sequences=len(request.sequences),
            held_s=held_s,
            request=request if reads else None,
        )

    def _sent(self, request: StepRequest, parcel: Parcel) -> Awaitable[Any]:
        return self._alone(parcel) if request.is_prompt else self._departures.step(parcel)

    async def _alone(self, parcel: Parcel) -> Any:
        async with self._places:
            parcel.on_its_way()
            await carry(self._carry, [parcel], lambda: self._departures.answered([parcel]))
        return await parcel.answer

    async def _carry(self, parcels: Sequence[Parcel], come: Callable[[], None]) -> None:
        """See `carry`; once more where an idle connection was closed just as we used it."""
        until_s = time.monotonic() + max(parcel.held_s for parcel in parcels)
        try:
            await self._carry_once(parcels, come, until_s)
        except PeerUnavailable as error:
            if not isinstance(error.__cause__, aiohttp.ServerDisconnectedError):
                raise
            await self._carry_once(parcels, come, until_s)

    async def _carry_once(
        self, parcels: Sequence[Parcel], come: Callable[[], None], until_s: float
    ) -> None:
        lane = Lane.of([parcel.body for parcel in parcels])
        body, caller = lane.to_bytes(), Hotkey(self._signer.ss58_address)
        target = f"{self._lane_path}?{lane.query}"
        left = set(range(len(parcels)))
        most = sum(parcel.most_bytes + 1_024 for parcel in parcels)
        call = self._post(target, body, CONTENT_TYPE, until_s - time.monotonic())
        async with call as (response, signed), asyncio.timeout(None) as limit:
            async for frame in read_frames(response, most):
                answers = await off_loop(
                    len(frame), unpack_answers, frame, lane, signed.nonce_ns, self.hotkey, caller
                )
                brought: list[tuple[Parcel, Answer]] = []
                for given, receipt in answers:
                    if given.place not in left:
                        raise WireError("a second answer to one step")
                    left.discard(given.place)
                    parcel = parcels[given.place]
                    if given.status in (200, 409):
                        answer = given.status, given.body, signed.nonce_ns, receipt
                        brought.append((parcel, answer))
                    else:
                        parcel.fail(PeerRefused(given.status, code_of(given.body)))
                await self._give(brought)
                come()
                if not left:
                    limit.reschedule(asyncio.get_running_loop().time() + END_S)

    async def _give(self, brought: Sequence[tuple[Parcel, Answer]]) -> None:
        """Read at once what came together, then give each its own."""
        waited_for = [(p, p.request, answer) for p, answer in brought if not p.answer.done()]
        bodies = [
            (answer[1], request)
            for _, request, answer in waited_for
            if request is not None and answer[0] == 200
        ]
        size = sum(len(body) for body, _ in bodies)
        read = iter(await off_loop(size, read_answers, bodies, self._vocab_size))
        for parcel, request, answer in waited_for:
            status, body, nonce_ns, receipt = answer
            if request is None:
                parcel.give(answer)
            elif status == 409:
                parcel.give(_unknown_base(body, request))
            else:
                proof = Proof.of(request, nonce_ns, receipt, body, step=parcel.body)
                parcel.give(_proven(next(read), proof))

    async def _decoded(
        self, request: StepRequest, status: int, data: bytes, proof: Proof
    ) -> StepResponse:
        """Raises UnknownBase for a 409, WireError."""
        if status == 409:
            raise _unknown_base(data, request)
        [read] = await off_loop(len(data), read_answers, [(data, request)], self._vocab_size)
        answer = _proven(read, proof)
        if isinstance(answer, WireError):
            raise answer
        return answer

    @asynccontextmanager
    async def _post(
        self, path: str, body: bytes, content_type: str, timeout_s: float
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, _Signed]]:
        """The answer to a signed POST. Signed anew, once and in the same time, where the signature
        was too old when it came: that we are slow to send is not the expert's fault."""
        until_s = time.monotonic() + timeout_s
        async with AsyncExitStack() as stack:

            async def send() -> tuple[aiohttp.ClientResponse, _Signed]:
                headers, signed = self._sign(path, body)
                headers |= {"Content-Type": content_type}
                left_s = until_s - time.monotonic()
                call = open_response(self._http, self.axon, "POST", path, body, headers, left_s)
                return await stack.enter_async_context(call), signed

            try:
                sent = await send()
            except PeerRefused as error:
                if not error.is_stale:
                    raise
                sent = await send()
            yield sent

    def _sign(self, path: str, body: bytes) -> tuple[dict[str, str], _Signed]:
        """The headers of a POST, with a nonce never used before."""
        self._last_nonce_ns = nonce_ns = max(self._last_nonce_ns + 1, time.time_ns())
        sender = Hotkey(self._signer.ss58_address)
        text = signed_text("POST", path, body, nonce_ns, sender, self.hotkey)
        headers = sign_request(self._signer, "POST", path, body, self.hotkey, nonce_ns)
        return headers, _Signed(nonce_ns, hashlib.sha256(text).digest())

    def _check_receipt(self, receipt: str, signed: _Signed, body_sha256: bytes) -> None:
        caller = Hotkey(self._signer.ss58_address)
        verify_receipt(receipt, 200, signed.text_sha256, body_sha256, self.hotkey, caller)


async def read_card(
    http: aiohttp.ClientSession, hotkey: Hotkey, axon: Axon, kind: type[_Card], *, timeout_s: float
) -> _Card:
    """What a neuron says of itself at an address that `check_axon` has passed.

    Raises PeerError; WireError when it is malformed or another's.
    """
    raw = await get_public(http, axon, kind.path, max_bytes=MAX_SMALL_BYTES, timeout_s=timeout_s)
    try:
        card = parse_as(kind, raw)
    except ValueError:
        raise WireError("the card is malformed") from None
    if card.hotkey != hotkey:
        raise WireError("the card is another's")
    return card


def _receipt_of(line: bytes) -> str:
    try:
        return parse_as(StreamReceipt, line).receipt
    except ValueError:
        raise MalformedAuth("the stream's last line is not a receipt") from None


def _proven(read: StepResponse | WireError, proof: Proof) -> StepResponse | WireError:
    return read if isinstance(read, WireError) else StepResponse(read.rows, proof)


def _unknown_base(data: bytes, request: StepRequest) -> PeerError | WireError:
    try:
        held = ErrorBody.read(data).held_tokens
    except ValueError:
        return WireError("a 409 without held_tokens")
    bases = [s.base_len for s in request.sequences]
    if len(held) != len(bases) or not all(0 <= h <= b for h, b in zip(held, bases, strict=True)):
        return WireError("held_tokens that nobody sent")
    return UnknownBase(tuple(held))
