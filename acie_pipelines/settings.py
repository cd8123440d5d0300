"""Where ACIE keeps its state, read from the environment once.

Belongs here: every ``ACIE_*`` variable that is no secret, and its default.
Does not belong here: anything that opens what a setting points to, or secrets (the vault reads its
own variables, see `acie_pipelines.crypto.vault_unlock`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from acie_pipelines.errors import ConfigurationError

__all__ = ["Settings"]

ExecutorName = Literal["multiprocess", "in_process", "k8s"]

_EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)


@dataclass(frozen=True)
class Settings:
    """Locations and choices shared by the CLI, the assets and the sensors.

    Attributes
    ----------
    home
        Directory of the embedded defaults below (``ACIE_HOME``; by default ``acie`` inside
        ``DAGSTER_HOME``, or inside ``./dagster_home``).
    storage_url
        Root of all datasets, a path or any fsspec URL (``ACIE_STORAGE_URL``).
    inbox_url
        Directory or fsspec URL watched for new observations (``ACIE_INBOX_URL``).
    database_url
        SQLAlchemy URL of the ledger and the promotion audit (``ACIE_DATABASE_URL``).
    index_url
        SQLAlchemy URL of the indexes of reference prototypes (``ACIE_INDEX_URL``); they may belong
        to somebody else than the data.
    mlflow_tracking_uri
        MLflow tracking and registry URI (``MLFLOW_TRACKING_URI``).
    mlflow_artifact_root
        Where runs of an embedded MLflow keep files: below the store. A server decides for itself.
    keys_file
        Key vault file (``ACIE_KEYS_FILE``), for instance a mounted Kubernetes Secret.
    public_keys_file
        Document that `acie keys export-public` wrote (``ACIE_PUBLIC_KEYS_FILE``): what is encrypted
        is encrypted under its current key. By default that of the vault.
    efigi
        Directory of the full set of EFIGI stamps (``ACIE_EFIGI_DIR``); none by default.
    executor
        ``multiprocess``, ``in_process`` or ``k8s`` (``ACIE_EXECUTOR``).
    """

    home: Path
    storage_url: str
    inbox_url: str
    database_url: str
    index_url: str
    mlflow_tracking_uri: str
    mlflow_artifact_root: str
    keys_file: Path
    public_keys_file: Path | None
    efigi: Path | None
    executor: ExecutorName

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings.

        Parameters
        ----------
        environment
            Variables to read; the process environment by default.

        Raises
        ------
        ConfigurationError
            If ``ACIE_EXECUTOR`` names no known executor, or names Kubernetes while something that
            pods must share would be on a local disk.
        """
        env = os.environ if environment is None else environment
        dagster_home = Path(env.get("DAGSTER_HOME") or "dagster_home")
        home = Path(env.get("ACIE_HOME") or dagster_home / "acie").absolute()
        wanted = env.get("ACIE_EXECUTOR") or "multiprocess"
        executor = next((name for name in _EXECUTORS if name == wanted), None)
        if executor is None:
            raise ConfigurationError(
                "ACIE_EXECUTOR",
                f"unknown executor {wanted!r}",
                "use multiprocess, in_process or k8s",
            )
        if executor == "k8s":
            for variable in ("ACIE_STORAGE_URL", "ACIE_DATABASE_URL", "MLFLOW_TRACKING_URI"):
                value = env.get(variable, "")
                if not value or value.startswith("sqlite:"):
                    raise ConfigurationError(
                        variable,
                        "pods cannot share the embedded default",
                        "set it to an object store, a PostgreSQL URL or an MLflow server",
                    )
        storage_url = env.get("ACIE_STORAGE_URL") or str(home / "store")
        return cls(
            home=home,
            storage_url=storage_url,
            inbox_url=env.get("ACIE_INBOX_URL") or str(home / "inbox"),
            database_url=env.get("ACIE_DATABASE_URL") or f"sqlite:///{home / 'acie.db'}",
            index_url=env.get("ACIE_INDEX_URL") or f"sqlite:///{home / 'index.db'}",
            mlflow_tracking_uri=env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
            mlflow_artifact_root=f"{storage_url.rstrip('/')}/mlflow",
            keys_file=Path(env.get("ACIE_KEYS_FILE") or home / "keys.json"),
            public_keys_file=(
                Path(env["ACIE_PUBLIC_KEYS_FILE"]) if env.get("ACIE_PUBLIC_KEYS_FILE") else None
            ),
            efigi=Path(env["ACIE_EFIGI_DIR"]) if env.get("ACIE_EFIGI_DIR") else None,
            executor=executor,
        )
