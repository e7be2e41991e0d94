"""What the router refuses before it listens, and a new student under running streams."""

import numpy as np
import pytest

from moesubnet.errors import ConfigError
from moesubnet.router.run import check_exposure
from moesubnet.router.student import StudentModel


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


async def test_a_running_stream_goes_on_with_the_new_student() -> None:
    old, new = OneLaw(1), OneLaw(2)
    model = StudentModel(old)
    session = model.open()
    forecast = await session.start(np.array([5], np.uint32))
    assert forecast.mixture.likeliest(1)[0][0] == 1
    model.engine = new
    forecast = await session.append(1, 1.0)
    assert forecast.mixture.likeliest(1)[0][0] == 2
    session.close()
    assert len(new.forgotten) == 1
