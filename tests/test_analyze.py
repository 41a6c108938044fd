"""Claims about analyze.py: every number against an independent computation, or on hand-made edits with known answers.

Run by test_all.py.
"""
import itertools
import json
import math
import re
import shutil
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch

import analyze
import domains
import model as models
from grpo import fast
from grpo import startup
from grpo.scores import respond
from reports import claims, forgetting
from theory import curvature, edits, routes
from shared import (SKIP, WORK, a_rollout, checkpoint, direct_nll, family, in_small_batches, raises, random_weights, replaced, run,
                    sequence_logps, small, talker, tiny, weights, whole_hessian)


# ---- theory/edits.py ----------------------------------------------------------------------------------------------------

def test_shares_and_norms_of_a_hand_made_edit_are_exact_and_weighted_by_parameter_count():
    base = {"a.weight": torch.ones(2, 2), "b.weight": torch.full((4,), 100.0, dtype=torch.float64)}
    edited = {"a.weight": torch.tensor([[1.0, 1.0 + 2**-10], [1.0 + 2**-7, 3.0]]),
              "b.weight": torch.tensor([100.0, 100.0 + 5e-8, 100.01, 101.0], dtype=torch.float64)}
    base["c.weight"], edited["c.weight"] = torch.tensor([1e-3]), torch.tensor([1e-3 + 5e-6])
    found = edits.measure(checkpoint("base", base), [checkpoint("edited", edited)])
    s = edits.sparsity(found, 0)
    assert s["parameters"] == 9 and s["unchanged"] == 2 / 9 and s["abs_below_1e-7"] == 3 / 9 and s["abs_below_1e-5"] == 4 / 9
    assert s["rel_below_1e-3"] == 5 / 9 and s["abs_and_rel"] == 3 / 9
    # bf16: 1 + 2^-10 rounds to 1; 1 + 2^-7 is the next number; 101 is one, as ulp(100) = 0.5
    assert s["bf16_unchanged"] == 5 / 9, s
    assert s["L0"] == 7 and s["Linf"] == 2 and math.isclose(s["L1"], 2**-10 + 2**-7 + 2 + 5e-8 + 5e-6 + 0.01 + 1, rel_tol=1e-6)
    assert math.isclose(s["L2"], math.sqrt(2**-20 + 2**-14 + 4 + 1e-4 + 1), rel_tol=1e-6)
    lone = {"big.weight": torch.zeros(99), "small.weight": torch.zeros(1)}
    moved = edits.measure(checkpoint("base", lone), [checkpoint("edited", lone | {"small.weight": torch.ones(1)})])
    assert edits.sparsity(moved, 0)["unchanged"] == 0.99   # not the mean of 1 and 0


def test_shares_agree_with_whole_tensors_in_one_go_whatever_the_block_and_the_storage():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        base = random_weights(dtype=dtype)
        edited = {n: (t.float() + 1e-4 * torch.randn(t.shape) * (torch.rand(t.shape) < 0.5)).to(dtype) for n, t in base.items()}
        old, edits.BLOCK = edits.BLOCK, 24
        try:
            found = edits.measure(checkpoint("base", base), [checkpoint("edited", edited)])
        finally:
            edits.BLOCK = old
        a, b = (torch.cat([t.flatten() for t in w.values()]).float() for w in (base, edited))
        d = (b - a).abs()
        s = edits.sparsity(found, 0)
        expected = {"unchanged": d == 0, "abs_below_1e-7": d < 1e-7, "abs_below_1e-5": d < 1e-5,
                    "rel_below_1e-3": (d < 1e-3 * a.abs()) | (d == 0),
                    "bf16_unchanged": a.bfloat16() == b.bfloat16()}
        for name, held in expected.items():
            assert s[name] == held.double().mean().item(), (dtype, name)
        parts = [sum(s["by_layer"][l]["L0"] for l in s["by_layer"]), sum(t["L0"] for t in s["by_type"].values())]
        outside = sum(int((base[n] != edited[n]).sum()) for n in base if "layers" not in n)
        assert parts == [s["L0"] - outside, s["L0"]] and set(s["by_layer"]) == {"0", "1"}
        assert {"q_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "norm"} == set(s["by_type"])


def test_a_dense_fp32_update_is_not_called_sparse_and_a_sparse_one_is():
    torch.manual_seed(0)
    w, z, few = 0.02 * torch.randn(200, 300), torch.randn(200, 300), torch.rand(200, 300) < 0.1
    # fp32 throughout; a base that was stored in bf16, and so sits on its grid; and an expert stored in bf16 as well
    for grid, dtype in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        base = w.to(grid).float()
        store = lambda tensor: {"w.weight": tensor.to(dtype)}
        found = edits.measure(checkpoint("base", {"w.weight": base.to(grid)}),
                              [checkpoint("dense", store(base + 1e-5 * z)), checkpoint("sparse", store(base + 3e-4 * z * few))])
        d, s = (edits.sparsity(found, e) for e in (0, 1))
        if dtype == torch.float32:
            assert d["unchanged"] < 0.01 and abs(s["unchanged"] - 0.9) < 0.01
        assert 0.7 < d["bf16_unchanged"] < 0.95 and abs(d["bf16_unchanged"] - d["bf16_if_dense"]) < 0.015, (grid, dtype, d)
        assert s["bf16_unchanged"] > s["bf16_if_dense"] + 0.05, (grid, dtype, s)


def test_the_rounding_null_is_the_share_that_rounding_leaves_unchanged():
    torch.manual_seed(0)
    x = 1 + torch.rand(200_000, dtype=torch.float64)                  # one binade: ulp 2^-7
    for sigma in (1e-4, 1e-3, 3e-3, 1e-2):
        d = sigma * torch.randn(len(x), dtype=torch.float64)
        seen = (x.bfloat16() == (x + d).bfloat16()).double().mean().item()
        assert abs(seen - edits.rounding_null(d.abs().mean().item(), x[::10].float(), False)) < 0.01
        grid = x.bfloat16().double()                # a base that was stored in bf16 sits in the middle of its cells
        moved = (grid + d).bfloat16()
        seen = (grid.bfloat16() == moved).double().mean().item()
        assert abs(seen - edits.rounding_null(d.abs().mean().item(), grid[::10].float(), False)) < 0.01
        stored = (moved.double() - grid).abs().mean().item()          # and what of the edit bf16 has kept
        assert stored == 0 or abs(seen - edits.rounding_null(stored, grid[::10].float(), True)) < 0.01
    assert edits.rounding_null(0.0, x[:9].float(), True) == 1.0


def test_the_rank_of_a_planted_rank_4_edit_is_4_and_energy_is_that_of_the_first_eighth_of_the_singular_values():
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(60, 4))[0], torch.linalg.qr(torch.randn(90, 4))[0]
    base = {"w.weight": 0.02 * torch.randn(60, 90), "norm.weight": torch.ones(9)}
    edited = [base | {"w.weight": base["w.weight"] + change} for change in (0.05 * u @ v.T, 0.01 * torch.randn(60, 90))]
    files = [checkpoint(f"edited-{i}", weights) for i, weights in enumerate(edited)]
    with replaced(edits, WIDE=59):
        narrow, found = edits.measure(checkpoint("base", base), files), edits.measure(checkpoint("base", base), files, wide=True)
    assert edits.effective_ranks(narrow, 0) == {} and math.isnan(edits.energy(narrow, 0))            # too wide, not asked for
    assert edits.measure(checkpoint("base", base), files)["w.weight"]["singular"][0].equal(found["w.weight"]["singular"][0])
    planted, full = (edits.effective_ranks(found, e)["w.weight"] for e in (0, 1))
    squares = torch.linalg.svdvals((edited[1]["w.weight"] - base["w.weight"]).double())**2
    assert abs(planted - 4) < 0.01 and math.isclose(full, squares.sum()**2 / (squares**2).sum(), rel_tol=1e-5)
    assert math.isclose(edits.energy(found, 1), (squares[:8].sum() / squares.sum()).item(), rel_tol=1e-5)
    assert edits.energy(found, 0) > 0.9999          # 4 of 60 values: all of it, but for rounding


def test_neurons_are_gate_row_up_row_and_down_column_and_the_most_edited_are_found():
    base = random_weights()
    edited = {name: t.clone() for name, t in base.items()}
    edited["model.layers.0.mlp.gate_proj.weight"][3, 2] += 3          # channel 3 of layer 0: 5
    edited["model.layers.0.mlp.up_proj.weight"][3, 0] += 4
    edited["model.layers.1.mlp.down_proj.weight"][5, 7] -= 2          # channel 7 of layer 1: 2
    fused = {name: t for name, t in edited.items() if "gate_proj" not in name and "up_proj" not in name}
    plain = {name: t for name, t in base.items() if name in fused}
    for l in (0, 1):
        for source, target in ((edited, fused), (base, plain)):
            target[f"model.layers.{l}.mlp.gate_up_proj.weight"] = torch.cat(
                [source[f"model.layers.{l}.mlp.{p}_proj.weight"] for p in ("gate", "up")])
    for b, e in ((base, edited), (plain, fused)):
        grams, names = edits.neuron_grams(edits.measure(checkpoint("base", b), [checkpoint("edited", e)]))
        magnitude = grams[0, 0].sqrt()
        assert len(names) == 32 and names[3] == ("model.layers.0.mlp", 3) and names[23] == ("model.layers.1.mlp", 7)
        assert abs(magnitude[3] - 5) < 1e-5 and abs(magnitude[23] - 2) < 1e-5 and magnitude.sum() < 7.0001
        # 10 % are three: the others have no edit
        assert routes.top_neurons(magnitude, 0.1).nonzero().flatten().tolist() == [3, 23]
    deep = torch.cat([100 + torch.arange(10.0), torch.arange(30.0)])[torch.tensor([*range(0, 40, 2), *range(1, 40, 2)])]
    layers = torch.tensor([*[0] * 10, *[1] * 30])[torch.tensor([*range(0, 40, 2), *range(1, 40, 2)])]
    even = routes.top_neurons(deep, 0.1, layers)                      # 1 of 10 and 3 of 30, whatever their sizes
    assert sorted(deep[even].tolist()) == [27, 28, 29, 109] and deep[routes.top_neurons(deep, 0.1)].min() == 106
    ten = random_weights(layers=12)
    _, names = edits.neuron_grams(edits.measure(checkpoint("base", ten), [checkpoint("edited", ten)]))
    assert [mlp for mlp, c in names if c == 0] == [f"model.layers.{l}.mlp" for l in range(12)]  # 2 before 10


def test_the_expected_overlap_of_random_sets_is_that_of_all_sets_and_of_all_sets_layer_by_layer():
    def brute(strata):
        """The mean Jaccard index over all pairs of sets with so many members in each stratum."""
        at, choices_a, choices_b = 0, [()], [()]
        for n, a, b in strata:
            members = range(at, at + n)
            choices_a = [x + y for x in choices_a for y in itertools.combinations(members, a)]
            choices_b = [x + y for x in choices_b for y in itertools.combinations(members, b)]
            at += n
        values = [len(set(x) & set(y)) / len(set(x) | set(y)) for x in choices_a for y in choices_b]
        return sum(values) / len(values)
    for strata in ([(6, 2, 3)], [(5, 4, 3)], [(4, 2, 1), (5, 1, 3)], [(3, 0, 2), (4, 2, 2)]):
        assert abs(routes.random_jaccard(strata)["expected"] - brute(strata)) < 1e-9, strata
    large = routes.random_jaccard([(9728, 973, 973)] * 36)             # the layers of a 4B model, in little memory
    assert abs(large["expected"] - 0.1 / 1.9) < 1e-4 and large["high"] - large["low"] < 0.01
    for strata in ([(86016, 8602, 8602)], [(9728, 900 + i, 973 + 2 * i) for i in range(36)]):     # the normal approximation
        many, wide = routes.random_jaccard(strata), sum(k + m for _, k, m in strata)
        middle = sum(k * m / n for n, k, m in strata)
        spread = math.sqrt(sum(k * m * (n - k) * (n - m) / n**2 / (n - 1) for n, k, m in strata))
        for end, x in (("low", middle - 1.96 * spread), ("high", middle + 1.96 * spread)):
            assert abs(many[end] - x / (wide - x)) < 1e-4, (strata[0], end, many[end], x / (wide - x))
    null = routes.random_jaccard([(10_000, 1000, 1000)])
    assert abs(null["expected"] - 0.0527) < 2e-4                      # the paper's two random 10 % sets: about 0.053
    assert null["low"] < null["expected"] < null["high"]
    generator = torch.Generator().manual_seed(0)
    null, inside = routes.random_jaccard([(300, 30, 30)]), 0
    for _ in range(400):
        a, b = (torch.zeros(300, dtype=torch.bool).index_fill(0, torch.randperm(300, generator=generator)[:30], True)
                for _ in range(2))
        inside += null["low"] <= routes.jaccard(a, b) <= null["high"]
    assert 0.93 < inside / 400 <= 1


def test_cosines_of_hand_made_edits():
    base = random_weights()
    step = {name: 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(len(name))) for name, t in base.items()}
    double = {name: base[name] + 2 * step[name] for name in base}
    turned = {name: base[name] + (-1 if "layers.1.mlp" in name else 1) * step[name] for name in base}
    once = {name: base[name] + step[name] for name in base}
    found = edits.measure(checkpoint("base", base),
                          [checkpoint(n, w) for n, w in (("once", once), ("double", double), ("turned", turned))])
    grams = edits.module_grams(found)
    cosine = {module: edits.cosines(g) for module, g in grams.items()}
    assert abs(cosine["all"][0, 1] - 1) < 1e-5 and abs(cosine["1 mlp"][0, 2] + 1) < 1e-5 and abs(cosine["0 mlp"][0, 2] - 1) < 1e-5
    squares = {name: t.square().sum().item() for name, t in step.items()}
    against = sum(s for name, s in squares.items() if "layers.1.mlp" in name)
    assert abs(cosine["all"][0, 2].item() - (1 - 2 * against / sum(squares.values()))) < 1e-4
    assert {"0 attention", "1 attention", "0 mlp", "1 mlp", "embed_tokens", "norm", "all"} == set(grams)
    neurons, _ = edits.neuron_grams(found)
    last = torch.arange(32) >= 20
    vector = lambda e, pick: torch.cat([(e[name] - base[name]).flatten() for name in base if pick in name]).double()
    u, v = (vector(weights, "layers.1.mlp") + 0 for weights in (double, turned))
    assert abs(edits.direction_kept(neurons, torch.arange(32) >= 16, 1, 2) - torch.cosine_similarity(u, u + v, dim=0)) < 1e-5
    p = vector(double, "") * vector(turned, "")
    against, expected = edits.conflict(found, 1, 2), p.clamp(max=0).norm().item()
    assert math.isclose(against["norm"], expected, rel_tol=1e-4)
    assert math.isclose(against["share"], expected / p.norm(), rel_tol=1e-4)
    assert edits.conflict(found, 0, 1) == {"norm": 0.0, "share": 0.0}
    assert abs(edits.cosine_on(neurons, last, 0, 2) + 1) < 1e-5 and math.isnan(edits.cosine_on(neurons, last & ~last, 0, 2))


def test_sharded_and_single_files_say_the_same_and_tied_heads_are_left_out():
    base, edited = random_weights(), random_weights(seed=1)
    head = {"lm_head.weight": base["model.embed_tokens.weight"].clone()}
    whole = edits.measure(checkpoint("base", base), [checkpoint("edited", edited)])
    apart = edits.measure(checkpoint("base", base | head, shards=3, tie_word_embeddings=True),
                          [checkpoint("edited", edited, shards=2)])
    assert edits.sparsity(whole, 0) == edits.sparsity(apart, 0) | {
        key: edits.sparsity(apart, 0)[key] for key in ("by_type", "by_layer")}
    untied = checkpoint("base", base | head)
    raises(lambda: edits.measure(untied, [checkpoint("edited", edited)]), "lm_head.weight", "no such tensor")


def test_tensors_are_read_one_at_a_time_and_each_once():
    import weakref
    base = random_weights(layers=20)
    b, e = checkpoint("base", base, shards=2), checkpoint("edited", random_weights(seed=1, layers=20))
    alive, most, read, original = weakref.WeakSet(), [0], [], edits.read_tensor

    def watched(path, name):
        tensor = original(path, name)
        alive.add(tensor.untyped_storage())
        most[0] = max(most[0], len(alive))
        read.append((str(path), name))
        return tensor
    edits.read_tensor = watched
    try:
        edits.measure(b, [e])
    finally:
        edits.read_tensor = original
    assert len(read) == len(set(read)) == 2 * len(base)
    assert most[0] <= 2 * (torch.get_num_threads() + 1) + 2, most     # two checkpoints, a tensor a thread


def test_tensors_come_in_order_from_threads_that_are_a_little_ahead():
    started, most = [], 2 * min(8, torch.get_num_threads()) + 1
    tensors = edits.in_threads(lambda name: started.append(name) or name**2, range(100), "x")
    assert [next(tensors) for _ in range(3)] == [0, 1, 4] and len(started) <= most + 3
    assert list(tensors) == [i**2 for i in range(3, 100)] and sorted(started) == list(range(100))


def test_checkpoints_that_do_not_fit_are_an_error_that_names_the_first_difference():
    base = random_weights()
    b = checkpoint("base", base)
    less = {name: t for name, t in base.items() if "layers.1.mlp.up" not in name}
    raises(lambda: edits.measure(b, [checkpoint("less", less)]), "model.layers.1.mlp.up_proj.weight", "[16, 8]", "no such tensor")
    raises(lambda: edits.measure(checkpoint("less", less), [b]), "model.layers.1.mlp.up_proj.weight")
    wide = {**base, "model.norm.weight": torch.zeros(9)}
    raises(lambda: edits.measure(b, [checkpoint("wide", wide)]), "model.norm.weight", "[8]", "[9]")
    lost = checkpoint("lost", base, shards=2)
    (Path(lost) / "model-1.safetensors").unlink()
    raises(lambda: edits.measure(b, [lost]), "lost", "no such tensor")
    damaged = checkpoint("damaged", base, shards=2)
    (Path(damaged) / "config.json").write_text("{")
    raises(lambda: edits.measure(b, [damaged]), "damaged")
    nan = {**base, "model.norm.weight": torch.full((8,), math.nan)}
    raises(lambda: edits.measure(b, [b, checkpoint("nan", nan)]), "model.norm.weight", "not finite", "checkpoint 2")
    old = checkpoint("old", base)
    (Path(old) / "model.safetensors").rename(Path(old) / "pytorch_model.bin")
    raises(lambda: edits.measure(b, [old]), "no safetensors")


# ---- a model small enough for its whole Hessian --------------------------------------------------------------------

def test_gradients_and_hessian_products_are_those_of_the_whole_hessian_in_one_batch_or_many():
    model, rollout, rewards = small()
    g, H = whole_hessian()
    torch.manual_seed(1)
    v = torch.randn(len(g))
    for parts in (curvature.own_correct(rollout, rewards.flatten()),
                  in_small_batches(lambda: curvature.own_correct(rollout, rewards.flatten()))):
        assert abs(curvature.value(model, curvature.nll, parts) - direct_nll(model, rollout, rewards).item()) < 1e-5
        assert torch.allclose(curvature.gradient(model, curvature.nll, parts).double(), g, atol=1e-5)
        product = curvature.hessian(model, curvature.nll, parts)
        for _ in range(2):                          # a kept graph serves again
            assert torch.allclose(product(v).double(), H @ v.double(), atol=1e-4 * H.norm().item())
    assert len(parts) > 3
    with replaced(fast, LOGIT_ELEMENTS=40):         # a large vocabulary: logits in chunks, recomputed backward
        product = curvature.hessian(model, curvature.nll, curvature.own_correct(rollout, rewards.flatten()))
        assert torch.allclose(product(v).double(), H @ v.double(), atol=1e-4 * H.norm().item())


def test_hessian_products_agree_with_finite_differences_of_the_gradient():
    model, rollout, rewards = small()
    parts = curvature.own_correct(rollout, rewards.flatten())
    theta = curvature.flatten(model.parameters()).detach().clone()
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(2))
    v /= v.norm()
    product, ends = curvature.hessian(model, curvature.nll, parts)(v), []
    for sign in (1, -1):
        curvature.place(model, theta + sign * 1e-2 * v)
        ends.append(curvature.gradient(model, curvature.nll, parts))
    curvature.place(model, theta)
    assert (product - (ends[0] - ends[1]) / 2e-2).norm() < 0.01 * product.norm()


def policy_gradient(model, rollout, rewards):
    """Of minus the expected reward, each completion beside the mean of its prompt's others, completion by completion: (n,)."""
    expected, valid = 0.0, 0
    for n in range(12):
        own = rewards[n // 3]
        if not own[n % 3].isnan():
            others = [r for i, r in enumerate(own.tolist()) if i != n % 3 and r == r]
            expected = expected - (own[n % 3].item() - sum(others) / len(others)) * sequence_logps(model, rollout, n)
            valid += 1
    return torch.cat([x.flatten() for x in torch.autograd.grad(expected / valid, list(model.parameters()))])


def test_the_surrogates_gradient_is_the_policy_gradient_and_its_value_moves_with_the_importance_weights():
    model, rollout, rewards = small()
    parts = curvature.own_all(rollout, rewards)
    direct = policy_gradient(model, rollout, rewards)
    assert torch.allclose(curvature.gradient(model, curvature.surrogate, parts), direct, atol=1e-5)
    theta = curvature.flatten(model.parameters()).detach().clone()
    old = torch.stack([sequence_logps(model, rollout, n) for n in range(12)]).detach()
    curvature.place(model, theta + 0.05 * torch.randn(len(theta), generator=torch.Generator().manual_seed(3)))
    ratio = (torch.stack([sequence_logps(model, rollout, n) for n in range(12)]).detach() - old).exp()
    r = rewards.nan_to_num(0.0)
    others = torch.tensor([[1/2, 1, 1/2], [1/2, 1/2, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.float64)
    moved = -(torch.where(rewards.isnan(), 0.0, r - others).flatten() * ratio).sum() / 11
    assert abs(curvature.value(model, curvature.surrogate, parts) - moved.item()) < 1e-5
    curvature.place(model, theta)


def test_lanczos_finds_the_largest_eigenpairs_of_the_whole_hessian_and_knows_its_residuals():
    model, rollout, rewards = small()
    parts = curvature.own_correct(rollout, rewards.flatten())
    product = curvature.hessian(model, curvature.nll, parts)
    true = torch.linalg.eigvalsh(whole_hessian()[1]).flip(0)
    values, vectors, residuals = curvature.lanczos(product, len(true), 12)
    assert torch.allclose(values, true[:12], rtol=1e-3, atol=1e-3 * true[0].item()), (values, true[:12])
    assert (vectors @ vectors.T - torch.eye(12)).abs().max() < 1e-5
    direct = torch.stack([(product(v) - t * v).norm() for v, t in zip(vectors, values.float())]).double()
    assert (residuals - direct).abs().max() < 1e-4 * true[0], (residuals, direct)
    loose = curvature.lanczos(product, len(true), 12, steps=14)       # too few steps: it shows
    direct = torch.stack([(product(v) - t * v).norm() for v, t in zip(loose[1], loose[0].float())]).double()
    assert loose[2].max() > 0.01 * true[0] and (loose[2] - direct).abs().max() < 1e-4 * true[0]


def test_lanczos_survives_repeated_eigenvalues_low_rank_and_more_steps_than_dimensions():
    A = torch.diag(torch.tensor([5.0, 5, 3] + [0.0] * 17))
    Q = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))[0]
    A = Q @ A @ Q.T
    values, vectors, residuals = curvature.lanczos(lambda v: A @ v, 20, 5)
    assert torch.allclose(values, torch.tensor([5.0, 5, 3, 0, 0], dtype=torch.float64), atol=1e-4)
    assert (vectors @ vectors.T - torch.eye(5)).abs().max() < 1e-5
    assert (A @ vectors.T - vectors.T * values.float()).abs().max() < 1e-4
    values, vectors, _ = curvature.lanczos(lambda v: A @ v, 20, 20)
    assert len(values) == 20 and (vectors @ vectors.T - torch.eye(20)).abs().max() < 1e-5


def test_inner_products_of_millions_are_right_to_six_digits():
    x = torch.rand(2, 4_000_000, generator=torch.Generator().manual_seed(0))
    true = x.double() @ x.double().T
    assert (curvature.inner(x, x) / true - 1).abs().max() < 1e-6
    assert (curvature.inner(x, x[0]) / true[:, 0] - 1).abs().max() < 1e-6


def test_shares_of_damage_in_eigenvectors_coordinates_and_random_directions_are_those_of_the_dense_matrix():
    torch.manual_seed(0)
    n = 12
    H = torch.randn(n, n)
    H = H @ H.T / n
    delta = torch.randn(n)
    second = curvature.quadratic(lambda v: H @ v, delta)
    assert abs(second - 0.5 * (delta @ H @ delta).item()) < 1e-4
    values, V = torch.linalg.eigh(H.double())
    values, V = values.flip(0), V.flip(1).T.float()
    shares = curvature.eigen_shares(values, V, delta, second)
    P = V[:3].T @ V[:3]
    assert abs(shares[2] - (P @ delta @ H @ (P @ delta) / (delta @ H @ delta)).item()) < 1e-4 and abs(shares[-1] - 1) < 1e-4
    kept = torch.where(delta.abs() >= delta.abs().sort().values[-4], delta, 0)
    assert abs(curvature.coordinate_share(lambda v: H @ v, delta, second, 4)
               - (kept @ H @ kept / (delta @ H @ delta)).item()) < 1e-4
    draws = []
    for _ in range(1500):
        B = torch.linalg.qr(torch.randn(n, 4))[0]
        p = B @ (B.T @ delta)
        draws.append((p @ H @ p / (delta @ H @ delta)).item())
    draws = torch.tensor(draws)
    expected = curvature.random_share(4, n, H.trace().item(), delta, second)
    assert abs(expected - draws.mean().item()) < 4 * draws.std().item() / math.sqrt(len(draws))
    assert abs(curvature.random_share(n, n, H.trace().item(), delta, second) - 1) < 1e-6
    estimates = [curvature.trace(lambda v: H @ v, n, probes=50, seed=100 * s) for s in range(20)]
    assert abs(sum(estimates) / 20 - H.trace().item()) < 0.05 * H.trace().item()
    assert curvature.trace(lambda v: v * torch.arange(n), n, probes=1) == n * (n - 1) / 2  # exact where H is diagonal


def test_measured_damage_is_the_loss_on_the_way_and_its_expansion_is_right_near_the_start():
    model, rollout, rewards = small()
    parts = curvature.own_correct(rollout, rewards.flatten())
    theta = curvature.flatten(model.parameters()).detach().clone()
    delta = 0.01 * torch.randn(len(theta), generator=torch.Generator().manual_seed(4))
    g, H = whole_hessian()
    times = [1 / 16, 1 / 8, 1 / 4, 1]
    measured = curvature.along(model, curvature.nll, parts, theta, delta, times)
    assert torch.equal(curvature.flatten(model.parameters()), theta)  # it leaves the model where it was
    first, second = (g @ delta.double()).item(), 0.5 * (delta.double() @ H @ delta.double()).item()
    terms, = curvature.expansion(model, curvature.nll, parts, [delta])
    assert math.isclose(terms[0], first, rel_tol=1e-3) and math.isclose(terms[1], second, rel_tol=1e-3)
    assert all(math.isnan(term) for term in curvature.expansion(model, curvature.nll, [], [delta])[0])
    start, errors = direct_nll(model, rollout, rewards).item(), []
    for t, change in zip(times, measured):
        curvature.place(model, theta + t * delta)
        assert abs(change - (direct_nll(model, rollout, rewards).item() - start)) < 1e-5
        errors.append(change - t * first - t**2 * second)
    curvature.place(model, theta)
    assert 6 < errors[1] / errors[0] < 10 and 6 < errors[2] / errors[1] < 10, errors  # of third order: 8 at twice the way


def test_reach_is_where_the_third_order_takes_over():
    times = [i / 100 for i in range(1, 101)]
    cubic = [t**2 * 2.0 + t**3 * 1.0 for t in times]                  # error t^3 <= 20 % of 2 t^2 up to t = 0.4
    assert abs(curvature.reach(times, cubic, 0.0, 2.0) - 0.4) < 0.011
    assert curvature.reach(times, [t * 3 + t**2 * 2 for t in times], 3.0, 2.0) == 1.0
    assert curvature.reach(times, [5.0] * 100, 0.1, 0.1) == 0.0
    cancel = [-t * 1.0 + t**2 * 1.0 + 0.01 * t**3 for t in times]     # terms cancel at t = 1: the error is small beside them
    assert curvature.reach(times, cancel, -1.0, 1.0) == 1.0


class Bowl(torch.nn.Module):
    """Loss 1/2 x' H x + b . x with a flat direction: what the theorem speaks of."""

    def __init__(self, H, b):
        super().__init__()
        self.x, self.H, self.b = torch.nn.Parameter(torch.zeros(len(b))), H, b


def test_descent_on_a_quadratic_contracts_as_the_theorem_says_and_leaves_the_flat_directions():
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 6))[0]
    curvatures = torch.tensor([8.0, 4, 2, 0, 0, 0])
    H = Q @ torch.diag(curvatures) @ Q.T
    bowl = Bowl(H, H @ torch.randn(6))
    loss = lambda model: 0.5 * model.x @ model.H @ model.x + model.b @ model.x
    values, S = curvatures[:3].double(), Q.T[:3]
    shift = curvature.bottom(values, S, bowl.b)                       # the gradient at x = 0 is b
    assert (H @ shift + bowl.b).abs().max() < 1e-5                    # the minimum in S, which here is a minimum of all
    start, alpha = torch.randn(6), 1 / 8
    path = list(curvature.descend(bowl, loss, [()], start, alpha, 20))
    inside, outside = zip(*(curvature.distances(point, shift, S) for point in path))
    assert len(path) == 21 and torch.equal(path[0], start)
    bound = [(1 - alpha * 2)**t * inside[0] for t in range(21)]
    assert all(i <= b * (1 + 1e-4) for i, b in zip(inside, bound)) and inside[-1] > 0.1 * bound[-1]  # and the bound is tight
    c = (S @ (start - shift)) * (1 - alpha * values.float())**5
    assert abs(inside[5] - c.norm().item()) < 1e-5
    assert max(outside) - min(outside) < 1e-5 and outside[0] > 0.1


def test_what_may_foretell_damage_are_the_cosines_of_gradients_at_the_anchor_and_of_consecutive_updates():
    model, rollout, rewards = small()
    theta, of_b = curvature.flatten(model.parameters()).detach().clone(), torch.randn(4, 3, dtype=torch.float64)
    update, delta = torch.randn(2, len(theta))
    args = SimpleNamespace(base=WORK, experts=["a"], domain={"a": "math", "ab": "qa", "merged": None})
    at = SimpleNamespace(model=model, tokenizer=None, theta=theta, graded=curvature.own_all(rollout, rewards))
    with replaced(analyze, answering=lambda args, model, tokenizer, domain: lambda: (rollout, [], of_b),
                  vector=lambda model, name: theta - update):
        found = analyze.predictors(args, at, "a", {("a -> ab", "a", "ab"): delta, ("a -> x", "a", "merged"): delta})
    cosine = lambda a, b: torch.cosine_similarity(a, b, dim=0).item()
    expected = cosine(policy_gradient(model, rollout, rewards), policy_gradient(model, rollout, of_b))
    assert abs(found["ab"]["gradient_cosine"] - expected) < 1e-4 and math.isnan(found["merged"]["gradient_cosine"])
    assert abs(found["ab"]["reversal"] + cosine(update, delta)) < 1e-5


def test_losses_are_taken_at_the_temperature_of_the_samples():
    rollout = a_rollout(temperature=0.6)
    parts, rewards = curvature.own_correct(rollout, torch.ones(9)), torch.tensor([[1.0, 0, 1]] * 3)
    with torch.no_grad():
        assert abs(curvature.value(tiny()[1], curvature.nll, parts) + rollout.logps.sum().item() / 9) < 1e-3
    assert abs(curvature.value(tiny()[1], curvature.surrogate, curvature.own_all(rollout, rewards))) < 1e-3      # all ratios are 1
    assert len(parts) == 1 and parts[0][0].temperature == 0.6


# ---- theory/routes.py ---------------------------------------------------------------------------------------------------

def test_activity_is_the_mean_size_of_what_down_proj_reads_over_real_tokens():
    model, rollout, _ = small()
    sums, tokens = [torch.zeros(6, dtype=torch.float64) for _ in range(2)], 0
    for n in range(12):
        ids = torch.cat([rollout.prompt_ids[n][rollout.prompt_mask[n]], rollout.ids[n][rollout.mask[n]]])
        hidden = []
        handles = [layer.mlp.register_forward_pre_hook(lambda m, x: hidden.append((m, x[0]))) for layer in model.model.layers]
        with torch.no_grad():
            model(ids[None])
            for l, (mlp, x) in enumerate(hidden):
                sums[l] += (torch.nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))[0].abs().double().sum(0)
        for handle in handles:
            handle.remove()
        tokens += len(ids)
    assert torch.allclose(routes.activity(model, rollout), torch.cat(sums) / tokens, rtol=1e-5)


def test_policy_gradients_are_grpos_formula_part_by_part():
    model, rollout, rewards = small()
    old, routes.PARTS = routes.PARTS, 2
    try:
        gradients = routes.policy_gradients(model, rollout, rewards)
    finally:
        routes.PARTS = old
    for part in (0, 1):                             # prompts 0 and 2; prompts 1 and 3, of which the last has equal rewards
        loss, count = 0.0, sum(int((~rewards[b].isnan()).sum()) for b in range(part, 4, 2))
        for b in range(part, 4, 2):
            r = rewards[b][~rewards[b].isnan()]
            for i in range(3):
                if not rewards[b, i].isnan() and r.std() > 0:
                    n = 3 * b + i
                    advantage = (rewards[b, i] - r.mean()) / (r.std() + 1e-6)
                    loss = loss - advantage * sequence_logps(model, rollout, n) / rollout.mask[n].sum() / count
        direct = torch.cat([x.flatten() for x in torch.autograd.grad(loss, list(model.parameters()))])
        assert torch.allclose(gradients[part], direct, atol=1e-5)


def test_gradient_cosines_have_their_error_and_their_ceiling():
    torch.manual_seed(0)
    n, P = 400, routes.PARTS
    a, b = torch.zeros(n), torch.zeros(n)
    a[:100], b[:100], b[100:200], a[200:] = 1, -1, 1, 1               # conflict in the first hundred, nothing in common after
    noise = lambda: 2.0 * torch.randn(P, n)
    spans = {"all": [slice(0, n)], "0 mlp": [slice(0, 100)], "1 mlp": [slice(100, 400)]}
    gradients = {"math": a + noise(), "qa": b + noise()}
    found = routes.gradient_cosines(gradients, spans)
    whole = [g.sum(0) for g in gradients.values()]
    cell = found["all"]["math|qa"]
    assert abs(cell["cosine"] - torch.cosine_similarity(*whole, dim=0).item()) < 1e-5
    low = found["0 mlp"]["math|qa"]
    assert low["cosine"] + low["ci95"] < 0 and abs(found["1 mlp"]["math|qa"]["cosine"]) < 0.25
    draws = torch.tensor([torch.cosine_similarity((a + noise()).sum(0), (b + noise()).sum(0), dim=0).item() for _ in range(400)])
    assert 0.4 < low["error"] / torch.tensor([
        torch.cosine_similarity((a + noise()).sum(0)[:100], (b + noise()).sum(0)[:100], dim=0).item()
        for _ in range(400)]).std().item() < 2.5
    assert abs(draws.mean().item() - cell["cosine"]) < 4 * draws.std().item()
    halves = [torch.cosine_similarity(g[::2].sum(0), g[1::2].sum(0), dim=0).item() for g in gradients.values()]
    whole = [2 * c / (1 + c) for c in halves]
    assert abs(cell["ceiling"] - math.sqrt(whole[0] * whole[1])) < 1e-5
    freed = routes.gradient_cosines({"math": a + 1.5 * torch.randn(P, 400), "qa": a + 1.5 * torch.randn(P, 400)},
                                    {"all": [slice(0, n)]})["all"]["math|qa"]
    assert freed["cosine"] < 0.8 and abs(freed["corrected"] - 1) < 0.25  # equal gradients, seen through noise
    noise = routes.gradient_cosines({"math": torch.randn(P, 4000), "qa": torch.randn(P, 4000)},
                                    {"all": [slice(0, 4000)]})["all"]["math|qa"]
    assert noise["ceiling"] < 0.2 and (math.isnan(noise["corrected"]) or noise["ceiling"] > 0.1)


def test_module_spans_cover_every_parameter_once():
    model, _, _ = small()
    spans = routes.module_spans(model)
    n = sum(p.numel() for p in model.parameters())
    covered = sorted(i for name, slices in spans.items() if name != "all" for s in slices for i in range(s.start, s.stop))
    assert covered == list(range(n)) == sorted(i for s in spans["all"] for i in range(s.start, s.stop))
    assert {"0 attention", "0 mlp", "1 attention", "1 mlp"} <= set(spans)
    assert claims.blocks(spans) == [m for m in spans if " " in m and "norm" not in m]


# ---- reports/claims.py ---------------------------------------------------------------------------------------------------

def report(**changes):
    share = {"abs_and_rel": 0.8, "bf16_unchanged": 0.9, "bf16_if_dense": 0.6, "parameters": 1000, "abs_below_1e-5": 0.8}
    cell = lambda c, e=0.01: {"math|qa": {"cosine": c, "error": e, "ci95": 2 * e, "ceiling": 0.9, "corrected": c / 0.9}}
    damage = {"first": 0.01, "second": 0.1, "measured": 0.11, "reach": 1.0, "eigen_shares": [0.4, 0.9], "random_share": 0.001,
              "coordinate_share": 0.002, "norm_share": 0.01, "name": "math -> math-qa"}
    path = {"step": [0, 1], "in_anchor": [1.0, 0.4], "in_minimum": [2.0, 0.6], "outside": [2.0, 1.99],
            "damage": [1.0, 0.1], "bound": [1.0, 0.5]}
    return {"sparsity": {"a": share, "b": share}, "neuron_jaccard": {"a|b": 0.1}, "energy": {"a": 0.3, "b": 0.5},
            "neuron_per_layer": {"a|b": {"jaccard": 0.15}},
            "route_jaccard": {"math|qa": {"jaccard": 0.5, "edits": 0.1}},
            "gradient_cosine": {"all": cell(0.01), "0 mlp": cell(-0.5), "1 attention": cell(0.4)}, "damage": [damage],
            "refresh": {"taken": path, "theorem": path}, "domains": {"a": "math", "b": "qa"}} | changes


def test_every_claim_is_judged_by_the_numbers_of_the_report():
    found = claims.claims(report())
    assert len(found) >= 20 and all(c["holds"] for c in found), [c for c in found if not c["holds"]]
    assert found[0]["value"] == 80.0
    assert [round(claims.claims(report())[i]["value"], 9) for i in (1, 3, 4, 6)] == [90, 20, 40, 0.15]
    weak = {"abs_and_rel": 0.1, "bf16_unchanged": 0.6, "bf16_if_dense": 0.6, "parameters": 1000, "abs_below_1e-5": 0.1}
    cell = lambda c, e: {"math|qa": {"cosine": c, "error": e, "ci95": 2 * e, "ceiling": 0.9, "corrected": c / 0.9}}
    wrong = {"first": 0.1, "second": 0.1, "measured": 0.9, "reach": 0.1, "eigen_shares": [0.1, 0.2], "random_share": 0.3,
             "coordinate_share": 0.002, "norm_share": 0.5, "name": "x"}
    path = {"step": [0, 1], "in_anchor": [1.0, 0.9], "in_minimum": [1.0, 0.9], "outside": [2.0, 1.0],
            "damage": [1.0, 0.9], "bound": [1.0, 0.5]}
    found = claims.claims(report(sparsity={"a": weak}, neuron_jaccard={"a|b": 0.6}, energy={"a": 0.9},
                                 neuron_per_layer={"a|b": {"jaccard": 0.2}},
                                 route_jaccard={"math|qa": {"jaccard": 0.2, "edits": 0.6}}, damage=[wrong],
                                 gradient_cosine={"all": cell(0.5, 0.1), "0 mlp": cell(-0.5, 0.4), "1 mlp": cell(0.4, 0.4)},
                                 refresh={"taken": path, "theorem": path}))
    assert not any(c["holds"] for c in found), [c for c in found if c["holds"]]
    older = {key: weak[key] for key in weak if key != "abs_below_1e-5"}          # as written before there were these numbers
    alone = claims.claims({"sparsity": {"a": older}, "neuron_jaccard": {}})
    assert len(alone) == 3                          # what did not run is not judged
    unharmed = {**wrong, "measured": 0.001}
    calm = {"step": [0, 1], "in_anchor": [1.0, 0.9], "in_minimum": [1.0, 0.9], "outside": [2.0, 1.0],
            "damage": [0.0, 0.0], "bound": [1.0, 0.5]}
    noise = {"math|qa": {"cosine": 0.0, "error": 0.1, "ci95": 0.2, "ceiling": 0.0, "corrected": math.nan}}
    alone = claims.claims(report(damage=[unharmed], refresh={"taken": calm, "theorem": calm}, gradient_cosine={"all": noise},
                                 domains={"a": "math", "b": "math"}))
    assert len(alone) == 6, [c["claim"] for c in alone]  # nothing damaged, gradients of pure noise, experts of one domain


def test_over_runs_claims_have_means_intervals_and_counts():
    share = {"bf16_unchanged": 0.9, "bf16_if_dense": 0.6, "parameters": 1000}
    runs = [report(sparsity={"a": share | {"abs_and_rel": v}}) for v in (0.7, 0.8, 0.9)]
    first = claims.over_runs(runs)[0]
    assert abs(first["value"][0] - 80) < 1e-9 and abs(first["value"][1] - 10 * 4.3027 / math.sqrt(3)) < 1e-3
    assert first["holds"] == "2 of 3"
    of = {c["claim"]: c for c in claims.over_runs(runs)}
    base = next(c for words, c in of.items() if words.startswith("cosine of two full policy gradients"))
    assert base["holds"] == "yes (one base)" and isinstance(base["value"], float)       # one measurement, not three
    equal = claims.over_runs(runs)[1]                # of three experts that happen to agree
    assert equal["holds"] == "3 of 3" and equal["value"][1] == 0
    for name in ("one", "twin"):
        models.write_json(WORK / f"{name}.json", report(damage=[]))
    assert len(claims.read([WORK / "one.json", WORK / "twin.json", WORK / "." / "one.json"])) == 1     # copies are no seeds
    (WORK / "nonsense.json").write_text("{}")
    raises(lambda: claims.read([WORK / "nonsense.json"]), "holds no analysis")


# ---- analyze.py, run whole ---------------------------------------------------------------------------------------

def analyzed(*argv):
    code, out, err = run(analyze.main, "--base", family()["base"], family()["math"], family()["qa"], "--prompts",
                         8, "--samples", 4, "--max-completion-length", 4, "--directions", 3, "--data",
                         f"math={talker()[1]}", *argv)
    assert code == 0, (out, err)
    return out


def test_analyze_measures_everything_that_it_prints_and_saves_it():
    f = family()
    out = analyzed("--later", f["math-qa"], "--refresh", f["again"], "--json", WORK / "full.json",
                   "--plot", WORK / "plots")
    report = claims.read([WORK / "full.json"])[0]
    assert {"abs_below_1e-7", "rel_below_1e-3", "bf16_unchanged", "abs_below_1e-5"} <= set(report["sparsity"][f["math"]])
    assert report["neuron_jaccard"].keys() == {f"{f['math']}|{f['qa']}"} and report["claims"][0]["claim"] in out
    a, b = weights(f["base"]), weights(f["math"])
    moved = math.sqrt(sum((b[name] - a[name]).square().sum().item() for name in a))
    assert math.isclose(report["sparsity"][f["math"]]["L2"], moved, rel_tol=1e-5)
    damage = {d["name"]: d for d in report["damage"]}
    assert "math -> math-qa" in damage and damage["math -> math-qa"]["trained"] and "qa -> math-qa" not in damage
    assert "math + qa" not in damage                # what was trained takes the place of what stands in
    d = damage["math -> math-qa"]
    assert math.isclose(d["measured"], d["first"] + d["second"] + d["remainder"], rel_tol=1e-9)
    assert d["measured"] == d["along"][-1]
    base, math_, both = (torch.cat([t.flatten() for t in weights(f[name]).values()]) for name in ("base", "math", "math-qa"))
    assert abs(d["reversal"] + torch.cosine_similarity(math_ - base, both - math_, dim=0)) < 1e-4
    before, after = (startup.load(f[name])[0] for name in ("math", "math-qa"))             # KLs, from models of their own
    tokenizer, moves = startup.load(f["math"])[1], {"kl_new": ("qa", before, after), "kl_new_reverse": ("qa", after, before),
                                                    "kl_old": ("math", before, after)}
    for key, (domain, one, other) in moves.items():
        rows = domains.evaluation_rows(domain, talker()[1] if domain == "math" else None, "", 8, "train")
        rollout = respond(one, tokenizer, domain, rows, samples=4, temperature=1.0, max_completion_length=4)[0]
        assert d["new"] == "qa" and d[key] > 0 and math.isclose(d[key], forgetting.kl(rollout, other), rel_tol=1e-3), key
    for d in report["damage"]:                      # as many eigenvectors as it takes, or none of the 3 if they do not do
        for p in (50, 90):
            enough = 1 + (torch.tensor(d["eigen_shares"]) >= p / 100).nonzero().flatten()
            assert d[f"k_for_{p}"] == enough[0] if len(enough) else math.isnan(d[f"k_for_{p}"]), d
    assert len(report["refresh"]["taken"]["outside"]) == 4 and len(report["subspace"][f["math"]]["eigenvalues"]) == 3
    start = report["refresh"]["taken"]              # the damaged model's distance to the anchor, by other means
    distance = math.hypot(start["in_anchor"][0], start["outside"][0])
    a, b = weights(f["math"]), weights(f["math-qa"])
    assert math.isclose(distance, math.sqrt(sum((b[n] - a[n]).square().sum().item() for n in a)), rel_tol=1e-4)
    for words in ("1. Size", "2. Most edited", "3. Cosine", "4. Routes", "5. Cosine of policy", "6. Damage",
                  "7. Conflict", "8. Refresh"):
        assert words in out, words
    try:
        import matplotlib
        assert {p.name for p in (WORK / "plots").iterdir()} == {"damage.png", "refresh.png"}
    except ImportError:
        assert "matplotlib is not installed" in out
    stands_in = {d["name"]: d for d in analyze_json()["damage"]}
    assert not stands_in["math + qa"]["trained"]
    analyzed("--json", WORK / "again.json")
    assert (WORK / "again.json").read_text() == (WORK / "standin.json").read_text()  # the same numbers, to the last digit


@lru_cache
def analyze_json():
    analyzed("--json", WORK / "standin.json")
    return claims.read([WORK / "standin.json"])[0]


def test_without_rows_or_tokenizer_or_domains_the_weights_are_analyzed_and_the_rest_is_left_out_in_words():
    f = family()
    for name in ("base", "math"):
        target = WORK / "bare" / name
        target.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(Path(f[name]) / file, target / file)
    for argv, words in ((("--base", f["base"], f["math"], "--weights-only"), "--weights-only"),
                        (("--base", WORK / "bare/base", WORK / "bare/math"), "no tokenizer"),
                        (("--base", f["base"], str(tiny()[0])), "--domains would")):
        code, out, err = run(analyze.main, *argv, "--json", WORK / "weights.json")
        assert code == 0 and "left out" in out and words in out and "4. Routes" not in out, (out, err)
        assert [c["claim"] for c in claims.read([WORK / "weights.json"])[0]["claims"]], argv


def test_a_domain_with_no_correct_completion_is_left_out_in_words():
    out = analyzed("--later", family()["math-qa"])
    assert "qa: of its 32 completions in qa none is correct" in out and "math -> math-qa" in out


def test_an_expert_that_has_not_moved_and_a_single_direction_are_no_crash():
    f = family()
    still = WORK / "family" / "still"
    shutil.copytree(f["base"], still)
    models.write_json(still / "run.json", models.read_run(f["qa"]))
    code, out, err = run(analyze.main, "--base", f["base"], f["math"], still, "--prompts", 8, "--max-completion-length",
                         4, "--directions", 1, "--refresh", f["again"], "--data", f"math={talker()[1]}",
                         "--json", WORK / "still.json")
    assert code == 0 and "nothing has moved" in out and "8. Refresh" in out and "nan" not in out, (out, err)
    assert claims.read([WORK / "still.json"])[0]["sparsity"][str(still)]["unchanged"] == 1


def test_a_domain_file_of_ones_own_is_analyzed_where_domains_names_it_and_asked_for_where_run_json_alone_does():
    f, file = family(), WORK / "say.py"
    file.write_text("""
def synthetic(rng):
    word = rng.choice("abcdefgh") * rng.randint(1, 60)
    return {"word": word, "reference": word}

def prompt(row):
    return f"say {row['word']}"

def answer(completion, row):
    return completion or None

def reward(completions, rows):
    return [float(text == row["reference"] or len(text) % 2 == 0) for text, row in zip(completions, rows)]
""")
    name = domains.use(str(file))
    speaker = WORK / "family" / "speaker"
    shutil.copytree(f["qa"], speaker)
    models.write_json(speaker / "run.json", {**models.read_run(f["qa"]), "domain": name,
                                             "domain_files": {name: domains.source(name)}})
    argv = ("--base", f["base"], f["math"], speaker, "--prompts", 8, "--samples", 2, "--max-completion-length", 4,
            "--directions", 2, "--data", f"math={talker()[1]}", "--json", WORK / "say.json")
    del domains.loaded[name]                        # as in a new process
    code, _, err = run(analyze.main, *argv)
    assert code == 2 and "unknown domain 'say'" in err and str(file) in err, err        # no run.json has code run
    code, out, err = run(analyze.main, *argv, "--weights-only")
    assert code == 0 and "1. Size" in out, err
    code, out, err = run(analyze.main, *argv, "--domains", f"math,{file}")
    assert code == 0, err
    report = claims.read([WORK / "say.json"])[0]
    assert report["domains"] == {f["math"]: "math", str(speaker): "say"} and "math|say" in report["route_jaccard"]
    assert {d["name"]: d["domain"] for d in report["damage"]} == {"math + speaker": "math", "speaker + math": "say"}


def test_fields_names_the_columns_of_data_that_has_its_own():
    rows = WORK / "odd.jsonl"
    rows.write_text("".join(json.dumps({"q": f"{a}+{b}=", "a": str(a + b)}) + "\n" for a in range(5) for b in range(5)))
    argv = ("--base", family()["base"], family()["math"], "--later", family()["math-qa"], "--prompts", 8, "--directions", 2,
            "--samples", 2, "--max-completion-length", 4, "--data", f"math={rows}")
    code, _, err = run(analyze.main, *argv)
    assert code == 2 and "fits no math row" in err, err
    code, out, err = run(analyze.main, *argv, "--fields", "question=q,answer=a")
    assert code == 0 and "6. Damage" in out, (out, err)


def test_hessians_are_taken_of_a_model_whose_attention_has_second_derivatives():
    used, original = [], analyze.curvature.hessian

    def watched(model, loss, parts):
        used.append(model.config._attn_implementation)
        return original(model, loss, parts)
    analyze.curvature.hessian = watched
    try:
        analyzed()
    finally:
        analyze.curvature.hessian = original
    assert used and set(used) == {"eager"}


def test_analyze_says_in_one_line_what_is_wrong_before_it_works():
    f, base = family(), ("--base", family()["base"], family()["math"])
    narrow = WORK / "narrow"
    shutil.copytree(f["math"], narrow)
    from safetensors.torch import save_file
    save_file(weights(narrow) | {"model.norm.weight": torch.zeros(3)}, narrow / "model.safetensors")
    later = WORK / "narrow-later"
    shutil.copytree(f["math-qa"], later)
    shutil.copy(narrow / "model.safetensors", later)
    for argv, words in ((("--base", WORK / "nowhere", f["math"]), "no checkpoint"), ((*base, f["math"]), "twice"),
                        ((*base, "--prompts", routes.PARTS - 1), "--prompts"), ((*base, "--top", 0), "--top"),
                        ((*base, "--directions", 0), "--directions"), ((*base, "--domains", "math,qa"), "2 domains for 1"),
                        ((*base, "--domains", "poetry"), "unknown domain"),
                        ((*base, "--json", WORK / "nowhere" / "x.json"), "cannot write"),
                        ((*base, "--refresh", f["math-qa"]), "--keep-every"), ((*base, "--later", f["qa"]), "ancestors"),
                        ((*base, "--data", "math"), "DOMAIN=SOURCE"), (("--base", f["base"], narrow), "model.norm.weight"),
                        ((*base, "--later", later), "model.norm.weight"), ((*base, "--temperature", 0), "--temperature")):
        code, _, err = run(analyze.main, *argv)
        assert code == 2 and words in err and err.strip().splitlines()[-1].startswith("error: "), (argv, err)


def test_many_vectors_of_all_parameters_are_zeros_and_take_no_main_memory_of_the_process():
    status = Path("/proc/self/status")                                    # of Linux alone
    if not status.exists():
        raise SKIP("this system does not say how much memory a process has")
    anonymous = lambda: int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1])                        # kB
    before, found = anonymous(), curvature.matrix(64, 2**20)              # 256 MB
    assert found.shape == (64, 2**20) and found.dtype == torch.float32 and not found[::9, ::99999].any()
    found.fill_(1.5)
    assert found[63].sum().item() == 1.5 * 2**20 and anonymous() - before < 2**16
