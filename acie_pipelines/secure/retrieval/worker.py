"""The process that answers encrypted queries: ``python -m acie_pipelines.secure.retrieval.worker``.

It reads one query on standard input and writes one answer on standard output. It is given the
index (``ACIE_INDEX_URL``) and public keys (``ACIE_PUBLIC_KEYS_FILE``), nothing else, and stops if a
private key comes along.

Belongs here: that process, and starting it from the data owner's.
Does not belong here: what it computes (`encrypted_query`).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from acie_pipelines import errors
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.errors import AcieError, ConfigurationError, CryptoError
from acie_pipelines.secure.retrieval.encrypted_query import EncryptedQuery, answer
from acie_pipelines.secure.retrieval.index import IndexStore
from acie_pipelines.secure.roles import ComputeWorker, refuse_secrets, worker_environment

__all__ = ["ask_worker", "main"]

_INDEX: Final = "ACIE_INDEX_URL"
_KEYS: Final = "ACIE_PUBLIC_KEYS_FILE"
_MODULE: Final = "acie_pipelines.secure.retrieval.worker"


def ask_worker(message: bytes, keys: PublicKeys, index_url: str) -> bytes:
    """Start a worker that cannot decrypt, and give it one query.

    Parameters
    ----------
    message
        From `EncryptedQuery.to_bytes`.
    keys
        Public keys that the worker may see.
    index_url
        Database of the index. It goes through the environment: arguments are seen by everyone.

    Returns
    -------
    bytes
        For `EncryptedScores.from_bytes`.

    Raises
    ------
    AcieError
        What the worker reported, of its type.
    """
    # A place of its own, so that nothing of the owner's lies where the worker looks.
    with tempfile.TemporaryDirectory(prefix="acie-worker-") as folder:
        document = Path(folder) / "public-keys.json"
        document.write_bytes(keys.to_json())
        done = subprocess.run(  # noqa: S603 - our own module, and no shell
            [sys.executable, "-m", _MODULE],
            input=message,
            capture_output=True,
            check=False,
            cwd=folder,
            env=worker_environment(os.environ) | {_INDEX: index_url, _KEYS: str(document)},
        )
    if done.returncode:
        raise _reported(done.stderr)
    return done.stdout


def _reported(text: bytes) -> AcieError:
    """Rebuild the worker's error from the last line that it wrote."""
    line = text.strip().split(b"\n")[-1]
    try:
        name, subject, reason, fix = json.loads(line)
        kind: type[AcieError] = getattr(errors, name) if name in errors.__all__ else AcieError
        return kind(subject, reason, fix)
    except (ValueError, TypeError):
        return CryptoError(
            "worker of the index", "ended without an answer", "run it by hand to see why"
        )


def main(environ: Mapping[str, str]) -> None:
    """Answer one query.

    Parameters
    ----------
    environ
        Variables of the process.

    Raises
    ------
    RoleError
        If a private key can be read.
    ConfigurationError
        If a variable is missing.
    """
    for name in (_INDEX, _KEYS):
        if not environ.get(name):
            raise ConfigurationError(f"${name}", "is not set", "start it with ask_worker")
    worker = ComputeWorker.open(Path(environ[_KEYS]))
    refuse_secrets(environ, sys.argv, keys=worker.keys)
    query = EncryptedQuery.from_bytes(sys.stdin.buffer.read(), worker)
    index = IndexStore(environ[_INDEX]).open(query.index, digest=query.digest)
    sys.stdout.buffer.write(answer(index, query).to_bytes())


if __name__ == "__main__":
    try:
        main(os.environ)
    except AcieError as error:
        body = [type(error).__name__, error.subject, error.reason, error.fix]
        sys.stderr.write(json.dumps(body) + "\n")
        sys.exit(1)
