"""What a model's folder says about its family: tokenizer, template, where texts begin and end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from moesubnet.errors import ConfigError, PromptError
from moesubnet.spec.byte_unit import TEMPLATE, byte_tokenizer
from moesubnet.spec.content import BYTE_END, BYTE_SYMBOLS
from moesubnet.spec.template import Template
from moesubnet.spec.tokenizer import load_tokenizer

_FILES = ("*.json", "*.jinja")  # of the hub's; no weights are needed
_ANSWER = "Yes, quite so."
_GGUF = (
    "{file} is a GGUF file. Write its tokenizer as a folder first (pip install gguf, then in "
    "Python), and give that folder:\n"
    "  from transformers import AutoTokenizer\n"
    "  AutoTokenizer.from_pretrained({parent!r}, gguf_file={file!r}).save_pretrained('my-model')"
)


@dataclass(frozen=True)
class Family:
    """stops: id → the texts that say so, such as "generation_config.json"."""

    folder: Path
    tokenizer: Tokenizer
    vocab_size: int
    template: str  # empty: the models do not chat
    special_tokens: dict[str, str]
    bos_id: int
    stops: dict[int, list[str]]
    context_tokens: int | None  # what the model was made for, if it says so
    unit: Literal["tokens", "bytes"] = "tokens"
    token_units: float = 1.0

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"


def every_family(like: Family | None, token_units: float) -> Family:
    """Of unit bytes: any model joins. like: a family whose context it is to have."""
    own = like and like.context_tokens
    return Family(
        folder=Path(),
        tokenizer=byte_tokenizer(),
        vocab_size=BYTE_SYMBOLS,
        template=TEMPLATE,
        special_tokens={},
        bos_id=BYTE_END,
        stops={BYTE_END: ["the end of a text"]},
        context_tokens=round(own * token_units) if own else None,
        unit="bytes",
        token_units=token_units,
    )


def read_family(model: str) -> Family:
    """Of a folder or a hub id. Raises ConfigError, SpecError saying what is missing."""
    folder = _folder(model)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json. If transformers can load its tokenizer, write one:\n"
            "  from transformers import AutoTokenizer\n"
            f"  AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    config = _json(folder / "config.json")
    config |= config.get("text_config") or {}  # of a model that also sees or hears
    generation = _json(folder / "generation_config.json")
    saved = _json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(_json(folder / "special_tokens_map.json") | saved)
    template = _template(folder, saved)
    stops = _stops(tokenizer, config, generation, special_tokens, template)
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    vocab_size = min(max(ids) + 1, config.get("vocab_size") or 1 << 32)
    stops = {token_id: why for token_id, why in sorted(stops.items()) if token_id < vocab_size}
    if not stops:
        raise ConfigError(
            f"nothing in {folder} says where a text ends: set eos_token in tokenizer_config.json "
            "or eos_token_id in generation_config.json"
        )
    named = tokenizer.token_to_id(special_tokens.get("bos_token", ""))
    candidates = (named, config.get("bos_token_id"), generation.get("bos_token_id"), min(stops))
    return Family(
        folder=folder,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        template=template,
        special_tokens=special_tokens,
        bos_id=next(i for i in candidates if isinstance(i, int) and i < vocab_size),
        stops=stops,
        context_tokens=_longest(folder, config),
    )


def _longest(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Tokens that the model was made for. Families name it each in their way, and files leave out
    what is usual there; transformers knows, of those that it knows."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        known: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        longest = getattr(known.get_text_config(), "max_position_embeddings", None)
    except (OSError, ValueError, KeyError, StrictDataclassError):
        longest = config.get("max_position_embeddings")
    return longest if isinstance(longest, int) and longest > 0 else None


def _folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.suffix == ".gguf":
        raise ConfigError(_GGUF.format(file=folder.name, parent=str(folder.parent)))
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ConfigError(f"there is no folder {folder}, and a hub id looks like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{model!r} is neither a folder nor a model that the hub gave: {error}"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return content


def _special_tokens(saved: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` … by their texts, whichever way transformers wrote them."""
    texts = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in saved.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in sorted(texts.items()) if isinstance(text, str)}


def _template(folder: Path, saved: Mapping[str, Any]) -> str:
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    template = saved.get("chat_template") or ""
    if not template:
        template = _json(folder / "chat_template.json").get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        template = next((t["template"] for t in template if t.get("name") == "default"), "")
    return str(template)


def _stops(
    tokenizer: Tokenizer,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    template: str,
) -> dict[int, list[str]]:
    stops: dict[int, list[str]] = {}

    def add(value: Any, why: str) -> None:
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0:
                stops.setdefault(token_id, []).append(why)

    add(generation.get("eos_token_id"), "generation_config.json")
    add(config.get("eos_token_id"), "config.json")
    add(tokenizer.token_to_id(special_tokens.get("eos_token", "")), "tokenizer_config.json")
    add(next(_ends_of_turn(tokenizer, template, special_tokens), None), "chat template")
    return stops


def _ends_of_turn(
    tokenizer: Tokenizer, template: str, special_tokens: Mapping[str, str]
) -> Iterator[int]:
    """The special tokens that a template writes behind an answer."""
    talk = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = Template(template, special_tokens).render(talk, add_generation_prompt=False)
    except PromptError:
        return  # whether the template works is looked at later
    added = tokenizer.get_added_tokens_decoder()
    for token_id in tokenizer.encode(text.partition(_ANSWER)[2], add_special_tokens=False).ids:
        if token_id in added and added[token_id].special:
            yield token_id
