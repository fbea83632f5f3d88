"""All settings, from `PENSTOCK_*` environment variables, read once and passed down."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Field,
    RedisDsn,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from penstock.errors import BadSettings, StartupError
from penstock.queue_names import check_queues
from penstock.redaction import redacted
from penstock.redis_addresses import (
    HOME,
    RedisGroup,
    RedisUrl,
    check_group_names,
    check_sentinels,
    parsed_groups,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "PENSTOCK_"


class Settings(BaseSettings):
    """The settings, frozen; a field `redis_url` is the variable `PENSTOCK_REDIS_URL`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    log_format: Literal["text", "json"] = "text"
    """`json` is one object a line, with the request's, job's and worker's ids."""

    # Redis
    redis_url: RedisUrl = Field(default=RedisDsn("redis://127.0.0.1:6379/0"))
    """`redis://`, `rediss://` (TLS) or `unix:///path?db=0`, a socket on this machine."""
    redis_sentinels: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated `host:port` of Sentinels; `redis_url` then gives user, password, database."""
    redis_master: str = Field(default="mymaster", min_length=1)
    """The Sentinels' name for the master."""
    redis_sentinel_password: str = ""
    redis_groups: Annotated[dict[str, RedisGroup], NoDecode] = Field(default={})
    """Queues whose jobs have a Redis of their own, as JSON: `{"large": {"queues": ["bigdl-70b-*"],
    "url": "redis://10.0.0.2:6379/0"}}`; also `sentinels` and `master`. All else is at `redis_url`."""
    redis_patience_s: float = Field(default=20.0, gt=0)
    """How long a call to Redis is retried before it counts as failed."""

    # Models
    models_dir: Path = Field(default=Path("models"))
    models_file: Path = Field(default=Path("models.toml"))
    adapters_dir: Path = Field(default=Path("adapters"))
    """The folder below which LoRA adapters may be loaded at run time (`/v1/load_lora_adapter`)."""
    max_adapters: int = Field(default=8, ge=0, le=256)
    """LoRA adapters that a worker has in memory at once, for each model; 0: it takes none."""
    max_adapter_rank: int = Field(default=64, ge=1, le=512)
    max_adapter_bytes: int = Field(default=512 * 1024**2, ge=1)
    """Of the file of one LoRA adapter; larger ones are refused, as those of a higher rank."""
    aliases_file: Path = Field(default=Path("aliases.toml"))
    """Public names that stand for models by weight, with fallbacks; read by the API."""
    trust_remote_code: bool = False
    bigdl_backend: Literal["auto", "native", "openvino", "bigdl"] = "auto"
    """What computes bigdl-llm's `sym_int4` weights on a CPU. "auto": the native kernels on CPUs where
    they are fastest, else OpenVINO if it is installed. "native", "openvino": these, for the models that
    they support. "bigdl": always bigdl-llm's own kernels."""

    converted_dir: Path = Field(default=Path("~/.cache/penstock/converted"))
    """Folder of quantised weights, made at a model's first load and mapped from then on."""
    converted_bytes: int = Field(default=64 * 1024**3, ge=0)
    """Size limit of that folder; the least recently used weights go first, and 0 keeps none."""
    large_pages: bool = True
    """Copy the native kernels' weights into large pages if the system has them: faster, but each
    worker has its own copy. Off, the workers of a machine share the mapped file."""

    # Jobs
    lease_ms: int = Field(default=2_000, ge=200)
    max_attempts: int = Field(default=3, ge=1)
    """A job that lost its worker this often fails as poison."""
    deadline_s: float = Field(default=600.0, gt=0)
    journal_ttl_s: int = Field(default=600, ge=1)
    max_waiting_jobs: int = Field(default=1_000, ge=1)
    max_waiting_tokens: int = Field(default=2_000_000, ge=1)
    affinity_wait_ms: int = Field(default=500, ge=0, le=10_000)
    """The longest time for which a job is left to a worker with its prompt's beginning in its cache,
    never longer than computing it takes; 0 lets any worker take any job."""
    worker_grace_s: float = Field(default=30.0, ge=0)
    """Jobs are accepted for this long after a model's last worker was alive."""
    standby_queues: Annotated[tuple[str, ...], NoDecode, AfterValidator(check_queues)] = ()
    """Comma-separated queues that always take jobs: an autoscaler starts their workers."""

    # Worker
    resident_models: int = Field(default=0, ge=0, le=1_000)
    """Models that a worker of several queues has in memory at once; 0: all, loaded at its start."""
    slots: int = Field(default=0, ge=0)
    """Sequences a model decodes at once; 0 means the model's entry, `-c`, or 16 (64 on a GPU)."""
    spare_slots: float = Field(default=1.0, ge=0, le=4)
    """Share of its slots that a worker takes in addition (64 at most), for jobs whose worker has
    died or left."""
    kv_cache_bytes: int = Field(default=0, ge=0)
    """KV budget of a model; 0 means a share of the memory that is free after loading."""
    kv_store: Path | None = None
    """Folder in which the workers of a host keep blocks of KV cache; none by default."""
    kv_store_bytes: int = Field(default=16 * 1024**3, ge=2**20)
    """Size limit of that folder; the least recently used blocks go first."""
    kv_sharing: Literal["all", "tenant"] = "all"
    """Whose computed prompts a request may find: everybody's, or only those of its own API key."""
    kv_exchange_token: str = ""
    """With this token the workers of different hosts serve each other blocks of their stores."""
    kv_exchange_host: str = ""
    """The address of a worker that serves blocks; empty: the one from which it reaches Redis."""
    kv_exchange_port: int = Field(default=0, ge=0, lt=2**16)
    """The port for that: the first free one from here on; 0: any."""
    kv_cache_type: Literal["auto", "u8"] = "auto"
    """Precision of keys and values on CPUs, by the native kernels and OpenVINO: "u8" is 8 bit, which
    halves their memory; "auto" is 16."""
    prefill_chunk_tokens: int = Field(default=0, ge=0)
    """Prompt tokens a step without a target time, with one the limit of the first chunk; 0 means 256 on
    a CPU, 2,048 on a GPU."""
    target_step_ms: float = Field(default=200.0, ge=0)
    """How long a step with running streams may spend on others' prompts; 0 fixes the chunk size."""
    speculation: Literal["auto", "on", "off"] = "auto"
    """Draft tokens by prompt lookup; `auto`: on the backends that measurably gain from it."""
    answer_drafts: Literal["off", "tenant", "shared"] = "tenant"
    """Whose earlier answers tokens are drafted from: none, the same tenant's, or all tenants'."""
    answer_bytes: int = Field(default=64 * 1024**2, ge=4096)
    """Most memory of Redis for a queue's earlier answers, of all tenants together."""
    special_tokens_in_text: Literal["text", "tokens"] = "text"
    """What `<|im_start|>` is in a user's or a tool's message: plain text, or the control token."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    drain_s: float = Field(default=30.0, ge=0)
    hung_step_s: float = Field(default=60.0, gt=0)
    """A longer step stops the renewal of its leases; so does, on a CPU, a step that takes 50 times as
    long as recent ones (`workers.serving.served_queue`)."""
    threads: int = Field(default=0, ge=0)
    """A worker's threads; 0 means one for each physical core that the process may use."""
    cores: str = ""
    """Cores that a worker owns: `0-15`, `node:1`, or `1/2` of all; empty means all."""

    metrics_port: int = Field(default=0, ge=0, lt=2**16)
    """Port of a worker's Prometheus metrics: the first free one from here on; 0 turns them off."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """The address of a worker's metrics; `0.0.0.0` in a container."""

    # API
    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated; if empty and none was made (`penstock keys create`), no key is required."""
    require_key: bool = False
    """Require a key even before one has been made (`penstock keys create`)."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins whose pages may call the API from a browser; `*` for all."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated names by which browsers reach the API without a key; `*` for all. Addresses,
    names without a dot and local ones need not be listed."""
    usage_log_rows: int = Field(default=100_000, ge=0)
    """Most requests in the usage log; 0 turns it off."""
    usage_log_days: int = Field(default=90, ge=1)
    drain_notice_s: float = Field(default=0.0, ge=0)
    """How long a stopping API continues to serve while `/ready` makes load balancers leave it."""
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    max_unfinished_bytes: int = Field(default=128 * 1024 * 1024, ge=1024)
    """Limit of all incomplete request bodies together, beyond 64 KiB of each."""
    keepalive_s: float = Field(default=10.0, gt=0)
    resume_grace_s: float = Field(default=30.0, ge=0)
    """Jobs of a request with an `Idempotency-Key` outlive its lost connection by this."""
    response_ttl_s: int = Field(default=86_400, ge=60)
    """How long a stored answer of /v1/responses is kept after its last use."""
    background_deadline_s: float = Field(default=86_400.0, gt=0)
    """Time limit of a background answer and of a line of a batch: these may wait long."""
    files_dir: Path = Field(default=Path("files"))
    """Uploaded files and batches; a volume that all API processes share."""
    files_url: str = Field(default="", pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?)?$")
    """`s3://bucket/prefix` in place of the folder: S3-compatible storage, by the extra `s3`."""
    files_endpoint: AnyHttpUrl | None = None
    """The server of that storage, if it is not AWS's."""
    max_file_bytes: int = Field(default=200 * 1024 * 1024, ge=1024)
    batch_concurrency: int = Field(default=16, ge=1)
    """Lines of one batch that are in the queue at once."""
    public_url: AnyHttpUrl | None = None
    """The address that `/get_worker_address` returns; by default the one that the caller used."""
    traces: str = ""
    """Destination of OpenTelemetry's spans: "otlp", or a file of JSON lines; empty is off."""
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Where images in requests are fetched from by URL: entries as in `fastchat_worker_hosts`."""

    fastchat_open: bool = False
    """Serve FastChat's routes without a key even if keys are set: its programs cannot send one."""

    fastchat_worker_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Where FastChat workers may register from: hosts, `*.gpu.example`, `10.0.0.0/8`, `:port`."""
    fastchat_worker_token: str = ""
    """With this token, from anywhere: `--controller-address http://host:21001/r/<token>`."""
    fastchat_worker_life_s: float = Field(default=90.0, gt=0)
    """A FastChat worker that sent no sign of life for this long is removed."""
    fastchat_worker_timeout_s: float = Field(default=100.0, gt=0)
    """A FastChat worker that is silent for this long in the middle of an answer has failed."""
    fastchat_controller: AnyHttpUrl | None = None
    """A real FastChat controller that this fleet registers with, as one worker."""
    fastchat_heartbeat_s: float = Field(default=45.0, gt=0)

    @field_validator(
        "api_keys",
        "cors_origins",
        "allowed_hosts",
        "fastchat_worker_hosts",
        "image_hosts",
        "redis_sentinels",
        "standby_queues",
        mode="before",
    )
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        return value

    @field_validator("redis_sentinels")
    @classmethod
    def _check_sentinels(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return check_sentinels(value, info.data.get("redis_url"))

    @field_validator("redis_groups", mode="before")
    @classmethod
    def _read_groups(cls, value: object) -> object:
        return parsed_groups(value) if isinstance(value, str) else value

    @field_validator("redis_groups")
    @classmethod
    def _check_groups(cls, value: dict[str, RedisGroup]) -> dict[str, RedisGroup]:
        return check_group_names(value)

    def group_of(self, queue: str) -> str:
        """Return the name of the group whose Redis has a queue's jobs: the first that names it."""
        groups = self.redis_groups.items()
        return next((name for name, group in groups if group.has(queue)), HOME)

    def in_group(self, name: str) -> Settings:
        """Return the settings of a process that uses a group's Redis alone, as its only one."""
        if name == HOME:
            return self.model_copy(update={"redis_groups": {}})
        group = self.redis_groups[name]
        address: dict[str, Any] = {
            "redis_groups": {},
            "redis_url": group.url,
            "redis_sentinels": group.sentinels,
            "redis_master": group.master,
        }
        return self.model_copy(update=address)

    def for_queues(self, queues: Iterable[str]) -> Settings:
        """Return the settings of a worker that serves these queues.

        :raises StartupError: the jobs of these queues are in different Redis.
        """
        by_group = {self.group_of(queue): queue for queue in sorted(queues, reverse=True)}
        if len(by_group) > 1:
            names = ", ".join(sorted(by_group.values()))
            raise StartupError(
                f"{names} have different Redis (PENSTOCK_REDIS_GROUPS): start a worker for each"
            )
        return self.in_group(next(iter(by_group), HOME))


@cache
def load() -> Settings:
    """Return the process's settings.

    :raises BadSettings: a variable's value is not usable; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        if name.startswith(f"{PREFIX}REDIS_URL"):  # it may have a password anywhere
            raise BadSettings(f"{PREFIX}REDIS_URL: {_reason(first['msg'])}") from None
        if first["loc"][0] == "redis_groups":
            place = ".".join(str(part) for part in first["loc"][1:3])
            reason = f"{place}: {_reason(first['msg'])}" if place else _reason(first["msg"])
            raise BadSettings(f"{PREFIX}REDIS_GROUPS: {reason}") from None
        given = redacted(repr(first["input"]))
        raise BadSettings(f"{name}: {first['msg']} (it is {given})") from error


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")
