"""Claims about merge.py: each method on numbers worked by hand, and whole checkpoints against whole tensors in one go.

Run by test_all.py.
"""
import itertools
import json
import math
import shutil
import weakref
from functools import lru_cache
from pathlib import Path

import torch

import domains
import merge
import model as models
import shared
from grpo import warmup
from reports import story
from shared import SKIP, checkpoint, raises, replaced, weights
from test_evaluate import REPEAT
from theory import edits

WORK = shared.WORK / "merge"
WORK.mkdir()
T = torch.tensor


def run(*argv, code=0):
    """merge.py on a command line: its stdout, or stderr where it fails."""
    got, out, err = shared.run(merge.main, *argv)
    assert got == code, (argv, got, out, err)
    return err if code else out


def tensors(*argv, weight=None):
    """What merge.py would write, {name: tensor}, without a model: of directories that are nothing but tensors."""
    args = merge.parse([*map(str, argv), "--out", str(WORK / "nowhere")])
    files = edits.tensor_files(*args.read)
    return {name: merge.merged(args, files, args.weight[0] if weight is None else weight, name) for name in files[args.first]}


@lru_cache
def family(seed=0):
    """A random two-layer Qwen3 with tied embeddings, and checkpoints 'trained' on from it: {name: directory}."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    tokenizer = warmup.byte_tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=4096,
                                         tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    place = WORK / f"family{seed}"
    found, recipes = {"base": str(place / "base")}, {"base": ["base"]}
    models.save(model, tokenizer, place / "base", {"parent": None, "recipe": ["base"], "seed": None})
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    for name, source, stages in (("math", "base", ["math 9"]), ("code", "base", ["code 9"]), ("math-qa", "math", ["qa 9"])):
        before = start if source == "base" else weights(found[source])
        after = {n: t + 0.01 * torch.randn(t.shape, generator=generator) * (torch.rand(t.shape, generator=generator) < 0.3)
                 for n, t in before.items()}
        recipes[name] = recipes[source] + stages
        models.save(model, tokenizer, place / name, {"lineage": [found[source]], "recipe": recipes[name], "seed": seed}, after)
        found[name] = str(place / name)
    return found


# ---- the methods -------------------------------------------------------------------------------------------------

def test_a_merge_by_interpolation_or_mean_or_task_arithmetic_is_the_one_worked_by_hand():
    one, other = T([1.0, -2.0, 0.0]), T([3.0, 2.0, 0.0])
    assert merge.interpolate(one, other, 0.25).tolist() == [1.5, -1.0, 0.0]
    assert merge.interpolate(one, other, 1.5).tolist() == [4.0, 4.0, 0.0]                     # goes on along the line
    assert merge.mean(torch.stack([one, other, T([2.0, 3.0, 3.0])])).tolist() == [2.0, 1.0, 1.0]
    assert merge.arithmetic(T([[1.0, 2.0], [0.5, -2.0], [0.0, 1.0]])).tolist() == [1.5, 1.0]


def test_a_merge_at_the_ends_or_of_equal_ones_gives_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(50, 40, generator=generator) * 10 ** (8 * torch.rand(50, 40, generator=generator) - 6)
    one, other = draw(), draw()
    bits = lambda a, b: torch.equal(a.view(torch.int32), b.view(torch.int32))
    assert not torch.equal(one + (other - one), other)                                        # the obvious way has not
    assert bits(merge.interpolate(one, other, 0.0), one) and bits(merge.interpolate(one, other, 1.0), other)
    assert all(bits(merge.mean(torch.stack([one] * n)), one) for n in (2, 3, 7, 11))
    assert bits(merge.interpolate(one, one, 0.3), one)


def test_a_ties_merge_trims_elects_and_averages_as_by_hand():
    # by hand, density 0.5 of four: the first keeps 4 and 2, the second 3 and 2, the third -6 and -1
    deltas = T([[4.0, -1.0, 0.0, 2.0], [-3.0, 1.0, 0.5, 2.0], [-6.0, 0.0, 0.0, -1.0]])
    # sums of what is kept: 4 - 3 - 6 = -5, 0, 0, 2 + 2 - 1 = 3; so -, none, none, +; means of -3 and -6, of 2 and 2
    assert merge.ties(deltas, 0.5).tolist() == [-4.5, 0.0, 0.0, 2.0]
    # density 1: the second is a draw of -1 and 1, which elects nothing; 0 has no sign and is no part of a mean
    assert merge.ties(deltas, 1.0).tolist() == [-4.5, 0.0, 0.5, 2.0]
    # the larger total wins, not the majority
    assert merge.ties(T([[5.0], [-1.0], [-1.0]]), 1.0).tolist() == [5.0]


def test_a_ties_merge_keeps_exactly_its_share_also_among_equals_and_at_least_one():
    assert merge.ties(T([[1.0, 1.0, -1.0, 1.0]]), 0.5).tolist() == [1.0, 1.0, 0.0, 0.0]       # of equal ones the first
    assert merge.ties(T([[2.0, 1.0, -3.0]]), 0.2).tolist() == [0.0, 0.0, -3.0]                # 0.6 of a number: one
    assert merge.ties(T([[2.0]]), 0.01).tolist() == [2.0] and merge.ties(T([[[1.0], [2.0]]]), 0.5).tolist() == [[0.0], [2.0]]
    assert merge.ties(torch.zeros(2, 5), 0.4).tolist() == [0.0] * 5                           # nothing moved: nothing, no NaN
    assert merge.ties(T([[0.0, 0.0, 7.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), 0.5).tolist() == [0.0, 0.0, 7.0, 0.0]


def test_a_dare_merge_has_the_deltas_as_its_mean_and_is_a_function_of_its_seed_and_name():
    delta = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([merge.dare(delta, 0.8, seed, "w") for seed in range(400)])
    sigma = delta[0].abs() * math.sqrt((5 - 1) / 400)                                        # a number is 5 delta or 0
    assert ((draws.mean(0) - delta[0]).abs() < 4.5 * sigma).all()
    assert ((draws != 0).sum(1) == 8).all() and torch.allclose(draws[draws != 0], (5 * delta).expand(400, 40)[draws != 0])
    assert torch.equal(draws[7], merge.dare(delta, 0.8, 7, "w")) and not torch.equal(draws[7], draws[8])
    assert not torch.equal(draws[7], merge.dare(delta, 0.8, 7, "v"))
    twice = merge.dare(delta.expand(2, 40), 0.8, 7, "w")                                      # each checkpoint has its own mask
    assert not torch.equal(twice, 2 * draws[7]) and 8 < (twice != 0).sum() <= 16
    every = torch.randn(3, 30)
    assert torch.allclose(merge.dare(every, 0.0, 0, "w"), every.sum(0), atol=1e-6)            # nothing dropped: task arithmetic


def test_no_mask_of_a_dare_merge_is_empty_however_small_or_sparse_the_tensor():
    for seed in range(50):
        pair = merge.dare(T([[1.0, -3.0]]), 0.9, seed, "w").tolist()
        assert pair in ([2.0, 0.0], [0.0, -6.0])                                              # one of two, times two
        assert merge.dare(T([[5.0]]), 0.99, seed, "w").tolist() == [5.0]
        sparse = merge.dare(torch.zeros(1, 1000).index_fill(1, T([3, 500, 999]), 1.0), 0.9, seed, "w")
        assert (sparse != 0).sum() == 1 and sparse.sum() == 3.0 and sparse[[3, 500, 999]].sum() == 3.0
    assert len({tuple(merge.dare(T([[1.0, -3.0]]), 0.9, seed, "w").tolist()) for seed in range(50)}) == 2
    assert merge.dare(torch.zeros(2, 3), 0.5, 0, "w").tolist() == [0.0] * 3


def test_a_ram_merge_keeps_what_one_changed_and_averages_what_several_did():
    deltas = T([[2.0, 4.0, 0.0, 3.0, 0.125], [0.0, 2.0, 0.0, -1.0, 0.125], [0.0, 0.0, 0.0, 4.0, 0.0]])
    assert merge.ram(deltas, 0.0).tolist() == [2.0, 3.0, 0.0, 2.0, 0.125]
    assert merge.ram(deltas, 0.125).tolist() == [2.0, 3.0, 0.0, 2.0, 0.0]                     # changed is more than that
    assert merge.ram(deltas, 1.0).tolist() == [2.0, 3.0, 0.0, 3.5, 0.0]                       # -1 no longer counts


def test_merges_agree_with_mergekit():
    try:
        from mergekit.merge_methods.generalized_task_arithmetic import get_mask
        from mergekit.merge_methods.ram import _prepare_ram_vectors
        from mergekit.sparsify import magnitude
    except ImportError as error:
        raise SKIP(f"mergekit, to compare with, is not installed: {error}")
    deltas = torch.randn(3, 10, 50, generator=torch.Generator().manual_seed(0))
    for density in (0.1, 0.5, 1.0):
        kept = torch.stack([magnitude(delta, density) for delta in deltas])
        mask = get_mask(kept, "sum")
        assert torch.allclose(merge.ties(deltas, density), (kept * mask).sum(0) / mask.sum(0).clamp(min=1), atol=1e-6)
    moved = deltas * (deltas.abs() > 1)
    tau, changed, count, several, alone = _prepare_ram_vectors([*moved], torch.zeros(10, 50), 0.5)
    theirs = (tau * changed * alone + tau * changed * several / count.clamp(min=1)).sum(0)
    assert several.any() and alone.any() and torch.allclose(merge.ram(moved, 0.5).flatten(), theirs, atol=1e-6)


# ---- tensors of checkpoints --------------------------------------------------------------------------------------

def test_a_negated_merge_takes_away_what_came_later_and_its_opposite_brings_it_back():
    generator = torch.Generator().manual_seed(0)
    eighths = lambda: {"a.weight": torch.randint(-64, 64, (6, 5), generator=generator) / 8, "b.bias": T([0.5, -1.0])}
    base, later, damaged = (checkpoint(f"negate-{n}", eighths()) for n in ("base", "later", "damaged"))  # exact sums
    theta, tau = weights(damaged), {n: t - weights(base)[n] for n, t in weights(later).items()}
    tau["b.bias"] = torch.zeros(2)
    got = tensors("negate", later, "--base", base, "--damaged", damaged, "--weight", 0.5)
    assert all(torch.equal(t, theta[n] - tau[n] / 2) for n, t in got.items()) and got.keys() == theta.keys()
    less = checkpoint("negate-less", got)
    back = tensors("negate", later, "--base", base, "--damaged", less, "--weight", -0.5)
    assert all(torch.equal(t, theta[n]) for n, t in back.items())
    gone = tensors("negate", later, "--base", base, "--damaged", later)                       # all that it added
    assert all(torch.equal(t, weights(base)[n]) for n, t in gone.items())


def test_a_merge_is_stored_in_the_widest_type_and_what_is_no_float_is_the_bases():
    w = T([1.0, 2.0, 3.0])
    steps = w + T([1e-4, 0.0, 2e-4])                                                          # bf16 has steps of 8e-3 there
    save = lambda name, weight, number: checkpoint(name, {"w": weight, "count": T([number]), "on": T([number > 1])})
    base, half, full, other = (save("t-base", w.bfloat16(), 1), save("t-half", (w + 1).bfloat16(), 2), save("t-full", steps, 3),
                               save("t-wide", steps.double(), 3))
    got = tensors("arithmetic", full, "--base", base)
    assert torch.equal(got["w"], steps) and got["count"].tolist() == [1] and got["on"].tolist() == [False]
    got = tensors("arithmetic", half, half, "--base", base, "--weight", 0.5)
    assert got["w"].dtype == torch.bfloat16 and torch.equal(got["w"], (w + 1).bfloat16())
    assert tensors("mean", half, full)["count"].tolist() == [2] and tensors("mean", base, other)["w"].dtype == torch.float64


def test_a_merge_of_weights_that_are_not_finite_is_an_error_that_names_them():
    good = {"a": torch.ones(3), "b": torch.ones(2)}
    base, fine, large = checkpoint("f-base", good), checkpoint("f-fine", {**good, "a": T([2.0, 1.0, 1.0])}), \
        checkpoint("f-large", {**good, "a": T([3e38, 1.0, 1.0])})
    for bad in (math.nan, math.inf):
        broken = checkpoint("f-broken", {**good, "a": T([2.0, 1.0, 1.0]), "b": T([1.0, bad])})
        for argv in (("mean", fine, broken), ("arithmetic", broken, "--base", base),
                     ("negate", fine, "--base", base, "--damaged", broken)):
            raises(lambda: tensors(*argv), f"{broken} has weights that are not finite, first in b")
    raises(lambda: tensors("arithmetic", large, "--base", base, "--weight", 9), "the result", "first in a", "smaller --weight")


def test_a_merge_reads_one_tensor_of_each_checkpoint_at_a_time():
    read, alive, most = edits.read_tensor, weakref.WeakSet(), [0]

    def watched(path, name):
        tensor = read(path, name)
        alive.add(tensor.untyped_storage())
        most[0] = max(most[0], len(alive))
        return tensor
    with replaced(edits, read_tensor=watched):
        tensors("ties", family()["math"], family()["code"], "--base", family()["base"])
    assert most[0] <= 4, most                                                                 # first, base, and two


# ---- whole checkpoints -------------------------------------------------------------------------------------------

def test_every_method_merges_checkpoints_into_one_that_loads_with_its_lineage():
    from transformers import AutoModelForCausalLM
    f = family()
    base, math_, code, qa = (weights(f[name]) for name in ("base", "math", "code", "math-qa"))
    stack = lambda name: torch.stack([math_[name] - base[name], code[name] - base[name]])
    pair = [f["math"], f["code"], "--base", f["base"]]
    for argv, expected, recipe in (
            (["interpolate", f["math"], f["math-qa"]], lambda n: (math_[n] + qa[n]) / 2,
             ["base", "math 9", "merge:interpolate:0.5:start+qa-9 0"]),
            (["mean", f["math"], f["code"], f["math-qa"]], lambda n: (math_[n] + code[n] + qa[n]) / 3,
             ["base", "merge:mean:math-9+code-9+math-9>qa-9 0"]),
            (["arithmetic", *pair, "--weight", 0.75], lambda n: base[n] + 0.75 * stack(n).sum(0),
             ["base", "merge:arithmetic:0.75:math-9+code-9 0"]),
            (["negate", f["code"], "--base", f["base"], "--damaged", f["math-qa"]], lambda n: qa[n] - (code[n] - base[n]),
             ["base", "math 9", "qa 9", "merge:negate:1:code-9 0"]),
            (["ties", *pair, "--density", 0.5], lambda n: base[n] + merge.ties(stack(n), 0.5),
             ["base", "merge:ties:0.5:1:math-9+code-9 0"]),
            (["dare", *pair, "--weight", 0.3], lambda n: base[n] + 0.3 * merge.dare(stack(n), 0.9, 0, n),
             ["base", "merge:dare:0.9:0.3:math-9+code-9 0"]),
            (["ram", *pair], lambda n: base[n] + merge.ram(stack(n), 1e-5), ["base", "merge:ram:1e-05:1:math-9+code-9 0"])):
        out = WORK / "merged" / argv[0]
        assert str(out) in run(*argv, "--out", out)
        found, run_json = weights(out), models.read_run(out)
        assert found.keys() == base.keys() and "lm_head.weight" not in found                  # tied: stored once
        assert all(torch.allclose(t, expected(n), atol=1e-7) for n, t in found.items()), argv
        assert any(not torch.equal(t, base[n]) for n, t in found.items())
        assert run_json["recipe"] == recipe, run_json["recipe"]
        first = {"interpolate": f["math"], "mean": f["math"], "negate": f["math-qa"]}.get(argv[0], f["base"])
        assert run_json["parent"] == run_json["lineage"][-1] == first
        assert run_json["merged"] == [a for a in argv[1:4] if a in f.values()][:len(run_json["merged"])]
        assert [run_json[key] for key in ("method", "seed", "domain", "steps", "finished")] == [argv[0], 0, None, 0, True]
        model, tokenizer = models.load(str(out))
        assert model.lm_head.weight is model.get_input_embeddings().weight and tokenizer("a")["input_ids"]
        again = AutoModelForCausalLM.from_pretrained(out)
        assert all(torch.equal(p, found[n]) for n, p in again.named_parameters())
    assert not list((WORK / "merged").glob(".*"))


def test_a_merge_of_shards_is_that_of_whole_files_and_an_interpolation_has_its_ends_exactly():
    f = family()
    sharded = WORK / "sharded"
    shutil.copytree(f["code"], sharded)
    (sharded / "model.safetensors").unlink()
    shards = Path(checkpoint("some-shards", weights(f["code"]), shards=3))
    for path in shards.glob("model*"):
        shutil.copy(path, sharded)
    same = lambda a, b: all(torch.equal(t, weights(b)[n]) for n, t in weights(a).items())
    for method, more in (("mean", []), ("ties", ["--base", f["base"]])):
        for kind, code in (("whole", f["code"]), ("parts", sharded)):
            run(method, f["math"], code, *more, "--out", WORK / f"{method}-{kind}")
        assert same(WORK / f"{method}-whole", WORK / f"{method}-parts")
    for weight, end in ((0, "math"), (1, "code")):
        run("interpolate", f["math"], f["code"], "--weight", weight, "--out", WORK / f"end{weight}")
        assert same(WORK / f"end{weight}", f[end])
    run("mean", f["math"], f["math"], "--out", WORK / "itself")
    assert same(WORK / "itself", f["math"])


def test_a_merge_over_seeds_is_one_row_of_the_story_and_no_refresh_and_no_training():
    entry = lambda recipe, seed, s: {"recipe": recipe, "seed": seed, "evaluated": {}, "training": {}, **{
        d: {"score": s, "ci95": 1.0, "prompt_scores": {"a": s, "b": s}} for d in ("math", "code")}}
    reports = []
    for seed in (0, 1):
        f, report = family(seed), {}
        for method, more in (("ties", ["--base", f["base"]]), ("mean", [])):
            out = WORK / f"seed{seed}-{method}"
            run(method, f["math"], f["code"], *more, "--out", out)
            assert models.read_run(out)["seed"] == seed
            report[str(out)] = entry(models.read_run(out)["recipe"], seed, 60 + seed)
        report |= {f["math"]: entry(["base", "math 9"], seed, 70), f["math-qa"]: entry(["base", "math 9", "qa 9"], seed, 50)}
        (WORK / f"seed{seed}.json").write_text(json.dumps(report))
        reports.append(str(WORK / f"seed{seed}.json"))
    runs = story.read(reports)
    merges = [recipe for recipe in runs if not story.trained_only(recipe)]
    assert len(merges) == 2 and all(set(runs[recipe]) == {0, 1} for recipe in merges)         # the same recipe over seeds
    labels = [story.label(recipe, 9) for recipe in merges]
    assert labels == ["merge:ties:0.2:1:math-9+code-9", "merge:mean:math-9+code-9"]
    assert not any(recipe in merges for recipe, *_ in story.refreshes(runs, ["math", "code"]))
    run("mean", family(0)["math"], family(1)["code"], "--out", WORK / "two-seeds")
    assert models.read_run(WORK / "two-seeds")["seed"] is None
    bare = WORK / "bare"                                                                      # from elsewhere: no run.json
    shutil.copytree(family()["code"], bare)
    (bare / "run.json").unlink()
    run("mean", bare, family()["math"], "--out", WORK / "with-bare")
    assert models.read_run(WORK / "with-bare")["recipe"] == ["bare", "merge:mean:start+base>math-9 0"]


# ---- sweep -------------------------------------------------------------------------------------------------------

def test_a_sweep_of_merges_takes_the_best_average_on_training_rows_and_no_test_row():
    f, seen, splits = family(), [], []
    one, other = weights(f["math"]), weights(f["code"])
    name = max(one, key=lambda n: (one[n] - other[n]).abs().sum())
    rows_of = domains.evaluation_rows

    def judged(model, tokenizer, rows, **settings):
        """Scores by where the weights are: math best at 0, qa at 1, and the average where math is worth more, at 0.25."""
        for domain, some in rows.items():
            assert 0 < len(some) <= 5 and all(domains.in_split(row["id"], "train") for row in some)
            assert not any(domains.in_split(row["id"], split) for row in some for split in ("test", "validation"))
        d = (other[name] - one[name]).flatten()
        at = ((dict(model.named_parameters())[name].detach() - one[name]).flatten() @ d / (d @ d)).item()
        seen.append(round(at, 3))
        return {"math": {"score": 80 - 160 * at**2, "ci95": 3.0}, "qa": {"score": 20 + 80 * at, "ci95": 4.0}}
    argv = ("interpolate", f["math"], f["code"], "--weight", 1, 0.5, 0.25, 0, 0.25, "--data", "math=synthetic", "qa=synthetic",
            "--prompts", 5, "--max-completion-length", 4)
    with replaced(merge, evaluate=judged), replaced(domains, evaluation_rows=lambda *a: (splits.append(a[-1]), rows_of(*a))[1]):
        text = run(*argv, "--out", WORK / "swept")
        assert "| **0.25** |" in run(*argv) and not (WORK / "nowhere").exists()               # a table alone
    assert seen == [1, 0.5, 0.25, 0] * 2 and set(splits) == {"train"}
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["weight", "math", "qa", "average"] and [row[0] for row in table[2:]] == ["1", "0.5", "**0.25**", "0"]
    assert table[4][1:] == ["70.0 ± 3.0", "40.0 ± 4.0", "55.0 ± 2.5"]     # 80 - 10, 20 + 20, half of sqrt(9 + 16)
    assert f"{WORK / 'swept'}: interpolate of 2, weight 0.25" in text
    assert all(torch.allclose(t, one[n] + 0.25 * (other[n] - one[n]), atol=1e-7) for n, t in weights(WORK / "swept").items())
    lineage = models.read_run(WORK / "swept")
    assert lineage["weight"] == 0.25
    assert lineage["sweep"]["0.5"] == {"math": [40.0, 3.0], "qa": [60.0, 4.0], "average": [50.0, 2.5]}
    assert lineage["recipe"] == ["base", "math 9", "merge:interpolate:1/0.5/0.25/0:start+code-9 0"]  # whichever won


def test_a_sweep_of_merges_scores_a_weight_as_if_it_were_the_only_checkpoint():
    f = family()
    options = ("--data", "qa=synthetic", "--prompts", 3, "--max-completion-length", 3)
    run("ties", f["math"], f["code"], "--base", f["base"], "--weight", 0.5, 1, *options, "--out", WORK / "real")
    lineage = models.read_run(WORK / "real")
    rows = {"qa": domains.evaluation_rows("qa", None, "", 3, "train")}
    scores = merge.evaluate(*models.load(str(WORK / "real")), rows, samples=4, temperature=1.0, max_completion_length=3)
    assert lineage["sweep"][f"{lineage['weight']:g}"]["qa"][0] == scores["qa"]["score"]


def test_a_sweep_of_merges_knows_the_domain_files_of_its_checkpoints_and_so_does_its_result():
    f, own = family(), WORK / "echo.py"
    own.write_text(REPEAT)
    with replaced(domains, loaded=dict(domains.loaded)):
        known = {domains.use(str(own)): domains.source("echo")}
    trained = WORK / "trained-on-echo"
    shutil.copytree(f["code"], trained)
    (trained / "run.json").write_text(json.dumps({**models.read_run(f["code"]), "domain_files": known}))
    argv = ("mean", f["math"], trained), ("interpolate", f["math"], trained, "--weight", 0, 1, "--prompts", 2,
                                          "--max-completion-length", 2, "--data")
    with replaced(domains, loaded={}, recorded={}):
        assert "which domain's rows" in run("interpolate", f["math"], f["code"], *argv[1][3:], "echo=synthetic", code=2)
        run(*argv[0], "--out", WORK / "echoed")
        assert models.read_run(WORK / "echoed")["domain_files"] == known
        assert f"give the path of {own}" in run(*argv[1], "echo=synthetic", code=2)    # a run.json never makes code run
        assert "| weight | echo |" in " ".join(run(*argv[1], f"{own}=synthetic").split())


# ---- mistakes ----------------------------------------------------------------------------------------------------

def test_mistakes_with_merges_are_one_line_and_leave_what_stands():
    f, out = family(), WORK / "never"
    both, pair = [f["math"], f["code"]], [f["math"], f["code"], "--base", f["base"]]
    stands, mine = WORK / "stands", WORK / "mine"
    shutil.copytree(f["code"], stands)
    run("mean", *both, "--out", mine)
    places = (stands, mine, Path(f["math"]), Path(f["code"]))
    snapshot = lambda: {p: p.read_bytes() for place in places for p in place.iterdir()}
    before = snapshot()
    wide = checkpoint("wide", {n: torch.ones(9, 9) if "up_proj" in n else t for n, t in weights(f["code"]).items()},
                      tie_word_embeddings=True)
    swept = [*pair, "--weight", 0, 1]
    for words, argv in (
            (["invalid choice"], ["slerp", *both]),
            (["interpolate takes two", "not 3"], ["interpolate", *both, f["base"]]),
            (["mean takes 2 or more", "not 1"], ["mean", f["math"]]),
            (["ties takes 2 or more", "besides --base, not 1"], ["ties", f["math"], "--base", f["base"]]),
            (["no checkpoint at checkpoints/none"], ["mean", f["math"], "checkpoints/none"]),
            (["no checkpoint at checkpoints/none"], ["ties", *both, "--base", "checkpoints/none"]),
            (["ties needs --base"], ["ties", *both]),
            (["negate needs --damaged"], ["negate", *pair]),
            (["mean does not use --weight"], ["mean", *both, "--weight", 0.5]),
            (["mean does not use --base", "none"], ["mean", *pair]),
            (["interpolate does not use --base"], ["interpolate", *pair]),
            (["ties does not use --drop", "--density"], ["ties", *pair, "--drop", 0.5]),
            (["ties does not use --seed"], ["ties", *pair, "--seed", 0]),
            (["ram does not use --density"], ["ram", *pair, "--density", 0.5]),
            (["dare does not use --threshold"], ["dare", *pair, "--threshold", 0]),
            (["ram does not use --damaged"], ["ram", *pair, "--damaged", f["code"]]),
            (["--prompts is about a sweep"], ["ties", *pair, "--prompts", 9]),
            (["--data is about a sweep"], ["ties", *pair, "--weight", 1, 1, "--data", "synthetic"]),
            (["--max-completion-length is about"], ["mean", *both, "--max-completion-length", 9]),
            (["must be finite"], ["ties", *pair, "--weight", "nan"]),
            (["must be finite"], ["ties", *pair, "--weight", 1, "inf"]),
            (["--density: must be above 0 and at most 1"], ["ties", *pair, "--density", 0]),
            (["--density: must be above 0 and at most 1"], ["ties", *pair, "--density", 1.1]),
            (["--density: must be above 0 and at most 1"], ["ties", *pair, "--density", "nan"]),
            (["--drop: must be at least 0 and below 1"], ["dare", *pair, "--drop", 1]),
            (["--drop: must be at least 0 and below 1"], ["dare", *pair, "--drop", -0.1]),
            (["--threshold: must be 0 or more"], ["ram", *pair, "--threshold", -1]),
            (["--prompts: must be a whole number, at least 1"], ["ram", *swept, "--prompts", 0]),
            (["which domain's rows"], ["ram", *swept, "--data", "poetry=x"]),
            ([f"{f['math']} has [32, 16]", "first at model.layers.0.mlp.up_proj.weight"], ["mean", f["math"], wide]),
            (["lower --threshold", f["math"]], ["ram", *pair, "--threshold", 100]),
            (["has nothing to merge"], ["arithmetic", f["base"], "--base", f["base"]]),
            (["hub model"], ["mean", f["math"], "Qwen/Qwen3-0.6B"])):
        err = run(*argv, "--out", out, code=2)
        assert all(word in err for word in words) and "Traceback" not in err and not out.exists(), (argv, err)
        assert err.count("\n") == 1, err
    for words, argv in (
            ("nothing to do", []), ("exists: --overwrite", ["--out", stands]), ("exists: --overwrite", ["--out", mine]),
            ("exists: --overwrite", ["--out", stands, "--overwrite"]), ("exists", ["--out", stands / "run.json" / "x"]),
            ("which this run reads", ["--out", f["code"], "--overwrite"]),
            ("which this run reads", ["--out", Path(f["code"]) / ".." / "code"])):
        err = run("mean", *both, *argv, code=2)
        assert words in err and err.count("\n") == 1, (argv, err)
    assert "which this run reads" in run("mean", mine, f["math"], "--out", mine, "--overwrite", code=2)
    assert snapshot() == before
    run("ties", *pair, "--out", mine, "--overwrite")
    assert models.read_run(mine)["method"] == "ties" and not (Path(WORK) / ".mine.tmp").exists()


def test_flags_of_merges_stand_before_or_after_the_checkpoints():
    f = family()
    parts = ([f["math"], f["code"]], ["--base", f["base"]], ["--density", "0.5"])
    for order in itertools.permutations(parts):
        args = merge.parse(["ties", *itertools.chain(*order), "--out", str(WORK / "nowhere")])
        assert (args.checkpoints, args.base, args.density, args.first) == ([f["math"], f["code"]], f["base"], 0.5, f["base"])
