"""Conflict: which single parameters carry the damage that later training did to an earlier domain. Used by rollback.py.

    sets = SCORES["gradient"](Case(model, anchor, damaged, rollout, rewards, counts=[471, 4710]))      # two sets

The damage is I = L_A(theta_A + delta) - L_A(theta_A) = g . delta + 1/2 delta' H delta + .. On the diagonal, coordinate i
has 1/2 H_ii delta_i^2 of it, with the empirical Fisher in place of H. Yet the damage is a sum over pairs. It lies in a few
directions v_j (analyze.py), and nearly every coordinate has a term in v_j . delta = sum_i v_ji delta_i. Most of this sum
cancels, so the sign of a coordinate's term decides. If i is undone, I falls to first order by

    delta_i dL_A/dtheta_i (theta)  =  delta_i (g + H (theta - theta_A) + ..)_i,

which has the full row of H, not its diagonal alone, at the cost of one gradient. When some coordinates are back, the rest
have to be scored anew: where v_j . (theta - theta_A) has reached 0, more would overshoot.

So the harmful sign at the anchor, g_i delta_i > 0, is a bad filter for more than a few coordinates. Let v . delta = P - Q,
P the sum of its positive terms and -Q that of the negative ones, both many times P - Q. As g lies along the same steep v,
the filter picks all terms of P. Undoing them leaves -Q, and the damage is (Q / (P - Q))^2 times what it was.

A new score is a function of a Case and a line in SCORES. It returns a set (see coordinates.py) for each of case.counts;
case.top makes these of a function from a parameter's name to its tensor of scores.
"""
# theta, anchor, damaged: each a function tensor name -> tensor, the weights of a checkpoint. n: number of all parameters.
if __name__ == "__main__":
    raise SystemExit(__doc__)

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from tqdm import tqdm

from model import UserError
from theory import coordinates, curvature, edits
from theory.lineage import DIRECTIONS, ROUTE
from theory.routes import activity, top_neurons

STEP = 0.0005      # share of the coordinates that is rolled back between two gradients


@dataclass
class Case:
    """What a score is computed from. The model stands at theta_A when a score is called, and may be left elsewhere."""
    model: object            # fp32; the controls need no weights and no answers
    anchor: object           # theta_A, fp32 on the model's device
    damaged: object          # theta_B, likewise
    rollout: object          # A's own answers to training rows of the damaged domain, N of them
    rewards: torch.Tensor    # (N,)
    counts: list             # the sizes of the sets, ascending
    others: tuple = ()       # A's answers in the domains that were trained later, as rollouts: for fisher+route
    seed: int = 0            # of the random set
    spectrum: tuple = None   # of `leading`, once the score curvature has run

    @cached_property
    def parts(self):
        """The correct ones among A's answers, in micro-batches."""
        return curvature.own_correct(self.rollout, self.rewards)

    def delta(self, name):
        """theta_B - theta_A of one tensor."""
        return self.damaged(name) - self.anchor(name)

    def top(self, score):
        """The sets of the highest scores. score(name): >= 0, of the parameter's shape, else UserError; called in threads."""
        def checked(name):
            if (scores := score(name)).shape != (shape := self.model.get_parameter(name).shape):
                raise UserError(f"the scores of {name} have the shape {list(scores.shape)}: a score has that of the "
                                f"parameter, {list(shape)}")
            return scores
        return coordinates.top([name for name, _ in self.model.named_parameters()], checked, self.counts)

    def rescored(self, loss_and_slopes, goal):
        """The sets of the function `rescored`, from theta_B on."""
        edits.put(self.model, self.damaged)
        return rescored(self.model, loss_and_slopes, goal, self.anchor, self.counts)


# ---- scores --------------------------------------------------------------------------------------------------------

def fisher_score(case, mask=lambda name: 1):
    """s_i = F_i delta_i^2: the diagonal of 1/2 delta' H_A delta with the empirical Fisher for H_A. mask: name -> factor."""
    F = fisher(case.model, case.rollout, case.rewards)
    return case.top(lambda name: F[name] * case.delta(name)**2 * mask(name))


def fisher_route_score(case):
    """s_i = F_i delta_i^2 in neurons on the route of both the damaged domain and a later one, 0 elsewhere."""
    on = on_route(case.model, [activity(case.model, some) for some in (case.rollout, *case.others)])
    return fisher_score(case, lambda name: on(name, case.anchor(name)))


def fisher_sign_score(case):
    """s_i = F_i delta_i^2 where the first-order sign is harmful, g_i delta_i > 0, 0 elsewhere."""
    _, g = slopes(case.model, case.parts)
    return fisher_score(case, lambda name: g[name] * case.delta(name) > 0)


def gradient_score(case):
    """s_i = g_i(theta) (theta - theta_A)_i, scored anew as theta goes back, until L_A is that of the anchor."""
    goal = curvature.value(case.model, curvature.nll, case.parts)
    return case.rescored(partial(slopes, case.model, case.parts), goal)


def curvature_score(case):
    """The score of `gradient_score` with the gradient of a quadratic model of L_A, whose value at the anchor is 0."""
    case.spectrum = leading(case.model, case.parts)
    return case.rescored(partial(quadratic_slopes, case.model, *case.spectrum), 0.0)


def largest(case):
    """A control: s_i = |delta_i|."""
    return case.top(lambda name: case.delta(name).abs())


def random(case):
    """A control: any coordinates of those that moved, because others would undo nothing."""
    draw = lambda name, delta: coordinates.random(name, delta.shape, case.seed).to(delta) * (delta != 0)
    return case.top(lambda name: draw(name, case.delta(name)))


SCORES = {"fisher": fisher_score, "fisher+route": fisher_route_score, "fisher+sign": fisher_sign_score,
          "gradient": gradient_score, "curvature": curvature_score}
CONTROLS = {"largest": largest, "random": random}


# ---- the parts of the scores ---------------------------------------------------------------------------------------

def fisher(model, rollout, rewards):
    """The diagonal of the empirical Fisher information: {name: F}, F_i = mean_k (d/dtheta_i log pi(o_k))^2, fp32.

    Over the correct completions o_k (reward 1), one backward pass each; rewards (N,). Each gradient is squared and freed
    as soon as it is there: memory holds F, one copy of the parameters, and no more.
    """
    correct = (rewards == 1).nonzero().squeeze(1).tolist()
    F = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.zero_grad()                               # else an older gradient would be added to the first answer's

    def square(name, p):
        F[name].addcmul_(p.grad, p.grad, value=1 / len(correct))
        p.grad = None
    hooks = [p.register_post_accumulate_grad_hook(partial(square, name)) for name, p in model.named_parameters()]
    try:
        for k in tqdm(correct, desc="Fisher", unit="answer", leave=False, delay=3):
            curvature.nll(model, rollout.select([k]), torch.ones(1, device=model.device)).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return F


def on_route(model, active):
    """The neurons on the route of the first domain and of any other: a function (name, tensor) -> a mask to multiply by.

    active: routes.activity of each domain. UserError for one domain alone, or a model whose activity is None.
    """
    if len(active) < 2 or any(a is None for a in active):
        raise UserError("a shared route needs two domains, and a model whose MLPs have a down_proj that reads their "
                        "channels")
    on = [top_neurons(a, ROUTE) for a in active]
    shared = on[0] & torch.stack(on[1:]).any(0)                                                          # (neurons,)
    down = {name.removesuffix(".down_proj"): m for name, m in model.named_modules() if name.endswith("down_proj")}
    in_mlp = dict(zip(down, shared.split([m.in_features for m in down.values()])))

    def mask(name, tensor):
        if not (where := edits.channels_of(name, tensor)):
            return 0.0
        mlp, axis, fused = where
        channels = in_mlp[mlp].to(tensor).repeat(1 + fused)
        return channels if axis else channels[:, None]
    return mask


def slopes(model, parts):
    """L_A (nats) at the model's weights, a float, and its gradient, {name: .grad}, which may be overwritten."""
    model.zero_grad(set_to_none=False)              # in place: `rescored` has left its scores there
    loss = 0.0
    for part in parts:
        term = curvature.nll(model, *part)
        term.backward()
        loss += term.item()
    return loss, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def leading(model, parts):
    """The spectrum of L_A at the model's weights theta_A: g (n,), eigenvalues (k,) fp64, eigenvectors (k, n), theta_A (n,).

    The k pairs are those of the DIRECTIONS leading ones of the Hessian that are curvature.steep.
    """
    theta = curvature.flatten(model.parameters()).detach()
    product = curvature.hessian(model, curvature.nll, parts)
    values, vectors, residuals = curvature.lanczos(product, len(theta), min(DIRECTIONS, len(theta)), device=model.device)
    curved = curvature.steep(values, residuals)
    return curvature.gradient(model, curvature.nll, parts), values[curved], vectors[curved], theta


def quadratic_slopes(model, g, values, vectors, theta):
    """Value and gradient, like those of `slopes`, of the quadratic model with the curvature of k eigenpairs alone:

        q(theta) = g . x + 1/2 sum_j lambda_j (v_j . x)^2,     x = theta - theta_A.
    """
    x = curvature.flatten(model.parameters()).detach() - theta                                           # (n,)
    c, values = curvature.inner(vectors, x), values.to(x.device)                                         # (k,)
    slope = g + (values * c).float() @ vectors                                                           # (n,)
    q = torch.dot(g.double(), x.double()) + 0.5 * (values * c.square()).sum()
    return q.item(), {name: part for (name, _), part in zip(model.named_parameters(), curvature.unflatten(model, slope))}


def left_in_s(spectrum, theta, damaged, names):
    """The share that a rollback leaves of the second-order damage in S, the span of the eigenvectors of `leading`:

        sum_j lambda_j (v_j . (theta - theta_A))^2 / sum_j lambda_j (v_j . delta)^2.
    """
    _, values, vectors, anchor = spectrum
    damage = lambda weights: (values.to(anchor.device) * curvature.inner(
        vectors, curvature.flatten([weights(name).to(anchor) for name in names]) - anchor).square()).sum().item()
    return damage(theta) / damage(damaged)


def rescored(model, loss_and_slopes, goal, anchor, counts):
    """Sets of the sizes `counts`, grown in steps of the share STEP of all coordinates, which are scored anew in each:

        s_i = max(0, g_i(theta) (theta - theta_A)_i),     theta with the set so far rolled back,

    to first order the fall of L_A if coordinate i goes back as well (0 where it is back). It ends when the loss is no
    longer above `goal`, or no coordinate would lower it; larger sets are then equal to the last. Where a size lies within
    a step, its set takes the best of that step, so no set depends on the other sizes. loss_and_slopes: as `slopes`, without
    arguments. The model starts at theta_B and is left where the last step led. UserError if a score is not finite.
    """
    parameters, grown, sets = dict(model.named_parameters()), {}, []
    step = max(1, round(STEP * sum(p.numel() for p in parameters.values())))
    with tqdm(total=counts[-1], desc="rescored", unit="coordinate", leave=False, delay=3) as bar:
        while len(sets) < len(counts):
            loss, slope = loss_and_slopes()
            if loss <= goal:
                break
            for name, p in parameters.items():      # the scores take the place of the gradient
                slope[name].mul_(p.detach() - anchor(name)).clamp_(min=0)
            held = coordinates.size(grown)
            sizes = [k - held for k in counts[len(sets):] if k - held <= step]
            *smaller, found = coordinates.top(list(parameters), slope.get, [*sizes, step])
            if not found:
                break
            sets += [union(grown, some) for k, some in zip(sizes, smaller) if k <= coordinates.size(found)]
            for name, index in found.items():
                coordinates.roll_back(parameters[name], anchor(name), index)
            grown = union(grown, found)
            bar.update(coordinates.size(found))
    return sets + [grown] * (len(counts) - len(sets))


def union(one, other):
    """Two sets that have nothing in common as one."""
    return {name: torch.cat([some[name] for some in (one, other) if name in some]).sort().values for name in one | other}
