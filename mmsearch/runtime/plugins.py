"""What other packages bring by entry point: found by name, and blamed by name when it fails."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mmsearch.errors import EncoderError, MmsearchError


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def from_plugin(point: EntryPoint, make: Callable[[Any], object], kind: Any, *, uri: str, word: str) -> Any:
    """Return what `make` gets from the object behind an entry point; `uri` is what was asked for, `word` what it is.

    Raise EncoderError, which names the package, where it fails or what comes out is not of the Protocol `kind`.
    """
    try:
        made = make(point.load())
    except MmsearchError:
        raise
    except Exception as error:  # somebody else's code: whatever it raises is named after its package
        raise EncoderError(
            f"The package behind {uri!r} ({point.value}) failed ({error}): update or remove it."
        ) from error
    if not isinstance(made, kind):
        raise EncoderError(f"The package behind {uri!r} ({point.value}) did not return {word}: update or remove it.")
    return made
