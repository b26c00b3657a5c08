"""The table of docs/errors.md, walked: every situation is made for real, and nothing may be lost by it."""

from __future__ import annotations

import gc
import inspect
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import filelock
import pytest
from PIL import Image

from mmsearch import errors
from mmsearch.cli import exits
from mmsearch.cli.app import app
from mmsearch.cli.main import main
from mmsearch.config import Settings
from mmsearch.encoders import models
from tests.e2e.situations import COMMAND, NO_PRIVILEGES, SMALL_DISK, Case, Done, make_home
from tests.support import ROOT, make_folder

PAGE = (ROOT / "docs" / "errors.md").read_text()

NOTES = ("nothing found.", "stopping at the next batch", "reached a recall", "building what is due")
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


SITUATIONS: dict[str, Callable[[Case], Done]] = {}


def situation(function: Callable[[Case], Done]) -> Callable[[Case], Done]:
    """Bind a function to the row that is called like it."""
    SITUATIONS[function.__name__.strip("_").replace("_", "-")] = function
    return function


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


# --- arguments ------------------------------------------------------------------------------------------------------


@situation
def wrong_option(case: Case) -> Done:
    return case.run("query", "x", "--frobnicate")


@situation
def wrong_command(case: Case) -> Done:
    return case.run("find", "x")


@situation
def missing_argument(case: Case) -> Done:
    return case.run("relocate", "/old")


@situation
def k_below_1(case: Case) -> Done:
    return case.run("query", "x", "-k", "0")


@situation
def wrong_setting(case: Case) -> Done:
    return case.run("info", first="import os; os.environ['MMSEARCH_THREADS'] = 'many'")


@situation
def no_collection(case: Case) -> Done:
    return case.run("query", "x", "--collection", "other")


@situation
def collection_name(case: Case) -> Done:
    return case.run("info", "--collection", "a b")


@situation
def unknown_encoder(case: Case) -> Done:
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "klip")


@situation
def unknown_device(case: Case) -> Done:
    return case.run("query", "x", "--device", "quantum")


# --- queries --------------------------------------------------------------------------------------------------------


@situation
def query_empty(case: Case) -> Done:
    return case.run("query", " ")


@situation
def query_not_there(case: Case) -> Done:
    return case.run("query", "--image", case.tmp / "nowhere.jpg")


@situation
def query_text_file(case: Case) -> Done:
    return case.run("query", case.file("text.jpg"))


@situation
def query_truncated(case: Case) -> Done:
    return case.run("query", case.truncated())


@situation
def query_too_large(case: Case) -> Done:
    return case.run("query", case.pictures / "p0000.png", "--max-pixels", "100")


@situation
def nothing_found(case: Case) -> Done:
    return case.run("query", "a red car", "--min-similarity", "0.999")


@situation
def no_captions(case: Case) -> Done:
    return case.run("query", "a red car", "--target", "text")


@situation
def closed_pipe(case: Case) -> Done:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [COMMAND, "list", "--jsonl"], env=case.env(), stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    return Done(done.args, done.returncode, "", done.stderr)


# --- sources --------------------------------------------------------------------------------------------------------


@situation
def empty_folder(case: Case) -> Done:
    (case.tmp / "empty").mkdir()
    return case.run("index", case.tmp / "empty")


@situation
def path_not_there(case: Case) -> Done:
    return case.run("index", case.tmp / "nowhere")


@situation
def not_a_source(case: Case) -> Done:
    return case.run("index", case.file("letter.docx"))


@situation
def source_away(case: Case) -> Done:
    folder = case.own_pictures()
    folder.rename(case.tmp / "elsewhere")
    return case.run("index")


@situation
def text_file(case: Case) -> Done:
    return case.run("index", case.file("text.jpg"))


@situation
def truncated(case: Case) -> Done:
    return case.run("index", case.truncated())


@situation
def too_large(case: Case) -> Done:
    return case.run("index", make_folder(case.tmp / "large", 1, first=900)[0], "--max-pixels", "100")


@situation
def some_unreadable(case: Case) -> Done:
    folder = case.own_pictures()
    (folder / "bad.jpg").write_text("x")
    done = case.run("index")
    assert "bad.jpg: cannot be read as a picture" in done.stderr
    return done


@situation
def folder_unreadable(case: Case) -> Done:
    case.forbid(case.own_pictures(), 0o000)
    return case.run("index", first=NO_PRIVILEGES)


@situation
def subfolder_unreadable(case: Case) -> Done:
    folder = case.own_pictures()
    make_folder(folder / "below", 1, first=100)
    case.run("index")
    case.items += 1
    case.forbid(folder / "below", 0o000)
    return case.run("index", first=NO_PRIVILEGES)


@situation
def mass_deletion(case: Case) -> Done:
    folder = case.own_pictures()
    for number in range(22):
        (folder / f"p{number:04d}.png").unlink()
    return case.run("index")


@situation
def mass_removal(case: Case) -> Done:
    return case.run("remove", case.pictures)


@situation
def remove_unknown(case: Case) -> Done:
    return case.run("remove", case.tmp / "nowhere")


@situation
def interrupted_index(case: Case) -> Done:
    folder = case.tmp / "more"
    make_folder(folder, 60, first=1000)
    child = subprocess.Popen(
        [COMMAND, "index", str(folder)], env=case.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (case.collection / "catalog.sqlite3-wal").exists():
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    kept = json.loads(case.run("info", "--json").stdout)["modalities"]["image"]["items"]
    assert case.items <= kept < case.items + 60
    case.items = kept
    return Done(child.args, child.returncode, out, err)


@situation
def interrupted(case: Case) -> Done:
    child = subprocess.Popen(
        [COMMAND, "eval", str(ROOT / "data" / "photos" / "captions.jsonl")],
        env=case.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    return Done(child.args, child.returncode, out, err)


# --- collections ----------------------------------------------------------------------------------------------------


@situation
def locked(case: Case) -> Done:
    holder = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(); input()"
    words = [sys.executable, "-c", holder, str(case.collection / "writer.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(case.collection / "writer.lock", timeout=0).acquire()
        done = case.run("index")
        assert case.run("query", "x").returncode == 0
        child.communicate("\n")
    return done


@situation
def other_encoder(case: Case) -> Done:
    case.other_collection("toys", uri="toy:1", fingerprint="0" * 64)
    return case.run("index", case.pictures, "--collection", "toys", "--encoder", "compact")


@situation
def other_weights(case: Case) -> Done:
    case.other_collection("older", fingerprint="0" * 64)
    return case.run("query", "x", "--collection", "older")


@situation
def newer_format(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: data.replace(b'"version": 1', b'"version": 99'))
    return case.run("query", "x")


@situation
def newer_catalog(case: Case) -> Done:
    catalog = case.collection / "catalog.sqlite3"
    case.spoil(catalog, lambda data: data)
    connection = sqlite3.connect(catalog)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return case.run("index")


@situation
def manifest_missing(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: None)
    return case.run("query", "x")


@situation
def manifest_damaged(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: data[:40])
    return case.run("index")


@situation
def catalog_missing(case: Case) -> Done:
    case.spoil(case.collection / "catalog.sqlite3", lambda data: None)
    return case.run("index")


@situation
def catalog_damaged(case: Case) -> Done:
    case.spoil(case.collection / "catalog.sqlite3", lambda data: b"damage" * (len(data) // 6))
    return case.run("query", "x")


@situation
def catalog_foreign(case: Case) -> Done:
    other = case.other_collection("other") / "catalog.sqlite3"
    case.spoil(case.collection / "catalog.sqlite3", lambda data: other.read_bytes())
    return case.run("index")


@situation
def segment_missing(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: None)
    return case.run("query", "x")


@situation
def segment_truncated(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: data[:1000])
    return case.run("query", "x")


@situation
def index_missing(case: Case) -> Done:
    case.with_vectors(100, kind="ivfpq")
    case.spoil(next(case.collection.rglob("index.faiss")), lambda data: None)
    done = case.run("query", case.pictures / "p0003.png", "-k", "1", "--paths")
    assert Path(done.stdout.strip()).name == "p0003.png"
    return done


@situation
def index_damaged(case: Case) -> Done:
    case.with_vectors(100, kind="ivfpq")
    case.spoil(next(case.collection.rglob("index.faiss")), lambda data: data[:2000] + b"\1" + data[2001:])
    done = case.run("query", case.pictures / "p0003.png", "-k", "1", "--paths")
    assert Path(done.stdout.strip()).name == "p0003.png"
    return done


@situation
def verify(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: data[:-2] + b"\0\0")
    done = case.run("verify")
    assert "does not have the SHA-256" in done.stdout
    return done


@situation
def read_only(case: Case) -> Done:
    for path in [*case.collection.rglob("*"), case.collection]:
        case.forbid(path, 0o500 if path.is_dir() else 0o400)
    assert case.run("query", "x", first=NO_PRIVILEGES).returncode == 0
    return case.run("index", first=NO_PRIVILEGES)


@situation
def read_only_place(case: Case) -> Done:
    (case.tmp / "sealed").mkdir()
    case.forbid(case.tmp / "sealed", 0o500)
    done = case.run("index", case.pictures, "--collection", case.tmp / "sealed" / "new", first=NO_PRIVILEGES)
    assert list((case.tmp / "sealed").iterdir()) == []
    return done


def on_network(case: Case, place: Path) -> str:
    """Return a patch that makes a place look like a mount of NFS."""
    escaped = str(place).replace(" ", "\\040")
    mounts = case.file(
        "mountinfo",
        "21 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
        f"99 21 0:50 / {escaped} rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2\n",
    )
    return (
        "from pathlib import Path; from mmsearch.collection import filesystem;"
        f" filesystem.MOUNTS = Path({str(mounts)!r})"
    )


@situation
def network_place(case: Case) -> Done:
    (case.tmp / "a share").mkdir()
    patch = on_network(case, case.tmp / "a share")
    done = case.run("index", case.pictures, "--collection", case.tmp / "a share" / "new", patch=patch)
    assert list((case.tmp / "a share").iterdir()) == []
    return done


@situation
def network(case: Case) -> Done:
    patch = on_network(case, case.home)
    assert case.run("query", "x", patch=patch).returncode == 0
    return case.run("index", patch=patch)


@situation
def disk_full(case: Case) -> Done:
    make_folder(case.tmp / "more", 40, first=500)
    return case.run("index", case.tmp / "more", first=SMALL_DISK.format(bytes=60_000))


@situation
def disk_full_export(case: Case) -> Done:
    done = case.run("export", case.tmp / "photos.tar", first=SMALL_DISK.format(bytes=50_000))
    assert not list(case.tmp.glob("*photos.tar*"))
    return done


@situation
def other_files(case: Case) -> Done:
    letter = case.file("letter.txt")
    done = case.run("index", case.pictures, "--collection", case.tmp)
    assert letter.read_text() == "no picture at all"
    return done


@situation
def merge_itself(case: Case) -> Done:
    return case.run("merge", "default", "default")


@situation
def closed_folder(case: Case) -> Done:
    (case.tmp / "closed").mkdir()
    case.forbid(case.tmp / "closed", 0o500)
    return case.run("export", case.tmp / "closed" / "photos.tar", first=NO_PRIVILEGES)


@situation
def export_exists(case: Case) -> Done:
    there = case.file("photos.tar")
    done = case.run("export", there)
    assert there.read_text() == "no picture at all"
    return done


@situation
def import_exists(case: Case) -> Done:
    assert case.run("export", case.tmp / "photos.tar").returncode == 0
    return case.run("import", case.tmp / "photos.tar")


@situation
def import_foreign(case: Case) -> Done:
    done = case.run("import", case.file("photos.tar", "not one of ours" * 100), "--collection", "copy")
    assert [path.name for path in (case.home / "collections").iterdir()] == ["default"]
    return done


# --- what is installed ----------------------------------------------------------------------------------------------


@situation
def broken_encoder(case: Case) -> Done:
    package = case.tmp / "packages" / "outside-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[mmsearch.encoders]\nbroken = outside_encoders:load\n")
    (package.parent / "outside_encoders.py").write_text("def load(rest, device):\n    return 1 / 0\n")
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "broken")


@situation
def weights_missing(case: Case) -> Done:
    folder = case.tmp / "weights" / "compact-v1"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "mmsearch" / "encoders" / "weights" / "compact-v1" / "manifest.json", folder)
    patch = (
        "from pathlib import Path; from mmsearch.encoders import compact;"
        f" compact.WEIGHTS = Path({str(folder.parent)!r})"
    )
    return case.run("query", "x", patch=patch)


@situation
def missing_extra(case: Case) -> Done:
    return case.run("index", "--watch", patch="import sys; sys.modules['watchfiles'] = None")


@situation
def watch_limit(case: Case) -> Done:
    patch = (
        "import watchfiles\n"
        "def watch(*_, **__):\n    raise OSError(28, 'OS file watch limit reached')\n    yield\n"
        "watchfiles.watch = watch"
    )
    return case.run("index", "--watch", patch=patch)


@situation
def nothing_to_evaluate(case: Case) -> Done:
    return case.run("eval", "--collection", "default")


# --- every command --------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "index": ["/x"],
    "query": ["x"],
    "merge": ["a", "b"],
    "remove": ["/x"],
    "relocate": ["/x", "/y"],
    "export": ["/x"],
    "import": ["/x"],
}
"""What each command needs at least."""

COMMANDS = {command.name: command.callback for command in app.registered_commands}


def numbers() -> list[tuple[str, str]]:
    """Return every command with each of its options that takes a number."""
    found = []
    for name, callback in COMMANDS.items():
        for hint in get_type_hints(callback, include_extras=True).values():
            kind, *told = get_args(hint) or (hint,)
            if told and {int, float} & {kind, *get_args(kind)}:
                words = [word for word in (told[0].default, *(told[0].param_decls or ())) if isinstance(word, str)]
                found.append((name, words[0]))
    return found


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Return the command, run in this process: there are many commands, and each start takes a while."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["mmsearch", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Done(arguments, int(caught.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGINT)
    yield run
    signal.signal(signal.SIGINT, before)
    gc.enable()


def is_one_sentence(text: str) -> bool:
    return re.fullmatch(r"mmsearch: [^\n]+\n", text) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments_of_every_command(name: str, run_here: Callable[..., Done]) -> None:
    assert run_here(name, "--help").returncode == 0
    attempts = [["--frobnicate"], ["--collection"] if name not in ("merge", "models") else ["--json=maybe"]]
    attempts += [ARGUMENTS[name][:-1]] if name in ARGUMENTS and name != "index" else []  # which needs none again
    for arguments in attempts:
        done = run_here(name, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
        assert is_one_sentence(done.stderr)
        assert re.search(rf"\(see 'mmsearch( {name})? --help'\)\.$", done.stderr)


@pytest.mark.parametrize(("name", "option"), numbers())
def test_numbers_that_are_none(name: str, option: str, run_here: Callable[..., Done]) -> None:
    for wrong in ("many", "-1000000"):
        done = run_here(name, *ARGUMENTS.get(name, []), option, wrong)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert is_one_sentence(done.stderr)
        assert f"Invalid value for '{option}'" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_in_every_command(name: str, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        for _ in range(2):  # `index` ends at the next batch when it is told once
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    monkeypatch.setattr(Settings, "from_environment", press)
    monkeypatch.setattr(models, "list_models", press)
    done = run_here(name, *ARGUMENTS.get(name, []))
    assert (done.returncode, done.stdout) == (130, "")
    said = [line for line in done.stderr.splitlines() if "stopping at the next batch" not in line]
    assert said == ["mmsearch: interrupted: what was committed is kept, run the same command again to go on."]


def test_what_pillow_thinks_of_a_picture_is_not_told(case: Case) -> None:
    picture = case.tmp / "odd.jpg"
    broken = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x12\x01\x03\0\xff\0\0\0\1\0\0\0" * 2
    Image.new("RGB", (64, 48), "red").save(picture, exif=broken)
    with pytest.warns(UserWarning), Image.open(picture) as opened:
        opened.getexif()
    done = case.run("query", picture, "-k", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert case.run("index", picture, "--quiet").stderr == ""
