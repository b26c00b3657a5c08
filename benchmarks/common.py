"""What several benchmarks need: the shared shards, pictures as files, the command, medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARDS = ROOT.parent / "shared" / "data"
COMMAND = str(Path(sys.executable).parent / "mmsearch")


@dataclass(frozen=True)
class Captioned:
    """A picture of a shard (the bytes of its file) and its captions."""

    name: str
    data: bytes
    captions: list[str]


def shard(name: str, count: int | None = None) -> Iterator[Captioned]:
    """Yield the pictures of a shared shard; end the program with a sentence where there is none."""
    path = SHARDS / f"{name}.tar"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: this benchmark needs the shared shards.")
    pending: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if count == 0:
                return
            file = tar.extractfile(member)
            assert file is not None
            stem, _, suffix = member.name.rpartition(".")
            if suffix == "json":
                picture, data = pending.pop(stem)
                yield Captioned(picture, data, json.loads(file.read())["captions"])
                count = None if count is None else count - 1
            else:
                pending[stem] = (member.name, file.read())


def unpack(name: str, folder: Path, count: int) -> None:
    """Write the first pictures of a shard as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in shard(name, count):
        (folder / picture.name).write_bytes(picture.data)


def timed(arguments: list[str], home: Path) -> tuple[float, str]:
    """Return (seconds, stdout) of the installed command run as a whole process."""
    env = {**os.environ, "MMSEARCH_HOME": str(home)}
    started = time.perf_counter()
    done = subprocess.run([COMMAND, *arguments], env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"mmsearch {' '.join(arguments)} failed: {done.stderr}")
    return seconds, done.stdout


def spread(seconds: list[float]) -> str:
    """Return median and range in words."""
    return f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} runs)"


def verdict(met: bool) -> str:
    """Return how a figure stands to its bar."""
    return "met" if met else "NOT MET"
