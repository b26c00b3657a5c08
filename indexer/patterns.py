"""Which files of a folder are wanted: patterns like those of .gitignore, and a least size of pictures."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

from mmsearch.errors import SourceError

_ANY = None
"""Stands for `**`: any number of folders."""


class Pattern:
    """One pattern, matched against a path relative to the source, by its parts and by case.

    A name without a slash matches at any depth, one with a slash from the source on, `**` any number of folders, and
    one that ends with a slash folders only. What lies below a folder that matches, matches.
    """

    def __init__(self, text: str) -> None:
        """Raise SourceError for a pattern that matches nothing."""
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or text.startswith("!"):
            raise SourceError(
                f"The pattern {text!r} matches nothing: write a name ('*.gif') or a path ('raw/**/*.png')."
            )
        self._folders_only = text.endswith("/")
        if "/" not in text.rstrip("/"):
            parts = ["**", *parts]
        self._parts = [_ANY if part == "**" else re.compile(fnmatch.translate(part)) for part in parts]

    def matches(self, parts: tuple[str, ...], *, is_folder: bool) -> bool:
        """Return True when the file or folder of a relative path matches, or a folder that it lies in."""
        return any(
            _match(self._parts, parts[:end])
            for end in range(1, len(parts) + 1)
            if end < len(parts) or is_folder or not self._folders_only
        )


def _match(pattern: list[re.Pattern[str] | None], parts: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    first, rest = pattern[0], pattern[1:]
    if first is _ANY:
        if not rest:
            return bool(parts)  # what lies in a folder, not the folder
        return any(_match(rest, parts[skipped:]) for skipped in range(len(parts)))
    return bool(parts) and first.match(parts[0]) is not None and _match(rest, parts[1:])


@dataclass(frozen=True)
class FolderOptions:
    """How to read a folder: with `include`, only what one of them matches; never what one of `exclude` matches.

    Pictures whose shorter side has fewer than `min_size` pixels are left out.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = 0

    def as_text(self) -> str:
        """Return the options that are set, as JSON with sorted keys; empty when none is."""
        told = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(told, sort_keys=True) if told else ""

    @classmethod
    def from_text(cls, text: str) -> FolderOptions:
        """Return what `as_text` told; an option that this version does not know is passed over."""
        told = json.loads(text) if text else {}
        return cls(tuple(told.get("include", ())), tuple(told.get("exclude", ())), int(told.get("min_size", 0)))

    def as_arguments(self) -> list[str]:
        """Return the options as `mmsearch index` takes them."""
        given = [("--include", one) for one in self.include] + [("--exclude", one) for one in self.exclude]
        given += [("--min-size", str(self.min_size))] if self.min_size else []
        return [word for pair in given for word in pair]

    def enters(self, parts: tuple[str, ...]) -> bool:
        """Return True when a folder, by its path relative to the source, is to be looked into."""
        return not _any(self._excluded, parts, is_folder=True)

    def wants(self, parts: tuple[str, ...]) -> bool:
        """Return True when a file is wanted whose folder is entered."""
        if _any(self._excluded, parts, is_folder=False):
            return False
        return not self.include or _any(self._included, parts, is_folder=False)

    @cached_property
    def _included(self) -> list[Pattern]:
        return [Pattern(text) for text in self.include]

    @cached_property
    def _excluded(self) -> list[Pattern]:
        return [Pattern(text) for text in self.exclude]

    def check(self) -> None:
        """Raise SourceError for a pattern that matches nothing."""
        _ = self._included, self._excluded


def _any(patterns: Iterable[Pattern], parts: tuple[str, ...], *, is_folder: bool) -> bool:
    return any(pattern.matches(parts, is_folder=is_folder) for pattern in patterns)
