"""Settings of a run of GRPO: the options that train_grpo.py and refresh.py share, and what is refused before it starts.

    args = check(add_settings(parser).parse_args())

In the order in which a run uses them. What makes no sense is said here, in one line, before a model is loaded or a
file written.
"""
import argparse
import math
import os
import re

import torch

import domains
from grpo.losses import LOSSES
from model import UserError, check_directory, read_run
from grpo.rollout import encode
from domains.rows import sources

# What two runs of one recipe have in common, whatever their seeds: interference.py refuses to average others. Of the rest,
# domains, steps and what holds a run back stand in the recipe itself, and no number depends on paths and --save-every.
SAME_RECIPE = ("data", "fields", "judge", "prompts_per_step", "group_size", "max_prompt_length", "max_completion_length",
               "temperature", "top_p", "loss", "advantage_scale", "clip_low", "clip_high", "delta", "beta", "mask_truncated",
               "lr", "warmup_steps", "inner_updates", "max_grad_norm")


def add_settings(parser):
    """The settings of a run, in the order in which it uses them; refresh.py has the same. Returns the parser.

    `init` and, where lr is None, `default_lr` [of small, of large models] are for the script to add.
    """
    group = parser.add_argument_group("what to train, on what, where to")
    group.add_argument("--domain", "--domains", required=True,
                       help=", ".join(domains.DOMAINS) + ", or several with commas")
    group.add_argument("--mix", nargs="+", default=[], metavar="DOMAIN:SHARE",
                       help="replay: of every batch this share are prompts of another domain, as math:0.25")
    group.add_argument("--schedule", choices=["mixed", "alternating"], default="mixed", help="several domains: a share of "
                       "each batch for each, or whole batches of one domain in turn (default %(default)s)")
    group.add_argument("--data", nargs="+", default=["synthetic"], metavar="SOURCE",
                       help="`synthetic` (default), `hub` (the paper's set), a hub name, or a "
                            ".jsonl/.json/.parquet/.csv file; DOMAIN=SOURCE for several domains")
    group.add_argument("--fields", default="", help="field names of --data where they are not recognised: "
                       "question=NAME,answer=NAME")
    group.add_argument("--eval-data", nargs="+", default=[], metavar="SOURCE", help="held-out rows from here, likewise; "
                       "default: new synthetic rows, or the tenth of --data that is kept for validation")
    group.add_argument("--judge", default=None, help="model that judges cw: directory or hub name (default: a rubric)")
    group.add_argument("--out", default=None, help="directory to write (default checkpoints/DOMAIN, or "
                       "refreshed-DOMAIN there)")
    group.add_argument("--overwrite", action="store_true", help="replace the checkpoint that stands in --out")
    group.add_argument("--resume", action="store_true", help="go on where the interrupted run in --out stopped")
    group.add_argument("--seed", type=int, default=0, help="decides rows, their order and the sampling (default 0)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("rollout")
    group.add_argument("--steps", type=int, default=100, help="rounds of sampling and updating (default %(default)s)")
    group.add_argument("--prompts-per-step", type=int, default=32, help="B (default %(default)s)")
    group.add_argument("--group-size", type=int, default=8, help="G, completions per prompt, at least 2 (default 8)")
    group.add_argument("--max-prompt-length", type=int, default=2048, help="tokens; longer is an error (default 2048)")
    group.add_argument("--max-completion-length", type=int, default=64, help="tokens (default 64, enough for the synthetic "
                       "rows; a real model wants 512 and more)")
    group.add_argument("--temperature", type=float, default=1.0, help="of sampling and of the loss alike (default 1.0)")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus, renormalised in the loss too (default 1: off)")
    group = parser.add_argument_group("advantages and loss")
    bounds = lambda side: ", ".join(f"{name} {loss['clip'][side]:g}" for name, loss in LOSSES.items() if loss["clip"])
    group.add_argument("--loss", choices=LOSSES, default="grpo", help="the objective: see losses.py (default %(default)s)")
    group.add_argument("--advantage-scale", choices=["group", "batch", "none"], default=None,
                       help="divide advantages by the standard deviation of the group's rewards (default, but for "
                            "dr_grpo), of the batch's, or not at all (dr_grpo)")
    group.add_argument("--clip-low", type=float, default=None, help=f"eps_low (default: {bounds('clip_low')})")
    group.add_argument("--clip-high", type=float, default=None, help=f"eps_high (default: {bounds('clip_high')})")
    group.add_argument("--delta", type=float, default=None, help="of drpo: how far a token's probability may move "
                       "(default 0.2)")
    group.add_argument("--beta", type=float, default=0.0, help="weight of the KL(pi || reference), estimated by k3 "
                       "(default 0: none)")
    group.add_argument("--ref", default=None, metavar="CKPT", help="the reference of --beta (default: the starting model)")
    group.add_argument("--l2", type=float, default=0.0, help="L2-SP: weight of the squared distance to the start "
                       "(default 0)")
    group.add_argument("--ewc", metavar="FILE", default=None, help="EWC: stay near the weights in this file of rollback.py "
                       "--save-fisher")
    group.add_argument("--ewc-weight", type=float, default=None, help="EWC's weight W (needed with --ewc)")
    group.add_argument("--mask-truncated", action="store_true",
                       help="completions cut off at the length limit count for the baseline and not for the loss")
    group = parser.add_argument_group("update")
    group.add_argument("--lr", type=float, default=None, help="peak learning rate of AdamW (default 5e-5 for models "
                       "below 10 M parameters, 1e-6 above; twice that in refresh.py)")
    group.add_argument("--warmup-steps", type=int, default=5, help="linear rise of the rate, then constant "
                       "(default %(default)s)")
    group.add_argument("--inner-updates", type=int, default=1, help="optimizer steps per rollout (default 1)")
    group.add_argument("--micro-batch-tokens", type=int, default=16384,
                       help="padded tokens per forward pass; gradients are accumulated over as many passes as that "
                            "takes, and do not depend on it (default 16384)")
    group.add_argument("--max-grad-norm", type=float, default=1.0, help="gradient clipping (default 1.0)")
    group.add_argument("--protect", metavar="COORDINATES", default=None,
                       help="freeze the coordinates in this file, written by rollback.py --out")
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more compute")
    group.add_argument("--offload", action="store_true", help="keep AdamW's 16 bytes per parameter, and the reference "
                       "while it waits, in main memory (one GPU)")
    group = parser.add_argument_group("evaluation and files")
    group.add_argument("--eval-domains", default=None, help="domains to validate on (default: "
                       "those trained; in refresh.py all four)")
    group.add_argument("--eval-every", type=int, default=0, help="steps between validations (default 0: at both ends only)")
    group.add_argument("--eval-prompts", type=int, default=128, help="prompts per domain, 0 for no validation (default 128)")
    group.add_argument("--eval-samples", type=int, default=4, help="completions per prompt (default 4)")
    group.add_argument("--save-every", type=int, default=20, help="steps between checkpoints (default 20)")
    group.add_argument("--keep-every", type=int, default=0, help="steps between checkpoints that stay, in OUT/step-00010 "
                       "and so on: the path of the weights, for analyze.py (default 0: none)")
    return parser


def check(args):
    """Refuse settings that make no sense, before anything is loaded or written: UserError. Returns args, completed.

    Then domains and eval_domains are lists, data and eval_data {domain: source}, mix {domain: prompts per step}, and
    visits {domain: count, see `visits`}; where it was None, what the loss decides (clip_low...) has its default.
    """
    args.domains = args.domain.split(",")
    args.eval_domains = args.eval_domains.split(",") if args.eval_domains else args.domains
    replayed = shares(args.mix)
    for domain in [*args.domains, *replayed, *args.eval_domains]:
        domains.check_domain(domain)
    for names in ([*args.domains, *replayed], args.eval_domains):
        if len(set(names)) < len(names) or len(replayed) < len(args.mix):
            raise UserError(f"a domain is named twice in {','.join([*names, *args.mix])}")
    args.mix = {domain: round(share * args.prompts_per_step) for domain, share in replayed.items()}  # prompts per step
    if not all(args.mix.values()) or args.prompts_per_step - sum(args.mix.values()) < 1:
        raise UserError(f"--mix leaves a domain without prompts: of --prompts-per-step {args.prompts_per_step} it "
                        f"takes {args.mix}")
    if args.mix and args.schedule == "alternating" and len(args.domains) > 1:
        raise UserError("--mix puts other prompts into each batch, --schedule alternating wants whole batches: choose one")
    args.visits = {domain: visits(args.init, domain) for domain in [*args.domains, *args.mix]}
    args.data = sources(args.data, [*args.domains, *args.mix])
    if args.data.keys() != {*args.domains, *args.mix}:
        raise UserError(f"--data names no rows of {', '.join({*args.domains, *args.mix} - set(args.data))}: write "
                        "DOMAIN=SOURCE for each")
    args.eval_data = sources(args.eval_data, args.eval_domains)
    if args.fields and len(args.data) > 1:
        raise UserError("--fields names the fields of one domain's rows: train one domain, or rename the fields")
    if args.schedule == "alternating" and args.steps < len(args.domains):
        raise UserError(f"--steps must be at least {len(args.domains)}: one step for each domain")
    if args.schedule == "mixed" and args.prompts_per_step - sum(args.mix.values()) < len(args.domains):
        raise UserError(f"--prompts-per-step must be at least {len(args.domains) + sum(args.mix.values())}: one prompt "
                        "of each domain")
    if args.group_size < 2:
        raise UserError("--group-size must be at least 2: a completion alone has nothing to be better than")
    for name in ("steps", "prompts_per_step", "max_prompt_length", "max_completion_length", "inner_updates",
                 "micro_batch_tokens", "eval_samples", "save_every"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    if args.loss == "drpo" and (args.clip_low, args.clip_high) != (None, None):
        raise UserError("--clip-low and --clip-high: --loss drpo clips nothing, it has --delta")
    if args.loss != "drpo" and args.delta is not None:
        raise UserError(f"--delta belongs to --loss drpo; {args.loss} has --clip-low and --clip-high")
    if args.ref and not args.beta > 0:
        raise UserError("--ref names the reference of the KL: give the KL a weight with --beta")
    if (args.ewc is None) != (args.ewc_weight is None):
        raise UserError("--ewc and --ewc-weight belong together: a file of rollback.py --save-fisher, and how much it "
                        "counts")
    own = LOSSES[args.loss]
    args.advantage_scale = args.advantage_scale or own["scale"]
    for name, value in {"clip_low": 0.0, "clip_high": 0.0, **own["clip"], "delta": 0.2, "ewc_weight": 0.0}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("beta", "l2", "ewc_weight", "warmup_steps", "eval_every", "eval_prompts", "keep_every", "clip_low",
                 "clip_high"):
        if not 0 <= getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(args, name)}")
    for name in ("temperature", "max_grad_norm", "lr", "delta", *(["ewc_weight"] if args.ewc else [])):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p must lie in (0, 1], not {args.top_p}")
    if args.overwrite and args.resume:
        raise UserError("--overwrite starts anew and --resume goes on: choose one")
    processes = int(os.environ.get("WORLD_SIZE", 1))  # torchrun's
    if args.prompts_per_step < processes:
        raise UserError(f"--prompts-per-step must be at least {processes}, a prompt for each process of torchrun")
    if args.offload and (processes > 1 or args.device == "cpu" or not torch.cuda.is_available()):
        raise UserError("--offload is for one GPU: on a CPU all is in main memory, and several processes share it out "
                        "already")
    for flag, file in (("--ewc", args.ewc), ("--protect", args.protect)):
        if file and not os.path.isfile(file):
            raise UserError(f"{flag} {file}: there is no such file; rollback.py writes one")
    for name in filter(None, (args.ref, args.judge)):
        check_directory(name)
    check_place(args.out, [args.init, args.ref, args.ewc, args.protect, args.judge, *args.data.values(), *args.eval_data.values()])
    return args


def check_place(out, inputs):
    """UserError if --out is no place to write to, or if replacing it would delete one of the inputs (paths, names or None)."""
    place = os.path.realpath(out)
    if not os.path.basename(place) or f"{os.getcwd()}/".startswith(f"{place}/"):
        raise UserError(f"--out {out} is, or holds, the directory that this runs in: name one below it")
    for name in filter(None, inputs):
        if f"{os.path.realpath(name)}/".startswith(f"{place}/") and os.path.exists(name):
            raise UserError(f"--out {out} is or holds {name}, which this run reads: choose another directory")
    try:
        out.encode()
    except UnicodeEncodeError as error:
        raise UserError("--out is no valid UTF-8: choose another name") from error


def visits(init, domain):
    """How many stages of a checkpoint's recipe have seen rows of a domain: trained on, replayed, or merged in.

    init: its directory; 0 for a model from elsewhere. Replayed is math in 'qa:mix-8-math 100'.
    """
    return sum(domain in re.findall("[a-z]+", text) for text in read_run(init).get("recipe", [])[1:])


def shares(items):
    """{domain: share of a batch} of --mix's words, DOMAIN:SHARE each; UserError if one is none."""
    found = {}
    for item in items:
        domain, _, share = item.partition(":")
        try:
            found[domain] = float(share)
        except ValueError:
            found[domain] = math.nan
        if not 0 < found[domain] < 1:
            raise UserError(f"--mix {item}: write DOMAIN:SHARE with a share between 0 and 1, as math:0.25")
    return found


def check_prompt_lengths(args, config, tokenizer, rows):
    """Raise UserError now, not in the middle of the run, if a prompt (or a completion) is too long.

    config: the model's, for the length of its context. rows: (domain, row) pairs.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf
    if args.max_completion_length >= context:
        raise UserError(f"--max-completion-length {args.max_completion_length} leaves no room for a prompt in the model's "
                        f"context of {context} tokens")
    overhead = len(encode(tokenizer, [""], 10**9)[0])
    limit = min(args.max_prompt_length, context - args.max_completion_length)
    for domain, row in rows:
        text = domains.prompt(domain, row)
        if len(text.encode("utf-8", "replace")) + overhead > limit:  # a token is a byte or more
            encode(tokenizer, [text], limit)


def measured(init, *argv):
    """The settings of a run that is measured and never saved (bench.py, memory.py): those of argv, else the defaults.

    init: the checkpoint it starts from, or "". argv: words of a command line, numbers too.
    """
    parser = add_settings(argparse.ArgumentParser())
    parser.set_defaults(init=init, out=os.devnull)
    return check(parser.parse_args(["--domain", "cw", "--warmup-steps", "0", *map(str, argv)]))


def stage_name(args, protected):
    """What a recipe (model.stage) calls this training: 'math', 'math+qa', or with what held it 'qa:ewc-9:mix-8-math'.

    args: after `check`. protected: the set of coordinates left alone, as coordinates.protected names it, or "".
    """
    held = [f"{name}-{value:g}" for name, value in (("kl", args.beta), ("l2", args.l2), ("ewc", args.ewc_weight)) if value]
    held += ["ref"] * (args.ref is not None)        # another reference than the start
    how = [protected, *held, *(f"mix-{n}-{domain}" for domain, n in args.mix.items()), args.loss * (args.loss != "grpo")]
    return ":".join([("+" if args.schedule == "mixed" else "/").join(args.domains), *filter(None, how)])
