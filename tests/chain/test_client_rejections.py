"""A refusal has upstream's name, and says what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from moesubnet.chain.devchain.scale import Reader
from moesubnet.chain.devchain.validity import read_error
from moesubnet.chain.rpc.advice import ADVICE
from moesubnet.chain.rpc.link import RpcError
from moesubnet.chain.rpc.rejections import dispatch_error, dispatch_failure, pool_rejection
from moesubnet.chain.rpc.view import Event

if TYPE_CHECKING:
    from conftest import LiveChain

# Grandpa's calls need a quorum of authorities: no command of ours makes them.
PALLETS = {"System", "Balances", "Sudo", "SubtensorModule", "Utility"}
UPSTREAM_ONLY = {  # codes of upstream's pool that this chain never gives
    "InsufficientLiquidity",
    "InvalidRevealRound",
    "RateLimitExceeded",
    "StakeAmountTooLow",
    "TransferDisallowed",
}
# What no metadata lists: the client's own word, and the pool's.
POOL = {
    "AlreadyImported",
    "BadRequest",
    "Banned",
    "Expired",
    "NoTags",
    "PoolFull",
    "PriorityTooLow",
}
UNREACHABLE = {
    "Other",
    "Corruption",
    "RootNotAllowed",
    "Trie",
    "Transactional",
    "Unavailable",
}


async def metadata_of(live: LiveChain) -> Any:
    return await live.client._read(lambda view, _: view.link.interface.metadata)


def variants(metadata: Any, *path: str) -> list[str]:
    (kind,) = (
        entry["type"]["def"]["variant"]
        for entry in metadata.portable_registry["types"].value
        if entry["type"]["path"] == list(path)
    )
    return [variant["name"] for variant in kind["variants"]]


async def test_every_refusal_that_the_runtime_knows_says_what_to_do(live: LiveChain) -> None:
    metadata = await metadata_of(live)
    pallets = {p.name: {error.name for error in p.errors or ()} for p in metadata.pallets}
    known = set().union(*(pallets[name] for name in PALLETS))
    assert len(pallets["SubtensorModule"]) > 50
    known |= set(variants(metadata, "sp_runtime", "DispatchError")) - UNREACHABLE
    known -= {"Module", "Token", "Arithmetic"}
    known |= {f"Token.{name}" for name in variants(metadata, "sp_runtime", "TokenError")}
    known |= {f"Arithmetic.{n}" for n in variants(metadata, "sp_arithmetic", "ArithmeticError")}
    assert known - ADVICE.keys() == set()
    standard = {refusal(read_error(Reader(bytes(code)))).name for code in standard_codes()}
    assert standard - ADVICE.keys() == set()
    assert ADVICE.keys() - known - standard - POOL - UPSTREAM_ONLY == set()


def standard_codes() -> list[tuple[int, int]]:
    """`InvalidTransaction` and `UnknownTransaction` but their custom variants."""
    return [(0, code) for code in range(13) if code != 7] + [(1, code) for code in range(2)]


def refusal(error: Any) -> Any:
    return pool_rejection(RpcError(error.code, error.message, error.data), Metadata())


async def test_every_code_of_the_pool_says_what_to_do(live: LiveChain) -> None:
    metadata = await metadata_of(live)
    pallet = next(p for p in metadata.pallets if p.name == "SubtensorModule")
    numbers = [*range(1, 28), 255, *range(100, 100 + len(pallet.errors))]
    for number in numbers:
        found = pool_rejection(RpcError(1010, "Invalid", f"Custom error: {number}"), metadata)
        unused = number in {14, 20, 21, 22, 23, 24}
        assert unused or found.name in ADVICE, number
    for code in (1012, 1013, 1014, 1016, 1019):
        assert pool_rejection(RpcError(code, "…"), metadata).name in ADVICE


def test_advice_is_a_sentence_that_tells_and_names_real_commands() -> None:
    for name, text in ADVICE.items():
        assert len(text) > 15, name
        assert not text.endswith("."), name


async def test_an_error_about_a_hyperparameter_keeps_its_name_beside_the_advice(
    live: LiveChain,
) -> None:
    metadata = await metadata_of(live)
    index = next(p.value["index"] for p in metadata.pallets if p.name == "SubtensorModule")
    names = variants(metadata, "pallet_subnet", "pallet", "Error")
    error = bytes([names.index("OnlyRootMaySet"), 1, 0, 0])
    refused = dispatch_error({"Module": {"index": index, "error": error}}, metadata)
    assert re.match("OnlyRootMaySet: burn: .*only root", str(refused))


class Metadata:
    """Answers what the library's metadata would."""

    @property
    def pallets(self) -> list[object]:
        unused = type("Found", (), {"name": "Unused", "docs": []})
        error = type("Found", (), {"name": "NeuronNoValidatorPermit", "docs": ["No permit."]})
        return [type("Pallet", (), {"name": "SubtensorModule", "errors": [unused, error]})]

    def get_module_error(self, module_index: int, error_index: int) -> object:
        assert (module_index, error_index) == (8, 3)
        found = {"name": "SomeError", "docs": ["What it", "means."], "value": {"fields": []}}
        return type("Found", (), found)


@pytest.mark.parametrize(
    ("code", "data", "name", "advice"),
    [
        (1010, "Custom error: 17", "RevealTooEarly", "epoch"),
        (1010, "Custom error: 255", "BadRequest", "permit"),
        (1010, "Custom error: 101", "NeuronNoValidatorPermit", "stake more"),
        (1010, "Custom error: 102", "Custom error: 102", ""),
        (1010, "Custom error: 77", "Custom error: 77", ""),
        (1010, "Inability to pay some fees (e.g. account balance too low)", "Payment", "faucet"),
        (1010, "Transaction is outdated", "Stale", "again"),
        (1010, "Something new", "Invalid Transaction", "Something new"),
        (1013, "", "AlreadyImported", ""),
        (1014, "The transaction has too low priority", "PriorityTooLow", "again"),
        (-32_000, "", "Invalid Transaction", ""),
    ],
)
def test_the_pools_words_become_a_name(code: int, data: str, name: str, advice: str) -> None:
    refusal = pool_rejection(RpcError(code, "Invalid Transaction", data), Metadata())
    assert refusal.name == name
    assert advice in str(refusal)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"Module": {"index": 8, "error": b"\3\0\0\0"}}, "SomeError: What it means."),
        ({"Token": "FundsUnavailable"}, "Token.FundsUnavailable: the balance is too low"),
        ("BadOrigin", "BadOrigin: this key may not make this call"),
        ("Unavailable", "Unavailable"),
    ],
)
def test_a_dispatch_error_becomes_a_name(error: object, text: str) -> None:
    failed = Event("System", "ExtrinsicFailed", 1, {"dispatch_error": error})
    refusal = dispatch_failure((failed,), Metadata())
    assert refusal is not None
    assert str(refusal).startswith(text)


def test_success_is_no_failure_also_inside_sudo() -> None:
    succeeded = Event("System", "ExtrinsicSuccess", 1, {})
    inside = Event("Sudo", "Sudid", 1, {"sudo_result": {"Ok": ()}})
    assert dispatch_failure((inside, succeeded), Metadata()) is None
