"""Training runs: reproducible, resumable after a kill, tracked, and honest about damage."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acie_pipelines.causal.fitting import EpochLosses, FitConfig
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.provenance import Manifest, verify_chain
from acie_pipelines.samples import CATALOGUE
from acie_pipelines.storage import Store
from acie_pipelines.training.catalogue import ingest_catalogue
from acie_pipelines.training.figures import figure_png, graph_figure
from acie_pipelines.training.fit import TrainingConfig, load_scm, train_scm
from acie_pipelines.training.table import build_training_table
from acie_pipelines.training.tracking import MlflowTracker

torch.set_num_threads(1)

CONFIG = TrainingConfig(
    MechanismConfig(hidden=8, bins=4), FitConfig(batch_rows=4096, max_epochs=4), checkpoint_epochs=1
)


class KilledError(Exception):
    """Stands for a kill between two epochs."""


def make_table(root: Path) -> tuple[Store, Manifest]:
    store = Store(str(root))
    catalogue = ingest_catalogue(store, CATALOGUE, code_version="1")
    return store, build_training_table(store, catalogue, [], code_version="1")


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, Manifest]:
    return make_table(tmp_path / "store")


def kill_after(epochs: int) -> "object":
    def progress(losses: EpochLosses) -> None:
        if losses.epoch == epochs:
            raise KilledError

    return progress


def hashes(manifest: Manifest) -> dict[str, str]:
    return {output.path: output.sha256 for output in manifest.outputs}


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole_store, whole_table = make_table(tmp_path / "whole")
    whole = train_scm(whole_store, whole_table, CONFIG, code_version="1")
    store, table = make_table(tmp_path / "cut")
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            train_scm(store, table, CONFIG, code_version="1", progress=kill_after(epoch))
        assert store.names("checkpoints")
        assert not store.exists("scm/galaxies/current.json")
    seen: list[int] = []
    resumed = train_scm(
        store, table, CONFIG, code_version="1", progress=lambda losses: seen.append(losses.epoch)
    )
    assert seen == [4]
    assert hashes(resumed) == hashes(whole)
    assert resumed.digest == whole.digest
    assert store.names("checkpoints") == []
    assert verify_chain(store, resumed) == 3
    # The same request is answered from the store; a model loads and answers.
    assert train_scm(store, table, CONFIG, code_version="1").generation == resumed.generation
    assert torch.isfinite(load_scm(store, resumed).sample(50, seed=0)).all()


def test_damage_is_refused(prepared: tuple[Store, Manifest]) -> None:
    store, table = prepared
    with pytest.raises(KilledError):
        train_scm(store, table, CONFIG, code_version="1", progress=kill_after(1))
    (directory,) = store.names("checkpoints")
    store.write_bytes(f"checkpoints/{directory}/state.pt", b"not a checkpoint")
    with pytest.raises(ModelError, match="delete it"):
        train_scm(store, table, CONFIG, code_version="1")
    store.delete("checkpoints")
    path = store.local_path(f"{table.prefix}/table.h5")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(IntegrityError):
        train_scm(store, table, CONFIG, code_version="1")


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[tuple[MlflowTracker, str]]:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    yield (
        MlflowTracker(
            uri, experiment="acie", artifact_root=(tmp_path / "artifacts").absolute().as_uri()
        ),
        uri,
    )


# SQLAlchemy deprecates a loader option that MLflow still uses.
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.slow
def test_runs_are_tracked(
    prepared: tuple[Store, Manifest], tracker: tuple[MlflowTracker, str]
) -> None:
    from mlflow import MlflowClient

    store, table = prepared
    manifest = train_scm(store, table, CONFIG, code_version="7", tracker=tracker[0])
    client = MlflowClient(tracking_uri=tracker[1])
    run = client.get_run(manifest.attributes["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.max_epochs"] == "4"
    assert run.data.tags["acie.scm.digest"] == manifest.digest
    assert run.data.tags["acie.table.digest"] == table.digest
    history = client.get_metric_history(run.info.run_id, "validation.h_alpha")
    assert [point.step for point in history] == [1, 2, 3, 4]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {
        "loss_curves.png",
        "causal_graph.png",
        "causal_graph.yaml",
        "environment.json",
        "model",
    }
    weights = client.download_artifacts(run.info.run_id, "model/weights.pt")
    stated = {output.path: output.sha256 for output in manifest.outputs}
    assert hashlib.sha256(Path(weights).read_bytes()).hexdigest() == stated["weights.pt"]
    with pytest.raises(KilledError):
        train_scm(
            store, table, CONFIG, code_version="8", tracker=tracker[0], progress=kill_after(1)
        )
    (failed,) = client.search_runs([run.info.experiment_id], "attributes.status = 'FAILED'")
    assert failed.data.tags["acie.code_version"] == "8"


def test_the_graph_is_drawn() -> None:
    from acie_pipelines.causal.graph import catalogue_graph

    assert figure_png(graph_figure(catalogue_graph())).startswith(b"\x89PNG")
    assert json.dumps(CONFIG.parameters())
