"""The numbers of sections 1 to 5 of RESULTS.md made anew: the commands, in the order in which they run.

    python reproduce.py                                  # all of it, as many seeds at a time as there are cores
    python reproduce.py --seeds 0 --only story           # one seed of one section; run it again, and it goes on
    python reproduce.py --only story --list              # only print the commands, to run or change by hand
    python report.py results/story-s?.json               # the tables of what is there

A stage is a function from a seed to commands, one a line, which write into checkpoints/; a new one also goes into STAGES.
JSON files are copied to results/, which is in git, without the scores of single prompts. As with make, a command is skipped
if it has ended well and all that it wrote is newer than all that it reads. All runs start from checkpoints/base. Settings
are the defaults of the scripts, or were chosen on the seeds 100 to 103, never on the seeds 0 to 4.
"""
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations, product
from pathlib import Path
from threading import Lock

from grpo.settings import at_least, parser
from model import UserError, cli, write_json

DOMAINS = ("math", "code", "qa", "cw")
PAIRS = [*permutations(DOMAINS, 2)]
SECONDS = "results/seconds.json"        # {command: how many seconds its last run took on one core}
WRITES = ("--out", "--json", "--save-fisher")       # the word behind such an option is a path that the command writes
LOCK = Lock()


def named(seed):
    """What the checkpoints of a seed begin with, and the two commands that all stages share."""
    s = f"checkpoints/s{seed}"
    return s, f"train_grpo.py --seed {seed} --resume", f"refresh.py {s}-code-math-qa-cw --seed {seed} --resume"


def evaluated(stage, seed, names, how=""):
    """The command that scores checkpoints of a seed for the tables. names: their names without checkpoints/s0- and so on."""
    places = " ".join(f"checkpoints/s{seed}-{name}" for name in names)
    return f"evaluate.py {places} {how} --json checkpoints/{stage}-s{seed}.json"


# ---- the stages ----------------------------------------------------------------------------------------------------

def story(seed):
    """Four experts, the sequence Code -> Math -> QA -> cw, Re-Math and its control, and joint training."""
    s, go, re = named(seed)
    return f"""
        {go} --domain code --out {s}-code
        {go} --domain math --out {s}-math
        {go} --domain qa   --out {s}-qa
        {go} --domain cw   --out {s}-cw
        {go} --domain math --init {s}-code         --out {s}-code-math
        {go} --domain qa   --init {s}-code-math    --out {s}-code-math-qa
        {go} --domain cw   --init {s}-code-math-qa --out {s}-code-math-qa-cw
        {re} --domain math       --steps 10 --out {s}-refreshed --keep-every 1
        {re} --domain cw         --steps 10 --out {s}-more-cw
        {re} --domains math,code --steps 20 --out {s}-alternating
        {go} --domain code,math,qa,cw --steps 410 --out {s}-mixed
        evaluate.py checkpoints/base {s}-code {s}-math {s}-qa {s}-cw {s}-code-math {s}-code-math-qa {s}-code-math-qa-cw \
            {s}-refreshed {s}-more-cw {s}-alternating {s}-mixed --json checkpoints/story-s{seed}.json"""


def matrix(seed):
    """The interference matrix: each expert, trained on by each of the other domains."""
    s, go, _ = named(seed)
    return "\n".join([*(f"{go} --domain {b} --init {s}-{a} --out {s}-{a}-{b}" for a, b in PAIRS),
                      evaluated("matrix", seed, [f"{a}-{b}" for a, b in PAIRS])])


def claims(seed):
    """All that analyze.py measures, of the experts, the pairs and the refresh; then damage by learning rate."""
    s, go, _ = named(seed)
    pairs, rates = " ".join(f"{s}-{a}-{b}" for a, b in PAIRS), ("1e-5", "2e-5", "1e-4", "2e-4")
    return "\n".join([
        f"analyze.py --base checkpoints/base {s}-math {s}-code {s}-qa {s}-cw --later {pairs} --refresh {s}-refreshed"
        f" --json checkpoints/analysis-s{seed}.json",
        *(f"{go} --domain qa --init {s}-math --lr {rate} --out {s}-rate-{rate}" for rate in rates),
        f"analyze.py --base checkpoints/base {s}-math --later {' '.join(f'{s}-rate-{rate}' for rate in rates)} {s}-math-qa"
        f" --json checkpoints/rates-s{seed}.json"])


def rollback(seed):
    """Sets by every score; and the same sets frozen before the damage, while QA and cw are trained."""
    s, go, _ = named(seed)
    roll = f"rollback.py --anchor {s}-code-math --damaged {s}-code-math-qa-cw --domain math"
    sets = ("fisher-0.05", "fisher-0.2", "gradient-0.05", "random-0.2")
    protected = "".join(f"""
        {go} --domain qa --init {s}-code-math --protect {s}-sets/{one}/coordinates.safetensors --out {s}-kept-{one}-qa
        {go} --domain cw --init {s}-kept-{one}-qa --protect {s}-sets/{one}/coordinates.safetensors --out {s}-kept-{one}"""
                        for one in sets)
    beside = " ".join(f"protect-{one}={s}-kept-{one}" for one in sets)
    return f"""
        {roll} --score fisher gradient random --fraction 0.05 0.2 --eval-prompts 0 --overwrite --out {s}-sets{protected}
        {roll} --score fisher fisher+route fisher+sign gradient curvature --fraction 0.001 0.01 0.05 0.2 \
            --beside refresh={s}-refreshed {beside} --json checkpoints/rollback-s{seed}.json"""


def methods(seed):
    """The usual baselines: prevention while QA and cw are trained, other remedies, and merges of the experts."""
    s, go, re = named(seed)
    fisher, four = f"{s}.fisher", f"{s}-math {s}-code {s}-qa {s}-cw --base checkpoints/base"
    held = {"kl": "--beta 1", "l2": "--l2 1", "ewc": f"--ewc {fisher} --ewc-weight 1000", "replay": "--mix math:0.25",
            "guard": f"--guard math={s}-code-math"}
    prevention = "".join(f"""
        {go} --domain qa --init {s}-code-math {how} --out {s}-{name}-qa
        {go} --domain cw --init {s}-{name}-qa {how} --out {s}-{name}""" for name, how in held.items())
    new = [*(f"{name}{end}" for name in held for end in ("-qa", "")), "rolled", "refresh-code", "distilled", "interpolated",
           "negated", "mean", "arithmetic", "dare", "ties", "ram",
           "kept-gradient-0.05-qa", "kept-gradient-0.05"]               # the last two are of the stage rollback
    return f"""
        rollback.py --anchor {s}-code-math --domain math --save-fisher {fisher}{prevention}
        rollback.py --anchor {s}-code-math --damaged {s}-code-math-qa-cw --domain math --score gradient --fraction 0.05 \
            --eval-prompts 0 --overwrite --out {s}-rolled
        {re} --domain code --steps 10 --out {s}-refresh-code
        {re} --domain math --steps 10 --teacher {s}-code-math --out {s}-distilled
        merge.py interpolate {s}-code-math {s}-code-math-qa-cw --weight 0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1 \
            --overwrite --out {s}-interpolated
        merge.py negate {s}-qa {s}-cw --base checkpoints/base --damaged {s}-code-math-qa-cw \
            --weight 0 0.1 0.2 0.3 0.5 0.7 1 --overwrite --out {s}-negated
        merge.py mean {s}-math {s}-code {s}-qa {s}-cw --overwrite --out {s}-mean
        merge.py arithmetic {four} --weight 0.25 0.4 0.55 0.7 0.85 1 --overwrite --out {s}-arithmetic
        merge.py dare {four} --weight 0.25 0.4 0.55 0.7 0.85 1 --overwrite --out {s}-dare
        merge.py ties {four} --weight 0.5 1 1.5 2 2.5 3 --overwrite --out {s}-ties
        merge.py ram {four} --weight 1 1.5 2 2.5 3 4 --overwrite --out {s}-ram
        {evaluated("methods", seed, new)}"""


def losses(seed):
    """QA after Math with four updates per rollout, by each of the losses."""
    s, go, _ = named(seed)
    names = ("grpo", "dapo", "dr_grpo", "gspo", "cispo", "drpo")
    return "\n".join([*(f"{go} --domain qa --init {s}-code-math --inner-updates 4 --loss {name} --out {s}-loss-{name}"
                        for name in names), evaluated("losses", seed, [f"loss-{name}" for name in names])])


def delay(seed):
    """Re-Math after 25 to 400 steps of QA: how many steps does it take?"""
    s, go, _ = named(seed)
    again = f"--domain math --seed {seed} --resume --steps 15 --keep-every 1"
    lines, kept = [f"{go} --domain qa --init {s}-code-math --steps 400 --keep-every 25 --out {s}-delay"], ["code-math"]
    for k in (25, 50, 100, 200, 400):
        start = f"delay/step-{k:05}"
        lines.append(f"refresh.py {s}-{start} {again} --out {s}-delay-{k}")
        kept += [start, *(f"delay-{k}/step-{step:05}" for step in range(1, 16))]
    return "\n".join([*lines, evaluated("delay", seed, kept, "--domains math")])


def orders(seed):
    """The orders of the four domains that the matrix of pairs, of all seeds, predicts to be the best and the worst."""
    s, go, _ = named(seed)
    story, matrix = (sorted(Path("results").glob(f"{kind}-s?.json")) for kind in ("story", "matrix"))
    if not matrix:
        return ""
    parts = ["-".join(order[:i]) for order in extremes([*story, *matrix]) for i in (2, 3, 4)]     # math-qa, math-qa-cw, ..
    return "\n".join([*(f"{go} --domain {domain} --init {s}-{before} --out {s}-{before}-{domain}"
                        for before, _, domain in (part.rpartition("-") for part in parts)),
                      evaluated("orders", seed, parts)])


STAGES = {stage.__name__: stage for stage in (story, matrix, claims, rollback, methods, losses, delay, orders)}


# ---- running them --------------------------------------------------------------------------------------------------

def parse(argv=None):
    """The command line; in it `only` is a list of names of stages. UserError for a seed that is named twice."""
    made = parser(__doc__)
    made.add_argument("--seeds", nargs="+", type=at_least(0), default=[0, 1, 2, 3, 4], help="default 0 1 2 3 4")
    made.add_argument("--only", nargs="+", choices=STAGES, default=[*STAGES], help="; ".join(
        f"{name}: {stage.__doc__.rstrip('.')}" for name, stage in STAGES.items()))
    made.add_argument("--at-a-time", type=at_least(1), default=os.cpu_count(), help="processes, of one thread each "
                      "(default: a process for each core)")
    made.add_argument("--list", action="store_true", help="print the commands, and run nothing")
    args = made.parse_args(argv)
    if len({*args.seeds}) < len(args.seeds):
        raise UserError(f"--seeds: a seed is named twice in {args.seeds}")
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

from tqdm import tqdm

from grpo.directory import alone
from reports.sequences import extremes


def commands(stage, seed):
    """The commands of a stage for one seed, each a list of words."""
    return [shlex.split(line) for line in STAGES[stage](seed).replace("\\\n", " ").splitlines() if line.strip()]


def is_done(words, seconds):
    """Whether a command has ended well, and all that it writes is there and no older than what it reads."""
    at = lambda path: (path / "run.json" if (path / "run.json").exists() else path).stat().st_mtime
    written = [Path(words[i + 1]) for i, word in enumerate(words) if word in WRITES]
    read = [path for path in map(Path, words) if path.exists() and path not in written]
    return (shlex.join(words) in seconds and all(path.exists() for path in written)
            and max(map(at, read)) <= min(map(at, written)))


def expected(command, seconds):
    """A guess of how many seconds a command takes: the median of the same command with other seeds, or else of all."""
    some_seed = lambda text: re.sub(r"\bs\d+|--seed \d+", "", text)
    alike = [took for other, took in seconds.items() if some_seed(other) == some_seed(command)]
    return statistics.median(alike or list(seconds.values()) or [30])


def publish(path):
    """Copy a JSON file of a script to results/, without the scores of single prompts, which no table over seeds reads."""
    short = lambda value: value | ({"prompt_scores": {}} if "prompt_scores" in value else {})
    write_json(Path("results", path.name), json.loads(path.read_text(), object_hook=short))


def run_stage(stage, seed, before, left, bar, seconds):
    """Run what is left of a stage for one seed when `before`, a future or None, is done. UserError if a command fails.

    left: {command: expected seconds}, which the bar counts. seconds: see SECONDS; written whenever a command has ended.
    """
    if before:
        before.result()
    if not (found := commands(stage, seed)):
        raise UserError(f"{stage}: run the stages before it first: it depends on what they find")
    for words in found:
        if is_done(words, seconds):
            continue
        command, began = shlex.join(words), time.monotonic()
        ran = subprocess.run([sys.executable, *words], capture_output=True, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"})
        if ran.returncode:
            raise UserError(f"python {command}\nended with {ran.returncode}: {ran.stderr.strip()[-2000:]}")
        seconds[command] = round(time.monotonic() - began, 1)
        if "--json" in words:
            publish(Path(words[words.index("--json") + 1]))
        with LOCK:
            write_json(SECONDS, dict(sorted(seconds.items())))
        bar.update(left.get(command, 0))                # the commands of the stage orders were not known at the start


def main(args=None):
    """Run the stages, or print their commands. If a command fails: UserError, once the other seeds are through."""
    args = args or parse()
    if args.list:
        for stage in args.only:
            print(*(f"python {shlex.join(words)}" for seed in args.seeds for words in commands(stage, seed)), sep="\n")
        return
    os.chdir(Path(__file__).parent)                 # where checkpoints/ and results/ are
    with alone("results"):                          # two at once would take each other's work for theirs
        run_all(args)


def run_all(args):
    """Run what is left of the stages. UserError: see `main`."""
    Path(SECONDS).parent.mkdir(exist_ok=True)
    seconds = json.loads(Path(SECONDS).read_text()) if Path(SECONDS).exists() else {}
    left = {command: expected(command, seconds) for which in product(args.only, args.seeds)
            for words in commands(*which) if not is_done(words, seconds) for command in [shlex.join(words)]}
    last = {}                                       # of each seed the future of its latest stage
    minutes = sum(left.values()) / 60 / min(args.at_a_time, len(args.seeds))
    with ThreadPoolExecutor(args.at_a_time) as pool, tqdm(
            total=sum(left.values()), desc=f"{len(left)} commands, some {minutes:.0f} minutes",
            bar_format="{l_bar}{bar}| {elapsed} < {remaining}") as bar:
        for stage, seed in product(args.only, args.seeds):
            last[seed] = pool.submit(run_stage, stage, seed, last.get(seed), left, bar, seconds)
        try:
            for future in last.values():
                future.result()                     # raises what a command has raised
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)      # the commands that run have had the Ctrl-C too
            raise


if __name__ == "__main__":
    cli(lambda: main(ARGS))
