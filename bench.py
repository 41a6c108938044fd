"""Benchmark: the same GRPO step by this repository, by TRL and by a plain generate loop; and how far each is from the metal.

    python bench.py --json bench.json              # some 10 minutes on 2 CPU cores; every repeat of everything, as JSON
    python bench.py --work math --repeats 5        # one kind of work alone
    python bench.py --gpu --json gpu.json          # minutes on one GPU: a step of the shape of Qwen3-0.6B, decoding, memory

    ours       train_grpo.train_step, as `python train_grpo.py` runs it
    generate   the same, sampled by transformers' generate and scored by all logits of whole sequences, in one pass
    trl        trl.GRPOTrainer, on transformers' generate, without vLLM (left out, with a line, where it is not installed)

on three kinds of work: `math`, that of the default run, and `cw`, longer prompts and completions, both with the embedded
checkpoints/base; `100m`, random weights in the shape of SmolLM2-135M, whose completions practically all have full length.
Then what busy neighbours cost a step, how time and memory grow, and what 100m gets of the machine (reports/roofline.py).

Fair: same prompts in the same order, same token ids (checked), group size, completion length, reward (a hash, because ours
skips groups of equal rewards), AdamW, learning rate, clipping, precision (fp32 on a CPU, bf16 compute with fp32 weights on a
GPU), threads (model.use_threads). Samples differ by method and with them the tokens of the base: see tokens/completion.
Every measurement is a fresh process, with warm-up steps that do not count; methods take turns, so that a slow minute of
the machine hits all. "x ours" is a median over neighbouring runs, the smallest and largest in brackets. "peak" is the
process's, libraries included; "growth" is how much the steps add to it. On a CPU what is compared are CPU seconds, of all
threads of the process, because other jobs hardly spoil them; on a GPU seconds.

Will a model fit? The peak of a training step is predicted from the model's shape (reports/memory.py):

    python bench.py --memory Qwen3-0.6B Qwen3-1.7B Qwen3-4B          # 2k + 8k tokens on a GPU of 80 GB: which flags fit?
    python bench.py --memory checkpoints/math --prompt 256 --completion 1024 --group-size 16
    python bench.py --memory checkpoints/base --prompt 64 --completion 64 --measure      # and what an update takes here
"""
import argparse
import json

from grpo.settings import at_least, checkpoint, new_file, parser, positive, refuse
from model import BASE, UserError, cli

# A work: B prompts x G completions of at most T tokens per step (warmup_T while warming up), beside so many busy neighbours.
WORK = {"math": {"model": BASE, "domain": "math", "B": 32, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "cw": {"model": BASE, "domain": "cw", "B": 16, "G": 8, "T": 64, "warmup": 3, "steps": 10, "warmup_T": 64},
        "100m": {"model": "100m", "domain": "cw", "B": 1, "G": 8, "T": 48, "warmup": 1, "steps": 1, "warmup_T": 8}}
ON_GPU = {"100m": {"B": 16, "steps": 5, "warmup": 2, "warmup_T": 48}}                   # enough for a GPU to have work
ONE_GPU = {"cuda": {"model": "Qwen3-0.6B", "B": 32, "T": 256, "steps": 3}, "cpu": {"model": "3m", "B": 4, "T": 8}}    # --gpu
CHECKS = ("sampl", "logp", "distribution", "precision", "bf16")      # words in the names of the tests that --gpu runs
LEARNING_RATE = 1e-6    # too low to change how long completions are within a run
GROWTH = ({"G": 4}, {}, {"G": 16}, {"T": 24}, {"T": 96}, {"model": "50m"})       # else the work of 100m, with the model 14m


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
    refuse((args.memory and (args.json or args.gpu or args.work != list(WORK)),
            "--memory predicts, and prints its table: leave --json, --gpu and --work out"),
           (args.measure and len(args.memory) != 1,
            "--measure takes one model of --memory: a process's peak is that of the largest it has held"),
           (args.gradient_checkpointing and not args.measure,
            "--gradient-checkpointing is for --measure: without it the table has both"))
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

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
from functools import partial
from importlib.metadata import distributions
from types import SimpleNamespace

import torch
from torch.nn.functional import pad
from tqdm import tqdm

import domains
import train_grpo
from grpo import captured, fast
from grpo.policy import Policy
from grpo.rollout import encode, left_padded, plain_logps, uniform_noise
from grpo.warmup import byte_tokenizer
from model import load, write_json
from reports.memory import GB, RANDOM, build, configuration, held, predict_update, print_fits, print_measured, proc
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


def rows_of(work):
    """{domain: None}, new synthetic rows, for a checkpoint; for random weights cw with prompts of 80 to 120 tokens."""
    if work["model"] not in RANDOM:
        return {work["domain"]: None}
    rng, nouns, n = random.Random(0), domains.get("cw").NOUNS, work["B"] * (work["warmup"] + work["steps"])
    return {"cw": [{"prompt": "Tell of: " + " ".join(rng.choices(nouns, k=rng.randint(14, 20)))} for _ in range(n)]}


def texts_of(args, rows, step=0):
    """The prompts of a step, as every method reads them: B strings."""
    return [domains.prompt(*pair) for pair in train_grpo.rows_for_step(args, rows, step)]


def model_of(name, device):
    """A model in fp32 and its tokenizer: random weights in one of RANDOM, or the checkpoint that is called so."""
    if name not in RANDOM:
        return load(name, device, torch.float32)
    torch.manual_seed(0)
    return build(configuration(name), torch.float32, device).eval(), byte_tokenizer()     # the base's: other ids are no text


# ---- the three methods --------------------------------------------------------------------------------------------
# Each takes the steps of args (`settings`) on rows, {domain: rows}, and after every step calls done(completion tokens of the
# step, share of groups whose rewards are all equal, log line of ours), which lengthens the completions after the warm-up.

def ours(args, model, tokenizer, rows, done, way=None):
    """train_grpo.train_step. way: how to sample and to score, all in one pass, in place of the way that suits the model."""
    domains.reward = lambda domain, completions, *_, **__: reward(completions)
    policy = Policy(model)
    if way:
        model.way, args.micro_batch_tokens = way, 10**9
    for step in range(args.steps):
        line, rollout, _, _ = train_grpo.train_step(args, policy, None, tokenizer, rows, step)
        done(int(rollout.mask.sum()), line["zero_variance_groups"], line)


def generated(model, prompts, noise, *, group_size, stop_ids, pad_id, **others):
    """A way to sample, by transformers alone: ids, mask, zeros for logps and entropy, stopped; see rollout.plain_sample."""
    model.set_attn_implementation("sdpa")           # `ours` has another
    prompt, attended = (x.repeat_interleave(group_size, 0) for x in left_padded(prompts, pad_id, model.device))
    (N, T), P = noise.shape, prompt.shape[1]
    ids = model.generate(input_ids=prompt, attention_mask=attended.long(), do_sample=True, temperature=1.0, top_p=1.0,
                         top_k=0, max_new_tokens=T, eos_token_id=stop_ids, pad_token_id=pad_id)[:, P:]    # (N, up to T)
    ends = torch.isin(ids, torch.tensor(stop_ids, device=model.device)).long()
    mask = ends.cumsum(1) - ends == 0                                   # up to the first end token, that included
    ids, mask, zeros = (pad(x, (0, T - x.shape[1])) for x in (ids, mask, torch.zeros(N, 0, device=model.device)))
    return ids, mask, zeros, zeros, ends.any(1)


GENERATE = SimpleNamespace(sample=generated, logps=plain_logps, capacity=lambda model, tokens: 10**9)


def trl_trainer(args, model, tokenizer, rows, done):
    """trl.GRPOTrainer with the settings that make it fastest. UserError if it reads other token ids than ours."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    N, gpu = args.prompts_per_step * args.group_size, model.device.type == "cuda"
    texts = [text for step in range(args.steps) for text in texts_of(args, rows, step)]
    with tempfile.TemporaryDirectory() as out:
        # All completions in one generate call, one pass and one optimizer step: the fastest that TRL has, because the
        # samples' own log-probabilities then serve as the old ones (no second pass). Its fused output head works in chunks,
        # so this wastes no memory either. Gradient checkpointing, on by default, is slower; ours keeps activations too.
        config = GRPOConfig(
            out, max_steps=args.steps, num_generations=args.group_size, max_completion_length=args.max_completion_length,
            per_device_train_batch_size=N, gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
            shuffle_dataset=False, beta=0.0, loss_type="grpo", scale_rewards="group", epsilon=0.2, temperature=1.0,
            top_p=1.0, top_k=0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", warmup_steps=0,
            optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.0, max_grad_norm=1.0,
            gradient_checkpointing=False, bf16=gpu, use_cpu=not gpu, use_vllm=False, report_to="none", logging_strategy="no",
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=gpu, log_level="error")

        prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])
        score = lambda completions, **_: reward([messages[0]["content"] for messages in completions])
        trainer = GRPOTrainer(model, score, config, prompts, processing_class=tokenizer)

        class Steps(TrainerCallback):
            def on_step_end(self, *_, **__):
                metrics = trainer._metrics["train"]
                done(round(metrics["completions/mean_length"][-1] * N), metrics["frac_reward_zero_std"][-1])
                trainer.generation_config.max_new_tokens = args.max_completion_length
        trainer.add_callback(Steps())
        if trainer._tokenize_prompts(list(trainer.train_dataset["prompt"]))[0] != encode(tokenizer, texts, 2048):
            raise UserError("TRL's model reads other token ids than ours: the comparison would not be fair")
        trainer.train()


WAYS = {"eager": fast, "captured": captured, "model.generate": GENERATE}         # to sample
METHODS = {"ours": ours, "trl": trl_trainer, "generate": partial(ours, way=GENERATE)}
CLOCKS = {"cpu_seconds": time.process_time, "seconds": time.perf_counter}        # the first: of all threads of this process


# ---- one process -------------------------------------------------------------------------------------------------

def worker(task, work, device):
    """Measure a method in a process of its own (`fresh`): seconds and tokens of the timed steps, memory in bytes.

    task: of METHODS; or of WAYS, whose result is that of `decoding`, or "limits", that of roofline.limits. work: an entry of
    WORK. UserError if a group had equal rewards.
    """
    if task == "trl":                               # before the memory is read: an import is no growth of the steps
        from trl import GRPOTrainer  # noqa: F401
    args, rows, (model, tokenizer), steps = settings(work), rows_of(work), model_of(work["model"], device), work["steps"]
    if task not in METHODS:
        prompts = encode(tokenizer, texts_of(args, rows), 2048)
        return (limits(model, tokenizer, prompts, work["G"], work["T"]) if task == "limits" else
                decoding(WAYS[task].sample, model, prompts, work["G"], work["T"]))
    sum(p.sum().item() for p in model.parameters())            # a loaded file is read into memory when it is first used
    loaded, marks = held(device)[0], []             # marks, of each step: its tokens, its end by each clock, its log line

    def done(tokens, zero_variance, line=None):
        if zero_variance:
            raise UserError(f"{task}: a group of equal rewards, which ours skips: the work would not be the same")
        synchronize()
        marks.append((tokens, {clock: read() for clock, read in CLOCKS.items()}, line))
        if len(marks) == work["warmup"]:
            args.max_completion_length = work["T"]
    METHODS[task](args, model, tokenizer, rows, done)
    tokens, ends, lines = zip(*marks)
    peak = held(device)[1]
    return {**{f"{clock}_per_step": (ends[-1][clock] - ends[-steps - 1][clock]) / steps for clock in CLOCKS},
            "tokens_per_step": sum(tokens[-steps:]) / steps, "peak_bytes": peak, "loaded_bytes": loaded,
            "growth_bytes": peak - loaded, "parameters": model.num_parameters(), "threads": torch.get_num_threads(),
            "lines": lines[-steps:]}


def decoding(sample, model, prompts, G, T):
    """Milliseconds per token from T / 2 to T, decoded for all rows at once by a way to sample: {"n rows": ms}.

    prompts: B lists of ids, of which 1, B / 4 and B are taken, G times each. On a GPU in bf16.
    """
    Policy(model)                                   # from here on the model computes as in training
    found = {}
    for some in (prompts[:1], prompts[:len(prompts) // 4], prompts):
        noise = uniform_noise(len(some) * G, T, 0)
        roll = lambda tokens: sample(model, some, noise[:, :tokens], group_size=G, stop_ids=[-1], pad_id=0)
        _, short, long = (best(lambda: roll(tokens), 1) for tokens in (T // 8, T // 2, T))       # the first warms up
        found[f"{len(some) * G} rows"] = 1000 * (long - short) / (T - T // 2)
    return found


# ---- the whole benchmark -----------------------------------------------------------------------------------------

def fresh(task, work, device):
    """What `worker` returns, run in a process of its own, beside so many others that are busy all the time."""
    # This process stays small, because a process's peak counts what it was forked from.
    job = json.dumps({"task": task, "work": work, "device": device})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(work.get("neighbours", 0))]
    try:
        done = subprocess.run([sys.executable, __file__, "--worker", job], capture_output=True, text=True, env={
            "CUDA_VISIBLE_DEVICES": "0", **os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if done.returncode:
        raise UserError(f"{task} with {work['model']} failed (exit {done.returncode}): {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratio(theirs, own, key):
    """How many times as much of `key` theirs takes as ours, over the repeats in pairs. theirs, own: dicts of `worker`."""
    each = [a[key] / b[key] for a, b in zip(theirs, own)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(runs, clock):
    """Medians over the repeats (dicts of `worker`) of one method, a dict, with tokens per second of a clock."""
    runs = [{**run, "tokens_per_s": run["tokens_per_step"] / run[f"{clock}_per_step"]} for run in runs]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "lines"}


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
    """Run all measurements, print them as tables; returns the report, a dict as --json writes it."""
    about, clock = environment(device), "seconds" if device == "cuda" else "cpu_seconds"
    if not about["trl"]:
        print("trl is not installed here, so it is left out (pip install trl)")
    methods, works, jobs = [method for method in METHODS if method != "trl" or about["trl"]], {}, []
    for name in dict.fromkeys(args.work):
        works[name] = WORK[name] | (ON_GPU.get(name, {}) if device == "cuda" else {})
        turn = [(name, method) for method in methods]
        if name == "math":
            works["math, busy"] = works["math"] | {"neighbours": about["cores"]}
            turn = [("math, busy", "ours"), *turn]
        jobs += turn * args.repeats
    for change in GROWTH if "100m" in works else ():
        works[f"growth {len(works)}"] = works["100m"] | {"model": "14m"} | change
        jobs.append(([*works][-1], "ours"))
    runs = {name: {} for name in works}
    for name, method in tqdm(jobs, "bench", unit="process"):
        runs[name].setdefault(method, []).append(fresh(method, works[name], device))

    time, peak = f"{clock}_per_step", "peak_bytes"
    ratios = {name: {method: {key: ratio(some, of["ours"], key) for key in (time, peak)} for method, some in of.items()
                     if method != "ours"} for name, of in runs.items()}
    short = lambda method, key: {name: of[method][key]["median"] for name, of in ratios.items() if method in of}
    report = {"environment": about, "clock": clock,         # by which ratios and tokens/s are
              "settings": {"learning_rate": LEARNING_RATE, "repeats": args.repeats, "work": works}, "runs": runs,
              "median": {name: {method: summary(some, clock) for method, some in of.items()} for name, of in runs.items()},
              "ratios": ratios, "speedup_vs_trl": short("trl", time),                 # above 1: theirs takes more
              "memory_vs_trl": short("trl", peak), "speedup_vs_generate": short("generate", time),
              "beside_busy_neighbours": ratio(runs["math, busy"]["ours"], runs["math"]["ours"], "seconds_per_step")
              if "math" in works else None,
              "limits": fresh("limits", works["100m"], device) if "100m" in works else None}
    print_report(report)
    return report


def print_report(report):
    """The report of `benchmark` as tables."""
    clock, works, said = report["clock"].replace("_", " "), report["settings"]["work"], []
    pair = lambda r: f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
    for name, of in report["median"].items():
        for method, m in of.items():
            work, ratios = works[name], report["ratios"][name].get(method, {})
            said.append([name, method, f"{m['parameters'] / 1e6:.1f} M", f"{work['B']} x {work['G']} x {work['T']}",
                         f"{m['threads']}", *(f"{m[f'{clock}_per_step']:.3f}" for clock in CLOCKS), f"{m['tokens_per_s']:.1f}",
                         f"{m['tokens_per_step'] / work['B'] / work['G']:.2f}", f"{m['peak_bytes'] / 1e6:.0f}",
                         f"{m['growth_bytes'] / 1e6:.0f}", *(map(pair, ratios.values()) if ratios else "--")])
    print(f"\nmedians of {report['settings']['repeats']} runs, of growth 1")
    show(said, ["work", "method", "parameters", "B x G x T", "threads", "CPU s/step", "s/step", f"tokens per {clock[:-1]}",
                "tokens/completion", "peak MB", "growth MB", f"{clock}, x ours", "peak, x ours"])
    if beside := report["beside_busy_neighbours"]:
        print(f"beside a busy process per core a step of math takes {pair(beside)} times as long\n")
    if found := report["limits"]:
        print(f"this machine: {found['peak_flops'] / 1e9:.0f} GFLOP/s, {found['bandwidth'] / 1e9:.1f} GB/s; 100m gets of them")
        rate = lambda part, amount: f"{part[amount] / part['seconds'] / 1e9:.1f}"
        show([[name, f"{part['seconds']:.3f}", rate(part, "flops"), rate(part, "bytes"), part["limit"],
               f"{part['share_of_limit']:.0%}"] for name, part in found["parts"].items()],
             ["phase", "seconds", "GFLOP/s", "GB/s", "limited by", "share of that limit"])


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
        seconds, mean = found["seconds_per_step"], lambda key: statistics.mean(line[key] for line in found["lines"])
        return {"seconds": seconds, "tokens/s": found["tokens_per_step"] / seconds,
                **{phase: mean(f"seconds_{phase}") for phase in ("rollout", "reward", "update")},
                "sampler_gap": max(line["sampler_gap"] for line in found["lines"]), "peak GB": found["peak_bytes"] / GB}

    def predicted():                                # of the micro-batches that this step has
        args, T = settings(work), work["T"]
        P = max(map(len, encode(byte_tokenizer(), texts_of(args, rows_of(work)), 2048)))
        rows = min(work["B"] * work["G"], args.micro_batch_tokens // (P + T))
        return predict_update(work["model"], device, P, T, rows=rows)

    def tests():
        lines = subprocess.run([sys.executable, "test_all.py", *CHECKS], cwd=os.path.dirname(os.path.abspath(__file__)),
                               capture_output=True, text=True, timeout=180).stdout.splitlines()
        return "; ".join([line for line in lines if "FAILED" in line] + lines[-1:])
    parts = {"step": step, **{f"ms per token, {way}": partial(fresh, way, work, device) for way in WAYS},
             "predicted GB": predicted, **({"tests": tests} if device == "cuda" else {})}
    for name, part in parts.items():
        try:
            report[name] = part()
        except Exception as error:                  # a device, and transformers, raise types of their own
            report[name] = f"failed, {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"\n{name}:", report[name] if isinstance(report[name], str) else "".join(
            f"\n  {key:24}{value:10.4g}" for key, value in report[name].items()))
    return report


def main(args=None):
    """Measure, print the tables and write --json; with --worker, be one of the processes that are measured."""
    args = args or parse()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    refuse((device == "cuda" and not torch.cuda.is_available(), "--device cuda: torch sees no GPU here"),
           (args.gpu and not (args.device or device == "cuda"),
            "--gpu: torch sees no GPU here; --device cpu rehearses it with a small model"))
    if args.worker:
        print(json.dumps(worker(**args.worker)))
    elif args.measure:
        print_measured(args.memory[0], device, args.prompt, args.completion, args.gradient_checkpointing)
    elif args.memory:
        print_fits(args.memory, args.prompt, args.completion, args.group_size, args.gpu_memory)
    else:
        report = on_gpu(device) if args.gpu else benchmark(args, device)
        if args.json:
            write_json(args.json, report)


if __name__ == "__main__":
    cli(lambda: main(ARGS))
