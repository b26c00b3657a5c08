"""Matcher: words attend to patches, regions to words, both to each other; one score for a picture and a text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

IMAGE_WIDTH, TEXT_WIDTH = 1280, 384  # of the encoder's tokens
SIDE, REGIONS = 9, 3  # sides of the grid of patches, and of the grid of regions that it is pooled to
HEAD_WIDTH = 32
HIDDEN = -1e4  # added to the logits of padding


def _heads(rows: Tensor, heads: int) -> Tensor:
    """Return (n, heads, t, width / heads) of (n, t, width)."""
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, rows: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (n, t, width) of rows (n, t, width) that look at memory (n, s, width).

        bias (n, 1, 1, s) is added to the logits.
        """
        queries, keys, values = (
            _heads(part, self.heads) for part in (self.query(rows), self.key(memory), self.value(memory))
        )
        # Written out, for torch's fused attention on a CPU takes several times as long over so few rows.
        logits = (queries * (1.0 / math.sqrt(queries.shape[3]))) @ keys.transpose(2, 3)
        mixed = (logits if bias is None else logits + bias).softmax(3) @ values
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def shares(self, rows: Tensor, memory: Tensor) -> Tensor:
        """Return how much of its attention each row gives to each of the memory, the mean of all heads (n, t, s)."""
        queries, keys = _heads(self.query(rows), self.heads), _heads(self.key(memory), self.heads)
        return (queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])).softmax(3).mean(1)


class Layer(nn.Module):
    """Words look at patches and regions at words; then both at each other."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.to_image, self.to_text, self.own = (Attention(width, heads) for _ in range(3))
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
        both = both + self.dropout(self.outer(gelu(self.inner(self.norms[3](both)))))
        both = both.view(groups, count, others, -1, width)
        return both[:, :, :, :length], both[:, :, :, length:]


class Matcher(nn.Module):
    """Two-way cross-attention between the tokens of a picture and a text (ALBEF, Li et al. 2021; BLIP, 2022)."""

    def __init__(self, *, width: int = 192, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.image_norm, self.image_in = nn.LayerNorm(IMAGE_WIDTH), nn.Linear(IMAGE_WIDTH, width)
        self.text_norm, self.text_in = nn.LayerNorm(TEXT_WIDTH), nn.Linear(TEXT_WIDTH, width)
        self.row, self.column = nn.Parameter(torch.zeros(SIDE, 1, width)), nn.Parameter(torch.zeros(1, SIDE, width))
        self.image_last, self.patch_norm = nn.LayerNorm(width, elementwise_affine=False), nn.LayerNorm(width)
        self.text_last = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, width // HEAD_WIDTH, dropout) for _ in range(layers))
        self.norm, self.inner, self.outer = nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def begin(self, classifier: Tensor, names: Tensor) -> None:
        """Let patches and words begin in one space, and words look at the patches that are like them.

        A patch is what the classifier (1000, 1280) of the image tower makes of it, by the embeddings of the class names
        (1000, 384) in the space of the words: ConSE (Norouzi 2013) patch by patch. One random projection turns both
        into fewer dimensions.
        """
        width = self.text_in.weight.shape[0]
        turn = nn.init.orthogonal_(torch.empty(width, TEXT_WIDTH))
        patches = turn @ names.T @ (classifier - classifier.mean(0))
        self.text_in.weight.copy_(turn)
        self.image_in.weight.copy_(patches / patches.norm(dim=1, keepdim=True).mean())
        for layer in self.layers:
            for attention in (layer.to_image, layer.to_text):
                for part in (attention.query, attention.key, attention.value, attention.out):
                    part.weight.lerp_(torch.eye(width), 0.7)

    def picture_states(self, tokens: Tensor) -> Tensor:
        """Return what is kept of pictures, (…, 81, width), of their tokens (…, 81, 1280)."""
        place = (self.row + self.column).flatten(0, 1)
        result: Tensor = self.image_last(self.image_in(self.image_norm(tokens)) + place)
        return result

    def text_states(self, tokens: Tensor) -> Tensor:
        """Return (…, t, width) of the tokens of texts (…, t, 384)."""
        result: Tensor = self.text_in(self.text_norm(tokens))
        return result

    def forward(self, images: Tensor, texts: Tensor, mask: Tensor) -> Tensor:
        """Return matching scores (g, i, j) of all texts with all pictures of each group.

        images (g, j, 81, width) and texts (g, i, t, width) are states, mask (g, i, t) is 1 on real tokens.
        """
        others, count = images.shape[1], texts.shape[1]
        bias = ((1.0 - mask) * HIDDEN).to(texts.dtype)[:, :, None, None]
        patches, known = self.patch_norm(images), self.text_last(texts)
        grid = images.unflatten(2, (REGIONS, SIDE // REGIONS, REGIONS, SIDE // REGIONS))
        regions = grid.mean((3, 5)).flatten(2, 3)[:, None].expand(-1, count, -1, -1, -1)
        words = texts[:, :, None].expand(-1, -1, others, -1, -1)
        for layer in self.layers:
            words, regions = layer(words, regions, patches, known, bias)
        real = mask.to(texts.dtype)[:, :, None, :, None]
        mean = (words * real).sum(3) / real.sum(3)
        pooled = torch.cat([mean, words[:, :, :, 0], regions.mean(3)], dim=3)
        result: Tensor = self.outer(self.dropout(gelu(self.inner(self.norm(pooled)))))[..., 0]
        return result

    def attention(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return where words look first, (n, t, 81), in pictures (n, 81, width), pair by pair."""
        layer = self.layers[0]
        shares: Tensor = layer.to_image.shares(layer.norms[0](texts), self.patch_norm(images))
        return shares
