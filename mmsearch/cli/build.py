"""`mmsearch build`."""

from __future__ import annotations

import gc

from mmsearch.cli.info import modality_lines
from mmsearch.cli.options import CollectionOption, DeviceOption, IndexOption, JsonOption, RecallOption
from mmsearch.cli.output import note, to_json, write


def build(
    collection: CollectionOption = None,
    kind: IndexOption = None,
    recall: RecallOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the search indexes of a collection anew, and tell their recall on stored vectors and on text queries.

    'mmsearch index' does so by itself when it is due. Searches go on with the old ones until the new ones are there.
    """
    import mmsearch

    gc.enable()
    with mmsearch.open(collection, device=device) as engine:
        note("mmsearch: building what is due and measuring its recall (minutes for a million vectors) …")
        built = engine.build(index_kind=kind, recall=recall)
        info = engine.info()
    if not built:
        note("mmsearch: there is no index to build: these vectors are searched exactly.")
    if as_json:
        write(to_json({modality: info.modalities[modality] for modality in built}))
        return
    for modality, part in info.modalities.items():
        for line in modality_lines(modality, part):
            write(line)
