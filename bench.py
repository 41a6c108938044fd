"""Benchmark: the same GRPO step by this repository, by TRL and by a plain generate loop; and how far each is from the metal.

    python bench.py                                # some 10 minutes on 2 CPU cores, if nothing else runs there
    python bench.py --json bench.json              # everything measured, every repeat, as JSON
    python bench.py --models tiny --repeats 5      # the tiny model alone: no limits, no growth

    ours       train_grpo.train_step, as `python train_grpo.py` runs it
    trl        trl.GRPOTrainer, on transformers' generate, without vLLM (left out, with a line, where it is not installed)
    generate   `generate_loop` below: model.generate, log_softmax over all logits, GRPO loss, backward, AdamW

on two models: `tiny`, the embedded checkpoints/base, which stops at its end token, and `100m`, random weights in the
shape of SmolLM2-135M, whose completions practically all have full length. Then the machine's own limits and what the
100m model gets of them (roofline.py), and how time and memory of `ours` grow.

Fair: same prompts in the same order, same token ids (checked), group size, completion length, reward, AdamW, learning
rate, clipping, precision (fp32 on a CPU, bf16 compute with fp32 weights on a GPU), threads as torch chooses them.
The reward is a hash of the completion, so that no group is of equal rewards: ours would skip it, and do less work.
Samples differ by method and with them the tokens of the tiny model: compare tokens/s too, and see tokens/completion.
Every measurement is a fresh process, with warm-up steps that do not count; methods take turns, so that a slow minute of
the machine hits all. Ratios are medians over neighbouring runs, the smallest and largest in brackets: above 1, theirs takes
more time or memory than ours. "peak" is the process's, libraries included; "growth" what the steps add to it after loading.
On two cores one other busy process can cost a factor of ten, as the threads of a matmul wait for each other: how many
cores others took during the timed steps is measured too ("others"), and should be close to 0.
"""
import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

import domains
import evaluate
import train_grpo
from grpo import warmup
from reports.memory import peak_resident, resident
from model import BASE, UserError, check_writable, cli, end_ids, load, save, write_json
from grpo.policy import Policy
from grpo.rollout import encode
from reports.roofline import limits, synchronize
from domains.rows import rows_for_step
from grpo.settings import measured

# ---- settings: B prompts x G completions of at most T tokens per step
METHODS = ("ours", "trl", "generate")
WORK = {"tiny": {"B": 16, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "100m": {"B": 1, "G": 8, "T": 48, "warmup": 1, "steps": 1, "warmup_T": 8}}       # a warm-up of few tokens: 20 s less
ON_GPU = {"100m": {"B": 16, "steps": 5, "warmup": 2, "warmup_T": 48}}                   # enough for a GPU to have work
LEARNING_RATE = 1e-6    # too low to change how long completions are within a run
PHASES = ("rollout", "reward", "log-probs", "backward", "other")     # backward: the optimizer's step included
# Random models, as SmolLM2 in miniature: width, MLP channels, layers, heads, key-value heads
SHAPES = {"14m": (192, 512, 12, 3, 1), "50m": (384, 1024, 20, 6, 2), "100m": (576, 1536, 30, 9, 3)}
VOCABULARY = 49152
GROWTH = {"group size": [("14m", {"G": g}) for g in (4, 8, 16)],            # all else as in the work of 100m
          "completion length": [("14m", {"T": t}) for t in (24, 48, 96)],
          "parameters": [(name, {}) for name in SHAPES]}


# ---- the work, the same for all methods -------------------------------------------------------------------------

def reward(prompts, completions, rows):
    """A number in [0, 1) per completion, different even for equal texts: a judge, as train_step takes one (judge.py)."""
    return [zlib.crc32(f"{i} {text}".encode()) / 2**32 for i, text in enumerate(completions)]


def settings(work, path):
    """The arguments of train_grpo.py for this work, an entry of WORK, on the model at `path`."""
    return measured(path, "--prompts-per-step", work["B"], "--group-size", work["G"], "--max-completion-length",
                    work["warmup_T"], "--lr", LEARNING_RATE)


def long_rows(n):
    """{"cw": n rows} with prompts of 80 to 120 bytes, for a tokenizer with a token per byte."""
    rng = random.Random(0)
    return {"cw": [{"prompt": "Tell of: " + " ".join(rng.choices(domains.NOUNS, k=rng.randint(14, 20)))}
                   for _ in range(n)]}


def make_model(name, path):
    """Write random weights of a SHAPE to `path`, with the tiny model's tokenizer: ids above its vocabulary are no text."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    width, channels, layers, heads, kv_heads = SHAPES[name]
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=channels, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=8192, rope_theta=100_000.0,
        tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    save(model, warmup.byte_tokenizer(), path, {"parent": None, "shape": name})


# ---- a clock ----------------------------------------------------------------------------------------------------

spent = Counter()       # seconds per phase since the warm-up
running = []            # the phase that runs now


@contextlib.contextmanager
def phase(name):
    """The body's seconds go to spent[name], unless a phase runs already: what that calls is its own."""
    if running:
        yield
        return
    running.append(name)
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    spent[name] += time.perf_counter() - start
    running.clear()


def timed(name, owner, *functions):
    """Put a clock, phase(name), around functions of a module, class or object (the owner), by their names."""
    for function in functions:
        def wrapper(*args, inner=getattr(owner, function), **kwargs):
            with phase(name):
                return inner(*args, **kwargs)
        setattr(owner, function, wrapper)


# ---- the three methods --------------------------------------------------------------------------------------------
# Each takes the warm-up and the timed steps of `work` (an entry of WORK; args: its settings) on rows, {domain: rows}, and
# after every step calls done(completion tokens of the step, share of groups whose rewards are all equal).

def ours(work, args, model, tokenizer, rows, done):
    """train_grpo.train_step, with a clock around its parts."""
    timed("rollout", evaluate, "encode", "sample", "decode")
    timed("reward", domains, "reward")
    timed("log-probs", Policy, "logps")
    timed("backward", Policy, "backward", "step")
    policy = Policy(model, torch.bfloat16 if model.device.type == "cuda" else torch.float32)
    for step in range(work["warmup"] + work["steps"]):
        line, _ = train_grpo.train_step(args, policy, None, tokenizer, reward, rows, step)
        done(round(line["completion_length"] * work["B"] * work["G"]), line["zero_variance_groups"])


def trl_trainer(work, args, model, tokenizer, rows, done):
    """trl.GRPOTrainer with the settings that make it fastest. UserError if it reads other token ids than ours."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    steps, N, gpu = work["warmup"] + work["steps"], work["B"] * work["G"], model.device.type == "cuda"
    texts = [domains.prompt(*row) for step in range(steps) for row in rows_for_step(args, rows, step)]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            out, max_steps=steps, num_generations=work["G"], max_completion_length=work["warmup_T"],
            # All completions in one generate call, one pass and one optimizer step: the fastest that TRL has, as the
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


def generate_loop(work, args, model, tokenizer, rows, done):
    """GRPO as one writes it down first: nothing shared between the completions of a group, no logit spared."""
    G, device = work["G"], model.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step in range(work["warmup"] + work["steps"]):
        with phase("rollout"), torch.no_grad(), autocast:
            texts = [domains.prompt(*row) for row in rows_for_step(args, rows, step)]
            prompts = [ids for ids in encode(tokenizer, texts, 2048) for _ in range(G)]                # each G times
            P = max(map(len, prompts))
            prompt_ids = torch.tensor([[tokenizer.pad_token_id] * (P - len(p)) + p for p in prompts], device=device)
            prompt_mask = torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in prompts], device=device)
            ids = model.generate(input_ids=prompt_ids, attention_mask=prompt_mask, do_sample=True, temperature=1.0,
                                 top_p=1.0, top_k=0, max_new_tokens=args.max_completion_length,
                                 eos_token_id=end_ids(model, tokenizer), pad_token_id=tokenizer.pad_token_id)
            # ids: (N, P + T)
            ends = torch.isin(ids[:, P:], torch.tensor(end_ids(model, tokenizer), device=device)).long()
            mask = ends.cumsum(1) - ends == 0                       # up to the first end token, that included
            completions = tokenizer.batch_decode([row[keep] for row, keep in zip(ids[:, P:], mask)],
                                                 skip_special_tokens=True)
        with phase("reward"):
            rewards = torch.tensor(reward(texts, completions, None), device=device).view(-1, G)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).view(-1, 1)
        with phase("log-probs"):
            with autocast:
                logits = model(input_ids=ids, attention_mask=torch.cat([prompt_mask, mask.long()], 1)).logits
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


def measure(method, work, path, device):
    """One process's worth of one method: seconds, tokens and phases of the timed steps, and memory in bytes, as a dict.

    method: of METHODS; path: the model's; device: None, "cpu" or "cuda". UserError if a group had equal rewards.
    """
    args = settings(work, path)
    rows = {"cw": None} if path == BASE else long_rows(work["B"] * (work["warmup"] + work["steps"]))
    if method == "trl":                             # before the memory is read: an import is no growth of the steps
        from trl import GRPOTrainer  # noqa: F401
    model, tokenizer = load(path, device, torch.float32)
    gpu = model.device.type == "cuda"
    sum(p.sum().item() for p in model.parameters())     # a loaded file is read into memory when it is first used
    loaded = torch.cuda.memory_allocated() if gpu else resident()
    ends, tokens, dead, others = [], [], [], []

    def done(step_tokens, step_dead):
        synchronize()
        tokens.append(step_tokens)
        dead.append(step_dead)
        ends.append(time.perf_counter())
        others.append(cpu_seconds_of_others())
        if len(ends) == work["warmup"]:
            spent.clear()
            args.max_completion_length = work["T"]
    {"ours": ours, "trl": trl_trainer, "generate": generate_loop}[method](work, args, model, tokenizer, rows, done)
    if any(dead):
        raise UserError(f"{method}: a group of equal rewards, which ours skips: the work would not be the same")
    first, steps = work["warmup"] - 1, work["steps"]
    seconds = (ends[-1] - ends[first]) / steps
    phases = {name: spent[name] / steps for name in PHASES[:-1]}
    peak = torch.cuda.max_memory_allocated() if gpu else peak_resident()
    return {"seconds_per_step": seconds, "step_seconds": [b - a for a, b in zip(ends[first:], ends[first + 1:])],
            "tokens_per_step": sum(tokens[first + 1:]) / steps, "tokens": tokens, "peak_bytes": peak,
            "loaded_bytes": loaded, "growth_bytes": peak - loaded, "parameters": sum(p.numel() for p in model.parameters()),
            "cores_of_others": (others[-1] - others[first]) / seconds / steps,
            "phases": {**phases, "other": seconds - sum(phases.values())}}


def cpu_seconds_of_others():
    """CPU seconds that all other processes (and the hypervisor) have taken since the start; 0 where Linux does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    own = os.times()
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def cpu_name():
    """The processor's name as Linux tells it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


# ---- the whole benchmark -----------------------------------------------------------------------------------------

def fresh(job):
    """Run a job, a dict with a "task" and its arguments, in a process of its own; what it returns."""
    # This process stays small, as a process's peak counts what it was forked from.
    done = subprocess.run([sys.executable, __file__, "--worker", json.dumps(job)], capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
                               "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")})
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["(it said nothing)"])[-1]
        raise UserError(f"{job['task']} with {job['model']} failed (exit {done.returncode}): {why}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def worker(task, model, path, device, work):
    """What runs in a process of its own; its last line on stdout is the result as JSON.

    task: "make" (model: the names of all, path: the directory for them), "limits", or one of METHODS with a work.
    """
    result = None
    if task == "make":                              # before anything is timed; model: the names of all
        if "tiny" in model:
            load(BASE, "cpu")
        for name in set(model) & set(SHAPES):
            make_model(name, os.path.join(path, name))
    elif task == "limits":
        lm, tokenizer = load(path, device, torch.float32)
        texts = [domains.prompt(*row) for row in rows_for_step(settings(work, path), long_rows(work["B"]), 0)]
        result = limits(lm, tokenizer, encode(tokenizer, texts, 2048), work["G"], work["T"])
    else:
        result = measure(task, work, path, device)
    print(json.dumps(result))


def installed(name):
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def ratio(theirs, own, key):
    """How many times as much of `key` (seconds, bytes) theirs takes as ours: median, min and max over the repeats, in pairs.

    theirs, own: as many dicts of `measure` each.
    """
    each = [a[key] / b[key] for a, b in zip(theirs, own)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(runs):
    """Medians over the repeats (dicts of `measure`) of one method, as a dict."""
    middle = lambda of: statistics.median(of(run) for run in runs)
    return {"steps_per_s": middle(lambda run: 1 / run["seconds_per_step"]),
            "tokens_per_s": middle(lambda run: run["tokens_per_step"] / run["seconds_per_step"]),
            "phases": {name: middle(lambda run: run["phases"][name]) for name in PHASES},
            **{key: middle(lambda run: run[key]) for key in runs[0] if isinstance(runs[0][key], (int, float))}}


def parse():
    """The command line; UserError for a model, number or device that cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(WORK), help="tiny, 100m or both with a comma (default both); limits "
                        "and growth are measured with the random models, so only where 100m is among them")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method on each model (default 3)")
    parser.add_argument("--steps", type=int, default=None, help="timed steps per run (default on a CPU: " + ", ".join(
        f"{work['steps']} of {name}" for name, work in WORK.items()) + ")")
    parser.add_argument("--device", default=None, choices=["cpu", "cuda"], help="(default: the GPU if there is one)")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--worker", help=argparse.SUPPRESS)     # how this script calls itself, see `fresh`
    args = parser.parse_args()
    args.models = args.models.split(",")
    if set(args.models) - set(WORK) or len(set(args.models)) < len(args.models):
        raise UserError(f"--models {','.join(args.models)}: choose from {', '.join(WORK)}, each once")
    for name in ("repeats", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_writable(args.json)
    return args


def main():
    """Measure, print the tables and write --json; with --worker, be one of the processes that are measured."""
    args = parse()
    if args.worker:
        return worker(**json.loads(args.worker))
    methods = [method for method in METHODS if method != "trl" or installed("trl")]
    if "trl" not in methods:
        print("trl is not installed here, so it is left out (pip install trl)")
    works = {name: WORK[name] | (ON_GPU.get(name, {}) if args.device == "cuda" else {}) |
             ({"steps": args.steps} if args.steps else {}) for name in args.models}
    growth = {curve: [(name, works["100m"] | change) for name, change in points] for curve, points in GROWTH.items()} \
        if "100m" in works else {}
    results, limit = {}, None                       # results: {(task, model, work as text): its runs}
    with tempfile.TemporaryDirectory() as tmp:
        jobs = [(method, name, work) for name, work in works.items() for _ in range(args.repeats) for method in methods]
        jobs += [("limits", "100m", works["100m"])] if growth else []
        for point in (("ours", *point) for points in growth.values() for point in points):
            jobs += [point] * (point not in jobs)   # what was measured above, or lies on two curves, once
        fresh({"task": "make", "model": [*works, *(SHAPES if growth else ())], "device": "cpu", "work": None, "path": tmp})
        bar = tqdm(jobs, desc="bench", unit="process")
        for task, name, work in bar:
            bar.set_postfix_str(f"{task} {name}")
            result = fresh({"task": task, "model": name, "device": args.device, "work": work,
                            "path": BASE if name == "tiny" else os.path.join(tmp, name)})
            results.setdefault((task, name, json.dumps(work)), []).append(result)
            limit = result if task == "limits" else limit
    report = {"environment": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                              "device": args.device, "gpu": limit and limit["gpu"], "python": platform.python_version(),
                              **{name: installed(name) for name in ("torch", "transformers", "trl")}},
              "settings": {"learning_rate": LEARNING_RATE, "repeats": args.repeats, "work": works},
              "runs": {name: {method: results[method, name, json.dumps(work)] for method in methods}
                       for name, work in works.items()}}
    report["median"] = {name: {method: summary(some) for method, some in runs.items()}
                        for name, runs in report["runs"].items()}
    report["ratios"] = {name: {method: {key: ratio(runs[method], runs["ours"], key) for key in
                                        ("seconds_per_step", "peak_bytes", "growth_bytes")} for method in methods[1:]}
                        for name, runs in report["runs"].items()}
    for field, method, key in (("speedup_vs_trl", "trl", "seconds_per_step"), ("memory_vs_trl", "trl", "peak_bytes"),
                               ("speedup_vs_generate", "generate", "seconds_per_step")):   # above 1: theirs takes more
        report[field] = {name: of[method][key]["median"] if method in of else None for name, of in report["ratios"].items()}
    report["limits"] = limit
    report["growth"] = {curve: [{"model": name, "work": work, **summary(results["ours", name, json.dumps(work)])}
                                for name, work in points] for curve, points in growth.items()}
    show(report)
    if args.json:
        write_json(args.json, report)


def show(report):
    """The report as tables."""
    env = report["environment"]
    busy = [run["cores_of_others"] for runs in report["runs"].values() for some in runs.values() for run in some]
    if max(busy) > 0.1:
        print(f"NOT TO BE TRUSTED: other processes took up to {max(busy):.1f} cores during a run, more than 0.1 in "
              f"{sum(b > 0.1 for b in busy)} of {len(busy)}; stop them and run this again")
    print(f"{env['gpu'] or env['cpu']}, {env['threads']} threads, "
          + ", ".join(f"{name} {env[name]}" for name in ("torch", "transformers", "trl")))
    for name, methods in report["median"].items():
        work = report["settings"]["work"][name]
        print(f"\n{name}: {methods['ours']['parameters'] / 1e6:.1f} M parameters, {work['B']} prompts x {work['G']} "
              f"completions x at most {work['T']} tokens; median of {report['settings']['repeats']} runs of "
              f"{work['steps']} steps\n"
              f"{'':53}MB        seconds per step\n{'':10}{'steps/s':>8}{'tokens/s':>10}{'tokens/compl.':>14}{'others':>8}"
              f"{'peak':>7}{'growth':>8}" + "".join(f"{phase:>10}" for phase in PHASES))
        for method, m in methods.items():
            print(f"{method:10}{m['steps_per_s']:8.3f}{m['tokens_per_s']:10.1f}"
                  f"{m['tokens_per_step'] / work['B'] / work['G']:14.2f}{m['cores_of_others']:8.2f}"
                  f"{m['peak_bytes'] / 1e6:7.0f}{m['growth_bytes'] / 1e6:8.0f}"
                  + "".join(f"{m['phases'][phase]:10.3f}" for phase in PHASES))
        for method, of in report["ratios"][name].items():
            print(f"speed-up of ours over {method}: {of['seconds_per_step']['median']:.2f}x; {method} takes " + ", ".join(
                f"{of[key]['median']:.2f}x {what} ({of[key]['min']:.2f}-{of[key]['max']:.2f})" for key, what in
                (("seconds_per_step", "the time"), ("peak_bytes", "the peak"), ("growth_bytes", "the growth"))))
    found = report["limits"]
    if found:
        print(f"\nthis machine: {found['peak_flops'] / 1e9:.0f} GFLOP/s, {found['bandwidth'] / 1e9:.1f} GB/s; "
              f"100m gets of them\n{'':10}{'seconds':>9}{'GFLOP/s':>10}{'of peak':>9}{'GB/s':>8}{'of peak':>9}"
              f"{'limited by':>12}"
              f"{'share of that limit':>21}")
        for part, p in found["parts"].items():
            flops, stream = p["flops"] / p["seconds"], p["bytes"] / p["seconds"]
            print(f"{part:10}{p['seconds']:9.3f}{flops / 1e9:10.1f}{flops / found['peak_flops']:9.0%}{stream / 1e9:8.1f}"
                  f"{stream / found['bandwidth']:9.0%}{p['limit']:>12}{p['share_of_limit']:21.0%}")
    for curve, points in report["growth"].items():
        print(f"\n{curve:18}{'parameters':>12}{'G':>5}{'T':>5}{'s/step':>9}{'tokens/s':>10}{'peak MB':>9}{'growth MB':>11}"
              f"{'others':>8}")
        for p in points:
            print(f"{'':18}{p['parameters'] / 1e6:10.1f} M{p['work']['G']:5}{p['work']['T']:5}{p['seconds_per_step']:9.3f}"
                  f"{p['tokens_per_s']:10.1f}{p['peak_bytes'] / 1e6:9.0f}{p['growth_bytes'] / 1e6:11.0f}"
                  f"{p['cores_of_others']:8.2f}")


if __name__ == "__main__":
    cli(main)
