"""Benchmark: the same GRPO step by this repository, by TRL and by a plain generate loop; and how far each is from the metal.

    python bench.py                                # some 10 minutes on 2 CPU cores
    python bench.py --json bench.json              # everything measured, every repeat, as JSON
    python bench.py --work math --repeats 5        # one kind of work alone
    python bench.py --gpu --json gpu.json          # minutes on one GPU: a step of the shape of Qwen3-0.6B, decoding, memory

    ours       train_grpo.train_step, as `python train_grpo.py` runs it
    trl        trl.GRPOTrainer, on transformers' generate, without vLLM (left out, with a line, where it is not installed)
    generate   `generate_loop` below: model.generate, log_softmax over all logits, GRPO loss, backward, AdamW

on three kinds of work: `math`, that of the default run, and `cw`, longer prompts and completions, both with the embedded
checkpoints/base; `100m`, random weights in the shape of SmolLM2-135M, whose completions practically all have full length.
Then what busy neighbours cost a step, the machine's own limits and what 100m gets of them (reports/roofline.py), and how
time and memory of `ours` grow.

Fair: same prompts in the same order, same token ids (checked), group size, completion length, reward, AdamW, learning
rate, clipping, precision (fp32 on a CPU, bf16 compute with fp32 weights on a GPU), threads (model.use_threads: one for the
base, all for 100m). The reward is a hash of the completion, so that no group is of equal rewards: ours would skip it, and
do less work. Samples differ by method and with them the tokens of the base: see tokens/completion.
Every measurement is a fresh process, with warm-up steps that do not count; methods take turns, so that a slow minute of
the machine hits all. Ratios are medians over neighbouring runs, the smallest and largest in brackets: above 1, theirs takes
more time or memory than ours. "peak" is the process's, libraries included; "growth" is how much the steps add to it.
On a CPU what is compared, phases too, are CPU seconds, of all threads of the process, because other jobs hardly spoil them;
seconds stand beside them, and where one thread works and they are more, something else ran. On a GPU seconds are compared.

Will a model fit? The peak of a training step is predicted from the model's shape (reports/memory.py):

    python bench.py --memory Qwen3-0.6B Qwen3-1.7B Qwen3-4B          # 2k + 8k tokens on a GPU of 80 GB: which flags fit?
    python bench.py --memory checkpoints/math --prompt 256 --completion 1024 --group-size 16
    python bench.py --memory checkpoints/base --prompt 64 --completion 64 --measure      # and what an update takes here
"""
import argparse
import json
import time

from grpo.settings import at_least, checkpoint, new_file, parser, positive
from model import BASE, UserError, cli

# ---- settings: B prompts x G completions of at most T tokens per step (warmup_T while warming up); N = B x G
WORK = {"math": {"model": BASE, "domain": "math", "B": 32, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "cw": {"model": BASE, "domain": "cw", "B": 16, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "100m": {"model": "100m", "domain": "cw", "B": 1, "G": 8, "T": 48, "warmup": 1, "steps": 1, "warmup_T": 8}}
ON_GPU = {"100m": {"B": 16, "steps": 5, "warmup": 2, "warmup_T": 48}}                   # enough for a GPU to have work
ONE_GPU = {"cuda": {"model": "Qwen3-0.6B", "B": 32, "T": 256, "steps": 3}, "cpu": {"model": "3m", "B": 4, "T": 8}}    # --gpu
CHECKS = ("sampl", "logp", "distribution", "precision", "bf16")      # words in the names of the tests that --gpu runs
LEARNING_RATE = 1e-6    # too low to change how long completions are within a run
# Random models, as SmolLM2 in miniature, by the numbers that reports.memory.SHAPE names
SHAPES = {"3m": (64, 128, 2, 4, 2), "14m": (192, 512, 12, 3, 1), "50m": (384, 1024, 20, 6, 2), "100m": (576, 1536, 30, 9, 3)}
GROWTH = {"group size": [{"model": "14m", "G": g} for g in (4, 8, 16)],     # all else as in the work of 100m
          "completion length": [{"model": "14m", "T": t} for t in (24, 48, 96)],
          "parameters": [{"model": name} for name in ("14m", "50m", "100m")]}
CLOCKS = {"cpu_seconds": time.process_time, "seconds": time.perf_counter}        # the first: of all threads of this process
FLAGS = {"none": {}, "--gradient-checkpointing": {"checkpointing": True},                  # --memory: what to predict for
         "--gradient-checkpointing --offload": {"checkpointing": True, "offload": True},
         "--gradient-checkpointing, 4 processes": {"checkpointing": True, "processes": 4}}


def parse(argv=None):
    """The command line; UserError for a model or number that cannot be measured, and for options that do not go together."""
    made = parser(__doc__)
    made.add_argument("--work", choices=list(WORK), nargs="+", default=list(WORK),
                      help="(default all; without 100m no limits and no growth)")
    made.add_argument("--repeats", type=at_least(1), default=3, help="runs of each method on each (default 3)")
    made.add_argument("--gpu", action="store_true", help="one GPU in place of all this; with --device cpu a rehearsal, tiny")
    made.add_argument("--device", choices=["cpu", "cuda"], help="(default: the GPU if there is one)")
    made.add_argument("--json", type=new_file, metavar="FILE", help="write everything that was measured")
    made.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)     # how this script calls itself, see `fresh`
    group = made.add_argument_group("memory in place of speed")
    group.add_argument("--memory", type=checkpoint, nargs="+", default=[], metavar="MODEL",
                       help="predict the peak of these: Qwen3-0.6B, Qwen3-1.7B, Qwen3-4B, a directory, or a hub name")
    group.add_argument("--prompt", type=at_least(1), default=2048, help="tokens (default 2048)")
    group.add_argument("--completion", type=at_least(1), default=8192, help="tokens (default 8192)")
    group.add_argument("--group-size", type=at_least(1), default=8, help="G (default 8; not with --measure)")
    group.add_argument("--gpu-memory", type=positive, default=80, help="in GB (default 80)")
    group.add_argument("--measure", action="store_true", help="run an update of one row, random weights, and compare")
    group.add_argument("--gradient-checkpointing", action="store_true", help="measure with it")
    args = made.parse_args(argv)
    if args.memory and (args.json or args.gpu or args.work != list(WORK)):
        raise UserError("--memory predicts, and prints its table: leave --json, --gpu and --work out")
    if args.measure and len(args.memory) != 1:
        raise UserError("--measure takes one model of --memory: a process's peak is that of the largest it has held")
    if args.gradient_checkpointing and not args.measure:
        raise UserError("--gradient-checkpointing is for --measure: without it the table has both")
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

import contextlib
import itertools
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from importlib.metadata import distributions

import torch
from tqdm import tqdm

import domains
import train_grpo
from grpo import captured, fast
from grpo.chat import decode, encode
from grpo.policy import Policy
from grpo.rollout import Rollout, left_padded, uniform_noise
from grpo.warmup import byte_tokenizer
from model import end_ids, load, write_json
from reports.memory import GB, QWEN3, SHAPE, build, configuration, held, kept_by_autograd, predict, proc
from reports.roofline import best, limits, synchronize
from reports.tables import show


# ---- the work, the same for all methods -------------------------------------------------------------------------

def reward(completions):
    """A number in [0, 1) per completion, different even for equal texts."""
    return [zlib.crc32(f"{i} {text}".encode()) / 2**32 for i, text in enumerate(completions)]


def settings(work):
    """The settings of a run of train_grpo.py that is measured and never saved. work: an entry of WORK."""
    return train_grpo.parse(f"--domain {work['domain']} --out {os.devnull} --prompts-per-step {work['B']} --group-size "
                            f"{work['G']} --lr {LEARNING_RATE} --steps {work['warmup'] + work['steps']} --warmup-steps 0 "
                            f"--max-completion-length {work['warmup_T']}".split())


def long_rows(n):
    """{"cw": n rows} with prompts of 80 to 120 bytes, for a tokenizer with a token per byte."""
    rng, nouns = random.Random(0), domains.get("cw").NOUNS
    return {"cw": [{"prompt": "Tell of: " + " ".join(rng.choices(nouns, k=rng.randint(14, 20)))} for _ in range(n)]}


def texts_of(args, rows, step):
    """The prompts of a step, as every method reads them: B strings."""
    return [domains.prompt(*pair) for pair in train_grpo.rows_for_step(args, rows, step)]


def config_of(name):
    """The config of one of SHAPES, a Llama, or of QWEN3, with the special ids of `byte_tokenizer`."""
    from transformers import LlamaConfig
    config = configuration(name) if name in QWEN3 else LlamaConfig(
        **dict(zip(SHAPE, SHAPES[name])), vocab_size=49152, max_position_embeddings=8192, rope_theta=100_000.0,
        tie_word_embeddings=True)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, None
    return config


def model_of(name, device):
    """A model in fp32 and its tokenizer: of `config_of`, with random weights, or the checkpoint that is called so."""
    if name not in {**SHAPES, **QWEN3}:
        return load(name, device, torch.float32)
    torch.manual_seed(0)
    return build(config_of(name), torch.float32, device).eval(), byte_tokenizer()      # the base's: other ids are no text


# ---- a clock ----------------------------------------------------------------------------------------------------

spent = {clock: Counter() for clock in CLOCKS}       # by each clock, seconds per phase since the warm-up


def now():
    """The time by each clock, when the device has done all that it was given."""
    synchronize()
    return {clock: read() for clock, read in CLOCKS.items()}


@contextlib.contextmanager
def phase(name):
    """The body's seconds go to spent[clock][name]. Phases do not contain each other."""
    before = now()
    yield
    for clock, time_now in now().items():
        spent[clock][name] += time_now - before[clock]


def timed(name, owner, *functions):
    """Put a clock, phase(name), around functions of a module, class or object (the owner), by their names."""
    for function in functions:
        setattr(owner, function, phase(name)(getattr(owner, function)))


# ---- the three methods --------------------------------------------------------------------------------------------
# Each takes the steps of args (`settings`) on rows, {domain: rows}, and after every step calls done(completion tokens of the
# step, share of groups whose rewards are all equal, log line of ours), which lengthens the completions after the warm-up.

def ours(args, model, tokenizer, rows, done):
    """train_grpo.train_step, with a clock around its parts."""
    timed("rollout", train_grpo, "encode", "sample", "decode")
    timed("reward", train_grpo, "grade")
    timed("log-probs", Policy, "logps")
    timed("backward", Policy, "backward", "step")
    domains.reward = lambda domain, completions, *_, **__: reward(completions)
    policy = Policy(model)
    for step in range(args.steps):
        line, rollout, _, _ = train_grpo.train_step(args, policy, None, tokenizer, rows, step)
        done(int(rollout.mask.sum()), line["zero_variance_groups"], line)


def trl_trainer(args, model, tokenizer, rows, done):
    """trl.GRPOTrainer with the settings that make it fastest. UserError if it reads other token ids than ours."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    G, N, gpu = args.group_size, args.prompts_per_step * args.group_size, model.device.type == "cuda"
    texts = [text for step in range(args.steps) for text in texts_of(args, rows, step)]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            out, max_steps=args.steps, num_generations=G, max_completion_length=args.max_completion_length,
            # All completions in one generate call, one pass and one optimizer step: the fastest that TRL has, because the
            # samples' own log-probabilities then serve as the old ones (no second pass). Its fused output head works
            # in chunks, so this is no waste of memory either.
            per_device_train_batch_size=N, gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
            shuffle_dataset=False, beta=0.0, loss_type="grpo", scale_rewards="group", epsilon=0.2, temperature=1.0,
            top_p=1.0, top_k=0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", warmup_steps=0,
            optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.0, max_grad_norm=1.0,
            gradient_checkpointing=False,       # on by default in TRL, and slower; ours keeps activations too
            bf16=gpu, use_cpu=not gpu, use_vllm=False, report_to="none", logging_strategy="no", save_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=gpu, log_level="error")

        def score(prompts, completions, **columns):
            return reward([messages[0]["content"] for messages in completions])
        trainer = GRPOTrainer(model, score, config, Dataset.from_list(
            [{"prompt": [{"role": "user", "content": text}]} for text in texts]), processing_class=tokenizer)

        class Steps(TrainerCallback):
            def on_step_end(self, *_, **__):
                metrics = trainer._metrics["train"]
                done(round(metrics["completions/mean_length"][-1] * N), metrics["frac_reward_zero_std"][-1])
                trainer.generation_config.max_new_tokens = args.max_completion_length
        trainer.add_callback(Steps())
        timed("rollout", trainer, "_generate")
        timed("reward", trainer, "_calculate_rewards")
        timed("log-probs", trainer, "_get_per_token_logps_and_entropies")
        timed("backward", trainer.accelerator, "backward", "clip_grad_norm_")
        timed("backward", torch.optim.AdamW, "step")
        if trainer._tokenize_prompts(list(trainer.train_dataset["prompt"]))[0] != encode(tokenizer, texts, 2048):
            raise UserError("TRL's model reads other token ids than ours: the comparison would not be fair")
        trainer.train()


def generate(model, prompts, G, T, stop_ids):
    """By transformers alone, each prompt G times, at most T tokens more: ids (N, P + T), and the prompts' mask (N, P)."""
    model.set_attn_implementation("sdpa")           # `ours` may have set another
    ids, mask = (x.repeat_interleave(G, 0) for x in left_padded(prompts, 0, model.device))
    return model.generate(input_ids=ids, attention_mask=mask.long(), do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
                          max_new_tokens=T, eos_token_id=stop_ids, pad_token_id=0), mask


def generate_loop(args, model, tokenizer, rows, done):
    """GRPO as one writes it down first: nothing shared between the completions of a group, no logit spared."""
    G, device = args.group_size, model.device
    stop = torch.tensor(end_ids(model, tokenizer), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step in range(args.steps):
        with phase("rollout"), torch.no_grad(), autocast:
            texts = texts_of(args, rows, step)
            ids, attended = generate(model, encode(tokenizer, texts, 2048), G, args.max_completion_length, stop.tolist())
            P = attended.shape[1]
            ends = torch.isin(ids[:, P:], stop).long()
            mask = ends.cumsum(1) - ends == 0                       # up to the first end token, that included
            completions = decode(tokenizer, ids[:, P:], mask)
        with phase("reward"):
            rewards = torch.tensor(reward(completions), device=device).view(-1, G)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).view(-1, 1)
        with phase("log-probs"):
            with autocast:
                logits = model(input_ids=ids, attention_mask=torch.cat([attended, mask], 1)).logits
            logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)[:, P - 1:]  # (N, T)
        ratio = (logps - logps.detach()).exp()
        per_token = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        loss = ((per_token * mask).sum(1) / mask.sum(1)).mean()
        with phase("backward"):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        done(int(mask.sum()), (rewards.std(1) == 0).double().mean().item())


METHODS = {"ours": ours, "trl": trl_trainer, "generate": generate_loop}


# ---- one process -------------------------------------------------------------------------------------------------

def worker(task, work, device):
    """Measure a method in a process of its own (`fresh`): seconds, tokens and phases of the timed steps, memory in bytes.

    task: of METHODS, or "limits" or "decoding", whose results are those of roofline.limits and `decoding`. work: an entry of
    WORK. UserError if a group had equal rewards.
    """
    if task == "trl":                               # before the memory is read: an import is no growth of the steps
        from trl import GRPOTrainer  # noqa: F401
    args, (model, tokenizer), steps = settings(work), model_of(work["model"], device), work["steps"]
    rows = {work["domain"]: None} if os.path.isdir(work["model"]) else long_rows(work["B"] * args.steps)
    if task not in METHODS:
        prompts = encode(tokenizer, texts_of(args, rows, 0), 2048)
        return {"limits": limits, "decoding": decoding}[task](model, tokenizer, prompts, work["G"], work["T"])
    sum(p.sum().item() for p in model.parameters())            # a loaded file is read into memory when it is first used
    loaded, marks = held(device)[0], []             # marks, of each step: its tokens, its end by each clock, its log line

    def done(tokens, zero_variance, line=None):
        if zero_variance:
            raise UserError(f"{task}: a group of equal rewards, which ours skips: the work would not be the same")
        marks.append((tokens, now(), line))
        if len(marks) == work["warmup"]:
            for phases in spent.values():
                phases.clear()
            args.max_completion_length = work["T"]
    METHODS[task](args, model, tokenizer, rows, done)
    tokens, ends, lines = zip(*marks)
    peak, result = held(device)[1], {"phases": {}}
    for clock, phases in spent.items():
        each = result[f"{clock}_per_step"] = (ends[-1][clock] - ends[-steps - 1][clock]) / steps       # since the warm-up
        parts = result["phases"][clock] = {name: total / steps for name, total in phases.items()}      # backward: with AdamW
        parts["other"] = each - sum(parts.values())
    return {**result, "tokens_per_step": sum(tokens[-steps:]) / steps, "peak_bytes": peak, "loaded_bytes": loaded,
            "growth_bytes": peak - loaded, "parameters": model.num_parameters(), "threads": torch.get_num_threads(),
            "lines": lines[-steps:]}


def decoding(model, tokenizer, prompts, G, T):
    """Milliseconds per token from T / 2 to T, decoded for all rows at once: {"way, n rows": ms}, or {way: what failed}.

    prompts: B lists of ids, of which 1, B / 4 and B are taken, G times each. On a GPU in bf16.
    """
    Policy(model)                                   # from here on the model computes as in training
    how = {"group_size": G, "stop_ids": [-1], "pad_id": 0}                       # no id stops it
    noise = lambda prompts, tokens: uniform_noise(len(prompts) * G, tokens, 0)
    ways = {"eager": lambda *work: fast.sample(model, work[0], noise(*work), **how),
            "captured": lambda *work: captured.sample(model, work[0], noise(*work), **how),
            "model.generate": lambda *work: generate(model, work[0], G, work[1], [-1])}
    found = {}
    for way, roll in ways.items():
        try:
            for some in (prompts[:1], prompts[:len(prompts) // 4], prompts):
                _, short, long = (best(lambda: roll(some, tokens), 1) for tokens in (T // 8, T // 2, T))     # one warms up
                found[f"{way}, {len(some) * G} rows"] = 1000 * (long - short) / (T - T // 2)
        except Exception as error:                  # a device, and transformers, raise types of their own
            found[way] = one_line(error)
    return found


def one_line(error):
    """An exception in a line of a report."""
    return f"failed, {type(error).__name__}: {' '.join(str(error).split())[:300]}"


# ---- the whole benchmark -----------------------------------------------------------------------------------------

def fresh(task, work, device, neighbours=0):
    """What `worker` returns, run in a process of its own, beside so many others that are busy all the time."""
    # This process stays small, because a process's peak counts what it was forked from.
    job = json.dumps({"task": task, "work": work, "device": device})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        done = subprocess.run([sys.executable, __file__, "--worker", job], capture_output=True, text=True, env={
            "CUDA_VISIBLE_DEVICES": "0", **os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["(it said nothing)"])[-1]
        raise UserError(f"{task} with {work['model']} failed (exit {done.returncode}): {why}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ratio(theirs, own, key):
    """How many times as much of `key` theirs takes as ours, over the repeats in pairs. theirs, own: dicts of `worker`."""
    each = [a[key] / b[key] for a, b in zip(theirs, own)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(runs, clock):
    """Medians over the repeats (dicts of `worker`) of one method, as a dict; phases and tokens/s by a clock."""
    middle = lambda of: statistics.median(map(of, runs))
    return {"tokens_per_s": middle(lambda run: run["tokens_per_step"] / run[f"{clock}_per_step"]),
            "phases": {name: middle(lambda run: run["phases"][clock][name]) for name in runs[0]["phases"][clock]},
            **{key: middle(lambda run: run[key]) for key, value in runs[0].items() if isinstance(value, (int, float))}}


def environment(device):
    """What is measured on, a dict, and prints it."""
    cpu = re.search(r"model name\s*: (.*)", proc("cpuinfo"))
    found = {"device": torch.cuda.get_device_name() if device == "cuda" else cpu[1] if cpu else platform.machine(),
             "cores": os.cpu_count(), "python": platform.python_version(),
             **{name: next((found.version for found in distributions(name=name)), None)
                for name in ("torch", "transformers", "trl")}}
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def benchmark(args, device):
    """Run all measurements; returns the report, a dict as --json writes it."""
    about, clock = environment(device), "seconds" if device == "cuda" else "cpu_seconds"
    methods = [method for method in METHODS if method != "trl" or about["trl"]]
    if not about["trl"]:
        print("trl is not installed here, so it is left out (pip install trl)")
    works = {name: WORK[name] | (ON_GPU.get(name, {}) if device == "cuda" else {}) for name in dict.fromkeys(args.work)}
    jobs = []                                       # (task, work, busy neighbours)
    for name, work in works.items():
        turn = [("ours", work, about["cores"])] * (name == "math") + [(method, work, 0) for method in methods]
        jobs += turn * args.repeats
    growth, big = {}, works.get("100m")
    if big:
        growth = {curve: [("ours", big | change, 0) for change in points] for curve, points in GROWTH.items()}
        jobs.append(("limits", big, 0))
    for point in itertools.chain(*growth.values()):
        jobs += [point] * (point not in jobs)       # what was measured above, or lies on two curves, once
    results = []
    for task, work, neighbours in (bar := tqdm(jobs, desc="bench", unit="process")):
        bar.set_postfix_str(f"{task} {work['model']}")
        results.append(fresh(task, work, device, neighbours))
    runs_of = lambda *job: [result for one, result in zip(jobs, results) if one == job]

    runs = {name: {method: runs_of(method, work, 0) for method in methods} for name, work in works.items()}
    ratios = {name: {method: {key: ratio(of[method], of["ours"], key) for key in
                              (f"{clock}_per_step", "peak_bytes", "growth_bytes")} for method in methods[1:]}
              for name, of in runs.items()}
    beside = runs_of("ours", works["math"], about["cores"]) if "math" in works else []
    short = lambda method, key: {name: of[method][key]["median"] if method in of else None for name, of in ratios.items()}
    return {"environment": about, "clock": clock,                  # ratios, phases and tokens/s are by this clock
            "settings": {"learning_rate": LEARNING_RATE, "repeats": args.repeats, "work": works}, "runs": runs,
            "median": {name: {method: summary(some, clock) for method, some in of.items()} for name, of in runs.items()},
            "ratios": ratios, "speedup_vs_trl": short("trl", f"{clock}_per_step"),             # above 1: theirs takes more
            "memory_vs_trl": short("trl", "peak_bytes"), "speedup_vs_generate": short("generate", f"{clock}_per_step"),
            "beside_busy_neighbours": beside and ratio(beside, runs["math"]["ours"], "seconds_per_step"),
            "limits": runs_of("limits", big, 0)[0] if big else None,
            "growth": {curve: [{"model": job[1]["model"], "work": job[1], **summary(runs_of(*job), clock)} for job in points]
                       for curve, points in growth.items()}}


def print_report(report):
    """The report of `benchmark` as tables."""
    repeats, key = report["settings"]["repeats"], f"{report['clock']}_per_step"
    unit = {"cpu_seconds": "CPU s", "seconds": "s"}[report["clock"]]
    print(f"phases, tokens and speed-ups: by {report['clock'].replace('_', ' ')}")
    heads = ["CPU s/step", "s/step", f"tokens/{unit}", "peak MB", "growth MB"]
    cells = lambda m: [*(f"{m[f'{clock}_per_step']:.3f}" for clock in CLOCKS), f"{m['tokens_per_s']:.1f}",
                       f"{m['peak_bytes'] / 1e6:.0f}", f"{m['growth_bytes'] / 1e6:.0f}"]
    for name, of in report["median"].items():
        work = report["settings"]["work"][name]
        print(f"\n{name}: {of['ours']['parameters'] / 1e6:.1f} M parameters, {work['B']} prompts x {work['G']} completions "
              f"x at most {work['T']} tokens, threads {of['ours']['threads']}; median of {repeats} x {work['steps']} steps")
        show([[method, *cells(m), f"{m['tokens_per_step'] / work['B'] / work['G']:.2f}",
               *(f"{seconds:.3f}" for seconds in m["phases"].values())] for method, m in of.items()],
             ["method", *heads, "tokens/completion", *(f"{phase} {unit}" for phase in of["ours"]["phases"])])
        for method, ratios in report["ratios"][name].items():
            print(f"speed-up of ours over {method}: {ratios[key]['median']:.2f}x; {method} takes", ", ".join(
                f"{r['median']:.2f}x {what} ({r['min']:.2f}-{r['max']:.2f})" for what, r in
                ((f"the {unit}", ratios[key]), ("the peak", ratios["peak_bytes"]), ("the growth", ratios["growth_bytes"]))))
    if beside := report["beside_busy_neighbours"]:
        print(f"\nbeside a busy process per core a step of math takes {beside['median']:.2f}x the time "
              f"({beside['min']:.2f}-{beside['max']:.2f})")
    if found := report["limits"]:
        peak, bandwidth = found["peak_flops"], found["bandwidth"]
        print(f"\nthis machine: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s; 100m gets of them")
        per_second = lambda amount, p, most: [f"{amount / p['seconds'] / 1e9:.1f}", f"{amount / p['seconds'] / most:.0%}"]
        show([[part, f"{p['seconds']:.3f}", *per_second(p["flops"], p, peak), *per_second(p["bytes"], p, bandwidth),
               p["limit"], f"{p['share_of_limit']:.0%}"] for part, p in found["parts"].items()],
             ["phase", "seconds", "GFLOP/s", "of peak", "GB/s", "of peak", "limited by", "share of that limit"])
    for curve, points in report["growth"].items():
        print(f"growth with {curve}")
        show([[f"{p['parameters'] / 1e6:.1f} M", str(p["work"]["G"]), str(p["work"]["T"]), *cells(p)] for p in points],
             ["parameters", "G", "T", *heads])


# ---- one GPU -----------------------------------------------------------------------------------------------------

def on_gpu(device):
    """A step, decoding, memory beside its prediction, and tests: printed, and as a dict. What fails is a line of the report.

    On the device "cpu" it is a rehearsal with a small model, without the tests.
    """
    work = WORK["100m"] | ONE_GPU[device]
    report = {"environment": environment(device), "work": work}
    print(f"{work['B']} x {work['G']} x {work['T']} tokens, {work['model']} with random weights")

    def step():
        found = fresh("ours", work, device)
        seconds = found["seconds_per_step"]
        return {"seconds": seconds, "tokens/s": found["tokens_per_step"] / seconds, **found["phases"]["seconds"],
                "sampler_gap": max(line["sampler_gap"] for line in found["lines"]), "peak GB": found["peak_bytes"] / GB}

    def predicted():                                # of the micro-batches that this step has
        config, args, T = config_of(work["model"]), settings(work), work["T"]
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        P = max(map(len, encode(byte_tokenizer(), texts_of(args, long_rows(work["B"]), 0), 2048)))
        rows = min(work["B"] * work["G"], args.micro_batch_tokens // (P + T))
        uses = predict(config, kept_by_autograd(config, dtype), prompt=P, completion=T, rows=rows, dtype=dtype)["update"]
        return {use: size / GB for use, size in {"all": sum(uses.values()), **uses}.items()}

    def tests():
        lines = subprocess.run([sys.executable, "test_all.py", *CHECKS], cwd=os.path.dirname(os.path.abspath(__file__)),
                               capture_output=True, text=True, timeout=180).stdout.splitlines()
        return "; ".join([line for line in lines if "FAILED" in line] + lines[-1:])
    parts = {"step": step, "ms per decoded token": lambda: fresh("decoding", work, device), "predicted GB": predicted}
    for name, part in {**parts, **({"tests": tests} if device == "cuda" else {})}.items():
        try:
            report[name] = part()
        except Exception as error:                  # a device, and transformers, raise types of their own
            report[name] = one_line(error)
        print(f"\n{name}:", report[name] if isinstance(report[name], str) else "".join(
            f"\n  {key:24}{value if isinstance(value, str) else f'{value:10.4g}'}" for key, value in report[name].items()))
    return report


# ---- memory ------------------------------------------------------------------------------------------------------

def print_memory(args):
    """For each model and set of flags, what `predict` says."""
    print(f"GB in bf16 at {args.prompt} + {args.completion} tokens, groups of {args.group_size}; * fits "
          f"{args.gpu_memory:g} GB with a tenth to spare\n{'':14}{'flags':44}{'update':>8}{'rollout':>9}{'peak':>7}")
    for name in args.memory:
        config = configuration(name)
        S = kept_by_autograd(config, torch.bfloat16)
        for flags, how in FLAGS.items():
            update, rollout = (sum(uses.values()) / GB for uses in predict(
                config, S, prompt=args.prompt, completion=args.completion, group_size=args.group_size,
                device_bytes=args.gpu_memory * GB, **how).values())
            print(f"{name:13} {flags:44}{update:8.1f}{rollout:9.1f}{max(update, rollout):7.1f}"
                  + " *" * (max(update, rollout) < 0.9 * args.gpu_memory))


def print_measured(args):
    """What `predict` says of one update of one full row, and what that takes on this machine with random weights."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    P, T, checkpointing, config = args.prompt, args.completion, args.gradient_checkpointing, configuration(args.memory[0])
    uses = predict(config, kept_by_autograd(config, dtype), prompt=P, completion=T, checkpointing=checkpointing,
                   dtype=dtype)["update"]
    before = held(device)[0]                        # on a CPU: with the libraries
    updates = tqdm(range(2), desc="measure", unit="update", leave=False)         # no delay: the first may take a minute
    policy = Policy(build(config, torch.float32, device), gradient_checkpointing=checkpointing)
    ids = torch.randint(config.vocab_size, (1, P + T), device=device)
    ones, zeros, one = ids >= 0, torch.zeros(1, T, device=device), torch.ones(1, device=device)
    rollout = Rollout(ids[:, 0] * 0, ids[:, :P], ones[:, :P], ids[:, P:], ones[:, P:], zeros, zeros, ones[:, 0])
    for step in updates:                            # AdamW makes its moments at the end of the first
        train_grpo.update(settings(WORK["cw"]), policy, None, rollout, one, one / T, one.bool(), step)
    uses |= {"predicted": sum(uses.values()), "measured": held(device)[1] - before}
    print(f"{'GB':24}" + "".join(f"{use:>12}" for use in uses))
    print(f"{args.memory[0]:24}" + "".join(f"{value / GB:12.2f}" for value in uses.values()))


def main(args=None):
    """Measure, print the tables and write --json; with --worker, be one of the processes that are measured."""
    args = args or parse()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    if args.gpu and not (args.device or device == "cuda"):
        raise UserError("--gpu: torch sees no GPU here; --device cpu rehearses it with a small model")
    if args.worker:
        print(json.dumps(worker(**args.worker)))
    elif args.memory:
        (print_measured if args.measure else print_memory)(args)
    else:
        report = on_gpu(device) if args.gpu else benchmark(args, device)
        if not args.gpu:
            print_report(report)
        if args.json:
            write_json(args.json, report)


if __name__ == "__main__":
    cli(lambda: main(ARGS))
