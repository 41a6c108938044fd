"""Claims about train_grpo.py: advantages and loss through the model, the update, prevention, settings, mixing, the log.

Run by test_all.py.
"""
import itertools
import json
import math
import os
import signal
from pathlib import Path

import torch

from theory import coordinates
import domains
from reports import forgetting
from reports import story
from domains import cw
from grpo import run as runs
from grpo.judge import set_judge
from grpo import losses
import model as models
from grpo import policy as policies
from grpo import directory
import rollback
from grpo import rollout as rollouts
from grpo import startup
from grpo import settings as settings_module
import train_grpo
from shared import (SYNTHETIC, WORK, a_rollout, direct_logps, family, lively, read_jsonl, replaced, run, same_weights,
                    settings, talker, tiny, train, undisturbed, weights, with_reward)


# ---- advantages, loss, update, mixing ----------------------------------------------------------------------------

def hand_loss(model, rollout, rewards, args, old=None, reference=None):
    """The objective of train_grpo.py's docstring written out as loops over completions and tokens."""
    B, G = rewards.shape
    total_tokens = int(rollout.mask.sum())
    loss = 0.0
    for i in range(B * G):
        group = rewards[i // G]
        scale = {"group": group.std(), "batch": rewards.std(), "none": torch.tensor(1.0)}[args.advantage_scale]
        A = 0.0 if group.max() == group.min() else ((group[i % G] - group.mean()) / scale).item()
        logprobs, ids = direct_logps(model, rollout, i, args.temperature)
        logp = logprobs.gather(1, ids[:, None])[:, 0]
        old_logp = logp.detach() if old is None else old[i, :len(ids)]
        rho = (logp - old_logp).exp()
        per_token = -torch.minimum(rho * A, rho.clamp(1 - args.clip_low, 1 + args.clip_high) * A)
        if args.beta:
            with torch.no_grad():
                ref_logprobs, _ = direct_logps(reference, rollout, i, args.temperature)
            d = ref_logprobs.gather(1, ids[:, None])[:, 0] - logp
            per_token = per_token + args.beta * (d.exp() - d - 1)
        weight = {"grpo": 1 / (B * G * len(ids)), "dapo": 1 / total_tokens,
                  "dr_grpo": 1 / (B * G * args.max_completion_length)}[args.loss]
        loss = loss + weight * per_token.sum()
    return loss


class Recorder(policies.Policy):
    """A policy that keeps the gradient of each update and moves by plain gradient descent."""
    def step(self, lr, max_grad_norm):
        if self.masters[0].grad is None:
            return 0.0
        self.gradients = getattr(self, "gradients", []) + [[m.grad.clone() for m in self.masters]]
        with torch.no_grad():
            for m in self.masters:
                m -= 0.05 * m.grad
                m.grad = None
        return 1.0


def fresh_policy():
    return Recorder(models.load(tiny()[0])[0], torch.float32)


def some_rewards():
    rewards = torch.tensor([[1.0, 0, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    return rewards, torch.ones(9, dtype=torch.bool)


def update(args, policy, reference, rollout, advantages, counted, step):
    """train_grpo.update of a step that has only these completions: what train_step hands over when there is one process."""
    weights = losses.token_weights(rollout.mask.sum(1), counted, args.loss, args.max_completion_length)
    return train_grpo.update(args, policy, reference, rollout, advantages, weights,
                             ((advantages != 0) | (args.beta > 0)) & counted, step)


def test_the_gradient_is_autograds_of_the_formula_written_out_by_hand():
    other = models.load(tiny()[0])[0]
    with torch.no_grad():
        for p in other.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    rewards, counted = some_rewards()
    for aggregation, scale, beta in itertools.product(("grpo", "dapo", "dr_grpo"), ("group", "batch", "none"), (0.0, 0.3)):
        args = settings(loss=aggregation, advantage_scale=scale, beta=beta, inner_updates=2, temperature=0.9,
                        max_completion_length=6)
        policy = fresh_policy()
        rollout = a_rollout(temperature=0.9)
        A = losses.group_advantages(rewards, scale).flatten()
        update(args, policy, other, rollout, A, counted, step=9)
        by_hand, old = models.load(tiny()[0])[0], None
        for gradients in policy.gradients:           # the second update starts from moved weights: ratios are not one
            loss = hand_loss(by_hand, rollout, rewards.float(), args, old, other)
            expected = torch.autograd.grad(loss, list(by_hand.parameters()))
            scale_of = max(g.abs().max().item() for g in expected)
            assert all(torch.allclose(g, e, atol=2e-4 * scale_of)
                       for g, e in zip(gradients, expected)), (aggregation, scale, beta)
            if old is None:
                old = rollouts.token_logps(by_hand, rollout).detach()
            with torch.no_grad():
                for p, g in zip(by_hand.parameters(), expected):
                    p -= 0.05 * g


def test_the_gradient_does_not_depend_on_micro_batch_size_and_the_logged_loss_is_that_of_one_batch():
    rewards, counted = some_rewards()
    rollout, results = a_rollout(), []
    A = losses.group_advantages(rewards).flatten()
    for budget in (10**6, 60, 30, 1):
        policy = fresh_policy()
        metrics = update(settings(micro_batch_tokens=budget, inner_updates=2, max_completion_length=6), policy,
                                    None, rollout, A, counted, step=0)
        results.append(([g for step in policy.gradients for g in step], metrics))
    for gradients, metrics in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, results[0][0]))
        for key in ("loss", "policy_loss", "clip_fraction_low", "clip_fraction_high", "sampler_gap"):
            assert abs(metrics[key] - results[0][1][key]) < 1e-6, key
    batches = [rollouts.micro_batches(rollout, range(9), b) for b in (10**6, 60, 1)]
    assert [len(b) for b in batches] == [1, len(batches[1]), 9] and 1 < len(batches[1]) < 9
    assert all(sorted(sum(b, [])) == list(range(9)) for b in batches)


def test_groups_of_equal_rewards_cost_no_forward_or_backward_pass():
    rewards = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 0]])
    policy, seen = fresh_policy(), []
    policy.model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    rollout = a_rollout()
    A = losses.group_advantages(rewards).flatten()
    args = settings(max_completion_length=6)
    update(args, policy, None, rollout, A, torch.ones(9, dtype=torch.bool), 0)
    assert sum(seen) == int(rollout.mask[:3].sum())
    dead, seen[:] = fresh_policy(), []
    metrics = update(args, dead, None, rollout, torch.zeros(9), torch.ones(9, dtype=torch.bool), 0)
    assert metrics["grad_norm"] == 0 and not dead.optimizer.state   # no optimizer step either: momentum would move


def test_the_ratio_is_one_at_the_first_update_and_old_logprobs_cost_no_extra_pass():
    policy, passes = fresh_policy(), []
    policy.model.model.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))   # of prompts, of completions
    rewards, counted = some_rewards()
    metrics = update(settings(max_completion_length=6), policy, None, a_rollout(),
                                losses.group_advantages(rewards).flatten(), counted, 0)
    assert len(passes) == 2 and metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0
    assert metrics["sampler_gap"] < 1e-5


def test_truncated_completions_can_be_masked_from_the_loss():
    rewards, _ = some_rewards()
    rollout = a_rollout(tokens=30)
    assert 0 < int(rollout.stopped.sum()) < 9
    A = losses.group_advantages(rewards).flatten()
    policy = fresh_policy()
    update(settings(max_completion_length=30), policy, None, rollout, A, rollout.stopped, 0)
    live = rollout.stopped & (A != 0)
    by_hand = models.load(tiny()[0])[0]
    logps = rollouts.token_logps(by_hand, rollout)
    loss = -sum(A[i] * logps[i].sum() / int(rollout.mask[i].sum()) for i in live.nonzero()[:, 0]) / int(rollout.stopped.sum())
    expected = torch.autograd.grad(loss, list(by_hand.parameters()))
    assert all(torch.allclose(g, e, atol=1e-5) for g, e in zip(policy.gradients[0], expected))


def test_hundred_small_steps_move_every_weight_under_a_bf16_model():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    before = [m.clone() for m in policy.masters]
    shadow = [p.clone() for p in policy.parameters]
    for _ in range(100):
        policy.backward(sum((p.float() * 1e-3).sum() for p in policy.parameters))
        policy.step(1e-6, 1e9)
    for old, master in zip(before, policy.masters):
        assert ((old - master) > 0.5e-4).all()       # 100 steps of 1e-6, all of one sign
    unmoved = sum((a == b).sum().item() for a, b in zip(shadow, policy.parameters)) / sum(p.numel() for p in shadow)
    assert unmoved > 0.2                             # which bf16 alone could not have shown
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(policy.parameters, policy.masters))


def test_micro_batch_gradients_are_summed_in_fp32():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    for _ in range(300):                             # in bf16, 1 + 1/512 = 1: the sum would stop at 2
        policy.backward(policy.parameters[0].float().sum() / 256)
    policy.hand_over()
    assert torch.allclose(policy.masters[0].grad, torch.full_like(policy.masters[0], 300 / 256))


def test_a_non_finite_gradient_stops_the_run_and_moves_nothing():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.float32)
    before = [m.clone() for m in policy.masters]
    policy.backward(policy.parameters[0].sum() * float("nan"))
    assert math.isnan(policy.step(1e-3, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.masters))
    loss, train_grpo.policy_loss = train_grpo.policy_loss, lambda *a, **k: (a[0].sum() * float("nan"), {
        key: torch.tensor(0.0) for key in ("policy_loss", "kl", "n_clipped_low", "n_clipped_high")})
    reward, domains.reward = domains.reward, lambda d, c, r, j=None: [float(i % 2) for i in range(len(c))]
    try:
        code, _, err = run(train_grpo.main, "--domain", "math", "--init", tiny()[0], "--out", WORK / "nan", "--steps", 2,
                           "--eval-prompts", 0)
    finally:
        train_grpo.policy_loss, domains.reward = loss, reward
    assert code == 2 and "step 1" in err and "not finite" in err and "Traceback" not in err


def test_each_completion_is_graded_with_its_own_row():
    seen, reward = [], domains.reward
    domains.reward = lambda d, c, rows, j=None: [seen.append((row["id"], text)) or 0.0 for text, row in zip(c, rows)]
    try:
        policy = fresh_policy()
        args = settings(prompts_per_step=3, group_size=2, max_completion_length=5)
        train_grpo.train_step(args, policy, None, tiny()[2], SYNTHETIC, 4)
    finally:
        domains.reward = reward
    rows = [row for _, row in train_grpo.rows_for_step(args, SYNTHETIC, 4)]
    assert [i for i, _ in seen] == [row["id"] for row in rows for _ in range(2)]
    rollout = rollouts.sample(policy.model, rollouts.encode(tiny()[2], [domains.prompt("math", r) for r in rows], 99),
                              group_size=2, noise=rollouts.uniform_noise(6, 5, 0, "rollout", 4),
                              stop_ids=[1], pad_id=0)
    assert [text for _, text in seen] == rollouts.decode(tiny()[2], rollout.ids, rollout.mask)


def test_of_several_domains_each_gets_its_share_of_a_batch_or_whole_batches_in_turn():
    real = domains.synthetic("qa", "train", 7, seed=0)
    rows = SYNTHETIC | {"qa": real}
    mixed = settings(domains=["math", "code", "qa"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=4)
    steps = [train_grpo.rows_for_step(mixed, rows, step) for step in range(21)]
    assert all(len(step) == 4 for step in steps) and steps[3] == train_grpo.rows_for_step(mixed, rows, 3)
    shares = [[domain for domain, _ in step].count("qa") for step in steps]
    assert set(shares) == {1, 2} and sum(shares) == 28           # a third of 21 * 4, spread evenly
    seen = [row["id"] for step in steps for domain, row in step if domain == "qa"]
    assert all(sorted(seen[i:i + 7]) == sorted(r["id"] for r in real) for i in (0, 7, 14, 21))   # whole passes
    again = settings(domains=["math", "code", "qa"], visits={"math": 1, "code": 0, "qa": 2}, prompts_per_step=4)
    for step in range(3):                            # a second visit to a domain is not a repetition of the first
        for (domain, first), (_, second) in zip(steps[step], train_grpo.rows_for_step(again, rows, step)):
            assert (first == second) == (domain == "code") or domain == "qa"
    second = [row["id"] for step in range(21) for d, row in train_grpo.rows_for_step(again, rows, step) if d == "qa"]
    assert second[:7] != seen[:7] and sorted(second[:7]) == sorted(seen[:7])
    turns = settings(domains=["math", "qa"], visits={"math": 0, "qa": 0}, prompts_per_step=5, schedule="alternating")
    steps = [train_grpo.rows_for_step(turns, rows, step) for step in range(14)]
    assert [{domain for domain, _ in step} for step in steps] == [{"math"}, {"qa"}] * 7
    seen = [row["id"] for step in steps[1::2] for _, row in step]
    assert all(sorted(seen[i:i + 7]) == sorted(r["id"] for r in real) for i in range(0, 35, 7))


def test_in_a_mixed_batch_every_completion_is_graded_by_its_own_domain():
    asked, reward = [], domains.reward
    domains.reward = lambda d, c, rows, j=None: [asked.append((d, row["id"])) or float(d == "cw") for row in rows]
    try:
        args = settings(domains=["qa", "cw"], visits={"qa": 0, "cw": 0}, prompts_per_step=5, group_size=2,
                        max_completion_length=3)
        line, *_ = train_grpo.train_step(args, fresh_policy(), None, tiny()[2], SYNTHETIC, 1)
    finally:
        domains.reward = reward
    assert asked == [(d, row["id"]) for d, row in train_grpo.rows_for_step(args, SYNTHETIC, 1) for _ in range(2)]
    assert line["reward_by_domain"] == {"qa": 0, "cw": 1} and abs(line["reward_mean"] - 0.6) < 1e-9  # step 1 has three of cw
    assert line["zero_variance_groups"] == 1


def test_the_reference_is_read_once_a_step_however_many_inner_updates():
    reference, passes = startup.load(tiny()[0])[0], []
    reference.model.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))   # of prompts, of completions
    rewards, counted = some_rewards()
    update(settings(beta=0.1, inner_updates=3, max_completion_length=6), fresh_policy(), reference, a_rollout(),
           losses.group_advantages(rewards).flatten(), counted, 0)
    assert len(passes) == 2


# ---- prevention: KL to an earlier model, L2-SP, EWC, replay ------------------------------------------------------

def test_regularisers_add_the_gradient_of_their_formula_and_pull_the_weights_back():
    names = [name for name, _ in tiny()[1].named_parameters()]
    policy = fresh_policy()
    start = [m.detach().clone() for m in policy.masters]
    importance = {name: torch.rand(m.shape, generator=torch.Generator().manual_seed(i))
                  for i, (name, m) in enumerate(zip(names, start))}
    target = {name: m + 0.1 for name, m in zip(names, start)}
    policy.add_regulariser(2.0)
    policy.add_regulariser(3.0, importance, target)
    with torch.no_grad():
        for m in policy.masters:
            m += 0.01 * m.square()
    policy.backward(policy.parameters[0].sum())
    value = policy.regularise()
    free = [m.detach().double().requires_grad_() for m in policy.masters]
    by_hand = sum((m - s).square().sum() for m, s in zip(free, start)) + 1.5 * sum(
        (importance[name] * (m - target[name]).square()).sum() for name, m in zip(names, free))
    assert math.isclose(value, by_hand.item(), rel_tol=1e-4)
    by_hand.backward()
    free[0].grad += 1.0
    assert all(torch.allclose(m.grad.double(), f.grad, rtol=1e-3, atol=1e-6) for m, f in zip(policy.masters, free))


def test_l2_ewc_kl_and_replay_keep_a_run_nearer_to_where_it_shall_stay():
    init, data = talker()
    code, out, err = run(rollback.main, "--anchor", init, "--domain", "math", "--data", f"math={data}", "--save-fisher",
                         WORK / "talker.fisher", "--prompts", 12, "--max-completion-length", 4)
    assert code == 0 and (WORK / "talker.fisher").is_file(), err
    F, theta = policies.read_fisher(WORK / "talker.fisher", {n: w.shape for n, w in weights(init).items()}, init)
    assert all(torch.equal(theta[n], w) for n, w in weights(init).items()) and sum(f.sum() for f in F.values()) > 0
    sums = ("--domain", "math", "--data", f"math={data}")
    plain = train(WORK / "free", *sums, "--init", init, "--steps", 3)
    away = lambda place, f=None: sum(((w - theta[n]).double().square() * (1 if f is None else f[n])).sum().item()
                                     for n, w in weights(place).items())
    for name, measure, options in (("l2", away, ("--l2", 100)), ("ewc", lambda place: away(place, F),
                                                                 ("--ewc", WORK / "talker.fisher", "--ewc-weight", 1e4))):
        held = train(WORK / f"held-{name}", *sums, "--init", init, "--steps", 3, *options)
        assert measure(held) < 0.7 * measure(plain), (name, measure(held), measure(plain))
        lines = read_jsonl(held / "log.jsonl")
        assert lines[0]["penalty"] < 1e-9 < lines[2]["penalty"]
        assert math.isclose(lines[2]["loss"], lines[2]["policy_loss"] + lines[2]["penalty"])
        assert models.read_run(held)["recipe"][-1] == {"l2": "math:l2-100 3", "ewc": "math:ewc-10000 3"}[name]
    kl = {}
    for ref in (init, tiny()[0]):                    # one step moves little: the KL logged is that to the reference named
        lines = read_jsonl(train(WORK / f"kl-{Path(ref).name}", *sums, "--init", init, "--steps", 1, "--beta", 0.1, "--ref", ref)
                           / "log.jsonl")
        kl[ref] = lines[0]["kl"]
    assert kl[init] == 0 < 0.1 < kl[tiny()[0]]
    mixed = train(WORK / "replay", *sums, "--init", init, "--steps", 2, "--mix", "cw:0.25", "--data",
                  "cw=synthetic", f"math={data}")
    assert all(set(line["reward_by_domain"]) == {"cw", "math"} for line in read_jsonl(mixed / "log.jsonl"))
    assert models.read_run(mixed)["recipe"][-1] == "math:mix-1-cw 2"
    assert story.label(("base", "math:mix-1-cw 2"), 2) == "math:mix-1-cw"
    asked = []                                       # a replayed domain has the judge of --judge as well
    with replaced(runs, set_judge=lambda name, names, device: asked.append((name, set(names)))):
        train(WORK / "judged", *sums, "--init", init, "--steps", 1, "--eval-prompts", 0, "--mix", "cw:0.25", "--data", "cw=synthetic",
              f"math={data}", "--judge", init)
    assert asked == [(init, {"math", "cw"})]
    set_judge("nowhere", ["math"])                   # no creative writing, so no model is loaded
    assert cw.judge is cw.rubric
    dead = train(WORK / "dead", "--domain", "cw", "--init", init, "--steps", 2, "--ewc", WORK / "talker.fisher",
                 "--ewc-weight", 10, "--l2", 1)
    assert read_jsonl(dead / "log.jsonl")[0]["zero_variance_groups"] == 1     # no gradient of its own
    moved = {name: w + 0.01 for name, w in theta.items()}
    coordinates.write_fisher(WORK / "elsewhere.fisher", F, moved, {})
    pulled = train(WORK / "pulled", "--domain", "cw", "--init", init, "--steps", 2, "--ewc", WORK / "elsewhere.fisher",
                   "--ewc-weight", 10)
    # a regulariser pulls in such a step too
    assert read_jsonl(pulled / "log.jsonl")[0]["penalty"] > 0 and not same_weights(pulled, init)
    assert settings_module.visits(mixed, "cw") == 1 and settings_module.visits(mixed, "math") == 1
    assert settings_module.visits(init, "math") == 0
    options = ("--init", init, "--domain", "math", "--data", data, "--out", WORK / "retuned", "--steps", 40,
               "--eval-prompts", 0, "--save-every", 1, "--group-size", 2, "--prompts-per-step", 2,
               "--max-completion-length", 2, "--ewc", WORK / "elsewhere.fisher", "--ewc-weight", 1)
    assert run_interrupted(options) and (coordinates.write_fisher(WORK / "elsewhere.fisher", F, theta, {}) or True)
    code, out, err = run(train_grpo.main, *options, "--resume")
    assert code == 2 and "--ewc names another" in err and err.count("\n") == 1, err
    for more in (("--out", WORK / "x"), ("--score", "gradient"), ("--fraction", 0.1)):
        code, out, err = run(rollback.main, "--anchor", init, "--domain", "math", "--save-fisher", WORK / "y", *more)
        assert code == 2 and "the Fisher information" in err and not (WORK / "y").exists(), err
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "cw", "--out", WORK / "foreign", "--ewc",
                         data, "--ewc-weight", 1)
    assert code == 2 and "--save-fisher" in err and err.count("\n") == 1


def test_a_teachers_gradient_is_that_of_its_formula_whatever_the_rewards():
    teacher, by_hand, policy, rollout = models.load(talker()[0])[0], models.load(tiny()[0])[0], fresh_policy(), a_rollout()
    args = settings(teacher=talker()[0], max_completion_length=6)
    weights = losses.token_weights(rollout.mask.sum(1), torch.ones(9, dtype=torch.bool), "grpo", 6)
    train_grpo.update(args, policy, teacher, rollout, torch.zeros(9), weights, torch.ones(9, dtype=torch.bool), 0)
    loss = 0.0
    for i in range(9):
        logprobs, ids = direct_logps(by_hand, rollout, i)
        own, wanted = (some.gather(1, ids[:, None])[:, 0] for some in (logprobs, direct_logps(teacher, rollout, i)[0]))
        loss = loss - ((wanted - own).detach() * own).mean() / 9
    expected = torch.autograd.grad(loss, list(by_hand.parameters()))
    scale = max(g.abs().max().item() for g in expected)
    assert scale > 0.01 and all(torch.allclose(g, e, atol=2e-4 * scale) for g, e in zip(policy.gradients[0], expected))


def test_a_teacher_is_approached_without_any_reward_and_an_interrupted_run_ends_with_the_same_weights():
    teacher = startup.load(talker()[0])[0]
    options = ("--domain", "math", "--teacher", talker()[0], "--steps", 4, "--warmup-steps", 0, "--lr", 3e-3)
    whole, parts = WORK / "taught", WORK / "taught-in-parts"
    short = ("--init", tiny()[0], "--prompts-per-step", 4, "--group-size", 4, "--max-completion-length", 8,
             "--eval-prompts", 0)
    with_reward(lambda d, c, rows: [math.nan] * len(c), lambda: train(whole, *options))        # not even a grade
    assert with_reward(lively, lambda: run_interrupted((*short, *options, "--out", parts)))
    with_reward(lively, lambda: train(parts, *options, "--resume"))
    assert same_weights(whole, parts) and models.read_run(whole)["recipe"][-1] == "math:distill 4"
    assert {line["reward_mean"] for line in read_jsonl(parts / "log.jsonl")} != {None}           # rewards are still logged

    def apart(place):                                # KL(student || teacher) of a token, on the student's own texts
        student = startup.load(str(place))[0]
        rollout = a_rollout(("1+1=", "2+3="), 32, 8, student)
        return (rollout.logps - rollouts.token_logps(teacher, rollout))[rollout.mask].mean().item()
    assert apart(whole) < 0.95 * apart(tiny()[0]), (apart(whole), apart(tiny()[0]))


def test_a_guard_rolls_back_the_coordinates_whose_slope_and_distance_hurt_most_until_the_loss_is_the_anchors():
    anchor = startup.load(talker()[0])[0]
    rollout = a_rollout(model=anchor)
    theta = torch.nn.utils.parameters_to_vector(anchor.parameters()).detach()
    answers = [rollout.select([0, 4, 7]), rollout.select([2, 3])]
    mean_nll = lambda model: -sum(logprobs.gather(1, ids[:, None]).sum() for logprobs, ids in (
        direct_logps(model, rollout, i) for i in (0, 4, 7, 2, 3))) / 5
    free, goal = models.load(tiny()[0])[0], mean_nll(anchor).item()
    before = torch.nn.utils.parameters_to_vector(free.parameters()).detach()
    slope = torch.autograd.grad(mean_nll(free), list(free.parameters()))
    scores = torch.nn.utils.parameters_to_vector(slope) * (before - theta)
    for dtype in (torch.float32, torch.bfloat16):
        policy, now = policies.Policy(models.load(tiny()[0])[0], dtype), None
        where = lambda: torch.nn.utils.parameters_to_vector(policy.masters).detach()
        once = policy.roll_back(theta, answers, mean_nll(free).item() - 0.1)                    # a fall that one round makes
        k = round(0.0005 * len(theta))
        back = where() != before
        assert once["rolled_back"] == back.sum() == k and torch.equal(where()[back], theta[back])
        assert once["loss"] < once["loss_before"] - 0.1 and not policy.optimizer.state
        if dtype == torch.float32:
            assert math.isclose(once["loss_before"], mean_nll(free).item(), rel_tol=1e-5)
            assert scores[back].min() > 0.999 * scores[~back].max() > 0
        with replaced(policies, GUARD=0.05):
            done = policy.roll_back(theta, answers, goal)
            assert done["loss"] <= goal < done["loss_before"] and all(p.grad is None for p in policy.parameters)
            stuck = policy.roll_back(theta, answers, -1.0)          # a goal that nothing reaches
            assert stuck["loss"] > -1 and policy.roll_back(theta, answers, -1.0)["rolled_back"] == 0
        assert all(torch.equal(p, m.to(dtype)) for p, m in zip(policy.parameters, policy.masters))


@replaced(runs, GUARD_ROWS=8)
@replaced(policies, GUARD=0.02)      # quick: the tiny model has many to roll back
def test_a_guarded_run_is_logged_named_and_resumed_bit_for_bit():
    init, data = talker()
    options = ("--domain", "qa", "--init", init, "--data", "qa=synthetic", f"math={data}", "--guard", f"math={init}",
               "--guard-every", 2, "--steps", 5, "--lr", 3e-3)
    by_letters = lambda domain, texts, rows: [abs((domain == "qa") - sum(map(ord, text)) % 3 / 2) for text in texts]
    whole = with_reward(by_letters, lambda: train(WORK / "guarded", *options))
    guards = {line["step"]: line["guard"]["math"] for line in read_jsonl(whole / "log.jsonl") if "guard" in line}
    assert [*guards] == [2, 4, 5] and models.read_run(whole)["recipe"][-1] == "qa:guard-2 5"
    assert any(guard["rolled_back"] for guard in guards.values()) and models.read_run(whole)["held"]["--guard math"]
    assert all(guard["loss"] <= guard["loss_before"] for guard in guards.values())
    short = ("--prompts-per-step", 4, "--group-size", 4, "--max-completion-length", 8, "--eval-prompts", 0)
    assert with_reward(by_letters, lambda: run_interrupted((*short, *options, "--out", WORK / "guarded-parts")))
    parts = with_reward(by_letters, lambda: train(WORK / "guarded-parts", *options, "--resume"))
    assert same_weights(whole, parts) and not same_weights(whole, init)
    code, _, err = with_reward(lambda d, c, rows: [0.0] * len(c),
                               lambda: run(train_grpo.main, *short, *options, "--out", WORK / "none"))
    assert code == 2 and "none of the answers" in err and not (WORK / "none").exists()


def run_interrupted(options):
    """A run of train_grpo.py that is told to end in its second step."""
    step = train_grpo.train_step

    def tell(*rest):
        if rest[-1] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*rest)
    train_grpo.train_step = tell
    try:
        return run(train_grpo.main, *options)[0] == 128 + signal.SIGTERM
    finally:
        train_grpo.train_step = step


def test_a_replayed_domain_takes_its_share_off_the_batch_and_is_a_stream_of_its_own():
    real = domains.synthetic("math", "train", 5, seed=0)
    rows = SYNTHETIC | {"math": real}
    args = settings(domains=["qa", "cw"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=7, mix={"math": 2})
    steps = [train_grpo.rows_for_step(args, rows, step) for step in range(10)]
    assert all([d for d, _ in step].count("math") == 2 and len(step) == 7 for step in steps)
    assert {[d for d, _ in step].count("qa") for step in steps} == {2, 3}        # the other five in turn
    seen = [row["id"] for step in steps for d, row in step if d == "math"]
    assert all(sorted(seen[i:i + 5]) == sorted(r["id"] for r in real) for i in range(0, 20, 5))
    alone = settings(domains=["qa", "cw"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=5)
    again = [train_grpo.rows_for_step(alone, rows, step) for step in range(10)]
    assert [step[:5] for step in steps] == again


def test_settings_of_losses_and_prevention_that_make_no_sense_are_refused_at_the_start():
    for argv, word in ((("--ref", tiny()[0]), "--beta"), (("--ewc", "x.safetensors"), "there is no file"), (("--ewc", talker()[1]), "--ewc-weight"),
                       (("--ewc-weight", 1), "--ewc"), (("--ewc", talker()[1], "--ewc-weight", 0), "--ewc-weight"),
                       (("--mix", "math:0.5"), "twice"), (("--mix", "qa"), "DOMAIN:SHARE"), (("--mix", "qa:1.5"), "DOMAIN:SHARE"),
                       (("--mix", "qa:0.001"), "without prompts"), (("--mix", "qa:0.6", "cw:0.5"), "--mix"),
                       (("--mix", "poetry:0.5"), "poetry"), (("--mix", "qa:0.2", "qa:0.3"), "twice"),
                       (("--delta", 0.1), "drpo"), (("--loss", "drpo", "--clip-low", 0.1), "--delta"),
                       (("--loss", "drpo", "--delta", 0), "--delta"), (("--l2", -1), "--l2"),
                       (("--mix", "qa:0.5", "--data", "math=synthetic"), "qa"),
                       (("--teacher", tiny()[0], "--beta", 0.1), "--teacher"), (("--teacher", "./nowhere"), "no checkpoint"),
                       (("--teacher", tiny()[0], "--advantage-scale", "none"), "--advantage-scale"),
                       (("--guard", f"math={tiny()[0]}"), "twice"), (("--guard", tiny()[0]), "LABEL=CHECKPOINT"),
                       (("--guard", "qa=./nowhere"), "no checkpoint"), (("--guard-every", 5), "--guard-every")):
        code, out, err = run(train_grpo.main, "--domain", "math", "--init", tiny()[0], "--out", WORK / "refused", *argv)
        assert code == 2 and word in err and err.count("\n") == 1 and not (WORK / "refused").exists(), (argv, err)
    args = settings()
    assert (args.advantage_scale, args.clip_low, args.clip_high) == ("group", 0.2, 0.2)


def test_kl_from_samples_is_the_exact_kl_of_one_token():
    before, after = tiny()[1], models.load(talker()[0])[0]
    prompt = rollouts.encode(tiny()[2], ["3+4="], 99)
    # in place of random numbers: every token as often as it is probable
    grid = (torch.arange(4000)[:, None] + 0.5) / 4000
    rollout = rollouts.sample(before, prompt, group_size=4000, noise=grid, stop_ids=[1], pad_id=0)
    with torch.no_grad():
        p, q = (model(torch.tensor(prompt)).logits[0, -1].double().log_softmax(-1) for model in (before, after))
    exact = (p.exp() * (p - q)).sum().item()
    assert exact > 0.1 and math.isclose(forgetting.kl(rollout, after), exact, rel_tol=0.05)
    assert forgetting.kl(rollout, before) < 1e-6


def test_reward_rises_on_a_toy_whose_answer_is_one_of_two_tokens():
    reward, domains.reward = domains.reward, lambda d, c, rows, j=None: [float("A" in text) for text in c]
    try:
        policy = policies.Policy(models.load(tiny()[0])[0], torch.float32)
        args = settings(prompts_per_step=8, group_size=16, max_completion_length=2, lr=3e-3)
        means = [train_grpo.train_step(args, policy, None, tiny()[2], SYNTHETIC, step)[0]["reward_mean"]
                 for step in range(40)]
    finally:
        domains.reward = reward
    assert sum(means[:3]) / 3 < 0.3 and sum(means[-3:]) / 3 > 0.9, means


# ---- what a run does and leaves ----------------------------------------------------------------------------------

def test_evaluation_does_not_change_training():
    options = ("--domain", "math", "--steps", 3)
    with_reward(lively, lambda: (train(WORK / "eval0", *options), train(WORK / "eval1", *options, "--eval-prompts", 5)))
    assert same_weights(WORK / "eval0", WORK / "eval1")
    often = with_reward(lively, lambda: train(WORK / "eval2", *options, "--eval-prompts", 5, "--eval-every", 1,
                                              "--eval-domains", "math,qa"))
    assert same_weights(WORK / "eval0", often)
    assert models.read_run(WORK / "eval1")["metrics"]["math"]["before"]["prompts"] == 5
    assert [line["step"] for line in directory.read_log(often / "validation.jsonl")] == [0, 1, 2, 3]
    assert set(models.read_run(often)["metrics"]) == {"math", "qa"}


def test_the_seed_changes_rows_and_weights_and_the_same_seed_neither():
    rows = [[r["id"] for _, r in train_grpo.rows_for_step(settings(seed=seed), SYNTHETIC, 0)] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    real = domains.synthetic("math", "train", 10, seed=3)
    order = [[r["id"] for step in range(5)
              for _, r in train_grpo.rows_for_step(settings(seed=seed, prompts_per_step=4), {"math": real}, step)]
             for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]
    assert all(sorted(o[:10]) == sorted(r["id"] for r in real) == sorted(o[10:]) for o in order)  # whole passes, reshuffled
    assert order[0][:10] != order[0][10:]


def test_the_log_has_a_line_per_step_with_every_promised_field():
    lines = [json.loads(line) for line in (undisturbed() / "log.jsonl").read_text().splitlines()]
    promised = {"step", "reward_mean", "reward_std", "zero_variance_groups", "completion_length", "truncated", "entropy", "kl",
                "clip_fraction_low", "clip_fraction_high", "grad_norm", "lr", "tokens_per_s", "seconds_rollout",
                "seconds_reward", "seconds_update", "verifier_errors", "policy_loss", "sampler_gap"}
    assert [l["step"] for l in lines] == list(range(1, 8)) and all(promised <= set(l) for l in lines)
    samples = [json.loads(line) for line in (undisturbed() / "samples.jsonl").read_text().splitlines()]
    assert samples and all({"step", "prompt", "completion", "reward", "advantage"} == set(s) for s in samples)
    lrs = [l["lr"] for l in lines]
    assert all(abs(lr - 1e-3 * min(1, (i + 1) / 5)) < 1e-12 for i, lr in enumerate(lrs))


def test_a_run_in_which_nothing_can_be_learned_says_why_after_its_first_steps_and_at_its_end():
    line = {"zero_variance_groups": 1.0, "reward_mean": 0.0, "truncated": 0.0, "grad_norm": 0.0}
    for change, word in (({}, "terse"), ({"reward_mean": 1.0}, "harder"), ({"reward_mean": 0.5}, "--temperature"),
                         ({"truncated": 0.95}, "--max-completion-length"), ({"reward_mean": None}, "graded")):
        assert word in runs.nothing_to_learn([{**line, **change}] * 3, 64), change
    for change in ({"zero_variance_groups": 0.9}, {"grad_norm": 0.1}):         # that of a KL term or a teacher
        assert runs.nothing_to_learn([line, {**line, **change}], 64) is None
    short = ["--domain", "math", "--init", tiny()[0], "--out", WORK / "nothing", "--prompts-per-step", 4, "--group-size", 2,
             "--max-completion-length", 4, "--eval-prompts", 0, "--steps", 6]
    code, said, err = with_reward(lambda d, c, rows: [0.0] * len(c), lambda: run(train_grpo.main, *short))
    assert code == 0 and said.count("warning: in the first 5 steps") == said.count("warning: no step has changed") == 1, said
    code, said, err = with_reward(lively, lambda: run(train_grpo.main, *short, "--overwrite"))
    assert code == 0 and "warning" not in said and said.count("->") == 8 and "next: python report.py" in said, (said, err)


def test_kept_steps_are_checkpoints_of_their_own_and_the_last_is_the_run():
    again = Path(family()["again"])
    assert [p.name for p in sorted(again.glob("step-*"))] == ["step-00001", "step-00002", "step-00003"]
    assert same_weights(again / "step-00003", again) and not same_weights(again / "step-00002", again)
    assert models.read_run(again / "step-00002")["recipe"][-1] == "math 2" and models.load(str(again / "step-00002"))
    by_length = lambda *more: with_reward(lively, lambda: train(WORK / "steps", "--domain", "math", *more))
    ended = by_length("--steps", 2)
    end = weights(ended)
    by_length("--steps", 3, "--keep-every", 1, "--overwrite")
    assert all(torch.equal(end[name], kept) for name, kept in weights(ended / "step-00002").items())  # as if it had ended there
    by_length("--steps", 2, "--keep-every", 2, "--overwrite")
    assert [p.name for p in ended.glob("step-*")] == ["step-00002"]  # those of the run before are gone


def test_a_bf16_run_saves_fp32_weights_and_says_so():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    models.save(policy.model, tiny()[2], WORK / "fp32", {}, policy.state_dict())
    assert json.loads((WORK / "fp32/config.json").read_text())["dtype"] == "float32"
    assert all(tensor.dtype == torch.float32 for tensor in weights(WORK / "fp32").values())
