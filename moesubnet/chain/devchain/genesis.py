"""Block zero, from a preset that the runtime itself carries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from moesubnet.chain.devchain.code import CODE_KEY, RuntimeVersion
from moesubnet.chain.devchain.executor import Executor
from moesubnet.chain.devchain.header import Block, Header
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import Reader, vec
from moesubnet.chain.devchain.trie import Trie
from moesubnet.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Genesis:
    block: Block
    state: Trie


def preset_config(executor: Executor, code: bytes, preset: str) -> dict[str, Any]:
    """The genesis configuration of a runtime's preset, whole. ConfigError if it has none such."""
    defaults = _call(executor, code, "GenesisBuilder_get_preset", b"\0")
    answer = _call(executor, code, "GenesisBuilder_get_preset", b"\1" + vec(preset.encode()))
    if not answer.uint(1):
        names = _call(executor, code, "GenesisBuilder_preset_names", b"")
        known = ", ".join(names.vec().decode() for _ in range(names.compact()))
        raise ConfigError(f"the runtime has no preset {preset!r}; it has: {known}")
    config = json.loads(defaults.vec()) if defaults.uint(1) else {}
    merged: dict[str, Any] = _merged(config, json.loads(answer.vec()))
    return merged


def build_genesis(executor: Executor, code: bytes, preset: str) -> Genesis:
    """Run the runtime's genesis builder on one of its presets.

    Raises ConfigError if it has no such preset or cannot build it.
    """
    version = RuntimeVersion.decode(_call(executor, code, "Core_version", b"").rest())
    config = preset_config(executor, code, preset)
    overlay = Overlay(Trie())
    document = vec(json.dumps(config).encode())
    built = Reader(executor.call(code, "GenesisBuilder_build_state", document, overlay))
    if built.uint(1):
        raise ConfigError(f"preset {preset!r} does not build: {built.vec().decode()}")
    overlay.set(CODE_KEY, code)
    state = overlay.merged()
    empty_root = Trie().root(version.state_version)
    header = Header(bytes(32), 0, state.root(version.state_version), empty_root, ())
    return Genesis(Block(header.hash(), header, ()), state)


def _call(executor: Executor, code: bytes, function: str, data: bytes) -> Reader:
    """Call a function that needs no state."""
    return Reader(executor.call(code, function, data, Overlay(Trie())))


def _merged(value: Any, patch: Any) -> Any:
    """`value` with a JSON merge patch (RFC 7396) applied: presets are patches of the defaults."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), change)
    return merged
