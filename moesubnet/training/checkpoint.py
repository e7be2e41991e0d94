"""Training state on disk: one safetensors file, replaced atomically; a kill loses seconds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moesubnet.errors import ConfigError

if TYPE_CHECKING:
    import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is. `run` identifies it: another run's state is refused."""

    run: str
    step: int
    elapsed_s: float


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"position": json.dumps(asdict(position))})
    os.replace(temporary, path)


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: str
) -> Position | None:
    """Put the saved state into `model` and `optimizer`; None where there is no checkpoint.

    Raises ConfigError when it belongs to another run (other text, other settings).
    """
    import torch
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="pt") as saved:
        position = Position(**json.loads(saved.metadata()["position"]))
        if position.run != run:
            raise ConfigError(
                f"{path} is of a run with other text or settings: "
                "give another folder, or start afresh with --fresh"
            )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(saved.get_tensor(f"model/{name}"))
                moments = {m: saved.get_tensor(f"{m}/{name}") for m in _MOMENTS}
                step = torch.tensor(float(position.step))
                optimizer.state[parameter] = moments | {"step": step}
    return position
