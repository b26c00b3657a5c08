"""A second look as a person takes it, with the reranker that ships, over data/photos."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.encoders import DEFAULT_ENCODER
from mmsearch.rerank.cross_attention import WEIGHTS
from mmsearch.rerank.multiview import VIEWED
from tests.e2e.test_cli import call
from tests.support import PHOTOS, SHIPPED

CAPTIONS = str(PHOTOS / "captions.jsonl")
WORDS = "a red car parked at the side of a street"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerank-home")
    shutil.copytree(PHOTOS, folder / "photos")
    done = call(folder, "index", str(folder / "photos"), str(folder / "photos" / "captions.jsonl"), "-q")
    assert done.returncode == 0, done.stderr
    return folder


def test_words_find_a_picture(home: Path) -> None:
    done = call(home, "query", WORDS, "--rerank", "-k", "5")
    assert (done.returncode, done.stderr) == (0, "")
    head, first, *rest = done.stdout.splitlines()
    assert head.split() == ["rank", "score", "cosine", "match", "path", "caption"]
    assert Path(first.split()[4]).stem in ("red-car", "red-convertible")
    assert len(rest) == 4
    hits = json.loads(call(home, "query", WORDS, "--rerank", "--candidates", "10", "-k", "12", "--json").stdout)["hits"]
    assert [hit["rerank_score"] is None for hit in hits] == [False] * 10 + [True] * 2
    lost = [hit["similarity"] - hit["score"] for hit in sorted(hits[:10], key=lambda hit: -hit["rerank_score"])]
    assert all(b - a > -1e-6 for a, b in itertools.pairwise(lost)), "what matches worse loses more"
    assert lost[0] == pytest.approx(0, abs=1e-6) and lost[1] > 0


def test_a_picture_finds_a_caption(home: Path) -> None:
    done = call(home, "query", str(PHOTOS / "night-bridge.jpg"), "--target", "text", "--rerank", "-k", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "bridge" in done.stdout


def test_what_was_seen_is_kept_until_somebody_deletes_it(home: Path) -> None:
    first = call(home, "query", WORDS, "--rerank", "--json").stdout
    kept = home / "collections" / "default" / "cache"
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert len(files) >= 50
    numbers = 81 * 2 * 192  # of two matchers
    assert max(path.stat().st_size for path in files) < 1.05 * numbers, "eight bits a number"
    assert len([path for path in files if "views" in path.parts]) == VIEWED, "of the best"
    shutil.rmtree(kept)
    again = call(home, "query", WORDS, "--rerank", "--json").stdout
    assert json.loads(first)["hits"] == json.loads(again)["hits"]
    assert call(home, "verify").returncode == 0


def test_candidates_belong_to_reranking(home: Path) -> None:
    done = call(home, "query", WORDS, "--candidates", "5")
    assert done.returncode == 2
    assert "--candidates goes with --rerank" in done.stderr
    done = call(home, "eval", CAPTIONS, "--candidates", "5")
    assert done.returncode == 2
    assert "--candidates goes with --rerank" in done.stderr


def test_eval_tells_what_it_is_worth(home: Path) -> None:
    done = call(home, "eval", CAPTIONS, "--rerank", "--candidates", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["system"].endswith(" over 5")
    assert [one["direction"] for one in report["directions"]] == ["text→image", "image→text"]
    for direction in report["directions"]:
        figures = {metric["name"]: metric["value"] for metric in direction["metrics"]}
        assert figures["R@5"] > 0.75
    through_index = call(home, "eval", "--collection", "default", "--rerank", "--candidates", "5", "--json")
    assert through_index.returncode == 0, through_index.stderr
    assert json.loads(through_index.stdout)["directions"][0]["queries"] == 174


def test_explain_draws_a_map(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps" / "map.png"
    done = call(home, "explain", "a red car", str(PHOTOS / "red-car.jpg"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["word", "a", "red", "car"]
    with Image.open(out) as drawn:
        assert drawn.width > 4 * 200
    told = json.loads(call(home, "explain", "a red car", str(PHOTOS / "red-car.jpg"), "--json").stdout)
    assert sum(map(sum, told["words"][2]["attention"])) == pytest.approx(1.0, abs=1e-3)
    assert call(home, "explain", "a red car", "nowhere.jpg").returncode == 2
    without_words = call(home, "explain", "…", str(PHOTOS / "red-car.jpg"))
    assert (without_words.returncode, len(without_words.stdout.splitlines())) == (0, 1)
    assert f"{DEFAULT_ENCODER} reads English" in call(home, "explain", "日本語", str(PHOTOS / "red-car.jpg")).stderr


def test_rerankers_are_listed(tmp_path: Path) -> None:
    shipped = {"uri": f"cross_attention:{SHIPPED}", "encoder": DEFAULT_ENCODER, "by_itself": True}
    manifest = json.loads((WEIGHTS / SHIPPED / "manifest.json").read_text()) | {"helped": True}
    other = manifest | {"encoder": {"uri": "toy:encoder", "fingerprint": "0" * 64}}
    contents = {"mine": manifest, "older": other, "newer": other, "broken": "no manifest"}
    for name, content in contents.items():
        (tmp_path / "rerankers" / name).mkdir(parents=True)
        (tmp_path / "rerankers" / name / "manifest.json").write_text(json.dumps(content))
    done = call(tmp_path, "models", "--rerankers", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "broken" in done.stderr
    first, *own = json.loads(done.stdout)
    assert 0 < first.pop("megabytes") < 12
    assert first == shipped
    assert own[0] == {"uri": "cross_attention:mine", "encoder": DEFAULT_ENCODER, "megabytes": 0.0, "by_itself": False}
    taken = {one["uri"].partition(":")[2]: one["by_itself"] for one in own}
    assert taken == {"mine": False, "newer": True, "older": False}, "what ships goes first, then the newest"
    some = call(tmp_path, "models", "--rerankers", "mine")
    assert [line.split()[0] for line in some.stdout.splitlines()] == ["uri", "cross_attention:mine"]
    none = call(tmp_path, "models", "--rerankers", "of-nobody")
    assert (none.returncode, none.stdout) == (1, "")
    assert "mmsearch train CAPTIONS --reranker" in none.stderr
    wrong = call(tmp_path, "models", "--rerankers", "--on-disk")
    assert wrong.returncode == 2
    assert "leave them out" in wrong.stderr
