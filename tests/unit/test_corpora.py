"""Captions beside pictures and in corpora, and whose a picture is that several sources name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from tests.support import ToyEncoder, age, plain, run, uris


def test_sidecars_become_captions_of_their_pictures(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "captioned"
    folder.mkdir()
    plain("red").save(folder / "a.jpg")
    plain("blue").save(folder / "a.png")
    plain("green").save(folder / "b.png")
    plain("white").save(folder / "c.png")
    (folder / "a.txt").write_text("shared by both\n")
    (folder / "a.jpg.txt").write_text("a red one\n\n  second   line \n")
    (folder / "b.json").write_text(json.dumps({"captions": ["a green one", ""]}))
    (folder / "c.json").write_text(json.dumps({"title": "of another program"}))
    (folder / "c.txt").write_bytes(b"\xff\xfe\xfd")
    report = run(place, toy, folder)
    assert report.added == 4 + 2 + 2 + 1
    assert [Path(failed.key).name for failed in report.failed] == ["c.txt"]
    with SearchEngine(Collection.open(place), toy) as engine:
        red = engine.search("red", k=1)[0].item
        assert red.captions == ("shared by both", "a red one", "second line")
        hits = engine.search("a green one", target="text", k=1)
        assert (hits[0].item.text, Path(hits[0].item.uri).name) == ("a green one", "b.png")
    (folder / "a.txt").write_text("changed\n")
    report = run(place, toy, folder)
    assert (report.changed, report.added, report.deleted) == (2, 0, 0)
    (folder / "b.json").unlink()
    assert run(place, toy, folder).deleted == 1


def test_jsonl_corpus_and_folder_share_their_pictures(photos: Path, place: Path, toy: ToyEncoder) -> None:
    corpus = photos / "captions.jsonl"
    lines = [
        {"image": "p0000.png", "captions": ["first", "second"]},
        {"image": "p0001.png", "caption": "third"},
        {"text": "a text of its own"},
        {"image": "missing.png", "captions": ["of nothing"]},
        {"picture": "p0002.png"},
    ]
    corpus.write_text("\n".join(json.dumps(line) for line in lines) + "\nno json\n")
    report = run(place, toy, photos, corpus)
    assert toy.images == 6
    assert (report.added, report.kept) == (6 + 5, 0)
    reasons = " ".join(failed.reason for failed in report.failed)
    assert len(report.failed) == 3
    assert 'neither "image" nor "text", only \'picture\'' in reasons
    assert "not JSON" in reasons
    assert "No such file" in reasons
    with SearchEngine(Collection.open(place), toy) as engine:
        assert engine.search(image=photos / "p0000.png", k=1)[0].item.captions == ("first", "second")
    corpus.write_text(json.dumps(lines[0]) + "\n")
    report = run(place, toy, photos, corpus)
    assert report.deleted == 3
    assert len(uris(place)) == 6


def test_corpus_does_not_open_pictures_that_a_folder_knows(photos: Path, place: Path, toy: ToyEncoder) -> None:
    age(photos)
    corpus = photos.parent / "captions.jsonl"
    corpus.write_text(json.dumps({"image": "photos/p0000.png", "captions": ["one"]}) + "\n")
    run(place, toy, photos, corpus)
    path = photos / "p0000.png"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = run(place, toy, corpus)
    assert (report.kept, report.failed) == (2, [])


def test_corpus_that_drops_a_picture_leaves_it_to_the_folder(photos: Path, place: Path, toy: ToyEncoder) -> None:
    corpus = photos.parent / "captions.jsonl"
    corpus.write_text(json.dumps({"image": "photos/p0000.png", "captions": ["one"]}) + "\n")
    run(place, toy, corpus)
    run(place, toy, photos)
    corpus.write_text(json.dumps({"text": "other"}) + "\n")
    run(place, toy, corpus)
    assert len(uris(place)) == 6
    assert toy.images == 6
    corpus.write_text("")
    run(place, toy, corpus)
    (photos / "p0000.png").unlink()
    assert run(place, toy, photos).deleted == 1
