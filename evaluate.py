"""Evaluate checkpoints: one row per checkpoint, one column per domain, every score with its 95 % interval.

    python evaluate.py checkpoints/s0-* --json scores.json     # what interference.py makes its tables of
    python evaluate.py --compare checkpoints/base checkpoints/math --json scores.json      # B - A, prompt by prompt
    python evaluate.py --compare scores.json:checkpoints/base other.json:checkpoints/math  # as the files have them
    python evaluate.py Qwen/Qwen3-0.6B --domains math --data math=math500.jsonl --max-completion-length 2048

n held-out prompts, k sampled completions each, every one graded by `domains.reward` as in training, r in [0, 1]:

    avg@k  = mean over prompts i of  m_i = mean over j of r_ij             shown times 100
    ci95   = t_{0.975, n-1} * std(m_1 .. m_n) / sqrt(n)                    the prompt is the unit (clustered)
    paired = the same two lines for d_i = m_i(B) - m_i(A)                  much narrower, as prompts vary most
    p      = P(|T| > |mean(d)| / se), se = std(d) / sqrt(n), T ~ t_{n-1}   two-sided paired t-test
    pass@j = mean over prompts of  1 - C(k - c, j) / C(k, j)               unbiased, c of k correct (arXiv 2107.03374)
    maj@k  = mean over prompts of the score of their most frequent answer  math and qa, see `majority` (arXiv 2203.11171)
    detectable = (t_{0.975, n-1} + t_{0.8, n-1}) * se                      the smallest true difference that 80 % of such
                                    samples show at the 5 % level (Miller, arXiv 2411.00640, eq. for n; here t in place of z)

Below a score, `detectable` is for a second checkpoint of equal spread on prompts of its own: sqrt(2) times that, with
the se of the m_i. On the same prompts, with --compare, less will usually do. Of all n * k completions, in %: cut,
those that reached the limit of length; unparsable, those graded that hold no answer (see `domains.answer`); error,
those that were not graded.

Every checkpoint gets the same prompts and the same sampling noise. The interval is about new prompts and new
samples, not about another training seed: for that, train several, and see interference.py.
"""
import argparse
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch

import domains
from grpo import ranks
from reports.intervals import average, compare, detectable, mean_ci, pass_at
from domains.judge import cw_judge, rubric
from model import (BASE, UserError, check_directory, check_writable, cli, end_ids, load, nan_for_null, read_run, write_json,
                   write_text)
from grpo.resume import alone, fingerprint, weights_on_disk
from grpo.rollout import decode, encode, sample, uniform_noise
from domains.rows import evaluation_rows, sources


def sample_and_grade(model, tokenizer, batch, *, group_size, noise, temperature, top_p, max_prompt_length, judge,
                     progress=None, overlap=None):
    """Sample group_size completions of each prompt and grade each with the row of its own prompt, by that row's domain.

    batch: B (domain, row) pairs. noise: (N, T) in [0, 1), N = B * group_size, whose width is the limit of length; see
    rollout.sample, also for temperature, top_p and progress (the title of a bar). judge: see domains.reward. Returns a
    Rollout, its completions (N texts), rewards (N,) fp64 with NaN where grading failed, and the seconds spent on grading
    after the last token. UserError if a prompt has more than max_prompt_length tokens.

    overlap: run programs while others are still being sampled. Default: where a GPU samples, as the processors are idle
    then; where they sample themselves it was slower. The other rewards take a millisecond, or a judge that wants the
    device for itself. A reward does not depend on the company that a completion is graded in. Every program has a
    deadline (sandbox.py), and so the wait for them has one.
    """
    prompts = encode(tokenizer, [domains.prompt(domain, row) for domain, row in batch], max_prompt_length)
    owner = [pair for pair in batch for _ in range(group_size)]                                # (N,) pairs
    completions, rewards = [""] * len(owner), torch.full((len(owner),), math.nan, dtype=torch.float64)
    arrivals = SimpleQueue()                        # (rows, ids, mask) of finished completions; None behind the last

    def score(domain, own):
        rewards[own] = torch.tensor(domains.reward(domain, [completions[n] for n in own], [owner[n][1] for n in own], judge),
                                    dtype=torch.float64)

    def run_programs():
        more = True
        while more:
            waiting = [arrivals.get()]
            while not arrivals.empty():             # all that came while the last ones ran: starting the sandbox takes time
                waiting.append(arrivals.get())
            more = waiting[-1] is not None
            own = []
            for rows, ids, mask in filter(None, waiting):
                for n, text in zip(rows.tolist(), decode(tokenizer, ids, mask)):
                    completions[n] = text
                    own += [n] if owner[n][0] == "code" else []
            if own:
                score("code", own)

    overlap = model.device.type != "cpu" if overlap is None else overlap
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_programs)
        try:
            rollout = sample(model, prompts, group_size=group_size, noise=noise, temperature=temperature, top_p=top_p,
                             stop_ids=end_ids(model, tokenizer), pad_id=tokenizer.pad_token_id, progress=progress,
                             finished=(lambda *leaving: arrivals.put(leaving)) if overlap else None)
            if not overlap:
                arrivals.put((torch.arange(len(owner)), rollout.ids, rollout.mask))
        finally:
            arrivals.put(None)
        sampled = time.perf_counter()
        running.result()
    for domain in dict.fromkeys(domain for domain, _ in batch if domain != "code"):
        score(domain, [n for n, (other, _) in enumerate(owner) if other == domain])
    return rollout, completions, rewards, time.perf_counter() - sampled


def respond(model, tokenizer, domain, rows, *, samples, temperature, top_p=1.0, max_prompt_length=2048,
            max_completion_length=64, seed=0, judge=rubric):
    """Sample and grade completions of n rows of a domain: a Rollout, its completions (N texts) and rewards (n, k) fp64.

    samples: k, so that N = n k. temperature 0 is greedy; lengths are in tokens; for the others see sample_and_grade.
    A reward is NaN where grading failed. The sampling noise is a function of (seed, row id), so it is the same for every
    checkpoint and for any choice of the other rows; no global random state is read or changed.
    """
    noise = torch.cat([uniform_noise(samples, max_completion_length, seed, "evaluate", row["id"]) for row in rows])
    rollout, completions, rewards, _ = sample_and_grade(
        model, tokenizer, [(domain, row) for row in rows], group_size=samples, noise=noise, temperature=temperature,
        top_p=top_p, max_prompt_length=max_prompt_length, judge=judge, progress=f"evaluate {domain}")
    return rollout, completions, rewards.view(-1, samples)


def grade(model, tokenizer, domain, rows, *, samples, **settings):
    """Sample and score `samples` completions of each row: the one function behind every score in this repository.

    settings: those of `respond`. Returns rewards (n, k) fp64 with NaN where grading failed, completions (n lists of k
    texts) and truncated (n, k) bool. Under torchrun the rows are shared out, and every rank gets all results.
    """
    mine, parts = rows[ranks.share(len(rows))], []
    if mine:
        rollout, completions, rewards = respond(model, tokenizer, domain, mine, samples=samples, **settings)
        parts = [(rewards, completions, ~rollout.stopped.cpu().view(-1, samples))]
    rewards, completions, truncated = zip(*sum(ranks.everyone(parts), []))
    completions = sum(completions, [])
    return (torch.cat(rewards), [completions[i:i + samples] for i in range(0, len(completions), samples)],
            torch.cat(truncated))


def majority(domain, answers, rewards):
    """Score in [0, 1] of the answer that most of k completions give; domain: one of domains.FINAL_ANSWER.

    answers: k texts, None for one that doesn't vote; rewards: k floats, NaN for one that doesn't either. An answer
    joins the first one that it equals. Of tied answers the mean score, which is that of a tie broken at random. 0 if none
    votes, NaN if none was graded.
    """
    if all(math.isnan(reward) for reward in rewards):
        return math.nan
    camps = {}                                      # first answer: the rewards of all who gave it
    for answer, reward in zip(answers, rewards):
        if answer is not None and not math.isnan(reward):
            first = next((one for one in camps if domains.same_answer(domain, one, answer)), answer)
            camps.setdefault(first, []).append(reward)
    most = max(map(len, camps.values()), default=0)
    tied = [sum(camp) / most for camp in camps.values() if len(camp) == most]
    return sum(tied) / len(tied) if tied else 0.0


def summary(rewards, truncated, ids, domain, answers):
    """Scores of one domain as a dict, in points (0-100), and shares of completions, truncated and unparsable (0-1).

    rewards (n, k) with NaN, truncated (n, k) bool, n row ids, answers (n lists of k, see `domains.answer`). Rows of which
    no completion could be graded have no score in prompt_scores; their ids are in `ungraded`.
    """
    means = 100 * rewards.nanmean(1)                                                          # (n,)
    score, half = mean_ci(means)
    n, k = rewards.shape
    over_prompts = lambda values: 100 * mean_ci(torch.tensor(values, dtype=torch.float64))[0]
    graded = [row[~row.isnan()] for row in rewards]
    at = {f"pass@{j}": over_prompts([pass_at(j, int((r == 1).sum()), len(r)) for r in graded if len(r) >= j])
          for j in sorted({1, 2, 4, 8, 16, k}) if j <= k}
    if domain in domains.FINAL_ANSWER:
        at[f"maj@{k}"] = over_prompts([majority(domain, *row) for row in zip(answers, rewards.tolist())])
    nothing = torch.tensor([[answer is None for answer in row] for row in answers])
    scored = {id: mean for id, mean in zip(ids, means.tolist()) if mean == mean}
    return {"score": score, "ci95": half, "detectable": math.sqrt(2) * detectable(half, len(scored) - 1), "prompts": n,
            "samples": k, **at, "truncated": truncated.double().mean().item(),
            "unparsable": (nothing & ~rewards.isnan()).double().mean().item(),
            "verifier_errors": int(rewards.isnan().sum()), "prompt_scores": scored,
            "ungraded": [id for id in ids if id not in scored]}


def evaluate(model, tokenizer, rows, *, keep=None, **settings):
    """Grade one model in several domains: {domain: summary}. rows: {domain: rows}; settings: those of `grade`.

    keep: a list that gets a dict per completion (domain, row id, text, reward).
    """
    scores = {}
    for domain, some in rows.items():
        rewards, completions, truncated = grade(model, tokenizer, domain, some, **settings)
        answers = [[domains.answer(domain, text, row) for text in texts] for row, texts in zip(some, completions)]
        scores[domain] = summary(rewards, truncated, [row["id"] for row in some], domain, answers)
        if keep is not None:
            keep += [{"domain": domain, "id": row["id"], "completion": text, "reward": reward}
                     for row, texts, given in zip(some, completions, rewards.tolist())
                     for text, reward in zip(texts, given)]
    return scores


def parse():
    """The command line; UserError for what cannot be evaluated, before a model is loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="checkpoint directories or hub names")
    parser.add_argument("--compare", nargs=2, default=[], metavar=("A", "B"), help="also B minus A on the same prompts: its "
                        "95 %% interval, p-value and smallest detectable difference. Each a checkpoint, or FILE:CHECKPOINT, "
                        "FILE.json written by --json: then nothing is evaluated")
    group = parser.add_argument_group("rows")
    group.add_argument("--domains", default=",".join(domains.DOMAINS), help="comma-separated (default: all four)")
    group.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE",
                       help="real rows for a domain: a .jsonl/.json/.parquet/.csv file, a hub name, or `hub` for the "
                            "paper's set; then only the domains named here are evaluated (default: synthetic rows in all)")
    group.add_argument("--held-out", action="store_true",
                       help="of --data, only the tenth that train_grpo.py keeps as the test split")
    group.add_argument("--fields", default="", help="field names of --data, as question=NAME,answer=NAME")
    group.add_argument("--prompts", type=int, default=200, help="prompts per domain, at most (default 200)")
    group = parser.add_argument_group("sampling")
    group.add_argument("--samples", type=int, default=None, help="completions per prompt, k (default 4)")
    group.add_argument("--greedy", action="store_true", help="most probable token always, so one completion per prompt")
    group.add_argument("--temperature", type=float, default=None, help="(default 1.0)")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default 1.0: off)")
    group.add_argument("--max-prompt-length", type=int, default=2048, help="tokens (default 2048)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    group.add_argument("--seed", type=int, default=0, help="of the sampling noise (default 0)")
    group.add_argument("--judge", default=None, help="model that judges cw: a directory or hub name (default: rubric)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write all numbers; what stands there of checkpoints that have "
                       "not changed, with the same settings, is not evaluated again")
    group.add_argument("--samples-file", metavar="FILE", help="write every completion with its reward, as jsonl")
    args = parser.parse_args()
    args.domains = args.domains.split(",")
    for domain in args.domains:
        domains.check_domain(domain)
    args.data = sources(args.data, args.domains)
    if args.greedy and (args.samples, args.temperature) != (None, None):
        raise UserError("--greedy has one completion per prompt and no temperature: leave --samples and --temperature out")
    args.samples = args.samples if args.samples is not None else 1 if args.greedy else 4
    args.temperature = args.temperature if args.temperature is not None else 0.0 if args.greedy else 1.0
    for name in ("prompts", "samples", "max_prompt_length", "max_completion_length"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        raise UserError("--temperature must be 0 or more, and --top-p must lie in (0, 1]")
    for names in (args.domains, args.checkpoints):
        if len(set(names)) < len(names):
            raise UserError(f"named twice: {next(name for name in names if names.count(name) > 1)}")
    args.checkpoints = [*dict.fromkeys([*args.checkpoints, *(name for name in args.compare if ".json:" not in name)])]
    if not args.checkpoints and (not args.compare or args.json or args.samples_file):
        raise UserError("name a checkpoint to evaluate" + (": --json and --samples-file write no comparison of two files"
                                                           if args.compare else ", or two to --compare"))
    for name in args.checkpoints:
        if name != BASE:
            check_directory(name)
    check_writable(args.json)
    check_writable(args.samples_file)
    read = [name.partition(".json:")[0] + ".json" for name in args.compare if ".json:" in name] + [*args.data.values()]
    for file in filter(None, (args.json, args.samples_file)):
        if os.path.realpath(file) in map(os.path.realpath, [*read, *([args.json] if file == args.samples_file else [])]):
            raise UserError(f"{file} is read or written by another option: choose another file")
    if args.data:
        args.domains = [domain for domain in args.domains if domain in args.data]
    return args


def read_scores(file):
    """What a run of this script wrote with --json: {checkpoint: entry}; UserError if the file holds something else."""
    try:
        report = {name: entry | {key: nan_for_null(value) for key, value in entry.items() if key in domains.DOMAINS}
                  for name, entry in json.loads(Path(file).read_text()).items()}
        summaries = [entry[d] for entry in report.values() for d in domains.DOMAINS if d in entry]
        sound = all(isinstance(entry["evaluated"], dict) and isinstance(entry["recipe"], list) and "seed" in entry
                    for entry in report.values())
        sound &= all(isinstance(one["prompt_scores"], dict) and {"score", "ci95"} <= one.keys() for one in summaries)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        sound = False
    if not sound:
        raise UserError(f"{file} holds no scores of evaluate.py --json: name another file")
    return report


def stored(name):
    """The entry that FILE:CHECKPOINT names."""
    file, _, checkpoint = name.partition(".json:")
    report = read_scores(file + ".json")
    if checkpoint not in report:
        raise UserError(f"{file}.json holds no scores of {checkpoint!r}: it has {', '.join(report) or 'none'}")
    return report[checkpoint]


def evaluate_all(args):
    """Evaluate what --json does not have as it is now; print and write the scores. args: of `parse`.

    Returns {checkpoint: entry}, of all that --json has too. An entry has a `summary` per domain, "average", "evaluated" and
    "weights" (what the scores belong to), and of run.json "seed", "recipe" and, as "training", "settings".
    """
    judge = cw_judge(args.judge, args.domains, args.device)
    rows = {d: evaluation_rows(d, args.data.get(d), args.fields, args.prompts,
                               "test" if args.held_out or args.data.get(d) in (None, "synthetic") else "all")
            for d in args.domains}
    settings = {"samples": args.samples, "temperature": args.temperature, "top_p": args.top_p, "seed": args.seed,
                "max_prompt_length": args.max_prompt_length, "max_completion_length": args.max_completion_length}
    report = read_scores(args.json) if args.json and Path(args.json).exists() else {}
    completions = []
    print(f"avg@{args.samples} x 100 +- 95 % interval; {'greedy' if args.greedy else f'temperature {args.temperature}'}; "
          + ", ".join(f"{d}: {len(r)} prompts" for d, r in rows.items()))
    width = max(len("  cut/unparsable/error %"), *map(len, args.checkpoints))
    print(f"{'':{width}}" + "".join(f"{d:>16}" for d in [*args.domains, "average"]))
    for name in args.checkpoints:
        model = None                                # not two models at once
        evaluated = {**settings, "judge": args.judge, "data": {d: args.data.get(d, "synthetic") for d in args.domains},
                     "rows": {d: fingerprint(r) for d, r in rows.items()}}
        weights = weights_on_disk(name)
        known = report.get(name, {})
        complete = all("unparsable" in known.get(d, {}) for d in args.domains)  # older versions wrote less
        if args.samples_file or not complete or (known["evaluated"], known.get("weights")) != (evaluated, weights):
            model, tokenizer = load(name, args.device)
            # before the long work: a run that saves meanwhile has other weights than those graded here
            weights, kept = weights if weights[0] else weights_on_disk(name), []
            known = evaluate(model, tokenizer, rows, judge=judge, keep=kept, **settings)
            known |= {"evaluated": evaluated, "weights": weights}
            completions += [{"checkpoint": name, **one} for one in kept]
            for other in report.values():           # what was compared with its former scores
                other.get("compared_to", {}).pop(name, None)
        run = read_run(name)
        known |= {"seed": run.get("seed"), "recipe": run.get("recipe", [Path(name).name]),
                  "training": run.get("settings", [])}
        line = [(known[d]["score"], known[d]["ci95"]) for d in args.domains]
        line.append(average(line))
        fewest = min(len(known[d]["prompt_scores"]) for d in args.domains)
        known["average"] = dict(zip(("score", "ci95"), line[-1])) | {
            "detectable": math.sqrt(2) * detectable(line[-1][1], fewest - 1)}
        print(f"{name:{width}}" + "".join(f"{score:9.1f} +-{half:4.1f}" for score, half in line))
        for label, cells in details(known, args.domains, args.samples):
            print(f"{label:{width}}" + "".join(f"{cell:>16}" for cell in cells))
        report[name] = known
        if args.json:                               # after each checkpoint: an error in the next one loses nothing
            write_json(args.json, report)
        if args.samples_file:
            write_text(args.samples_file, "".join(json.dumps(one) + "\n" for one in completions))
        errors = sum(known[d]["verifier_errors"] for d in args.domains)
        if errors:
            print(f"{'':{width}}  {errors} completions could not be graded and are left out")
        cut = max(args.domains, key=lambda d: known[d]["truncated"])
        if known[cut]["truncated"] > 0.2:
            print(f"{'':{width}}  {known[cut]['truncated']:.0%} of the {cut} completions were cut off: "
                  "raise --max-completion-length")
    return report


def details(entry, names, k):
    """What stands below a checkpoint's row: (label, a cell per domain) of maj@k, shares of completions, detectable.

    entry: of evaluate_all; names: domains.
    """
    ones = [entry[d] for d in names]
    shares = [(one["truncated"], one["unparsable"], one["verifier_errors"] / (one["prompts"] * k)) for one in ones]
    return [(f"  maj@{k}", [f"{one[f'maj@{k}']:.1f}" if f"maj@{k}" in one else "-" for one in ones]),
            ("  cut/unparsable/error %", ["/".join(f"{100 * share:.1f}" for share in some) for some in shares]),
            ("  detectable", [f"{one['detectable']:.1f}" for one in [*ones, entry["average"]]])]


def print_comparison(names, entries, found):
    """Print the table of intervals.compare, `found`; above it, what else than the checkpoint differs between the two.

    names, entries: of A and B.
    """
    a, b = (entry["evaluated"] for entry in entries)
    other = [key for key in a | b if key not in ("data", "rows") and a.get(key) != b.get(key)]
    other += [f"contents of {d} rows" for d in found if d != "average" and a.get("rows", {}).get(d) != b.get("rows", {}).get(d)]
    print(f"\n{names[1]} minus {names[0]}, paired by prompt, points" + (f"; NOT ALIKE: {', '.join(other)}" if other else ""))
    print(f"{'':10}{'difference':>10}{'95 % interval':>20}{'p':>10}{'prompts':>10}{'detectable':>12}")
    for name, one in found.items():
        mean, half, p = one["difference"], one["ci95"], one["p"]
        print(f"{name:10}{mean:+10.1f}{f'[{mean - half:+.1f}, {mean + half:+.1f}]':>20}"
              f"{'< 0.0001' if p < 1e-4 else f'{p:.4f}':>10}{one['prompts']:10}{one['detectable']:12.1f}")


def main():
    """Print the table of scores, and with --compare that of differences; write --json and --samples-file."""
    args = parse()
    with alone(args.json):                          # two runs would each write their own scores alone
        run(args)


def run(args):
    """`main`, with --json for itself alone."""
    entries = {name: stored(name) for name in args.compare if ".json:" in name}  # before the long work
    report = evaluate_all(args) if args.checkpoints else {}
    if args.compare:
        a, b = args.compare
        entries = report | entries
        both = [d for d in args.domains if d in entries[a] and d in entries[b]]
        if not both:
            raise UserError(f"{a} and {b} have no domain in common among {', '.join(args.domains)}")
        found = compare(entries[b], entries[a], both)
        print_comparison(args.compare, (entries[a], entries[b]), found)
        if args.json and b in report:
            report[b].setdefault("compared_to", {})[a] = found
            write_json(args.json, report)


if __name__ == "__main__":
    cli(main)
