"""GRPO in the open: reinforcement learning of one domain with group-relative advantages.

    python train_grpo.py --domain math                                     # checkpoints/base -> checkpoints/math
    python train_grpo.py --domain code --init checkpoints/math --out checkpoints/math-code
    python train_grpo.py --domain math,code,qa,cw --steps 400 --out checkpoints/mixed    # of each batch a share each
    python train_grpo.py --domain math --model Qwen/Qwen3-0.6B --data openai/gsm8k@main --max-completion-length 1024
    python train_grpo.py --domain math --resume                            # go on after an interruption
    torchrun --nproc_per_node 4 train_grpo.py --domain math                # the same step, shared by four processes

For each of B prompts, G completions o_1..o_G are sampled from the policy and scored, r_1..r_G. Then, with the
importance ratio rho_it = pi_theta(o_it) / pi_old(o_it) of token t of completion i (DeepSeekMath, arXiv 2402.03300):

    A_i  = (r_i - mean(r_1..r_G)) / std(r_1..r_G)                                    losses.group_advantages
    l_it = - min(rho_it A_i, clip(rho_it, 1 - eps_low, 1 + eps_high) A_i)            losses.policy_loss
           + beta (pi_ref(o_it) / pi_theta(o_it) - log(pi_ref(o_it) / pi_theta(o_it)) - 1)
    L    = sum over i, t of  w_i l_it                                                losses.token_weights

How this version differs from the book: the default beta is 0 (no reference model), as in most work since DAPO; the
groups of a batch whose rewards are all equal have A = 0 and are skipped; --loss takes the objectives that came after
GRPO (losses.py); the old log-probabilities are those of the first pass of a step over its own samples, so they cost
nothing. At the first update of a step every ratio is 1 and the loss is 0 by construction, but for weights that differ
with length (dapo, drpo), --mask-truncated and cispo: watch reward and gradient norm, not the loss.

Baselines against forgetting of earlier domains, each off by default:

    --beta B --ref CKPT     the k3 estimate of B KL(pi_theta || pi_ref), on this domain's completions (gradient: losses.py)
    --l2 L                  L/2 ||theta - theta_0||^2, theta_0 the start (L2-SP, arXiv 1802.01483)
    --ewc FILE --ewc-weight W    W/2 sum_i F_i (theta_i - theta*_i)^2, F and theta* from rollback.py --save-fisher (1612.00796)
    --protect FILE          leave a set of coordinates alone
    --mix math:0.25         replay: a quarter of each batch are prompts of Math, graded as Math
"""
import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from tqdm import tqdm

from theory import coordinates
import domains
from grpo import ranks
from evaluate import evaluate, sample_and_grade
from reports.intervals import paired
from domains.judge import cw_judge
from grpo.losses import group_advantages, policy_loss, token_weights
from model import BASE, UserError, cli, load, nan_for_null, read_run, save
from grpo.policy import Policy
from grpo.resume import STATE, alone, append, fingerprint, interruptions, open_out, read_log, swap_in, trim_log, weights_on_disk
from grpo.rollout import encode, micro_batches, token_logps, uniform_noise
from domains.rows import has_own_validation, held_out_rows, load_rows, rows_for_step
from grpo.settings import SAME_RECIPE, add_settings, check, check_prompt_lengths, stage_name


def parse():
    """The command line; UserError for settings that make no sense (settings.py)."""
    parser = argparse.ArgumentParser(usage="%(prog)s --domain DOMAIN [options]", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", default=BASE, help=f"checkpoint to start from (default {BASE}, made on first use)")
    parser.add_argument("--model", default=None, help="start from this hub name or model directory instead")
    parser.set_defaults(default_lr=[5e-5, 1e-6])    # of small and of large models
    args = add_settings(parser).parse_args()
    if args.model and args.init != BASE:
        raise UserError("--init and --model both name a model to start from: choose one")
    args.init = args.model or args.init
    args.out = args.out or f"checkpoints/{args.domain.replace(',', '+')}"
    return check(args)


# ---- the algorithm ---------------------------------------------------------------------------------------------

def train_step(args, policy, reference, tokenizer, judge, rows, step):
    """One round of the algorithm: sample, grade, compare, update.

    args: of `parse`. policy: a Policy; reference: a model, or None without a KL term. judge: see domains.reward.
    rows: {domain: its training rows, or None for synthetic ones}. step: 0 and up; with args.seed it decides rows and noise.
    Returns the line for the log, a dict, and two examples. UserError if loss or gradient is not finite.
    """
    B, G, T = args.prompts_per_step, args.group_size, args.max_completion_length
    model, start = policy.model, time.perf_counter()

    # 1. rollout and reward: G completions of each of B prompts, of which this rank takes its share
    batch = rows_for_step(args, rows, step)
    mine = ranks.share(B)
    own = slice(mine.start * G, mine.stop * G)
    noise = uniform_noise(B * G, T, args.seed, "rollout", step)                                    # (N, T)
    model.eval()
    with policy.gathered():
        rollout, completions, rewards, seconds_reward = sample_and_grade(
            model, tokenizer, batch[mine], group_size=G, noise=noise[own], temperature=args.temperature, top_p=args.top_p,
            max_prompt_length=args.max_prompt_length, judge=judge)
    sampled = time.perf_counter()

    # 2. advantage: better or worse than the other answers to the same prompt
    facts = torch.stack([rewards, rollout.mask.sum(1).cpu(), rollout.stopped.cpu(), rollout.entropy.sum(1).cpu()], 1)
    rewards, lengths, stopped, entropy = ranks.gather(facts).unbind(1)          # (N,) fp64 each: of all ranks from here on
    lengths = lengths.long()
    advantages = group_advantages(rewards.view(B, G), args.advantage_scale).flatten()              # (N,)
    counted = ~rewards.isnan()                                                                     # (N,)
    if args.mask_truncated:
        counted &= stopped.bool()
    live = ((advantages != 0) | (args.beta > 0)) & counted
    weights = token_weights(lengths, counted, args.loss, T)                            # (N,)

    # 3. loss and update
    model.train(args.gradient_checkpointing)        # transformers checkpoints in train mode only
    metrics = update(args, policy, reference, rollout, *(x[own].to(model.device) for x in (advantages, weights, live)), step)
    model.eval()
    end = time.perf_counter()

    by_domain = {domain: rewards[[n for n in range(B * G) if batch[n // G][0] == domain]].nanmean().item()
                 for domain, _ in batch}
    dead = advantages.view(B, G).eq(0).all(1)
    graded = rewards[~rewards.isnan()]
    line = {"step": step + 1, "reward_mean": graded.mean().item() if len(graded) else None,
            "reward_by_domain": {domain: None if mean != mean else mean for domain, mean in by_domain.items()},
            "reward_std": graded.std().item() if len(graded) > 1 else None,
            "zero_variance_groups": dead.double().mean().item(),
            "completion_length": lengths.double().mean().item(),
            "truncated": 1 - stopped.mean().item(),
            "verifier_errors": len(rewards) - len(graded),
            "entropy": (entropy.sum() / lengths.sum()).item(), **metrics,
            "tokens_per_s": lengths.sum().item() / (end - start),
            "seconds_rollout": round(sampled - start - seconds_reward, 4), "seconds_reward": round(seconds_reward, 4),
            "seconds_update": round(end - sampled, 4)}
    examples = [{"step": step + 1, "prompt": domains.prompt(*batch[0]), "completion": completions[i],
                 "reward": rewards[i].item()} for i in (0, 1)]
    return line, examples


def update(args, policy, reference, rollout, advantages, weights, live, step):
    """All optimizer steps of one round of samples; returns the metrics of the update, a dict of floats.

    rollout, advantages, weights, live: (N,) of this rank's completions; live is whether it is in the loss at all.
    args, policy, reference, step: of train_step.
    Completions with advantage 0 have no gradient (without a KL term) and are left out of forward and backward pass, not
    out of the denominators.
    """
    batches = micro_batches(rollout, live.nonzero().squeeze(1).tolist(), args.micro_batch_tokens)
    counts = ranks.everyone((len(batches), int(rollout.mask[live].sum())))
    most, tokens = max(count for count, _ in counts), max(1, sum(count for _, count in counts))
    real = len(batches)
    batches += [[0]] * (most - real)                # ranks fetch layers from each other, and so must pass as often as any
    scoring = {"temperature": args.temperature, "top_p": args.top_p}
    old, ref_logps, metrics = {}, {}, {}
    if args.beta > 0:
        reference.to(advantages.device)
        with torch.no_grad():
            ref_logps = {b: token_logps(reference, rollout.select(index), **scoring) for b, index in enumerate(batches)}
        if args.offload:
            reference.to("cpu")
    lr = args.lr * min(1.0, (step + 1) / max(1, args.warmup_steps))
    for inner in range(args.inner_updates if batches or policy.tethers else 0):
        total = dict.fromkeys(("loss", "gap", "policy_loss", "kl", "clip_low", "clip_high"), 0.0)
        for b, index in enumerate(batches):
            part = rollout.select(index)
            mask = part.mask & (b < real)           # a pass that is there for the others counts for nothing
            logps = policy.logps(part, **scoring)                                                  # (n, T)
            if inner == 0:
                old[b] = logps.detach()  # the weights have not moved yet: this is the policy that sampled
                total["gap"] += ((old[b] - part.logps) * mask).abs().sum().item()
            loss, sums = policy_loss(logps, old[b], ref_logps.get(b), advantages[index], mask, weights[index], objective=args.loss,
                                     clip_low=args.clip_low, clip_high=args.clip_high, delta=args.delta, beta=args.beta)
            policy.backward(loss)
            for key, value in {"loss": loss, **sums}.items():
                total[key] += value.item()
        parts = ranks.everyone(total)
        total = {key: sum(part[key] for part in parts) for key in total}
        total["penalty"] = policy.pull_back()
        total["loss"] += total["penalty"]
        grad_norm = policy.step(lr, args.max_grad_norm) if math.isfinite(total["loss"]) else math.nan
        if not (math.isfinite(total["loss"]) and math.isfinite(grad_norm)):
            raise UserError(f"step {step + 1}: loss {total['loss']:.4g}, gradient norm {grad_norm:.4g}: not finite; "
                            f"what was saved before stays in {args.out}; try a lower --lr")
        metrics = {"loss": total["loss"], "policy_loss": total["policy_loss"],
                   "kl": total["kl"] / tokens if args.beta > 0 else None, "penalty": total["penalty"],
                   "clip_fraction_low": total["clip_low"] / tokens, "clip_fraction_high": total["clip_high"] / tokens,
                   "grad_norm": grad_norm,
                   "sampler_gap": total["gap"] / tokens if inner == 0 else metrics["sampler_gap"]}
    return {"loss": 0.0, "policy_loss": 0.0, "kl": None, "penalty": 0.0, "clip_fraction_low": 0.0, "clip_fraction_high": 0.0,
            "grad_norm": 0.0, "sampler_gap": None, **metrics, "lr": lr}


# ---- the run ---------------------------------------------------------------------------------------------------

def train(args, stop=None):
    """Run GRPO as `args` says (see settings.py) and leave a checkpoint in args.out; returns its run.json as a dict.

    stop: a function of the validations so far (validation.jsonl) and of a function that scores another model (and its
    tokenizer) on the same rows; a text that it returns ends the run and says why. UserError if another run is writing there.
    """
    with ranks.lost_rank(), alone(args.out):
        return train_alone(args, stop)


def train_alone(args, stop):
    """`train`, with its arguments, in a directory that no other run writes to."""
    where = ranks.start(args.device)
    say = print if ranks.leader() else lambda *text: None
    earlier = open_out(args)
    ranks.everyone(None)                            # all have looked before anyone writes
    if earlier and earlier["finished"]:
        say(f"{args.out} is finished: nothing to resume (to train on, give it as --init, with another --out)")
        return earlier | {"metrics": nan_for_null(earlier["metrics"])}
    rows = {domain: None if source == "synthetic" else
            load_rows(domain, source, "all" if has_own_validation(args, domain) else "train", args.fields)
            for domain, source in args.data.items()}
    held_out = held_out_rows(args)
    with ranks.leader_first():                      # it may have to make the base
        model, tokenizer = load(args.init, where, torch.float32)
    device = model.device
    frozen, protected, digest = {}, "", None
    shapes = {name: p.shape for name, p in model.named_parameters()}
    if args.protect is not None:
        frozen, protected, digest = coordinates.protected(args.protect, shapes, args.init)
    policy = Policy(model, torch.bfloat16 if device.type == "cuda" else torch.float32, args.gradient_checkpointing, frozen,
                    args.offload)
    if args.l2:
        policy.tether(args.l2)
    held = {}                                       # what a resumed run must find as it was
    if args.ewc:
        held["--ewc"] = coordinates.digest(args.ewc)
        policy.tether(args.ewc_weight, *coordinates.read_fisher(args.ewc, shapes, args.init))
    if args.lr is None:
        args.lr = args.default_lr[sum(m.numel() for m in policy.masters) > 10_000_000]
    check_prompt_lengths(args, model.config, tokenizer, [(domain, row) for some in (rows, held_out)
                                                         for domain in some for row in some[domain] or []])
    judge = cw_judge(args.judge, [*rows, *held_out], device)
    reference = None
    if args.beta > 0:
        held["--ref"] = weights_on_disk(args.ref or args.init)
        reference, its_tokenizer = load(args.ref or args.init, "cpu" if args.offload else device, policy.compute_dtype)
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(f"--ref {args.ref} has another vocabulary than {args.init}: the KL is between models of one tokenizer")

    parent = read_run(args.init)
    run = {"parent": args.init, "lineage": [*parent.get("lineage", []), args.init], "domain": args.domain,
           "seed": args.seed, "args": vars(args), "data": {domain: fingerprint(some) for domain, some in rows.items()},
           "settings": [*parent.get("settings", []), {name: getattr(args, name) for name in SAME_RECIPE}],    # stage by stage
           "protected": digest, "held": held, "finished": False, "metrics": {}}

    def done(steps):
        """Note how far the run is: {"steps": 100, "recipe": ["base", "code 100", "math 100"]}."""
        run.update(steps=steps, recipe=[*parent.get("recipe", [Path(args.init).name]), f"{stage_name(args, protected)} {steps}"])

    done(earlier["steps"] if earlier else 0)
    out = Path(args.out).resolve()
    place = out                                     # where the run writes
    if earlier:
        for key, what in (("data", "the data hold other rows"), ("protected", "--protect names another set"),
                          ("held", "--ewc or --ref hold other weights")):
            if earlier.get(key) != run[key]:
                raise UserError(f"--resume: {what} than when this run started; use the same, or --overwrite to start anew")
        policy.load_state(out / STATE)
        say(f"resuming {args.out} after step {run['steps']}")
    elif args.overwrite and out.exists():           # what stands there stays until the new run has a checkpoint
        place = out.with_name(f".{out.name}.new")
    if ranks.leader():
        if place != out:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        for name in ("log.jsonl", "samples.jsonl", "validation.jsonl"):
            trim_log(place / name, run["steps"] if earlier else -1)  # steps after the last checkpoint come again
    ranks.everyone(None)
    validations = [nan_for_null(line) for line in read_log(place / "validation.jsonl")]

    def scores_of(model, tokenizer):
        """Scores on the held-out rows; draws from noise of its own and so leaves the training alone."""
        return evaluate(model, tokenizer, held_out, samples=args.eval_samples, temperature=args.temperature,
                        top_p=args.top_p, judge=judge, max_prompt_length=args.max_prompt_length,
                        max_completion_length=args.max_completion_length)

    def log(name, records):
        if ranks.leader():
            append(place / name, records)

    def validate():
        """Score this step once, on disk too; returns what `stop` says."""
        if held_out and run["steps"] not in [line["step"] for line in validations]:
            with policy.gathered():
                validations.append({"step": run["steps"], "scores": scores_of(model, tokenizer)})
            log("validation.jsonl", validations[-1:])
        run["stopped"] = stop(validations, scores_of) if stop and validations else None
        return run["stopped"]

    def save_model(directory):
        weights = policy.state_dict()               # of all ranks
        if ranks.leader():
            save(model, tokenizer, directory, run, weights)

    def save_all():
        """The checkpoint and what a resumed run needs; the first of a new run takes the old one's place."""
        nonlocal place
        if not policy.finite():
            raise UserError(f"step {run['steps']}: the weights are no longer finite; what was saved before stays in {args.out}; "
                            "try a lower --lr")
        policy.save_state(place / STATE, run)
        save_model(place)
        if place != out:
            if ranks.leader():
                swap_in(place, out)
            place = out

    domain, row = rows_for_step(args, rows, 0)[0]
    first = encode(tokenizer, [domains.prompt(domain, row)], 10**9)
    say(f"a prompt as the model reads it: {tokenizer.decode(first[0])!r}")
    with interruptions() as received:
        bar = tqdm(range(run["steps"], args.steps), initial=run["steps"], total=args.steps, desc=f"grpo {args.domain}",
                   disable=not ranks.leader())
        for step in bar:
            if step == 0 or args.eval_every and step % args.eval_every == 0:
                if validate():
                    bar.close()
                    break
            metrics, examples = train_step(args, policy, reference, tokenizer, judge, rows, step)
            log("log.jsonl", [metrics])
            if step % args.save_every == 0:
                log("samples.jsonl", examples)
            bar.set_postfix({key: f"{metrics[key] or 0:.2f}" for key in ("reward_mean", "zero_variance_groups")} |
                            {key: f"{metrics[key]:.0f}" for key in ("completion_length", "tokens_per_s")}, refresh=False)
            done(step + 1)
            if args.keep_every and run["steps"] % args.keep_every == 0:
                save_model(place / f"step-{run['steps']:05d}")
            interrupted = sum(ranks.everyone(received), [])     # one that is told to end ends all, at the same step
            if interrupted or run["steps"] % args.save_every == 0 or run["steps"] == args.steps:
                save_all()
                if interrupted:
                    bar.close()
                    say(f"interrupted after step {step + 1} and saved; the same command with --resume goes on")
                    raise SystemExit(128 + interrupted[0])
    if run["steps"] < args.steps:                   # stopped before its time, so perhaps not saved at this step
        save_all()
    validate()
    run |= {"finished": True, "metrics": before_and_after(validations)}
    save_model(out)
    if ranks.leader():
        (out / STATE).unlink(missing_ok=True)
    ranks.finish()
    return run


def before_and_after(validations):
    """First and last validation in short: {domain: {"before", "after", "change": [points, half-width of its interval]}}."""
    if not validations:
        return {}
    before, after = validations[0]["scores"], validations[-1]["scores"]
    short = lambda scores: {key: value for key, value in scores.items() if key != "prompt_scores"}
    return {domain: {"before": short(before[domain]), "after": short(after[domain]),
                     "change": list(paired(after[domain], before[domain]))} for domain in after}


def main():
    """Train, and print the held-out scores before and after."""
    args = parse()
    run = train(args)
    if not ranks.leader():
        return
    print(f"{args.out}: {run['steps']} steps on {args.domain}")
    for domain, scores in run["metrics"].items():
        for when in ("before", "after"):
            print(f"held-out {domain} {when:>6}: {scores[when]['score']:5.1f} +- {scores[when]['ci95']:.1f}  "
                  f"(avg@{scores[when]['samples']} of {scores[when]['prompts']} prompts)")


if __name__ == "__main__":
    cli(main)
