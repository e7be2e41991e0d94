"""Who moves the weights: one choice for small models from scratch, one for what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LORA_LR, FULL_LR = 2e-4, 2e-5  # of AdamW on a model that knows something already


def muon_and_adamw(
    model: torch.nn.Module, peak_lr: float, weight_decay: float
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms.

    In the same two minutes of one core Muon reaches a third less perplexity than AdamW alone
    (docs/log.md); scaled to AdamW's update size (arXiv 2502.16982), both share one learning rate.
    """
    import torch

    from moesubnet.training.muon import Float32Muon

    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        (others if parameter.ndim < 2 or "embed" in name else matrices).append(parameter)
    on_cpu = all(matrix.device.type == "cpu" for matrix in matrices)
    return (
        (Float32Muon if on_cpu else torch.optim.Muon)(
            matrices,
            lr=peak_lr,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.0),
    )


def adamw(model: torch.nn.Module, peak_lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over what is trained of a model that knows something already; vectors do not decay."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=peak_lr, betas=(0.9, 0.95))
