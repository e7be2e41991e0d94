"""The calls that moesubnet makes, with the argument names of the chain's metadata.

Vectors become plain lists of int: the library takes neither tuples nor numpy's integers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from moesubnet.chain.rpc.extrinsics import Call
from moesubnet.chain.rpc.storage import PALLET
from moesubnet.chain.timelock import COMMIT_REVEAL_VERSION
from moesubnet.errors import ConfigError
from moesubnet.types import Coldkey, Hotkey, NetUid


def transfer(to: Coldkey | Hotkey, amount_rao: int) -> Call:
    return Call("Balances", "transfer_keep_alive", {"dest": to, "value": amount_rao})


def register(netuid: NetUid, hotkey: Hotkey, limit_price_rao: int) -> Call:
    args = {"netuid": netuid, "hotkey": hotkey, "limit_price": limit_price_rao}
    return Call(PALLET, "register_limit", args)


def add_stake(netuid: NetUid, hotkey: Hotkey, amount_rao: int) -> Call:
    args = {"hotkey": hotkey, "netuid": netuid, "amount_staked": amount_rao}
    return Call(PALLET, "add_stake", args)


def remove_stake(netuid: NetUid, hotkey: Hotkey, amount_rao: int) -> Call:
    args = {"hotkey": hotkey, "netuid": netuid, "amount_unstaked": amount_rao}
    return Call(PALLET, "remove_stake", args)


def serve_axon(netuid: NetUid, ip: str, port: int) -> Call:
    """Raises ConfigError unless `ip` is an address (names are not looked up)."""
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError as error:
        raise ConfigError(f"{ip!r} is not an IP address; the chain stores no host names") from error
    args = {
        "netuid": netuid,
        "version": 1,
        "ip": int(parsed),
        "port": port,
        "ip_type": parsed.version,
        "protocol": 0,
        "placeholder1": 0,
        "placeholder2": 0,
    }
    return Call(PALLET, "serve_axon", args)


def commit_model(netuid: NetUid, commitment: str, is_open: bool) -> Call:
    args = {"netuid": netuid, "commitment": "0x" + commitment, "is_open": is_open}
    return Call(PALLET, "commit_model", args)


def set_weights(
    netuid: NetUid, uids: Sequence[int], values: Sequence[int], version_key: int
) -> Call:
    args = {
        "netuid": netuid,
        "mecid": 0,
        "dests": [int(uid) for uid in uids],
        "weights": [int(value) for value in values],
        "version_key": version_key,
    }
    return Call(PALLET, "set_mechanism_weights", args)


def commit_weights(netuid: NetUid, commit_hash: bytes) -> Call:
    args = {"netuid": netuid, "commit_hash": "0x" + commit_hash.hex()}
    return Call(PALLET, "commit_weights", args)


def commit_timelocked(netuid: NetUid, commit: bytes, reveal_round: int) -> Call:
    args = {
        "netuid": netuid,
        "mecid": 0,
        "commit": "0x" + commit.hex(),
        "reveal_round": reveal_round,
        "commit_reveal_version": COMMIT_REVEAL_VERSION,
    }
    return Call(PALLET, "commit_timelocked_mechanism_weights", args)


def reveal_weights(
    netuid: NetUid,
    uids: Sequence[int],
    values: Sequence[int],
    salt: Sequence[int],
    version_key: int,
) -> Call:
    args = {
        "netuid": netuid,
        "uids": [int(uid) for uid in uids],
        "values": [int(value) for value in values],
        "salt": [int(word) for word in salt],
        "version_key": version_key,
    }
    return Call(PALLET, "reveal_weights", args)


def set_subnet_spec(netuid: NetUid, sha256: str, url: str) -> Call:
    args = {"netuid": netuid, "hash": "0x" + sha256.removeprefix("0x"), "url": _text(url)}
    return Call(PALLET, "set_subnet_spec", args)


def register_network(hotkey: Hotkey, netuid: NetUid, name: str, symbol: str) -> Call:
    """Buy a subnet and name it, at once or not at all.

    The call itself takes any price. A name is given to the number that is free now, so if somebody
    else buys first, which doubles the price, both fail and nothing is burned.
    """
    bought = Call(PALLET, "register_network", {"hotkey": hotkey})
    return batch(bought, set_subnet_name(netuid, name, symbol))


def set_subnet_name(netuid: NetUid, name: str, symbol: str) -> Call:
    args = {"netuid": netuid, "name": _text(name), "symbol": _text(symbol)}
    return Call(PALLET, "set_subnet_name", args)


def trim_subnet(netuid: NetUid, slots: int) -> Call:
    return Call(PALLET, "trim_subnet", {"netuid": netuid, "max_n": slots})


def set_hyperparams(netuid: NetUid, update: Mapping[str, int | bool | None]) -> Call:
    """`update` names every hyperparameter; None leaves it as it is."""
    return Call(PALLET, "set_hyperparams", {"netuid": netuid, "update": dict(update)})


def change_take(hotkey: Hotkey, take_u16: int, now_u16: int) -> Call:
    function = "increase_take" if take_u16 > now_u16 else "decrease_take"
    return Call(PALLET, function, {"hotkey": hotkey, "take": take_u16})


def batch(*calls: Call) -> Call:
    """All of them, or none if one fails."""
    inner = [
        {"call_module": c.module, "call_function": c.function, "call_args": dict(c.args)}
        for c in calls
    ]
    return Call("Utility", "batch_all", {"calls": inner})


def _text(text: str) -> str:
    """The library takes what begins with 0x for hexadecimal bytes."""
    return "0x" + text.encode().hex() if text.startswith("0x") else text
