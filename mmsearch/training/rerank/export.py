"""A matcher as two ONNX graphs: from tokens to what is kept of a picture, and from that and a text to a score."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmsearch.rerank.cross_attention import MATCH, PICTURE
from mmsearch.training.rerank.matcher import Matcher, Shape

OPSET = 17
_VARYING = ("words", "mask", "attention")
"""What has as many columns as a text has tokens."""


class _Pictures(nn.Module):
    def __init__(self, matchers: Sequence[Matcher]) -> None:
        super().__init__()
        self.matchers = nn.ModuleList(matchers)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([matcher.picture_states(tokens) for matcher in self.matchers], dim=2)


class _Matches(nn.Module):
    def __init__(self, matchers: Sequence[Matcher]) -> None:
        super().__init__()
        self.matchers = nn.ModuleList(matchers)
        self.widths = [matcher.shape.width for matcher in matchers]

    def forward(self, states: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        parts = list(zip(self.matchers, states.split(self.widths, dim=2), strict=True))
        scores = [
            matcher(own[:, None], matcher.text_states(words)[:, None], mask[:, None])[:, 0, 0] for matcher, own in parts
        ]
        first, seen = parts[0]
        return torch.stack(scores).mean(0), first.attention(seen, first.text_states(words))


def widest(matchers: Sequence[Matcher]) -> Shape:
    """Return the shape of the matcher that sees the most of a patch; some may see no colours, see `export_matchers`."""
    shape = max((matcher.shape for matcher in matchers), key=lambda shape: shape.cells)
    if any(matcher.shape.cells not in (0, shape.cells) for matcher in matchers):
        raise ValueError("the matchers see patches that are cut in different ways")
    return shape


def export_matchers(matchers: Sequence[Matcher], *, mean: float) -> dict[str, bytes]:
    """Return the graphs by file name, opset 17, float32; `mean` is taken from every score.

    Training leaves open where scores lie; with the mean of those of the first stage's candidates 0 is an average one.
    Of several matchers of one encoder the states stand beside one another, and the score is the mean of theirs; the
    attention is that of the first, as the mean of all is too blurred to explain anything. Raise ValueError for matchers
    of patches that are cut in different ways.
    """
    shape = widest(matchers)
    matchers = [copy.deepcopy(matcher).eval() for matcher in matchers]
    with torch.no_grad():
        for matcher in matchers:
            matcher.outer.bias -= mean
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand((3, shape.side**2, shape.image_width + shape.colours), generator=generator)
    words, mask = torch.randn((3, 7, shape.text_width), generator=generator), torch.ones(3, 7)
    mask[0, 4:] = 0
    pictures = _Pictures(matchers)
    feeds = {"states": pictures(tokens).detach(), "words": words, "mask": mask}
    return {
        PICTURE: _export(pictures, {"tokens": tokens}, ("states",)),
        MATCH: _export(_Matches(matchers), feeds, ("score", "attention")),
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
