"""The `transformers` backend: any causal language model of Transformers, in the checkpoint's dtype.

`assemble` is shared with the other backends whose models are Transformers modules (bigdl): it
chooses between `PagedModel` (continuous batching over our KV cache) and the grouped fallback by
trying them against the model's own plain forward.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.backends.lean import loading as lean
from penstock.models.backends.lean import published as lean_published
from penstock.models.backends.lean.products import low_bit
from penstock.models.backends.steps import build_step
from penstock.models.backends.transformers import rope
from penstock.models.backends.transformers.adapters import ModuleAdapter, StepAdapters
from penstock.models.backends.transformers.attention import NotPageable, PagedAttention
from penstock.models.backends.transformers.dtypes import NAMES, choose_dtype
from penstock.models.backends.transformers.grouped import GroupedModel, Replay
from penstock.models.backends.transformers.images import ForwardImages
from penstock.models.loading import checkpoint, published
from penstock.models.loading.assembled import Assembled
from penstock.models.loading.probe import Probe
from penstock.models.spec import FP8_FORMAT
from penstock.models.vision.loading import has_plain_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.model import Batch, Mutual
    from penstock.models.adapters.adapter import LowRank
    from penstock.models.backends.lean.model import LeanModel
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.weights.matrices import Kept

logger = logging.getLogger(__name__)


class PagedModel:
    """A Transformers module whose attention runs over our KV cache."""

    def __init__(
        self,
        module: Any,
        attention: PagedAttention,
        device: torch.device,
        context_length: int,
    ) -> None:
        self.module, self.attention, self.device = module, attention, device
        self.context_length = context_length
        self.vocab_size = checkpoint.vocab_size(module)
        self._images: ForwardImages | None = None
        self._adapters = StepAdapters(module, device)
        self._learn()
        self.kv_layout = attention.caches.lay_out(context_length)

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """See `penstock.engine.model.ImageModel`."""
        self.attention.mutual = mutual
        self._images = ForwardImages(self.module, rotary)
        return True

    def take_adapter(self, adapter: LowRank) -> ModuleAdapter:
        """See `penstock.models.adapters.adapter.AdapterModel`."""
        return self._adapters.take(adapter)

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`.

        :raises MemoryError: the device has not enough memory.
        """
        self.attention.caches.allocate(blocks, self.device)

    def allocate_windows(self, blocks: int) -> None:
        """See `penstock.engine.model.WindowedModel`."""
        self.attention.caches.allocate_windows(blocks)

    @property
    def block_format(self) -> str:
        """See `penstock.engine.model.StorableModel`."""
        return f"paged torch {torch.__version__} {self.attention.caches.block_format}"

    def read_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableModel`."""
        return self.attention.caches.read_block(block, apart=False)

    def write_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableModel`."""
        return self.attention.caches.write_block(block, content, apart=False)

    def read_window_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableWindows`."""
        return self.attention.caches.read_block(block, apart=True)

    def write_window_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableWindows`."""
        return self.attention.caches.write_block(block, content, apart=True)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32."""
        rows, output = self._run(batch)
        return output.logits[0, : len(rows)].float()

    @torch.inference_mode()
    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `penstock.engine.model.HiddenModel`: (rows, vocab) and (rows, hidden), float32."""
        rows, output = self._run(batch, output_hidden_states=True)
        hidden = output.hidden_states[-1][0].index_select(0, rows)
        return output.logits[0, : len(rows)].float(), hidden.float()

    def _run(self, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
        """Run the module; returns which of the step's rows are wanted, and its output."""
        step = build_step(batch, self.device)
        rows = step.logit_rows
        self.attention.begin(step)
        if self._images:
            self._images.begin(batch, step.first_rows, step.position_ids)
        self._adapters.begin(batch, step)
        output = self.module(
            input_ids=step.token_ids,
            position_ids=step.position_ids,
            attention_mask=step.attention_mask,
            use_cache=False,
            return_dict=True,
            # One row at least: low-bit kernels do not take an empty matrix.
            logits_to_keep=rows if len(rows) else step.write_slots.new_zeros(1),
            **options,
        )
        return rows, output

    def release(self, key: int) -> None:
        """Do nothing: there is no state by sequence."""

    @torch.inference_mode()
    def _learn(self) -> None:
        """One forward of two tokens that notes each layer's KV shape."""
        self.attention.begin(None)
        tokens = torch.zeros((1, 2), dtype=torch.int64, device=self.device)
        asked: dict[str, Any] = {
            "input_ids": tokens,
            "position_ids": torch.arange(2, device=self.device)[None],
            "attention_mask": torch.ones_like(tokens),
            "use_cache": False,
            "logits_to_keep": torch.zeros(1, dtype=torch.int64, device=self.device),
        }
        self.module(**asked)
        caches = self.attention.caches
        if not caches.shapes:
            raise NotPageable("no layer uses the attention interface")
        try:
            self.attention.begin(None)
            states = self.module(**asked, output_hidden_states=True).hidden_states
            self.shows_hidden = states is not None and states[-1].shape[:2] == (1, 2)
        except Exception as error:  # noqa: BLE001 - an architecture without them serves all the same
            logger.info("no embeddings: %s", checkpoint.first_line(error))
            self.shows_hidden = False
        self.attention.caches = caches


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Load a checkpoint in its own dtype, or in what the spec or the device prefers.

    :raises ModelNotLoadable: with one line about the reason.
    """
    place = devices.device_of(spec)
    if spec.format == FP8_FORMAT:
        return low_bit.load(spec, place, progress)
    config = checkpoint.load_config(spec)
    dtype = choose_dtype(spec, config)
    progress(0.05, f"reading {spec.path} as {NAMES[dtype]}")
    module = checkpoint.load_module(spec, config, dtype)
    return lean_published.attempt(spec, module, place, progress) or assemble(
        spec,
        module,
        format_name=NAMES[dtype],
        parameters=checkpoint.parameters(module),
        tolerance=1e-3 if dtype == torch.float32 else 0.1,
        progress=progress,
    )


def assemble(
    spec: ModelSpec,
    module: Any,
    *,
    format_name: str,
    parameters: int,
    tolerance: float,
    progress: Progress,
    kept: Kept | None = None,
) -> Assembled:
    """Put a module on its device and find a way to run it that gives its own logits.

    `tolerance` is the relative error of logits that counts as equal; `kept` is what became of
    published codes, if that is not what the module notes.

    :raises ModelNotLoadable: it is not causal, or no way gives its own logits.
    """
    device = (place := devices.device_of(spec)).torch_device
    module = module.to(device).eval().requires_grad_(requires_grad=False)
    context_length = checkpoint.context_length(spec, module)
    rope.freeze(module, context_length)
    progress(0.8, "trying the model")
    probe = Probe(module, device, tolerance)
    probe.require_causal(str(spec.path))
    model: LeanModel | PagedModel | GroupedModel | None = None
    if has_plain_images(spec):
        model = lean.attempt(module, place, context_length, probe)
    else:
        logger.info("%s: its images are not for the lean decoder", spec.queue)
    running = "lean"
    if model is None and _can_page(module, probe):
        model, running = _try_paged(module, device, context_length, probe), "paged"
    grouped = model is None
    if model is None:
        model = _grouped(spec, module, device, context_length, probe)
        running = f"grouped-{model.replay.value}"
        logger.warning("%s: one forward a sequence and step: %s", spec.queue, running)
    return Assembled(
        model=model,
        backend=spec.backend,
        format=format_name,
        architecture=type(module).__name__,
        parameters=parameters,
        weights_bytes=checkpoint.weights_bytes(module),
        running=running,
        batching="grouped" if grouped else "continuous",
        kept=published.noted(module) if kept is None else kept,
    )


def _can_page(module: Any, probe: Probe) -> bool:
    """Return whether our attention and KV cache may replace the module's own.

    They may not if the module's own cache holds more than keys and values: a state that is not in
    the blocks is lost between chunks, or shared by neighbours, too little of it at times for a
    probe of a few tokens to see.
    """
    name = type(module).__name__
    if not _supports_interface(module):
        logger.info("%s: no continuous batching: it takes no attention function", name)
        return False
    if probe.stateful_layers:
        kinds = ", ".join(probe.stateful_layers)
        logger.warning("%s: no continuous batching: its layers keep a state: %s", name, kinds)
        return False
    return True


def _try_paged(
    module: Any, device: torch.device, context_length: int, probe: Probe
) -> PagedModel | None:
    """Return the module over our KV cache; None, with the module restored, if its logits differ."""
    attention = PagedAttention()
    attention.register()
    name = type(module).__name__
    before = module.config._attn_implementation  # noqa: SLF001 - it has no other name
    try:
        module.set_attn_implementation(attention.name)
        model = PagedModel(module, attention, device, context_length)
        error = probe.error_of(model)
    except Exception as failure:  # noqa: BLE001 - whatever a foreign architecture raises, it has a fallback
        logger.warning("%s: no continuous batching: %s", name, checkpoint.first_line(failure))
    else:
        if error <= probe.tolerance:
            return model
        logger.warning("%s: no continuous batching: logits differ by %.2g", name, error)
    module.set_attn_implementation(before)
    return None


def _grouped(
    spec: ModelSpec, module: Any, device: torch.device, context_length: int, probe: Probe
) -> GroupedModel:
    """Return the fastest of the fallback's ways that gives the module's own logits."""
    failure: BaseException | None = None
    for replay in Replay:
        model = GroupedModel(module, device, context_length, replay)
        try:
            if probe.error_of(model) <= probe.tolerance:
                return model
        except Exception as error:  # noqa: BLE001 - the next way may work
            failure = error
    differs = "its logits differ from those of its own decoding"
    reason = checkpoint.first_line(failure) if failure else differs
    raise ModelNotLoadable(f"{spec.path}: {type(module).__name__} cannot be served: {reason}")


def _supports_interface(module: Any) -> bool:
    """Whether the module takes its attention function and its logit rows from us."""
    supports: Callable[[], bool] = getattr(module, "_can_set_attn_implementation", lambda: False)
    return bool(supports()) and checkpoint.takes(module, "logits_to_keep", "position_ids")
