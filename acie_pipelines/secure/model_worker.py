"""The process that evaluates a secure model, and how an owner starts one.

Belongs here: both ends of that process. Does not belong here: evaluation (`models`), anything that
imports the vault or torch.

The process gets four files: model, public keys, request, and where to put the result.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.errors import AcieError, CryptoError
from acie_pipelines.secure.model_format import digest
from acie_pipelines.secure.model_format import from_bytes as model_from_bytes
from acie_pipelines.secure.model_format import to_bytes as model_to_bytes
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.roles import ComputeWorker, refuse_secrets, worker_environment

__all__ = ["evaluate_in_process", "main"]


def evaluate_in_process(model: SecureModel, tensor: CipherTensor, keys: PublicKeys) -> CipherTensor:
    """Have a process without the private key evaluate a model.

    Parameters
    ----------
    model
        Any.
    tensor
        What its interface encrypted.
    keys
        Public keys of the owner, the tensor's among them.

    Raises
    ------
    CryptoError
        If the process refuses or fails; the message is its last line.
    """
    data = model_to_bytes(model)
    with tempfile.TemporaryDirectory(prefix="acie-worker-") as folder:
        place = Path(folder)
        (place / "model").write_bytes(data)
        (place / "keys.json").write_bytes(keys.to_json())
        (place / "request").write_bytes(to_bytes(tensor))
        command = [sys.executable, "-m", __name__, "model", "keys.json", "request", "result"]
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [*command, digest(data)],
            cwd=place,
            env=worker_environment(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CryptoError("worker process", f"failed: {said[-1]}", "see the message")
        return from_bytes((place / "result").read_bytes(), tensor.public_key)


def main(arguments: Sequence[str]) -> int:
    """Evaluate a request: ``MODEL PUBLIC_KEYS REQUEST RESULT DIGEST``.

    Parameters
    ----------
    arguments
        Four paths, and the digest that the model must have.

    Returns
    -------
    int
        0 if the result was written; otherwise 1, with one line on standard error.
    """
    try:
        model_path, keys_path, request, result, expected = arguments
        worker = ComputeWorker.open(Path(keys_path))
        refuse_secrets(os.environ, arguments, places=[Path.cwd()], keys=worker.keys)
        model = model_from_bytes(Path(model_path).read_bytes(), expected=expected)
        # The model re-randomises what it makes.
        made = model.evaluate(worker.receive(Path(request).read_bytes()))
        Path(result).write_bytes(to_bytes(made))
    except (AcieError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
