"""CrossAttentionReranker: words attend to patches and patches to words, on the tokens of an encoder. ONNX Runtime.

    weights/<name>/, or home/rerankers/<name>/ for what `mmsearch train --reranker` made
      manifest.json     fingerprint of the encoder, weight of the matching score, cells, SHA-256 of the graphs
      picture.onnx      tokens (n, patches, width of the encoder + colours of `cells`²) → states (n, patches, width)
      match.onnx        states (n, patches, width), words (n, t, width of the encoder), mask (n, t) → score (n,),
                        attention (n, t, patches)
      MODEL_CARD.md

Image-text matching with hard negatives of the first stage follows ALBEF (Li et al. 2021) and BLIP (Li et al. 2022);
that the states of pictures are kept, EDJE (arXiv 2510.06820).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.errors import UnknownReranker, WeightsUnavailable
from mmsearch.rerank.cells import colour_cells, with_cells
from mmsearch.runtime.onnx import OnnxSession, read_verified
from mmsearch.types import Encoder, Float32, Mask, PieceEncoder, RerankerSpec, TokenEncoder, UInt8

if TYPE_CHECKING:
    from PIL import Image

SCHEME = "cross_attention"
WEIGHTS = Path(__file__).parent / "weights"
PICTURE, MATCH = "picture.onnx", "match.onnx"
FORMAT = 2
_WITHOUT_CELLS = 1
_MANIFEST = "manifest.json"
_PAIRS = 25
_PICTURES = 16

_log = logging.getLogger(__name__)


def load(name: str, encoder: Encoder, _device: str | None = None) -> CrossAttentionReranker:
    """Return the reranker of a name, or with "" one for the encoder: the one that ships before a person's own.

    Of one's own the newest of those that were found to help is taken. Raise UnknownReranker where there is none or it
    was made for another encoder, WeightsUnavailable for one that was named and is damaged.
    """
    for folder in _named(name) if name else by_turns(own_manifests()):
        manifest = read_manifest(folder)
        if manifest["encoder"]["fingerprint"] == encoder.spec.fingerprint and isinstance(encoder, TokenEncoder):
            return CrossAttentionReranker(encoder, folder)
    command = f"mmsearch train CAPTIONS --reranker --name {name or 'NAME'} --encoder {encoder.spec.uri}"
    if name:
        raise UnknownReranker(
            f"{SCHEME}:{name} was made for {manifest['encoder']['uri']} with other weights than those of"
            f" {encoder.spec.uri} here: search without it, or make it again with '{command} --force'."
        )
    make = f"make one with '{command}', " if isinstance(encoder, TokenEncoder) else ""
    raise UnknownReranker(
        f"There is no reranker for {encoder.spec.uri}: search without it, {make}or move the collection to the encoder"
        " that ships with 'mmsearch index --reembed'."
    )


def _named(name: str) -> list[Path]:
    """Return the folder of a reranker by its name; raise UnknownReranker, which tells those that there are."""
    for folder in (WEIGHTS / name, Settings.from_environment().reranker_path(name)):
        if (folder / _MANIFEST).is_file():
            return [folder]
    known = ", ".join(f"{SCHEME}:{folder.name}" for folder in (*shipped(), *_in(_home())))
    raise UnknownReranker(f"There is no reranker '{SCHEME}:{name}': there are {known or 'none'}.")


def shipped() -> list[Path]:
    """Return the folders of the rerankers that ship, by name."""
    return _in(WEIGHTS)


def own_manifests() -> dict[Path, dict[str, Any]]:
    """Return the manifests of a person's own rerankers by their folders; of one that is damaged a warning is logged."""
    found = {}
    for folder in _in(_home()):
        try:
            found[folder] = read_manifest(folder)
        except WeightsUnavailable as error:
            _log.warning("%s", error)
    return found


def by_turns(own: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """Return the folders of rerankers that may be taken unasked, the ones that ship first, then the newest."""
    helpful = [folder for folder, manifest in own.items() if manifest.get("helped")]
    return [*shipped(), *sorted(helpful, key=lambda f: ((f / _MANIFEST).stat().st_mtime_ns, f), reverse=True)]


def _home() -> Path:
    return Settings.from_environment().home / "rerankers"


def _in(place: Path) -> list[Path]:
    """Return the folders of rerankers in a place, by name; those that begin with a dot are being written."""
    return [path.parent for path in sorted(place.glob(f"[!.]*/{_MANIFEST}"))]


class CrossAttentionReranker:
    """A matcher of pictures and texts on the tokens of one encoder. Graphs are loaded when they are first used."""

    def __init__(self, encoder: TokenEncoder, folder: Path, *, threads: int | None = None) -> None:
        """Describe the reranker in `folder`; `threads` defaults to those of `Settings`."""
        self._encoder, self._folder = encoder, folder
        self._threads = threads or Settings.from_environment().threads
        manifest = read_manifest(folder)
        self._cells = int(manifest["cells"])
        self._sha256 = {name: str(manifest["files"][name]["sha256"]) for name in (PICTURE, MATCH)}
        recipe = [encoder.spec.fingerprint, sorted(self._sha256.items())]
        self._spec = RerankerSpec(
            uri=f"{SCHEME}:{manifest['name']}",
            fingerprint=hashlib.sha256(json.dumps(recipe).encode()).hexdigest(),
            weight=float(manifest["weight"]),
        )
        self._sessions: dict[str, OnnxSession] = {}
        self._lock = threading.Lock()

    @property
    def spec(self) -> RerankerSpec:
        """The description."""
        return self._spec

    @property
    def min_side(self) -> int | None:
        """That of the encoder."""
        return self._encoder.min_side

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the pixels as the encoder takes them. Thread-safe."""
        return self._encoder.prepare_image(image)

    def picture_states(self, pixels: UInt8) -> Float32:
        """Return states (n, patches, width) of prepared pictures (n, 3, S, S), (0, 0, 0) for none."""
        parts = [np.empty((0, 0, 0), dtype=np.float32)] if not len(pixels) else []
        for start in range(0, len(pixels), _PICTURES):
            some = pixels[start : start + _PICTURES]
            tokens = self._encoder.image_tokens(some)
            if self._cells:
                colours = colour_cells(some, side=math.isqrt(tokens.shape[1]), cells=self._cells)
                tokens = with_cells(tokens, colours)
            parts.append(self._session(PICTURE).run(["states"], {"tokens": tokens})[0])
        return np.concatenate(parts)

    def score(self, texts: Sequence[str], states: Float32) -> Float32:
        """Return matching scores (n,) of n pairs: 0 is an average candidate of the first stage."""
        if not texts or not len(states):
            return np.empty(0, dtype=np.float32)
        if len(texts) != len(states) and 1 not in (len(texts), len(states)):
            raise ValueError(f"{len(texts)} texts and {len(states)} states make no pairs")
        count = max(len(texts), len(states))
        words, real = self._encoder.text_tokens(texts)
        parts = []
        for start in range(0, count, _PAIRS):
            rows = slice(start, min(start + _PAIRS, count))
            some, mask = (_pick(words, rows), _pick(real, rows))
            longest = int(mask.sum(axis=1).max())
            feeds = _feeds(_pick(states, rows), some[:, :longest], mask[:, :longest])
            parts.append(self._session(MATCH).run(["score"], feeds)[0])
        return np.concatenate(parts)

    def attention(self, text: str, states: Float32) -> tuple[tuple[str, ...], Float32]:
        """Return the words of a text, and where each looked in one picture (words, rows, columns)."""
        if not isinstance(self._encoder, PieceEncoder):
            raise UnknownReranker(f"{self._encoder.spec.uri} does not tell words: nothing can be explained with it.")
        words, mask = self._encoder.text_tokens([text])
        (shares,) = self._session(MATCH).run(["attention"], _feeds(states, words, mask))
        side = round(shares.shape[2] ** 0.5)
        found: dict[tuple[int, int], list[Float32]] = {}
        for span, row in zip(_joined(text, self._encoder.text_pieces(text)), shares[0], strict=True):
            if span[1] > span[0]:
                found.setdefault(span, []).append(row)
        maps = [np.mean(rows, axis=0) for rows in found.values()]
        return (
            tuple(text[start:stop] for start, stop in found),
            np.array(maps, dtype=np.float32).reshape(len(maps), side, side),
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _session(self, name: str) -> OnnxSession:
        with self._lock:
            if name not in self._sessions:
                model = read_verified(self._folder / name, self._sha256[name])
                self._sessions[name] = OnnxSession(model, threads=self._threads)
            return self._sessions[name]


def _feeds(states: Float32, words: Float32, mask: Mask) -> dict[str, Any]:
    return {
        "states": np.ascontiguousarray(states, dtype=np.float32),
        "words": np.ascontiguousarray(words),
        "mask": mask.astype(np.float32),
    }


def _pick(rows: Any, wanted: slice) -> Any:
    """Return some rows; of a single one, as many copies of it."""
    if len(rows) == 1:
        return np.broadcast_to(rows, (wanted.stop - wanted.start, *rows.shape[1:]))
    return rows[wanted]


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return for each token the span of the whole word that it is a part of; marks and punctuation have none."""
    words: list[list[int]] = []
    numbers = []
    for start, stop in spans:
        if stop <= start or not text[start:stop].strip() or not any(char.isalnum() for char in text[start:stop]):
            numbers.append(-1)
            continue
        if words and words[-1][1] == start:
            words[-1][1] = stop
        else:
            words.append([start, stop])
        numbers.append(len(words) - 1)
    return [(words[number][0], words[number][1]) if number >= 0 else (0, 0) for number in numbers]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest in a folder says; raise WeightsUnavailable for none that this version understands."""
    path = folder / _MANIFEST
    advice = "install mmsearch again" if folder.parent == WEIGHTS else "restore it, or make it again with --force"
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["format"] > FORMAT:
            raise WeightsUnavailable(
                f"{path} has format {content['format']}, this mmsearch knows up to {FORMAT}: update it."
            )
        if content["format"] == _WITHOUT_CELLS:
            content["cells"] = 0
        str(content["encoder"]["fingerprint"]), str(content["name"]), float(content["weight"])
        if int(content["cells"]) < 0:
            raise ValueError(f"{content['cells']} cells")
        for name in (PICTURE, MATCH):
            str(content["files"][name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}): {advice}.") from error
    return content
