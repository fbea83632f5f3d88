"""The command lines of FastChat's and bigdl-llm's model workers."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.errors import BadSettings, ModelNotFound
from penstock.models.catalogue import resolve
from penstock.serving import flags
from penstock.serving.model_worker import api_command, worker_command
from penstock.serving.plan import Plan, plan
from penstock.settings import Settings
from tests.fixtures.processes import ROOT, card_of

if TYPE_CHECKING:
    from penstock.models import spec
    from tests.fixtures.processes import Processes


def planned(models_dir: Path, *line: str) -> Plan:
    return plan(flags.parser().parse_args(line), Settings(models_dir=models_dir))


def entry(chosen: Plan) -> tuple[str, dict[str, Any]]:
    ((name, fields),) = tomllib.loads(chosen.entry)["models"].items()
    return name, fields


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders whose names and files are what the rules look at."""
    for name, config in {
        "vicuna-7b-v1.3": {},
        "bigdl-7b": {},
        "chatglm2-6b": {"architectures": ["ChatGLMModel"]},
        "my-bigdl-lowbit-7b": {"bigdl_transformers_low_bit": "sym_int8"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path


def resolved(chosen: Plan, folders: Path) -> spec.ModelSpec:
    file = folders / "one.toml"
    file.write_text(chosen.entry)
    return resolve.resolve(chosen.queue, Settings(models_dir=folders, models_file=file))


@pytest.mark.parametrize(
    ("line", "queue", "backend", "held"),
    [
        (("--model-path", "lmsys/vicuna-7b-v1.3", "--device", "cpu"), "vicuna-7b-v1.3-cpu", "transformers", None),
        (("--model-path", "bigdl-7b", "--device", "xpu"), "bigdl-7b-xpu", "bigdl", "sym_int4"),
        (("--model-path", "bigdl-7b", "--device", "cpu", "--model-names", "vicuna,gpt-3.5-turbo"), "vicuna-cpu", "bigdl", "sym_int4"),
        (("--model-path", "THUDM/chatglm2-6b", "--device", "cpu"), "chatglm2-6b-cpu", "bigdl", "sym_int4"),
        (("--model-path", "my-bigdl-lowbit-7b", "--device", "cpu", "--load-low-bit-model"), "my-bigdl-lowbit-7b-cpu", "bigdl", "sym_int8"),
        (("--model-path", "vicuna-7b-v1.3", "--device", "cpu", "--low-bit", "asym_int4"), "vicuna-7b-v1.3-cpu", "bigdl", "asym_int4"),
        (("--model-path", "vicuna-7b-v1.3", "--device", "cpu", "--load-8bit"), "vicuna-7b-v1.3-cpu", "bigdl", "sym_int8"),
        (("--model-path", "vicuna-7b-v1.3", "--gpus", "1", "--dtype", "float16"), "vicuna-7b-v1.3-cuda.1", "transformers", "fp16"),
    ],
)  # fmt: skip
def test_models(folders: Path, line: tuple[str, ...], queue: str, backend: str, held: str) -> None:
    chosen = planned(folders, *line)
    found = resolved(chosen, folders)
    assert (chosen.queue, found.backend, found.format) == (queue, backend, held)


def test_names(folders: Path) -> None:
    line = ("--model-path", "bigdl-7b", "--device", "cpu", "--model-names", "my model,other")
    chosen = planned(folders, *line, "--trust-remote-code", "--limit-worker-concurrency", "3")
    assert chosen.queue == "my-model-cpu"
    name, fields = entry(chosen)
    assert name == "my-model"
    assert fields["aliases"] == ["other", "my model"]
    assert fields["trust_remote_code"] is True
    command = worker_command(chosen)
    assert command[command.index("-Q") + 1] == "my-model-cpu"
    assert command[command.index("-c") + 1] == "3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--num-gpus", "0"), "--num-gpus"),
        (("--num-gpus", "2", "--gpus", "1"), "--gpus names 1"),
        (("--num-gpus", "2", "--gpus", "0,2"), "follow each other"),
        (("--gpus", "first"), "numbers"),
        (("--device", "mps"), "--device mps"),
        (("--cpu-offloading",), "one device"),
        (("--awq-ckpt", "x"), "AWQ"),
        (("--gptq-wbits", "4"), "GPTQ"),
        (("--ssl",), "TLS proxy"),
        (("--enable-exllama",), "ExLlama"),
        (("--load-8bit", "--low-bit", "sym_int4"), "exclude each other"),
        (("--load-low-bit-model",), "not written by save_low_bit"),
        (("--conv-template", "no-such"), "no-such"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    folders: Path, line: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadSettings, match=message):
        planned(folders, "--model-path", "bigdl-7b", *line)


def test_what_changes_nothing_is_reported(folders: Path) -> None:
    line = ("--stream-interval", "2", "--max-gpu-memory", "13GiB", "--seed", "1")
    chosen = planned(folders, "--model-path", "bigdl-7b", *line)
    said = [warning.partition(":")[0] for warning in chosen.warnings]
    assert sorted(said) == ["--max-gpu-memory", "--seed", "--stream-interval"]
    on_cpu = planned(folders, "--model-path", "bigdl-7b", "--device", "cpu", "--num-gpus", "2")
    assert "runs on the CPU" in on_cpu.warnings[0]


def test_a_model_that_is_nowhere(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folders))
    with pytest.raises(ModelNotFound, match="download it there first"):
        planned(folders, "--model-path", "no/such-model")


def test_a_conversation_template_by_name(folders: Path) -> None:
    pytest.importorskip("fastchat.conversation", reason="pip install --no-deps fschat")
    chosen = planned(folders, "--model-path", "bigdl-7b", "--conv-template", "one_shot")
    assert "Human" in (resolved(chosen, folders).chat_template or "")
    assert entry(chosen)[1]["generation_defaults"] == {"stop": ["###"]}


# Each flag of FastChat 0.2.36's and bigdl-llm 2.4's workers that is used, and what it does here.
USED: dict[str, tuple[tuple[str, ...], Any]] = {
    "--model-path": (("vicuna-7b-v1.3",), lambda p: p.queue == "vicuna-7b-v1.3-cuda"),
    "--model-names": (("a,b",), lambda p: (p.queue, entry(p)[1]["aliases"]) == ("a-cuda", ["b"])),
    "--device": (("xpu",), lambda p: p.queue == "bigdl-7b-xpu"),
    "--gpus": (("1",), lambda p: p.queue == "bigdl-7b-cuda.1"),
    "--num-gpus": (("2",), lambda p: entry(p)[1]["tensor_parallel"] == 2),
    "--dtype": (("bfloat16",), lambda p: entry(p)[1]["format"] == "bf16"),
    "--load-8bit": ((), lambda p: entry(p)[1]["format"] == "sym_int8"),
    "--low-bit": (("sym_int5",), lambda p: entry(p)[1]["format"] == "sym_int5"),
    "--trust-remote-code": ((), lambda p: p.environment["PENSTOCK_TRUST_REMOTE_CODE"] == "true"),
    "--speculative": ((), lambda p: entry(p)[1]["speculation"] == "on"),
    "--limit-worker-concurrency": (("7",), lambda p: worker_command(p)[-2:] == ["-c", "7"]),
    "--debug": ((), lambda p: "DEBUG" in worker_command(p)),
    "--controller-address": (("http://c:1",), lambda p: p.controller == "http://c:1"),
    "--worker-address": (("http://w:2",), lambda p: p.address == "http://w:2"),
    "--host": (("0.0.0.0",), lambda p: api_command(p)[4:6] == ["--host", "0.0.0.0"]),
    "--port": (("3",), lambda p: p.address == "http://localhost:3" and "3" in api_command(p)),
    "--no-register": (("--controller-address", "http://c:1"), lambda p: p.controller == ""),
}
# These need a folder, a cache or a library of their own: tested above and below.
ELSEWHERE = {"--load-low-bit-model", "--revision", "--conv-template"}


@pytest.mark.parametrize("flag", sorted(USED))
def test_each_flag_that_is_used_has_its_effect(folders: Path, flag: str) -> None:
    values, holds = USED[flag]
    assert holds(planned(folders, "--model-path", "bigdl-7b", flag, *values))
    default = planned(folders, "--model-path", "bigdl-7b")
    try:
        without = holds(default)
    except (KeyError, IndexError):
        without = False
    assert without == (flag == "--no-register")  # no controller is looked for unasked


@pytest.mark.parametrize("flag", sorted(flags.IGNORED))
def test_each_flag_that_changes_nothing_is_taken(folders: Path, flag: str) -> None:
    value = () if flag in flags.SWITCHES else ("1",)
    chosen = planned(folders, "--model-path", "bigdl-7b", flag, *value)
    assert [warning.partition(":")[0] for warning in chosen.warnings] == [flag]
    assert chosen.entry == planned(folders, "--model-path", "bigdl-7b").entry


@pytest.mark.parametrize("flag", sorted(flags.REFUSED))
def test_each_flag_that_cannot_be_honoured_is_refused(folders: Path, flag: str) -> None:
    value = () if flag in flags.SWITCHES else ("1",)
    with pytest.raises(BadSettings, match=f"^{flag}: "):
        planned(folders, "--model-path", "bigdl-7b", flag, *value)


def known_flags() -> set[str]:
    actions = flags.parser()._actions
    found = {option for action in actions for option in action.option_strings}
    return {option for option in found if option.startswith("--")} - {"--help"}


def test_no_flag_is_left_out() -> None:
    assert known_flags() == {*USED, *ELSEWHERE, *flags.IGNORED, *flags.REFUSED}
    bigdl = importlib.metadata.distribution("bigdl-llm").locate_file("bigdl/llm/serving")
    told = (Path(str(bigdl)) / "model_worker.py").read_text()
    assert set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', told)) <= known_flags()
    assert {"--stream-interval", "--no-register"} <= set(re.findall(r'"(--[a-z-]+)"', told))


def test_a_revision_in_hugging_faces_cache(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--org--model"
    for commit in ("a" * 40, "b" * 40):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "refs" / "v2").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision, commit in (((), "a"), (("--revision", "v2"), "b")):
        chosen = planned(folders, "--model-path", "org/model", *revision)
        assert entry(chosen)[1]["path"].endswith(commit * 40)


def test_gpus_that_hold_a_model_together(folders: Path) -> None:
    line = ("--model-path", "vicuna-7b-v1.3", "--gpus", "2,3,4")
    assert planned(folders, *line, "--num-gpus", "2").queue == "vicuna-7b-v1.3-cuda.2-3"
    assert planned(folders, *line).queue == "vicuna-7b-v1.3-cuda.2"
    chosen = planned(folders, *line, "--num-gpus", "3")
    assert resolved(chosen, folders).tensor_parallel == 3


def test_every_flag_of_both_is_in_the_table_of_the_docs() -> None:
    shown = (ROOT / "docs" / "fastchat.md").read_text()
    for option in known_flags():
        assert f"`{option}`" in shown, option


def test_the_seeds_command_line(
    processes: Processes, redis_url: str, tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.fixtures.processes import _common

    processes._doorbells.add((redis_url, "seed-cpu"))
    line = ("--model-path", str(tiny_llama), "--device", "cpu", "--model-names", "seed,gpt-4")
    running = processes.start(
        "model-worker",
        [sys.executable, "-m", "penstock.serving.model_worker", *line, "--stream-interval", "2"],
        _common(redis_url),
        tmp_path,
    )
    card = running.wait_until(lambda: card_of(redis_url, running.pid))
    assert (card.models[0].name, card.models[0].aliases) == ("seed", ("gpt-4",))
    assert "ignored: --stream-interval" in running.output()


def test_an_error_is_one_line(tmp_path: Path) -> None:
    line = ("--model-path", str(tmp_path / "nothing"), "--device", "cpu")
    ended = subprocess.run(
        [sys.executable, "-m", "penstock.serving.model_worker", *line],
        check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": ""},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "penstock: --model-path" in ended.stderr
