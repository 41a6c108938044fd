"""Routes and gradients: which neurons a domain runs through, and where its policy gradient points. Used by analyze.py and
rollback.py (conflict.py).

    active = activity(model, rollout)                              # of each neuron, on the tokens of one domain
    overlap(top_neurons(active, 0.1), top_neurons(edited, 0.1), layers)      # beside that of random sets
    gradients = policy_gradients(model, rollout, rewards)          # GRPO's, of PARTS disjoint parts of a batch
    gradient_cosines({"math": gradients, "code": others}, module_spans(model))

The paper's picture (arXiv 2606.02398): the route of a domain, here the neurons with the highest mean |act(gate) * up|
on its tokens, is much the same for all domains, while the most edited neurons of two are not, and their gradients over
all parameters are nearly orthogonal; in single modules they conflict (cosine clearly negative) or agree. But overlap
can be chance, and a cosine near 0 noise: so the first stands beside the overlap of random sets, the second beside the
cosine of two halves of one domain's own batch.
"""
# A neuron is a channel of an MLP: M of them, MLPs in the model's order; a set of them is a bool mask (M,). n is the number
# of parameters. The rollout is on the model's device, sampled by it at temperature 1.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from itertools import combinations

import torch
from tqdm import tqdm

from grpo.losses import group_advantages, policy_loss, token_weights
from grpo.rollout import micro_batches, token_logps
from grpo.scores import t_quantile
from theory.curvature import BUDGET, gradient, matrix
from theory.edits import cosines, module_of

PARTS = 8  # parts of a batch, for the sampling error of its gradient: analyze.py needs at least as many prompts


@torch.no_grad()
def activity(model, rollout):
    """Mean |act(gate) * up|, which down_proj reads, of every neuron over all tokens: (M,) fp64 on the CPU.

    None for a model without a module of that name.
    """
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
    tokens = (rollout.prompt_mask.sum() + rollout.mask.sum()).cpu()
    return torch.cat(list(sums.values())).cpu() / tokens if sums else None


def top_neurons(values, share, layers=None):
    """The set of the largest `share`, in (0, 1], of values (M,), one or more; none whose value is 0.

    layers: (M,), the layer of each, for the largest share of every layer.
    """
    top, layers = torch.zeros(len(values), dtype=torch.bool), torch.zeros(len(values)) if layers is None else layers
    for layer in layers.unique():
        own = (layers == layer).nonzero().squeeze(1)
        top[own[values[own].topk(max(1, round(share * len(own)))).indices]] = True
    return top & (values > 0)


def jaccard(a, b):
    """|A and B| / |A or B| of two sets: a float, 0 if both are empty."""
    return (a & b).sum().item() / max(1, (a | b).sum().item())


def random_jaccard(sizes):
    """Jaccard index of two random sets: {"expected", "low", "high"}, the last two its 95 % range.

    sizes: ints (n, a, b) of each stratum. Two random subsets, of a and of b of n things, share X of them (hypergeometric):
    P(X = x) = C(a, x) C(n - a, b - x) / C(n, b). With several strata (layers, so that both sets keep as many neurons of
    each as they have) X is the sum. J = X / (sum a + sum b - X) is not linear in X: its mean needs the whole distribution.
    """
    log_choose = lambda n, k: math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    length, product = 1 + sum(min(a, b) for _, a, b in sizes), 1       # X is a sum: the product of the Fourier transforms
    for n, a, b in sizes:
        x = torch.arange(min(a, b) + 1, dtype=torch.float64)
        logs = log_choose(a, x) + log_choose(n - a, (b - x).clamp(max=n - a)) - log_choose(n, torch.tensor(b).double())
        product = product * torch.fft.rfft(torch.where(b - x <= n - a, logs.exp(), 0.0), length)
    total, x = torch.fft.irfft(product, length), torch.arange(length, dtype=torch.float64)        # P(X = x)
    index = x / (sum(a + b for _, a, b in sizes) - x).clamp(min=1)
    below = total.cumsum(0)
    low, high = (index[min(int((below < q).sum()), len(x) - 1)].item() for q in (0.025, 0.975))
    return {"expected": (total * index).sum().item() / total.sum().item(), "low": low, "high": high}


def overlap(a, b, layers):
    """Jaccard index of two sets beside that of random ones, in all or layer by layer; layers: (M,), that of each neuron."""
    sizes = lambda where: (int(where.sum()), int(a[where].sum()), int(b[where].sum()))
    return {"jaccard": jaccard(a, b), "random": random_jaccard([sizes(layers == layers)]),
            "random_same_layers": random_jaccard([sizes(layers == l) for l in layers.unique()])}


def policy_gradients(model, rollout, rewards):
    """GRPO's gradient at the weights that sampled, of PARTS disjoint sets of prompts: (PARTS, n) fp32 on the CPU.

    rewards: (B, G), NaN where grading failed. The loss is that of train_grpo.py --loss grpo, of each part by itself.
    """
    advantages = group_advantages(rewards).flatten().to(model.device)                             # (N,)
    graded = ~rewards.flatten().isnan().to(model.device)
    gradients = matrix(PARTS, sum(p.numel() for p in model.parameters()))    # many copies of the parameters: not on the GPU
    for part in tqdm(range(PARTS), desc="policy gradients", leave=False, delay=3):
        mine = rollout.group % PARTS == part
        weights = token_weights(rollout.mask.sum(1), graded & mine, "grpo", None)
        live = (mine & graded & (advantages != 0)).nonzero().squeeze(1).tolist()
        parts = [(rollout.select(index), index) for index in micro_batches(rollout, live, BUDGET)]

        def loss(model, some, index):
            logps = token_logps(model, some)
            return policy_loss(logps, logps.detach(), None, advantages[index], some.mask, weights[index])[0]
        if parts:
            gradients[part] = gradient(model, loss, parts)
    return gradients


def gradient_cosines(gradients, spans):
    """Cosine of two domains' gradients per module, its sampling error and its ceiling: {module: {"a|b": dict}}.

    gradients: {domain: (PARTS, n)} of D domains. spans: {module: list of slices of n}. For a pair (a, b), all floats:
        cosine     <g_a, g_b> / (||g_a|| ||g_b||) of the whole batches
        error      its standard error, by the jackknife over the parts; ci95: half-width of the t-interval
        ceiling    the cosine that equal directions would show in so many samples: the geometric mean of both domains'
                   reliabilities 2 c / (1 + c), c the cosine of the two halves of one batch (Spearman-Brown)
        corrected  cosine / ceiling, an estimate without that noise; NaN where the ceiling is below 0.1
    """
    names, each, report = list(gradients), list(gradients.values()), {}
    first = torch.arange(PARTS) % 2 == 0                                                          # half of the parts
    for module, slices in spans.items():
        inner = lambda a, b: sum((a[:, s] @ b[:, s].T).double() for s in slices)                  # (PARTS, PARTS)
        gram = torch.stack([torch.stack([inner(a, b) for b in each], 1) for a in each])           # (D, PARTS, D, PARTS)
        without = torch.stack([cosines(gram[:, keep][..., keep].sum((1, 3))) for keep in ~torch.eye(PARTS).bool()])
        whole = cosines(gram.sum((1, 3)))                                                         # (D, D)
        error = ((PARTS - 1) / PARTS * (without - without.mean(0)).square().sum(0)).sqrt()        # (D, D)
        within = lambda d, a, b: gram[d, a][:, d, b].sum()
        halves = [within(d, first, ~first) / (within(d, first, first) * within(d, ~first, ~first)).sqrt()
                  for d in range(len(each))]
        reliable = [2 * c.clamp(min=0) / (1 + c.clamp(min=0)) for c in halves]
        report[module] = {}
        for (i, a), (j, b) in combinations(enumerate(names), 2):
            cosine, ceiling = whole[i, j].item(), (reliable[i] * reliable[j]).sqrt().item()
            report[module][f"{a}|{b}"] = {
                "cosine": cosine, "error": error[i, j].item(), "ci95": t_quantile(PARTS - 1) * error[i, j].item(),
                "ceiling": ceiling, "corrected": cosine / ceiling if ceiling > 0.1 else math.nan}
    return report


def module_spans(model):
    """{module (edits.module_of): slices of the flat vector of all parameters (see curvature.py)}, "all" first."""
    spans, at = {"all": []}, 0
    for name, p in model.named_parameters():
        for module in ("all", module_of(name)):
            spans.setdefault(module, []).append(slice(at, at + p.numel()))
        at += p.numel()
    return spans
