"""The value head, and the passes over the trunk that feed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelforge.models.adapters import adapter_parameters, backbone, inference, using
from modelforge.ppo.reference import CRITIC, POLICY

ValueMode = Literal["auto", "trunk_detached", "trunk", "adapter", "frozen"]


class ValueHead(nn.Module):
    """A float32 linear map from the trunk's last hidden state to one value a token.

    Weights and bias begin at 0: a random head's values are noise as large as the rewards, which
    the advantages would carry until it is unlearned.
    """

    def __init__(self, hidden_size: int, device: Any = None):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, completion_length: int) -> Tensor:
        """Values (B, C) of the C last tokens, each read before its token: (B, L, H) in.

        The value of a token belongs to the state it was sampled in, hence the shift by one.
        """
        states = hidden[:, -completion_length - 1 : -1]
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(states.float())[..., 0]


class Critic:
    """Gives the values of completions, in one of four modes.

    ``trunk_detached``  the head reads the policy's hidden states; its gradient stops there
    ``trunk``           its gradient reaches the policy's adapter as well
    ``adapter``         it reads the base under a LoRA adapter of its own: a second pass
    ``frozen``          the same under the reward model's adapter, or none, which is not trained: a
                        second pass forward, and none backward

    ``auto`` is ``trunk_detached`` here: what knows the rewards chooses ``frozen`` before.

    On the trunk, values cost no pass: a hook on the backbone reads them off the forward that
    computes the policy's log-probabilities.
    """

    def __init__(self, model: Any, mode: ValueMode):
        # Nothing was said of a reward model to read with.
        mode = "trunk_detached" if mode == "auto" else mode
        self.model, self.mode = model, mode
        base = model.get_base_model()
        self.adapter = CRITIC if mode == "adapter" else None  # that a pass of its own is under
        if mode == "adapter":
            model.add_adapter(CRITIC, model.peft_config[POLICY])
            for parameter in adapter_parameters(model, CRITIC).values():
                parameter.requires_grad_(True)
        # On the base itself, so that optimiser and DDP see it as one more parameter.
        base.v_head = ValueHead(base.config.get_text_config().hidden_size, base.device)
        self._completion_length: int | None = None
        self._values: list[Tensor] = []
        if not self.apart:
            backbone(model).register_forward_hook(self._read)

    @property
    def apart(self) -> bool:
        """Whether its values come from a pass of their own."""
        return self.mode in ("adapter", "frozen")

    @property
    def head(self) -> ValueHead:
        return self.model.get_base_model().v_head

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that learn from the value loss alone."""
        return [*self.head.parameters(), *adapter_parameters(self.model, CRITIC).values()]

    def start_from(self, adapter: str, weight: float) -> bool:
        """Begin as a reward model of this base; whether it has the shape for that.

        The value of a text's end is its score then (Stiennon et al. 2020, arXiv:2009.01325).

        Args:
            adapter: Of the reward model, with its score head.
            weight: What its score counts in the reward.
        """
        head = self.model.get_base_model().score.modules_to_save[adapter]
        if self.mode == "frozen":
            self.adapter = adapter
            self.head.linear.weight.data.copy_(weight * head.weight.data.float())
            return True
        theirs = adapter_parameters(self.model, adapter)
        pairs = [
            (parameter, theirs.get(name.replace(f".{CRITIC}.", f".{adapter}.")))
            for name, parameter in adapter_parameters(self.model, CRITIC).items()
        ]
        if any(other is None or other.shape != own.shape for own, other in pairs):
            return False
        for own, other in pairs:
            assert other is not None
            own.data.copy_(other.data)
        self.head.linear.weight.data.copy_(weight * head.weight.data.float())
        return True

    def fit(self, slope: float, gap: float) -> None:
        """All values times a slope, and a constant added: the line they are to begin on."""
        for parameter in self.head.parameters():
            parameter.data.mul_(slope)
        self.head.linear.bias.data.add_(gap)

    @contextmanager
    def reading(self, completion_length: int) -> Iterator[list[Tensor]]:
        """Collects the trunk's values, (b, C) for each forward run inside."""
        self._completion_length, self._values = completion_length, []
        try:
            yield self._values
        finally:
            self._completion_length = None

    def _read(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._completion_length is not None:
            hidden = output[0]
            hidden = hidden.detach() if self.mode == "trunk_detached" else hidden
            self._values.append(self.head(hidden, self._completion_length))

    def own_pass(
        self, ids: Tensor, mask: Tensor, completion_length: int, batch_size: int
    ) -> Tensor:
        """Values (B, C) under the adapter it reads, of prompts and completions (B, L)."""
        values = []
        frozen = self.mode == "frozen"
        with using(self.model, self.adapter), self._recompute_under_value_adapter():
            for part, part_mask in zip(ids.split(batch_size), mask.split(batch_size), strict=True):
                with inference(self.model) if frozen else nullcontext():
                    hidden = backbone(self.model)(input_ids=part, attention_mask=part_mask)[0]
                values.append(self.head(hidden, completion_length))
        return torch.cat(values)

    @contextmanager
    def _recompute_under_value_adapter(self) -> Iterator[None]:
        """Have gradient checkpointing recompute this pass under the adapter it ran under.

        The backward pass runs after the switch back to the policy: without this it would
        recompute with the policy's weights, and give wrong gradients without an error.
        """
        layers = [m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False)]
        kept = [layer._gradient_checkpointing_func for layer in layers]

        def checkpoint(function: Any, *args: Any, **kwargs: Any) -> Any:
            contexts = (nullcontext(), using(self.model, CRITIC))
            return torch.utils.checkpoint.checkpoint(
                function, *args, use_reentrant=False, context_fn=lambda: contexts, **kwargs
            )

        try:
            for layer in layers:
                layer._gradient_checkpointing_func = checkpoint
            yield
        finally:
            for layer, function in zip(layers, kept, strict=True):
                layer._gradient_checkpointing_func = function
