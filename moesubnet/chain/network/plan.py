"""A network of validators: folders, ports, one chain spec, command lines. Starts nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from substrateinterface.utils.ss58 import ss58_encode

from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.executor import Executor
from moesubnet.chain.devchain.genesis import preset_config
from moesubnet.chain.network.identity import NODE_KEY_FILE, Identity, public_key
from moesubnet.errors import ConfigError
from moesubnet.host.paths import cache_dir, write_whole
from moesubnet.host.supervisor import Process

CHAIN_ID = "moesubnet_network"
SPEC_FILE = "chain-spec.json"
PLAN_FILE = "network.json"
HOST = "127.0.0.1"
SS58_PREFIX = 42


@dataclass(frozen=True, slots=True)
class Node:
    """One validator. Its folder holds everything that it needs but the chain spec."""

    name: str
    peer_id: str
    p2p_port: int
    rpc_port: int

    @property
    def rpc_url(self) -> str:
        return f"ws://{HOST}:{self.rpc_port}"

    @property
    def p2p_address(self) -> str:
        return f"/ip4/{HOST}/tcp/{self.p2p_port}/p2p/{self.peer_id}"


@dataclass(frozen=True, slots=True)
class Network:
    """A network in folder `root`, as `network.json` remembers it."""

    root: Path
    preset: str
    nodes: tuple[Node, ...]

    @property
    def spec_path(self) -> Path:
        return self.root / SPEC_FILE

    def base_path(self, node: Node) -> Path:
        return self.root / node.name

    def process(self, binary: Path, node: Node) -> Process:
        """The node's command line: loopback only, archive (clients ask for old blocks)."""
        base_path = self.base_path(node)
        others = [other.p2p_address for other in self.nodes if other != node]
        arguments = (
            *("--chain", str(self.spec_path), "--base-path", str(base_path), "--name", node.name),
            *("--validator", "--node-key-file", str(base_path / NODE_KEY_FILE)),
            *("--listen-addr", f"/ip4/{HOST}/tcp/{node.p2p_port}"),
            *("--rpc-port", str(node.rpc_port), "--rpc-max-connections", "500"),
            *("--state-pruning", "archive", "--blocks-pruning", "archive"),
            *("--no-telemetry", "--no-prometheus", "--no-mdns"),
            *(("--bootnodes", *others) if others else ()),
        )
        return Process(
            node.name, (str(binary), *arguments), self.root / "logs" / f"{node.name}.log"
        )

    def save(self) -> None:
        row = {"preset": self.preset, "nodes": [asdict(node) for node in self.nodes]}
        write_whole(self.root / PLAN_FILE, json.dumps(row, indent=1) + "\n")


def load_network(root: Path) -> Network | None:
    """The network that stands in a folder, or None."""
    try:
        row = json.loads((root / PLAN_FILE).read_text())
    except FileNotFoundError:
        return None
    return Network(root, row["preset"], tuple(Node(**node) for node in row["nodes"]))


def make_network(
    root: Path, preset: str, p2p_ports: Sequence[int], rpc_ports: Sequence[int]
) -> Network:
    """New keys for as many validators as there are ports, their files, and the chain spec."""
    identities = [Identity.new() for _ in p2p_ports]
    nodes = tuple(
        Node(f"validator-{index}", identity.peer_id, p2p_port, rpc_port)
        for index, (identity, p2p_port, rpc_port) in enumerate(
            zip(identities, p2p_ports, rpc_ports, strict=True)
        )
    )
    network = Network(root, preset, nodes)
    for node, identity in zip(nodes, identities, strict=True):
        identity.save(network.base_path(node), CHAIN_ID)
    spec = chain_spec(preset, identities)
    network.spec_path.write_text(json.dumps(spec, indent=1) + "\n")
    network.save()  # last: what it names is complete
    return network


def chain_spec(preset: str, identities: Sequence[Identity] = ()) -> dict[str, Any]:
    """A Substrate chain spec: the preset's genesis, with these validators if there are any."""
    code = runtime_wasm()
    config = preset_config(Executor(), code, preset)
    if identities:
        config["aura"] = {"authorities": [_ss58(who.aura) for who in identities]}
        config["grandpa"] = {"authorities": [[_ss58(who.grandpa), 1] for who in identities]}
    return {
        "name": f"moesubnet {preset} network",
        "id": CHAIN_ID,
        "chainType": "Local",
        "bootNodes": [],
        "telemetryEndpoints": None,
        "protocolId": "moesubnet",
        "properties": {"tokenSymbol": "TAO", "tokenDecimals": 9, "ss58Format": SS58_PREFIX},
        "codeSubstitutes": {},
        "genesis": {"runtimeGenesis": {"code": f"0x{code.hex()}", "config": config}},
    }


def find_binary(given: Path | None) -> Path:
    """The node's binary: as given, or where `scripts/build-node` puts it. ConfigError if none."""
    binary = given or cache_dir("bin", "moesubnet-node")
    if not os.access(binary, os.X_OK):
        raise ConfigError(
            f"there is no node at {binary}: build it with scripts/build-node (needs Rust; long the "
            "first time), or name one with --node"
        )
    return binary


def _ss58(seed: bytes) -> str:
    return str(ss58_encode(public_key(seed), SS58_PREFIX))
