"""Benchmark: the same GRPO step by this repository, by TRL and by a plain generate loop; and how far each is from the metal.

    python bench.py                                # some 10 minutes on 2 CPU cores, if nothing else runs there
    python bench.py --json bench.json              # everything measured, every repeat, as JSON
    python bench.py --models tiny --repeats 5      # the tiny model alone: no limits, no growth

    ours       train_grpo.train_step, as `python train_grpo.py` runs it
    trl        trl.GRPOTrainer, on transformers' generate, without vLLM (left out, with a line, where it is not installed)
    generate   `generate_loop` below: model.generate, log_softmax over all logits, GRPO loss, backward, AdamW

on two models: `tiny`, the embedded checkpoints/base, and `100m`, random weights in the shape of SmolLM2-135M, whose
completions practically all have full length. Then the machine's own limits and what the 100m model gets of them
(reports/roofline.py), and how time and memory of `ours` grow.

Fair: same prompts in the same order, same token ids (checked), group size, completion length, reward, AdamW, learning
rate, clipping, precision (fp32 on a CPU, bf16 compute with fp32 weights on a GPU), threads as torch chooses them.
The reward is a hash of the completion, so that no group is of equal rewards: ours would skip it, and do less work.
Samples differ by method and with them the tokens of the tiny model: compare tokens/s too, and see tokens/completion.
Every measurement is a fresh process, with warm-up steps that do not count; methods take turns, so that a slow minute of
the machine hits all. Ratios are medians over neighbouring runs, the smallest and largest in brackets: above 1, theirs takes
more time or memory than ours. "peak" is the process's, libraries included; "growth" is how much the steps add to it.
"others" is how many cores other processes took during the timed steps, and should be close to 0: on two cores one of them
can cost a factor of ten, because the threads of a matmul wait for each other.

Will a model fit? The peak of a training step is predicted from the model's shape (reports/memory.py):

    python bench.py --memory Qwen3-0.6B Qwen3-1.7B Qwen3-4B          # 2k + 8k tokens on a GPU of 80 GB: which flags fit?
    python bench.py --memory checkpoints/math --prompt 256 --completion 1024 --group-size 16
    python bench.py --memory checkpoints/base --prompt 64 --completion 64 --measure      # and what an update takes here
"""
import argparse
import json

from grpo.settings import at_least, checkpoint, new_file, parser, positive
from model import BASE, UserError, cli

# ---- settings: B prompts x G completions of at most T tokens per step (warmup_T while warming up); N = B x G
WORK = {"tiny": {"B": 16, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "100m": {"B": 1, "G": 8, "T": 48, "warmup": 1, "steps": 1, "warmup_T": 8}}       # a warm-up of few tokens: 20 s less
ON_GPU = {"100m": {"B": 16, "steps": 5, "warmup": 2, "warmup_T": 48}}                   # enough for a GPU to have work
LEARNING_RATE = 1e-6    # too low to change how long completions are within a run
# Random models, as SmolLM2 in miniature, by the numbers that reports.memory.SHAPE names
SHAPES = {"14m": (192, 512, 12, 3, 1), "50m": (384, 1024, 20, 6, 2), "100m": (576, 1536, 30, 9, 3)}
GROWTH = {"group size": [("14m", {"G": g}) for g in (4, 8, 16)],            # all else as in the work of 100m
          "completion length": [("14m", {"T": t}) for t in (24, 48, 96)],
          "parameters": [(name, {}) for name in SHAPES]}
FLAGS = {"none": {}, "--gradient-checkpointing": {"checkpointing": True},                  # --memory: what to predict for
         "--gradient-checkpointing --offload": {"checkpointing": True, "offload": True},
         "--gradient-checkpointing, 4 processes": {"checkpointing": True, "processes": 4}}


def parse(argv=None):
    """The command line; UserError for a model or number that cannot be measured, and for options that do not go together."""
    made = parser(__doc__)
    made.add_argument("--models", choices=["tiny", "100m", "tiny,100m", "100m,tiny"], default="tiny,100m",
                      metavar="MODELS", help="tiny, 100m or tiny,100m (default both; without 100m no limits and no growth)")
    made.add_argument("--repeats", type=at_least(1), default=3, help="runs of each method on each model (default 3)")
    made.add_argument("--steps", type=at_least(1), help="timed steps per run (default on a CPU: 10 of tiny, 1 of 100m)")
    made.add_argument("--device", choices=["cpu", "cuda"], help="(default: the GPU if there is one)")
    made.add_argument("--json", type=new_file, metavar="FILE", help="write everything that was measured")
    made.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)     # how this script calls itself, see `fresh`
    group = made.add_argument_group("memory in place of speed")
    group.add_argument("--memory", type=checkpoint, nargs="+", default=[], metavar="MODEL",
                       help="predict the peak of these: Qwen3-0.6B, Qwen3-1.7B, Qwen3-4B, a directory, or a hub name")
    group.add_argument("--prompt", type=at_least(1), default=2048, help="tokens (default 2048)")
    group.add_argument("--completion", type=at_least(1), default=8192, help="tokens (default 8192)")
    group.add_argument("--group-size", type=at_least(1), default=8, help="G (default 8; not with --measure)")
    group.add_argument("--gpu", type=positive, default=80, help="its memory in GB (default 80)")
    group.add_argument("--measure", action="store_true", help="run an update of one row, random weights, and compare")
    group.add_argument("--gradient-checkpointing", action="store_true", help="measure with it")
    args = made.parse_args(argv)
    if args.memory and (args.json or args.steps or args.models != made.get_default("models")):
        raise UserError("--memory predicts, and prints its table: leave --json, --steps and --models out")
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
import time
import zlib
from collections import Counter
from importlib.metadata import distributions

import torch
from tqdm import tqdm

import domains
import train_grpo
from grpo.policy import Policy
from grpo.rollout import Rollout, decode, encode
from grpo.warmup import byte_tokenizer
from model import end_ids, load, write_json
from reports.memory import GB, SHAPE, build, configuration, held, kept_by_autograd, predict, proc
from reports.roofline import limits, synchronize
from reports.tables import show


# ---- the work, the same for all methods -------------------------------------------------------------------------

def reward(prompts, completions, rows):
    """A number in [0, 1) per completion, different even for equal texts: a judge of creative writing (grpo/judge.py)."""
    return [zlib.crc32(f"{i} {text}".encode()) / 2**32 for i, text in enumerate(completions)]


def settings(work):
    """The settings of a run of train_grpo.py that is measured and never saved. work: an entry of WORK."""
    return train_grpo.parse(f"--domain cw --out {os.devnull} --prompts-per-step {work['B']} --group-size {work['G']} --lr "
                            f"{LEARNING_RATE} --steps {work['warmup'] + work['steps']} --warmup-steps 0 "
                            f"--max-completion-length {work['warmup_T']}".split())


def long_rows(n):
    """{"cw": n rows} with prompts of 80 to 120 bytes, for a tokenizer with a token per byte."""
    rng, nouns = random.Random(0), domains.get("cw").NOUNS
    return {"cw": [{"prompt": "Tell of: " + " ".join(rng.choices(nouns, k=rng.randint(14, 20)))} for _ in range(n)]}


def texts_of(args, rows, step):
    """The prompts of a step, as every method reads them: B strings."""
    return [domains.prompt(*pair) for pair in train_grpo.rows_for_step(args, rows, step)]


def model_of(name, device):
    """A model in fp32 and its tokenizer: of SHAPES, with random weights, or the checkpoint that is called so."""
    if name not in SHAPES:
        return load(name, device, torch.float32)
    from transformers import LlamaConfig
    torch.manual_seed(0)
    config = LlamaConfig(**dict(zip(SHAPE, SHAPES[name])), vocab_size=49152, max_position_embeddings=8192,
                         rope_theta=100_000.0, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    return build(config, torch.float32, device).eval(), byte_tokenizer()     # the tiny model's: other ids are no text


# ---- a clock ----------------------------------------------------------------------------------------------------

spent = Counter()       # seconds per phase since the warm-up


@contextlib.contextmanager
def phase(name):
    """The body's seconds go to spent[name]. Phases do not contain each other."""
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    spent[name] += time.perf_counter() - start


def timed(name, owner, *functions):
    """Put a clock, phase(name), around functions of a module, class or object (the owner), by their names."""
    for function in functions:
        setattr(owner, function, phase(name)(getattr(owner, function)))


# ---- the three methods --------------------------------------------------------------------------------------------
# Each takes the steps of args (`settings`) on rows, {domain: rows}, and after every step calls done(completion tokens of the
# step, share of groups whose rewards are all equal), which lengthens the completions after the warm-up.

def ours(args, model, tokenizer, rows, done):
    """train_grpo.train_step, with a clock around its parts."""
    timed("rollout", train_grpo, "encode", "sample", "decode")
    timed("reward", train_grpo, "grade")
    timed("log-probs", Policy, "logps")
    timed("backward", Policy, "backward", "step")
    domains.get("cw").judge = reward
    policy = Policy(model)
    for step in range(args.steps):
        line, rollout, _, _ = train_grpo.train_step(args, policy, None, tokenizer, rows, step)
        done(int(rollout.mask.sum()), line["zero_variance_groups"])


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
            return reward(prompts, [messages[0]["content"] for messages in completions], None)
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


def generate_loop(args, model, tokenizer, rows, done):
    """GRPO as one writes it down first: nothing shared between the completions of a group, no logit spared."""
    G, device = args.group_size, model.device
    stop = torch.tensor(end_ids(model, tokenizer), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step in range(args.steps):
        with phase("rollout"), torch.no_grad(), autocast:
            texts = texts_of(args, rows, step)
            prompts = [ids for ids in encode(tokenizer, texts, 2048) for _ in range(G)]                # each G times
            inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(device)             # (N, P), on the left
            P = inputs["input_ids"].shape[1]
            ids = model.generate(**inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0,                # (N, P + T)
                                 max_new_tokens=args.max_completion_length, eos_token_id=stop.tolist(),
                                 pad_token_id=tokenizer.pad_token_id)
            ends = torch.isin(ids[:, P:], stop).long()
            mask = ends.cumsum(1) - ends == 0                       # up to the first end token, that included
            completions = decode(tokenizer, ids[:, P:], mask)
        with phase("reward"):
            rewards = torch.tensor(reward(texts, completions, None), device=device).view(-1, G)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).view(-1, 1)
        with phase("log-probs"):
            with autocast:
                logits = model(input_ids=ids, attention_mask=torch.cat([inputs["attention_mask"], mask], 1)).logits
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

def worker(task, model, device, work):
    """Measure a method in a process of its own (`fresh`): seconds, tokens and phases of the timed steps, memory in bytes.

    task: of METHODS, or "limits", and then the result is roofline.limits'. model: see `model_of`. UserError if a group had
    equal rewards.
    """
    if task == "trl":                               # before the memory is read: an import is no growth of the steps
        from trl import GRPOTrainer  # noqa: F401
    args, (lm, tokenizer), steps = settings(work), model_of(model, device), work["steps"]
    if task == "limits":
        texts = texts_of(args, long_rows(work["B"]), 0)
        return limits(lm, tokenizer, encode(tokenizer, texts, 2048), work["G"], work["T"])
    rows = long_rows(work["B"] * args.steps) if model in SHAPES else {"cw": None}
    sum(p.sum().item() for p in lm.parameters())    # a loaded file is read into memory when it is first used
    loaded, marks = held(device)[0], []             # marks, of each step: its tokens, its end, CPU seconds of others

    def done(tokens, zero_variance):
        if zero_variance:
            raise UserError(f"{task}: a group of equal rewards, which ours skips: the work would not be the same")
        synchronize()
        marks.append((tokens, time.perf_counter(), cpu_seconds_of_others()))
        if len(marks) == work["warmup"]:
            spent.clear()
            args.max_completion_length = work["T"]
    METHODS[task](args, lm, tokenizer, rows, done)
    tokens, ends, others = zip(*marks)
    each = [end - start for start, end in itertools.pairwise(ends[-steps - 1:])]          # from the end of the warm-up on
    seconds, peak = (ends[-1] - ends[-steps - 1]) / steps, held(device)[1]
    phases = {name: total / steps for name, total in spent.items()}             # backward: the optimizer's step included
    return {"seconds_per_step": seconds, "step_seconds": each, "tokens_per_step": sum(tokens[-steps:]) / steps,
            "tokens": tokens, "peak_bytes": peak, "loaded_bytes": loaded, "growth_bytes": peak - loaded,
            "parameters": lm.num_parameters(), "cores_of_others": (others[-1] - others[-steps - 1]) / seconds / steps,
            "phases": {**phases, "other": seconds - sum(phases.values())}}


def cpu_seconds_of_others():
    """CPU seconds that all other processes (and the hypervisor) have taken since the start; 0 where Linux does not tell."""
    numbers, own = proc("stat").split()[1:9], os.times()
    if not numbers:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, numbers)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own.user - own.system


# ---- the whole benchmark -----------------------------------------------------------------------------------------

def fresh(task, model, device, work):
    """What `worker` returns, run in a process of its own."""
    # This process stays small, because a process's peak counts what it was forked from.
    job = json.dumps({"task": task, "model": BASE if model == "tiny" else model, "device": device, "work": work})
    done = subprocess.run([sys.executable, __file__, "--worker", job], capture_output=True, text=True, env={
        "CUDA_VISIBLE_DEVICES": "0", **os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["(it said nothing)"])[-1]
        raise UserError(f"{task} with {model} failed (exit {done.returncode}): {why}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ratio(theirs, own, key):
    """How many times as much of `key` theirs takes as ours, over the repeats in pairs. theirs, own: dicts of `worker`."""
    each = [a[key] / b[key] for a, b in zip(theirs, own)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(runs):
    """Medians over the repeats (dicts of `worker`) of one method, as a dict."""
    middle = lambda of: statistics.median(map(of, runs))
    return {"steps_per_s": middle(lambda run: 1 / run["seconds_per_step"]),
            "tokens_per_s": middle(lambda run: run["tokens_per_step"] / run["seconds_per_step"]),
            "phases": {name: middle(lambda run: run["phases"][name]) for name in runs[0]["phases"]},
            **{key: middle(lambda run: run[key]) for key, value in runs[0].items() if isinstance(value, (int, float))}}


def benchmark(args):
    """Run all measurements; returns the report, a dict as --json writes it."""
    versions = {name: next((found.version for found in distributions(name=name)), None)
                for name in ("torch", "transformers", "trl")}
    methods = [method for method in METHODS if method != "trl" or versions["trl"]]
    if not versions["trl"]:
        print("trl is not installed here, so it is left out (pip install trl)")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    works = {name: WORK[name] | (ON_GPU.get(name, {}) if device == "cuda" else {}) |
             ({"steps": args.steps} if args.steps else {}) for name in args.models.split(",")}
    jobs = [(method, name, work) for name, work in works.items() for _ in range(args.repeats) for method in methods]
    growth = {}
    if big := works.get("100m"):
        growth = {curve: [("ours", name, big | change) for name, change in points] for curve, points in GROWTH.items()}
        jobs.append(("limits", "100m", big))
    for point in itertools.chain(*growth.values()):
        jobs += [point] * (point not in jobs)       # what was measured above, or lies on two curves, once
    results = []
    for task, name, work in (bar := tqdm(jobs, desc="bench", unit="process")):
        bar.set_postfix_str(f"{task} {name}")
        results.append(fresh(task, name, device, work))
    runs_of = lambda *job: [result for one, result in zip(jobs, results) if one == job]

    limit = runs_of("limits", "100m", big)[0] if big else None
    runs = {name: {method: runs_of(method, name, work) for method in methods} for name, work in works.items()}
    ratios = {name: {method: {key: ratio(of[method], of["ours"], key) for key in
                              ("seconds_per_step", "peak_bytes", "growth_bytes")} for method in methods[1:]}
              for name, of in runs.items()}
    short = lambda method, key: {name: of[method][key]["median"] if method in of else None for name, of in ratios.items()}
    cpu = re.search(r"model name\s*: (.*)", proc("cpuinfo"))
    return {"environment": {"cpu": cpu[1] if cpu else platform.processor() or platform.machine(), "cores": os.cpu_count(),
                            "threads": torch.get_num_threads(), "device": device, "gpu": limit and limit["gpu"],
                            "python": platform.python_version(), **versions},
            "settings": {"learning_rate": LEARNING_RATE, "repeats": args.repeats, "work": works}, "runs": runs,
            "median": {name: {method: summary(some) for method, some in of.items()} for name, of in runs.items()},
            "ratios": ratios, "speedup_vs_trl": short("trl", "seconds_per_step"),              # above 1: theirs takes more
            "memory_vs_trl": short("trl", "peak_bytes"), "speedup_vs_generate": short("generate", "seconds_per_step"),
            "limits": limit,
            "growth": {curve: [{"model": job[1], "work": job[2], **summary(runs_of(*job))} for job in points]
                       for curve, points in growth.items()}}


def print_report(report):
    """The report of `benchmark` as tables."""
    env, settings = report["environment"], report["settings"]
    busy = [run["cores_of_others"] for of in report["runs"].values() for some in of.values() for run in some]
    if max(busy) > 0.1:
        print(f"NOT TO BE TRUSTED: other processes took up to {max(busy):.1f} cores during a run, more than 0.1 in "
              f"{sum(b > 0.1 for b in busy)} of {len(busy)}; stop them and run this again")
    print(f"{env['gpu'] or env['cpu']}, {env['threads']} threads, "
          + ", ".join(f"{name} {env[name]}" for name in ("torch", "transformers", "trl")))
    heads = ["tokens/s", "others", "peak MB", "growth MB"]
    cells = lambda m: [f"{m['tokens_per_s']:.1f}", f"{m['cores_of_others']:.2f}", f"{m['peak_bytes'] / 1e6:.0f}",
                       f"{m['growth_bytes'] / 1e6:.0f}"]
    for name, of in report["median"].items():
        work = settings["work"][name]
        print(f"\n{name}: {of['ours']['parameters'] / 1e6:.1f} M parameters, {work['B']} prompts x {work['G']} "
              f"completions x at most {work['T']} tokens; median of {settings['repeats']} runs of {work['steps']} steps")
        show([[method, f"{m['steps_per_s']:.3f}", *cells(m), f"{m['tokens_per_step'] / work['B'] / work['G']:.2f}",
               *(f"{seconds:.3f}" for seconds in m["phases"].values())] for method, m in of.items()],
             ["method", "steps/s", *heads, "tokens/completion", *(f"{phase} s" for phase in of["ours"]["phases"])])
        for method, ratios in report["ratios"][name].items():
            print(f"speed-up of ours over {method}: {ratios['seconds_per_step']['median']:.2f}x; {method} takes", ", ".join(
                f"{ratios[key]['median']:.2f}x {what} ({ratios[key]['min']:.2f}-{ratios[key]['max']:.2f})" for key, what in
                (("seconds_per_step", "the time"), ("peak_bytes", "the peak"), ("growth_bytes", "the growth"))))
    if found := report["limits"]:
        peak, bandwidth = found["peak_flops"], found["bandwidth"]
        print(f"\nthis machine: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s; 100m gets of them")
        per_second = lambda amount, p, most: [f"{amount / p['seconds'] / 1e9:.1f}", f"{amount / p['seconds'] / most:.0%}"]
        show([[part, f"{p['seconds']:.3f}", *per_second(p["flops"], p, peak), *per_second(p["bytes"], p, bandwidth),
               p["limit"], f"{p['share_of_limit']:.0%}"] for part, p in found["parts"].items()],
             ["phase", "seconds", "GFLOP/s", "of peak", "GB/s", "of peak", "limited by", "share of that limit"])
    for curve, points in report["growth"].items():
        print(f"growth with {curve}")
        show([[f"{p['parameters'] / 1e6:.1f} M", str(p["work"]["G"]), str(p["work"]["T"]), f"{p['seconds_per_step']:.3f}",
               *cells(p)] for p in points], ["parameters", "G", "T", "s/step", *heads])


# ---- memory ------------------------------------------------------------------------------------------------------

def print_memory(args):
    """For each model and set of flags, what `predict` says."""
    print(f"GB in bf16 at {args.prompt} + {args.completion} tokens, groups of {args.group_size}; * fits {args.gpu:g} GB "
          f"with a tenth to spare\n{'':14}{'flags':44}{'update':>8}{'rollout':>9}{'peak':>7}")
    for name in args.memory:
        config = configuration(name)
        S = kept_by_autograd(config, torch.bfloat16)
        for flags, how in FLAGS.items():
            update, rollout = (sum(uses.values()) / GB for uses in predict(
                config, S, prompt=args.prompt, completion=args.completion, group_size=args.group_size,
                device_bytes=args.gpu * GB, **how).values())
            print(f"{name:13} {flags:44}{update:8.1f}{rollout:9.1f}{max(update, rollout):7.1f}"
                  + " *" * (max(update, rollout) < 0.9 * args.gpu))


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
        train_grpo.update(settings(WORK["tiny"]), policy, None, rollout, one, one / T, one.bool(), step)
    uses |= {"predicted": sum(uses.values()), "measured": held(device)[1] - before}
    print(f"{'GB':24}" + "".join(f"{use:>12}" for use in uses))
    print(f"{args.memory[0]:24}" + "".join(f"{value / GB:12.2f}" for value in uses.values()))


def main(args=None):
    """Measure, print the tables and write --json; with --worker, be one of the processes that are measured."""
    args = args or parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    if args.worker:
        print(json.dumps(worker(**args.worker)))
    elif args.memory:
        (print_measured if args.measure else print_memory)(args)
    else:
        report = benchmark(args)
        print_report(report)
        if args.json:
            write_json(args.json, report)


if __name__ == "__main__":
    cli(lambda: main(ARGS))
