"""Whose a catalog is: the identity of its collection, and the encoder that its vectors are of.

The catalog decides, and the manifest beside it is a copy that is light to read: rows and the encoder they are of change
in one transaction.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from mmsearch.catalog import schema
from mmsearch.errors import EncoderMismatch
from mmsearch.types import EncoderSpec

UUID, FINGERPRINT, ENCODER = "uuid", "fingerprint", "encoder"
"""The facts that it is told by."""

_MOST_NUMBERS = 65_536


@dataclass(frozen=True, slots=True)
class Binding:
    """What a catalog says of itself; `spec` is None where an earlier version, which left that to the manifest, made it.

    Of the encoder of a `spec` its weights may have been moved since: then the manifest has the URI.
    """

    uuid: str | None
    fingerprint: str | None
    spec: EncoderSpec | None


def read_binding(connection: Connection) -> Binding:
    """Return what the catalog is bound to, from an open transaction."""
    facts = schema.facts.c
    rows = connection.execute(select(facts.name, facts.value).where(facts.name.in_((UUID, FINGERPRINT, ENCODER))))
    told = {row.name: row.value for row in rows}
    spec = spec_from_text(told.get(ENCODER, ""))
    fingerprint = told.get(FINGERPRINT)
    return Binding(told.get(UUID), fingerprint, spec if spec and spec.fingerprint == fingerprint else None)


def check_bound(connection: Connection, spec: EncoderSpec, folder: Path) -> None:
    """Raise EncoderMismatch unless the catalog is, at this moment, bound to the encoder it was opened for."""
    now = read_binding(connection)
    if now.fingerprint != spec.fingerprint:
        uri = now.spec.uri if now.spec else "another one"
        raise EncoderMismatch(
            f"The collection {folder} was moved from the encoder {spec.uri} to {uri} meanwhile: open it again.",
            bound=uri,
            wanted=spec.uri,
        )


def spec_to_text(spec: EncoderSpec) -> str:
    """Return a description as it is stored."""
    return json.dumps(dataclasses.asdict(spec), sort_keys=True)


def spec_from_text(text: str) -> EncoderSpec | None:
    """Return the description that `spec_to_text` made a text of, None for a text that it cannot have made."""
    try:
        spec = EncoderSpec(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    return spec if is_sound(spec) else None


def is_sound(spec: EncoderSpec) -> bool:
    """Return True for a description that can be one of an encoder, whoever wrote it."""
    kinds = [type(one) for one in (spec.uri, spec.fingerprint, spec.dim, spec.image_size)]
    return kinds == [str, str, int, int] and 0 < spec.dim <= _MOST_NUMBERS
