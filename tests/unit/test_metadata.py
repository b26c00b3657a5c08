"""What pictures tell of themselves: times, cameras, places, words; and that hostile metadata do no harm."""

from __future__ import annotations

import io
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmsearch.images import decode, probe
from mmsearch.metadata import MAX_KEYWORD, MAX_KEYWORDS, MAX_TEXT, read_metadata
from mmsearch.types import PictureMetadata
from tests.made_files import dng
from tests.support import ToyEncoder, encoded, picture, run

Base = ExifTags.Base
NOTHING = PictureMetadata()
CONTROL = {"Cc", "Cs"}


def exif_of(
    base: dict[int, object] | None = None,
    details: dict[int, object] | None = None,
    gps: dict[int, object] | None = None,
) -> bytes:
    exif = Image.Exif()
    exif.update(base or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(details or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    return exif.tobytes()  # as an object, one without tags of its own counts as empty


def read(
    exif: bytes | None = None, format_name: str = "JPEG", size: tuple[int, int] = (8, 8), **options: object
) -> PictureMetadata:
    """Return what is read from a file with these metadata."""
    if exif is not None:
        options["exif"] = exif
    data = encoded(picture(1, size), format_name, **options)
    told = decode(io.BytesIO(data), "test")[1].metadata
    assert probe(io.BytesIO(data), "test").metadata == told
    return told


def nanoseconds(*moment: int, minutes_east: int = 0) -> int:
    zone = timezone(timedelta(minutes=minutes_east))
    year, month, day, hour, minute, second = moment
    return round(datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp()) * 1_000_000_000


@pytest.fixture
def in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock is five hours and 45 minutes east of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_time_with_an_offset(format_name: str) -> None:
    exif = exif_of(
        details={
            Base.DateTimeOriginal: "2021:07:09 18:30:15",
            Base.OffsetTimeOriginal: "-03:30",
            Base.SubsecTimeOriginal: "042",
        }
    )
    if format_name == "HEIF":
        heif = pytest.importorskip("pillow_heif").from_pillow(picture(1, (64, 64)))
        heif.info["exif"] = exif
        buffer = io.BytesIO()
        heif.save(buffer)
        told = decode(io.BytesIO(buffer.getvalue()), "test")[1].metadata
    else:
        told = read(exif, format_name)
    expected = nanoseconds(2021, 7, 9, 18, 30, 15, minutes_east=-210) + 42_000_000
    assert (told.taken_ns, told.taken_offset) == (expected, -210)


def test_time_without_an_offset_is_that_of_this_machine(in_kathmandu: None) -> None:
    told = read(exif_of(details={Base.DateTimeOriginal: "2021:07:09 18:30:15"}))
    assert (told.taken_ns, told.taken_offset) == (nanoseconds(2021, 7, 9, 18, 30, 15, minutes_east=345), None)
    broken = {Base.DateTimeOriginal: "2021:07:09 18:30:15", Base.OffsetTimeOriginal: "   :  "}
    assert read(exif_of(details=broken)).taken_ns == told.taken_ns


def test_an_old_photograph_and_one_that_was_scanned() -> None:
    old = {Base.DateTimeOriginal: "1931:02:03 04:05:06", Base.OffsetTimeOriginal: "Z", Base.SubsecTimeOriginal: "5"}
    assert read(exif_of(details=old)).taken_ns == nanoseconds(1931, 2, 3, 4, 5, 6) + 500_000_000
    scanned = {
        Base.DateTimeOriginal: "    :  :     :  :  ",
        Base.DateTimeDigitized: "2001:02:03 04:05:06",
        Base.OffsetTimeDigitized: "+14:00",
    }
    assert read(exif_of(details=scanned)).taken_ns == nanoseconds(2001, 2, 3, 4, 5, 6, minutes_east=840)
    assert read(exif_of({Base.DateTime: "2001:02:03 04:05:06"})).taken_ns is None  # when a program wrote the file


@pytest.mark.parametrize(
    "clock",
    [
        "0000:00:00 00:00:00",
        "2021:02:30 00:00:00",
        "1000:01:01 00:00:00",
        "9999:12:31 23:59:59",
        "2021:01:01",
        "",
        "x",
        7,
        b"\xff",
    ],
)
def test_what_is_no_time(clock: object) -> None:
    exif = exif_of(details={Base.DateTimeOriginal: clock, Base.OffsetTimeOriginal: "+00:00"})
    assert read(exif).taken_ns is None


# --- camera and place -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D Mark IV", "Canon EOS 5D Mark IV"),
        ("NIKON CORPORATION", "NIKON D850\0\0", "NIKON D850"),
        ("FUJIFILM", "X-T4", "FUJIFILM X-T4"),
        ("Apple ", "iPhone 15 Pro", "Apple iPhone 15 Pro"),
        ("EASTMAN KODAK COMPANY", "KODAK DC240 ZOOM", "KODAK DC240 ZOOM"),
        (None, "X100", "X100"),
        ("Leica", "", "Leica"),
        ("\x1b[31m", " \n", "[31m"),
        (None, None, None),
    ],
)
def test_camera(make: str | None, model: str | None, camera: str | None) -> None:
    base = {Base.Orientation: 1, Base.Make: make, Base.Model: model}
    assert read(exif_of({tag: value for tag, value in base.items() if value is not None})).camera == camera


def test_lens() -> None:
    assert read(exif_of(details={Base.LensModel: "EF24-70mm f/2.8L II USM"})).lens == "EF24-70mm f/2.8L II USM"
    for empty in ("", "----", "0.0 mm f/0.0", "0 mm f/0"):
        assert read(exif_of(details={Base.LensModel: empty})).lens is None


GPS = ExifTags.GPS
LAUSANNE = {
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (46.0, 31.0, 12.36),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (6.0, 37.0, 59.52),
}


def test_place() -> None:
    told = read(exif_of(gps=LAUSANNE))
    assert (told.latitude, told.longitude) == (pytest.approx(46.5201, abs=1e-6), pytest.approx(6.6332, abs=1e-6))
    west = read(exif_of(gps=LAUSANNE | {GPS.GPSLatitudeRef: "s", GPS.GPSLongitudeRef: "W"}))
    assert told.latitude is not None
    assert told.longitude is not None
    assert (west.latitude, west.longitude) == (-told.latitude, -told.longitude)
    assert read(exif_of(gps=LAUSANNE), "PNG").latitude == told.latitude
    assert read(exif_of(gps=LAUSANNE), "TIFF").longitude == told.longitude


@pytest.mark.parametrize(
    "wrong",
    [
        {GPS.GPSLatitude: (91.0, 0.0, 0.0)},
        {GPS.GPSLongitude: (180.0, 0.0, 1.0)},
        {GPS.GPSLatitude: (46.0, 31.0, 12.0, 0.0)},
        {GPS.GPSLatitudeRef: "E"},
        {GPS.GPSLongitudeRef: ""},
        {GPS.GPSLatitude: (0.0, 0.0, 0.0), GPS.GPSLongitude: (0.0, 0.0, 0.0)},
    ],
)
def test_what_is_no_place(wrong: dict[int, object]) -> None:
    told = read(exif_of(gps=LAUSANNE | wrong))
    assert (told.latitude, told.longitude) == (None, None)


def test_a_place_of_nought_by_nought() -> None:
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif[ExifTags.IFD.GPSInfo] = {**LAUSANNE, GPS.GPSLatitude: (float("nan"), float("inf"), -1.0)}
    assert read_metadata(image).latitude is None


# --- words ----------------------------------------------------------------------------------------------------------


def xmp(title: str = "", description: str = "", keywords: str = "", before: str = "") -> bytes:
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{before}
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title><rdf:Alt>{title}</rdf:Alt></dc:title><dc:description><rdf:Alt>{description}</rdf:Alt></dc:description>
<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


WORDS = xmp(
    '<rdf:li xml:lang="de">Abend</rdf:li><rdf:li xml:lang="x-default">Evening in Zürich</rdf:li>',
    '<rdf:li xml:lang="fr">Un\nlac &amp; des  bateaux</rdf:li>',
    "<rdf:li>lake</rdf:li><rdf:li> boats </rdf:li><rdf:li>lake</rdf:li><rdf:li/>",
)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_xmp(format_name: str) -> None:
    if format_name == "PNG":
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", WORDS.decode())
        told = read(format_name="PNG", pnginfo=chunks)
    elif format_name == "TIFF":
        told = read(format_name="TIFF", tiffinfo={700: WORDS})
    elif format_name == "HEIF":
        buffer = io.BytesIO()
        pytest.importorskip("pillow_heif").from_pillow(picture(1, (64, 64))).save(buffer, xmp=WORDS)
        told = decode(io.BytesIO(buffer.getvalue()), "test")[1].metadata
    else:
        told = read(format_name=format_name, xmp=WORDS)
    assert (told.title, told.description) == ("Evening in Zürich", "Un lac & des bateaux")
    assert told.keywords == ("lake", "boats")


def iptc(*records: tuple[int, int, bytes]) -> bytes:
    return b"".join(struct.pack(">BBBH", 0x1C, record, kind, len(data)) + data for record, kind, data in records)


def jpeg_with_iptc(records: bytes) -> bytes:
    """Return a JPEG with IPTC records where Photoshop puts them."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records + bytes(len(records) % 2)
    segment = b"Photoshop 3.0\0" + resource
    plain = encoded(picture(1, (8, 8)), "JPEG")
    return plain[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]


def test_iptc() -> None:
    words = (2, 5, "Zürich".encode()), (2, 120, b"Die Limmat"), (2, 25, b"river"), (2, 25, "Brücke".encode())
    for records in (
        iptc((1, 90, b"\x1b%G"), *words),
        iptc(*words),
        iptc(*((record, kind, data.decode().encode("latin-1")) for record, kind, data in words)),
    ):
        told = probe(io.BytesIO(jpeg_with_iptc(records)), "test").metadata
        assert (told.title, told.description, told.keywords) == ("Zürich", "Die Limmat", ("river", "Brücke"))
        assert read(format_name="TIFF", tiffinfo={33723: records}) == told
    cut = iptc((1, 90, b"\x1b%G"), (2, 25, "Brücke".encode()[:3]))
    assert probe(io.BytesIO(jpeg_with_iptc(cut)), "test").metadata.keywords == ("Br",)


def test_words_of_exif_come_last() -> None:
    wide = {Base.XPTitle: "Títle", Base.XPKeywords: "one; two;one;", Base.XPComment: "a comment"}
    base: dict[int, object] = {tag: text.encode("utf-16-le") + b"\0\0" for tag, text in wide.items()}
    told = read(exif_of(base))
    assert (told.title, told.description, told.keywords) == ("Títle", "a comment", ("one", "two"))
    exif = exif_of(base | {Base.ImageDescription: "Grüße, 東京".encode()})
    assert read(exif).description == "Grüße, 東京"
    mixed = read(exif, xmp=xmp(title="<rdf:li>of XMP</rdf:li>"))
    assert (mixed.title, mixed.description) == ("of XMP", "Grüße, 東京")


@pytest.mark.parametrize(
    ("comment", "description"),
    [
        (b"ASCII\0\0\0a dog\0\0\0", "a dog"),
        (b"UNICODE\0" + "ein Hündchen".encode("utf-16-le"), "ein Hündchen"),
        (b"UNICODE\0" + "ein Hündchen".encode("utf-16-be"), "ein Hündchen"),
        (b"UNICODE\0\xff\xfe" + "犬".encode("utf-16-le"), "犬"),
        (bytes(8) + b"plain", "plain"),
        (bytes(8) + b"a\0b\0\1\2", None),
        (b"UNICODE", None),
        (b"ASCII\0\0\0Screenshot", None),
        (b"", None),
    ],
)
def test_user_comment(comment: bytes, description: str | None) -> None:
    assert read(exif_of(details={Base.UserComment: comment})).description == description


@pytest.mark.parametrize(
    "words",
    [
        "OLYMPUS DIGITAL CAMERA         ",
        "SONY DSC",
        "DCIM\\100MEDIA\\DJI_0042.JPG",
        "KONICA MINOLTA DIGITAL CAMERA",
        "SAMSUNG",
        "default",
        " ",
        "...",
        "Exif_JPEG_PICTURE",
        "dav",
        "WWL",
        "Gran Turismo 5",
        "a5cb01550dbb9a6bf732f87e413f6e23",
    ],
)
def test_what_cameras_write_is_no_description(words: str) -> None:
    base: dict[int, object] = {Base.Make: "WWL", Base.Model: "Gran Turismo 5", Base.ImageDescription: words}
    assert read(exif_of(base)).description is None


def test_words_are_bounded_and_clean() -> None:
    told = read(exif_of({Base.ImageDescription: "a\x1b[2J\x07\r\nb" + "\0" * 5}))
    assert told.description == "a [2J b"
    hostile = xmp(
        f"<rdf:li>{'x' * 50_000}</rdf:li>",
        "<rdf:li>left\u202etfel\u2066</rdf:li>",
        "".join(f"<rdf:li>{number:0500}</rdf:li>" for number in range(60)),
    )
    told = read(format_name="WEBP", xmp=hostile)
    assert told.title == "x" * MAX_TEXT
    assert told.description == "left tfel"
    many = read(format_name="WEBP", xmp=xmp(keywords="".join(f"<rdf:li>k{number}</rdf:li>" for number in range(500))))
    assert len(many.keywords) == MAX_KEYWORDS
    assert max(map(len, told.keywords)) <= MAX_KEYWORD


# --- hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        xmp("<rdf:li>&e;</rdf:li>", before='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        xmp("<rdf:li>&e;</rdf:li>", before='<!DOCTYPE x [<!ENTITY d "dd"><!ENTITY e "&d;&d;&d;">]>'),
        xmp("<rdf:li>&e;</rdf:li>"),
        xmp("<rdf:li>no end"),
        xmp("<rdf:li>" + "<a>" * 100_000 + "</a>" * 100_000 + "</rdf:li>"),
        xmp("<rdf:li>x</rdf:li>" + " " * 1_100_000),
        xmp("<rdf:li>x</rdf:li>").decode().encode("utf-16"),
        b"http://purl.org/dc/elements/1.1/",
        b"\xff\xfe\0",
        b"",
    ],
)
def test_hostile_xmp_tells_nothing(packet: bytes) -> None:
    assert read(format_name="WEBP", xmp=packet) == NOTHING


def test_a_hostile_exif_tells_nothing_or_something_plausible() -> None:
    whole = exif_of(
        {Base.Make: "Canon", Base.Model: "EOS", Base.ImageDescription: "words " * 20, Base.XPKeywords: b"a\0;\0b\0"},
        {Base.DateTimeOriginal: "2021:07:09 18:30:15", Base.LensModel: "50mm", Base.UserComment: b"ASCII\0\0\0x"},
        LAUSANNE,
    )
    rng = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(6, len(data), 6):
            data[place] = int(rng.integers(0, 256))
        image = Image.new("RGB", (8, 8))
        image.info["exif"] = bytes(data[: int(rng.integers(6, len(data) + 1))])
        decode(io.BytesIO(encoded(image, "JPEG", exif=image.info["exif"])), "test")  # the picture itself is fine
        image.info["photoshop"] = {0x0404: rng.bytes(40), 1: b""}
        told = read_metadata(image)
        assert told.latitude is None or -90 <= told.latitude <= 90
        for text in (told.camera, told.lens, told.title, told.description, *told.keywords):
            assert text is None or (len(text) <= MAX_TEXT and not CONTROL & set(map(category, text)))


def test_metadata_of_odd_kinds_do_not_raise() -> None:
    image = Image.new("RGB", (8, 8))
    image.info |= {"exif": b"Exif\0\0nonsense", "xmp": 7, "photoshop": [1], "icc_profile": b""}
    assert read_metadata(image) == NOTHING
    image.info |= {"photoshop": {0x0404: [b"", b""]}, "xmp": (1, 2)}
    assert read_metadata(image) == NOTHING


def test_a_raw_file_tells_too() -> None:
    pytest.importorskip("rawpy")
    assert probe(io.BytesIO(dng(picture(1, (64, 48)))), "x.dng").metadata.camera == "Test Camera"


def test_a_collection_keeps_it_all(tmp_path: Path) -> None:
    """By way of the process that decodes, also for a copy, which is not decoded."""
    folder, place = tmp_path / "photos", tmp_path / "collection"
    folder.mkdir()
    details: dict[int, object] = {Base.DateTimeOriginal: "2021:07:09 18:30:15", Base.OffsetTimeOriginal: "+02:00"}
    data = encoded(
        picture(1), "JPEG", exif=exif_of({Base.Make: "Canon", Base.Model: "R5"}, details, LAUSANNE), xmp=WORDS
    )
    (folder / "a.jpg").write_bytes(data)
    run(place, ToyEncoder(), folder)
    (folder / "b.jpg").write_bytes(data)
    picture(2).save(folder / "plain.png")
    run(place, ToyEncoder(), folder)
    with closing(sqlite3.connect(place / "catalog.sqlite3")) as catalog:
        columns = "taken_ns, taken_offset, camera, latitude, longitude, title, description, keywords"
        rows = catalog.execute(f"SELECT {columns} FROM items WHERE modality = 'image' ORDER BY key").fetchall()
    taken = nanoseconds(2021, 7, 9, 18, 30, 15, minutes_east=120)
    told = (taken, 120, "Canon R5", 46.5201, 6.6332, "Evening in Zürich", "Un lac & des bateaux", "lake\nboats")
    assert rows == [told, told, ((folder / "plain.png").stat().st_mtime_ns, *[None] * 7)]


def test_a_photograph_with_all_of_it() -> None:
    exif = exif_of(
        {Base.Make: "Canon", Base.Model: "Canon EOS 5D", Base.ImageDescription: "A lake"},
        {Base.DateTimeOriginal: "2021:07:09 18:30:15", Base.OffsetTimeOriginal: "+02:00", Base.LensModel: "50mm"},
        LAUSANNE,
    )
    data = encoded(picture(1, (8, 8)), "JPEG", exif=exif, xmp=WORDS)
    told = read_metadata(Image.open(io.BytesIO(data)))
    assert told.title == "Evening in Zürich"
    assert told.taken_ns == round(datetime(2021, 7, 9, 16, 30, 15, tzinfo=UTC).timestamp()) * 1_000_000_000
