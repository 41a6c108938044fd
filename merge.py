"""Merge: several checkpoints of one architecture become one, without a training step.

    python merge.py mean checkpoints/math checkpoints/code --out checkpoints/soup
    python merge.py ties checkpoints/math checkpoints/code --base checkpoints/base --density 0.2 --out checkpoints/ties
    python merge.py interpolate checkpoints/math checkpoints/math-qa --weight 0 0.25 0.5 0.75 1 --out checkpoints/between
    python merge.py negate checkpoints/qa --base checkpoints/base --damaged checkpoints/math-qa \\
        --weight 0.5 --out checkpoints/x

theta_1 .. theta_E are the checkpoints, tau_e = theta_e - theta_base their task vectors, lambda is --weight; each method
is the function of its name below:

    interpolate   (1 - lambda) theta_1 + lambda theta_2                    WiSE-FT, arXiv 2109.01903
    mean          1/E sum_e theta_e                                        uniform model soup, 2203.05482
    arithmetic    theta_base + lambda sum_e tau_e                          task arithmetic, 2212.04089
    negate        theta_damaged - lambda sum_e tau_e                       its negation: what came later is taken out again
    ties          theta_base + lambda (mean of those that agree in sign)   TIES, 2306.01708
    dare          theta_base + lambda sum_e (a random share, rescaled)     DARE, 2311.03099
    ram           theta_base + lambda (mean of those that changed it)      RAM, 2601.13572

Several values of --weight are a sweep: each is evaluated, a table is printed, and the one with the best average goes to
--out. Its rows are always of the training part, so no test row takes part in the choice. The best of several has an
optimistic score on the rows that it was chosen by: score it with evaluate.py, on test rows. A domain of your own takes
part as --data path/to/sort.py=synthetic.

The result is a checkpoint like any other, its lineage in run.json. It is computed tensor by tensor, in fp32 at least, and
stored in the widest type that one of the checkpoints has: in that of a bf16 base the steps of experts stored in fp32 would
be rounded away. Tensors that are not floating-point are the base's (mean, interpolate: the first checkpoint's; negate:
the damaged one's). Memory holds the whole result, and a few copies of the largest tensors per checkpoint; in a
sweep, which reads the files once per weight, a model as well.
"""
import argparse
import math
from functools import partial, reduce
from os.path import commonprefix, exists  # commonprefix: of lists too
from pathlib import Path

import domains
from grpo.settings import (add_rows, at_least, check_places, check_rows, checked, checkpoint, not_negative, parser, refuse,
                           share)
from model import UserError, cli, read_run, save
from theory.lineage import computed, short

# the options that a method has, besides the checkpoints, and those that a sweep has
USES = {"interpolate": ["weight"], "mean": [], "arithmetic": ["base", "weight"], "negate": ["base", "damaged", "weight"],
        "ties": ["base", "weight", "density"], "dare": ["base", "weight", "drop", "seed"],
        "ram": ["base", "weight", "threshold"]}
SWEEP = ["prompts", "data", "fields", "max_completion_length", "temperature", "judge"]


def parse(argv=None):
    """The command line; UserError for options that the method does not use.

    In it data is {domain: source}, first the checkpoint that the result starts from, read all that are read.
    """
    made = parser(__doc__)
    made.add_argument("method", choices=USES, metavar="METHOD", help=", ".join(USES))
    made.add_argument("checkpoints", nargs="+", type=checkpoint, metavar="CKPT", help="theta_1 .. theta_E: two for "
                      "interpolate, at least two for mean, ties and ram, at least one for the others")
    made.add_argument("--base", type=checkpoint, help="where task vectors start: for all except interpolate and mean")
    made.add_argument("--damaged", type=checkpoint, help="negate: the checkpoint that task vectors are taken from")
    made.add_argument("--weight", nargs="+", type=checked(float, math.isfinite, "finite"),
                      help="lambda; several for a sweep (default 1; interpolate: 0.5)")
    made.add_argument("--density", type=share, default=0.2, help="ties: share of each tensor that is kept (default 0.2)")
    made.add_argument("--drop", type=checked(float, lambda value: 0 <= value < 1, "at least 0 and below 1"), default=0.9,
                      help="dare: share that is dropped (default 0.9)")
    made.add_argument("--seed", type=int, default=0, help="dare: seed of the masks (default 0)")
    made.add_argument("--threshold", type=not_negative, default=1e-5, help="ram: smaller changes do not count (default 1e-5)")
    made.add_argument("--out", metavar="DIR", help="write the checkpoint here; a sweep may do without")
    made.add_argument("--overwrite", action="store_true", help="replace a merge that stands in --out")
    group = add_rows(made, "of a sweep: rows, sampling and device")
    group.add_argument("--prompts", type=at_least(1), default=64, help="training rows per domain, at most (default 64)")
    own = [*dict.fromkeys(sum(USES.values(), []))]
    args = made.parse_args(argv, argparse.Namespace(**dict.fromkeys(own + SWEEP)))          # None where nothing is given
    used, several, many = USES[args.method], len({*(args.weight or ())}) > 1, len(args.checkpoints)
    for name in own + SWEEP:
        flag, given = f"--{name.replace('_', '-')}", getattr(args, name) is not None
        refuse((given and name in SWEEP and not several,
                f"{flag} is about a sweep: give --weight several values, or leave it out"),
               (given and name in own and name not in used,
                f"{args.method} does not use {flag}; its own: {', '.join(f'--{u}' for u in used) or 'none'}"),
               (not given and name in used and name in ("base", "damaged"),
                f"{args.method} needs {flag}: name a checkpoint"))
        if not given:
            setattr(args, name, made.get_default(name))
    least = 1 if args.method in ("arithmetic", "negate", "dare") else 2
    refuse((many < least or many > 2 and args.method == "interpolate",
            f"{args.method} takes {'two' if args.method == 'interpolate' else f'{least} or more'} checkpoints"
            f"{' besides --base' if args.base else ''}, not {many}"),
           (args.out is None and not several, "nothing to do: give --out, or --weight several values for a table"))
    args.weight = [*dict.fromkeys(args.weight or [0.5 if args.method == "interpolate" else 1.0])]
    args.read = [*dict.fromkeys(filter(None, [args.damaged, args.base, *args.checkpoints]))]
    args.first = args.read[0]
    for run in map(read_run, args.read):
        domains.follow(run)
    words, known = [item.partition("=")[0] for item in args.data], {*domains.files(), *domains.recorded}
    names = {word: domains.use(word) for word in words if word.endswith(".py") or word in known}
    args.data = domains.sources([item.replace(word, names.get(word, word), 1) for word, item in zip(words, args.data)],
                                [*dict.fromkeys([*domains.DOMAINS, *names.values()])])
    check_rows(args, args.data or domains.DOMAINS)
    check_places({"--out": args.out}, [*args.read, args.judge, *args.data.values()])
    replaces = args.out and args.overwrite and "merged" in read_run(args.out)
    refuse((args.out and (exists(args.out) and not replaces or Path(args.out).parent.is_file()),
            f"{args.out} exists: --overwrite replaces what this script wrote; else choose another --out"))
    return args


ARGS = cli(parse) if __name__ == "__main__" else None  # before PyTorch is imported: --help and mistakes answer at once

import torch
from tqdm import tqdm

from grpo.directory import alone
from grpo.judge import set_judge
from grpo.scores import average, evaluate
from grpo.startup import load
from reports.tables import mean_pm, show
from theory import edits
from theory.coordinates import highest, random


# ---- the methods, of one tensor ----------------------------------------------------------------------------------
# thetas, deltas: theta_e or tau_e of all E checkpoints, stacked, (E, ...) in fp32 or fp64, the type of the (...) returned.

def interpolate(one, other, weight):
    """(1 - lambda) theta_1 + lambda theta_2: exactly theta_1 at 0 and theta_2 at 1; beyond, it extrapolates."""
    return torch.lerp(one, other, weight)


def mean(thetas):
    """1/E sum_e theta_e, as offsets from the first, so that equal inputs are reproduced exactly."""
    return thetas[0] + (thetas - thetas[0]).mean(0)


def arithmetic(deltas):
    """sum_e tau_e, to be added or taken away by the caller."""
    return deltas.sum(0)


def ties(deltas, density):
    """Trim, elect a sign, average the numbers that have it (Algorithm 1 of Yadav et al.).

        tau'_e = tau_e where |tau_e| is among the k largest of the tensor's n, else 0;   k = density * n, rounded, at least 1
        gamma  = sign(sum_e tau'_e)
        tau    = mean of the tau'_e whose sign is gamma;   0 where gamma is 0: a draw, or nothing kept

    The paper ranks a whole task vector at once; here, as in mergekit, each tensor has its own k largest.
    """
    k = max(1, round(density * deltas[0].numel()))
    kept = torch.stack([delta * highest(delta.abs(), k) for delta in deltas])
    agree = kept.sign() * kept.sum(0).sign() > 0
    return (kept * agree).sum(0) / agree.sum(0).clamp(min=1)


def dare(deltas, drop, seed, name):
    """Drop at random, rescale the rest, add up.

        tau = sum_e n_e / k_e (mask_e * tau_e),   k_e = (1 - drop) n_e, rounded, at least 1,   E[tau] = sum_e tau_e

    mask_e has k_e of the n_e coordinates that moved, every such set equally likely, as (seed, e, name) decides. The paper
    tosses a coin for each coordinate and divides by 1 - drop, which in a large tensor is the same; of two numbers, a drop
    rate of 0.9 would mostly leave none. Here no mask is empty, and the expectation is exact.
    """
    total = torch.zeros_like(deltas[0])
    for e, delta in enumerate(deltas):
        n = int(delta.count_nonzero())
        k = max(1, round((1 - drop) * n))
        total += n / k * delta * highest(random(f"{e} {name}", delta.shape, seed) * (delta != 0), k)
    return total


def ram(deltas, threshold):
    """sum_e c_e tau_e / sum_e c_e,  c_e = 1 where |tau_e| > threshold, else 0: 0 where none changed.

    A number that one checkpoint alone changed is kept whole (a mean over all would divide it by E); one that several
    changed is averaged over those. The rescaling of the paper's RAM+ is left out. The default threshold, 1e-5, is that of the
    authors' code, for weights in bf16. Where steps of 1e-6 were taken and are stored in fp32, lower it.
    """
    changed = deltas.abs() > threshold
    return (deltas * changed).sum(0) / changed.sum(0).clamp(min=1)


# ---- checkpoints -------------------------------------------------------------------------------------------------

def merged(args, files, weight, name):
    """The tensor `name` of the result at one weight, as it is stored; files: {checkpoint: {tensor: file}}.

    UserError if it or a source of it is not finite.
    """
    def finite(tensor, what, hint=""):
        if not tensor.isfinite().all():
            raise UserError(f"{what} has weights that are not finite, first in {name}{hint}")
        return tensor

    read = lambda where: finite(edits.read_tensor(files[where][name], name), where)
    first, thetas = read(args.first), [read(where) for where in args.checkpoints]
    if not first.is_floating_point():
        return first
    stored = reduce(torch.promote_types, [theta.dtype for theta in thetas], first.dtype)
    exact = torch.promote_types(stored, torch.float32)
    thetas = torch.stack([theta.to(exact) for theta in thetas])
    if args.method == "interpolate":
        theta = interpolate(*thetas, weight)
    elif args.method == "mean":
        theta = mean(thetas)
    else:
        deltas = thetas - read(args.base).to(exact)
        tau = {"arithmetic": lambda: arithmetic(deltas), "negate": lambda: -arithmetic(deltas),
               "ties": lambda: ties(deltas, args.density), "dare": lambda: dare(deltas, args.drop, args.seed, name),
               "ram": lambda: ram(deltas, args.threshold)}[args.method]()
        theta = first.to(exact) + weight * tau
    return finite(theta.to(stored), "the result", ": take a smaller --weight")


def check_moved(args, files):
    """UserError if a task vector is empty: no number that differs from the base's (ram: by more than the threshold)."""
    least = args.threshold if args.method == "ram" else 0
    apart = lambda name, *pair: torch.sub(*(edits.read_tensor(files[where][name], name).double() for where in pair)).abs()
    for where in args.checkpoints if args.base else ():
        if not any((apart(name, where, args.base) > least).any() for name in files[where]):
            raise UserError(f"no weight of {where} differs from that of {args.base} by more than {least:g}: it has nothing "
                            "to merge" + " unless you lower --threshold" * (least > 0))


def sweep(args, files, model, tokenizer):
    """Evaluate each weight on training rows and print a table; `model` is overwritten. UserError if an average is NaN.

    Returns the best weight, and {weight: {domain or "average": (points, half-width of the interval)}}.
    """
    rows = {d: domains.evaluation_rows(d, args.data.get(d), args.fields, args.prompts, "train")
            for d in args.data or domains.DOMAINS}
    set_judge(args.judge, rows, args.device)
    found = {}
    for weight in tqdm(args.weight, desc="sweep", unit="weight", leave=False, delay=3):
        edits.put(model, partial(merged, args, files, weight))
        scores = evaluate(model, tokenizer, rows, samples=4, temperature=args.temperature,
                          max_completion_length=args.max_completion_length)
        found[weight] = {d: (scores[d]["score"], scores[d]["ci95"]) for d in rows}
        found[weight]["average"] = average(found[weight].values())
        if math.isnan(found[weight]["average"][0]):
            raise UserError(f"weight {weight:g} has no average: in some domain no answer could be graded")
    best = max(found, key=lambda weight: found[weight]["average"][0])  # of equal ones the first
    print("avg@4 x 100 and its 95 % interval on training rows; in bold the best average\n")
    show([[("**{:g}**" if weight == best else "{:g}").format(weight), *map(mean_pm, row.values())]
          for weight, row in found.items()], ["weight", *rows, "average"])
    return best, found


def lineage(args, weight, found):
    """The result's run.json. weight: that of the result; found: the scores of a sweep, or None.

    Its recipe is the way to the checkpoint it starts from, then 'merge:METHOD:SETTING:WEIGHT:CHECKPOINTS 0'. A checkpoint
    stands there by its stages since the base ('math-100', 'qa-100>cw-100'; 'start' if it has none) and a sweep by all of its
    weights, so that the recipe is the same over seeds, whichever weight each may choose.
    """
    way = lambda where: read_run(where).get("recipe") or [short(where)]
    ways, is_mean = [way(where) for where in args.checkpoints], args.method == "mean"
    origin = (commonprefix(ways) or ways[0][:1]) if is_mean else way(args.base or args.first)
    own = [">".join(stages[len(commonprefix([stages, origin])):]).replace(" ", "-") or "start" for stages in ways]
    how = [f"{getattr(args, name):g}" for name in ("density", "drop", "threshold") if name in USES[args.method]]
    how += [] if is_mean else ["/".join(f"{weight:g}" for weight in args.weight)]
    stage = ":".join(["merge", args.method, *how, "+".join(own)])
    runs = {name: read_run(name) for name in args.read}
    seeds = {run.get("seed") for name, run in runs.items() if name != args.base}
    return computed(args.first, stage, args, merged=args.checkpoints, method=args.method, weight=None if is_mean else weight,
                    sweep=found and {f"{w:g}": row for w, row in found.items()},
                    domain_files=reduce(dict.__or__, (run.get("domain_files", {}) for run in runs.values())),
                    seed=seeds.pop() if len(seeds) == 1 else None,
                    recipe=[*(origin if is_mean else way(args.first)), f"{stage} 0"])


def main(args=None):
    """With several weights print the table of a sweep; with --out write the merged checkpoint."""
    args = args or parse()
    with alone(args.out):
        files = edits.tensor_files(*args.read)
        check_moved(args, files)
        swept = len(args.weight) > 1
        model, tokenizer = load(args.first, args.device) if swept else edits.without_weights(args.first)
        edits.check_names(model, args.first, files[args.first])
        weight, found = sweep(args, files, model, tokenizer) if swept else (args.weight[0], None)
        if args.out:
            names = list(files[args.first])
            weights = dict(zip(names, edits.in_threads(partial(merged, args, files, weight), names, "merge")))
            save(model, tokenizer, args.out, lineage(args, weight, found), weights)
            print(f"{args.out}: {args.method} of {len(args.checkpoints)}" + f", weight {weight:g}" * (args.method != "mean"))


if __name__ == "__main__":
    cli(lambda: main(ARGS))
