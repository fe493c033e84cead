"""The files that a cluster is made from are what Kubernetes, Ray Serve and the application take."""

import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from semrec_ray.config import AppConfig

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSION = "1.30"
SERVE_CONFIGS = sorted((ROOT / "serve_configs").glob("*.yaml"))


def documents() -> list[tuple[str, dict]]:
    found = []
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found.append((f"{path.name}:{document['kind']}:{document['metadata']['name']}", document))
    return found


MANIFESTS = dict(documents())
SERVICE = MANIFESTS["rayservice.yaml:RayService:semrec"]


def pods() -> dict[str, dict]:
    """The templates of the pods that the operator makes, as the pods they become."""
    cluster = SERVICE["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {
        name: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **group["template"]["metadata"]}}
        | {"spec": group["template"]["spec"]}
        for name, group in groups.items()
    }


@pytest.mark.parametrize("name", [name for name, document in MANIFESTS.items() if document["kind"] != "RayService"])
def test_kubernetes_takes_a_manifest(name):
    kubernetes_validate.validate(MANIFESTS[name], VERSION, strict=True)


@pytest.mark.parametrize("name", ["head", "gpu", "cpu"])
def test_kubernetes_takes_the_pods_of_the_ray_cluster(name):
    kubernetes_validate.validate(pods()[name], VERSION, strict=True)


def known(required: tuple[str, ...] = (), /, **properties: dict) -> dict:
    """An object of these fields and no others."""
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


TEXT, YES_OR_NO, COUNT, ANY = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}, {}
TEXTS = {"type": "object", "additionalProperties": TEXT}
SECRET = known(value=TEXT, valueFrom={"type": "object"})
GROUP = {"template": {"type": "object"}, "rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS}
WORKERS = known(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    **GROUP,
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
)
CLUSTER = known(
    ("headGroupSpec",),
    rayVersion=TEXT,
    headGroupSpec=known(("template",), **GROUP, headService=ANY, enableIngress=YES_OR_NO, serviceType=TEXT),
    workerGroupSpecs={"type": "array", "items": WORKERS},
    authOptions=known(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    gcsFaultToleranceOptions=known(
        ("redisAddress",), redisAddress=TEXT, redisUsername=SECRET, redisPassword=SECRET, externalStorageNamespace=TEXT
    ),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=ANY,
    headServiceAnnotations=TEXTS,
    suspend=YES_OR_NO,
)
# What KubeRay 1.6 has of a RayService (docs.ray.io, "KubeRay CRD API reference"), less what is deprecated there.
RAY_SERVICE = known(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata={"type": "object"},
    spec=known(
        ("serveConfigV2", "rayClusterConfig"),
        serveConfigV2=TEXT,
        rayClusterConfig=CLUSTER,
        serveService=ANY,
        upgradeStrategy=ANY,
        excludeHeadPodFromServeSvc=YES_OR_NO,
        rayClusterDeletionDelaySeconds=COUNT,
    ),
)


def test_kuberay_takes_the_ray_service():
    jsonschema.validate(SERVICE, RAY_SERVICE)


def test_the_operator_reaches_the_dashboard_and_whoever_has_no_token_does_not():
    cluster = SERVICE["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"].get("dashboard-host", "0.0.0.0") == "0.0.0.0"
    assert cluster["authOptions"]["mode"] == "token"
    policy = MANIFESTS["protection.yaml:NetworkPolicy:semrec"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    open_to_all = [rule for rule in policy["ingress"] if "from" not in rule]
    assert not open_to_all


def test_every_pod_runs_as_nobody_special_and_has_the_fast_environment():
    fast = shlex.split((ROOT / "serve_configs" / "fast.env").read_text(), comments=True)
    wanted = dict(variable.split("=", 1) for variable in fast)
    for pod in pods().values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        (container,) = pod["spec"]["containers"]
        given = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert wanted.items() <= given.items()


def test_the_cluster_has_a_gpu_for_every_shard():
    config = ServeDeploySchema.model_validate(yaml.safe_load(SERVICE["spec"]["serveConfigV2"]))
    args = AppConfig.model_validate(config.applications[0].args)
    gpus = pods()["gpu"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    (group,) = (each for each in SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"] if each["groupName"] == "gpu")
    assert group["minReplicas"] * int(gpus) >= args.shards * args.num_gpus


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_serve_and_the_application_take_a_config(path):
    config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    for application in config.applications:
        AppConfig.model_validate(application.args)


def test_every_anchor_of_compose_is_a_service_that_is_there():
    compose = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", [])) <= services.keys()
        named = [volume.split(":")[0] for volume in service.get("volumes", [])]
        for source in named:
            there = (ROOT / "deploy" / "docker" / source).resolve().exists() if source.startswith(".") else False
            assert there or source in compose["volumes"], source


def test_the_health_check_fails_where_nothing_answers():
    health = ROOT / "deploy" / "docker" / "health.py"
    done = subprocess.run(
        [sys.executable, str(health)], env={"SEMREC_PORT": "9"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9/-/healthz" in done.stderr
