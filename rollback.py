"""Rollback: undo a sparse set of a later training's changes, and the damaged domain comes back without a training step.

    python rollback.py --anchor checkpoints/code-math --damaged checkpoints/code-math-qa --domain math \\
        --out checkpoints/rolled
    python rollback.py --anchor checkpoints/s0-code-math --damaged checkpoints/s0-code-math-qa-cw --domain math \\
        --score fisher gradient --fraction 0.001 0.01 0.05 --beside refresh=checkpoints/s0-refreshed --json s0.json
    python rollback.py --anchor checkpoints/code-math --damaged checkpoints/code-math-qa-cw --domain math \\
        --coordinates checkpoints/rolled/coordinates.safetensors --out checkpoints/rolled-2
    python recovery.py s?.json                                                    # a table over seeds
    python rollback.py --anchor checkpoints/code-math --domain math --save-fisher math.fisher      # for train_grpo.py --ewc

Training on A ended at theta_A (the anchor); training on B added delta and damaged A. A set C of coordinates is undone,

    theta_i <- theta_i - beta delta_i     for i in C,     C the share rho of all coordinates with the highest score s_i,

copied from the anchor if beta = 1. L_A is minus the mean log-probability of A's own correct answers to training rows
(nll of curvature.py). Scores (conflict.py says why):

    fisher        s_i = F_i delta_i^2,     F_i = mean over correct answers o_k of (d/dtheta_i log pi(o_k))^2 at theta_A
    fisher+route  ... in neurons that are among a tenth most active on both domains' tokens, and nowhere else
    fisher+sign   ... where the first-order sign is harmful: g_i delta_i > 0, g the gradient of L_A at theta_A
    gradient      s_i = g_i(theta) (theta - theta_A)_i, g(theta) the gradient of L_A where the weights now are: a twentieth
                  of a percent of the coordinates goes back, then all are scored anew, until L_A is back at the anchor's
    curvature     likewise, with g(theta) = g + sum_j lambda_j v_j v_j' (theta - theta_A): 48 eigenpairs of H_A, as in
                  analyze.py

The first is the paper's proxy of its conflict coordinates (arXiv 2606.02398; how it is built is not in the public text,
so this is ours): the diagonal of the second-order damage 1/2 delta' H_A delta, the empirical Fisher in place of H_A.
Gradients are squared answer by answer, then averaged: the square of the mean gradient would be near 0 where A has
converged. Controls of each size: a random set (of those that moved), and the largest |delta|. Full rollback is the
anchor itself, with B's gain gone as well.

A set has at most the size that is asked for: a score of 0 is never picked, and the last two scores end when the damage
is gone. Memory, in copies of the parameters in fp32 besides the model: one (fisher, gradient), two (fisher+sign), and
three times as many as there are eigenpairs (curvature, as in analyze.py). Tensors of the two checkpoints are read from
disk as they are needed.

args: of `parse`. A, B and the like: functions tensor name -> tensor, of the anchor and of the damaged checkpoint. A set
is {tensor name: flat indices} (coordinates.py). score, fraction: what picks a set, and its size, a share of all
coordinates.
"""
import argparse
import os
import time
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from theory import coordinates
from theory import curvature
from theory import edits
from theory.conflict import CONTROLS, SCORES, fisher, leading, on_route, quadratic_slopes, rescored, slopes
from domains import DOMAINS, check_domain
from evaluate import evaluate, respond
from domains.judge import cw_judge
from model import UserError, check_directory, check_writable, cli, load, put, read_run, save, stage, write_json
from reports.recovery import FULL, tables
from grpo.resume import alone
from theory.routes import activity
from domains.rows import evaluation_rows, sources


def parse():
    """The command line, its --coordinates as args.set (see coordinates.read) or None.

    UserError for options that contradict each other, and an --out that is read or may not be replaced.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", required=True, metavar="CKPT", help="theta_A, trained on the domain")
    parser.add_argument("--damaged", metavar="CKPT", help="trained on from it")
    parser.add_argument("--domain", required=True, help=f"the damaged one: {', '.join(DOMAINS)}")
    group = parser.add_argument_group("the set")
    group.add_argument("--score", nargs="+", default=["fisher"], choices=(*SCORES, *CONTROLS), metavar="SCORE",
                       help=f"{', '.join(SCORES)}, or the controls {', '.join(CONTROLS)}, which every table has "
                       "(default fisher)")
    group.add_argument("--fraction", nargs="+", type=float, default=None, help="of the parameters, at most (default 0.001)")
    group.add_argument("--strength", type=float, default=1.0, help="beta, in (0, 1], of the rollback; sets are picked as "
                       "if it were 1 (default 1)")
    group.add_argument("--coordinates", metavar="FILE", help="take this set, written by another run, in place of a score")
    group.add_argument("--prompts", type=int, default=256, help="training rows that the anchor answers (default 256)")
    group.add_argument("--samples", type=int, default=4, help="answers to each (default 4)")
    group.add_argument("--later", default=None, metavar="DOMAINS",
                       help="what was trained after the anchor (default: by run.json)")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE",
                       help="as in evaluate.py (default: synthetic)")
    group.add_argument("--eval-prompts", type=int, default=200, help="per domain, 0 for none (default 200)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    group.add_argument("--beside", nargs="+", default=[], metavar="LABEL=CKPT",
                       help="rows of other checkpoints: a refresh, say")
    group.add_argument("--judge", default=None, help="model that judges cw: a directory or hub name (default: rubric)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("output")
    group.add_argument("--out", default=None, metavar="DIR", help="write the checkpoint and its coordinates.safetensors; "
                       "of several scores or fractions, each to DIR/SCORE-FRACTION")
    group.add_argument("--overwrite", action="store_true", help="replace what stands in --out")
    group.add_argument("--save-fisher", metavar="FILE", help="only write the anchor's Fisher information and weights, for "
                       "train_grpo.py --ewc: before any damage, so without --damaged")
    group.add_argument("--json", metavar="FILE", help="write every number; recovery.py makes a table over seeds of it")
    args = parser.parse_args()
    check_domain(args.domain)
    args.score = list(dict.fromkeys(args.score))
    if wrong := [text for text in args.beside if not all(text.partition("="))]:
        raise UserError(f"--beside {wrong[0]}: write LABEL=CHECKPOINT")
    beside = [text.partition("=")[::2] for text in args.beside]
    if (args.damaged is None) != (args.save_fisher is not None):
        raise UserError("give --damaged, which is to be rolled back, or --save-fisher: one of the two")
    if args.save_fisher and (args.out or args.json or args.beside or args.coordinates or args.fraction
                             or args.score != ["fisher"]):
        raise UserError("--save-fisher writes the Fisher information and nothing else: leave the options of a set and of "
                        "its evaluation out")
    for name in (args.anchor, *filter(None, [args.damaged]), *(name for _, name in beside)):
        check_directory(name)
    if args.coordinates is not None and (args.score != ["fisher"] or args.fraction):
        raise UserError("--coordinates is a set in place of a --score and a --fraction")
    args.fraction = sorted(set(args.fraction or [0.001]))
    if not all(0 < f <= 1 for f in [*args.fraction, args.strength]):
        raise UserError("--fraction and --strength must lie in (0, 1]")
    labels = [label_of(*which) for which in product({*args.score, *CONTROLS}, args.fraction)]
    labels += ["damaged", FULL, *(label for label, _ in beside)]
    if twice := [label for label, times in Counter(labels).items() if times > 1]:
        raise UserError(f"two rows would be called '{twice[0]}': give --beside another label, or fractions that differ in "
                        "six digits")
    for name, least in (("prompts", 1), ("samples", 1), ("max_completion_length", 1), ("eval_prompts", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
    args.beside = dict(beside)
    read = set(map(os.path.realpath, filter(None, (args.anchor, args.damaged, *args.beside.values()))))
    for place in (place_of(args, *which) for which in product(args.score, args.fraction) if args.out):
        if os.path.realpath(place) in read:
            raise UserError(f"{place} is a checkpoint that is read: choose another --out")
        if place.exists() and not (args.overwrite and (place / "coordinates.safetensors").is_file()) \
                or place.parent.is_file():
            raise UserError(f"{place} exists: --overwrite replaces what this script wrote; else choose another --out")
    if not args.eval_prompts and (args.json or args.beside):
        raise UserError("--json and --beside are about the evaluation: give --eval-prompts a number above 0")
    if not (args.out or args.eval_prompts or args.save_fisher):
        raise UserError("nothing to do: give --out, or --eval-prompts above 0")
    check_writable(args.json)
    check_writable(args.save_fisher)
    args.data = sources(args.data, DOMAINS)
    if args.data and args.domain not in args.data:
        raise UserError(f"--data names no rows of {args.domain}, whose damage is to be undone")
    args.set = coordinates.read(args.coordinates) if args.coordinates is not None else None
    return args


def place_of(args, score, fraction):
    """The directory of one rolled-back checkpoint: --out, or one below it where there are several."""
    return Path(args.out) if len(args.score) * len(args.fraction) == 1 else Path(args.out) / f"{score}-{fraction:g}"


def label_of(score, fraction):
    """What a set is called in the table: 'fisher 0.1 %'."""
    return f"{score} {100 * fraction:g} %"


# ---- the sets and what they give -----------------------------------------------------------------------------------

def pick(args, model, A, B, answers, parts, later, seed):
    """The sets of all scores, {(score, fraction): set}, seconds {score: float}, and what `leading` found or None.

    The controls too where there is an evaluation. model: fp32; its weights are those of the anchor before, and others
    after. answers: {domain: (Rollout, rewards (N,))} of the anchor; parts: its correct ones. later: domains trained
    after it, which have answers if a score is fisher+route. seed: of the random sets.
    """
    shapes = {name: p.shape for name, p in model.named_parameters()}
    names, counts = list(shapes), [max(1, round(f * sum(map(torch.Size.numel, shapes.values())))) for f in args.fraction]
    delta = lambda name: B(name) - A(name)
    sets, seconds, F, spent, spectrum = {}, {}, None, 0.0, None
    scores = dict.fromkeys([*args.score, *(CONTROLS if args.eval_prompts else ())])
    for score in sorted(scores, key=lambda score: not score.startswith("fisher")):  # these first, then F can go
        put(model, A)
        began = time.perf_counter()
        if score.startswith("fisher"):
            if F is None:
                F = fisher(model, *answers[args.domain])
                spent = time.perf_counter() - began
            else:
                began -= spent                      # each score is shown with what it costs alone
            if score == "fisher+route":
                on = on_route(model, [activity(model, answers[d][0]) for d in (args.domain, *later)])
                kept = lambda name: on(name, F[name])
            elif score == "fisher+sign":
                _, g = slopes(model, parts)
                kept = lambda name: g[name] * delta(name) > 0
            else:
                kept = lambda name: 1.0
            found = coordinates.top(names, lambda name: F[name] * delta(name)**2 * kept(name), counts)
        else:
            F = None
            if score == "gradient":
                goal = curvature.value(model, curvature.nll, parts)
                put(model, B)
                found = rescored(model, partial(slopes, model, parts), goal, A, counts)
            elif score == "curvature":
                spectrum = leading(model, parts)
                put(model, B)
                found = rescored(model, partial(quadratic_slopes, model, *spectrum), 0.0, A, counts)
            elif score == "largest":
                found = coordinates.top(names, lambda name: delta(name).abs(), counts)
            else:                                   # of those that moved: others would undo nothing
                found = coordinates.top(
                    names, lambda name: (delta(name) != 0) * coordinates.random(name, shapes[name], seed).to(model.device),
                    counts)
        model.zero_grad()
        sets |= {(score, f): chosen for f, chosen in zip(args.fraction, found)}
        seconds[score] = time.perf_counter() - began
    return sets, seconds, spectrum


def sampling(args):
    """How all answers here are sampled and graded, as keywords of `respond` and `evaluate`; loads the judge, if one is named."""
    judge = cw_judge(args.judge, [args.domain, *(args.data or DOMAINS)], args.device)
    return {"temperature": 1.0, "max_completion_length": args.max_completion_length, "judge": judge}


def answers(args, model, tokenizer, domain, split, sampling):
    """The anchor's answers to rows that no score of the table is made of: a Rollout, rewards (N,), NaN if ungraded.

    model: the anchor. sampling: keywords of `respond`. split: "train", to pick by, or "validation", for the loss in the table.
    """
    rows = evaluation_rows(domain, args.data.get(domain), "", args.prompts, split)
    rollout, _, rewards = respond(model, tokenizer, domain, rows, samples=args.samples, **sampling)
    return rollout, rewards.flatten()


def correct_parts(args, rollout, rewards):
    """The correct ones of the anchor's answers, as curvature.own_correct has them; UserError if there are none."""
    if not (parts := curvature.own_correct(rollout, rewards)):
        raise UserError(f"none of the answers of {args.anchor} in {args.domain} is correct: is it the expert? more "
                        "--prompts?")
    return parts


def save_fisher(args):
    """Write F and theta of the anchor for elastic weight consolidation. UserError: see correct_parts."""
    model, tokenizer = load(args.anchor, args.device, torch.float32)
    given = answers(args, model, tokenizer, args.domain, "train", sampling(args))
    correct_parts(args, *given)
    F = fisher(model, *given)
    coordinates.write_fisher(args.save_fisher, F, {name: p.detach() for name, p in model.named_parameters()},
                             {"checkpoint": args.anchor, "domain": args.domain, "answers": int((given[1] == 1).sum())})
    print(f"{args.save_fisher}: Fisher information of {args.anchor} on {args.domain}")


def recover(args, files):
    """Pick the sets, write what --out asks for, and evaluate: a report for recovery.py, a row per checkpoint.

    files: {checkpoint: {tensor: file}}. UserError if nothing has moved, no answer is correct, or the set of
    --coordinates is of another architecture.
    """
    anchor, damaged = args.anchor, args.damaged
    model, tokenizer = load(anchor, args.device, torch.float32, attention="eager" if "curvature" in args.score else "sdpa")
    device, shapes = model.device, {name: p.shape for name, p in model.named_parameters()}
    edits.check_names(model, anchor, files[anchor])
    stored = lambda where, name: edits.read_tensor(files[where][name], name)
    of = lambda where: lambda name: stored(where, name).to(device, torch.float32)
    A, B = of(anchor), of(damaged)
    if args.set:
        edits.check_equal(args.coordinates, args.set[1]["shapes"], damaged, shapes)
    n, norm = sum(map(torch.Size.numel, shapes.values())), squared_distance(A, B, shapes)**0.5
    if not norm:
        raise UserError(f"{damaged} has the weights of {anchor}: there is nothing to roll back")

    later = later_domains(args, anchor, damaged)
    if "fisher+route" in args.score and (without := [d for d in later if args.data and d not in args.data]):
        raise UserError(f"fisher+route needs rows of the later domains: --data names none of {without[0]}")
    how = sampling(args)
    given = {d: answers(args, model, tokenizer, d, "train", how)
             for d in (args.domain, *(later if "fisher+route" in args.score else ()))}
    parts = correct_parts(args, *given[args.domain])
    others = curvature.own_correct(*answers(args, model, tokenizer, args.domain, "validation", how)) \
        if args.eval_prompts else []                # for the loss in the table
    if args.set:
        chosen = args.set[0]
        sets, seconds, spectrum = {("saved", float(f"{coordinates.size(chosen) / n:.3g}")): chosen}, {}, None
    else:
        sets, seconds, spectrum = pick(args, model, A, B, given, parts, later, read_run(damaged).get("seed") or 0)
    del model                                       # not two at once

    def rolled(chosen, name):
        """One tensor of the damaged checkpoint, in its own precision, with a set of coordinates rolled back."""
        theta = stored(damaged, name)
        if name in chosen:
            coordinates.roll_back(theta, stored(anchor, name), chosen[name], args.strength)
        return theta

    model, tokenizer = load(anchor, args.device)
    for (score, fraction), chosen in sets.items():
        if args.out and score in (*args.score, "saved"):
            out, run = place_of(args, score, fraction), read_run(damaged)
            name = f"rollback:{score}:{fraction:g}" + f":{args.strength:g}" * (args.strength < 1)
            about = {"anchor": anchor, "damaged": damaged, "score": score, "fraction": fraction}
            save(model, tokenizer, out, {
                "parent": damaged, "lineage": [*run.get("lineage", []), damaged], "anchor": anchor, "domain": None,
                "rolled_back": args.domain, "seed": run.get("seed"), "args": {**vars(args), "set": None}, "steps": 0,
                "finished": True, "metrics": {}, "recipe": [*run.get("recipe", [Path(damaged).name]), f"{name} 0"],
                "settings": run.get("settings", [])},
                {name: rolled(chosen, name) for name in files[damaged]},
                lambda place: coordinates.write(place / "coordinates.safetensors", chosen, shapes, about))
            print(f"{out}: {coordinates.size(chosen)} coordinates rolled back")

    report = {"anchor": anchor, "damaged": damaged, "domain": args.domain, "later": later, "rows": [],
              "settings": {key: getattr(args, key) for key in ("prompts", "samples", "strength", "data", "eval_prompts",
                                                               "max_completion_length")}}
    if args.eval_prompts:
        test = {d: evaluation_rows(d, args.data.get(d), "", args.eval_prompts, "test") for d in args.data or DOMAINS}
        rows = [("damaged", B, {})]
        for (score, fraction), chosen in sets.items():
            rows.append((label_of(score, fraction), partial(rolled, chosen), {
                "score": score, "fraction": fraction, "seconds": seconds.get(score), "coordinates": coordinates.size(chosen),
                "share": coordinates.size(chosen) / n,
                "norm_share": squared_distance(partial(rolled, chosen), B, chosen)**0.5 / norm,
                "in_S": spectrum and left_in_s(spectrum, partial(rolled, chosen), B, shapes)}))
        rows += [(FULL, A, {"share": 1.0, "norm_share": 1.0}),
                 *((label, of(name), {}) for label, name in args.beside.items())]
        for label, weights, facts in tqdm(rows, desc="evaluate", unit="row", leave=False, delay=3):
            put(model, weights)
            loss = curvature.value(model, curvature.nll, others) if others else None
            report["rows"].append({"label": label, **facts, "loss": loss,  # samples: as in evaluate.py
                                   **evaluate(model, tokenizer, test, samples=4, **how)})
    return report


def squared_distance(one, other, names):
    """|| one - other ||^2 over the tensors `names`, each of the two a function name -> tensor: a float."""
    return sum((one(name).to(other(name)) - other(name)).double().square().sum().item()
               for name in tqdm(names, desc="distance", unit="tensor", leave=False, delay=3))


def left_in_s(spectrum, rolled, B, names):
    """Of the second-order damage in the span S of the leading eigenvectors, what a rollback leaves: a float, 1 if all,

        sum_j lambda_j (v_j . (theta - theta_A))^2 / sum_j lambda_j (v_j . delta)^2.

    spectrum: what `leading` found. rolled: gives theta. names: of all parameters, in the model's order.
    """
    _, values, vectors, theta = spectrum
    damage = lambda weights: (values.to(theta.device) * curvature.inner(
        vectors, curvature.flatten([weights(name).to(theta) for name in names]) - theta).square()).sum().item()
    return damage(rolled) / damage(B)


def later_domains(args, anchor, damaged):
    """The domains that were trained between two checkpoints, by --later or else by their recipes; without args.domain.

    UserError for an unknown one, or if there are none and fisher+route needs them.
    """
    after = read_run(damaged).get("recipe", [])
    before = read_run(anchor).get("recipe") or after[:1]  # the first names the model that all began with
    stages = after[len(before):] if after[:len(before)] == before else []
    found = args.later.split(",") if args.later else [d for text in stages for d in stage(text)[0] if d in DOMAINS]
    for name in found:
        check_domain(name)
    if not found and "fisher+route" in args.score:
        raise UserError(f"{damaged} has no run.json that says what it was trained on after {anchor}: name the domains with "
                        "--later")
    return [d for d in dict.fromkeys(found) if d != args.domain]


def main():
    """Write the Fisher information alone; or the checkpoints and --json, and print the table of the evaluation."""
    args = parse()
    if args.save_fisher:
        return save_fisher(args)
    files = {name: edits.tensor_files(name) for name in (args.anchor, args.damaged, *args.beside.values())}
    edits.check_same_shape((args.anchor, files[args.anchor]), list(files.items())[1:])
    with alone(args.out):
        report = recover(args, files)
    if args.json:
        write_json(args.json, report)
    if args.eval_prompts:
        tables([report])


if __name__ == "__main__":
    cli(main)
