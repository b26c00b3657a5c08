"""How fast OpenCLIP's ViT-B/32 (random weights) embeds JPEG files: `mmsearch.index`, and two loops people write.

The plain loop opens, transforms and encodes 32 pictures at a time in float32, as OpenCLIP's README has it; the other is
built on clip-retrieval's method, a torch DataLoader with a worker for each core, in float32. All run on the same files
of 224 to 500 pixels, and `mmsearch.index` with the encoder that ships beside them, one process after another, three
times over; the fastest run of each counts, for other work only ever slows one down. Bar, on CPUs with
AVX-512 BF16: 3 × the pictures/s of each. Bars everywhere: decoding and preparing alone keep up with 300 pictures/s;
`compact` indexes 60 pictures/s and reads a text in 10 ms.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import shard, verdict

PICTURES, DECODED = 256, 1000
BATCH = 32
ROUNDS = 3


def main() -> None:
    """Print the figures."""
    if len(sys.argv) > 1:
        {"plain": plain, "loader": loader, "ours": ours, "compact": compact}[sys.argv[1]](Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photographs(place / "photos", PICTURES)
        photographs(place / "more", DECODED)
        save_model(place / "model")
        print_decoding(place / "more")
        rounds = [{name: run(name, place) for name in ("plain", "loader", "ours", "compact")} for _ in range(ROUNDS)]
        found = {name: min((one[name] for one in rounds), key=lambda done: done["seconds"]) for name in rounds[0]}
        rates = {name: PICTURES / result["seconds"] for name, result in found.items()}
        print(f"plain float32 loop     {rates['plain']:6.1f} pictures/s")
        print(f"DataLoader, float32    {rates['loader']:6.1f} pictures/s")
        print(f"mmsearch.index         {rates['ours']:6.1f} pictures/s ({found['ours']['dtype']})")
        print_stages(found["ours"])
        met = verdict(rates["compact"] >= 60)
        print(f"mmsearch.index, compact {rates['compact']:5.1f} pictures/s (float32); bar 60 {met}")
        print_stages(found["compact"])
        milliseconds = found["compact"]["text_milliseconds"]
        print(f"a text, compact        {milliseconds:6.1f} ms; bar 10 ms {verdict(milliseconds <= 10)}")
        print(f"{rates['compact'] / rates['plain']:.2f} × ViT-B/32 in the plain loop: compact")
        has_units = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
        for name, words in (("plain", "the plain loop"), ("loader", "clip-retrieval's method")):
            ratio = rates["ours"] / rates[name]
            met = verdict(ratio >= 3) if has_units else "not applicable: this CPU has no AVX-512 BF16"
            print(f"{ratio:.2f} × {words}; bar 3 {met}")


def print_stages(found: dict[str, Any]) -> None:
    """Print how fast each stage of an indexing run was."""
    for stage in found["stages"]:
        print(f"    {stage['stage']:<8} {stage['per_second']:8,.0f} pictures/s  {stage['busy']:4.0%} of the time")


def print_decoding(folder: Path) -> None:
    """Print how fast pictures are decoded and prepared with nothing else going on."""
    from mmsearch.config import Settings
    from mmsearch.encoders.preprocess import Preprocess
    from mmsearch.images import open_image

    preprocess = Preprocess(224, (0.0,) * 3, (1.0,) * 3, "bicubic", "shortest")
    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor(Settings.from_environment().threads) as pool:
        started = time.perf_counter()
        done = sum(len(p) for p in pool.map(lambda path: preprocess.apply(open_image(path))[None], paths))
        rate = done / (time.perf_counter() - started)
    print(f"decode and prepare     {rate:6.0f} pictures/s; bar 300 {verdict(rate >= 300)}")


def run(name: str, place: Path) -> dict[str, Any]:
    """Return what one of the three printed, run as a process of its own."""
    command = [sys.executable, "-m", "benchmarks.open_clip_speed", name, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def plain(place: Path) -> None:
    """Time the loop of OpenCLIP's README."""
    import torch

    model, transform = _model(place)
    paths = sorted((place / "photos").iterdir())
    model.encode_image(torch.zeros(BATCH, 3, 224, 224))  # the first batch is slower, here as below

    def everything() -> None:
        for start in range(0, len(paths), BATCH):
            pictures = [transform(Image.open(path)) for path in paths[start : start + BATCH]]
            with torch.no_grad():
                features = model.encode_image(torch.stack(pictures))
                features /= features.norm(dim=-1, keepdim=True)

    print(json.dumps({"seconds": _seconds(everything)}))


def loader(place: Path) -> None:
    """Time a DataLoader whose workers decode while the model computes."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    model, transform = _model(place)
    paths = sorted((place / "photos").iterdir())
    model.encode_image(torch.zeros(BATCH, 3, 224, 224))

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, row: int) -> Any:
            return transform(Image.open(paths[row]))

    def everything() -> None:
        for batch in DataLoader(Pictures(), batch_size=BATCH, num_workers=os.cpu_count() or 1, prefetch_factor=2):
            with torch.no_grad():
                features = model.encode_image(batch)
                features /= features.norm(dim=-1, keepdim=True)

    print(json.dumps({"seconds": _seconds(everything)}))


def ours(place: Path) -> None:
    """Time `mmsearch.index` with the encoder loaded and its dtype chosen, as the others are."""
    import mmsearch
    from mmsearch.encoders.open_clip import OpenClipEncoder

    encoder = mmsearch.load_encoder(f"open_clip:local-dir:{place / 'model'}", device="cpu")
    assert isinstance(encoder, OpenClipEncoder)
    encoder.encode_images(np.zeros((BATCH, 3, 224, 224), np.uint8))
    print(json.dumps({**index_with(encoder, place), "dtype": encoder.dtype}))


def compact(place: Path) -> None:
    """Time `mmsearch.index` with the encoder that ships, and a text."""
    import mmsearch

    encoder = mmsearch.load_encoder("compact")
    encoder.encode_images(np.zeros((BATCH, 3, 260, 260), np.uint8))
    done = index_with(encoder, place)
    queries = [text for picture in shard("flickr8k-dev-000", 100) for text in picture.captions[:1]]
    taken = []
    for query in queries:
        started = time.perf_counter()
        encoder.encode_texts([query])
        taken.append(time.perf_counter() - started)
    print(json.dumps({**done, "text_milliseconds": 1000 * statistics.median(taken[10:])}))


def index_with(encoder: Any, place: Path) -> dict[str, Any]:
    """Return how long `mmsearch.index` takes for the photographs, and its stages."""
    import dataclasses

    import mmsearch

    started = time.perf_counter()
    report = mmsearch.index([place / "photos"], collection=place / f"collection-{os.getpid()}", encoder=encoder)
    seconds = time.perf_counter() - started
    assert report.added == PICTURES
    return {"seconds": seconds, "stages": [dataclasses.asdict(stage) for stage in report.stages]}


def photographs(folder: Path, count: int) -> None:
    """Write photographs of the shared shards as JPEGs whose long sides are 224 to 500 pixels."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, picture in enumerate(shard("flickr8k-dev-000", count)):
        with Image.open(io.BytesIO(picture.data)) as image:
            factor = int(rng.integers(224, 501)) / max(image.size)
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:04d}.jpg", quality=90)


def save_model(folder: Path) -> None:
    """Write ViT-B/32 with random weights as a folder such as one downloads."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32")
    folder.mkdir()
    config = {
        "model_cfg": open_clip.get_model_config("ViT-B-32"),
        "preprocess_cfg": {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors")


def _model(place: Path) -> tuple[Any, Any]:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{place / 'model'}")
    return model.eval(), transform


def _seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
