"""Webdataset shards: a plain tar archive whose members of one stem are one sample: `a.jpg`, `a.json`, `a.txt`, `a.cls`.

https://github.com/webdataset/webdataset. Captions are in `.txt` or `.caption` (one a line) or in a `.json` object with
"caption" or "captions"; `.cls` or the object's "label" is the label. Pictures are read where they lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mmsearch.corpora.places import member_place, read_members
from mmsearch.corpora.records import BadRecord, CaptionRecord, CorpusOptions, as_label, picture_record, text_record
from mmsearch.corpora.sidecars import captions_of
from mmsearch.images import is_picture_name

_CAPTIONS = ("txt", "caption", "text")


def read_webdataset(path: Path, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    """Yield a record for each sample, in order. Raise OSError when the archive cannot be read."""
    samples: dict[str, dict[str, str]] = {}
    members = read_members(str(path))
    for name in members:
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if dot and stem:
            samples.setdefault(folder + slash + stem, {})[suffix.lower()] = name
    with path.open("rb") as file:

        def read(name: str) -> bytes:
            offset, size = members[name]
            file.seek(offset)
            return file.read(size)

        for number, sample in enumerate(samples.values(), start=1):
            try:
                captions, label = _told(sample, read)
            except ValueError as error:
                yield BadRecord(number, str(error))
                continue
            pictures = [] if options.captions_only else [n for n in sample.values() if is_picture_name(n)]
            for name in pictures[:1]:
                yield picture_record(number, member_place(path, name), captions, label)
            if not pictures:
                yield from (text_record(number, caption, label) for caption in captions)


def _told(sample: dict[str, str], read: Callable[[str], bytes]) -> tuple[list[str], str | None]:
    """Return the captions and the label of a sample."""
    captions: list[str] = []
    label: str | None = None
    try:
        for suffix in _CAPTIONS:
            if suffix in sample:
                captions += read(sample[suffix]).decode("utf-8-sig").splitlines()
        if "cls" in sample:
            label = read(sample["cls"]).decode().strip() or None
        if "json" in sample:
            content = json.loads(read(sample["json"]))
            if isinstance(content, dict):
                captions += captions_of(content)
                label = as_label(content.get("label")) or label
    except UnicodeDecodeError:
        raise ValueError("its text is not UTF-8") from None
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    return captions, label
