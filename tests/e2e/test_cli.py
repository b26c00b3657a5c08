"""The installed command, as a person or a script would run it, over the real pictures in data/photos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.encoders import DEFAULT_ENCODER
from tests.support import PHOTOS, make_folder

COMMAND = str(Path(sys.executable).parent / "mmsearch")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home folder whose default collection holds data/photos and its captions."""
    home = tmp_path_factory.mktemp("indexed-home")
    done = call(home, "index", str(PHOTOS), str(PHOTOS / "captions.jsonl"), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["added"] == 87 + 174
    assert report["failed"] == []
    return home


def call(home: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MMSEARCH_HOME": str(home), **environment}
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False
    )


def found(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the file names of the hits in a --json answer."""
    return [Path(hit["uri"]).name for hit in json.loads(done.stdout)["hits"]]


def test_words_find_pictures(indexed: Path) -> None:
    done = call(indexed, "query", "a red car", "-k", "3", cwd=PHOTOS)
    assert (done.returncode, done.stderr) == (0, "")
    head, first, *_ = done.stdout.splitlines()
    assert head.split() == ["rank", "score", "path", "caption"]
    rank, score, path, *caption = first.split()
    assert (rank, path) == ("1", "red-car.jpg")
    assert 0 < float(score) < 1
    assert " ".join(caption) == "a red car"
    assert len(done.stdout.splitlines()) == 4


def test_a_picture_finds_itself_and_its_captions(indexed: Path) -> None:
    path = str(PHOTOS / "tabby-cat.jpg")
    done = call(indexed, "query", path, "-k", "2", "--json")
    answer = json.loads(done.stdout)
    assert found(done)[0] == "tabby-cat.jpg"
    assert answer["hits"][0]["similarity"] == pytest.approx(1.0, abs=2e-3)
    assert (answer["target"], answer["query"]) == ("image", path)
    texts = json.loads(call(indexed, "query", path, "--target", "text", "-k", "5", "--json").stdout)["hits"]
    assert all(hit["modality"] == "text" and hit["text"] for hit in texts)
    assert any("cat" in hit["text"].lower() for hit in texts)


def test_words_find_captions_and_any_merges_by_rank(indexed: Path) -> None:
    texts = json.loads(call(indexed, "query", "a red car", "-t", "text", "-k", "1", "--json").stdout)["hits"]
    assert texts[0]["text"] == "a red car"
    assert texts[0]["similarity"] == pytest.approx(1.0, abs=2e-3)
    mixed = json.loads(call(indexed, "query", "a red car", "-t", "any", "-k", "6", "--json").stdout)["hits"]
    assert {hit["modality"] for hit in mixed} == {"image", "text"}
    assert mixed[0]["score"] == pytest.approx(1 / 61)
    assert [hit["rank"] for hit in mixed] == [1, 2, 3, 4, 5, 6]


def test_text_and_image_decide_what_a_query_is(indexed: Path) -> None:
    path = str(PHOTOS / "tabby-cat.jpg")
    assert json.loads(call(indexed, "query", path, "--text", "--json").stdout)["hits"][0]["similarity"] < 0.9
    missing = call(indexed, "query", "nowhere.jpg", "--image")
    assert missing.returncode == 2
    assert "nowhere.jpg cannot be read: No such file" in missing.stderr
    words = call(indexed, "query", "nowhere.jpg")
    assert words.returncode == 0
    assert "'nowhere.jpg' is no picture here, so its words were searched" in words.stderr
    assert call(indexed, "query", "nowhere.jpg", "--text").stderr == ""
    both = call(indexed, "query", "x", "--text", "--image")
    assert both.returncode == 2


def test_forms_of_output(indexed: Path) -> None:
    lines = call(indexed, "query", "a bridge", "-k", "4", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["rank"] for line in lines] == [1, 2, 3, 4]
    paths = call(indexed, "query", "a bridge", "-k", "4", "--paths").stdout.splitlines()
    assert paths == [json.loads(line)["uri"] for line in lines]
    assert all(Path(path).is_file() for path in paths)
    nul = call(indexed, "query", "a bridge", "-k", "4", "--paths", "-0").stdout
    assert nul == "".join(path + "\0" for path in paths)
    assert call(indexed, "query", "x", "--json", "--paths").returncode == 2
    assert call(indexed, "query", "x", "-0").returncode == 2


def test_words_from_stdin(indexed: Path) -> None:
    env = {**os.environ, "MMSEARCH_HOME": str(indexed)}
    done = subprocess.run(
        [COMMAND, "query", "-", "-k", "1", "--paths"],
        input="a red car\n",
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert Path(done.stdout.strip()).name == "red-car.jpg"


def test_nothing_found_is_status_1(indexed: Path) -> None:
    done = call(indexed, "query", "a red car", "--min-similarity", "0.99")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "mmsearch: nothing found.\n")
    done = call(indexed, "query", "a red car", "--min-similarity", "0.99", "--json")
    assert (done.returncode, json.loads(done.stdout)["hits"]) == (1, [])


def test_queries_in_another_language_get_a_hint(indexed: Path) -> None:
    done = call(indexed, "query", "红色的汽车", "--paths")
    assert done.returncode == 0
    assert "multilingual OpenCLIP model" in done.stderr
    assert call(indexed, "query", "über alles").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["query", ""], 2, "The query is empty"),
        (["query", "x", "--target", "video"], 2, "There is no target 'video': choose one of image, text, any."),
        (["query", "x", "-k", "0"], 2, "-k"),
        (["query", "x", "--collection", "a b"], 2, "cannot name a collection"),
        (["query", "x", "--collection", "other"], 3, "No collection yet"),
        (["query"], 2, "Missing argument"),
        (["find", "x"], 2, "No such command"),
        (["index", "/nowhere"], 13, "/nowhere is not there"),
        (["index", str(PHOTOS), "--encoder", "klip"], 8, "There is no encoder 'klip': known are"),
        (["index", str(PHOTOS), "--encoder", "compactt"], 8, "did you mean 'compact'?"),
        (["index", str(PHOTOS), "--encoder", "compact:v9"], 8, f"this mmsearch ships {DEFAULT_ENCODER}"),
        (["index", str(PHOTOS), "--index", "hnsw"], 2, "There is no index kind 'hnsw'"),
        (["--log-level", "loud", "info"], 2, "choose one of debug, info, warning, error"),
        (["query", "\udcff"], 2, "not valid UTF-8"),
        (["index", ""], 13, "A path to index is empty"),
        (["index", "~nobody-of-that-name/x"], 13, "is not there"),
        (["query", "x", "-c", "~nobody-of-that-name/x"], 3, "No collection yet"),
    ],
)
def test_errors_are_one_sentence_and_a_status(indexed: Path, arguments: list[str], status: int, message: str) -> None:
    done = call(indexed, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_tracebacks_on_request(indexed: Path) -> None:
    done = call(indexed, "query", "", MMSEARCH_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [["query", "x"], ["info"], ["verify"], ["index"]])
def test_before_anything_is_indexed(tmp_path: Path, arguments: list[str]) -> None:
    done = call(tmp_path, *arguments)
    assert done.returncode == 3
    assert done.stderr.startswith("mmsearch: No collection yet at ")
    assert "make one with 'mmsearch index FOLDER'" in done.stderr
    if arguments[0] != "index":
        done = call(tmp_path, *arguments, "-c", "other")
        assert f"'mmsearch index FOLDER --collection {tmp_path / 'collections' / 'other'}'" in done.stderr


def test_info_verify_doctor(indexed: Path) -> None:
    facts = json.loads(call(indexed, "info", "--json").stdout)
    assert facts["modalities"]["image"]["items"] == 87
    assert facts["modalities"]["text"]["vectors"] == 174
    assert facts["encoder"]["uri"] == DEFAULT_ENCODER
    assert [root["kind"] for root in facts["roots"]] == ["folder", "jsonl"]
    text = call(indexed, "info").stdout
    assert "87 items, 87 vectors" in text
    assert json.loads(call(indexed, "verify", "--json").stdout) == {"files": 0, "vectors": 261, "problems": []}
    assert call(indexed, "verify").stdout == "all well: 261 vectors, 0 files, the catalog\n"
    doctor = json.loads(call(indexed, "doctor", "--json").stdout)
    assert doctor["facts"]["encoders"] == "compact, open_clip, tuned"
    assert "cpu" in doctor["facts"]["extras"].split(", ")
    assert {"sqlite", "onnxruntime", "threads", "file system", "cpu features"} <= doctor["facts"].keys()
    assert call(indexed, "doctor").returncode == 0


def test_collections_by_name_path_and_environment(tmp_path: Path) -> None:
    make_folder(tmp_path / "pictures", 3)
    for where in (["--collection", "named"], ["--collection", "./by-path"]):
        assert call(tmp_path, "index", "pictures", *where, cwd=tmp_path).returncode == 0
    assert (tmp_path / "collections" / "named" / "mmsearch.json").is_file()
    assert (tmp_path / "by-path" / "mmsearch.json").is_file()
    assert (tmp_path / "by-path").stat().st_mode & 0o077 == 0
    done = call(tmp_path, "info", "--json", MMSEARCH_COLLECTION="named")
    assert json.loads(done.stdout)["path"] == str(tmp_path / "collections" / "named")
    done = call(tmp_path, "index", "pictures", "--collection", "./pictures", cwd=tmp_path)
    assert done.returncode == 7
    assert "holds other files" in done.stderr


def test_large_pictures_as_queries(indexed: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("L", (14_000, 14_000)).save(large)
    done = call(indexed, "query", str(large))
    assert done.returncode == 19
    assert "raise it with --max-pixels" in done.stderr
    done = call(indexed, "query", str(large), "--max-pixels", "200000000", "-k", "1")
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_tells_that_there_is_no_collection_yet(tmp_path: Path) -> None:
    done = call(tmp_path, "doctor")
    assert done.returncode == 0
    assert "no collection yet: make one with 'mmsearch index FOLDER'" in done.stdout


def test_a_long_query_is_said_to_be_cut_once(indexed: Path) -> None:
    done = call(indexed, "query", "a dog " * 400, "--paths")
    assert done.stderr.count("longer than 256 word pieces") == 1


def test_words_without_quotes_and_nothing_to_find(indexed: Path, tmp_path: Path) -> None:
    assert found(call(indexed, "query", "a", "red", "car", "--json", "-k", "1")) == ["red-car.jpg"]
    call(tmp_path, "index", str(PHOTOS / "red-car.jpg"))
    done = call(tmp_path, "query", "a red car", "--target", "text")
    assert (done.returncode, "holds no captions at all" in done.stderr) == (1, True)


def test_any_shows_cosines_and_kinds(indexed: Path) -> None:
    head, first, *_ = call(indexed, "query", "a red car", "-t", "any", "-k", "2").stdout.splitlines()
    assert head.split() == ["rank", "score", "cosine", "kind", "path", "caption"]
    assert first.split()[1:4] in (["0.01639", "0.592", "image"], ["0.01639", "1.000", "text"])


def test_nothing_is_told_to_anybody(indexed: Path, tmp_path: Path) -> None:
    """ONNX Runtime collects and sends telemetry unless it is switched off in time (it holds still under CI)."""
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    env |= {"HOME": str(tmp_path), "MMSEARCH_HOME": str(indexed)}
    env.pop("XDG_CACHE_HOME", None)
    for arguments in (["query", "a red car"], ["doctor"], ["index", str(PHOTOS)]):
        subprocess.run([COMMAND, *arguments], env=env, capture_output=True, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_a_closed_stdout_is_no_traceback(indexed: Path) -> None:
    env = {**os.environ, "MMSEARCH_HOME": str(indexed)}
    done = subprocess.run(
        ["bash", "-c", f"{COMMAND} query dog >&-"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_source_has_a_status(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 2)
    call(tmp_path, "index", str(folder))
    folder.rename(tmp_path / "elsewhere")
    done = call(tmp_path, "index")
    assert done.returncode == 13
    assert "pictures: is not there" in done.stderr


def test_a_reader_that_has_seen_enough(indexed: Path) -> None:
    env = {**os.environ, "MMSEARCH_HOME": str(indexed)}
    script = f"set -o pipefail; {COMMAND} query dog -t any -k 261 --jsonl | head -n 1"
    for command in (script, script.replace("--jsonl", "--paths"), script.replace("--jsonl", "--json")):
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


def test_help_of_every_command() -> None:
    for command in ("index", "query", "info", "verify", "doctor"):
        done = call(Path("/nowhere"), command, "--help")
        assert done.returncode == 0
        assert "--collection" in done.stdout
    for arguments in (["--version"], ["--log-level", "info", "--version"]):
        assert call(Path("/nowhere"), *arguments).stdout.startswith("mmsearch ")
