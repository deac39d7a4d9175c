"""PPO on TRL: the trainer that TRL dropped in 1.13, as a subclass of its ``GRPOTrainer``.

``settings``   PPO's keys: defaults, bounds and what they mean; no torch
``config``     ``PPOConfig``: these keys on TRL's ``GRPOConfig``, checked as a whole
``maths``      advantages, losses, KL estimators and controllers, running moments: torch alone
``shaping``    from the rewards of several sources to one score a completion
``reference``  the adapters on the one base: policy, frozen reference, critic
``value``      the value head
``batches``    the rows of a rollout, masked and drawn into minibatches
``metrics``    what is logged of a rollout
``weights``    what a checkpoint holds besides the policy's adapter
``trainer``    ``PPOTrainer``: rollout, loss, metrics

Importing ``config`` or ``trainer`` imports TRL; importing this package imports nothing.
"""
