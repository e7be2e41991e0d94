"""What the router refuses before it listens, and a new student under running streams."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moesubnet.errors import ConfigError, SpecError
from moesubnet.router.model import ALONE
from moesubnet.router.run import LOOKS, Offers, check_exposure
from moesubnet.router.service import Service
from moesubnet.router.student import StudentModel
from moesubnet.spec.content import LoadedSpec


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_a_public_address_needs_a_key(host) -> None:
    with pytest.raises(ConfigError, match="API key"):
        check_exposure(host, ())
    check_exposure(host, ("secret",))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_empty_key_is_refused_as_it_would_let_everybody_in(host) -> None:
    with pytest.raises(ConfigError, match="empty"):
        check_exposure(host, ("secret", ""))


def test_loopback_needs_no_key() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(host, ())


class Book:
    """Knows its experts after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks, self.looked = looks, 0

    async def refresh(self, _: object) -> None:
        self.looked += 1

    def known(self) -> set[str]:
        return {"expert"} if self.looked >= self.looks else set()


class Announced:
    """Has one offer to go over to, in epoch 4."""

    def __init__(self, offer: object) -> None:
        self.offer = offer

    def see(self, _: object) -> None: ...

    def take(self, epoch_index: int) -> object:
        offer = self.offer if epoch_index >= 4 else None
        self.offer = None if offer else self.offer
        return offer


@pytest.mark.parametrize(("needed", "looks"), [(1, 1), (3, 3), (10**9, LOOKS)])
async def test_requests_go_over_to_a_new_spec_when_an_expert_serves_it(needed, looks) -> None:
    old, new = (SimpleNamespace(book=Book(n), service=n) for n in (0, needed))
    offers, following = Offers(old), Announced(new)
    await offers.refresh(SimpleNamespace(epoch_index=3), following)
    assert (offers.current, old.book.looked) == (old, 1)
    for look in range(looks):
        assert offers.current is old, look
        await offers.refresh(SimpleNamespace(epoch_index=4), following)
    assert offers.current is new
    assert old.book.looked == 1  # its experts answer still, whatever their cards say
    await offers.refresh(SimpleNamespace(epoch_index=4), following)
    assert new.book.looked == looks + 1


class OneLaw:
    """An engine process that always prefers one token."""

    def __init__(self, token_id: int) -> None:
        self.law = np.full(8, -9.0, np.float32)
        self.law[token_id] = 0.0
        self.forgotten: list[str] = []

    vocab_size = 8

    async def rows(self, batch, want):
        return [query.answer(self.law[None], want) for query in batch]

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


def test_an_owner_s_tokenizer_that_is_none_is_an_error_that_is_told(
    tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    """A router that goes over to a new spec says so and tries again: others would end it."""
    folder = tmp_path / "spec"
    shutil.copytree(tiny_spec.root, folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SpecError, match=r"is not a tokenizer\.json"):
        Service(replace(tiny_spec, root=folder), {})


async def test_a_running_stream_goes_on_with_the_new_student() -> None:
    old, new = OneLaw(1), OneLaw(2)
    model = StudentModel(old)
    session = model.open()
    forecast = await session.start(np.array([5], np.uint32))
    assert forecast.mixture.likeliest(1)[0][0] == 1
    model.engine = new
    forecast = await session.append(1, ALONE)
    assert forecast.mixture.likeliest(1)[0][0] == 2
    session.close()
    assert len(new.forgotten) == 1
