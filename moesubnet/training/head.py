"""A loss over a large vocabulary without the matrix of all logits.

At V = 262,144 the logits of 2,048 tokens are 2 GiB in float32, and training wants them three times
over. So the loss is taken chunk by chunk, and with each chunk its gradient: what is kept between
the passes is as large as the hidden states and the head's weights, whatever V is, and no chunk is
computed twice (checkpointing would compute each logit once more).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

log = logging.getLogger(__name__)

CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 27}  # 64 MiB and 512 MiB of float32
AGREEMENT_NATS = 1e-3
PROBE_IDS = 8

RowsLoss = Callable[[Tensor, slice], Tensor]  # (logits float32 [n, V], which rows) → summed loss


@dataclass(frozen=True, slots=True)
class Split:
    """A language model in two: `trunk` gives hidden states, `logits_of` makes logits of them.

    `weights` are the head's parameters; a tied embedding is one of them. Both halves compute in
    bf16 if asked to.
    """

    trunk: Callable[..., Tensor]  # keyword arguments of the model → [B, L, H]
    logits_of: Callable[[Tensor], Tensor]  # [n, H] → [n, V]
    weights: tuple[nn.Parameter, ...]
    vocab_size: int
    device: torch.device
    bf16: bool = False

    def hidden(self, ids: NDArray[np.integer], **inputs: NDArray[np.integer]) -> Tensor:
        """[N · L, H]: the states after each of ids [N, L]; `inputs` go to the model as they are."""
        moved = {
            name: self.tensor(values) for name, values in (inputs | {"input_ids": ids}).items()
        }
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.trunk(**moved).flatten(0, 1)

    def tensor(self, values: NDArray[np.integer]) -> Tensor:
        """int64, on the model's device."""
        return torch.from_numpy(values.astype(np.int64)).to(self.device)

    def loss(self, rows_loss: RowsLoss, hidden: Tensor) -> Tensor:
        """Sum of `rows_loss` over the rows of hidden [N, H], differentiable once."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._loss(rows_loss, hidden)

    def _loss(self, rows_loss: RowsLoss, hidden: Tensor) -> Tensor:
        rows = max(1, CHUNK_LOGITS.get(hidden.device.type, 1 << 24) // self.vocab_size)
        if torch.is_grad_enabled():
            total: Tensor = _Chunked.apply(rows_loss, self.logits_of, rows, hidden, *self.weights)
            return total
        parts = (
            rows_loss(self.logits_of(hidden[part]).float(), part)
            for part in _chunks(len(hidden), rows)
        )
        return sum(parts, start=hidden.new_zeros((), dtype=torch.float32))


def split_model(model: Any, *, bf16: bool = False) -> Split:
    """Split a transformers model (or a peft model around one), and see that the halves make the
    same laws as the whole; a model of another build is used whole, and its logits take the memory
    that they take."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, body = whole.get_output_embeddings(), getattr(whole, whole.base_model_prefix, None)
    vocab_size = whole.config.get_text_config().vocab_size
    if isinstance(head, nn.Module) and body is not None:
        found = Split(
            lambda **inputs: body(use_cache=False, **inputs).last_hidden_state,
            _with_scale(head, whole.config.get_text_config()),
            tuple(head.parameters()),
            vocab_size,
            model.device,
            bf16,
        )
        if _agrees(whole, found):
            return found
    log.warning("%s is trained with all its logits in memory", type(whole).__name__)
    return Split(
        lambda **inputs: model(use_cache=False, **inputs).logits,
        lambda logits: logits,
        (),
        vocab_size,
        model.device,
        bf16,
    )


def _with_scale(head: nn.Module, config: Any) -> Callable[[Tensor], Tensor]:
    """The head and what some families do to its output."""
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)

    def logits_of(hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden)
        if scale != 1.0:
            logits = logits * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return logits_of


@torch.no_grad()
def _agrees(whole: Any, found: Split) -> bool:
    ids = torch.arange(PROBE_IDS, device=whole.device)[None] % found.vocab_size
    was_training = whole.training
    whole.eval()
    expected = whole(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    got = found.logits_of(found.trunk(input_ids=ids)[0]).float().log_softmax(-1)
    whole.train(was_training)
    return got.shape == expected.shape and bool((got - expected).abs().max() < AGREEMENT_NATS)


def _chunks(count: int, rows: int) -> list[slice]:
    return [slice(start, min(count, start + rows)) for start in range(0, count, rows)]


class _Chunked(torch.autograd.Function):
    """Loss and gradient chunk by chunk; backward only scales the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_loss: RowsLoss,
        logits_of: Callable[[Tensor], Tensor],
        rows: int,
        hidden: Tensor,
        *weights: nn.Parameter,
    ) -> Tensor:
        trained = [weight for weight in weights if weight.requires_grad]
        sums = [torch.zeros_like(weight) for weight in trained]
        pulls = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for part in _chunks(len(hidden), rows):
            with torch.enable_grad():
                piece = hidden[part].detach().requires_grad_()
                loss = rows_loss(logits_of(piece).float(), part)
                pull, *grads = torch.autograd.grad(loss, [piece, *trained])
            total += loss.detach()
            pulls[part] = pull
            for into, grad in zip(sums, grads, strict=True):
                into += grad
        ctx.save_for_backward(pulls, *sums)
        ctx.is_trained = [weight.requires_grad for weight in weights]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor | None, ...]:
        pulls, *sums = ctx.saved_tensors
        left = iter(sums)
        grads = [next(left) * outputs[0] if is_trained else None for is_trained in ctx.is_trained]
        return None, None, None, pulls * outputs[0], *grads
