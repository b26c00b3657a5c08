"""What the situations of docs/errors.md are made with: a home folder of their own, and ways to spoil it for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer import index
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.relocation import relocate
from mmsearch.encoders import load_encoder
from mmsearch.types import Modality
from tests.support import ROOT, ToyEncoder, age, make_folder, random_units

COMMAND = str(Path(sys.executable).parent / "mmsearch")
PICTURES = 24

Done = subprocess.CompletedProcess[str]

NO_PRIVILEGES = """
import ctypes
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: root asks for permission like anybody else
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
"""
SMALL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))  # Python ignores SIGXFSZ, and so does what it becomes
"""
_BECOME = "import os, sys; os.execv({command!r}, [{command!r}, *sys.argv[1:]])"
_RUN = "from mmsearch.cli.main import main; main()"


@dataclass
class Case:
    """A home folder with a collection of 24 pictures, and what is to be undone before it is looked at again."""

    tmp: Path
    home: Path
    pictures: Path
    items: int = PICTURES
    undo: list[Callable[[], object]] = field(default_factory=list)

    @property
    def collection(self) -> Path:
        """The default collection."""
        return self.home / "collections" / "default"

    def run(self, *arguments: str | Path, first: str = "", patch: str = "", **options: Any) -> Done:
        """Run the command; `first` is done in the process that becomes it, `patch` inside of it."""
        command = self.command(*arguments, first=first, patch=patch)
        return subprocess.run(
            command, env=self.env(), capture_output=True, text=True, timeout=100, check=False, **options
        )

    def command(self, *arguments: str | Path, first: str = "", patch: str = "") -> Sequence[str]:
        """Return the words of a command line."""
        words = [str(argument) for argument in arguments]
        if patch:
            return [sys.executable, "-c", f"{patch}\n{_RUN}", *words]
        if first:
            return [sys.executable, "-c", f"{first}\n{_BECOME.format(command=COMMAND)}", *words]
        return [COMMAND, *words]

    def env(self) -> dict[str, str]:
        """Return the environment of the command."""
        return {**os.environ, "MMSEARCH_HOME": str(self.home), "PYTHONPATH": str(self.tmp / "packages")}

    def own_pictures(self) -> Path:
        """Give the collection a copy of its pictures that may be spoiled, and return its folder."""
        mine = self.tmp / "mine"
        shutil.copytree(self.pictures, mine)
        with Collection.open(self.collection) as opened:
            relocate(opened, str(self.pictures), str(mine))
        return mine

    def file(self, name: str, content: str | bytes = "no picture at all") -> Path:
        """Return a new file."""
        path = self.tmp / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def truncated(self) -> Path:
        """Return a picture that is cut off."""
        whole = (ROOT / "data" / "photos" / "red-car.jpg").read_bytes()
        return self.file("cut.jpg", whole[: len(whole) // 2])

    def spoil(self, path: Path, change: Callable[[bytes], bytes | None]) -> None:
        """Change a file of the collection, or remove it where None comes out, until the case is looked at."""
        before = path.read_bytes()
        after = change(before)
        if after is None:
            path.unlink()
        else:
            path.write_bytes(after)
        self.undo.append(lambda: path.write_bytes(before))

    def forbid(self, path: Path, mode: int) -> None:
        """Take permissions from a file or folder until the case is looked at."""
        before = path.stat().st_mode
        path.chmod(mode)
        self.undo.append(lambda: path.chmod(before))

    def with_vectors(self, count: int, *, kind: str | None = None) -> None:
        """Put items with made-up vectors into the collection, sealed; with an index of a kind, if one is named."""
        with Collection.open(self.collection) as opened, opened.writer() as writer:
            root = opened.catalog.roots()[0]
            for number, row in enumerate(random_units(count, opened.spec.dim)):
                key = f"{root.path}/made-{number}.png"
                digest = number.to_bytes(32, "big")
                writer.put(NewItem(key, Modality.IMAGE, key, key, digest, 1, 1, 1), root, row)
            writer.commit()
            writer.seal(Modality.IMAGE)
            if kind is not None:
                maintain(opened, writer, kind=kind)
        self.items += count

    def toy_collection(self, name: str, count: int = PICTURES) -> Path:
        """Make a collection of an encoder that cannot be loaded by its name, and return the folder of its pictures."""
        mine = self.tmp / "mine"
        make_folder(mine, count)
        age(mine)
        index([mine], collection=self.home / "collections" / name, encoder=ToyEncoder())
        return mine

    def other_collection(self, name: str, *, uri: str = "", fingerprint: str = "") -> Path:
        """Return an empty collection of the compact encoder, or of one that only says so."""
        spec = load_encoder("compact").spec
        spec = replace(spec, uri=uri or spec.uri, fingerprint=fingerprint or spec.fingerprint)
        path = self.home / "collections" / name
        Collection.create(path, spec).close()
        return path

    def check_nothing_is_lost(self) -> None:
        """Assert that the collection opens, is what its hashes say, and holds what it held."""
        while self.undo:
            self.undo.pop()()
        with closing(Collection.open(self.collection)) as opened:
            assert verify(opened).problems == ()
            assert opened.info().modalities[Modality.IMAGE].items == self.items
            assert np.isfinite(opened.snapshot().store(Modality.IMAGE).blocks[0].rows).all()


def make_home(home: Path) -> Path:
    """Make a home folder with a collection by the real command, and return the folder of its pictures."""
    pictures = home.parent / "pictures"
    make_folder(pictures, PICTURES)
    env = {**os.environ, "MMSEARCH_HOME": str(home)}
    subprocess.run([COMMAND, "index", str(pictures), "--quiet"], env=env, capture_output=True, check=True)
    return pictures


SITUATIONS: dict[str, Callable[[Case], Done]] = {}


def situation(function: Callable[[Case], Done]) -> Callable[[Case], Done]:
    """Bind a function to the row that is called like it."""
    SITUATIONS[function.__name__.strip("_").replace("_", "-")] = function
    return function
