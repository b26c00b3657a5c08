"""The model card of what was trained, and its figures as rows of a table."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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
    *, title: str, what: str, learned: str, told: Mapping[str, Any], verdict: Verdict, summary: str, rest: str
) -> str:
    """Return the card as Markdown. `told` is what the manifest tells of data and recipe, `learned` is what learned."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    data, counts = told["data"], Counts(**{field.name: told["data"][field.name] for field in fields(Counts)})
    rows = "\n".join(f"| {' | '.join(row)} |" for row in figure_rows(verdict))
    held = "Part of the same corpora, drawn by the seed" if data["dev"] is None else f"`{data['dev']}`"
    settings = ", ".join(f"{key} {value}" for key, value in told["recipe"].items())
    return f"""# {title}

{what} Made {today}.

## Data, and its terms

{chr(10).join(f"- `{corpus}`" for corpus in data["corpora"])}

Trained on {counts.pictures:,} pictures with {counts.captions:,} captions; {counts.validation_pictures:,} more with
{counts.validation_captions:,} captions said when to stop. No picture and no caption is part of these files, but what
was learned from them is: **the terms of these pictures and captions apply to {learned}**, and whoever passes it on must
be allowed to.

## Figures

{held}: {counts.held_out_pictures:,} pictures with {counts.held_out_captions:,} captions that
nothing was learned from or chosen by. Per cent, 95 % intervals by bootstrap over pictures.

| direction | metric | before | after | change |
| --- | --- | --- | --- | --- |
{rows}

{summary}

{rest}

## Settings

{settings}
"""


def _percent(metric: Metric) -> str:
    return f"{100 * metric.value:.1f} ({100 * metric.low:.1f}–{100 * metric.high:.1f})"
