"""The manifests: valid for Kubernetes, faithful to the checklist, and accepted by the server.

Every rule of the checklist is broken in copies of the rendered objects; a mutant that no rule
notices fails the test.
"""

import copy
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

import rewardd.methods
from rewardd.config import Config, read_config
from rewardd.core.registry import discover
from rewardd.gateway.auth import check_exposure
from rewardd.keys import KeyRing, make_key
from tests.deploy import policy
from tests.deploy.kustomize import Object, build, merge

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDERS = ["base", "overlays/demo", "overlays/gpu"]
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
_HASH = "1f2e3d4c:" + "0" * 64

DEPLOYMENT = "Deployment"
POD = ("spec", "template", "spec")
BOX = (*POD, "containers", 0)

# rule -> the changes that break it: (kind, path, new value), `None` takes the key away
MUTANTS: dict[str, list[tuple[str, tuple[str | int, ...], Any]]] = {
    "the_pod_runs_as_a_plain_user": [
        (DEPLOYMENT, (*POD, "securityContext", "runAsNonRoot"), None),
        (DEPLOYMENT, (*POD, "securityContext", "runAsUser"), 0),
        (DEPLOYMENT, (*POD, "securityContext", "seccompProfile", "type"), "Unconfined"),
        (DEPLOYMENT, (*POD, "hostNetwork"), True),
    ],
    "the_container_can_do_nothing_more": [
        (DEPLOYMENT, (*BOX, "securityContext", "readOnlyRootFilesystem"), False),
        (DEPLOYMENT, (*BOX, "securityContext", "allowPrivilegeEscalation"), None),
        (DEPLOYMENT, (*BOX, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
        (DEPLOYMENT, (*BOX, "securityContext", "capabilities", "drop"), ["NET_RAW"]),
        (DEPLOYMENT, (*BOX, "securityContext", "privileged"), True),
        (DEPLOYMENT, (*BOX, "securityContext", "runAsUser"), 0),
    ],
    "no_token_of_the_cluster_is_mounted": [
        (DEPLOYMENT, (*POD, "automountServiceAccountToken"), None),
        (DEPLOYMENT, (*POD, "serviceAccountName"), None),
        (DEPLOYMENT, (*POD, "enableServiceLinks"), None),
        ("ServiceAccount", ("automountServiceAccountToken",), None),
    ],
    "what_is_writable_is_small_and_temporary": [
        (DEPLOYMENT, (*POD, "volumes", 1, "emptyDir", "sizeLimit"), None),
        (DEPLOYMENT, (*POD, "volumes", 3, "emptyDir", "sizeLimit"), None),
        (DEPLOYMENT, (*BOX, "volumeMounts", 0, "readOnly"), None),
        (DEPLOYMENT, (*BOX, "volumeMounts", 2, "mountPath"), "/scratch"),
        (DEPLOYMENT, (*POD, "volumes", 0), {"name": "config", "hostPath": {"path": "/etc"}}),
    ],
    "images_are_named_exactly": [
        (DEPLOYMENT, (*BOX, "image"), "rewardd:latest"),
        (DEPLOYMENT, (*BOX, "image"), "rewardd"),
        (DEPLOYMENT, (*BOX, "image"), "rewardd:0"),
    ],
    "serving_pods_ask_no_hub": [(DEPLOYMENT, (*BOX, "env", 1, "value"), "0")],
    "the_network_is_denied_by_default": [
        ("NetworkPolicy", ("spec", "podSelector"), {"matchLabels": {"a": "b"}}),
        ("NetworkPolicy", ("spec", "policyTypes"), ["Ingress"]),
        ("NetworkPolicy/rewardd", ("spec", "ingress", 0, "from"), None),
        ("NetworkPolicy/rewardd", ("spec", "ingress", 0, "ports"), None),
        ("NetworkPolicy/rewardd", ("spec", "ingress", 0, "from", 0), {"namespaceSelector": {}}),
        ("NetworkPolicy/rewardd", ("spec", "ingress", 0, "from", 0), {"ipBlock": {"cidr": "::/0"}}),
        ("NetworkPolicy/rewardd", ("spec", "egress"), [{}]),
    ],
    "the_service_stays_inside_the_cluster": [("Service", ("spec", "type"), "LoadBalancer")],
    "three_probes_ask_three_things": [
        (DEPLOYMENT, (*BOX, "startupProbe"), None),
        (DEPLOYMENT, (*BOX, "startupProbe", "failureThreshold"), 12),
        (DEPLOYMENT, (*BOX, "readinessProbe", "httpGet", "path"), "/livez"),
        (DEPLOYMENT, (*BOX, "readinessProbe", "timeoutSeconds"), None),
        (DEPLOYMENT, (*BOX, "livenessProbe", "httpGet", "path"), "/readyz"),
        (DEPLOYMENT, (*BOX, "livenessProbe", "failureThreshold"), 1),
    ],
    "leaving_fits_into_the_grace_period": [
        (DEPLOYMENT, (*POD, "terminationGracePeriodSeconds"), None),
        (DEPLOYMENT, (*BOX, "lifecycle"), None),
        (DEPLOYMENT, (*BOX, "lifecycle", "preStop", "sleep", "seconds"), 30),
        (DEPLOYMENT, (*BOX, "readinessProbe", "failureThreshold"), 3),
    ],
    "a_disruption_takes_one_pod": [
        ("PodDisruptionBudget", ("spec", "maxUnavailable"), "100%"),
        ("PodDisruptionBudget", ("spec", "minAvailable"), "100%"),
        ("PodDisruptionBudget", ("spec", "selector", "matchLabels"), {"app": "other"}),
        (DEPLOYMENT, (*POD, "topologySpreadConstraints"), None),
    ],
    "memory_is_requested_as_limited": [
        (DEPLOYMENT, (*BOX, "resources", "limits", "memory"), None),
        (DEPLOYMENT, (*BOX, "resources", "requests", "memory"), "1Gi"),
        (DEPLOYMENT, (*BOX, "resources", "requests", "cpu"), None),
    ],
    "secrets_come_from_a_secret": [
        (DEPLOYMENT, (*BOX, "args"), ["serve", "--key", "rwd_1f2e3d4c_abc"]),
        (DEPLOYMENT, (*BOX, "env", 0), {"name": "REWARDD_TENANTS", "value": "{}"}),
        (DEPLOYMENT, (*BOX, "env", 1), {"name": "OTHER", "value": _HASH}),
        ("ConfigMap", ("data", "keys"), _HASH),
        ("ServiceAccount", ("kind",), "Secret"),
    ],
    "the_server_knows_its_tenants": [(DEPLOYMENT, (*BOX, "env", 0, "name"), "REWARDD_TENANT")],
    "pods_and_selectors_agree": [
        ("Service", ("spec", "selector"), {"app": "other"}),
        ("ConfigMap", ("metadata", "name"), "other"),
    ],
    "the_namespace_enforces_the_standard": [
        ("Namespace", ("metadata", "labels"), None),
        ("Service", ("metadata", "namespace"), "default"),
    ],
}
CHANGES = [
    pytest.param(rule, kind, path, value, id=f"{rule}: {'.'.join(map(str, path))} = {value}")
    for rule, changes in MUTANTS.items()
    for kind, path, value in changes
]


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return build(DEPLOY / request.param)


def test_every_folder_is_known() -> None:
    found = {path.parent.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("kustomization*")}
    assert found == set(FOLDERS)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_objects_are_valid(objects: list[Object], version: str) -> None:
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)


def test_the_validator_is_awake(objects: list[Object]) -> None:
    mutated = changed(objects, DEPLOYMENT, (*BOX, "readOnlyRootFilesystem"), True)
    (misplaced,) = policy.of_kind(mutated, DEPLOYMENT)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misplaced, NEWEST, strict=True)


def test_the_checklist_is_kept(objects: list[Object]) -> None:
    assert policy.broken(objects) == []


@pytest.mark.parametrize(("rule", "kind", "path", "value"), CHANGES)
def test_a_broken_rule_is_noticed(
    rule: str, kind: str, path: tuple[str | int, ...], value: Any
) -> None:
    mutated = changed(build(DEPLOY / "base"), kind, path, value)
    assert any(what.startswith(f"{rule}: ") for what in policy.broken(mutated))


def test_every_rule_has_its_mutants() -> None:
    assert set(MUTANTS) == set(policy.RULES)


def test_a_writable_model_volume_is_noticed() -> None:
    rendered = build(DEPLOY / "overlays/gpu")
    (index,) = [i for i, v in enumerate(at(rendered, POD)["volumes"]) if v["name"] == "models"]
    claim = (*POD, "volumes", index, "persistentVolumeClaim")
    (mount,) = [i for i, m in enumerate(at(rendered, BOX)["volumeMounts"]) if m["name"] == "models"]
    for path in ((*claim, "readOnly"), (*BOX, "volumeMounts", mount, "readOnly")):
        assert policy.broken(changed(rendered, DEPLOYMENT, path, None))
    assert policy.broken(changed(rendered, DEPLOYMENT, (*claim, "claimName"), "other"))


def test_the_gpu_overlay_asks_for_a_gpu_and_surges_nothing() -> None:
    rendered = build(DEPLOY / "overlays/gpu")
    assert at(rendered, BOX)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert at(rendered, BOX)["image"].endswith("-gpu")
    rolling = at(rendered, ("spec", "strategy", "rollingUpdate"))
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}
    assert at(rendered, BOX)["startupProbe"]["failureThreshold"] == 360
    assert at(rendered, BOX)["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_the_server_accepts_its_file_and_its_tenants(
    objects: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = make_key()
    monkeypatch.setenv("REWARDD_TENANTS", f'{{"Lab-1": {{"keys": ["{line}"]}}}}')
    monkeypatch.setenv("REWARDD_SERVER__HOST", "0.0.0.0")
    config = read_config(written(objects, tmp_path), None)
    check_exposure(config)
    assert KeyRing(config.tenants).tenant_of(key) == "Lab-1"
    assert config.server.host == "0.0.0.0"
    check_models(config)


def check_models(config: Config) -> None:
    """Methods exist, roles are bound to pools, params are valid: what the start would look at."""
    specs = discover(rewardd.methods)
    for model in config.models.values():
        spec = specs[model.method]
        assert set(spec.roles) <= set(model.roles)
        assert set(model.roles.values()) <= set(config.pools)
        spec.parse(model.params, None)


def test_the_overlays_serve_something_and_the_base_is_there_to_be_built_upon(
    tmp_path: Path,
) -> None:
    for folder in FOLDERS:
        rendered = build(DEPLOY / folder)
        demo = "--demo" in at(rendered, BOX)["args"]
        models = tomllib.loads(written(rendered, tmp_path).read_text()).get("models")
        assert (demo, bool(models)) == (folder == "overlays/demo", folder == "overlays/gpu")


CONFIG = "/etc/rewardd/rewardd.toml"


def test_the_file_lies_where_the_command_looks(objects: list[Object]) -> None:
    args = at(objects, BOX)["args"]
    assert args[args.index("--config") + 1] == CONFIG
    (mount,) = [m for m in at(objects, BOX)["volumeMounts"] if m["name"] == "config"]
    assert mount["mountPath"] == str(Path(CONFIG).parent)


def test_a_changed_file_gives_the_pods_a_new_name() -> None:
    """So that `kubectl apply` restarts them: the base and the GPU overlay differ in the file."""
    base, gpu = build(DEPLOY / "base"), build(DEPLOY / "overlays/gpu")
    assert at(base, POD)["volumes"][0] != at(gpu, POD)["volumes"][0]


def test_the_merge_is_kubernetes_own() -> None:
    below = {"containers": [{"name": "a", "args": ["x"], "env": [{"name": "E", "value": "1"}]}]}
    patch = {"containers": [{"name": "a", "args": ["y"]}, {"name": "b"}]}
    assert merge(below, patch) == {
        "containers": [
            {"name": "a", "args": ["y"], "env": [{"name": "E", "value": "1"}]},
            {"name": "b"},
        ]
    }
    for refused in ({"containers": [{"name": "a", "$patch": "delete"}]}, {"containers": None}):
        with pytest.raises(NotImplementedError):
            merge(below, refused)


def written(objects: list[Object], tmp_path: Path) -> Path:
    (text,) = [c["data"]["rewardd.toml"] for c in policy.of_kind(objects, "ConfigMap")]
    path = tmp_path / "rewardd.toml"
    path.write_text(text)
    return path


def at(objects: list[Object], path: tuple[str | int, ...]) -> Any:
    """What stands at `path` of the Deployment."""
    (found,) = policy.of_kind(objects, DEPLOYMENT)
    for key in path:
        found = found[key]  # type: ignore[index]
    return found


def changed(
    objects: list[Object], kind: str, path: tuple[str | int, ...], value: Any
) -> list[Object]:
    """A copy in which the first object of the kind (`KIND/NAME`: that one) is changed."""
    mutated = copy.deepcopy(objects)
    kind, _, name = kind.partition("/")
    found: Any = next(
        each for each in mutated if each["kind"] == kind and name in ("", each["metadata"]["name"])
    )
    for key in path[:-1]:
        found = found.setdefault(key, {}) if isinstance(found, dict) else found[key]
    if value is None:
        del found[path[-1]]
    else:
        found[path[-1]] = value
    return mutated
