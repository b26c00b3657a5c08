"""Write more captioned pictures as shards: `python -m training.compact.more --repository GIT_DIR --data DIR`.

`GIT_DIR` is a bare clone of github.com/syf0122/COMP5329_Assignment02: 30,000 training pictures of COCO with one caption
each. Those whose caption stands in the shards of `DIR` already (with pictures that were drawn from the same place) are
left out, and so is its test part, of which coco-dev was drawn. Writes `DIR/coco-more-NNN.tar`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from .common import DEV_SHARDS, MORE_SHARDS, TRAIN_SHARDS, read_shard

IN_SHARD = 2_625


def normal(caption: str) -> str:
    """Return what two copies of one caption have in common."""
    return " ".join(caption.lower().split()).rstrip(" .")


def known_captions(data: Path) -> set[str]:
    """Return the captions of all shards that are there already, dev shards included."""
    shards = (data / f"{shard}.tar" for shard in (*TRAIN_SHARDS, *DEV_SHARDS))
    return {normal(caption) for shard in shards for sample in read_shard(shard) for caption in sample.captions}


def read_blobs(repository: Path, names: list[str]) -> Iterator[bytes]:
    """Yield the content of files at HEAD of a git directory, in order."""
    command = ["git", "--git-dir", str(repository), "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        if git.stdin is None or git.stdout is None:
            raise RuntimeError("git has no pipes")
        for name in names:
            git.stdin.write(f"HEAD:{name}\n".encode())
            git.stdin.flush()
            header = git.stdout.readline().split()
            if header[-1] == b"missing":
                raise FileNotFoundError(f"{name} is not in {repository}")
            yield git.stdout.read(int(header[2]))
            git.stdout.read(1)
        git.stdin.close()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append one file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def main() -> None:
    """Write the shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    (table,) = read_blobs(arguments.repository, ["data/train.csv"])
    known = known_captions(arguments.data)
    rows = [row for row in csv.DictReader(io.StringIO(table.decode())) if normal(row["Caption"]) not in known]
    pictures = read_blobs(arguments.repository, [f"data/data/{row['ImageID']}" for row in rows])
    for number, shard in enumerate(MORE_SHARDS):
        with tarfile.open(arguments.data / f"{shard}.tar", "w") as archive:
            for row in rows[number * IN_SHARD : (number + 1) * IN_SHARD]:
                name = row["ImageID"].removesuffix(".jpg")
                add(archive, f"coco-more-{name}.jpg", next(pictures))
                add(archive, f"coco-more-{name}.json", json.dumps({"captions": [row["Caption"]]}).encode())
    print(f"{len(rows)} pictures in {len(MORE_SHARDS)} shards")


if __name__ == "__main__":
    main()
