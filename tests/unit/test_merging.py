"""Merging collections: nothing is embedded again, nothing is lost or doubled, foreign encoders are refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.merging import merge
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionError, EncoderMismatch
from mmsearch.types import Modality
from tests.support import ToyEncoder, make_folder, picture, run


def parts(tmp_path: Path, toy: ToyEncoder) -> tuple[Path, Path]:
    """Return two collections, of pictures 0 … 29 and 20 … 49 in two folders, with captions."""
    for name, first in (("a", 0), ("b", 20)):
        make_folder(tmp_path / name, 30, first=first)
        (tmp_path / name / f"p{first:04d}.txt").write_text(f"picture {first}")
        run(tmp_path / f"c-{name}", toy, tmp_path / name)
    return tmp_path / "c-a", tmp_path / "c-b"


def test_nothing_is_embedded_again_and_copies_share_a_vector(tmp_path: Path, toy: ToyEncoder) -> None:
    a, b = parts(tmp_path, toy)
    embedded = (toy.images, toy.texts)
    with Collection.create(tmp_path / "c", toy.spec) as target, Collection.open(a) as one, Collection.open(b) as other:
        report = merge(target, [one, other])
        assert (report.added, report.changed, report.kept) == (62, 0, 0)
        assert verify(target).problems == ()
        info = target.info()
        assert info.modalities[Modality.IMAGE].items == 60
        assert info.modalities[Modality.IMAGE].vectors == 50, "pictures 20 … 29 are in both"
        assert {root.path for root in info.roots} == {str(tmp_path / "a"), str(tmp_path / "b")}
        again = merge(target, [one, other])
        assert (again.added, again.changed, again.kept) == (0, 0, 62)
    assert (toy.images, toy.texts) == embedded
    with SearchEngine(Collection.open(tmp_path / "c"), toy) as engine, SearchEngine(Collection.open(b), toy) as source:
        for number in (3, 25, 49):
            hit = engine.search(image=picture(number), k=1)[0]
            assert hit.similarity == pytest.approx(1.0, abs=2e-3)
        assert engine.search("picture 20", target="text", k=1)[0].item.text == "picture 20"
        here, there = (e.search(image=picture(45), k=1)[0].similarity for e in (engine, source))
        np.testing.assert_array_equal(here, there)
    report = run(tmp_path / "c", toy)
    assert (report.kept, report.added, report.deleted) == (62, 0, 0), "and it goes on as if it had been indexed here"


def test_the_later_look_at_a_file_counts(tmp_path: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "a"
    make_folder(folder, 3)
    run(tmp_path / "old", toy, folder)
    time.sleep(0.01)
    picture(77).save(folder / "p0001.png")
    run(tmp_path / "new", toy, folder)
    with Collection.open(tmp_path / "old") as old, Collection.open(tmp_path / "new") as new:
        assert merge(old, [new]).changed == 3
        assert verify(old).problems == ()
    with SearchEngine(Collection.open(tmp_path / "old"), toy) as engine:
        assert engine.search(image=picture(77), k=1)[0].similarity == pytest.approx(1.0, abs=2e-3)
        assert engine.info().modalities[Modality.IMAGE].vectors == 3
    with Collection.open(tmp_path / "old") as old, Collection.open(tmp_path / "new") as new:
        assert merge(new, [old]).kept == 3


def test_what_cannot_be_merged_is_refused(tmp_path: Path, toy: ToyEncoder) -> None:
    a, _ = parts(tmp_path, toy)
    with Collection.create(tmp_path / "c", ToyEncoder("toy:other").spec) as target, Collection.open(a) as source:
        with pytest.raises(EncoderMismatch, match="only collections of one encoder"):
            merge(target, [source])
        with pytest.raises(CollectionError, match="into itself"):
            merge(source, [source])
