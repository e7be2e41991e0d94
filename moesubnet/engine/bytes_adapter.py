"""Engines of whatever tokenizer, made as engines over bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

from moesubnet.engine.base import EngineFactory
from moesubnet.engine.bytes_engine import BytesEngine
from moesubnet.engine.bytes_own import Own, own_spec
from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.documents import public_texts
from moesubnet.spec.family import Family, read_family

_BESIDE = (
    "to serve {file} over bytes its tokenizer.json and config.json must stand beside it. Write "
    "them (pip install gguf, then in Python):\n"
    "  from transformers import AutoConfig, AutoTokenizer\n"
    "  for kind in (AutoConfig, AutoTokenizer):\n"
    "      kind.from_pretrained({folder!r}, gguf_file={file!r}).save_pretrained({folder!r})"
)
_FAR = (
    "over bytes the model's own tokenizer must be here, and {model!r} names none. Name it with "
    "--tokenizer: a folder with its tokenizer.json, config.json and chat template, or its hub id; "
    "no weights are read"
)
PUBLIC_TEXTS = 2_000  # of the spec, from which an engine may learn how its model's tokens occur


def family_of(model: str) -> Family:
    """Of a folder or a hub id; of a GGUF file, what stands beside it. Raises ConfigError,
    SpecError."""
    path = Path(model).expanduser()
    if path.suffix.lower() != ".gguf":
        return read_family(model)
    if not all((path.parent / name).is_file() for name in ("tokenizer.json", "config.json")):
        raise ConfigError(_BESIDE.format(file=path.name, folder=str(path.parent)))
    return read_family(str(path.parent))


class Adapted:
    """An engine's factory, as one of engines over bytes. `tokenizer` names the model's family where
    `model` does not: of one that another server runs."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory

    def __call__(
        self, model: str, spec: LoadedSpec, *, threads: int, tokenizer: str = "", **options: str
    ) -> BytesEngine:
        own = self._own(model, spec, tokenizer, options)
        more = self._texts(spec) | options
        engine = self._factory(model, own.spec, threads=threads, **more)
        return BytesEngine(engine, own, spec)

    @property
    def several(self) -> Callable[..., list[BytesEngine]] | None:
        """See `load_engines`; None where the engine takes one adapter."""
        make = getattr(self._factory, "several", None)
        if make is None:
            return None

        def adapted(
            model: str, spec: LoadedSpec, adapters: Sequence[str | None], **options: Any
        ) -> list[BytesEngine]:
            own = self._own(model, spec, "", options)
            return [BytesEngine(e, own, spec) for e in make(model, own.spec, adapters, **options)]

        return adapted

    def check(self, model: str, spec: LoadedSpec, *, tokenizer: str = "", **options: str) -> None:
        """What loading would raise, as far as it shows without the model."""
        own = self._own(model, spec, tokenizer, options)
        if (check := getattr(self._factory, "check", None)) is not None:
            check(model, own.spec, **(self._texts(spec) | options))

    def _own(self, model: str, spec: LoadedSpec, tokenizer: str, options: Mapping[str, str]) -> Own:
        try:
            family = family_of(tokenizer or model)
        except ConfigError as error:
            if tokenizer or "upstream" not in options:
                raise
            raise ConfigError(_FAR.format(model=model)) from error
        find = getattr(self._factory, "context_of", None)
        context_tokens = find(model, options["upstream"]) if find else None
        return Own.of(family, own_spec(family, spec, context_tokens))

    def _texts(self, spec: LoadedSpec) -> dict[str, Any]:
        if "texts" not in signature(self._factory).parameters:
            return {}
        return {"texts": list(islice(public_texts(spec), PUBLIC_TEXTS))}
