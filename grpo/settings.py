"""Settings: what the command lines of all scripts have in common, and the options of a run of GRPO.

    made = parser(__doc__)                                                    # a mistake is one line, a UserError
    made.add_argument("--steps", type=at_least(1), default=100)               # "--steps: must be a whole number of ..."
    args = check(add_settings(made).parse_args())                             # train_grpo.py, refresh.py

Nothing here imports PyTorch: scripts read their command line before they do, so that --help and mistakes answer at once.
What makes no sense is said here, in one line, before a model is loaded or a file written.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import argparse
import math
import os
import re
from contextlib import suppress
from pathlib import Path

import domains
from model import UserError, check_directory, is_small, read_run

# of each objective: its defaults for --advantage-scale, and for --clip-low and --clip-high (drpo: none, it has --delta)
LOSSES = {"grpo": {"scale": "group", "clip": {"clip_low": 0.2, "clip_high": 0.2}},
          "dapo": {"scale": "group", "clip": {"clip_low": 0.2, "clip_high": 0.28}},
          "dr_grpo": {"scale": "none", "clip": {"clip_low": 0.2, "clip_high": 0.2}},
          "gspo": {"scale": "group", "clip": {"clip_low": 3e-4, "clip_high": 4e-4}},
          "cispo": {"scale": "group", "clip": {"clip_low": 1.0, "clip_high": 4.0}},
          "drpo": {"scale": "group", "clip": {}}}
# What two runs of one recipe have in common, whatever their seeds: report.py refuses to average others. Of the rest,
# domains, steps and what holds a run back stand in the recipe itself, and no number depends on paths and --save-every.
SAME_RECIPE = ("data", "fields", "judge", "prompts_per_step", "group_size", "max_prompt_length", "max_completion_length",
               "temperature", "top_p", "loss", "advantage_scale", "clip_low", "clip_high", "delta", "beta", "mask_truncated",
               "lr", "warmup_steps", "inner_updates", "max_grad_norm")


# ---- any command line --------------------------------------------------------------------------------------------

def parser(doc, **more):
    """An argparse.ArgumentParser with a script's docstring as its --help, whose mistakes are a UserError: one line."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **more)
    made.error = lambda message: refuse((True, re.sub(r"^argument (\S*/)?(\S+):", r"\2:", message)))
    return made


def checked(kind, holds, words):
    """A `type=` of argparse: kind(text), refused in these words unless holds(value)."""
    def read(text):
        with suppress(ValueError):
            if holds(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"must be {words}, not {text}")
    return read


def at_least(least):
    """Whole numbers from `least` on."""
    return checked(int, lambda value: value >= least, f"a whole number, at least {least}")


positive = checked(float, lambda value: 0 < value < math.inf, "above 0")
not_negative = checked(float, lambda value: 0 <= value < math.inf, "0 or more")
share = checked(float, lambda value: 0 < value <= 1, "above 0 and at most 1")


def checkpoint(text):
    """A model's directory that is whole, or a hub name."""
    check_directory(text)
    return text


def labelled(text):
    """LABEL=CHECKPOINT as a pair."""
    label, _, name = text.partition("=")
    if not (label and name):
        raise argparse.ArgumentTypeError(f"write LABEL=CHECKPOINT, not {text}")
    return label, checkpoint(name)


def existing(text):
    """A file that is there."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return text


def new_directory(text):
    """A directory that is there, or can be made."""
    if any(path.is_file() for path in (Path(text), *Path(text).parents)):
        raise argparse.ArgumentTypeError(f"name a directory: {text} is, or lies in, a file")
    return text


def new_file(text):
    """A file that can be written: its directory is there, and no checkpoint, which should hold its own files alone.

    A file that stands there is replaced if a script may have written it: by its ending, so that no text or code is lost.
    """
    if os.path.isfile(text) and not text.endswith((".json", ".jsonl", ".fisher", ".safetensors")):
        raise UserError(f"cannot write {text}: it exists, and no script of ours wrote it by its name; choose another")
    place = os.path.dirname(os.path.realpath(text))
    if not os.path.isdir(place) or os.path.isdir(text):
        raise UserError(f"cannot write {text}: its directory is missing, or it is a directory itself")
    if os.path.isfile(os.path.join(place, "config.json")):
        raise UserError(f"cannot write {text}: {place} is a checkpoint, which should hold its own files alone")
    return text


def refuse(*rules):
    """UserError with the text of the first rule that holds. rules: pairs (does it hold, what is wrong and what to do)."""
    for holds, text in rules:
        if holds:
            raise UserError(text)


def domain_names(text):
    """Domains with commas between them, each a name or a file: a list of names, each once."""
    names = [domains.use(word) for word in text.split(",")]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"a domain is named twice in {text}: {twice[0]}")
    return names


def mixed_in(text):
    """A domain and its share of a batch, DOMAIN:SHARE: a pair (name, float)."""
    name, _, part = text.rpartition(":")
    part = checked(float, lambda value: 0 < value < 1, "DOMAIN:SHARE with a share between 0 and 1, as math:0.25")(part)
    return domains.use(name), part


def add_rows(made, title="rows, sampling and device"):
    """Add --data, --fields, --max-completion-length, --temperature, --judge, --device, of all that samples; the group."""
    group = made.add_argument_group(title)
    group.add_argument("--data", nargs="+", default=[], metavar="DOMAIN=SOURCE", help="real rows for a domain: a .jsonl, "
                       ".json, .parquet or .csv file, a hub name, or `hub` for the paper's set (default: synthetic rows)")
    group.add_argument("--fields", default="", help="field names of --data, as question=NAME,answer=NAME")
    group.add_argument("--max-completion-length", type=at_least(1), default=64, help="tokens, enough for the "
                       "synthetic rows: a real model wants 512 (default 64)")
    group.add_argument("--temperature", type=positive, default=1.0, help="of sampling, and of the loss where there is one "
                       "(default 1)")
    group.add_argument("--judge", help="model that judges cw: a directory or hub name (default: a rubric)", type=checkpoint)
    group.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    return group


def check_rows(args, graded, more=()):
    """UserError for options of `add_rows` that would do nothing. graded: the domains; args.data and more: {domain: source}."""
    real = {domain for data in (args.data, dict(more)) for domain, source in data.items() if source != "synthetic"}
    refuse((args.fields and len(real) != 1, "--fields names fields of --data, of one domain: name its rows, or rename the fields "
            "of others"),
           (args.judge and "cw" not in graded, "--judge is for creative writing: leave it out, or add the domain cw"))


def check_places(writes, reads=()):
    """UserError if something that is to be written is read, is written by another option too, or is where this runs.

    writes: {option: path or None}; reads: paths, hub names or None. What is read must not lie inside of what is written.
    """
    places = {}
    for option, path in writes.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        if not os.path.basename(place) or f"{os.getcwd()}/".startswith(f"{place}/"):
            raise UserError(f"{option} {path} is, or holds, the directory that this runs in: name one below it")
        for name in filter(None, reads):
            if f"{os.path.realpath(name)}/".startswith(f"{place}/") and os.path.exists(name):
                raise UserError(f"{option} {path} is or holds {name}, which this run reads: choose another place")
        if place in places:
            raise UserError(f"{option} and {places[place]} both write {path}: choose another place")
        places[place] = option


# ---- a run of GRPO -------------------------------------------------------------------------------------------------

CLIPS = {side: ", ".join(f"{name} {loss['clip'][side]:g}" for name, loss in LOSSES.items() if loss["clip"])
         for side in ("clip_low", "clip_high")}
# In the order in which a run uses them: option, type (or choices, or None for a switch), default, words for --help.
SETTINGS = {
    "what to train, on what, where to": [
        ("--mix", mixed_in, [], "replay: of every batch this share are prompts of another domain: DOMAIN:SHARE, as math:0.25"),
        ("--schedule", ("mixed", "alternating"), "mixed", "several domains: all in each batch, or whole batches in turn"),
        ("--eval-data", str, [], "held-out rows, likewise (default: new synthetic ones, or a tenth of --data, kept for it)"),
        ("--out", str, None, "directory to write (default checkpoints/DOMAIN, or refreshed-DOMAIN there)"),
        ("--overwrite", None, False, "replace the checkpoint that stands in --out"),
        ("--resume", None, False, "go on where the interrupted run in --out stopped"),
        ("--seed", int, 0, "decides rows, their order and the sampling")],
    "rollout": [
        ("--steps", at_least(1), 100, "rounds of sampling and updating"),
        ("--prompts-per-step", at_least(1), 32, "B"),
        ("--group-size", at_least(2), 8, "G, completions per prompt, at least 2: one alone has nothing to be better than"),
        ("--max-prompt-length", at_least(1), 2048, "tokens; longer is an error"),
        ("--top-p", share, 1.0, "nucleus, renormalised in the loss too; 1 is off")],
    "advantages and loss": [
        ("--loss", tuple(LOSSES), "grpo", "the objective: see grpo/losses.py"),
        ("--advantage-scale", ("group", "batch", "none"), None, "whose rewards' standard deviation divides "
         "advantages (default group; of dr_grpo none)"),
        ("--clip-low", not_negative, None, f"eps_low (default: {CLIPS['clip_low']})"),
        ("--clip-high", not_negative, None, f"eps_high (default: {CLIPS['clip_high']})"),
        ("--delta", positive, None, "of drpo: how far a token's probability may move (default 0.2)"),
        ("--beta", not_negative, 0.0, "weight of the KL(pi || reference), estimated by k3; 0 is none"),
        ("--ref", checkpoint, None, "the reference of --beta (default: the starting model)"),
        ("--teacher", checkpoint, None, "distillation: how probable a token is to this checkpoint, in place of rewards"),
        ("--l2", not_negative, 0.0, "L2-SP: weight of the squared distance to the start"),
        ("--ewc", existing, None, "EWC: stay near the weights in this file, written by rollback.py --save-fisher"),
        ("--ewc-weight", positive, None, "EWC's weight W (needed with --ewc)"),
        ("--guard", labelled, [], "DOMAIN=CKPT: now and then roll the weights that hurt DOMAIN most back to those of CKPT"),
        ("--guard-every", at_least(1), None, "steps between two such rollbacks (default 10)"),
        ("--mask-truncated", None, False, "completions cut off at the length limit count for the baseline alone")],
    "update": [
        ("--lr", positive, None, "peak rate of AdamW (default 5e-5 up to 10 M parameters, 1e-6 above; refresh.py: twice it)"),
        ("--warmup-steps", at_least(0), 5, "linear rise of the rate, then constant"),
        ("--inner-updates", at_least(1), 1, "optimizer steps per rollout"),
        ("--micro-batch-tokens", at_least(1), 16384, "padded tokens per pass; gradients are summed, and do not depend on it"),
        ("--max-grad-norm", positive, 1.0, "gradient clipping"),
        ("--protect", existing, None, "freeze the coordinates in this file, written by rollback.py --out"),
        ("--gradient-checkpointing", None, False, "less memory, a third more compute"),
        ("--offload", None, False, "AdamW's 16 bytes per parameter, and an idle reference, are in main memory (one GPU)")],
    "evaluation and files": [
        ("--eval-domains", str, None, "domains to validate on (default: those trained; in refresh.py all four too)"),
        ("--eval-every", at_least(0), 0, "steps between validations; 0: at both ends only"),
        ("--eval-prompts", at_least(0), 128, "prompts per domain, 0 for no validation"),
        ("--eval-samples", at_least(1), 4, "completions per prompt"),
        ("--save-every", at_least(1), 20, "steps between checkpoints"),
        ("--keep-every", at_least(0), 0, "steps between checkpoints that stay, as OUT/step-00010, for analyze.py; 0: none")]}


def add_settings(made, **defaults):
    """Add SETTINGS to a parser, with some other defaults; returns it. `init` is for the script to add."""
    made.add_argument("--domain", "--domains", required=True, help=", ".join(domains.DOMAINS) + ", a file of your own "
                      "(path/to/sort.py), or several with commas")
    add_rows(made)
    for title, options in SETTINGS.items():
        group = made.add_argument_group(title)
        for option, kind, default, words in options:
            default = defaults.get(option[2:].replace("-", "_"), default)
            how = {"choices": kind} if isinstance(kind, tuple) else {"type": kind} if kind else {"action": "store_true"}
            how |= {"nargs": "+"} if isinstance(default, list) else {}
            shown = kind is not None and default not in (None, "") and not isinstance(default, list)
            group.add_argument(option, default=default, help=words + f" (default {default})" * shown, **how)
    return made


def check(args, out, rates):
    """Refuse settings that contradict each other, before anything is loaded or written: UserError. Returns args, completed.

    out: the default of --out, {} for the domains. rates: those of --lr, for a model of at most 10 M parameters and above.
    Then domains and eval_domains are lists of names, data and eval_data {domain: source}, mix {domain: prompts per step},
    guard {domain: checkpoint}, visits {domain: count}; what was None has its default, which for some the loss decides.
    """
    domains.follow(read_run(args.init))             # the files of domains that it was trained on
    args.domains = domain_names(args.domain)
    args.domain = ",".join(args.domains)            # of a file: its name
    args.out = args.out or out.format("+".join(args.domains))
    args.eval_domains = domain_names(args.eval_domains) if args.eval_domains else args.domains
    B, k = args.prompts_per_step, len(args.domains)
    guards = [(domains.use(name), anchor) for name, anchor in args.guard]
    args.guard, trained = dict(guards), [*args.domains, *(domain for domain, _ in [*args.mix, *guards])]
    args.mix = {domain: round(part * B) for domain, part in args.mix}                              # prompts per step
    own, processes = B - sum(args.mix.values()), int(os.environ.get("WORLD_SIZE", 1))
    args.visits = {domain: visits(args.init, domain) for domain in trained}
    args.data = domains.sources(args.data or ["synthetic"], trained)
    args.eval_data = domains.sources(args.eval_data, args.eval_domains)
    without = ", ".join(domain for domain in trained if domain not in args.data)
    refuse((len(set(trained)) < len(trained), "a domain is named twice, by --domain, --mix or --guard"),
           (own < (k if args.schedule == "mixed" else 1) or not all(args.mix.values()), "a domain is left without prompts: "
            f"--prompts-per-step must be at least {k + B - own}, and a share of --mix a prompt or more"),
           (args.mix and args.schedule == "alternating" and k > 1, "--mix puts other prompts into each batch, --schedule "
            "alternating wants whole batches: choose one"),
           (without, f"--data names no rows of {without}: write DOMAIN=SOURCE for each"),
           (args.schedule == "alternating" and args.steps < k, f"--steps must be at least {k}: one step for each domain"),
           (B < processes, f"--prompts-per-step must be at least {processes}, a prompt for each process of torchrun"),
           (not LOSSES[args.loss]["clip"] and (args.clip_low, args.clip_high) != (None, None),
            f"--clip-low and --clip-high: --loss {args.loss} clips nothing, it has --delta"),
           (args.loss != "drpo" and args.delta, f"--delta belongs to --loss drpo; {args.loss} has --clip-low, --clip-high"),
           (args.teacher and (args.beta or args.ref or args.advantage_scale), "--teacher takes the place of rewards and of a "
            "reference: leave --beta, --ref and --advantage-scale out"),
           (args.guard_every and not args.guard, "--guard-every says how often --guard acts: name what to guard"),
           (args.guard and processes > 1, "--guard is for one process: leave torchrun out"),
           (args.ref and not args.beta, "--ref names the reference of the KL: give the KL a weight with --beta"),
           ((args.ewc is None) != (args.ewc_weight is None), "--ewc and --ewc-weight belong together: a file of rollback.py "
            "--save-fisher, and how much it counts"),
           (args.overwrite and args.resume, "--overwrite starts anew and --resume goes on: choose one"),
           (args.offload and (processes > 1 or args.device == "cpu"), "--offload is for one GPU: on a CPU all is in main "
            "memory, and several processes share it out already"))
    check_rows(args, [*trained, *args.eval_domains], args.eval_data)
    check_places({"--out": args.out}, [args.init, args.ref, args.teacher, args.ewc, args.protect, args.judge,
                                       *args.guard.values(), *args.data.values(), *args.eval_data.values()])
    defaults = {"clip_low": 0.0, "clip_high": 0.0, **LOSSES[args.loss]["clip"], "delta": 0.2, "ewc_weight": 0.0,
                "advantage_scale": LOSSES[args.loss]["scale"], "guard_every": 10 * bool(args.guard),
                "lr": rates[not is_small(args.init)]}
    vars(args).update({name: value for name, value in defaults.items() if getattr(args, name) is None})
    return args


def visits(init, domain):
    """How many stages of a checkpoint's recipe have seen rows of a domain: trained on, replayed, or merged in.

    init: its directory; 0 for a model from elsewhere. Replayed is math in 'qa:mix-8-math 100'.
    """
    return sum(domain in re.findall(r"[a-z][a-z0-9_]*", text) for text in read_run(init).get("recipe", [])[1:])


def stage_name(args, protected):
    """What a recipe (lineage.stage) calls this training: 'math', 'math+qa', or with what held it 'qa:ewc-9:mix-8-math'.

    args: after `check`. protected: the set of coordinates left alone, as run.load names it, or "".
    """
    held = [f"{name}-{value:g}" for name, value in (("kl", args.beta), ("l2", args.l2), ("ewc", args.ewc_weight),
                                                    ("guard", args.guard_every)) if value]
    held += ["ref"] * (args.ref is not None) + ["distill"] * (args.teacher is not None)
    how = [protected, *held, *(f"mix-{n}-{domain}" for domain, n in args.mix.items()), args.loss * (args.loss != "grpo")]
    return ":".join([("+" if args.schedule == "mixed" else "/").join(args.domains), *filter(None, how)])

