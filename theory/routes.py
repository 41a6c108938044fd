"""Routes and gradients: which neurons a domain runs through, and where its policy gradient points. Used by analyze.py and
rollback.py (conflict.py).

    active = activity(model, rollout)                              # of each neuron, on the tokens of one domain
    overlap(top_neurons(active, 0.1), top_neurons(edited, 0.1), layers)      # beside that of random sets
    gradients = policy_gradients(model, rollout, rewards)          # GRPO's, of PARTS disjoint parts of a batch
    gradient_cosines({"math": gradients, "code": others}, module_spans(model))

The paper's picture (arXiv 2606.02398): the route of a domain, here the neurons with the highest mean |act(gate) * up|
on its tokens, is much the same for all domains, while the most edited neurons of two are not, and their gradients over
all parameters are nearly orthogonal; in single modules they conflict (cosine clearly negative) or agree. A cosine near
0 can also be noise: two halves of one domain's own batch show how high a cosine of equal directions could be at all,
which `gradient_cosines` puts beside it. As much overlap can be chance: `overlap` puts that of random sets beside it.
"""
# A neuron is a channel of an MLP: n of them, MLPs in the model's order. In gradients n is the number of parameters. The
# rollout is on the model's device, sampled by it at temperature 1.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from itertools import combinations

import torch
from tqdm import tqdm

from grpo.losses import group_advantages, policy_loss, token_weights
from grpo.rollout import micro_batches, token_logps
from grpo.scores import t_quantile
from theory.curvature import BUDGET, gradient
from theory.edits import cosines, module_of

PARTS = 8  # of a batch, for the sampling error of its gradient: analyze.py needs as many prompts


@torch.no_grad()
def activity(model, rollout):
    """Mean |act(gate) * up| of every neuron over the tokens of prompts and completions: (n,) fp64 on the CPU.

    That product is what down_proj reads: a channel contributes to the output by its size times its column. None for a
    model without a module of that name.
    """
    tokens = (rollout.prompt_mask.sum() + rollout.mask.sum()).cpu()
    sums = {module: 0 for name, module in model.named_modules() if name.endswith("down_proj")}

    def count(module, inputs):
        sums[module] = sums[module] + inputs[0][mask].double().abs().sum(0)
    handles = [module.register_forward_pre_hook(count) for module in sums]
    try:
        for index in micro_batches(rollout, range(len(rollout.ids)), BUDGET):
            part = rollout.select(index)
            mask = torch.cat([part.prompt_mask, part.mask], 1)                                    # (m, P' + T')
            model.get_decoder()(input_ids=torch.cat([part.prompt_ids, part.ids], 1), attention_mask=mask.long(),
                                position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(list(sums.values())).cpu() / tokens if sums else None


def top_neurons(values, share):
    """The set of the largest `share`, in (0, 1], of values (n,), one or more: a bool mask, False where a value is 0."""
    k = max(1, round(share * len(values)))
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[values.topk(k).indices] = True
    return mask & (values > 0)


def jaccard(a, b):
    """|A and B| / |A or B| of two sets given as bool masks (n,): a float, 0 if both are empty."""
    return (a & b).sum().item() / max(1, (a | b).sum().item())


def random_jaccard(sizes):
    """Jaccard index of two random sets: {"expected", "low", "high"}, the last two its 95 % range.

    sizes: a list of ints (n, a, b), one of each stratum. Two uniformly random subsets of a and b of n things meet in X
    things, hypergeometric: P(X = x) = C(a, x) C(n - a, b - x) / C(n, b). With several strata (layers, so that both sets
    keep as many neurons of each layer as they have) X is the sum. J = X / (sum a + sum b - X): its expectation is not
    that of X put into the formula.
    """
    log_choose = lambda n, k: math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    total, least = torch.ones(1, dtype=torch.float64), 0               # P(X = x), x = least, least + 1, ..
    for n, a, b in sizes:
        x = torch.arange(min(a, b) + 1, dtype=torch.float64)
        possible = b - x <= n - a
        all_of_them = log_choose(n, torch.tensor(b, dtype=torch.float64))       # in fp32 they would not sum to 1
        logs = log_choose(a, x) + log_choose(n - a, (b - x).clamp(max=n - a)) - all_of_them
        pmf = torch.where(possible, logs.exp(), 0.0)
        likely = (pmf > 1e-16).nonzero().flatten()             # of thousands a hundred: sums of many layers stay short
        pmf, least = pmf[likely[0]:likely[-1] + 1], least + int(likely[0])
        spread = torch.nn.functional.pad(pmf, (len(total) - 1, len(total) - 1))
        total = torch.nn.functional.conv1d(spread[None, None], total.flip(0)[None, None])[0, 0]
    x = least + torch.arange(len(total), dtype=torch.float64)
    index = x / (sum(a + b for _, a, b in sizes) - x).clamp(min=1)
    below = total.cumsum(0)
    low, high = (index[min(int((below < q).sum()), len(x) - 1)].item() for q in (0.025, 0.975))
    return {"expected": (total * index).sum().item() / total.sum().item(), "low": low, "high": high}


def overlap(a, b, layers):
    """Jaccard index of two sets of neurons (bool masks) beside that of random sets, in all and layer by layer: a dict.

    layers: (n,) int64, the layer of each neuron. "jaccard" is a float; "random" and "random_same_layers": see
    `random_jaccard`.
    """
    strata = [(int((layers == l).sum()), int(a[layers == l].sum()), int(b[layers == l].sum())) for l in layers.unique()]
    return {"jaccard": jaccard(a, b), "random": random_jaccard([(len(a), int(a.sum()), int(b.sum()))]),
            "random_same_layers": random_jaccard(strata)}


def policy_gradients(model, rollout, rewards):
    """GRPO's gradient at the weights that sampled, of PARTS disjoint sets of prompts: (PARTS, n) fp32 on the CPU.

    rewards: (B, G), NaN where grading failed. The loss is that of train_grpo.py: advantages of the group's scale, mean
    over tokens, then completions, of those of a part.
    """
    advantages = group_advantages(rewards).flatten().to(model.device)                             # (N,)
    graded = ~rewards.flatten().isnan().to(model.device)
    gradients = []
    for part in tqdm(range(PARTS), desc="policy gradients", leave=False, delay=3):
        mine = rollout.group % PARTS == part
        weights = token_weights(rollout.mask.sum(1), graded & mine, "grpo", None)
        live = (mine & graded & (advantages != 0)).nonzero().squeeze(1).tolist()
        parts = [(rollout.select(index), index) for index in micro_batches(rollout, live, BUDGET)]

        def loss(model, some, index):
            logps = token_logps(model, some)
            return policy_loss(logps, logps.detach(), None, advantages[index], some.mask, weights[index])[0]
        gradients.append(gradient(model, loss, parts).cpu() if parts else  # many copies of the parameters: not on the GPU
                         torch.zeros(sum(p.numel() for p in model.parameters())))
    return torch.stack(gradients)


def gradient_cosines(gradients, spans):
    """Cosine of two domains' gradients per module, its sampling error and its ceiling: {module: {"a|b": dict}}.

    gradients: {domain: (PARTS, n)}. spans: {module: list of slices of n}. For a pair (a, b), all floats:
        cosine     <g_a, g_b> / (||g_a|| ||g_b||) of the whole batches
        error      its standard error, by the jackknife over the parts; ci95: half-width of the t-interval
        ceiling    the cosine that equal directions would show through so many samples: the geometric mean of both
                   domains' reliabilities 2 c / (1 + c), c the cosine of the gradients of two halves of one batch
                   (Spearman-Brown)
        corrected  cosine / ceiling: that of the gradients without noise; NaN where the ceiling is below 0.1
    """
    names = list(gradients)
    report = {}
    for module, slices in spans.items():
        rows = [[sum((gradients[a][:, s] @ gradients[b][:, s].T).double().cpu() for s in slices) for b in names]
                for a in names]
        gram = torch.stack([torch.stack(row, 1) for row in rows])                                 # (D, PARTS, D, PARTS)
        cosine = lambda keep: cosines(gram[:, keep][..., keep].sum((1, 3)))                       # (D, D)
        whole = cosine(torch.ones(PARTS, dtype=torch.bool))
        without = torch.stack([cosine(torch.arange(PARTS) != k) for k in range(PARTS)])           # (PARTS, D, D)
        error = ((PARTS - 1) / PARTS * (without - without.mean(0)).square().sum(0)).sqrt()
        first = torch.arange(PARTS) % 2 == 0
        within = lambda d, a, b: gram[d, a][:, d, b].sum()
        halves = [within(d, first, ~first) / (within(d, first, first) * within(d, ~first, ~first)).sqrt()
                  for d in range(len(names))]
        reliable = [2 * c.clamp(min=0) / (1 + c.clamp(min=0)) for c in halves]
        report[module] = {}
        for (i, a), (j, b) in combinations(enumerate(names), 2):
            ceiling = (reliable[i] * reliable[j]).sqrt().item()
            report[module][f"{a}|{b}"] = {
                "cosine": whole[i, j].item(), "error": error[i, j].item(),
                "ci95": t_quantile(PARTS - 1) * error[i, j].item(), "ceiling": ceiling,
                "corrected": whole[i, j].item() / ceiling if ceiling > 0.1 else math.nan}
    return report


def module_spans(model):
    """{module (edits.module_of): slices of the flat vector of all parameters (see curvature.py)}, "all" first."""
    spans, at = {"all": []}, 0
    for name, p in model.named_parameters():
        for module in ("all", module_of(name)):
            spans.setdefault(module, []).append(slice(at, at + p.numel()))
        at += p.numel()
    return spans
