"""What every asset function does at its end: hand over the manifest, metadata and check results.

Belongs here: the shape of an asset's results. Does not belong here: any particular asset.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from acie_pipelines import __version__
from acie_pipelines.errors import AcieError, IntegrityError, StorageError
from acie_pipelines.provenance import Manifest

__all__ = ["Materialization", "check", "code_version", "failure", "materialize", "progress_log"]

# What an asset function yields: its output first, then the results of its checks.
Materialization = Iterator[dg.Output[Manifest] | dg.AssetCheckResult]


def code_version(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> str:
    """Version recorded in manifests: the release and the asset's own ``code_version``.

    Parameters
    ----------
    context
        Of an asset, or of an op of an asset that is a graph.
    """
    (spec,) = context.assets_def.specs
    return f"acie {__version__}, {spec.key.to_user_string()} {spec.code_version}"


def materialize(
    manifest: Manifest, metadata: Mapping[str, Any], checks: Iterable[dg.AssetCheckResult] = ()
) -> Materialization:
    """Yield an asset's output, then its checks; a failed blocking one stops what is downstream."""
    yield dg.Output(manifest, metadata=dict(metadata))
    yield from checks


def check(
    name: str,
    passed: bool,
    *,
    blocking: bool = False,
    description: str | None = None,
    **metadata: Any,
) -> dg.AssetCheckResult:
    """Make a check result; a failure is an error when the check blocks and a warning otherwise."""
    severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=severity,
        description=description,
        metadata=metadata,
    )


def failure(error: AcieError) -> dg.Failure:
    """Turn a typed error into a failed step; only what may pass by itself is retried."""
    return dg.Failure(
        description=str(error),
        metadata={
            "error_type": type(error).__name__,
            "subject": error.subject,
            "reason": error.reason,
            "fix": error.fix,
        },
        allow_retries=isinstance(error, IntegrityError | StorageError),
    )


def progress_log(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, what: str
) -> Callable[[int, int], None]:
    """Log progress at every tenth of the work.

    Returns
    -------
    Callable[[int, int], None]
        Takes the amount done and the total.
    """
    reported = 0

    def report(done: int, total: int) -> None:
        nonlocal reported
        tenth = 10 * done // max(total, 1)
        if tenth > reported:
            reported = tenth
            context.log.info("%s: %d of %d (%d %%)", what, done, total, 10 * tenth)

    return report
