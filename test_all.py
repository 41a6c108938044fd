"""Every claim this repository makes about itself, each checked against an independent computation.

    python test_all.py                # all; offline, on a CPU, a few minutes; ends with 'N passed, N failed'
    python test_all.py advantage kl   # those with one of the words in their name
    pytest test_all.py                # the same, where pytest is installed

Names read as claims: `test_equal_rewards_give_exactly_zero_advantage`. Rows of public data in ../shared/data are used
where they stand and skipped with a reason where they do not.
"""
import argparse
import contextlib
import io
import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings
from functools import lru_cache
from pathlib import Path

import torch

import analyze
import bench
import claims
import coordinates
import curvature
import domains
import evaluate
import forgetting
import interference
import intervals
import judge
import losses
import memory
import merge
import methods
import model as models
import policy as policies
import ranks
import recovery
import refresh
import resume
import rollback
import rollout as rollouts
import rows as rows_module
import sandbox
import settings as settings_module
import train_grpo
import warmup

ROOT = Path(__file__).resolve().parent
SHARED = ROOT.parent / "shared" / "data"
WORK = Path(tempfile.mkdtemp(prefix="test_all_"))
SKIP = unittest.SkipTest  # pytest knows it too
SYNTHETIC = dict.fromkeys(domains.DOMAINS)  # for rows_for_step: new synthetic rows in every domain


# ---- helpers ---------------------------------------------------------------------------------------------------

@lru_cache
def tiny():
    """A random two-layer Qwen3 saved as a checkpoint: (directory, model, tokenizer)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    tokenizer = warmup.byte_tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                         max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0,
                                         eos_token_id=1, bos_token_id=None, initializer_range=0.2))
    models.save(model, tokenizer, WORK / "tiny", {"parent": None})
    return str(WORK / "tiny"), *models.load(str(WORK / "tiny"))


@lru_cache
def talker():
    """A model that answers one-digit sums with some digit, so that rewards vary, and the file of these sums."""
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    path = WORK / "digits.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer = models.load(tiny()[0])
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=5e-3), random.Random(0)
    for _ in range(60):
        batch = [{**row, "reference": str(rng.randint(0, 8))} for row in rng.choices(rows, k=16)]
        ids, labels = warmup.batch(tokenizer, "math", batch)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    models.save(model, tokenizer, WORK / "talker", {"parent": tiny()[0]})
    return str(WORK / "talker"), str(path)


def shared(name):
    path = SHARED / name
    if not path.is_file():
        raise SKIP(f"{name} of the public rows is not here")
    return path


def rows_of(name):
    return [json.loads(line) for line in shared(name).read_text().splitlines()]


def run(main, *argv):
    """Run a script's main in this process: (exit code, stdout, stderr)."""
    out, err, code, old = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["script", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            models.cli(main)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = old
    return code, out.getvalue(), err.getvalue()


def train(out, *argv, code=0):
    """A short training run on the tiny model; returns its directory."""
    got, stdout, stderr = run(train_grpo.main, "--init", tiny()[0], "--out", out, "--prompts-per-step", 4, "--group-size",
                              4, "--max-completion-length", 8, "--eval-prompts", 0, "--lr", 1e-3, *argv)
    assert got == code, (got, stdout, stderr)
    return Path(out)


def settings(**changes):
    """The namespace of default settings of train_grpo.py."""
    old, sys.argv = sys.argv, ["train_grpo.py", "--domain", "math"]
    try:
        args = train_grpo.parse()
    finally:
        sys.argv = old
    args.lr = 1e-3
    for name, value in changes.items():
        assert hasattr(args, name), name
        setattr(args, name, value)
    return args


def weights(directory):
    from safetensors.torch import load_file
    return load_file(Path(directory) / "model.safetensors")


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def a_rollout(prompts=("ab", "abcde", "x"), group_size=3, tokens=6, model=None, **options):
    """Sampled completions of some texts by the tiny model."""
    _, default, tokenizer = tiny()
    model = model or default
    ids = rollouts.encode(tokenizer, prompts, 100)
    noise = rollouts.uniform_noise(len(prompts) * group_size, tokens, "test")
    return rollouts.sample(model, ids, **{"group_size": group_size, "noise": noise,
                                          "stop_ids": [1, 70], "pad_id": 0, **options})


def direct_logps(model, rollout, n, temperature=1.0):
    """Log-probabilities of completion n alone, without padding, masks or chunks: (tokens, V) and the ids."""
    prompt = rollout.prompt_ids[n][rollout.prompt_mask[n]]
    completion = rollout.ids[n][rollout.mask[n]]
    logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1:-1]
    return (logits.float() / temperature).log_softmax(-1), completion


# ---- model.py --------------------------------------------------------------------------------------------------

def test_a_saved_checkpoint_loads_without_this_repository():
    from transformers import AutoModelForCausalLM, AutoTokenizer
    directory, model, tokenizer = tiny()
    assert {"config.json", "model.safetensors", "tokenizer.json", "run.json"} <= set(os.listdir(directory))
    again = AutoModelForCausalLM.from_pretrained(directory)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert AutoTokenizer.from_pretrained(directory).chat_template == tokenizer.chat_template
    run = models.read_run(directory)
    assert set(run["versions"]) == {"torch", "transformers", "datasets"}


def test_tied_weights_are_saved_and_counted_once():
    directory, model, _ = tiny()
    names = list(weights(directory))
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    policy = policies.Policy(models.load(directory)[0], torch.bfloat16)
    assert sum(m.numel() for m in policy.masters) == sum(t.numel() for t in weights(directory).values())
    out = WORK / "tied"
    models.save(policy.model, tiny()[2], out, {}, policy.state_dict())
    assert list(weights(out)) == names and same_weights(out, directory)  # fp32 masters, not their bf16 shadow


def test_a_crash_while_saving_keeps_the_previous_checkpoint():
    directory, model, tokenizer = tiny()
    out = WORK / "crash"
    models.save(model, tokenizer, out, {"steps": 1})
    policy = policies.Policy(models.load(directory)[0], torch.float32)
    policy.save_state(out / "resume.safetensors", {"steps": 1})
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")
    for patched, name, attempt in (
            (os, "replace", lambda: models.save(model, tokenizer, out, {"steps": 2})),
            (type(model), "save_pretrained", lambda: models.save(model, tokenizer, out, {"steps": 2})),
            (os, "fsync", lambda: policy.save_state(out / "resume.safetensors", {"steps": 2})),
            (os, "replace", lambda: models.write_json(out / "run.json", {"steps": 2}))):
        original = getattr(patched, name)
        setattr(patched, name, full_disk)
        try:
            attempt()
            raise AssertionError("the full disk was not noticed")
        except OSError as error:
            assert error.errno == 28
        finally:
            setattr(patched, name, original)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert not [p for p in WORK.iterdir() if p.name.startswith(".crash")]  # and no litter beside it


def test_end_ids_are_those_of_the_tokenizer_and_of_the_model():
    from transformers import GenerationConfig
    _, model, tokenizer = tiny()
    old = model.generation_config
    try:
        for theirs, union in (([5, 7], [1, 5, 7]), (7, [1, 7]), (None, [1])):
            model.generation_config = GenerationConfig(eos_token_id=theirs)
            assert models.end_ids(model, tokenizer) == union
    finally:
        model.generation_config = old


def test_warm_up_gives_the_same_bytes_twice_and_any_text_survives_its_tokenizer():
    steps, warmup.STEPS = warmup.STEPS, 2
    try:
        for name in ("warm1", "warm2"):
            assert run(warmup.main, "--out", WORK / name)[0] == 0
    finally:
        warmup.STEPS = steps
    assert (WORK / "warm1/model.safetensors").read_bytes() == (WORK / "warm2/model.safetensors").read_bytes()
    tokenizer = warmup.byte_tokenizer()
    for text in ("2+2=4", "def f(a):\n return a", "naïve \u4f60\u597d \U0001f40d\x00\t", ""):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    model, _ = models.load(str(WORK / "warm1"))
    assert type(model).__name__ == "Qwen3ForCausalLM" and sum(p.numel() for p in model.parameters()) < 1_000_000


# ---- rollout.py ------------------------------------------------------------------------------------------------

def test_greedy_sampling_equals_transformers_generate():
    _, model, tokenizer = tiny()
    rollout = a_rollout(temperature=0.0, tokens=20, noise=torch.zeros(9, 20))
    for n in range(9):
        prompt = rollout.prompt_ids[n][rollout.prompt_mask[n]][None]
        expected = model.generate(prompt, do_sample=False, max_new_tokens=20, eos_token_id=[1, 70], pad_token_id=0,
                                  attention_mask=torch.ones_like(prompt))[0, prompt.shape[1]:]
        assert rollout.ids[n][rollout.mask[n]].tolist() == expected.tolist()


def test_logprobs_are_of_the_distribution_that_was_sampled():
    _, model, _ = tiny()
    for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (1.3, 0.6)):
        rollout = a_rollout(temperature=temperature, top_p=top_p)
        scored = rollouts.token_logps(model, rollout, temperature=temperature, top_p=top_p)
        assert torch.allclose(scored, rollout.logps, atol=1e-5)
        for n in range(len(scored)):
            logprobs, ids = direct_logps(model, rollout, n, temperature)
            for t, token in enumerate(ids):
                p, order = logprobs[t].exp().sort(descending=True)
                nucleus = order[: int((p.cumsum(0) < top_p).sum()) + 1] if top_p < 1 else order
                assert token in nucleus
                expected = logprobs[t][token] - logprobs[t][nucleus].logsumexp(0)
                assert abs(scored[n, t] - expected) < 1e-4
                own = logprobs[t][nucleus] - logprobs[t][nucleus].logsumexp(0)
                assert abs(rollout.entropy[n, t] + (own.exp() * own).sum()) < 1e-4


def test_samples_follow_the_models_distribution():
    _, model, _ = tiny()
    N = 4000
    rollout = a_rollout(prompts=["a"], group_size=N, tokens=1, noise=torch.rand(N, 1, generator=torch.Generator().manual_seed(1)))
    logits = model(rollout.prompt_ids[:1]).logits[0, -1]
    expected = logits.softmax(-1) * N
    counts = torch.bincount(rollout.ids[:, 0], minlength=len(expected))
    often = expected > 20                            # chi-squared over these cells; mean k, deviation sqrt(2 k)
    k = int(often.sum())
    assert k >= 10
    chi2 = ((counts - expected) ** 2 / expected)[often].sum().item()
    assert chi2 < k + 5 * math.sqrt(2 * k), (chi2, k)


def test_a_completion_does_not_depend_on_the_other_rows_of_its_batch():
    together = a_rollout(prompts=("ab", "abcde", "x"), tokens=12)
    noise = rollouts.uniform_noise(9, 12, "test")
    alone = a_rollout(prompts=("abcde",), tokens=12, noise=noise[3:6])
    assert torch.equal(together.ids[3:6], alone.ids) and torch.equal(together.mask[3:6], alone.mask)
    limit, rollouts.LOGIT_ELEMENTS = rollouts.LOGIT_ELEMENTS, 261 * 3       # memory for one prompt's rows at a time
    try:
        in_batches = a_rollout(prompts=("ab", "abcde", "x"), tokens=12)
    finally:
        rollouts.LOGIT_ELEMENTS = limit
    for name in ("ids", "mask", "prompt_ids", "prompt_mask", "stopped"):
        assert torch.equal(getattr(together, name), getattr(in_batches, name)), name
    assert torch.allclose(together.logps, in_batches.logps, atol=1e-5)


def test_no_two_samples_of_a_group_share_noise_and_neither_do_two_steps():
    noise = torch.cat([rollouts.uniform_noise(64, 8, 0, "rollout", step) for step in range(4)])
    assert len(torch.unique(noise, dim=0)) == 256
    assert torch.equal(rollouts.uniform_noise(4, 4, 0, "a", 1), rollouts.uniform_noise(4, 4, 0, "a", 1))
    assert not torch.equal(rollouts.uniform_noise(4, 4, 0, "a", 1), rollouts.uniform_noise(4, 4, 1, "a", 1))


def test_the_end_token_is_inside_the_loss_mask_even_where_it_is_the_padding_too():
    rollout = a_rollout(tokens=60, group_size=8, stop_ids=[70, 71, 72, 73], pad_id=70)
    ended = [n for n in range(24) if rollout.stopped[n]]
    assert len(ended) >= 3
    for n in ended:
        length = int(rollout.mask[n].sum())
        assert rollout.mask[n, :length].all() and rollout.ids[n, length - 1] in (70, 71, 72, 73)
        assert not any(rollout.ids[n, t] in (70, 71, 72, 73) for t in range(length - 1))
        assert rollout.logps[n, length - 1] < 0


def test_a_prompt_that_contains_the_end_token_is_fully_attended():
    _, model, tokenizer = tiny()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.eos_token_id in ids
    rollout = rollouts.sample(model, [ids, [5]], group_size=2, noise=rollouts.uniform_noise(4, 3, 0),
                              stop_ids=[1], pad_id=1)
    assert rollout.prompt_mask[0].all() and rollout.prompt_mask[2].tolist() == [False] * (len(ids) - 1) + [True]
    logprobs, completion = direct_logps(model, rollout, 0)
    assert torch.allclose(rollout.logps[0, :len(completion)], logprobs.gather(1, completion[:, None])[:, 0], atol=1e-5)


def test_all_rows_get_the_same_new_token_budget_however_long_their_prompt():
    rollout = a_rollout(prompts=("x", "y" * 60), tokens=9, stop_ids=[])
    assert rollout.mask.sum(1).tolist() == [9] * 6 and not rollout.stopped.any()


def test_sampling_ignores_the_models_generation_config():
    from transformers import GenerationConfig
    _, model, _ = tiny()
    plain, old = a_rollout(), model.generation_config
    model.generation_config = GenerationConfig(temperature=0.01, top_k=1, do_sample=True, repetition_penalty=5.0)
    try:
        assert torch.equal(a_rollout().ids, plain.ids)
    finally:
        model.generation_config = old


def test_scoring_is_invariant_to_extra_padding_and_leaves_its_inputs_unchanged():
    _, model, _ = tiny()
    rollout = a_rollout()
    N = len(rollout.ids)
    wide = rollouts.Rollout(
        rollout.group,
        torch.cat([torch.zeros(N, 7, dtype=torch.long), rollout.prompt_ids], 1),
        torch.cat([torch.zeros(N, 7, dtype=torch.bool), rollout.prompt_mask], 1),
        torch.cat([rollout.ids, torch.zeros(N, 5, dtype=torch.long)], 1),
        torch.cat([rollout.mask, torch.zeros(N, 5, dtype=torch.bool)], 1), rollout.logps, rollout.entropy, rollout.stopped)
    copy = [t.clone() for t in vars(wide).values()]
    narrow, padded = rollouts.token_logps(model, rollout), rollouts.token_logps(model, wide)
    assert torch.allclose(narrow, padded[:, :narrow.shape[1]], atol=1e-5) and not padded[:, narrow.shape[1]:].any()
    assert all(torch.equal(a, b) for a, b in zip(copy, vars(wide).values()))
    trimmed = wide.select([1, 2])
    assert trimmed.prompt_ids.shape[1] == int(rollout.prompt_mask[1:3].sum(1).max())
    assert torch.allclose(rollouts.token_logps(model, trimmed), narrow[1:3, :trimmed.ids.shape[1]], atol=1e-5)


def test_scoring_in_chunks_changes_neither_values_nor_gradients():
    _, model, _ = tiny()
    rollout, results = a_rollout(), []
    limit = rollouts.LOGIT_ELEMENTS
    for elements in (limit, 261 * 5):
        rollouts.LOGIT_ELEMENTS = elements
        try:
            logps = rollouts.token_logps(model, rollout, temperature=0.8)
            model.zero_grad()
            (logps * torch.arange(logps.numel()).view_as(logps)).sum().backward()
            results.append([logps.detach()] + [p.grad.clone() for p in model.parameters()])
        finally:
            rollouts.LOGIT_ELEMENTS = limit
            model.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*results))


def test_reading_each_prompt_once_changes_neither_values_nor_gradients_and_reads_it_once():
    model = models.load(tiny()[0])[0]
    rollout = a_rollout(prompts=("ab", "abcdefgh", "ab"), group_size=3).select([8, 0, 1, 3, 4, 5, 7])  # groups broken up
    results, read = [], []
    model.model.register_forward_pre_hook(lambda _, args, kw: read.append(kw["input_ids"].numel()), with_kwargs=True)
    for alone in (False, True):                      # once as groups, once with every row a group of its own
        rollout.group = torch.arange(7) if alone else rollout.group
        logps = rollouts.token_logps(model, rollout, temperature=0.7)
        logps.square().sum().backward()
        results.append((logps.detach(), [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    logps = rollouts.token_logps(model.train(), rollout, temperature=0.7)   # keeps no cache: prompt and answer in one piece
    logps.square().sum().backward()
    results.append((logps.detach(), [p.grad for p in model.parameters()]))
    for logps, gradients in results[1:]:
        assert torch.allclose(logps, results[0][0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-4 * b.abs().max().item() + 1e-7) for a, b in zip(gradients, results[0][1]))
    P, T = rollout.prompt_ids.shape[1], rollout.ids.shape[1]
    assert read == [3 * P, 7 * T, 7 * P, 7 * T, 7 * (P + T)]
    even = a_rollout(prompts=("abc", "xyz"), group_size=4, tokens=3)     # no padding anywhere: no mask is built either
    even = even.select(even.mask.all(1).nonzero().squeeze(1).tolist())
    assert len(even.ids) > 2 and len(even.group.unique()) == 2
    logits = model.eval()(input_ids=torch.cat([even.prompt_ids, even.ids], 1)).logits.log_softmax(-1)
    expected = logits[:, even.prompt_ids.shape[1] - 1:-1].gather(-1, even.ids[..., None]).squeeze(-1)
    assert torch.allclose(rollouts.token_logps(model, even), expected, atol=1e-5)


def test_no_logits_of_the_prompt_are_computed_while_scoring():
    _, model, _ = tiny()
    rollout, seen = a_rollout(), []
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    rollouts.token_logps(model, rollout)
    hook.remove()
    assert sum(seen) == int(rollout.mask.sum())


def test_a_rendered_prompt_has_one_bos_and_ends_where_the_answer_begins():
    _, _, tokenizer = tiny()
    ids = rollouts.encode(tokenizer, ["hi"], 100)[0]
    assert tokenizer.decode(ids) == "<|user|>hi<|assistant|>"
    with_bos = warmup.byte_tokenizer()
    with_bos.bos_token = "<|system|>"
    with_bos.chat_template = "{{ bos_token }}" + with_bos.chat_template
    ids = rollouts.encode(with_bos, ["hi"], 100)[0]
    assert ids.count(with_bos.bos_token_id) == 1
    try:
        rollouts.encode(tokenizer, ["hi", "x" * 99], 100)
        raise AssertionError("a prompt over the limit passed")
    except models.UserError as error:
        assert "101 tokens" in str(error)


# ---- train_grpo.py: advantages and loss --------------------------------------------------------------------------

def hand_loss(model, rollout, rewards, args, old=None, reference=None):
    """The objective of train_grpo.py's docstring written out as loops over completions and tokens."""
    B, G = rewards.shape
    total_tokens = int(rollout.mask.sum())
    loss = 0.0
    for i in range(B * G):
        group = rewards[i // G]
        scale = {"group": group.std(), "batch": rewards.std(), "none": torch.tensor(1.0)}[args.advantage_scale]
        A = 0.0 if group.max() == group.min() else ((group[i % G] - group.mean()) / scale).item()
        logprobs, ids = direct_logps(model, rollout, i, args.temperature)
        logp = logprobs.gather(1, ids[:, None])[:, 0]
        old_logp = logp.detach() if old is None else old[i, :len(ids)]
        rho = (logp - old_logp).exp()
        per_token = -torch.minimum(rho * A, rho.clamp(1 - args.clip_low, 1 + args.clip_high) * A)
        if args.beta:
            with torch.no_grad():
                ref_logprobs, _ = direct_logps(reference, rollout, i, args.temperature)
            d = ref_logprobs.gather(1, ids[:, None])[:, 0] - logp
            per_token = per_token + args.beta * (d.exp() - d - 1)
        weight = {"grpo": 1 / (B * G * len(ids)), "dapo": 1 / total_tokens,
                  "dr_grpo": 1 / (B * G * args.max_completion_length)}[args.loss]
        loss = loss + weight * per_token.sum()
    return loss


class Recorder(policies.Policy):
    """A policy that keeps the gradient of each update and moves by plain gradient descent."""
    def step(self, lr, max_grad_norm):
        self.gradients = getattr(self, "gradients", []) + [[m.grad.clone() for m in self.masters]]
        with torch.no_grad():
            for m in self.masters:
                m -= 0.05 * m.grad
                m.grad = None
        return 1.0


def fresh_policy():
    return Recorder(models.load(tiny()[0])[0], torch.float32)


def some_rewards():
    rewards = torch.tensor([[1.0, 0, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    return rewards, torch.ones(9, dtype=torch.bool)


def update(args, policy, reference, rollout, advantages, counted, step):
    """train_grpo.update of a step that has only these completions: what train_step hands over when there is one process."""
    weights = losses.token_weights(rollout.mask.sum(1), counted, args.loss, args.max_completion_length)
    return train_grpo.update(args, policy, reference, rollout, advantages, weights,
                             ((advantages != 0) | (args.beta > 0)) & counted, step)


def test_the_gradient_is_autograds_of_the_formula_written_out_by_hand():
    other = models.load(tiny()[0])[0]
    with torch.no_grad():
        for p in other.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    rewards, counted = some_rewards()
    for aggregation, scale, beta in itertools.product(("grpo", "dapo", "dr_grpo"), ("group", "batch", "none"), (0.0, 0.3)):
        args = settings(loss=aggregation, advantage_scale=scale, beta=beta, inner_updates=2, temperature=0.9,
                        max_completion_length=6)
        policy = fresh_policy()
        rollout = a_rollout(temperature=0.9)
        A = losses.group_advantages(rewards, scale).flatten()
        update(args, policy, other, rollout, A, counted, step=9)
        by_hand, old = models.load(tiny()[0])[0], None
        for gradients in policy.gradients:           # the second update starts from moved weights: ratios are not one
            loss = hand_loss(by_hand, rollout, rewards.float(), args, old, other)
            expected = torch.autograd.grad(loss, list(by_hand.parameters()))
            scale_of = max(g.abs().max().item() for g in expected)
            assert all(torch.allclose(g, e, atol=2e-4 * scale_of) for g, e in zip(gradients, expected)), (aggregation, scale, beta)
            if old is None:
                old = rollouts.token_logps(by_hand, rollout, temperature=0.9).detach()
            with torch.no_grad():
                for p, g in zip(by_hand.parameters(), expected):
                    p -= 0.05 * g


def test_the_gradient_does_not_depend_on_micro_batch_size_and_the_logged_loss_is_that_of_one_batch():
    rewards, counted = some_rewards()
    rollout, results = a_rollout(), []
    A = losses.group_advantages(rewards).flatten()
    for budget in (10**6, 60, 30, 1):
        policy = fresh_policy()
        metrics = update(settings(micro_batch_tokens=budget, inner_updates=2, max_completion_length=6), policy,
                                    None, rollout, A, counted, step=0)
        results.append(([g for step in policy.gradients for g in step], metrics))
    for gradients, metrics in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, results[0][0]))
        for key in ("loss", "policy_loss", "clip_fraction_low", "clip_fraction_high", "sampler_gap"):
            assert abs(metrics[key] - results[0][1][key]) < 1e-6, key
    batches = [rollouts.micro_batches(rollout, range(9), b) for b in (10**6, 60, 1)]
    assert [len(b) for b in batches] == [1, len(batches[1]), 9] and 1 < len(batches[1]) < 9
    assert all(sorted(sum(b, [])) == list(range(9)) for b in batches)


def test_groups_of_equal_rewards_cost_no_forward_or_backward_pass():
    rewards = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 0]])
    policy, seen = fresh_policy(), []
    policy.model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    rollout = a_rollout()
    A = losses.group_advantages(rewards).flatten()
    args = settings(max_completion_length=6)
    update(args, policy, None, rollout, A, torch.ones(9, dtype=torch.bool), 0)
    assert sum(seen) == int(rollout.mask[:3].sum())
    dead, seen[:] = fresh_policy(), []
    metrics = update(args, dead, None, rollout, torch.zeros(9), torch.ones(9, dtype=torch.bool), 0)
    assert metrics["grad_norm"] == 0 and not hasattr(dead, "gradients")   # no optimizer step either: momentum would move


def test_the_ratio_is_one_at_the_first_update_and_old_logprobs_cost_no_extra_pass():
    policy, passes = fresh_policy(), []
    policy.model.model.register_forward_pre_hook(lambda *_: passes.append(1))   # of prompts, of completions
    rewards, counted = some_rewards()
    metrics = update(settings(max_completion_length=6), policy, None, a_rollout(),
                                losses.group_advantages(rewards).flatten(), counted, 0)
    assert len(passes) == 2 and metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0
    assert metrics["sampler_gap"] < 1e-5


def test_truncated_completions_can_be_masked_from_the_loss():
    rewards, _ = some_rewards()
    rollout = a_rollout(tokens=30)
    assert 0 < int(rollout.stopped.sum()) < 9
    A = losses.group_advantages(rewards).flatten()
    policy = fresh_policy()
    update(settings(max_completion_length=30), policy, None, rollout, A, rollout.stopped, 0)
    live = rollout.stopped & (A != 0)
    by_hand = models.load(tiny()[0])[0]
    logps = rollouts.token_logps(by_hand, rollout)
    loss = -sum(A[i] * logps[i].sum() / int(rollout.mask[i].sum()) for i in live.nonzero()[:, 0]) / int(rollout.stopped.sum())
    expected = torch.autograd.grad(loss, list(by_hand.parameters()))
    assert all(torch.allclose(g, e, atol=1e-5) for g, e in zip(policy.gradients[0], expected))


def test_hundred_small_steps_move_every_weight_under_a_bf16_model():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    before = [m.clone() for m in policy.masters]
    shadow = [p.clone() for p in policy.parameters]
    for _ in range(100):
        policy.backward(sum((p.float() * 1e-3).sum() for p in policy.parameters))
        policy.step(1e-6, 1e9)
    for old, master in zip(before, policy.masters):
        assert ((old - master) > 0.5e-4).all()       # 100 steps of 1e-6, all of one sign
    unmoved = sum((a == b).sum().item() for a, b in zip(shadow, policy.parameters)) / sum(p.numel() for p in shadow)
    assert unmoved > 0.2                             # which bf16 alone could not have shown
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(policy.parameters, policy.masters))


def test_micro_batch_gradients_are_summed_in_fp32():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    for _ in range(300):                             # in bf16, 1 + 1/512 = 1: the sum would stop at 2
        policy.backward(policy.parameters[0].float().sum() / 256)
    assert torch.allclose(policy.masters[0].grad, torch.full_like(policy.masters[0], 300 / 256))


def test_a_non_finite_gradient_stops_the_run_and_moves_nothing():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.float32)
    before = [m.clone() for m in policy.masters]
    policy.backward(policy.parameters[0].sum() * float("nan"))
    assert math.isnan(policy.step(1e-3, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.masters))
    loss, train_grpo.policy_loss = train_grpo.policy_loss, lambda *a, **k: (a[0].sum() * float("nan"), {
        key: torch.tensor(0.0) for key in ("policy_loss", "kl", "clip_low", "clip_high")})
    reward, domains.reward = domains.reward, lambda d, c, r, j=None: [float(i % 2) for i in range(len(c))]
    try:
        code, _, err = run(train_grpo.main, "--domain", "math", "--init", tiny()[0], "--out", WORK / "nan", "--steps", 2,
                           "--eval-prompts", 0)
    finally:
        train_grpo.policy_loss, domains.reward = loss, reward
    assert code == 2 and "step 1" in err and "not finite" in err and "Traceback" not in err


def test_each_completion_is_graded_with_its_own_row():
    seen, reward = [], domains.reward
    domains.reward = lambda d, c, rows, j=None: [seen.append((row["id"], text)) or 0.0 for text, row in zip(c, rows)]
    try:
        policy = fresh_policy()
        args = settings(prompts_per_step=3, group_size=2, max_completion_length=5)
        train_grpo.train_step(args, policy, None, tiny()[2], None, SYNTHETIC, 4)
    finally:
        domains.reward = reward
    rows = [row for _, row in rows_module.rows_for_step(args, SYNTHETIC, 4)]
    assert [i for i, _ in seen] == [row["id"] for row in rows for _ in range(2)]
    rollout = rollouts.sample(policy.model, rollouts.encode(tiny()[2], [domains.prompt("math", r) for r in rows], 99),
                              group_size=2, noise=rollouts.uniform_noise(6, 5, 0, "rollout", 4),
                              stop_ids=[1], pad_id=0)
    assert [text for _, text in seen] == rollouts.decode(tiny()[2], rollout.ids, rollout.mask)


def test_of_several_domains_each_gets_its_share_of_a_batch_or_whole_batches_in_turn():
    real = domains.synthetic("qa", "train", 7, seed=0)
    rows = SYNTHETIC | {"qa": real}
    mixed = settings(domains=["math", "code", "qa"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=4)
    steps = [rows_module.rows_for_step(mixed, rows, step) for step in range(21)]
    assert all(len(step) == 4 for step in steps) and steps[3] == rows_module.rows_for_step(mixed, rows, 3)
    shares = [[domain for domain, _ in step].count("qa") for step in steps]
    assert set(shares) == {1, 2} and sum(shares) == 28           # a third of 21 * 4, spread evenly
    seen = [row["id"] for step in steps for domain, row in step if domain == "qa"]
    assert all(sorted(seen[i:i + 7]) == sorted(r["id"] for r in real) for i in (0, 7, 14, 21))   # whole passes
    again = settings(domains=["math", "code", "qa"], visits={"math": 1, "code": 0, "qa": 2}, prompts_per_step=4)
    for step in range(3):                            # a second visit to a domain is not a repetition of the first
        for (domain, first), (_, second) in zip(steps[step], rows_module.rows_for_step(again, rows, step)):
            assert (first == second) == (domain == "code") or domain == "qa"
    second = [row["id"] for step in range(21) for d, row in rows_module.rows_for_step(again, rows, step) if d == "qa"]
    assert second[:7] != seen[:7] and sorted(second[:7]) == sorted(seen[:7])
    turns = settings(domains=["math", "qa"], visits={"math": 0, "qa": 0}, prompts_per_step=5, schedule="alternating")
    steps = [rows_module.rows_for_step(turns, rows, step) for step in range(14)]
    assert [{domain for domain, _ in step} for step in steps] == [{"math"}, {"qa"}] * 7
    seen = [row["id"] for step in steps[1::2] for _, row in step]
    assert all(sorted(seen[i:i + 7]) == sorted(r["id"] for r in real) for i in range(0, 35, 7))


def test_in_a_mixed_batch_every_completion_is_graded_by_its_own_domain():
    asked, reward = [], domains.reward
    domains.reward = lambda d, c, rows, j=None: [asked.append((d, row["id"])) or float(d == "cw") for row in rows]
    try:
        args = settings(domains=["qa", "cw"], visits={"qa": 0, "cw": 0}, prompts_per_step=5, group_size=2, max_completion_length=3)
        line, _ = train_grpo.train_step(args, fresh_policy(), None, tiny()[2], None, SYNTHETIC, 1)
    finally:
        domains.reward = reward
    assert asked == [(d, row["id"]) for d, row in rows_module.rows_for_step(args, SYNTHETIC, 1) for _ in range(2)]
    assert line["reward_by_domain"] == {"qa": 0, "cw": 1} and abs(line["reward_mean"] - 0.6) < 1e-9  # step 1 has three of cw
    assert line["zero_variance_groups"] == 1


# ---- prevention: KL to an earlier model, L2-SP, EWC, replay ------------------------------------------------------------

def test_tethers_add_the_gradient_of_their_formula_and_pull_the_weights_back():
    names = [name for name, _ in tiny()[1].named_parameters()]
    policy = fresh_policy()
    start = [m.detach().clone() for m in policy.masters]
    importance = {name: torch.rand(m.shape, generator=torch.Generator().manual_seed(i)) for i, (name, m) in enumerate(zip(names, start))}
    target = {name: m + 0.1 for name, m in zip(names, start)}
    policy.tether(2.0)
    policy.tether(3.0, importance, target)
    with torch.no_grad():
        for m in policy.masters:
            m += 0.01 * m.square()
    policy.backward(policy.parameters[0].sum())
    value = policy.pull_back()
    free = [m.detach().double().requires_grad_() for m in policy.masters]
    by_hand = sum((m - s).square().sum() for m, s in zip(free, start)) + 1.5 * sum(
        (importance[name] * (m - target[name]).square()).sum() for name, m in zip(names, free))
    assert math.isclose(value, by_hand.item(), rel_tol=1e-4)
    by_hand.backward()
    free[0].grad += 1.0
    assert all(torch.allclose(m.grad.double(), f.grad, rtol=1e-3, atol=1e-6) for m, f in zip(policy.masters, free))


def test_l2_ewc_kl_and_replay_keep_a_run_nearer_to_where_it_shall_stay():
    init, data = talker()
    code, out, err = run(rollback.main, "--anchor", init, "--domain", "math", "--data", f"math={data}", "--save-fisher",
                         WORK / "talker.fisher", "--prompts", 12, "--max-completion-length", 4)
    assert code == 0 and (WORK / "talker.fisher").is_file(), err
    F, theta = coordinates.read_fisher(WORK / "talker.fisher", {n: w.shape for n, w in weights(init).items()}, init)
    assert all(torch.equal(theta[n], w) for n, w in weights(init).items()) and sum(f.sum() for f in F.values()) > 0
    sums = ("--domain", "math", "--data", f"math={data}")
    plain = train(WORK / "free", *sums, "--init", init, "--steps", 3)
    away = lambda place, f=None: sum(((w - theta[n]).double().square() * (1 if f is None else f[n])).sum().item()
                                     for n, w in weights(place).items())
    for name, measure, options in (("l2", away, ("--l2", 100)), ("ewc", lambda place: away(place, F),
                                                                 ("--ewc", WORK / "talker.fisher", "--ewc-weight", 1e4))):
        held = train(WORK / f"held-{name}", *sums, "--init", init, "--steps", 3, *options)
        assert measure(held) < 0.7 * measure(plain), (name, measure(held), measure(plain))
        lines = read_jsonl(held / "log.jsonl")
        assert lines[0]["penalty"] < 1e-9 < lines[2]["penalty"] and math.isclose(lines[2]["loss"], lines[2]["policy_loss"] + lines[2]["penalty"])
        assert models.read_run(held)["recipe"][-1] == {"l2": "math:l2-100 3", "ewc": "math:ewc-10000 3"}[name]
    kl = {}
    for ref in (init, tiny()[0]):                    # one step moves little: the KL logged is that to the reference named
        lines = read_jsonl(train(WORK / f"kl-{Path(ref).name}", *sums, "--init", init, "--steps", 1, "--beta", 0.1, "--ref", ref)
                           / "log.jsonl")
        kl[ref] = lines[0]["kl"]
    assert kl[init] == 0 < 0.1 < kl[tiny()[0]]
    mixed = train(WORK / "replay", *sums, "--init", init, "--steps", 2, "--mix", "cw:0.25", "--data", "cw=synthetic", f"math={data}")
    assert all(set(line["reward_by_domain"]) == {"cw", "math"} for line in read_jsonl(mixed / "log.jsonl"))
    assert models.read_run(mixed)["recipe"][-1] == "math:mix-1-cw 2" and interference.label(("base", "math:mix-1-cw 2"), 2) == "math:mix-1-cw"
    dead = train(WORK / "dead", "--domain", "cw", "--init", init, "--steps", 2, "--ewc", WORK / "talker.fisher", "--ewc-weight", 10, "--l2", 1)
    assert read_jsonl(dead / "log.jsonl")[0]["zero_variance_groups"] == 1     # no gradient of its own
    moved = {name: w + 0.01 for name, w in theta.items()}
    coordinates.write_fisher(WORK / "elsewhere.fisher", F, moved, {})
    pulled = train(WORK / "pulled", "--domain", "cw", "--init", init, "--steps", 2, "--ewc", WORK / "elsewhere.fisher", "--ewc-weight", 10)
    assert read_jsonl(pulled / "log.jsonl")[0]["penalty"] > 0 and not same_weights(pulled, init)     # a tether pulls in such a step too
    assert settings_module.visits(mixed, "cw") == 1 and settings_module.visits(mixed, "math") == 1 and settings_module.visits(init, "math") == 0
    options = ("--init", init, "--domain", "math", "--data", data, "--out", WORK / "retuned", "--steps", 40, "--eval-prompts", 0, "--save-every",
               1, "--group-size", 2, "--prompts-per-step", 2, "--max-completion-length", 2, "--ewc", WORK / "elsewhere.fisher", "--ewc-weight", 1)
    assert run_interrupted(options) and (coordinates.write_fisher(WORK / "elsewhere.fisher", F, theta, {}) or True)
    code, out, err = run(train_grpo.main, *options, "--resume")
    assert code == 2 and "--ewc or --ref" in err and err.count("\n") == 1, err
    for more in (("--out", WORK / "x"), ("--score", "gradient"), ("--fraction", 0.1)):
        code, out, err = run(rollback.main, "--anchor", init, "--domain", "math", "--save-fisher", WORK / "y", *more)
        assert code == 2 and "nothing else" in err and not (WORK / "y").exists(), err
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "cw", "--out", WORK / "foreign", "--ewc", data, "--ewc-weight", 1)
    assert code == 2 and "--save-fisher" in err and err.count("\n") == 1


def run_interrupted(options):
    """A run of train_grpo.py that is told to end in its second step."""
    step = train_grpo.train_step

    def tell(*rest):
        if rest[-1] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*rest)
    train_grpo.train_step = tell
    try:
        return run(train_grpo.main, *options)[0] == 128 + signal.SIGTERM
    finally:
        train_grpo.train_step = step


def test_a_replayed_domain_takes_its_share_off_the_batch_and_is_a_stream_of_its_own():
    real = domains.synthetic("math", "train", 5, seed=0)
    rows = SYNTHETIC | {"math": real}
    args = settings(domains=["qa", "cw"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=7, mix={"math": 2})
    steps = [rows_module.rows_for_step(args, rows, step) for step in range(10)]
    assert all([d for d, _ in step].count("math") == 2 and len(step) == 7 for step in steps)
    assert {[d for d, _ in step].count("qa") for step in steps} == {2, 3}        # the other five in turn
    seen = [row["id"] for step in steps for d, row in step if d == "math"]
    assert all(sorted(seen[i:i + 5]) == sorted(r["id"] for r in real) for i in range(0, 20, 5))
    alone = settings(domains=["qa", "cw"], visits=dict.fromkeys(domains.DOMAINS, 0), prompts_per_step=5)
    again = [rows_module.rows_for_step(alone, rows, step) for step in range(10)]
    assert [step[:5] for step in steps] == again


def test_settings_of_losses_and_prevention_that_make_no_sense_are_refused_at_the_start():
    for argv, word in ((("--ref", tiny()[0]), "--beta"), (("--ewc", "x.safetensors"), "--ewc-weight"), (("--ewc-weight", 1), "--ewc"), (("--ewc", "x", "--ewc-weight", 0), "--ewc-weight"),
                       (("--mix", "math:0.5"), "twice"), (("--mix", "qa"), "DOMAIN:SHARE"), (("--mix", "qa:1.5"), "DOMAIN:SHARE"),
                       (("--mix", "qa:0.001"), "without prompts"), (("--mix", "qa:0.6", "cw:0.5"), "--mix"), (("--mix", "poetry:0.5"), "poetry"),
                       (("--mix", "qa:0.2", "qa:0.3"), "twice"), (("--delta", 0.1), "drpo"), (("--loss", "drpo", "--clip-low", 0.1), "--delta"),
                       (("--loss", "drpo", "--delta", 0), "--delta"), (("--l2", -1), "--l2"),
                       (("--mix", "qa:0.5", "--data", "math=synthetic"), "qa")):
        code, out, err = run(train_grpo.main, "--domain", "math", "--init", tiny()[0], "--out", WORK / "refused", *argv)
        assert code == 2 and word in err and err.count("\n") == 1 and not (WORK / "refused").exists(), (argv, err)
    args = settings()
    assert (args.advantage_scale, args.clip_low, args.clip_high) == ("group", 0.2, 0.2)


def test_kl_from_samples_is_the_exact_kl_of_one_token():
    before, after = tiny()[1], models.load(talker()[0])[0]
    prompt = rollouts.encode(tiny()[2], ["3+4="], 99)
    grid = (torch.arange(4000)[:, None] + 0.5) / 4000                   # in place of random numbers: every token as often as it is probable
    rollout = rollouts.sample(before, prompt, group_size=4000, noise=grid, stop_ids=[1], pad_id=0)
    with torch.no_grad():
        p, q = (model(torch.tensor(prompt)).logits[0, -1].double().log_softmax(-1) for model in (before, after))
    exact = (p.exp() * (p - q)).sum().item()
    assert exact > 0.1 and math.isclose(forgetting.kl(rollout, after), exact, rel_tol=0.05) and forgetting.kl(rollout, before) < 1e-6


def test_reward_rises_on_a_toy_whose_answer_is_one_of_two_tokens():
    reward, domains.reward = domains.reward, lambda d, c, rows, j=None: [float("A" in text) for text in c]
    try:
        policy = policies.Policy(models.load(tiny()[0])[0], torch.float32)
        args = settings(prompts_per_step=8, group_size=16, max_completion_length=2, lr=3e-3)
        means = [train_grpo.train_step(args, policy, None, tiny()[2], None, SYNTHETIC, step)[0]["reward_mean"] for step in range(40)]
    finally:
        domains.reward = reward
    assert sum(means[:3]) / 3 < 0.3 and sum(means[-3:]) / 3 > 0.9, means


# ---- domains.py and judge.py -------------------------------------------------------------------------------------

def test_every_reward_reaches_its_maximum_on_the_reference_answer():
    for domain in domains.DOMAINS:
        rows = domains.synthetic(domain, "train", 60, seed=1)
        assert domains.reward(domain, [row["reference"] for row in rows], rows) == [1.0] * 60, domain
        wrong = domains.reward(domain, ["" for _ in rows], rows)
        assert wrong == [0.0] * 60, domain


def test_train_and_held_out_rows_are_disjoint_by_construction_and_functions_of_the_seed():
    for domain in domains.DOMAINS:
        train_rows = domains.synthetic(domain, "train", 400, seed=0)
        parts = [{domains.prompt(domain, r) for r in rows} for rows in
                 (train_rows, *(domains.synthetic(domain, split, 100, seed=0) for split in ("validation", "test")))]
        assert not any(a & b for a, b in itertools.combinations(parts, 2))
        held_out = [row["id"] for row in rows_module.evaluation_rows(domain, None, "", 200, "test")]
        assert len(set(held_out)) == len(held_out) > 100    # a prompt that came twice would count twice
        assert train_rows == domains.synthetic(domain, "train", 400, seed=0) != domains.synthetic(domain, "train", 400, seed=1)


def test_canonical_rows_written_by_hand_are_graded():
    row = {"question": "1/2 + 1/4?", "answer": "3/4"}
    assert domains.reward("math", ["so 0.75", "\\boxed{\\frac34}", "It is 3", ""], [row] * 4) == [1, 1, 0, 0]
    row = {"prompt": "add", "tests": ["assert add(1, 2) == 3"], "entry_point": "add"}
    good, bad = "```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b): return 3 - a"
    assert domains.reward("code", [good, bad, "sorry"], [row] * 3) == [1, 0, 0]
    row = {"prompt": "double", "tests": [{"stdin": "4\n", "stdout": "8\n"}]}
    assert domains.reward("code", ["print(2 * int(input()))", "print(8)", "print(7)"], [row] * 3) == [1, 1, 0]
    row = {"question": "Capital of France?", "options": ["Rome", "Paris"], "answer": "B"}
    assert domains.reward("qa", ["B", "A", "Paris"], [row] * 3) == [1, 0, 0]
    row = {"prompt": "Write about a fox.", "keywords": ["fox"]}
    assert domains.reward("cw", ["The fox slept all day.", "fox"], [row] * 2) == [1, 0]
    for domain, row in (("code", {"prompt": "p", "tests": []}), ("math", {"question": "q", "answer": None}),
                        ("qa", {"question": "q", "options": ["x", "y"], "answer": None})):
        assert math.isnan(domains.reward(domain, ["x"], [row])[0])
    for domain in domains.DOMAINS:                   # thinking that does not end has not answered
        rows = domains.synthetic(domain, "train", 5, seed=2)
        assert domains.reward(domain, ["<think>" + r["reference"] for r in rows], rows) == [0] * 5, domain


def test_a_number_inside_an_unboxed_formula_is_not_the_answer():
    for gold, text, right in (("3", "It is $2\\sqrt{3}$.", 0), ("2\\sqrt{3}", "It is $2\\sqrt{3}$.", 1), ("4", "It is $(3,4)$", 0),
                              ("(3,4)", "It is \\((3,4)\\).", 1), ("5", "so $x = 5$.", 1), ("12", "She pays $12 and gets $3 back, so $12.", 1),
                              ("\\frac{3}{4}", "The answer is $\\frac{3}{4}$.", 1), ("2", "$\\frac{-1}{2}$", 0), ("7", "costs $5 + $2 = $7", 1)):
        assert domains.reward("math", [text], [{"question": "q", "answer": gold}]) == [right], (gold, text)


CHOICES = [  # completion, number of options, letter or None
    ("B", 4, "B"), ("b", 4, "B"), ("(B)", 4, "B"), ("**B**", 4, "B"), ("B.", 4, "B"), ("B) Paris", 4, "B"), ("b)", 4, "B"),
    ("The answer is B.", 4, "B"), ("the answer is (b).", 4, "B"), ("Answer: C", 4, "C"), ("**Answer:** C", 4, "C"),
    ("Answer: **D**", 4, "D"), ("\\boxed{C}", 4, "C"), ("\\boxed{\\text{(C)}}", 4, "C"), ("$\\boxed{D}$", 4, "D"),
    ("I would happily go with option C, thank you for asking!", 4, "C"), ("My choice would be D", 4, "D"),
    ("I think the correct answer is option B: Paris.", 4, "B"), ("It must be C, since A good reason exists.", 4, "C"),
    ("<think>A? B? maybe A</think>The answer is C", 4, "C"), ("Let me see... C", 4, "C"), ("The correct option is (A)", 4, "A"),
    ("A", 4, "A"), ("A cat would choose C", 4, "C"), ("J", 10, "J"), ("The answer is I.", 10, "I"),
    ("The answer is A) Rome", 4, "A"), ("Answer: A\n\nRome is a city.", 4, "A"), ("The correct answer is:\n\nB. Paris", 4, "B"),
    ("", 4, None), ("Paris", 4, None), ("A or B", 4, None), ("The answer is A or B", 4, None), ("A, B", 4, None),
    ("Both A and C", 4, None), ("The answer is A. The answer is B.", 4, None), ("\\boxed{A} \\boxed{B}", 4, None),
    ("\\boxed{A, B}", 4, None), ("A B C D", 4, None), ("A) Rome B) Paris", 4, None), ("Answer: B and C", 4, None),
    ("I do not know.", 4, None), ("A mystery", 4, None), ("the answer is a mystery", 4, None), ("\\boxed{}", 4, None),
    ("The answer is not A, it is B.", 4, "B"), ("The answer isn't A; it's B.", 4, "B"), ("B is correct.", 4, "B"),
    ("A is wrong, C is wrong, D is wrong. Therefore B is correct.", 4, "B"), ("A is correct.", 4, "A"),
    ("I think A is right.", 4, "A"), ("B\n\nExplanation: A is Rome, C is Oslo, D is Bonn.", 4, "B"), ("D. 128°F", 4, "D"),
    ("B) Paris\n\nA) is wrong because Rome is in Italy.", 4, "B"), ("\\boxed{B. 19.50 g}", 10, "B"), ("'B'", 4, "B"),
    ("The answer is 'B'.", 4, "B"), ('{"answer": "B"}', 4, "B"), ("<answer>B</answer>", 4, "B"), ("I'd say B", 4, "B"),
    ("F) At pH = 12, H_2N dominates", 10, "F"), ("The answer I get is C", 10, "C"), ("\uff22", 4, "B"),
    ("Option A is Rome which is wrong. Option C is Oslo which is wrong. So B.", 4, "B"), ("\\boxed{option B}", 4, "B"),
    ("The answer is not B.", 4, None), ("B is incorrect", 4, None), ("B is wrong.", 4, None), ("It is not B.", 4, None),
    ("Not B", 4, None), ("Anything but B", 4, None), ("\\boxed{\\text{not B}}", 4, None), ("Why should I?", 10, None),
    ("The answer is B or maybe A", 4, None), ("Answer: B, also C", 4, None), ("Answer: B;C", 4, None), ("B | C", 4, None),
    ("B + C", 4, None), ("The answer is B as well as C", 4, None), ("The answer is B. Or C.", 4, None), ("<think>B", 4, None),
    ("The answer is B. C is also correct.", 4, None), ("(b) or (c)", 4, None), ("B\nC", 4, None), ("\\boxed{B. C}", 4, None),
    ("E", 4, None), ("The answer is B/C", 4, None), ("(A) (B)", 4, None), ("A. B. C. D.", 4, None)]


def test_option_letters_are_read_however_politely_and_two_letters_or_none_are_no_choice():
    wrong = [(text, expected, domains.option_letter(text, n)) for text, n, expected in CHOICES
             if domains.option_letter(text, n) != expected]
    assert not wrong, wrong


def test_hostile_lengths_do_not_stall_the_option_parser():
    start = time.perf_counter()
    for text in ("answer" + " " * 100_000, "option " * 20_000, "A" * 100_000, "(" * 100_000, "not " * 30_000, "answer is " * 20_000,
                 "B " * 50_000, "\\boxed{" * 20_000, "\n" * 100_000, "A is " * 20_000, "answer A or " * 10_000):
        domains.option_letter(text, 10)
    assert time.perf_counter() - start < 20          # quadratic patterns took minutes


def test_option_parser_agrees_with_the_letter_it_was_given_in_any_phrase():
    rng = random.Random(0)
    phrases = ["{}", "({})", "{}.", "{})", "Answer: {}", "The answer is {}.", "the correct option is **{}**", "\\boxed{{{}}}",
               "I would pick {}", "Surely {}", "Final answer: ({})", "I choose {}!", "option {}", "So it's {}."]
    for _ in range(500):
        n = rng.randint(2, 10)
        letter = rng.choice(domains.LETTERS[:n])
        text = rng.choice(phrases).format(letter)
        assert domains.option_letter(text, n) == letter, text
        other = rng.choice([l for l in domains.LETTERS[:n] if l != letter])
        assert domains.option_letter(f"{letter} or {other}", n) is None
        assert domains.option_letter(f"The answer is {letter}, the answer is {other}", n) is None


def test_junk_never_raises_the_reward():
    junk = ["", " lol", "\n\nor maybe 7", " " + "A B C D " * 3, "\\boxed{1}", " 12345", "```python\nx\n```", "!" * 500]
    for domain in domains.DOMAINS:
        rows = domains.synthetic(domain, "train", 10, seed=5)
        for text in junk:
            wrong = ["0" if domain == "math" else "" for _ in rows]
            before = domains.reward(domain, wrong, rows)
            after = domains.reward(domain, [w + text for w in wrong], rows)
            lucky = sum(b > a for a, b in zip(before, after))
            assert lucky == 0, (domain, text)


def test_programs_are_found_in_blocks_in_bare_text_and_behind_the_humaneval_head():
    row = {"prompt": "p", "entry_point": "f"}
    assert domains.program("```python\ndef f(): return 1\n```\nUse it:\n```python\nf()\n```", row) == "def f(): return 1\n"
    assert domains.program("text\n```\nx = 1\n```", {"prompt": "p"}) == "x = 1\n"
    assert domains.program("```py\ndef f(): return 1", row) == "def f(): return 1"  # cut off before the closing fence
    assert domains.program("<think>```python\nbad\n```</think>x = 2", {"prompt": "p"}) == "x = 2"
    row = {"prompt": "p", "entry_point": "f", "tests": ["assert f(1) == 2"]}
    for text in ("1. Like this:\n   ```python\n   def f(x):\n       return x + 1\n   ```", "~~~python\ndef f(x): return x + 1\n~~~",
                 "```python title=\"f.py\"\ndef f(x): return x + 1\n```", "```python\nf = lambda x: x + 1\n```\n```python\nf(1)\n```",
                 "```python\nimport math\n```\n```python\ndef f(x): return x + math.isqrt(1)\n```",
                 "Here it is:\n\ndef f(x):\n    return x + 1\n\nThis function adds one."):
        assert domains.reward("code", [text], [row]) == [1], text
    row = {"prompt": "p", "tests": [{"stdin": "1", "stdout": "2"}]}
    program = "```python\nprint(int(input()) + 1)\nexit()\n```\nOutput:\n```\n2\n```"
    assert domains.reward("code", [program], [row]) == [1]
    head = {"prompt": "import math\ndef f(x):\n    \"\"\"doc\"\"\"\n", "entry_point": "f", "tests": ["assert f(4) == 2"]}
    assert domains.reward("code", ["return math.sqrt(x)", "  y = x\n  return math.sqrt(y)", "```python\nreturn math.sqrt(x)\n```", "if x:\n        x = x\n    return math.sqrt(x)",
                                   "```python\nfrom __future__ import annotations\ndef f(x): return math.sqrt(x)\n```"],
                          [head] * 5) == [1] * 5
    assert domains.reward("code", ["    return math.sqrt(x)", "```python\ndef f(x):\n    return math.sqrt(x)\n```"],
                          [head] * 2) == [1, 1]


ADAPTED = [  # domain, record as published, what its canonical row must hold
    ("math", {"question": "q", "answer": "so 48/2 = <<48/2=24>>24\n#### 1,024"}, {"question": "q", "answer": "1,024"}),
    ("math", {"prompt": "q", "answer": 70}, {"question": "q", "answer": "70"}),
    ("math", {"problem": "q", "solution": "thus \\boxed{\\frac{1}{2}}", "answer": "\\frac{1}{2}"}, {"question": "q", "answer": "\\frac{1}{2}"}),
    ("math", {"problem": "q", "solution": "thus \\boxed{3}"}, {"question": "q", "answer": "3"}),
    ("qa", {"question": "q", "options": ["x", "y"], "answer": "y", "answer_letter": "B"}, {"options": ["x", "y"], "answer": "B"}),
    ("qa", {"question": "q", "choices": ["x", "y"], "answer": 1}, {"options": ["x", "y"], "answer": "B"}),
    ("qa", {"question": "q", "options": ["10", "20"], "answer": "20"}, {"answer": "B"}),
    ("qa", {"question": "q", "A": "x", "B": "y", "C": "z", "answer": "C"}, {"options": ["x", "y", "z"], "answer": "C"}),
    ("code", {"text": "t", "code": "def g(a): return a", "test_list": ["assert g(1) == 1", "assert g(2) == 2"],
              "test_setup_code": "import math"}, {"entry_point": "g", "tests": ["import math\nassert g(1) == 1", "import math\nassert g(2) == 2"]}),
    ("code", {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 2"},
     {"prompt": "def f(x):\n", "entry_point": "f",
      "tests": ["def f(x):\n\ndef check(candidate):\n    assert candidate(1) == 2\ncheck(f)"]}),
    ("code", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": json.dumps(
        {"inputs": ["1\n"], "outputs": ["2\n"]}), "style": "rule"}}, {"prompt": "p", "tests": [{"stdin": "1\n", "stdout": "2\n"}]}),
    ("code", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": json.dumps(
        {"functional": "assert f(1) == 2"})}}, {"entry_point": "f", "tests": ["assert f(1) == 2"]}),
    ("code", {"question": "p", "tests": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}])},
     {"tests": [{"stdin": "1", "stdout": "2"}]}),
    ("code", {"question": "p", "input_output": json.dumps({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]})},
     {"entry_point": "f", "tests": ["assert f(*[1, 2]) in ([3], 3)"]}),
    ("cw", {"prompt": "p", "response": "r"}, {"prompt": "p", "reference": "r"}),
    ("cw", {"instruction": "p", "keywords": "a, b"}, {"prompt": "p", "keywords": ["a", "b"]})]


def test_published_rows_of_each_style_become_canonical_through_datasets():
    for i, (domain, record, expected) in enumerate(ADAPTED):
        path = WORK / f"adapted{i}.jsonl"
        path.write_text(json.dumps(record) + "\n")
        row, = rows_module.load_rows(domain, str(path))
        assert {key: row[key] for key in expected} == expected, (record, row)


def test_csv_parquet_and_named_fields_are_read():
    import datasets
    table = datasets.Dataset.from_list([{"Frage": f"{i}+1=", "Antwort": str(i + 1)} for i in range(30)])
    table.to_csv(str(WORK / "rows.csv"))
    table.to_parquet(str(WORK / "rows.parquet"))
    for name in ("rows.csv", "rows.parquet"):
        rows = rows_module.load_rows("math", str(WORK / name), "all", "question=Frage,answer=Antwort")
        assert [r["answer"] for r in rows] == [str(i + 1) for i in range(30)]
        parts = [rows_module.load_rows("math", str(WORK / name), split, "question=Frage,answer=Antwort")
                 for split in ("train", "validation", "test")]
        assert sorted(r["id"] for part in parts for r in part) == sorted(r["id"] for r in rows)   # each in one part


def test_a_local_directory_is_read_like_a_hub_name_with_its_splits():
    folder = WORK / "a_dataset"
    folder.mkdir()
    for split, n in (("train", 5), ("test", 2)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"problem": f"p{i}", "answer": str(i)}) + "\n" for i in range(n)))
    assert [len(rows_module.load_rows("math", f"{folder}{suffix}")) for suffix in ("", ":train", ":test")] == [5, 5, 2]


def test_public_files_are_read_and_their_references_earn_the_full_reward():
    rows = rows_module.load_rows("math", str(shared("gsm8k/train.jsonl")))
    assert len(rows) == 7473 and domains.reward("math", [f"It is {r['answer']}." for r in rows[:500]], rows[:500]) == [1] * 500
    assert len(rows_module.load_rows("math", str(shared("math500/test.jsonl")))) == 500
    assert len(rows_module.load_rows("math", str(shared("aime25/test.jsonl")))) == 30
    rows = rows_module.load_rows("qa", str(shared("mmlu_pro/sample.jsonl")))
    assert len(rows) == 120 and domains.reward("qa", [f"The answer is ({r['answer']})." for r in rows], rows) == [1] * 120
    rows, raw = rows_module.load_rows("code", str(shared("humaneval/HumanEval.jsonl"))), rows_of("humaneval/HumanEval.jsonl")
    assert domains.reward("code", [r["canonical_solution"] for r in raw], rows) == [1] * 164
    rows, raw = rows_module.load_rows("code", str(shared("mbpp/mbpp.jsonl"))), rows_of("mbpp/mbpp.jsonl")
    # Task 123 computes for most of the 4 seconds that a program has: on a slow machine for longer.
    slow = next(i for i, r in enumerate(raw) if r["task_id"] == 123)
    assert slow < 200 and sandbox.run_tests([{"program": raw[slow]["code"], "tests": rows[slow]["tests"]}], timeout=30) == [1]
    some = [i for i in range(200) if i != slow]
    assert domains.reward("code", [f"```python\n{raw[i]['code']}\n```" for i in some], [rows[i] for i in some]) == [1] * 199


def test_the_rubric_scores_what_its_lines_say():
    row = {"prompt": "Write: fox, sea", "keywords": ["fox", "sea"]}
    for text, score in (("The fox saw the sea.", 1), ("The fox saw the moon.", 0.5), ("The sea and the fox", 0.5), ("fox, sea", 0),
                        ("The owl saw the moon.", 0), ("", 0), ("fox fox fox sea sea sea", 0.0), ("Fox sea fox sea fox sea fox sea.", 0.5)):
        assert judge.rubric(["Write: fox, sea"], [text], [row]) == [score], text
    row = {"prompt": "Describe a stormy harbour at midnight"}
    good = "Midnight came, and the harbour was stormy and black; nobody dared to describe what the waves had taken."
    assert judge.rubric([row["prompt"]], [good], [row]) == [1.0] and judge.rubric([row["prompt"]], ["I like cats."], [row]) == [0.0]


def test_the_judges_answer_is_parsed_strictly_and_nonsense_is_no_score():
    for answer, score in (("1", 1), ("0.5", 0.5), ("0", 0), (" Score: 1. ", 1), ("<think>well, 0?</think>\n0.5", 0.5), ("**1**", 1)):
        assert judge.parse_score(answer) == score, answer
    for answer in ("", "2", "10", "0.7", "1 or 0", "I give it 1", "0.5/1", "one", "-1", "1e0", "nan"):
        assert math.isnan(judge.parse_score(answer)), answer
    scores = judge.llm_judge(tiny()[0])(["p", "p"], ["a", "b"], [{}, {}])  # random weights answer nonsense
    assert len(scores) == 2 and all(math.isnan(s) for s in scores)


# ---- evaluate.py -------------------------------------------------------------------------------------------------

def test_pass_at_k_equals_counting_all_subsets():
    for n, correct, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 3, 7), (8, 1, 4)):
        subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert abs(intervals.pass_at(k, correct, n) - sum(map(any, subsets)) / len(subsets)) < 1e-12


def test_scores_and_intervals_are_clustered_by_prompt_and_leave_out_what_was_not_graded():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [math.nan, 0.0], [math.nan, math.nan]], dtype=torch.float64)
    entry = evaluate.summary(rewards, torch.tensor([[True, False]] * 4), "abcd", "math", [["1", None]] * 4)
    means = [0.5, 1.0, 0.0]                          # standard deviation 0.5
    assert abs(entry["score"] - 50) < 1e-9 and abs(entry["ci95"] - 100 * 4.302653 * 0.5 / math.sqrt(3)) < 1e-4
    assert entry["prompt_scores"] == {"a": 50, "b": 100, "c": 0}
    assert entry["verifier_errors"] == 3 and entry["ungraded"] == ["d"] and entry["truncated"] == 0.5
    assert entry["unparsable"] == 3 / 8              # of the four without an answer, one was not graded
    assert abs(entry["maj@2"] - 100 * (1 + 1 + 0) / 3) < 1e-9
    assert abs(entry["pass@1"] - 100 * (0.5 + 1 + 0) / 3) < 1e-9 and abs(entry["pass@2"] - 100 * (1 + 1) / 2) < 1e-9
    assert intervals.average([(10, 3), (30, 4)]) == (20, 2.5)
    other = lambda ids, rewards: evaluate.summary(torch.tensor(rewards, dtype=torch.float64), torch.zeros(4, 2) > 0, ids, "cw",
                                                  [["x", "x"]] * 4)
    then = other("bcad", [[0, 0], [0, 1], [math.nan] * 2, [1, 1]])
    change, half = intervals.paired(entry, then)     # of b and c, the rows that both could grade: 100 - 0 and 0 - 50
    assert abs(change - 25) < 1e-9 and abs(half - 12.7062 * 75) < 0.01 and "maj@2" not in then
    for pair in ((entry, other("bcaz", [[0, 0]] * 4)), (other("bcaz", [[0, 0]] * 4), entry)):
        assert re.search("math row [dz] was", str(raised(lambda: intervals.differences(*pair, "math"))))
    older = {"prompts": 4, "prompt_scores": {"a": 0.0, "b": 0.0, "c": 0.0}}   # does not say which one it could not grade
    assert intervals.paired(older, other("abcd", [[1, 1]] * 4))[0] == -100
    assert "row d was" in str(raised(lambda: intervals.paired({**older, "prompts": 3}, other("abcd", [[1, 1]] * 4))))


def test_the_majority_votes_by_meaning_a_tie_is_its_mean_and_what_says_nothing_does_not_vote():
    for domain, answers, rewards, score in (
            ("math", ["1/2", "0.5", r"\frac{1}{2}", "3", "3"], [1, 1, 1, 0, 0], 1),     # three forms outvote two of a spelling
            ("math", ["3", "1/2", "4", "0.5"], [0, 1, 0, 1], 1), ("math", ["3", "3", "0.5"], [0, 0, 1], 0),
            ("math", ["1", "2"], [1, 0], 1 / 2), ("math", ["1", "2", "2.0", "1.0", "3"], [0, 1, 1, 0, 0], 1 / 2),
            ("math", ["1", "2", "3"], [0, 0, 1], 1 / 3),
            ("math", [None, None, None, "7"], [0, 0, 0, 1], 1), ("math", [None, None], [0, 0], 0),
            ("math", ["7", "8", "8"], [1, math.nan, math.nan], 1),           # nor what was not graded
            ("qa", ["A", "B", "B"], [1, 0, 0], 0), ("qa", ["A", "B", None], [1, 0, 0], 1 / 2), ("qa", ["C"], [1], 1)):
        assert abs(evaluate.majority(domain, answers, rewards) - score) < 1e-12, (domain, answers)
    assert math.isnan(evaluate.majority("math", ["1", "1"], [math.nan, math.nan]))
    rows = domains.synthetic("math", "test", 1, 0) + domains.synthetic("qa", "test", 1, 0)
    for domain, row in zip(("math", "qa"), rows):    # of one sample, the majority is the sample
        texts = [row["reference"], "no idea", "1", "B"]
        for text, reward in zip(texts, domains.reward(domain, texts, [row] * 4)):
            assert evaluate.majority(domain, [domains.answer(domain, text, row)], [reward]) == reward, (domain, text)


def test_an_answer_is_none_exactly_where_there_is_nothing_to_grade():
    code = {"prompt": "def f(x):\n    \"\"\"One more.\"\"\"\n", "entry_point": "f"}
    for domain, text, row, answer in (
            ("math", "so 3 and then \\boxed{4}", {}, "4"), ("math", "I cannot say", {}, None), ("math", "\\boxed{}", {}, None),
            ("math", "<think>5, as 2 + 3", {}, None), ("qa", "It is (B).", {"options": "xyz"}, "B"),
            ("qa", "A or B", {"options": "xyz"}, None), ("qa", "D", {"options": "xyz"}, None),
            ("code", "```python\nprint(1)\n```", {"prompt": "Print 1."}, "print(1)\n"),
            ("code", "I would add one.", {"prompt": "Add one."}, None),
            ("code", "", code, None), ("code", "<think>return", code, None),
            ("cw", "<think>hm</think> Once. ", {}, "Once."), ("cw", " \n", {}, None)):
        assert domains.answer(domain, text, row) == answer, (domain, text)
    assert domains.answer("code", "    return x + 1", code).endswith("    return x + 1")


def test_p_values_and_detectable_differences_agree_with_tables_and_with_simulated_samples():
    for t, dof, p in ((2.228139, 10, 0.05), (1, 1, 0.5), (1.812461, 10, 0.1), (4.604095, 4, 0.01), (3.300283, 1000, 0.001)):
        assert abs(intervals.p_value(-t, intervals.t_quantile(dof), dof) - p) < 1e-5, (t, dof)
    assert intervals.p_value(0, 0, 5) == 1 and intervals.p_value(2, 0, 5) == 0 and intervals.p_value(50, 1, 50) >= 0
    assert math.isnan(intervals.p_value(1, math.nan, 0)) and math.isnan(intervals.detectable(math.nan, 0))
    # n = 16, std 8: se 2; t tables of 15 degrees of freedom: 2.13145 and 0.86624
    assert abs(intervals.detectable(2.13145 * 2, 15) - 2 * (2.13145 + 0.86624)) < 1e-4
    generator = torch.Generator().manual_seed(0)
    true, n = intervals.detectable(intervals.t_quantile(24) * 1 / 5, 24), 25
    samples = true + torch.randn(20_000, n, dtype=torch.float64, generator=generator)
    found = (samples.mean(1).abs() > intervals.t_quantile(24) * samples.std(1) / 5).double().mean().item()
    assert abs(found - 0.8) < 0.015, found           # the noncentral t has a little less than 80 %


def test_t_quantiles_agree_with_the_integral_of_the_density():
    for dof in (1, 2, 3, 4, 9, 30, 199):
        t, n = intervals.t_quantile(dof), 200_000
        x = (torch.arange(n, dtype=torch.float64) + 0.5) * t / n
        log_scale = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(dof * math.pi)
        inside = 2 * (math.exp(log_scale) * (1 + x * x / dof) ** (-(dof + 1) / 2)).sum().item() * t / n
        assert abs(inside - 0.95) < 1e-6, (dof, t, inside)


def test_evaluate_writes_what_it_prints_and_a_checkpoint_differs_from_itself_by_zero():
    directory = tiny()[0]
    code, out, err = run(evaluate.main, "--compare", directory, directory, "--prompts", 6, "--samples", 2, "--json",
                         WORK / "scores.json", "--samples-file", WORK / "samples.jsonl", "--max-completion-length", 6)
    assert code == 0, err
    report = json.loads((WORK / "scores.json").read_text())[directory]
    assert {*domains.DOMAINS, "average", "evaluated", "weights", "seed", "recipe"} <= set(report)
    assert abs(report["average"]["score"] - sum(report[d]["score"] for d in domains.DOMAINS) / 4) < 1e-9
    assert all(report["compared_to"][directory][d] == {"difference": 0, "ci95": 0, "p": 1, "prompts": n, "detectable": 0}
               for d, n in [*((d, 6) for d in domains.DOMAINS), ("average", 24)])
    assert f"{report['math']['maj@2']:.1f}" in re.search("maj@2 .*", out)[0] and out.count("detectable") == 2
    for d in domains.DOMAINS:
        assert ("maj@2" in report[d]) == (d in domains.FINAL_ANSWER) and 0 <= report[d]["unparsable"] <= 1, d
        assert abs(report[d]["detectable"] - 2**0.5 * report[d]["ci95"] * (1 + 0.91954 / 2.57058)) < 1e-3, d  # t of 5
    samples = [json.loads(line) for line in (WORK / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 * 6 * 2
    for d in domains.DOMAINS:
        mean = [s["reward"] for s in samples if s["domain"] == d]
        assert abs(100 * sum(mean) / len(mean) - report[d]["score"]) < 1e-6
    code, out, _ = run(evaluate.main, directory, "--greedy", "--domains", "math", "--prompts", 3)
    assert code == 0 and "greedy" in out and "math: 3 prompts" in out


def test_scores_that_stand_in_the_file_are_not_computed_again_unless_something_changed():
    start, file, grade, graded = talker()[0], WORK / "kept.json", evaluate.grade, []
    moving = WORK / "moving"
    shutil.copytree(start, moving)
    options = ("--prompts", 4, "--samples", 2, "--max-completion-length", 4, "--domains", "math", "--json", file)

    def counted(model, tokenizer, domain, *args, **kw):
        graded.append(domain)
        return grade(model, tokenizer, domain, *args, **kw)
    evaluate.grade = counted
    try:
        outputs = [run(evaluate.main, start, moving, *options)[1], run(evaluate.main, start, moving, *options)[1]]
        assert outputs[0] == outputs[1] and len(graded) == 2
        first = json.loads(file.read_text())
        shutil.copy(Path(tiny()[0]) / "model.safetensors", moving / "model.safetensors")     # trained anew
        run(evaluate.main, start, moving, *options)
        assert len(graded) == 3
        second = json.loads(file.read_text())
        assert second[start] == first[start] and second[str(moving)]["math"] != first[str(moving)]["math"]
        assert run(evaluate.main, start, *options, "--seed", 1)[0] == 0 and len(graded) == 4     # other noise
        assert set(json.loads(file.read_text())) == {start, str(moving)}                       # nobody's scores are lost
    finally:
        evaluate.grade = grade
    (WORK / "notes.json").write_text("[1]")
    code, _, err = run(evaluate.main, start, "--json", WORK / "notes.json", "--domains", "math")
    assert code == 2 and "holds no scores" in err and (WORK / "notes.json").read_text() == "[1]"


def test_a_score_does_not_depend_on_which_other_rows_are_graded():
    _, model, tokenizer = tiny()
    rows = domains.synthetic("math", "test", 6, seed=0)
    options = {"samples": 3, "temperature": 1.0, "max_completion_length": 5}
    together = evaluate.grade(model, tokenizer, "math", rows, **options)[1]
    assert together[4] == evaluate.grade(model, tokenizer, "math", rows[4:5], **options)[1][0]


# ---- runs: resume, files, errors ---------------------------------------------------------------------------------

@lru_cache
def undisturbed():
    code, _, err = run(train_grpo.main, *grpo_command(WORK / "whole")[2:])
    assert code == 0, err
    lines = [json.loads(line) for line in (WORK / "whole" / "log.jsonl").read_text().splitlines()]
    assert sum(line["grad_norm"] > 0 for line in lines) >= 5     # it did learn something
    return WORK / "whole"


def grpo_command(out, *more):
    start, data = talker()
    return [sys.executable, str(ROOT / "train_grpo.py"), "--init", start, "--data", data, "--eval-data", data, "--out",
            str(out), "--prompts-per-step", "8", "--group-size", "8", "--max-completion-length", "8", "--eval-prompts", "0", "--lr", "1e-3", "--domain", "math",
            "--steps", "7", "--save-every", "2", "--inner-updates", "2", *more]


REFRESH = ("--steps", 5, "--save-every", 2, "--eval-every", 1)


def with_reward(function, action):
    """Run something while domains.reward is function(domain, completions, rows)."""
    reward, domains.reward = domains.reward, lambda domain, completions, rows, judge=None: function(domain, completions, rows)
    try:
        return action()
    finally:
        domains.reward = reward


def lively(domain, completions, rows):
    """A reward that varies within groups, so that a random model gets gradients."""
    return [len(set(text)) / 10 for text in completions]


def test_resume_is_bit_identical_to_no_interruption():
    options = ("--domain", "math", "--steps", 7, "--save-every", 2, "--inner-updates", 2)
    whole = with_reward(lively, lambda: train(WORK / "calm", *options))
    calls = []

    def dies(domain, completions, rows):
        calls.append(1)
        if len(calls) == 6:                          # after the checkpoint of step 4, in step 6
            raise models.UserError("pulled the plug")
        return lively(domain, completions, rows)
    with_reward(dies, lambda: train(WORK / "stopped", *options, code=2))
    assert (WORK / "stopped" / resume.STATE).is_file()
    with_reward(lively, lambda: train(WORK / "stopped", *options, "--resume"))
    assert same_weights(whole, WORK / "stopped") and not same_weights(whole, tiny()[0])
    logs = [[json.loads(line) for line in (d / "log.jsonl").read_text().splitlines()] for d in (whole, WORK / "stopped")]
    timing = {"tokens_per_s", "seconds_rollout", "seconds_reward", "seconds_update"}
    assert [{k: v for k, v in l.items() if k not in timing} for l in logs[0]] == \
        [{k: v for k, v in l.items() if k not in timing} for l in logs[1]] and len(logs[0]) == 7
    assert not (whole / resume.STATE).exists() and models.read_run(whole)["finished"]
    before = snapshot(whole)
    with_reward(lively, lambda: train(whole, *options, "--resume"))      # finished: nothing is left to do
    train(whole, *options, "--resume", "--domain", "code", code=2)       # another run
    train(whole, *options, "--resume", "--steps", 3, code=2)             # shorter than what was done
    assert snapshot(whole) == before


@lru_cache
def undisturbed_refresh():
    out = WORK / "refresh-whole"
    code, _, err = run(refresh.main, *refresh_command(talker()[0], out, *REFRESH))
    assert code == 0, err
    return out


# A script whose process dies, as by kill -9, in place of its n-th renaming of a file: in the middle of saving.
DIES_SAVING = """
import os, runpy, signal, sys
left, rename, sys.argv = [int(sys.argv[1])], os.replace, sys.argv[2:]
def replace(*names):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_kill_9_at_random_moments_of_training_refreshing_and_saving_then_resume_ends_with_the_same_weights():
    rng = random.Random(time.time())
    refreshing = [sys.executable, ROOT / "refresh.py", *refresh_command(talker()[0], WORK / "killed-refresh", *REFRESH, "--resume")]
    runs = [(grpo_command(WORK / "killed", "--resume"), WORK / "killed", undisturbed()),
            (list(map(str, refreshing)), WORK / "killed-refresh", undisturbed_refresh())]
    for attempt in range(int(os.environ.get("KILLS", 4))):       # KILLS=32 python test_all.py kill_9
        command, out, _ = runs[attempt % 2]
        if attempt % 4 < 2:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(2.5, 5.0))
            process.kill()
            process.wait()
        else:
            done = subprocess.run([sys.executable, "-c", DIES_SAVING, str(rng.randrange(25)), *command[1:]], capture_output=True)
            assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        if (out / "config.json").is_file():          # whatever stands there loads
            models.load(str(out))
    for command, out, whole in runs:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert same_weights(out, whole) and not same_weights(out, talker()[0])
        steps = [line["step"] for line in read_jsonl(out / "log.jsonl")]
        assert steps == [line["step"] for line in read_jsonl(whole / "log.jsonl")] == list(range(1, len(steps) + 1))
    assert read_jsonl(out / "validation.jsonl") == read_jsonl(undisturbed_refresh() / "validation.jsonl")


def test_ctrl_c_leaves_a_usable_checkpoint_and_says_how_to_go_on():
    out = WORK / "ctrlc"
    command = grpo_command(out)
    command[command.index("--steps") + 1] = "2000"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.time() + 60
    while not ((out / "log.jsonl").is_file() and len((out / "log.jsonl").read_text().splitlines()) > 2):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in stdout
    models.load(str(out))
    steps = models.read_run(out)["steps"]
    assert steps == len((out / "log.jsonl").read_text().splitlines()) > 0


def test_a_grader_that_raises_or_hangs_is_counted_warned_of_and_no_wrong_answer():
    grade, limit = domains.math_reward, domains.GRADING_SECONDS

    def broken(completion, row):
        if completion and ord(completion[0]) % 4 == 1:
            raise ZeroDivisionError("a bug in a grader")
        while completion and ord(completion[0]) % 16 == 3:
            pass
        return grade(completion, row)
    domains.math_reward, domains.GRADING_SECONDS = broken, 0.05
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lines = read_jsonl(train(WORK / "broken-grader", "--domain", "math", "--steps", 2) / "log.jsonl")
    finally:
        domains.math_reward, domains.GRADING_SECONDS = grade, limit
    said = "".join(str(warning.message) for warning in caught)
    assert sum(line["verifier_errors"] for line in lines) == len(caught) > 0
    assert "a bug in a grader" in said and "no result after 0.05 s" in said, said
    deadline = time.time() + 5                      # those that hung have been ended
    graders = lambda: [thread for thread in threading.enumerate() if thread.name == "grader"]
    while graders() and time.time() < deadline:
        time.sleep(0.01)
    assert not graders()


def test_any_prompt_is_read_as_it_stands_or_refused_by_length_and_weights_of_any_float_type_load():
    texts = ["", " ", "\0", "e\u0301\u200b\u202e", "\U0001f468\u200d\U0001f469", "<|user|><|end|>", "\ud800", "\n" * 50, "a" * 300]
    init, _, tokenizer = tiny()
    rows = [{"question": text, "answer": "1"} for text in texts if text != "\ud800"]          # which no file of rows may hold
    (WORK / "odd-prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for text, ids in zip(texts, rollouts.encode(tokenizer, texts, 400)):
        assert text.encode("utf-8", "replace").decode() in tokenizer.decode(ids), text
    assert "--max-prompt-length" in str(raised(lambda: rollouts.encode(tokenizer, texts, 299)))
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "math", "--data", WORK / "odd-prompts.jsonl", "--out", WORK / "odd",
                         "--steps", 2, "--prompts-per-step", 6, "--group-size", 2, "--max-completion-length", 4, "--eval-prompts", 0)
    assert code == 0, err
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "math", "--data", WORK / "odd-prompts.jsonl", "--out", WORK / "odd2",
                         "--max-prompt-length", 100, "--eval-prompts", 0)
    assert code == 2 and "--max-prompt-length" in err and not (WORK / "odd2").exists(), err
    from safetensors.torch import save_file
    reference = models.load(init, "cpu", torch.float32)[0].state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        place = WORK / f"stored-{dtype}".replace("torch.", "")
        shutil.copytree(init, place)
        save_file({name: tensor.to(dtype) for name, tensor in weights(init).items()}, place / "model.safetensors", {"format": "pt"})
        got = models.load(str(place), "cpu", torch.float32)[0].state_dict()
        assert all(torch.equal(got[name], reference[name].to(dtype).float()) for name in reference), dtype


def test_a_second_run_into_a_directory_refuses_and_a_killed_one_holds_nothing():
    out = WORK / "shared-by-two"
    command = grpo_command(out)
    command[command.index("--steps") + 1] = "2000"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not (out / "log.jsonl").is_file():
        assert time.time() < deadline and first.poll() is None
        time.sleep(0.05)
    for how in ("--overwrite", "--resume"):
        code, _, err = run(train_grpo.main, *command[2:], how)
        assert code == 2 and "another run is writing" in err and err.count("\n") == 1, err
    first.kill()
    first.wait()
    code, _, err = run(train_grpo.main, *grpo_command(out, "--overwrite")[2:])
    assert code == 0 and same_weights(out, undisturbed()), err
    assert not list(WORK.glob(".shared-by-two*"))


def test_a_full_disk_is_one_line_and_the_checkpoint_that_stood_there_still_loads():
    out = WORK / "full"
    shutil.copytree(undisturbed(), out)
    before = snapshot(out)
    # No file may become larger than 50 kB, less than the weights: as with a disk that is full, writing fails half way.
    command = f"ulimit -f 50; exec {shlex.join(grpo_command(out, '--overwrite'))}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert snapshot(out) == before
    models.load(str(out))


def test_evaluation_does_not_change_training():
    options = ("--domain", "math", "--steps", 3)
    with_reward(lively, lambda: (train(WORK / "eval0", *options), train(WORK / "eval1", *options, "--eval-prompts", 5)))
    assert same_weights(WORK / "eval0", WORK / "eval1")
    often = with_reward(lively, lambda: train(WORK / "eval2", *options, "--eval-prompts", 5, "--eval-every", 1,
                                              "--eval-domains", "math,qa"))
    assert same_weights(WORK / "eval0", often)
    assert models.read_run(WORK / "eval1")["metrics"]["math"]["before"]["prompts"] == 5
    assert [line["step"] for line in resume.read_log(often / "validation.jsonl")] == [0, 1, 2, 3]
    assert set(models.read_run(often)["metrics"]) == {"math", "qa"}


def test_the_seed_changes_rows_and_weights_and_the_same_seed_neither():
    rows = [[r["id"] for _, r in rows_module.rows_for_step(settings(seed=seed), SYNTHETIC, 0)] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    real = domains.synthetic("math", "train", 10, seed=3)
    order = [[r["id"] for step in range(5) for _, r in rows_module.rows_for_step(settings(seed=seed, prompts_per_step=4), {"math": real}, step)]
             for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]
    assert all(sorted(o[:10]) == sorted(r["id"] for r in real) == sorted(o[10:]) for o in order)  # whole passes, reshuffled
    assert order[0][:10] != order[0][10:]


def test_a_run_killed_in_its_last_evaluation_has_lost_nothing():
    graded, grade = [], evaluate.grade

    def dies(*args, **options):
        graded.append(1)
        if len(graded) == 2:                         # the evaluation after training
            raise models.UserError("pulled the plug")
        return grade(*args, **options)
    options = ("--domain", "math", "--steps", 3, "--eval-prompts", 4)
    evaluate.grade = dies
    try:
        with_reward(lively, lambda: train(WORK / "late", *options, code=2))
    finally:
        evaluate.grade = grade
    trained = weights(WORK / "late")
    with_reward(lively, lambda: train(WORK / "late", *options, "--resume"))
    assert all(torch.equal(trained[name], tensor) for name, tensor in weights(WORK / "late").items())
    metrics = models.read_run(WORK / "late")["metrics"]["math"]
    assert metrics["before"]["prompts"] == metrics["after"]["prompts"] == 4


def test_a_diverged_model_is_an_error_and_never_a_score_of_zero():
    from safetensors.torch import save_file
    broken = WORK / "diverged"
    shutil.copytree(tiny()[0], broken)
    tensors = weights(broken)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    code, _, err = run(evaluate.main, broken, "--prompts", 2, "--samples", 1)
    assert code == 2 and "not finite" in err
    code, _, err = run(train_grpo.main, "--domain", "math", "--init", broken, "--out", WORK / "no", "--eval-prompts", 0)
    assert code == 2 and "not finite" in err


def test_missing_tensors_are_an_error_that_names_the_first():
    from safetensors.torch import save_file
    partial = WORK / "partial"
    shutil.copytree(tiny()[0], partial)
    save_file({k: v for k, v in weights(partial).items() if "layers.1." not in k}, partial / "model.safetensors", {"format": "pt"})
    code, _, err = run(evaluate.main, partial, "--prompts", 2)
    assert code == 2 and "model.layers.1.input_layernorm.weight" in err


def test_a_bf16_run_saves_fp32_weights_and_says_so():
    policy = policies.Policy(models.load(tiny()[0])[0], torch.bfloat16)
    models.save(policy.model, tiny()[2], WORK / "fp32", {}, policy.state_dict())
    assert json.loads((WORK / "fp32/config.json").read_text())["dtype"] == "float32"
    assert all(tensor.dtype == torch.float32 for tensor in weights(WORK / "fp32").values())


# ---- refresh.py and interference.py ------------------------------------------------------------------------------

def refresh_command(damaged, out, *more):
    data = talker()[1]
    return [damaged, "--domain", "math", "--data", data, "--eval-data", f"math={data}", "--out", out, "--eval-prompts", 25,
            "--prompts-per-step", 8, "--group-size", 8, "--max-completion-length", 8, "--lr", 1e-3, *more]


def test_refresh_is_the_loop_of_train_grpo_with_other_defaults():
    code, out, err = run(refresh.main, *refresh_command(talker()[0], WORK / "fresh", "--steps", 3))
    assert code == 0, err
    command = grpo_command(WORK / "as-training")[2:]
    command[command.index("--steps") + 1] = "3"
    command[command.index("--inner-updates") + 1] = "1"
    assert run(train_grpo.main, *command, "--warmup-steps", 0)[0] == 0
    assert same_weights(WORK / "fresh", WORK / "as-training") and not same_weights(WORK / "fresh", talker()[0])
    report = models.read_run(WORK / "fresh")["metrics"]["math"]
    lines = resume.read_log(WORK / "fresh" / "validation.jsonl")
    assert [line["step"] for line in lines] == [0, 3]
    before, after = (line["scores"]["math"]["prompt_scores"] for line in lines)
    differences = torch.tensor([after[id] - before[id] for id in before])
    assert len(before) == 25 and abs(report["change"][0] - differences.mean().item()) < 1e-4
    assert abs(report["change"][1] - intervals.t_quantile(24) * differences.std().item() / 5) < 1e-4
    assert "3 steps of refresh on math" in out and f"{report['change'][0]:+.1f} +-" in out and "refreshed" in out
    assert models.read_run(WORK / "fresh")["recipe"] == ["talker", "math 3"]
    code, _, err = run(refresh.main, *refresh_command(str(WORK / "fresh"), WORK / "fresher", "--steps", 1))
    run_of = models.read_run(WORK / "fresher")
    assert code == 0 and run_of["recipe"] == ["talker", "math 3", "math 1"] and run_of["args"]["visits"] == {"math": 1}, err


def test_refresh_has_few_steps_that_count():
    def parsed(module, *argv):
        old, sys.argv = sys.argv, ["script", *argv]
        try:
            return module.parse()
        finally:
            sys.argv = old
    short, long = parsed(refresh, "x", "--domain", "math"), parsed(train_grpo, "--domain", "math")
    assert short.steps == 0.1 * long.steps and short.prompts_per_step == 2 * long.prompts_per_step
    assert short.default_lr == [2 * lr for lr in long.default_lr] and (short.warmup_steps, long.warmup_steps) == (0, 5)
    assert short.eval_domains == [*domains.DOMAINS] and long.eval_domains == ["math"]
    same = vars(short).keys() & vars(long).keys() - {"init", "out", "steps", "prompts_per_step", "default_lr", "warmup_steps",
                                                     "eval_domains", "schedule"}
    assert len(same) > 25 and all(getattr(short, name) == getattr(long, name) for name in same)


def test_recovered_means_that_the_interval_of_the_paired_difference_reaches_zero():
    args = argparse.Namespace(until_recovered=talker()[0], device=None, domains=["math"])
    summary = lambda *scores: {"math": {"prompt_scores": dict(enumerate(scores))}}
    reference, seen = summary(50.0, 50, 50, 50), []
    # differences -8 -12 -8 -12: mean -10, standard deviation 2.309, half-width 3.182 * 2.309 / 2 = 3.67
    for scores, back in (((42, 38, 42, 38), False), ((48.5, 44.5, 48.5, 44.5), True), ((48, 44, 48, 44), False),
                         ((60, 70, 60, 70), True)):
        stop = refresh.recovery(args)
        assert bool(stop([{"scores": summary(*map(float, scores))}], lambda *model: seen.append(model) or reference)) == back, scores
    assert all(len(model) == 2 for model in seen)        # with the reference's own tokenizer


def test_refresh_reports_all_four_domains_and_alternates():
    args = (tiny()[0], "--domains", "math,qa", "--steps", 3, "--out", WORK / "turns", "--eval-prompts", 3, "--eval-samples", 2,
            "--prompts-per-step", 2, "--group-size", 2, "--max-completion-length", 4)
    code, out, err = run(refresh.main, *args)
    assert code == 0 and all(re.search(rf"^{d} +\d", out, re.MULTILINE) for d in domains.DOMAINS), (out, err)
    lines = resume.read_log(WORK / "turns" / "log.jsonl")
    assert [set(line["reward_by_domain"]) for line in lines] == [{"math"}, {"qa"}, {"math"}]
    assert models.read_run(WORK / "turns")["recipe"] == ["tiny", "math/qa 3"]
    before = snapshot(WORK / "turns")
    code, out, _ = run(refresh.main, *args, "--resume")
    assert code == 0 and "nothing to resume" in out and snapshot(WORK / "turns") == before


def test_refresh_stops_when_the_reference_is_reached_and_not_before():
    better, worse = talker()[0], tiny()[0]                # about a tenth of the sums right, and none
    already = ("--steps", 5, "--until-recovered", worse)
    code, out, err = run(refresh.main, *refresh_command(better, WORK / "already", *already))
    assert code == 0 and "0 steps of refresh" in out and "recovered: math" in out, (out, err)
    assert same_weights(WORK / "already", better) and models.read_run(WORK / "already")["finished"]
    sums = lambda model: [p.detach().sum().item() for p in model.parameters()]
    grade, known = evaluate.grade, sums(models.load(better)[0])

    def always_right_is(model, *args, **kw):              # the reference, which three steps cannot reach
        rewards, *rest = grade(model, *args, **kw)
        return torch.full_like(rewards, sums(model) == known), *rest
    evaluate.grade = always_right_is
    try:
        never = ("--steps", 3, "--until-recovered", better, "--eval-every", 1)
        code, out, err = run(refresh.main, *refresh_command(worse, WORK / "never-back", *never))
    finally:
        evaluate.grade = grade
    assert code == 0 and "3 steps of refresh" in out and "not recovered yet" in out, (out, err)
    assert [line["step"] for line in resume.read_log(WORK / "never-back" / "validation.jsonl")] == [0, 1, 2, 3]


def test_a_killed_refresh_goes_on_to_the_same_weights_and_the_same_report():
    whole = undisturbed_refresh()
    for moment in (2, 4):                                  # in the third and in the fifth validation
        graded, grade, out = [], evaluate.grade, WORK / f"refresh-killed-{moment}"

        def dies(*args, **kw):
            graded.append(1)
            if len(graded) > moment:
                raise models.UserError("pulled the plug")
            return grade(*args, **kw)
        evaluate.grade = dies
        try:
            assert run(refresh.main, *refresh_command(talker()[0], out, *REFRESH))[0] == 2
        finally:
            evaluate.grade = grade
        code, _, err = run(refresh.main, *refresh_command(talker()[0], out, *REFRESH, "--resume"))
        assert code == 0 and same_weights(out, whole), err
        assert resume.read_log(out / "validation.jsonl") == resume.read_log(whole / "validation.jsonl")
        assert models.read_run(out)["metrics"] == models.read_run(whole)["metrics"]


def test_a_run_that_died_before_its_first_checkpoint_leaves_nothing_to_the_next():
    out, grade = WORK / "early", evaluate.grade

    def dies(*_):
        raise models.UserError("pulled the plug")
    with_reward(dies, lambda: train(out, "--domain", "math", "--steps", 2, code=2))
    resume.append(out / "validation.jsonl", [{"step": 0, "scores": {"math": {"score": 99.0, "prompt_scores": {}}}}])
    with_reward(lively, lambda: train(out, "--domain", "math", "--steps", 2, "--resume", "--eval-prompts", 3))
    assert models.read_run(out)["metrics"]["math"]["before"]["prompts"] == 3


def test_what_one_prompt_cannot_tell_is_nan_also_when_it_is_read_back():
    start, file = talker()[0], WORK / "one-prompt.json"
    options = ("--domains", "math", "--prompts", 1, "--samples", 2, "--max-completion-length", 4, "--json", file)
    outputs = [run(evaluate.main, start, *options) for _ in range(2)]
    assert [code for code, _, _ in outputs] == [0, 0] and outputs[0][1] == outputs[1][1] and "nan" in outputs[0][1]
    assert "NaN" not in file.read_text() and run(interference.main, file)[0] == 0
    command = refresh_command(start, WORK / "one-prompt", "--steps", 1, "--eval-prompts", 1)
    first, again = run(refresh.main, *command), run(refresh.main, *command, "--resume")
    assert first[0] == again[0] == 0 and first[1].splitlines()[-1] == again[1].splitlines()[-1]
    assert "NaN" not in (WORK / "one-prompt" / "validation.jsonl").read_text()


def test_a_comparison_is_of_the_same_rows_by_id_and_takes_what_stands_in_files():
    file, a, b = WORK / "pairing.json", talker()[0], tiny()[0]
    options = ("--max-completion-length", 8, "--samples", 2, "--data", f"math={talker()[1]}", "--json")
    outputs, grade = [], evaluate.grade
    for seed in (0, 1):
        code, out, err = run(evaluate.main, "--compare", a, b, *options, file, "--seed", seed)
        assert code == 0 and f"{b} minus {a}" in out and "NOT ALIKE" not in out, (out, err)
        outputs.append((out, json.loads(file.read_text())))
    assert outputs[0][1][a]["math"]["score"] != outputs[1][1][a]["math"]["score"]                  # other noise
    out, report = outputs[1]
    then, now = (report[name]["math"]["prompt_scores"] for name in (a, b))
    d = torch.tensor([now[id] - then[id] for id in sorted(now)])
    found, se = report[b]["compared_to"][a]["math"], d.std().item() / 5
    assert len(d) == found["prompts"] == 25 and abs(found["difference"] - d.mean().item()) < 1e-5
    assert abs(found["ci95"] - 2.063899 * se) < 1e-4 and abs(found["detectable"] - (2.063899 + 0.856855) * se) < 1e-4
    assert (found["p"] < 0.05) == (abs(found["difference"]) > found["ci95"])

    evaluate.grade = None                            # nothing is evaluated again
    try:
        code, again, err = run(evaluate.main, "--compare", a, b, *options, file, "--seed", 1)
        assert code == 0 and again == out, err
        code, stood, err = run(evaluate.main, "--compare", f"{file}:{a}", f"{file}:{b}")
        assert code == 0 and stood.splitlines()[2:] == out[out.index("\n" + b + " minus"):].splitlines()[2:], err
    finally:
        evaluate.grade = grade
    fewer = WORK / "fewer.json"
    assert run(evaluate.main, b, *options, fewer, "--prompts", 20, "--temperature", 0.5)[0] == 0
    lone = next(id for id in then if id not in json.loads(fewer.read_text())[b]["math"]["prompt_scores"])
    for pair in ((f"{file}:{a}", f"{fewer}:{b}"), (f"{fewer}:{b}", f"{file}:{a}")):
        code, out, err = run(evaluate.main, "--compare", *pair)
        assert code == 2 and err.startswith(f"error: math row {lone} was evaluated for one of the two") and err.count("\n") == 1
    run(evaluate.main, b, *options, fewer, "--temperature", 0.5)
    out = run(evaluate.main, "--compare", f"{file}:{a}", f"{fewer}:{b}")[1]
    assert "NOT ALIKE" in out and "temperature" in out and "contents" not in out, out
    run(evaluate.main, a, *options, file, "--seed", 2)
    assert json.loads(file.read_text())[b]["compared_to"] == {}          # was with scores that are no more


def test_validation_rows_are_neither_trained_on_nor_those_of_the_test():
    path = WORK / "splits.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(200)))
    held = lambda **changes: {row["id"] for row in rows_module.held_out_rows(settings(**changes))["math"]}
    part = lambda split: {row["id"] for row in rows_module.load_rows("math", str(path), split)}
    assert held(data={"math": str(path)}) == part("validation") and len(part("validation")) > 5
    assert held(data={"math": "synthetic"}, eval_data={"math": str(path)}, eval_prompts=999) == part("all")
    for changes in ({"data": {"math": "synthetic"}}, {"data": {"math": str(path)}, "eval_data": {"math": "synthetic"}}):
        assert all(domains.in_split(id, "validation") for id in held(**changes))
    args = settings(data={"math": str(path)}, eval_data={"math": "synthetic"})
    assert not rows_module.has_own_validation(args, "math")                    # so its own tenth stays out of training
    assert set(rows_module.held_out_rows(settings(data={"math": str(path)}, eval_domains=["math", "qa"]))) == {"math"}


def story(file, seed, scores):
    """A file of scores of one seed. scores: {recipe without its base: (math, code)}; prompts a and b score 10 apart."""
    report = {}
    for recipe, points in scores.items():
        report["/".join(["x", str(seed), *recipe])] = {"evaluated": {"samples": 4}, "weights": [1, 1], "seed": seed, "training": {"lr": 1},
            "recipe": ["base", *recipe]} | {d: {"score": x, "ci95": 1.0, "prompt_scores": {"a": x - 5, "b": x + 5}}
                                            for d, x in zip(("math", "code"), points)}
    (WORK / file).write_text(json.dumps(report))
    return WORK / file


def two_seeds():
    M, C, R = "math 100", "code 100", "math 10"
    return [story("s0.json", 0, {(M,): (80, 50), (C,): (40, 90), (M, C): (60, 90), (C, M): (78, 86), (M, C, R): (76, 86)}),
            story("s1.json", 1, {(M,): (84, 52), (C,): (42, 92), (M, C): (65, 92), (C, M): (82, 92), (M, C, R): (84, 88)})]


def test_interference_and_recovery_are_the_numbers_worked_out_by_hand():
    runs = interference.read(two_seeds())
    t1 = 12.7062                                           # two seeds: one degree of freedom; half = t1 * |difference| / 2
    cells = interference.matrix(runs, ["math", "code"])
    near = lambda pair, mean, half: abs(pair[0] - mean) < 1e-6 and abs(pair[1] - half) < 1e-3
    assert set(cells) == {("code", "math"), ("math", "code")}
    assert near(cells["code", "math"], (-20 - 19) / 2, t1 * 1 / 2) and near(cells["math", "code"], (-4 + 0) / 2, t1 * 4 / 2)
    (recipe, domain, peak), = interference.refreshes(runs, ["math", "code"])
    assert (recipe[1:], domain, peak[1:]) == (("math 100", "code 100", "math 10"), "math", ("math 100",))
    share = intervals.won_back(runs[recipe], runs[recipe[:-1]], runs[peak], domain)
    assert near(share, 100 * 35 / 39, 100 * t1 * (19 - 35 / 39 * 19) / 19.5)  # 1.95 and -1.95 over
    row = intervals.score_row(runs[recipe], ["math", "code"])
    assert near(row[0], 80, t1 * 8 / 2) and near(row[2], (81 + 86) / 2, t1 * 5 / 2)
    code, out, err = run(interference.main, *two_seeds())
    assert code == 0, err
    for line in ("| **math > code > math (10)** |", "-19.5 ± 6.4", "89.7 ± 127.0 % |", "the paper's Math: 66.49 -> 57.66 -> 66.04, average 64.25 -> 66.39",
                 "code -4.0 ± 0.0", "over seeds"):
        assert line in out, (line, out)
    verdicts = re.findall(r"\| +(yes|no) \|", out)
    assert verdicts == ["yes", "yes", "yes", "no", "yes"]


def test_one_seed_has_intervals_over_prompts_and_scores_that_do_not_compare_are_refused():
    one = two_seeds()[0]
    code, out, _ = run(interference.main, one)
    assert code == 0 and "-20.0 ± 0.0" in out and "80.0 % |" in out, out
    other_lr = story("lr.json", 2, {("math 100",): (1, 1)})
    other_lr.write_text(other_lr.read_text().replace('"lr": 1', '"lr": 2'))
    (WORK / "nothing.json").write_text("{}")
    twin = story("twin.json", 0, {("math 100",): (1, 1)})
    twin.write_text(twin.read_text().replace("x/0", "elsewhere"))
    other = story("other.json", 2, {("math 100",): (1, 1)})
    other.write_text(other.read_text().replace('"samples": 4', '"samples": 8'))
    for files, words in (((one, twin), "same recipe and seed"), ((one, other), "other settings"), ((WORK / "none.json",), "none.json"), ((one, other_lr), "more than the seed"),
                         ((WORK / "nothing.json",), "no scores"), ((one, "--plot", "x.foo"), ".png")):
        code, _, err = run(interference.main, *files)
        assert code == 2 and words in err and "Traceback" not in err, err


def test_only_seeds_that_both_checkpoints_have_are_compared_and_untested_domains_left_out():
    M, C, R = "math 100", "code 100", "math 10"
    files = [two_seeds()[0], story("s7.json", 7, {(M, C): (0, 0), (M, C, R): (99, 99)})]        # of seed 7, no expert
    runs = interference.read(files)
    base = ("base",)
    assert interference.matrix(runs, ["math", "code"])["code", "math"] == (-20, 0)
    assert intervals.won_back(runs[base + (M, C, R)], runs[base + (M, C)], runs[base + (M,)], "math")[0] == 80
    alone = story("alone.json", 7, {(M,): (1, 1)})
    assert math.isnan(intervals.change(interference.read([alone])[base + (M,)], runs[base + (M,)], "math")[0])
    code_only = WORK / "code-only.json"
    code_only.write_text(json.dumps({name: {k: v for k, v in entry.items() if k != "math"}
                                     for name, entry in json.loads(files[0].read_text()).items()}))
    spaced = WORK / "spaced.json"
    spaced.write_text(files[0].read_text().replace('"base"', '"my base"'))
    for file in (code_only, spaced):
        code, out, err = run(interference.main, file)
        assert code == 0 and "math > code > math (10)" in out, err


def test_an_alternating_refresh_is_judged_domain_by_domain_and_what_did_not_fall_has_nothing_to_win_back():
    M, C, B = "math 100", "code 100", "math/code 20"
    file = story("turns.json", 0, {(M,): (80, 50), (M, C): (60, 90), (M, C, "qa 100"): (60, 90), (M, C, "qa 100", B): (78, 90)})
    code, out, err = run(interference.main, file)
    assert code == 0 and "| its refresh takes at most 10 % of its 100 steps |" in out and "10 % |" in out, (out, err)
    assert "code had not fallen by more than chance" in out and "90.0 % |" in out
    assert re.findall(r"\| +(yes|no) \|", out) == ["yes"] * 5      # of math alone


def test_the_picture_is_drawn_where_matplotlib_is_installed_and_its_absence_is_said():
    file = WORK / "story.png"
    code, out, err = run(interference.main, *two_seeds(), "--plot", file)
    assert code == 0 and "math > code > math (10)" in out, err
    try:
        import matplotlib
        assert file.read_bytes()[:4] == b"\x89PNG"
    except ImportError:
        assert "pip install matplotlib" in out and not file.exists()


# ---- analyze.py --------------------------------------------------------------------------------------------------

@lru_cache
def family():
    """Two experts of the talker, one trained on after the other, and a refresh that kept its steps: {name: directory}."""
    by_letters = lambda domain, completions, rows: [sum(map(ord, text)) % 3 / 2 for text in completions]
    digits, found = ["--data", talker()[1], "--eval-data", talker()[1]], {"base": talker()[0]}
    for name, init, domain, more in (("math", "base", "math", digits), ("qa", "base", "qa", []), ("math-qa", "math", "qa", []),
                                     ("again", "math-qa", "math", [*digits, "--keep-every", 1])):
        found[name] = str(with_reward(by_letters, lambda: train(WORK / "family" / name, "--init", found[init], "--domain", domain,
                                                            "--steps", 3, "--max-completion-length", 4, "--lr", 2e-4, *more)))
    return found


def analyzed(*argv):
    code, out, err = run(analyze.main, "--base", family()["base"], family()["math"], family()["qa"], "--prompts", 8, "--samples", 4,
                         "--max-completion-length", 4, "--directions", 3, "--data", f"math={talker()[1]}", *argv)
    assert code == 0, (out, err)
    return out


def test_kept_steps_are_checkpoints_of_their_own_and_the_last_is_the_run():
    again = Path(family()["again"])
    assert [p.name for p in sorted(again.glob("step-*"))] == ["step-00001", "step-00002", "step-00003"]
    assert same_weights(again / "step-00003", again) and not same_weights(again / "step-00002", again)
    assert models.read_run(again / "step-00002")["recipe"][-1] == "math 2" and models.load(str(again / "step-00002"))
    by_length = lambda *more: with_reward(lively, lambda: train(WORK / "steps", "--domain", "math", *more))
    ended = by_length("--steps", 2)
    end = weights(ended)
    by_length("--steps", 3, "--keep-every", 1, "--overwrite")
    assert all(torch.equal(end[name], kept) for name, kept in weights(ended / "step-00002").items())  # as if it had ended there
    by_length("--steps", 2, "--keep-every", 2, "--overwrite")
    assert [p.name for p in ended.glob("step-*")] == ["step-00002"]  # those of the run before are gone


def test_analyze_measures_everything_that_it_prints_and_saves_it():
    f = family()
    out = analyzed("--later", f["math-qa"], "--refresh", f["again"], "--threshold", 1e-5, "--json", WORK / "full.json",
                   "--plot", WORK / "plots")
    report = claims.read(WORK / "full.json")
    assert {"abs_below_1e-7", "rel_below_1e-3", "bf16_unchanged", "abs_below_1e-05"} <= set(report["sparsity"][f["math"]])
    assert report["neuron_jaccard"].keys() == {f"{f['math']}|{f['qa']}"} and report["claims"][0]["claim"] in out
    a, b = weights(f["base"]), weights(f["math"])
    moved = math.sqrt(sum((b[name] - a[name]).square().sum().item() for name in a))
    assert math.isclose(report["sparsity"][f["math"]]["L2"], moved, rel_tol=1e-5)
    damage = {d["name"]: d for d in report["damage"]}
    assert "math -> math-qa" in damage and damage["math -> math-qa"]["trained"] and "qa -> math-qa" not in damage
    assert "math + qa" not in damage                # what was trained takes the place of what stands in
    d = damage["math -> math-qa"]
    assert math.isclose(d["measured"], d["first"] + d["second"] + d["remainder"], rel_tol=1e-9) and d["measured"] == d["along"][-1]
    assert len(report["refresh"]["taken"]["outside"]) == 4 and len(report["subspace"][f["math"]]["eigenvalues"]) == 3
    start = report["refresh"]["taken"]              # the damaged model's distance to the anchor, by other means
    distance = math.hypot(start["in_anchor"][0], start["outside"][0])
    a, b = weights(f["math"]), weights(f["math-qa"])
    assert math.isclose(distance, math.sqrt(sum((b[n] - a[n]).square().sum().item() for n in a)), rel_tol=1e-4)
    for words in ("1. Size", "2. Most edited", "3. Cosine", "4. Routes", "5. Cosine of policy", "6. Damage", "7. Conflict", "8. Refresh"):
        assert words in out, words
    try:
        import matplotlib
        assert {p.name for p in (WORK / "plots").iterdir()} == {"neurons.png", "gradients.png", "damage.png", "refresh.png"}
    except ImportError:
        assert "matplotlib is not installed" in out
    stands_in = {d["name"]: d for d in analyze_json()["damage"]}
    assert not stands_in["math + qa"]["trained"]
    analyzed("--json", WORK / "again.json")
    assert (WORK / "again.json").read_text() == (WORK / "standin.json").read_text()  # the same numbers, to the last digit


@lru_cache
def analyze_json():
    analyzed("--json", WORK / "standin.json")
    return claims.read(WORK / "standin.json")


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
        assert [c["claim"] for c in claims.read(WORK / "weights.json")["claims"]], argv


def test_a_domain_with_no_correct_completion_is_left_out_in_words():
    out = analyzed("--later", family()["math-qa"])
    assert "qa: of its 32 completions in qa none is correct" in out and "math -> math-qa" in out


def test_an_expert_that_has_not_moved_and_a_single_direction_are_no_crash():
    f = family()
    still = WORK / "family" / "still"
    shutil.copytree(f["base"], still)
    models.write_json(still / "run.json", models.read_run(f["qa"]))
    code, out, err = run(analyze.main, "--base", f["base"], f["math"], still, "--prompts", 8, "--max-completion-length", 4, "--directions", 1,
                         "--refresh", f["again"], "--data", f"math={talker()[1]}", "--json", WORK / "still.json")
    assert code == 0 and "nothing has moved" in out and "8. Refresh" in out, (out, err)
    assert claims.read(WORK / "still.json")["sparsity"][str(still)]["unchanged"] == 1


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
    for argv, words in ((("--base", WORK / "nowhere", f["math"]), "no checkpoint"), ((*base, f["math"]), "twice"),
                        ((*base, "--prompts", 2), "--prompts"), ((*base, "--top", 0), "--top"), ((*base, "--directions", 0), "--directions"),
                        ((*base, "--domains", "math,qa"), "2 domains for 1"), ((*base, "--domains", "poetry"), "unknown domain"),
                        ((*base, "--json", WORK / "nowhere" / "x.json"), "cannot write"),
                        ((*base, "--refresh", f["math-qa"]), "--keep-every"), ((*base, "--later", f["qa"]), "ancestors"),
                        ((*base, "--data", "math"), "DOMAIN=SOURCE"), (("--base", f["base"], narrow), "model.norm.weight"),
                        ((*base, "--threshold", -1), "--threshold")):
        code, _, err = run(analyze.main, *argv)
        assert code == 2 and words in err and err.strip().splitlines()[-1].startswith("error: "), (argv, err)


# ---- runs, files and mistakes ---------------------------------------------------------------------------------------

def test_resume_refuses_other_settings_and_other_data():
    path = WORK / "some.jsonl"
    write = lambda n: path.write_text("".join(json.dumps({"question": f"{i}+{n}=", "answer": i + n}) + "\n" for i in range(20)))
    write(1)
    options = ("--domain", "math", "--data", path, "--steps", 6, "--save-every", 1, "--eval-data", path)
    def dies(domain, completions, rows):
        if "die" in flags and flags.pop():
            raise models.UserError("pulled the plug")
        flags.append("die")
        return lively(domain, completions, rows)
    flags = []
    with_reward(dies, lambda: train(WORK / "data", *options, code=2))
    code, _, err = run(train_grpo.main, "--init", tiny()[0], "--out", WORK / "data", "--prompts-per-step", 4, "--group-size", 4,
                       "--max-completion-length", 8, "--eval-prompts", 0, "--lr", 2e-3, *options, "--resume")
    assert code == 2 and "--lr" in err
    write(2)
    code, _, err = run(train_grpo.main, "--init", tiny()[0], "--out", WORK / "data", "--prompts-per-step", 4, "--group-size", 4,
                       "--max-completion-length", 8, "--eval-prompts", 0, "--lr", 1e-3, *options, "--resume")
    assert code == 2 and "other rows" in err


def rolled_back(out, *argv, code=0, anchor=None, damaged=None):
    """rollback.py on the family, with Math as the damaged domain: its stdout, or stderr where it fails."""
    got, stdout, stderr = run(rollback.main, "--anchor", anchor or family()["math"], "--damaged", damaged or family()["math-qa"], "--domain",
                              "math", "--data", f"math={talker()[1]}", "qa=synthetic", "--prompts", 16, "--max-completion-length", 4,
                              "--eval-prompts", 8, *(["--out", out] if out else []), *argv)
    assert got == code, (got, stdout, stderr)
    return stdout if code == 0 else stderr


def test_a_rolled_back_checkpoint_has_the_anchors_numbers_at_its_coordinates_and_the_damaged_ones_elsewhere():
    out = WORK / "rolled"
    text = rolled_back(out, "--fraction", 0.01, "--json", WORK / "rolled.json")
    anchor, damaged, rolled = (weights(x) for x in (family()["math"], family()["math-qa"], out))
    chosen, about = coordinates.read(out / "coordinates.safetensors")
    n = sum(t.numel() for t in damaged.values())
    assert coordinates.size(chosen) == round(0.01 * n) and f"{out}: {round(0.01 * n)} coordinates rolled back" in text
    for name, tensor in damaged.items():
        back = torch.zeros(tensor.numel(), dtype=torch.bool).index_fill(0, chosen.get(name, torch.tensor([])).long(), True)
        assert torch.equal(rolled[name], torch.where(back.view_as(tensor), anchor[name], tensor)), name
    lineage = models.read_run(out)
    assert lineage["recipe"] == [*models.read_run(family()["math-qa"])["recipe"], "rollback:fisher:0.01 0"]
    assert lineage["parent"] == family()["math-qa"] == about["damaged"] and lineage["anchor"] == family()["math"] == about["anchor"]
    report = json.loads((WORK / "rolled.json").read_text())
    assert report["later"] == ["qa"]
    labels = [row["label"] for row in report["rows"]]
    assert labels == ["damaged", "fisher 1 %", "largest 1 %", "random 1 %", recovery.FULL] and all(f"| {label} " in text for label in labels)
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
    assert {f"{score} {share} %" for score in scores for share in ("0.1", "2")} | {"damaged", "refresh", recovery.FULL} == rows.keys()
    n = sum(t.numel() for t in weights(family()["math"]).values())
    for score in scores:
        small, large = (coordinates.read(WORK / "many" / f"{score}-{f}" / "coordinates.safetensors")[0] for f in ("0.001", "0.02"))
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
    held_out = rows_module.evaluation_rows("math", talker()[1], "", 16, "validation")
    answers, _, rewards = evaluate.respond(model, tokenizer, "math", held_out, samples=4, temperature=1.0, max_completion_length=4)
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
    rolled_back(WORK / "from-shards", "--fraction", 0.02, "--eval-prompts", 0, **shards)
    assert same_weights(WORK / "from-shards", WORK / "many" / "fisher-0.02")
    assert "--later" in rolled_back(None, "--score", "fisher+route", code=2, **shards)  # no run.json says what was trained
    rolled_back(WORK / "from-shards-2", "--score", "fisher+route", "--fraction", 0.02, "--later", "qa", "--eval-prompts", 0, **shards)
    assert same_weights(WORK / "from-shards-2", WORK / "many" / "fisher+route-0.02")


def test_saved_coordinates_are_applied_to_another_checkpoint():
    source = WORK / "many" / "fisher-0.02" / "coordinates.safetensors"
    if not source.exists():
        rolled_back(WORK / "many", "--fraction", 0.02, 0.001)
    text = rolled_back(WORK / "other", "--coordinates", source, anchor=family()["math"], damaged=family()["again"])
    anchor, other, rolled = (weights(x) for x in (family()["math"], family()["again"], WORK / "other"))
    chosen, _ = coordinates.read(source)
    moved = {name: (rolled[name] != other[name]).flatten().nonzero().flatten() for name in other}
    assert all(set(index.tolist()) <= set(chosen[name].tolist() if name in chosen else []) for name, index in moved.items())
    assert all(torch.equal(rolled[name].flatten()[index], anchor[name].flatten()[index]) for name, index in chosen.items())
    assert "| saved 2 % " in text


def test_recovery_puts_reports_together_draws_them_and_refuses_what_does_not_belong():
    for name, argv in (("one", {}), ("two", {"damaged": family()["again"]}), ("other", {})):
        more = ["--fraction", 0.01] if name == "other" else []
        rolled_back(None, *more, "--json", WORK / f"{name}.json", "--beside", f"refresh={family()['again']}", **argv)
    one, two, other = (WORK / f"{name}.json" for name in ("one", "two", "other"))
    code, text, err = run(recovery.main, one, two, "--plot", WORK / "rolled.png")
    assert code == 0 and "2 seeds" in text and "over seeds" in text and "| refresh " in text, err
    try:
        import matplotlib  # noqa: F401
        assert (WORK / "rolled.png").stat().st_size > 5000
    except ImportError:
        assert "matplotlib is not installed" in text
    for argv, words in (([one, other], "other rows"), ([one, one], "leave one of them out"), ([one, talker()[1]], "holds no report"),
                        ([one, "--plot", "x"], "name a .png")):
        code, _, err = run(recovery.main, *argv)
        assert code == 2 and words in err and err.count("\n") == 1


def test_mistakes_with_rollback_are_one_line_and_leave_what_stands():
    out = WORK / "kept-safe"
    rolled_back(out, "--eval-prompts", 0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    other = tiny_of_another_shape()
    for words, argv, more in (
            ("--overwrite replaces", ["--eval-prompts", 0], {}), ("must lie in (0, 1]", ["--fraction", 0], {}),
            ("must lie in (0, 1]", ["--strength", 1.5], {}), ("write LABEL=CHECKPOINT", ["--beside", "refresh"], {}),
            ("--json and --beside", ["--overwrite", "--eval-prompts", 0, "--json", "x"], {}),
            ("not of one architecture, first at", ["--overwrite"], {"damaged": other}), ("nothing to roll back", ["--overwrite"], {"damaged": family()["math"]}),
            ("no checkpoint at", ["--overwrite"], {"anchor": "checkpoints/none"}), ("a checkpoint that is read", ["--overwrite", "--out", family()["math"]], {}),
            ("holds no coordinates", ["--overwrite", "--coordinates", talker()[1]], {}), ("in place of a --score", ["--coordinates", "x", "--score", "gradient"], {}),
            ("--prompts must be", ["--prompts", 0], {}), ("cannot write", ["--overwrite", "--json", "/nowhere/x.json"], {}),
            ("would be called 'a'", ["--beside", *[f"a={family()['again']}"] * 2], {})):
        err = rolled_back(out, *argv, code=2, **more)
        assert words in err and err.count("\n") == 1 and "Traceback" not in err, (words, err)
    several = WORK / "several"
    rolled_back(several, "--score", "largest", "--fraction", 0.3, 0.6, "--eval-prompts", 0)
    kept = (several / "largest-0.3" / "model.safetensors").read_bytes()
    for read in ({"damaged": several / "largest-0.3"}, {"anchor": several / "largest-0.6"}):       # places below --out are read
        assert "is read" in rolled_back(several, "--score", "largest", "--fraction", 0.3, 0.6, "--overwrite", code=2, **read)
    assert "is read" in rolled_back(out, "--overwrite", "--beside", f"mine={out}", code=2)
    assert (several / "largest-0.3" / "model.safetensors").read_bytes() == kept
    assert "exists" in rolled_back(out / "run.json", "--score", "fisher", "largest", code=2)
    plain = WORK / "plain-anchor"                    # a hub model: no run.json
    shutil.copytree(family()["math"], plain)
    (plain / "run.json").unlink()
    rolled_back(WORK / "from-plain", "--eval-prompts", 0, anchor=plain, damaged=family()["again"])
    assert models.read_run(WORK / "from-plain")["rolled_back"] == "math" and models.read_run(WORK / "from-plain")["domain"] is None
    assert "| largest 5 % " in rolled_back(None, "--score", "largest", "--fraction", 0.05)        # controls alone
    broken = WORK / "broken.safetensors"
    models.save_tensors({"a": torch.zeros(1, dtype=torch.int32)}, broken, {"about": json.dumps({"shapes": [], "score": "x", "fraction": 1})})
    assert "holds no coordinates" in rolled_back(None, "--coordinates", broken, code=2)
    assert "holds no coordinates" in rolled_back(None, "--coordinates", "", code=2)
    assert "nothing to do" in rolled_back(None, "--eval-prompts", 0, code=2)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    rolled_back(WORK / "family" / "math" / "x" / "..", "--overwrite", code=2)           # another name of the anchor's own directory
    rolled_back(out, "--overwrite", "--fraction", 0.05, "--eval-prompts", 0)
    assert coordinates.size(coordinates.read(out / "coordinates.safetensors")[0]) > 100


@lru_cache
def tiny_of_another_shape():
    from transformers import Qwen3Config, Qwen3ForCausalLM
    _, model, tokenizer = tiny()
    wide = Qwen3ForCausalLM(Qwen3Config(**{**model.config.to_dict(), "intermediate_size": 80}))
    models.save(wide, tokenizer, WORK / "wide", {"parent": None})
    return str(WORK / "wide")


def test_protected_coordinates_do_not_move_while_the_others_do_also_in_bf16_and_after_an_interruption():
    source = WORK / "protect"
    rolled_back(source, "--fraction", 0.05, "--eval-prompts", 0)
    chosen, _ = coordinates.read(source / "coordinates.safetensors")
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
    assert models.stage("qa:protected-fisher-0.05 4") == (["qa"], 4)
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
    code, text, err = run(interference.main, WORK / "kinds0.json", WORK / "kinds1.json")
    assert code == 0, err
    for label in ("math > qa", "math > qa:protected", "math > qa > rollback:fisher:0.01"):
        assert any(line.startswith(f"| {label} ") or line.startswith(f"| **{label}** ") for line in text.splitlines()), text
    assert "-10.0" in text.split("I(later")[1] and "-1.0" not in text.split("I(later")[1]


def test_every_flag_is_read_somewhere():
    for script in ("train_grpo.py", "refresh.py", "evaluate.py", "interference.py", "analyze.py", "claims.py", "rollback.py", "recovery.py",
                   "merge.py", "methods.py", "forgetting.py", "warmup.py"):
        source = "".join((ROOT / name).read_text() for name in (script, "settings.py", "train_grpo.py", "resume.py", "rows.py"))
        for flag in re.findall(r'add_argument\("--([a-z-]+)"', source):
            name = flag.replace("-", "_")
            assert re.search(rf'args\.{name}\b', source), (script, flag)


def test_the_log_has_a_line_per_step_with_every_promised_field():
    lines = [json.loads(line) for line in (undisturbed() / "log.jsonl").read_text().splitlines()]
    promised = {"step", "reward_mean", "reward_std", "zero_variance_groups", "completion_length", "truncated", "entropy", "kl",
                "clip_fraction_low", "clip_fraction_high", "grad_norm", "lr", "tokens_per_s", "seconds_rollout",
                "seconds_reward", "seconds_update", "verifier_errors", "policy_loss", "sampler_gap"}
    assert [l["step"] for l in lines] == list(range(1, 8)) and all(promised <= set(l) for l in lines)
    samples = [json.loads(line) for line in (undisturbed() / "samples.jsonl").read_text().splitlines()]
    assert samples and all({"step", "prompt", "completion", "reward"} == set(s) for s in samples)
    lrs = [l["lr"] for l in lines]
    assert all(abs(lr - 1e-3 * min(1, (i + 1) / 5)) < 1e-12 for i, lr in enumerate(lrs))


def snapshot(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def test_every_mistake_gets_one_clear_line_and_exit_code_2_and_overwrites_nothing():
    good = tiny()[0]
    broken = {name: WORK / "broken" / name for name in ("truncated", "no-weights", "no-config", "corrupt-config", "no-template", "no-pad",
                                                      "bad-template", "bad-lineage")}
    for path in broken.values():
        shutil.copytree(good, path)
    (broken["truncated"] / "model.safetensors").write_bytes((Path(good) / "model.safetensors").read_bytes()[:5000])
    (broken["no-weights"] / "model.safetensors").unlink()
    (broken["no-config"] / "config.json").unlink()
    (broken["corrupt-config"] / "config.json").write_text("{")
    (broken["bad-template"] / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    (broken["bad-lineage"] / "run.json").write_text("[1]")
    (broken["no-template"] / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((broken["no-pad"] / "tokenizer_config.json").read_text())
    (broken["no-pad"] / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "pad_token"}))
    files = {"empty.jsonl": "", "wrong.jsonl": '{"foo": 1, "bar": 2}\n', "nonsense.jsonl": "not json\n", "rows.txt": "x",
             "odd.jsonl": '{"question": "q", "answer": ["3"]}\n{"question": "q", "answer": null}\n',
             "noanswer.jsonl": '{"question": "q", "answer": ""}\n', "long.jsonl": json.dumps({"question": "9" * 3000, "answer": "1"}) + "\n"}
    for name, text in files.items():
        (WORK / name).write_text(text)
    existing, other = undisturbed(), WORK / "somebody-elses"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    before = snapshot(existing), snapshot(other)
    base = ("--domain", "math", "--init", good, "--out", WORK / "never", "--eval-prompts", 0)
    for argv, words in (
            ((*base, "--domain", "poetry"), ("unknown domain", "math, code, qa, cw")),
            ((*base, "--group-size", 1), ("--group-size", "at least 2")),
            ((*base, "--steps", 0), ("--steps",)), ((*base, "--top-p", 0), ("--top-p",)),
            ((*base, "--temperature", 0), ("--temperature",)), ((*base, "--lr", -1), ("--lr",)),
            ((*base, "--init", WORK / "nowhere"), ("no checkpoint at",)),
            ((*base, "--init", WORK), ("is no checkpoint",)),
            ((*base, "--init", broken["truncated"]), ("cannot load",)),
            ((*base, "--init", broken["no-weights"]), ("half-written",)),
            ((*base, "--init", broken["no-config"]), ("no config.json",)),
            ((*base, "--init", broken["corrupt-config"]), ("cannot load",)),
            ((*base, "--init", broken["no-template"]), ("chat_template",)),
            ((*base, "--init", broken["no-pad"]), ("pad_token",)),
            ((*base, "--data", WORK / "nowhere.jsonl"), ("no data file",)),
            ((*base, "--data", WORK / "empty.jsonl"), ("is empty",)),
            ((*base, "--data", WORK / "rows.txt"), (".jsonl",)),
            ((*base, "--data", WORK / "nonsense.jsonl"), ("cannot read",)),
            ((*base, "--data", WORK / "wrong.jsonl"), ("foo, bar", "question, problem", "--fields")),
            ((*base, "--data", WORK / "noanswer.jsonl"), ("no answer",)),
            ((*base, "--data", WORK / "long.jsonl", "--eval-data", WORK / "long.jsonl"), ("--max-prompt-length", "2048")),
            ((*base, "--data", WORK / "wrong.jsonl", "--fields", "question=nope"), ("foo, bar",)),
            ((*base, "--max-completion-length", 5000), ("--max-completion-length", "4096")),
            ((*base, "--out", existing), ("--resume", "--overwrite")),
            ((*base, "--out", other, "--overwrite"), ("no run of ours", "thesis.tex")),
            ((*base, "--out", other, "--resume"), ("no run of ours", "thesis.tex")),
            ((*base, "--out", good), ("choose another",)),
            ((*base, "--out", talker()[0], "--resume"), ("no interrupted run",)),
            ((*base, "--overwrite", "--resume"), ("choose one",)),
            ((*base, "--device", "abacus"), ("abacus",)),
            ((*base, "--data", ""), ("empty name",)),
            ((*base, "--data", WORK / "odd.jsonl"), ("odd.jsonl",)),
            ((*base, "--init", broken["bad-template"]), ("chat template",)),
            ((*base, "--init", broken["bad-lineage"]), ("lineage",)),
            ((*base, "--domain", "math,math"), ("twice",)), ((*base, "--domain", "math,qa", "--data", "x.jsonl"), ("DOMAIN=SOURCE",)),
            ((*base, "--domain", "math,qa", "--data", "math=x.jsonl"), ("no rows of qa",)),
            ((*base, "--domain", "math", "--data", "qa=x.jsonl"), ("not among",)),
            ((*base, "--domain", "math,qa,cw", "--prompts-per-step", 2), ("--prompts-per-step", "at least 3")),
            ((*base, "--domain", "math,qa", "--schedule", "alternating", "--steps", 1), ("--steps", "at least 2")),
            ((*base, "--domain", "math,qa", "--fields", "question=q"), ("one domain",)),
            ((*base, "--eval-data", ""), ("empty name",))):
        code, _, err = run(train_grpo.main, *argv)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in err, (argv, code, err)
        assert all(word in lines[0] for word in words), (argv, lines)
        assert not (WORK / "never").exists()
    assert (snapshot(existing), snapshot(other)) == before
    shutil.copytree(undisturbed(), WORK / "reference")
    for argv, words in (((WORK / "nowhere", "--domain", "math", "--out", WORK / "never"), ("no checkpoint at",)),
                        ((good, "--domain", "math", "--out", existing, "--resume"), ("another script",)),
                        ((good, "--domain", "math", "--out", WORK / "never", "--until-recovered", WORK / "nowhere"), ("no checkpoint",)),
                        ((good, "--domain", "math", "--out", WORK / "reference", "--overwrite", "--until-recovered",
                          WORK / "reference"), ("--until-recovered", "another directory")),
                        ((good, "--domain", "math", "--out", WORK / "never", "--eval-prompts", 0, "--until-recovered", good),
                         ("--eval-prompts",))):
        code, _, err = run(refresh.main, *argv)
        assert code == 2 and all(word in err for word in words) and err.strip().splitlines()[-1].startswith("error: "), (argv, err)
        assert not (WORK / "never").exists()
    assert (snapshot(existing), snapshot(other)) == before
    for argv in ((WORK / "nowhere",), (good, "--domains", "x"), (good, "--data", "math"), (good, "--samples", 0), (good, good),
                 (good, "--domains", "math,math"), (good, "--domains", "math", "--data", "qa=x"), (good, "--temperature", "nan"),
                 (good, "--json", WORK / "nowhere" / "x.json"), (good, "--json", WORK), (),
                 ("--compare", good, WORK / "nowhere"), ("--compare", good, WORK / "nowhere.json:x"),
                 ("--compare", good, WORK / "scores.json:x")):
        code, _, err = run(evaluate.main, *argv)
        assert code == 2 and err.strip().splitlines()[-1].startswith("error: "), (argv, err)


def test_overwrite_keeps_the_old_checkpoint_until_there_is_a_new_one():
    out = with_reward(lively, lambda: train(WORK / "kept", "--domain", "math", "--steps", 1))
    old = weights(out)

    def dies(*_):
        raise models.UserError("pulled the plug")
    with_reward(dies, lambda: train(out, "--domain", "math", "--steps", 2, "--overwrite", code=2))
    assert all(torch.equal(old[name], kept) for name, kept in weights(out).items())
    with_reward(lively, lambda: train(out, "--domain", "math", "--steps", 2, "--overwrite"))
    assert models.read_run(out)["steps"] == 2 and not [p.name for p in WORK.iterdir() if p.name.startswith(".kept")]


def test_every_script_runs_end_to_end_from_the_command_line():
    expert = subprocess.run(grpo_command(WORK / "cli", "--overwrite"), capture_output=True, text=True)
    assert expert.returncode == 0 and f"{WORK / 'cli'}: 7 steps on math" in expert.stdout, expert.stderr
    assert same_weights(WORK / "cli", undisturbed())     # another process, the same bits
    lineage = models.read_run(WORK / "cli")
    assert lineage["parent"] == talker()[0] and lineage["domain"] == "math" and lineage["steps"] == 7 and lineage["seed"] == 0
    for argv in (["evaluate.py", str(WORK / "cli"), "--prompts", "4", "--samples", "2", "--max-completion-length", "4"],
                 ["refresh.py", str(WORK / "cli"), "--domain", "qa", "--steps", "1", "--out", str(WORK / "cli-qa"), "--prompts-per-step",
                  "2", "--group-size", "2", "--eval-prompts", "2", "--eval-samples", "1", "--max-completion-length", "4"],
                 ["evaluate.py", str(WORK / "cli"), str(WORK / "cli-qa"), "--prompts", "2", "--samples", "1", "--max-completion-length",
                  "4", "--json", str(WORK / "cli.json")], ["interference.py", str(WORK / "cli.json")],
                 ["analyze.py", "--base", talker()[0], str(WORK / "cli"), "--json", str(WORK / "analysis.json"), "--weights-only"],
                 ["claims.py", str(WORK / "analysis.json")], ["rollback.py", "--anchor", talker()[0], "--damaged", str(WORK / "cli"),
                  "--domain", "math", "--data", f"math={talker()[1]}", "--prompts", "4", "--eval-prompts", "2", "--out", str(WORK / "cli-rolled"),
                  "--max-completion-length", "4", "--json", str(WORK / "cli-rolled.json")], ["recovery.py", str(WORK / "cli-rolled.json")],
                 ["merge.py", "mean", str(WORK / "cli"), str(WORK / "cli-qa"), "--out", str(WORK / "cli-soup")],
                 ["train_grpo.py", "--help"]):
        if argv[0] in ("refresh.py", "train_grpo.py"):
            done = subprocess.run([sys.executable, str(ROOT / argv[0]), *argv[1:]], capture_output=True, text=True, cwd=WORK)
            code, err = done.returncode, done.stderr
        else:                                        # in this process: importing torch and transformers once more takes seconds
            code, _, err = run(sys.modules[argv[0].removesuffix(".py")].main, *argv[1:])
        assert code in (0, None) and "Traceback" not in err, (argv, err)
    for script in (evaluate, refresh, interference, analyze, claims, rollback, recovery, merge, methods, forgetting, warmup, bench, memory):
        code, out, _ = run(script.main, "--help")
        assert code in (0, None) and "usage:" in out and script.__doc__.strip().splitlines()[0] in out, script


def test_nothing_imports_in_circles_and_requirements_are_the_four():
    imports = {p.stem: set(re.findall(r"^(?:from|import) (\w+)", p.read_text(), re.MULTILINE)) for p in ROOT.glob("*.py")}

    def reaches(name, seen):
        assert name not in seen, f"circle: {seen} {name}"
        for other in imports[name] & imports.keys():
            reaches(other, seen + [name])
    for name in imports:
        reaches(name, [])
    wanted = re.findall(r"^[a-z]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert wanted == ["torch", "transformers", "datasets", "tqdm"]


# ---- several processes, memory, cache ----------------------------------------------------------------------------

def torchrun(script, *argv):
    """Run a script in two processes, which talk over gloo: (exit code, stdout, stderr)."""
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(script), *map(str, argv)], capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    return done.returncode, done.stdout, done.stderr


def test_two_processes_take_the_steps_of_one_a_dead_one_ends_the_run_and_any_number_resumes_it():
    init, data = talker()
    shapes = {name: tensor.shape for name, tensor in weights(init).items()}
    frozen = {name: torch.arange(0, shape.numel(), 3) for name, shape in shapes.items()}
    coordinates.write(WORK / "every-third.safetensors", frozen, shapes, {"score": "random", "fraction": 1 / 3})
    coordinates.write_fisher(WORK / "soft.fisher", {name: torch.full(shape, 0.1) for name, shape in shapes.items()}, weights(tiny()[0]), {})
    options = ("--domain", "math,code", "--data", f"math={data}", "code=synthetic", "--init", init, "--prompts-per-step", 5,
               "--l2", 0.5, "--ewc", WORK / "soft.fisher", "--ewc-weight", 2,
               "--group-size", 4, "--max-completion-length", 8, "--eval-prompts", 3, "--eval-data", f"math={data}", "code=synthetic",
               "--lr", 1e-3, "--steps", 6, "--save-every", 2, "--inner-updates", 2, "--beta", 0.05, "--micro-batch-tokens", 100,
               "--advantage-scale", "batch", "--loss", "dapo", "--protect", WORK / "every-third.safetensors")
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


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shares_of_the_ranks_are_everything_once_and_in_order():
    for size in range(1, 6):
        for n in range(size, 14):
            parts = []
            for rank in range(size):
                with replaced(ranks, world=lambda: size), replaced(ranks.dist, is_initialized=lambda: True, get_rank=lambda: rank):
                    parts.append(list(range(n))[ranks.share(n)])
            assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


@contextlib.contextmanager
def replaced(module, **new):
    """Within, some names of a module mean something else."""
    old = {name: getattr(module, name) for name in new}
    vars(module).update(new)
    try:
        yield
    finally:
        vars(module).update(old)


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
    with replaced(rollouts, share_out=lambda cache, group_size: DynamicCache.batch_repeat_interleave(cache, group_size)):
        growing = rollouts.sample(model, prompts, **options)
    assert torch.equal(ours.ids, growing.ids) and torch.allclose(ours.logps, growing.logps, atol=1e-6)
    assert len(set(ours.mask.sum(1).tolist())) > 3 and int(ours.mask.sum(1).max()) > 40   # rows left, buffers grew
    assert torch.allclose(rollouts.token_logps(model, ours), ours.logps, atol=1e-5)


def test_every_completion_is_reported_once_when_it_leaves_and_programs_run_meanwhile_get_the_same_rewards():
    _, model, tokenizer = tiny()
    prompts, seen = rollouts.encode(tokenizer, ["12+34=", "5", "a long prompt"], 100), []
    with replaced(rollouts, rows_at_once=lambda model, tokens: 8):      # two prompts, then one
        rollout = rollouts.sample(model, prompts, group_size=4, noise=rollouts.uniform_noise(12, 50, 3), stop_ids=[1, 70], pad_id=0,
                                  finished=lambda *leaving: seen.append(leaving))
    assert sorted(n for rows, _, _ in seen for n in rows.tolist()) == list(range(12)) and len(seen) > 3
    for rows, ids, mask in seen:
        for n, row, real in zip(rows.tolist(), ids, mask):
            assert torch.equal(row[real], rollout.ids[n][rollout.mask[n]])

    code = domains.synthetic("code", "train", 2, seed=0)
    batch = [("code", code[0]), ("math", {"question": "1+1=", "answer": "2"}), ("code", code[1])]
    options = {"group_size": 4, "noise": rollouts.uniform_noise(12, 20, 3), "temperature": 1.0, "top_p": 1.0,
               "max_prompt_length": 100, "judge": domains.judges.rubric}
    calls = []

    def graded(domain, completions, rows):
        calls.append((domain, len(completions)))
        return [len(text) + row.get("answer", "").count("2") / 2 for text, row in zip(completions, rows)]
    plain, overlapped = (with_reward(graded, lambda: evaluate.sample_and_grade(model, tokenizer, batch, overlap=overlap, **options))
                         for overlap in (False, True))
    assert plain[1] == overlapped[1] and torch.equal(plain[2], overlapped[2]) and plain[2].isfinite().all()
    assert calls[:2] == [("code", 8), ("math", 4)] and sum(n for _, n in calls[2:]) == 12

    def fails(domain, completions, rows):
        raise models.UserError("the grader broke")
    for overlap in (False, True):
        assert "grader broke" in str(raised(lambda: with_reward(fails, lambda: evaluate.sample_and_grade(
            model, tokenizer, batch, overlap=overlap, **options))))


def raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_reference_is_read_once_a_step_however_many_inner_updates():
    reference, passes = models.load(tiny()[0])[0], []
    reference.model.register_forward_pre_hook(lambda *_: passes.append(1))   # of prompts, of completions
    rewards, counted = some_rewards()
    update(settings(beta=0.1, inner_updates=3, max_completion_length=6), fresh_policy(), reference, a_rollout(),
           losses.group_advantages(rewards).flatten(), counted, 0)
    assert len(passes) == 2


def test_predicted_memory_counts_parameters_and_what_autograd_keeps_and_is_near_what_is_measured():
    config = memory.configuration("Qwen3-0.6B")
    assert sum(p.numel() for p in memory.build(config, torch.bfloat16, "meta").parameters()) == 596_049_920   # as on its model card
    small = tiny()[1].config
    S = memory.kept_by_autograd(small, torch.float32)
    assert S == memory.kept_by_autograd(small, torch.float32, tokens=256)   # linear in the tokens: no attention matrix
    lengths = {"prompt": 2048, "completion": 8192}
    uses = memory.predict(config, 1e4, **lengths)
    n = 596_049_920
    assert uses["update"]["weights"] == 2 * n and uses["update"]["optimizer"] == 16 * n and uses["rollout"]["optimizer"] == 12 * n
    assert uses["update"]["layers"] == 28 * 1e4 * 10240
    light = memory.predict(config, 1e4, checkpointing=True, offload=True, **lengths)
    assert light["update"]["layers"] == 10240 * (28 * 1024 * 2 + 1e4) and light["update"]["optimizer"] == 0
    assert memory.predict(config, 1e4, processes=4, **lengths)["update"]["optimizer"] == 4 * n
    code, out, err = run(memory.main, tiny()[0], "--prompt", 64, "--completion", 64)
    assert code == 0 and len(out.splitlines()) == 6, (out, err)
    done = subprocess.run([sys.executable, ROOT / "memory.py", tiny()[0], "--prompt", "512", "--completion", "3584", "--measure"],
                          capture_output=True, text=True)
    predicted, measured = map(float, done.stdout.split()[-2:])
    assert 0.5 * measured < predicted < 2 * measured, done
    assert run(memory.main, "Qwen3-4B", "--prompt", 0)[0] == 2 and run(memory.main, "./nothing-here")[0] == 2


def test_the_benchmark_does_the_same_work_by_each_method_and_mistakes_are_one_line():
    work = {"B": 2, "G": 3, "T": 5, "warmup": 1, "steps": 1, "warmup_T": 5}
    runs = {method: bench.fresh({"task": method, "model": "tiny", "device": "cpu", "work": work, "path": tiny()[0]})
            for method in ("ours", "generate")}
    for of in runs.values():                        # samples differ, their number does not: 6 completions of 1 to 5 tokens
        assert 6 <= of["tokens_per_step"] <= 30 and 0 < of["growth_bytes"] < of["peak_bytes"] and len(of["step_seconds"]) == 1
        assert math.isclose(sum(of["phases"].values()), of["seconds_per_step"])
        assert all(of["phases"][phase] > 0 for phase in ("rollout", "reward", "log-probs", "backward"))
    ratio = bench.ratio([{"x": 4.0}, {"x": 9.0}, {"x": 2.0}], [{"x": 2.0}, {"x": 3.0}, {"x": 2.0}], "x")
    assert ratio == {"median": 2.0, "min": 1.0, "max": 3.0}
    for argv in (("--models", "big"), ("--repeats", 0), ("--json", "./nowhere/bench.json")):
        code, _, err = run(bench.main, *argv)
        assert code == 2 and err.count("\n") == 1, err


# ---- the runner --------------------------------------------------------------------------------------------------

import test_analyze
import test_losses
import test_math_answer
import test_merge
import test_methods
import test_rollback
import test_sandbox
for module in (test_analyze, test_losses, test_math_answer, test_merge, test_methods, test_rollback, test_sandbox):
    globals().update({name: test for name, test in vars(module).items() if name.startswith("test_")})


def main():
    passed, failed, skipped = 0, 0, 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or not callable(test) or not any(w in name for w in sys.argv[1:] or [""]):
            continue
        start = time.perf_counter()
        try:
            test()
            passed, verdict = passed + 1, "ok"
        except SKIP as reason:
            skipped, verdict = skipped + 1, f"skipped: {reason}"
        except Exception as error:
            import traceback
            failed, verdict = failed + 1, f"FAILED: {type(error).__name__}: {str(error)[:2000]}"
            traceback.print_exc()
        print(f"{time.perf_counter() - start:6.2f} s  {name.removeprefix('test_').replace('_', ' ')}: {verdict}", flush=True)
    shutil.rmtree(WORK, ignore_errors=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(failed > 0 or passed + skipped == 0)


if __name__ == "__main__":
    main()
