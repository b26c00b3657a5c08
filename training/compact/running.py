"""What runs share: settings as arguments, what is kept between epochs, and steps towards what a teacher says."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 60  # steps

_S = TypeVar("_S", bound=Any)


class Stateful(Protocol):
    """A module, an optimizer, a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that there is to keep."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take that back."""


def parse(parser: argparse.ArgumentParser, settings: _S) -> tuple[argparse.Namespace, _S]:
    """Return the arguments, and the settings (a dataclass, each field an option) with those that were given.

    --data, --work and --out are added, which every run has.
    """
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where the weights go, without .pt, in WORK unless it is named")
    for field in fields(settings):
        value = getattr(settings, field.name)
        several = {"nargs": "+", "type": str} if isinstance(value, tuple) else {"type": type(value)}
        parser.add_argument(f"--{field.name}", default=value, **several)
    arguments = parser.parse_args()
    given = {field.name: getattr(arguments, field.name) for field in fields(settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return arguments, replace(settings, **given)


def keep(path: Path, parts: Mapping[str, Stateful], *, epoch: int) -> None:
    """Write all that a continued run needs; `epoch` is the number of those that are done."""
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "epoch": epoch}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def resume(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Take back what `keep` wrote, and return the number of epochs that are done."""
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["epoch"])


class Descent:
    """AdamW over some weights of an encoder, its rate a cosine behind a warm-up, and the slow average of them."""

    def __init__(
        self,
        encoder: nn.Module,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        steps: int,
        decay: float,
        average: float,
    ) -> None:
        """`groups`: weights and their rate; the others stay as they are."""
        self.encoder, self.average, self._share = encoder, copy.deepcopy(encoder), 1.0 - average
        encoder.requires_grad_(False)
        self._learned = [weight.requires_grad_(True) for weights, _ in groups for weight in weights]
        self._optimizer = torch.optim.AdamW(
            [{"params": weights, "lr": rate} for weights, rate in groups], weight_decay=decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, step / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        )

    def step(self, loss: Tensor) -> float:
        """Take a step and return the loss."""
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._learned, 2.0)
        self._optimizer.step()
        self._schedule.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.encoder.parameters(), strict=True):
                if fast.requires_grad:
                    slow.lerp_(fast, self._share)
        return loss.item()
