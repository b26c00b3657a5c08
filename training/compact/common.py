"""Shards, preprocessing, tokenising and recall: what the recipe shares and what needs no torch."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

IMAGE_SIZE = 260
MAX_TOKENS = 256
RESIZE = "squash"  # what ships; a key of RESIZERS
KS = (1, 5, 10)
MOST_STRETCH = 0.2  # of a random box
DEV_SHARDS = ("flickr8k-dev-000", "coco-dev-000")
FLICKR_SHARDS = tuple(f"flickr8k-train-{i:03d}" for i in range(3))
TRAIN_SHARDS = FLICKR_SHARDS + tuple(f"coco-train-{i:03d}" for i in range(8))
MORE_SHARDS = tuple(f"coco-more-{i:03d}" for i in range(4))  # what more.py writes
UNLABELLED_SHARDS = tuple(f"unlabelled-{i:03d}" for i in range(6))  # what unlabelled.py writes: no captions

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Pieces = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One picture of a shard with all its captions."""

    name: str
    picture: bytes
    captions: tuple[str, ...]

    def image(self) -> Image.Image:
        """Return the decoded picture in RGB."""
        return Image.open(io.BytesIO(self.picture)).convert("RGB")


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of a webdataset shard (NAME.webp or NAME.jpg, then NAME.json), in the order of the tar."""
    pictures: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            name, _, kind = member.name.rpartition(".")
            if kind in ("webp", "jpg"):
                pictures[name] = stream.read()
            elif kind == "json":
                captions = tuple(str(text).strip() for text in json.load(stream)["captions"])
                yield Sample(name, pictures.pop(name), captions)


def train_shards(folder: Path, ending: str) -> tuple[str, ...]:
    """Return the shards to train on: those of TRAIN_SHARDS and MORE_SHARDS that are in `folder` with this ending."""
    return tuple(shard for shard in TRAIN_SHARDS + MORE_SHARDS if (folder / f"{shard}{ending}").exists())


def squash(image: Image.Image) -> Image.Image:
    """Return the whole picture at 260×260, its sides scaled independently."""
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def centre_crop(image: Image.Image) -> Image.Image:
    """Return the centre square at 260×260 after scaling the shorter side to 260."""
    scale = IMAGE_SIZE / min(image.size)
    width, height = (max(IMAGE_SIZE, round(side * scale)) for side in image.size)
    left, top = (width - IMAGE_SIZE) // 2, (height - IMAGE_SIZE) // 2
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    return scaled.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


def random_box(image: Image.Image, rng: np.random.Generator, *, least: float) -> Image.Image:
    """Return a random box of a picture, of a share `least` of its area or more, its sides stretched a little."""
    area, stretch = rng.uniform(least, 1.0), np.exp(rng.uniform(-MOST_STRETCH, MOST_STRETCH))
    width = min(1.0, float(np.sqrt(area * stretch)))
    height = min(1.0, area / width)
    left, top = rng.uniform(0.0, 1.0 - width), rng.uniform(0.0, 1.0 - height)
    corners, sides = (left, top, left + width, top + height), image.size * 2
    return image.crop(tuple(round(c * s) for c, s in zip(corners, sides, strict=True)))


RESIZERS = {"squash": squash, "crop": centre_crop}


def to_pixels(image: Image.Image) -> Pixels:
    """Return an RGB picture as uint8 (3, height, width)."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def open_session(path: Path, *, threads: int = 2) -> ort.InferenceSession:
    """Return an ONNX Runtime CPU session with a bounded number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def open_tokenizer(path: Path) -> Tokenizer:
    """Return a tokenizer that cuts at 256 word pieces and does not pad."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def pieces_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Pieces]:
    """Return the word pieces (t,) of texts."""
    return [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(list(texts))]


def padded(texts: Sequence[Pieces]) -> dict[str, Pieces]:
    """Return `input_ids` and `attention_mask`, int64 (n, t), padded with zeros to the longest text."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, pieces in enumerate(texts):
        ids[row, : len(pieces)] = pieces
        mask[row, : len(pieces)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Pieces]:
    """Return `input_ids` and `attention_mask`, int64 (n, t), of texts."""
    return padded(pieces_of(tokenizer, texts))


def run_pieces(session: ort.InferenceSession, texts: Sequence[Pieces], *, output: str, batch: int = 64) -> Floats:
    """Return one named output for every text, float32 (n, …), in the order given; runs sorted by length."""
    order = np.argsort([len(pieces) for pieces in texts], kind="stable")
    parts = np.split(order, range(batch, len(order), batch))
    rows = np.concatenate([session.run([output], padded([texts[i] for i in part]))[0] for part in parts])
    found = np.empty_like(rows)
    found[order] = rows
    return found


def run_texts(
    session: ort.InferenceSession, tokenizer: Tokenizer, texts: Sequence[str], *, output: str, batch: int = 64
) -> Floats:
    """Return one named output for every text, float32 (n, …), in the order given."""
    return run_pieces(session, pieces_of(tokenizer, texts), output=output, batch=batch)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document, indented, with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def unit(rows: Floats) -> Floats:
    """Return rows scaled to length one, float32 (n, dim)."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def joined(first: Floats, rest: Sequence[Floats], share: float) -> Floats:
    """Return rows whose products are (1 − share) × those of `first` plus share × the mean of those of the rest."""
    if not rest:
        return first
    weights = [np.sqrt(np.float32(1.0 - share)), *[np.sqrt(np.float32(share / len(rest)))] * len(rest)]
    return np.concatenate([weight * rows for weight, rows in zip(weights, (first, *rest), strict=True)], axis=1)


@dataclass(frozen=True)
class Recall:
    """Recall at 1, 5 and 10 in per cent, CLIP-benchmark style: any right item among the first k counts."""

    text_to_image: tuple[float, ...]
    image_to_text: tuple[float, ...]

    def row(self) -> str:
        """Return `t→i 1/5/10  i→t 1/5/10` for a table."""
        left, right = ("/".join(f"{v:.1f}" for v in part) for part in (self.text_to_image, self.image_to_text))
        return f"t→i {left}  i→t {right}"


def measure_recall(images: Floats, texts: Floats, owner: NDArray[np.int64]) -> Recall:
    """Return recall of images (n, dim) and texts (m, dim), where text j describes image owner[j]."""
    scores = texts @ images.T
    right = scores[np.arange(len(texts)), owner]
    text_rank = (scores > right[:, None]).sum(axis=1)
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, owner, right)
    image_rank = (scores > best[None, :]).sum(axis=0)
    return Recall(
        tuple(float(100 * np.mean(text_rank < k)) for k in KS),
        tuple(float(100 * np.mean(image_rank < k)) for k in KS),
    )
