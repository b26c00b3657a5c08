"""What must not happen while indexing: lost items, repeated work, one bad file that ends it all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from indexer import Progress
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import SourceError
from mmsearch.types import Modality
from tests.support import ToyEncoder, age, encoded, make_folder, picture, run, uris


def test_mass_deletion_is_held_back_until_confirmed(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder, 50)
    run(place, toy, folder)
    for path in paths[:40]:
        path.unlink()
    picture(500).save(folder / "new.png")
    report = run(place, toy, folder)
    assert (report.held_back, report.deleted, report.added) == (40, 0, 1)
    assert len(uris(place)) == 51
    make_folder(folder, 90, first=600)
    for _ in range(2):  # what is added meanwhile does not make them few
        assert run(place, toy, folder).held_back == 40
    for path in sorted(folder.glob("p06*.png")):
        path.unlink()
    assert run(place, toy, folder, allow_mass_delete=True).deleted == 130
    assert len(uris(place)) == 11
    make_folder(folder, 90, first=700)
    run(place, toy, folder)
    for path in sorted(folder.glob("p07*.png"))[:30]:
        path.unlink()
    assert run(place, toy, folder).deleted == 30, "what was held back once is forgotten when it is confirmed"


def test_missing_root_is_an_error_and_deletes_nothing(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    photos.rename(photos.with_name("elsewhere"))
    with pytest.raises(SourceError, match="not there"):
        run(place, toy, photos)
    report = run(place, toy)
    assert report.failed[0].key == str(photos)
    assert len(uris(place)) == 6


def test_unreadable_folder_deletes_nothing_below_it(
    photos: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(photos / "locked", 3, first=10)
    run(place, toy, photos)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = run(place, toy, photos)
    assert report.deleted == 0
    assert "Permission denied" in report.failed[0].reason
    assert len(uris(place)) == 9


def test_broken_picture_is_named_and_tried_again_only_when_it_changes(
    photos: Path, place: Path, toy: ToyEncoder
) -> None:
    (photos / "text.jpg").write_text("not a picture")
    whole = encoded(picture(50, (200, 200)), "JPEG")
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    age(photos)
    report = run(place, toy, photos)
    assert report.added == 6
    assert {Path(failed.key).name for failed in report.failed} == {"text.jpg", "cut.jpg", "empty.png"}
    assert run(place, toy, photos).skipped == 3
    (photos / "cut.jpg").write_bytes(whole)
    report = run(place, toy, photos)
    assert (report.added, report.skipped) == (1, 2)
    (photos / "text.jpg").unlink()
    (photos / "empty.png").unlink()
    run(place, toy, photos)
    with Collection.open(place) as opened:
        assert opened.info().failures == 0


def test_picture_that_becomes_unreadable_is_no_longer_found(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    (photos / "p0001.png").write_text("no picture any more")
    report = run(place, toy, photos)
    assert (report.deleted, len(report.failed)) == (1, 1)
    assert "p0001.png" not in uris(place)


def test_stop_keeps_what_is_done(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    make_folder(folder, 200)
    stop = threading.Event()

    class StopAfterTwoBatches(Progress):
        batches = 0

        def embedded(self, keys: object, modality: Modality) -> None:
            self.batches += 1
            if self.batches == 2:
                stop.set()

    report = run(place, toy, folder, stop=stop, progress=StopAfterTwoBatches())
    assert report.interrupted
    assert 32 <= report.added < 200
    done = report.added
    assert len(uris(place)) == done
    report = run(place, toy, folder)
    assert (report.added, report.kept) == (200 - done, done)
    assert toy.images == 200


def test_vector_that_is_not_finite_is_a_failure(photos: Path, place: Path) -> None:
    class Broken(ToyEncoder):
        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            rows = super().encode_images(pixels)
            rows[pixels[:, 0].mean((1, 2)) == pixels[:, 0].mean((1, 2)).max()] = np.nan
            return rows

    report = run(place, Broken(), photos)
    assert (report.added, len(report.failed)) == (5, 1)
    assert "no finite vector" in report.failed[0].reason


def test_batch_is_halved_when_memory_is_short(photos: Path, place: Path) -> None:
    class Small(ToyEncoder):
        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            if len(pixels) > 2:
                raise MemoryError
            return super().encode_images(pixels)

    assert run(place, Small(), photos).added == 6


def test_what_is_no_file_is_not_opened(photos: Path, place: Path, toy: ToyEncoder) -> None:
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    (photos / "dangling.jpg").symlink_to(photos / "nowhere")
    report = run(place, toy, photos)
    assert report.added == 6
    reasons = {Path(failed.key).name: failed.reason for failed in report.failed}
    assert reasons["pipe.jpg"] == "it is not a regular file"
    assert "No such file" in reasons["dangling.jpg"]
    assert len(reasons) == 2


def test_odd_names(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = ["ü mlaut.png", "new\nline.png", "quote'\".png", "#hash#1.png", "per%cent.png", "日本.png", "e\u0301.png"]
    for number, name in enumerate(names):
        picture(number).save(folder / name)
        (folder / f"{name}.txt").write_text(f"caption of {name!r}")
    raw = os.fsencode(folder) + b"/bad\xff.png"
    Path(os.fsdecode(raw)).write_bytes((folder / names[0]).read_bytes())
    report = run(place, toy, folder)
    assert report.added == 2 * len(names)
    assert [failed.reason for failed in report.failed] == ["its name is not UTF-8: rename it"]
    assert "bad\\xff.png" in report.failed[0].key
    assert run(place, toy, folder).added == 0
    with SearchEngine(Collection.open(place), toy) as engine:
        for number, name in enumerate(names):
            assert engine.search(image=picture(number), k=1)[0].item.uri == str(folder / name)


def test_hostile_corpora_name_their_lines(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    corpus = tmp_path / "c.jsonl"
    lines = [
        '{"text": "good"}',
        "[" * 100_000,
        '{"image": "nul\\u0000.png", "captions": ["x"]}',
        '{"image": "lone\\ud800.png", "captions": ["y \\ud800"]}',
        '{"image": 7}',
        '{"text": ["no"]}',
        '{"text": "a", "id": {}}',
        '{"image": "a.pdf", "captions": ["z"]}',
        '{"image": "b.png", "captions": "one"}',
        '{"image": "b.png", "captions": [1]}',
        "\xff",
        "",
    ]
    corpus.write_bytes("\n".join(lines).encode("latin-1"))
    report = run(place, toy, corpus)
    assert report.added == 3  # "good", and the captions of a.pdf and b.png
    named = sorted(Path(failed.key).name for failed in report.failed)
    assert named == sorted(["a.pdf", *(f"c.jsonl:{line}" for line in (2, 3, 4, 5, 6, 7, 10, 11)), "b.png"])


def test_a_part_of_a_root_does_not_forget_what_is_held_back(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder / "a", 60)
    run(place, toy, folder)
    for path in paths[:40]:
        path.unlink()
    assert run(place, toy, folder).held_back == 40
    make_folder(folder / "b", 30, first=100)
    assert run(place, toy, folder / "b").added == 30
    report = run(place, toy, folder)
    assert (report.held_back, report.deleted) == (40, 0)
    assert run(place, toy, folder, allow_mass_delete=True).deleted == 40


def test_what_a_part_holds_back_is_held_back_for_the_whole(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder / "a", 60)
    run(place, toy, folder)
    for path in paths[:40]:
        path.unlink()
    assert run(place, toy, folder / "a").held_back == 40
    make_folder(folder / "b", 30, first=100)
    run(place, toy, folder / "b")
    assert run(place, toy, folder).held_back == 40
    assert run(place, toy, folder / "a").held_back == 40


def test_deletions_in_a_part_are_measured_against_the_whole(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder / "a", 30)
    make_folder(folder / "b", 30, first=100)
    run(place, toy, folder)
    for path in paths[:25]:
        path.unlink()
    dry = run(place, toy, folder / "a", dry_run=True)
    assert (dry.held_back, dry.deleted) == (0, 25)
    report = run(place, toy, folder / "a")
    assert (report.held_back, report.deleted) == (0, 25), "25 of 60, though 25 of the 30 in a/"
    make_folder(folder / "b", 60, first=200)
    for path in sorted((folder / "b").glob("p02*.png"))[:25]:
        path.unlink()
    assert run(place, toy, folder).deleted == 0
    for path in sorted((folder / "b").glob("p02*.png"))[:25]:
        path.unlink()
    assert run(place, toy, folder).deleted == 25, "nothing was held back, so what was added since counts"


def test_a_folder_that_cannot_be_read_does_not_forget_what_is_held_back(
    tmp_path: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder / "locked", 60)
    run(place, toy, folder)
    for path in paths[:40]:
        path.unlink()
    assert run(place, toy, folder).held_back == 40
    make_folder(folder / "b", 30, first=100)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        assert run(place, toy, folder).deleted == 0
    assert run(place, toy, folder).held_back == 40


def test_nothing_is_deleted_when_a_later_source_was_not_looked_through(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    first = make_folder(tmp_path / "a", 3)
    make_folder(tmp_path / "b", 1, first=10)
    run(place, toy, tmp_path / "a", tmp_path / "b")
    first[0].rename(tmp_path / "b" / "moved.png")
    first[1].unlink()
    picture(20).save(tmp_path / "b" / "new.png")

    class Stops(ToyEncoder):
        stop = threading.Event()

        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            self.stop.set()
            return super().encode_images(pixels)

    class Fails(ToyEncoder):
        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            raise RuntimeError("it broke")

    with pytest.raises(RuntimeError, match="it broke"):
        run(place, Fails(), tmp_path / "a", tmp_path / "b")
    assert {"p0000.png", "p0001.png", "p0002.png"} < set(uris(place))
    report = run(place, Stops(), tmp_path / "a", tmp_path / "b", stop=Stops.stop)
    assert (report.interrupted, report.deleted) == (True, 0)
    assert "p0001.png" in uris(place)
    assert run(place, toy, tmp_path / "a", tmp_path / "b").deleted == 1
    assert set(uris(place)) == {"p0002.png", "p0010.png", "moved.png", "new.png"}


def test_what_is_held_back_of_roots_is_held_back_of_what_takes_them_over(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder / "a", 60)
    run(place, toy, folder / "a")
    for path in paths[:40]:
        path.unlink()
    assert run(place, toy, folder / "a").held_back == 40
    make_folder(folder / "b", 30, first=100)
    run(place, toy, folder / "b")
    report = run(place, toy, folder)
    assert (report.held_back, report.deleted) == (40, 0)
