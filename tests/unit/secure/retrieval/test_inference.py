"""Features of encrypted images and streams against plaintext, and light that goes missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.errors import (
    CryptoError,
    FluxConservationError,
    IntegrityError,
    ModelError,
)
from acie_pipelines.provenance import Manifest, read_manifest, verify_chain
from acie_pipelines.secure.features import matched_filters
from acie_pipelines.secure.model_format import to_bytes
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.retrieval import window_units
from acie_pipelines.secure.retrieval.conditioning import BankEntry, Context, ModelBank
from acie_pipelines.secure.retrieval.encrypted_query import answer, ask, rank
from acie_pipelines.secure.retrieval.index import IndexStore
from acie_pipelines.secure.retrieval.inference import (
    check_flux,
    encrypt_image,
    evaluate_windows,
    plaintext_total,
    run,
    windows,
)
from acie_pipelines.secure.retrieval.prototypes import Condition, Prototype
from acie_pipelines.secure.retrieval.streaming import (
    StreamReport,
    check_stream,
    read_features,
    run_stream,
)
from acie_pipelines.secure.retrieval.window_units import plane_signal
from acie_pipelines.secure.signals import Signal
from acie_pipelines.storage import Store
from tests.unit.secure.import_graph import imports_of

TileUp = Callable[..., Manifest]
relaxed = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def filters(signal: Signal, width: float = 1.0) -> SecureModel:
    """Matched filters for a point source and for a flat background."""
    y, x = (
        np.mgrid[: signal.shape[0], : signal.shape[1]] - (np.array(signal.shape) / 2)[:, None, None]
    )
    star = np.exp(-(x**2 + y**2) / 2 / width**2)
    return matched_filters(np.stack([star, np.ones(signal.shape)]), signal, weight_bits=8)


@relaxed
@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    seed=st.integers(0, 2**32),
    invalid=st.booleans(),
)
def test_features_and_total_are_those_of_the_plain_image(
    private_key: PaillierPrivateKey, height: int, width: int, seed: int, invalid: bool
) -> None:
    signal = Signal.inputs((4, 3), maximum=100.0, fractional_bits=6)
    model = filters(signal)
    rng = np.random.default_rng(seed)
    image = rng.uniform(-100, 100, (height, width)).astype(np.float32)
    if invalid:
        image[rng.random(image.shape) < 0.2] = np.nan
        image[0, 0] = -np.inf
    samples, places = windows(image, signal)
    assert places == (-(-height // 4), -(-width // 3)) and len(samples) == places[0] * places[1]
    made = run(image, model, private_key)
    found = made.decrypt(model.interface, private_key)
    assert found.shape == (*places, 2)
    plain = np.moveaxis(model.integers(samples), -1, 0) * model.interface.output.unit
    assert np.array_equal(found.reshape(-1, 2), plain)
    scaled = np.where(np.isfinite(image), image, 0).astype(np.float64) * 64
    total = check_flux(made.total, plaintext_total(image, signal), private_key, "image")
    assert total == sum(round(value) for value in scaled.reshape(-1).tolist())


def test_lost_light_is_noticed(private_key: PaillierPrivateKey) -> None:
    signal = Signal.inputs((4, 4), maximum=100, fractional_bits=0, exact=True)
    model = filters(signal)
    image = np.arange(64, dtype=np.int16).reshape(8, 8)
    expected = plaintext_total(image, signal)
    assert expected == image.sum()
    changed = image.copy()
    changed[7, 7] += 1
    for wrong in (changed, image[:4]):
        total = run(wrong, model, private_key).total
        with pytest.raises(FluxConservationError, match="not the total of the image") as error:
            check_flux(total, expected, private_key, "image")
        assert str(expected) not in str(error.value)
    total = run(image, model, private_key).total
    with pytest.raises(CryptoError, match="no such sum"):
        check_flux(replace(total, weights=(1,)), expected, private_key, "image")


def test_the_worker_needs_the_public_key_only(private_key: PaillierPrivateKey) -> None:
    signal = Signal.inputs((4, 4), maximum=100, fractional_bits=0, exact=True)
    model = filters(signal)
    image = np.arange(64, dtype=np.int16).reshape(8, 8)
    sent, places = encrypt_image(image, model.interface, private_key)
    received = CipherTensor.from_ciphertexts(
        sent.ciphertexts.copy(), private_key.public_key, sent.layout, sent.shape
    )
    result, total = evaluate_windows(received, model.evaluate)
    assert places == (2, 2)
    assert check_flux(total, int(image.sum()), private_key, "image") == image.sum()
    sums = model.interface.decrypt_integers(result, private_key, 4)
    assert np.array_equal(sums, model.integers(windows(image, signal)[0]))


def test_images_that_do_not_fit_are_refused(private_key: PaillierPrivateKey) -> None:
    signal = Signal.inputs((4, 4), maximum=100, fractional_bits=0, exact=True)
    model = filters(signal)
    for image in (np.zeros((2, 4, 4)), np.zeros((0, 4))):
        with pytest.raises(ModelError, match="cannot be cut"):
            run(image, model, private_key)
    with pytest.raises(ModelError, match="beyond 100"):
        run(np.full((4, 4), 101), model, private_key)


@pytest.fixture
def field() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(8)
    sky = rng.normal(10, 2, (2, 19, 21)).astype(np.float32)
    sky[0, 5, 6] = np.nan
    counts = rng.integers(-900, 900, (1, 9, 17)).astype(np.int16)
    return {"sky": sky, "counts": counts}


class Stopped(Exception):
    """What a test raises in place of a kill."""


Stream = Callable[..., Manifest]


@pytest.fixture
def stream(queue: WorkQueue, store: Store, public_keys: PublicKeys) -> Stream:
    """Run a stream with public keys alone."""

    def run_it(tiles: Manifest, plane: str, model: SecureModel, **options: Any) -> Manifest:
        return run_stream(queue, store, tiles, plane, model, public_keys, **options)

    return run_it


@pytest.mark.parametrize("plane", ["sky", "counts"])
def test_a_stream_gives_every_tile_and_keeps_its_light(
    store: Store,
    tile_up: TileUp,
    field: dict[str, NDArray[Any]],
    private_key: PaillierPrivateKey,
    stream: Stream,
    plane: str,
) -> None:
    tiles = tile_up(field)
    signal = plane_signal(tiles, plane, (4, 4))
    bank = ModelBank(
        (
            BankEntry(Condition(band="g"), filters(signal, 0.7)),
            BankEntry(Condition(band="r"), filters(signal, 1.2)),
        )
    )
    before = [entry.digest for entry in bank.entries]
    chosen = bank.select(Context("SDSS", "r", "E", None))
    made = stream(tiles, plane, chosen.model)
    assert made.attributes["model"] == chosen.digest
    assert [BankEntry(e.condition, e.model).digest for e in bank.entries] == before
    assert verify_chain(store, made) == 5
    seen = np.zeros(field[plane].shape, dtype=int)
    for place, values in read_features(store, made, private_key):
        where = np.s_[place["channel"], place["y0"] : place["y1"], place["x0"] : place["x1"]]
        seen[where] += 1
        samples, places = windows(field[plane][where], signal)
        plain = np.moveaxis(chosen.model.integers(samples), -1, 0)
        expected = plain * chosen.model.interface.output.unit
        assert np.array_equal(values, expected.reshape(*places, 2))
    assert (seen == 1).all()
    flux = check_stream(store, made, tiles, private_key)
    assert flux == plaintext_total(field[plane], signal) * signal.unit
    assert flux == pytest.approx(np.nansum(field[plane].astype(float)), abs=800 * signal.error)
    # Nothing is computed twice.
    again = stream(tiles, plane, chosen.model)
    assert again.generation == made.generation


def test_a_stopped_stream_continues_behind_the_last_tile(
    store: Store,
    queue: WorkQueue,
    tile_up: TileUp,
    field: dict[str, NDArray[Any]],
    private_key: PaillierPrivateKey,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiles = tile_up(field)
    model = filters(plane_signal(tiles, "sky", (4, 4)))
    total = len([each for each in tiles.attributes["tiles"] if each["plane"] == "sky"])
    calls = dict.fromkeys(("encrypt", "evaluate"), 0)
    encrypt, evaluate = window_units.encrypt_image, SecureModel.evaluate

    def encrypting(*arguments: Any) -> Any:
        calls["encrypt"] += 1
        return encrypt(*arguments)

    def evaluating(self: SecureModel, tensor: CipherTensor) -> CipherTensor:
        calls["evaluate"] += 1
        return evaluate(self, tensor)

    monkeypatch.setattr(window_units, "encrypt_image", encrypting)
    monkeypatch.setattr(SecureModel, "evaluate", evaluating)
    for stage, tile in (("encrypting", 7), ("evaluating", 5)):

        def stop(report: StreamReport, at: tuple[str, int] = (stage, tile)) -> None:
            if (report.stage, report.tiles) == at:
                raise Stopped

        with pytest.raises(Stopped):
            stream(tiles, "sky", model, progress=stop)
        [(batch, counts)] = queue.batches()
        assert (counts.done, counts.total) == (tile, total)
    assert store.names(f"encrypted_features/{tiles.key}/sky") == [batch.generation]
    # A worker that vanished leaves a lease; another one does its tile when it has run out.
    assert queue.claim("vanished", seconds=0.0, batch_id=batch.id) is not None
    reports: list[StreamReport] = []
    made = stream(tiles, "sky", model, progress=reports.append)
    assert calls == {"encrypt": total, "evaluate": total}
    assert reports[0] == StreamReport("evaluating", 5, total)
    assert reports[-1] == StreamReport("evaluating", total, total)
    tokens = {output.path.split("/")[1] for output in made.outputs if "/" in output.path}
    assert len(tokens) == total and "00005-2" in tokens
    check_stream(store, made, tiles, private_key)
    assert queue.batches() == []


def test_each_model_has_features_of_its_own(
    tile_up: TileUp, field: dict[str, NDArray[Any]], stream: Stream
) -> None:
    tiles = tile_up(field)
    signal = plane_signal(tiles, "counts", (4, 4))
    made = [stream(tiles, "counts", filters(signal, width)) for width in (1.0, 2.0)]
    assert made[0].attributes["model"] != made[1].attributes["model"]
    with pytest.raises(IntegrityError, match="choose one of"):
        stream(tiles, "nowhere", filters(signal))


def test_evaluating_leads_to_no_vault() -> None:
    reached = imports_of("acie_pipelines.secure.retrieval.streaming")
    assert "acie_pipelines.secure.models" in reached
    assert not [name for name in reached if name.startswith("acie_pipelines.crypto.vault")]


def test_what_was_changed_in_the_store_is_refused(
    store: Store,
    tile_up: TileUp,
    field: dict[str, NDArray[Any]],
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
    stream: Stream,
) -> None:
    tiles = tile_up(field)
    model = filters(plane_signal(tiles, "counts", (4, 4)))
    made = stream(tiles, "counts", model)
    for act in (
        lambda key: check_stream(store, made, tiles, key),
        lambda key: list(read_features(store, made, key)),
    ):
        with pytest.raises(CryptoError, match="is encrypted under key"):
            act(other_key)
    # Two tiles change places: each file is whole, but not what the manifest says.
    first, second = (f"{made.prefix}/{made.outputs[n].path}" for n in range(2))
    contents = store.read_bytes(first), store.read_bytes(second)
    store.write_bytes(first, contents[1])
    with pytest.raises(IntegrityError, match="does not match the hash"):
        list(read_features(store, made, private_key))
    store.write_bytes(first, contents[0])
    changed = tile_up({"counts": field["counts"] + np.int16(1)})
    with pytest.raises(IntegrityError, match="was not made from"):
        check_stream(store, made, changed, private_key)
    current = read_manifest(store, tiles.kind, tiles.key, tiles.generation)
    assert check_stream(store, made, current, private_key) == field["counts"].sum()


def test_a_worker_that_drops_a_tile_is_noticed(
    store: Store,
    tile_up: TileUp,
    field: dict[str, NDArray[Any]],
    private_key: PaillierPrivateKey,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from acie_pipelines.crypto.totals import EncryptedTotal, RunningTotal

    tiles = tile_up(field)
    model = filters(plane_signal(tiles, "counts", (4, 4)))
    merge, merged = RunningTotal.merge, []

    def forgetful(self: RunningTotal, total: EncryptedTotal) -> None:
        merged.append(total)
        if len(merged) != 2:
            merge(self, total)

    monkeypatch.setattr(RunningTotal, "merge", forgetful)
    made = stream(tiles, "counts", model)
    with pytest.raises(FluxConservationError, match="lost, added or changed"):
        check_stream(store, made, tiles, private_key)


def test_the_scale_of_a_plane_does_not_tell_its_greatest_value(
    tile_up: TileUp, field: dict[str, NDArray[Any]]
) -> None:
    tiles = tile_up(field)
    brighter = tile_up({"counts": np.where(field["counts"] > 800, 1000, field["counts"])})
    assert plane_signal(tiles, "counts", (4, 4)) == plane_signal(brighter, "counts", (4, 4))
    assert plane_signal(tiles, "counts", (4, 4)).bound == 1023
    bound = plane_signal(tiles, "sky", (4, 4)).bound
    assert bound & (bound + 1) == 0


def test_a_plane_without_light_has_no_scale(store: Store, tile_up: TileUp) -> None:
    tiles = tile_up({"dark": np.zeros((1, 4, 4), np.float32)})
    with pytest.raises(ModelError, match="holds no light"):
        plane_signal(tiles, "dark", (4, 4))


def test_what_an_encrypted_query_finds_chooses_the_model(
    tmp_path: Path,
    draw: Callable[[int, int, int], list[Prototype]],
    private_key: PaillierPrivateKey,
) -> None:
    """From a vector that nobody sees to features of an image that nobody sees."""
    store = IndexStore(f"sqlite:///{tmp_path}/index.db")
    prototypes = draw(11, 60, 8)
    store.write("bank", prototypes, b"")
    index = store.open("bank")
    signal = Signal.inputs((4, 4), maximum=100, fractional_bits=0, exact=True)
    widths = {"g": 0.7, "r": 1.2}
    bank = ModelBank(
        tuple(
            BankEntry(Condition(band=band), filters(signal, width))
            for band, width in widths.items()
        )
    )
    before = [to_bytes(entry.model) for entry in bank.entries]
    image = np.random.default_rng(2).integers(-100, 100, (9, 10))
    chosen = set()
    for prototype in prototypes[:8]:
        query = ask(index.record, prototype.vector, private_key)
        hits = rank(answer(index, query), query, prototype.vector, private_key, 3)
        entry = bank.select(Context.of([hit.metadata for hit in hits]))
        plain = index.nearest(prototype.vector, 3)
        bands = [each.prototype.band for each in plain]
        assert entry.condition.band == max("gr", key=bands.count)
        chosen.add(entry.condition.band)
    assert chosen == {"g", "r"}
    made = run(image, entry.model, private_key)
    check_flux(made.total, int(image.sum()), private_key, "image")
    assert [to_bytes(entry.model) for entry in bank.entries] == before
