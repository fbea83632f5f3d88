"""The error tree. It is free of HTTP; `api.http.errors` maps each leaf to a body and a status.

PenstockError
|-- BadRequest               the request can never succeed as it is
|   |-- InvalidParameter     a value is out of range, of the wrong type or missing
|   |-- ContextOverflow      prompt and answer do not fit into the model's context
|   |-- BodyTooLarge         the request's body is over the limit
|   |-- RequestTooSlow       the request's body does not arrive in time
|   |-- UnsupportedEncoding  the request's body has an unknown compression
|   |-- UnsupportedFeature   the served model or backend cannot do what was asked for
|-- NotAuthenticated         no key, or an unknown one
|-- NotPermitted             a known key that may not do this
|-- UnknownModel             no worker has ever announced this model
|-- UnknownJob               no such job, or its journal has expired
|-- UnknownObject            no such stored response, file or batch
|-- Unavailable              a later try may succeed
|   |-- QueueFull            the model's queue is at its limit
|   |-- Overloaded           this process is at its limit for this kind of request
|   |-- RateLimited          this key is over its rate
|   |-- QuotaExceeded        this key has used up its day's or month's tokens
|   |-- NoWorker             the model is known, but no live worker serves it
|   |-- StoreUnavailable     Redis does not answer, or is out of memory
|   |-- Draining             this process is shutting down
|-- JobFailed                an accepted job ended without a complete answer
|   |-- DeadlineExceeded     it did not finish in time
|   |-- Cancelled            the client or an operator cancelled it
|   |-- PoisonJob            it took down too many workers
|   |-- EngineFailed         it caused an internal error in the worker
|-- StartupError             a process cannot start; the message is for the operator
    |-- BadSettings          a setting's value is not usable
    |-- ModelNotFound        a queue names a model that does not exist
    |-- ModelNotLoadable     a model's folder cannot be loaded
    |-- DeviceNotFound       a queue names a device that this machine does not have
"""

from __future__ import annotations

from typing import ClassVar


class PenstockError(Exception):
    """Any error that Penstock raises on purpose.

    `code` is the stable name that crosses process boundaries in `Failed.code`. `param` is the
    request's field at fault, if there is one.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadRequest(PenstockError):
    """The request can never succeed as it is."""

    code = "bad_request"


class InvalidParameter(BadRequest):
    """A value is out of range, of the wrong type or missing."""

    code = "invalid_parameter"


class ContextOverflow(BadRequest):
    """Prompt and answer do not fit into the model's context."""

    code = "context_length_exceeded"


class BodyTooLarge(BadRequest):
    """The request's body is over the limit."""

    code = "body_too_large"


class RequestTooSlow(BadRequest):
    """The request's body does not arrive in time."""

    code = "request_timeout"


class UnsupportedEncoding(BadRequest):
    """The request's body has an unknown compression."""

    code = "unsupported_encoding"


class UnsupportedFeature(BadRequest):
    """The served model or backend cannot do what was asked for."""

    code = "unsupported_feature"


class NotAuthenticated(PenstockError):
    """No key, or an unknown one."""

    code = "invalid_api_key"


class NotPermitted(PenstockError):
    """A known key that may not do this."""

    code = "not_permitted"


class UnknownModel(PenstockError):
    """No worker has ever announced this model."""

    code = "model_not_found"


class UnknownJob(PenstockError):
    """No such job, or its journal has expired."""

    code = "job_not_found"


class UnknownObject(PenstockError):
    """No such stored response, file or batch, or it has expired."""

    code = "not_found"


class Unavailable(PenstockError):
    """A later try may succeed, after `retry_after_s` if that is set."""

    code = "unavailable"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """The model's queue is at its limit."""

    code = "queue_full"


class Overloaded(Unavailable):
    """This process is at its limit for this kind of request."""

    code = "overloaded"


class RateLimited(Unavailable):
    """This key is over its rate."""

    code = "rate_limit_exceeded"


class QuotaExceeded(Unavailable):
    """This key has used up its day's or month's tokens."""

    code = "insufficient_quota"


class NoWorker(Unavailable):
    """The model is known, but no live worker serves it."""

    code = "no_worker"


class ModelLoadFailed(Unavailable):
    """The only workers that could serve the model failed to load it; they try again later."""

    code = "model_load_failed"


class StoreUnavailable(Unavailable):
    """Redis does not answer, is out of memory, or refuses a call.

    `is_refused`: it answers, and would give the same answer again, for example if a key has another
    type.
    """

    code = "store_unavailable"
    is_refused: bool = False


class Draining(Unavailable):
    """This process is shutting down."""

    code = "draining"


class JobFailed(PenstockError):
    """An accepted job ended without a complete answer."""

    code = "job_failed"


class DeadlineExceeded(JobFailed):
    """It did not finish in time."""

    code = "deadline_exceeded"


class Cancelled(JobFailed):
    """The client or an operator cancelled it."""

    code = "cancelled"


class PoisonJob(JobFailed):
    """It took down too many workers."""

    code = "poison_job"


class EngineFailed(JobFailed):
    """It caused an internal error in the worker."""

    code = "engine_failed"


class StartupError(PenstockError):
    """A process cannot start; the message is one line for the operator."""

    code = "startup_error"


class BadSettings(StartupError):
    """A setting's value is not usable."""

    code = "bad_settings"


class ModelNotFound(StartupError):
    """A queue names a model that does not exist."""

    code = "model_folder_not_found"


class ModelNotLoadable(StartupError):
    """A model's folder cannot be loaded."""

    code = "model_not_loadable"


class DeviceNotFound(StartupError):
    """A queue names a device that this machine does not have."""

    code = "device_not_found"


def leaves(root: type[PenstockError] = PenstockError) -> tuple[type[PenstockError], ...]:
    """Return every error class without subclasses below `root`, in definition order."""
    children = root.__subclasses__()
    if not children:
        return (root,)
    return tuple(leaf for child in children for leaf in leaves(child))


def from_code(code: str, message: str) -> PenstockError:
    """Return the error that a `Failed` event or a `TokenizerReply` names.

    An unknown code (from a newer worker) becomes a `JobFailed`.
    """
    for leaf in leaves():
        if leaf.code == code:
            return leaf(message)
    return JobFailed(message)


def first_line(error: BaseException) -> str:
    """Return an exception as one line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
