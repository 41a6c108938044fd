"""Conflict: which single parameters carry the damage that later training did to an earlier domain. Used by rollback.py.

    case = Case(model, anchor, damaged, rollout, rewards, counts=[471, 4710])
    sets = SCORES["fisher"](case)                                      # the paper's proxy, the diagonal: two sets
    sets = SCORES["gradient"](case)                                    # with all pairs in it

Undone, coordinate i gives back its part of the damage I = L_A(theta_A + delta) - L_A(theta_A), which is
g . delta + 1/2 delta' H delta. But which part is its own? On the diagonal, 1/2 H_ii delta_i^2, with the empirical
Fisher in place of H. Yet damage is a sum over pairs, and lies in a few directions v_j (analyze.py) in which nearly all
coordinates have a share: what counts is the sum v_j . delta = sum_i v_ji delta_i after all cancellation, and a coordinate
counts by the sign of its term. If i is undone, I falls to first order by

    delta_i dL_A/dtheta_i (theta)  =  delta_i (g + H (theta - theta_A) + ..)_i,

the full row of H in place of its diagonal, at the cost of one gradient. As soon as some coordinates are back, the rest
are to be scored anew: where v_j . (theta - theta_A) has reached 0, nothing in this direction is left to undo, and more
would overshoot.

That is why the harmful sign at the anchor, g_i delta_i > 0, is no good filter for more than a handful. Let v . delta =
P - N, P and N the sums of its positive and of its negative terms, each many times their difference. Because g lies along
the same steep v, the filter's set is one of the two: undone, it leaves -N of P - N, and the damage is (N / (P - N))^2 times
its former size.

A new score is a function of a Case that returns a set (see coordinates.py) for each of case.counts, and its line in SCORES.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import time
from dataclasses import dataclass
from functools import partial

import torch
from tqdm import tqdm

from model import UserError, put
from theory import coordinates, curvature, edits
from theory.routes import activity, top_neurons

STEP = 0.0005      # of the coordinates: as many are rolled back between two looks at the gradient
DIRECTIONS = 48    # leading eigenpairs of the quadratic model, as many as in analyze.py
ROUTE = 0.1        # of the neurons that are most active on a domain's tokens are its route, as in analyze.py


@dataclass
class Case:
    """What a score is computed from. It starts with the model at theta_A, and may leave it elsewhere."""
    model: object            # fp32
    anchor: object           # a function tensor name -> theta_A, fp32 on the model's device
    damaged: object          # likewise theta_B
    rollout: object          # A's own answers to training rows of the damaged domain, N of them
    rewards: torch.Tensor    # (N,)
    counts: list             # the sizes of the sets, ascending
    others: tuple = ()       # A's answers in the domains that were trained later, as rollouts: for fisher+route
    seed: int = 0            # of the random set
    F: dict = None           # see fisher
    spared: float = 0.0      # seconds that F would have cost again
    spectrum: tuple = None   # see leading

    def __post_init__(self):
        self.shapes = {name: p.shape for name, p in self.model.named_parameters()}
        self.parts = curvature.own_correct(self.rollout, self.rewards)

    def delta(self, name):
        """theta_B - theta_A of one tensor."""
        return self.damaged(name) - self.anchor(name)

    def top(self, score):
        """The sets of the highest scores; score: a function name -> tensor, 0 or more."""
        return coordinates.top(list(self.shapes), score, self.counts)

    def fisher(self):
        """F at theta_A: computed for the first score that asks for it."""
        if self.F is None:
            began = time.perf_counter()
            self.F = fisher(self.model, self.rollout, self.rewards)
            self.cost = time.perf_counter() - began
        else:
            self.spared += self.cost
        return self.F

    def rescored(self, loss_and_slopes, goal):
        """The sets of `rescored` from theta_B on."""
        self.F = None                               # room for a gradient: the scores that need F come first in SCORES
        put(self.model, self.damaged)
        return rescored(self.model, loss_and_slopes, goal, self.anchor, self.counts)


# ---- scores --------------------------------------------------------------------------------------------------------

def fisher_score(case):
    """s_i = F_i delta_i^2: the paper's proxy, the diagonal of 1/2 delta' H_A delta with the empirical Fisher for H_A."""
    F = case.fisher()
    return case.top(lambda name: F[name] * case.delta(name)**2)


def fisher_route_score(case):
    """The same in neurons on the route of both the damaged domain and a later one, and nowhere else."""
    F, on = case.fisher(), on_route(case.model, [activity(case.model, some) for some in (case.rollout, *case.others)])
    return case.top(lambda name: F[name] * case.delta(name)**2 * on(name, F[name]))


def fisher_sign_score(case):
    """The same where the first-order sign is harmful, g_i delta_i > 0, and nowhere else."""
    F, (_, g) = case.fisher(), slopes(case.model, case.parts)
    return case.top(lambda name: F[name] * case.delta(name)**2 * (g[name] * case.delta(name) > 0))


def gradient_score(case):
    """s_i = g_i(theta) (theta - theta_A)_i, scored anew as theta goes back, until L_A is that of the anchor."""
    goal = curvature.value(case.model, curvature.nll, case.parts)
    return case.rescored(partial(slopes, case.model, case.parts), goal)


def curvature_score(case):
    """The same with the gradient of a quadratic model of L_A, whose value at the anchor is 0."""
    case.spectrum = leading(case.model, case.parts)
    return case.rescored(partial(quadratic_slopes, case.model, *case.spectrum), 0.0)


def largest(case):
    """A control: s_i = |delta_i|."""
    return case.top(lambda name: case.delta(name).abs())


def random(case):
    """A control: any coordinates of those that moved, because others would undo nothing."""
    score = lambda name: coordinates.random(name, case.shapes[name], case.seed).to(case.model.device)
    return case.top(lambda name: (case.delta(name) != 0) * score(name))


SCORES = {"fisher": fisher_score, "fisher+route": fisher_route_score, "fisher+sign": fisher_sign_score,
          "gradient": gradient_score, "curvature": curvature_score}
CONTROLS = {"largest": largest, "random": random}


# ---- what they are made of -----------------------------------------------------------------------------------------

def fisher(model, rollout, rewards):
    """The diagonal of the empirical Fisher information: {name: F}, F_i = mean_k (d/dtheta_i log pi(o_k))^2, fp32.

    Over the correct completions o_k (reward 1) of a rollout, one backward pass each; rewards (N,). All 0 if there is
    none. A parameter's gradient is squared and let go as soon as it is there, so no more than F itself, one copy of the
    parameters, is held.
    """
    correct = (rewards == 1).nonzero().squeeze(1).tolist()
    F = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.zero_grad()                               # what stands there would be added to the first answer's gradient

    def square(name):
        def hook(p):
            F[name].addcmul_(p.grad, p.grad, value=1 / len(correct))
            p.grad = None
        return hook
    hooks = [p.register_post_accumulate_grad_hook(square(name)) for name, p in model.named_parameters()]
    try:
        for k in tqdm(correct, desc="Fisher", unit="answer", leave=False, delay=3):
            curvature.nll(model, rollout.select([k]), torch.ones(1, device=model.device)).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return F


def on_route(model, active):
    """The neurons on the route of the first domain and of any other: a function (name, tensor) -> its mask.

    active: of each domain, what routes.activity gave. The mask multiplies scores of the tensor's shape: 1 at its
    numbers in such a neuron, else 0; it is 0.0 for a tensor outside the MLPs. UserError for one domain alone, or
    activity None.
    """
    if len(active) < 2 or any(a is None for a in active):
        raise UserError("a shared route needs two domains, and a model whose MLPs have a down_proj that reads their "
                        "channels")
    on = [top_neurons(a, ROUTE) for a in active]
    shared = on[0] & torch.stack(on[1:]).any(0)                                                          # (n,)
    mlps = [(name.removesuffix(".down_proj"), m) for name, m in model.named_modules() if name.endswith("down_proj")]
    mine = dict(zip((name for name, _ in mlps), shared.split([m.in_features for _, m in mlps])))

    def mask(name, tensor):
        where = edits.channels_of(name, tensor)
        if not where:
            return 0.0
        channels = mine[where[0]].to(tensor)
        return torch.cat([channels, channels])[:, None] if where[2] else channels[:, None] if where[1] == 0 else channels
    return mask


def slopes(model, parts):
    """L_A (nats) at the model's weights and its gradient: a float, {name: gradient}, the parameters' own .grad.

    So they hold until the next call, and may be overwritten.
    """
    model.zero_grad(set_to_none=False)
    loss = 0.0
    for part in parts:
        share = curvature.nll(model, *part)
        share.backward()
        loss += share.item()
    return loss, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def leading(model, parts):
    """What the quadratic model of L_A needs, at the anchor: g (n,), values (k,) fp64, vectors (k, n), theta_A (n,).

    The leading DIRECTIONS eigenpairs, less those that could be flat (curvature.steep). The model stands at theta_A.
    """
    hv = curvature.hessian(model, curvature.nll, parts)
    n = sum(p.numel() for p in model.parameters())
    values, vectors, residuals = curvature.lanczos(hv, n, min(DIRECTIONS, n), device=model.device, progress="curvature")
    curved = curvature.steep(values, residuals)
    theta = curvature.flatten(model.parameters()).detach().clone()
    return curvature.gradient(model, curvature.nll, parts), values[curved], vectors[curved], theta


def quadratic_slopes(model, g, values, vectors, theta):
    """Value and gradient, as of `slopes`, of the quadratic model with the curvature of k eigenpairs alone:

        q(theta) = g . x + 1/2 sum_j lambda_j (v_j . x)^2,     x = theta - theta_A,

    at the model's weights theta, 0 at theta_A. g, values, vectors, theta (theta_A): of `leading`.
    """
    x = curvature.flatten(model.parameters()).detach() - theta                                           # (n,)
    c, values = curvature.inner(vectors, x), values.to(x.device)                                         # (k,)
    slope = g + (values * c).float() @ vectors                                                           # (n,)
    q = torch.dot(g.double(), x.double()) + 0.5 * (values * c.square()).sum()
    return q.item(), {name: part for (name, _), part in zip(model.named_parameters(), curvature.unflatten(model, slope))}


def left_in_s(spectrum, theta, damaged, names):
    """Of the second-order damage in the span S of the leading eigenvectors, what a rollback leaves: a float, 1 if all,

        sum_j lambda_j (v_j . (theta - theta_A))^2 / sum_j lambda_j (v_j . delta)^2.

    spectrum: of `leading`. theta, damaged: functions tensor name -> tensor. names: of all parameters, in the model's order.
    """
    _, values, vectors, anchor = spectrum
    damage = lambda weights: (values.to(anchor.device) * curvature.inner(
        vectors, curvature.flatten([weights(name).to(anchor) for name in names]) - anchor).square()).sum().item()
    return damage(theta) / damage(damaged)


def rescored(model, loss_and_slopes, goal, anchor, counts):
    """Sets of the sizes `counts` (ascending), grown by the share STEP of all coordinates, scored anew in each step:

        s_i = max(0, g_i(theta) (theta - theta_A)_i),     theta where the sets so far are rolled back,

    to first order what L_A falls by if coordinate i goes back as well. It ends when the loss is no longer above `goal`,
    or no coordinate would lower it: the larger sets are then what there is. What is rolled back has theta_i = theta_A,i
    and so score 0. Of a step that crosses a size, the best are taken for it: a set does not depend on what other sizes
    are asked for. loss_and_slopes: a function without arguments, as `slopes` with some (goal: in its unit, nats); its
    gradient is overwritten. anchor: a function name -> tensor. The model starts at theta_B and is left where the last
    set has led. Returns a list of sets; UserError if a score is not finite.
    """
    parameters = dict(model.named_parameters())
    step = max(1, round(STEP * sum(p.numel() for p in parameters.values())))
    grown, sets, todo = {}, [], list(counts)
    with tqdm(total=counts[-1], desc="rescored", unit="coordinate", leave=False, delay=3) as bar:
        while todo:
            loss, slope = loss_and_slopes()
            if loss <= goal:
                break
            for name, p in parameters.items():      # the scores take the place of the gradient
                slope[name].mul_(p.detach() - anchor(name)).clamp_(min=0)
            held = coordinates.size(grown)
            sizes = [k - held for k in todo if k - held <= step]
            *smaller, found = coordinates.top(list(parameters), slope.get, [*sizes, step])
            if not found:
                break
            while todo and todo[0] <= held + coordinates.size(found):
                sets.append(union(grown, smaller.pop(0)))
                del todo[0]
            for name, index in found.items():
                coordinates.roll_back(parameters[name], anchor(name), index)
            grown = union(grown, found)
            bar.update(coordinates.size(found))
    return sets + [grown] * len(todo)


def union(one, other):
    """Two sets that have nothing in common as one, indices ascending."""
    both = {name: torch.cat([one[name], other[name]]).sort().values for name in one.keys() & other.keys()}
    return {**one, **other, **both}
