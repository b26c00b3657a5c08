"""The rerankers that ship, and those that a person made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from mmsearch.errors import WeightsUnavailable
from mmsearch.rerank import cross_attention

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RerankerInfo:
    """One reranker.

    `encoder` is the URI of the encoder it was made for; with `by_itself` `--rerank` takes it without being told.
    """

    uri: str
    encoder: str
    megabytes: float
    by_itself: bool


def list_rerankers() -> Iterator[RerankerInfo]:
    """Yield those that ship, then those in the data folder, by name; of one that is damaged a warning is logged."""
    for folder in cross_attention.folders():
        try:
            manifest = cross_attention.read_manifest(folder)
        except WeightsUnavailable as error:
            _log.warning("%s", error)
            continue
        yield RerankerInfo(
            uri=f"{cross_attention.SCHEME}:{folder.name}",
            encoder=str(manifest["encoder"].get("uri", "?")),
            megabytes=sum(path.stat().st_size for path in folder.glob("*.onnx")) / 1e6,
            by_itself=folder.parent == cross_attention.WEIGHTS or bool(manifest.get("helped")),
        )
