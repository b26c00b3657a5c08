"""Rerankers by URI: `load_reranker("auto", encoder)`.

"auto" is the one that ships for the encoder, else the newest of one's own (`mmsearch train --reranker`). A URI is
`SCHEME` or `SCHEME:REST`. Packages outside mmsearch add a scheme with an entry point in the group "mmsearch.rerankers":
its name is the scheme, its object a function that takes REST (a str, perhaps empty) and the collection's encoder, and
returns an object that keeps the `Reranker` protocol of `mmsearch.types`.
"""

from __future__ import annotations

from importlib import import_module

from mmsearch.errors import UnknownReranker
from mmsearch.runtime.plugins import from_plugin, plugins
from mmsearch.types import Encoder, Reranker

DEFAULT_RERANKER = "auto"
ENTRY_POINT_GROUP = "mmsearch.rerankers"
_BUILT_IN = {"cross_attention": "mmsearch.rerank.cross_attention", "blip": "mmsearch.rerank.blip"}


def load_reranker(uri: str, encoder: Encoder, *, device: str | None = None) -> Reranker:
    """Return the reranker that `uri` names, beside an encoder; raise UnknownReranker or WeightsUnavailable.

    `device` is where one that can choose runs, as `load_encoder` takes it; BLIP also raises MissingExtra, DeviceError.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == DEFAULT_RERANKER:
        scheme = "cross_attention"
    if scheme in _BUILT_IN:
        built: Reranker = import_module(_BUILT_IN[scheme]).load(rest, encoder, device)
        return built
    outside = plugins(ENTRY_POINT_GROUP)
    if scheme not in outside:
        known = ", ".join(sorted({DEFAULT_RERANKER, *_BUILT_IN, *outside}))
        raise UnknownReranker(f"There is no reranker {uri!r}: known are {known}.")
    made: Reranker = from_plugin(
        outside[scheme], lambda load: load(rest, encoder), Reranker, uri=uri, word="a reranker"
    )
    return made
