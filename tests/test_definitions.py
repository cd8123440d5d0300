"""What the code location holds: a snapshot of every asset, and rules that hold for all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from acie_pipelines import definitions, jobs
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.execution import default_executor
from acie_pipelines.settings import Settings

HEAVY = {"astropy", "kubernetes", "matplotlib", "mlflow", "pandas", "phe", "scipy", "torch", "zuko"}
SNAPSHOT = Path(__file__).parent / "definitions_snapshot.json"


def checks_of(spec: dg.AssetSpec, assets_def: dg.AssetsDefinition | None) -> dict[str, str]:
    """Checks in the asset's own step, and those that are steps of their own."""
    own = [] if assets_def is None else [(check, "") for check in assets_def.check_specs]
    apart = [
        (check, " in a step of its own")
        for checks_def in definitions.defs.asset_checks or ()
        for check in checks_def.check_specs
    ]
    return {
        check.name: ("blocking" if check.blocking else "warning") + where
        for check, where in sorted(own + apart, key=lambda pair: pair[0].name)
        if check.asset_key == spec.key
    }


def describe(spec: dg.AssetSpec, assets_def: dg.AssetsDefinition | None) -> dict[str, object]:
    automation = spec.automation_condition
    ops = [] if assets_def is None else list(assets_def.node_def.iterate_op_defs())
    tags = {name: value for op in ops for name, value in op.tags.items()}
    retries = [0 if op.retry_policy is None else op.retry_policy.max_retries for op in ops]
    return {
        "group": spec.group_name,
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partitions": spec.partitions_def.name if spec.partitions_def is not None else None,
        "pool": next((op.pool for op in ops if op.pool), None),
        "op_tags": json.loads(json.dumps(tags, default=str)),
        "kinds": sorted(spec.kinds),
        "owners": sorted(spec.owners),
        "code_version": spec.code_version,
        "automation": automation.get_label() if automation is not None else None,
        "retries": min(retries, default=0),
        "freshness": str(spec.freshness_policy) if spec.freshness_policy is not None else None,
        "checks": checks_of(spec, assets_def),
    }


def all_assets() -> dict[str, dict[str, object]]:
    described = {}
    for item in definitions.defs.assets or ():
        if isinstance(item, dg.AssetsDefinition):
            for spec in item.specs:
                described[spec.key.to_user_string()] = describe(spec, item)
        elif isinstance(item, dg.AssetSpec):
            described[item.key.to_user_string()] = describe(item, None)
    return described


def test_snapshot() -> None:
    """A change of key, group, dependency, pool or tag is a decision, not an accident."""
    actual = all_assets()
    if os.environ.get("ACIE_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(actual, indent=1, sort_keys=True) + "\n")
    assert actual == json.loads(SNAPSHOT.read_text())


def test_every_module_is_in_the_folder_of_its_group() -> None:
    for group, modules in definitions.GROUPS.items():
        for module in modules:
            assert module.__name__.split(".")[:2] == ["assets", group]
            for item in dg.load_assets_from_modules([module], include_specs=True):
                specs = item.specs if isinstance(item, dg.AssetsDefinition) else [item]
                assert {spec.group_name for spec in specs} == {group}


def test_every_asset_is_described_and_owned() -> None:
    for item in definitions.defs.assets or ():
        for spec in item.specs if isinstance(item, dg.AssetsDefinition) else [item]:
            assert spec.description, spec.key
            assert spec.owners, spec.key
            assert spec.kinds, spec.key


def test_only_ingest_validation_and_promotion_block() -> None:
    blocking = {
        name: {check for check, kind in asset["checks"].items() if kind == "blocking"}
        for name, asset in all_assets().items()
    }
    groups = {all_assets()[name]["group"] for name, checks in blocking.items() if checks}
    assert groups == {"ingestion", "validation", "promotion"}


def test_definitions_validate() -> None:
    dg.Definitions.validate_loadable(definitions.defs)


def test_loading_the_code_location_leaves_heavy_modules_alone() -> None:
    script = (
        "import sys, acie_pipelines.definitions\n"
        f"sys.exit(' '.join({HEAVY!r} & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_retraining_is_off_by_default() -> None:
    schedule = definitions.defs.resolve_schedule_def("weekly_retraining")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == jobs.RETRAIN


def test_kubernetes_needs_shared_state() -> None:
    with pytest.raises(ConfigurationError, match="ACIE_STORAGE_URL"):
        Settings.from_environment({"ACIE_EXECUTOR": "k8s"})
    with pytest.raises(ConfigurationError, match="ACIE_DATABASE_URL"):
        Settings.from_environment(
            {
                "ACIE_EXECUTOR": "k8s",
                "ACIE_STORAGE_URL": "s3://bucket/acie",
                "ACIE_DATABASE_URL": "sqlite:////tmp/acie.db",
            }
        )


def test_kubernetes_needs_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACIE_K8S_IMAGE", raising=False)
    with pytest.raises(ConfigurationError, match="ACIE_K8S_IMAGE"):
        default_executor(kubernetes_settings())


def test_unknown_executor_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="multiprocess, in_process or k8s"):
        Settings.from_environment({"ACIE_EXECUTOR": "celery"})


def kubernetes_settings() -> Settings:
    return Settings.from_environment(
        {
            "ACIE_EXECUTOR": "k8s",
            "ACIE_STORAGE_URL": "s3://bucket/acie",
            "ACIE_DATABASE_URL": "postgresql+psycopg2://acie@db/acie",
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        }
    )


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: nowhere
clusters: [{name: nowhere, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
users: [{name: nobody, user: {}}]
"""


def test_only_training_steps_ask_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Build the Kubernetes Job of every step as dagster-k8s does and look into its pod."""
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import (
        UserDefinedDagsterK8sConfig,
        construct_dagster_k8s_job,
        get_user_defined_k8s_config,
    )

    monkeypatch.setenv("ACIE_K8S_IMAGE", "registry.example/acie:0.1.0")
    monkeypatch.setenv("ACIE_K8S_NAMESPACE", "acie")
    monkeypatch.setenv("ACIE_K8S_ENV_SECRETS", "acie-keys, acie-database")
    settings = kubernetes_settings()
    executor = default_executor(settings)
    config = executor.config_schema.resolve_config({}).value["config"]
    defs = definitions.build_defs(settings=settings)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    launcher = K8sRunLauncher(
        service_account_name="dagster",
        instance_config_map="dagster-instance",
        dagster_home="/opt/dagster/dagster_home",
        load_incluster_config=False,
        kubeconfig_file=str(kubeconfig),
    )
    gpu_steps = set()
    names = set()
    for job_name in (jobs.PROCESS_OBSERVATION, jobs.RETRAIN):
        for op in defs.resolve_job_def(job_name).graph.iterate_op_defs():
            context = K8sContainerContext(
                namespace=config["job_namespace"],
                env_secrets=config["env_secrets"],
                run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config["step_k8s_config"]),
            ).merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(op.tags)))
            body = construct_dagster_k8s_job(
                job_config=context.get_k8s_job_config(config["job_image"], launcher),
                args=["dagster", "api", "execute_step"],
                job_name=f"step-{op.name}".replace("_", "-"),
                user_defined_k8s_config=context.run_k8s_config,
            ).to_dict()
            names.add(op.name)
            pod = body["spec"]["template"]["spec"]
            container = pod["containers"][0]
            assert container["image"] == "registry.example/acie:0.1.0"
            assert body["spec"]["backoff_limit"] == 0
            assert {s["secret_ref"]["name"] for s in container["env_from"]} >= {
                "acie-keys",
                "acie-database",
            }
            if "nvidia.com/gpu" in str(container["resources"]):
                gpu_steps.add(op.name)
                assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
                assert pod["node_selector"] == {"nvidia.com/gpu.present": "true"}
                assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
            else:
                assert not pod["node_selector"]
                assert not pod["tolerations"]
    assert gpu_steps == {"galaxy_scm", "counterfactual_model"}
    # run_failures has no step, encrypted_tiles three; two checks by the owner have their own.
    owners = {"encrypted_statistics_sums_equal_plaintext", "encrypted_tiles_decrypt"}
    assert owners <= names
    assert len(names) == len(all_assets()) - 1 + 2 + len(owners)
