"""A matcher as two ONNX graphs: from tokens to what is kept of a picture, and from that and a text to a score."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmsearch.rerank.cross_attention import MATCH, PICTURE
from mmsearch.training.rerank.matcher import Matcher

OPSET = 17
_VARYING = ("words", "mask", "attention")
"""What has as many columns as a text has tokens."""


class _Pictures(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, tokens: Tensor) -> Tensor:
        return self.matcher.picture_states(tokens)


class _Matches(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, states: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        texts = self.matcher.text_states(words)
        scores = self.matcher(states[:, None], texts[:, None], mask[:, None])
        return scores[:, 0, 0], self.matcher.attention(states, texts)


def export_matcher(matcher: Matcher, *, mean: float) -> dict[str, bytes]:
    """Return the graphs by file name, opset 17, float32; `mean` is taken from every score.

    Training leaves open where scores lie; with the mean of those of the first stage's candidates 0 is an average one.
    """
    shape = matcher.shape
    matcher = copy.deepcopy(matcher).eval()
    with torch.no_grad():
        matcher.outer.bias -= mean
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand((3, shape.side**2, shape.image_width), generator=generator)
    words, mask = torch.randn((3, 7, shape.text_width), generator=generator), torch.ones(3, 7)
    mask[0, 4:] = 0
    feeds = {"states": matcher.picture_states(tokens).detach(), "words": words, "mask": mask}
    return {
        PICTURE: _export(_Pictures(matcher), {"tokens": tokens}, ("states",)),
        MATCH: _export(_Matches(matcher), feeds, ("score", "attention")),
    }


def _export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """Return a traced module; every first axis varies, and the second of _VARYING."""
    axes = {name: {0: "n"} | ({1: "t"} if name in _VARYING else {}) for name in (*inputs, *outputs)}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is called deprecated; the other needs onnxscript, and more memory than the matcher.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()
