"""`mmsearch eval` as a person runs it, over data/photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmsearch.encoders import DEFAULT_ENCODER
from tests.e2e.test_cli import call
from tests.support import PHOTOS

CAPTIONS = str(PHOTOS / "captions.jsonl")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eval-home")


def test_an_encoder_on_a_corpus(home: Path, tmp_path: Path) -> None:
    sheet, trec = tmp_path / "s.html", tmp_path / "t"
    done = call(home, "eval", CAPTIONS, "--worst", "2", "--sheet", str(sheet), "--trec", str(trec))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"captions.jsonl; 87 pictures, 174 captions; {DEFAULT_ENCODER}; ")
    assert lines[1].split() == ["text→image", "image→text", "text→text"]
    assert [line.split()[0] for line in lines[2:5]] == ["queries", "candidates", "R@1"]
    assert sum(line.startswith("text→image  rank ") for line in lines) == 2
    assert sheet.stat().st_size > 10_000
    assert {path.name for path in trec.iterdir()} >= {"text-image.run", "text-image.qrels"}
    files = ["--run", str(trec / "text-image.run"), "--qrels", str(trec / "text-image.qrels")]
    again = call(home, "eval", *files, "--json")
    figures = {metric["name"]: metric["value"] for metric in json.loads(again.stdout)["directions"][0]["metrics"]}
    report = json.loads(call(home, "eval", CAPTIONS, "--json").stdout)
    assert figures["R@5"] == pytest.approx(report["directions"][0]["metrics"][1]["value"])
    assert figures["R@5"] > 0.8


def test_a_collection_and_its_index(home: Path) -> None:
    assert call(home, "index", str(PHOTOS), CAPTIONS, "-q").returncode == 0
    done = call(home, "eval", "--collection", "default")
    assert done.returncode == 0, done.stderr
    assert "recall@10 of Flat over image vectors, text queries: 1.0000 (174 queries)" in done.stdout
    assert "whole query, text→image: p50 " in done.stdout
    compared = call(home, "eval", CAPTIONS, "--compare", "compact", "default", "--direction", "text-image", "--json")
    (one,) = json.loads(compared.stdout)
    assert one["queries"] == 174
    assert one["differences"][0]["p"] > 0.5, "exact search finds what scoring everything finds"
    told = call(home, "eval", CAPTIONS, "--compare", "compact", "default", "--direction", "text-image")
    assert told.stdout.splitlines()[1].split()[:2] == ["A", "B"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "what to evaluate on"),
        (["nothing.tar"], "is not there"),
        ([CAPTIONS, "--direction", "up-down"], "There is no direction 'up-down'"),
        ([CAPTIONS, "--encoder", "klip"], "no encoder 'klip'"),
        (["--run", "x.run"], "--qrels FILE"),
        (["--qrels", "x.qrels"], "--run FILE"),
        (["--run", "x.run", "--qrels", "x.qrels"], "x.run cannot be read"),
        ([CAPTIONS, "--images", "/nowhere"], "no folder /nowhere"),
        ([CAPTIONS, "--compare", "compact", "klip"], "no encoder 'klip'"),
        ([CAPTIONS, "--compare", "compact", "./nope"], "No collection yet"),
        ([CAPTIONS, "--compare", "compact", "compact", "--worst", "3"], "leave it out with --run and --compare"),
        ([CAPTIONS, "--sheet", "."], "name a file for --sheet"),
        ([CAPTIONS, "--split", "val"], "no splits"),
        (["--run", "x.run", "--qrels", "x.qrels", "--encoder", "compact"], "with --qrels alone"),
        (["--collection", "default", "--images", "."], "name the corpus as well"),
    ],
)
def test_errors_are_one_sentence(home: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = call(home, "eval", *arguments, cwd=tmp_path)
    assert done.returncode > 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_tables_are_indexed_with_their_columns_named(home: Path, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("name,words\nred-car.jpg,a fast red car\ntabby-cat.jpg,a cat at home\n")
    wrong = call(home, "index", str(table), "--caption-column", "text", "--collection", "tables")
    assert wrong.returncode == 13
    assert "it has 'name', 'words'" in wrong.stderr
    options = ["--images", str(PHOTOS), "--image-column", "name", "--caption-column", "words"]
    assert call(home, "index", str(table), *options, "--collection", "tables", "-q").returncode == 0
    found = call(home, "query", "a cat", "-t", "text", "-k", "1", "--collection", "tables", "--json")
    assert json.loads(found.stdout)["hits"][0]["text"] == "a cat at home"
    again = json.loads(call(home, "index", "--collection", "tables", "--json").stdout)
    assert (again["kept"], again["deleted"]) == (4, 0)
