"""OpenCLIP models on the command line: indexing, moved weights, devices, and the list of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmsearch.encoders import DEFAULT_ENCODER
from tests.e2e.test_cli import call
from tests.support import PHOTOS, picture
from tests.tiny_models import make_model

pytestmark = pytest.mark.needs_clip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model, whose home holds a collection of data/photos made with it."""
    folder = tmp_path_factory.mktemp("open-clip")
    make_model("vit", folder / "model")
    done = call(folder / "home", "index", str(PHOTOS), "--encoder", uri(folder), "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["added"] == 87
    assert {stage["stage"] for stage in report["stages"]} == {"read", "decode", "prepare", "encode", "write"}
    return folder


def uri(folder: Path) -> str:
    return f"open_clip:local-dir:{folder / 'model'}"


def test_a_picture_finds_itself(place: Path) -> None:
    path = str(PHOTOS / "tabby-cat.jpg")
    hits = json.loads(call(place / "home", "query", path, "-k", "1", "--json").stdout)["hits"]
    assert hits[0]["uri"] == path
    assert hits[0]["similarity"] == pytest.approx(1.0, abs=2e-3)


def test_words_are_taken_and_the_table_shows_hits(place: Path) -> None:
    done = call(place / "home", "query", "a red car", "-k", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4


def test_the_stages_are_told_and_nothing_of_other_libraries(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    done = call(tmp_path / "home", "index", str(folder), "--encoder", uri(place))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("mmsearch: read ")
    assert "encode " in line
    assert "the slowest is " in line


def test_moved_weights_are_named_by_hand(place: Path, tmp_path: Path) -> None:
    make_model("vit", tmp_path / "elsewhere")
    home = tmp_path / "home"
    make_model("vit", tmp_path / "model")
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(1).save(folder / "one.png")
    assert call(home, "index", str(folder), "--encoder", uri(tmp_path), "-q").returncode == 0
    (tmp_path / "model").rename(tmp_path / "gone")
    lost = call(home, "query", "a red car")
    assert lost.returncode != 0
    assert "no open_clip_config.json" in lost.stderr
    done = call(home, "query", "a red car", "--encoder", f"open_clip:local-dir:{tmp_path / 'elsewhere'}", "--paths")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("one.png")
    moved = f"open_clip:local-dir:{tmp_path / 'elsewhere'}"
    assert call(home, "eval", "--collection", "default", "--encoder", moved).returncode == 18, "it has no captions"
    assert call(home, "index", str(folder), "--encoder", moved, "-q").returncode == 0
    assert call(home, "query", "a red car").returncode == 0, "from now on it is known where they are"
    make_model("vit-quickgelu", tmp_path / "other")
    other = call(home, "query", "a red car", "--encoder", f"open_clip:local-dir:{tmp_path / 'other'}")
    assert other.returncode != 0
    assert len(other.stderr.splitlines()) == 1


def test_fast_decode_is_for_large_jpegs(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(5, (1600, 1200)).save(folder / "large.jpg", quality=95)
    done = call(tmp_path / "home", "index", str(folder), "--encoder", uri(place), "--fast-decode", "-q")
    assert done.returncode == 0, done.stderr
    query = call(tmp_path / "home", "query", str(folder / "large.jpg"), "--json")
    assert json.loads(query.stdout)["hits"][0]["similarity"] > 0.98


@pytest.mark.parametrize(("device", "words"), [("cuda:9", "There is no cuda:9"), ("toaster", "choose auto, cpu, cuda")])
def test_devices_that_are_not_there(place: Path, device: str, words: str) -> None:
    done = call(place / "home", "query", "a red car", "--device", device)
    assert done.returncode > 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_models_are_listed(tmp_path: Path) -> None:
    done = call(tmp_path, "models", "vit-b-32/", "laion2b", "--json", HF_HOME=str(tmp_path))
    found = json.loads(done.stdout)
    assert {model["uri"] for model in found} >= {"open_clip:ViT-B-32/laion2b_s34b_b79k"}
    assert all(model["dim"] == 512 and not model["on_disk"] for model in found)
    here = call(tmp_path, "models", "--on-disk", HF_HOME=str(tmp_path))
    assert [line.split()[0] for line in here.stdout.splitlines()] == ["uri", DEFAULT_ENCODER]
    many = call(tmp_path, "models", "--multilingual", "xlm")
    assert "xlm-roberta-base-ViT-B-32" in many.stdout
    none = call(tmp_path, "models", "no-such-model")
    assert none.returncode == 1
    assert "no encoder is like that" in none.stderr
