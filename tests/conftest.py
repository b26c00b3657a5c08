"""Fixtures of the whole suite. Every test has a home folder of its own and no collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common import SHARDS
from mmsearch.collection.collection import Collection
from tests.support import HAS_OPEN_CLIP, ToyEncoder, make_folder
from tests.tiny_models import FAMILIES, make_model


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of this test."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MMSEARCH_HOME", str(folder))
    for name in ("MMSEARCH_COLLECTION", "MMSEARCH_DEVICE", "MMSEARCH_THREADS", "MMSEARCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def toy() -> ToyEncoder:
    """Return a fresh toy encoder."""
    return ToyEncoder()


@pytest.fixture
def collection(tmp_path: Path, toy: ToyEncoder) -> Iterator[Collection]:
    """Return an empty collection bound to the toy encoder."""
    with Collection.create(tmp_path / "collection", toy.spec) as made:
        yield made


@pytest.fixture(autouse=True)
def _shared(request: pytest.FixtureRequest) -> None:
    """Skip a test that needs what this clone or environment does not have, as its marks say."""
    if request.node.get_closest_marker("needs_clip") and not HAS_OPEN_CLIP:
        pytest.skip("needs the extra [clip]")
    if request.node.get_closest_marker("needs_shared") and not SHARDS.is_dir():
        pytest.skip("needs the shards of ../shared, which a clone does not have")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny OpenCLIP model of every family; a test that changes one copies it first."""
    folder = tmp_path_factory.mktemp("open_clip")
    for family in FAMILIES:
        make_model(family, folder / family)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of six pictures."""
    folder = tmp_path / "photos"
    make_folder(folder, 6)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return where a collection may be made."""
    return tmp_path / "c"
