"""The folder of a tuned encoder, written whole or not at all: head, manifest and model card."""

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
from mmsearch.types import EncoderSpec


def check_free(name: str, *, force: bool) -> Path:
    """Return where an encoder of that name is to be; raise QueryError for no name, EncoderError where one is."""
    folder = Settings.from_environment().encoder_path(name)
    if folder.exists() and not force:
        raise EncoderError(
            f"{SCHEME}:{name} is there already ({folder}): choose another --name, or say --force to replace it."
        )
    return folder


def write_encoder(
    name: str, head: TunedHead, base: EncoderSpec, *, card: str, told: Mapping[str, Any], force: bool
) -> Path:
    """Write the folder of a tuned encoder and return it. `told` is added to its manifest. Raise as `check_free`.

    One that is replaced stays until the new one is whole.
    """
    folder = check_free(name, force=force)
    temporary = folder.with_name(f".{name}-{uuid.uuid4().hex}.tmp")
    data = head.to_bytes()
    manifest = {
        "format": FORMAT,
        "name": name,
        "base": asdict(base),
        "dim": head.dim,
        "image_size": base.image_size,
        "files": {HEAD: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
        **told,
    }
    files = {
        HEAD: data,
        CARD: card.encode(),
        MANIFEST: json.dumps(manifest, indent=2, ensure_ascii=False).encode(errors="surrogateescape"),
    }
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
