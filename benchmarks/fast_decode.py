"""What `mmsearch index --fast-decode` gains and costs: JPEGs of 12 megapixels, decoded at a reduced scale.

Time to decode one, and how much the model's input and its vector change: prepared as OpenCLIP's ViT-B/32 has it, in
grey levels; and the cosine of the vectors of `compact`, trained weights that need no network, at the same two scales.
"""

from __future__ import annotations

import io
import statistics
import time

import numpy as np
from PIL import Image

import mmsearch
from benchmarks.common import shard
from mmsearch.encoders.preprocess import Preprocess
from mmsearch.images import decode

PICTURES = 40
SIDES = (4000, 3000)
PREPROCESS = Preprocess(224, (0.0,) * 3, (1.0,) * 3, "bicubic", "shortest")


def main() -> None:
    """Print the figures."""
    encoder = mmsearch.load_encoder("compact")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    levels, cosines = [], []
    for data in jpegs():
        inputs, vectors = {}, {}
        for fast in (False, True):
            started = time.perf_counter()
            image = decode(io.BytesIO(data), "a picture", min_side=2 * PREPROCESS.size if fast else None)[0]
            seconds[fast].append(time.perf_counter() - started)
            inputs[fast] = PREPROCESS.apply(image).astype(np.float64)
            square = Image.fromarray(PREPROCESS.apply(image).transpose(1, 2, 0))
            vectors[fast] = encoder.encode_images(encoder.prepare_image(square)[np.newaxis])[0]
        levels.append(float(np.abs(inputs[True] - inputs[False]).mean()))
        cosines.append(float(vectors[True] @ vectors[False]))
    whole, reduced = (1000 * statistics.median(seconds[fast]) for fast in (False, True))
    print(f"decoding 12 megapixels: {whole:.0f} ms whole, {reduced:.0f} ms reduced, {whole / reduced:.1f} × as fast")
    print(f"the prepared input differs by {statistics.mean(levels):.1f} grey levels on average")
    print(f"cosine of the vectors: {statistics.mean(cosines):.4f} on average, {min(cosines):.4f} at least")


def jpegs() -> list[bytes]:
    """Return photographs of the shared shards, enlarged and with some noise, for enlarging alone leaves no detail."""
    rng = np.random.default_rng(0)
    made = []
    for picture in shard("flickr8k-dev-000", PICTURES):
        with Image.open(io.BytesIO(picture.data)) as image:
            large = np.asarray(image.convert("RGB").resize(SIDES, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(large + rng.integers(-8, 9, large.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(noisy).save(written, "JPEG", quality=90)
        made.append(written.getvalue())
    return made


if __name__ == "__main__":
    main()
