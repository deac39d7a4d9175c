"""What an operator gave once, it gives again on tensors of the same shapes: without its Python.

Most operators compute the shape of their result in Python on the meta device, which took half the
time of a plan. A model repeats its layers, and a plan tries several batches, so few calls are new.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

# Makes from an operator's arguments the kind of result that it gave before.
Maker = Callable[[tuple[Any, ...]], Any]

_NOT_ASKED = object()
#: Kinds of calls that are remembered at most; a plan of one config takes some thousands.
MOST = 2**16
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout,
          torch.memory_format)  # fmt: skip
_makers: dict[Hashable, Maker | None] = {}


class _Unknown(Exception):
    """An argument that no key can stand for."""


def key_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    """What stands for a call on tensors of these kinds; None where no key can."""
    try:
        return _key(func, args, kwargs)
    except _Unknown:
        return None


def run(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Hashable = _NOT_ASKED
) -> Any:
    """An operator's result on meta tensors: made as it was before, or computed where it is new.

    Below autograd and autocast, the result's kind follows from the arguments' kinds alone.

    Args:
        func: The operator.
        args: As it is called.
        kwargs: As it is called.
        key: What :func:`key_of` gave for the call, where that was asked.
    """
    key = key_of(func, args, kwargs) if key is _NOT_ASKED else key
    if key is None:
        return func(*args, **kwargs)
    if key in _makers:
        maker = _makers[key]
        return func(*args, **kwargs) if maker is None else maker(args)
    out = func(*args, **kwargs)
    if len(_makers) >= MOST:
        _makers.clear()
    _makers[key] = _maker(func, args, kwargs, out)
    return out


def _key(func: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Hashable:
    key = [func, torch.get_default_dtype()]
    for value in args:
        _extend(key, value)
    for name, value in kwargs.items():
        key.append(name)
        _extend(key, value)
    return tuple(key)


def _extend(key: list[Any], value: Any) -> None:
    if isinstance(value, torch.Tensor):
        if not value.is_meta:
            raise _Unknown
        key += value.shape, value.stride(), value.dtype
    elif isinstance(value, _PLAIN):
        key += type(value), value  # 1, 1.0 and True are equal, and promote differently
    elif isinstance(value, tuple | list):
        key.append(len(value))
        for item in value:
            _extend(key, item)
    else:
        raise _Unknown


def _maker(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Maker | None:
    """How to make such a result again; None where it is the operator's to make."""
    if func._schema.is_mutable:
        if torch.Tag.inplace_view in func.tags:
            return None
        if out is None:
            return lambda args: None
        return (lambda args: args[0]) if args and out is args[0] else None
    if not isinstance(out, torch.Tensor) or not out.is_meta:
        return None
    shape, strides, dtype = out.shape, out.stride(), out.dtype
    made = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    storage = out.untyped_storage()
    if storage.nbytes() != made.untyped_storage().nbytes() or out.storage_offset():
        return None
    given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    if any(storage._cdata == tensor.untyped_storage()._cdata for tensor in given):
        return None  # a view, whatever the schema says
    return lambda args: torch.empty_strided(shape, strides, dtype=dtype, device="meta")
