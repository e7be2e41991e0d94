"""Claim: a cheaper copy of one's own model is a second expert.

The owner of an honest expert serves it again with its matrices rounded to a few bits, for a
fraction of the cost. Its errors are its own; its knowledge is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def round_weights(model: PreTrainedModel, bits: int, group: int | None = None) -> None:
    """Every matrix to 2^bits levels, row by row, as weight-only quantisation does; or by groups of
    so many weights of a row, as the usual formats of 4 bits do."""
    import torch

    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                rows, columns = parameter.shape
                size = group or columns
                parts = torch.nn.functional.pad(parameter, (0, -columns % size))
                parts = parts.reshape(rows, -1, size)
                scale = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / most
                rounded = ((parts / scale).round() * scale).reshape(rows, -1)
                parameter.copy_(rounded[:, :columns])
