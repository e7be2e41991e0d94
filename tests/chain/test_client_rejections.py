"""A refusal has upstream's name, and says what to do."""

import pytest

from moesubnet.chain.link import RpcError
from moesubnet.chain.rejections import dispatch_failure, pool_rejection
from moesubnet.chain.view import Event


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
        ("Exhausted", "Exhausted"),
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
