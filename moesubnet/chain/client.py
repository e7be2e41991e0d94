"""A typed client for a subnet's chain: what it says, and the calls that change it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from moesubnet.chain import calls, reads
from moesubnet.chain.hyperparams import (
    OwnerLimits,
    Value,
    read_hyperparams,
    read_owner_limits,
)
from moesubnet.chain.nouns import (
    Epoch,
    EpochRan,
    LastReveal,
    StakePosition,
    Votes,
    WeightCommit,
    WeightRow,
)
from moesubnet.chain.proposal import Proposal, propose
from moesubnet.chain.rpc.connection import ChainConnection, Wait
from moesubnet.chain.rpc.extrinsics import Call
from moesubnet.chain.rpc.link import Head, NoSuchBlock, RpcError
from moesubnet.chain.rpc.submission import Receipt
from moesubnet.chain.rpc.view import Event
from moesubnet.chain.subnets import Subnet, read_subnet, read_subnet_price, read_subnets
from moesubnet.chain.timelock import encrypted_commit
from moesubnet.chain.weights import weights_commit_hash
from moesubnet.types import BlockNumber, Coldkey, Hotkey, Metagraph, NetUid, Signer, Uid

__all__ = [
    "Call",
    "ChainClient",
    "Epoch",
    "EpochRan",
    "Event",
    "Head",
    "LastReveal",
    "Proposal",
    "Receipt",
    "StakePosition",
    "Subnet",
    "WeightCommit",
    "weights_commit_hash",
]


class ChainClient(ChainConnection):
    """One connection to a node. Open it with `connect`; it is an async context manager.

    Every method raises ChainUnavailable when no answer comes in time, and ChainError when the
    chain is not what it should be; calls raise CallRejected. See `ChainConnection` for heads,
    events and `submit`.
    """

    async def metagraph(self, netuid: NetUid, block_hash: str | None = None) -> Metagraph:
        """The subnet after a block, the best one by default. ChainError if there is none."""
        return await self._read(
            lambda view, head: reads.read_metagraph(view, head.number, netuid), block_hash
        )

    async def metagraph_at(self, netuid: NetUid, block: BlockNumber) -> Metagraph | None:
        """The subnet after an earlier block; None if the node has forgotten it."""
        try:
            block_hash = await self._run(lambda link: link.request("chain_getBlockHash", block))
            return None if block_hash is None else await self.metagraph(netuid, block_hash)
        except (RpcError, NoSuchBlock):
            return None

    async def epoch(self, netuid: NetUid) -> Epoch:
        """Where the subnet stands in its epochs at the head."""
        return await self._read(lambda view, head: reads.read_epoch(view, head.number, netuid))

    async def weights(self, netuid: NetUid) -> dict[Uid, WeightRow]:
        """The weights that each neuron gave, by its uid; neurons without any are absent."""
        return await self._read(lambda view, _: reads.read_rows(view, "Weights", netuid))

    async def votes(self, netuid: NetUid) -> Votes:
        """Who votes what, and the commits that wait. ChainError if there is no such subnet."""
        return await self._read(lambda view, head: reads.read_votes(view, head.number, netuid))

    async def bonds(self, netuid: NetUid) -> dict[Uid, WeightRow]:
        """The bonds that each validator holds, by its uid."""
        return await self._read(lambda view, _: reads.read_rows(view, "Bonds", netuid))

    async def last_reveal(self, netuid: NetUid, hotkey: Hotkey) -> LastReveal | None:
        """What the hotkey revealed last, if it ever did."""
        return await self._read(lambda view, _: reads.read_last_reveal(view, netuid, hotkey))

    async def last_vote_block(self, netuid: NetUid, hotkey: Hotkey) -> BlockNumber | None:
        """Block of the hotkey's last plain vote or commit; None if it has no slot."""
        return await self._read(lambda view, _: reads.read_last_vote(view, netuid, hotkey))

    async def timelocked_commits(self, netuid: NetUid, epoch: int) -> frozenset[Hotkey]:
        """Whose encrypted commits of an epoch wait for the chain to open them."""
        return await self._read(lambda view, _: reads.read_timelocked_commits(view, netuid, epoch))

    async def weight_commits(self, netuid: NetUid, hotkey: Hotkey) -> tuple[WeightCommit, ...]:
        """The hotkey's commits that wait for their reveal, oldest first."""
        return await self._read(lambda view, _: reads.read_weight_commits(view, netuid, hotkey))

    async def epoch_events(self, block_hash: str) -> list[EpochRan]:
        """The epochs that ran in a block."""
        return list(reads.epochs_ran(await self.events(block_hash)))

    async def root_key(self) -> Coldkey | None:
        """The account that may do everything on this chain, if there is one."""
        return await self._read(lambda view, _: reads.read_root_key(view))

    async def timestamp_s(self) -> float:
        """Unix time of the head, in seconds."""
        return await self._read(lambda view, _: view.get(("Timestamp.Now",))[0] / 1_000)

    async def epoch_begun_s(self, netuid: NetUid, epoch: int) -> float | None:
        """Unix time of the first block of an epoch; None where it has not begun, or where it
        cannot be told: the tempo has changed since, or the node has forgotten that block."""
        now = await self.epoch(netuid)
        block = now.last_epoch_block - (now.epoch_index - epoch) * now.tempo_blocks
        if epoch > now.epoch_index or block <= 0:
            return None
        try:
            block_hash = await self._run(lambda link: link.request("chain_getBlockHash", block))
            return await self._read(
                lambda view, head: reads.read_epoch_begun_s(view, head.number, netuid, epoch),
                block_hash,
            )
        except (RpcError, NoSuchBlock):
            return None

    async def burn_price_rao(self, netuid: NetUid) -> int:
        """What registering costs now."""
        return await self._read(lambda view, _: int(view.get(("Burn", netuid))[0]))

    async def balance_rao(self, account: Coldkey | Hotkey) -> int:
        """Free balance; 0 for an account that the chain does not know."""
        return await self._read(lambda view, _: reads.read_balance(view, account))

    async def stake_rao(self, netuid: NetUid, hotkey: Hotkey, coldkey: Coldkey) -> int:
        """One coldkey's stake on one hotkey."""
        return await self._read(lambda view, _: reads.read_stake(view, netuid, hotkey, coldkey))

    async def stakes(self, coldkey: Coldkey) -> tuple[StakePosition, ...]:
        """Everything that a coldkey has staked."""
        return await self._read(lambda view, _: reads.read_stakes(view, coldkey))

    async def subnets(self) -> tuple[Subnet, ...]:
        """Every subnet, by netuid."""
        return await self._read(lambda view, _: read_subnets(view))

    async def subnet(self, netuid: NetUid) -> Subnet:
        """One subnet without its neurons. ChainError if there is none."""
        return await self._read(lambda view, _: read_subnet(view, netuid))

    async def subnet_price_rao(self) -> int:
        """What the next subnet costs now."""
        return await self._read(lambda view, _: read_subnet_price(view))

    async def hyperparams(self, netuid: NetUid) -> dict[str, Value]:
        """Every hyperparameter of a subnet by name. ChainError if there is no such subnet."""
        return await self._read(lambda view, _: read_hyperparams(view, netuid))

    async def owner_limits(self, netuid: NetUid) -> OwnerLimits:
        """How often and how far a subnet's owner may change hyperparameters."""
        return await self._read(lambda view, _: read_owner_limits(view, netuid))

    # --- calls ---------------------------------------------------------------------------------

    async def propose(self, call: Call, signer: Coldkey) -> Proposal:
        """What a call would cost and come to, were it signed; sends nothing."""
        return await self._run(lambda link: propose(link, call, signer))

    async def transfer(
        self,
        to: Coldkey | Hotkey,
        amount_rao: int,
        signer: Signer,
        *,
        wait: Wait = "inclusion",
    ) -> Receipt:
        """Move tokens; the sender's account must stay alive."""
        return await self.submit(calls.transfer(to, amount_rao), signer, wait=wait)

    async def register(
        self,
        netuid: NetUid,
        hotkey: Hotkey,
        coldkey: Signer,
        limit_price_rao: int | None = None,
        *,
        wait: Wait = "inclusion",
    ) -> Receipt:
        """Buy a slot for the hotkey, for at most the limit: by default 10 % above the price now."""
        if limit_price_rao is None:
            limit_price_rao = await self.burn_price_rao(netuid) * 11 // 10
        call = calls.register(netuid, hotkey, limit_price_rao)
        return await self.submit(call, coldkey, wait=wait)

    async def add_stake(
        self,
        netuid: NetUid,
        hotkey: Hotkey,
        amount_rao: int,
        coldkey: Signer,
        *,
        wait: Wait = "inclusion",
    ) -> Receipt:
        """Stake tokens of the coldkey on a hotkey."""
        return await self.submit(calls.add_stake(netuid, hotkey, amount_rao), coldkey, wait=wait)

    async def remove_stake(
        self,
        netuid: NetUid,
        hotkey: Hotkey,
        amount_rao: int,
        coldkey: Signer,
        *,
        wait: Wait = "inclusion",
    ) -> Receipt:
        """Take stake back."""
        call = calls.remove_stake(netuid, hotkey, amount_rao)
        return await self.submit(call, coldkey, wait=wait)

    async def serve_axon(self, netuid: NetUid, ip: str, port: int, hotkey: Signer) -> Receipt:
        """Publish where the hotkey listens. Free, as are all calls that a hotkey signs."""
        return await self.submit(calls.serve_axon(netuid, ip, port), hotkey)

    async def commit_model(
        self, netuid: NetUid, commitment: str, is_open: bool, hotkey: Signer
    ) -> Receipt:
        """Say which model the hotkey serves: SHA-256 (hex) of its weights, and whether everybody
        can fetch them. Free. Only where `Metagraph.has_models`."""
        return await self.submit(calls.commit_model(netuid, commitment, is_open), hotkey)

    async def set_weights(
        self,
        netuid: NetUid,
        uids: Sequence[int],
        values: Sequence[int],
        version_key: int,
        hotkey: Signer,
    ) -> Receipt:
        """Vote in the open: u16 `values` for `uids`, on a subnet without commit and reveal."""
        return await self.submit(calls.set_weights(netuid, uids, values, version_key), hotkey)

    async def commit_weights(
        self,
        netuid: NetUid,
        uids: Sequence[int],
        values: Sequence[int],
        salt: Sequence[int],
        version_key: int,
        hotkey: Signer,
    ) -> Receipt:
        """Promise weights by their hash; keep all arguments for `reveal_weights`."""
        promise = weights_commit_hash(hotkey.public_key, netuid, uids, values, salt, version_key)
        return await self.submit(calls.commit_weights(netuid, promise), hotkey)

    async def commit_timelocked(
        self,
        netuid: NetUid,
        uids: Sequence[int],
        values: Sequence[int],
        version_key: int,
        hotkey: Signer,
    ) -> Receipt:
        """Vote encrypted to drand, on chains that open such votes. ConfigError without the extra
        `subtensor`."""
        epoch = await self.epoch(netuid)
        commit, reveal_round = await asyncio.to_thread(
            encrypted_commit,
            epoch,
            uids,
            values,
            version_key,
            self.block_seconds,
            hotkey.public_key,
        )
        return await self.submit(calls.commit_timelocked(netuid, commit, reveal_round), hotkey)

    async def reveal_weights(
        self,
        netuid: NetUid,
        uids: Sequence[int],
        values: Sequence[int],
        salt: Sequence[int],
        version_key: int,
        hotkey: Signer,
    ) -> Receipt:
        """Reveal promised weights, in the epoch that the commit names."""
        call = calls.reveal_weights(netuid, uids, values, salt, version_key)
        return await self.submit(call, hotkey)

    async def set_subnet_spec(
        self, netuid: NetUid, sha256: str, url: str, owner: Signer
    ) -> Receipt:
        """Publish the hash (hex) of the subnet's spec.json, and where it can be fetched."""
        return await self.submit(calls.set_subnet_spec(netuid, sha256, url), owner)

    async def set_hyperparams(
        self, netuid: NetUid, changes: Mapping[str, Value], owner: Signer
    ) -> Receipt:
        """Change those named, in one call; a new tempo holds from the next epoch on."""
        update = dict.fromkeys(await self.hyperparams(netuid)) | dict(changes)
        return await self.submit(calls.set_hyperparams(netuid, update), owner)
