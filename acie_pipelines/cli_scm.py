"""`acie scm ...`: causal models of a user's own table.

Belongs here: parsing and printing of these commands. Does not belong here: work.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.storage import storage_errors

__all__ = ["scm"]

scm = typer.Typer(
    help="Causal models of your own table: a graph in YAML, rows in Parquet or HDF5.",
    no_args_is_help=True,
)
out = Console()
err = Console(stderr=True)

_HELD_OUT = 0.1

GraphFile = Annotated[
    Path, typer.Argument(help="YAML like acie_pipelines/causal/catalogue_graph.yaml.")
]
TableFile = Annotated[Path, typer.Argument(help="Parquet or HDF5 with a column per node.")]
Missing = Annotated[
    list[float] | None, typer.Option(help="Code of a missing value besides NaN; repeatable.")
]


def _read_graph(path: Path) -> CausalGraph:
    with storage_errors(path):
        return CausalGraph.from_yaml(path.read_text())


def _pair(text: str) -> tuple[str, str]:
    node, equals, column = text.partition("=")
    if not equals or not column:
        raise ConfigurationError(f"--error {text}", "names no column", "write NODE=COLUMN")
    return node, column


@scm.command()
def identify(
    graph: GraphFile,
    treatment: Annotated[str, typer.Argument(help="Cause.")],
    outcome: Annotated[str, typer.Argument(help="Effect.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether observations determine an effect, what to adjust for, and what that assumes."""
    found = _read_graph(graph).identify(treatment, outcome)
    if as_json:
        typer.echo(json.dumps({**vars(found), "identified": found.identified}))
        return
    adjust = ", ".join(found.adjustment) or "nothing"
    out.print(f"{treatment} → {outcome}: {found.status}; adjust for {adjust}", highlight=False)
    for assumption in found.assumptions:
        out.print(f"  assumes {assumption}", highlight=False, soft_wrap=True)


@scm.command()
def fit(
    graph: GraphFile,
    table: TableFile,
    model: Annotated[Path, typer.Option("--out", help="File of the fitted model.")],
    missing: Missing = None,
    error: Annotated[
        list[str] | None,
        typer.Option(help="NODE=COLUMN with the standard deviations of its values; repeatable."),
    ] = None,
    choose_families: Annotated[
        bool,
        typer.Option(help="Choose mechanism families by held-out likelihood."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and split.")] = 0,
    max_epochs: Annotated[int, typer.Option(min=1, help="Upper limit.")] = 40,
) -> None:
    """Fit one invertible mechanism per variable; a tenth of the rows says when to stop."""
    from acie_pipelines.causal.files import write_model
    from acie_pipelines.causal.own_table import fit_table

    fitted = fit_table(
        _read_graph(graph),
        table,
        missing=missing or (),
        errors=dict(_pair(each) for each in error or ()),
        choose_families=choose_families,
        held_out=_HELD_OUT,
        seed=seed,
        max_epochs=max_epochs,
        progress=err.print,
    )
    write_model(model, fitted.model, fitted.draws)
    shown = Table("Variable", "Family", "Held-out loss (nats)", "Rows", title=str(model))
    for name, loss in fitted.losses.items():
        family = fitted.model.graph.nodes[name].mechanism
        shown.add_row(name, family, f"{loss:.3f}", str(fitted.rows[name]))
    out.print(shown)


@scm.command()
def ask(
    model: Annotated[Path, typer.Argument(help="Model written by `acie scm fit`.")],
    table: TableFile,
    do: Annotated[str, typer.Option(help="Intervention, as of 'stellar_mass*=2'.")],
    answers: Annotated[Path, typer.Option("--out", help="Parquet or HDF5 of the answers.")],
    missing: Missing = None,
    seed: Annotated[int, typer.Option(help="Of noise that a category only bounds.")] = 0,
) -> None:
    """Say what every row would have been under an intervention, and how far off that may be.

    Columns NODE_low and NODE_high are the ends of 90 % intervals, which hold the error of the
    mechanisms that the table left.
    """
    from acie_pipelines.causal.files import read_model
    from acie_pipelines.causal.queries import parse_interventions
    from acie_pipelines.causal.tables import read_rows, write_rows
    from acie_pipelines.models.table_answers import intervals_of_answers

    found, draws = read_model(model)
    interventions = parse_interventions(do, found.graph)
    batch = found.tensor(read_rows(table, found.graph, missing=missing or ()))
    changed = found.counterfactual(batch, interventions, seed=seed)
    reached = found.graph.descendants(*(each.node for each in interventions))
    ends = intervals_of_answers(found, draws, batch, interventions, seed=seed)
    write_rows(answers, found.graph, found.columns(changed), ends)
    shown = Table("Effect", "Median change", "Off by, 9 in 10", "Rows answered", title=f"do({do})")
    for name in (name for name in found.names if name in reached):
        difference = (changed - batch)[:, found.column[name]]
        known = difference[difference.isfinite()]
        change = f"{float(known.median()):+.4g}" if len(known) else "unknown"
        width = "unknown"
        if name in ends:
            low, high = ends[name]
            half = 0.5 * (high - low)
            width = f"± {float(np.nanmedian(half)):.2g}" if np.isfinite(half).any() else width
        shown.add_row(name, change, width, f"{len(known)} of {len(batch)}")
    out.print(shown)
