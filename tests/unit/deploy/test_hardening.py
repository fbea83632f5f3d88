"""What the deployments allow their processes, and the room that files and uploads need."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from api.openai.batches.files import OVERHEAD_BYTES
from penstock.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
OURS = re.compile(r"api|proxy|redis|worker-.*")
MIB = 1024 * 1024


def manifests(*kinds: str) -> list[dict[str, Any]]:
    return [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] in kinds
    ]


def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_composes_containers_can_do_no_more_than_they_need() -> None:
    ours = {name: service for name, service in services().items() if OURS.fullmatch(name)}
    assert {"api", "proxy", "redis", "worker-demo-cpu"} <= set(ours)
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name, service in ours.items():
        assert service["read_only"] is True, name
        assert any(one.startswith("/tmp") for one in service["tmpfs"]), name
    for name in ("api", "worker"):
        lines = (ROOT / f"docker/Dockerfile.{name}").read_text().splitlines()
        assert "USER penstock" in lines


def test_composes_api_can_be_scaled() -> None:
    assert "ports" not in services()["api"], "one port cannot be several containers'"
    proxy = services()["proxy"]
    assert proxy["environment"]["PROXY_UPSTREAM"] == "api:8000"
    # One name for all of them: Caddy would pass over the living with one that died.
    assert int(proxy["environment"]["PROXY_MAX_FAILS"]) >= 1_000_000
    assert "max_fails {$PROXY_MAX_FAILS:1}" in (DEPLOY / "caddy/Caddyfile").read_text()
    source = proxy["volumes"][0].split(":")[0]
    assert (ROOT / source).is_file()


def test_pods_have_a_read_only_root_and_room_for_uploads() -> None:
    for one in manifests("Deployment", "StatefulSet", "Job"):
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        if one["kind"] != "StatefulSet":
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            named = {volume["name"]: volume for volume in pod["volumes"]}
            assert set(mounts.values()) == set(named)
            assert "emptyDir" in named[mounts["/tmp"]]


def test_the_apis_replicas_share_their_files() -> None:
    (api,) = (one for one in manifests("Deployment") if one["metadata"]["name"] == "penstock-api")
    assert api["spec"]["replicas"] > 1
    volumes = {one["name"]: one for one in api["spec"]["template"]["spec"]["volumes"]}
    name = volumes["files"]["persistentVolumeClaim"]["claimName"]
    claims = {one["metadata"]["name"]: one["spec"] for one in manifests("PersistentVolumeClaim")}
    assert claims[name]["accessModes"] == ["ReadWriteMany"]


def test_every_workload_has_a_network_policy_and_a_disruption_budget() -> None:
    guarded = [one["spec"]["podSelector"]["matchLabels"] for one in manifests("NetworkPolicy")]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in manifests("PodDisruptionBudget")]
    for one in manifests("Deployment", "StatefulSet", "Job"):
        labels = one["spec"]["template"]["metadata"]["labels"].items()
        assert any(chosen.items() <= labels for chosen in guarded), labels
        if one["kind"] == "Deployment":
            assert any(chosen.items() <= labels for chosen in budgets), labels


def test_workers_read_the_models_that_a_job_pulls() -> None:
    (job,) = manifests("Job")
    assert job["spec"]["suspend"] is True, "it waits until its user has chosen a model"
    (pull,) = job["spec"]["template"]["spec"]["containers"]
    assert pull["args"][:2] == ["penstock", "pull"]
    configs = {one["metadata"]["name"]: one["data"] for one in manifests("ConfigMap")}
    shared = configs["penstock"]
    (entry,) = tomllib.loads(configs["models"]["models.toml"])["models"].values()
    assert entry["path"] == f"{shared['PENSTOCK_MODELS_DIR']}/{pull['args'][2]}"
    claims = {one["metadata"]["name"]: one["spec"] for one in manifests("PersistentVolumeClaim")}
    assert claims["models"]["accessModes"] == ["ReadWriteMany"]
    for worker in manifests("Deployment"):
        if worker["metadata"]["name"].startswith("worker-"):
            (container,) = worker["spec"]["template"]["spec"]["containers"]
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts["models"]["mountPath"] == shared["PENSTOCK_MODELS_DIR"]
            assert mounts["models"]["readOnly"] is True
            folder = mounts["models-file"]["mountPath"]
            assert f"{folder}/models.toml" == shared["PENSTOCK_MODELS_FILE"]


def test_workers_reach_redis_and_names_alone() -> None:
    (policy,) = (
        one for one in manifests("NetworkPolicy") if one["metadata"]["name"] == "penstock-worker"
    )
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {6379, 53}
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {9100}


@pytest.mark.parametrize(
    ("file", "pattern", "unit"),
    [
        ("nginx/penstock.conf", r"client_max_body_size (\d+)m;", MIB),
        ("caddy/Caddyfile", r"max_size (\d+)MiB", MIB),
    ],
)
def test_proxies_let_through_what_the_api_takes(file: str, pattern: str, unit: int) -> None:
    text = (DEPLOY / file).read_text()
    sizes = sorted(int(size) * unit for size in re.findall(pattern, text))
    settings = Settings()
    assert len(sizes) == 2
    assert sizes[0] == settings.max_body_bytes
    assert settings.max_file_bytes + OVERHEAD_BYTES <= sizes[1] <= settings.max_file_bytes + 4 * MIB


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("nginx/penstock.conf", r"proxy_read_timeout (\d+)s;"),
        ("caddy/Caddyfile", r"read_timeout (\d+)s"),
    ],
)
def test_proxies_wait_for_an_answer_that_does_not_stream(file: str, pattern: str) -> None:
    timeouts = [int(seconds) for seconds in re.findall(pattern, (DEPLOY / file).read_text())]
    assert max(timeouts) > Settings().deadline_s


def test_proxies_have_time_for_another_process() -> None:
    """One that is on a machine without power answers no connection."""
    caddy = (DEPLOY / "caddy/Caddyfile").read_text()
    tries, dials = (
        int(seconds)
        for name in ("lb_try_duration", "dial_timeout")
        for seconds in re.findall(rf"{name} (\d+)s", caddy)
    )
    assert dials < tries
    nginx = (DEPLOY / "nginx/penstock.conf").read_text()
    (connect,) = re.findall(r"proxy_connect_timeout (\d+)s;", nginx)
    assert int(connect) <= dials


def test_proxies_close_idle_connections_before_uvicorn_does() -> None:
    uvicorn_s = signature(uvicorn.Config).parameters["timeout_keep_alive"].default
    for file, pattern in (
        ("nginx/penstock.conf", r"keepalive_timeout (\d+)s;"),
        ("caddy/Caddyfile", r"keepalive (\d+)s"),
    ):
        (idle,) = re.findall(pattern, (DEPLOY / file).read_text())
        assert int(idle) < uvicorn_s


def unit_lines(name: str) -> list[str]:
    return (DEPLOY / "systemd" / name).read_text().splitlines()


def test_systemds_api_may_write_where_files_go() -> None:
    lines = unit_lines("penstock-api.service")
    assert "ProtectSystem=strict" in lines
    assert "PrivateTmp=yes" in lines
    assert "StateDirectory=penstock" in lines
    assert "Environment=PENSTOCK_FILES_DIR=/var/lib/penstock/files" in lines


def test_systemds_worker_may_write_where_weights_go() -> None:
    lines = unit_lines("penstock-worker@.service")
    assert "ProtectHome=yes" in lines
    assert "CacheDirectory=penstock" in lines
    assert any("PENSTOCK_CONVERTED_DIR=/var/cache/penstock/" in line for line in lines)


def test_systemds_steps_make_the_groups_that_not_every_system_has() -> None:
    (line,) = (
        one for one in unit_lines("penstock-worker@.service") if "SupplementaryGroups=" in one
    )
    guide = (ROOT / "docs/operations.md").read_text()
    for group in {*line.partition("=")[2].split()} - {"video"}:  # Debian's base has that
        assert f"groupadd --system --force {group}\n" in guide


@pytest.mark.parametrize("name", ["penstock-api.service", "penstock-worker@.service"])
def test_systemd_finds_little_exposed(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / name.replace("@.", "@bigdl-7b-cpu.")
    unit.write_text((DEPLOY / "systemd" / name).read_text())
    command = [analyze, "security", "--offline=yes", "--threshold=35", "--no-pager", str(unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "offline" in done.stderr and "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze reads no files")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
