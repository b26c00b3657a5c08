"""The folder of a tuned encoder or a reranker, written whole or not at all: weights, manifest and model card."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmsearch.collection.atomic import fsync_folder, write_bytes
from mmsearch.config import Settings
from mmsearch.encoders.tuned import CARD, FORMAT, HEAD, MANIFEST, SCHEME
from mmsearch.encoders.tuned_head import TunedHead
from mmsearch.errors import EncoderError
from mmsearch.rerank.cross_attention import FORMAT as RERANKER_FORMAT
from mmsearch.rerank.cross_attention import SCHEME as RERANKER
from mmsearch.rerank.cross_attention import WEIGHTS
from mmsearch.types import EncoderSpec


def check_free(name: str, *, force: bool) -> Path:
    """Return where an encoder of that name is to be; raise QueryError for no name, EncoderError where one is."""
    return _free(Settings.from_environment().encoder_path(name), f"{SCHEME}:{name}", force=force)


def check_free_reranker(name: str, *, force: bool) -> Path:
    """Return where a reranker of that name is to be; raise QueryError for no name, EncoderError where one is."""
    if (WEIGHTS / name).exists():
        raise EncoderError(f"{RERANKER}:{name} ships with mmsearch: choose another --name.")
    return _free(Settings.from_environment().reranker_path(name), f"{RERANKER}:{name}", force=force)


def write_encoder(
    name: str, head: TunedHead, base: EncoderSpec, *, card: str, told: Mapping[str, Any], force: bool
) -> Path:
    """Write the folder of a tuned encoder and return it. `told` is added to its manifest. Raise as `check_free`.

    One that is replaced stays until the new one is whole.
    """
    manifest = {
        "format": FORMAT,
        "name": name,
        "base": asdict(base),
        "dim": head.dim,
        "image_size": base.image_size,
    }
    return _write(check_free(name, force=force), {HEAD: head.to_bytes()}, manifest | dict(told), card, force=force)


def write_reranker(
    name: str,
    graphs: Mapping[str, bytes],
    encoder: EncoderSpec,
    *,
    weight: float,
    cells: int,
    card: str,
    told: Mapping[str, Any],
    force: bool,
) -> Path:
    """Write the folder of a reranker for an encoder and return it, as `write_encoder` does."""
    manifest = {
        "format": RERANKER_FORMAT,
        "name": name,
        "encoder": {"uri": encoder.uri, "fingerprint": encoder.fingerprint},
        "weight": weight,
        "cells": cells,
    }
    return _write(check_free_reranker(name, force=force), graphs, manifest | dict(told), card, force=force)


def _free(folder: Path, uri: str, *, force: bool) -> Path:
    if folder.exists() and not force:
        raise EncoderError(f"{uri} is there already ({folder}): choose another --name, or say --force to replace it.")
    return folder


def _write(folder: Path, weights: Mapping[str, bytes], manifest: Mapping[str, Any], card: str, *, force: bool) -> Path:
    """Write weights, manifest and card, and return the folder."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}.tmp")
    hashes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in weights.items()}
    text = json.dumps({**manifest, "files": hashes}, indent=2, ensure_ascii=False)
    files = {**weights, CARD: card.encode(), MANIFEST: text.encode(errors="surrogateescape")}
    try:
        for file_name, content in files.items():
            write_bytes(temporary / file_name, temporary / f"{file_name}.tmp", content)
        _put(temporary, folder, force=force)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _put(temporary: Path, folder: Path, *, force: bool) -> None:
    old = temporary.with_suffix(".old")
    if force and folder.exists():
        folder.replace(old)
    try:
        temporary.rename(folder)  # which fails where somebody else was faster: a folder with files is not replaced
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
