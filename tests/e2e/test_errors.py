"""The table of docs/errors.md, walked: every situation is made for real, and nothing may be lost by it."""

from __future__ import annotations

import inspect
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from mmsearch import errors
from mmsearch.cli import exits
from tests.e2e import (  # noqa: F401 - they bind the situations
    situations_of_collections,
    situations_of_training,
    situations_of_use,
)
from tests.e2e.situations import SITUATIONS, Case, make_home
from tests.support import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text()

NOTES = (
    "nothing found.",
    " embedded",
    " read for their tokens",
    " steps learned",
    " queries judged",
    "stopping at the next batch",
    "reached a recall",
    "building what is due",
)
"""How lines that may stand beside the sentence begin."""

_ROW = re.compile(r"\| <!-- (?P<id>[a-z0-9-]+) --> [^|]+ \| (?:`(?P<sentence>[^|]+)`|—) \| (?P<status>\d+) \| [^|]+ \|")
_STATUS = re.compile(r"\| (?P<status>\d+) \| (?:`(?P<name>\w+)`)? ?\| [^|]+ \|")


@dataclass(frozen=True)
class Row:
    """A line of the table; `sentence` is None where nothing is said."""

    id: str
    sentence: str | None
    status: int

    def fits(self, line: str) -> bool:
        """Return True for a line of stderr that is the sentence, whatever stands for its dots."""
        assert self.sentence is not None
        parts = map(re.escape, self.sentence.split("…"))
        return re.fullmatch(f"mmsearch: {'.*'.join(parts)}", line) is not None


def table(heading: str) -> list[str]:
    """Return the lines below the head of the table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def rows() -> list[Row]:
    """Return the situations of the page; a line that cannot be read fails."""
    found = []
    for line in table("Situations"):
        match = _ROW.fullmatch(line)
        assert match, f"docs/errors.md: {line}"
        found.append(Row(match["id"], match["sentence"], int(match["status"])))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a home folder to copy, and the folder of its pictures."""
    home = tmp_path_factory.mktemp("errors") / "home"
    return home, make_home(home)


@pytest.fixture
def case(made: tuple[Path, Path], tmp_path: Path) -> Case:
    home, pictures = made
    shutil.copytree(home, tmp_path / "home")
    return Case(tmp_path, tmp_path / "home", pictures)


def test_rows_and_situations_are_the_same() -> None:
    ids = [row.id for row in rows()]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(SITUATIONS)


def test_statuses_are_those_of_the_commands() -> None:
    told = {
        int(match["status"]): match["name"] for line in table("Exit statuses") if (match := _STATUS.fullmatch(line))
    }
    assert len(told) == len(table("Exit statuses"))
    by_class = {status: kind.__name__ for kind, status in exits.BY_ERROR}
    assert len(by_class) == len(exits.BY_ERROR), "every class has a status of its own"
    numbers = {value for value in vars(exits).values() if isinstance(value, int)}
    assert {status: name for status, name in told.items() if name} == by_class
    assert set(told) == {0} | set(by_class) | numbers
    assert {row.status for row in rows()} == set(told)
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass)} - {
        errors.ImageError
    }  # is never raised itself
    assert classes <= {kind for kind, _ in exits.BY_ERROR}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_every_row(row: Row, case: Case) -> None:
    done = SITUATIONS[row.id](case)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.returncode == row.status, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("mmsearch:")]
    if row.sentence is None:
        assert done.stderr == ""
    else:
        assert sum(map(row.fits, said)) == 1, done.stderr
        beside = [line for line in said if not row.fits(line)]
        assert all(any(note in line for note in NOTES) or "the slowest is" in line for line in beside), done.stderr
    case.check_nothing_is_lost()


def test_what_pillow_thinks_of_a_picture_is_not_told(case: Case) -> None:
    picture = case.tmp / "odd.jpg"
    broken = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x12\x01\x03\0\xff\0\0\0\1\0\0\0" * 2
    Image.new("RGB", (64, 48), "red").save(picture, exif=broken)
    with pytest.warns(UserWarning), Image.open(picture) as opened:
        opened.getexif()
    done = case.run("query", picture, "-k", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert case.run("index", picture, "--quiet").stderr == ""
