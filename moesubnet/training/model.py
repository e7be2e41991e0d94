"""Small language models of the Llama shape, saved as ordinary Hugging Face folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from moesubnet.errors import ConfigError
from moesubnet.host.log import quiet_transformers
from moesubnet.host.paths import disk_errors
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.tokenizer import END

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

MAX_VOCAB_SIZE = 32_000  # there, five sixths of a small model are its embedding


def small_config(
    spec: LoadedSpec, *, hidden: int = 192, layers: int = 4, heads: int = 6
) -> LlamaConfig:
    """About 1.7 M parameters at V = 2,048: tied embeddings, grouped keys, narrow MLP.

    Raises ConfigError for a vocabulary that would be nearly all of the model.
    """
    from transformers import LlamaConfig

    if (vocab_size := spec.spec.vocab_size) > MAX_VOCAB_SIZE:
        raise ConfigError(
            f"this subnet's vocabulary has {vocab_size:,} tokens: a small model would be an "
            f"embedding of {vocab_size * hidden / 1e6:.1f} M parameters and little else. Start "
            "--from a model that has this tokenizer"
        )
    return LlamaConfig(
        vocab_size=spec.spec.vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=spec.spec.context_tokens,
        tie_word_embeddings=True,
        bos_token_id=spec.spec.bos_id,
        eos_token_id=list(spec.spec.stop_ids),
    )


def new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A model with random weights, the same for the same seed."""
    quiet_transformers()
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def parameter_count(model: LlamaForCausalLM) -> int:
    """Number of distinct parameters (tied ones once)."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_model(model: LlamaForCausalLM, spec: LoadedSpec, out: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the spec's tokenizer.

    The folder loads with `AutoModelForCausalLM` and `AutoTokenizer`.
    """
    from transformers import PreTrainedTokenizerFast

    quiet_transformers()
    out.mkdir(parents=True, exist_ok=True)
    with disk_errors(out):
        model.save_pretrained(out)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(spec.tokenizer_path),
        model_max_length=spec.spec.context_tokens,
        clean_up_tokenization_spaces=False,
        eos_token=END,
    ).save_pretrained(out)
    # The spec's own bytes: miners compare the file, and transformers writes it differently.
    shutil.copyfile(spec.tokenizer_path, out / "tokenizer.json")
