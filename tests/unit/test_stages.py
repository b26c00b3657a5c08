"""What `mmsearch index` tells about its stages."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from indexer import index
from indexer.stages import Stage, StageTimes
from mmsearch.types import UInt8
from tests.support import ToyEncoder, picture


def test_times_of_several_threads_add_up() -> None:
    times = StageTimes(loaders=4)

    def decode() -> None:
        with times.timed(Stage.DECODE):
            time.sleep(0.05)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (report,) = times.report(elapsed=0.1)
    assert (report.stage, report.items, report.workers) == (Stage.DECODE, 4, 4)
    assert report.seconds >= 0.2
    assert report.per_second == pytest.approx(4 * 4 / report.seconds)
    assert report.busy == pytest.approx(min(1.0, report.seconds / 0.4))


def test_what_failed_takes_time_and_counts_no_picture() -> None:
    times = StageTimes(loaders=1)
    with pytest.raises(ValueError, match="bad"), times.timed(Stage.DECODE):
        raise ValueError("bad")
    assert times.report(1.0) == ()
    with times.timed(Stage.DECODE, 3):
        pass
    assert times.report(1.0)[0].items == 3


def test_a_run_tells_all_its_stages(photos: Path, place: Path, toy: ToyEncoder) -> None:
    report = index([photos], collection=place, encoder=toy)
    counts = {one.stage: one.items for one in report.stages}
    assert list(counts) == [stage for stage in Stage if stage is not Stage.CAPTIONS]
    assert set(counts.values()) == {report.added}
    assert all(0 <= one.busy <= 1 and one.per_second > 0 for one in report.stages)
    (photos / "p0000.txt").write_text("a first caption\na second one")
    (captions,) = (one for one in index([photos], collection=place, encoder=toy).stages if one.stage is Stage.CAPTIONS)
    assert captions.items == 2
    again = index([photos], collection=place, encoder=toy)
    assert [one for one in again.stages if one.stage is Stage.ENCODE] == []


class Whole(ToyEncoder):
    """An encoder that wants its pictures decoded whole, and tells what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    @property
    def min_side(self) -> None:
        return None

    def prepare_image(self, image: Image.Image) -> UInt8:
        self.seen.append(image.size)
        return super().prepare_image(image)


@pytest.mark.parametrize(("fast", "size"), [(False, (640, 480)), (True, (80, 60))])
def test_fast_decode_reduces_where_the_encoder_would_not(
    tmp_path: Path, place: Path, fast: bool, size: tuple[int, int]
) -> None:
    picture(3, (640, 480)).save(tmp_path / "large.jpg")
    encoder = Whole()
    assert index([tmp_path / "large.jpg"], collection=place, encoder=encoder, fast_decode=fast).added == 1
    assert encoder.seen == [size]
