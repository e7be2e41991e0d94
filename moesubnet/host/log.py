"""One log line per event, to stderr: time, level, module, message."""

from __future__ import annotations

import logging

from moesubnet.errors import ConfigError


def set_up_logging(level: str) -> None:
    """Configure the root logger. Raises ConfigError for a level that does not exist."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"{level!r} is not a log level; use debug, info, warning or error")
    logging.basicConfig(
        level=number, format="%(asctime)s %(levelname)-7s %(name)s %(message)s", force=True
    )
    for noisy in ("aiohttp.access", "httpx", "urllib3", "websocket"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
