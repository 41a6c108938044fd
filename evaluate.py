"""Evaluate checkpoints: one row per checkpoint, one column per domain, every score with its 95 % interval.

    python evaluate.py checkpoints/s0-* --json scores.json     # report.py makes its tables of this file
    python evaluate.py --compare checkpoints/base checkpoints/math --json scores.json      # B - A, prompt by prompt
    python evaluate.py --compare scores.json:checkpoints/base other.json:checkpoints/math  # as the files have them
    python evaluate.py Qwen/Qwen3-0.6B --domains math --data math=math500.jsonl --max-completion-length 2048

n held-out prompts, k sampled completions each, every one graded as in training (`domains.reward`), r in [0, 1]; the
functions on the right are those of grpo/scores.py:

    avg@k  = mean over prompts i of  m_i = mean over j of r_ij             shown times 100: summary
    ci95   = t_{0.975, n-1} * std(m_1 .. m_n) / sqrt(n)                    the prompt is the unit: mean_ci; at least
                                            `unseen`, because n scores of 0 do not show a mean of 0
    paired = the same two lines for d_i = m_i(B) - m_i(A)                  much narrower: differences, and compare below
    p      = P(|T| > |mean(d)| / se), se = std(d) / sqrt(n), T ~ t_{n-1}   two-sided paired t-test: p_value below
    pass@j = mean over prompts of  1 - C(k - c, j) / C(k, j)               c of k correct, arXiv 2107.03374: pass_at
    maj@k  = mean over prompts of the score of their most frequent answer  where answers can be equal: majority
    detectable = (t_{0.975, n-1} + t_{0.8, n-1}) * se                      the smallest true difference that 80 % of such
                                            samples show at the 5 % level, Miller, arXiv 2411.00640: detectable

Below a score, `detectable` is for a second checkpoint of equal spread on prompts of its own: sqrt(2) times that, with
the se of the m_i. On the same prompts, with --compare, less will usually do. Another line has shares of all n * k
completions, in %: cut, those that reached the limit of length; unparsable, those graded that hold no answer (see
`domains.answer`); error, those that were not graded.

Every checkpoint gets the same prompts and the same sampling noise. The interval is about new prompts and new
samples, not about another training seed: for that, train several, and see report.py.
"""
# An entry is what --json holds of a checkpoint: a `summary` per domain, "average", "evaluated" and "weights" (the rows and
# settings, and the checkpoint's content, behind it), and from its run.json "seed", "recipe", "settings" (as "training") and
# "stages" (see reports/methods.py).
import json
import math
import os
from pathlib import Path

import domains
from grpo.settings import (add_rows, at_least, check_places, check_rows, checkpoint, domain_names, new_file, parser,
                           refuse, share)
from model import UserError, cli, content, read_run, write_json, write_text


def parse(argv=None):
    """The command line, its defaults settled; UserError for what cannot be evaluated.

    In it domains is a list of names (None: those that both compared files have), data {domain: source}, and checkpoints has
    those of --compare too.
    """
    made = parser(__doc__)
    made.add_argument("checkpoints", nargs="*", type=checkpoint, help="checkpoint directories or hub names")
    made.add_argument("--compare", nargs=2, default=[], metavar=("A", "B"),
                      type=lambda text: text if ".json:" in text else checkpoint(text),
                      help="also B minus A on the same prompts: its 95 %% interval, p-value and smallest detectable "
                           "difference. Each a checkpoint, or FILE:CHECKPOINT, FILE.json written by --json: then nothing is "
                           "evaluated")
    made.add_argument("--domains", help="names, or files of your own (path/to/sort.py), with commas between them (default: "
                      f"{','.join(domains.DOMAINS)}, or those named by --data)")
    group = add_rows(made)
    group.add_argument("--held-out", action="store_true",
                       help="of --data, only the tenth that train_grpo.py keeps as the test split")
    group.add_argument("--prompts", type=at_least(1), default=200, help="prompts per domain, at most (default 200)")
    group.add_argument("--samples", type=at_least(1), help="completions per prompt, k (default 4)")
    group.add_argument("--greedy", action="store_true", help="always the most probable token, so one completion per prompt")
    group.add_argument("--top-p", type=share, default=1.0, help="nucleus sampling (default 1.0: off)")
    group.add_argument("--max-prompt-length", type=at_least(1), default=2048, help="tokens at most (default 2048)")
    group.add_argument("--seed", type=int, default=0, help="of the sampling noise (default 0)")
    group = made.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", type=new_file, help="write all numbers; checkpoints whose scores "
                       "already stand there, unchanged and with the same settings, are not evaluated again")
    group.add_argument("--samples-file", metavar="FILE", type=new_file,
                       help="write every completion with its reward, as jsonl")
    made.set_defaults(temperature=None)             # 1, or 0 of --greedy
    args = made.parse_args(argv)
    places = {}                                     # {place: its first spelling}: a, ./a and a/ are one checkpoint
    same = lambda name: name if ".json:" in name else places.setdefault(os.path.realpath(name), os.path.normpath(name))
    args.checkpoints, args.compare = list(map(same, args.checkpoints)), list(map(same, args.compare))
    args.checkpoints = list(places.values())        # those of --compare too
    refuse((not args.checkpoints and not args.compare, "name a checkpoint to evaluate, or two to --compare"),
           (not args.checkpoints and (args.json or args.samples_file),
            "name a checkpoint to evaluate: --json and --samples-file write no comparison of two files"),
           (args.greedy and (args.samples, args.temperature) != (None, None),
            "--greedy has one completion per prompt and no temperature: leave --samples and --temperature out"))
    args.samples = args.samples or (1 if args.greedy else 4)
    args.temperature = float(not args.greedy) if args.temperature is None else args.temperature
    for run in map(read_run, args.checkpoints):     # which may know the file of a domain that is asked for by its name
        if run.get("domain_files", {}).keys() & (args.domains or "").split(","):
            domains.follow(run)
    if args.checkpoints or args.domains:
        args.domains = domain_names(args.domains or ",".join(domains.DOMAINS))
    args.data = domains.sources(args.data, args.domains or domains.DOMAINS)
    if args.data:
        args.domains = [d for d in args.domains or domains.DOMAINS if d in args.data]
    check_rows(args, args.domains or ())
    refuse((args.held_out and not {*args.data.values()} - {"synthetic"}, "--held-out is a part of --data: name rows with it"))
    read = [name.partition(".json:")[0] + ".json" for name in args.compare if ".json:" in name]
    check_places({"--json": args.json, "--samples-file": args.samples_file}, [*read, *args.data.values()])
    return args


ARGS = cli(parse) if __name__ == "__main__" else None  # before PyTorch is imported: --help and mistakes answer at once

from grpo.directory import alone
from grpo.judge import set_judge
from grpo.rollout import prompt_form
from grpo.run import fingerprint
from grpo.scores import average, detectable, differences, evaluate, inside, mean_ci, t_quantile
from grpo.startup import load
from reports.methods import stages
from reports.seeds import columns, read_scores


def evaluate_all(args):
    """Evaluate the checkpoints of which --json has no scores, or old ones; print and write all scores.

    Returns {checkpoint: entry}, with those that --json already has.
    """
    set_judge(args.judge, args.domains, args.device)
    rows = {d: domains.evaluation_rows(d, args.data.get(d), args.fields, args.prompts, "test" if args.held_out or
                                       args.data.get(d) in (None, "synthetic") else "all") for d in args.domains}
    settings = {name: getattr(args, name) for name in ("samples", "temperature", "top_p", "seed", "max_prompt_length",
                                                       "max_completion_length")}
    evaluated = {**settings, "judge": args.judge, "data": {d: args.data.get(d, "synthetic") for d in args.domains},
                 "rows": {d: fingerprint(some) for d, some in rows.items()}}
    if own := {d: domains.source(d)["sha256"] for d in args.domains if d not in domains.DOMAINS}:
        evaluated["domain_files"] = own             # whose authors may still be changing their reward
    report = read_scores(args.json) if args.json and os.path.exists(args.json) else {}
    completions = []
    print(f"avg@{args.samples} x 100 +- 95 % interval; {'greedy' if args.greedy else f'temperature {args.temperature}'}; "
          + ", ".join(f"{d}: {len(some)} prompts" for d, some in rows.items()))
    width = max(len("  cut/unparsable/error %"), *map(len, args.checkpoints))
    print(f"{'':{width}}" + "".join(f"{d:>16}" for d in [*args.domains, "average"]))
    for name in args.checkpoints:
        model = None                                # not two models at once
        run, weights, entry = read_run(name), content(name), report.get(name, {})
        complete = all("unparsable" in entry.get(d, {}) for d in args.domains)  # older versions wrote less
        if args.samples_file or not complete or (entry["evaluated"], entry.get("weights")) != (evaluated, weights):
            model, tokenizer = load(name, args.device)
            if run.get("prompt") not in (None, prompt_form(tokenizer)):
                print(f"{name}: its chat template writes another prompt than in training, perhaps with another date")
            kept = []
            entry = evaluate(model, tokenizer, rows, keep=kept, **settings) | {"evaluated": evaluated, "weights": weights}
            completions += [{"checkpoint": name, **one} for one in kept]
            for other in report.values():           # comparisons with its former scores go
                other.get("compared_to", {}).pop(name, None)
        score, half = average([(entry[d]["score"], entry[d]["ci95"]) for d in args.domains])
        fewest = min(len(entry[d]["prompt_scores"]) for d in args.domains)
        report[name] = entry | {"seed": run.get("seed"), "recipe": run.get("recipe", [Path(name).name]),
                                "training": run.get("settings", []), "stages": stages(name),
                                "average": {"score": score, "ci95": half,
                                            "detectable": math.sqrt(2) * detectable(half, fewest - 1)}}
        for label, cells in lines(name, report[name], args.domains, args.samples):
            print(f"{label:{width}}" + "".join(f"{cell:>16}" for cell in cells))
        if args.json:                               # after each checkpoint: an error in the next one loses nothing
            write_json(args.json, report)
        if args.samples_file:
            write_text(args.samples_file, "".join(json.dumps(one) + "\n" for one in completions))
        if errors := sum(entry[d]["verifier_errors"] for d in args.domains):
            print(f"{'':{width}}  {errors} completions could not be graded and are left out")
        cut = max(args.domains, key=lambda d: entry[d]["truncated"])
        if entry[cut]["truncated"] > 0.2:
            print(f"{'':{width}}  {entry[cut]['truncated']:.0%} of the {cut} completions were cut off: "
                  "raise --max-completion-length")
    return report


def lines(name, entry, names, k):
    """The table's lines of a checkpoint, (label, a cell per domain of `names`): scores, maj@k, shares in %, detectable."""
    ones = [entry[d] for d in names]
    shares = [(one["truncated"], one["unparsable"], one["verifier_errors"] / (one["prompts"] * k)) for one in ones]
    return [(name, [f"{one['score']:.1f} +-{one['ci95']:4.1f}" for one in [*ones, entry["average"]]]),
            (f"  maj@{k}", [f"{one[f'maj@{k}']:.1f}" if f"maj@{k}" in one else "-" for one in ones]),
            ("  cut/unparsable/error %", ["/".join(f"{100 * part:.1f}" for part in some) for some in shares]),
            ("  detectable", [f"{one['detectable']:.1f}" for one in [*ones, entry["average"]]])]


def stored(name):
    """The entry that FILE:CHECKPOINT names."""
    file, _, checkpoint = name.partition(".json:")
    report = read_scores(file + ".json")
    if checkpoint not in report:
        raise UserError(f"{file}.json holds no scores of {checkpoint!r}: it has {', '.join(report) or 'none'}")
    return report[checkpoint]


def p_value(mean, half, dof):
    """Two-sided p-value of the t-test of a mean against 0, from the half-width of its 95 % interval; 1 for 0 +- 0."""
    if not half > 0:
        return math.nan if math.isnan(half) else float(mean == 0)
    return max(0.0, 1 - inside(abs(mean) / half * t_quantile(dof), dof))


def compare(entry, reference, names):
    """From `reference` to `entry` ({domain: summary} each) over the domains `names`: {domain or "average": dict}.

    difference, ci95 and detectable in points, p, and the number of prompts. The average's interval is that of
    `average`; its p and detectable take it for one of a t distribution of the fewest degrees of freedom among the
    domains, of which the Welch-Satterthwaite approximation has as many or more: the test errs towards finding nothing.
    UserError: see `differences`.
    """
    changes = [differences(entry[d], reference[d], d) for d in names]
    counts, line = [len(change) for change in changes], [mean_ci(change) for change in changes]
    found = {name: {"difference": mean, "ci95": half, "p": p_value(mean, half, n - 1), "prompts": n,
                    "detectable": detectable(half, n - 1)}
             for name, (mean, half), n in zip([*names, "average"], [*line, average(line)], [*counts, min(counts)])}
    found["average"]["prompts"] = sum(counts)
    return found


def print_comparison(names, entries, found):
    """Print `found`, the result of `compare` for A and B (names, entries), under a list of their unlike settings and rows."""
    a, b = (entry["evaluated"] for entry in entries)
    other = [key for key in a | b if key not in ("data", "rows") and a.get(key) != b.get(key)]
    rows = [entry.get("rows", {}) for entry in (a, b)]
    other += [f"contents of {d} rows" for d in found if d != "average" and rows[0].get(d) != rows[1].get(d)]
    print(f"\n{names[1]} minus {names[0]}, paired by prompt, points" + (f"; NOT ALIKE: {', '.join(other)}" if other else ""))
    print(f"{'':10}{'difference':>10}{'95 % interval':>20}{'p':>10}{'prompts':>10}{'detectable':>12}")
    for name, one in found.items():
        mean, half, p = one["difference"], one["ci95"], one["p"]
        print(f"{name:10}{mean:+10.1f}{f'[{mean - half:+.1f}, {mean + half:+.1f}]':>20}"
              f"{'< 0.0001' if p < 1e-4 else f'{p:.4f}':>10}{one['prompts']:10}{one['detectable']:12.1f}")


def main(args=None):
    """Print the table of scores, and with --compare that of differences; write --json and --samples-file."""
    args = args or parse()
    with alone(args.json):                          # each of two runs would write its own scores alone
        entries = {name: stored(name) for name in args.compare if ".json:" in name}     # before the long work
        report = evaluate_all(args) if args.checkpoints else {}
        if args.compare:
            a, b = args.compare
            entry, reference = (report | entries)[b], (report | entries)[a]
            both = [d for d in args.domains or columns([reference, entry]) if d in reference and d in entry]
            if not both:
                raise UserError(f"{a} and {b} have no domain in common that is asked for: evaluate both on the same domains")
            found = compare(entry, reference, both)
            print_comparison(args.compare, (reference, entry), found)
            if args.json and b in report:
                report[b].setdefault("compared_to", {})[a] = found
                write_json(args.json, report)


if __name__ == "__main__":
    cli(lambda: main(ARGS))
