"""What a stranger learns of a running subnet: what its sheets say, and what other miners answer,
asked as any caller asks: each text a session, each token one step of it."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from adversaries.aggregator import MEMORY_TOKENS
from moesubnet.chain.client import ChainClient
from moesubnet.errors import ChainError, ConfigError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate_sync import fetch_revealed_sheets
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.sheet_cache import SheetCache
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Hotkey, NetUid, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import StepResponse, want_for
from moesubnet.wire.strangers import open_http_session

Ids = npt.NDArray[np.uint32]
Logs = npt.NDArray[np.floating]
T = TypeVar("T")

PATIENCE_S = 0.5  # with who is slower than the rest, at least
DEADLINE_S, REST_S = 20.0, 60.0  # of who does not answer at all
MOST_TEXTS, MOST_LAWS = 64, 2_048  # kept
SHEETS_EVERY_S = 5.0


def dense(law: Law) -> Logs:
    """[V]: as `law.at` of all tokens, without a search for each."""
    if law.ids is None or law.shape is None:
        return law.logp
    logs = law.shape.logp + math.log(max(law.share, 1e-30))
    logs[law.ids] = law.logp
    return logs


class Subnet:
    """shape: the baseline's law. validators: whose sheets are public. readers: get the walks of a
    sheet once it is."""

    def __init__(self, spec: LoadedSpec, chain_url: str, netuid: int) -> None:
        self.vocab_size, self.shape = spec.spec.vocab_size, load_baseline(spec).law
        self.validators: set[Hotkey] = set()
        self.readers: list[Callable[[Sequence[Ids]], None]] = []
        self._netuid, self._loop = NetUid(netuid), asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.wait(self._join(chain_url))
        self._following = asyncio.run_coroutine_threadsafe(self._follow(), self._loop)

    def wait(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _join(self, chain_url: str) -> None:
        self.http, self._chain = open_http_session(), await ChainClient.connect(chain_url)
        self.metagraph = await self._chain.metagraph(self._netuid)

    async def _follow(self) -> None:
        cache, seen = SheetCache(Path(mkdtemp())), set[bytes]()
        while True:
            try:
                metagraph = await self._chain.metagraph(self._netuid)
                public = await fetch_revealed_sheets(
                    self._chain, metagraph, self.http, cache, allow_private=True
                )
            except ChainError:
                public = []
            for sheet in (item.sheet.read() for item in public if item.sheet.sha256 not in seen):
                if sheet is not None:
                    seen.add(sheet.sha256)
                    self.validators.add(sheet.validator)
                    for read in self.readers:
                        read(sheet.walks)
            await asyncio.sleep(SHEETS_EVERY_S)


class Others:
    """Some experts; who is late is taken to say what the baseline says."""

    def __init__(self, subnet: Subnet, caller: Signer, hotkeys: Sequence[str]) -> None:
        """caller: registered and staked, as miners answer nobody else."""
        self._subnet, self._hotkeys = subnet, [Hotkey(hotkey) for hotkey in hotkeys]
        neurons = subnet.metagraph.by_hotkey
        clients = {}
        for hotkey in self._hotkeys:
            if hotkey not in neurons or (axon := neurons[hotkey].axon) is None:
                raise ConfigError(f"{hotkey} serves nothing")
            clients[hotkey] = ExpertClient(
                subnet.http, caller, hotkey, axon, vocab_size=subnet.vocab_size, allow_private=True
            )
        want = want_for(subnet.vocab_size, committed=False)
        self._panel = Panel(clients, base_s=DEADLINE_S, want=want, rest_s=REST_S)
        self._names = (f"{secrets.token_hex(8)}-{n}" for n in itertools.count())
        self._open: OrderedDict[bytes, PanelSequence] = OrderedDict()  # by all of their ids
        self._said: OrderedDict[bytes, asyncio.Future[list[Law]]] = OrderedDict()  # by prefix

    @property
    def laws(self) -> list[Callable[[Ids], Logs]]:
        """Of each expert the logarithms of all probabilities, [V]."""
        return [partial(self._law, place) for place in range(len(self._hotkeys))]

    def expect(self, texts: Sequence[Ids]) -> None:
        """Ask about all of them at once."""

        async def ask() -> None:
            await asyncio.gather(*map(self._say, texts))

        self._subnet.wait(ask())

    def _law(self, place: int, ids: Ids) -> Logs:
        known = self._said.get(ids.tobytes())
        is_known = known is not None and known.done()
        said = known.result() if is_known else self._subnet.wait(self._say(ids))
        return dense(said[place])

    async def _say(self, ids: Ids) -> list[Law]:
        key = ids.tobytes()
        if key not in self._said:
            self._keep(key, asyncio.ensure_future(self._ask(ids)))
        return await self._said[key]

    async def _ask(self, ids: Ids) -> list[Law]:
        """All experts, in the session of the longest text that this one goes on with. Of a new text
        only what follows it: an expert that was shown a token says nothing by it."""
        nobody = [self._subnet.shape] * len(self._hotkeys)
        if not len(ids):
            return nobody
        known = next((n for n in range(len(ids) - 1, 0, -1) if ids[:n].tobytes() in self._open), 0)
        sequence = self._open.pop(ids[:known].tobytes(), None) or PanelSequence(next(self._names))
        first = known + 1 if known else len(ids)
        answers = await self._panel.advance(
            [sequence],
            [ids[known:]],
            first=first,
            weights=dict.fromkeys(self._hotkeys, 1.0),
            least_patience_s=PATIENCE_S,
        )
        begin = max(0, min(first, len(ids) - MEMORY_TOKENS))
        laws = [nobody.copy() for _ in range(begin, len(ids) + 1)]
        for place, hotkey in enumerate(self._hotkeys):
            if isinstance(response := answers[hotkey], StepResponse):
                for row, here in enumerate(laws[first - begin :]):
                    here[place] = law_of(response.rows[0], row, self._subnet.shape)
        for length, here in enumerate(laws[:-1], begin):
            if ids[:length].tobytes() in self._said:
                continue
            done = asyncio.get_running_loop().create_future()
            done.set_result(here)
            self._keep(ids[:length].tobytes(), done)
        self._open[ids.tobytes()] = sequence
        if len(self._open) > MOST_TEXTS:
            await self._panel.close([self._open.popitem(last=False)[1]])
        return laws[-1]

    def _keep(self, key: bytes, said: asyncio.Future[list[Law]]) -> None:
        self._said[key] = said
        if len(self._said) > MOST_LAWS:
            self._said.popitem(last=False)
