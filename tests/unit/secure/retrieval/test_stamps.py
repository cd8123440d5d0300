"""The embedding of stamps: what it keeps, what it forgets, and whether neighbours are alike."""

import numpy as np
import pytest

from acie_pipelines.errors import ModelError
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.secure.retrieval.prototypes import scores
from acie_pipelines.secure.retrieval.stamps import (
    StampEmbedding,
    ring_features,
    stamp_prototypes,
)
from acie_pipelines.training.efigi import HUBBLE_STAGE, ImageSet, read_efigi


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return read_efigi(GALAXY_IMAGES)


@pytest.fixture(scope="module")
def embedding(images: ImageSet) -> StampEmbedding:
    return StampEmbedding.fit(images.stamps, 64)


def test_rings_do_not_change_when_the_galaxy_is_turned_or_mirrored(images: ImageSet) -> None:
    stamps = images.stamps[:5]
    expected = ring_features(stamps)
    for changed in (np.rot90(stamps, 1, (2, 3)), np.rot90(stamps, 2, (2, 3)), stamps[..., ::-1]):
        assert np.allclose(ring_features(np.ascontiguousarray(changed)), expected, atol=1e-12)


def test_rings_of_known_pictures() -> None:
    flat = np.full((1, 3, 32, 32), 255, np.uint8)
    [features] = ring_features(flat)
    by_ring = features.reshape(16, 8)
    assert np.allclose(by_ring[:, :3], 1) and np.allclose(by_ring[:, 3], 0)
    # The symmetry of the pixels' square leaves the fourth mode only.
    assert np.allclose(by_ring[:, 4:7], 0, atol=1e-12)
    half = flat.copy()
    half[..., :16] = 0
    lopsided = ring_features(half)[0].reshape(16, 8)
    # The first Fourier amplitude of half a ring is 1 / pi.
    assert np.allclose(lopsided[4:, 4], 1 / np.pi, atol=0.02)
    assert np.allclose(lopsided[:, 5], 0, atol=0.02)


def test_neighbours_are_of_the_same_class_far_more_often_than_by_chance(
    images: ImageSet, embedding: StampEmbedding
) -> None:
    vectors = embedding.embed(images.stamps)
    classes = HUBBLE_STAGE.labels(images.types)
    nearest = []
    for row, vector in enumerate(vectors):
        found = scores(vectors, vector, "distance")
        found[row] = np.iinfo(np.int64).min
        nearest.append(int(found.argmax()))
    difference = np.abs(classes[nearest] - classes)
    # Of seven classes as large as each other, 14 % and 39 % would be chance.
    assert (difference == 0).mean() > 0.4
    assert (difference <= 1).mean() > 0.85


def test_an_embedding_survives_its_bytes(images: ImageSet, embedding: StampEmbedding) -> None:
    again = StampEmbedding.from_bytes(embedding.to_bytes())
    assert np.array_equal(again.embed(images.stamps), embedding.embed(images.stamps))
    assert again.to_bytes() == embedding.to_bytes()
    assert StampEmbedding.fit(images.stamps, 64).to_bytes() == embedding.to_bytes()
    for data in (b"", b"{}", embedding.to_bytes().replace(b"stamp-", b"other-")):
        with pytest.raises(ModelError, match="use an index of stamps"):
            StampEmbedding.from_bytes(data)


def test_prototypes_name_their_sources(images: ImageSet, embedding: StampEmbedding) -> None:
    prototypes = stamp_prototypes(images, embedding)
    assert len(prototypes) == 280
    assert {each.label for each in prototypes} == set(HUBBLE_STAGE.class_names)
    assert [each.source_sha256 for each in prototypes] == list(images.digests)


def test_what_cannot_be_embedded_is_refused(images: ImageSet, embedding: StampEmbedding) -> None:
    for stamps in (images.stamps[0], images.stamps[:, :, :60], images.stamps[:, :, :20, :20]):
        with pytest.raises(ModelError, match="no square pictures"):
            embedding.embed(stamps)
    with pytest.raises(ModelError, match="1 channels"):
        embedding.embed(images.stamps[:, :1])
    for dimensions in (0, 280, 129):
        with pytest.raises(ModelError, match=f"{dimensions} dimensions"):
            StampEmbedding.fit(images.stamps, dimensions)
    with pytest.raises(ModelError, match="all alike"):
        StampEmbedding.fit(np.zeros((9, 3, 88, 88), np.uint8), 2)
