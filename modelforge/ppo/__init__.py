"""PPO on TRL: the trainer that TRL dropped in 1.13, as a subclass of its ``GRPOTrainer``.

``maths``    advantages, losses, KL estimators and controllers, running moments: torch alone
``shaping``  from the rewards of several sources to one score a completion
``roles``    one base as policy, reference, reward and value: which adapter is on
``value``    the value head
``config``   ``PPOConfig``: what may be set, checked
``trainer``  ``PPOTrainer``: rollout, loss, metrics
``checkpoint``  what a checkpoint holds besides the policy

Importing ``trainer`` imports TRL; importing this package imports nothing.
"""
