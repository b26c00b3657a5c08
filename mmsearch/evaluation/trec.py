"""Runs and qrels in TREC's formats: what every tool of the field reads and writes.

    run      QUERY Q0 DOCUMENT RANK SCORE TAG
    qrels    QUERY 0 DOCUMENT GAIN

https://trec.nist.gov/data/qrels_eng/ and trec_eval's documentation. Of a run only the scores count, not the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mmsearch.errors import EvaluationError
from mmsearch.evaluation.ranks import NOT_FOUND, Ranks
from mmsearch.types import Float64

Run = dict[str, dict[str, float]]
"""Scores by query and document."""

Qrels = dict[str, dict[str, float]]
"""Gains by query and document; above 0 is relevant."""


def document_id(name: str) -> str:
    """Return a name without the white space and control characters that the formats cannot hold."""
    return quote(name, safe="/#:.,+-_~!$&'()*;=@")


def write_run(path: Path, rows: Iterable[tuple[str, list[tuple[str, float]]]], *, tag: str = "mmsearch") -> None:
    """Write queries with their documents and scores, best first."""
    with path.open("w", encoding="utf-8") as file:
        for query, found in rows:
            for rank, (document, score) in enumerate(found, start=1):
                file.write(f"{query} Q0 {document} {rank} {score:.6f} {tag}\n")


def write_qrels(path: Path, rows: Iterable[tuple[str, list[str]]]) -> None:
    """Write queries with their relevant documents."""
    with path.open("w", encoding="utf-8") as file:
        for query, relevant in rows:
            for document in relevant:
                file.write(f"{query} 0 {document} 1\n")


def read_run(path: Path) -> Run:
    """Return the scores in a run file; raise EvaluationError naming the line that is none."""
    run: Run = {}
    for number, parts in _lines(path, 6, "QUERY Q0 DOCUMENT RANK SCORE TAG"):
        run.setdefault(parts[0], {})[parts[2]] = _number(path, number, parts[4])
    return run


def read_qrels(path: Path) -> Qrels:
    """Return the gains in a qrels file; raise EvaluationError naming the line that is none."""
    qrels: Qrels = {}
    for number, parts in _lines(path, 4, "QUERY 0 DOCUMENT GAIN"):
        qrels.setdefault(parts[0], {})[parts[2]] = _number(path, number, parts[3])
    return qrels


def rank_run(run: Run, qrels: Qrels) -> tuple[tuple[str, ...], Ranks, Float64]:
    """Return (queries, ranks, gains) of a run, for the queries to which anything is relevant; ties count against.

    A query that the run does not answer counts as not found.
    """
    queries = tuple(query for query, gains in qrels.items() if any(gain > 0 for gain in gains.values()))
    if not queries:
        raise EvaluationError("The qrels name nothing relevant to any query.")
    if not any(query in run for query in queries):
        raise EvaluationError("The run answers none of the queries of the qrels: the two do not belong together.")
    ranks, gains, starts = [], [], [0]
    for query in queries:
        scores = run.get(query, {})
        if any(score != score for score in scores.values()):
            raise EvaluationError(f"A score of query {query} is not a number.")
        relevant = {document: gain for document, gain in qrels[query].items() if gain > 0}
        others = np.sort([score for document, score in scores.items() if document not in relevant])
        found = sorted((d for d in relevant if d in scores), key=lambda d: (-scores[d], relevant[d]))
        for position, document in enumerate(found):
            ranks.append(position + 1 + len(others) - int(np.searchsorted(others, scores[document])))
            gains.append(relevant[document])
        for document in relevant:
            if document not in scores:
                ranks.append(NOT_FOUND)
                gains.append(relevant[document])
        starts.append(len(ranks))
    return queries, Ranks(np.array(ranks, np.int64), np.array(starts, np.int64)), np.array(gains, np.float64)


def _lines(path: Path, columns: int, form: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                parts = line.split()
                if parts and len(parts) != columns:
                    raise EvaluationError(f"Line {number} of {path} has {len(parts)} columns, not {columns}: {form}.")
                if parts:
                    yield number, parts
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text, so it is no file of TREC's.") from error
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}.") from error


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EvaluationError(f"Line {line} of {path} has {text!r} where a number belongs.") from None
