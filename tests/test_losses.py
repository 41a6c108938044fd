"""Claims about losses.py: advantages, weights and objectives against numbers worked out by hand. Run by test_all.py."""
import math

import torch

from grpo import losses
from grpo.settings import LOSSES


# ---- advantages, weights, GRPO ----------------------------------------------------------------------------------

def test_advantage_of_1_0_0_0_is_the_documented_number():
    A = losses.group_advantages(torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0]]))
    assert torch.allclose(A[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-4)
    assert torch.allclose(A[1], torch.tensor([-1, 1, 1, -1]) * math.sqrt(3) / 2, atol=1e-4)
    none = losses.group_advantages(torch.tensor([[1.0, 0, 0, 0]]), "none")
    assert torch.allclose(none, torch.tensor([[0.75, -0.25, -0.25, -0.25]]))
    batch = losses.group_advantages(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]]), "batch")
    assert torch.allclose(batch[0], torch.tensor([0.75, -0.25, -0.25, -0.25]) / torch.tensor([1., 0, 0, 0, 1, 1, 1, 1]).std(),
                          atol=1e-4) and not batch[1].any()


def test_equal_rewards_give_exactly_zero_advantage():
    for value in (0.1, 0.3, 1 / 3, 1.0, 0.0):
        for scale in ("group", "batch", "none"):
            assert not losses.group_advantages(torch.full((3, 12), value), scale).any()


def test_group_advantages_are_centred_scale_free_and_ordered_like_rewards():
    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        rewards = torch.rand(5, 7, generator=rng)
        A = losses.group_advantages(rewards)
        assert torch.allclose(A.sum(1), torch.zeros(5), atol=1e-4)
        assert torch.allclose(A.std(1), torch.ones(5), atol=1e-3)
        assert torch.equal(A.argsort(1), rewards.argsort(1))
        assert torch.allclose(A, losses.group_advantages(3 * rewards + 7), atol=1e-3)
        permuted = torch.randperm(7, generator=rng)
        assert torch.allclose(A[:, permuted], losses.group_advantages(rewards[:, permuted]), atol=1e-5)


def test_an_ungraded_completion_leaves_its_group_and_the_denominators():
    A = losses.group_advantages(torch.tensor([[1.0, 0, 0, 0, math.nan], [math.nan] * 5]))
    assert torch.allclose(A[0], torch.tensor([1.5, -0.5, -0.5, -0.5, 0]), atol=1e-4) and not A[1].any()
    counted = torch.tensor([True, True, False])
    w = losses.token_weights(torch.tensor([2, 4, 8]), counted, "grpo", 10)
    assert w.tolist() == [0.25, 0.125, 0.0]
    assert torch.allclose(losses.token_weights(torch.tensor([2, 4, 8]), counted, "dapo", 10), torch.tensor([1, 1, 0]) / 6)
    assert torch.allclose(losses.token_weights(torch.tensor([2, 4, 8]), counted, "dr_grpo", 10), torch.tensor([1, 1, 0]) / 20)


def test_an_empty_completion_gives_zero_not_nan():
    for how in ("grpo", "dapo", "dr_grpo"):
        w = losses.token_weights(torch.tensor([0, 0]), torch.tensor([True, False]), how, 10)
        logps = torch.zeros(2, 1, requires_grad=True)
        loss, _ = losses.policy_loss(logps, logps.detach(), None, torch.ones(2), torch.zeros(2, 1, dtype=torch.bool), w)
        loss.backward()
        assert loss == 0 and not logps.grad.any() and w.isfinite().all()


def one_token_gradient(ratio, advantage, **options):
    """d loss / d logp of a single token with this importance ratio and advantage."""
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss, _ = losses.policy_loss(logp, torch.zeros(1, 1), None, torch.tensor([float(advantage)]),
                                 torch.ones(1, 1, dtype=torch.bool), torch.ones(1), **options)
    loss.backward()
    return logp.grad.item()


def test_clip_is_pessimistic_for_both_signs():
    clip = {"clip_low": 0.2, "clip_high": 0.3}
    # d(-rho A)/d logp = -rho A where the clip does not bind, 0 where it does
    for ratio, advantage, expected in ((1.0, 1, -1.0), (1.29, 1, -1.29), (1.31, 1, 0.0), (0.5, 1, -0.5),
                                       (1.0, -1, 1.0), (0.81, -1, 0.81), (0.79, -1, 0.0), (3.0, -1, 3.0)):
        assert abs(one_token_gradient(ratio, advantage, **clip) - expected) < 1e-5, (ratio, advantage)


def test_far_policies_give_finite_gradients():
    for gap in (-1e4, -100.0, 100.0, 1e4):
        for advantage in (-1.0, 1.0):
            logps = torch.full((1, 1), gap, requires_grad=True)
            loss, _ = losses.policy_loss(logps, torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([advantage]),
                                             torch.ones(1, 1, dtype=torch.bool), torch.ones(1), beta=0.1)
            loss.backward()
            assert loss.isfinite() and logps.grad.isfinite().all()


def test_kl_value_is_exact_and_its_gradient_that_of_the_forward_kl_on_a_small_vocabulary():
    theta = torch.randn(5, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    ref = torch.randn(5, generator=torch.Generator().manual_seed(4)).double().log_softmax(0)
    logp = theta.log_softmax(0)
    p = logp.detach().exp()                          # expectation over samples of the policy: weights p, all 5 tokens
    loss, sums = losses.policy_loss(logp[:, None], logp.detach()[:, None], ref[:, None], torch.zeros(5),
                                    torch.ones(5, 1, dtype=torch.bool), p, beta=1.0)
    assert abs(loss.item() - (p * (logp - ref)).sum().item()) < 1e-9              # KL(pi || ref)
    ours, = torch.autograd.grad(loss, theta, retain_graph=True)
    forward, = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), theta, retain_graph=True)  # KL(ref || pi)
    assert torch.allclose(ours, forward, atol=1e-9)


def test_every_token_can_have_an_advantage_of_its_own():
    rng = torch.Generator().manual_seed(0)
    logps, old, A = (torch.randn(3, 4, generator=rng) for _ in range(3))
    mask, weights = torch.arange(4) < torch.tensor([[4], [1], [2]]), torch.tensor([0.5, 0.2, 0.3])
    loss, _ = losses.policy_loss(logps, old, None, A, mask, weights)
    by_hand = 0.0
    for i, t in mask.nonzero().tolist():
        rho, a = math.exp(logps[i, t] - old[i, t]), A[i, t].item()
        by_hand -= weights[i].item() * min(rho * a, min(max(rho, 0.8), 1.2) * a)
    assert math.isclose(loss.item(), by_hand, rel_tol=1e-5)


# ---- one objective beside the other: d loss / d log pi of one token, worked out by hand ---------------------------------

def test_gspo_has_one_ratio_for_the_whole_answer_and_clips_it_whole():
    old = torch.zeros(2, 3)
    logps = torch.tensor([[0.3, 0.0, 9.0], [0.6, -0.2, 0.2]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = losses.token_weights(mask.sum(1), torch.ones(2, dtype=torch.bool), "gspo", 3)
    loss, sums = losses.policy_loss(logps, old, None, torch.tensor([1.0, -1.0]), mask, weights, objective="gspo",
                                    clip_low=0.5, clip_high=0.5)
    loss.backward()
    s = [math.exp((0.3 + 0.0) / 2), math.exp((0.6 - 0.2 + 0.2) / 3)]      # geometric means: 1.162 and 1.221
    assert math.isclose(loss.item(), (-s[0] + s[1]) / 2, rel_tol=1e-6)    # a mean over two answers, whatever their length
    by_hand = torch.tensor([[-s[0] / 2 / 2] * 2 + [0.0], [s[1] / 3 / 2] * 3])
    assert torch.allclose(logps.grad, by_hand, atol=1e-6)
    for advantage, high, low, cut in ((1.0, 0.1, 0.5, True), (-1.0, 0.1, 0.5, False)):
        logps.grad = None
        loss, sums = losses.policy_loss(logps, old, None, torch.full((2,), advantage), mask, weights,
                                        objective="gspo", clip_low=low, clip_high=high)
        loss.backward()
        assert bool(logps.grad.eq(0).all()) == cut and sums["n_clipped_high"] == (5 if cut else 0)     # all its tokens or none


def test_cispo_bounds_a_tokens_weight_and_drops_none():
    # d(-sg(clip(r)) A log pi) / d log pi = -clip(r) A, for both signs of A and on both sides
    for ratio, advantage, expected in ((1.0, 1, -1.0), (3.0, 1, -3.0), (8.0, 1, -5.0), (8.0, -1, 5.0),
                                       (0.1, 1, -0.1), (0.1, -1, 0.1)):
        got = one_token_gradient(ratio, advantage, objective="cispo", **LOSSES["cispo"]["clip"])
        assert math.isclose(got, expected, rel_tol=1e-5), (ratio, advantage, got)


def test_drpo_has_the_weight_of_its_paper_inside_the_boundary_0_on_it_and_turns_round_beyond():
    # weight of d log pi in -loss: r A (1 - sign(A (r - 1)) |pi - mu| / delta)
    for mu, pi, advantage, expected in (
            (0.5, 0.5, 1, 1.0), (0.5, 0.5, -1, -1.0),                     # where it has just been sampled: the policy gradient
            (0.5, 0.6, 1, 1.2 * 0.5), (0.5, 0.4, -1, -0.8 * 0.5),         # half way in the direction that A asks for
            (0.5, 0.4, 1, 0.8 * 1.5), (0.5, 0.6, -1, -1.2 * 1.5),         # against it: more than the ratio
            (0.5, 0.7, 1, 0.0), (0.5, 0.3, -1, 0.0),                      # on the boundary
            (0.5, 0.8, 1, -1.6 * 0.5), (0.5, 0.2, -2, 0.4 * 2 * 0.5),     # beyond it: back
            # a rare token may rise fivefold, as its probability hardly moves
            (0.01, 0.05, 1, 5 * 0.8)):
        logp = torch.tensor([[math.log(pi)]], requires_grad=True)
        loss, sums = losses.policy_loss(logp, torch.tensor([[math.log(mu)]]), None, torch.tensor([float(advantage)]),
                                        torch.ones(1, 1, dtype=torch.bool), torch.ones(1), objective="drpo", delta=0.2)
        loss.backward()
        assert abs(-logp.grad.item() - expected) < 1e-5, (mu, pi, advantage, logp.grad)
        if expected:                                # on the boundary itself rounding decides which side it is counted on
            assert sums["n_clipped_high"] == (pi == 0.8) and sums["n_clipped_low"] == (pi == 0.2)
    logp = torch.tensor([[math.log(0.999)]], requires_grad=True)          # a delta above 1 is never reached
    losses.policy_loss(logp, torch.tensor([[math.log(0.001)]]), None, torch.ones(1), torch.ones(1, 1, dtype=torch.bool),
                       torch.ones(1), objective="drpo", delta=1.01)[0].backward()
    assert -logp.grad.item() > 0


def test_all_objectives_agree_at_the_policy_that_sampled_and_dapo_and_dr_grpo_clip_as_grpo():
    logps = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).sub(3).requires_grad_()
    mask = torch.arange(6) < torch.tensor([[6], [2], [1], [4]])
    advantages = torch.tensor([1.0, -0.5, 0.0, 2.0])
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for objective, own in LOSSES.items():
        loss, _ = losses.policy_loss(logps, logps.detach(), None, advantages, mask, weights, objective=objective, **own["clip"])
        gradient, = torch.autograd.grad(loss, logps)
        # gspo: the same sum over an answer, spread evenly, which it is already
        assert torch.allclose(gradient, -(weights * advantages)[:, None] * mask, atol=1e-6), objective
        for ratio in (0.7, 1.25, 1.35):
            if objective in ("dapo", "dr_grpo"):
                clip = own["clip"]
                assert one_token_gradient(ratio, 1, objective=objective, **clip) == one_token_gradient(ratio, 1, **clip)


def test_every_objective_survives_far_policies_and_empty_answers():
    for objective, own in LOSSES.items():
        for gap in (-1e4, 1e4):
            logps = torch.tensor([[gap, 0.0], [0.0, 0.0]], requires_grad=True)
            mask = torch.tensor([[True, True], [False, False]])
            loss, _ = losses.policy_loss(logps, torch.zeros(2, 2), None, torch.tensor([-1.0, 1.0]), mask,
                                         torch.ones(2), objective=objective, **own["clip"])
            loss.backward()
            assert loss.isfinite() and logps.grad.isfinite().all() and not logps.grad[1].any(), objective
