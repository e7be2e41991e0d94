"""JSON-RPC 2.0: envelopes, errors, and the checks that arguments from strangers go through."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import TypeAlias

import base58

from moesubnet.chain.devchain.chain import StateDiscarded, UnknownBlock
from moesubnet.chain.devchain.executor import RuntimeTrap
from moesubnet.chain.devchain.validity import PoolError
from moesubnet.errors import ChainError
from moesubnet.wire.strict_json import parse_json

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Method: TypeAlias = Callable[..., Awaitable[Json]]

MOST_REQUESTS_PER_BATCH = 256
MOST_ANSWER_BYTES = 16 * 1024 * 1024
_PARSE_ERROR, _INVALID_REQUEST, _UNKNOWN_METHOD, _INVALID_PARAMS = -32700, -32600, -32601, -32602
_TOO_BIG, _TOO_BIG_BATCH = -32008, -32011  # what Substrate's nodes answer then
_LESS = f"it exceeds {MOST_ANSWER_BYTES} bytes; ask for less at once"
_CLIENT_ERROR = 4003  # what Substrate's nodes answer when a block or a runtime call fails


class RpcError(ChainError):
    """An error answer."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def to_json(self) -> Json:
        error: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


class Methods:
    """Callable methods by name. Each takes JSON values and checks them itself."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = dict(methods)
        self._signatures = {name: inspect.signature(m) for name, m in methods.items()}

    def names(self) -> list[str]:
        return sorted(self._methods)

    async def answer(self, text: str | bytes) -> str | None:
        """The answer to a message, single or batch; None if it wants none.

        At most MOST_ANSWER_BYTES, all answers of a batch together.
        """
        try:
            message: Json = parse_json(text.encode() if isinstance(text, str) else text)
        except ValueError:
            return _failure(None, RpcError(_PARSE_ERROR, "Parse error"))
        if not isinstance(message, list):
            return await self._answer_one(message)
        if not 0 < len(message) <= MOST_REQUESTS_PER_BATCH:
            text = f"a batch holds 1 to {MOST_REQUESTS_PER_BATCH} requests"
            return _failure(None, RpcError(_INVALID_REQUEST, "Invalid request", text))
        answers: list[str] = []
        left = MOST_ANSWER_BYTES
        for request in message:
            answer = await self._answer_one(request)
            if answer is not None:
                answers.append(answer)
                left -= len(answer) + 1
            if left < 0:
                return _failure(None, RpcError(_TOO_BIG_BATCH, "Batch response is too big", _LESS))
        return f"[{','.join(answers)}]" if answers else None

    async def _answer_one(self, request: Json) -> str | None:
        if not isinstance(request, dict):
            return _failure(None, RpcError(_INVALID_REQUEST, "Invalid request"))
        request_id = request.get("id")
        if not isinstance(request_id, str | int | None):
            return _failure(None, RpcError(_INVALID_REQUEST, "Invalid request"))
        try:
            result = await self._call(request.get("method"), request.get("params"))
        except RpcError as error:
            return _failure(request_id, error)
        except PoolError as error:
            return _failure(request_id, RpcError(error.code, error.message, error.data))
        except RuntimeTrap as error:
            text = f"Client error: Execution failed: {error}"
            return _failure(request_id, RpcError(_CLIENT_ERROR, text))
        except (UnknownBlock, StateDiscarded) as error:
            return _failure(request_id, RpcError(_CLIENT_ERROR, f"Client error: {error}"))
        if "id" not in request:
            return None
        answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
        return answer if len(answer) <= MOST_ANSWER_BYTES else _failure(request_id, too_big())

    async def _call(self, name: Json, params: Json) -> Json:
        if not isinstance(name, str):
            raise RpcError(_INVALID_REQUEST, "Invalid request")
        if name not in self._methods:
            raise RpcError(_UNKNOWN_METHOD, "Method not found")
        if not isinstance(params, list | None):
            raise invalid("parameters are a list, by position")
        try:
            bound = self._signatures[name].bind(*(params or ()))
        except TypeError as error:
            raise invalid(str(error)) from error
        return await self._methods[name](*bound.args)


def _failure(request_id: Json, error: RpcError) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error.to_json()})


def too_big() -> RpcError:
    return RpcError(_TOO_BIG, "Response is too big", _LESS)


def invalid(text: str) -> RpcError:
    return RpcError(_INVALID_PARAMS, "Invalid params", text)


def to_hex(data: bytes) -> str:
    return "0x" + data.hex()


def as_bytes(value: Json) -> bytes:
    """From `0x…`; the prefix may be missing, as the official SDK's `state_call` leaves it out."""
    if isinstance(value, str):
        try:
            return bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            pass
    raise invalid("expected hexadecimal bytes, 0x…")


def as_hash(value: Json) -> bytes:
    data = as_bytes(value)
    if len(data) != 32:
        raise invalid("expected a hash of 32 bytes")
    return data


def as_keys(value: Json, most: int) -> list[bytes]:
    """A list of up to `most` storage keys."""
    if not isinstance(value, list) or len(value) > most:
        raise invalid(f"expected a list of at most {most} storage keys")
    return [as_bytes(key) for key in value]


def as_text(value: Json) -> str:
    if not isinstance(value, str):
        raise invalid("expected text")
    return value


def as_uint(value: Json, most: int = 2**32 - 1) -> int:
    """From a number or `0x…`."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            value = int(value, 16)
        except ValueError:
            raise invalid("expected a number") from None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise invalid(f"expected a number from 0 to {most}")
    return value


def as_account(value: Json) -> bytes:
    """A 32-byte account from SS58 text of any prefix, or from `0x…`."""
    text = as_text(value)
    if text.startswith("0x"):
        return as_hash(text)
    try:
        decoded = base58.b58decode(text) if len(text) <= 64 else b""
    except ValueError:
        decoded = b""
    prefix_bytes = 2 if decoded and decoded[0] & 0x40 else 1
    body = decoded[:-2]
    if len(body) != prefix_bytes + 32 or _ss58_checksum(body) != decoded[-2:]:
        raise invalid("expected an account: SS58 or 0x…")
    return body[prefix_bytes:]


def _ss58_checksum(body: bytes) -> bytes:
    return blake2b(b"SS58PRE" + body).digest()[:2]
