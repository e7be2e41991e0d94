"""One log line per event, to stderr: time, level, module, message."""

from __future__ import annotations

import logging
import warnings

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


def quiet_transformers() -> None:
    """Keep its progress bars, and peft's and torchao's use of what is deprecated, out of our
    progress. To be called before a model class is imported, which imports torchao."""
    logging.getLogger("torch.utils._pytree").addFilter(_is_no_deprecated_enum)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)


def _is_no_deprecated_enum(record: logging.LogRecord) -> bool:
    return "is an Enum subclass" not in str(record.msg)
