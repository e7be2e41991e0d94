"""Keys, chain spec and command lines of a network, without starting anything."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moesubnet.chain.network.identity import Identity, public_key
from moesubnet.chain.network.plan import (
    chain_spec,
    find_binary,
    load_network,
    make_network,
)
from moesubnet.cli import build_app
from moesubnet.errors import ConfigError


def test_a_peer_id_is_libp2ps() -> None:
    # The network key 0x…01 and its peer id stand in Substrate's own documentation.
    identity = Identity(bytes(32), bytes(32), (1).to_bytes(32, "big"))
    assert identity.peer_id == "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def test_keys_are_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    identity = Identity.new()
    identity.save(tmp_path, "some_chain")
    keystore = tmp_path / "chains" / "some_chain" / "keystore"
    files = {path.name: path for path in keystore.iterdir()}
    assert set(files) == {
        "61757261" + public_key(identity.aura).hex(),
        "6772616e" + public_key(identity.grandpa).hex(),
    }
    for path in (*files.values(), tmp_path / "node-key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    aura = json.loads(files["61757261" + public_key(identity.aura).hex()].read_text())
    assert bytes.fromhex(aura.removeprefix("0x")) == identity.aura


def test_the_spec_has_these_validators_and_the_packages_runtime() -> None:
    identities = [Identity.new() for _ in range(3)]
    spec = chain_spec("development", identities)
    genesis = spec["genesis"]["runtimeGenesis"]
    assert len(set(genesis["config"]["aura"]["authorities"])) == 3
    assert [weight for _, weight in genesis["config"]["grandpa"]["authorities"]] == [1, 1, 1]
    assert genesis["config"]["clock"]["slotDurationMs"] == 1_000
    assert len(genesis["code"]) > 500_000
    assert json.dumps(spec).count(identities[0].aura.hex()) == 0  # public keys only


def test_a_network_is_found_again_with_its_keys(tmp_path: Path) -> None:
    made = make_network(tmp_path, "development", [30_001, 30_002], [9_001, 9_002])
    assert load_network(tmp_path) == made
    process = made.process(Path("/bin/node"), made.nodes[0])
    boot = process.argv[process.argv.index("--bootnodes") + 1]
    assert boot == f"/ip4/127.0.0.1/tcp/30002/p2p/{made.nodes[1].peer_id}"
    assert "--rpc-external" not in process.argv


def test_a_network_of_one_has_nobody_to_meet(tmp_path: Path) -> None:
    made = make_network(tmp_path, "development", [30_001], [9_001])
    assert "--bootnodes" not in made.process(Path("/bin/node"), made.nodes[0]).argv


def test_another_shape_of_network_in_the_same_place_is_refused(tmp_path: Path) -> None:
    def prepare(validators: int, *more: str) -> object:
        where = ("chain", "network", "--prepare-only", "--base-path", str(tmp_path))
        arguments = [*where, "--rpc-port", "0", "--validators", str(validators), *more]
        return CliRunner().invoke(build_app(), arguments, catch_exceptions=False)

    prepare(2)
    first = load_network(tmp_path)
    with pytest.raises(ConfigError, match=r"network of 2 validators.*--fresh"):
        prepare(3)
    assert load_network(tmp_path) == first
    prepare(3, "--fresh")
    second = load_network(tmp_path)
    assert second is not None
    assert len(second.nodes) == 3
    assert second.nodes[0].peer_id != first.nodes[0].peer_id  # type: ignore[union-attr]


def test_a_missing_node_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scripts/build-node"):
        find_binary(tmp_path / "nowhere")
