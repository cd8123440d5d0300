"""`acie secure index` and `acie secure query`, with a worker process that cannot decrypt."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import AcieError, IntegrityError, RoleError
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.secure.retrieval.encrypted_query import ask
from acie_pipelines.secure.retrieval.index import IndexStore, PrototypeIndex
from acie_pipelines.secure.retrieval.stamps import StampEmbedding
from acie_pipelines.secure.retrieval.worker import ask_worker
from acie_pipelines.secure.roles import worker_environment
from acie_pipelines.settings import Settings
from acie_pipelines.training.efigi import read_efigi

Acie = Callable[..., tuple[int, str, str]]


@pytest.fixture
def index(acie: Acie, settings: Settings) -> PrototypeIndex:
    code, out, _ = acie("secure", "index", "build")
    assert code == 0
    opened = IndexStore(settings.index_url).open("galaxies")
    assert opened.record.digest in out
    return opened


def test_a_galaxy_finds_its_likes(
    acie: Acie, settings: Settings, vault: FileVault, index: PrototypeIndex, tmp_path: Path
) -> None:
    images = read_efigi(GALAXY_IMAGES)
    embedding = StampEmbedding.from_bytes(index.embedding())
    [vector] = embedding.embed(images.stamps[:1])
    expected = index.nearest(vector, 4)
    code, out, err = acie("secure", "query", images.names[0], "--top", 4, "--json")
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["key"], each["squared_distance"]) for each in found] == [
        (each.prototype.key, -each.score) for each in expected
    ]
    assert found[0]["key"] == images.names[0] and found[0]["squared_distance"] == 0
    code, out, _ = acie("secure", "query", images.names[0], "--label", "Sdm-Im")
    assert code == 0 and "40 galaxies scored" in out and " E " not in out
    code, out, _ = acie("secure", "index", "list", "--json")
    assert json.loads(out) == vars(index.record)


def test_an_index_elsewhere_is_asked_by_its_public_part(
    acie: Acie,
    settings: Settings,
    vault: FileVault,
    index: PrototypeIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = read_efigi(GALAXY_IMAGES).names[0]
    code, here, _ = acie("secure", "query", name, "--json")
    files = {what: tmp_path / what for what in ("public", "keys", "question", "answer")}
    code, out, _ = acie("secure", "index", "export", "--out", files["public"])
    assert code == 0 and index.record.digest in out
    content = files["public"].read_bytes()
    assert not any(each.key.encode() in content for each in index.select())
    assert acie("keys", "export-public", files["keys"])[0] == 0
    # The one who asks has no index, the one who answers no vault.
    asking = ("secure", "query", name, "--index-public", files["public"])
    index_url = settings.index_url
    monkeypatch.setenv("ACIE_INDEX_URL", f"sqlite:///{tmp_path / 'none.db'}")
    code, out, err = acie(*asking, "--ask", files["question"], "--digest", index.record.digest)
    assert (code, out) == (0, ""), err
    hidden = settings.keys_file.rename(settings.keys_file.with_suffix(".away"))
    monkeypatch.setenv("ACIE_INDEX_URL", index_url)
    answering = ("secure", "index", "answer", files["question"], "--public-keys", files["keys"])
    code, _, err = acie(*answering, "--out", files["answer"])
    assert code == 0, err
    hidden.rename(settings.keys_file)
    monkeypatch.setenv("ACIE_INDEX_URL", f"sqlite:///{tmp_path / 'none.db'}")
    code, there, err = acie(*asking, "--answer", files["answer"], "--json")
    assert (code, there) == (0, here), err
    code, _, err = acie(*asking, "--digest", "0" * 64)
    assert code == 1 and "ask its owner" in " ".join(err.split())
    files["public"].write_bytes(content.replace(b'"prototypes":', b'"prototypes":1', 1))
    code, _, err = acie(*asking)
    assert code == 1 and "or was changed" in " ".join(err.split())


def test_what_is_wrong_is_one_line(
    acie: Acie, vault: FileVault, settings: Settings, index: PrototypeIndex, tmp_path: Path
) -> None:
    name = read_efigi(GALAXY_IMAGES).names[0]
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8\xff no picture")
    for arguments, message in (
        (("NGC0000",), "neither a file nor a bundled galaxy"),
        ((picture,), "cannot be decoded"),
        ((name, "--index", "stars"), "choose one of galaxies"),
        ((name, "--digest", "0" * 64), "ask its owner"),
    ):
        code, _, err = acie("secure", "query", *arguments)
        assert code == 1 and message in " ".join(err.split())
    with IndexStore(settings.index_url).engine.begin() as connection:
        connection.execute(sa.text("UPDATE acie_prototypes SET label = 'E'"))
    code, _, err = acie("secure", "query", name)
    assert code == 1 and "does not match its hash" in " ".join(err.split())


def test_the_worker_needs_no_private_key_and_accepts_none(
    settings: Settings, vault: FileVault, index: PrototypeIndex, tmp_path: Path
) -> None:
    private_key = vault.private_key()
    query = ask(index.record, np.ones(64, np.int8), private_key)
    folder = tmp_path / "worker"
    folder.mkdir()
    document = folder / "public-keys.json"
    document.write_bytes(vault.public_keys().to_json())
    given = worker_environment(os.environ) | {
        "ACIE_INDEX_URL": settings.index_url,
        "ACIE_PUBLIC_KEYS_FILE": str(document),
    }

    def start(**more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "acie_pipelines.secure.retrieval.worker"],
            input=query.to_bytes(),
            capture_output=True,
            check=False,
            cwd=folder,
            env=given | more,
        )

    assert start().returncode == 0
    for more in (
        {"ACIE_KEYS_FILE": str(settings.keys_file)},
        {"ANYTHING": str(settings.keys_file)},
        {"ACIE_HOME": str(settings.home)},
    ):
        refused = start(**more)
        assert refused.returncode == 1 and refused.stdout == b""
        assert json.loads(refused.stderr.splitlines()[-1])[0] == RoleError.__name__
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, acie_pipelines.secure.retrieval.worker\n"
            "print('acie_pipelines.crypto.vault' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "False"


def test_errors_of_the_worker_keep_their_type(
    settings: Settings, vault: FileVault, index: PrototypeIndex
) -> None:
    keys = vault.public_keys()
    query = ask(index.record, np.ones(64, np.int8), vault.public_key())
    IndexStore(settings.index_url).write("galaxies", index.select()[1:], index.embedding())
    with pytest.raises(IntegrityError, match="ask its owner which one is current"):
        ask_worker(query.to_bytes(), keys, settings.index_url)
    with pytest.raises(AcieError, match="does not begin like one"):
        ask_worker(b"nonsense that is long enough to be parsed as a message", keys, "sqlite:///x")
