"""What the runs that go on where they were stopped share: settings as arguments, and what is kept between epochs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

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
