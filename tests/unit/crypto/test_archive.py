"""Sealed archives: known answers, exact restoration, and refusal of every change."""

import hashlib
import hmac
import io
import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acie_native import Streebog256
from acie_pipelines.crypto import archive as archive_module
from acie_pipelines.crypto.archive import ArchiveHeader, read_header, read_note, seal, unseal
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.errors import CryptoError, IntegrityError, TamperedDataError

KEY = ArchiveKey("0123456789abcdef", bytes(range(32)))
OTHER = ArchiveKey("0123456789abcdef", bytes(range(1, 33)))
STREEBOG = Streebog256(b"sky").hexdigest()
CHUNK = 64


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "CHUNK_BYTES", CHUNK)


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311


def sealed(
    content: bytes,
    *,
    name: str = "m31.fits",
    key: ArchiveKey = KEY,
    note: dict[str, Any] | None = None,
) -> bytes:
    sink = io.BytesIO()
    seal(
        io.BytesIO(content),
        sink,
        archive_key=key,
        name=name,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        streebog256=Streebog256(content).hexdigest(),
        note=note,
    )
    return sink.getvalue()


def noted(data: bytes, key: ArchiveKey = KEY) -> dict[str, Any] | None:
    return read_note(io.BytesIO(data), archive_key=key)


def opened(data: bytes, key: ArchiveKey = KEY) -> bytes:
    sink = io.BytesIO()
    unseal(io.BytesIO(data), sink, archive_key=key)
    return sink.getvalue()


def body_start(data: bytes) -> int:
    return 12 + int(struct.unpack(">I", data[8:12])[0])


def test_aes_256_gcm_known_answer() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", submitted to NIST: test case 16.
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    expected = (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    assert AESGCM(key).encrypt(nonce, plain, associated).hex() == expected


def test_hkdf_sha256_known_answer() -> None:
    # RFC 5869, appendix A.1.
    derived = HKDF(
        algorithm=SHA256(), length=42, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA))
    ).derive(b"\x0b" * 22)
    assert derived.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_format_is_pinned_and_matches_an_independent_construction() -> None:
    content = content_of((1 << 20) + 17)
    streebog = Streebog256(content).hexdigest()
    header = ArchiveHeader(
        "m31.fits", len(content), hashlib.sha256(content).hexdigest(), streebog, KEY.key_id
    )
    salt, prefix = bytes(range(32)), bytes(range(7))
    sink = io.BytesIO()
    archive_module._seal(io.BytesIO(content), sink, KEY, header, salt, prefix)

    def expand(info: bytes) -> bytes:
        extracted = hmac.digest(salt, KEY.secret, "sha256")
        return hmac.digest(extracted, info + b"\x01", "sha256")

    body = json.dumps(
        {
            "commitment": expand(b"acie.archive/1 key commitment").hex(),
            "key_id": KEY.key_id,
            "name": "m31.fits",
            "nonce_prefix": prefix.hex(),
            "salt": salt.hex(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "streebog256": streebog,
        },
        separators=(",", ":"),
    ).encode()
    front = b"ACIEARC\x01" + struct.pack(">I", len(body)) + body
    cipher = AESGCM(expand(b"acie.archive/1 AES-256-GCM key"))
    first = cipher.encrypt(prefix + b"\0\0\0\0\0", content[: 1 << 20], front)
    last = cipher.encrypt(prefix + b"\0\0\0\1\1", content[1 << 20 :], front)
    assert sink.getvalue() == front + first + last
    assert hashlib.sha256(sink.getvalue()).hexdigest() == (
        "970b9f7206c6827b8e98589393de78abfb1fba888425812c5c2bee33bc6a30c9"
    )


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 3])
@pytest.mark.usefixtures("small_chunks")
def test_round_trip_around_chunk_boundaries(size: int) -> None:
    content = content_of(size)
    data = sealed(content)
    assert opened(data) == content
    chunks = max(1, -(-size // CHUNK))
    assert len(data) - body_start(data) == size + 16 * chunks
    header = read_header(io.BytesIO(data))
    assert (header.name, header.size, header.key_id) == ("m31.fits", size, KEY.key_id)


def test_same_content_never_seals_alike() -> None:
    assert sealed(b"sky") != sealed(b"sky")


class Dribble(io.RawIOBase):
    """A raw stream that returns fewer bytes than asked, as sockets and pipes do."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 7) if size >= 0 else 7)


@pytest.mark.usefixtures("small_chunks")
def test_short_reads_do_not_end_the_stream() -> None:
    content = content_of(1000)
    sink = io.BytesIO()
    unseal(Dribble(sealed(content)), sink, archive_key=KEY)  # type: ignore[arg-type]
    assert sink.getvalue() == content


@pytest.mark.usefixtures("small_chunks")
def test_every_flipped_bit_is_refused() -> None:
    data = sealed(content_of(3 * CHUNK + 5))
    start = body_start(data)
    draw = random.Random(1)  # noqa: S311
    positions = [*range(start), *sorted(draw.sample(range(start, len(data)), 120))]
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << draw.randrange(8)
        with pytest.raises(TamperedDataError):
            opened(bytes(changed))


@pytest.mark.usefixtures("small_chunks")
def test_every_truncation_is_refused() -> None:
    data = sealed(content_of(3 * CHUNK))
    for length in range(len(data)):
        with pytest.raises(TamperedDataError):
            opened(data[:length])


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    start, step = body_start(data), CHUNK + 16
    return data[:start], [data[i : i + step] for i in range(start, len(data), step)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "order",
    [
        [1, 0, 2, 3],
        [0, 2, 1, 3],
        [3, 1, 2, 0],
        [0, 1, 1, 2, 3],
        [0, 1, 2, 3, 3],
        [0, 2, 3],
        [1, 2, 3],
        [0, 1, 2],
        [3],
        [],
        [0, 1, 2, 3, 0],
    ],
)
def test_chunks_cannot_be_reordered_repeated_or_dropped(order: list[int]) -> None:
    front, chunks = chunks_of(sealed(content_of(4 * CHUNK)))
    with pytest.raises(TamperedDataError):
        opened(front + b"".join(chunks[i] for i in order))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("tail", [b"\0", b"x" * 15, b"\0" * 16, b"\0" * (CHUNK + 16)])
def test_nothing_can_be_appended(tail: bytes) -> None:
    for size in (CHUNK, CHUNK + 1):
        with pytest.raises(TamperedDataError):
            opened(sealed(content_of(size)) + tail)


@pytest.mark.usefixtures("small_chunks")
def test_headers_and_chunks_cannot_be_swapped_between_archives() -> None:
    content = content_of(2 * CHUNK)
    front_a, chunks_a = chunks_of(sealed(content, name="a.fits"))
    front_b, chunks_b = chunks_of(sealed(content, name="b.fits"))
    assert len(front_a) == len(front_b)
    for mixed in (
        front_a + b"".join(chunks_b),
        front_a + chunks_a[0] + chunks_b[1],
        front_a.replace(b"a.fits", b"b.fits") + b"".join(chunks_a),
    ):
        with pytest.raises(TamperedDataError):
            opened(mixed)


def test_wrong_key_is_refused_before_anything_is_decrypted() -> None:
    data = sealed(b"sky" * 100)
    renamed = ArchiveKey("f" * 16, KEY.secret)
    for key in (OTHER, renamed):
        sink = io.BytesIO()
        with pytest.raises(TamperedDataError, match="does not commit"):
            unseal(io.BytesIO(data), sink, archive_key=key)
        assert sink.getvalue() == b""


@pytest.mark.parametrize(
    "edit",
    [
        lambda fields: fields | {"extra": 1},
        lambda fields: {name: value for name, value in fields.items() if name != "salt"},
        lambda fields: fields | {"size": -1},
        lambda fields: fields | {"size": "12"},
        lambda fields: fields | {"sha256": "AB" * 32},
        lambda fields: fields | {"salt": fields["salt"][2:]},
        lambda fields: fields | {"name": ""},
        lambda fields: fields | {"note": ""},
        lambda fields: fields | {"note": "0"},
        lambda fields: fields | {"note": 7},
        lambda fields: [],
    ],
)
def test_malformed_headers_are_refused(edit: Any) -> None:
    data = sealed(b"sky")
    fields = edit(json.loads(data[12 : body_start(data)]))
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    changed = data[:8] + struct.pack(">I", len(body)) + body + data[body_start(data) :]
    with pytest.raises(TamperedDataError):
        read_header(io.BytesIO(changed))


NOTE = {"class": "spiral", "probability": 0.75}


def test_a_note_is_for_whoever_has_the_key() -> None:
    data = sealed(b"sky", note=NOTE)
    assert (noted(data), opened(data)) == (NOTE, b"sky")
    assert noted(sealed(b"sky")) is None and read_header(io.BytesIO(sealed(b"sky"))).note == ""
    assert noted(sealed(b"sky", note={})) == {}
    with pytest.raises(TamperedDataError, match="does not commit"):
        noted(data, OTHER)
    # Neither its words nor its length tell anything without the key.
    header = read_header(io.BytesIO(data))
    assert b"spiral" not in data and b"0.75" not in data
    lengths = {len(sealed(b"sky", note={"class": "s" * size})) for size in (1, 10, 100)}
    assert lengths == {len(data)}
    assert header.note != read_header(io.BytesIO(sealed(b"sky", note=NOTE))).note
    with pytest.raises(CryptoError, match="shorter"):
        sealed(b"sky", note={"class": "s" * 5000})


def test_every_changed_bit_of_an_archive_with_a_note_is_refused() -> None:
    data = sealed(b"sky", note=NOTE)
    draw = random.Random(2)  # noqa: S311
    for position in range(body_start(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << draw.randrange(8)
        for reader in (opened, noted):
            with pytest.raises(TamperedDataError):
                reader(bytes(changed))


def test_notes_cannot_be_removed_or_moved() -> None:
    data, other = sealed(b"sky", note=NOTE), sealed(b"sky", note={"class": "elliptical"})
    fields = json.loads(data[12 : body_start(data)])
    theirs = json.loads(other[12 : body_start(other)])
    for edited in (
        {name: value for name, value in fields.items() if name != "note"},
        fields | {"note": theirs["note"]},
        # With what its key is made of, it is no longer the key of this content.
        fields | {name: theirs[name] for name in ("note", "salt", "commitment")},
    ):
        body = json.dumps(edited, sort_keys=True, separators=(",", ":")).encode()
        moved = data[:8] + struct.pack(">I", len(body)) + body + data[body_start(data) :]
        with pytest.raises(TamperedDataError):
            opened(moved)


def test_only_the_canonical_header_is_accepted() -> None:
    data = sealed(b"sky")
    body = data[12 : body_start(data)].replace(b'","', b'", "')
    with pytest.raises(TamperedDataError, match="malformed"):
        read_header(io.BytesIO(data[:8] + struct.pack(">I", len(body)) + body))


def test_a_huge_header_is_not_read() -> None:
    with pytest.raises(TamperedDataError, match="malformed"):
        read_header(io.BytesIO(b"ACIEARC\x01\xff\xff\xff\xff" + b" " * 100_000))


def test_other_files_are_no_archives() -> None:
    for data in (b"", b"SIMPLE  =                    T", b"ACIEARC\x02" + bytes(100)):
        with pytest.raises(TamperedDataError, match="version 1"):
            read_header(io.BytesIO(data))


@pytest.mark.parametrize(
    "change", [{"size": 4}, {"size": 2}, {"sha256": "00" * 32}, {"streebog256": "00" * 32}]
)
def test_sealing_another_file_than_described_is_refused(change: dict[str, Any]) -> None:
    facts: dict[str, Any] = {
        "size": 3,
        "sha256": hashlib.sha256(b"sky").hexdigest(),
        "streebog256": STREEBOG,
    }
    with pytest.raises(IntegrityError, match="not the file"):
        seal(
            io.BytesIO(b"sky"),
            io.BytesIO(),
            archive_key=KEY,
            name="m31.fits",
            **(facts | change),
        )


def test_a_false_streebog_fingerprint_is_refused_on_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = sealed(b"sky")
    other = Streebog256(b"sea").hexdigest()
    # Sealed by whoever holds the key, so that every tag is right.
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveHeader, "fingerprint", None)
        header = ArchiveHeader("m31.fits", 3, hashlib.sha256(b"sky").hexdigest(), other, KEY.key_id)
        sink = io.BytesIO()
        with pytest.raises(IntegrityError):
            archive_module._seal(io.BytesIO(b"sky"), sink, KEY, header, bytes(32), bytes(7))
    assert opened(data) == b"sky"
    with pytest.raises(TamperedDataError, match="does not match its header"):
        opened(sink.getvalue())


def test_malformed_identity_is_refused() -> None:
    for name, size, digest in (("", 1, "0" * 64), ("a", -1, "0" * 64), ("a", 1, "0" * 63)):
        with pytest.raises(CryptoError, match="malformed"):
            ArchiveHeader(name, size, digest, STREEBOG, KEY.key_id)


@pytest.mark.usefixtures("small_chunks")
def test_a_file_appears_only_after_full_verification(tmp_path: Path) -> None:
    content = content_of(10 * CHUNK)
    data = sealed(content)
    for broken in (data[:-1], data[: len(data) // 2], data[:-1] + b"!"):
        with (
            pytest.raises(TamperedDataError),
            Destination(tmp_path) as destination,
            destination.file("m31.fits") as sink,
        ):
            try:
                unseal(io.BytesIO(broken), sink, archive_key=KEY)
            finally:
                assert not (tmp_path / "m31.fits").exists()
        assert list(tmp_path.iterdir()) == []
    with Destination(tmp_path) as destination, destination.file("m31.fits") as sink:
        unseal(io.BytesIO(data), sink, archive_key=KEY)
    assert (tmp_path / "m31.fits").read_bytes() == content


class Zeros(io.RawIOBase):
    """Megabytes out of nothing, so that only the code under test uses memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        take = min(size, self._left)
        self._left -= take
        return bytes(take)


class Count(io.RawIOBase):
    total = 0

    def write(self, data: Any) -> int:
        self.total += len(data)
        return len(data)


def test_memory_does_not_depend_on_the_file() -> None:
    size = 64 << 20
    digest = hashlib.sha256(bytes(size)).hexdigest()
    streebog = Streebog256(bytes(size)).hexdigest()
    sink = Count()
    tracemalloc.start()
    try:
        seal(
            Zeros(size),  # type: ignore[arg-type]
            sink,  # type: ignore[arg-type]
            archive_key=KEY,
            name="zeros",
            size=size,
            sha256=digest,
            streebog256=streebog,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sink.total > size
    assert peak < 8 << 20
