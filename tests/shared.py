"""What tests share: two tiny models, scripts run in this process or another, runs that several tests compare with."""
import contextlib
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from functools import lru_cache
from pathlib import Path

import torch

from theory import curvature
import domains
import model as models
import refresh
from grpo import rollout as rollouts
import train_grpo
from grpo import startup, warmup

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
WORK = Path(tempfile.mkdtemp(prefix="test_all_"))
SKIP = unittest.SkipTest  # pytest knows it too
SYNTHETIC = dict.fromkeys(domains.DOMAINS)  # for rows_for_step: new synthetic rows in every domain


# ---- models, scripts, what they write ----------------------------------------------------------------------------

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
    return str(WORK / "tiny"), *startup.load(str(WORK / "tiny"))


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
    """The namespace of default settings of train_grpo.py, at a rate for models as small as those of the tests."""
    args = train_grpo.parse(["--domain", "math", "--lr", "1e-3"])
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


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def snapshot(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@contextlib.contextmanager
def replaced(module, **new):
    """Within, some names of a module mean something else."""
    old = {name: getattr(module, name) for name in new}
    vars(module).update(new)
    try:
        yield
    finally:
        vars(module).update(old)


def with_reward(function, action):
    """Run something while domains.reward is function(domain, completions, rows)."""
    with replaced(domains, reward=lambda domain, completions, rows, judge=None: function(domain, completions, rows)):
        return action()


def lively(domain, completions, rows):
    """A reward that varies within groups, so that a random model gets gradients."""
    return [len(set(text)) / 10 for text in completions]


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
            str(out), "--prompts-per-step", "8", "--group-size", "8", "--max-completion-length", "8",
            "--eval-prompts", "0", "--lr", "1e-3", "--domain", "math", "--steps", "7", "--save-every", "2",
            "--inner-updates", "2", *more]


REFRESH = ("--steps", 5, "--save-every", 2, "--eval-every", 1)


def refresh_command(damaged, out, *more):
    data = talker()[1]
    return [damaged, "--domain", "math", "--data", data, "--eval-data", f"math={data}", "--out", out, "--eval-prompts", 25,
            "--prompts-per-step", 8, "--group-size", 8, "--max-completion-length", 8, "--lr", 1e-3, *more]


@lru_cache
def undisturbed_refresh():
    out = WORK / "refresh-whole"
    code, _, err = run(refresh.main, *refresh_command(talker()[0], out, *REFRESH))
    assert code == 0, err
    return out


def torchrun(script, *argv):
    """Run a script in two processes, which talk over gloo: (exit code, stdout, stderr)."""
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(script), *map(str, argv)], capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    return done.returncode, done.stdout, done.stderr


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


# ---- tensors written by hand, and a model small enough for its whole Hessian -------------------------------------

def checkpoint(name, tensors, shards=1, **config):
    """A directory with config.json and safetensors, and nothing else; returns its path."""
    from safetensors.torch import save_file
    path = WORK / "by-hand" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
    else:
        where = {key: f"model-{i % shards}.safetensors" for i, key in enumerate(tensors)}
        for file in set(where.values()):
            save_file({key: tensors[key] for key in tensors if where[key] == file}, path / file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return str(path)


def random_weights(seed=0, width=8, channels=16, layers=2, scale=0.02, dtype=torch.float32):
    """Tensors of a small gated transformer under the names that hub models use."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (20, width), "model.norm.weight": (width,)}
    for l in range(layers):
        shapes |= {f"model.layers.{l}.self_attn.q_proj.weight": (width, width),
                   f"model.layers.{l}.mlp.gate_proj.weight": (channels, width),
                   f"model.layers.{l}.mlp.up_proj.weight": (channels, width),
                   f"model.layers.{l}.mlp.down_proj.weight": (width, channels)}
    return {name: (scale * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}


def raises(action, *words):
    try:
        action()
    except models.UserError as error:
        assert all(word in str(error) for word in words), error
        return
    raise AssertionError(f"no error with {words}")


@lru_cache
def small():
    """A two-layer Qwen3 of 320 parameters, completions it sampled, and rewards: (model, Rollout, rewards (4, 3))."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    torch.manual_seed(0)
    model = Qwen3ForCausalLM._from_config(Qwen3Config(
        vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.5),
        attn_implementation="eager").eval()
    startup.choose_way(model)
    rollout = rollouts.sample(model, [[3, 4, 5], [6, 7], [8, 3, 9, 4], [5]], group_size=3,
                              noise=rollouts.uniform_noise(12, 5, "small"), stop_ids=[1], pad_id=0)
    rewards = torch.tensor([[1, 0, 1], [0, 0, 1], [1, math.nan, 0], [1, 1, 1]], dtype=torch.float64)
    return model, rollout, rewards


def sequence_logps(model, rollout, n):
    """log pi of completion n, alone and without padding, from the model's own logits."""
    prompt, answer = rollout.prompt_ids[n][rollout.prompt_mask[n]], rollout.ids[n][rollout.mask[n]]
    logits = model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1:-1].double()
    return logits.log_softmax(-1).gather(1, answer[:, None]).sum()


def direct_nll(model, rollout, rewards):
    correct = (rewards.flatten() == 1).nonzero().flatten().tolist()
    return -sum(sequence_logps(model, rollout, n) for n in correct) / len(correct)


@lru_cache
def whole_hessian():
    """Gradient (n,) and Hessian (n, n) of direct_nll, all rows, with autograd."""
    model, rollout, rewards = small()
    params = list(model.parameters())
    g = torch.cat([x.flatten() for x in torch.autograd.grad(direct_nll(model, rollout, rewards), params, create_graph=True)])
    rows = torch.autograd.grad(g, params, grad_outputs=torch.eye(len(g)), is_grads_batched=True)
    return g.detach().double(), torch.cat([x.flatten(1) for x in rows], 1).double()


def in_small_batches(action):
    with replaced(curvature, BUDGET=10):
        return action()
