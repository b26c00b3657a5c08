"""Fixtures of the whole suite. Every test has a home folder of its own and no collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmsearch.collection.collection import Collection
from tests.support import SHARED, ToyEncoder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of this test."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MMSEARCH_HOME", str(folder))
    for name in ("MMSEARCH_COLLECTION", "MMSEARCH_THREADS", "MMSEARCH_DEBUG"):
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


@pytest.fixture
def shared() -> Path:
    """Return the folder of shared shards; skip where a clone does not have it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shards of ../shared, which a clone does not have")
    return SHARED
