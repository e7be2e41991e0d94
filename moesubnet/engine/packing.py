"""Weights as a CPU's kernels read them best.

torch multiplies by a matrix as it lies, which on a CPU takes most of a pass. oneDNN, over weights
that it has laid out anew, takes 0.7 of the time for a pass of eight tokens, 0.9 for a long prompt
(benchmarks/results.md). Sums are taken in another order, so laws differ in their last bits.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from moesubnet.engine.loading import cpu_has_bfloat16
from moesubnet.host.memory import free_memory_bytes

log = logging.getLogger(__name__)

FEWEST_WEIGHTS = 1 << 18  # smaller matrices stay in the cache, where a call's own cost counts
ROWS = 8  # that the layout is chosen for; others profit as well


class PackedLinear(nn.Linear):
    """A linear layer for inference alone, whose `weight` is laid back for who asks for it."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        weight: Tensor = self._packed.to_dense()
        return weight

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, "none", [], ""
        )
        return found


def pack(model: Any) -> None:
    """Replace a model's large linear layers where they lie on a CPU, in what it computes in.

    A matrix that something else holds too (a head that is the embedding) is in memory twice then,
    and the log says so; where that is scarce it stays as it is.
    """
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):  # torch built without oneDNN
        return
    modules = list(model.modules())
    holders = Counter(id(w) for module in modules for w in module.parameters(recurse=False))
    twice_bytes = 0
    for parent in modules:
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear and _gains(layer.weight):
                if holders[id(layer.weight)] > 1:
                    twice_bytes += layer.weight.nbytes
                setattr(parent, name, PackedLinear(layer))
    if twice_bytes:
        log.info(
            "the head is the embedding, laid out anew for speed: %d MiB more memory",
            twice_bytes >> 20,
        )


def _gains(weight: Tensor) -> bool:
    computes = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
    )
    return (
        computes
        and type(weight) in (Tensor, nn.Parameter)  # not a quantised one
        and weight.device.type == "cpu"
        and weight.numel() >= FEWEST_WEIGHTS
        and 4 * weight.nbytes <= free_memory_bytes()
    )
