"""Settings, and the only place that reads the environment.

MMSEARCH_HOME         folder of the collections, tuned encoders and rerankers (default: the user's data folder)
MMSEARCH_COLLECTION   the collection used when none is named (default: "default")
MMSEARCH_DEVICE       where encoders that can choose run: auto, cpu, cuda, cuda:0,cuda:1, mps (default: auto)
MMSEARCH_THREADS      threads for encoding and searching (default: the cores this process may use)
MMSEARCH_DEBUG        1 shows tracebacks instead of one-line errors
https_proxy, all_proxy are looked at to tell whether a hub may be reached
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import QueryError

DEFAULT_COLLECTION = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says, with defaults filled in. `threads` is at least 1; `has_proxy` is of the network."""

    home: Path
    collection: str
    device: str
    threads: int
    debug: bool
    has_proxy: bool

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of this process; raise QueryError for a value that means nothing."""
        env = os.environ if environ is None else environ
        return cls(
            home=_absolute(env["MMSEARCH_HOME"]) if env.get("MMSEARCH_HOME") else _user_data_dir(),
            collection=env.get("MMSEARCH_COLLECTION") or DEFAULT_COLLECTION,
            device=env.get("MMSEARCH_DEVICE") or "auto",
            threads=_threads(env.get("MMSEARCH_THREADS", "")),
            debug=env.get("MMSEARCH_DEBUG", "") not in ("", "0"),
            has_proxy=any(env.get(name) or env.get(name.upper()) for name in ("https_proxy", "all_proxy")),
        )

    def collection_path(self, name_or_path: str | os.PathLike[str] | None = None) -> Path:
        """Return the absolute folder of a collection.

        A string with a path separator in it, or any `os.PathLike`, is a path; any other string is a name below
        `home/collections`; None is the default collection.
        """
        chosen = self.collection if name_or_path is None else name_or_path
        if not isinstance(chosen, str) or "/" in chosen or os.sep in chosen or chosen in (".", "..", "~"):
            return _absolute(os.fspath(chosen))
        if not _NAME.fullmatch(chosen):
            raise QueryError(
                f"{chosen!r} cannot name a collection: use letters, digits, '.', '_' and '-', or a path with a '/'."
            )
        return (self.home / "collections" / chosen).absolute()

    def encoder_path(self, name: str) -> Path:
        """Return the absolute folder of a tuned encoder, below `home/encoders`; raise QueryError for no name."""
        return self._named("encoders", name, "an encoder")

    def reranker_path(self, name: str) -> Path:
        """Return the absolute folder of a reranker, below `home/rerankers`; raise QueryError for no name."""
        return self._named("rerankers", name, "a reranker")

    def _named(self, folder: str, name: str, word: str) -> Path:
        if not _NAME.fullmatch(name):
            raise QueryError(f"{name!r} cannot name {word}: use letters, digits, '.', '_' and '-'.")
        return (self.home / folder / name).absolute()


def plain_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path that a person means: "~" is the home folder, ".." goes, links stay as they are.

    Path has no such thing: `resolve` follows links, `absolute` keeps "..", `expanduser` raises for an unknown "~user".
    """
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - see above


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - Path.expanduser raises for an unknown "~user"


def _user_data_dir() -> Path:
    from platformdirs import user_data_path

    return user_data_path("mmsearch", appauthor=False)


def _threads(value: str) -> int:
    if not value:
        return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if not value.isdecimal() or int(value) < 1:
        raise QueryError(f"MMSEARCH_THREADS is {value!r}: set it to a whole number from 1, or unset it.")
    return int(value)
