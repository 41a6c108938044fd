"""Claims about the start-up check (grpo/startup.py) and the plain way: any architecture is read rightly, or refused in one line.

Run by test_all.py. Tiny random models of a few architectures; tests/architectures.py tries all that transformers has.
"""
import contextlib
import io

import torch

import model as models
import train_grpo
from architectures import compare, outcome, tiny_model
from grpo import policy as policies
from grpo import rollout as rollouts
from grpo import startup, warmup
from grpo.rollout import encode
from shared import WORK, lively, raises, run, with_reward

TOKENIZER = warmup.byte_tokenizer()


def tiny_models(*kinds):
    """Pairs (architecture, model) of all that the installed transformers can build; it has to be most of them."""
    made = []
    for kind in kinds:
        with contextlib.suppress(ValueError):
            made.append((kind, tiny_model(kind)))
    assert len(made) > len(kinds) / 2
    return made


def chosen(model, **options):
    """What the start-up check says about a model, a text."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        startup.choose_way(model, **options)
    return out.getvalue()


def sampled(model):
    prompts = encode(TOKENIZER, ["1+2=", "a longer text"], 100)
    return rollouts.sample(model, prompts, group_size=2, noise=rollouts.uniform_noise(4, 12, "startup"), stop_ids=[1], pad_id=0)


def test_dropout_and_noise_of_all_names_are_off_while_layers_are_computed_again():
    ids = torch.arange(5, 25)[None]
    for kind, model in tiny_models("opt", "gpt_bigcode", "biogpt", "seed_oss", "phimoe", "jetmoe"):
        with torch.no_grad():
            assert (model.train()(input_ids=ids).logits - model.train()(input_ids=ids).logits).abs().max() > 1e-3, kind
        with contextlib.redirect_stdout(io.StringIO()):
            policy = policies.Policy(model, gradient_checkpointing=True)
        rollout = sampled(model)
        logps = policy.logps(rollout)
        assert (logps.detach() - rollout.logps).abs().max() < 1e-5, kind
        kept = torch.autograd.grad(logps.sum(), policy.parameters, allow_unused=True)
        model = tiny_model(kind)
        startup.choose_way(model)
        whole = torch.autograd.grad(rollouts.token_logps(model, rollout).sum(), [*model.parameters()], allow_unused=True)
        assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(kept, whole) if a is not None), kind


def test_logits_that_a_model_scales_or_caps_are_scored_as_it_makes_them_and_fast():
    for kind, model in tiny_models("granite", "cohere", "gemma2", "gemma3"):
        assert chosen(model) == "" and model.way is not rollouts.PLAIN, kind
        compare(model, TOKENIZER)


def test_a_model_that_reads_positions_from_the_usual_mask_is_sampled_with_it_and_still_fast():
    for kind, model in tiny_models("bloom", "mpt"):
        assert chosen(model) == "" and model.way is not rollouts.PLAIN, kind


def test_models_with_caches_of_their_own_are_read_the_plain_way_and_one_line_says_so():
    for kind, model in tiny_models("qwen3_5_text", "qwen3_next", "jamba", "llama4_text", "gemma4", "modernbert-decoder", "falcon_h1",
                                   "recurrent_gemma"):
        said = chosen(model)
        assert model.way is rollouts.PLAIN and said.count("\n") == 1 and "plain way" in said, (kind, said)
        rollout = sampled(model)
        for n in range(4):
            prompt, answer = rollout.prompt_ids[n][rollout.prompt_mask[n]], rollout.ids[n][rollout.mask[n]]
            with torch.no_grad():
                logits = model(input_ids=torch.cat([prompt, answer])[None], use_cache=False).logits[0, len(prompt) - 1:-1]
            own = logits.log_softmax(-1).gather(1, answer[:, None]).squeeze(1)
            assert (rollout.logps[n, :len(answer)] - own).abs().max() < 1e-5, kind
        assert (rollouts.token_logps(model, rollout) - rollout.logps).abs().max() < 1e-5, kind


def test_an_architecture_that_is_read_the_plain_way_trains_saves_and_resumes():
    assert outcome("llama4_text")[0] == "trains, plain way"


def trained(kind, *more):
    """A few steps of train_grpo.py on a tiny model: (exit code, stdout, stderr, the directory)."""
    start, out = WORK / "startup" / kind, WORK / "startup" / f"{kind}-trained"
    models.save(tiny_model(kind), TOKENIZER, start, {"parent": None})
    return *with_reward(lively, lambda: run(
        train_grpo.main, "--init", start, "--domain", "math", "--out", out, "--prompts-per-step", 2, "--group-size", 2, "--steps", 1,
        "--eval-prompts", 0, "--max-completion-length", 12, "--lr", 1e-3, *more)), out


def test_a_model_that_no_way_fits_is_refused_in_one_line_before_anything_is_written():
    code, out, err, place = trained("bert")             # reads the whole text in both directions
    assert code == 2 and err.count("\n") == 1 and "cannot be sampled and scored rightly" in err and not place.exists(), err


def test_what_only_long_texts_show_is_a_warning_of_the_run():
    code, out, err, place = trained("doge")             # chooses among the tokens of a text as soon as they are more than 14
    assert code == 0 and out.count("warning: sampling and scoring") == 1, (out, err)
    code, out, err, place = trained("doge", "--max-completion-length", 4, "--overwrite")
    assert code == 0 and "warning: sampling" not in out, (out, err)


def test_frozen_parameters_stay_and_the_others_train_in_bf16():
    model = tiny_model("llama")
    before, still = {name: p.detach().clone() for name, p in model.named_parameters()}, set()
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"):
        model.get_parameter(name).requires_grad_(False)
        still.add(name)
    with contextlib.redirect_stdout(io.StringIO()):
        policy = policies.Policy(model, torch.bfloat16)
    policy.backward(policy.logps(sampled(model)).sum())
    assert policy.step(1e-3, 1.0) > 0
    moved = {name for name, master in policy.named.items() if not torch.equal(master, before[name])}
    assert moved == before.keys() - still
