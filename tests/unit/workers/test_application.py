"""The Celery application: light to import, configured by our settings."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fixtures.processes import ROOT


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_importing_workers_brings_no_model_library():
    done = run_python(
        "import sys, workers; workers.app.conf.broker_url; workers.app.loader.import_default_modules();"
        "assert 'penstock.doorbell' in workers.app.tasks;"
        "print(sorted({'torch', 'transformers', 'numpy', 'fastapi'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_configuration_follows_our_settings():
    done = run_python(
        "from workers import app; c = app.conf;"
        "print(c.broker_url, c.worker_pool, c.task_acks_late, c.worker_prefetch_multiplier,"
        " c.accept_content, c.broker_transport_options['visibility_timeout'])",
        PENSTOCK_REDIS_URL="redis://127.0.0.1:7777/3",
    )
    expected = "redis://127.0.0.1:7777/3 workers.delivery.pool:EnginePool True 1 ['json'] 86400"
    assert done.stdout.strip() == expected, done.stderr


def test_a_bad_setting_is_one_line_that_names_the_variable():
    done = run_python("from workers import app; app.conf.broker_url", PENSTOCK_LEASE_MS="a while")
    assert done.returncode == 1
    assert done.stderr.startswith("penstock: PENSTOCK_LEASE_MS: ")
    assert done.stderr.count("\n") == 1
