"""What one WebSocket client has subscribed to.

A subscription's first notification must follow the answer that names it, so what is pushed before
is held back. Blocks are final at once: all kinds of heads are the same head.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable

from moesubnet.chain.devchain.chain import NewHead
from moesubnet.chain.devchain.code import CODE_KEY
from moesubnet.chain.devchain.jsonrpc import (
    Json,
    Method,
    Methods,
    RpcError,
    as_bytes,
    as_keys,
    invalid,
)
from moesubnet.chain.devchain.pool import Status
from moesubnet.chain.devchain.rpc import Queries, change_set, check_size, header_json, version_json
from moesubnet.chain.devchain.service import DevChain

MOST_SUBSCRIPTIONS = 256
_MOST_WATCHED_KEYS, _MOST_KEY_BYTES = 4_096, 1_024  # of a connection
# polkadot.js drops "inBlock" if "finalized" comes while it still fetches that block's events.
_FINALITY_DELAY_S = 0.2
# Subscribing method to the method of its notifications.
_HEADS = {
    "chain_subscribeNewHeads": "chain_newHead",
    "chain_subscribeNewHead": "chain_newHead",
    "chain_subscribeAllHeads": "chain_allHead",
    "chain_subscribeFinalizedHeads": "chain_finalizedHead",
    "chain_subscribeFinalisedHeads": "chain_finalizedHead",
}
_UNSUBSCRIBE = (
    "author_unwatchExtrinsic",
    "chain_unsubscribeAllHeads",
    "chain_unsubscribeFinalisedHeads",
    "chain_unsubscribeFinalizedHeads",
    "chain_unsubscribeNewHead",
    "chain_unsubscribeNewHeads",
    "chain_unsubscribeRuntimeVersion",
    "state_unsubscribeRuntimeVersion",
    "state_unsubscribeStorage",
)


class _Subscription:
    def __init__(self, notification: str, send: Callable[[str], None]) -> None:
        self.id = secrets.token_hex(8)
        self.watched_keys = 0
        self._notification = notification
        self._send = send
        self._held: list[str] | None = []
        self.stop: Callable[[], None] = lambda: None

    def push(self, result: Json) -> None:
        params: Json = {"subscription": self.id, "result": result}
        message = json.dumps({"jsonrpc": "2.0", "method": self._notification, "params": params})
        if self._held is None:
            self._send(message)
        else:
            self._held.append(message)

    def release(self) -> None:
        """Send what was held back, and hold nothing from now on."""
        held, self._held = self._held or (), None
        for message in held:
            self._send(message)


class Session:
    """One client's connection: answers its messages and pushes to it through `send`."""

    def __init__(self, chain: DevChain, queries: Queries, send: Callable[[str], None]) -> None:
        self._chain = chain
        self._send = send
        self._open: dict[str, _Subscription] = {}
        self._new: list[_Subscription] = []
        self._methods = Methods(all_methods(queries, self))

    async def handle(self, text: str | bytes) -> None:
        answer = await self._methods.answer(text)
        if answer is not None:
            self._send(answer)
        while self._new:
            self._new.pop(0).release()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].stop()

    def table(self) -> dict[str, Method]:
        """Subscribing and unsubscribing methods, by name."""
        return {
            **{name: self._heads(pushed) for name, pushed in _HEADS.items()},
            "author_submitAndWatchExtrinsic": self._watch_extrinsic,
            "state_subscribeStorage": self._watch_storage,
            "state_subscribeRuntimeVersion": self._watch_version,
            "chain_subscribeRuntimeVersion": self._watch_version,
            **dict.fromkeys(_UNSUBSCRIBE, self._unsubscribe),
        }

    def _heads(self, notification: str) -> Method:
        async def subscribe() -> Json:
            subscription = self._subscribe(notification)
            subscription.push(header_json(self._chain.head.block.header))
            subscription.stop = self._chain.listen(
                lambda new: subscription.push(header_json(new.view.block.header))
            )
            return subscription.id

        return subscribe

    async def _watch_storage(self, keys: Json) -> Json:
        watched = list(dict.fromkeys(as_keys(keys, _MOST_WATCHED_KEYS)))
        if any(len(key) > _MOST_KEY_BYTES for key in watched):
            raise invalid(f"a watched key has at most {_MOST_KEY_BYTES} bytes")
        already = sum(subscription.watched_keys for subscription in self._open.values())
        if already + len(watched) > _MOST_WATCHED_KEYS:
            raise invalid(f"a connection watches at most {_MOST_WATCHED_KEYS} keys")
        check_size(self._chain.head, watched)
        subscription = self._subscribe("state_storage")
        subscription.watched_keys = len(watched)
        subscription.push(change_set(self._chain.head, watched))

        def on_head(new: NewHead) -> None:
            changed = [key for key in watched if key in new.changes]
            if changed:
                subscription.push(change_set(new.view, changed))

        subscription.stop = self._chain.listen(on_head)
        return subscription.id

    async def _watch_version(self) -> Json:
        subscription = self._subscribe("state_runtimeVersion")
        subscription.push(version_json(self._chain.version))

        def on_head(new: NewHead) -> None:
            if CODE_KEY in new.changes:
                subscription.push(version_json(self._chain.version))

        subscription.stop = self._chain.listen(on_head)
        return subscription.id

    async def _watch_extrinsic(self, extrinsic: Json) -> Json:
        encoded = as_bytes(extrinsic)
        subscription = self._subscribe("author_extrinsicUpdate")

        def push(status: Status) -> None:
            if subscription.id not in self._open:
                return
            subscription.push(status if isinstance(status, str) else {**status})
            if status == "invalid" or (isinstance(status, dict) and "inBlock" not in status):
                self._open.pop(subscription.id, None)  # nothing follows these

        def on_status(status: Status) -> None:
            if isinstance(status, dict) and "finalized" in status:
                asyncio.get_running_loop().call_later(_FINALITY_DELAY_S, push, status)
            else:
                push(status)

        try:
            tx_hash = await self._chain.submit(encoded, on_status)
        except BaseException:
            self._open.pop(subscription.id, None)
            self._new.remove(subscription)
            raise
        subscription.stop = lambda: self._chain.pool.unwatch(tx_hash, on_status)
        return subscription.id

    async def _unsubscribe(self, subscription_id: Json) -> Json:
        subscription = self._open.pop(str(subscription_id), None)
        if subscription is not None:
            subscription.stop()
        return subscription is not None

    def _subscribe(self, notification: str) -> _Subscription:
        if len(self._open) >= MOST_SUBSCRIPTIONS:
            raise RpcError(-32006, "Too many subscriptions on the connection")
        subscription = _Subscription(notification, self._send)
        self._open[subscription.id] = subscription
        self._new.append(subscription)
        return subscription


def all_methods(queries: Queries, session: Session | None) -> dict[str, Method]:
    """Every method a client can call; without a session, those that need none."""
    methods = queries.table() | (session.table() if session else {})

    async def rpc_methods() -> Json:
        return {"methods": list[Json](sorted([*methods, "rpc_methods"]))}

    return {**methods, "rpc_methods": rpc_methods}
