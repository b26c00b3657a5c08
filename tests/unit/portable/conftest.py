"""A collection, and the archive that it was exported to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmsearch.collection.collection import Collection
from mmsearch.collection.portable import export_collection
from tests.support import ToyEncoder, make_folder, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a collection of 40 pictures, 30 of them sealed, with a caption, and its export."""
    home, toy = tmp_path_factory.mktemp("made"), ToyEncoder()
    make_folder(home / "photos", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmsearch.collection.writer.SEAL_ROWS", 30)
        run(home / "c", toy, home / "photos")
    make_folder(home / "photos", 40)
    (home / "photos" / "p0001.txt").write_text("a red thing")
    run(home / "c", toy, home / "photos")
    with Collection.open(home / "c") as opened:
        export_collection(opened, home / "c.tar")
    return home


@pytest.fixture
def exported(made: Path, tmp_path: Path, place: Path) -> Path:
    """Return a copy of that export; the collection is copied to `place`."""
    shutil.copytree(made / "c", place)
    return Path(shutil.copy(made / "c.tar", tmp_path))
