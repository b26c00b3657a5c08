"""BLIP as a reranker: the same scores as transformers gives, and what is said of folders that hold something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import DeviceError, MissingExtra, UnknownReranker, WeightsUnavailable
from mmsearch.rerank import load_reranker
from tests.support import ToyEncoder, make_folder, picture
from tests.tiny_models import CLIP_MEAN, CLIP_STD, make_blip

pytestmark = pytest.mark.needs_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("models") / "blip")


def preparation(folder: Path) -> Path:
    """Return what says how pictures are prepared, by the name that this version of transformers gives it."""
    names = ("preprocessor_config.json", "processor_config.json")
    return next(folder / name for name in names if (folder / name).is_file())


def test_scores_are_those_of_transformers(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    reranker = load_reranker(f"blip:{folder}", ToyEncoder())
    texts = ["a red thing", "the blue thing on the green table"]
    pixels = np.stack([reranker.prepare_image(picture(seed)) for seed in range(2)])
    scores = reranker.score(texts, reranker.picture_states(pixels))
    mean, std = (np.float32(values)[None, :, None, None] for values in (CLIP_MEAN, CLIP_STD))
    words = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
        logits = model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std),
        ).itm_score.numpy()
    np.testing.assert_allclose(scores, logits[:, 1] - logits[:, 0], atol=1e-4)
    assert np.abs(scores[0] - scores[1]) > 1e-3


def test_it_reranks_for_any_encoder(folder: Path, tmp_path: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "pictures", 6)
    index([tmp_path / "pictures"], collection=tmp_path / "c", encoder=toy)
    with SearchEngine(Collection.open(tmp_path / "c"), toy, reranker=f"blip:{folder}") as engine:
        found = engine.search("a red thing", rerank=True)
        assert len(found) == 6
        assert all(hit.rerank_score is not None for hit in found)
        again = engine.search("a red thing", rerank=True)
    assert [hit.score for hit in again] == [hit.score for hit in found]


def test_what_is_no_blip_model_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyEncoder()
    for rest in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UnknownReranker, match="There is no BLIP model in"):
            load_reranker(f"blip:{rest}", toy)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UnknownReranker, match="holds a BertModel: a BLIP model for image–text matching"):
        load_reranker(f"blip:{other}", toy)
    (other / "config.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        load_reranker(f"blip:{other}", toy)
    for missing in (preparation(folder).name, "model.safetensors"):
        damaged = tmp_path / missing
        shutil.copytree(folder, damaged)
        (damaged / missing).unlink()
        with pytest.raises(WeightsUnavailable, match="cannot be loaded"):
            load_reranker(f"blip:{damaged}", toy)
    with pytest.raises(DeviceError):
        load_reranker(f"blip:{folder}", toy, device="cuda:7")
    monkeypatch.setenv("MMSEARCH_DEVICE", "cuda:7")
    load_reranker(f"blip:{folder}", toy, device="cpu")
    with pytest.raises(DeviceError):
        load_reranker(f"blip:{folder}", toy)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"\[cpu,blip\]"):
        load_reranker(f"blip:{folder}", toy)


def test_the_older_name_of_the_configuration_is_known(folder: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    content = json.loads(preparation(older).read_text())
    preparation(older).unlink()
    (older / "preprocessor_config.json").write_text(json.dumps(content.get("image_processor", content)))
    pixels = np.stack([load_reranker(f"blip:{folder}", ToyEncoder()).prepare_image(picture(0))])
    states = [load_reranker(f"blip:{place}", ToyEncoder()).picture_states(pixels) for place in (folder, older)]
    np.testing.assert_array_equal(*states)


def test_half_precision_is_read(folder: Path, tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    half = tmp_path / "half"
    shutil.copytree(folder, half)
    BlipForImageTextRetrieval.from_pretrained(folder).half().save_pretrained(half)
    reranker = load_reranker(f"blip:{half}", ToyEncoder())
    states = reranker.picture_states(reranker.prepare_image(picture(0))[None])
    assert np.isfinite(reranker.score(["a red thing"], states)).all()


def test_other_weights_are_another_reranker(folder: Path, tmp_path: Path) -> None:
    same = tmp_path / "copied"
    shutil.copytree(folder, same)
    prints = [
        load_reranker(f"blip:{place}", ToyEncoder()).spec.fingerprint
        for place in (folder, same, make_blip(tmp_path / "other", seed=1))
    ]
    assert prints[0] == prints[1]
    assert prints[0] != prints[2]
