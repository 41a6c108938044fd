"""Claims about rollback.py and what it calls: sets of coordinates against brute force, scores against autograd, tables
against hand-worked numbers.

Run by test_all.py.
"""
import contextlib
import io
import itertools
import json
import math
import shutil
from functools import lru_cache
from pathlib import Path

import torch

import domains
import evaluate
import model as models
import report
import rollback
from grpo import policy as policies
from grpo.scores import respond
from reports import recovery
from theory import conflict, coordinates, curvature
from theory.routes import activity
from theory.lineage import stage
from shared import (WORK, checkpoint, family, in_small_batches, lively, raises, random_weights, replaced, run, same_weights,
                    sequence_logps, small, talker, tiny, train, weights, whole_hessian, with_reward)


def flat(chosen, shapes):
    """A set as indices into all tensors one after the other: a Python set."""
    starts = dict(zip(shapes, itertools.accumulate([0] + [torch.Size(shape).numel() for shape in shapes.values()])))
    return {starts[name] + i for name, index in chosen.items() for i in index.tolist()}


# ---- coordinates.py ----------------------------------------------------------------------------------------------

def test_the_top_fraction_is_that_of_a_sort_of_all_scores_exactly_whatever_their_size_ties_and_zeros():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator).abs()
    cases = {"normal": {"a": draw(30, 7), "b": draw(1), "c": draw(400)},
             "forty decades": {"a": 10 ** (40 * torch.rand(50, 4, generator=generator) - 30), "b": draw(99) * 1e-43},
             "two upper halves": {"a": 1 + torch.rand(300, generator=generator) / 200,
                                  "b": 1 + torch.rand(300, generator=generator) / 200},
             "many zeros": {"a": draw(20, 20) * (torch.rand(20, 20, generator=generator) < 0.1),
                            "b": torch.zeros(50), "c": -torch.zeros(5)},
             "many ties": {"a": torch.randint(0, 4, (20, 20), generator=generator).float(), "b": torch.full((50,), 2.0)},
             "half precision": {"a": draw(300).bfloat16(), "b": draw(40, 3).half()}}
    for case, scores in cases.items():
        shapes = {name: tensor.shape for name, tensor in scores.items()}
        values = torch.cat([tensor.flatten().float() for tensor in scores.values()])
        positive = int((values > 0).sum())
        order = values.argsort(descending=True, stable=True).tolist()           # of equal ones, the first come first
        counts = [1, 2, 17, positive - 1, positive, len(values)]
        sets = coordinates.top(list(scores), scores.get, counts)
        for k, chosen in zip(counts, sets):
            assert flat(chosen, shapes) == set(order[:min(k, positive)]), (case, k)
            assert coordinates.size(chosen) == min(k, positive)
            assert all(len(index) and (index.diff() > 0).all() for index in chosen.values())
        for room in (0, 30, 10**6):                                             # as in a large model, where most are let go
            with replaced(coordinates, AT_ONCE=room):
                alone = [coordinates.top(list(scores), scores.get, [k])[0] for k in counts]
            assert [flat(a, shapes) for a in alone] == [flat(b, shapes) for b in sets], (case, room)
    assert coordinates.top(["a"], lambda name: torch.zeros(5), [3]) == [{}]


def test_scores_that_are_no_scores_are_an_error_with_the_tensors_name():
    for bad, words in ((math.nan, "not all finite"), (math.inf, "not all finite"), (-1.0, "below 0")):
        raises(lambda: coordinates.top(["ok", "w"], lambda name: torch.tensor([1.0, bad if name == "w" else 2.0]), [1]),
               "scores of w", words)
    model, rollout, rewards = small()
    case = conflict.Case(model, None, None, rollout, rewards.flatten(), counts=[1])
    raises(lambda: case.top(lambda name: torch.ones(3)), "model.embed_tokens.weight", "[3]", "[10, 4]")


def test_scores_are_asked_for_a_tensor_at_a_time_and_never_all_held():
    import weakref
    alive, most, asked = weakref.WeakSet(), [0], []

    def score(name):
        scores = torch.arange(1.0, 1001.0) * int(name[1:])
        alive.add(scores.untyped_storage())
        most[0] = max(most[0], len(alive))
        asked.append(name)
        return scores
    with replaced(coordinates, AT_ONCE=2000):
        coordinates.top([f"t{i}" for i in range(20)], score, [100, 500])
    assert asked == [f"t{i}" for i in range(20)] and most[0] <= 2, most


def test_a_random_set_has_its_size_and_every_coordinate_the_same_chance():
    shapes = {"small": torch.Size([3]), "large": torch.Size([5, 8])}
    hits = torch.zeros(43)
    for seed in range(400):
        chosen, = coordinates.top(list(shapes), lambda name: coordinates.random(name, shapes[name], seed), [7])
        assert coordinates.size(chosen) == 7
        hits[list(flat(chosen, shapes))] += 1
    expected, sigma = 400 * 7 / 43, math.sqrt(400 * 7 / 43 * 36 / 43)
    assert (hits - expected).abs().max() < 4.5 * sigma, hits
    again = [coordinates.top(list(shapes), lambda name: coordinates.random(name, shapes[name], seed), [7])[0]
             for seed in (1, 1, 2)]
    assert flat(again[0], shapes) == flat(again[1], shapes) != flat(again[2], shapes)


def test_a_set_comes_back_from_its_file_in_four_bytes_a_coordinate_and_fits_its_architecture_alone():
    shapes = {"model.a.weight": torch.Size([300, 50]), "model.b.bias": torch.Size([9])}
    chosen = {"model.a.weight": torch.arange(0, 15000, 3).int(), "model.b.bias": torch.tensor([8]).int()}
    path = WORK / "set.safetensors"
    coordinates.write(path, chosen, shapes, {"score": "fisher", "fraction": 0.3})
    again, about = policies.read_coordinates(path)
    assert again.keys() == chosen.keys() and all(torch.equal(again[name], chosen[name]) for name in chosen)
    assert about["score"] == "fisher" and about["coordinates"] == 5001 and path.stat().st_size < 4 * 5001 + 1000
    check = lambda other: models.check_equal(path, about["shapes"], "x", other)
    check(shapes)
    raises(lambda: check({**shapes, "model.b.bias": torch.Size([8])}),
           "model.b.bias", "[9]", "[8]")
    raises(lambda: check({"model.b.bias": torch.Size([9])}),
           "first at model.a.weight", "no such tensor")
    raises(lambda: check({**shapes, "extra": torch.Size([1])}), "extra", "no such tensor")
    coordinates.write(path, {"model.b.bias": torch.tensor([9])}, shapes, {"score": "x", "fraction": 1})  # beyond its tensor
    raises(lambda: policies.read_coordinates(path), "holds no coordinates")
    for text in (b"", b"no safetensors at all"):
        (WORK / "other.safetensors").write_bytes(text)
        raises(lambda: policies.read_coordinates(WORK / "other.safetensors"), "holds no coordinates")
    plain = Path(checkpoint("plain", random_weights())) / "model.safetensors"
    raises(lambda: policies.read_coordinates(plain), "holds no coordinates")
    raises(lambda: policies.read_coordinates(WORK / "missing.safetensors"), "holds no coordinates")


def test_rolled_back_coordinates_are_the_anchors_bit_for_bit_or_a_part_of_the_way_and_the_rest_is_untouched():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        anchor, damaged = (torch.randn(6, 5, generator=generator).to(dtype) for _ in range(2))
        index = torch.tensor([0, 7, 29])
        theta = damaged.clone()
        coordinates.roll_back(theta, anchor, index)
        back = torch.zeros(30, dtype=torch.bool).index_fill(0, index, True).view(6, 5)
        assert torch.equal(theta, torch.where(back, anchor, damaged)) and theta.dtype == dtype
    theta = torch.tensor([1.0, 2.0, 4.0])
    coordinates.roll_back(theta, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 2]), strength=0.25)
    assert theta.tolist() == [0.75, 2.0, 3.25]                                      # theta - beta delta
    theta = torch.tensor([1.0, 3.0]).bfloat16()
    coordinates.roll_back(theta, torch.tensor([1.0, 1.0]).bfloat16(), torch.tensor([1]), strength=0.3)
    assert theta.tolist() == [1.0, torch.tensor(2.4).bfloat16().item()]             # the mean in fp32, then rounded once


# ---- conflict.py -------------------------------------------------------------------------------------------------

def own_gradients():
    """Gradient of -log pi of each correct completion of `small`, each alone: (K, n) fp64."""
    model, rollout, rewards = small()
    correct = (rewards.flatten() == 1).nonzero().flatten().tolist()
    params = list(model.parameters())
    return torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(-sequence_logps(model, rollout, k), params)])
                        for k in correct]).double()


def test_the_fisher_averages_the_squares_of_each_answers_gradient_and_not_the_square_of_their_mean():
    model, rollout, rewards = small()
    for p in model.parameters():
        p.grad = torch.ones_like(p)                                    # what an earlier pass left
    held = []                                                          # gradients that exist when another one is ready
    watch = [p.register_post_accumulate_grad_hook(lambda p: held.append(sum(q.grad is not None for q in model.parameters())))
             for p in model.parameters()]
    F = conflict.fisher(model, rollout, rewards.flatten())
    [hook.remove() for hook in watch]
    assert len(held) >= len(F) and max(held) == 1                      # so no second copy of the parameters
    assert list(F) == [name for name, _ in model.named_parameters()] and all(p.grad is None for p in model.parameters())
    got, each = curvature.flatten(F.values()).double(), own_gradients()
    assert torch.allclose(got, each.square().mean(0), rtol=1e-3, atol=1e-7)
    wrong = each.mean(0).square()
    assert got.sum() > 2 * wrong.sum()                                 # near an optimum it would be many times as much
    order = lambda values: set(values.topk(16).indices.tolist())
    assert order(got) != order(wrong)                                  # and others would be picked
    _, slope = conflict.slopes(model, curvature.own_correct(rollout, rewards.flatten()))
    assert any(g.any() for g in slope.values())                        # no hook has stayed that lets gradients go
    model.zero_grad()


def test_loss_and_slopes_are_those_of_autograd_in_one_batch_or_many():
    model, rollout, rewards = small()
    each, (g, _) = own_gradients(), whole_hessian()
    for _ in range(2):                                                 # the second is not added to the first
        loss, slope = in_small_batches(lambda: conflict.slopes(model, curvature.own_correct(rollout, rewards.flatten())))
        assert torch.allclose(curvature.flatten(slope.values()).double(), g, rtol=1e-3, atol=1e-6)
        assert torch.allclose(each.mean(0), g, rtol=1e-3, atol=1e-6)
    direct = -sum(sequence_logps(model, rollout, k).item()
                  for k in (rewards.flatten() == 1).nonzero().flatten().tolist()) / len(each)
    assert abs(loss - direct) < 1e-5
    model.zero_grad()


def test_the_quadratic_model_with_all_eigenpairs_is_the_taylor_expansion_and_with_some_its_part_in_s():
    model, rollout, rewards = small()
    g, H = whole_hessian()
    theta = curvature.flatten(model.parameters()).detach().clone()
    values, vectors = torch.linalg.eigh(H)
    x = 0.1 * torch.randn(len(theta), generator=torch.Generator().manual_seed(0))
    try:
        curvature.place(model, theta + x)
        q, slope = conflict.quadratic_slopes(model, g.float(), values, vectors.T.float(), theta)
        assert abs(q - (g @ x.double() + 0.5 * x.double() @ H @ x.double()).item()) < 1e-4 * abs(q) + 1e-5
        assert torch.allclose(curvature.flatten(slope.values()).double(), g + H @ x.double(), rtol=1e-3, atol=1e-4)
        curvature.place(model, theta)
        parts = curvature.own_correct(rollout, rewards.flatten())
        with replaced(conflict, DIRECTIONS=5):
            got_g, found, V, at = conflict.leading(model, parts)
        assert torch.allclose(got_g.double(), g, rtol=1e-3, atol=1e-5) and torch.equal(at, theta)
        assert torch.allclose(found, values.flip(0)[:5], rtol=1e-3) and V.shape == (5, len(theta))
    finally:
        curvature.place(model, theta)


class Bowl(torch.nn.Module):
    """L = g . x + 1/2 x' H x around the anchor 0: weights with a known loss, in two tensors."""

    def __init__(self, delta, H, g=None):
        super().__init__()
        self.a = torch.nn.Parameter(delta[:4].clone().view(2, 2))
        self.b = torch.nn.Parameter(delta[4:].clone())
        self.H, self.g = H, torch.zeros(len(delta)) if g is None else g

    def x(self):
        return curvature.flatten(self.parameters())

    def look(self):
        x = self.x().detach()
        slope = self.g + self.H @ x
        return (self.g @ x + 0.5 * x @ self.H @ x).item(), {"a": slope[:4].view(2, 2), "b": slope[4:]}

    def grow(self, counts, step=1, goal=-math.inf):
        """Sets of these sizes, grown by `step` coordinates at a time."""
        shapes = {"a": (2, 2), "b": (len(self.b),)}
        with replaced(conflict, STEP=step / len(self.g)):
            sets = conflict.rescored(self, self.look, goal, lambda name: torch.zeros(shapes[name]), counts)
        return [flat(chosen, shapes) for chosen in sets]


def test_rescoring_stops_where_nothing_is_left_to_undo_while_the_harmful_sign_undoes_one_half_of_a_correlated_move():
    # Twelve coordinates move; in the one direction of curvature the moves cancel but for 2: +1 seven times, -1 five times.
    delta = torch.tensor([1.0] * 7 + [-1.0] * 5)
    v = torch.ones(12)
    damage = lambda x: 0.5 * (v @ x).square().item()
    g = 0.1 * v                                                        # A has not quite converged along v
    harmful = delta.where(g * delta > 0, torch.zeros(()))              # the filter's set: all +1
    undone = delta - harmful
    assert damage(delta) == 2.0 and damage(undone) == 12.5             # v . x goes from 2 to -5: far on the other side
    loss = lambda x: (g @ x).item() + damage(x)                        # what the rescored sets see as well
    assert loss(undone) > 2 * loss(delta)
    bowl = Bowl(delta, torch.outer(v, v), g)
    sets = bowl.grow([1, 2, 6, 12], goal=1e-6)                         # the anchor's loss is 0
    assert [len(s) for s in sets] == [1, 2, 2, 2] and sets[0] < sets[1] == sets[2]      # the third would overshoot
    assert all(delta[i] == 1 for i in sets[1]) and damage(bowl.x().detach()) == 0.0 and loss(bowl.x().detach()) < 1e-6
    # the diagonal sees no difference between any of them: all H_ii delta_i^2 are 1
    assert (torch.outer(v, v).diagonal() * delta**2).unique().tolist() == [1.0]


def test_rescored_sets_are_nested_exact_in_size_and_do_not_depend_on_the_sizes_asked_for():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(40, 40, generator=generator)
    delta, H = torch.randn(40, generator=generator), root @ root.T + 5 * torch.eye(40)
    all_sizes = [1, 3, 4, 5, 9, 14]
    together = Bowl(delta, H).grow(all_sizes, step=4)
    alone = [Bowl(delta, H).grow([k], step=4)[0] for k in all_sizes]
    assert together == alone and [len(s) for s in together] == all_sizes
    assert all(a <= b for a, b in zip(together, together[1:]))


def test_a_size_is_reached_in_a_later_step_where_one_has_found_too_few():
    # A step of eight may take the four that help now; after it four others help.
    delta = torch.ones(12)
    H = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 8))
    H[4:8, 0:4] = H[0:4, 4:8] = 0.5
    H[4:8, 4:8] = -0.5 * torch.eye(4)
    sets = Bowl(delta, H).grow([2, 8, 9], step=8)
    assert (H @ delta * delta > 0).sum() == 8 and [len(s) for s in sets] == [2, 8, 8], sets
    generator, short = torch.Generator().manual_seed(0), 0
    for _ in range(30):                                                # no size is left below what a larger one has reached
        root = torch.randn(12, 12, generator=generator)
        delta, H = torch.randn(12, generator=generator), root + root.T
        small_set, large_set = Bowl(delta, H).grow([7, 12], step=8)
        assert len(small_set) == min(7, len(large_set)) and small_set <= large_set
        short += len(large_set) > 8
    assert short                                                       # some took a second step


def test_rescoring_picks_the_coordinate_of_largest_first_order_fall_and_ends_at_the_goal():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(10, 10, generator=generator)
    delta, H, g = torch.randn(10, generator=generator), root @ root.T, 0.1 * torch.randn(10, generator=generator)
    x, order, loss = delta.clone(), [], [(g @ delta + 0.5 * delta @ H @ delta).item()]
    while True:                                                        # by hand, one after the other
        fall = (g + H @ x) * x
        if loss[-1] <= 0.5 or fall.max() <= 0:
            break
        order.append(int(fall.argmax()))
        x[order[-1]] = 0
        loss.append((g @ x + 0.5 * x @ H @ x).item())
    sets = Bowl(delta, H, g).grow(list(range(1, 11)), goal=0.5)
    assert len(order) > 2 and [len(s) for s in sets] == [min(k, len(order)) for k in range(1, 11)]
    assert all(s == set(order[:len(s)]) for s in sets)
    assert Bowl(delta, H, g).grow([5], goal=1e9) == [set()]            # no damage: nothing is undone


def test_the_shared_route_keeps_the_coordinates_of_neurons_that_both_domains_use_and_nothing_else():
    model, _, _ = small()                                              # two MLPs of six channels
    first, second, third = (torch.zeros(12, dtype=torch.float64) for _ in range(3))
    first[[2, 9]], second[[2, 3]], third[[9, 4]] = 1.0, 1.0, 1.0       # the three most active would be more than a tenth
    with replaced(conflict, ROUTE=2 / 12):
        mask = conflict.on_route(model, [first, second, third])
    kept = {name: (torch.ones_like(p) * mask(name, p)).nonzero().tolist() for name, p in model.named_parameters()}
    fused = mask("model.layers.1.mlp.gate_up_proj.weight", torch.ones(12, 4))
    for layer, channel in ((0, 2), (1, 3)):
        mlp = f"model.layers.{layer}.mlp."
        assert kept.pop(mlp + "gate_proj.weight") == kept.pop(mlp + "up_proj.weight") == [[channel, c] for c in range(4)]
        assert kept.pop(mlp + "down_proj.weight") == [[r, channel] for r in range(4)]
    assert not any(kept.values())
    assert fused.flatten().nonzero().flatten().tolist() == [3, 9]      # gate and up of channel 3
    raises(lambda: conflict.on_route(model, [first]), "two domains")
    raises(lambda: conflict.on_route(model, [None, None]), "down_proj")


# ---- rollback.py: sets -------------------------------------------------------------------------------------------

def test_every_score_picks_what_its_formula_says_and_what_is_left_in_s_is_that_of_the_eigenvectors():
    model, rollout, rewards = small()
    g, H = whole_hessian()
    theta = curvature.flatten(model.parameters()).detach().clone()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    n = len(theta)
    delta = 0.05 * torch.randn(n, generator=torch.Generator().manual_seed(5))
    delta[::7] = 0.0                                                   # some do not move
    tensors = lambda vector: dict(zip(shapes, (t.detach().clone() for t in curvature.unflatten(model, vector)))).__getitem__
    A, B = tensors(theta), tensors(theta + delta)
    moved = (theta + delta) - theta                                    # as fp32 has it
    scores = ["gradient", "fisher", "fisher+sign", "fisher+route", "curvature"]
    args = rollback.parse(["--anchor", "a", "--damaged", "b", "--domain", "math", "--later", "qa", "--score", *scores,
                           "--fraction", "0.05", "0.1", "--eval-prompts", "1"])
    own, qa = (rollout, rewards.flatten()), rollout.select([0, 1])
    case = conflict.Case(model, A, B, *own, counts=[round(f * n) for f in args.fraction], others=[qa])
    parts = curvature.own_correct(*own)
    goals, original = [], conflict.rescored
    watched = lambda model, look, goal, *more: (goals.append(goal), original(model, look, goal, *more))[1]
    with replaced(conflict, ROUTE=0.5, DIRECTIONS=4, rescored=watched):
        sets, seconds = rollback.pick(args, case)
        curvature.place(model, theta)
        on = conflict.on_route(model, [activity(model, some) for some in (rollout, qa)])
    route = torch.cat([(torch.ones(shape) * on(name, torch.ones(shape))).flatten() for name, shape in shapes.items()])
    assert goals[0] == curvature.value(model, curvature.nll, parts) and goals[1] == 0.0  # L_A of the anchor; q(theta_A)
    fisher = own_gradients().square().mean(0).float() * moved**2
    best = lambda scores, k: set(scores.topk(k).indices.tolist())
    near = lambda found, wanted: len(found & wanted) >= len(wanted) - 1 and len(found) == len(wanted)  # ties of rounding
    for fraction in args.fraction:
        k = round(fraction * n)
        got = {score: flat(sets[score, fraction], shapes) for score in (*scores, *conflict.CONTROLS)}
        assert near(got["fisher"], best(fisher, k))
        assert near(got["fisher+sign"], best(fisher * (g.float() * moved > 0), k))
        assert near(got["fisher+route"], best(fisher * route, k))
        assert near(got["largest"], best(moved.abs(), k))
        assert len(got["random"]) == k and all(moved[i] != 0 for i in got["random"]) and got["random"] != got["largest"]
    assert set(seconds) == {*scores, *conflict.CONTROLS} and all(s >= 0 for s in seconds.values())
    args.score, case.seed = [], 1
    other, _ = rollback.pick(args, case)
    curvature.place(model, theta)
    assert flat(other["random", 0.1], shapes) != flat(sets["random", 0.1], shapes)     # another pair, another draw
    assert flat(other["largest", 0.1], shapes) == flat(sets["largest", 0.1], shapes)
    values, vectors = torch.linalg.eigh(H)
    values, vectors = values.flip(0)[:4], vectors.flip(1)[:, :4]
    chosen = sets["fisher", 0.1]
    kept = moved.double().clone()
    kept[sorted(flat(chosen, shapes))] = 0.0
    damage = lambda x: (values * (vectors.T @ x).square()).sum()
    expected = (damage(kept) / damage(moved.double())).item()

    def rolled(name):
        t = B(name).clone()
        if name in chosen:
            coordinates.roll_back(t, A(name), chosen[name])
        return t
    assert abs(conflict.left_in_s(case.spectrum, rolled, B, shapes) - expected) < 1e-3 * max(1, expected)
    assert abs(rollback.squared_distance(rolled, B, shapes) - (moved.double() - kept).square().sum().item()) < 1e-9


# ---- reports/recovery.py ---------------------------------------------------------------------------------

def a_report(math_scores, qa_scores, later=("qa",)):
    """A report whose rows have these scores, three prompts each: {label: points}."""
    rows = []
    for label in math_scores:
        score, _, share = label.rpartition(" ")[0].rpartition(" ")
        facts = {"score": score, "fraction": float(share) / 100, "share": float(share) / 100, "norm_share": 0.1, "coordinates": 5,
                 "seconds": 2.0} if label.endswith("%") else {}
        domain = lambda s: {"score": s, "ci95": 1.0, "prompt_scores": {"x": s - 5, "y": s, "z": s + 5}}
        rows.append({"label": label, **facts, "loss": 1 - math_scores[label] / 100, "math": domain(math_scores[label]),
                     "qa": domain(qa_scores[label])})
    return {"domain": "math", "later": list(later), "rows": rows}


def printed(reports):
    """What recovery.tables prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        recovery.tables(reports)
    return out.getvalue()


def test_won_back_kept_and_claims_are_those_worked_by_hand():
    labels = ["damaged", "fisher 1 %", "gradient 1 %", "largest 1 %", "random 1 %", recovery.FULL]
    maths = [dict(zip(labels, m)) for m in ((50, 55, 60, 51, 51, 70), (60, 67, 71, 60, 62, 80))]
    qas = [dict(zip(labels, q)) for q in ((80, 79, 80, 80, 80, 60), (80, 78, 79, 80, 80, 60))]
    text = printed([a_report(m, q) for m, q in zip(maths, qas)])
    row = lambda label, n: [cell.strip() for cell in [
        line for line in text.splitlines() if line.startswith(f"| {label} ")][n].split("|")[1:-1]]
    assert row("fisher 1 %", 0)[1].startswith("61.0 (+6.0")            # mean of 55 and 67; of +5 and +7
    share = row("fisher 1 %", 1)
    # 6 of 20; per tenth of the norm
    assert share[1:3] == ["1 %", "10 %"] and share[3].startswith("30.0 ±") and share[4].startswith("3.0 ±")
    assert share[5].startswith("92.5")                                 # of 20 points of qa, 1.5 are lost
    assert row("gradient 1 %", 1)[3].startswith("52.5") and row("random 1 %", 1)[3].startswith("7.5")
    claim = {line.split("|")[1].strip(): line.split("|")[-2].strip()
             for line in text.splitlines() if line.endswith((" yes |", " no |"))}
    assert claim["gradient 1 %: wins back at least 50 % of what full rollback does"] == "yes"
    assert claim["gradient 1 %: at least three times what as large a random set does"] == "yes"
    assert claim["gradient 1 %: qa keeps at least 95 % of its gain"] == "yes"       # 97.5 %
    # +6 ± 12.7
    some = "fisher 1 %: wins back some of math, beyond error and beyond chance (paper: recovers in part)"
    assert claim[some] == "no" and len(claim) == 4
    why, = (line.split("|")[2].strip() for line in text.splitlines() if some in line)
    assert why.startswith("30.0 ± ") and why.endswith(" %, within its error, no more than chance")
    # what is worse than a bad control is not three times as good, an empty set has no price, and controls alone make no claim
    worse = {"fisher 1 %": 40, "gradient 1 %": 41, "random 1 %": 45}
    reports = [a_report({**m, **worse}, q) for m, q in zip(maths, qas)]
    for report in reports:
        report["rows"][1]["norm_share"] = 0.0
    alone = [{**report, "rows": [row for row in report["rows"] if row.get("score") not in ("fisher", "gradient")]}
             for report in reports]
    for some, expected in ((reports, ["no"] * 3 + ["yes"]), (alone, [])):
        text = printed(some)
        verdicts = [line.split("|")[-2].strip() for line in text.splitlines() if line.endswith((" yes |", " no |"))]
        assert verdicts == expected and ("| claim " in text) == bool(expected), text
        assert ("less than 50 %" in text) == bool(expected)                            # a no says why


def test_tables_say_so_where_nothing_has_fallen_and_one_pair_has_intervals_over_prompts():
    labels = ["damaged", "fisher 0.1 %", "largest 0.1 %", "random 0.1 %", recovery.FULL]
    same = dict.fromkeys(labels, 50)
    for reports, words in (([a_report(same, same)], "nothing to win back"),
                           ([a_report(dict(zip(labels, (50, 60, 50, 50, 70))), same)], "± ")):
        text = printed(reports)
        assert words in text and "over prompts" in text
    assert "won back" in text and "qa kept" not in text                             # qa had no gain to keep


# ---- rollback.py and --protect, run whole ------------------------------------------------------------------------

def rolled_back(out, *argv, code=0, anchor=None, damaged=None):
    """rollback.py on the family, with Math as the damaged domain: its stdout, or stderr where it fails."""
    got, stdout, stderr = run(rollback.main, "--anchor", anchor or family()["math"], "--damaged",
                              damaged or family()["math-qa"], "--domain", "math", "--data", f"math={talker()[1]}",
                              "qa=synthetic", "--prompts", 16, "--max-completion-length", 4,
                              "--eval-prompts", 8, *(["--out", out] if out else []), *argv)
    assert got == code, (got, stdout, stderr)
    return stdout if code == 0 else stderr


def test_a_rolled_back_checkpoint_has_the_anchors_numbers_at_its_coordinates_and_the_damaged_ones_elsewhere():
    out = WORK / "rolled"
    text = rolled_back(out, "--score", "fisher", "--fraction", 0.01, "--json", WORK / "rolled.json")
    anchor, damaged, rolled = (weights(x) for x in (family()["math"], family()["math-qa"], out))
    chosen, about = policies.read_coordinates(out / "coordinates.safetensors")
    n = sum(t.numel() for t in damaged.values())
    assert coordinates.size(chosen) == round(0.01 * n) and f"{out}: {round(0.01 * n)} coordinates rolled back" in text
    for name, tensor in damaged.items():
        back = torch.zeros(tensor.numel(), dtype=torch.bool).index_fill(0, chosen.get(name, torch.tensor([])).long(), True)
        assert torch.equal(rolled[name], torch.where(back.view_as(tensor), anchor[name], tensor)), name
    lineage = models.read_run(out)
    assert lineage["recipe"] == [*models.read_run(family()["math-qa"])["recipe"], "rollback:fisher:0.01 0"]
    assert lineage["parent"] == family()["math-qa"] == about["damaged"]
    assert lineage["anchor"] == family()["math"] == about["anchor"]
    report = json.loads((WORK / "rolled.json").read_text())
    assert report["later"] == ["qa"]
    labels = [row["label"] for row in report["rows"]]
    assert labels == ["damaged", "fisher 1 %", "largest 1 %", "random 1 %", recovery.FULL]
    assert all(f"| {label} " in text for label in labels)
    delta = torch.cat([(damaged[name] - anchor[name]).flatten() for name in damaged])
    undone = torch.cat([(damaged[name] - rolled[name]).flatten() for name in damaged])
    row = report["rows"][1]
    assert row["coordinates"] == round(0.01 * n) and abs(row["norm_share"] - undone.norm() / delta.norm()) < 1e-5
    # the same score as evaluate.py's
    assert run(evaluate.main, out, "--data", f"math={talker()[1]}", "--held-out", "--domains", "math", "--prompts", 8,
               "--max-completion-length", 4, "--json", WORK / "rolled-eval.json")[0] == 0
    assert json.loads((WORK / "rolled-eval.json").read_text())[str(out)]["math"]["prompt_scores"] == row["math"]["prompt_scores"]
    # the whole of delta is the anchor; half of it half-way
    rolled_back(WORK / "all", "--score", "largest", "--fraction", 1, "--eval-prompts", 0)
    assert same_weights(WORK / "all", family()["math"])
    rolled_back(WORK / "half", "--score", "largest", "--fraction", 1, "--eval-prompts", 0, "--strength", 0.5)
    assert all(torch.allclose(t, (anchor[name] + damaged[name]) / 2, atol=1e-7) for name, t in weights(WORK / "half").items())


def test_every_score_and_fraction_gets_its_checkpoint_and_its_row_and_sharded_files_give_the_same():
    scores = ("fisher", "fisher+route", "fisher+sign", "gradient", "curvature", "largest", "random")
    rolled_back(WORK / "many", "--score", *scores, "--fraction", 0.02, 0.001, "--json", WORK / "many.json", "--beside",
                f"refresh={family()['again']}")
    rows = {row["label"]: row for row in json.loads((WORK / "many.json").read_text())["rows"]}
    assert {"damaged", "refresh", recovery.FULL} | {f"{score} {share} %" for score in scores
                                                    for share in ("0.1", "2")} == rows.keys()
    n = sum(t.numel() for t in weights(family()["math"]).values())
    for score in scores:
        small, large = (policies.read_coordinates(WORK / "many" / f"{score}-{f}" / "coordinates.safetensors")[0]
                        for f in ("0.001", "0.02"))
        assert all(set(index.tolist()) <= set(large[name].tolist()) for name, index in small.items())
        assert coordinates.size(small) == rows[f"{score} 0.1 %"]["coordinates"] <= round(0.001 * n)
        assert coordinates.size(large) == round(0.02 * n) or score in ("gradient", "curvature")
        assert models.load(str(WORK / "many" / f"{score}-0.02"))
        if score == "fisher+route":
            assert large and all("mlp" in name for name in large)
        assert 0 <= rows[f"{score} 2 %"]["in_S"] < math.inf
    # rows and losses are those of the checkpoints that they are called by, as evaluate.py and curvature.py see them
    names = {"damaged": family()["math-qa"], recovery.FULL: family()["math"], "refresh": family()["again"],
             "curvature 2 %": str(WORK / "many" / "curvature-0.02")}
    assert run(evaluate.main, *names.values(), "--data", f"math={talker()[1]}", "--held-out", "--domains", "math", "--prompts", 8,
               "--max-completion-length", 4, "--json", WORK / "many-eval.json")[0] == 0
    scores_of = json.loads((WORK / "many-eval.json").read_text())
    model, tokenizer = models.load(family()["math"])
    held_out = domains.evaluation_rows("math", talker()[1], "", 16, "validation")
    answers, _, rewards = respond(model, tokenizer, "math", held_out, samples=4, temperature=1.0, max_completion_length=4)
    parts = curvature.own_correct(answers, rewards.flatten())
    for label, name in names.items():
        assert scores_of[name]["math"]["prompt_scores"] == rows[label]["math"]["prompt_scores"], label
        assert abs(curvature.value(models.load(name)[0], curvature.nll, parts) - rows[label]["loss"]) < 1e-5, label
    for name in ("math", "math-qa"):                 # the same weights in several files
        model, tokenizer = models.load(family()[name])
        model.save_pretrained(WORK / f"sharded-{name}", max_shard_size="20KB")
        tokenizer.save_pretrained(WORK / f"sharded-{name}")
        assert len(list((WORK / f"sharded-{name}").glob("*.safetensors"))) > 1
    shards = {"anchor": WORK / "sharded-math", "damaged": WORK / "sharded-math-qa"}
    rolled_back(WORK / "from-shards", "--score", "fisher", "--fraction", 0.02, "--eval-prompts", 0, **shards)
    assert same_weights(WORK / "from-shards", WORK / "many" / "fisher-0.02")
    assert "--later" in rolled_back(None, "--score", "fisher+route", code=2, **shards)  # no run.json says what was trained
    rolled_back(WORK / "from-shards-2", "--score", "fisher+route", "--fraction", 0.02, "--later", "qa",
                "--eval-prompts", 0, **shards)
    assert same_weights(WORK / "from-shards-2", WORK / "many" / "fisher+route-0.02")


def test_the_default_is_the_method_that_the_readme_recommends_and_siblings_are_warned_of():
    args = rollback.parse(["--anchor", family()["math"], "--damaged", family()["math-qa"], "--domain", "math"])
    assert (args.score, args.fraction, args.later) == (["gradient"], [0.05], ["qa"])
    common = ("--anchor", family()["math"], "--domain", "math", "--data", f"math={talker()[1]}", "--prompts", 16,
              "--max-completion-length", 4, "--eval-prompts", 0, "--score", "largest", "--fraction", 0.01)
    for name, warned in (("math-qa", False), ("qa", True)):            # trained on from the anchor; beside it
        code, text, err = run(rollback.main, *common, "--damaged", family()[name], "--out", WORK / f"warned-{name}")
        assert code == 0 and "coordinates rolled back" in text, err
        assert ("was not trained on from" in err) == warned and err.count("\n") == warned, err


def test_controls_load_no_model_and_ask_for_no_answers():
    def needless(*_, **__):
        raise AssertionError("a model")
    common = ("--fraction", 0.01, "--eval-prompts", 0)
    with replaced(rollback, load=needless, respond=needless, set_judge=needless):
        rolled_back(WORK / "controls", "--score", "largest", "random", *common)
    rolled_back(WORK / "with-model", "--score", "largest", "fisher", *common)
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (WORK / "controls/largest-0.01" / name).read_bytes() == (WORK / "with-model/largest-0.01" / name).read_bytes()
    assert models.load(str(WORK / "controls/random-0.01"))
    anchor, damaged, rolled = (weights(x) for x in (family()["math"], family()["math-qa"], WORK / "controls/largest-0.01"))
    sizes = torch.cat([(damaged[name] - anchor[name]).abs().flatten() for name in damaged])
    back = torch.cat([(damaged[name] != rolled[name]).flatten() for name in damaged])
    assert back.sum() == round(0.01 * len(sizes)) and sizes[back].min() >= sizes[~back].max()


def test_a_domain_of_ones_own_is_rolled_back_and_found_again_by_the_run():
    file = WORK / "digits.py"
    file.write_text("def synthetic(rng):\n a, b = rng.randint(0, 9), rng.randint(0, 9)\n"
                    " return {'sum': f'{a}+{b}=', 'reference': str(rng.randint(0, 9))}\n"
                    "def prompt(row):\n return row['sum']\n"
                    "def answer(completion, row):\n return completion.strip() or None\n"
                    "def reward(completions, rows):\n return [float(text.strip().isdigit()) for text in completions]\n")
    anchor, damaged = WORK / "own-anchor", WORK / "own-damaged"
    made_with = {"domain_files": {domains.use(str(file)): domains.source("digits")}}
    for name, place, recipe in (("math", anchor, ["base", "digits 9"]), ("math-qa", damaged, ["base", "digits 9", "qa 9"])):
        model, tokenizer = models.load(family()[name])
        models.save(model, tokenizer, place, {"parent": None, "lineage": [str(anchor)], "recipe": recipe, **made_with})
    del domains.loaded["digits"]                                       # as in a new process
    code, text, err = run(rollback.main, "--anchor", anchor, "--damaged", damaged, "--domain", file, "--out", WORK / "own-rolled",
                          "--json", WORK / "own.json", "--prompts", 8, "--eval-prompts", 4, "--max-completion-length", 4)
    assert code == 0 and "warning" not in err, err
    report = json.loads((WORK / "own.json").read_text())
    assert report["domain"] == "digits" and report["later"] == ["qa"] and models.read_run(WORK / "own-rolled")["domain_files"]
    assert all({"digits", *domains.DOMAINS} <= row.keys() for row in report["rows"]) and "digits" in text


def test_recovery_puts_reports_together_draws_them_and_refuses_what_does_not_belong():
    for name, argv in (("one", {}), ("two", {"damaged": family()["again"]}), ("other", {})):
        more = ["--fraction", 0.01] if name == "other" else []
        rolled_back(None, *more, "--json", WORK / f"{name}.json", "--beside", f"refresh={family()['again']}", **argv)
    one, two, other = (WORK / f"{name}.json" for name in ("one", "two", "other"))
    code, text, err = run(report.main, one, two, "--plot", WORK)
    assert code == 0 and "2 seeds" in text and "over seeds" in text and "| refresh " in text, err
    try:
        import matplotlib  # noqa: F401
        assert (WORK / "rollback.png").stat().st_size > 5000
    except ImportError:
        assert "matplotlib is not installed" in text
    for argv, words in (([one, other], "other rows"), ([one, one], "leave one of them out"),
                        ([one, talker()[1]], "no report of rollback.py"), ([one, "--plot", "x.jpg"], "name a directory")):
        code, _, err = run(report.main, *argv)
        assert code == 2 and words in err and err.count("\n") == 1, err


def test_mistakes_with_rollback_are_one_line_and_leave_what_stands():
    out = WORK / "kept-safe"
    rolled_back(out, "--eval-prompts", 0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    other = tiny_of_another_shape()
    for words, argv, more in (
            ("--overwrite replaces", ["--eval-prompts", 0], {}), ("--fraction: must be above 0", ["--fraction", 0], {}),
            ("--strength: must be", ["--strength", 1.5], {}), ("write LABEL=CHECKPOINT", ["--beside", "refresh"], {}),
            ("--score nonsense: choose from fisher", ["--overwrite", "--score", "nonsense"], {}),
            ("--json and --beside", ["--overwrite", "--eval-prompts", 0, "--json", "x"], {}),
            ("not of one architecture, first at", ["--overwrite"], {"damaged": other}),
            ("nothing to roll back", ["--overwrite"], {"damaged": family()["math"]}),
            ("no checkpoint at", ["--overwrite"], {"anchor": "checkpoints/none"}),
            ("reads", ["--overwrite", "--out", family()["math"]], {}),
            ("--prompts: must be", ["--prompts", 0], {}), ("cannot write", ["--overwrite", "--json", "/nowhere/x.json"], {}),
            ("would be called 'a'", ["--overwrite", "--beside", *[f"a={family()['again']}"] * 2], {})):
        err = rolled_back(out, *argv, code=2, **more)
        assert words in err and err.count("\n") == 1 and "Traceback" not in err, (words, err)
    several = WORK / "several"
    rolled_back(several, "--score", "largest", "--fraction", 0.3, 0.6, "--eval-prompts", 0)
    kept = (several / "largest-0.3" / "model.safetensors").read_bytes()
    for read in ({"damaged": several / "largest-0.3"}, {"anchor": several / "largest-0.6"}):       # places below --out are read
        assert "reads" in rolled_back(several, "--score", "largest", "--fraction", 0.3, 0.6, "--overwrite", code=2, **read)
    assert "reads" in rolled_back(out, "--overwrite", "--beside", f"mine={out}", code=2)
    assert (several / "largest-0.3" / "model.safetensors").read_bytes() == kept
    assert "exists" in rolled_back(out / "run.json", "--score", "fisher", "largest", code=2)
    plain = WORK / "plain-anchor"                    # a hub model: no run.json
    shutil.copytree(family()["math"], plain)
    (plain / "run.json").unlink()
    rolled_back(WORK / "from-plain", "--eval-prompts", 0, anchor=plain, damaged=family()["again"])
    assert models.read_run(WORK / "from-plain")["rolled_back"] == "math"
    assert models.read_run(WORK / "from-plain")["domain"] is None
    assert "| largest 5 % " in rolled_back(None, "--score", "largest", "--fraction", 0.05)        # controls alone
    broken = WORK / "broken.safetensors"
    models.save_tensors({"a": torch.zeros(1, dtype=torch.int32)}, broken,
                        {"about": json.dumps({"shapes": [], "score": "x", "fraction": 1})})
    for file in (broken, talker()[1]):
        raises(lambda: policies.read_coordinates(file), "holds no coordinates")
    assert "nothing to do" in rolled_back(None, "--eval-prompts", 0, code=2)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    # another name of the anchor's own directory
    rolled_back(WORK / "family" / "math" / "x" / "..", "--overwrite", code=2)
    rolled_back(out, "--overwrite", "--score", "largest", "--fraction", 0.05, "--eval-prompts", 0)
    assert coordinates.size(policies.read_coordinates(out / "coordinates.safetensors")[0]) > 100


@lru_cache
def tiny_of_another_shape():
    from transformers import Qwen3Config, Qwen3ForCausalLM
    _, model, tokenizer = tiny()
    wide = Qwen3ForCausalLM(Qwen3Config(**{**model.config.to_dict(), "intermediate_size": 80}))
    models.save(wide, tokenizer, WORK / "wide", {"parent": None})
    return str(WORK / "wide")


def test_protected_coordinates_do_not_move_while_the_others_do_also_in_bf16_and_after_an_interruption():
    source = WORK / "protect"
    rolled_back(source, "--score", "fisher", "--fraction", 0.05, "--eval-prompts", 0)
    chosen, _ = policies.read_coordinates(source / "coordinates.safetensors")
    init, options = family()["math"], ("--init", family()["math"], "--domain", "qa", "--inner-updates", 2, "--protect",
                                       source / "coordinates.safetensors")
    calm = with_reward(lively, lambda: train(WORK / "protected", *options, "--steps", 4))
    free = with_reward(lively, lambda: train(WORK / "unprotected", *options[:-2], "--steps", 4))
    before, after, other = weights(init), weights(calm), weights(free)
    for name, tensor in before.items():
        index = chosen.get(name, torch.tensor([])).long()
        assert torch.equal(after[name].flatten()[index], tensor.flatten()[index]), name
        rest = torch.ones(tensor.numel(), dtype=torch.bool).index_fill(0, index, False)
        assert (after[name] != tensor).flatten()[rest].double().mean() > 0.9 * (other[name] != tensor).double().mean() > 0, name
    assert models.read_run(calm)["recipe"][-1] == "qa:protected-fisher-0.05 4"
    assert stage("qa:protected-fisher-0.05 4") == (["qa"], 4)
    calls = []

    def dies(domain, completions, rows):
        calls.append(1)
        if len(calls) == 4:
            raise models.UserError("pulled the plug")
        return lively(domain, completions, rows)
    with_reward(dies, lambda: train(WORK / "protected-2", *options, "--steps", 4, "--save-every", 2, code=2))
    right = (source / "coordinates.safetensors").read_bytes()
    rolled_back(source, "--fraction", 0.05, "--score", "random", "--eval-prompts", 0, "--overwrite")
    with_reward(lively, lambda: train(WORK / "protected-2", *options, "--steps", 4, "--resume", code=2))    # another set is there
    (source / "coordinates.safetensors").write_bytes(right)
    with_reward(lively, lambda: train(WORK / "protected-2", *options, "--steps", 4, "--resume"))
    assert same_weights(calm, WORK / "protected-2")
    policy = policies.Policy(models.load(init)[0], torch.bfloat16, frozen=chosen)
    (sum((p.float() ** 2).sum() for p in policy.parameters)).backward()
    policy.step(1e-2, 1.0)
    moved = policy.state_dict()
    assert all(torch.equal(moved[name].flatten()[index], before[name].flatten()[index]) for name, index in chosen.items())
    assert any((moved[name] != before[name]).any() for name in before)
    got = train(WORK / "never", "--init", tiny_of_another_shape(), *options[2:], code=2)
    assert not got.exists()


def test_a_protected_stage_and_a_rollback_are_rows_of_their_own_and_no_part_of_the_matrix():
    runs = {("base",): 50, ("base", "math 9"): 70, ("base", "math 9", "qa 9"): 60, ("base", "math 9", "qa:protected 9"): 69,
            ("base", "math 9", "qa 9", "rollback:fisher:0.01 0"): 65}
    entry = lambda recipe, s, seed: {"recipe": list(recipe), "seed": seed, "evaluated": {}, "training": {},
                                     **{d: {"score": s, "ci95": 1.0, "prompt_scores": {"a": s, "b": s}} for d in ("math", "qa")}}
    for seed in (0, 1):
        (WORK / f"kinds{seed}.json").write_text(json.dumps({f"{r}": entry(r, s + seed, seed) for r, s in runs.items()}))
    code, text, err = run(report.main, WORK / "kinds0.json", WORK / "kinds1.json")
    assert code == 0, err
    for label in ("math > qa", "math > qa:protected", "math > qa > rollback:fisher:0.01"):
        assert any(line.startswith(f"| {label} ") or line.startswith(f"| **{label}** ") for line in text.splitlines()), text
    assert "-10.0" in text.split("I(later")[1] and "-1.0" not in text.split("I(later")[1]
