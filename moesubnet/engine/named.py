"""An engine by its name: found, its options checked, put over bytes where the subnet wants that."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import cast

from moesubnet.engine.base import Engine, EngineFactory
from moesubnet.engine.target import ENGINES, find_target
from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec, file_sha256


def load_engine(
    target: str, model: str, spec: LoadedSpec, *, threads: int = 1, **options: str
) -> Engine:
    """Construct the engine of that name, or `package.module:Class`, over `model`.

    options: what the engine takes besides, as on the command line. Raises ConfigError when the
    class cannot be imported or knows no such option, EngineError when it cannot load `model`.
    """
    target = find_target(target, model, options)
    factory = find_engine(target)
    adapted = _adapted(target, factory, model, spec, options)
    return adapted(model, spec, threads=threads, **options)


def load_engines(
    target: str,
    model: str,
    spec: LoadedSpec,
    adapters: Sequence[str | None],
    *,
    threads: int = 1,
    **options: str,
) -> list[Engine]:
    """An engine for each adapter over one model (None: the model alone), loaded once. Raises
    ConfigError where an engine takes one adapter at most; else as `load_engine`."""
    if len(adapters) == 1:
        own = {} if adapters[0] is None else {"adapter": adapters[0]}
        return [load_engine(target, model, spec, threads=threads, **own, **options)]
    target = find_target(target, model, options)
    factory = find_engine(target)
    several = getattr(_adapted(target, factory, model, spec, options), "several", None)
    if several is None:
        raise ConfigError(f"the engine {target} serves one --adapter and --hotkey at a time here")
    return list(several(model, spec, adapters, threads=threads, **options))


def check_engine(target: str, model: str, spec: LoadedSpec, **options: str) -> None:
    """What `load_engine` would raise, as far as the engine can tell without loading."""
    target = find_target(target, model, options)
    factory = find_engine(target)
    adapted = _adapted(target, factory, model, spec, options)
    if (check := getattr(adapted, "check", None)) is not None:
        check(model, spec, **options)


def needs_adapter(model: str, spec: LoadedSpec) -> bool:
    """Whether `model` (a folder, GGUF file or hub id) writes tokens and the subnet wants bytes."""
    path = Path(model).expanduser()
    if spec.spec.unit != "bytes":
        return False
    if path.is_file():  # another file is what an engine of its own makes of it
        return path.suffix.lower() == ".gguf"
    tokenizer = path / "tokenizer.json"
    if path.is_dir():
        return tokenizer.is_file() and file_sha256(tokenizer) != spec.spec.tokenizer.sha256
    return True


def _adapted(
    target: str,
    factory: EngineFactory,
    model: str,
    spec: LoadedSpec,
    options: Mapping[str, str],
) -> EngineFactory:
    """The factory, or one over bytes of its engines. Raises ConfigError for unknown options."""
    is_far = "upstream" in options and spec.spec.unit == "bytes"
    known = dict(options)
    if is_far:
        known.pop("tokenizer", None)
    elif "tokenizer" in options:
        raise ConfigError(
            "--tokenizer is of a model at --upstream in a subnet over bytes; "
            + (
                "a folder has its own"
                if spec.spec.unit == "bytes"
                else f"the experts of {spec.spec.name!r} all have the subnet's"
            )
        )
    _know_options(target, factory, known)
    if not is_far and not needs_adapter(model, spec):
        return factory
    from moesubnet.engine.bytes_adapter import Adapted

    return Adapted(factory)


def find_engine(target: str) -> EngineFactory:
    module_name, _, class_name = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no engine {target!r}: write {', '.join(ENGINES)}, or package.module:Class, "
            f"importable from here ({error})"
        ) from error
    return cast(EngineFactory, factory)


def _know_options(target: str, factory: EngineFactory, options: Mapping[str, str]) -> None:
    known = signature(factory).parameters
    unknown = [f"--{name}" for name in options if name not in known]
    if unknown:
        raise ConfigError(f"the engine {target} takes no {' and no '.join(unknown)}")
