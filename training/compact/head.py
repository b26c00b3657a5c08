"""The heads: small residuals over what the towers give, and the whole encoders that ship."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from .towers import IMAGE_GROUPS, POOLED, TEXT_GROUPS, WIDTH, ImageTower, TextTower

SPREAD = 8.0  # standardised features are clipped here


@dataclass(frozen=True)
class Shape:
    """What the heads look like; groups name column ranges of the frozen features."""

    image_groups: tuple[str, ...] = ("mean", "taps", "colour")
    text_groups: tuple[str, ...] = ("mean",)
    hidden: int = 960
    text_hidden: int = 384
    attention_heads: int = 0
    attention_width: int = 64


class Residual(nn.Module):
    """A two-layer perceptron on standardised columns of the features; its output starts at zero."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, columns: tuple[tuple[int, int], ...], *, hidden: int, noise: float, dropout: float) -> None:
        super().__init__()
        self.columns = columns
        width = sum(stop - start for start, stop in columns)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, WIDTH)
        self.noise, self.dropout = nn.Dropout(noise), nn.Dropout(dropout)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def pick(self, features: Tensor) -> Tensor:
        """Return the columns this head reads, (n, width)."""
        return torch.cat([features[:, start:stop] for start, stop in self.columns], dim=1)

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation from features (n, all columns)."""
        picked = self.pick(features)
        self.mean.copy_(picked.mean(0))
        self.deviation.copy_(picked.std(0).clamp_min(1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, 384) of features (n, all columns)."""
        scaled = ((self.pick(features) - self.mean) / self.deviation).clamp(-SPREAD, SPREAD)
        result: Tensor = self.outer(self.dropout(gelu(self.inner(self.noise(scaled)))))
        return result


class AttentionPool(nn.Module):
    """Learned queries attend to tokens (multi-head attention pooling, Lee et al. 2019); its output starts at zero.

    Values are projected after they were pooled, which is the same, as shares add up to one, and 30 times cheaper.
    """

    def __init__(self, width: int, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.logits, self.norm = nn.Linear(width, heads), nn.LayerNorm(width)
        self.values = nn.ModuleList(nn.Linear(width, head_width) for _ in range(heads))
        self.outer = nn.Linear(heads * head_width, WIDTH)
        self.dropout = nn.Dropout(0.2)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (n, 384) of tokens (n, t, width)."""
        shares = self.logits(tokens).softmax(1).transpose(1, 2)  # (n, heads, t)
        pooled = self.norm(shares @ tokens)  # (n, heads, width)
        values = torch.cat([value(pooled[:, head]) for head, value in enumerate(self.values)], dim=1)
        result: Tensor = self.outer(self.dropout(gelu(values)))
        return result


class ImageHead(nn.Module):
    """ConSE (Norouzi 2013) — class probabilities mix the embeddings of class names — plus residuals."""

    names: Tensor

    def __init__(self, shape: Shape, *, noise: float = 0.2, dropout: float = 0.4) -> None:
        super().__init__()
        self.classifier = nn.Linear(POOLED, 1000).requires_grad_(False)
        self.register_buffer("names", torch.zeros(1000, WIDTH))
        self.sharpness = nn.Parameter(torch.tensor(0.0))
        columns = tuple(IMAGE_GROUPS[name] for name in shape.image_groups)
        self.residual = Residual(columns, hidden=shape.hidden, noise=noise, dropout=dropout)
        self.attention: AttentionPool | None = None
        if shape.attention_heads:
            self.attention = AttentionPool(POOLED, heads=shape.attention_heads, head_width=shape.attention_width)

    def classes(self, features: Tensor) -> Tensor:
        """Return ImageNet probabilities (n, 1000), sharpened by the learned inverse temperature."""
        logits = self.classifier(features[:, :POOLED]) * self.sharpness.exp()
        return torch.softmax(logits, -1)

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return unit rows (n, 384) of features (n, 3696) and, with attention, tokens (n, t, 1280)."""
        rows = self.classes(features) @ self.names + self.residual(features)
        if self.attention is not None and tokens is not None:
            rows = rows + self.attention(tokens)
        return normalize(rows, dim=-1)


class TextHead(nn.Module):
    """The mean-pooled sentence embedding plus a residual."""

    def __init__(self, shape: Shape, *, noise: float = 0.1, dropout: float = 0.3) -> None:
        super().__init__()
        columns = tuple(TEXT_GROUPS[name] for name in shape.text_groups)
        self.residual = Residual(columns, hidden=shape.text_hidden, noise=noise, dropout=dropout)

    def forward(self, features: Tensor, _: Tensor | None = None) -> Tensor:
        """Return unit rows (n, 384) of features (n, 1152), whose first 384 are the masked mean."""
        return normalize(normalize(features[:, :WIDTH], dim=-1) + self.residual(features), dim=-1)


class Encoder(nn.Module):
    """A tower followed by its head: what ships as one ONNX file."""

    def __init__(self, tower: ImageTower | TextTower, head: ImageHead | TextHead) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit rows `embedding` (n, 384) and the tower's `tokens`."""
        features, tokens = self.tower(*inputs)
        return self.head(features, tokens), tokens
