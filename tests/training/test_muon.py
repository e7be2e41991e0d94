"""Muon as torch has it, but for the precision of one step."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moesubnet.training.muon import Float32Muon, orthogonal
from moesubnet.training.optimizers import muon_and_adamw

SHAPES = ((16, 16), (40, 12), (12, 40))


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrices = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
        )
        self.norm = torch.nn.Parameter(torch.ones(4))


def give_gradients(model: Small, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def optimizer(kind: type[torch.optim.Muon], model: Small) -> torch.optim.Muon:
    return kind(
        model.matrices.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )


def test_it_moves_weights_as_torch_does_but_for_the_rounding_of_bfloat16() -> None:
    ours, torchs = Small(), Small()
    start = copy.deepcopy(ours)
    one, other = optimizer(Float32Muon, ours), optimizer(torch.optim.Muon, torchs)
    for seed in range(4):
        give_gradients(ours, seed)
        give_gradients(torchs, seed)
        one.step()
        other.step()
    for mine, its, began in zip(ours.matrices, torchs.matrices, start.matrices, strict=True):
        moved = (its - began).norm()
        assert (mine - its).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sizes = torch.linalg.svdvals(orthogonal(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert sizes.min() > 0.3
    assert sizes.max() < 1.3


def test_a_training_that_was_kept_under_torchs_own_goes_on() -> None:
    ours, torchs = Small(), Small()
    other = optimizer(torch.optim.Muon, torchs)
    give_gradients(torchs, 0)
    other.step()
    ours.load_state_dict(torchs.state_dict())
    start = copy.deepcopy(ours)
    one = optimizer(Float32Muon, ours)
    one.load_state_dict(copy.deepcopy(other.state_dict()))
    give_gradients(ours, 1)
    give_gradients(torchs, 1)
    one.step()
    other.step()
    for mine, its, began in zip(ours.matrices, torchs.matrices, start.matrices, strict=True):
        assert (mine - its).norm() < 0.02 * (its - began).norm()


def test_nothing_of_a_step_on_a_cpu_is_computed_in_half_precision() -> None:
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                dtypes.add(result.dtype)
            return result

    dtypes: set[torch.dtype] = set()
    model = Small()
    give_gradients(model, 0)
    with Seen():
        for each in muon_and_adamw(model, 0.02, 0.1):
            each.step()
    assert torch.float32 in dtypes
    assert not dtypes & {torch.bfloat16, torch.float16}
