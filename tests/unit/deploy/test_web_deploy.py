"""What deploy/ says, held against the code and, where they are here, its own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.worker import ModelCard, ModelState, WorkerCard, WorkerLoad
from penstock.engine.events import AttemptEvent
from penstock.observability.fleet_metrics import FleetView
from penstock.observability.telemetry import Telemetry
from penstock.settings import PREFIX, Settings
from penstock.transport.jobs.records import QueueDepth
from tests.unit.workers.fakes import Slips, claimed_job, make_served
from workers.serving.claimed_jobs import ClaimedJobs
from workers.serving.metrics import WorkerMetrics

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
MONITORING = DEPLOY / "monitoring"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CRDS = {"ScaledObject", "Kustomization"}
"""Kinds that Kubernetes itself does not know."""


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def exported() -> dict[str, set[str]]:
    """Return the labels of every metric that an API process or a worker exports, by name."""
    telemetry = Telemetry()
    card = ModelCard(
        name="m", queue="m-cpu", device="cpu", backend="b", format="f", architecture="a",
        parameters=1, weights_bytes=1, context_length=1, vocab_size=1, slots=1, kv_cache_tokens=1,
    )  # fmt: skip
    worker = WorkerCard(
        "w", "h", 1, "0", 0, 0, (card,), {"m-cpu": WorkerLoad()},
        states={"m-cpu": ModelState("loaded")},
    )  # fmt: skip
    view = FleetView(
        redis_up=True, cards=[card], workers=[worker], depths={"m-cpu": QueueDepth(0, 0, 0, 0.0)}
    )
    telemetry.ttft.labels("m", "cpu").observe(1)
    telemetry.itl.labels("m", "cpu").observe(1)
    telemetry.e2e.labels("m", "cpu").observe(1)
    telemetry.prompt_tokens.labels("m", "cpu").inc()
    telemetry.generation_tokens.labels("m", "cpu").inc()
    telemetry.success.labels("m", "cpu", "stop").inc()
    telemetry.errors.labels("queue_full").inc()
    telemetry.http_requests.labels("GET", "/", "200").inc()
    text = telemetry.render(view).decode() + worker_metrics()
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(penstock_\w+?)(\{(.*)\})? ", line):
            labels = set(re.findall(r'(\w+)="', match[3] or ""))
            found.setdefault(match[1], set()).update(labels)
    return found


def worker_metrics() -> str:
    """Return what a worker exports after a job that ended well and one that did not."""
    claimed, served = ClaimedJobs(), make_served("m-cpu")
    metrics = WorkerMetrics(claimed, "w")
    metrics.show({"m-cpu": served})
    for job_id in ("good", "bad", "lost"):
        claimed.add(claimed_job(job_id, "m-cpu", 1, Slips(), served=served))
    for event in (
        Tokens("good", 0, (5,), "a"),
        Failed("bad", 0, "engine_failed", "no"),
        Tokens("good", 1, (5,), "b"),
        Finished("good", 2, FinishReason.STOP, Usage(1, 2)),
    ):
        metrics.see([AttemptEvent(f"{event.job_id}:1", event)])
    lost = claimed.get("lost:1")
    assert lost is not None
    metrics.drop(lost)
    return generate_latest(metrics.registry).decode()


def queries() -> dict[str, str]:
    """Return every PromQL expression by where it stands."""
    board = json.loads((MONITORING / "grafana" / "penstock.json").read_text())
    found = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        found |= {f"alert {rule['alert']}": rule["expr"] for rule in group["rules"]}
    for name, document in manifests():
        if document["kind"] == "ScaledObject":
            for trigger in document["spec"]["triggers"]:
                if query := trigger["metadata"].get("query"):
                    found[f"{name} {document['metadata']['name']}"] = query
    return found


def manifests() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.name, document)
        for path in KUBERNETES
        for document in yaml.safe_load_all(path.read_text())
    ]


def test_dashboard_alerts_and_scaling_ask_for_what_there_is():
    there = exported()
    for place, query in queries().items():
        names = set(re.findall(r"\bpenstock_\w+", query))
        assert names or place == "alert PenstockApiDown", place
        for name in names:
            assert name in there, f"{place}: {name}"
        by = {
            one.strip()
            for group in re.findall(r"by \(([^)]*)\)", query)
            for one in group.split(",")
        }
        labels = set().union(*(there[name] for name in names)) if names else set()
        assert by <= labels | {"le"}, place


def test_every_alert_is_explained():
    guide = (ROOT / "docs" / "operations.md").read_text()
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in guide


def test_deployments_name_only_settings_that_exist():
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "operations.md"]:
        if path.is_file():
            # GID_, KEY_ and the like of other programs do not begin so; BIND and PORT are compose's.
            used = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text()))
            assert used - {"PENSTOCK_BIND", "PENSTOCK_PORT"} <= known, path


def test_manifests_hang_together():
    documents = [document for _, document in manifests()]
    listed = next(one["resources"] for one in documents if one["kind"] == "Kustomization")
    assert {*listed, "kustomization.yaml"} == {path.name for path in KUBERNETES}
    workers = {
        one["metadata"]["name"]: one
        for one in documents
        if one["kind"] == "Deployment" and one["metadata"]["name"].startswith("worker-")
    }
    scaled = [one for one in documents if one["kind"] == "ScaledObject"]
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == set(workers)
    for one in scaled:
        pod = workers[one["spec"]["scaleTargetRef"]["name"]]["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        queue = next(env["value"] for env in container["env"] if env["name"] == "QUEUE")
        assert pod["metadata"]["labels"]["queue"] == queue
        assert one["spec"]["triggers"][0]["metadata"]["listName"] == queue
        assert container["startupProbe"]["exec"]["command"][-1] == queue
        drain_s = Settings().drain_s
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain_s + 10


def test_queues_that_scale_to_zero_stand_by():
    documents = [document for _, document in manifests()]
    shared = next(
        one["data"]
        for one in documents
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "penstock"
    )
    sleeping = {
        one["spec"]["triggers"][0]["metadata"]["listName"]
        for one in documents
        if one["kind"] == "ScaledObject" and one["spec"]["minReplicaCount"] == 0
    }
    assert set(shared["PENSTOCK_STANDBY_QUEUES"].split(",")) == sleeping


def test_manifests_are_what_kubernetes_takes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for name, document in manifests():
        if document["kind"] not in CRDS:
            try:
                kubernetes_validate.validate(document, "1.31", strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{name}: {error.message}")


def test_scaled_objects_are_what_keda_takes():
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
    scaled = [document for _, document in manifests() if document["kind"] == "ScaledObject"]
    assert scaled
    for document in scaled:
        read = keda.ScaledObject.model_validate(document)
        # What its types do not know, they drop.
        again = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert again["spec"] == document["spec"]


def test_prometheus_takes_its_rules_and_they_fire():
    promtool = tool("promtool")
    run(promtool, "check", "config", MONITORING / "prometheus.yml")
    run(promtool, "test", "rules", MONITORING / "alerts_test.yml")


def test_nginx_takes_its_configuration(tmp_path: Path):
    nginx = tool("nginx")
    site = DEPLOY / "nginx" / "penstock.conf"
    assert re.search(r"proxy_buffering\s+off", site.read_text())
    listen = site.read_text().replace("listen 80;", "listen 127.0.0.1:18080;")
    (tmp_path / "site.conf").write_text(listen)
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};\n"
        f"include {tmp_path}/site.conf; }}\n"
    )
    run(nginx, "-t", "-q", "-c", whole)


def test_systemd_takes_the_units(tmp_path: Path):
    analyze = tool("systemd-analyze")
    for name, unit in (
        ("penstock-api.service", "penstock-api.service"),
        ("penstock-worker@.service", "penstock-worker@bigdl-7b-cpu.service"),
    ):
        text = (DEPLOY / "systemd" / name).read_text()
        # The programs are not installed where this is tested.
        (tmp_path / name).write_text(re.sub(r"/opt/penstock/\S+", "/bin/true", text))
        run(analyze, "verify", "--man=no", tmp_path / unit)


def test_compose_takes_every_profile():
    compose = tool("docker-compose")
    profiles = ("xpu", "cuda", "monitoring", "fastchat-ui")
    flags = [part for profile in profiles for part in ("--profile", profile)]
    run(compose, "-f", ROOT / "compose.yaml", *flags, "config", "-q")
