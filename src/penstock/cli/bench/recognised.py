"""A report under the names that `vllm bench serve` gives its figures, for programs that read those."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.cli.bench.report import Percentiles, Report
    from penstock.cli.bench.workload import Load


def as_vllm(load: Load, report: Report) -> dict[str, Any]:
    """Return a report as the JSON result of `vllm bench serve --save-result`."""
    figures: dict[str, Any] = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": "openai-chat",
        "endpoint_type": "openai-chat",
        "model_id": load.model,
        "tokenizer_id": load.model,
        "num_prompts": report.requests,
        "request_rate": "inf" if load.rate is None else load.rate,
        "burstiness": load.burstiness,
        "max_concurrency": load.concurrency,
        "duration": report.wall_s,
        "completed": report.completed,
        "failed": report.requests - report.completed,
        "total_input_tokens": report.prompt_tokens,
        "total_output_tokens": report.output_tokens,
        "request_throughput": report.requests_per_s,
        "request_goodput": report.goodput_per_s,
        "output_throughput": report.output_tokens_per_s,
        "total_token_throughput": (report.prompt_tokens + report.output_tokens) / report.wall_s,
    }
    measures = {
        "ttft": report.ttft_ms,
        "tpot": report.tpot_ms,
        "itl": report.itl_ms,
        "e2el": report.end_to_end_ms,
    }
    for name, measured in measures.items():
        figures |= _of(name, measured)
    return figures


def _of(name: str, measured: Percentiles) -> dict[str, float]:
    return {
        f"mean_{name}_ms": measured.mean,
        f"median_{name}_ms": measured.p50,
        f"std_{name}_ms": measured.std,
        f"p90_{name}_ms": measured.p90,
        f"p99_{name}_ms": measured.p99,
    }
