"""`mmsearch train` as a person runs it: a new encoder, its figures, and a search with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmsearch.encoders import DEFAULT_ENCODER
from tests.e2e.test_cli import call, found
from tests.shapes import draw_corpus
from tests.support import SHIPPED

pytest.importorskip("torch", reason="needs the extra [train]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train-home")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of 300 drawn pictures, of which one is damaged."""
    path = draw_corpus(tmp_path_factory.mktemp("shapes"), 300)
    (path.parent / "0003.png").write_text("no picture")
    return path


@pytest.mark.slow
def test_train_index_and_query(home: Path, corpus: Path) -> None:
    done = call(home, "train", str(corpus), "--name", "shapes", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "left out" in line] == [
        f"  left out: {corpus.parent}/0003.png"
    ]
    head, columns, *rows = done.stdout.splitlines()
    assert head.startswith(f"{DEFAULT_ENCODER}, learned from 224 pictures and 224 captions, best of ")
    assert "; held out 50 and 50; " in head
    assert columns.split() == ["before", "after", "change", "(95", "%)"]
    assert [row.split()[:2] for row in rows[:6]] == [
        [direction, metric] for direction in ("text→image", "image→text") for metric in ("R@1", "R@5", "R@10")
    ]
    assert rows[6].startswith("It helped: on 50 held-out pictures recall@5 went from ")
    assert rows[7] == f"tuned:shapes is in {home}/encoders/shapes; use it: mmsearch index FOLDER --encoder tuned:shapes"

    index = call(home, "index", str(corpus.parent), "--encoder", "tuned:shapes", "-q")
    assert index.returncode == 0, index.stderr
    records = [json.loads(line) for line in corpus.read_text().splitlines()[10:14]]
    hits = [call(home, "query", record["captions"][0], "-k", "10", "--json") for record in records]
    assert sum(record["image"] in found(done) for record, done in zip(records, hits, strict=True)) >= 3

    again = call(home, "train", str(corpus), "--name", "again", "--epochs", "1", "--keep", "--json")
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["uri"], report["epochs"], report["folder"]) == ("tuned:again", 1, f"{home}/encoders/again")
    assert report["verdict"]["before"][0]["direction"] == "text→image"


@pytest.mark.slow
def test_train_a_reranker_and_query_with_it(home: Path, corpus: Path) -> None:
    """Whether it learns is tested elsewhere: one epoch is too short."""
    done = call(home, "train", str(corpus), "--reranker", "--name", "above", "--epochs", "1", "--keep")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.startswith(f"{DEFAULT_ENCODER}, learned from 224 pictures and 224 captions, best of ")
    assert rows[-1].startswith(f"cross_attention:above is in {home}/rerankers/above; use it: mmsearch query ")

    index = call(home, "index", str(corpus.parent), "--collection", "shapes", "-q")
    assert index.returncode == 0, index.stderr
    query = json.loads(corpus.read_text().splitlines()[10])["captions"][0]
    own, shipped, named = (
        json.loads(call(home, "query", query, "--collection", "shapes", "--json", *more).stdout)["hits"]
        for more in (
            ["--reranker", "cross_attention:above"],
            ["--rerank"],
            ["--reranker", f"cross_attention:{SHIPPED}"],
        )
    )
    assert shipped == named, "--rerank takes the one that ships"
    assert own[0]["rerank_score"] != shipped[0]["rerank_score"]
    told = call(
        home, "explain", query, str(corpus.parent / "0010.png"), "--reranker", "cross_attention:above", "--json"
    )
    assert len(json.loads(told.stdout)["words"]) == len(query.split())
