"""Substrate's query methods: same names, arguments and answers as a node's. No transport in here.

Every public method of `Queries` is an RPC method of that name. The state of recent blocks is read
on the spot; whatever needs WASM, the disk or an old state goes to the chain's own thread.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice

from moesubnet import __version__
from moesubnet.chain.devchain.chain import View
from moesubnet.chain.devchain.code import CODE_KEY, RuntimeVersion
from moesubnet.chain.devchain.header import Block, Header
from moesubnet.chain.devchain.jsonrpc import (
    MOST_ANSWER_BYTES,
    Json,
    Method,
    as_account,
    as_bytes,
    as_hash,
    as_keys,
    as_text,
    as_uint,
    invalid,
    to_hex,
    too_big,
)
from moesubnet.chain.devchain.scale import Reader
from moesubnet.chain.devchain.service import DevChain

MOST_KEYS = 10_000
_MOST_KEYS_PER_PAGE = 1_000
_MOST_BLOCK_NUMBERS = 1_000
_ALIASES = {
    "account_nextIndex": "system_accountNextIndex",
    "chain_getHead": "chain_getBlockHash",
    "chain_getFinalisedHead": "chain_getFinalizedHead",
    "chain_getRuntimeVersion": "state_getRuntimeVersion",
    "state_callAt": "state_call",
    "state_getKeysPagedAt": "state_getKeysPaged",
    "state_getStorageAt": "state_getStorage",
    "state_getStorageHashAt": "state_getStorageHash",
    "state_getStorageSizeAt": "state_getStorageSize",
}
_DISPATCH_CLASSES = ("normal", "operational", "mandatory")


class Queries:
    def __init__(self, chain: DevChain) -> None:
        self._chain = chain
        self._metadata: tuple[bytes, str] = (b"", "")  # code, metadata: both change together

    def table(self) -> dict[str, Method]:
        """Every method, by name."""
        names = [name for name in vars(Queries) if "_" in name and not name.startswith("_")]
        return {
            **{name: getattr(self, name) for name in names},
            **{alias: getattr(self, name) for alias, name in _ALIASES.items()},
        }

    # blocks

    async def chain_getBlockHash(self, number: Json = None) -> Json:
        if isinstance(number, list):
            if len(number) > _MOST_BLOCK_NUMBERS:
                raise invalid(f"at most {_MOST_BLOCK_NUMBERS} numbers at once")
            return [await self._hash_at(one) for one in number]
        return await self._hash_at(number)

    async def chain_getFinalizedHead(self) -> Json:
        return to_hex(self._chain.head.block.hash)

    async def chain_getHeader(self, block_hash: Json = None) -> Json:
        block = await self._block(block_hash)
        return None if block is None else header_json(block.header)

    async def chain_getBlock(self, block_hash: Json = None) -> Json:
        block = await self._block(block_hash)
        if block is None:
            return None
        extrinsics: list[Json] = [to_hex(extrinsic) for extrinsic in block.extrinsics]
        body: Json = {"header": header_json(block.header), "extrinsics": extrinsics}
        return {"block": body, "justifications": None}

    # state

    async def state_getStorage(self, key: Json, at: Json = None) -> Json:
        view = await self._view(at)
        value = view.state.get(as_bytes(key))
        return None if value is None else to_hex(value)

    async def state_getStorageHash(self, key: Json, at: Json = None) -> Json:
        value = (await self._view(at)).state.get(as_bytes(key))
        return None if value is None else to_hex(blake2b(value, digest_size=32).digest())

    async def state_getStorageSize(self, key: Json, at: Json = None) -> Json:
        value = (await self._view(at)).state.get(as_bytes(key))
        return None if value is None else len(value)

    async def state_getKeysPaged(
        self, prefix: Json, count: Json, after: Json = None, at: Json = None
    ) -> Json:
        start = b"" if after is None else as_bytes(after)
        most = as_uint(count, _MOST_KEYS_PER_PAGE)
        state = (await self._view(at)).state
        below = state.items(b"" if prefix is None else as_bytes(prefix), start)
        keys = (key for key, _ in below if after is None or key != start)
        return [to_hex(key) for key in islice(keys, most)]

    async def state_queryStorageAt(self, keys: Json, at: Json = None) -> Json:
        view, wanted = await self._view(at), as_keys(keys, MOST_KEYS)
        check_size(view, wanted)
        return [change_set(view, wanted)]

    async def state_call(self, function: Json, data: Json, at: Json = None) -> Json:
        answer = await self._call(as_text(function), as_bytes(data), at)
        return to_hex(answer)

    async def state_getMetadata(self, at: Json = None) -> Json:
        view = await self._view(at)
        code = view.state.get(CODE_KEY) or b""
        if self._metadata[0] is not code:
            answer = await self._call("Metadata_metadata", b"", at)
            self._metadata = (code, to_hex(Reader(answer).vec()))
        return self._metadata[1]

    async def state_getRuntimeVersion(self, at: Json = None) -> Json:
        view = await self._view(at)
        if view.state.get(CODE_KEY) is self._chain.head.state.get(CODE_KEY):
            return version_json(self._chain.version)
        return version_json(RuntimeVersion.decode(await self._call("Core_version", b"", at)))

    # transactions

    async def author_submitExtrinsic(self, extrinsic: Json) -> Json:
        return to_hex(await self._chain.submit(as_bytes(extrinsic)))

    async def author_pendingExtrinsics(self) -> Json:
        return [to_hex(extrinsic) for extrinsic in self._chain.pool.pending()]

    async def payment_queryInfo(self, extrinsic: Json, at: Json = None) -> Json:
        encoded = as_bytes(extrinsic)
        data = encoded + len(encoded).to_bytes(4, "little")
        r = Reader(await self._call("TransactionPaymentApi_query_info", data, at))
        weight: Json = {"ref_time": r.compact(), "proof_size": r.compact()}
        kind = _DISPATCH_CLASSES[r.uint(1)]
        fee = int.from_bytes(r.rest(), "little")  # as wide as the runtime's balances
        return {"weight": weight, "class": kind, "partialFee": str(fee)}

    async def system_accountNextIndex(self, address: Json) -> Json:
        who = as_account(address)
        nonce = int.from_bytes(
            await self._call("AccountNonceApi_account_nonce", who, None), "little"
        )
        while self._chain.pool.provides(who + nonce.to_bytes(4, "little")):
            nonce += 1
        return nonce

    # the node

    async def system_name(self) -> Json:
        return "moesubnet embedded chain"

    async def system_version(self) -> Json:
        return __version__

    async def system_chain(self) -> Json:
        return f"moesubnet {self._chain.preset}"

    async def system_chainType(self) -> Json:
        return "Development"

    async def system_properties(self) -> Json:
        return {"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "τ"}

    async def system_health(self) -> Json:
        return {"peers": 0, "isSyncing": False, "shouldHavePeers": False}

    async def system_nodeRoles(self) -> Json:
        return ["Authority"]

    async def system_peers(self) -> Json:
        return []

    async def _hash_at(self, number: Json) -> Json:
        head = self._chain.head.block
        if number is None:
            return to_hex(head.hash)
        wanted = as_uint(number)
        if wanted > head.number:
            return None
        block = await self._chain.run(self._chain.chain.block_at, wanted)
        return None if block is None else to_hex(block.hash)

    async def _block(self, block_hash: Json) -> Block | None:
        if block_hash is None:
            return self._chain.head.block
        wanted = as_hash(block_hash)
        view = self._chain.chain.recent(wanted)
        return view.block if view else await self._chain.run(self._chain.chain.block, wanted)

    async def _view(self, at: Json) -> View:
        if at is None:
            return self._chain.head
        wanted = as_hash(at)
        chain = self._chain.chain
        view = chain.recent(wanted)
        return view if view else await self._chain.run(chain.view, wanted)

    async def _call(self, function: str, data: bytes, at: Json) -> bytes:
        view = await self._view(at)
        return await self._chain.run(self._chain.chain.call, view.block.hash, function, data)


def header_json(header: Header) -> Json:
    logs: list[Json] = [to_hex(item) for item in header.digest]
    return {
        "parentHash": to_hex(header.parent_hash),
        "number": hex(header.number),
        "stateRoot": to_hex(header.state_root),
        "extrinsicsRoot": to_hex(header.extrinsics_root),
        "digest": {"logs": logs},
    }


def version_json(version: RuntimeVersion) -> Json:
    return {
        "specName": version.spec_name,
        "implName": version.impl_name,
        "authoringVersion": version.authoring_version,
        "specVersion": version.spec_version,
        "implVersion": version.impl_version,
        "apis": [[to_hex(api), number] for api, number in version.apis],
        "transactionVersion": version.transaction_version,
        "systemVersion": version.system_version,
        "stateVersion": version.state_version,
    }


def change_set(view: View, keys: list[bytes]) -> Json:
    """The values of `keys` at a block, as storage queries and subscriptions give them."""
    changes: list[Json] = []
    for key in keys:
        value = view.state.get(key)
        changes.append([to_hex(key), None if value is None else to_hex(value)])
    return {"block": to_hex(view.block.hash), "changes": changes}


def check_size(view: View, keys: list[bytes]) -> None:
    """Whether the change set of `keys` fits into an answer: a short key may have a long value.

    Raises RpcError otherwise, before any of it is made.
    """
    if 2 * sum(len(key) + len(view.state.get(key) or b"") for key in keys) > MOST_ANSWER_BYTES:
        raise too_big()
