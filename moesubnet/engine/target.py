"""Which engine, by name, for command lines that must not import numpy to show their help."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_ENGINE = "auto"
ENGINES = {
    "transformers": "moesubnet.engine.transformers_engine:TransformersEngine",
    "gguf": "moesubnet.engine.gguf_engine:GgufEngine",
    "upstream": "moesubnet.engine.upstream:UpstreamEngine",
}


def find_target(engine: str, model: str, options: Mapping[str, str]) -> str:
    """`package.module:Class` of an engine's name; of `auto`, by what is to be run."""
    if engine == "auto":
        is_gguf = model.lower().endswith(".gguf")
        engine = "upstream" if "upstream" in options else "gguf" if is_gguf else "transformers"
    return ENGINES.get(engine, engine)
