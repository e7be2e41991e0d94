"""What a miner keeps for its callers in a budget of bytes, so that none can crowd out another."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from moesubnet.types import Hotkey

Value = TypeVar("Value")


class FairStore(Generic[Value]):
    """Values by (caller, name). When the budget is spent, the oldest value of the caller that
    holds most goes first.

    dropped: called with caller and name of what the store let go by itself.
    """

    def __init__(
        self, budget_bytes: int, dropped: Callable[[Hotkey, str], None] = lambda *_: None
    ) -> None:
        self._budget_bytes = budget_bytes
        self._dropped = dropped
        self._values: dict[Hotkey, OrderedDict[str, tuple[Value, int]]] = {}
        self._bytes: Counter[Hotkey] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._values.values()))

    def callers(self) -> list[Hotkey]:
        return list(self._values)

    def get(self, caller: Hotkey, name: str) -> Value | None:
        held = self._values[caller].get(name) if caller in self._values else None
        return None if held is None else held[0]

    def put(self, caller: Hotkey, name: str, value: Value, size_bytes: int) -> None:
        """Keep a value as its caller's newest."""
        self.pop(caller, name)
        self._values.setdefault(caller, OrderedDict())[name] = value, size_bytes
        self._bytes[caller] += size_bytes
        while self._bytes.total() > self._budget_bytes:
            self.drop_oldest(max(self._bytes, key=self._bytes.__getitem__))

    def oldest(self, caller: Hotkey) -> Value | None:
        if caller not in self._values:
            return None
        return next(iter(self._values[caller].values()))[0]

    def drop_oldest(self, caller: Hotkey) -> None:
        self.drop(caller, next(iter(self._values[caller])))

    def drop(self, caller: Hotkey, name: str) -> None:
        """As if the store had let it go by itself; what is not there is fine."""
        if self.get(caller, name) is not None:
            self.pop(caller, name)
            self._dropped(caller, name)

    def pop(self, caller: Hotkey, name: str) -> None:
        held = self._values[caller].pop(name, None) if caller in self._values else None
        if held is not None:
            self._bytes[caller] -= held[1]
            if not self._values[caller]:
                del self._values[caller], self._bytes[caller]
