"""GRPO in the open: reinforcement learning of one domain with group-relative advantages.

    python train_grpo.py --domain math                                     # checkpoints/base -> checkpoints/math
    python train_grpo.py --domain code --init checkpoints/math --out checkpoints/math-code
    python train_grpo.py --domain math,code,qa,cw --steps 400 --out checkpoints/mixed    # all four in every batch
    python train_grpo.py --domain path/to/sort.py                          # a domain of your own: one file
    python train_grpo.py --domain math --model Qwen/Qwen3-0.6B --data openai/gsm8k@main --max-completion-length 1024
    python train_grpo.py --domain math --resume                            # go on after an interruption
    torchrun --nproc_per_node 4 train_grpo.py --domain math                # the same step, shared by four processes

For each of B prompts, G completions o_1..o_G are sampled from the policy and graded, r_1..r_G. Then, with the
importance ratio rho_it = pi_theta(o_it) / pi_old(o_it) of token t of completion i (DeepSeekMath, arXiv 2402.03300):

    A_i  = (r_i - mean(r_1..r_G)) / std(r_1..r_G)                                    losses.group_advantages
    l_it = - min(rho_it A_i, clip(rho_it, 1 - eps_low, 1 + eps_high) A_i)            losses.policy_loss
           + beta (pi_ref(o_it) / pi_theta(o_it) - log(pi_ref(o_it) / pi_theta(o_it)) - 1)
    L    = sum over i, t of  w_i l_it                                                losses.token_weights

How this version differs from the book: the default beta is 0 (no reference model), as in most work since DAPO; a
group whose rewards are all equal has A = 0 and is skipped; --loss takes the objectives that came after GRPO
(grpo/losses.py); pi_old needs no forward pass of its own: the first pass of a step still has the weights that
sampled. At the first update of a step every ratio is 1 and policy_loss is 0 by construction, except for weights that do
not divide by length (dapo, drpo, dr_grpo), --mask-truncated and cispo: watch reward and gradient norm, not the loss.

Regularisers against forgetting of earlier domains, each off by default:

    --beta B --ref CKPT     the k3 estimate of B KL(pi_theta || pi_ref), on this domain's completions (see losses.py)
    --l2 L                  L/2 ||theta - theta_0||^2, theta_0 the start (L2-SP, arXiv 1802.01483)
    --ewc FILE --ewc-weight W    W/2 sum_k F_k (theta_k - theta*_k)^2, FILE of rollback.py --save-fisher (arXiv 1612.00796)
    --protect FILE          never move a set of coordinates (single weights), from rollback.py --out
    --mix math:0.25         replay: a quarter of each batch are Math prompts, graded as Math
    --guard math=CKPT       every --guard-every steps, and after the last, the few weights that hurt Math most go back to
                            those of CKPT, until CKPT's right answers have the loss that CKPT gave them (Policy.roll_back)

With --teacher CKPT no reward enters the loss (on-policy distillation, arXiv 2608.19098, 2609.39405). Each token of each
completion has an advantage of its own, so the loss descends KL(pi || pi_teacher), token by token, on the student's texts:

    A_it = log pi_teacher(o_it) - log pi_old(o_it)                                   update
"""
# B prompts x G completions = N, T the most tokens a completion may have. args: of `parse`. pairs: B of (domain, row).
# rows: {domain: its rows, or None for new synthetic ones}. A step is one rollout and --inner-updates steps of the optimizer.
# With several processes each takes a part of the prompts, and so n of the N completions; ranks.share, ranks.gather and
# ranks.total are all that the algorithm sees of them.
from grpo.settings import add_settings, check, checkpoint, parser
from model import BASE, UserError, cli


def parse(argv=None):
    """The settings of a run, defaults filled in; UserError where they contradict each other. argv: words, or sys.argv."""
    made = parser(__doc__, usage="%(prog)s --domain DOMAIN [options]")
    made.add_argument("--init", "--model", type=checkpoint, default=BASE, help=f"checkpoint, model directory or hub name to "
                      f"start from (default {BASE})")
    return check(add_settings(made).parse_args(argv), out="checkpoints/{}", rates=(5e-5, 1e-6))


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

import math
import os
import time
from pathlib import Path

import torch

import domains
from grpo import ranks
from grpo.directory import alone, read_log
from grpo.losses import group_advantages, policy_loss, token_weights
from grpo.rollout import complete, grade, micro_batches, token_logps, uniform_noise
from grpo.run import Run
from model import nan_for_null

SUMS = ("loss", "policy_loss", "kl", "n_clipped_low", "n_clipped_high", "gap", "tokens")    # over the micro-batches of a step


def train(args, stop=None):
    """Run GRPO as `args` says and leave a checkpoint in args.out; returns its run.json as a dict. stop: see run.Run."""
    with ranks.together(), alone(args.out):
        run = Run(args, stop)                                   # its directory: resume, overwrite, Ctrl-C
        if run.record["finished"]:
            return run.record
        policy, reference, tokenizer = run.load()               # and run.rows, the rows to train on
        for step in run.steps():                                # between steps it validates and saves
            line, rollout, rewards, advantages = train_step(args, policy, reference, tokenizer, run.rows, step)
            if run.guards and ((step + 1) % args.guard_every == 0 or step + 1 == args.steps):
                line["guard"] = {domain: policy.roll_back(*guard) for domain, guard in run.guards.items()}
            run.log(line, rollout, rewards, advantages)
    return run.record


def train_step(args, policy, reference, tokenizer, rows, step):
    """One step: sample, grade, compare, update. Returns its log line, this process's Rollout, rewards, advantages (B, G).

    reference: the model of the KL term, or the teacher, or None. step: 0 and up.
    """
    B, G, T, times = args.prompts_per_step, args.group_size, args.max_completion_length, [time.perf_counter()]
    pairs, share = rows_for_step(args, rows, step), ranks.share(B)                     # B (domain, row) pairs
    my_pairs, mine = pairs[share], slice(share.start * G, share.stop * G)              # this process's, and its n of N
    noise = uniform_noise(B * G, T, args.seed, "rollout", step)[mine]                  # (n, T) in [0, 1)
    with policy.gathered():
        rollout = complete(policy.model, tokenizer, my_pairs, group_size=G, noise=noise, temperature=args.temperature,
                           top_p=args.top_p, max_prompt_length=args.max_prompt_length)
        times.append(time.perf_counter())
    rewards = grade(rollout.texts, my_pairs, rollout.graded)                           # (n,) fp64, NaN where grading failed
    times.append(time.perf_counter())

    facts = torch.stack([rewards, rollout.mask.sum(1).cpu(), rollout.stopped.cpu(), rollout.entropy.sum(1).cpu()], 1)
    rewards, lengths, stopped, entropy = ranks.gather(facts).unbind(1)                 # (N,): of all processes from here on
    advantages = group_advantages(rewards.view(B, G), args.advantage_scale)            # (B, G) fp32
    counted = (~rewards.isnan() | bool(args.teacher)) & (stopped.bool() | (not args.mask_truncated))     # (N,)
    weights = token_weights(lengths.long(), counted, args.loss, T)                     # (N,) w_i
    live = ((advantages.flatten() != 0) | (reference is not None)) & counted           # the others have no gradient
    metrics = update(args, policy, reference, rollout, advantages.flatten()[mine], weights[mine], live[mine], step)
    times.append(time.perf_counter())
    rewards = rewards.view(B, G)
    line = log_line(step, pairs, rewards, advantages, lengths, stopped, entropy, times) | metrics
    return line, rollout, rewards, advantages


def update(args, policy, reference, rollout, advantages, weights, live, step):
    """The optimizer steps of one step; returns the metrics of the last. advantages, weights, live: (n,), of this process.

    The live completions, those with a gradient, are cut into micro-batches, whose gradients are summed. The weights w_i are
    those of the whole step, so the sum does not depend on how it is cut.
    """
    batches = policy.passes(micro_batches(rollout, live.nonzero().squeeze(1).tolist(), args.micro_batch_tokens))
    advantages, weights = advantages.to(rollout.ids.device), weights.to(rollout.ids.device)
    old_logps, ref_logps = {}, reference_logps(args, reference, rollout, batches)      # {number of a micro-batch: (m, T)}
    for _ in range(args.inner_updates):
        total = torch.zeros(len(SUMS), dtype=torch.float64, device=rollout.ids.device)
        for b, (index, real) in enumerate(batches):             # real: False for filling, see Policy.passes
            chunk = rollout.select(index)
            mask, logps = chunk.mask & real, policy.logps(chunk)                                 # (m, T) each
            old_logps.setdefault(b, logps.detach())       # kept from the first pass, with the weights that sampled
            A = ref_logps[b] - old_logps[b] if args.teacher else advantages[index]               # (m, T) or (m,)
            loss, sums = policy_loss(logps, old_logps[b], ref_logps.get(b), A, mask, weights[index],
                                     objective=args.loss, clip_low=args.clip_low, clip_high=args.clip_high, delta=args.delta,
                                     beta=args.beta)
            policy.backward(loss)
            sums |= {"loss": loss.detach(), "gap": ((old_logps[b] - chunk.logps) * mask).abs().sum(), "tokens": mask.sum()}
            total += torch.stack([sums[name].double() for name in SUMS])
        metrics = optimizer_step(args, policy, ranks.total(dict(zip(SUMS, total.tolist()))), step)
    return metrics


def optimizer_step(args, policy, total, step):
    """Move the weights along the gradient that has been summed; returns the metrics of it, a dict.

    total: SUMS over the micro-batches of all processes. Where neither a completion nor a regulariser gives a
    gradient, weights and AdamW's moments stay. UserError if loss or gradient is not finite.
    """
    lr = args.lr * min(1.0, (step + 1) / max(1, args.warmup_steps))       # a linear rise, then constant
    penalty = policy.regularise()
    loss, tokens = total["loss"] + penalty, max(1, total["tokens"])
    grad_norm = policy.step(lr, args.max_grad_norm) if math.isfinite(loss) else math.nan
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise UserError(f"step {step + 1}: loss {loss:.4g}, gradient norm {grad_norm:.4g}: not finite; "
                        f"what was saved before stays in {args.out}; try a lower --lr")
    return {"loss": loss, "policy_loss": total["policy_loss"], "kl": total["kl"] / tokens if args.beta > 0 else None,
            "penalty": penalty, "clip_fraction_low": total["n_clipped_low"] / tokens,
            "clip_fraction_high": total["n_clipped_high"] / tokens, "grad_norm": grad_norm, "lr": lr,
            "sampler_gap": total["gap"] / tokens if total["tokens"] else None}


# ---- rows in, log out ----------------------------------------------------------------------------------------------

def rows_for_step(args, rows, step):
    """The B rows of a step as (domain, row) pairs: a pure function of (seed, step), so a resumed run needs no record.

    The run's places p = 0, 1, ... are filled B per step. With k domains, p belongs to domain p mod k (mixed) or step mod k
    (alternating), which numbers its own places. B is here without replay (args.mix). Mixed, math and code with B = 3:

        step                           0  0  0   1  1  1
        place p of the run             0  1  2   3  4  5
        domain                         m  c  m   c  m  c    and returned, by domain: m m c, m c c
        place among the domain's own   0  0  1   1  2  2

    Real rows are read in epochs, each in another order. The number of earlier trainings, args.visits[domain], is part of
    the seed, so that a refresh does not repeat their order.
    """
    B, k = args.prompts_per_step - sum(args.mix.values()), len(args.domains)
    chosen, places_of = [], {}                      # places_of: {domain: its own places in this step}
    for turn, domain in enumerate(args.domains):
        if args.schedule == "mixed":
            places_of[domain] = [p // k for p in range(step * B, (step + 1) * B) if p % k == turn]
        else:
            places_of[domain] = range(step // k * B, (step // k + 1) * B) if step % k == turn else []
    places_of |= {domain: range(step * n, (step + 1) * n) for domain, n in args.mix.items()}
    for domain, places in places_of.items():
        visit = [f"visit {args.visits[domain]}"] if args.visits[domain] else []
        if rows[domain] is None:
            some = domains.synthetic(domain, "train", len(places), seed=" ".join([f"{args.seed} {step}", *visit]))
        else:
            n = len(rows[domain])
            orders = {epoch: torch.argsort(uniform_noise(1, n, args.seed, "epoch", epoch, *visit)[0])
                      for epoch in {place // n for place in places}}
            some = [rows[domain][orders[place // n][place % n]] for place in places]
        chosen += [(domain, row) for row in some]
    return chosen


def reference_logps(args, reference, rollout, batches):
    """Log-probabilities under the reference, once a step: {number of a micro-batch: (m, T) fp32}, {} without one."""
    if reference is None:
        return {}
    reference.to(rollout.ids.device)
    with torch.no_grad():
        logps = {b: token_logps(reference, rollout.select(index)) for b, (index, _) in enumerate(batches)}
    if args.offload:
        reference.to("cpu")
    return logps


def log_line(step, pairs, rewards, advantages, lengths, stopped, entropy, times):
    """What log.jsonl says of a step's samples, a dict; NaN where none was graded. rewards, advantages: (B, G); lengths,
    stopped, entropy: (N,).

    times: when the step began, and when it had sampled, graded and updated, in seconds.
    """
    graded = rewards[~rewards.isnan()]
    return {"step": step + 1, "reward_mean": rewards.nanmean().item(),
            "reward_by_domain": {domain: rewards[[name == domain for name, _ in pairs]].nanmean().item()
                                 for domain in dict(pairs)},
            "reward_std": graded.std().item() if len(graded) > 1 else math.nan,
            "zero_variance_groups": advantages.eq(0).all(1).double().mean().item(),
            "completion_length": lengths.mean().item(), "truncated": 1 - stopped.mean().item(),
            "verifier_errors": rewards.numel() - len(graded), "entropy": (entropy.sum() / lengths.sum()).item(),
            "tokens_per_s": lengths.sum().item() / (times[3] - times[0]), "seconds_rollout": round(times[1] - times[0], 4),
            "seconds_reward": round(times[2] - times[1], 4), "seconds_update": round(times[3] - times[2], 4)}


def main(args=None):
    """Train; print held-out scores and two groups from the first and the last step, and what to run next."""
    args = args or parse()
    record = train(args)
    if not ranks.leader():
        return
    print(f"{args.out}: {record['steps']} steps on {args.domain}")
    for domain, scores in record["metrics"].items():
        for when in ("before", "after"):
            print(f"held-out {domain} {when:>6}: {scores[when]['score']:5.1f} +- {scores[when]['ci95']:.1f}  "
                  f"(avg@{scores[when]['samples']} of {scores[when]['prompts']} prompts)")
    samples = read_log(Path(args.out) / "samples.jsonl")
    print("\nsamples of the first and the last step, of two groups the best and the worst:\n  step  reward  advantage")
    for sample in [sample for sample in samples if sample["step"] in (samples[0]["step"], samples[-1]["step"])]:
        print(f"{sample['step']:6}{nan_for_null(sample['reward']):8.2f}{sample['advantage']:+11.2f}  {sample['prompt'][-60:]!r} -> "
              f"{sample['completion'][:60]!r}")
    mine = ",".join(name if name in domains.DOMAINS else os.path.relpath(domains.source(name)["file"])
                    for name in args.domains)
    other = "qa" if "qa" not in args.domains else "math"
    print(f"\nnext: python report.py {args.out}   # the run as a table\n"
          f"      python train_grpo.py --domain {other} --init {args.out} --out {args.out}-{other} --eval-domains {mine},{other}"
          f"   # what does {other} do to {args.domain}?")


if __name__ == "__main__":
    cli(lambda: main(ARGS))
