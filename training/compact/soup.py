"""Interpolate weights between two runs (WiSE-FT, Wortsman et al. 2022): `python -m training.compact.soup --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .tune import DualEncoder, Settings, open_model, write_weights


@torch.no_grad()
def interpolated(start: DualEncoder, end: DualEncoder, share: float) -> DualEncoder:
    """Return `end` with each weight at a `share` of the way from `start`."""
    before = dict(start.named_parameters())
    for name, weight in end.named_parameters():
        weight.lerp_(before[name], 1.0 - share)
    return end


def main() -> None:
    """Write what lies between two runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--from", dest="start", required=True, help="weights in WORK")
    parser.add_argument("--to", dest="end", required=True, help="weights in WORK that a run from there led to")
    parser.add_argument("--share", type=float, required=True, help="how much of the way")
    parser.add_argument("--out", required=True, help="weights in WORK")
    arguments = parser.parse_args()
    torch.manual_seed(Settings().seed)  # what the first stage does not have begins as in the run that started there
    start, end = (open_model(arguments.work / name, Settings()) for name in (arguments.start, arguments.end))
    write_weights(interpolated(start, end, arguments.share), arguments.work / arguments.out)


if __name__ == "__main__":
    main()
