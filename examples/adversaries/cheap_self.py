"""Claim: a cheaper copy of one's own model is a second expert.

The owner of an honest expert serves it again with its matrices rounded to a few bits, for a
fraction of the cost. Its errors are its own; its knowledge is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def round_weights(model: PreTrainedModel, bits: int) -> None:
    """Every matrix to 2^bits levels, row by row, as weight-only quantisation does."""
    import torch

    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                scale = parameter.abs().amax(dim=1, keepdim=True) / most
                parameter.copy_((parameter / scale).round() * scale)
