"""Automatic mixed precision for meta tensors, which PyTorch's autocast passes over.

The state is that of CPU autocast, which accelerate and checkpointing switch as they would CUDA's;
this mode reads it and casts as the documented tables of CUDA or the CPU say (PyTorch's
``autocast_mode.h``), with CUDA's cache of cast weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_LOWER = """
    linear matmul mm bmm mv addmm addmv addbmm baddbmm einsum chain_matmul conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention prelu
    __matmul__ __rmatmul__
"""
_CUDA_FLOAT = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__
    __rpow__ softplus layer_norm group_norm norm cosine_similarity nll_loss cross_entropy cumprod
    cumsum dist softmax log_softmax sum prod renorm logsumexp binary_cross_entropy kl_div l1_loss
    mse_loss smooth_l1_loss
"""
_CPU_FLOAT = "mse_loss cosine_similarity nll_loss cross_entropy"

_active: list[_Casting] = []


@contextmanager
def replaced(target: Any, name: str, replacement: Any) -> Iterator[None]:
    """An attribute of a library holds another value inside."""
    there = hasattr(target, name)
    original = getattr(target, name, None)
    setattr(target, name, replacement)
    try:
        yield
    finally:
        if there:
            setattr(target, name, original)
        else:
            delattr(target, name)


class _Casting(TorchFunctionMode):
    """Casts the arguments of listed functions while CPU autocast is on."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._lower = frozenset(_LOWER.split())
        self._float = frozenset((_CUDA_FLOAT if device == "cuda" else _CPU_FLOAT).split())
        self.weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # The name first: most calls only read a shape, and asking for the state takes longer.
        dtype = self.dtype_of(getattr(func, "__name__", ""))
        if dtype is not None and torch.is_autocast_enabled("cpu"):
            args = tuple(self.cast(args, dtype))
            kwargs = dict(zip(kwargs, self.cast(kwargs.values(), dtype), strict=True))
        return func(*args, **kwargs)

    def dtype_of(self, name: str) -> torch.dtype | None:
        """The type a function computes in, or None where it takes what comes."""
        if name in self._lower:
            return torch.get_autocast_dtype("cpu")
        return torch.float32 if name in self._float else None

    def cast(self, values: Iterable[Any], dtype: torch.dtype) -> list[Any]:
        """Floating meta tensors in this type; all else as it is."""
        return [self._cast(value, dtype) for value in values]

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value):
            return type(value)(self._cast(v, dtype) for v in value)
        if not isinstance(value, torch.Tensor) or value.device.type != "meta":
            return value
        if not value.is_floating_point() or value.dtype in (dtype, torch.float64):
            return value
        keep = (
            dtype != torch.float32
            and value.dtype == torch.float32
            and value.requires_grad
            and value.is_leaf
            and not value._is_view()
        )
        if not keep:
            return value.to(dtype)
        if id(value) not in self.weights:
            self.weights[id(value)] = (value, value.to(dtype))
        return self.weights[id(value)][1]


@contextmanager
def autocasting(device: str) -> Iterator[None]:
    """Where CPU autocast is on inside, meta tensors are cast as on this type of device."""
    mode = _Casting(device)
    clear = torch.clear_autocast_cache

    def clear_both() -> None:
        mode.weights.clear()
        clear()

    backward = torch.autograd._engine_run_backward

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        # A mode is off while it handles `backward`; what is recomputed inside is to be cast too.
        with mode:
            return backward(*args, **kwargs)

    with ExitStack() as stack:
        for target, name, replacement in (
            (torch, "is_autocast_enabled", _for_meta(torch.is_autocast_enabled)),
            (torch, "get_autocast_dtype", _for_meta(torch.get_autocast_dtype)),
            (torch.amp, "is_autocast_available", _for_meta(torch.amp.is_autocast_available)),
            (torch.autocast, "__init__", _init_for_meta(torch.autocast.__init__)),
            (torch, "clear_autocast_cache", clear_both),
            (torch.autograd, "_engine_run_backward", run_backward),
        ):
            stack.enter_context(replaced(target, name, replacement))
        _active.append(mode)
        stack.callback(_active.pop)
        stack.enter_context(mode)
        yield


def cast_for(name: str, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Tensors in the type that autocast gives this function, where it is on."""
    if not _active or not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = _active[-1].dtype_of(name)
    return tensors if dtype is None else tuple(_active[-1].cast(tensors, dtype))


def _for_meta(original: Callable[..., Any]) -> Callable[..., Any]:
    def asked(device: str | None = None) -> Any:
        if device is None:
            return original("cpu")
        return original("cpu" if device == "meta" else device)

    return asked


def _init_for_meta(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        original(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)

    return init
