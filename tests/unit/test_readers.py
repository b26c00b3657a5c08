"""The readers of captioned corpora: every format, and what is wrong with files that only look like one."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from indexer.sources import make_source
from mmsearch.collection.collection import Collection
from mmsearch.corpora.places import is_there, open_place, read_members, split_place
from mmsearch.corpora.reader import corpus_kind, read_corpus
from mmsearch.corpora.records import BadRecord, CaptionRecord, CorpusOptions
from mmsearch.engine.engine import SearchEngine
from mmsearch.engine.query import ImageQuery, parse_query
from mmsearch.errors import SourceError
from tests.support import ToyEncoder, make_folder, picture, run, uris


def records(path: Path, options: CorpusOptions | None = None) -> list[CaptionRecord | BadRecord]:
    kind = corpus_kind(path)
    assert kind is not None
    return list(read_corpus(path, kind, options or CorpusOptions()))


def good(path: Path, options: CorpusOptions | None = None) -> list[tuple[str | None, tuple[str, ...]]]:
    found = records(path, options)
    assert not [record for record in found if isinstance(record, BadRecord)]
    return [
        (None if record.image is None else Path(record.image).name, record.captions)
        for record in found
        if isinstance(record, CaptionRecord)
    ]


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def png(seed: int) -> bytes:
    written = io.BytesIO()
    picture(seed).save(written, "PNG")
    return written.getvalue()


def coco(folder: Path) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "p0000.png"}, {"id": 8, "file_name": "p0001.png"}],
        "annotations": [
            {"image_id": 8, "caption": "the second"},
            {"image_id": 7, "caption": "the first "},
            {"image_id": 8, "caption": "the second, again"},
        ],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json"


def karpathy(folder: Path) -> Path:
    images = [
        {"filename": "p0000.png", "split": "test", "sentences": [{"raw": "one", "tokens": ["one"]}, {"raw": "two"}]},
        {"filename": "p0001.png", "split": "train", "sentences": [{"raw": "three"}]},
        {"filepath": "val2014", "filename": "x.png", "split": "restval", "sentences": [{"raw": "four"}]},
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return folder / "dataset_flickr8k.json"


def regions(folder: Path, count: int = 2) -> Path:
    content = [
        {
            "id": n,
            "regions": [{"region_id": 1, "image_id": n, "phrase": f"thing {n}"}, {"phrase": "sky", "image_id": n}],
        }
        for n in range(1, count + 1)
    ]
    (folder / "region_descriptions.json").write_text(json.dumps(content))
    return folder / "region_descriptions.json"


def test_coco_captions(tmp_path: Path) -> None:
    make_folder(tmp_path, 2)
    assert good(coco(tmp_path)) == [("p0000.png", ("the first",)), ("p0001.png", ("the second", "the second, again"))]
    assert good(coco(tmp_path), CorpusOptions(captions_only=True))[0] == (None, ("the first",))


def test_karpathy_splits(tmp_path: Path) -> None:
    path = karpathy(tmp_path)
    assert good(path)[0] == ("p0000.png", ("one", "two"))
    assert len(good(path)) == 3
    assert good(path, CorpusOptions(split="train")) == [("p0001.png", ("three",))]
    with pytest.raises(SourceError, match="no split 'dev': it has restval, test, train"):
        records(path, CorpusOptions(split="dev"))
    (tmp_path / "pictures" / "val2014").mkdir(parents=True)
    (tmp_path / "pictures" / "val2014" / "x.png").touch()
    found = records(path, CorpusOptions(images=str(tmp_path / "pictures"), split="restval"))
    assert found[0].image == str(tmp_path / "pictures" / "val2014" / "x.png")  # type: ignore[union-attr]


def test_visual_genome_regions_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.corpora.annotations._CHUNK", 64)  # elements lie across many reads
    (tmp_path / "VG_100K_2").mkdir()
    (tmp_path / "VG_100K_2" / "2.jpg").touch()
    found = good(regions(tmp_path, 40))
    assert len(found) == 40
    assert found[1] == ("2.jpg", ("thing 2", "sky"))
    assert records(tmp_path / "region_descriptions.json")[1].image == str(tmp_path / "VG_100K_2" / "2.jpg")  # type: ignore[union-attr]
    text = (tmp_path / "region_descriptions.json").read_text()
    (tmp_path / "region_descriptions.json").write_text(text[:-40])
    with pytest.raises(SourceError, match="cut short"):
        records(tmp_path / "region_descriptions.json")


@pytest.mark.parametrize(
    ("name", "text", "image"),
    [
        ("a.csv", 'image,caption\np0000.png,a dog\np0000.png,"two, dogs"\n', "p0000.png"),
        ("captions.txt", 'image,caption\np0000.png,a dog\np0000.png,"two, dogs"\n', "p0000.png"),
        (
            "results.csv",
            "image_name| comment_number| comment\np0000.png| 0| a dog\np0000.png| 1| two, dogs\n",
            "p0000.png",
        ),
        ("a.tsv", "Caption\tFile\na dog\tp0000.png\ntwo, dogs\tp0000.png\n", "p0000.png"),
        ("a.csv", "﻿text;label\na dog;x\ntwo, dogs;y\n", None),
    ],
)
def test_tables_whose_columns_are_known(tmp_path: Path, name: str, text: str, image: str | None) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert good(tmp_path / name) == [(image, ("a dog",)), (image, ("two, dogs",))]


def test_columns_are_named_and_a_wrong_one_says_which_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("key,de,en,kind\np0000.png,ein Hund,a dog,pet\n")
    options = CorpusOptions(image_column="key", caption_column="en", label_column="kind")
    (record,) = records(path, options)
    assert isinstance(record, CaptionRecord)
    assert (record.captions, record.label) == (("a dog",), "pet")
    with pytest.raises(SourceError, match="no column 'fr' for --caption-column: it has 'key', 'de', 'en', 'kind'"):
        records(path, CorpusOptions(caption_column="fr"))
    with pytest.raises(SourceError, match="known to hold captions, only 'key', 'de'"):
        records(path)


def test_bad_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,caption\np.png\n,a dog\nhttp://x/y.jpg,a cat\n\np.png,\n")
    reasons = [record.reason for record in records(path) if isinstance(record, BadRecord)]
    assert [reason.split()[0] for reason in reasons] == ["it", "it", "its"]
    assert reasons[0] == "it has 1 columns, the header has 2"
    assert "URL" in reasons[2]
    path.write_bytes(b"caption\nred, green\n\xff\xfe\nblue\n")
    assert [getattr(record, "captions", None) for record in records(path)] == [("red, green",), None, ("blue",)]


def test_json_lines_by_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"caption": "a dog"}, {"file_name": "p.png", "caption": "a cat"}, {"key": "q.png", "en": ["a cow"]}]
    path.write_text("\n".join(map(json.dumps, lines[:2])))
    assert good(path) == [(None, ("a dog",)), ("p.png", ("a cat",))]
    path.write_text(json.dumps(lines[2]))
    assert good(path, CorpusOptions(image_column="key", caption_column="en")) == [("q.png", ("a cow",))]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", CorpusOptions(split="test"), "no splits"),
        ("a.tar", CorpusOptions(caption_column="x"), "no columns"),
    ],
)
def test_options_that_mean_nothing_to_a_format_are_refused(
    tmp_path: Path, name: str, options: CorpusOptions, message: str
) -> None:
    make_tar(tmp_path / "a.tar", {"1.txt": b"one"})
    (tmp_path / "a.csv").write_text("caption\none\n")
    with pytest.raises(SourceError, match=message):
        records(tmp_path / name, options)


@pytest.mark.parametrize("damage", ["header", "cut"])
def test_nothing_of_a_damaged_archive_is_deleted(tmp_path: Path, place: Path, toy: ToyEncoder, damage: str) -> None:
    shard = make_tar(tmp_path / "s.TAR", {f"{n}.png": png(n) for n in range(30)})
    assert run(place, toy, shard).added == 30
    offset, _ = list(read_members(str(shard)).values())[10]
    data = bytearray(shard.read_bytes())
    if damage == "header":
        data[offset - 512 : offset - 200] = b"\xff" * 312
    else:
        del data[offset - 512 :]
    shard.write_bytes(data)
    report = run(place, toy)
    assert (report.deleted, report.held_back) == (0, 0)
    assert "damaged or cut short behind its 10 first members" in report.failed[0].reason
    assert report.missing_sources == [str(shard)], "which has a status of its own"


def test_options_that_do_not_fit_are_not_kept_and_one_bad_corpus_stops_no_other(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    table, other = tmp_path / "a.csv", tmp_path / "pictures"
    table.write_text("words,more\nred,x\n")
    make_folder(other, 1)
    good_options = CorpusOptions(caption_column="words")
    run(place, toy, table, corpus=good_options)
    run(place, toy, other)
    with pytest.raises(SourceError, match="no column 'wrods'"):
        run(place, toy, table, corpus=CorpusOptions(caption_column="wrods"))
    assert run(place, toy, table).kept == 1
    table.write_text("other\nred\n")
    make_folder(other, 2)
    report = run(place, toy)
    assert (report.added, report.deleted) == (1, 0), "the folder gets its new picture, the captions stay"
    assert "no column 'words'" in report.failed[0].reason
    with pytest.raises(SourceError, match="none was named"):
        run(place, toy, other, corpus=good_options)


def test_webdataset_members_are_read_at_their_offset(tmp_path: Path) -> None:
    members = {
        "0.png": png(0),
        "0.json": json.dumps({"captions": ["a first", "a second"], "label": 3}).encode(),
        "sub/1.png": png(1),
        "sub/1.txt": b"from text\nand a second",
        "2.txt": b"alone",
        "3.png": png(3),
        "3.json": b"[",
        "__notes__": b"not a sample",
    }
    path = make_tar(tmp_path / "shard.tar", members)
    found = records(path)
    assert [type(record).__name__ for record in found] == [
        "CaptionRecord",
        "CaptionRecord",
        "CaptionRecord",
        "BadRecord",
    ]
    first, second, alone, _ = found
    assert isinstance(first, CaptionRecord)
    assert (first.image, first.captions, first.label) == (f"{path}#0.png", ("a first", "a second"), "3")
    assert second.captions == ("from text", "and a second")  # type: ignore[union-attr]
    assert alone.image is None  # type: ignore[union-attr]
    with open_place(f"{path}#sub/1.png") as file:
        assert file.read() == members["sub/1.png"]
    assert not is_there(f"{path}#nothing.png")
    with pytest.raises(FileNotFoundError, match="no nothing"):
        open_place(f"{path}#nothing.png")
    offset, size = read_members(str(path))["0.png"]
    assert path.read_bytes()[offset : offset + size] == members["0.png"]


def test_a_file_whose_name_looks_like_a_member_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "a.tar#b.png"
    picture(0).save(odd)
    assert split_place(str(odd)) == (str(odd), None)
    assert split_place("/x/a.tar#b.png") == ("/x/a.tar", "b.png")
    assert split_place("/x/a#b.png") == ("/x/a#b.png", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}', "without captions"),
        ("a.json", b'{"other": 1}', "neither of COCO"),
        ("a.json", b'{"images": [}', "not JSON"),
        ("a.json", b'[{"a": 1}]', "neither of COCO"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.csv", b"", "known to hold captions, only none"),
    ],
)
def test_files_that_only_look_like_a_corpus(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        records(tmp_path / name)


def test_a_compressed_archive_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(OSError, match="unpack it"):
        records(tmp_path / "a.tar")


# --- indexed --------------------------------------------------------------------------------------------------------


def test_pictures_in_an_archive_are_indexed_found_and_shown_again(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    shard = make_tar(tmp_path / "s.tar", {f"{n}.png": png(n) for n in range(5)} | {"2.txt": b"red"})
    report = run(place, toy, shard)
    assert (report.added, report.failed) == (6, [])
    assert run(place, toy, shard).kept == 6
    with SearchEngine(Collection.open(place), toy) as engine:
        hit = engine.search(image=picture(3), k=1)[0]
        assert hit.item.uri == f"{shard}#3.png"
        assert hit.item.group == hit.item.uri
        query = parse_query(hit.item.uri)
        assert isinstance(query, ImageQuery)
        assert engine.run(query, k=1)[0].item == hit.item
    make_tar(shard, {f"{n}.png": png(n) for n in (0, 1, 7)})
    embedded = toy.images
    report = run(place, toy, shard)
    assert toy.images == embedded + 1, "what was there is known by its content"
    assert (report.added, report.deleted) == (1, 4)


def test_options_are_kept_for_the_next_run(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "pictures", 2)
    table = tmp_path / "a.csv"
    table.write_text("key,en,de\np0000.png,red,rot\np0001.png,blue,blau\n")
    options = CorpusOptions(images=str(tmp_path / "pictures"), image_column="key", caption_column="de")
    assert run(place, toy, table, corpus=options).added == 4
    for sources in ((), (table,)):
        again = run(place, toy, *sources)
        assert (again.kept, again.added, again.deleted) == (4, 0, 0)
    options = CorpusOptions(images=str(tmp_path / "pictures"), image_column="key", caption_column="en")
    report = run(place, toy, table, corpus=options)
    assert (report.kept, report.changed) == (2, 2)
    assert run(place, toy).kept == 4
    with Collection.open(place) as collection:
        assert collection.catalog.roots()[0].options == options.as_text()


def test_captions_alone_are_a_corpus_of_texts(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    report = run(place, toy, coco(tmp_path), corpus=CorpusOptions(captions_only=True))
    assert (report.added, report.failed) == (3, [])
    with SearchEngine(Collection.open(place), toy) as engine:
        assert engine.search("the first", target="text", k=1)[0].item.text == "the first"
        assert not engine.holds("image")


def test_an_archive_in_a_folder_does_not_lend_it_its_pictures(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "all"
    make_folder(folder, 2)
    shard = make_tar(folder / "s.tar", {"7.png": png(7), "8.png": png(8)})
    run(place, toy, folder, shard)
    make_tar(shard, {"8.png": png(8)})
    report = run(place, toy)
    assert report.deleted == 1
    assert sorted(uris(place)) == ["p0000.png", "p0001.png", "s.tar#8.png"]


def test_a_corpus_that_is_not_one_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SourceError, match="neither of COCO"):
        make_source(tmp_path / "a.json")


def test_options_travel_as_text() -> None:
    options = CorpusOptions(images="/x", captions_only=True)
    assert CorpusOptions.from_text(options.as_text()) == options
    assert CorpusOptions().as_text() == ""
    assert CorpusOptions.from_text('{"images": "/x", "of a later version": 1}') == CorpusOptions(images="/x")
