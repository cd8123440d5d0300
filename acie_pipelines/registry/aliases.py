"""MLflow's side of the registry: versions, tags, and aliases that follow the audit log.

Belongs here: every call to MLflow's registered-model interface.
Does not belong here: deciding about states (see `registry.registry`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from acie_pipelines.database import display_url
from acie_pipelines.errors import ConfigurationError, StorageError
from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.states import State

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowModel"]

_TAG = "acie.manifest."


class MlflowModel:
    """One registered model in MLflow.

    Parameters
    ----------
    tracking_uri
        MLflow server or database; also its registry.
    name
        Registered model.
    """

    def __init__(self, tracking_uri: str, name: str) -> None:
        self.tracking_uri = tracking_uri
        self.name = name
        self._client: MlflowClient | None = None

    @contextmanager
    def _mlflow(self) -> Iterator["MlflowClient"]:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                self._client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
            yield self._client
        except MlflowException as error:
            first_line = str(error.message).split("\n", 1)[0]
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise ConfigurationError(
                    self.name, f"MLflow refuses it ({first_line})", "correct the model's settings"
                ) from error
            raise StorageError(
                display_url(self.tracking_uri),
                "MLflow does not answer as it should",
                "check that it runs, then reconcile the registry",
            ) from error

    def version_of(self, run_id: str, source: str, manifest: InputRef) -> int:
        """Find the version made of these, or make it.

        Parameters
        ----------
        run_id, source
            MLflow run, and URI of the artifacts.
        manifest
            Dataset that holds the model; kept as tags.
        """
        tags = {f"{_TAG}{name}": value for name, value in asdict(manifest).items()}
        with self._mlflow() as client:
            self._ensure_model(client)
            for version in client.search_model_versions(f"name='{self.name}'"):
                same = version.run_id == run_id and version.source == source
                if same and tags.items() <= version.tags.items():
                    return int(version.version)
            made = client.create_model_version(
                self.name, source, run_id=run_id, tags=tags, await_creation_for=0
            )
            return int(made.version)

    def _ensure_model(self, client: "MlflowClient") -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def project(self, holders: Mapping[State, int]) -> bool:
        """Make the aliases of the five states those given; other aliases are left alone.

        Returns
        -------
        bool
            Whether anything had to be changed.
        """
        with self._mlflow() as client:
            present = client.get_registered_model(self.name).aliases
            changed = False
            for state in State:
                wanted = holders.get(state)
                if wanted is not None and str(present.get(state.value)) != str(wanted):
                    client.set_registered_model_alias(self.name, state.value, str(wanted))
                    changed = True
                elif wanted is None and state.value in present:
                    client.delete_registered_model_alias(self.name, state.value)
                    changed = True
        return changed
