"""A router as a process of its own, for tests of several that share their accounts:

    python -m tests.router.one_router STATE SPEC

It says its port on stdout. The model takes a tenth of a second a token, at 1 rao; holds lapse after
two seconds, so that nobody waits a minute for a router that died.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tokenizers import Tokenizer

from moesubnet.router import billing, ledger
from moesubnet.router.app import build_app
from moesubnet.router.database import open_database
from moesubnet.router.service import Service
from moesubnet.spec.content import load_spec
from moesubnet.wire.listening import serve
from tests.router.conftest import ParrotModel

HOLD_S = 2


async def run(state: str, folder: Path) -> None:
    ledger.HOLD_S, billing.RENEW_S = HOLD_S, HOLD_S / 4
    spec = load_spec(folder)
    parrot = ParrotModel(Tokenizer.from_file(str(spec.tokenizer_path)))
    parrot.pause_s, parrot.price_rao_per_mtoken = 0.1, 1_000_000
    service = Service(spec, {"mixture": parrot})
    books = billing.Billing(ledger.Ledger(open_database(state)))
    listening = await serve(build_app(lambda: service, billing=books), "127.0.0.1", 0, grace_s=5.0)
    print(listening.port, flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    renewing = asyncio.create_task(books.run())
    await stopped.wait()
    renewing.cancel()
    await listening.close()
    await books.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
