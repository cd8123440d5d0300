"""Where steps run: executors, and what a step asks of Kubernetes.

Belongs here: executor selection and op tags. Does not belong here: the pods of the deployment
itself, which are values of the Helm chart in ``deploy/``.
"""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings

__all__ = [
    "ENCRYPTION_OP_TAGS",
    "GPU_OP_TAGS",
    "GPU_POOL",
    "default_executor",
    "observation_executor",
]

GPU_POOL = "gpu"

# On the asset, not on a job: job tags never reach step pods and a click on "Materialize" in the UI
# goes around jobs altogether.
GPU_OP_TAGS: Mapping[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "pod_spec_config": {
            "node_selector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ],
        },
    }
}

# A group of tiles keeps a core busy for a minute or more, in memory that does not grow with it.
ENCRYPTION_OP_TAGS: Mapping[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {
            "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
        }
    }
}


def _k8s_executor(environment: Mapping[str, str]) -> dg.ExecutorDefinition:
    from dagster_k8s import k8s_job_executor

    image = environment.get("ACIE_K8S_IMAGE")
    if not image:
        raise ConfigurationError(
            "ACIE_K8S_IMAGE", "is not set", "name the image that step pods run, with its tag"
        )
    config: dict[str, Any] = {"job_image": image, "step_k8s_config": {"job_spec_config": {}}}
    # A retried pod would run beside Dagster's own retry of the same step.
    config["step_k8s_config"]["job_spec_config"]["backoff_limit"] = 0
    for variable, field in (
        ("ACIE_K8S_NAMESPACE", "job_namespace"),
        ("ACIE_K8S_SERVICE_ACCOUNT", "service_account_name"),
    ):
        if environment.get(variable):
            config[field] = environment[variable]
    for variable, field in (
        ("ACIE_K8S_ENV_SECRETS", "env_secrets"),
        ("ACIE_K8S_ENV_CONFIG_MAPS", "env_config_maps"),
    ):
        if environment.get(variable):
            config[field] = [name.strip() for name in environment[variable].split(",")]
    executor: dg.ExecutorDefinition = k8s_job_executor.configured(config)
    return executor


def default_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Executor of materialisations and of the retraining job.

    Raises
    ------
    ConfigurationError
        If Kubernetes is chosen and ``ACIE_K8S_IMAGE`` is not set.
    """
    if settings.executor == "k8s":
        return _k8s_executor(os.environ)
    if settings.executor == "in_process":
        return dg.in_process_executor
    return dg.multiprocess_executor


def observation_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Executor of the job that takes one observation through the graph.

    Its steps take seconds and the kernels inside them use every core, so one process per run beats
    one per step; runs are what runs in parallel.
    """
    return _k8s_executor(os.environ) if settings.executor == "k8s" else dg.in_process_executor
