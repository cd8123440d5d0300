"""Who computes without a private key, and what keeps one out of its process.

Three roles share the work. The data owner (`owner`) holds the vault. The compute worker holds
public keys only and works on ciphertexts. The auditor (`auditor`) holds neither keys nor plaintext.

Belongs here: the compute worker's role, the environment of its process, and the check that this
process is given no secret.
Does not belong here: anything that imports the vault (a test walks the imports), queues and tasks.

What the check finds is an accident: a variable, argument or file that came along. A passphrase or
wrapping key under a name of its own looks like nothing in particular, and a worker that means harm
skips the check. Against both only the operating system helps: run workers as a user of their own,
or in a pod without the vault's Secret.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.public_keys import PublicKeys, read_public_keys
from acie_pipelines.crypto.tensor_format import from_bytes, key_id_of, to_bytes
from acie_pipelines.errors import RoleError
from acie_pipelines.settings import Settings

__all__ = ["ComputeWorker", "refuse_secrets", "worker_environment"]

# Every variable of the vault begins so; a worker needs none of them.
_VAULT_PREFIX = "ACIE_KEYS"
_ALLOWED = frozenset(
    {
        "ACIE_NATIVE_ISA",
        "ACIE_PUBLIC_KEYS_FILE",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "PYTHONPATH",
        "TMPDIR",
        "TZ",
        "VIRTUAL_ENV",
    }
)
_ALLOWED_PREFIX = "LC_"
# How a vault of any version, or a private key in PEM, gives itself away.
_MARKS = re.compile(rb'acie\.keys/\d+\\*"|-----BEGIN [A-Z ]*PRIVATE KEY-----')
_NUMBER = re.compile("[0-9a-fA-F]{128,}")
# Python parses no longer decimal numbers, and no secret of a key is longer.
_MAXIMUM_DIGITS = 4300
# A vault of 300 keys is smaller. Of larger files, such as ciphertexts, the beginning is examined.
_WHOLE_FILE_BYTES = 1 << 20
_BEGINNING_BYTES = 1 << 16
# Only where a vault would be matters, whatever executor the variables name.
_LOCAL = {"ACIE_EXECUTOR": "multiprocess"}
_FIX = "start the worker as a user, and with variables and files, that lead to no vault"


class ComputeWorker:
    """A party that computes on ciphertexts and cannot read them.

    Parameters
    ----------
    keys
        Public keys of the data's owner, validated by `acie_pipelines.crypto.public_keys`.
    """

    def __init__(self, keys: PublicKeys) -> None:
        self.keys = keys

    def __repr__(self) -> str:
        return f"ComputeWorker(key_ids={self.keys.key_ids()!r})"

    @classmethod
    def open(cls, document: Path, *, allow_insecure_size: bool = False) -> "ComputeWorker":
        """Take the keys from a document that `acie keys export-public` wrote.

        Parameters
        ----------
        document
            The file.
        allow_insecure_size
            Accept keys below 2048 bits, for tests only.

        Raises
        ------
        CryptoError
            If it is no such document, or a vault.
        """
        return cls(read_public_keys(document, allow_insecure_size=allow_insecure_size))

    def public_key(self, key_id: str) -> PaillierPublicKey:
        """Key that ciphertexts name; a rotated one too, because its data are still in use.

        Raises
        ------
        LostKeyError
            If the owner's document does not hold it.
        RevokedKeyError
            If it was revoked.
        """
        return self.keys.public_key(key_id)

    def receive(self, data: bytes | bytearray | memoryview) -> CipherTensor:
        """Read a tensor under the key that it names; errors are those of `from_bytes`."""
        return from_bytes(data, self.public_key(key_id_of(data)))

    def send(self, tensor: CipherTensor) -> bytes:
        """Write a tensor with fresh randomness, so that it tells nothing of how it was made."""
        return to_bytes(tensor.rerandomised())


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that a worker process is started with.

    Only what Python and the kernels need passes. Neither the vault, nor the store with its
    plaintext tiles, nor databases or cloud credentials are within reach of a worker.

    Parameters
    ----------
    environ
        Variables of the process that starts it.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_PREFIX)
    }


def refuse_secrets(
    environ: Mapping[str, str],
    argv: Sequence[str],
    *,
    places: Iterable[Path] = (),
    keys: PublicKeys | None = None,
) -> None:
    """Stop a worker that was given a private key or a way to unwrap one.

    A worker process calls it first, with its own environment and arguments. Examined are the
    variables and arguments themselves, every file they name, files the process has inherited open,
    the place where a vault would be by default (below the working directory, unless ``ACIE_HOME``
    or ``DAGSTER_HOME`` says otherwise), and `places`.

    Parameters
    ----------
    environ, argv
        Of the worker process.
    places
        Files and directories the worker is given; directories are walked.
    keys
        The worker's public keys: a decimal or hexadecimal number that factors one of their moduli,
        or is the order that decryption needs, is refused under any name.

    Raises
    ------
    RoleError
        Names the variable, argument or file; never its value.
    """
    moduli = tuple(record.public_key.n for record in keys.records) if keys is not None else ()
    named: list[tuple[str, Path]] = []
    for name, value in environ.items():
        if name.startswith(_VAULT_PREFIX):
            raise RoleError(f"${name}", "leads to a private key", _FIX)
        _refuse_text(f"${name}", value, moduli)
        named += ((f"file in ${name}", path) for path in _paths_in(value))
    for number, value in enumerate(argv):
        _refuse_text(f"argument {number}", value, moduli)
        named += ((f"file in argument {number}", path) for path in _paths_in(value))
    named.append(("key vault", Settings.from_environment({**environ, **_LOCAL}).keys_file))
    named += (("open file", path) for path in _inherited())
    for place in places:
        named += (("file", path) for path in _files_below(place))
    for what, path in named:
        if _is_secret_file(path, moduli):
            raise RoleError(f"{what} {path}", "holds a private key and can be read", _FIX)


def _refuse_text(subject: str, text: str, moduli: Sequence[int]) -> None:
    if _is_secret(text.encode("utf-8", "surrogateescape"), moduli):
        raise RoleError(subject, "holds a private key", _FIX)


def _is_secret(data: bytes, moduli: Sequence[int]) -> bool:
    if _MARKS.search(data):
        return True
    if not moduli:
        return False
    for digits in _NUMBER.findall(data.decode("latin-1")):
        if len(digits) > _MAXIMUM_DIGITS:
            continue
        spelt = [int(digits, base) for base in ((10, 16) if digits.isdecimal() else (16,))]
        if any(_unlocks(number, n) for number in spelt for n in moduli):
            return True
    return False


def _unlocks(number: int, n: int) -> bool:
    """Whether a number shares a factor with n, or is a multiple of the order of its units."""
    if number.bit_length() < n.bit_length() // 2:
        return False
    if math.gcd(number, n) not in (1, n):
        return True
    # Ciphertexts are longer than any order, and there may be many.
    return number.bit_length() <= n.bit_length() and pow(2, number, n) == 1


def _paths_in(text: str) -> Iterator[Path]:
    """Files that a variable or argument may name: as a whole, after ``=``, or in a list."""
    for piece in {text, text.partition("=")[2], *text.split(os.pathsep)}:
        if piece and "\0" not in piece:
            yield Path(piece)


def _inherited() -> Iterator[Path]:
    descriptors = Path("/proc/self/fd")
    try:
        names = list(descriptors.iterdir())
    except OSError:
        return
    for name in names:
        try:
            yield name.readlink()
        except OSError:
            continue  # the descriptor of the listing itself is closed by now


def _files_below(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    for folder, _, names in os.walk(place):
        yield from (Path(folder) / name for name in names)


def _is_secret_file(path: Path, moduli: Sequence[int]) -> bool:
    """Whether a file can be read and holds a vault or a key."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as handle:
            whole = os.fstat(handle.fileno()).st_size <= _WHOLE_FILE_BYTES
            data = handle.read(_WHOLE_FILE_BYTES if whole else _BEGINNING_BYTES)
    except (OSError, ValueError):
        return False
    return _is_secret(data, moduli)
