"""Write pictures that nobody captioned as shards: `python -m training.compact.unlabelled --mirror DIR --data DIR`.

`DIR/OWNER+NAME/repo` are git directories of the public repositories in REPOSITORIES, whose photographs are scaled
down and shuffled. Writes `DATA/unlabelled-NNN.tar`, in which no picture has a caption: `boxes.py` takes them for what
several views say of them.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .common import UNLABELLED_SHARDS
from .more import add, read_blobs

REPOSITORIES = (
    "jurjsorinliviu+Sports-Type-Classifier",  # 13,700 of 22 sports
    "emanhamed+Houses-dataset",  # 2,140 of rooms and houses
    "EliSchwartz+imagenet-sample-images",  # one of each class of ImageNet
    "BIDS+BSDS500",  # the Berkeley segmentation pictures
)
ENDINGS = (".jpg", ".jpeg", ".png")
LONGEST, SHORTEST = 320, 128
QUALITY = 90


def git_directory(mirror: Path, repository: str) -> Path:
    """Return the git directory of a repository, bare or not."""
    folder = mirror / repository / "repo"
    return folder / ".git" if (folder / ".git").exists() else folder


def picture_names(repository: Path) -> list[str]:
    """Return the paths of the pictures at HEAD of a git directory."""
    command = ["git", "--git-dir", str(repository), "ls-tree", "-r", "-z", "--name-only", "HEAD"]
    names = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return [name for name in names if name.lower().endswith(ENDINGS) and "\n" not in name]


def scaled(content: bytes) -> bytes | None:
    """Return a picture as JPEG, its longer side LONGEST or less; None where it is small or cannot be read."""
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None
    if min(image.size) < SHORTEST:
        return None
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def pictures(mirror: Path) -> Iterator[bytes]:
    """Yield what can be used of all repositories."""
    for repository in REPOSITORIES:
        directory = git_directory(mirror, repository)
        found = 0
        for content in map(scaled, read_blobs(directory, picture_names(directory))):
            if content is not None:
                found += 1
                yield content
        print(f"{repository}: {found} pictures", flush=True)


def main() -> None:
    """Write the shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    found = list(dict.fromkeys(pictures(arguments.mirror)))
    order = np.random.default_rng(0).permutation(len(found))
    for shard, part in zip(UNLABELLED_SHARDS, np.array_split(order, len(UNLABELLED_SHARDS)), strict=True):
        with tarfile.open(arguments.data / f"{shard}.tar", "w") as archive:
            for which in part:
                add(archive, f"unlabelled-{which:05d}.jpg", found[which])
                add(archive, f"unlabelled-{which:05d}.json", json.dumps({"captions": []}).encode())
    print(f"{len(found)} pictures in {len(UNLABELLED_SHARDS)} shards")


if __name__ == "__main__":
    main()
