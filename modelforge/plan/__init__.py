"""What a run will need, before it runs: memory by simulation, and the config fitted to it.

``plan``   what a config needs
``fit``    the same config changed, where the user left it open, to stay within a budget

``architectures``  a model's shape without its weights
``meta_run``       the trainer a config would run, and its longest batch
``reward_models``  what scores a rollout: on the policy's base, or beside it
``model``          the model on the meta device, quantised as loaded
``step``           the trainer's own step on the meta device
``tracker``        births and deaths of every storage
``kernels``        what CUDA's kernels do beyond what meta shows; ``autocast`` likewise
``generation``     sampling: the key-value cache
``memory``         from the log to the peak, by part
``allocator``      PyTorch's caching allocator, emulated
``shards``         several cards, by arithmetic
``speed``          how long a step takes on a card of the table
``frontier``       the longest rows that fit for other ranks and micro-batches
``planner``        plan; ``fitting``: fit; ``result``: what they return

Importing this package imports no ML library.
"""

from modelforge.plan.fitting import fit
from modelforge.plan.planner import plan
from modelforge.plan.result import Calibration, DoesNotFit, NotPlanned, Plan

__all__ = ["Calibration", "DoesNotFit", "NotPlanned", "Plan", "fit", "plan"]
