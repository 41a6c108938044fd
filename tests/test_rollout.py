"""Claims about model.py, warmup.py and rollout.py: what is saved, sampled and scored.

Run by test_all.py.
"""
import json
import math
import os

import torch
import torch.nn.functional as F

import domains
import model as models
from grpo import captured, fast
from grpo import policy as policies
from grpo import rollout as rollouts
from grpo import scores, startup, warmup
from grpo.judge import set_judge
from shared import SKIP, WORK, a_rollout, direct_logps, raised, replaced, run, same_weights, tiny, weights


# ---- model.py and warmup.py --------------------------------------------------------------------------------------

def test_a_saved_checkpoint_loads_without_this_repository():
    from transformers import AutoModelForCausalLM, AutoTokenizer
    directory, model, tokenizer = tiny()
    assert {"config.json", "model.safetensors", "tokenizer.json", "run.json"} <= set(os.listdir(directory))
    again = AutoModelForCausalLM.from_pretrained(directory)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert AutoTokenizer.from_pretrained(directory).chat_template == tokenizer.chat_template
    run = models.read_run(directory)
    assert set(run["versions"]) == {"torch", "transformers"}


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
    for name in ("warm1", "warm2"):
        assert run(warmup.main, "--out", WORK / name, "--steps", 2)[0] == 0
    assert (WORK / "warm1/model.safetensors").read_bytes() == (WORK / "warm2/model.safetensors").read_bytes()
    tokenizer = warmup.byte_tokenizer()
    for text in ("2+2=4", "def f(a):\n return a", "naïve \u4f60\u597d \U0001f40d\x00\t", ""):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    model, _ = models.load(str(WORK / "warm1"))
    assert type(model).__name__ == "Qwen3ForCausalLM" and sum(p.numel() for p in model.parameters()) < 1_000_000


def test_a_cold_start_learns_the_references_that_earn_1_and_no_others():
    rows = [{"question": f"what is {k} and {k}?", "answer": str(2 * k), "solution": f"{k} + {k} = {2 * k + k % 2}"}
            for k in range(30)]                     # of an odd k the solution is wrong
    (WORK / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (WORK / "words.jsonl").write_text('{"prompt": "Write.", "keywords": ["owl"]}\n' * 3)
    directory, model, tokenizer = tiny()
    right = [row for row in domains.load_rows("math", str(WORK / "sums.jsonl"), "train") if int(row["answer"]) % 4 == 0]
    code, said, error = run(warmup.main, "--model", directory, "--data", f"math={WORK}/sums.jsonl", f"cw={WORK}/words.jsonl",
                            "--steps", 8, "--lr", 1e-3, "--out", WORK / "cold")
    assert code == 0 and f"sums.jsonl: {len(right)} training rows" in said and "words.jsonl: 0 training rows" in said, error
    ids, labels = warmup.batch(tokenizer, "math", right)
    loss = lambda model: F.cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), labels[:, 1:]).item()
    assert loss(models.load(str(WORK / "cold"))[0]) < loss(model) - 0.5
    assert models.read_run(WORK / "cold")["parent"] == directory
    code, _, error = run(warmup.main, "--data", f"math={WORK}/sums.jsonl", "--out", WORK / "cold2")
    assert code == 2 and "--model and --data belong together" in error


def test_a_base_made_anew_is_as_good_as_the_one_of_the_repository():
    if not os.environ.get("REMAKE"):
        raise SKIP("it takes three minutes: REMAKE=1 python test_all.py made_anew")
    assert run(warmup.main, "--out", WORK / "remade")[0] == 0
    (one, its), (other, others) = (startup.load(str(place)) for place in (models.BASE, WORK / "remade"))
    set_judge(None, domains.DOMAINS)
    for domain in domains.DOMAINS:
        rows = {domain: domains.evaluation_rows(domain, None, "", 128, "test")}
        a, b = (scores.evaluate(model, tokenizer, rows, samples=4, temperature=1.0)[domain] for model, tokenizer in ((one, its), (other, others)))
        difference, half = scores.paired(b, a)
        assert difference > -max(half, 5), (domain, difference, half)


# ---- rollout.py --------------------------------------------------------------------------------------------------

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
        scored = rollouts.token_logps(model, rollout)
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
    with replaced(fast, LOGIT_ELEMENTS=261 * 3):         # memory for one prompt's rows at a time
        in_batches = a_rollout(prompts=("ab", "abcde", "x"), tokens=12)
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
    tensors = [t for t in vars(wide).values() if torch.is_tensor(t)]
    copy = [t.clone() for t in tensors]
    narrow, padded = rollouts.token_logps(model, rollout), rollouts.token_logps(model, wide)
    assert torch.allclose(narrow, padded[:, :narrow.shape[1]], atol=1e-5) and not padded[:, narrow.shape[1]:].any()
    assert all(torch.equal(a, b) for a, b in zip(copy, tensors))
    trimmed = wide.select([1, 2])
    assert trimmed.prompt_ids.shape[1] == int(rollout.prompt_mask[1:3].sum(1).max())
    assert torch.allclose(rollouts.token_logps(model, trimmed), narrow[1:3, :trimmed.ids.shape[1]], atol=1e-5)


def test_scoring_in_chunks_changes_neither_values_nor_gradients():
    _, model, _ = tiny()
    rollout, results = a_rollout(temperature=0.8), []
    for elements in (fast.LOGIT_ELEMENTS, 261 * 5):
        with replaced(fast, LOGIT_ELEMENTS=elements):
            logps = rollouts.token_logps(model, rollout)
            model.zero_grad()
            (logps * torch.arange(logps.numel()).view_as(logps)).sum().backward()
            results.append([logps.detach()] + [p.grad.clone() for p in model.parameters()])
            model.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*results))


def test_reading_each_prompt_once_changes_neither_values_nor_gradients_and_reads_it_once():
    model = startup.load(tiny()[0])[0]
    rollout = a_rollout(prompts=("ab", "abcdefgh", "ab"), group_size=3, temperature=0.7).select([8, 0, 1, 3, 4, 5, 7])  # groups broken up
    results, read = [], []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[:2].numel()))
    for alone in (False, True):                      # once as groups, once with every row a group of its own
        rollout.group = torch.arange(7) if alone else rollout.group
        logps = rollouts.token_logps(model, rollout)
        logps.square().sum().backward()
        results.append((logps.detach(), [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    before = list(read)
    policies.Policy(model, torch.float32, gradient_checkpointing=True)       # turns it on
    read.clear()
    logps = rollouts.token_logps(model, rollout)            # keeps no cache: prompt and answer in one piece
    logps.square().sum().backward()
    results.append((logps.detach(), [p.grad for p in model.parameters()]))
    for logps, gradients in results[1:]:
        assert torch.allclose(logps, results[0][0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-4 * b.abs().max().item() + 1e-7) for a, b in zip(gradients, results[0][1]))
    P, T = rollout.prompt_ids.shape[1], rollout.ids.shape[1]
    assert before == [3 * P, 7 * (T - 1), 7 * P, 7 * (T - 1)]                # the last token is fed to nothing
    assert read == [7 * int((rollout.prompt_mask.sum(1) + rollout.mask.sum(1)).max())]       # from the left, with no mask
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


# ---- fast.py and captured.py -------------------------------------------------------------------------------------

def near_a_boundary(model, text, uniform, temperature=1.0, top_p=1.0):
    """Whether a number lies within rounding of where one id ends and the next begins, or the nucleus does, in fp64."""
    with torch.no_grad():
        probs = (model(torch.tensor([text])).logits[0, -1].double() / temperature).softmax(-1)
    order = probs.argsort(descending=True)
    before = probs[order].cumsum(0) - probs[order]
    kept = torch.zeros_like(probs).index_put((order[before < top_p],), torch.tensor(1.0).double()) * probs
    return min((kept.cumsum(0) / kept.sum() - uniform).abs().min(), (before - top_p).abs().min()) < 1e-6


def test_the_plain_the_fast_and_the_captured_way_sample_the_same_ids():
    _, model, tokenizer = tiny()
    prompts = rollouts.encode(tokenizer, ["12+34=", "a much longer prompt than the first", "1", "xyz"], 100)
    for how in ({}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}):
        options = {"group_size": 4, "stop_ids": [1, *range(60, 90)], "pad_id": 0, **how}
        for tokens in (1, 24):
            noise, left = rollouts.uniform_noise(16, tokens, 5), []
            ids, mask, logps, *_ = plain = rollouts.plain_sample(model, prompts, noise, **options)
            assert tokens == 1 or how.get("temperature") == 0 or len(set(mask.sum(1).tolist())) > 3      # some end early
            for other in (fast.sample(model, prompts, noise, **options), *(
                    captured.sample(model, prompts, noise, slots=slots, finished=lambda rows, *_: left.extend(rows.tolist()),
                                    **options) for slots in (None, 5))):
                same = (ids == other[0]).all(1)
                for n in (~same).nonzero().flatten().tolist():                   # rounding, and nothing else
                    t = int((ids[n] != other[0][n]).nonzero()[0])
                    assert near_a_boundary(model, [*prompts[n // 4], *ids[n, :t].tolist()], noise[n, t].double(), **how), (how, n)
                assert same.sum() >= 15
                for one, its in zip(plain, other):
                    assert torch.allclose(one[same].float(), its[same].float(), atol=1e-5), how
            assert sorted(left) == sorted([*range(16)] * 2)


def test_a_sliding_window_is_sampled_the_fast_way_and_refused_by_fixed_slots():
    from transformers import MistralConfig, MistralForCausalLM
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=4,
                                             num_attention_heads=4, num_key_value_heads=2, sliding_window=4,
                                             initializer_range=0.5)).eval()
    prompts, noise = [[3, 4, 5, 6, 7, 8, 9], [5, 6]], rollouts.uniform_noise(6, 12, 1)
    options = {"group_size": 3, "stop_ids": [1], "pad_id": 0}
    plain, quick = (way(model, prompts, noise, **options) for way in (rollouts.plain_sample, fast.sample))
    assert torch.equal(plain[0], quick[0]) and torch.allclose(plain[2], quick[2], atol=1e-5)
    assert "other kinds" in str(raised(lambda: captured.sample(model, prompts, noise, **options)))


def test_the_plain_and_the_fast_way_score_alike_and_have_the_same_gradient():
    _, model, _ = tiny()
    rollout, found = a_rollout(prompts=("ab", "abcdefgh", "x"), temperature=0.7, top_p=0.95), []
    for score in (rollouts.plain_logps, fast.logps, fast.logps_of_whole_sequences):
        logps = score(model, rollout)
        logps.square().sum().backward()
        found.append([logps.detach(), *(p.grad for p in model.parameters())])
        model.zero_grad()
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-4 * b.abs().max().item() + 1e-6) for a, b in zip(other, found[0]))


def test_heads_that_share_a_key_give_the_same_attention_as_repeated_keys():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 5, 4), torch.randn(3, 2, 9, 4), torch.randn(3, 2, 9, 8)
    mask = torch.rand(3, 1, 5, 9) > 0.3
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), mask)
    assert torch.allclose(fast.packed(None, q, k, v, mask)[0], expected.transpose(1, 2), atol=1e-6)


def test_no_id_of_probability_0_is_drawn_even_by_the_largest_number_below_1():
    almost = torch.nextafter(torch.ones(500), torch.zeros(500))
    logits = torch.randn(500, 300, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, 200:] = -math.inf                       # the last ids have no probability
    for uniform in (almost, torch.zeros(500)):
        ids, logps, entropy = rollouts.draw(logits, uniform, 1.0, 1.0)
        assert (ids < 200).all() and logps.isfinite().all() and entropy.isfinite().all()


def test_micro_batches_are_cut_where_the_padding_is_least():
    def cost(batches, lengths, overhead):
        return sum(len(b) * max(lengths[n] for n in b) + overhead for b in batches)
    for lengths, budget in (([3] * 12 + [15], 640), ([1, 2, 9, 9, 10, 30], 256), ([5] * 7, 64), ([4], 64)):
        N, T = len(lengths), max(lengths)
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]
        rollout = rollouts.Rollout(torch.arange(N), torch.zeros(N, 2), torch.ones(N, 2, dtype=torch.bool), torch.zeros(N, T), mask,
                                   None, None, None)
        batches = rollouts.micro_batches(rollout, range(N), budget)
        assert sorted(n for b in batches for n in b) == [*range(N)]
        assert all(len(b) == 1 or len(b) * (2 + max(lengths[n] for n in b)) <= budget for b in batches)
        order, best = sorted(range(N), key=lambda n: lengths[n]), math.inf
        for cuts in range(2 ** (N - 1)):              # all ways to cut the sorted rows
            some = [[order[0]]]
            for n, row in enumerate(order[1:]):
                some = [*some, [row]] if cuts >> n & 1 else [*some[:-1], [*some[-1], row]]
            if all(len(b) == 1 or len(b) * (2 + max(lengths[n] for n in b)) <= budget for b in some):
                best = min(best, cost(some, lengths, budget // 64))
        assert cost(batches, lengths, budget // 64) == best, (lengths, batches)
