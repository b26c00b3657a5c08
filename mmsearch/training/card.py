"""The model card of a tuned encoder, and its figures as rows of a table."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from mmsearch.evaluation.metrics import Metric
from mmsearch.training.judge import Verdict

_SHOWN = ("R@1", "R@5", "R@10")


@dataclass(frozen=True, slots=True)
class Counts:
    """Pictures and captions that were trained on, that said when to stop, and that were held out."""

    pictures: int
    captions: int
    validation_pictures: int
    validation_captions: int
    held_out_pictures: int
    held_out_captions: int


def figure_rows(verdict: Verdict) -> list[tuple[str, str, str, str, str]]:
    """Return (direction, metric, before, after, change) in per cent, with 95 % intervals, as a person reads them."""
    rows = []
    for before, after, change in zip(verdict.before, verdict.after, verdict.changes, strict=True):
        olds, news = ({metric.name: metric for metric in one.metrics} for one in (before, after))
        for one in change.differences:
            if one.name in _SHOWN:
                told = f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
                rows.append((before.direction, one.name, _percent(olds[one.name]), _percent(news[one.name]), told))
    return rows


def model_card(
    *,
    name: str,
    base: str,
    corpora: Sequence[str],
    dev: str | None,
    counts: Counts,
    settings: str,
    summary: str,
    verdict: Verdict,
) -> str:
    """Return the card as Markdown."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = "\n".join(f"| {' | '.join(row)} |" for row in figure_rows(verdict))
    held = "Part of the same corpora, drawn by the seed" if dev is None else f"`{dev}`"
    return f"""# tuned:{name}

{base} with a head tuned on captions by `mmsearch train`, {today}. The encoder behind it is
unchanged; its own card, licences and weaknesses hold here too.

## Data, and its terms

{chr(10).join(f"- `{corpus}`" for corpus in corpora)}

Trained on {counts.pictures:,} pictures with {counts.captions:,} captions; {counts.validation_pictures:,} more with
{counts.validation_captions:,} captions said when to stop. No picture and no caption is part of these files, but what
was learned from them is: **the terms of these pictures and captions apply to the head**, and whoever passes it on must
be allowed to.

## Figures

{held}: {counts.held_out_pictures:,} pictures with {counts.held_out_captions:,} captions that
nothing was learned from or chosen by. Per cent, 95 % intervals by bootstrap over pictures.

| direction | metric | before | after | change |
| --- | --- | --- | --- | --- |
{rows}

{summary}

What it forgot of other pictures is not in these figures: `mmsearch eval CORPUS --compare {base} tuned:{name}` tells.

## Settings

{settings}
"""


def _percent(metric: Metric) -> str:
    return f"{100 * metric.value:.1f} ({100 * metric.low:.1f}–{100 * metric.high:.1f})"
