"""What lies in a run's folder: every name, once, with what stands there."""

TABLE: dict[str, str] = {}


def _named(name: str, meaning: str) -> str:
    TABLE[name] = meaning
    return name


CONFIG = _named("config.json", "the config with every value filled in; it trains the run again")
CHOICES = _named(
    "choices.json", "what the user said, and each chosen value, its source, its reason"
)
ENVIRONMENT = _named("environment.json", "versions, hardware, and where model and data came from")
DATA = _named("data.json", "the ledger of the rows: kept, dropped and why, cut, supervised")
PROMPTS = _named(
    "prompts.json",
    "fingerprints of what was held out (a reward model: and trained on), for later runs",
)
PLAN = _named(
    "plan.json",
    "the memory and time that were planned, or why none were, and those that were measured",
)
METRICS = _named("metrics.jsonl", "one line for each log of the trainer")
ROLLOUTS = _named("rollouts.jsonl", "a few completions of each rollout, with their scores")
WARNINGS = _named("warnings.jsonl", "what went wrong in a run that learns from rewards, and when")
BEFORE = _named("before.json", "held-out figures and samples of the model before training")
HELD_OUT = _named(
    "held_out.jsonl", "the figures of each held-out row (or pair, or prompt), before and after"
)
SAMPLES = _named("samples.jsonl", "held-out prompts, answered (or scored) before and after")
GUARDS = _named("guards.jsonl", "held-out rows in tokens that go along to runs that begin here")
RESULTS = _named("results.json", "held-out figures before and after; it marks a finished run")
REPORT = _named("report.html", "the run on one page")
CARD = _named("README.md", "a run in stages: what each stage came to, and where the model lies")
STAGES = _named("stages.json", "a run in stages: what was asked for, and what each stage came to")
TRIALS = _named("trials.json", "of `modelforge tune`: each trial, its figures, and the chosen one")
CHECKPOINTS = _named("checkpoints", "where a stopped run resumes")
MODEL = _named("model", "the adapter (or all weights), tokenizer, chat template and model card")
TENSORBOARD = _named("tensorboard", "TensorBoard's curves")
LOCK = _named(".lock", "the lock of the process that trains here")
OWNER = _named(".owner.json", "which process that is, on which machine; gone when it ends")
UNFINISHED_MODEL = _named(".model", "the model while it is written; it becomes the model folder")

MODEL_CARD = f"{MODEL}/README.md"
