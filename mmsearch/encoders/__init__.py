"""Encoders by URI: `load_encoder("compact")`.

A URI is `SCHEME` or `SCHEME:REST`. Packages outside mmsearch add a scheme with an entry point in the group
"mmsearch.encoders": its name is the scheme, its object a function that takes REST (a str, perhaps empty) and returns
an object that keeps the `Encoder` protocol of `mmsearch.types`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from mmsearch.errors import EncoderError, MmsearchError, UnknownEncoder
from mmsearch.types import Encoder

DEFAULT_ENCODER = "compact:v1"
ENTRY_POINT_GROUP = "mmsearch.encoders"
_BUILT_IN = {"compact": "mmsearch.encoders.compact:load"}

Loader = Callable[[str], Encoder]


def load_encoder(uri: str = DEFAULT_ENCODER) -> Encoder:
    """Return the encoder that `uri` names; raise UnknownEncoder, WeightsUnavailable or MissingExtra."""
    scheme, _, rest = uri.partition(":")
    if scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        loader: Loader = getattr(import_module(module), name)
        return loader(rest)
    outside = _outside()
    if scheme not in outside:
        raise UnknownEncoder(_unknown(uri, scheme))
    try:
        encoder = outside[scheme].load()(rest)
    except MmsearchError:
        raise
    except Exception as error:  # somebody else's code: whatever it raises is named after its package
        raise EncoderError(
            f"The package behind {uri!r} ({outside[scheme].value}) failed ({error}): update or remove it."
        ) from error
    if not isinstance(encoder, Encoder):
        raise EncoderError(
            f"The package behind {uri!r} ({outside[scheme].value}) did not return an encoder: update or remove it."
        )
    return encoder


def list_encoders() -> tuple[str, ...]:
    """Return the schemes that `load_encoder` knows, sorted."""
    return tuple(sorted({*_BUILT_IN, *_outside()}))


def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _unknown(uri: str, scheme: str) -> str:
    known = list_encoders()
    near = difflib.get_close_matches(scheme, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"There is no encoder {uri!r}{hint}: installed are {', '.join(known)}."
