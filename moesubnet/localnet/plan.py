"""Who runs in a local network: folders, ports, keys and command lines. Pure; starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moesubnet.host.supervisor import Process
from moesubnet.localnet.kinds import Kind
from moesubnet.units import RAO_PER_TOKEN

NETUID = 1
TEMPO_BLOCKS = 30  # of the development preset
WALKS = 16  # an epoch and validator: with 32 they took more than one of two cores, all the time
HOST = "127.0.0.1"
OWNER = "//Alice"  # sudo and subnet owner of the development preset
VALIDATOR_STAKE_RAO = 1_000 * RAO_PER_TOKEN
CALLER_STAKE_RAO = 1 * RAO_PER_TOKEN
VALIDATOR_NODES = 4  # of the chain, with --chain node
CHAIN_FOLDERS = {"embedded": "chain", "node": "chain-node"}
MOESUBNET = (sys.executable, "-m", "moesubnet")


@dataclass(frozen=True, slots=True)
class Member:
    """A registered neuron: its coldkey's URI, the stake it needs and the tokens it starts with.

    key: what its hotkey is called below the coldkey.
    """

    name: str
    coldkey: str
    stake_rao: int = 0
    grant_rao: int = 100 * RAO_PER_TOKEN  # for the registration and fees
    key: str = "hotkey"

    @property
    def hotkey(self) -> str:
        return f"{self.coldkey}//{self.key}"


@dataclass(frozen=True)
class Plan:
    """A local network in folder `root`."""

    root: Path
    kind: Kind
    chain_kind: str = "embedded"  # or "node": four real nodes
    chain_port: int = 9944
    router_port: int = 8080
    first_port: int = 8100  # axons of miners, then validators
    validators: int = 2
    tempo_blocks: int = TEMPO_BLOCKS
    members: tuple[Member, ...] = field(init=False)

    def __post_init__(self) -> None:
        miners = [Member(f"miner-{name}", f"//miner-{name}") for name in self.expert_names]
        judges = [
            Member(
                f"validator-{index}",
                f"//validator-{index}",
                stake_rao=VALIDATOR_STAKE_RAO,
                grant_rao=VALIDATOR_STAKE_RAO + 100 * RAO_PER_TOKEN,
            )
            for index in range(self.validators)
        ]
        # Under a validator's coldkey, so that what users got counts there (docs/incentive.md).
        router = Member("router", judges[0].coldkey, CALLER_STAKE_RAO, key="router")
        distiller = Member("distiller", "//distiller", CALLER_STAKE_RAO)
        object.__setattr__(self, "members", (*miners, *judges, router, distiller))

    @property
    def expert_names(self) -> Sequence[str]:
        return self.kind.experts

    @property
    def chain_url(self) -> str:
        return f"ws://{HOST}:{self.chain_port}"

    @property
    def router_url(self) -> str:
        return f"http://{HOST}:{self.router_port}/v1"

    @property
    def spec_dir(self) -> Path:
        return self.root / "spec"

    @property
    def student_dir(self) -> Path:
        return self.root / "student"

    def expert_dir(self, name: str) -> Path:
        return self.root / "experts" / name

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def ports(self) -> dict[str, int]:
        """Every port that this network listens on, by process name."""
        axons = [m.name for m in self.members if m.name.startswith(("miner-", "validator-"))]
        nodes = range(1, VALIDATOR_NODES) if self.chain_kind == "node" else ()
        return {
            "chain": self.chain_port,
            **{f"chain node {index}": self.chain_port + index for index in nodes},
            **{name: self.first_port + index for index, name in enumerate(axons)},
            "router's node": self.first_port + len(axons),
            "router": self.router_port,
        }

    def _process(self, name: str, *arguments: str, niceness: int = 0) -> Process:
        return Process(
            name=name,
            argv=(*MOESUBNET, *arguments),
            log=self.root / "logs" / f"{name}.log",
            niceness=niceness,
        )

    def chain(self) -> Process:
        base_path = str(self.root / CHAIN_FOLDERS[self.chain_kind])
        if self.chain_kind == "node":
            return self._process(
                "chain", "chain", "network",
                "--base-path", base_path,
                "--validators", str(VALIDATOR_NODES),
                "--rpc-port", str(self.chain_port),
            )  # fmt: skip
        return self._process(
            "chain", "chain", "dev",
            "--base-path", base_path,
            "--port", str(self.chain_port),
        )  # fmt: skip

    def miner(self, expert: str) -> Process:
        member = self.member(f"miner-{expert}")
        return self._process(
            member.name, "miner", "run",
            *self.kind.served(expert, self.expert_dir(expert)),
            "--spec", str(self.spec_dir),
            "--hotkey", member.hotkey,
            "--chain", self.chain_url,
            "--netuid", str(NETUID),
            "--host", HOST,
            "--port", str(self.ports()[member.name]),
            niceness=2,
        )  # fmt: skip

    def validator(self, index: int) -> Process:
        member = self.member(f"validator-{index}")
        return self._process(
            member.name, "validator", "run",
            "--hotkey", member.hotkey,
            "--spec", str(self.spec_dir),
            "--text", str(self.root / "corpora" / "validators" / f"{index}.jsonl"),
            "--state-dir", str(self.root / "validators" / str(index)),
            "--chain", self.chain_url,
            "--netuid", str(NETUID),
            "--host", HOST,
            "--port", str(self.ports()[member.name]),
            "--walks", str(WALKS),
            "--allow-private",
            niceness=2,
        )  # fmt: skip

    def distiller(self, test_dir: Path) -> Process:
        return self._process(
            "distiller", "distill", "run",
            "--hotkey", self.member("distiller").hotkey,
            "--spec", str(self.spec_dir),
            "--out", str(self.student_dir),
            "--test", str(test_dir),
            *self.kind.distilling,
            "--chain", self.chain_url,
            "--netuid", str(NETUID),
            "--allow-private",
            "--json",
        )  # fmt: skip

    def router(self) -> Process:
        return self._process(
            "router", "router", "run",
            "--hotkey", self.member("router").hotkey,
            "--spec", str(self.spec_dir),
            "--state-dir", str(self.root / "router"),
            "--student", str(self.student_dir),
            "--chain", self.chain_url,
            "--netuid", str(NETUID),
            "--host", HOST,
            "--port", str(self.router_port),
            "--node-host", HOST,
            "--node-port", str(self.ports()["router's node"]),
            "--deadline-s", "10",
            "--allow-private",
        )  # fmt: skip
