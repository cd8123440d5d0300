"""Whether what was sealed can be opened again, exactly.

All of this needs the private key. It runs on the owner's side, in steps apart from those that
encrypt (the archive's excepted: its key is a secret one to begin with).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from acie_pipelines.crypto.archive import read_header, unseal
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.crypto.totals import fixed_point_total, homomorphic_total
from acie_pipelines.crypto.vault import KeyVault
from acie_pipelines.errors import AcieError
from acie_pipelines.materialization import check, failure
from acie_pipelines.provenance import Manifest, current_manifest, read_manifest
from acie_pipelines.resources import AttestationsResource, StoreResource, VaultResource
from acie_pipelines.storage import Store

__all__ = ["ARCHIVE_CHECKS", "archive_restores_original", "encrypted_tiles_decrypt"]

ARCHIVE_CHECKS = [
    dg.AssetCheckSpec(
        "archive_restores_original",
        asset="sealed_archive",
        description="Every archive authenticates to its last chunk and holds the original's bytes.",
    )
]

# Decryption is the slow direction; a survey image has thousands of tiles.
_TILES_SAMPLED = 1


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            "decryption_is_exact",
            asset="encrypted_tiles",
            description="A tile drawn at random decrypts to the stored pixels: integers bit for "
            "bit, floats to the fixed-point value at the stated scale.",
        ),
        dg.AssetCheckSpec(
            "totals_survive_encryption",
            asset="encrypted_tiles",
            description="The total computed on ciphertexts decrypts to the plaintext total of "
            "fixed-point values, exactly.",
        ),
    ]
)
def encrypted_tiles_decrypt(
    context: dg.AssetCheckExecutionContext,
    storage: StoreResource,
    vault: VaultResource,
    attestations: AttestationsResource,
) -> Iterator[dg.AssetCheckResult]:
    """See, as the owner, whether ciphertexts decrypt to their tiles, and attest those that do."""
    store = storage.open()
    try:
        keys = vault.open()
        ciphertexts = current_manifest(
            store, "ciphertexts", context.op_execution_context.partition_key
        )
        (used,) = ciphertexts.inputs
        tiles = read_manifest(store, used.kind, used.key, used.generation)
        results = [
            _decryption_is_exact(store, ciphertexts, tiles, keys),
            _totals_survive_encryption(store, ciphertexts, tiles, keys),
        ]
        if all(result.passed for result in results):
            attestations.open().attest(store, ciphertexts, keys.archive_key())
    except AcieError as error:
        raise failure(error) from error
    yield from results


def _decryption_is_exact(
    store: Store, ciphertexts: Manifest, tiles: Manifest, keys: KeyVault
) -> dg.AssetCheckResult:
    """Decrypt a tile drawn at random and compare every sample."""
    name = "decryption_is_exact"
    private_key = keys.private_key(ciphertexts.attributes["key_id"])
    try:
        result = verify_decryption(store, ciphertexts, tiles, private_key, _TILES_SAMPLED)
    except AcieError as error:
        return check(name, False, description=str(error))
    return check(
        name,
        True,
        tiles=result.tiles,
        values=result.values,
        worst_error_quanta=result.worst_error_quanta,
    )


def _totals_survive_encryption(
    store: Store, ciphertexts: Manifest, tiles: Manifest, keys: KeyVault
) -> dg.AssetCheckResult:
    """Add up every plane under encryption and compare with the plaintext's sum."""
    name = "totals_survive_encryption"
    key_id = ciphertexts.attributes["key_id"]
    public_key, private_key = keys.public_key(key_id), keys.private_key(key_id)
    differing = []
    try:
        for record in ciphertexts.attributes["planes"]:
            encrypted = homomorphic_total(store, ciphertexts, record["name"], public_key)
            expected = fixed_point_total(store, tiles, record["name"], encrypted.layout)
            if encrypted.decrypt(private_key) != expected:
                differing.append(record["name"])
    except AcieError as error:
        return check(name, False, description=str(error))
    return check(
        name,
        not differing,
        description=f"planes that differ: {', '.join(differing)}" if differing else None,
        planes=len(ciphertexts.attributes["planes"]),
    )


def archive_restores_original(
    store: Store, archive: Manifest, observation: Manifest, keys: KeyVault
) -> dg.AssetCheckResult:
    """Open every archive to its end and compare its hashes with the observation's."""
    stated = {output.sha256 for output in observation.outputs if output.path != "header.json"}
    restored = set()
    try:
        archive_key = keys.archive_key(archive.attributes["key_id"])
        for entry in archive.attributes["files"]:
            # The plaintext goes nowhere: `unseal` compares its hash with the sealed one.
            with (
                store.open(f"{archive.prefix}/{entry['archive']}") as source,
                Path(os.devnull).open("wb") as nowhere,
            ):
                header = read_header(source)
                source.seek(0)
                unseal(source, nowhere, archive_key=archive_key)
                restored.add(header.sha256)
    except AcieError as error:
        return check("archive_restores_original", False, description=str(error))
    return check("archive_restores_original", restored == stated, files=len(restored))
