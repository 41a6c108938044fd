"""Losses: the objectives of GRPO and its kin side by side, as functions of tensors alone. Used by train_grpo.py.

    A = group_advantages(rewards)                                      # (B, G): which answers beat their group's mean
    w = token_weights(lengths, counted, "grpo", max_completion_length)                # (N,): what a token counts for
    loss, sums = policy_loss(logps, old_logps, None, A.flatten(), mask, w, objective="grpo")

mu is the policy that sampled (pi_old), rho = pi / mu, token by token. At the first update of a step pi is mu, and all
objectives have the gradient of the sum of w_i A_i log pi(o_it): only w differs (and A in dr_grpo). They also differ in what
holds pi near mu when more updates follow:

    grpo      min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) DeepSeekMath, arXiv 2402.03300; PPO's clip
    dapo      the same, eps_high 0.28; every token counts alike  arXiv 2503.14476 (its loss alone): rare tokens may rise
                                                                 further, a long answer's tokens weigh as much as any
    dr_grpo   the same, no deviation in A, constant denominator  arXiv 2503.20783: favours neither question nor length
    gspo      the same with rho_i = (prod_t rho_it)^(1/|o_i|)    arXiv 2507.18071: a reward is for the whole answer, and
                                                                 the noise of single ratios averages out
    cispo     sg(clip(rho)) A log pi: not 0 even at rho = 1      arXiv 2506.13585: bounds the weight of a token and does
                                                                 not drop it: rare turning points keep their gradient
    drpo      rho A - |A| mu (rho - 1)^2 / (2 delta)             arXiv 2606.09821: bounds the move of the probability,
                                                                 not of the ratio, and pulls back beyond the bound

sg: no gradient. The weight of a token's gradient in drpo is rho A (1 - sign(A (rho - 1)) |pi - mu| / delta): 0 where the
probability has moved by delta in the direction that A asks for, negative beyond, where a clip would leave it at 0. As
|pi - mu| <= 1, with a delta of 1 or more it never is 0. The defaults (settings.LOSSES) are the papers', as far as they give
any: delta, and the 4 of cispo (weights up to 5, no lower bound), are chosen here.
A new objective is a line in settings.LOSSES, one in token_weights, and a branch of policy_loss.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math

import torch


def group_advantages(rewards, scale="group"):
    """A_i = (r_i - mean) / std within each group: advantages (B, G) fp32 from rewards (B, G) of any float type.

    std is the sample deviation (over G - 1), as in TRL and verl: rewards 1, 0, 0, 0 give 1.5, -0.5, -0.5, -0.5. With
    scale "batch" it is that of all rewards (REINFORCE++), with "none" 1 (Dr. GRPO, arXiv 2503.20783: dividing by the
    group's deviation gives easy and hard prompts more weight). NaN rewards stay out of all sums and get advantage 0.
    A group of equal rewards gets exactly 0: its mean is rounded, and that error divided by 1e-6 would not be 0.
    """
    rewards = rewards.double()
    valid = ~rewards.isnan()
    count = valid.sum(1, keepdim=True)                                                             # (B, 1)
    centred = torch.where(valid, rewards - rewards.nanmean(1, keepdim=True), 0.0)                  # (B, G)
    highest = rewards.nan_to_num(nan=-math.inf).amax(1, keepdim=True)
    lowest = rewards.nan_to_num(nan=math.inf).amin(1, keepdim=True)
    centred = torch.where(highest > lowest, centred, 0.0)
    if scale == "group":
        centred = centred / ((centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt() + 1e-6)
    elif scale == "batch":
        centred = centred / (rewards[valid].std() + 1e-6) if valid.sum() > 1 else centred
    return centred.float()


def token_weights(lengths, counted, objective, max_completion_length):
    """Weight w_i of every token of completion i in the loss, over the whole step: (N,) fp32.

    lengths: (N,) tokens. counted: (N,) bool, completions that count; the others get 0 and are in no denominator. As
    denominators are those of the step and not of a micro-batch, the gradient does not depend on how the step is cut up.
    With n completions that count, objective a key of LOSSES (settings.py) and T_max = max_completion_length:
        grpo, gspo          1 / (n |o_i|)      every completion counts the same, so a token of a long one counts less
        dapo, cispo, drpo   1 / sum_j |o_j|    every token counts the same (arXiv 2503.14476)
        dr_grpo             1 / (n T_max)      a constant: favours no short right or long wrong answer (2503.20783)
    """
    n = counted.sum().clamp(min=1)
    if objective in ("grpo", "gspo"):
        weights = 1 / (n * lengths.clamp(min=1))
    elif objective == "dr_grpo":
        weights = (1 / (n * max_completion_length)).expand(len(lengths))
    elif objective in ("dapo", "cispo", "drpo"):
        weights = (1 / lengths[counted].sum().clamp(min=1)).expand(len(lengths))
    else:
        raise ValueError(f"no such objective: {objective}")
    return torch.where(counted, weights, 0.0).float()


def policy_loss(logps, old_logps, ref_logps, advantages, mask, weights, *, objective="grpo", clip_low=0.2, clip_high=0.2,
                delta=0.2, beta=0.0):
    """The objective of N completions, to be minimised: a scalar loss, and sums over their tokens for the log.

    logps, old_logps, ref_logps (or None): (N, T) fp32, log-probabilities of the sampled tokens under the policy, the
    policy that sampled them, and the reference. advantages: (N,), or (N, T), one for each token. mask: (N, T) bool. weights:
    (N,), see token_weights. objective: a key of settings.LOSSES. clip_low, clip_high: eps_low, eps_high. delta: of drpo, a
    probability. beta: weight of the KL term; with 0, ref_logps is not read. The sums are scalar tensors: policy_loss, the
    loss without the KL; kl, in nats, unweighted; n_clipped_low and n_clipped_high, how many tokens are beyond each bound.

    The KL term is k3 = e^d - d - 1, d = log pi_ref - log pi (Schulman, 2020): its value is an unbiased estimate of
    KL(pi || ref), never negative. Its gradient is on average that of the forward KL(ref || pi), because it has no importance
    weight (nor has the paper's formula): same minimum, other slope.
    """
    log_ratio = torch.where(mask, logps - old_logps, 0.0).clamp(-20, 20)  # before exp: after it inf * 0 is NaN
    if objective == "gspo":                         # one ratio for the whole answer, the geometric mean of its tokens'
        mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        log_ratio = mean.expand_as(log_ratio)
    ratio = log_ratio.exp()                                                                        # (N, T)
    A = advantages.view(len(ratio), -1)                                                            # (N, 1) or (N, T)
    low, high = (ratio < 1 - clip_low) & (A < 0), (ratio > 1 + clip_high) & (A > 0)                # for the log
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    if objective == "cispo":
        surrogate = -clipped.detach() * A * torch.where(mask, logps, 0.0)
        low, high = (ratio < clipped) & (A != 0), (ratio > clipped) & (A != 0)    # whatever the sign of A
    elif objective == "drpo":
        mu = old_logps.exp()
        surrogate = -(ratio * A - A.abs() * mu * (ratio - 1)**2 / (2 * delta))
        low, high = (mu * (1 - ratio) > delta) & (A < 0), (mu * (ratio - 1) > delta) & (A > 0)   # the gradient has turned
    elif objective in ("grpo", "dapo", "dr_grpo", "gspo"):
        surrogate = -torch.min(ratio * A, clipped * A)                    # min: pessimistic for both signs of A
    else:
        raise ValueError(f"no such objective: {objective}")
    kl = torch.zeros_like(ratio)
    if beta > 0:
        d = torch.where(mask, ref_logps - logps, 0.0)
        kl = d.clamp(max=20).exp() - d - 1
    w = weights[:, None] * mask                                                                    # (N, T)
    with torch.no_grad():
        sums = {"policy_loss": (w * surrogate).sum(), "kl": (kl * mask).sum(),
                "n_clipped_low": (low & mask).sum(), "n_clipped_high": (high & mask).sum()}
    return (w * (surrogate + beta * kl)).sum(), sums
