"""Muon for CPUs that do not compute in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor


class Float32Muon(torch.optim.Muon):
    """torch's Muon (scaled to AdamW's update size), with the update orthogonalised in float32.

    torch does that in bfloat16 on every device. A CPU without instructions for it (most have none)
    then takes longer for it than for the whole rest of a step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        mean, momentum = state["momentum_buffer"], group["momentum"]
        mean.lerp_(grad, 1.0 - momentum)
        update = orthogonal(
            grad.lerp(mean, momentum), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-0.2 * group["lr"] * max(weight.shape) ** 0.5)


def orthogonal(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """U S' Vᵀ of a matrix U S Vᵀ, where all of S' is near 1: Newton and Schulz's iteration with the
    quintic of Jordan et al. (https://kellerjordan.github.io/posts/muon/). [m, n] → [m, n]."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
