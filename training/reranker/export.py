"""Write the shipped files: `python -m training.reranker.export --weights F… --weight X --mean Y --out DIR`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from mmsearch.encoders.compact import load
from mmsearch.rerank.cross_attention import FORMAT, MATCH, PICTURE
from mmsearch.training.rerank.export import export_matchers, widest
from mmsearch.training.rerank.matcher import Matcher, Shape

from ..compact.common import open_session, write_json
from ..compact.surgery import finish, fold, shrink


def load_matcher(weights: Path) -> Matcher:
    """Return what train.py wrote."""
    state = torch.load(weights, weights_only=True)
    matcher = Matcher(Shape(**state["shape"]))
    matcher.load_state_dict(state["matcher"])
    return matcher.eval()


@torch.no_grad()
def compare(matchers: Sequence[Matcher], out: Path, *, mean: float) -> float:
    """Return how far the shipped files are from float32 at most, in scores."""
    generator = torch.Generator().manual_seed(1)
    shape = widest(matchers)
    tokens = torch.rand((50, shape.side**2, shape.image_width + shape.colours), generator=generator) ** 4 * 4
    tokens[..., shape.image_width :] = 2 * torch.rand(tokens[..., shape.image_width :].shape, generator=generator) - 1
    words, mask = torch.randn((50, 9, shape.text_width), generator=generator), torch.ones(50, 9)
    (kept,) = open_session(out / PICTURE).run(["states"], {"tokens": tokens.numpy()})
    feeds = {"states": kept, "words": words.numpy(), "mask": mask.numpy()}
    (scores,) = open_session(out / MATCH).run(["score"], feeds)
    scored = [
        matcher(matcher.picture_states(tokens)[:, None], matcher.text_states(words)[:, None], mask[:, None])[:, 0, 0]
        for matcher in matchers
    ]
    exact = torch.stack(scored).mean(0).numpy() - mean
    return float(np.abs(scores - exact).max() / exact.std())


def main() -> None:
    """Write everything except the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="matcher.pt, or several of one encoder")
    parser.add_argument("--weight", type=float, required=True, help="of the matching score beside the cosine")
    parser.add_argument("--mean", type=float, required=True, help="of the scores of candidates, as measure.py tells it")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    matchers = [load_matcher(path) for path in arguments.weights]
    files = {}
    for name, content in export_matchers(matchers, mean=arguments.mean).items():
        model = fold(onnx.load_model_from_string(content))
        shrink(model)
        finish(model, producer="mmsearch/training/reranker")
        onnx.save(model, out / name)
        written = (out / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}
    off = compare(matchers, out, mean=arguments.mean)
    print(f"matching scores are {off:.4f} deviations off those in float32 at most")
    spec = load().spec
    manifest = {
        "format": FORMAT,
        "name": out.name,
        "encoder": {"uri": spec.uri, "fingerprint": spec.fingerprint},
        "weight": arguments.weight,
        "cells": widest(matchers).cells,
        "files": files,
    }
    write_json(out / "manifest.json", manifest)
    print(f"{sum(entry['bytes'] for entry in files.values()) / 1e6:.2f} MB in {out}: {json.dumps(manifest['encoder'])}")


if __name__ == "__main__":
    main()
