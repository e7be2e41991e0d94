"""The default engine's name, for command lines that must not import numpy to show their help."""

DEFAULT_ENGINE = "moesubnet.engine.transformers_engine:TransformersEngine"
