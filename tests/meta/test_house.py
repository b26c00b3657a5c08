"""The house itself: what an import costs, what the documents promise, how large the rooms are."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmsearch import errors
from mmsearch.cli import exits
from mmsearch.config import Settings
from mmsearch.encoders import list_encoders, load_encoder
from mmsearch.errors import EncoderError, MmsearchError, QueryError
from tests.support import PHOTOS, ROOT, ToyEncoder

HEAVY = ("numpy", "sqlalchemy", "onnxruntime", "faiss", "torch", "PIL", "alembic", "tokenizers", "rich")
SOURCES = sorted([*ROOT.glob("mmsearch/**/*.py"), *ROOT.glob("indexer/**/*.py")])


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import mmsearch", "import mmsearch.cli.main", "import mmsearch.errors"])
def test_imports_are_light(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_a_search_loads_only_what_it_needs() -> None:
    assert not loaded_by("from mmsearch.engine import engine") & {"torch", "faiss", "alembic", "onnxruntime", "rich"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small_and_documented(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    names = {"print", "exit", "quit", "breakpoint"}
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not [call.lineno for call in calls if call.func.id in names]  # type: ignore[attr-defined]
    if path.name != "config.py":
        assert "os.environ" not in text, "config.py is the only reader of the environment"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_and_onnxruntime_are_reached_through_the_runtime(path: Path) -> None:
    """But for types, which import-linter cannot tell apart, and a room that is entered after `require_torch` alone."""
    if path.parent.name == "runtime" or path.parent == ROOT / "mmsearch" / "training" / "rerank":
        return
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {name.partition(".")[0] for name in named} & {"torch", "onnxruntime"}


def test_every_error_is_in_the_tree_and_has_a_status() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, MmsearchError)]
    assert all(re.search(rf"\b{c.__name__}\b", errors.__doc__ or "") for c in classes)
    statuses = {c: exits.status_of(c.__new__(c)) for c in classes}
    assert all(status not in (0, 1, 70) for status in statuses.values())
    assert exits.status_of(ZeroDivisionError()) == 70


def test_extras_are_those_of_the_documents() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {"cpu", "gpu", "clip", "train", "blip", "heif", "raw", "watch", "bench", "dev"} == set(extras)
    assert [e for e, needs in extras.items() if any(n.startswith("faiss") for n in needs)] == ["cpu", "gpu"]
    core = {re.split(r"[<>=\[]", need)[0] for need in project["dependencies"]}
    assert not core & {"torch", "faiss-cpu", "faiss-gpu", "open_clip_torch"}


def test_command_documentation_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_cli.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_picture_has_two_captions_and_a_licence() -> None:
    records = [json.loads(line) for line in (PHOTOS / "captions.jsonl").read_text().splitlines()]
    files = {p.name for p in PHOTOS.iterdir() if p.suffix in (".jpg", ".png", ".webp")}
    assert 60 <= len(files) <= 100
    assert {record["image"] for record in records} == files
    assert all(len(set(record["captions"])) == 2 for record in records)
    sources = (PHOTOS / "sources.csv").read_text()
    table = (ROOT / "data" / "README.md").read_text()
    assert all(name in sources and name in table for name in files)
    groups = json.loads((PHOTOS / "groups.json").read_text())
    assert len(groups) >= 10
    assert all(len(group["images"]) >= 2 and set(group["images"]) <= files for group in groups)


def test_settings_read_the_environment(tmp_path: Path) -> None:
    env = {
        "MMSEARCH_HOME": str(tmp_path),
        "MMSEARCH_COLLECTION": "mine",
        "MMSEARCH_THREADS": "3",
        "MMSEARCH_DEBUG": "1",
    }
    settings = Settings.from_environment(env)
    assert (settings.threads, settings.debug) == (3, True)
    assert settings.collection_path() == tmp_path / "collections" / "mine"
    assert settings.collection_path("other") == tmp_path / "collections" / "other"
    assert settings.collection_path("./dir") == Path.cwd() / "dir"
    assert settings.collection_path(Path("dir")) == Path.cwd() / "dir"
    defaults = Settings.from_environment({})
    assert defaults.home.is_absolute()
    assert (defaults.collection, defaults.debug) == ("default", False)
    for bad in ("0", "many", "-1"):
        with pytest.raises(QueryError, match="MMSEARCH_THREADS"):
            Settings.from_environment({"MMSEARCH_THREADS": bad})
    for bad in ("a b", "-x", ""):
        with pytest.raises(QueryError, match="cannot name"):
            settings.collection_path(bad)


def test_outside_packages_join_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "outside-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[mmsearch.encoders]\ntoy = outside_encoders:load\nbroken = outside_encoders:broken\n"
    )
    (tmp_path / "outside_encoders.py").write_text(
        "from tests.support import ToyEncoder\n"
        "def load(rest, device):\n    return ToyEncoder('toy:' + rest)\n"
        "def broken(rest, device):\n    return object()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list_encoders() == ("broken", "compact", "open_clip", "toy", "tuned")
    encoder = load_encoder("toy:1")
    assert isinstance(encoder, ToyEncoder)
    assert encoder.spec == ToyEncoder("toy:1").spec
    with pytest.raises(EncoderError, match="did not return an encoder"):
        load_encoder("broken")
