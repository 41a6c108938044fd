"""Rollback: undo a sparse set of a later training's changes, and the damaged domain comes back without a training step.

    python rollback.py --anchor checkpoints/code-math --damaged checkpoints/code-math-qa --domain math --out checkpoints/rolled
    python rollback.py --anchor checkpoints/s?-code-math --damaged checkpoints/s?-code-math-qa-cw --domain math \\
        --score fisher fisher+route fisher+sign curvature gradient --fraction 0.001 0.01 0.05 0.2 \\
        --beside refresh checkpoints/s?-refreshed --json rollback.json            # a table over seeds
    python rollback.py --anchor checkpoints/s1-code-math --damaged checkpoints/s1-code-math-qa --domain math \\
        --coordinates checkpoints/rolled/coordinates.safetensors --out checkpoints/rolled-1

Training on A ended at theta_A (the anchor); training on B added delta and damaged A. A set C of coordinates is undone,

    theta_i <- theta_i - beta delta_i     for i in C,     C the share rho of all coordinates with the highest score s_i,

copied from the anchor if beta = 1. L_A is minus the mean log-probability of A's own correct answers to training rows (nll of
curvature.py). Scores (conflict.py says why):

    fisher        s_i = F_i delta_i^2,     F_i = mean over correct answers o_k of (d/dtheta_i log pi(o_k))^2 at theta_A
    fisher+route  ... in neurons that are among a tenth most active on both domains' tokens, and nowhere else
    fisher+sign   ... where the first-order sign is harmful: g_i delta_i > 0, g the gradient of L_A at theta_A
    gradient      s_i = g_i(theta) (theta - theta_A)_i, g(theta) the gradient of L_A where the weights now are: a twentieth of a
                  percent of the coordinates goes back, then all are scored anew, until L_A is back at the anchor's
    curvature     likewise, with g(theta) = g + sum_j lambda_j v_j v_j' (theta - theta_A): 48 eigenpairs of H_A, as in analyze.py

The first is the paper's proxy of its conflict coordinates (arXiv 2606.02398; how it is built is not in the public text, so this is
ours): the diagonal of the second-order damage 1/2 delta' H_A delta, the empirical Fisher in place of H_A. Gradients are squared
answer by answer, then averaged: the square of the mean gradient would be near 0 where A has converged. Controls of each size:
a random set, and the largest |delta|. Full rollback is the anchor itself, with B's gain gone as well.
"""
import argparse
import math
import os
import time
from collections import Counter
from functools import partial
from itertools import chain, product
from pathlib import Path

import torch
from tqdm import tqdm

import coordinates
import curvature
import edits
from conflict import fisher, leading, on_route, quadratic_slopes, rescored, slopes
from domains import DOMAINS, check_domain
from evaluate import evaluate, mean_ci, respond
from interference import change, number, scores, show, won_back
from model import UserError, check_directory, cli, load, read_run, save, stage, write_json
from routes import activity
from rows import evaluation_rows, sources

SCORES = ("fisher", "fisher+route", "fisher+sign", "gradient", "curvature")
CONTROLS = ("largest", "random")
FULL = "full rollback: the anchor"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", nargs="+", required=True, metavar="CKPT", help="theta_A, trained on the domain; several for a "
                        "table over seeds")
    parser.add_argument("--damaged", nargs="+", required=True, metavar="CKPT", help="trained on from it; as many, in the same order")
    parser.add_argument("--domain", required=True, help=f"the damaged one: {', '.join(DOMAINS)}")
    group = parser.add_argument_group("the set")
    group.add_argument("--score", nargs="+", default=["fisher"], choices=(*SCORES, *CONTROLS), help="several for a "
                       "table, in which the controls always are (default fisher)")
    group.add_argument("--fraction", nargs="+", type=float, default=None, help="of the parameters, at most (default 0.001)")
    group.add_argument("--strength", type=float, default=1.0, help="beta, in (0, 1], of the rollback; sets are picked as if it "
                       "were 1 (default 1)")
    group.add_argument("--coordinates", metavar="FILE", help="take this set, written by another run, in place of a score")
    group.add_argument("--prompts", type=int, default=256, help="training rows that the anchor answers (default 256)")
    group.add_argument("--samples", type=int, default=4, help="answers to each (default 4)")
    group.add_argument("--later", default=None, metavar="DOMAINS", help="what was trained after the anchor (default: by run.json)")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE", help="as in evaluate.py (default: synthetic)")
    group.add_argument("--eval-prompts", type=int, default=200, help="per domain, 0 for none (default 200)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    group.add_argument("--beside", nargs="+", action="append", default=[], metavar=("LABEL", "CKPT"),
                       help="one more row: any other checkpoints, as many as anchors; may come several times")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("output")
    group.add_argument("--out", default=None, metavar="DIR", help="write the checkpoint and its coordinates.safetensors; of several "
                       "scores or fractions, each to DIR/SCORE-FRACTION")
    group.add_argument("--overwrite", action="store_true", help="replace what stands in --out")
    group.add_argument("--json", metavar="FILE", help="write every number")
    group.add_argument("--plot", metavar="FILE", help="draw the domains against the fraction (needs matplotlib)")
    args = parser.parse_args()
    check_domain(args.domain)
    for name in chain(args.anchor, args.damaged, *(names for _, *names in args.beside)):
        check_directory(name)
    if len(args.damaged) != len(args.anchor) or any(len(names) != len(args.anchor) for _, *names in args.beside):
        raise UserError(f"--damaged and each --beside need as many checkpoints as --anchor, which has {len(args.anchor)}")
    if args.coordinates is not None and (len(args.anchor) > 1 or args.score != ["fisher"] or args.fraction):
        raise UserError("--coordinates is one set, for one anchor and one damaged checkpoint, in place of a --score and a --fraction")
    args.fraction = sorted(set(args.fraction or [0.001]))
    if not all(0 < f <= 1 for f in [*args.fraction, args.strength]):
        raise UserError("--fraction and --strength must lie in (0, 1]")
    labels = [label_of(*which) for which in product(dict.fromkeys([*args.score, *CONTROLS]), args.fraction)]
    labels += ["damaged", FULL, *(label for label, *_ in args.beside)]
    if twice := [label for label, times in Counter(labels).items() if times > 1]:
        raise UserError(f"two rows would be called '{twice[0]}': give --beside another label, or fractions that differ in six digits")
    for name, least in (("prompts", 1), ("samples", 1), ("max_completion_length", 1), ("eval_prompts", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
    if args.out and len(args.anchor) > 1:
        raise UserError("--out takes one anchor and one damaged checkpoint")
    read = set(map(os.path.realpath, chain(args.anchor, args.damaged, *(names for _, *names in args.beside))))
    for place in (place_of(args, *which) for which in product(args.score, args.fraction) if args.out):
        if os.path.realpath(place) in read:
            raise UserError(f"{place} is a checkpoint that is read: choose another --out")
        if place.exists() and not (args.overwrite and (place / "coordinates.safetensors").is_file()) or place.parent.is_file():
            raise UserError(f"{place} exists: --overwrite replaces what this script wrote; else choose another --out")
    if not args.eval_prompts and (args.json or args.plot or args.beside):
        raise UserError("--json, --plot and --beside are about the evaluation: give --eval-prompts a number above 0")
    if not (args.out or args.eval_prompts):
        raise UserError("nothing to do: give --out, or --eval-prompts above 0")
    for path in filter(None, (args.json, args.plot)):
        if not Path(path).resolve().parent.is_dir() or Path(path).is_dir():
            raise UserError(f"cannot write {path}: its directory is missing, or it is a directory itself")
    if args.plot and Path(args.plot).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {args.plot}: name a .png, .pdf or .svg file")
    args.data = sources(args.data, DOMAINS)
    if args.data and args.domain not in args.data:
        raise UserError(f"--data names no rows of {args.domain}, whose damage is to be undone")
    args.set = coordinates.read(args.coordinates) if args.coordinates is not None else None
    return args


def place_of(args, score, fraction):
    """The directory of one rolled-back checkpoint: --out, or one below it where there are several."""
    return Path(args.out) if len(args.score) * len(args.fraction) == 1 else Path(args.out) / f"{score}-{fraction:g}"


def label_of(score, fraction):
    return f"{score} {100 * fraction:g} %"


# ---- one pair ----------------------------------------------------------------------------------------------------

@torch.no_grad()
def put(model, weights):
    """Put weights(name) into the model, parameter by parameter."""
    for name, p in model.named_parameters():
        p.copy_(weights(name))


def pick(args, model, A, B, answers, parts, later, seed):
    """The sets of all scores: {(score, fraction): {name: indices}}, seconds {score: float}, and what `leading` found or None.

    model: fp32; its weights are those of the anchor before, and others after. A, B: functions name -> tensor. answers: {domain:
    (Rollout, rewards (N,))} of the anchor; parts: its correct ones. later: domains trained after it. seed: of the random sets.
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
                found = coordinates.top(names, lambda name: (delta(name) != 0) * coordinates.random(name, shapes[name], seed).to(
                    model.device), counts)
        model.zero_grad()
        sets |= {(score, f): chosen for f, chosen in zip(args.fraction, found)}
        seconds[score] = time.perf_counter() - began
    return sets, seconds, spectrum


def recover(args, files, anchor, damaged, beside, seed):
    """Pick the sets of one pair, write what --out asks for, and evaluate: a report for `tables`.

    files: {checkpoint: {tensor name: file}}. beside: {label: checkpoint}, evaluated as well. seed: of the random sets.
    """
    model, tokenizer = load(anchor, args.device, torch.float32, attention="eager" if "curvature" in args.score else "sdpa")
    device, shapes = model.device, {name: p.shape for name, p in model.named_parameters()}
    if missing := sorted(shapes.keys() - files[anchor].keys()):
        raise UserError(f"{anchor} stores its weights under other names than transformers, which misses {missing[0]}: load it and "
                        "save it again with save_pretrained")
    stored = lambda where, name: edits.read_tensor(files[where][name], name)
    of = lambda where: lambda name: stored(where, name).to(device, torch.float32)
    A, B = of(anchor), of(damaged)
    if args.set:
        coordinates.check_fits(args.coordinates, args.set[1], shapes, damaged)
    norm = squared_distance(A, B, shapes)**0.5
    if not norm:
        raise UserError(f"{damaged} has the weights of {anchor}: there is nothing to roll back")

    later = later_domains(args, anchor, damaged)
    if "fisher+route" in args.score and (without := [d for d in later if args.data and d not in args.data]):
        raise UserError(f"fisher+route needs rows of the later domains: --data names none of {without[0]}")
    settings = {"temperature": 1.0, "max_completion_length": args.max_completion_length}

    def answers(domain, split):
        """The anchor's answers to rows that no table is made of: a Rollout, rewards (N,)."""
        rows = evaluation_rows(domain, args.data.get(domain), "", args.prompts, split)
        rollout, _, rewards = respond(model, tokenizer, domain, rows, samples=args.samples, **settings)
        return rollout, rewards.flatten()
    given = {d: answers(d, "train") for d in (args.domain, *(later if "fisher+route" in args.score else ()))}
    parts = curvature.own_correct(*given[args.domain])
    if not parts:
        raise UserError(f"none of the answers of {anchor} in {args.domain} is correct: is it the expert? more --prompts?")
    others = curvature.own_correct(*answers(args.domain, "validation")) if args.eval_prompts else []  # for the loss in the table
    if args.set:
        chosen = args.set[0]
        share = coordinates.size(chosen) / sum(map(torch.Size.numel, shapes.values()))
        sets, seconds, spectrum = {("saved", float(f"{share:.3g}")): chosen}, {}, None
    else:
        sets, seconds, spectrum = pick(args, model, A, B, given, parts, later, seed)
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
            how = f"rollback:{score}:{fraction:g}" + f":{args.strength:g}" * (args.strength < 1)
            about = {"anchor": anchor, "damaged": damaged, "score": score, "fraction": fraction}
            save(model, tokenizer, out, {
                "parent": damaged, "lineage": [*run.get("lineage", []), damaged], "anchor": anchor, "domain": None,
                "rolled_back": args.domain, "seed": run.get("seed"), "args": {**vars(args), "set": None}, "steps": 0, "finished": True,
                "metrics": {}, "recipe": [*run.get("recipe", [Path(damaged).name]), f"{how} 0"]},
                {name: rolled(chosen, name) for name in files[damaged]},
                lambda place: coordinates.write(place / "coordinates.safetensors", chosen, shapes, about))
            print(f"{out}: {coordinates.size(chosen)} coordinates rolled back")

    report = {"anchor": anchor, "damaged": damaged, "domain": args.domain, "later": later, "rows": []}
    if args.eval_prompts:
        test = {d: evaluation_rows(d, args.data.get(d), "", args.eval_prompts, "test") for d in args.data or DOMAINS}
        rows = [("damaged", B, {})]
        for (score, fraction), chosen in sets.items():
            rows.append((label_of(score, fraction), partial(rolled, chosen), {
                "score": score, "fraction": fraction, "seconds": seconds.get(score), "coordinates": coordinates.size(chosen),
                "share": coordinates.size(chosen) / sum(map(torch.Size.numel, shapes.values())),
                "norm_share": squared_distance(partial(rolled, chosen), B, chosen)**0.5 / norm,
                "in_S": spectrum and left_in_s(spectrum, partial(rolled, chosen), B, shapes)}))
        rows += [(FULL, A, {"share": 1.0, "norm_share": 1.0}), *((label, of(name), {}) for label, name in beside.items())]
        for label, weights, facts in tqdm(rows, desc="evaluate", unit="row", leave=False, delay=3):
            put(model, weights)
            report["rows"].append({"label": label, **facts, "loss": curvature.value(model, curvature.nll, others) if others else None,
                                   **evaluate(model, tokenizer, test, samples=4, **settings)})  # samples: as in evaluate.py
    return report


def squared_distance(one, other, names):
    """|| one - other ||^2 over some tensors, each a function name -> tensor: a float."""
    return sum((one(name).to(other(name)) - other(name)).double().square().sum().item()
               for name in tqdm(names, desc="distance", unit="tensor", leave=False, delay=3))


def left_in_s(spectrum, rolled, B, names):
    """Of the second-order damage in the span S of the leading eigenvectors, what a rollback leaves: a float, 1 if all,

        sum_j lambda_j (v_j . (theta - theta_A))^2 / sum_j lambda_j (v_j . delta)^2.
    """
    _, values, vectors, theta = spectrum
    damage = lambda weights: (values.to(theta.device) * curvature.inner(
        vectors, curvature.flatten([weights(name).to(theta) for name in names]) - theta).square()).sum().item()
    return damage(rolled) / damage(B)


def later_domains(args, anchor, damaged):
    """The domains that were trained between two checkpoints, by their recipes or by --later."""
    after = read_run(damaged).get("recipe", [])
    before = read_run(anchor).get("recipe") or after[:1]  # the first names the model that all began with
    stages = after[len(before):] if after[:len(before)] == before else []
    found = args.later.split(",") if args.later else [d for text in stages for d in stage(text)[0] if d in DOMAINS]
    for name in found:
        check_domain(name)
    if not found and "fisher+route" in args.score:
        raise UserError(f"{damaged} has no run.json that says what it was trained on after {anchor}: name the domains with --later")
    return [d for d in dict.fromkeys(found) if d != args.domain]


# ---- what came of it -----------------------------------------------------------------------------------------------

def by_label(reports):
    """The rows of all reports: {label: {number of the report: row}}."""
    runs = {}
    for i, report in enumerate(reports):
        for row in report["rows"]:
            runs.setdefault(row["label"], {})[i] = row
    return runs


def tables(reports):
    """Print scores, shares and claims over one report or several: mean and 95 % interval, over seeds where there are several.

        won back = (S_A(rolled back) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))      of means over seeds
        kept     = (S_B(rolled back) - S_B(anchor)) / (S_B(damaged) - S_B(anchor))       B's gain; none where B had no gain
    """
    runs = by_label(reports)
    damaged, full, domain = runs["damaged"], runs[FULL], reports[0]["domain"]
    domains = [d for d in DOMAINS if d in damaged[0]]
    gained = lambda mean, half: mean > half
    later = [d for d in domains if all(d in r["later"] for r in reports) and gained(*change(damaged, full, d))]
    fell = change(damaged, full, domain)
    print(f"\n{len(reports)} pair{'s' * (len(reports) > 1)}: points, and the paired change from damaged (95 % over "
          f"{'seeds' if len(reports) > 1 else 'prompts'})")
    cell = lambda now, label, d: number(now) if label == "damaged" else f"{now[0]:.1f} ({number(change(runs[label], damaged, *d), '+')})"
    show([[label, *(cell(now, label, d) for now, d in zip(scores(some, domains), [*([d] for d in domains), domains]))]
          for label, some in runs.items()], ["", *domains, "average"])
    if fell[0] + fell[1] >= 0:
        return print(f"{domain} has not fallen by more than chance ({number(fell, '+')}): there is nothing to win back\n")

    back = {label: won_back(some, damaged, full, domain) for label, some in runs.items()}
    kept = {label: {d: won_back(some, full, damaged, d) for d in later} for label, some in runs.items()}
    mean = lambda label, key: mean_ci(torch.tensor([math.nan if row.get(key) is None else row[key] for row in runs[label].values()],
                                                   dtype=torch.float64))[0]
    per = lambda pair, share: tuple(x / (100 * share) for x in pair) if share else (math.nan, math.nan)
    lost = mean("damaged", "loss") - mean(FULL, "loss")
    percent = lambda x: "-" if math.isnan(x) else f"{100 * x:.3g} %"
    print(f"Of the fall of {domain}, won back, also per share of || delta || that is undone; of later gains, kept; of the rise of L_A on "
          "\nother rows and of the damage in S, left; seconds to pick")
    show([[label, percent(mean(label, "share")), percent(mean(label, "norm_share")), number(back[label]) + " %",
           number(per(back[label], mean(label, "norm_share"))), *(number(kept[label][d]) + " %" for d in later),
           percent((mean(label, "loss") - mean(FULL, "loss")) / lost if lost else math.nan), percent(mean(label, "in_S")),
           "-" if math.isnan(mean(label, "seconds")) else f"{mean(label, 'seconds'):.0f}"] for label in runs],
         ["", "coordinates", "of the norm", "won back", "per norm", *(f"{d} kept" for d in later), "L_A left", "S left", "seconds"])

    sizes = {}                                      # {fraction: {score: label}}
    for label, some in runs.items():
        if "score" in some[0] and some[0]["score"] != "saved":
            sizes.setdefault(some[0]["fraction"], {})[some[0]["score"]] = label
    claims = []
    for fraction, labels in ((f, some) for f, some in sizes.items() if f <= 0.05):
        if "fisher" in labels:
            rolled = runs[labels["fisher"]]
            claims.append((f"{labels['fisher']}: wins back some of {domain}, beyond error and beyond chance (paper: recovers in part)",
                           number(back[labels["fisher"]]) + " %",
                           gained(*change(rolled, damaged, domain)) and gained(*change(rolled, runs[labels["random"]], domain))))
        # the best score is the one that other rows than these prefer
        best = min((label for score, label in labels.items() if score in SCORES), key=lambda label: mean(label, "loss"), default=None)
        if best:
            claims += [(f"{best}: wins back at least {least} % of what full rollback does", number(back[best]) + " %", back[best][0] >= least)
                       for size, least in ((0.01, 50), (0.05, 90)) if fraction == size]
            claims.append((f"{best}: at least three times what as large a random set does", f"{back[best][0]:.1f} % against "
                           f"{number(back[labels['random']])} %", back[best][0] >= 3 * back[labels["random"]][0]
                           and gained(*change(runs[best], runs[labels["random"]], domain))))
            claims += [(f"{best}: {d} keeps at least 95 % of its gain", number(kept[best][d]) + " %", kept[best][d][0] >= 95) for d in later]
    show([[words, ours, "yes" if holds else "no"] for words, ours, holds in claims], ["claim", "here", "holds"])


def plot(file, reports):
    """Won back, and kept of the later gains, against the size of the set, score by score."""
    try:
        import matplotlib
    except ImportError:
        return print(f"matplotlib is not installed, so {file} is not drawn: pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    runs, domain = by_label(reports), reports[0]["domain"]
    shown = [d for d in DOMAINS if d == domain or all(d in r["later"] for r in reports) and d in runs["damaged"][0]]
    _, axes = plt.subplots(1, len(shown), figsize=(4.3 * len(shown), 4), squeeze=False)
    for axis, d in zip(axes[0], shown):
        for label, style in (("damaged", ":"), (FULL, "--")):
            axis.axhline(scores(runs[label], [d])[0][0], color="gray", linestyle=style, label=label)
        for score in dict.fromkeys(row["score"] for row in reports[0]["rows"] if "score" in row):
            points = [(some[0]["fraction"], *scores(some, [d])[0]) for some in runs.values() if some[0].get("score") == score]
            x, mean, half = (torch.tensor(column) for column in zip(*points))
            line, = axis.plot(100 * x, mean, marker="o", label=score, linestyle="-" if score in SCORES else "-.")
            axis.fill_between(100 * x, mean - half, mean + half, color=line.get_color(), alpha=0.12)
        axis.set_xscale("log"), axis.set_xlabel("coordinates rolled back, %"), axis.grid(alpha=0.3)
        axis.set_title(f"{d}: {'damaged' if d == domain else 'trained later'}")
    axes[0][0].set_ylabel("held-out score (avg@4 x 100)"), axes[0][0].legend(fontsize=7)
    plt.savefig(file, dpi=110, bbox_inches="tight"), plt.close()
    print(f"{file}: drawn")


def main():
    args = parse()
    pairs = [(anchor, damaged, {label: names[i] for label, *names in args.beside})
             for i, (anchor, damaged) in enumerate(zip(args.anchor, args.damaged))]
    files = {}
    for anchor, damaged, beside in pairs:           # before the work: what does not fit
        files |= {name: edits.tensor_files(name) for name in (anchor, damaged, *beside.values())}
        edits.check_same_shape((anchor, files[anchor]), [(name, files[name]) for name in (damaged, *beside.values())])
    reports = []
    for seed, pair in enumerate(pairs):
        reports.append(recover(args, files, *pair, seed))
        if args.json:                               # after each pair: an error in the next one loses nothing
            write_json(args.json, reports)
    if args.eval_prompts:
        tables(reports)
        if args.plot:
            plot(args.plot, reports)


if __name__ == "__main__":
    cli(main)
