"""The model registry: register, promote, roll back, and ask what is where.

A move is first committed to the audit log, which decides races, and then shown as MLflow aliases.
A process killed in between leaves aliases behind the log until the next move or `reconcile`.

Belongs here: the rules that need the whole history.
Does not belong here: storage of either side (`registry.audit`, `registry.aliases`).
"""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from acie_pipelines.errors import PromotionError
from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.aliases import MlflowModel
from acie_pipelines.registry.audit import AuditLog, Move, Record
from acie_pipelines.registry.standing import Standing
from acie_pipelines.registry.states import FORWARD, State, check_move

__all__ = ["DEFAULT_MODEL", "ModelRegistry", "Version"]

DEFAULT_MODEL = "acie-counterfactual"

_ROLLBACK_DEPTH = 2  # the version to leave and the one to return to


@dataclass(frozen=True)
class Version:
    """A model version as it stands.

    Attributes
    ----------
    version
        Its number in MLflow.
    state
        Present state.
    since
        UTC time it entered the state.
    manifest
        Dataset that holds the model.
    metrics
        Measurements recorded last.
    sequence
        Number of the record that brought it here.
    """

    version: int
    state: State
    since: datetime
    manifest: InputRef
    metrics: Mapping[str, float]
    sequence: int


def _version(record: Record) -> Version:
    move = record.move
    return Version(
        move.version, move.to_state, record.at, move.manifest, move.metrics, record.sequence
    )


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise PromotionError(name, "is not a state", f"use {', '.join(State)}") from None


class ModelRegistry:
    """Versions of one model and their way to production.

    Parameters
    ----------
    tracking_uri
        MLflow server or database.
    database_url
        SQLAlchemy URL of the audit log.
    model
        Registered model's name in MLflow.
    """

    def __init__(self, tracking_uri: str, database_url: str, model: str = DEFAULT_MODEL) -> None:
        self.model = model
        self._log = AuditLog(database_url, model)
        self._mlflow = MlflowModel(tracking_uri, model)

    def _standing(self) -> Standing:
        return Standing.of(self._log.records())

    def sequence(self) -> int:
        """Return the number of the last record, for ``expected_sequence``."""
        return self._standing().sequence

    def register(
        self,
        run_id: str,
        source: str,
        manifest: InputRef,
        *,
        metrics: Mapping[str, float],
        actor: str,
        reason: str,
    ) -> int:
        """Make a trained model a candidate; the same model twice is one version.

        Parameters
        ----------
        run_id, source
            MLflow run that trained it, and URI of its artifacts.
        manifest
            Dataset that holds it.
        metrics
            Measurements, finite numbers.
        actor, reason
            Who registers it and why.

        Returns
        -------
        int
            Version number.
        """
        version = self._mlflow.version_of(run_id, source, manifest)
        move = Move(
            version=version,
            from_state=None,
            to_state=State.CANDIDATE,
            manifest=manifest,
            metrics=metrics,
            evidence={"run_id": run_id, "source": source},
        )
        while version not in (standing := self._standing()).latest:
            try:
                self._log.append([move], actor, reason, after=standing.sequence)
            except PromotionError:
                # Registering depends on no other version: take the next number, unless the
                # refusal was not about the number.
                if self.sequence() == standing.sequence:
                    raise
        self.reconcile()
        return version

    def promote(
        self,
        version: int,
        to: str,
        actor: str,
        reason: str,
        *,
        evidence: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        expected_state: str | None = None,
        expected_sequence: int | None = None,
    ) -> None:
        """Move a version one step on, or to the archive.

        Parameters
        ----------
        version
            Which.
        to
            State it goes to. Entering production archives the version that was there.
        actor, reason
            Who decides it and why.
        evidence
            JSON values the decision rests on, recorded. Every step towards production needs
            ``evidence["passed"] is True``.
        metrics
            Measurements to record; by default those recorded last.
        expected_state
            State the version was in when the decision was made.
        expected_sequence
            `sequence` when the decision was made: the move is refused if anything moved since.
            Without it only moves at the very same time conflict.

        Raises
        ------
        PromotionError
            If the move is illegal, lacks evidence, or another one came first.
        """
        target, subject = _state(to), f"{self.model} version {version}"
        standing = self._expected(expected_sequence)
        record = standing.record(self.model, version)
        present = record.move.to_state
        if expected_state is not None and present is not _state(expected_state):
            raise PromotionError(
                subject, f"is in {present}, not in {expected_state}", "look again and decide anew"
            )
        check_move(subject, present, target)
        if FORWARD.get(present) is target and (evidence or {}).get("passed") is not True:
            raise PromotionError(
                subject,
                f"has no passed validation for {target}",
                "validate it and hand over evidence with passed = true",
            )
        moves = [
            Move(
                version=version,
                from_state=present,
                to_state=target,
                manifest=record.move.manifest,
                metrics=record.move.metrics if metrics is None else metrics,
                evidence=evidence or {},
            )
        ]
        if target is State.PRODUCTION and standing.productions:
            moves.insert(0, self._retire(standing, replaced_by=version))
        self._log.append(moves, actor, reason, after=standing.sequence)
        self.reconcile()

    def rollback(self, actor: str, reason: str, *, expected_sequence: int | None = None) -> int:
        """Put the previous production version back, and archive the present one.

        Parameters
        ----------
        actor, reason
            Who decides it and why.
        expected_sequence
            As in `promote`; it keeps two people from rolling back twice.

        Returns
        -------
        int
            Version now in production.

        Raises
        ------
        PromotionError
            If there is no previous version, or another move came first.
        """
        standing = self._expected(expected_sequence)
        if len(standing.productions) < _ROLLBACK_DEPTH:
            raise PromotionError(
                self.model,
                "has no earlier production version",
                "promote another version to production instead",
            )
        previous = standing.productions[-2]
        record = standing.record(self.model, previous)
        moves = [
            self._retire(standing, replaced_by=previous),
            Move(
                version=previous,
                from_state=State.ARCHIVED,
                to_state=State.PRODUCTION,
                manifest=record.move.manifest,
                metrics=record.move.metrics,
                evidence={"rollback_of": standing.productions[-1]},
            ),
        ]
        self._log.append(moves, actor, reason, after=standing.sequence)
        self.reconcile()
        return previous

    def _expected(self, sequence: int | None) -> Standing:
        standing = self._standing()
        if sequence is not None and standing.sequence != sequence:
            raise PromotionError(
                self.model,
                f"another move was recorded after number {sequence}",
                "look at the present states and decide again",
            )
        return standing

    def _retire(self, standing: Standing, *, replaced_by: int) -> Move:
        version = standing.productions[-1]
        last = standing.record(self.model, version).move
        return Move(
            version=version,
            from_state=State.PRODUCTION,
            to_state=State.ARCHIVED,
            manifest=last.manifest,
            metrics=last.metrics,
            evidence={"replaced_by": replaced_by},
        )

    def list(self) -> builtins.list[Version]:
        """Return all versions, the newest first."""
        return [_version(record) for record in reversed(self._standing().latest.values())]

    def current(self, alias: str) -> Version | None:
        """Return the version that entered a state last and is still in it.

        Parameters
        ----------
        alias
            Name of the state.
        """
        standing = self._standing()
        holder = standing.holders().get(_state(alias))
        return None if holder is None else _version(standing.latest[holder])

    def history(self, version: int | None = None) -> builtins.list[Record]:
        """Return all records of the model or of one version, the oldest first."""
        records = self._log.records()
        return [r for r in records if version is None or r.move.version == version]

    def reconcile(self) -> bool:
        """Make MLflow's aliases follow the audit log.

        Returns
        -------
        bool
            Whether any alias was out of step.
        """
        standing = self._standing()
        changed = False
        while standing.latest:
            changed |= self._mlflow.project(standing.holders())
            # Whoever writes aliases last looks at the log after that, so that a process that
            # was held up cannot leave an old picture behind.
            after = self._standing()
            if after.sequence == standing.sequence:
                break
            standing = after
        return changed
