"""Rollback: undo a sparse set of a later training's changes, and the damaged domain comes back without a training step.

    python rollback.py --anchor checkpoints/math --damaged checkpoints/math-qa --domain math --out checkpoints/rolled
    python rollback.py --anchor checkpoints/s0-code-math --damaged checkpoints/s0-code-math-qa-cw --domain math \\
        --score fisher gradient --fraction 0.001 0.01 0.05 --beside refresh=checkpoints/s0-refreshed --json rollback-s0.json
    python report.py rollback-s?.json                                             # a table over seeds
    python rollback.py --anchor checkpoints/math --domain math --save-fisher math.fisher      # for train_grpo.py --ewc

Training on A ended at theta_A (the anchor); training on B added delta and damaged A. A set C of coordinates is undone,

    theta_i <- theta_i - beta delta_i     for i in C,     C the share rho of all coordinates with the highest score s_i.

With beta = 1 the anchor's numbers are copied. L_A is minus the mean log-probability of A's own correct answers to training
rows (theory/curvature.py: nll). Each score is a function in theory/conflict.py, which says why:

    fisher        s_i = F_i delta_i^2,     F_i = mean over correct answers o_k of (d/dtheta_i log pi(o_k))^2 at theta_A
    fisher+route  F_i delta_i^2 in neurons that are among the most active tenth on both domains' tokens, and 0 elsewhere
    fisher+sign   F_i delta_i^2 where g_i delta_i > 0 (harmful to first order), 0 elsewhere; g the gradient of L_A at theta_A
    gradient      s_i = g_i(theta) (theta - theta_A)_i, g(theta) the gradient of L_A where the weights now are: 0.05 % of
                  the coordinates go back, then all are scored anew, until L_A is back at the anchor's
    curvature     the same with g(theta) = g + sum_j lambda_j v_j v_j' (theta - theta_A), from the 48 leading eigenpairs
                  (lambda_j, v_j) of L_A's Hessian H_A at theta_A, as in analyze.py

The first is our form of the paper's conflict coordinates (arXiv 2606.02398), whose construction is not public. Gradients
are squared answer by answer, then averaged: the square of the mean gradient would be near 0 where A has converged. The
controls of each size are `random`, of those that moved, and `largest`, the largest |delta|. Full rollback is the anchor
itself: B's gain is gone as well.

A set can be smaller than asked for: a score of 0 is never picked, and the last two scores end when the damage is gone.
Besides the model, memory holds one copy of the parameters in fp32 (fisher, gradient), two (fisher+sign), or three times as
many as there are eigenpairs (curvature, as in analyze.py), and 12 bytes per coordinate of the largest set. The controls
read only files: without an evaluation, no model is loaded for them.
"""
# theta: a function tensor name -> tensor, the weights of a checkpoint, as stored or in fp32. A set is {tensor name: flat
# indices} (theory/coordinates.py). score: the rule that picks a set; fraction: its size, as a share of all coordinates.
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import domains
from grpo.settings import (add_rows, at_least, check_places, check_rows, checkpoint, domain_names, labelled, new_file,
                           parser, refuse, share)
from model import UserError, cli, read_run
from theory.lineage import computed, is_ancestor, stage


def parse(argv=None):
    """The command line; in it domain is a name, later and domains (to evaluate) are lists of names, data {domain: source}.

    UserError for options that contradict each other, and for an --out that may not be replaced.
    """
    made = parser(__doc__)
    made.add_argument("--anchor", required=True, type=checkpoint, metavar="CKPT", help="theta_A, trained on the domain")
    made.add_argument("--damaged", type=checkpoint, metavar="CKPT", help="a checkpoint trained further from it")
    made.add_argument("--domain", required=True, help=f"the damaged one: {', '.join(domains.DOMAINS)} or your own file")
    group = made.add_argument_group("the set")
    group.add_argument("--score", nargs="+", help="one or several; both controls are in every table (default gradient)")
    group.add_argument("--fraction", nargs="+", type=share, help="share of all parameters, at most (default 0.05)")
    group.add_argument("--strength", type=share, default=1.0, help="beta; sets are picked as if it were 1 (default 1)")
    group.add_argument("--prompts", type=at_least(1), default=256, help="training rows that it is picked by (default 256)")
    group.add_argument("--samples", type=at_least(1), default=4, help="answers to each row (default 4)")
    group.add_argument("--later", metavar="DOMAINS", help="those trained after the anchor (default: from run.json)")
    add_rows(made)
    group = made.add_argument_group("evaluation")
    group.add_argument("--eval-prompts", type=at_least(0), default=200, help="rows per domain, 0 for none (default 200)")
    group.add_argument("--beside", nargs="+", type=labelled, default=[], metavar="LABEL=CKPT", help="also evaluate these")
    group = made.add_argument_group("output")
    group.add_argument("--out", metavar="DIR", help="write the checkpoint and its coordinates.safetensors; of several "
                       "scores or fractions, each to DIR/SCORE-FRACTION")
    group.add_argument("--overwrite", action="store_true", help="replace what stands in --out")
    group.add_argument("--save-fisher", type=new_file, metavar="FILE", help="only write the anchor's Fisher information and "
                       "weights, for train_grpo.py --ewc: before any damage, so without --damaged")
    group.add_argument("--json", type=new_file, metavar="FILE", help="write all numbers, for report.py")
    args = made.parse_args(argv)
    refuse(((args.damaged is None) != (args.save_fisher is not None),
            "give --damaged, which is to be rolled back, or --save-fisher: one of the two"),
           (args.save_fisher and (args.score or args.fraction or args.out or args.json or args.beside),
            "--save-fisher writes only the Fisher information: leave the options of a set and of its evaluation out"),
           (not args.eval_prompts and (args.json or args.beside),
            "--json and --beside are about the evaluation: give --eval-prompts a number above 0"),
           (not (args.out or args.eval_prompts or args.save_fisher),
            "nothing to do: give --out, or --eval-prompts above 0"))
    args.score, args.fraction = [*dict.fromkeys(args.score or ["gradient"])], sorted({*(args.fraction or [0.05])})
    before, after = read_run(args.anchor), read_run(args.damaged) if args.damaged else {}
    for run in (before, after):
        domains.follow(run)
    args.domain = domains.use(args.domain)
    args.later = domain_names(args.later) if args.later else trained_between(before.get("recipe"), after.get("recipe", []))
    args.later = [d for d in args.later if d != args.domain]
    known = list(dict.fromkeys([*domains.DOMAINS, args.domain, *args.later]))
    args.data = domains.sources(args.data, known)
    args.domains = list(args.data) or known
    refuse((args.domain not in args.domains, f"--data names no rows of {args.domain}, whose damage is to be undone"),
           ("fisher+route" in args.score and not (args.later and {*args.later} <= {*args.domains}),
            "fisher+route needs the domains that were trained after the anchor, and rows of each: name them with --later "
            "where no run.json does, and the rows with --data"))
    check_rows(args, args.domains)
    read = [args.anchor, args.damaged, args.judge, *dict(args.beside).values(), *args.data.values()]
    for place in [place_of(args, *which) for which in product(args.score, args.fraction)] if args.out else [None]:
        check_places({"--out": place, "--json": args.json, "--save-fisher": args.save_fisher}, read)
        replaces = place and args.overwrite and (place / "coordinates.safetensors").is_file()
        if place and (place.exists() and not replaces or place.parent.is_file()):
            raise UserError(f"{place} exists: --overwrite replaces what this script wrote; else choose another --out")
    return args


def trained_between(before, after):
    """The domains that recipe `after` was trained on since `before`, a recipe or None; [] if it does not go on from that."""
    before = before or after[:1]                    # a recipe's first entry is the model that all began with
    stages = after[len(before):] if after[:len(before)] == before else []
    known = {*domains.files(), *domains.loaded}     # a stage can also be a merge or a rollback
    return list(dict.fromkeys(d for text in stages for d in stage(text)[0] if d in known))


def place_of(args, score, fraction):
    """The directory of one rolled-back checkpoint: --out, or one below it where there are several."""
    return Path(args.out) if len(args.score) * len(args.fraction) == 1 else Path(args.out) / f"{score}-{fraction:g}"


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

import torch
from tqdm import tqdm

from grpo.directory import alone
from grpo.judge import set_judge
from grpo.scores import evaluate, respond
from grpo.startup import load
from model import save, write_json
from reports.recovery import FULL, tables
from theory import coordinates, curvature, edits
from theory.conflict import CONTROLS, SCORES, Case, fisher, left_in_s

label_of = lambda score, fraction: f"{score} {100 * fraction:g} %"      # a set in the table: 'fisher 0.1 %'


def main(args=None):
    """Write the Fisher information alone; or the checkpoints and --json, and print the table of the evaluation."""
    args = args or parse()
    if unknown := {*args.score} - {*SCORES, *CONTROLS}:
        raise UserError(f"--score {unknown.pop()}: choose from {', '.join([*SCORES, *CONTROLS])}")
    labels = ["damaged", FULL, *(label for label, _ in args.beside),
              *(label_of(*which) for which in product({*args.score, *CONTROLS}, args.fraction))]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"two rows would be called '{twice[0]}': give --beside another label, or fractions that differ in "
                        "six digits")
    with alone(args.out):
        save_fisher(args) if args.save_fisher else recover(args)


def recover(args):
    """Pick the sets, write --out, evaluate and print the table. UserError if nothing moved, or no answer is correct."""
    files = edits.tensor_files(args.anchor, args.damaged, *dict(args.beside).values())
    frame, tokenizer = edits.without_weights(args.anchor)
    edits.check_names(frame, args.anchor, files[args.anchor])
    shapes = {name: p.shape for name, p in frame.named_parameters()}
    asks = not {*args.score} <= {*CONTROLS}                            # whether a score needs the anchor's answers
    model, device = frame, "cpu"
    if asks or args.eval_prompts:
        model, _ = load(args.anchor, args.device, torch.float32, attention="eager" if "curvature" in args.score else None)
        device = model.device
        set_judge(args.judge, args.domains, args.device)
    stored = lambda checkpoint, name: edits.read_tensor(files[checkpoint][name], name)
    fp32 = lambda checkpoint, name: stored(checkpoint, name).to(device, torch.float32)
    anchor, damaged = partial(fp32, args.anchor), partial(fp32, args.damaged)

    def rolled(chosen, name):
        """A tensor of the damaged checkpoint, in its own precision, with a set of coordinates rolled back."""
        tensor = stored(args.damaged, name)
        if name in chosen:
            coordinates.roll_back(tensor, stored(args.anchor, name), chosen[name], args.strength)
        return tensor

    norm = squared_distance(anchor, damaged, shapes)**0.5
    if not norm:
        raise UserError(f"{args.damaged} has the weights of {args.anchor}: there is nothing to roll back")
    if (run := read_run(args.damaged)) and not is_ancestor(args.anchor, run):
        print(f"warning: by its run.json, {args.damaged} was not trained on from {args.anchor}: this undoes a "
              "difference of two checkpoints, and not what a later training changed", file=sys.stderr)

    # 1. the anchor's answers to training rows, to pick by, and to validation rows, for the loss in the table
    rollout, rewards = answers(args, model, tokenizer, args.domain, "train") if asks else (None, None)
    others = [answers(args, model, tokenizer, d, "train")[0] for d in args.later if "fisher+route" in args.score]
    unseen = curvature.own_correct(*answers(args, model, tokenizer, args.domain, "validation")) if args.eval_prompts else []

    # 2. the sets
    n = sum(map(torch.Size.numel, shapes.values()))
    counts = [max(1, round(fraction * n)) for fraction in args.fraction]
    case = Case(model, anchor, damaged, rollout, rewards, counts, others, run.get("seed") or 0)
    sets, seconds = pick(args, case)
    spectrum, case, model = case.spectrum, None, None          # not two models at once

    # 3. the checkpoints, and their scores
    rows = [("damaged", damaged, {})]
    for (score, fraction), chosen in sets.items():
        theta, k = partial(rolled, chosen), coordinates.size(chosen)
        if args.out and score in args.score:
            out = place_of(args, score, fraction)
            about = {"anchor": args.anchor, "damaged": args.damaged, "score": score, "fraction": fraction}
            entry = f"rollback:{score}:{fraction:g}" + f":{args.strength:g}" * (args.strength < 1)
            save(frame, tokenizer, out, computed(args.damaged, entry, args, anchor=args.anchor, rolled_back=args.domain),
                 {name: theta(name) for name in files[args.damaged]},
                 lambda place: coordinates.write(place / "coordinates.safetensors", chosen, shapes, about))
            print(f"{out}: {k} coordinates rolled back")
        if args.eval_prompts:
            rows.append((label_of(score, fraction), theta, {
                "score": score, "fraction": fraction, "seconds": seconds[score], "coordinates": k, "share": k / n,
                "norm_share": squared_distance(theta, damaged, chosen)**0.5 / norm,
                "in_S": spectrum and left_in_s(spectrum, theta, damaged, shapes)}))
    if not args.eval_prompts:
        return
    model, tokenizer = load(args.anchor, args.device)
    rows += [(FULL, anchor, {"share": 1.0, "norm_share": 1.0}),
             *((label, partial(fp32, other), {}) for label, other in args.beside)]
    test = {d: domains.evaluation_rows(d, args.data.get(d), args.fields, args.eval_prompts, "test") for d in args.domains}
    settings = ("prompts", "samples", "strength", "data", "eval_prompts", "max_completion_length", "temperature")
    report = {"anchor": args.anchor, "damaged": args.damaged, "domain": args.domain, "later": args.later, "rows": [],
              "settings": {key: getattr(args, key) for key in settings}}
    for label, theta, facts in tqdm(rows, desc="evaluate", unit="row", leave=False, delay=3):
        edits.put(model, theta)
        loss = curvature.value(model, curvature.nll, unseen) if unseen else None
        report["rows"].append({"label": label, **facts, "loss": loss, **evaluate(
            model, tokenizer, test, samples=4, temperature=args.temperature,
            max_completion_length=args.max_completion_length)})
    if args.json:
        write_json(args.json, report)
    tables([report])


def pick(args, case):
    """{(score, fraction): set} in the order of SCORES, with both controls for an evaluation; and {score: seconds}."""
    sets, seconds = {}, {}
    for score, find in {**SCORES, **CONTROLS}.items():
        if score in args.score or score in CONTROLS and args.eval_prompts:
            if score in SCORES:
                edits.put(case.model, case.anchor)        # the last score may have moved it
            began = time.perf_counter()
            sets |= {(score, fraction): chosen for fraction, chosen in zip(args.fraction, find(case))}
            seconds[score] = time.perf_counter() - began
            case.model.zero_grad()
    return sets, seconds


def answers(args, model, tokenizer, domain, split):
    """The answers of the anchor, `model`, to rows on which nothing is evaluated: a Rollout, rewards (N,).

    split: "train", to pick by, or "validation", for the loss in the table. UserError if no answer to pick by is correct.
    """
    rows = domains.evaluation_rows(domain, args.data.get(domain), args.fields, args.prompts, split)
    rollout, _, rewards = respond(model, tokenizer, domain, rows, samples=args.samples, temperature=args.temperature,
                                  max_completion_length=args.max_completion_length)
    if (domain, split) == (args.domain, "train") and not (rewards == 1).any():
        raise UserError(f"none of the answers of {args.anchor} in {domain} is correct: is it the expert? Else raise "
                        "--prompts")
    return rollout, rewards.flatten()


def squared_distance(one, other, names):
    """|| one - other ||^2 over the tensors `names`, each of the two a function name -> tensor: a float."""
    def squared(name):
        a, b = one(name), other(name)
        return (a.to(b) - b).double().square().sum().item()
    return sum(edits.in_threads(squared, list(names), "distance"))


def save_fisher(args):
    """Write F and theta of the anchor for elastic weight consolidation. UserError: see `answers`."""
    set_judge(args.judge, args.domains, args.device)
    model, tokenizer = load(args.anchor, args.device, torch.float32)
    rollout, rewards = answers(args, model, tokenizer, args.domain, "train")
    coordinates.write_fisher(args.save_fisher, fisher(model, rollout, rewards), dict(model.named_parameters()),
                             {"checkpoint": args.anchor, "domain": args.domain, "answers": int((rewards == 1).sum())})
    print(f"{args.save_fisher}: Fisher information of {args.anchor} on {args.domain}")


if __name__ == "__main__":
    cli(lambda: main(ARGS))
