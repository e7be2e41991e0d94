"""Training state on disk: one safetensors file, replaced atomically; a kill loses seconds.

Only what is trained is in it: of an adapter's run, the adapter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moesubnet.errors import ConfigError
from moesubnet.host.paths import disk_errors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is. `run` identifies it: another run's state is refused."""

    run: str
    step: int
    elapsed_s: float
    tokens: int = 0  # in the batches; older files do not say


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
) -> None:
    """Weights as `model/<name>`, optimizer state as `<its name>/<name>`."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[f"model/{name}"] = parameter.detach()
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
    temporary = path.with_suffix(".tmp")
    with disk_errors(path):
        save_file(tensors, temporary, metadata={"position": json.dumps(asdict(position))})
    os.replace(temporary, path)


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    run: str,
) -> Position | None:
    """Put the saved state into model and optimizers; None where there is no checkpoint.

    Raises ConfigError when it belongs to another run (other text, other settings).
    """
    import torch
    from safetensors import safe_open

    if not path.exists():
        return None
    owner = {p: o for o in optimizers for group in o.param_groups for p in group["params"]}
    with safe_open(path, framework="pt") as saved, torch.no_grad():
        position = Position(**json.loads(saved.metadata()["position"]))
        if position.run != run:
            raise ConfigError(
                f"{path} is of a run with other text or settings: "
                "give another folder, or start afresh with --fresh"
            )
        parameters = dict(model.named_parameters())
        for full_name in saved.keys():  # noqa: SIM118 (not a dict)
            key, _, name = full_name.partition("/")
            parameter, value = parameters[name], saved.get_tensor(full_name)
            if key == "model":
                parameter.copy_(value)
            else:
                place = parameter.device if value.ndim else value.device
                owner[parameter].state[parameter][key] = value.to(place)
    return position
