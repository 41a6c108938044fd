"""Scores: how good a model is in a domain, and how sure one can be of that. Used by training, evaluate.py and the analyses.

    scores = evaluate(model, tokenizer, {"math": rows}, samples=4, temperature=1.0)     # {"math": summary}
    change, half = paired(scores["math"], earlier["math"])                               # aligned prompt by prompt

n prompts, k completions of each, graded as in training; evaluate.py has the equation of every number that is computed here.
The unit is the prompt: its k samples are averaged first, because they are not independent questions (clustered standard
errors). Two checkpoints are compared on the same prompts, because prompts differ far more than checkpoints do.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

# half is always the half-width of a 95 % interval, NaN of a single value; dof, the degrees of freedom, an int >= 1, is
# one less than the number of values. A pair is a mean and a half-width, in points. A summary is that of one domain.
import math

import torch

import domains
from grpo import ranks
from grpo.rollout import complete, grade, uniform_noise
from model import UserError


# ---- sample and grade --------------------------------------------------------------------------------------------

def respond(model, tokenizer, domain, rows, *, samples, max_completion_length=64, seed=0, **how):
    """Sample and grade completions of n rows of a domain: a Rollout, its completions (N texts) and rewards (n, k) fp64.

    samples: k, so that N = n k. how: see rollout.complete. A reward is NaN where grading failed. The sampling noise is a
    function of (seed, row id), so it is the same for every checkpoint and for any choice of the other rows; no global random
    state is read or changed.
    """
    pairs = [(domain, row) for row in rows]
    noise = torch.cat([uniform_noise(samples, max_completion_length, seed, "evaluate", row["id"]) for row in rows])
    rollout = complete(model, tokenizer, pairs, group_size=samples, noise=noise, progress=f"evaluate {domain}", **how)
    return rollout, rollout.texts, grade(rollout.texts, pairs, rollout.graded).view(-1, samples)


def evaluate(model, tokenizer, rows, *, samples, keep=None, **settings):
    """Score one model in several domains, the one function behind every score here: {domain: summary}.

    rows: {domain: rows}; samples and the other settings: those of `respond`. keep: a list that gets a dict per completion
    (domain, row id, text, reward). Under torchrun the rows are shared out, and every rank gets all results.
    """
    scores = {}
    for domain, some in rows.items():
        mine, parts = some[ranks.share(len(some))], []
        if mine:
            rollout, completions, rewards = respond(model, tokenizer, domain, mine, samples=samples, **settings)
            parts = [(rewards, ~rollout.stopped.cpu().view(-1, samples), completions)]
        rewards, truncated, texts = zip(*sum(ranks.everyone(parts), []))
        rewards, truncated, texts = torch.cat(rewards), torch.cat(truncated), sum(texts, [])               # (n, k) each
        texts = [texts[i:i + samples] for i in range(0, len(texts), samples)]
        answers = [[domains.answer(domain, text, row) for text in own] for row, own in zip(some, texts)]
        scores[domain] = summary(rewards, truncated, [row["id"] for row in some], domain, answers)
        if keep is not None:
            keep += [{"domain": domain, "id": row["id"], "completion": text, "reward": reward}
                     for row, own, given in zip(some, texts, rewards.tolist()) for text, reward in zip(own, given)]
    return scores


def majority(domain, answers, rewards):
    """Score in [0, 1] of the answer that most of k completions give, in a domain whose answers can be compared.

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
    no completion could be graded have no score in prompt_scores; their ids are in `ungraded`. Every pass@j is over the
    prompts all of whose completions were graded: so they are comparable.
    """
    means = 100 * rewards.nanmean(1)                                                          # (n,)
    score, half = mean_ci(means)
    n, k = rewards.shape
    over_prompts = lambda values: 100 * mean_ci(torch.tensor(values, dtype=torch.float64))[0]
    correct = (rewards == 1).sum(1)[~rewards.isnan().any(1)].tolist()
    at = {f"pass@{j}": over_prompts([pass_at(j, c, k) for c in correct]) for j in sorted({1, 2, 4, 8, 16, k}) if j <= k}
    if domains.votes(domain):
        at[f"maj@{k}"] = over_prompts([majority(domain, *row) for row in zip(answers, rewards.tolist())])
    nothing = torch.tensor([[answer is None for answer in row] for row in answers])
    scored = {id: mean for id, mean in zip(ids, means.tolist()) if mean == mean}
    half = max(half, unseen(len(scored)) * max(score, 100 - score))          # NaN of one prompt
    return {"score": score, "ci95": half, "detectable": math.sqrt(2) * detectable(half, len(scored) - 1), "prompts": n,
            "samples": k, **at, "truncated": truncated.double().mean().item(),
            "unparsable": (nothing & ~rewards.isnan()).double().mean().item(),
            "verifier_errors": int(rewards.isnan().sum()), "prompt_scores": scored,
            "ungraded": [id for id in ids if id not in scored]}


# ---- how sure ------------------------------------------------------------------------------------------------------

def inside(t, dof):
    """P(|T| < t), t >= 0, of a Student-t variable T of `dof` degrees of freedom: a float.

    A finite sum in theta = atan(t / sqrt(dof)) (Abramowitz & Stegun 26.7.3, 26.7.4).
    """
    theta = math.atan(t / math.sqrt(dof))
    odd, total = dof % 2, 0.0
    term = math.sin(theta) * (math.cos(theta) if odd else 1.0)
    for k in range(2 + odd, dof + 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (k - 1) / k
    return 2 / math.pi * (theta + total) if odd else total


def t_quantile(dof, confidence=0.95):
    """The t (up to 1000) for which a Student-t variable lies in (-t, t) with probability `confidence`; by bisection."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, dof) < confidence else (low, middle)
    return high


def detectable(half, dof):
    """The least true difference that a test at the 5 % level finds with 80 % power, in half's unit; NaN where half is.

    (t_{0.975} + t_{0.8}) * se, where half is t_{0.975} * se, and P(|T| < t_{0.8}) = 0.6.
    """
    return math.nan if math.isnan(half) else half * (1 + t_quantile(dof, 0.6) / t_quantile(dof))


def mean_ci(values):
    """Mean and half-width of the 95 % t-interval of independent values (n,), NaNs left out: two floats."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return math.nan, math.nan
    half = t_quantile(len(values) - 1) * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), half


def unseen(n):
    """The largest share of prompts that n independent ones may all have missed, with probability 5 %: about 3 / n.

    The upper 95 % bound of a frequency of 0 of n (Clopper & Pearson, 1934; the rule of three). The prompts missed may score
    anything: so n scores of 0, whose deviation is 0, do not show that the mean is. The t-interval is nearly always wider.
    """
    return 1 - 0.05 ** (1 / n) if n else math.nan


def pass_at(j, correct, k):
    """Unbiased estimate of the probability that one of j samples is correct, from `correct` of k >= j samples.

    Pass@j of Chen et al., arXiv 2107.03374.
    """
    return 1.0 - math.comb(k - correct, j) / math.comb(k, j)


def differences(scores, reference, domain=""):
    """Change of each prompt's score from `reference` (both summaries of a domain): points (n,) fp64, aligned by row id.

    A row that one of the two could not grade at all is left out; UserError for one that only one of them had. Summaries
    of older versions leave the ungraded rows out and say only how many: there, a missing row may be one of them.
    """
    for here, there in ((scores, reference), (reference, scores)):
        known = {*here["prompt_scores"], *here.get("ungraded", ())}
        if "ungraded" in here or here.get("prompts", 0) <= len(known):
            for id in (*there["prompt_scores"], *there.get("ungraded", ())):
                if id not in known:
                    raise UserError(f"{domain} row {id} was evaluated for one of the two checkpoints only: evaluate both on "
                                    "the same rows")
    now, then = scores["prompt_scores"], reference["prompt_scores"]
    return torch.tensor([now[id] - then[id] for id in now if id in then], dtype=torch.float64)


def paired(scores, reference):
    """Mean and half of `differences`, points: the change of one domain's score from `reference` (both summaries)."""
    return mean_ci(differences(scores, reference))


def average(entries):
    """Mean of the domains' (score, half) pairs, and its half from theirs, which are independent samples: two floats."""
    values, halves = zip(*entries)
    return sum(values) / len(values), math.sqrt(sum(half ** 2 for half in halves)) / len(halves)
