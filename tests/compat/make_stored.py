"""Makes `tests/compat/collection-vN`, a small collection of the format that this version writes.

Run once before each release that changes the format: `python -m tests.compat.make_stored tests/compat/collection-vN`. A
stored collection is never made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmsearch.collection.writer
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import maintain
from mmsearch.types import Modality
from tests.support import ToyEncoder, picture

ROOT = "/pictures"
COUNT = 120


def main(target: Path) -> None:
    """Write pictures 0 … 119 (ten deleted, five unsealed, an ANN index over most) with a caption for every fourth."""
    toy = ToyEncoder()
    mmsearch.collection.writer.SEAL_ROWS = 70
    with Collection.create(target, toy.spec) as collection, collection.writer() as writer:
        root = writer.root("folder", ROOT)
        for number in range(COUNT):
            path = f"{ROOT}/p{number:04d}.png"
            vector = toy.encode_images(toy.prepare_image(picture(number))[None])[0]
            item = NewItem(path, Modality.IMAGE, path, path, bytes([number]) * 32, 1, 2, 3, None, 32, 24, "PNG")
            writer.put(item, root, vector)
            if number % 4 == 0:
                text = f"picture number {number}"
                caption = NewItem(f"{path}.txt#1", Modality.TEXT, path, path, bytes([number]) * 32, 1, 2, 3, text)
                writer.put(caption, root, toy.encode_texts([text])[0])
            if number in (79, COUNT - 6):
                writer.commit()
            if number == COUNT - 6:
                maintain(collection, writer, kind="ivfpq")
        writer.put_failure(f"{ROOT}/broken.jpg", root, size=1, mtime_ns=2, reason="it cannot be read as a picture")
        known = {item.key: item.id for item in collection.catalog.known_items(root.id)}
        writer.delete(known[f"{ROOT}/p{number:04d}.png"] for number in range(10, 20))
    (target / "writer.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
