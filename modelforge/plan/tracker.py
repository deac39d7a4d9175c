"""Births and deaths of every storage a program makes, on any device, data or none.

The real training step runs on the meta device: shapes and lifetimes, no memory. A dispatch mode
sees each operator below autograd, so that what is saved for the backward pass, recomputed by
checkpointing and freed is what PyTorch does, not a formula for it.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modelforge.plan import repeats
from modelforge.plan.allocator import Event, rounded
from modelforge.plan.speed import Load, load_of

# Runs an operator on behalf of a tracker: (tracker, operator, arguments, keyword arguments).
Operator = Callable[["Tracker", Any, tuple[Any, ...], Mapping[str, Any]], Any]


# Processor seconds for the log of a step. A model that loops over its tokens would take hours.
_PATIENCE = 120.0
# The clock is asked after so many operators.
_BETWEEN_LOOKS = 100


# Of each call that has a key: what it asks of a card.
_loads: dict[Hashable, Load | None] = {}
# What a phase is part of; the others are of the micro-batch.
_PARTS_OF_WORK = {"optimizer": "update", "prompt": "prompt", "generation": "token"}


class TooSlow(Exception):
    """The step does not come to its end in time."""


@dataclass(frozen=True)
class Device:
    """A kind of device to run a step for.

    Attributes:
        type: ``cuda`` or ``cpu``.
        rounds: Whether its allocator rounds to 512 bytes.
        capability: CUDA's compute capability.
        operators: How operators run that meta alone would get wrong, by schema name.
    """

    type: str
    rounds: bool
    capability: tuple[int, int]
    operators: Mapping[str, Operator]

    @property
    def flash(self) -> bool:
        """Whether it runs flash attention (compute capability 8.0)."""
        return self.capability >= (8, 0)

    @property
    def workspace(self) -> int:
        """cuBLAS's workspace, taken at the first matrix product (``CUBLAS_WORKSPACE_CONFIG``)."""
        return 32 * 2**20 if self.capability >= (9, 0) else 8_519_680


class Tag(NamedTuple):
    """What a storage was born for.

    Attributes:
        phase: ``static``, ``prompt`` and ``generation`` (of a rollout), ``reference`` (a pass that
            keeps nothing), ``forward``, ``backward``, ``optimizer``.
        scope: Inside which part of the model: ``layer``, ``head`` or a static part's name.
    """

    phase: str
    scope: str


class Tracker(TorchDispatchMode):
    """Logs storages as they are born and die.

    Attributes:
        events: In order: (id, bytes) for a birth, (-id, bytes) for a death.
        tags: What each id was born for.
        allocated: Bytes alive, rounded as the device's allocator rounds.
        peak: Their maximum, and ``peak_at`` the number of events it was reached after.
        phase, scope: Given to what is born next.
        gradients: Ids of parameters' gradients.
        flops: Floating point operations of matrix products and attention.
        work: What operators asked of the card since `count_work`: those of the ``micro-batch``, of
            the optimiser's ``update``, of reading the ``prompt`` of a rollout, and of one sampled
            ``token``. Nothing if it is not ``timed``.
    """

    def __init__(self, device: Device, *, timed: bool = True) -> None:
        super().__init__()
        self.device, self._timed = device, timed
        self.events: list[Event] = []
        self.tags: dict[int, Tag] = {}
        self.allocated = self.peak = self.peak_at = 0
        self.phase, self.scope = "static", ""
        # How many of a boolean mask's elements are true; set by the step for its own masks.
        self.share_true = 1.0
        self.padded = False
        self.gradients: set[int | None] = set()
        self.flops = 0
        self.work: dict[str, Counter[Load]] = {}
        self._scratch = self._calls = 0
        self._until = time.process_time() + _PATIENCE
        self._alive: dict[int, tuple[int, Any]] = {}
        self._once: set[str] = set()
        self._looks = True

    @contextmanager
    def within(self, *, phase: str | None = None, scope: str | None = None) -> Iterator[None]:
        """Tag what is born inside with this phase or scope."""
        before = self.phase, self.scope
        self.phase, self.scope = phase or self.phase, self.scope if scope is None else scope
        try:
            yield
        finally:
            self.phase, self.scope = before

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Log nothing of what is born inside."""
        self._looks = False
        try:
            yield
        finally:
            self._looks = True

    def born(self, nbytes: int, *, tag: Tag | None = None) -> int:
        """Log a birth that no tensor stands for; returns its id."""
        identity = len(self.tags) + 1
        self.tags[identity] = tag or Tag(self.phase, self.scope)
        self.events.append((identity, nbytes))
        self.allocated += self._rounded(nbytes)
        if self.allocated > self.peak:
            self.peak, self.peak_at = self.allocated, len(self.events)
        return identity

    def died(self, identity: int, nbytes: int) -> None:
        """Log a death."""
        self.events.append((-identity, nbytes))
        self.allocated -= self._rounded(nbytes)

    def once(self, name: str, nbytes: int) -> None:
        """Log memory that is taken at the first use and kept."""
        if name not in self._once and nbytes:
            self._once.add(name)
            self.born(nbytes, tag=Tag("static", name))

    @contextmanager
    def temporaries(self, sizes: list[int]) -> Iterator[None]:
        """Memory that a kernel takes for itself while it runs."""
        held = [(self.born(nbytes), nbytes) for nbytes in sizes]
        self._scratch += sum(sizes)
        try:
            yield
        finally:
            for identity, nbytes in reversed(held):
                self.died(identity, nbytes)

    def add(self, tensor: torch.Tensor, *, tag: Tag | None = None) -> None:
        """Follow a tensor's storage, unless it is followed already."""
        if tensor.device.type != "meta":
            return  # the collator's own tensors, in the machine's memory
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        nbytes = storage.nbytes()
        identity = self.born(nbytes, tag=tag)

        def on_death(_: Any) -> None:
            self._alive.pop(key, None)
            self.died(identity, nbytes)

        self._alive[key] = (identity, weakref.ref(storage, on_death))

    def identity(self, tensor: torch.Tensor) -> int | None:
        """The id of a tensor's storage, if it is followed."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        return found[0] if found else None

    def alive_at(self, position: int) -> dict[int, int]:
        """Id → bytes of what is alive after so many events."""
        alive: dict[int, int] = {}
        for identity, nbytes in self.events[:position]:
            if identity > 0:
                alive[identity] = nbytes
            else:
                del alive[-identity]
        return alive

    def peaks(self) -> dict[str, int]:
        """Phase → the most bytes alive at a birth in it."""
        peaks: dict[str, int] = {}
        allocated = 0
        for identity, nbytes in self.events:
            if identity < 0:
                allocated -= self._rounded(nbytes)
                continue
            allocated += self._rounded(nbytes)
            phase = self.tags[identity].phase
            peaks[phase] = max(peaks.get(phase, 0), allocated)
        return peaks

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and the guard took a tenth of an operator's time."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Autocast's mode would see each shape that is read here, for nothing.
        with torch._C.DisableTorchFunction():
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._calls += 1
        if self._calls % _BETWEEN_LOOKS == 0 and time.process_time() > self._until:
            raise TooSlow(f"a step took more than {_PATIENCE} s to simulate")
        name, before, self._scratch = func._schema.name, self.flops, 0
        run = self.device.operators.get(name)
        if run is None:
            key = repeats.key_of(func, args, kwargs)
            out = repeats.run(func, args, kwargs, key)
        else:  # what it gives and takes may hang on more than its arguments
            key, out = None, run(self, func, args, kwargs)
        if not self._looks:
            return out
        if self.work and self.phase != "static":
            self._count(key, name, args, out, self.flops - before)
        if isinstance(out, torch.Tensor):
            self.add(out)
        elif isinstance(out, list | tuple):
            for item in out:
                if isinstance(item, torch.Tensor):
                    self.add(item)
        return out

    def count_work(self) -> None:
        """Count operators from here on, where that was asked for; a rollout's stay."""
        if self._timed:
            self.work |= {"micro-batch": Counter(), "update": Counter()}

    def _count(self, key: Hashable, name: str, args: Any, out: Any, flops: int) -> None:
        if key is not None and key in _loads:
            load = _loads[key]
        else:
            load = load_of(name, args, out, flops=flops, scratch=self._scratch)
            if key is not None:
                if len(_loads) >= repeats.MOST:
                    _loads.clear()
                _loads[key] = load
        if load is not None:
            part = _PARTS_OF_WORK.get(self.phase, "micro-batch")
            self.work.setdefault(part, Counter())[load] += 1

    def _rounded(self, nbytes: int) -> int:
        return rounded(nbytes) if self.device.rounds else nbytes
