"""Matcher: words attend to patches, regions to words, both to each other; one score for a picture and a text.

Two-way cross-attention on frozen tokens (ALBEF, Li et al. 2021; BLIP, Li et al. 2022). Needs torch: import it after
`require_torch` only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from mmsearch.rerank.cells import CHANNELS

REGIONS = 3  # side of the grid of regions that the grid of patches is pooled to
HEAD_WIDTH = 32
HIDDEN = -1e4  # added to the logits of padding
_RIDGE = 0.03


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the encoder's tokens, side of its square grid of patches, and the size of the matcher.

    `cells` is into how many parts a side patches are cut for their colours, which stand behind the tokens
    (`mmsearch.rerank.cells`), 0 for none.
    """

    image_width: int
    text_width: int
    side: int
    width: int = 192
    layers: int = 2
    cells: int = 0

    @property
    def colours(self) -> int:
        """How many numbers tell the colours of a patch."""
        return CHANNELS * self.cells**2


def _heads(rows: Tensor, heads: int) -> Tensor:
    """Return (n, heads, t, width / heads) of (n, t, width)."""
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, rows: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (n, t, width) of rows (n, t, width) that look at memory (n, s, width).

        bias (n, 1, 1, s) is added to the logits.
        """
        queries, keys, values = (
            _heads(part, self.heads) for part in (self.query(rows), self.key(memory), self.value(memory))
        )
        # Written out, for torch's fused attention on a CPU takes several times as long over so few rows.
        logits = (queries * HEAD_WIDTH**-0.5) @ keys.transpose(2, 3)
        mixed = (logits if bias is None else logits + bias).softmax(3) @ values
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def shares(self, rows: Tensor, memory: Tensor) -> Tensor:
        """Return how much of its attention each row gives to each of the memory, the mean of all heads (n, t, s)."""
        queries, keys = _heads(self.query(rows), self.heads), _heads(self.key(memory), self.heads)
        return (queries * HEAD_WIDTH**-0.5 @ keys.transpose(2, 3)).softmax(3).mean(1)


class Layer(nn.Module):
    """Words look at patches and regions at words; then both at each other."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.to_image, self.to_text, self.own = (Attention(width) for _ in range(3))
        self.agree = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, words: Tensor, regions: Tensor, patches: Tensor, texts: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next words (g, i, j, t, width) and regions (g, i, j, r, width) of texts i with pictures j.

        patches (g, j, p, width) and texts (g, i, t, width) are what is known of one alone; bias (g, i, 1, 1, t).
        """
        groups, count, others, length, width = words.shape
        # All words that look at one picture go there together, so that its keys are made and read once.
        asked = self.norms[0](words).transpose(1, 2).reshape(groups * others, count * length, width)
        seen = self.to_image(asked, patches.flatten(0, 1))
        seen = seen + self.agree(asked * seen)  # how far a word and what it saw agree, number by number
        words = words + self.dropout(seen.view(groups, others, count, length, width).transpose(1, 2))
        asked = self.norms[1](regions).reshape(groups * count, -1, width)
        heard = self.to_text(asked, texts.flatten(0, 1), bias.flatten(0, 1))
        regions = regions + self.dropout(heard.view(regions.shape))
        both = torch.cat([words, regions], dim=3).flatten(0, 2)
        shown = torch.cat(
            [bias.expand(-1, -1, others, -1, -1), bias.new_zeros(*regions.shape[:3], 1, regions.shape[3])], 4
        )
        rows = self.norms[2](both)
        both = both + self.dropout(self.own(rows, rows, shown.flatten(0, 2)[:, None]))
        both = both + self.dropout(self.outer(gelu(self.inner(self.norms[3](both)), approximate="tanh")))
        both = both.view(groups, count, others, -1, width)
        return both[:, :, :, :length], both[:, :, :, length:]


class Matcher(nn.Module):
    """From what is known of pictures and texts alone to one score for each pair."""

    def __init__(self, shape: Shape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        width, side = shape.width, shape.side
        self.image_norm, self.image_in = nn.LayerNorm(shape.image_width), nn.Linear(shape.image_width, width)
        self.text_norm, self.text_in = nn.LayerNorm(shape.text_width), nn.Linear(shape.text_width, width)
        self.colour: nn.Module | None = None
        if shape.colours:
            self.colour = nn.Sequential(nn.Linear(shape.colours, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.row, self.column = nn.Parameter(torch.zeros(side, 1, width)), nn.Parameter(torch.zeros(1, side, width))
        self.image_last, self.patch_norm = nn.LayerNorm(width, elementwise_affine=False), nn.LayerNorm(width)
        self.text_last = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(shape.layers))
        self.norm, self.inner, self.outer = nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("pool", _pooling(side), persistent=False)

    def begin(self, pairs: Iterable[tuple[Tensor, ...]]) -> None:
        """Let patches and words begin in one space, and words look at the patches that are like them.

        `pairs` are tokens: patches (n, p, width and colours), words (n, t, width), mask (n, t) that is 1 on real ones.
        Words are turned to the axes along which they vary most, and of a patch becomes what ridge regression makes of
        the mean patch of a picture to meet the mean word of its text.
        """
        shape = self.shape
        seen, said, every = [], [], []
        for patches, words, mask in pairs:
            seen.append(layer_norm(patches[..., : shape.image_width], (shape.image_width,)).mean(1))
            normed, real = layer_norm(words, (shape.text_width,)), mask[:, :, None]
            said.append((normed * real).sum(1) / real.sum(1))
            every.append(normed[mask > 0])
        with torch.no_grad():
            self._begin(torch.cat(seen), torch.cat(said), torch.cat(every))

    def _begin(self, seen: Tensor, said: Tensor, every: Tensor) -> None:
        """Set the weights by mean patches and mean words of pairs (n, width), and all words (m, width)."""
        shape = self.shape
        centre = every.mean(0)
        axes = torch.linalg.svd((every - centre).T @ (every - centre))[2][: shape.width]
        _set(self.text_in, axes, -axes @ centre)
        middle = seen.mean(0)
        known, wanted = seen - middle, (said - said.mean(0)) @ axes.T
        square = known.T @ known
        ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square))
        found = torch.linalg.solve(square + ridge, known.T @ wanted).T
        found = found / found.norm(dim=1, keepdim=True).mean()
        _set(self.image_in, found, -found @ middle)
        for layer in self.layers:
            for attention in (layer.to_image, layer.to_text):
                for part in (attention.query, attention.key, attention.value, attention.out):
                    part.weight.lerp_(torch.eye(shape.width), 0.7)

    def picture_states(self, tokens: Tensor) -> Tensor:
        """Return what is kept of pictures, (…, p, width), of their tokens (…, p, image_width + colours)."""
        place = (self.row + self.column).flatten(0, 1)
        states = self.image_in(self.image_norm(tokens[..., : self.shape.image_width])) + place
        if self.colour is not None:
            states = states + self.colour(tokens[..., self.shape.image_width :])
        result: Tensor = self.image_last(states)
        return result

    def text_states(self, tokens: Tensor) -> Tensor:
        """Return (…, t, width) of the tokens of texts (…, t, text_width)."""
        result: Tensor = self.text_in(self.text_norm(tokens))
        return result

    def forward(self, images: Tensor, texts: Tensor, mask: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return matching scores (g, i, j) of all texts with all pictures of each group.

        images (g, j, p, width) and texts (g, i, t, width) are states, mask (g, i, t) is 1 on real tokens. Of the
        patches words see those that are `kept`, or all.
        """
        others, count = images.shape[1], texts.shape[1]
        bias = ((1.0 - mask) * HIDDEN).to(texts.dtype)[:, :, None, None]
        regions = (self.pool.to(images.dtype) @ images)[:, None].expand(-1, count, -1, -1, -1)
        patches = self.patch_norm(images if kept is None else images[:, :, kept])
        known = self.text_last(texts)
        words = texts[:, :, None].expand(-1, -1, others, -1, -1)
        for layer in self.layers:
            words, regions = layer(words, regions, patches, known, bias)
        real = mask.to(texts.dtype)[:, :, None, :, None]
        mean = (words * real).sum(3) / real.sum(3)
        pooled = torch.cat([mean, words[:, :, :, 0], regions.mean(3)], dim=3)
        hidden = gelu(self.inner(self.norm(pooled)), approximate="tanh")
        # Not by the layer itself, which would round scores to bfloat16 where that is computed in.
        last = (self.dropout(hidden).float() * self.outer.weight[0]).sum(-1)
        result: Tensor = last + self.outer.bias
        return result

    def attention(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return where words look first, (n, t, p), in pictures (n, p, width), pair by pair."""
        layer = self.layers[0]
        shares: Tensor = layer.to_image.shares(layer.norms[0](texts), self.patch_norm(images))
        return shares


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight.zero_()[: len(weight)] = weight  # fewer rows than wanted where tokens are narrower than the matcher
    linear.bias.zero_()[: len(bias)] = bias


def _pooling(side: int) -> Tensor:
    """Return the weights (regions, patches) that make a grid of REGIONS × REGIONS means of a square grid of patches."""
    parts = torch.nn.functional.adaptive_avg_pool2d(torch.eye(side**2).view(-1, 1, side, side), min(REGIONS, side))
    return parts.flatten(1).T.contiguous()
