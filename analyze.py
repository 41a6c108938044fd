"""Analyze: what the paper says about edits, routes, gradients, damage and refresh, measured on checkpoints.

    python analyze.py --base checkpoints/base checkpoints/math checkpoints/code checkpoints/qa checkpoints/cw
    python analyze.py --base checkpoints/base checkpoints/s0-{math,code,qa,cw} --later checkpoints/s0-math-{code,qa,cw} \\
        checkpoints/s0-code-math --refresh checkpoints/s0-refreshed --json s0.json --plot pictures
    python analyze.py --base some/model another/model             # weights alone: any two models of one architecture

Near theta_A, the checkpoint after training on A, later training on B that adds delta_B changes A's loss by
(arXiv 2606.02398)

    I(B -> A) = L_A(theta_A + delta_B) - L_A(theta_A) = g_A . delta_B + 1/2 delta_B' H_A delta_B + higher orders,

of which, it says, the first is small near A's optimum, and the second lies in a few directions S of high curvature that
both domains use; a refresh contracts P_S delta_B and leaves the rest. S is here (ours) the span of the leading
eigenvectors of H_A. In this order each claim is measured:

    from the weights alone (edits.py)     1 sparsity   2 neurons   3 directions and ranks of the edits
    from the base model and some rows (routes.py)     4 routes   5 policy gradients
    from each expert and what was trained after it (curvature.py)   6 damage   7 conflict subspace   8 refresh

delta_B: with --later, what training on B really added to an expert; for pairs without such a checkpoint theta_B -
theta_base stands in, as if B's edit did not depend on where it starts. L_A: see curvature.py. The last table has the
paper's claims beside the numbers of the run; claims.py has it over several.
"""
import argparse
import math
import os
from itertools import chain, combinations
from pathlib import Path

import torch
from tqdm import tqdm

from theory import curvature
from theory import edits
from reports.claims import blocks, claims, plot, show_claims
from domains import DOMAINS, check_domain
from evaluate import respond
from reports.intervals import mean_ci
from domains.judge import cw_judge
from model import UserError, check_directory, check_writable, cli, load, read_run, stage, write_json
from theory.routes import PARTS, activity, gradient_cosines, module_spans, overlap, policy_gradients, top_neurons
from domains.rows import evaluation_rows, sources
from reports.tables import show

TIMES = [i / 16 for i in range(1, 17)]  # where the loss is measured on the way from theta_A to theta_A + delta_B
DESCENT = 50                            # steps of gradient descent on L_A


def parse():
    """The command line; UserError for what cannot be analyzed. args.domain: {expert: its domain, or None}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experts", nargs="+", help="checkpoints, each trained from --base on one domain")
    parser.add_argument("--base", required=True, help="the checkpoint that all experts started from")
    parser.add_argument("--later", nargs="+", default=[], metavar="CKPT", help="checkpoints trained on from an expert")
    parser.add_argument("--refresh", metavar="CKPT", help="a refresh that kept its steps (refresh.py --keep-every 1)")
    group = parser.add_argument_group("weights")
    group.add_argument("--weights-only", action="store_true", help="nothing that needs rows")
    group.add_argument("--threshold", type=float, default=None, help="also count |delta| below this")
    group.add_argument("--top", type=float, default=0.1, help="share of the neurons that counts as most changed, and as a "
                       "route (default 0.1)")
    group = parser.add_argument_group("rows and curvature")
    group.add_argument("--domains", default=None, help="domains of the experts, in their order, where no run.json says it")
    group.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE", help="as in evaluate.py (default: synthetic)")
    group.add_argument("--prompts", type=int, default=64, help="prompts per domain (default 64), and twice as "
                       "many, with twice the samples, at the base")
    group.add_argument("--samples", type=int, default=4, help="completions per prompt (default 4)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    group.add_argument("--judge", default=None, help="model that judges cw: a directory or hub name (default: rubric)")
    group.add_argument("--directions", type=int, default=48, help="eigenvectors that span the conflict subspace S; memory: three "
                       "times as many copies of the parameters (default 48)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write every number")
    group.add_argument("--plot", metavar="DIR", help="draw neurons, gradients, damage and refresh there (needs matplotlib)")
    args = parser.parse_args()
    places = []
    for name in [args.base, *args.experts, *args.later]:
        check_directory(name)
        if os.path.realpath(name) in places:
            raise UserError(f"{name} is named twice")
        places.append(os.path.realpath(name))
    for name in ("prompts", "samples", "max_completion_length", "directions"):
        if getattr(args, name) < (PARTS if name == "prompts" else 1):
            raise UserError(f"--{name.replace('_', '-')} must be at least {PARTS if name == 'prompts' else 1}")
    if not 0 < args.top <= 1 or not (args.threshold is None or 0 < args.threshold < math.inf):
        raise UserError("--top must lie in (0, 1] and --threshold be above 0")
    check_writable(args.json)
    given = args.domains.split(",") if args.domains else []
    if given and len(given) != len(args.experts):
        raise UserError(f"--domains names {len(given)} domains for {len(args.experts)} experts")
    args.domain = {name: given[i] if given else read_run(name).get("domain") for i, name in enumerate(args.experts)}
    for name in (d for d in args.domain.values() if d in given):
        check_domain(name)
    args.data = sources(args.data, DOMAINS)
    if args.refresh:
        args.refreshed = same_place(refreshed_anchor(args.refresh), [*args.experts, *args.later])
    return args


def refreshed_anchor(name):
    """theta_A of a refresh on A: the last of its ancestors that was trained on A. UserError if it cannot be found."""
    check_directory(name)
    run = read_run(name)
    if run.get("domain") not in DOMAINS:
        raise UserError(f"{name} refreshed {run.get('domain', 'what no run.json says')}: name the refresh of one domain")
    if not any(Path(name).glob("step-*")):
        raise UserError(f"{name} kept none of its steps: run refresh.py with --keep-every 1")
    ancestors = [a for a in run.get("lineage", []) if os.path.isdir(a) and read_run(a).get("domain") == run["domain"]]
    if not ancestors or not os.path.isdir(run["parent"]):
        raise UserError(f"{name}: no ancestor trained on {run.get('domain')} stands where its run.json says: "
                        f"{', '.join(run.get('lineage', []))}; run this from the directory it was trained in")
    return ancestors[-1]


def same_place(name, names):
    """The one of `names` that is the same directory as `name`, or `name` itself."""
    return next((other for other in names if os.path.realpath(other) == os.path.realpath(name)), name)


# ---- 1 to 3: from the weights alone --------------------------------------------------------------------------------

def weights(args, report):
    """Sparsity, neurons, directions and ranks of the experts' edits (edits.py): prints them and adds them to `report`, a dict.

    Returns the inner products of the E edits neuron by neuron (E, E, n) fp64 and the layer of each neuron (n,) int64, or
    None where the model has no gated MLP. args, here and below: of `parse`.
    """
    found = edits.measure(args.base, args.experts, args.threshold)
    names, pairs = [short(name) for name in args.experts], list(combinations(range(len(args.experts)), 2))
    report["sparsity"] = {name: edits.sparsity(found, e, args.threshold) for e, name in enumerate(args.experts)}
    extra = [f"abs_below_{args.threshold:g}"] if args.threshold is not None else []
    columns = [*edits.SHARES, *extra, "bf16_if_dense"]
    print(f"\n1. Size of the edits: share of {next(iter(report['sparsity'].values()))['parameters']:,} parameters, and norms")
    show([[short(name), *(f"{100 * s[c]:.2f} %" for c in columns), *(f"{s[c]:.3g}" for c in ("L1", "L2", "Linf"))]
          for name, s in report["sparsity"].items()], ["expert", *(c.replace("_", " ") for c in columns), "L1", "L2", "Linf"])
    print("Mean |delta| by type of module and by layer, and effective rank (sum s^2)^2 / sum s^4, median over matrices (~: of a "
          "sketch)")
    report["rank"] = {name: edits.matrix_ranks(found, e) for e, name in enumerate(args.experts)}
    table = []
    for group, member in (("by_type", edits.type_of), ("by_layer", lambda tensor: str(edits.layer_of(tensor)))):
        for key in report["sparsity"][args.experts[0]][group]:
            sizes = [report["sparsity"][name][group][key] for name in args.experts]
            own = [[r for tensor, r in report["rank"][name].items() if member(tensor) == key] for name in args.experts]
            about = "" if all(r["exact"] for r in own[0]) else "~"
            table.append([key if group == "by_type" else f"layer {key}", *(f"{s['L1'] / s['parameters']:.2e}" for s in sizes),
                          *(f"{about}{torch.tensor([r['effective_rank'] for r in some]).median():.1f}" if some else "-"
                            for some in own)])
    show(table, ["module", *names, *(f"rank {name}" for name in names)])

    grams, neurons = edits.neuron_grams(found)
    layers = torch.tensor([edits.layer_of(f"{mlp}.") or 0 for mlp, _ in neurons])
    report["neuron_jaccard"], report["neuron_null"], report["cosine"] = {}, {}, {}
    if grams is None:
        print("2. Neurons: no gate_proj, up_proj and down_proj in this architecture, so nothing to say of its channels")
    elif pairs:
        tops = [top_neurons(grams[e, e], args.top) for e in range(len(names))]
        print(f"2. Most edited {args.top:.0%} of {len(neurons)} neurons: Jaccard index, beside two random sets")
        for i, j in pairs:
            key = f"{args.experts[i]}|{args.experts[j]}"
            report["neuron_null"][key] = overlap(tops[i], tops[j], layers)
            report["neuron_jaccard"][key] = report["neuron_null"][key]["jaccard"]
        range_of = lambda r: f"{r['expected']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
        show([[", ".join(map(short, key.split("|"))), f"{o['jaccard']:.3f}", range_of(o["random"]),
               range_of(o["random_same_layers"])] for key, o in report["neuron_null"].items()],
             ["pair", "Jaccard", "random (95 % range)", "random, as many per layer"])
    if pairs:
        modules = edits.module_grams(found)
        print("3. Cosine of the edits: all parameters, lowest and highest module, neurons in both top sets")
        rows = []
        for i, j in pairs:
            by = {m: edits.cosines(g)[i, j].item() for m, g in modules.items()}
            shared = None
            if grams is not None:
                both = tops[i] & tops[j]
                shared = edits.cosines(grams[:, :, both].sum(-1))[i, j].item() if both.any() else None
            report["cosine"][f"{args.experts[i]}|{args.experts[j]}"] = {"by_module": by, "shared_neurons": shared}
            inner = {m: by[m] for m in blocks(by) if not math.isnan(by[m])} or {"all": by["all"]}
            low, high = min(inner, key=inner.get), max(inner, key=inner.get)
            rows.append([f"{names[i]}, {names[j]}", f"{by['all']:+.3f}", f"{inner[low]:+.3f} {low}",
                         f"{inner[high]:+.3f} {high}", "-" if shared is None else f"{shared:+.3f}"])
        show(rows, ["pair", "all", "lowest", "highest", "shared neurons"])
    return (grams, layers) if grams is not None else None


def short(name):
    """A checkpoint's name in a table: its last directory."""
    return Path(name).name


# ---- 4 and 5: from the base and some rows --------------------------------------------------------------------------

def routes_and_gradients(args, judge, domains, neurons, report):
    """4 and 5: overlap of the domains' routes, edits' direction on shared routes, cosines of policy gradients (routes.py).

    judge: see domains.reward. neurons: of `weights`. Prints tables and adds the numbers to `report`.
    """
    model, tokenizer = load(args.base, args.device, torch.float32, attention="eager")
    active, gradients = {}, {}
    for domain in domains:
        rollout, _, rewards = respond(model, tokenizer, domain, rows_of(args, domain, 2 * args.prompts), samples=2 * args.samples,
                                      temperature=1.0, max_completion_length=args.max_completion_length,
                                      judge=judge)
        active[domain] = activity(model, rollout)
        gradients[domain] = policy_gradients(model, rollout, rewards)
    pairs = list(combinations(domains, 2))
    expert = {domain: next(i for i, name in enumerate(args.experts) if args.domain[name] == domain) for domain in domains}
    grams, layers = neurons or (None, [])
    if any(a is None or len(a) != len(layers) for a in active.values()):
        print("4. Routes: the modules of this model do not show the channels of its MLPs one by one\n")
    else:
        route = {domain: top_neurons(active[domain], args.top) for domain in domains}
        print(f"4. Routes: the {args.top:.0%} of the neurons most active on a domain's tokens, in the base model")
        report["route_jaccard"], report["route_cosine"], table = {}, {}, []
        for a, b in pairs:
            i, j, key = expert[a], expert[b], f"{a}|{b}"
            both = route[a] & route[b]
            edited = report["neuron_jaccard"][f"{args.experts[min(i, j)]}|{args.experts[max(i, j)]}"]
            report["route_jaccard"][key] = o = overlap(route[a], route[b], layers) | {"edits": edited}
            cosine = lambda mask: edits.cosines(grams[:, :, mask].sum(-1))[i, j].item() if mask.any() else math.nan
            by_layer = {int(l): cosine(both & (layers == l)) for l in layers.unique()}
            report["route_cosine"][key] = {"all": cosine(both), "by_layer": by_layer}
            table.append([f"{a}, {b}", f"{o['jaccard']:.3f}", f"{edited:.3f}", f"{o['random']['expected']:.3f}",
                          f"{o['random_same_layers']['expected']:.3f}", f"{cosine(both):+.3f}",
                          " ".join(f"{c:+.2f}" for c in by_layer.values())])
        show(table, ["pair", "routes' Jaccard", "edits'", "random", "random, per layer", "cosine of edits on shared route",
                     "layer by layer"])
    report["gradient_cosine"] = gradient_cosines(gradients, module_spans(model))
    print("5. Cosine of policy gradients at the base, ± 95 % (jackknife); ceiling: what equal gradients would show through so many "
          "samples;\n   without noise: cosine / ceiling")
    table = []
    for a, b in pairs:
        cells = {m: c[f"{a}|{b}"] for m, c in report["gradient_cosine"].items()}
        whole, inner = cells["all"], {m: cells[m] for m in blocks(cells) if not math.isnan(cells[m]["cosine"])} or cells
        ends = [min(inner, key=lambda m: inner[m]["cosine"]), max(inner, key=lambda m: inner[m]["cosine"])]
        table.append([f"{a}, {b}", f"{whole['cosine']:+.3f} ± {whole['ci95']:.3f}", f"{whole['ceiling']:.3f}",
                      f"{whole['corrected']:+.3f}", *(f"{inner[m]['cosine']:+.3f} ± {inner[m]['ci95']:.3f} {m}" for m in ends)])
    show(table, ["pair", "all", "ceiling", "without noise", "most conflicting", "most synergistic"])


def rows_of(args, domain, n):
    """At most n rows of a domain for losses and gradients: of the training part, so that no test row decides anything."""
    return evaluation_rows(domain, args.data.get(domain), "", n, "train")


# ---- 6 to 8: around each expert ------------------------------------------------------------------------------------

def is_ancestor(name, run):
    """Whether a run.json has a checkpoint among its ancestors: by its place, or by name and seed where that is gone."""
    gone = lambda a: not os.path.isdir(a) and short(a) == short(name) and read_run(name).get("seed") == run.get("seed")
    return any(os.path.realpath(a) == os.path.realpath(name) or gone(a) for a in run.get("lineage", []))


def displacements(args):
    """What was added to each anchor: {anchor: [(name, source, target, trained)]}, delta = theta_target - theta_source.

    A checkpoint of --later belongs to every expert (and earlier --later) that its run.json has among its ancestors. Two
    experts without such a checkpoint stand in for one: theta_B - theta_base. UserError if one of --later has no such
    ancestor.
    """
    found, seen = {}, set()
    trains_on = lambda name: args.domain.get(name) or read_run(name).get("domain")
    for later in args.later:
        run, ancestors = read_run(later), 0
        for anchor in (*args.experts, *args.later):
            before = read_run(anchor).get("recipe", [])
            after = run.get("recipe", [])[len(before):]
            if anchor != later and is_ancestor(anchor, run) and run.get("recipe", [])[:len(before)] == before:
                ancestors += 1
                if trains_on(anchor) in DOMAINS:
                    found.setdefault(anchor, []).append((f"{short(anchor)} -> {short(later)}", anchor, later, True))
                    seen |= {(anchor, stage(after[0])[0][0])} if len(after) == 1 and len(stage(after[0])[0]) == 1 else set()
        if not ancestors:
            raise UserError(f"--later {later} was trained from none of the checkpoints named here: its ancestors are "
                            f"{', '.join(run.get('lineage', [])) or 'unknown'}")
    for a in args.experts:
        for b in args.experts:
            if trains_on(a) in DOMAINS and trains_on(a) != trains_on(b) and (a, trains_on(b)) not in seen:
                found.setdefault(a, []).append((f"{short(a)} + {short(b)}", args.base, b, False))
    if args.refresh:
        damaged, moves = read_run(args.refresh)["parent"], found.setdefault(args.refreshed, [])
        known = [target for _, _, target, _ in moves]
        if same_place(damaged, known) not in known:
            moves.append((f"{short(args.refreshed)} -> {short(damaged)}", args.refreshed, damaged, True))
    return found


def around(args, judge, anchor, moves, report):
    """Damage (6), conflict subspace (7), refresh (8) around one checkpoint, added to `report` in nats, points and shares.

    anchor: theta_A's directory; moves: its entry of `displacements`. All that needs the Hessian comes first, as it belongs
    to the weights as they are.
    """
    domain = args.domain.get(anchor) or read_run(anchor).get("domain")
    model, tokenizer = load(anchor, args.device, torch.float32, attention="eager")
    rows = rows_of(args, domain, args.prompts)
    settings = {"samples": args.samples, "temperature": 1.0, "max_completion_length": args.max_completion_length,
                "judge": judge}
    rollout, _, rewards = respond(model, tokenizer, domain, rows, **settings)
    correct, scored = curvature.own_correct(rollout, rewards.flatten()), curvature.own_all(rollout, rewards)
    if not correct:
        return print(f"{short(anchor)}: of its {rewards.numel()} completions in {domain} none is correct: no loss to look at\n")
    theta = curvature.flatten(model.parameters()).detach().clone()
    start, n = curvature.value(model, curvature.nll, correct), len(theta)
    vector = lambda name: curvature.flatten(load(name, args.device, torch.float32)[0].parameters()).detach()
    starts = {name: theta if name == anchor else vector(name) for name in {move[1] for move in moves}}
    deltas = {move: vector(move[2]) - starts[move[1]] for move in moves}
    for move in [move for move, delta in deltas.items() if not delta.any()]:
        print(f"{move[0]}: nothing has moved, so nothing is damaged\n")
        del deltas[move]
    moves, deltas = list(deltas), list(deltas.values())

    # 7. the leading curvature of L_A, and what of each displacement lies in it
    g, hv = (f(model, curvature.nll, correct) for f in (curvature.gradient, curvature.hessian))
    values, vectors, residuals = curvature.lanczos(hv, n, min(args.directions, n), device=model.device,
                                                   progress=f"curvature of {short(anchor)}")
    curved = curvature.steep(values, residuals)
    S, k = vectors[curved], len(values)
    gram = curvature.inner(vectors, vectors)                                                      # (k, k)
    report.setdefault("subspace", {})[anchor] = spectrum = {
        "eigenvalues": values.tolist(), "residuals": residuals.tolist(), "trace": curvature.trace(hv, n, device=model.device),
        "orthonormality": (gram - torch.eye(k, device=gram.device)).abs().max().item(), "gradient_norm": g.norm().item()}
    terms = []
    for delta in deltas:
        second = curvature.quadratic(hv, delta)
        whole = second if second > 0 else math.nan  # of a second-order gain nothing is a share
        shares = curvature.eigen_shares(values, vectors, delta, whole)
        terms.append({"first": torch.dot(g.double(), delta.double()).item(), "second": second, "norm": delta.norm().item(),
                      "eigen_shares": shares, "k_for_50": curvature.needed(shares, 0.5), "k_for_90": curvature.needed(shares, 0.9),
                      "coordinate_share": curvature.coordinate_share(hv, delta, whole, k),
                      "random_share": curvature.random_share(k, n, spectrum["trace"], delta, whole),
                      "norm_share": curvature.inner(vectors, delta).square().sum().item() / delta.double().square().sum().item()})
    del hv                                          # and with it the graph that it keeps
    if scored:                                      # some prompt has better and worse answers
        gs, hs = (f(model, curvature.surrogate, scored) for f in (curvature.gradient, curvature.hessian))
    for t, delta in zip(terms, deltas):
        t |= {"surrogate_first": torch.dot(gs.double(), delta.double()).item() if scored else math.nan,
              "surrogate_second": curvature.quadratic(hs, delta) if scored else math.nan}
    hs = None

    # 6. what happened, and how far the quadratic model sees
    reward_loss = curvature.value(model, curvature.surrogate, scored)
    bar = lambda items, words: tqdm(list(items), desc=f"{words} {short(anchor)}", leave=False, delay=3)
    for t, delta, (name, _, target, trained) in bar(zip(terms, deltas, moves), "damage of"):
        measured = curvature.along(model, curvature.nll, correct, theta, delta, TIMES)
        curvature.place(model, theta + delta)
        _, _, after = respond(model, tokenizer, domain, rows, **settings)
        t |= {"name": name, "anchor": anchor, "domain": domain, "checkpoint": target, "trained": trained,
              "lr": read_run(target).get("args", {}).get("lr"), "measured": measured[-1],
              "remainder": measured[-1] - t["first"] - t["second"], "times": TIMES, "along": measured,
              "reach": curvature.reach(TIMES, measured, t["first"], t["second"]),
              "surrogate": curvature.value(model, curvature.surrogate, scored) - reward_loss if scored else math.nan}
        t["points"], t["points_ci95"] = mean_ci(100 * (after - rewards).nanmean(1))  # prompt by prompt
        report.setdefault("damage", []).append(t)

    # 8. the refresh: from theta_A + delta_B, by the steps it took, and by the theorem's own
    if args.refresh and anchor == args.refreshed and curved.any():
        damaged = vector(read_run(args.refresh)["parent"])
        mu, alpha = values[curved][-1].item(), 1 / values[0].item()
        shift = curvature.bottom(values[curved], S, g)
        kept = sorted(Path(args.refresh).glob("step-*"))
        steps = ((int(step.name.removeprefix("step-")), vector(str(step))) for step in kept)
        paths = {"taken": chain([(0, damaged)], steps),     # both as they go, as a path is many copies of a model
                 "theorem": enumerate(curvature.descend(model, curvature.nll, correct, damaged, alpha, DESCENT))}
        report["refresh"] = {"checkpoint": args.refresh, "anchor": anchor, "domain": domain, "mu": mu, "alpha": alpha,
                             "shift": shift.norm().item()}
        for name, path in paths.items():
            r = report["refresh"][name] = {key: [] for key in ("step", "in_anchor", "in_minimum", "outside", "damage")}
            length = (len(kept) if name == "taken" else DESCENT) + 1
            for step, point in tqdm(path, total=length, desc=f"refresh of {short(anchor)}, {name}", leave=False, delay=3):
                inside, outside = curvature.distances(point, theta, S)
                curvature.place(model, point)
                for key, number in zip(r, (step, inside, curvature.distances(point, theta + shift, S)[0], outside,
                                           curvature.value(model, curvature.nll, correct) - start)):
                    r[key].append(number)
        report["refresh"]["theorem"]["bound"] = [(1 - alpha * mu)**t for t in range(DESCENT + 1)]  # times the first distance


def damage_tables(report):
    """Print 6 and 7 from what `around` found."""
    print("6. Damage: change of L_A (nats per correct completion of A's own) by delta_B, and its expansion; reach: the t up to "
          "which this is\n   right to 20 % of |g.d| + |d'Hd / 2|; change of minus the expected reward, by its own quadratic and by "
          "importance weights; of the score")
    signed = lambda x: f"{x:+.4f}"
    show([[d["name"], f"{d['lr'] or math.nan:.0e}", f"{d['norm']:.2f}",
           *(signed(d[key]) for key in ("first", "second", "measured", "remainder")), f"{d['reach']:.2f}",
           signed(d["surrogate_first"] + d["surrogate_second"]), signed(d["surrogate"]),
           f"{d['points']:+.1f} ± {d['points_ci95']:.1f}"]
          for d in report["damage"]],
         ["A -> B, or A + B's edit", "lr", "norm", "g.d", "d'Hd / 2", "measured", "remainder", "reach", "reward predicted",
          "weighted", "points"])
    print("7. Conflict subspace (ours: leading eigenvectors of H_A, the same for every B), by Lanczos")
    K = len(next(iter(report["subspace"].values()))["eigenvalues"])
    show([[short(a), f"{s['eigenvalues'][0]:.1f}", f"{s['eigenvalues'][-1]:.2f}", f"{s['trace']:.0f}",
           f"{s['orthonormality']:.0e}", f"{max(r / abs(v) for r, v in zip(s['residuals'], s['eigenvalues'])):.0e}"]
          for a, s in report["subspace"].items()],
         ["A", "largest", f"number {K}", "trace", "V'V - 1, largest", "Hv - lv over l, worst"])
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < K] + [K]
    print(f"Share of the second-order damage in the first k of them; in {K} random directions; in the {K} largest coordinates;\n"
          f"and what share of |delta_B|^2 lies in the first {K}")
    show([[d["name"], *(f"{100 * d['eigen_shares'][k - 1]:.0f} %" for k in ks), f"{100 * d['random_share']:.1g} %",
           f"{100 * d['coordinate_share']:.1g} %", f"{100 * d['norm_share']:.2g} %",
           *(str(d[key] or f"> {K}") for key in ("k_for_50", "k_for_90"))] for d in report["damage"]],
         ["A -> B, or A + B's edit", *(f"k = {k}" for k in ks), "random", "largest", "of the norm^2", "k for 50 %", "k for 90 %"])


def refresh_table(r):
    """Print 8: how far the refreshed model is from theta_A, inside S and outside."""
    print(f"8. Refresh on {r['domain']} from {short(r['anchor'])} + delta_B: distance in S to theta_A, and to the least L_A in S, "
          f"\n   {r['shift']:.3f} from it; distance outside S; L_A - L_A(theta_A).\n"
          "   As taken: AdamW, whose steps have one size in every coordinate, along sampled GRPO gradients: no single alpha.\n"
          f"   As in the theorem: gradient descent on L_A, alpha = 1 / lambda_1 = {r['alpha']:.2g}, mu = {r['mu']:.3g}, the least "
          "curvature in S.")
    rows = []
    for name in ("taken", "theorem"):
        p = r[name]
        for t, step in enumerate(p["step"]):
            bounds = [f"{p['bound'][t] * p[key][0]:.4f}" if name == "theorem" else "-" for key in ("in_anchor", "in_minimum")]
            if name == "taken" or step % 10 == 0:
                rows.append([f"{name} {step}", f"{p['in_anchor'][t]:.4f}", f"{p['in_minimum'][t]:.4f}", *bounds,
                             f"{p['outside'][t]:.4f}", f"{p['damage'][t]:+.4f}"])
    show(rows, ["step", "in S, to theta_A", "to the least L_A", "bound", "bound", "outside S", "damage left"])


def main():
    """Measure, print the tables and the claims, write --json and --plot."""
    args = parse()
    moved = displacements(args)                     # now: what is wrong with --later shows before the work
    report = {"base": args.base, "experts": args.experts, "domains": args.domain}
    neurons = weights(args, report)
    domains = [d for d in dict.fromkeys(args.domain.values()) if d in DOMAINS]
    without = [name for name in (args.base, *args.experts) if not any(Path(name).glob("tokenizer*"))]
    if args.weights_only or without or not domains:
        why = "--weights-only" if args.weights_only else f"{without[0]} carries no tokenizer" if without else \
            "no run.json says which domain an expert was trained on (--domains would)"
        print(f"Routes, gradients, damage, subspace and refresh need rows and are left out: {why}\n")
    else:
        judge = cw_judge(args.judge, domains, args.device)
        if len(domains) > 1:
            routes_and_gradients(args, judge, domains, neurons, report)
        else:
            print(f"4, 5. Routes and gradients compare domains, and here is {domains[0]} alone\n")
        for anchor, moves in moved.items():
            around(args, judge, anchor, moves, report)
        if "damage" in report:
            damage_tables(report)
        elif not moved:
            print("6 to 8. No displacement from an expert: name a second one, or --later checkpoints\n")
        if "refresh" in report:
            refresh_table(report["refresh"])
    report["claims"] = claims(report)
    if args.json:
        write_json(args.json, report)
    show_claims(report["claims"])
    if args.plot:
        plot(args.plot, report)


if __name__ == "__main__":
    cli(main)
