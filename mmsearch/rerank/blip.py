"""BlipReranker: the image–text matching head of a BLIP model, from local weights, through transformers. Needs [blip].

`blip:PATH` names the folder of a `BlipForImageTextRetrieval` and its processor as `save_pretrained` and the hub have
them: config.json, weights, tokenizer, preprocessor_config.json or processor_config.json (BLIP, Li et al. 2022, arXiv
2201.12086). It reads pictures itself, so that it goes with any encoder. Slower than `cross_attention` by far; on a GPU
where torch sees one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings, plain_path
from mmsearch.errors import MissingExtra, UnknownReranker, WeightsUnavailable
from mmsearch.runtime.devices import TorchWorker, find_devices, require_torch
from mmsearch.runtime.threads import set_torch_threads
from mmsearch.types import Encoder, Float32, RerankerSpec, UInt8

if TYPE_CHECKING:
    from PIL import Image

_WEIGHT = 0.05
"""A matching score is a logarithm of odds, mostly between −10 and 10: it decides, and cosines part those that tie."""

_BOUND = 50.0
"""BLIP is trained on far more than what any collection holds: all of its scores count as they are, nearly."""

_SMALL_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.txt")
_INSTALL = 'This reranker needs torch and transformers: pip install "mmsearch[cpu,blip]".'


def load(rest: str, _encoder: Encoder, device: str | None = None) -> BlipReranker:
    """Return the reranker of a folder on a torch device (None: $MMSEARCH_DEVICE).

    Raise UnknownReranker, WeightsUnavailable, MissingExtra or DeviceError.
    """
    folder = plain_path(rest)
    if not rest or not (folder / "config.json").is_file():
        raise UnknownReranker(
            f"There is no BLIP model in {folder if rest else 'a folder that is not named'}: say blip:FOLDER, a folder"
            " with its config.json, weights and tokenizer, as transformers' save_pretrained writes them."
        )
    try:
        config = json.loads((folder / "config.json").read_bytes())
        made_for = [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsUnavailable(
            f"{folder / 'config.json'} cannot be read ({error}): fetch the model again."
        ) from error
    if "BlipForImageTextRetrieval" not in made_for:
        raise UnknownReranker(
            f"{folder} holds a {made_for[0] if made_for else 'model of an unknown kind'}: a BLIP model for image–text"
            " matching (BlipForImageTextRetrieval) is needed, such as blip-itm-base-coco."
        )
    return BlipReranker(folder, _transformers(), device=find_devices(device or Settings.from_environment().device)[0])


class BlipReranker:
    """Matching scores of BLIP. The states of a picture are the patches of its vision tower."""

    def __init__(self, folder: Path, transformers: ModuleType, *, device: str) -> None:
        """Read the model in `folder`, and put it on a torch device; raise WeightsUnavailable."""
        self._torch = require_torch()
        try:
            model = transformers.BlipForImageTextRetrieval.from_pretrained(folder, local_files_only=True).float()
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            prepared = _preparation(folder)
            mean, std = ([float(number) for number in prepared[name]] for name in ("image_mean", "image_std"))
        except Exception as error:  # what transformers, safetensors and json raise has no common root
            raise WeightsUnavailable(
                f"The BLIP model in {folder} cannot be loaded ({error}): fetch it again, weights, tokenizer and the"
                " configuration of its processor."
            ) from error
        self._worker = TorchWorker(device)
        self._model = model.eval().to(self._worker.device)
        self._size = int(model.config.vision_config.image_size)
        self._longest = int(model.config.text_config.max_position_embeddings)
        self._mean, self._std = (
            self._torch.tensor(values, device=self._worker.device).reshape(1, 3, 1, 1) for values in (mean, std)
        )
        self._threads = Settings.from_environment().threads
        self._spec = RerankerSpec(f"blip:{folder}", _fingerprint(folder), _WEIGHT, _BOUND)

    @property
    def spec(self) -> RerankerSpec:
        """The description."""
        return self._spec

    @property
    def min_side(self) -> int:
        """The side of the input."""
        return self._size

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the picture (RGB) squashed to the input's size by Pillow's bicubic filter, (3, S, S) uint8."""
        from PIL import Image

        small = image.resize((self._size, self._size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))

    def picture_states(self, pixels: UInt8) -> Float32:
        """Return the patches (n, 1 + patches, width) of prepared pictures (n, 3, S, S), the class token first."""
        set_torch_threads(self._torch, threads=self._threads)

        def run(x: Any) -> Any:
            return self._model.vision_model((x.float() / 255.0 - self._mean) / self._std)[0]

        return self._worker.run(run, pixels, batch=self._worker.image_batch)

    def score(self, texts: Sequence[str], states: Float32) -> Float32:
        """Return the logarithms of the odds (n,) that texts and states (n, patches, width) belong together."""
        if not texts or not len(states):
            return np.empty(0, dtype=np.float32)
        if len(texts) != len(states) and 1 not in (len(texts), len(states)):
            raise ValueError(f"{len(texts)} texts and {len(states)} states make no pairs")
        set_torch_threads(self._torch, threads=self._threads)
        count = max(len(texts), len(states))
        words = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="np"
        )
        ids, mask = (
            np.broadcast_to(words[name], (count, words[name].shape[1])) for name in ("input_ids", "attention_mask")
        )
        shown = np.broadcast_to(states, (count, *states.shape[1:]))

        def run(rows: Any) -> Any:
            chosen = rows.cpu().numpy()
            told, real, seen = (
                self._torch.from_numpy(np.ascontiguousarray(part[chosen])).to(self._worker.device)
                for part in (ids, mask, shown)
            )
            longest = int(real.sum(1).max())
            read = self._model.text_encoder(
                input_ids=told[:, :longest],
                attention_mask=real[:, :longest],
                encoder_hidden_states=seen,
                encoder_attention_mask=self._torch.ones(seen.shape[:2], dtype=self._torch.long, device=seen.device),
            )[0]
            logits = self._model.itm_head(read[:, 0])
            return logits[:, 1] - logits[:, 0]

        return self._worker.run(run, np.arange(count), batch=self._worker.image_batch)


def _preparation(folder: Path) -> dict[str, Any]:
    """Return how pictures are prepared; since transformers 5 it stands in the configuration of the whole processor."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_bytes())
    else:
        found = json.loads((folder / "processor_config.json").read_bytes())["image_processor"]
    return found


def _transformers() -> ModuleType:
    try:
        require_torch()
        return import_module("transformers")
    except (ImportError, MissingExtra) as error:
        raise MissingExtra(_INSTALL) from error


def _fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the files of a model, by name; of its weights those that transformers takes."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    digest = hashlib.sha256()
    for path in [*(folder / name for name in _SMALL_FILES if (folder / name).is_file()), *weights]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
