"""Measurements that survive an interruption.

Belongs here: what one side measured on one part with one seed, and the folder that keeps it.
Does not belong here: what is measured, or how rows and figures are made of it.

A measurement is kept with a fingerprint of the source code that it depends on, and is made again
when that code has changed.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final, Protocol, TypeVar

import acie_pipelines
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.storage import atomic_writer

__all__ = ["Measured", "Measurements", "mean_and_spread", "source_fingerprint"]

_FILE: Final = "measurements.jsonl"


@dataclass(frozen=True)
class Measured:
    """What one side measured on one part with one seed.

    Attributes
    ----------
    values
        Name to number.
    series
        Name to numbers in order, for figures.
    """

    values: dict[str, float]
    series: dict[str, list[float]] = field(default_factory=dict)


class _Storable(Protocol):
    def spec(self) -> dict[str, Any]: ...

    def weights(self) -> bytes: ...


_Model = TypeVar("_Model", bound=_Storable)


def source_fingerprint(packages: tuple[str, ...]) -> str:
    """SHA-256 of Python sources inside `acie_pipelines`, shortened.

    Parameters
    ----------
    packages
        Packages or modules, such as ``("causal", "models/vae.py")``.
    """
    root, digest = Path(acie_pipelines.__file__).parent, sha256()
    for package in packages:
        found = root / package
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def mean_and_spread(samples: list[float]) -> tuple[float, float]:
    """Mean over seeds, and their standard deviation over it (0 of one seed).

    Parameters
    ----------
    samples
        At least one number.
    """
    mean = fmean(samples)
    known = len(samples) > 1 and mean and all(map(math.isfinite, samples))
    return mean, abs(stdev(samples) / mean) if known else 0.0


class Measurements:
    """The measurements of a benchmark, and the models they were made with.

    Parameters
    ----------
    folder
        Kept here, one JSON line per measurement; made if it is missing.

    Raises
    ------
    ConfigurationError
        If the folder's file holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _FILE
        self._found: dict[tuple[str, str, int, str], Measured] = {}
        self._fingerprints: dict[tuple[str, ...], str] = {}
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                key = (entry["part"], entry["side"], int(entry["seed"]), entry["code"])
                self._found[key] = Measured(dict(entry["values"]), dict(entry["series"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    str(self._path),
                    f"line {number} is no measurement",
                    "choose another folder for the results",
                ) from error
        if torn:
            # The last line of a run that was killed while writing it.
            with self._path.open("r+b") as handle:
                handle.truncate(len(whole) + 1 if whole else 0)

    def _code(self, packages: tuple[str, ...]) -> str:
        if packages not in self._fingerprints:
            self._fingerprints[packages] = source_fingerprint(packages)
        return self._fingerprints[packages]

    def measure(
        self,
        part: str,
        side: str,
        seed: int,
        work: Callable[[], Measured],
        *,
        depends_on: tuple[str, ...],
    ) -> Measured:
        """Take a measurement from the folder, or make it and keep it.

        Parameters
        ----------
        part, side, seed
            What is measured, on what and with which seed.
        work
            Measures it.
        depends_on
            Packages whose sources decide the result; see `source_fingerprint`.
        """
        key = (part, side, seed, self._code(depends_on))
        if key not in self._found:
            found = work()
            entry = {"part": part, "side": side, "seed": seed, "code": key[3], **vars(found)}
            with self._path.open("a") as handle:
                handle.write(json.dumps(entry) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            self._found[key] = found
        return self._found[key]

    def parts(self) -> list[str]:
        """List what has been measured, in order."""
        return list(dict.fromkeys(part for part, *_ in self._found))

    def sides(self, part: str) -> list[str]:
        """List who has been measured on a part, in order."""
        return list(dict.fromkeys(side for found, side, *_ in self._found if found == part))

    def of(self, part: str, side: str) -> dict[int, Measured]:
        """Map each seed to its last measurement."""
        return {
            seed: found
            for (its_part, its_side, seed, _), found in self._found.items()
            if (its_part, its_side) == (part, side)
        }

    def keep(self, name: str, model: _Storable, *, depends_on: tuple[str, ...]) -> None:
        """Keep a model in the folder.

        Parameters
        ----------
        name, depends_on
            See `model`.
        model
            Gives its specification (JSON) and weights.
        """
        spec, weights = self._model_files(name, depends_on)
        for path, content in (
            (weights, model.weights()),
            (spec, json.dumps(model.spec()).encode()),
        ):
            with atomic_writer(path) as handle:
                handle.write(content)

    def model(
        self,
        name: str,
        make: Callable[[], _Model],
        load: Callable[[bytes, bytes], _Model],
        *,
        depends_on: tuple[str, ...],
    ) -> _Model:
        """Load a model that `keep` kept, or make it and keep it.

        Parameters
        ----------
        name
            Of the model.
        make
            Trains it.
        load
            Makes it from its specification (JSON) and weights.
        depends_on
            Packages whose sources decide the result; see `source_fingerprint`.
        """
        spec, weights = self._model_files(name, depends_on)
        if not spec.exists():
            self.keep(name, make(), depends_on=depends_on)
        return load(spec.read_bytes(), weights.read_bytes())

    def _model_files(self, name: str, depends_on: tuple[str, ...]) -> tuple[Path, Path]:
        stem = f"{name}-{self._code(depends_on)}"
        return self.folder / f"{stem}.json", self.folder / f"{stem}.weights"
