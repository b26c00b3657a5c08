"""How fast pictures are indexed, whole process: small photographs, 12-megapixel ones, and a run with nothing to do.

Bars on 2 cores: 1,000 photographs ≥ 60/s, 12 megapixels (4000 × 3000, quality 90, ≥ 4 MB each) ≥ 20/s, 1,000 unchanged
files ≤ 1.5 s.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import shard, spread, timed, unpack, verdict

RUNS = 3
LARGE = 120


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        unpack("flickr8k-dev-000", place / "photos", 1000)
        rates = []
        for run in range(RUNS):
            seconds, out = timed(["index", str(place / "photos"), "-q", "--json"], place / f"home{run}")
            assert json.loads(out)["added"] == 1000
            rates.append(1000 / seconds)
        rate = statistics.median(rates)
        print(f"1,000 photographs     {rate:.0f} pictures/s; bar 60 {verdict(rate >= 60)}")
        again = [timed(["index", str(place / "photos"), "-q"], place / "home0")[0] for _ in range(5)]
        print(f"1,000 unchanged       {spread(again)}; bar 1.5 s {verdict(statistics.median(again) <= 1.5)}")
        size = large_photographs(place / "large")
        rates = []
        for run in range(RUNS):
            seconds, out = timed(["index", str(place / "large"), "-q", "--json"], place / f"large{run}")
            assert json.loads(out)["added"] == LARGE
            rates.append(LARGE / seconds)
        rate = statistics.median(rates)
        print(
            f"12-megapixel JPEGs    {rate:.0f} pictures/s ({LARGE} of at least {size / 1e6:.1f} MB); bar 20"
            f" {verdict(rate >= 20)}"
        )


def large_photographs(folder: Path) -> int:
    """Write photographs of a shard blown up to 4000 × 3000 with a camera's noise; return the smallest file's bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 13, (3000, 4000, 3)).astype(np.float32)
    for number, picture in enumerate(shard("coco-dev-000", LARGE)):
        small = folder / picture.name
        small.write_bytes(picture.data)
        with Image.open(small) as image:
            pixels = np.asarray(image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.float32)
        small.unlink()
        noisy = np.clip(pixels + np.roll(noise, 97 * number, axis=1), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=90)
    smallest = min(path.stat().st_size for path in folder.iterdir())
    assert smallest >= 4_000_000, f"the smallest file has only {smallest} bytes"
    return smallest


if __name__ == "__main__":
    main()
