"""Where state and caches live, per platform conventions."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_dir(*parts: str) -> Path:
    """State that must survive (`MOESUBNET_HOME` overrides the platform's place)."""
    home = os.environ.get("MOESUBNET_HOME")
    root = Path(home) if home else Path(platformdirs.user_data_dir("moesubnet"))
    return root.joinpath(*parts)


def cache_dir(*parts: str) -> Path:
    """What can be made again."""
    return Path(platformdirs.user_cache_dir("moesubnet")).joinpath(*parts)
