"""Write the shipped files: `python -m training.reranker.export --weights F --encoder DIR --weight X --out DIR`."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mmsearch.encoders.compact import CompactEncoder

from ..compact.common import open_session
from ..compact.export import write_json
from ..compact.graphs import OPSET
from ..compact.surgery import finish, fold, shrink
from .matching import IMAGE_WIDTH, SIDE, TEXT_WIDTH, Matcher

PICTURE, MATCH = "picture.onnx", "match.onnx"


class Pictures(nn.Module):
    """Tokens of pictures to what is kept of them."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, tokens: Tensor) -> Tensor:
        """Return states (n, 81, width)."""
        return self.matcher.picture_states(tokens)


class Matches(nn.Module):
    """What is kept of pictures, and the tokens of texts, to matching scores."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, states: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return score (n,) and attention (n, t, 81)."""
        texts = self.matcher.text_states(words)
        scores = self.matcher(states[:, None], texts[:, None], mask[:, None])
        return scores[:, 0, 0], self.matcher.attention(states, texts)


def load_matcher(weights: Path) -> Matcher:
    """Return what train.py wrote."""
    state = torch.load(weights, weights_only=True)
    matcher = Matcher(width=state["width"], layers=state["layers"])
    matcher.load_state_dict(state["matcher"])
    return matcher.eval()


def save(module: nn.Module, path: Path, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> None:
    """Write a traced module; every first axis varies, and the second of `words`, `mask` and `attention`."""
    axes = {
        name: {0: "n"} | ({1: "t"} if name in ("words", "mask", "attention") else {}) for name in (*inputs, *outputs)
    }
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            traced,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        model = fold(onnx.load(traced))
    shrink(model)
    finish(model, producer="mmsearch/training/reranker")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


@torch.no_grad()
def main() -> None:
    """Write everything except the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="matcher.pt")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the encoder whose tokens it reads")
    parser.add_argument("--weight", type=float, required=True, help="of the matching score beside the cosine")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    matcher = load_matcher(arguments.weights)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand((3, SIDE**2, IMAGE_WIDTH), generator=generator) * 2
    words, mask = torch.randn((3, 7, TEXT_WIDTH), generator=generator), torch.ones(3, 7)
    mask[0, 4:] = 0
    states = matcher.picture_states(tokens)
    save(Pictures(matcher), out / PICTURE, {"tokens": tokens}, ("states",))
    save(Matches(matcher), out / MATCH, {"states": states, "words": words, "mask": mask}, ("score", "attention"))
    (kept,) = open_session(out / PICTURE).run(["states"], {"tokens": tokens.numpy()})
    (scores,) = open_session(out / MATCH).run(["score"], {"states": kept, "words": words.numpy(), "mask": mask.numpy()})
    off = np.abs(scores - Matches(matcher)(states, words, mask)[0].numpy()).max()
    print(f"matching scores are {off:.4f} off those in float32 at most")
    files = {}
    for name in (PICTURE, MATCH):
        content = (out / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    spec = CompactEncoder(arguments.encoder, threads=2).spec
    manifest = {
        "name": out.name,
        "encoder": {"uri": spec.uri, "fingerprint": spec.fingerprint},
        "weight": arguments.weight,
        "files": files,
    }
    write_json(out / "manifest.json", manifest)
    print(f"{sum(entry['bytes'] for entry in files.values()) / 1e6:.2f} MB in {out}: {json.dumps(manifest['encoder'])}")


if __name__ == "__main__":
    main()
