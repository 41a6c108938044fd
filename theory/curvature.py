"""Curvature: a domain's loss around a checkpoint, its gradient, its Hessian's action, and its leading eigenvectors. Used by
analyze.py, and by rollback.py (conflict.py).

    parts = own_correct(rollout, rewards)                       # A's correct completions, in micro-batches
    g = gradient(model, nll, parts)                             # (n,), n parameters
    hv = hessian(model, nll, parts)                             # hv(v) = H v, without forming H
    values, vectors, residuals = lanczos(hv, n, k=32)           # its largest eigenpairs

The paper's loss L_A of domain A is minus the expected reward (`surrogate`: estimated from A's own samples o_i by importance
weights, which are useless far from theta_A). Its smooth stand-in is the negative log-likelihood of A's own correct
completions (`nll`), in nats per completion:

    L_A(theta) = - mean_{i correct} log pi_theta(o_i).

At theta_A its gradient is that of -log P_theta(correct), parallel to the paper's. Away from theta_A it is an upper
bound of -log P_theta(correct) up to a constant (Jensen), finite and smooth everywhere. Its Hessian is nearly the Fisher
information, so it has hardly any negative eigenvalues.

Second derivatives need an attention that has them (load(..., attention="eager")). Vectors are fp32; their inner
products are summed in fp64, because there are millions of terms.
"""
# A vector (n,), like theta or delta, has all parameters in the model's order, tied ones once. rollout: on its device; its
# rewards (N,) or (B, G), NaN where grading failed. parts: micro-batches [(Rollout, weights (m,))]. loss: `nll` or
# `surrogate`, a function of (model, *part), to be summed over parts. product: a function v -> H v. values (k,) fp64, vectors
# (k, n): eigenpairs of `lanczos`. first is g . delta, second 1/2 delta' H delta; a share is a float, 1 for all of it.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
import tempfile

import torch
from tqdm import tqdm

from grpo.rollout import micro_batches, token_logps

BUDGET = 16384         # most tokens of a micro-batch, padding included


# ---- a vector of all parameters ----------------------------------------------------------------------------------

def flatten(tensors):
    """One vector (n,) of an iterable of tensors, on their device."""
    return torch.cat([t.reshape(-1) for t in tensors])


def matrix(rows, n, device="cpu"):
    """Zeros (rows, n) fp32 on a device: of the CPU in a temporary file, because main memory may be too small for so many."""
    if torch.device(device).type != "cpu":
        return torch.zeros(rows, n, device=device)
    with tempfile.NamedTemporaryFile() as file:     # it is gone when the tensor is
        return torch.from_file(file.name, shared=True, size=rows * n).view(rows, n)


def unflatten(model, vector):
    """A vector as tensors of the parameters' shapes, views of it."""
    params = list(model.parameters())
    return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in params]), params)]


@torch.no_grad()
def place(model, vector):
    """Put a vector into the model as its weights."""
    for p, value in zip(model.parameters(), unflatten(model, vector)):
        p.copy_(value)


# ---- losses ------------------------------------------------------------------------------------------------------

def weighted(rollout, weights):
    """The completions whose weight is not 0, in micro-batches: parts. weights: (N,)."""
    weights = weights.float().to(rollout.ids.device)
    live = weights.nonzero().squeeze(1).tolist()
    return [(rollout.select(index), weights[index]) for index in micro_batches(rollout, live, BUDGET)]


def own_correct(rollout, rewards):
    """The correct completions (reward 1), with equal weights that add up to 1: parts, none if none is correct."""
    correct = (rewards.flatten() == 1).double()
    return weighted(rollout, correct / correct.sum().clamp(min=1))


def own_all(rollout, rewards):
    """All N' graded completions, weighted by centred rewards, (r_i - mean r) / N': parts, maybe none. rewards: (B, G).

    The mean is that of the prompt's other completions, so the estimate stays unbiased (RLOO, arXiv 2402.14740).
    """
    valid, r = ~rewards.isnan(), rewards.nan_to_num(0.0)
    others = (r.sum(1, keepdim=True) - r) / (valid.sum(1, keepdim=True) - 1).clamp(min=1)
    return weighted(rollout, (torch.where(valid, r - others, 0.0) / valid.sum()).flatten())


def nll(model, rollout, weights):
    """- sum_i w_i log pi_theta(o_i): with own_correct's weights, L_A in nats per completion. A scalar, fp64."""
    return -(weights.double() * token_logps(model, rollout).double().sum(1)).sum()


def surrogate(model, rollout, weights):
    """- sum_i w_i pi_theta(o_i) / pi_A(o_i): with own_all's weights, a constant minus the expected reward. A scalar, fp64.

    rollout.logps has log pi_A, of the sampling model. At theta_A the value and derivatives of every order are unbiased.
    """
    ratio = (token_logps(model, rollout).double() - rollout.logps.double()).sum(1).exp()                 # (m,)
    return -(weights.double() * ratio).sum()


@torch.no_grad()
def value(model, loss, parts):
    """The loss over all micro-batches: a float, 0 without any."""
    return sum(loss(model, *part).item() for part in parts)


def gradient(model, loss, parts):
    """The gradient over all micro-batches, at least one, at the model's weights: (n,) fp32."""
    params = list(model.parameters())
    return sum(flatten(torch.autograd.grad(loss(model, *part), params, materialize_grads=True)) for part in parts)


def hessian(model, loss, parts):
    """The Hessian as a function v -> H v, (n,) -> (n,), at the model's present weights.

    H v = d/dtheta (g(theta) . v): the derivative of a scalar, so a gradient, at a few times its cost (Pearlmutter 1994).
    The graph of a single micro-batch is kept from call to call: the weights have to stay as they are.
    """
    params = list(model.parameters())
    slopes = lambda part: torch.autograd.grad(loss(model, *part), params, create_graph=True, materialize_grads=True)
    kept = slopes(parts[0]) if len(parts) == 1 else None
    return lambda v: sum(flatten(torch.autograd.grad(kept or slopes(part), params, grad_outputs=unflatten(model, v),
                                                     retain_graph=bool(kept), materialize_grads=True)) for part in parts)


# ---- eigenvectors ------------------------------------------------------------------------------------------------

def lanczos(product, n, k, steps=None, device="cpu", progress="curvature"):
    """The k algebraically largest eigenpairs of a symmetric (n, n) matrix H known by its products with vectors.

    Lanczos: q_1 random, H Q = Q T + beta q e', Q orthonormal, T tridiagonal of `steps` rows. The eigenpairs (lambda, y) of
    T give H (Q y) ~ lambda (Q y), the extreme ones first. Every new q is orthogonalised against all before it, because
    rounding destroys orthogonality as soon as a pair converges (Golub & Van Loan, Matrix Computations). steps: 2 k + 20
    unless given, n at most; as many vectors are held, on a GPU or in a temporary file. progress: the name of the bar.

    Returns values (k,) fp64 descending, vectors (k, n) fp32, and residuals (k,) fp64, || H v - lambda v || = |beta y_last|
    for the last beta: a pair that has not converged shows in its residual.
    """
    steps = min(n, steps or 2 * k + 20)
    Q, T = matrix(steps, n, device), torch.zeros(steps, steps, dtype=torch.float64)
    random = lambda seed: torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(device)
    q = random(0)
    for j in tqdm(range(steps), desc=progress, leave=False, delay=3):
        Q[j] = q / q.double().norm()                # in fp32 a sum of so many squares is off by 1e-4
        q = product(Q[j])
        T[j, j] = torch.dot(q.double(), Q[j].double())
        q = orthogonal(q, Q[:j + 1])
        beta = q.double().norm().item()
        if beta < 1e-6 * T.abs().max():             # an invariant subspace: nothing new comes of this q, start from another
            q, beta = orthogonal(random(j + 1), Q[:j + 1]), 0.0
        if j + 1 < steps:
            T[j, j + 1] = T[j + 1, j] = beta
    values, Y = torch.linalg.eigh(T)
    values, Y = values.flip(0)[:k], Y.flip(1)[:, :k]
    return values, Y.T.float().to(device) @ Q, (beta * Y[-1]).abs()


def steep(values, residuals):
    """A bool mask (k,) of the pairs that are surely curved upwards: values above their residual and 1e-4 of the largest."""
    return values > torch.maximum(residuals, 1e-4 * values[0])


def orthogonal(vector, basis):
    """The part of a vector that is orthogonal to the rows of an orthonormal basis (j, n); twice, because of rounding."""
    for _ in range(2):
        vector = vector - basis.T @ inner(basis, vector).float()
    return vector


def inner(rows, vector):
    """Inner products of rows (j, n) with a vector (n,) or with rows (k, n): (j,) or (j, k) fp64, summed in pieces."""
    pieces = zip(rows.split(2**16, -1), vector.split(2**16, -1))
    return sum(torch.tensordot(a, b, ([-1], [-1])).double() for a, b in pieces)


def cosine(one, other):
    """Cosine of two vectors: a float, NaN if one is 0."""
    one, other = one.double(), other.double()
    return (torch.dot(one, other) / (one.norm() * other.norm())).item()


# ---- damage ------------------------------------------------------------------------------------------------------

def quadratic(product, delta):
    """1/2 delta' H delta, the second-order term of the loss along delta, by one product: a float."""
    return 0.5 * torch.dot(product(delta).double(), delta.double()).item()


def expansion(model, loss, parts, deltas):
    """g . delta and 1/2 delta' H delta of each delta, at the model's weights: a list of pairs; NaN where parts is empty."""
    if not parts:
        return [(math.nan, math.nan)] * len(deltas)
    g, product = gradient(model, loss, parts).double(), hessian(model, loss, parts)
    return [(torch.dot(g, delta.double()).item(), quadratic(product, delta)) for delta in deltas]


def along(model, loss, parts, theta, delta, times):
    """L(theta + t delta) - L(theta) for each t, a list: the measured change on the way. The model is left at theta."""
    losses = []
    for t in (0, *times):
        place(model, theta + t * delta)
        losses.append(value(model, loss, parts))
    place(model, theta)
    return [end - losses[0] for end in losses[1:]]


def reach(times, measured, first, second):
    """How far along delta the local theory holds: the largest t for which, at it and at each t before it,

        | t g.delta + t^2/2 delta' H delta - measured |  <=  0.2 (| t g.delta | + | t^2/2 delta' H delta |),

    0 if there is none. Both terms are the measure and not their sum, because they can cancel. times: ascending; measured:
    what `along` gave for them.
    """
    wrong = [abs(t * first + t**2 * second - change) > 0.2 * (abs(t * first) + abs(t**2 * second))
             for t, change in zip(times, measured)]
    return [0.0, *times][[*wrong, True].index(True)]


# ---- the conflict subspace -----------------------------------------------------------------------------------------

def eigen_shares(values, vectors, delta, second):
    """Share of the second-order damage 1/2 delta' H delta that the first k eigenvectors carry, for every k: a list.

    1/2 (P_S delta)' H (P_S delta) = 1/2 sum_{i <= k} lambda_i (v_i . delta)^2, S their span, the same for every B.
    """
    carried = 0.5 * values * inner(vectors, delta).cpu().square()                                        # (k,)
    return (carried.cumsum(0) / second).tolist()


def coordinate_share(product, delta, second, k):
    """The share of `second` that is left when all except the k largest coordinates of delta, by size, are set to 0."""
    index = delta.abs().topk(k).indices
    return quadratic(product, torch.zeros_like(delta).index_copy(0, index, delta[index])) / second


def random_share(k, n, trace, delta, second):
    """The share of `second` that k random directions of n carry, in expectation; trace: tr H.

    E[P H P] = k / (n (n - 1) (n + 2)) ((n (k + 1) - 2) H + (n - k) tr(H) I), P a uniformly random projector of rank k.
    """
    ratio = 0.5 * trace * torch.dot(delta.double(), delta.double()).item() / second
    return k / (n * (n - 1) * (n + 2)) * ((n * (k + 1) - 2) + (n - k) * ratio)


def trace(product, n, probes=8, seed=0, device="cpu"):
    """tr H by Hutchinson: the mean of z' H z over `probes` vectors z of random signs, unbiased: a float."""
    generator = torch.Generator().manual_seed(seed)
    signs = (torch.randint(2, (n,), generator=generator).mul(2).sub(1).float().to(device) for _ in range(probes))
    return sum(2 * quadratic(product, z) for z in signs) / probes


# ---- refresh ------------------------------------------------------------------------------------------------------

def bottom(values, vectors, g):
    """The step from theta_A to the minimum in S of the quadratic model: - sum_i (v_i . g_A) / lambda_i v_i, (n,).

    The pairs have to be `steep`. The theorem assumes that theta_A is that minimum: after so few steps of RL it is not quite.
    """
    return -(inner(vectors, g) / values.to(g.device)).float() @ vectors


def distances(point, centre, vectors):
    """|| P_S (point - centre) ||, S the span of the vectors, and the norm of the rest: two floats.

    The theorem, for descent of rate alpha: || P_S (theta_t - theta_A) || <= (1 - alpha mu)^t || P_S (theta_0 - theta_A) ||
    with mu the least curvature in S, if mu > 0 and the part of delta_B outside S hardly acts back on S. If it does, it moves
    the minimum in S away from theta_A, and the distance to theta_A does not go to 0.
    """
    moved = point - centre
    coordinates = inner(vectors, moved)                                                                  # (k,)
    return coordinates.norm().item(), (moved - vectors.T @ coordinates.float()).double().norm().item()


def descend(model, loss, parts, theta, alpha, steps):
    """Yield theta_0 = theta .. theta_steps, theta_{t+1} = theta_t - alpha grad L(theta_t). The caller may move the model."""
    yield theta
    for _ in range(steps):
        place(model, theta)
        theta = theta - alpha * gradient(model, loss, parts)
        yield theta
