"""Caption annotations in one `.json` file: COCO captions, Karpathy's splits, Visual Genome's region descriptions.

    COCO             {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    Karpathy         {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}
    Visual Genome    [{"id", "regions": [{"image_id", "phrase"}]}]

https://cocodataset.org/#format-data, https://cs.stanford.edu/people/karpathy/deepimagesent/,
https://homes.cs.washington.edu/~ranjay/visualgenome/api.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mmsearch.corpora.records import (
    BadRecord,
    CaptionRecord,
    CorpusOptions,
    first_there,
    object_at,
    picture_record,
    text_record,
)
from mmsearch.errors import SourceError

_CHUNK = 1 << 20


def read_annotations(path: Path, kind: str, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    """Yield the records of an annotation file of a kind that `annotation_kind` tells. Raise OSError, SourceError."""
    folder = options.images or str(path.parent)
    if kind == "visual-genome":
        yield from _regions(path, folder, options)
        return
    content = _loaded(path)
    yield from (_coco if kind == "coco" else _karpathy)(path, content, folder, options)


def annotation_kind(path: Path) -> str | None:
    """Return "coco", "karpathy" or "visual-genome" by what a `.json` file begins with, None for anything else."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.read(64 * 1024)
    if head.lstrip().startswith("["):
        return "visual-genome" if '"regions"' in head else None
    if '"sentences"' in head or '"sentids"' in head:
        return "karpathy"
    if '"images"' in head or '"annotations"' in head or '"file_name"' in head:
        return "coco"
    return None


def _loaded(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is no annotation file of a known kind: its JSON is not an object.")
    return content


def _coco(
    path: Path, content: dict[str, object], folder: str, options: CorpusOptions
) -> Iterator[CaptionRecord | BadRecord]:
    captions: dict[object, list[str]] = {}
    annotations, images = content.get("annotations"), content.get("images")
    if not isinstance(annotations, list) or not isinstance(images, list):
        raise SourceError(f'{path} has no lists "images" and "annotations": it is no file of COCO captions.')
    if annotations and not any("caption" in one for one in annotations[:100] if isinstance(one, dict)):
        raise SourceError(f"{path} holds annotations without captions: take one of COCO's captions_….json files.")
    for number, one in enumerate(annotations, start=1):
        try:
            captions.setdefault(object_at(one, "image_id", int), []).append(object_at(one, "caption", str))
        except ValueError as error:
            yield BadRecord(number, f"annotation {number}: {error}")
    for number, image in enumerate(images, start=1):
        try:
            identity, name = object_at(image, "id", int), object_at(image, "file_name", str)
        except ValueError as error:
            yield BadRecord(number, f"image {number}: {error}")
            continue
        yield from _records(number, folder, [name, f"images/{name}"], captions.get(identity, []), options)


def _karpathy(
    path: Path, content: dict[str, object], folder: str, options: CorpusOptions
) -> Iterator[CaptionRecord | BadRecord]:
    images = content.get("images")
    if not isinstance(images, list):
        raise SourceError(f'{path} has no list "images": it is none of Karpathy\'s files.')
    splits = sorted({str(image.get("split")) for image in images if isinstance(image, dict) and image.get("split")})
    if options.split is not None and options.split not in splits:
        raise SourceError(f"{path} has no split {options.split!r}: it has {', '.join(splits) or 'none'}.")
    for number, image in enumerate(images, start=1):
        try:
            name = object_at(image, "filename", str)
            sentences = object_at(image, "sentences", list)
            captions = [object_at(sentence, "raw", str) for sentence in sentences]
        except ValueError as error:
            yield BadRecord(number, f"image {number}: {error}")
            continue
        if options.split is None or image.get("split") == options.split:
            inside = image.get("filepath")
            names = [f"{inside}/{name}"] if isinstance(inside, str) and inside else []
            yield from _records(number, folder, [*names, name, f"images/{name}"], captions, options)


def _regions(path: Path, folder: str, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    with path.open(encoding="utf-8-sig") as file:
        for number, image in enumerate(_elements(path, file), start=1):
            try:
                regions = object_at(image, "regions", list)
                phrases = [object_at(region, "phrase", str) for region in regions]
                identity = image.get("id") or image.get("image_id") or regions[0]["image_id"]
            except (ValueError, LookupError, TypeError) as error:
                yield BadRecord(number, f"image {number}: {error}")
                continue
            names = [f"{part}{identity}.jpg" for part in ("", "VG_100K/", "VG_100K_2/", "images/")]
            yield from _records(number, folder, names, phrases, options)


def _records(
    number: int, folder: str, names: list[str], captions: list[str], options: CorpusOptions
) -> Iterator[CaptionRecord | BadRecord]:
    if options.captions_only:
        yield from (text_record(number, caption) for caption in captions)
    else:
        yield picture_record(number, first_there(folder, names), captions)


def _read(path: Path, file: IO[str], size: int) -> str:
    try:
        return file.read(size)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text: download it again.") from error


def _elements(path: Path, file: IO[str]) -> Iterator[Any]:
    """Yield the elements of a JSON list one by one: Visual Genome's has hundreds of megabytes."""
    decoder = json.JSONDecoder()
    rest = _read(path, file, _CHUNK).lstrip()
    if not rest.startswith("["):
        raise SourceError(f"{path} is no list of region descriptions.")
    rest = rest[1:]
    while True:
        rest = rest.lstrip(", \t\r\n")
        if rest.startswith("]"):
            return
        try:
            element, end = decoder.raw_decode(rest)
        except (json.JSONDecodeError, RecursionError) as error:
            more = _read(path, file, max(_CHUNK, len(rest)))
            if not more:
                raise SourceError(f"{path} is not JSON ({error}), or is cut short: download it again.") from error
            rest += more
            continue
        yield element
        rest = rest[end:]
