"""A router's node before experts that tests play."""

from __future__ import annotations

import dataclasses
from collections import Counter

from moesubnet.errors import PeerUnavailable
from moesubnet.router.node import build_node
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.strangers import open_http_session


@dataclasses.dataclass(eq=False)
class Misbehaving:
    node: RouterNode
    client: ExpertClient

    async def forward(self, step, *, timeout_s):
        if self.client.hotkey in self.node.loses:
            raise PeerUnavailable("so it says")
        status, body, proof = await self.client.forward(step, timeout_s=timeout_s)
        if "body" in self.node.forges:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if "status" in self.node.forges:
            status = 409 if status == 200 else 200
        return status, body, proof


class RouterNode:
    """A router's node that asks real experts, and may misbehave."""

    def __init__(self, signer, spec, experts):
        self.signer, self.hotkey = signer, Hotkey(signer.ss58_address)
        self.spec, self.experts = spec, experts
        self.chain = None
        self.loses, self.forges = set(), ()  # answers of these experts; what it brings instead
        self.asked = Counter()
        self.usage = {}

    async def start(self):
        self.http = open_http_session()
        self.clients = {
            expert.hotkey: ExpertClient(
                self.http, self.signer, expert.hotkey, expert.axon, vocab_size=300,
                allow_private=True,
            )
            for expert in self.experts
        }  # fmt: skip

        app = build_node(self.signer, self, lambda: self.spec, self._client, self.usage.get)
        self.server = await serve(app, "127.0.0.1", 0, grace_s=0.1)
        self.axon = Axon("127.0.0.1", self.server.port)
        return self

    def _client(self, hotkey):
        self.asked[hotkey] += 1
        client = self.clients.get(hotkey)
        return Misbehaving(self, client) if self.forges or hotkey in self.loses else client

    def current(self):
        return self.chain

    async def close(self):
        await self.server.close()
        await self.http.close()
