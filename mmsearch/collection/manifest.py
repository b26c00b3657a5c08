"""The manifest of a collection: its format, identity and encoder. Written once or nearly so, and light to read.

Of the encoder it is a copy: where the catalog is bound to another, a move to that was killed before the copy was made.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from mmsearch.collection.atomic import write_bytes
from mmsearch.collection.layout import FORMAT_NAME, FORMAT_VERSION, Layout
from mmsearch.config import Settings
from mmsearch.errors import CollectionCorrupt, CollectionNotFound, UnsupportedFormat
from mmsearch.types import EncoderSpec


def read_manifest(layout: Layout) -> tuple[str, EncoderSpec]:
    """Return the identity and the encoder of a collection.

    Raise CollectionNotFound where there is none, UnsupportedFormat for a newer one, CollectionCorrupt for nonsense.
    """
    path = layout.manifest
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT_NAME:
            raise ValueError(f"format is {manifest['format']!r}")
        if manifest["version"] > FORMAT_VERSION:
            raise UnsupportedFormat(
                f"{path} has format {manifest['version']}, this mmsearch knows up to {FORMAT_VERSION}: update mmsearch."
            )
        return str(manifest["uuid"]), EncoderSpec(**manifest["encoder"])
    except (FileNotFoundError, NotADirectoryError):
        if layout.catalog.is_file():
            raise CollectionNotFound(
                f"{path} is missing, though its catalog is there: 'mmsearch repair' makes it again."
            ) from None
        command = ["mmsearch", "index", "FOLDER"]
        if layout.root != Settings.from_environment().collection_path():
            command += ["--collection", str(layout.root)]
        raise CollectionNotFound(
            f"No collection yet at {layout.root}: make one with '{shlex.join(command)}'."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionCorrupt(f"{path} cannot be read ({error}): 'mmsearch repair' makes it again.") from error


def write_manifest(layout: Layout, identity: str, spec: EncoderSpec, *, replace: bool = False) -> None:
    """Make the manifest, the last file of a new collection; replace it where its encoder is another by now."""
    write_bytes(layout.manifest, layout.new_staged(), manifest_bytes(identity, spec), replace=replace)


def manifest_bytes(identity: str, spec: EncoderSpec) -> bytes:
    """Return what stands in the manifest of a collection."""
    manifest = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "uuid": identity,
        "encoder": dataclasses.asdict(spec),
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()
