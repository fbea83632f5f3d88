"""What `/health` takes while thousands read one job's stream: those past the bound get 429.

    python -m benchmarks.readers                    2,000 readers, a job of 20 ms steps

The readers come all at once. The probe is a process of its own, so that it waits for the API alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from benchmarks import conditions, processes, sleeping

STEP_MS = 20
PROBE = """
import http.client, json, sys, time
host, seconds = sys.argv[1], float(sys.argv[2])
times, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    began = time.perf_counter()
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    times.append(1e3 * (time.perf_counter() - began))
    connection.close()
    time.sleep(0.01)
print(json.dumps(sorted(times)))
"""


async def read(host: str, path: str, statuses: Counter[str]) -> None:
    """Ask for a stream, note its status, and read until it ends."""
    name, _, port = host.partition(":")
    writer = None
    try:
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        statuses[(await reader.readline()).decode().split(" ")[1]] += 1
        while await reader.read(65_536):
            pass
    except OSError as error:
        statuses[type(error).__name__] += 1
    finally:
        if writer is not None:
            writer.close()


async def crowd(api_url: str, count: int, seconds: float) -> tuple[Counter[str], list[float]]:
    """Return the readers' statuses, and what the probe has seen meanwhile (ms, sorted)."""
    host = urlsplit(api_url).netloc
    model = sleeping.queue_of(STEP_MS).rsplit("-", 1)[0]
    body = {"model": model, "prompt": [1] * 8, "max_tokens": 4_000, "stream": True}
    statuses: Counter[str] = Counter()
    async with (
        httpx.AsyncClient(timeout=60.0) as client,
        client.stream("POST", f"{api_url}/v1/completions", json=body) as answer,
    ):
        path = f"/v1/jobs/{answer.headers['x-penstock-jobs']}/events"
        command = [sys.executable, "-c", PROBE, host, str(seconds)]
        probe = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        await asyncio.sleep(1.0)
        readers = [asyncio.create_task(read(host, path, statuses)) for _ in range(count)]
        written, _ = await probe.communicate()
        for reader in readers:
            reader.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*readers, return_exceptions=True)
    return statuses, json.loads(written)


def main() -> None:
    parser = argparse.ArgumentParser(description="many readers of one stream")
    parser.add_argument("--readers", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    conditions.show(conditions.observe())
    with processes.running() as stack:
        stack.start_worker("benchmarks.sleeping_worker", sleeping.queue_of(STEP_MS))
        statuses, times = asyncio.run(crowd(stack.api_url, options.readers, options.seconds))
    print(f"{options.readers} readers: {dict(statuses)}")
    print(
        f"/health, {len(times)} times: {times[len(times) // 2]:.1f} ms median, "
        f"{times[int(0.99 * (len(times) - 1))]:.1f} ms p99, {times[-1]:.1f} ms at most"
    )


if __name__ == "__main__":
    main()
