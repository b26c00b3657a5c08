"""mmsearch: search pictures and captions by meaning, on your own machine.

    import mmsearch

    mmsearch.index(["./photos"])                     # into the default collection
    with mmsearch.open() as photos:
        for hit in photos.search("a red car", k=5):
            print(hit.score, hit.item.uri)

Names are loaded when they are first used (PEP 562): `import mmsearch` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer import IndexReport, Progress, ReembedReport, index, reembed
    from mmsearch import errors
    from mmsearch.collection.collection import Collection
    from mmsearch.encoders import list_encoders, load_encoder
    from mmsearch.encoders.models import ModelInfo, list_models
    from mmsearch.engine.engine import SearchEngine
    from mmsearch.engine.engine import open_collection as open
    from mmsearch.engine.explaining import Explanation, explain
    from mmsearch.engine.repairing import repair_collection as repair
    from mmsearch.evaluation.runner import EvalReport, Evaluation, evaluate
    from mmsearch.types import Filter, Hit, Item, Modality, SearchParams, SearchResult

__version__ = "0.1.0"

_HOMES = {
    "Collection": "mmsearch.collection.collection:Collection",
    "Explanation": "mmsearch.engine.explaining:Explanation",
    "EvalReport": "mmsearch.evaluation.runner:EvalReport",
    "Evaluation": "mmsearch.evaluation.runner:Evaluation",
    "Filter": "mmsearch.types:Filter",
    "Hit": "mmsearch.types:Hit",
    "IndexReport": "indexer:IndexReport",
    "Item": "mmsearch.types:Item",
    "Modality": "mmsearch.types:Modality",
    "ModelInfo": "mmsearch.encoders.models:ModelInfo",
    "Progress": "indexer:Progress",
    "ReembedReport": "indexer:ReembedReport",
    "SearchEngine": "mmsearch.engine.engine:SearchEngine",
    "SearchParams": "mmsearch.types:SearchParams",
    "SearchResult": "mmsearch.types:SearchResult",
    "errors": "mmsearch.errors:",
    "evaluate": "mmsearch.evaluation.runner:evaluate",
    "explain": "mmsearch.engine.explaining:explain",
    "index": "indexer:index",
    "list_encoders": "mmsearch.encoders:list_encoders",
    "list_models": "mmsearch.encoders.models:list_models",
    "load_encoder": "mmsearch.encoders:load_encoder",
    "open": "mmsearch.engine.engine:open_collection",
    "reembed": "indexer:reembed",
    "repair": "mmsearch.engine.repairing:repair_collection",
}

__all__ = [
    "Collection",
    "EvalReport",
    "Evaluation",
    "Explanation",
    "Filter",
    "Hit",
    "IndexReport",
    "Item",
    "Modality",
    "ModelInfo",
    "Progress",
    "ReembedReport",
    "SearchEngine",
    "SearchParams",
    "SearchResult",
    "__version__",
    "errors",
    "evaluate",
    "explain",
    "index",
    "list_encoders",
    "list_models",
    "load_encoder",
    "open",
    "reembed",
    "repair",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmsearch' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    loaded = import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
