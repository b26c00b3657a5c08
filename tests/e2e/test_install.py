"""The built wheel in clean environments, and `make demo` in a clean tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PHOTOS, ROOT, make_folder

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path | None = None, status: int = 0, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env={**env, **environment}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == status, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from the files that git knows."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    copy_tree(tree)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(tree))
    (built,) = out.glob("mmsearch-*.whl")
    return built


def copy_tree(target: Path) -> None:
    """Copy what a clone would hold."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        place = target / name
        if (ROOT / name).is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())


def environment(place: Path, requirement: str) -> Path:
    run(sys.executable, "-m", "venv", str(place))
    run(str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement)
    return place / "bin"


def test_wheel_with_cpu_extra(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", f"mmsearch[cpu] @ file://{wheel}")
    listed = run(str(programs / "python"), "-m", "pip", "list")
    assert "torch" not in listed
    home = str(tmp_path / "home")
    command = str(programs / "mmsearch")
    out = run(command, "index", str(PHOTOS), "--index", "ivfpq", cwd=tmp_path, MMSEARCH_HOME=home)
    assert out.startswith("87 added")
    found = run(command, "query", "a red car", "-k", "1", "--paths", cwd=tmp_path, MMSEARCH_HOME=home)
    assert found.strip() == str(PHOTOS / "red-car.jpg")
    code = "import mmsearch\nwith mmsearch.open() as c: print(c.search('a red car', k=1)[0].item.uri)"
    out = run(str(programs / "python"), "-c", code, cwd=tmp_path, MMSEARCH_HOME=home)
    assert out.strip() == str(PHOTOS / "red-car.jpg")


def test_wheel_without_faiss_searches_exactly_and_says_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", str(wheel))
    home = str(tmp_path / "home")
    command = str(programs / "mmsearch")
    make_folder(tmp_path / "pictures", 70)
    out = run(command, "index", str(tmp_path / "pictures"), MMSEARCH_HOME=home)
    assert 'pip install "mmsearch[cpu]"' in out
    found = run(command, "query", str(tmp_path / "pictures" / "p0007.png"), "-k", "1", "--paths", MMSEARCH_HOME=home)
    assert found.strip().endswith("p0007.png")
    out = run(command, "index", str(tmp_path / "pictures"), "--index", "ivfpq", status=15, MMSEARCH_HOME=home)
    assert "An IVF-PQ index needs FAISS" in out
    assert "FAISS is missing" in run(command, "doctor", MMSEARCH_HOME=home)


def test_make_demo_in_a_fresh_clone(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    out = run("make", "demo", f"PYTHON={sys.executable}", cwd=tmp_path)
    assert "261 added" in out
    assert '$ mmsearch query "a red car" -k 5' in out
    assert re.search(r"^ +1  0\.\d{3}  data/photos/red-car\.jpg +a red car$", out, flags=re.MULTILINE)
    assert re.search(r"^ +1  1\.000  data/photos/tabby-cat\.jpg ", out, flags=re.MULTILINE)
    assert (tmp_path / ".demo" / "collections" / "default" / "mmsearch.json").is_file()
