"""Streebog against RFC 6986: its printed examples, and its text as a slow program."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_native import Streebog256, Streebog512

from .streebog_reference import streebog

CLASSES = {32: Streebog256, 64: Streebog512}

# RFC 6986 section 10; the document prints bytes in reverse.
M1 = bytes.fromhex(
    "3231303938373635343332313039383736353433323130393837363534333231"
    "30393837363534333231303938373635343332313039383736353433323130"
)[::-1]
M2 = bytes.fromhex(
    "fbe2e5f0eee3c820fbeafaebef20fffbf0e1e0f0f520e0ed20e8ece0ebe5f0f2"
    "f120fff0eeec20f120faf2fee5e2202ce8f6f3ede220e8e6eee1e8f0f2d1202c"
    "e8f0f2e5e220e5d1"
)[::-1]
EXAMPLES = [
    (M1, 32, "00557be5e584fd52a449b16b0251d05d27f94ab76cbaa6da890b59d8ef1e159d"),
    (M2, 32, "508f7e553c06501d749a66fc28c6cac0b005746d97537fa85d9e40904efed29d"),
    (
        M1,
        64,
        "486f64c1917879417fef082b3381a4e211c324f074654c38823a7b76f830ad00"
        "fa1fbae42b1285c0352f227524bc9ab16254288dd6863dccd5b9f54a1ad0541b",
    ),
    (
        M2,
        64,
        "28fbc9bada033b1460642bdcddb90c3fb3e56c497ccd0f62b8a2ad4935e85f03"
        "7613966de4ee00531ae60f3b5a47f8dae06915d5f2f194996fcabf2622e6881e",
    ),
]
# Blocks whose sum carries through every limb of the checksum.
CARRIES = [
    b"\xee" * 64 + b"\x16" + b"\x11" * 62 + b"\x16",
    b"\xff" * 64 + b"\x01" + b"\x00" * 63,
    b"\xff" * 128,
    b"\xff" * 8 + b"\x00" * 56 + b"\x01" + b"\x00" * 63,
    b"\xff" * 192 + b"\xff" * 63,
]


@pytest.mark.parametrize(("message", "size", "printed"), EXAMPLES)
def test_examples_of_the_rfc(message: bytes, size: int, printed: str, isa: str) -> None:
    digest = CLASSES[size](message, isa=isa)
    assert digest.digest() == bytes.fromhex(printed)[::-1]
    assert digest.hexdigest() == digest.digest().hex()
    assert streebog(message, size) == digest.digest()


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("message", CARRIES, ids=range(len(CARRIES)))
def test_checksum_carries(message: bytes, size: int, isa: str) -> None:
    assert CLASSES[size](message, isa=isa).digest() == streebog(message, size)


@pytest.mark.parametrize("size", [32, 64])
@settings(max_examples=20, deadline=None)
@given(
    blocks=st.integers(0, 2),
    offset=st.integers(-2, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_around_block_boundaries(size: int, blocks: int, offset: int, seed: int) -> None:
    length = max(0, 64 * blocks + offset)
    message = np.random.default_rng(seed).bytes(length)
    assert CLASSES[size](message).digest() == streebog(message, size)


@pytest.mark.parametrize("size", [32, 64])
def test_every_length_on_every_path(size: int, isa: str) -> None:
    message = np.random.default_rng(size).bytes(4099)
    for length in [*range(131), 4099]:
        portable = CLASSES[size](message[:length], isa="portable")
        assert CLASSES[size](message[:length], isa=isa).digest() == portable.digest()


def test_unavailable_path_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vector9000' is not available here"):
        Streebog256(isa="vector9000")


@settings(max_examples=100, deadline=None)
@given(chunks=st.lists(st.binary(max_size=200), max_size=8))
def test_chunks_do_not_matter(chunks: list[bytes]) -> None:
    for kind in CLASSES.values():
        whole = kind(b"".join(chunks))
        parts = kind()
        for chunk in chunks:
            parts.update(chunk)
            parts.digest()  # looking does not disturb
        assert parts.digest() == whole.digest()


def test_long_message_crosses_the_length_limb() -> None:
    # Large enough for the path without the interpreter lock.
    message = bytes(range(256)) * 20
    assert Streebog256(message).digest() == streebog(message, 32)


def test_copy_is_independent() -> None:
    first = Streebog512(b"abc")
    twin = first.copy()
    first.update(b"d")
    assert twin.digest() == Streebog512(b"abc").digest()
    assert first.digest() == Streebog512(b"abcd").digest()
    assert isinstance(twin, Streebog512)


def test_any_contiguous_buffer() -> None:
    array = np.arange(100, dtype=np.uint16)
    assert Streebog256(array).digest() == Streebog256(array.tobytes()).digest()
    assert Streebog256(memoryview(b"xyz")).digest() == Streebog256(b"xyz").digest()
    with pytest.raises((BufferError, ValueError)):
        Streebog256(array[::2])
    with pytest.raises(TypeError):
        Streebog256("text")


def test_attributes() -> None:
    assert (Streebog256.digest_size, Streebog512.digest_size) == (32, 64)
    assert Streebog256.block_size == 64
    assert Streebog256.name == "streebog256"


def test_shared_hash_stays_consistent() -> None:
    shared = Streebog256()
    block = b"a" * 8192
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shared.update, [block] * 32))
    assert shared.digest() == Streebog256(block * 32).digest()
