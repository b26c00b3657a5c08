"""Ranks and metrics: against ranx, ir-measures and worked examples; ties, chance, intervals, tests."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pytest
import ranx

from mmsearch.errors import EvaluationError
from mmsearch.evaluation.metrics import MEDIAN, NAMES, compare, per_query, summarise
from mmsearch.evaluation.ranks import NOT_FOUND, Ranks, Relevance, rank_all, rank_found
from mmsearch.evaluation.trec import document_id, rank_run, read_qrels, read_run, write_qrels, write_run


def units(rows: int, dim: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def random_case(seed: int, most: int) -> tuple[np.ndarray, np.ndarray, Relevance]:
    rng = np.random.default_rng(seed)
    lists = [rng.choice(60, size=rng.integers(1, most + 1), replace=False).tolist() for _ in range(40)]
    return units(40, 8, seed), units(60, 8, seed + 100), Relevance.of(lists)


def as_dicts(queries: np.ndarray, candidates: np.ndarray, relevance: Relevance) -> tuple[dict, dict]:
    scores = queries @ candidates.T
    run = {f"q{i:03}": {f"d{j}": float(score) for j, score in enumerate(row)} for i, row in enumerate(scores)}
    qrels = {f"q{i:03}": {f"d{j}": 1 for j in relevance.to(i).tolist()} for i in range(len(relevance))}
    return run, qrels


RANX = {
    **{f"R@{k}": f"hit_rate@{k}" for k in (1, 5, 10)},
    **{f"precision@{k}": f"precision@{k}" for k in (1, 5, 10)},
    **{f"F1@{k}": f"f1@{k}" for k in (1, 5, 10)},
    "MRR": "mrr",
    "nDCG@10": "ndcg@10",
    "MAP": "map",
}
IR_MEASURES = {"precision@5": "P@5", "R@5": "Success@5", "MRR": "RR", "nDCG@10": "nDCG@10", "MAP": "AP"}


@pytest.mark.parametrize(("seed", "most"), [(0, 1), (1, 5), (2, 40)])
def test_metrics_are_those_of_ranx_and_ir_measures(seed: int, most: int) -> None:
    queries, candidates, relevance = random_case(seed, most)
    values = per_query(rank_all(queries, candidates, relevance))
    assert tuple(values) == NAMES
    run, qrels = as_dicts(queries, candidates, relevance)
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(RANX.values()), return_mean=False)
    for name, other in RANX.items():
        np.testing.assert_allclose(values[name], theirs[other], atol=1e-9, err_msg=name)
    measures = [ir_measures.parse_measure(name) for name in IR_MEASURES.values()]
    means = ir_measures.calc_aggregate(measures, qrels, run)
    for name, other in IR_MEASURES.items():
        assert values[name].mean() == pytest.approx(means[ir_measures.parse_measure(other)], abs=1e-6), name


def test_graded_ndcg_is_that_of_ranx(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    run = {f"q{i}": {f"d{j}": float(rng.random()) for j in range(30)} for i in range(20)}
    qrels = {f"q{i}": {f"d{j}": int(rng.integers(1, 4)) for j in rng.choice(40, 6, replace=False)} for i in range(20)}
    _, ranks, gains = rank_run(run, qrels)
    ours = per_query(ranks, gains=gains)["nDCG@10"].mean()
    assert ours == pytest.approx(ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), "ndcg@10"), abs=1e-9)


def test_recall_is_that_of_clip_benchmark_on_a_worked_example() -> None:
    """Two captions each for three pictures; recall@k is 1 when any of a picture's captions is among the first k.

    CLIP_benchmark, zeroshot_retrieval.py: `recall_at_k` of the score matrix, `> 0`, then the mean.
    """
    images = np.eye(3, dtype=np.float32)
    texts = np.array(
        [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.7, 0.3, 0], [0, 0.6, 0.5], [0.05, 0, 0.95]], np.float32
    )
    scores = texts @ images.T
    owner = [0, 0, 1, 1, 2, 2]
    for k in (1, 2):
        expected = np.mean([owner[i] in np.argsort(-row)[:k] for i, row in enumerate(scores)])
        ranks = rank_all(texts, images, Relevance.of([[o] for o in owner]))
        assert (ranks.first <= k).mean() == expected
    ranks = rank_all(images, texts, Relevance.of([[0, 1], [2, 3], [4, 5]]))
    assert per_query(ranks)["R@1"].tolist() == [1, 1, 1], "any of its captions counts"
    assert ranks.ranks.tolist() == [1, 3, 1, 4, 1, 2]


@pytest.mark.parametrize("most", [1, 5, 40])
def test_a_constant_encoder_scores_nothing_and_a_random_one_scores_at_chance(most: int) -> None:
    _, _, relevance = random_case(3, most)
    same = np.repeat(units(1, 64, 0), 60, axis=0)
    constant = per_query(rank_all(same[:40], same, relevance))
    counts = np.diff(relevance.starts)
    assert constant["R@1"].sum() == 0
    np.testing.assert_array_equal(constant[MEDIAN], 60 - counts + 1)
    rows = np.random.default_rng(1).integers(0, 60, 4000)
    random = per_query(rank_all(units(4000, 32, 7), units(60, 32, 8), Relevance.of([[row] for row in rows])))
    assert random["R@10"].mean() == pytest.approx(10 / 60, abs=0.03)
    assert random[MEDIAN].mean() == pytest.approx(30.5, abs=1.5)


def test_ties_count_against() -> None:
    queries = np.ones((1, 1), np.float32)
    candidates = np.array([[0.5], [0.5], [0.9], [0.5 - 1e-8]], np.float32)
    assert rank_all(queries, candidates, Relevance.of([[0]])).ranks.tolist() == [4]
    assert rank_all(queries, candidates, Relevance.of([[0, 1]])).ranks.tolist() == [3, 4]
    _, ranks, _ = rank_run({"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, {"q": {"a": 1.0}})
    assert ranks.ranks.tolist() == [3]
    found = rank_found(np.array([[7, 3, 5, -1]]), np.array([[0.9, 0.5, 0.5, -np.inf]], np.float32), Relevance.of([[3]]))
    assert found.ranks.tolist() == [3]


def test_what_was_not_retrieved_has_no_rank() -> None:
    ids = np.array([[4, 2, 9], [1, -1, -1]])
    scores = np.array([[0.9, 0.8, 0.7], [0.3, -np.inf, -np.inf]], np.float32)
    ranks = rank_found(ids, scores, Relevance.of([[2, 11], [5]]))
    assert ranks.ranks.tolist() == [2, NOT_FOUND, NOT_FOUND]
    values = per_query(ranks)
    assert values["MRR"].tolist() == [0.5, 0.0]
    assert values["MAP"].tolist() == [0.25, 0.0]
    assert values["R@10"].tolist() == [1.0, 0.0]


def test_found_and_scored_ranks_agree() -> None:
    queries, candidates, relevance = random_case(9, 6)
    scores = queries @ candidates.T
    order = np.argsort(-scores, axis=1)
    found = rank_found(order, np.take_along_axis(scores, order, axis=1), relevance)
    np.testing.assert_array_equal(found.ranks, rank_all(queries, candidates, relevance).ranks)


def test_a_query_is_not_its_own_answer() -> None:
    rows = units(10, 4, 0)
    relevance = Relevance.of([[(i + 1) % 10] for i in range(10)])
    ranks = rank_all(rows, rows, relevance, own=np.arange(10))
    scores = rows @ rows.T
    np.fill_diagonal(scores, -9)
    expected = [int((scores[i] >= scores[i, (i + 1) % 10]).sum()) for i in range(10)]
    assert ranks.ranks.tolist() == expected


def test_a_score_that_is_no_number_is_an_error() -> None:
    rows = units(5, 4, 0)
    broken = rows.copy()
    broken[3, 1] = np.nan
    with pytest.raises(EvaluationError, match="query 4 are not finite"):
        rank_all(broken, rows, Relevance.of([[0]] * 5))
    with pytest.raises(EvaluationError, match="not a number"):
        rank_run({"q": {"a": float("nan")}}, {"q": {"a": 1.0}})


def test_intervals_cover_the_truth_and_grow_with_clusters() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        values = {"R@1": (rng.random(400) < 0.3).astype(np.float64), MEDIAN: rng.integers(1, 100, 400).astype(float)}
        rate, median = summarise(values, np.arange(400), seed=trial)
        covered += rate.low <= 0.3 <= rate.high
        assert rate.low <= rate.value <= rate.high
        assert median.low <= median.value <= median.high
    assert covered >= 51, "95 % of 60, less three standard deviations"
    repeated = np.repeat((rng.random(80) < 0.3).astype(np.float64), 5)
    alone, together = (summarise({"R@1": repeated}, c)[0] for c in (np.arange(400), np.repeat(np.arange(80), 5)))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_the_paired_test_finds_a_difference_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    a = {"R@1": (rng.random(500) < 0.3).astype(np.float64), MEDIAN: rng.integers(1, 50, 500).astype(np.float64)}
    better = {"R@1": np.maximum(a["R@1"], rng.random(500) < 0.1), MEDIAN: np.maximum(1, a[MEDIAN] // 2)}
    clusters = np.arange(500)
    for difference in compare(a, better, clusters):
        assert difference.p < 0.01
        assert difference.low * difference.high > 0, "the interval leaves out 0"
    for difference in compare(a, a, clusters):
        assert (difference.p, difference.difference) == (1.0, 0.0)
    shuffled = {name: rng.permutation(column) for name, column in a.items()}
    assert all(difference.p > 0.01 for difference in compare(a, shuffled, clusters))


def test_runs_and_qrels_come_back(tmp_path: Path) -> None:
    queries, candidates, relevance = random_case(4, 3)
    run, qrels = as_dicts(queries, candidates, relevance)
    ordered = [(q, sorted(row.items(), key=lambda pair: -pair[1])) for q, row in run.items()]
    write_run(tmp_path / "a.run", ordered)
    write_qrels(tmp_path / "a.qrels", [(q, list(row)) for q, row in qrels.items()])
    _, ranks, _ = rank_run(read_run(tmp_path / "a.run"), read_qrels(tmp_path / "a.qrels"))
    expected = rank_all(queries, candidates, relevance, tie=1e-6)
    np.testing.assert_array_equal(np.sort(ranks.ranks), np.sort(expected.ranks))
    theirs = ranx.Run.from_file(str(tmp_path / "a.run"), kind="trec")
    judged = ranx.Qrels.from_file(str(tmp_path / "a.qrels"), kind="trec")
    assert ranx.evaluate(judged, theirs, "map") == pytest.approx(per_query(ranks)["MAP"].mean(), abs=1e-4)
    assert " " not in document_id("a b\tc\n/ü.jpg")


@pytest.mark.parametrize("text", ["q1 Q0 d1 1 0.5", "q1 Q0 d1 1 high tag", "\xff"])
def test_files_that_are_no_runs_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.run").write_bytes(text.encode("latin-1"))
    with pytest.raises(EvaluationError, match=r"bad\.run"):
        read_run(tmp_path / "bad.run")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_qrels(tmp_path / "nothing")


def test_ranks_know_their_first() -> None:
    ranks = Ranks(np.array([2, 5, 1], np.int64), np.array([0, 2, 3], np.int64))
    assert ranks.first.tolist() == [2, 1]
