"""What is made again without its operator is what the operator gives."""

import pytest
import torch
from machines import card
from test_plan import config_of, find

from modelforge.config import Choice
from modelforge.plan import repeats
from modelforge.plan.architectures import Found, with_layers
from modelforge.plan.kernels import cuda
from modelforge.plan.memory import simulate
from modelforge.plan.tracker import Tracker

META = {"device": "meta"}


@pytest.mark.parametrize("strategy", ["qlora", "ppo"])
def test_a_step_made_of_repeats_is_logged_as_one_without(strategy, monkeypatch):
    few = {"per_device_train_batch_size": 1, "max_seq_length": 256, "bf16": True}
    few |= {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    config = config_of(strategy).with_choices({k: Choice(v, "plan") for k, v in few.items()})
    whole = find(config)
    found = Found(with_layers(whole.architecture, 2), whole.adapter, whole.source)
    repeated = simulate(config, found, card(24.0)).tracker
    with monkeypatch.context() as patch:
        patch.setattr(repeats, "run", lambda func, args, kwargs, key=None: func(*args, **kwargs))
        computed = simulate(config, found, card(24.0)).tracker
    assert len(computed.events) > 1000
    assert until_the_last(repeated) == until_the_last(computed)
    assert repeated.tags == computed.tags
    assert (repeated.flops, repeated.gradients) == (computed.flops, computed.gradients)


def until_the_last(tracker):
    """The events up to the last allocation; when what is left is freed, the collector decides."""
    events = list(tracker.events)
    while events[-1][0] < 0:
        events.pop()
    return events


def twice(run):
    """What a function gives on meta tensors first, and from memory."""
    with Tracker(cuda()):
        return run(), run()


def test_the_type_of_a_number_and_the_default_type_make_another_call():
    whole = torch.ones(3, dtype=torch.long, **META)
    for factor, dtype in ((2, torch.long), (2.0, torch.float32), (True, torch.long)):
        assert [out.dtype for out in twice(lambda factor=factor: whole * factor)] == [dtype] * 2
    torch.set_default_dtype(torch.float64)
    try:
        assert [out.dtype for out in twice(lambda: whole * 2.0)] == [torch.float64] * 2
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_shares_a_storage_goes_on_sharing_it():
    base = torch.empty(4, 6, **META)
    for view in (lambda: base.t(), lambda: base[1:], lambda: base.view(24), lambda: base.add_(1),
                 lambda: torch.ops.aten._unsafe_view(base, [24])):  # fmt: skip
        for out in twice(view):
            assert out.untyped_storage()._cdata == base.untyped_storage()._cdata


def test_strides_are_those_of_the_operator():
    turned = torch.empty(4, 6, 5, **META).transpose(0, 2)
    for run in (lambda: turned + 1, lambda: turned.clone(), lambda: turned.contiguous() * turned):
        first, second = twice(run)
        assert first.stride() == second.stride() == run().stride() and second.shape == (5, 6, 4)


def test_an_operator_that_changes_the_shape_it_was_given_does_so_each_time():
    for _ in range(3):
        grown = torch.empty(2, 3, **META)
        with Tracker(cuda()):
            assert grown.t_().shape == (3, 2) and grown.resize_(7).shape == (7,)
