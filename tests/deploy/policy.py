"""The deploy checklist as rules over rendered objects. A rule yields what is wrong, in words.

Rules look at every workload and every container, so that a container added later obeys as well.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tests.deploy.kustomize import Object, containers_of

Rule: TypeAlias = Callable[[list[Object]], Iterator[str]]
RULES: dict[str, Rule] = {}
_EVERYONE: tuple[Object, ...] = ({}, {"namespaceSelector": {}}, {"podSelector": {}})
_SECRET = re.compile(r"rwd_[0-9a-f]{8}_|[0-9a-f]{8}:[0-9a-f]{64}")
_TAG = re.compile(r"[^:@]+(:\d+/[^:@]+)?:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")


def rule(check: Rule) -> Rule:
    RULES[getattr(check, "__name__", "")] = check
    return check


def broken(objects: list[Object]) -> list[str]:
    """Every breach, as `rule: what`."""
    return [f"{name}: {what}" for name, check in RULES.items() for what in check(objects)]


def pods(objects: list[Object]) -> Iterator[Object]:
    """The pod templates of all workloads."""
    for found in objects:
        if "template" in found.get("spec", {}):
            yield found["spec"]["template"]


def containers(objects: list[Object]) -> Iterator[Object]:
    for found in objects:
        yield from containers_of(found)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def server_settings(objects: list[Object]) -> dict[str, Any]:
    """The [server] section that the pods read."""
    (text,) = [c["data"]["rewardd.toml"] for c in of_kind(objects, "ConfigMap")]
    return dict(tomllib.loads(text)["server"])


@rule
def the_pod_runs_as_a_plain_user(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        context = pod["spec"].get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) < 10_000:
            yield "not a non-root uid"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield "seccomp is not RuntimeDefault"
        if any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield "it shares a namespace of the host"


@rule
def the_container_can_do_nothing_more(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        context = container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True:
            yield "the root file system is writable"
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield "privileges may be gained"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield "capabilities are kept"
        if not context.get("runAsUser", 10_000) >= 10_000 or context.get("runAsNonRoot") is False:
            yield "the container overrides the user"


@rule
def no_token_of_the_cluster_is_mounted(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod["spec"].get("automountServiceAccountToken") is not False:
            yield "the pod mounts a service-account token"
        if pod["spec"].get("serviceAccountName", "default") == "default":
            yield "the pod uses the default service account"
        if pod["spec"].get("enableServiceLinks") is not False:
            yield "service links add variables that begin with our prefix"
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield "the service account mounts its token"


@rule
def what_is_writable_is_small_and_temporary(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        mounts = [m for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])]
        for mount in mounts:
            volume = volumes[mount["name"]]
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{mount['mountPath']} has no size limit"
            if "emptyDir" not in volume and mount.get("readOnly") is not True:
                yield f"{mount['mountPath']} is writable"
            claim = volume.get("persistentVolumeClaim")
            if claim is not None and claim.get("readOnly") is not True:
                yield f"the claim {claim['claimName']} is writable"
            if "hostPath" in volume:
                yield f"{mount['mountPath']} is of the host"
        needed = {"/tmp", "/dev/shm", "/var/lib/rewardd"}
        missing = needed - {mount["mountPath"] for mount in mounts}
        if missing:
            yield f"nothing is mounted at {sorted(missing)}"


@rule
def images_are_named_exactly(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        if not _TAG.fullmatch(container["image"]) or "latest" in container["image"]:
            yield f"image {container['image']}"


@rule
def serving_pods_ask_no_hub(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        values = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        if values.get("HF_HUB_OFFLINE") != "1":
            yield "HF_HUB_OFFLINE is not 1"


@rule
def the_network_is_denied_by_default(objects: list[Object]) -> Iterator[str]:
    policies = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    both = ["Ingress", "Egress"]
    whole = {"podSelector": {}, "policyTypes": both}
    if whole not in policies:
        yield "no policy denies everything"
    for policy in policies:
        if policy.get("policyTypes") != both:
            yield "a policy is silent on a direction"
        entries = policy.get("ingress", [])
        if any(not entry.get("from") or not entry.get("ports") for entry in entries):
            yield "ingress from anywhere, or to any port"
        sources = [source for entry in entries for source in entry.get("from", [])]
        if any(source in _EVERYONE or "ipBlock" in source for source in sources):
            yield "ingress from everyone"
        if policy.get("egress"):
            yield "the server may open connections"


@rule
def the_service_stays_inside_the_cluster(objects: list[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"a Service of type {service['spec']['type']}"


@rule
def three_probes_ask_three_things(objects: list[Object]) -> Iterator[str]:
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for container in containers(objects):
        for name, path in paths.items():
            if container.get(name, {}).get("httpGet", {}).get("path") != path:
                yield f"{name} does not ask {path}"
        startup, liveness = container.get("startupProbe", {}), container.get("livenessProbe", {})
        if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < 600:
            yield "a model has less than ten minutes to load"
        if liveness.get("periodSeconds", 10) * liveness.get("failureThreshold", 3) < 30:
            yield "liveness kills within half a minute"
        readiness = container.get("readinessProbe", {})
        if min(readiness.get("timeoutSeconds", 1), startup.get("timeoutSeconds", 1)) <= 5:
            yield "/readyz waits 5 s for a pool, the probe less"


@rule
def leaving_fits_into_the_grace_period(objects: list[Object]) -> Iterator[str]:
    server = server_settings(objects)
    for pod in pods(objects):
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        for container in pod["spec"]["containers"]:
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            if not sleep.get("seconds"):
                yield "no preStop"
            needed = sleep.get("seconds", 0) + server["drain_notice_s"] + server["drain_s"]
            if grace <= needed:
                yield f"{grace} s of grace for {needed} s of leaving"
            probe = container.get("readinessProbe", {})
            unready = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
            if server["drain_notice_s"] <= unready:
                yield f"a notice of {server['drain_notice_s']} s, unready after {unready} s"


@rule
def a_disruption_takes_one_pod(objects: list[Object]) -> Iterator[str]:
    budgets = [budget["spec"] for budget in of_kind(objects, "PodDisruptionBudget")]
    for found in of_kind(objects, "Deployment"):
        own = [b for b in budgets if b.get("selector") == found["spec"]["selector"]]
        if [b.get("maxUnavailable") for b in own] != [1] or any("minAvailable" in b for b in own):
            yield "no budget of maxUnavailable 1"
        if not found["spec"]["template"]["spec"].get("topologySpreadConstraints"):
            yield "replicas may share one node"


@rule
def memory_is_requested_as_limited(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if not limits.get("memory") or limits["memory"] != requests.get("memory"):
            yield "memory requests are not its limits"
        if not requests.get("cpu"):
            yield "no cpu is requested"


@rule
def secrets_come_from_a_secret(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        words = [*container.get("args", []), *container.get("command", [])]
        if _SECRET.search(" ".join(words)):
            yield "an argument holds a key or its hash"
        for entry in container.get("env", []):
            wanted = entry["name"] == "REWARDD_TENANTS"
            if _SECRET.search(str(entry.get("value", ""))) or (wanted and "value" in entry):
                yield f"{entry['name']} is written down"
    for found in objects:
        if found["kind"] == "Secret" or _SECRET.search(str(found.get("data", ""))):
            yield f"a {found['kind']} holds keys"


@rule
def the_server_knows_its_tenants(objects: list[Object]) -> Iterator[str]:
    for container in containers(objects):
        named = {entry["name"]: entry.get("valueFrom", {}) for entry in container.get("env", [])}
        if "secretKeyRef" not in named.get("REWARDD_TENANTS", {}):
            yield "no tenants: the start would be refused"


@rule
def pods_and_selectors_agree(objects: list[Object]) -> Iterator[str]:
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]
    selectors = [service["spec"]["selector"] for service in of_kind(objects, "Service")]
    selectors += [d["spec"]["selector"]["matchLabels"] for d in of_kind(objects, "Deployment")]
    for selector in selectors:
        if not any(selector.items() <= own.items() for own in labels):
            yield f"{selector} selects no pod"
    maps = {found["metadata"]["name"] for found in of_kind(objects, "ConfigMap")}
    claims = {found["metadata"]["name"] for found in of_kind(objects, "PersistentVolumeClaim")}
    for volume in (v for pod in pods(objects) for v in pod["spec"].get("volumes", [])):
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            yield f"no ConfigMap {volume['configMap']['name']}"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and claim not in claims:
            yield f"no claim {claim}"


@rule
def the_namespace_enforces_the_standard(objects: list[Object]) -> Iterator[str]:
    for space in of_kind(objects, "Namespace"):
        labels = space["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace does not enforce `restricted`"
    names = {found["metadata"]["name"] for found in of_kind(objects, "Namespace")}
    for found in objects:
        if found["kind"] != "Namespace" and found["metadata"].get("namespace") not in names:
            yield f"{found['kind']} {found['metadata']['name']} lies in another namespace"
