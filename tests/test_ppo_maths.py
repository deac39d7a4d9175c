"""PPO's formulas against an independent reference: plain loops over numpy float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge.ppo import maths
from modelforge.ppo.shaping import RewardShaper

TOLERANCE = 1e-6


@st.composite
def rollouts(draw, arrays=3):
    """Random (B, T) arrays with completions of ragged lengths, some with holes in them."""
    seed = draw(st.integers(0, 2**32 - 1))
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < rng.integers(0, length + 1, (rows, 1))
    if draw(st.booleans()):  # a tool's tokens inside a completion
        mask &= rng.random((rows, length)) < 0.7
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    return [rng.normal(size=(rows, length)) * scale for _ in range(arrays)], mask.astype(float)


def tensors(*arrays):
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


def close(ours, reference):
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=TOLERANCE, atol=TOLERANCE)


@given(rollouts(2), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_discounted_errors(rollout, gamma, lam):
    (rewards, values), mask = rollout
    wanted = np.zeros_like(values)
    for i in range(len(mask)):
        places = np.flatnonzero(mask[i])
        r, v = rewards[i, places], np.append(values[i, places], 0.0)
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(places))]
        for t, place in enumerate(places):
            wanted[i, place] = sum(
                (gamma * lam) ** k * errors[t + k] for k in range(len(places) - t)
            )
    advantages, returns = maths.gae(*tensors(rewards, values, mask), gamma=gamma, lam=lam)
    close(advantages, wanted)
    close(returns, (wanted + values) * mask)


@given(rollouts(2))
def test_gae_with_lambda_one_is_return_minus_value(rollout):
    (rewards, values), mask = rollout
    advantages, returns = maths.gae(*tensors(rewards, values, mask), gamma=1.0, lam=1.0)
    to_go = np.cumsum((rewards * mask)[:, ::-1], 1)[:, ::-1]
    close(advantages, (to_go - values) * mask)
    close(returns, to_go * mask)


@given(rollouts(1), st.booleans())
def test_whitening_over_the_mask(rollout, shift_mean):
    [x], mask = rollout
    ours = maths.whiten(*tensors(x, mask), shift_mean=shift_mean)
    chosen = x[mask > 0]
    if chosen.size == 0:
        assert not ours.any()
        return
    mean, std = chosen.mean(), math.sqrt(chosen.var() + 1e-8)
    close(ours, ((x - mean) / std + (0 if shift_mean else mean)) * mask)


@given(rollouts(1), st.integers(1, 4))
def test_whitening_in_parts_is_whitening_as_a_whole(rollout, parts):
    """Each process sees its rows and the sums over all: the same as one process with all rows."""
    [x], mask = rollout
    whole = maths.whiten(*tensors(x, mask))
    chunks = list(zip(*(np.array_split(a, parts) for a in (x, mask)), strict=True))
    passes = [  # what the processes send in: first sums and counts, then squared deviations
        sum(torch.tensor([(a * m).sum(), m.sum()]) for a, m in chunks),
    ]
    mean = passes[0][0] / passes[0][1].clamp(min=1)
    passes.append(
        sum(torch.tensor([(((a - mean.item()) ** 2) * m).sum(), m.sum()]) for a, m in chunks)
    )
    ours = []
    for a, m in chunks:
        answers = iter(passes)
        ours.append(maths.whiten(*tensors(a, m), lambda _, answers=answers: next(answers)))
    close(torch.cat(ours), whole.numpy())


@given(rollouts(2), st.one_of(st.none(), st.floats(0.01, 5)))
def test_kl_estimates(rollout, cap):
    (logps, ref), _ = rollout
    d = logps - ref
    k3 = np.exp(np.minimum(-d, 20)) - 1 + d
    for kind, wanted in {"k1": d, "k3": k3}.items():
        ours = maths.kl_estimate(*tensors(logps, ref), kind, cap)
        close(ours, wanted if cap is None else np.clip(wanted, -cap, cap))
    assert (maths.kl_estimate(*tensors(logps, ref), "k3") >= -1e-9).all()


def test_both_estimates_are_unbiased():
    torch.manual_seed(0)
    p, q = torch.randn(2, 8, dtype=torch.float64).log_softmax(-1)
    exact = (p.exp() * (p - q)).sum()
    for kind in ("k1", "k3"):
        assert (p.exp() * maths.kl_estimate(p, q, kind)).sum() == pytest.approx(exact.item())


@given(rollouts(3), st.one_of(st.none(), st.floats(0.01, 5)))
def test_clipped_value_loss(rollout, clip):
    (values, old, returns), mask = rollout
    total = clipped_tokens = 0.0
    for i, t in np.argwhere(mask > 0):
        error = (values[i, t] - returns[i, t]) ** 2
        if clip is not None:
            moved = min(max(values[i, t], old[i, t] - clip), old[i, t] + clip)
            clipped = (moved - returns[i, t]) ** 2
            clipped_tokens += moved != values[i, t] and clipped > error
            error = max(error, clipped)
        total += 0.5 * error
    n = max(mask.sum(), 1)
    loss, fraction = maths.value_loss(*tensors(values, old, returns, mask), clip)
    np.testing.assert_allclose(loss, total / n, rtol=TOLERANCE, atol=TOLERANCE)
    assert fraction.item() == pytest.approx(clipped_tokens / n)


@given(rollouts(2))
def test_explained_variance(rollout):
    (values, returns), mask = rollout
    chosen = mask > 0
    variance = returns[chosen].var() if chosen.any() else 0.0
    if variance < 1e-7:
        return
    wanted = 1 - (returns - values)[chosen].var() / variance
    close(maths.explained_variance(*tensors(values, returns, mask)), wanted)
    assert maths.explained_variance(*tensors(returns, returns, mask)) == 1


@given(st.lists(st.tuples(st.floats(-5, 50), st.integers(1, 512)), max_size=30))
def test_kl_controller_follows_its_formula(rollouts_seen):
    adaptive, fixed = maths.KLController(0.1, 6.0, 1000), maths.KLController(0.1)
    coef = 0.1
    for kl, n in rollouts_seen:
        adaptive.update(kl, n)
        fixed.update(kl, n)
        coef *= np.exp(np.clip((kl - 6.0) / 6.0, -0.2, 0.2) * n / 1000)
    assert adaptive.coef == pytest.approx(coef) and fixed.coef == 0.1


def test_a_short_horizon_never_turns_the_kl_penalty_into_a_bonus():
    controller = maths.KLController(0.1, 6.0, 1)
    for kl in (0.0, 0.0, 1e6, 0.0):
        controller.update(kl, 512)
        assert controller.coef > 0
    assert controller.coef == pytest.approx(0.1 / 4)  # a rollout halves or doubles it at most


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_running_moments_are_those_of_all_batches_together(seed, sizes):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(3, 2, (n, 2)) for n in sizes]
    for batch in batches:
        batch[rng.random(batch.shape) < 0.2] = np.nan
    moments = maths.RunningMoments(2)
    for batch in batches:
        moments.update(torch.tensor(batch))
    whole = np.concatenate(batches)
    again = maths.RunningMoments(2)
    again.load(moments.state())
    for column in range(2):
        seen = whole[~np.isnan(whole[:, column]), column]
        if len(seen) > 1:
            close(moments.mean[column], seen.mean())
            close(moments.std[column], seen.std())
            close(again.std[column], seen.std())


def test_the_worst_of_an_ensemble_counts_with_the_weight_of_all():
    shaper = RewardShaper(torch.tensor([0.5, 0.5, 0.1, 0.0]), ensemble=[0, 1], worst=True)
    nan = torch.nan
    raw = torch.tensor([[1.0, 3.0, 10.0, 9.0], [nan, 3.0, 10.0, 9.0], [nan, nan, 10.0, 9.0],
                        [nan, nan, nan, 9.0]])  # fmt: skip
    found = shaper(raw, update=True)
    assert found.tolist()[:3] == pytest.approx([1.0 + 1.0, 1.5 + 1.0, 1.0]) and found[3].isnan()


def test_the_references_answers_have_mean_0_and_deviation_1_and_keep_their_scale():
    shaper = RewardShaper(torch.tensor([2.0]), normalization="reference")
    begun, later = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[9.0], [9.0], [9.0]])
    first = shaper(begun, update=True)
    assert first.mean() == 0 and torch.isclose(first.std(correction=0), torch.tensor(1.0))
    expected = (18.0 - 6.0) / (2 * begun.std(correction=0))
    for update in (True, False):  # whatever the policy does later
        assert torch.allclose(shaper(later, update=update), expected.expand(3))


@settings(max_examples=25)
@given(rollouts(1), st.sampled_from(["none", "center", "scale", "standardize"]), st.booleans())
def test_shaping_weighs_and_normalises(rollout, normalization, per_source):
    [raw], _ = rollout
    weights = np.linspace(0.5, 2, raw.shape[1])
    shaper = RewardShaper(torch.tensor(weights), normalization=normalization, per_source=per_source)
    ours = shaper(torch.tensor(raw), update=True)
    seen = raw if per_source else (raw * weights).sum(1, keepdims=True)
    std = np.where(seen.std(0) > 1e-6, seen.std(0), 1.0)
    if normalization in ("center", "standardize"):
        seen = seen - seen.mean(0)
    if normalization in ("scale", "standardize"):
        seen = seen / std
    np.testing.assert_allclose(
        ours, (seen * weights).sum(1) if per_source else seen[:, 0], rtol=1e-5, atol=1e-5
    )


def test_shaping_keeps_its_moments_still_in_evaluation_and_clips():
    shaper = RewardShaper(torch.ones(1), normalization="center", clip=1.0)
    shaper(torch.tensor([[2.0], [4.0]]), update=True)
    assert shaper(torch.tensor([[3.5], [9.0]]), update=False).tolist() == [0.5, 1.0]
    assert shaper.moments.count.item() == 2


def test_the_pessimistic_ensemble_takes_off_the_disagreement():
    raw = torch.tensor([[1.0, 3.0, 10.0], [2.0, 2.0, 10.0], [4.0, math.nan, 0.0]])
    shaper = RewardShaper(torch.tensor([0.5, 0.5, 0.1]), ensemble=[0, 1], std_penalty=2.0)
    # mean 2, std 1; mean 2, std 0; one member alone cannot disagree
    assert shaper(raw, update=True).tolist() == pytest.approx([2 - 2 + 1, 2 + 1, 2.0])


def test_a_completion_that_nothing_judged_stays_unjudged():
    raw = torch.tensor([[math.nan, math.nan], [1.0, math.nan]])
    for normalization in ("none", "standardize", "reference"):
        score = RewardShaper(torch.ones(2), normalization=normalization)(raw, update=True)
        assert score.isnan().tolist() == [True, False]


def test_a_judge_that_is_not_learned_from_judges_nothing():
    raw = torch.tensor([[math.nan, 5.0], [1.0, 5.0]])
    score = RewardShaper(torch.tensor([1.0, 0.0]))(raw, update=True)
    assert score.isnan().tolist() == [True, False] and score[1] == 1


@given(rollouts(2))
def test_the_line_is_that_of_least_squares_and_never_falls(rollout):
    (x, y), mask = rollout
    slope, intercept = maths.line(*tensors(x, y, mask))
    inside = mask.astype(bool)
    if inside.sum() < 2 or x[inside].var() < 1e-9:
        return
    wanted, at = np.polyfit(x[inside], y[inside], 1)
    if wanted > 0:
        close([slope, intercept], [wanted, at])
    else:
        close([slope, intercept], [0.0, y[inside].mean()])


def test_a_critic_that_says_nothing_begins_at_the_mean():
    x, y, mask = torch.zeros(2, 3), torch.tensor([[1.0] * 3, [3.0] * 3]), torch.ones(2, 3)
    assert maths.line(x, y, mask) == (0.0, 2.0)
