"""Evaluate checkpoints: one row per checkpoint, one column per domain, every score with its 95 % interval.

    python evaluate.py checkpoints/base checkpoints/math --paired
    python evaluate.py checkpoints/math --greedy --json scores.json
    python evaluate.py Qwen/Qwen3-0.6B --domains math --data math=math500.jsonl --max-completion-length 2048

n held-out prompts, k sampled completions each, every one graded by `domains.reward` as in training, r in [0, 1]:

    avg@k  = mean over prompts i of  m_i = mean over j of r_ij             shown times 100
    ci95   = 1.96 * std(m_1 .. m_n) / sqrt(n)                              the prompt is the unit (clustered)
    paired = the same two lines for d_i = m_i(checkpoint) - m_i(first)     much narrower, as prompts vary most
    pass@j = mean over prompts of  1 - C(k - c, j) / C(k, j)               unbiased, c of k correct (arXiv 2107.03374)

Every checkpoint gets the same prompts and the same sampling noise. The interval is about new prompts and new
samples, not about another training seed: for that, train several.
"""
import argparse
import json
import math
from pathlib import Path

import torch

import domains
from judge import llm_judge, rubric
from model import BASE, UserError, check_directory, cli, end_ids, load, write_json, write_text
from rollout import decode, encode, sample, uniform_noise

def grade(model, tokenizer, domain, rows, *, samples, temperature, top_p=1.0, max_prompt_length=2048,
          max_completion_length=64, seed=0, judge=rubric):
    """Sample and score completions of each row: the one function behind every score in this repository.

    Returns rewards (n, k) fp64 with NaN where grading failed, completions (n lists of k texts) and truncated
    (n, k) bool. The sampling noise is a function of (seed, row id), so it is the same for every checkpoint and
    for any choice of the other rows; no global random state is read or changed.
    """
    prompts = encode(tokenizer, [domains.prompt(domain, row) for row in rows], max_prompt_length)
    noise = torch.cat([uniform_noise(samples, max_completion_length, seed, "evaluate", row["id"]) for row in rows])
    rollout = sample(model, prompts, group_size=samples, noise=noise, stop_ids=end_ids(model, tokenizer),
                     pad_id=tokenizer.pad_token_id, temperature=temperature, top_p=top_p, progress=f"evaluate {domain}")
    completions = decode(tokenizer, rollout)
    scores = domains.reward(domain, completions, [row for row in rows for _ in range(samples)], judge)
    return (torch.tensor(scores, dtype=torch.float64).view(-1, samples),
            [completions[i:i + samples] for i in range(0, len(completions), samples)],
            ~rollout.stopped.cpu().view(-1, samples))


def mean_ci(values):
    """Mean and half-width of the 95 % interval of independent values (n,), NaNs left out: two floats."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return math.nan, math.nan
    half = 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), half


def pass_at(j, correct, k):
    """Unbiased estimate of the probability that one of j samples is correct, from `correct` of k samples."""
    return 1.0 - math.comb(k - correct, j) / math.comb(k, j)


def summary(rewards, truncated):
    """Scores of one domain as a dict, in points (0-100): rewards (n, k) with NaN, truncated (n, k) bool."""
    score, half = mean_ci(rewards.nanmean(1))
    n, k = rewards.shape
    graded = [row[~row.isnan()] for row in rewards]
    at = {f"pass@{j}": 100 * mean_ci(torch.tensor([pass_at(j, int((r == 1).sum()), len(r))
                                                   for r in graded if len(r) >= j], dtype=torch.float64))[0]
          for j in sorted({1, 2, 4, 8, 16, k}) if j <= k}
    return {"score": 100 * score, "ci95": 100 * half, "prompts": n, "samples": k, **at,
            "truncated": truncated.double().mean().item(), "verifier_errors": int(rewards.isnan().sum())}


def average(entries, score="score", half="ci95"):
    """Mean of the domains' scores; its interval from theirs, which are independent samples."""
    return {score: sum(e[score] for e in entries) / len(entries),
            half: math.sqrt(sum(e[half] ** 2 for e in entries)) / len(entries)}


def evaluation_rows(domain, data, fields, n, split):
    """The rows a domain is evaluated on: held-out synthetic ones, or those of a file or hub name."""
    if data is None:
        return domains.synthetic(domain, "test", n, seed="held-out")
    rows = domains.load_rows(domain, data, split, fields)
    return sorted(rows, key=lambda row: row["id"])[:n]  # files are often sorted by subject: by hash, a fair sample


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="checkpoint directories or hub names")
    group = parser.add_argument_group("rows")
    group.add_argument("--domains", default=",".join(domains.DOMAINS), help="comma-separated (default: all four)")
    group.add_argument("--data", nargs="*", default=[], metavar="DOMAIN=SOURCE",
                       help="real rows for a domain: a .jsonl/.json/.parquet/.csv file, a hub name, or `hub` for the "
                            "paper's set; domains not named use synthetic held-out rows, or are left out once any is")
    group.add_argument("--held-out", action="store_true",
                       help="of --data files, only the tenth that train_grpo.py never trains on")
    group.add_argument("--fields", default="", help="field names of --data, as question=NAME,answer=NAME")
    group.add_argument("--prompts", type=int, default=200, help="prompts per domain, at most (default 200)")
    group = parser.add_argument_group("sampling")
    group.add_argument("--samples", type=int, default=4, help="completions per prompt, k (default 4)")
    group.add_argument("--greedy", action="store_true", help="most probable token always; one completion per prompt")
    group.add_argument("--temperature", type=float, default=1.0, help="(default 1.0)")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default 1.0: off)")
    group.add_argument("--max-prompt-length", type=int, default=2048, help="tokens (default 2048)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64)")
    group.add_argument("--seed", type=int, default=0, help="of the sampling noise (default 0)")
    group.add_argument("--judge", default=None, help="model that judges cw: a directory or hub name (default: rubric)")
    group = parser.add_argument_group("output")
    group.add_argument("--paired", action="store_true", help="also the paired difference to the first checkpoint")
    group.add_argument("--json", metavar="FILE", help="write all numbers")
    group.add_argument("--samples-file", metavar="FILE", help="write every completion with its reward, as jsonl")
    args = parser.parse_args()
    args.domains = args.domains.split(",")
    for domain in args.domains:
        domains.check_domain(domain)
    sources = dict(item.split("=", 1) if "=" in item else (item, None) for item in args.data)
    for domain, source in sources.items():
        domains.check_domain(domain)
        if not source:
            raise UserError(f"--data {domain} names no source: write {domain}=FILE, {domain}=HUB/NAME or {domain}=hub")
    if args.greedy:
        args.samples, args.temperature = 1, 0.0
    for name in ("prompts", "samples", "max_prompt_length", "max_completion_length"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        raise UserError("--temperature must be 0 or more, and --top-p must lie in (0, 1]")
    if not set(sources) <= set(args.domains):
        raise UserError(f"--data names {', '.join(set(sources) - set(args.domains))}, which --domains leaves out")
    for names in (args.domains, args.checkpoints):
        if len(set(names)) < len(names):
            raise UserError(f"named twice: {next(name for name in names if names.count(name) > 1)}")
    for name in args.checkpoints:
        if name != BASE:
            check_directory(name)
    for file in filter(None, (args.json, args.samples_file)):  # before the work, not after it
        if not Path(file).resolve().parent.is_dir() or Path(file).is_dir():
            raise UserError(f"cannot write {file}: its directory is missing, or it is a directory itself")
    args.data = sources
    if sources:
        args.domains = [domain for domain in args.domains if domain in sources]
    return args


def main():
    args = parse()
    judge = llm_judge(args.judge) if args.judge and "cw" in args.domains else rubric
    rows = {d: evaluation_rows(d, args.data.get(d), args.fields, args.prompts, "test" if args.held_out else "all")
            for d in args.domains}
    report, first, samples = {}, {}, []
    how = "greedy" if args.greedy else f"temperature {args.temperature}"
    print(f"avg@{args.samples} x 100 +- 95 % interval; {how}; "
          + ", ".join(f"{d}: {len(r)} prompts" for d, r in rows.items()))
    width = max(len("paired to the first"), *map(len, args.checkpoints))
    print(f"{'':{width}}" + "".join(f"{d:>16}" for d in [*args.domains, "average"]))
    for name in args.checkpoints:
        model = None                                # not two models at once
        model, tokenizer = load(name)
        entry = {}
        for d in args.domains:
            rewards, completions, truncated = grade(
                model, tokenizer, d, rows[d], samples=args.samples, temperature=args.temperature, top_p=args.top_p,
                max_prompt_length=args.max_prompt_length, max_completion_length=args.max_completion_length,
                seed=args.seed, judge=judge)
            entry[d] = summary(rewards, truncated)
            means = rewards.nanmean(1)                                                        # (n,)
            if args.paired:
                difference = mean_ci(means - first.setdefault(d, means))
                entry[d] |= {"paired_difference": 100 * difference[0], "paired_ci95": 100 * difference[1]}
            samples += [{"checkpoint": name, "domain": d, "id": row["id"], "completion": text, "reward": score}
                        for row, texts, scores in zip(rows[d], completions, rewards.tolist())
                        for text, score in zip(texts, scores)]
        entries = [entry[d] for d in args.domains]
        entry["average"] = average(entries)
        if args.paired:
            entry["average"] |= average(entries, "paired_difference", "paired_ci95")
        report[name] = entry
        shown = [*args.domains, "average"]
        print(f"{name:{width}}" + "".join(f"{entry[d]['score']:9.1f} +-{entry[d]['ci95']:4.1f}" for d in shown))
        if args.paired and len(report) > 1:
            print(f"{'paired to the first':>{width}}" + "".join(
                f"{entry[d]['paired_difference']:+9.1f} +-{entry[d]['paired_ci95']:4.1f}" for d in shown))
        errors = sum(e["verifier_errors"] for e in entries)
        if errors:
            print(f"{'':{width}}  {errors} completions could not be graded and are left out")
        cut = max(args.domains, key=lambda d: entry[d]["truncated"])
        if entry[cut]["truncated"] > 0.2:
            print(f"{'':{width}}  {entry[cut]['truncated']:.0%} of the {cut} completions were cut off: "
                  "raise --max-completion-length")
        if args.json:                               # after each checkpoint: an error in the next one loses nothing
            write_json(args.json, report)
        if args.samples_file:
            write_text(args.samples_file, "".join(json.dumps(s) + "\n" for s in samples))


if __name__ == "__main__":
    cli(main)
