"""Analyze: what the paper says about edits, routes, gradients, damage and refresh, measured on checkpoints.

    python analyze.py --base checkpoints/base checkpoints/math checkpoints/code checkpoints/qa checkpoints/cw
    python analyze.py --base checkpoints/base checkpoints/s0-{math,code,qa,cw} --later checkpoints/s0-math-{code,qa,cw} \\
        checkpoints/s0-code-math --refresh checkpoints/s0-refreshed --json analysis-s0.json --plot pictures
    python analyze.py --base some/model another/model             # weights alone: any two models of one architecture

The claims stand in the order of arXiv 2606.02398. From the weights alone, with A's edit delta_A = theta_A - theta_base:

    1  it is sparse         share of |delta_i| < 1e-7 and < 1e-3 |theta_i|; norms               edits.sparsity
                            rank (sum s^2)^2 / sum s^4, s the singular values of a matrix       edits.effective_ranks
    2  in neurons of        |T_A and T_B| / |T_A or T_B| beside that of random sets,            routes.overlap
       its own              T_A the neurons that A's edit changed most, of all or of each       edits.neuron_grams
                            layer
    3  and directions       cos(delta_A, delta_B), of all, by module, on shared neurons;        edits.cosines
                            || min(0, delta_A delta_B) ||, cos(u, u + v), u and v the two       edits.conflict
                            edits on the neurons that A's changed most in each layer            edits.direction_kept

From the base model, with A's policy gradient g_A at theta_base:

    4  on shared routes     the index of 2, of the neurons with the largest mean |act(gate) up| routes.activity
    5  with conflict in     cos(g_A, g_B), of all and by module, beside the highest cosine      routes.gradient_cosines
       single modules       that so many samples could show

From theta_A and the checkpoints trained after it: later training on B, which adds delta_B, changes A's loss by

    6  damage               L_A(theta_A + delta_B) - L_A(theta_A)                               curvature.along
                            = g_A . delta_B + 1/2 delta_B' H_A delta_B + higher orders          curvature.expansion

where, the paper says, the first term is small near A's optimum, and the second lies in a few directions S of high curvature
that both domains use; a refresh contracts the part of delta_B in S and leaves the rest, if L_A is curved upwards on S and
the rest of delta_B hardly acts back on S. Our S is the span of the leading eigenvectors v_i of H_A, of eigenvalues lambda_i:

    7  conflict subspace    sum_i lambda_i (v_i . delta_B)^2 / delta_B' H_A delta_B             curvature.eigen_shares
    8  refresh              || P_S (theta_t - theta_A) || <= (1 - alpha mu)^t || P_S delta_B || curvature.distances

With --later, delta_B is what training on B really added to an expert; for pairs without such a checkpoint theta_B -
theta_base stands in, as if B's edit did not depend on where it starts. The last table has the paper's claims beside the
numbers of the run; report.py makes it over several runs.
"""
# grams (E, E, M): inner products of the edits of E experts in each of M neurons; layers (M,): the layer of each neuron. A
# move (name, source, target) adds delta = theta_target - theta_source to an anchor theta_A, which is the source if target
# was trained from it. report: what --json writes, a dict; "a|b" is its key for two experts or domains.
from pathlib import Path

import domains
from grpo.settings import add_rows, at_least, check_rows, checkpoint, new_directory, new_file, parser, share
from model import UserError, cli, read_run
from theory.lineage import DIRECTIONS, ROUTE, displacements, refreshed, same, short, trained_on


def parse(argv=None):
    """The command line; UserError for what cannot be analyzed.

    In it domain is {checkpoint: domain it was trained on, or None}, moves {anchor: its moves}; with --refresh, refreshed
    is the checkpoint of theta_A, and damaged that of theta_A + delta_B, where the refresh began.
    """
    made = parser(__doc__)
    made.add_argument("experts", nargs="+", type=checkpoint, help="checkpoints, each trained from --base on one domain")
    made.add_argument("--base", required=True, type=checkpoint, help="the checkpoint that all experts started from")
    made.add_argument("--later", nargs="+", default=[], type=checkpoint, metavar="CKPT",
                      help="trained further from an expert")
    made.add_argument("--refresh", type=checkpoint, metavar="CKPT", help="made by refresh.py --keep-every 1")
    made.add_argument("--domains", help="domains of the experts, names or files, in their order (default: as trained)")
    group = made.add_argument_group("weights")
    group.add_argument("--weights-only", action="store_true", help="leave out all that needs rows")
    group.add_argument("--ranks", action="store_true", help="ranks of all matrices, and not only of those up to 256 wide: "
                       "minutes for a model of 1 GB")
    group.add_argument("--top", type=share, default=ROUTE, help="share of the neurons that counts as most changed, "
                       f"and as a route (default {ROUTE})")
    group = add_rows(made, "rows and curvature")
    group.add_argument("--prompts", type=at_least(8), default=64, help="prompts per domain, at least 8 (default 64), and "
                       "twice as many, with twice the samples, at the base")
    group.add_argument("--samples", type=at_least(1), default=4, help="completions per prompt (default 4)")
    group.add_argument("--directions", type=at_least(1), default=DIRECTIONS, help="eigenvectors that span the conflict "
                       f"subspace S; memory: three times as many copies of the parameters (default {DIRECTIONS})")
    group = made.add_argument_group("output")
    group.add_argument("--json", type=new_file, metavar="FILE", help="write every number")
    group.add_argument("--plot", type=new_directory, metavar="DIR", help="draw damage and refresh there (needs matplotlib)")
    args = made.parse_args(argv)
    names = [args.base, *args.experts, *args.later]
    if twice := [name for i, name in enumerate(names) if any(same(name, other) for other in names[:i])]:
        raise UserError(f"{twice[0]} is named twice")
    words = args.domains.split(",") if args.domains else []
    if words and len(words) != len(args.experts):
        raise UserError(f"--domains names {len(words)} domains for {len(args.experts)} experts")
    given = dict(zip(args.experts, map(domains.use, words)))
    args.domain = {name: given.get(name) or trained_on(name) for name in names[1:]}
    for name in args.experts:
        if not (args.domain[name] or args.weights_only) and read_run(name).get("domain") in domains.recorded:
            domains.use(read_run(name)["domain"])   # fails, and says which file --domains has to name
    args.moves = displacements(args.base, args.experts, args.later, args.domain)
    if args.refresh:
        anchor, args.damaged = refreshed(args.refresh)
        args.refreshed = next((name for name in args.domain if same(name, anchor)), anchor)
        args.domain.setdefault(args.refreshed, trained_on(anchor))
        moves = args.moves.setdefault(args.refreshed, [])
        if not any(same(target, args.damaged) for _, _, target in moves):
            moves.append((f"{short(anchor)} -> {short(args.damaged)}", args.refreshed, args.damaged))
    args.data = domains.sources(args.data, [*dict.fromkeys([*domains.DOMAINS, *filter(None, args.domain.values())])])
    check_rows(args, args.domain.values())
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

import math
from functools import partial
from itertools import chain, combinations, permutations
from types import SimpleNamespace

import torch
from tqdm import tqdm

from grpo.judge import set_judge
from grpo.scores import mean_ci, respond
from grpo.startup import load
from model import write_json
from reports import analysis, claims
from reports.forgetting import kl
from theory import curvature, edits
from theory.curvature import nll, surrogate
from theory.routes import activity, gradient_cosines, module_spans, overlap, policy_gradients, top_neurons

TIMES = [i / 16 for i in range(1, 17)]  # where the loss is measured on the way from theta_A to theta_A + delta_B
DESCENT = 50                            # steps of gradient descent on L_A


# ---- 1 to 3: from the weights alone --------------------------------------------------------------------------------

def of_weights(args, report):
    """Add claims 1 to 3 to the report; returns grams, or None for a model without such neurons, and layers."""
    found, experts = edits.measure(args.base, args.experts, args.ranks), list(enumerate(args.experts))
    for key, measured in (("sparsity", edits.sparsity), ("rank", edits.effective_ranks), ("energy", edits.energy)):
        report[key] = {name: measured(found, e) for e, name in experts}
    analysis.show_sizes(report)

    grams, neurons = edits.neuron_grams(found)
    layers = torch.tensor([edits.layer_of(f"{mlp}.") or 0 for mlp, _ in neurons])
    of_all, of_each = ([top_neurons(grams[e, e], args.top, by) for e, _ in experts if neurons] for by in (None, layers))
    for key, sets in (("neuron_null", of_all), ("neuron_per_layer", of_each)):          # of all neurons; of each layer
        report[key] = {f"{a}|{b}": overlap(one, other, layers)
                       for (a, one), (b, other) in combinations(zip(args.experts, sets), 2)}
    report["neuron_jaccard"] = {pair: o["jaccard"] for pair, o in report["neuron_null"].items()}
    analysis.show_neurons(report, args.top, len(layers))

    modules = {module: edits.cosines(gram) for module, gram in edits.module_grams(found).items()}         # (E, E) each
    report["cosine"] = {f"{a}|{b}": {
        "by_module": {module: cosine[i, j].item() for module, cosine in modules.items()},
        "shared_neurons": edits.cosine_on(grams, of_all[i] & of_all[j], i, j) if neurons else math.nan}
        for (i, a), (j, b) in combinations(experts, 2)}
    report["conflict"] = {f"{a}|{b}": edits.conflict(found, i, j) for (i, a), (j, b) in combinations(experts, 2)}
    report["direction_kept"] = {f"{a}|{b}": edits.direction_kept(grams, of_each[i], i, j)
                                for (i, a), (j, b) in permutations(experts, 2) if neurons}
    analysis.show_directions(report)
    return grams, layers


# ---- 4 and 5: from the base and some rows --------------------------------------------------------------------------

def answering(args, model, tokenizer, domain, times=1):
    """A function () -> Rollout, completions, rewards (B, G), sampled from the model as it then is, on training rows."""
    rows = domains.evaluation_rows(domain, args.data.get(domain), args.fields, times * args.prompts, "train")
    return partial(respond, model, tokenizer, domain, rows, samples=times * args.samples,
                   temperature=args.temperature, max_completion_length=args.max_completion_length)


def of_base(args, names, grams, layers, report):
    """Add claims 4 and 5, of the domains `names`, to the report; 4 only if the model shows its neurons."""
    model, tokenizer = load(args.base, args.device, torch.float32, attention="eager")
    answers = {domain: answering(args, model, tokenizer, domain, times=2)()[::2] for domain in names}
    active = {domain: activity(model, rollout) for domain, (rollout, _) in answers.items()}
    if all(a is not None and len(a) == len(layers) for a in active.values()):
        trained, index, cosines = [args.domain[name] for name in args.experts], {}, {}
        for a, b in combinations(names, 2):
            i, j = trained.index(a), trained.index(b)
            one, other = top_neurons(active[a], args.top), top_neurons(active[b], args.top)              # (M,) bool
            index[f"{a}|{b}"] = {**overlap(one, other, layers),
                                 "edits": report["neuron_jaccard"][f"{args.experts[i]}|{args.experts[j]}"]}
            cosines[f"{a}|{b}"] = edits.cosine_on(grams, one & other, i, j)
        report |= {"route_jaccard": index, "route_cosine": cosines}
    analysis.show_routes(report, args.top)

    each = {domain: policy_gradients(model, rollout, rewards) for domain, (rollout, rewards) in answers.items()}
    report["gradient_cosine"] = gradient_cosines(each, module_spans(model))
    analysis.show_gradients(report)


# ---- 6 to 8: around each expert ------------------------------------------------------------------------------------

def stand_at(args, name):
    """A checkpoint, loaded, with its own answers to some rows of A, which make L_A: a namespace. Others move its model."""
    model, tokenizer = load(name, args.device, torch.float32, attention="eager")
    answer = answering(args, model, tokenizer, args.domain[name])
    rollout, _, rewards = answer()
    return SimpleNamespace(
        name=short(name), model=model, tokenizer=tokenizer, answer=answer, rollout=rollout, rewards=rewards,     # (B, G)
        theta=curvature.flatten(model.parameters()).detach(),                                                    # (n,) fp32
        correct=curvature.own_correct(rollout, rewards),                            # the parts of nll, maybe none
        graded=curvature.own_all(rollout, rewards))                                 # the parts of surrogate, maybe none


def vector(model, name):
    """The weights of a checkpoint, (n,) fp32, in the order and on the device of a model."""
    files = edits.tensor_files(name)[name]
    edits.check_names(model, name, files)
    tensors = (edits.read_tensor(files[parameter], parameter) for parameter, _ in model.named_parameters())
    return curvature.flatten(tensor.to(model.device, torch.float32) for tensor in tensors)


def predictors(args, at, anchor, deltas):
    """What may foretell damage without A's curvature: {target: dict}. deltas: {(name, source, target): (n,)}.

    "gradient_cosine" is cos(g_A, g_B), both policy gradients at theta_A; "reversal" is -cos(delta_A, delta_B), delta_A what
    the training on A added (arXiv 2609.06469): NaN where one is unknown. Where B was trained straight from A, "new" is B's
    domain, and the KLs between the policies at theta_A and theta_A + delta_B are added, in nats per completion.
    """
    unknown = torch.zeros_like(at.theta)
    slope = lambda parts: curvature.gradient(at.model, surrogate, parts) if parts else unknown
    start = args.base if anchor in args.experts else read_run(anchor).get("parent")
    update = at.theta - vector(at.model, start) if start and Path(start).is_dir() else unknown
    slopes, before, found = {None: unknown, args.domain[anchor]: slope(at.graded)}, {}, {}
    for (_, source, target), delta in deltas.items():
        new = args.domain.get(target)
        answer = answering(args, at.model, at.tokenizer, new) if new else None
        if new not in slopes:
            before[new], _, rewards = answer()
            slopes[new] = slope(curvature.own_all(before[new], rewards))
        found[target] = {"gradient_cosine": curvature.cosine(slopes[args.domain[anchor]], slopes[new]),
                         "reversal": -curvature.cosine(update, delta)}
        if new in before and source == anchor and same(read_run(target).get("parent") or "", anchor):
            curvature.place(at.model, at.theta + delta)
            after = answer()[0]
            found[target] |= {"new": new, "kl_new": kl(before[new], at.model), "kl_old": kl(at.rollout, at.model)}
            curvature.place(at.model, at.theta)
            found[target]["kl_new_reverse"] = kl(after, at.model)
    return found


def damage(at, deltas):
    """6. How each delta (n,) changes L_A, minus the expected reward and the score (points), and the expansions: dicts."""
    found, start = [], curvature.value(at.model, surrogate, at.graded)
    local = curvature.expansion(at.model, nll, at.correct, deltas)
    of_reward = curvature.expansion(at.model, surrogate, at.graded, deltas)
    bar = tqdm(deltas, desc=f"damage of {at.name}", leave=False, delay=3)
    for delta, (first, second), (reward_first, reward_second) in zip(bar, local, of_reward):
        measured = curvature.along(at.model, nll, at.correct, at.theta, delta, TIMES)
        curvature.place(at.model, at.theta + delta)
        points, half = mean_ci(100 * (at.answer()[2] - at.rewards).nanmean(1))                    # prompt by prompt
        weighted = curvature.value(at.model, surrogate, at.graded) - start if at.graded else math.nan
        found.append({"norm": delta.norm().item(), "first": first, "second": second, "measured": measured[-1],
                      "remainder": measured[-1] - first - second, "times": TIMES, "along": measured,
                      "reach": curvature.reach(TIMES, measured, first, second), "surrogate_first": reward_first,
                      "surrogate_second": reward_second, "surrogate": weighted, "points": points, "points_ci95": half})
    curvature.place(at.model, at.theta)
    return found


def subspace(at, directions, deltas, effects):
    """7. The leading eigenvectors of H_A. What each delta has in them is added to its effect, a dict of `damage`.

    Returns the spectrum, a dict, and those eigenvalues (k,) and eigenvectors (k, n) that are curvature.steep.
    """
    n, device, product = len(at.theta), at.model.device, curvature.hessian(at.model, nll, at.correct)
    values, vectors, residuals = curvature.lanczos(product, n, min(directions, n), device=device,
                                                   progress=f"curvature of {at.name}")
    k, curved, trace = len(values), curvature.steep(values, residuals), curvature.trace(product, n, device=device)
    for delta, effect in zip(deltas, effects):
        second = effect["second"] if effect["second"] > 0 else math.nan      # a gain has no shares
        shares = curvature.eigen_shares(values, vectors, delta, second)
        inside = curvature.inner(vectors, delta).square().sum().item()
        needed = {f"k_for_{p}": next((i for i, x in enumerate(shares, 1) if x >= p / 100), None) for p in (50, 90)}
        effect |= {"eigen_shares": shares, **needed,
                   "coordinate_share": curvature.coordinate_share(product, delta, second, k),
                   "random_share": curvature.random_share(k, n, trace, delta, second),
                   "norm_share": inside / delta.double().square().sum().item()}
    spectrum = {"eigenvalues": values.tolist(), "residuals": residuals.tolist(), "trace": trace}
    return spectrum, values[curved], vectors[curved]


def refresh(args, at, rate, values, S):
    """8. A refresh step by step, as taken and by the theorem's descent of this rate: distances, in S and outside, damage."""
    kept, damaged = sorted(Path(args.refresh).glob("step-*")), vector(at.model, args.damaged)
    steps = ((int(step.name.removeprefix("step-")), vector(at.model, step)) for step in kept)
    paths = {"taken": chain([(0, damaged)], steps),         # one point at a time: a path is many copies of a model
             "theorem": enumerate(curvature.descend(at.model, nll, at.correct, damaged, rate, DESCENT))}
    mu, start = values[-1].item(), curvature.value(at.model, nll, at.correct)
    shift = curvature.bottom(values, S, curvature.gradient(at.model, nll, at.correct))
    found = {"mu": mu, "alpha": rate, "shift": shift.norm().item()}
    for name, path in paths.items():
        rows = []
        for step, point in tqdm(path, desc=f"refresh of {at.name}, {name}", leave=False, delay=3):
            inside, outside = curvature.distances(point, at.theta, S)
            curvature.place(at.model, point)
            rows.append((step, inside, curvature.distances(point, at.theta + shift, S)[0], outside,
                         curvature.value(at.model, nll, at.correct) - start))
        found[name] = dict(zip(("step", "in_anchor", "in_minimum", "outside", "damage"), map(list, zip(*rows))))
    found["theorem"]["bound"] = [(1 - rate * mu)**t for t in range(DESCENT + 1)]                  # times the first distance
    return found


def around(args, anchor, report):
    """Add claims 6 to 8, for one anchor and its moves, to the report; print a line where there is nothing to measure."""
    at, domain, deltas = stand_at(args, anchor), args.domain[anchor], {}
    if not at.correct:
        return print(f"{at.name}: of its {at.rewards.numel()} completions in {domain} none is correct: no loss to look at\n")
    for name, source, target in args.moves[anchor]:
        delta = vector(at.model, target) - (at.theta if source == anchor else vector(at.model, source))
        if delta.any():
            deltas[name, source, target] = delta
        else:
            print(f"{name}: nothing has moved, so nothing is damaged\n")
    foretold = predictors(args, at, anchor, deltas)
    effects = damage(at, deltas.values())
    spectrum, values, S = subspace(at, args.directions, deltas.values(), effects)
    report.setdefault("subspace", {})[anchor] = spectrum
    for (name, source, target), effect in zip(deltas, effects):
        report.setdefault("damage", []).append({
            "name": name, "anchor": anchor, "domain": domain, "checkpoint": target, "trained": source == anchor,
            "lr": read_run(target).get("args", {}).get("lr"), **effect, **foretold[target]})
    if args.refresh and anchor == args.refreshed and len(values):
        found = refresh(args, at, 1 / spectrum["eigenvalues"][0], values, S)
        report["refresh"] = {"checkpoint": args.refresh, "anchor": anchor, "domain": domain, **found}


def main(args=None):
    """Measure, print the tables and the claims, write --json and --plot."""
    args = args or parse()
    report = {"base": args.base, "experts": args.experts,
              "domains": {name: args.domain[name] or read_run(name).get("domain") for name in args.experts}}
    edits.tensor_files(args.base, *args.experts, *args.later)          # fails if they are not of one architecture
    grams, layers = of_weights(args, report)
    names = [*dict.fromkeys(filter(None, map(args.domain.get, args.experts)))]
    without = [name for name in (args.base, *args.experts) if not any(Path(name).glob("tokenizer*"))]
    if args.weights_only or without or not names:
        why = "--weights-only" if args.weights_only else f"{without[0]} carries no tokenizer" if without else \
            "no run.json says which domain an expert was trained on (--domains would)"
        print(f"Routes, gradients, damage, subspace and refresh need rows and are left out: {why}\n")
    else:
        set_judge(args.judge, args.domain.values(), args.device)
        if len(names) > 1:
            of_base(args, names, grams, layers, report)
        else:
            print(f"4, 5. Routes and gradients compare domains, and {names[0]} is the only one\n")
        for anchor in args.moves:
            around(args, anchor, report)
        if not args.moves:
            print("6 to 8. No displacement from an expert: name a second one, or --later checkpoints\n")
        if "damage" in report:
            analysis.show_damage(report)
            analysis.show_subspace(report)
        if "refresh" in report:
            analysis.show_refresh(report)
    report["claims"] = claims.claims(report)
    if args.json:
        write_json(args.json, report)
    claims.tables([report])
    if args.plot:
        claims.plot(args.plot, report)


if __name__ == "__main__":
    cli(lambda: main(ARGS))
