"""The rerankers that ship, and those that a person made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.rerank import cross_attention


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
    """Yield those that ship, then those in the data folder, by name; of one that is damaged a warning is logged.

    BLIP models and rerankers of other packages are not among them.
    """
    own = cross_attention.own_manifests()
    manifests = {folder: cross_attention.read_manifest(folder) for folder in cross_attention.shipped()} | own
    taken: dict[str, Path] = {}
    for folder in cross_attention.by_turns(own):
        taken.setdefault(manifests[folder]["encoder"]["fingerprint"], folder)
    for folder, manifest in manifests.items():
        yield RerankerInfo(
            uri=f"{cross_attention.SCHEME}:{folder.name}",
            encoder=str(manifest["encoder"].get("uri", "?")),
            megabytes=sum(path.stat().st_size for path in folder.glob("*.onnx")) / 1e6,
            by_itself=folder == taken.get(manifest["encoder"]["fingerprint"]),
        )
