"""Forgetting: what predicts it, the change of behaviour on the new task or the curvature of the old one?

    python forgetting.py analysis/s?.json --plot assets/forgetting.png    # analyses of analyze.py --json --later

For experts of A that were trained on B, "RL's Razor" (arXiv 2509.04259) says that forgetting grows with how far the
policy moved on the *new* task's prompts, whatever A is. The paper of this repository says that it is the second-order
term of A's own loss. Both predict one number each, for each ordered pair and seed:

    KL_B   = E over x of B, o from pi_A(. | x), of  log pi_A(o | x) - log pi_AB(o | x)        of "before" from "after"
    second = 1/2 delta_B' H_A delta_B                                                         (analyze.py)

and forgetting is measured as the rise of L_A in nats, and as the fall of A's score in points (both by analyze.py). How
well a predictor orders the pairs is Spearman's rank correlation within a seed, then a mean and a 95 % t-interval over
seeds. Beside these two: the KL in the other direction, the KL on the *old* task's prompts, and the norm of delta_B.

KL from samples: mean over completions of sum_t (e^d - d - 1), d = log pi_AB - log pi_A of a token: unbiased, never
negative (k3 of Schulman, "Approximating KL divergence", 2020).

seeds: for each of them the list of its pairs, a dict each: analyze.py's entry of the damage, and what `pairs` adds.
"""
import argparse

import torch
from tqdm import tqdm

from reports.claims import read
from domains import DOMAINS
from evaluate import respond
from reports.intervals import mean_ci
from model import UserError, check_directory, check_writable, cli, load, read_run, write_json
from grpo.rollout import micro_batches, token_logps
from domains.rows import evaluation_rows, sources
from reports.tables import check_picture, pyplot, show

BUDGET = 16384     # padded tokens per forward pass
PREDICTORS = {"KL on the new task, from before": "kl_new", "KL on the new task, from after": "kl_new_reverse",
              "KL on the old task, from before": "kl_old", "norm of delta_B": "norm", "second-order term": "second"}
OUTCOMES = {"rise of L_A (nats)": "measured", "fall of A's score (points)": "fall"}


@torch.no_grad()
def kl(rollout, other):
    """KL(pi || other) in nats per completion, pi the policy that sampled the rollout: a float, of its own samples.

    other: a model, on the rollout's device. The rollout is sampled at temperature 1, top_p 1. d is cut off at 20.
    """
    total = 0.0
    for index in micro_batches(rollout, range(len(rollout.ids)), BUDGET):
        part = rollout.select(index)
        d = torch.where(part.mask, token_logps(other, part) - part.logps, 0.0)                     # (n, T)
        total += (d.clamp(max=20).exp() - d - 1).sum().item()
    return total / len(rollout.ids)


def rank_correlation(x, y):
    """Spearman's: the correlation of the ranks of two lists of numbers, ties with their mean rank: a float.

    NaN if one of them is constant.
    """
    def ranks(values):
        values = torch.tensor(values, dtype=torch.float64)
        return (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2
    a, b = (r - r.mean() for r in (ranks(x).double(), ranks(y).double()))
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def pairs(args, report):
    """One seed's ordered pairs: the damage entries of a report of analyze.py where B was trained straight from A.

    Added to each: new (B), fall (points), kl_new, kl_new_reverse and kl_old (nats per completion). args: of `main`.
    UserError where a checkpoint that the report names is gone.
    """
    found = []
    direct = lambda run, d: run.get("parent") == d["anchor"] and run.get("domain") in DOMAINS     # from A straight to one B
    chosen = [d for d in report.get("damage", []) if d["trained"] and direct(read_run(d["checkpoint"]), d)]
    for d in tqdm(chosen, desc="KL", unit="pair", leave=False, delay=3):
        check_directory(d["checkpoint"])
        before, tokenizer = load(d["anchor"], args.device)
        after, _ = load(d["checkpoint"], args.device)
        new = read_run(d["checkpoint"])["domain"]
        rows = {domain: evaluation_rows(domain, args.data.get(domain), "", args.prompts, "train")
                for domain in (d["domain"], new)}
        sample = lambda model, domain: respond(model, tokenizer, domain, rows[domain], samples=args.samples, temperature=1.0,
                                               max_completion_length=args.max_completion_length)[0]
        found.append({**d, "new": new, "fall": -d["points"], "kl_new": kl(sample(before, new), after),
                      "kl_new_reverse": kl(sample(after, new), before), "kl_old": kl(sample(before, d["domain"]), after)})
    return found


def tables(seeds):
    """Print every predictor's rank correlation with every outcome, and the two that compete side by side."""
    correlations = {(p, o): torch.tensor([rank_correlation([d[p] for d in some], [d[o] for d in some]) for some in seeds],
                                         dtype=torch.float64) for p in PREDICTORS.values() for o in OUTCOMES.values()}
    two = lambda pair: "-" if pair[0] != pair[0] else \
        f"{pair[0]:+.2f}" + ("" if pair[1] != pair[1] else f" ± {pair[1]:.2f}")
    print(f"rank correlation over {', '.join(str(len(some)) for some in seeds)} ordered pairs of {len(seeds)} seeds "
          "(mean, 95 %)\n")
    lines = [[label, *(two(mean_ci(correlations[p, o])) for o in OUTCOMES.values())] for label, p in PREDICTORS.items()]
    lines.append(["second-order term minus KL on the new task (paired)",
                  *(two(mean_ci(correlations["second", o] - correlations["kl_new", o])) for o in OUTCOMES.values())])
    show(lines, ["", *OUTCOMES])


def plot(file, seeds):
    """Measured damage against both predictors, a point per pair and seed, coloured by the later domain, as a picture.

    Without matplotlib a line is printed.
    """
    if not (plt := pyplot(file)):
        return
    _, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    every = [d for some in seeds for d in some]
    for axis, key, words in zip(axes, ("kl_new", "second"),
                                ("KL(before, after) on the new task (nats)", "1/2 d'H_A d (nats)")):
        for new in dict.fromkeys(d["new"] for d in every):
            own = [d for d in every if d["new"] == new]
            axis.scatter([d[key] for d in own], [d["measured"] for d in own], label=f"then {new}", s=14)
        axis.set_xscale("symlog", linthresh=1e-2), axis.set_yscale("symlog", linthresh=1e-2)
        axis.set_xlabel(words), axis.grid(alpha=0.3)
    axes[0].set_ylabel("forgetting: rise of L_A (nats)"), axes[0].legend(fontsize=8)
    plt.savefig(file, dpi=110, bbox_inches="tight"), plt.close()
    print(f"{file}: drawn")


def main():
    """Sample the KLs of at least three pairs, print the correlations, write the pairs to --json, draw with --plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="analyses, one per seed, written by analyze.py --json with --later")
    parser.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE",
                        help="rows, those of the analyses (default: synthetic)")
    parser.add_argument("--prompts", type=int, default=64, help="per domain (default 64)")
    parser.add_argument("--samples", type=int, default=4, help="completions per prompt (default 4)")
    parser.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--json", metavar="FILE", help="write every number")
    parser.add_argument("--plot", metavar="FILE", help="draw forgetting against both predictors (needs matplotlib)")
    args = parser.parse_args()
    for name in ("prompts", "samples", "max_completion_length"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    check_picture(args.plot)
    check_writable(args.json)
    args.data = sources(args.data, DOMAINS)
    seeds = [pairs(args, read(file)) for file in args.files]
    for file, some in zip(args.files, seeds):
        if len(some) < 3:
            raise UserError(f"{file} has {len(some)} pairs of an expert and what was trained from it: a rank correlation "
                            "needs three; run analyze.py with --later")
    tables(seeds)
    if args.json:
        write_json(args.json, dict(zip(args.files, seeds)))
    if args.plot:
        plot(args.plot, seeds)


if __name__ == "__main__":
    cli(main)
