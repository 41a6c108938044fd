"""Claims about several processes, memory and speed: ranks.py, policy.py, the cache, overlapped grading.

Run by test_all.py.
"""
import contextlib
import math
import os

import torch

from theory import coordinates
import domains
import model as models
from grpo import fast
from grpo import policy as policies
from grpo import ranks
from grpo import rollout as rollouts
import train_grpo
from shared import (ROOT, WORK, a_rollout, raised, read_jsonl, replaced, run, talker, tiny, torchrun, weights,
                    with_reward)


def test_two_processes_take_the_steps_of_one_a_dead_one_ends_the_run_and_any_number_resumes_it():
    init, data = talker()
    shapes = {name: tensor.shape for name, tensor in weights(init).items()}
    frozen = {name: torch.arange(0, shape.numel(), 3) for name, shape in shapes.items()}
    coordinates.write(WORK / "every-third.safetensors", frozen, shapes, {"score": "random", "fraction": 1 / 3})
    coordinates.write_fisher(WORK / "soft.fisher", {name: torch.full(shape, 0.1) for name, shape in shapes.items()},
                             weights(tiny()[0]), {})
    options = ("--domain", "math,code", "--data", f"math={data}", "code=synthetic", "--init", init, "--prompts-per-step", 5,
               "--l2", 0.5, "--ewc", WORK / "soft.fisher", "--ewc-weight", 2,
               "--group-size", 4, "--max-completion-length", 8, "--eval-prompts", 3, "--eval-data",
               f"math={data}", "code=synthetic", "--lr", 1e-3, "--steps", 6, "--save-every", 2, "--inner-updates",
               2, "--beta", 0.05, "--micro-batch-tokens", 100, "--advantage-scale", "batch", "--loss", "dapo",
               "--protect", WORK / "every-third.safetensors")
    code, _, err = run(train_grpo.main, *options, "--out", WORK / "alone")
    assert code == 0, err

    # One process comes to step 2, two go on from there; one of them is killed as step 5 begins, and one process ends it.
    calls, grade = [], domains.reward

    def stops(domain, *rest):
        calls.append(domain)
        if calls.count("code") == 4:                # validation, two steps, and now the third
            raise models.UserError("pulled the plug")
        return grade(domain, *rest)
    domains.reward = stops
    try:
        assert run(train_grpo.main, *options, "--out", WORK / "handed-on")[0] == 2
    finally:
        domains.reward = grade
    assert models.read_run(WORK / "handed-on")["steps"] == 2
    dying = WORK / "dying.py"
    dying.write_text(f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport train_grpo\nstep = train_grpo.train_step\n"
                     "def dies(*args):\n    if os.environ['RANK'] == '1' and args[-1] == 4:\n        os.kill(os.getpid(), 9)\n"
                     "    return step(*args)\ntrain_grpo.train_step = dies\ntrain_grpo.cli(train_grpo.main)\n")
    code, out, err = torchrun(dying, *options, "--out", WORK / "handed-on", "--resume")
    assert code != 0 and "error: another process of this run has died" in err and "--resume" in err, err
    assert out.count("after step 2") == 1, out      # the leader alone talks
    assert models.read_run(WORK / "handed-on")["steps"] == 4
    code, out, err = run(train_grpo.main, *options, "--out", WORK / "handed-on", "--resume")
    assert code == 0 and "after step 4" in out, err

    whole, before = weights(WORK / "alone"), weights(init)
    assert max((whole[name] - before[name]).abs().max() for name in whole) > 1e-3
    assert sum(line["grad_norm"] > 0 for line in read_jsonl(WORK / "alone" / "log.jsonl")) >= 2
    for name, index in frozen.items():
        assert torch.equal(whole[name].flatten()[index], before[name].flatten()[index])
    assert models.read_run(WORK / "handed-on")["finished"] and not (WORK / "handed-on" / "resume.safetensors").exists()
    for name, tensor in weights(WORK / "handed-on").items():
        assert torch.allclose(tensor, whole[name], atol=1e-5), name
        assert torch.equal(tensor.flatten()[frozen[name]], before[name].flatten()[frozen[name]])
    for here, there in zip(read_jsonl(WORK / "alone" / "log.jsonl"), read_jsonl(WORK / "handed-on" / "log.jsonl"), strict=True):
        assert here["verifier_errors"] == 0
        for key, value in here.items():
            if isinstance(value, float) and not key.startswith(("seconds", "tokens_per")):
                assert math.isclose(value, there[key], rel_tol=1e-3, abs_tol=1e-5), (here["step"], key, value, there[key])
    validations = [read_jsonl(WORK / name / "validation.jsonl") for name in ("alone", "handed-on")]
    assert [line["scores"]["math"]["prompt_scores"] for line in validations[0]] == [
        line["scores"]["math"]["prompt_scores"] for line in validations[1]]


def test_shares_of_the_ranks_are_everything_once_and_in_order():
    for size in range(1, 6):
        for n in range(size, 14):
            parts = []
            for rank in range(size):
                with replaced(ranks, world=lambda: size), \
                        replaced(ranks.dist, is_initialized=lambda: True, get_rank=lambda: rank):
                    parts.append(list(range(n))[ranks.share(n)])
            assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_leave_their_group_when_a_run_ends_and_when_a_signal_ends_it():
    for end in (None, SystemExit(130)):
        left = []
        with replaced(ranks.dist, is_initialized=lambda: True, get_world_size=lambda: 1, destroy_process_group=lambda: left.append(1)), \
                contextlib.suppress(SystemExit), ranks.together():
            if end:
                raise end
        assert left == [1], end


def test_what_several_processes_or_a_missing_gpu_do_not_allow_is_one_line():
    for env, argv, word in (({"WORLD_SIZE": "8"}, ("--prompts-per-step", 4), "at least 8"),
                            ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, ("--device", "cuda:1"), "leave --device out"),
                            ({}, ("--offload",), "one GPU"), ({}, ("--offload", "--device", "cpu"), "one GPU")):
        old = dict(os.environ)
        os.environ.update(env)
        try:
            code, _, err = run(train_grpo.main, "--init", tiny()[0], "--domain", "math", "--out", WORK / "not-started", *argv)
        finally:
            os.environ.clear()
            os.environ.update(old)
        assert code == 2 and word in err and err.count("\n") == 1 and not (WORK / "not-started").exists(), err


def test_offloaded_masters_take_the_same_steps_and_leave_no_gradient_on_the_device():
    results = []
    for offload in (False, True):
        model = models.load(tiny()[0])[0]
        first = next(model.parameters())
        policy = policies.Policy(model, torch.bfloat16, offload=offload)
        assert offload or policy.masters[0].dtype == torch.float32 and first.dtype == torch.bfloat16
        for step in range(3):
            for batch in range(2):
                policy.backward(rollouts.token_logps(model, a_rollout()).sum())
                assert all(p.grad is None for p in model.parameters())
            policy.step(1e-3, 1.0)
        results.append(policy.state_dict())
    assert all(torch.equal(results[0][name], tensor) and tensor.dtype == torch.float32 for name, tensor in results[1].items())
    model = models.load(tiny()[0])[0]
    pointers = [p.data_ptr() for p in model.parameters()]
    policy = policies.Policy(model, torch.bfloat16)  # the fp32 weights become the masters: they are never there twice
    assert [m.data_ptr() for m in policy.masters] == pointers


def test_the_cache_with_room_samples_what_a_growing_one_does_over_many_tokens_and_when_rows_leave():
    from transformers import DynamicCache
    _, model, tokenizer = tiny()
    prompts = rollouts.encode(tokenizer, ["12+34=", "a much longer prompt than the first", "1"], 100)
    options = {"group_size": 3, "noise": rollouts.uniform_noise(9, 90, 5), "stop_ids": [1, 70, 71], "pad_id": 0}
    ours = rollouts.sample(model, prompts, **options)
    with replaced(fast, share_out=lambda cache, group_size: DynamicCache.batch_repeat_interleave(cache, group_size)):
        growing = rollouts.sample(model, prompts, **options)
    assert torch.equal(ours.ids, growing.ids) and torch.allclose(ours.logps, growing.logps, atol=1e-6)
    assert len(set(ours.mask.sum(1).tolist())) > 3 and int(ours.mask.sum(1).max()) > 40   # rows left, buffers grew
    assert torch.allclose(rollouts.token_logps(model, ours), ours.logps, atol=1e-5)


def test_every_completion_is_reported_once_when_it_leaves_and_programs_run_meanwhile_get_the_same_rewards():
    _, model, tokenizer = tiny()
    prompts, seen = rollouts.encode(tokenizer, ["12+34=", "5", "a long prompt"], 100), []
    with replaced(model.way, capacity=lambda model, tokens: 8):   # two prompts, then one
        rollout = rollouts.sample(model, prompts, group_size=4, noise=rollouts.uniform_noise(12, 50, 3),
                                  stop_ids=[1, 70], pad_id=0, finished=lambda *leaving: seen.append(leaving))
    assert sorted(n for rows, _, _ in seen for n in rows.tolist()) == list(range(12)) and len(seen) > 3
    for rows, ids, mask in seen:
        for n, row, real in zip(rows.tolist(), ids, mask):
            assert torch.equal(row[real], rollout.ids[n][rollout.mask[n]])

    code = domains.synthetic("code", "train", 2, seed=0)
    batch = [("code", code[0]), ("math", {"question": "1+1=", "answer": "2"}), ("code", code[1])]
    calls = []

    def graded(domain, completions, rows):
        calls.append((domain, len(completions)))
        return [len(text) + row.get("answer", "").count("2") / 2 for text, row in zip(completions, rows)]

    def answered(overlap):
        rollout = rollouts.complete(model, tokenizer, batch, group_size=4, noise=rollouts.uniform_noise(12, 20, 3), overlap=overlap)
        assert sorted(rollout.graded) == ([*range(4), *range(8, 12)] if overlap else [])       # those of code
        assert rollout.texts == rollouts.decode(tokenizer, rollout.ids, rollout.mask)
        return rollout.texts, rollouts.grade(rollout.texts, batch, rollout.graded)
    plain, overlapped = (with_reward(graded, lambda: answered(overlap)) for overlap in (False, True))
    assert plain[0] == overlapped[0] and torch.equal(plain[1], overlapped[1]) and plain[1].isfinite().all()
    assert calls[:2] == [("code", 8), ("math", 4)] and sum(n for _, n in calls[2:]) == 12

    def fails(domain, completions, rows):
        raise models.UserError("the grader broke")
    for overlap in (False, True):
        assert "grader broke" in str(raised(lambda: with_reward(fails, lambda: answered(overlap))))
