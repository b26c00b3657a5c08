"""The examples of the README do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PHOTOS, ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ") for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line.strip()
]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photographs in it, as the README supposes."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(PHOTOS, folder / "photos")
    return folder


def run(command: list[str], workplace: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "MMSEARCH_HOME": str(workplace / "home"), "PATH": path}
    return subprocess.run(command, cwd=workplace, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_commands(workplace: Path) -> None:
    assert len(COMMANDS) > 8
    printed = {}
    for command in COMMANDS:
        done = run(["bash", "-c", command], workplace)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout
        printed[command] = done.stdout
    found = printed['mmsearch query "a red car"'].splitlines()
    shown = next(text for kind, text in BLOCKS if kind == "text" and text.startswith("rank")).splitlines()
    for line, promised in zip(found, shown, strict=False):
        assert (line.split()[0], line.split()[2]) == (promised.split()[0], promised.split()[2])
    for line, promised in zip(found[1:], shown[1:], strict=False):
        assert float(line.split()[1]) == pytest.approx(float(promised.split()[1]), abs=0.01)


def test_programs(workplace: Path) -> None:
    assert PROGRAMS
    for program in PROGRAMS:
        done = run([sys.executable, "-c", program], workplace)
        assert done.returncode == 0, done.stderr
        assert "red-car.jpg" in done.stdout


def test_verbs_and_links_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"\bmake (\w[\w-]*)", README))
    assert {"demo", "test", "bench"} <= verbs
    assert all(f"\n{verb}:" in makefile for verb in verbs)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert all((ROOT / link).exists() for link in links)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_figure_has_a_command_that_is_there() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| `python -m (benchmarks\.\w+)` \|$", README, flags=re.MULTILINE)
    assert len(rows) >= 10
    for claim, figure, module in rows:
        assert re.search(r"\d", figure), claim
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert {module.removeprefix("benchmarks.") for _, _, module in rows} <= set(
        re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split()  # type: ignore[index]
    )
