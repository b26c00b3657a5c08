"""`evaluate`: an encoder alone and a collection through its index, on corpora made for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import EncoderMismatch, EvaluationError, QueryError, SourceError
from mmsearch.evaluation.dataset import Direction, load_eval_set, make_tasks
from mmsearch.evaluation.runner import Evaluation, compare_evaluations, compare_runs, evaluate, evaluate_run
from mmsearch.evaluation.sheet import write_sheet
from mmsearch.evaluation.systems import CollectionSystem
from mmsearch.types import Float32, UInt8
from tests.support import ToyEncoder, make_folder, run

COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus of 40 pictures with two captions each; every fourth has a label of its own kind."""
    folder = tmp_path / "corpus"
    make_folder(folder, 40)
    lines = [
        {"image": f"p{n:04d}.png", "captions": [f"picture {n}", f"{COLOURS[n % 6]} number {n}"], "label": n % 4}
        for n in range(40)
    ]
    (folder / "c.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder / "c.jsonl"


class Oracle(ToyEncoder):
    """An encoder that knows which picture belongs to a caption, and confuses some."""

    def __init__(self, wrong: Sequence[int] = ()) -> None:
        super().__init__(f"toy:oracle-{len(wrong)}")
        self._wrong = set(wrong)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        from tests.support import picture

        self.texts += len(texts)
        rows = []
        for text in texts:
            number = int(text.split()[-1])
            shown = (number + 1) % 40 if number in self._wrong else number
            rows.append(ToyEncoder().encode_images(self.prepare_image(picture(shown))[None])[0])
        return np.stack(rows) if rows else super().encode_texts([])


def test_an_encoder_alone(corpus: Path) -> None:
    report = evaluate(corpus, encoder=Oracle(wrong=range(10))).report(worst=3)
    assert (report.pictures, report.captions, len(report.unread)) == (40, 80, 0)
    assert [one.direction for one in report.directions] == ["text→image", "image→text", "text→text", "image→image"]
    text_image = report["text→image"]
    assert (text_image.queries, text_image.candidates) == (80, 40)
    assert text_image["R@1"] == 0.75
    assert text_image["R@10"] > 0.75
    assert report["text→text"].candidates == 79
    assert report["image→image"].queries == 40
    assert all(metric.low <= metric.value <= metric.high for one in report.directions for metric in one.metrics)
    worst = [failure for failure in report.worst if failure.direction is Direction.TEXT_IMAGE]
    assert len(worst) == 3
    assert all(failure.rank is not None and failure.rank > 1 for failure in worst)
    assert worst[0].relevant[0].endswith(".png")
    assert not worst[0].found[0].relevant
    with pytest.raises(KeyError):
        report["text→sound"]


def test_vectors_are_kept_by_fingerprint(corpus: Path, home: Path) -> None:
    first, again, other = Oracle(), Oracle(), Oracle(wrong=[1])
    for encoder in (first, again, other):
        evaluate(corpus, encoder=encoder)
    assert (first.texts, again.texts, other.texts) == (80, 0, 80)
    assert (first.images, again.images) == (40, 0)
    kept = list((home / "cache" / "evaluation").glob("*.npy"))
    assert len(kept) == 4
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])  # a disk that was full
    assert evaluate(corpus, encoder=Oracle()).report()["text→image"]["R@1"] == 1.0
    uncached = Oracle()
    evaluate(corpus, encoder=uncached, cache=False)
    assert uncached.texts == 80


def test_pictures_that_cannot_be_read_are_left_out_with_their_captions(corpus: Path) -> None:
    (corpus.parent / "p0003.png").write_bytes(b"no picture")
    (corpus.parent / "p0004.png").unlink()
    report = evaluate(corpus, encoder=Oracle()).report()
    assert (report.pictures, report.captions, len(report.unread)) == (38, 76, 2)
    assert report["text→image"]["R@1"] == 1.0
    for path in corpus.parent.glob("*.png"):
        path.unlink()
    with pytest.raises(EvaluationError, match=r"None of the 40 pictures .* --images"):
        evaluate(corpus, encoder=Oracle())


def test_directions_and_limits(corpus: Path) -> None:
    report = evaluate(corpus, encoder=Oracle(), directions=[Direction.IMAGE_TEXT], limit=5).report()
    assert [(one.direction, one.queries, one.candidates) for one in report.directions] == [("image→text", 5, 10)]
    data = load_eval_set(corpus, CorpusOptions(captions_only=True))
    assert [task.direction for task in make_tasks(data)] == [Direction.TEXT_TEXT], "by their labels"
    with pytest.raises(EvaluationError, match="direction image→text"):
        make_tasks(data, [Direction.IMAGE_TEXT])


def test_a_collection_through_its_index(corpus: Path, place: Path) -> None:
    run(place, Oracle(wrong=range(10)), corpus)
    engine = mmsearch.SearchEngine(mmsearch.Collection.open(place), Oracle(wrong=range(10)))
    exact = evaluate(corpus, encoder=Oracle(wrong=range(10))).report()
    evaluation = Evaluation(CollectionSystem(engine, load_eval_set(corpus, CorpusOptions())))
    report = evaluation.report(worst=2)
    for one in report.directions:
        for metric, other in zip(one.metrics, exact[one.direction].metrics, strict=True):
            assert metric.value == pytest.approx(other.value, abs=0.02), (one.direction, metric.name)
    assert {(found.query, found.target) for found in report.recall} == {
        (query, target) for query in ("text", "image") for target in ("text", "image")
    }
    assert all(found.recall_at_10 == 1.0 for found in report.recall), "exact search"
    assert all(0 < one.p50 <= one.p95 <= one.p99 for one in report.latency)
    assert [one.what for one in report.latency][-1] == "whole query, text→image"
    assert report.worst[0].found
    engine.close()


def test_a_collection_by_its_own_captions(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_folder(folder, 12)
    for n in range(12):
        (folder / f"p{n:04d}.txt").write_text(f"picture {n}")
    mmsearch.index([folder], collection=tmp_path / "c")
    report = evaluate(collection=tmp_path / "c").report()
    assert (report.pictures, report.captions) == (12, 12)
    assert report["image→text"].queries == 12
    assert report.system == str(tmp_path / "c")
    assert evaluate(collection=tmp_path / "c", encoder="compact").report().pictures == 12
    with pytest.raises(EncoderMismatch):
        evaluate(collection=tmp_path / "c", encoder=Oracle())


def test_a_corpus_that_is_not_in_the_collection_is_told(corpus: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "others", 2, first=100)
    mmsearch.index([tmp_path / "others"], collection=tmp_path / "c")
    with pytest.raises(EvaluationError, match=r"holds nothing of c\.jsonl: run 'mmsearch index'"):
        evaluate(corpus, collection=tmp_path / "c")
    with pytest.raises(EvaluationError, match="no captioned pictures"):
        evaluate(collection=tmp_path / "c")


def test_two_encoders_are_compared_on_the_same_queries(corpus: Path) -> None:
    worse, better = (evaluate(corpus, encoder=Oracle(wrong=range(n))) for n in (30, 5))
    compared = {one.direction: one for one in compare_evaluations(worse, better)}
    recall = compared["text→image"].differences[0]
    assert (recall.name, recall.a, recall.b) == ("R@1", 0.25, 0.875)
    assert recall.difference == pytest.approx(0.625)
    assert recall.low > 0
    assert recall.p < 0.001
    same = compare_evaluations(worse, worse)[0].differences[0]
    assert (same.difference, same.p) == (0.0, 1.0)


def test_runs_that_were_written_give_the_same_figures(corpus: Path, tmp_path: Path) -> None:
    evaluation = evaluate(corpus, encoder=Oracle(wrong=range(10)))
    evaluation.write_trec(tmp_path / "trec")
    report = evaluation.report()
    for name, direction in (("text-image", "text→image"), ("image-text", "image→text")):
        again = evaluate_run(tmp_path / "trec" / f"{name}.run", tmp_path / "trec" / f"{name}.qrels")
        for metric, other in zip(again.directions[0].metrics, report[direction].metrics, strict=True):
            assert metric.value == pytest.approx(other.value, abs=1e-6), metric.name
    run_file, qrels = tmp_path / "trec" / "text-image.run", tmp_path / "trec" / "text-image.qrels"
    (compared,) = compare_runs(run_file, run_file, qrels)
    assert compared.differences[0].p == 1.0


def test_the_sheet_shows_what_went_wrong(corpus: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in corpus.read_text().splitlines()]
    lines[3]["captions"] = ["<b>a & b</b> 3"]
    corpus.write_text("\n".join(json.dumps(line) for line in lines))
    report = evaluate(corpus, encoder=Oracle(wrong=[3])).report(worst=2)
    write_sheet(report, tmp_path / "out" / "sheet.html")
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert "&lt;b&gt;a &amp; b&lt;/b&gt; 3" in page
    assert "<b>a" not in page
    assert page.count("data:image/jpeg;base64,") > 5
    assert "http" not in page
    assert "p0003.png" in page


@pytest.mark.parametrize("name", ["nothing.tar", "folder", "a.pdf"])
def test_what_cannot_be_evaluated_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.pdf").touch()
    with pytest.raises(SourceError, match=r"not there|no corpus"):
        evaluate(tmp_path / name, encoder=Oracle())
    with pytest.raises(QueryError, match="what to evaluate on"):
        evaluate(encoder=Oracle())


class Broken(Oracle):
    """An encoder whose vectors are no numbers now and then."""

    def encode_images(self, pixels: UInt8) -> Float32:
        rows = super().encode_images(pixels)
        rows[1::2] = np.nan
        return rows


def test_a_vector_that_is_no_number_is_an_error_and_is_not_kept(corpus: Path) -> None:
    with pytest.raises(EvaluationError, match=r"vector of .*png.* finite"):
        evaluate(corpus, encoder=Broken())
    assert evaluate(corpus, encoder=Oracle()).report()["text→image"]["R@1"] == 1.0


def test_a_disk_that_fails_once_is_asked_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmsearch.evaluation import embed

    whole = embed.open_place

    def failing(place: str) -> object:
        if place.endswith("p0007.png"):
            raise OSError(5, "Input/output error")
        return whole(place)

    monkeypatch.setattr(embed, "open_place", failing)
    assert evaluate(corpus, encoder=Oracle()).report().unread == (str(corpus.with_name("p0007.png")),)
    monkeypatch.undo()
    assert evaluate(corpus, encoder=Oracle()).report().unread == ()


def test_copies_and_shared_captions_are_one_candidate_in_a_collection(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "corpus"
    make_folder(folder, 6)
    (folder / "p0005.png").write_bytes((folder / "p0004.png").read_bytes())
    lines = [{"image": f"p{n:04d}.png", "captions": [f"picture {min(n, 4)}", "a thing 0"]} for n in range(6)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run(place, Oracle(), folder / "c.jsonl")
    with mmsearch.SearchEngine(mmsearch.Collection.open(place), Oracle()) as engine:
        report = Evaluation(CollectionSystem(engine, load_eval_set(folder / "c.jsonl", CorpusOptions()))).report()
    assert report["image→text"].candidates == 6, "five captions of their own, and the one that all share"
    assert report["text→image"].candidates == 5
    assert report["image→text"]["R@1"] == 1.0
    alone = evaluate(folder / "c.jsonl", encoder=Oracle()).report()
    assert alone["text→image"]["R@1"] < report["text→image"]["R@1"], (
        "a copy ties with the picture, which counts against"
    )


def test_what_the_collection_lacks_is_told_and_stored_vectors_serve(corpus: Path, place: Path) -> None:
    part = corpus.with_name("part.jsonl")
    part.write_text("\n".join(corpus.read_text().splitlines()[:10]))
    run(place, Oracle(), part)
    for path in corpus.parent.glob("*.png"):
        path.unlink()
    encoder = Oracle()
    with mmsearch.SearchEngine(mmsearch.Collection.open(place), encoder) as engine:
        report = Evaluation(CollectionSystem(engine, load_eval_set(corpus, CorpusOptions()))).report()
    assert (report.pictures, report.absent) == (10, 30)
    assert report["text→image"]["R@1"] == 1.0
    assert encoder.images == 0


def test_captions_are_the_same_query_whatever_their_order(corpus: Path) -> None:
    reverse = corpus.with_name("reverse.jsonl")
    reverse.write_text("\n".join(reversed(corpus.read_text().splitlines())))
    a, b = (evaluate(path, encoder=Oracle(wrong=range(10))) for path in (corpus, reverse))
    for one in compare_evaluations(a, b):
        assert all((d.difference, d.low, d.high) == (0.0, 0.0, 0.0) for d in one.differences), one.direction


def test_an_encoder_and_its_collection_do_not_differ(corpus: Path, place: Path) -> None:
    run(place, Oracle(wrong=range(20)), corpus)
    with mmsearch.SearchEngine(mmsearch.Collection.open(place), Oracle(wrong=range(20))) as engine:
        through = Evaluation(CollectionSystem(engine, load_eval_set(corpus, CorpusOptions()), depth=5))
        alone = evaluate(corpus, encoder=Oracle(wrong=range(20)))
        compared = {one.direction: one for one in compare_evaluations(alone, through)}
        report = through.report()
    assert all(difference.p == 1.0 for difference in compared["text→image"].differences)
    assert report["text→image"].depth == 5


def test_large_classes_are_sampled(monkeypatch: pytest.MonkeyPatch, corpus: Path) -> None:
    from mmsearch.evaluation import dataset

    monkeypatch.setattr(dataset, "_MOST_PAIRS", 100)
    (task,) = make_tasks(load_eval_set(corpus, CorpusOptions()), [Direction.IMAGE_IMAGE])
    assert 5 <= len(task.queries) <= 10
    assert len(task.relevance.items) == 9 * len(task.queries)


def test_a_corpus_that_repeats_itself_counts_once(tmp_path: Path) -> None:
    make_folder(tmp_path, 1)
    (tmp_path / "a.csv").write_text("image,caption\np0000.png,a dog\np0000.png,a dog\np0000.png,a cat\n")
    assert load_eval_set(tmp_path / "a.csv", CorpusOptions()).captions == ("a dog", "a cat")
