"""Options that training has, of an expert and of a student."""

from __future__ import annotations

from typing import Annotated

import typer

from moesubnet.training.base_model import Precision

PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="With --from: what to compute in; auto: bf16 where the device is made for it."
    ),
]
Track = Annotated[
    str | None, typer.Option(help="Also write the losses for `tensorboard` or `wandb`.")
]
Seed = Annotated[int, typer.Option(help="Of the first weights and the batches.")]
