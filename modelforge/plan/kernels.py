"""What a device's kernels do beyond what the meta device shows: temporaries, other code paths.

The meta device runs shape functions, not kernels. Here stand, per device, the memory that kernels
take for themselves while they run, the operators whose result depends on data, and the calls that
go another way on CUDA than on meta (attention, dropout, Triton, optimisers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from modelforge.plan import repeats
from modelforge.plan.autocast import autocasting, cast_for, replaced
from modelforge.plan.tracker import Device, Operator, Tracker


def cuda(capability: tuple[int, int] = (8, 6)) -> Device:
    """A CUDA device of this compute capability."""
    return Device("cuda", True, capability, {**_META, **_CUDA})


def cpu() -> Device:
    """The CPU: no rounding, hardly a temporary."""
    return Device("cpu", False, (0, 0), {**_META, **_CPU})


@contextmanager
def running_as(device: Device, tracker: Tracker) -> Iterator[None]:
    """Meta tensors take this device's code paths inside."""
    with ExitStack() as stack:
        for target, name, replacement in _patches(device, tracker):
            stack.enter_context(replaced(target, name, replacement))
        stack.enter_context(autocasting(device.type))
        yield


def _patches(device: Device, tracker: Tracker) -> Iterator[tuple[Any, str, Any]]:
    import bitsandbytes.functional as bnb
    import torch.optim.optimizer as optimizer
    import torch.utils._foreach_utils as foreach
    from peft.tuners.tuners_utils import BaseTunerLayer

    place = "_move_adapter_to_device_of_base_layer"
    yield BaseTunerLayer, place, _on_meta_too(getattr(BaseTunerLayer, place))
    fused = optimizer._get_fused_kernels_supported_devices()
    yield optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused, "meta"]
    for name in ("kaiming_uniform_", "uniform_", "normal_", "zeros_"):
        yield torch.nn.init, name, _left_alone  # new adapters begin on the CPU, with real memory
    yield F, "scaled_dot_product_attention", _attention(device, F.scaled_dot_product_attention)
    if device.type != "cuda":
        return
    # CUDA's optimisers and clipping take whole lists of tensors at once, and temporaries of all.
    lists = foreach._get_foreach_kernels_supported_devices()
    for module in (foreach, optimizer):
        yield module, "_get_foreach_kernels_supported_devices", lambda: [*lists, "meta"]
    yield F, "dropout", _dropout(F.dropout)
    # Paged states live in managed memory: they leave the card when it is full.
    yield bnb, "get_paged", _paged
    yield bnb, "prefetch_tensor", lambda *args, **kwargs: None
    yield bnb, "fill", lambda *args, **kwargs: None
    yield from _trl_patches(tracker)


def _trl_patches(tracker: Tracker) -> Iterator[tuple[Any, str, Any]]:
    """TRL's fused head as on CUDA: its Triton kernels write in place and take nothing."""
    try:
        import trl.kernels.chunked_logprob as chunked
    except ImportError:  # before TRL 1.15 the head has no Triton kernels
        return
    import trl.trainer.utils as utils

    def on_triton(where: torch.device) -> bool:
        return where.type in ("cuda", "meta")

    def add_product(accumulator: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        tracker.flops += 2 * left.numel() * right.shape[-1]

    yield chunked, "_use_triton", on_triton
    yield utils, "_use_triton", on_triton
    yield chunked, "_forward_kernel", _Launches()
    yield chunked, "_backward_kernel", _Launches()
    yield chunked, "_addmm_fp32", add_product
    yield chunked, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b))


def _on_meta_too(original: Callable[..., None]) -> Callable[..., None]:
    """PEFT leaves a second adapter on the CPU where the first is on meta."""

    def move(self: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        original(self, adapter_name, *args, **kwargs)
        for layers in (getattr(self, name, None) for name in self.adapter_layer_names):
            if layers is not None and adapter_name in layers:
                layers[adapter_name] = layers[adapter_name].to("meta")

    return move


def _left_alone(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A tensor whose values nobody reads."""
    return tensor


class _Launches:
    """``kernel[grid](…)`` that does nothing."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _attention(device: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel that scaled dot product attention picks on this device."""

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if query.device.type != "meta":
            return original(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale,
                enable_gqa=enable_gqa,
            )  # fmt: skip
        query, key, value = cast_for("scaled_dot_product_attention", (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = zeros.masked_fill_(attn_mask.logical_not(), float("-inf"))
        aten = torch.ops.aten
        if device.type == "cpu":
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        if attn_mask is None and device.flash and query.dtype != torch.float32:
            return aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, False, scale=scale
            )[0]
        if key.shape[1] != query.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal,
            scale=scale,
        )[0]  # fmt: skip

    return attention


def _dropout(original: Callable[..., Any]) -> Callable[..., Any]:
    """CUDA's fused dropout: an output and a boolean mask."""

    def dropout(
        input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if input.device.type != "meta" or not training or p == 0 or inplace:
            return original(input, p, training, inplace)
        return torch.native_dropout(input, p, True)[0]

    return dropout


def _paged(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
    # On the CPU the tensor would be real memory; a view of one element has the shape and none.
    out: Any = torch.empty(1, dtype=dtype, device="meta").expand(shape)
    out.is_paged = True
    out.page_deviceid = 0
    return out


def _scalar(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """``.item()``: the only booleans asked for are whether no token is padding."""
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    return not tracker.padded if args[0].dtype == torch.bool else 1


def _to_copy(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """A copy to the machine's memory: of what metrics and decoding read."""
    if args[0].device.type == "meta" and kwargs.get("device", torch.device("meta")).type == "cpu":
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    return repeats.run(func, args, kwargs)


def _true_elements(tracker: Tracker, mask: torch.Tensor) -> int:
    return max(1, round(mask.numel() * tracker.share_true))


def _index(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    source, indices = args[:2]
    mask = indices[0] if indices else None
    if source.device.type != "meta" or mask is None or mask.dtype != torch.bool:
        return func(*args, **kwargs)
    rows = _true_elements(tracker, mask)
    with tracker.temporaries([8 * rows * mask.dim()]):
        return source.new_empty((rows, *source.shape[mask.dim() :]))


def _nonzero(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    found = _true_elements(tracker, args[0])
    return torch.empty((found, args[0].dim()), dtype=torch.long, device="meta")


def _index_put(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    with tracker.temporaries([8 * args[2].numel()]):
        return torch.empty_like(args[0]) if func._schema.name == "aten::index_put" else args[0]


def _masked_select(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    return args[0].new_empty((_true_elements(tracker, args[1]),))


def _masked_scatter(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    return torch.empty_like(args[0]) if args[0].device.type == "meta" else func(*args, **kwargs)


def _scatter_into(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """Autograd scatters in place, except while any dispatch mode is active: undo that."""
    if torch.is_grad_enabled() or args[0].device.type != "meta":
        return func(*args, **kwargs)
    return args[0]


def _matmul(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    tracker.once("workspace", tracker.device.workspace)
    left, right = args[-2:]
    tracker.flops += 2 * left.numel() * right.shape[-1]
    return repeats.run(func, args, kwargs)


def _attention_forward(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    tracker.flops += _attention_flops(*args[:2])
    return func(*args, **kwargs)


def _attention_flops(query: torch.Tensor, key: torch.Tensor) -> int:
    """Scores and their sum over values, half of it masked: 4 · B · H · S · T · D / 2."""
    # torch's flop_counter counts the masked half too, and knows neither bitsandbytes' 4-bit
    # product nor TRL's fused head.
    return 2 * query.numel() * key.shape[2]


def _contiguous_inputs(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """Softmax kernels copy inputs that are not contiguous."""
    copies = [
        x.numel() * x.element_size()
        for x in args[:2]
        if isinstance(x, torch.Tensor) and not x.is_contiguous()
    ]
    with tracker.temporaries(copies):
        return func(*args, **kwargs)


def _flash_backward(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """Flash attention 2 accumulates dQ in float32 and expands dK, dV of grouped heads."""
    query, key = args[1], args[2]
    tracker.flops += _attention_flops(query, key) * 5 // 2
    batch, heads, length, width = query.shape
    length = -(-length // 128) * 128
    step = 32 if width <= 128 else 64
    sizes = [batch * heads * length * 4, batch * heads * length * (-(-width // step) * step) * 4]
    if key.shape[1] != heads:
        sizes += [batch * heads * key.shape[2] * width * query.element_size()] * 2
    with tracker.temporaries(sizes):
        return func(*args, **kwargs)


def _gemm_4bit(smallest: int) -> Operator:
    """bitsandbytes dequantises the weight first when many tokens meet it."""

    def run(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
        inputs, shape = args[0], args[2]
        if tracker.device.type == "cuda":
            tracker.once("workspace", tracker.device.workspace)
        tracker.flops += 2 * inputs.numel() * shape[0]
        sizes: list[int] = []
        if inputs.numel() // inputs.shape[-1] > smallest:
            constants = args[7] if len(args) > 7 else kwargs.get("absmax_8bit")
            if constants is not None:
                copies = 2 if tracker.device.type == "cuda" else 1
                sizes += [constants.numel() * 4] * copies
            sizes.append(math.prod(shape) * inputs.element_size())
        with tracker.temporaries(sizes):
            return repeats.run(func, args, kwargs)

    return run


def _multinomial(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """One draw a row divides the weights by exponential noise of their size."""
    with tracker.temporaries([args[0].numel() * args[0].element_size()]):
        return func(*args, **kwargs)


def _int8_quant(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    """LLM.int8() on data without outlier columns."""
    rows = math.prod(args[0].shape[:-1])
    return (
        torch.empty(args[0].shape, dtype=torch.int8, device="meta"),
        torch.empty(rows, dtype=torch.float32, device="meta"),
        None,
    )


def _int8_mixed(tracker: Tracker, func: Any, args: Any, kwargs: Any) -> Any:
    inputs, quantised, weight = args[:3]
    shape = (*quantised.shape[:-1], weight.shape[0])
    with tracker.temporaries([math.prod(shape) * 4]):  # the int32 product
        return inputs.new_empty(shape), None


_META: dict[str, Operator] = {
    "aten::_local_scalar_dense": _scalar,
    "aten::_to_copy": _to_copy,
    "aten::index": _index,
    "aten::nonzero": _nonzero,
    "aten::index_put": _index_put,
    "aten::index_put_": _index_put,
    "aten::_index_put_impl_": _index_put,
    "aten::masked_select": _masked_select,
    "aten::multinomial": _multinomial,
    "aten::masked_scatter": _masked_scatter,
    "aten::scatter_add": _scatter_into,
    "aten::index_add": _scatter_into,
    "bitsandbytes::int8_vectorwise_quant": _int8_quant,
    "bitsandbytes::int8_mixed_scaled_mm": _int8_mixed,
}
_CUDA: dict[str, Operator] = {
    "aten::mm": _matmul,
    "aten::addmm": _matmul,
    "aten::bmm": _matmul,
    "aten::_log_softmax": _contiguous_inputs,
    "aten::_softmax": _contiguous_inputs,
    "aten::_log_softmax_backward_data": _contiguous_inputs,
    "aten::_softmax_backward_data": _contiguous_inputs,
    "aten::_scaled_dot_product_flash_attention": _attention_forward,
    "aten::_scaled_dot_product_efficient_attention": _attention_forward,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    # Up to 1536 rows a kernel may multiply packed weights; which does depends on card and shape.
    "bitsandbytes::gemm_4bit": _gemm_4bit(512),
}
_CPU: dict[str, Operator] = {"bitsandbytes::gemm_4bit": _gemm_4bit(0)}
