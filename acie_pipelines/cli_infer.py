"""`acie infer` and `acie adapt`.

Belongs here: parsing and printing of these commands. Does not belong here: work.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acie_pipelines.errors import ConfigurationError, ModelError, ObservationError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.models.counterfactual import SpectralEngine
    from acie_pipelines.models.fine_tuning import FineTuning

__all__ = ["adapt", "infer"]

out = Console()
err = Console(stderr=True)

Model = Annotated[
    str, typer.Option(help="Alias or number of a registered model, or a directory of one.")
]


def _engine(model: str) -> "tuple[SpectralEngine, str]":
    """Engine and what to call it."""
    from acie_pipelines.models.saved_engine import (
        load_engine_from_directory,
        load_registered_engine,
    )

    if Path(model).is_dir():
        return load_engine_from_directory(Path(model)), Path(model).resolve().name
    engine, version = load_registered_engine(Settings.from_environment(), model)
    return engine, str(version.version)


def _adapted(engine: "SpectralEngine", path: Path) -> "SpectralEngine":
    from acie_pipelines.models.adaptation_file import from_bytes

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            path, f"cannot be read ({error.strerror})", "give a file written by acie adapt"
        ) from error
    return from_bytes(engine, data, path)


def infer(
    observation: Annotated[
        list[Path],
        typer.Option(
            help="SDSS spec, DESI coadd or spectra, or file of acie simulate; repeatable."
        ),
    ],
    do: Annotated[str, typer.Option(help="Question, as 'stellar_mass*=2, metallicity=8.9 dex'.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(help="More observations, as the shell makes of --observation spec-*.fits."),
    ] = None,
    model: Model = "production",
    adaptation: Annotated[
        Path | None, typer.Option(help="What acie adapt learned from the survey's own spectra.")
    ] = None,
    row: Annotated[int, typer.Option(help="Which spectrum of each file with several.")] = 0,
    result: Annotated[
        Path | None,
        typer.Option("--out", help="HDF5 file of the answer; of several, their directory."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the answer; of several, their directory.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Posterior draws.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per answer.")
    ] = False,
) -> None:
    """Say what a galaxy's spectrum would have been under an intervention.

    Of several observations, one that is no such spectrum is named on standard error and the others
    are answered; exit code 0 only if all are.
    """
    from acie_pipelines.models.adaptation import adapted
    from acie_pipelines.models.query import answer, on_grid, questions
    from acie_pipelines.models.query_figure import write_figure
    from acie_pipelines.models.query_file import summary, write_result
    from acie_pipelines.observations.spectra import read_spectrum

    questions(do)
    paths = [*observation, *(more or ())]
    results, plots = _places(paths, result, "--out", "h5"), _places(paths, plot, "--plot", "png")
    refused = _Refused(alone=len(paths) == 1)
    read = []
    for path, answer_file, picture in zip(paths, results, plots, strict=True):
        with refused.one():
            read.append((read_spectrum(path, row=row), answer_file, picture))
    if not read:
        raise typer.Exit(1)
    engine, version = _engine(model)
    taught = None if adaptation is None else _adapted(engine, adaptation)
    softened = cache(lambda: taught or adapted(engine, None))
    for observed, answer_file, picture in read:
        simulated = adaptation is None and observed.survey == "simulation"
        with refused.one():
            asked = engine if simulated else softened()
            spectrum = on_grid(observed, asked.decoder.preset)
            with err.status(f"abducting {spectrum.name}, then do({do})"):
                found = answer(asked, spectrum, do, model=version, draws=draws, seed=seed)
            if answer_file is not None:
                write_result(answer_file, found)
            if picture is not None:
                write_figure(picture, found)
            body = summary(found)
            if as_json:
                typer.echo(json.dumps(body))
            else:
                _show(body)
    if refused.any:
        raise typer.Exit(1)


def _places(
    observations: Sequence[Path], place: Path | None, option: str, suffix: str
) -> list[Path | None]:
    """Where what is known about each observation is written."""
    count = len(observations)
    if place is None or count == 1:
        return [place] * count
    if not place.is_dir():
        raise ConfigurationError(
            f"{option} {place}",
            f"is no directory: the answers to {count} observations would overwrite each other",
            "give a directory that exists",
        )
    names = [path.stem for path in observations]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"{option} {place}",
                f"would hold {names.count(name)} answers named {name}",
                "ask about these observations one by one",
            )
    return [place / f"{name}-answer.{suffix}" for name in names]


class _Refused:
    """Says what is wrong with one of several observations, and lets the next have its turn."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self.any = False

    @contextmanager
    def one(self) -> Iterator[None]:
        try:
            yield
        except ObservationError as error:
            if self._alone:
                raise
            self.any = True
            err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def _show(body: dict[str, Any]) -> None:
    table = Table(
        "Property",
        r"Before \[90 %]",
        r"After \[90 %]",
        "Unit",
        title=f"{body['observation']}: do({body['question']}), model {body['model']}",
        title_justify="left",
    )
    for name, latent in body["latent"].items():
        before, after = (_interval(latent[when]) for when in ("before", "after"))
        style = "bold" if name in body["support"] else "" if before != after else "dim"
        table.add_row(name, before, after, latent["unit"], style=style)
    out.print(table)
    tolerance = body["confidence_tolerance"]
    out.print(f"confidence {body['confidence']:.0%} that a pixel is within {tolerance:.0%}")
    for name, score in body["support"].items():
        out.print(f"support of {name}: {score:.2g}")
    out.print(f"chi-square per pixel {body['chi_square_per_pixel']:.2f}")
    laws = body["physics_residuals"]
    out.print(
        "physics residuals: "
        + ", ".join(f"{law} {both['counterfactual']:.1e}" for law, both in laws.items()),
        soft_wrap=True,
    )
    for effect in body["identification"]:
        adjust = ", ".join(effect["adjustment"]) or "nothing"
        out.print(
            f"{effect['treatment']} → spectrum: {effect['status']}, adjusted for {adjust}; assumes "
            + "; ".join(effect["assumptions"]),
            soft_wrap=True,
        )
    for note in body["notes"]:
        out.print(note, soft_wrap=True, highlight=False)
    for warning in body["warnings"]:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)


def _interval(edges: list[float]) -> str:
    low, middle, high = edges
    digits = 4 if 0 < abs(high - low) < 0.01 else 2
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("[", r"\[")


def adapt(
    spectra: Annotated[list[Path], typer.Argument(help="SDSS or DESI spectra of galaxies.")],
    result: Annotated[Path, typer.Option("--out", help="File of what was learned.")],
    model: Model = "production",
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Also train the network on these spectra.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of starts, held-out pixels and batches.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Learn from a survey's own spectra, without labels, what the physics leaves out.

    Prints how well galaxies are fitted that taught nothing (five-fold cross-validation). A network
    that was fine-tuned is kept only if galaxies held out gain by it beyond the error of that gain.
    """
    from dataclasses import asdict

    from acie_pipelines.models.adaptation import adapt as learn
    from acie_pipelines.models.adaptation import adapted
    from acie_pipelines.models.adaptation_file import to_bytes
    from acie_pipelines.models.fine_tuning import fine_tune_on
    from acie_pipelines.models.query import on_grid
    from acie_pipelines.observations.spectra import read_spectrum
    from acie_pipelines.storage import atomic_writer

    engine, version = _engine(model)
    preset = engine.decoder.preset
    observed = [on_grid(read_spectrum(path), preset) for path in spectra]
    found = learn(engine, observed, seed=seed, progress=err.print)
    tuned = None
    if fine_tune:
        tuned = fine_tune_on(
            adapted(engine, found.residual), observed, seed=seed, progress=err.print
        )
    network = tuned.posterior if tuned is not None and tuned.kept else None
    with atomic_writer(result) as handle:
        handle.write(to_bytes(engine, found.residual, network))
    if as_json:
        body = {
            "model": version,
            "spectral_norm": found.residual.spectral_norm,
            "held_out": [asdict(fit) for fit in found.fits],
        }
        if tuned is not None:
            body["fine_tuning"] = tuned.summary()
        typer.echo(json.dumps(body))
        return
    table = Table(
        "Galaxy",
        "z",
        "χ²/pixel before",
        "after",
        "hidden pixels in 90 %",
        "worst at rest (Angstrom)",
        title=f"held-out fits; residual in {result}",
        title_justify="left",
    )
    for fit in found.fits:
        worst = ", ".join(f"{start:.0f} ({value:.1f})" for start, value in fit.worst)
        table.add_row(
            fit.name,
            f"{fit.redshift:.4f}",
            f"{fit.before:.2f}",
            f"{fit.after:.2f}",
            f"{fit.coverage:.0%}",
            worst,
        )
    out.print(table)
    if tuned is not None:
        _show_fine_tuning(tuned)


def _show_fine_tuning(tuned: "FineTuning") -> None:
    verdict = (
        "the fine-tuned network is kept"
        if tuned.kept
        else "fine-tuning did not help beyond doubt, and the network stays as it was"
    )
    out.print(
        f"{verdict}: exact draws of {tuned.held_out} held-out galaxies have log density "
        f"{tuned.before:.2f} nats before and {tuned.after:.2f} after {tuned.taught} others taught "
        f"(the gain is known to ± {tuned.gain_error:.2f}); "
        f"poorly sampled and left out: {tuned.unreliable}",
        soft_wrap=True,
        highlight=False,
    )
    out.print(
        f"evidence lower bound of a typical one: {tuned.bound_before:.0f} before, "
        f"{tuned.bound_after:.0f} after (up to a constant; does not decide)",
        soft_wrap=True,
        highlight=False,
    )
