"""The embedded chain: the real runtime in this process, for development, tests and localnet.

It executes the same WASM as a node, checks real signatures, charges real fees and computes real
roots. It is one author that finalises at once, not a consensus engine.

    async with DevChain.open(seal="instant") as chain, serve_chain(chain) as server:
        print(server.url)

`DevChain` needs the extra `moesubnet[devchain]` and is imported on first use;
`serve_chain` is in `devchain.server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesubnet.chain.devchain.service import DevChain

__all__ = ["DevChain"]


def __getattr__(name: str) -> object:
    if name != "DevChain":
        raise AttributeError(name)
    from moesubnet.chain.devchain.service import DevChain

    return DevChain
