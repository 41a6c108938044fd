"""A run as one object: it loads, logs, validates, saves and resumes training. Used by train_grpo.py and refresh.py.

A run writes log.jsonl, samples.jsonl and validation.jsonl as it goes and, every so often, a checkpoint: the model's own
files (model.py), run.json and resume.safetensors (policy.py). Rows and sampling noise are functions of (seed, step), so
only resume.safetensors and the number of steps done are needed to go on: the resumed run ends with the same weights, bit
for bit on a CPU.
"""
# args: of train_grpo.parse or refresh.parse. rows: {domain: its rows, or None for new synthetic ones}.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

import domains
from grpo import ranks, startup
from grpo.directory import STATE, append, interruptions, open_out, read_log, swap_in, trim_log
from grpo.judge import set_judge
from grpo.policy import Policy, read_coordinates, read_fisher
from grpo.rollout import context_length, decode, encode, prompt_form, micro_batches
from grpo.scores import evaluate, paired, respond
from grpo.settings import SAME_RECIPE, stage_name
from model import UserError, check_equal, content, load, nan_for_null, read_run, save

GUARD_ROWS = 256   # prompts of a guarded domain, with four answers each
FIRST_STEPS = 5    # after so many without a gradient a line says why


class Run:
    """A training run as `args` says. `load` adds rows, to train on, and held_out, {domain: rows to validate on}.

    stop: None, or a function stop(validations, scores_of) that returns None, or why the run ends here (record["stopped"]).
    validations: the lines of validation.jsonl; scores_of(model, tokenizer): the scores of another model on the same rows.
    UserError if the run may not go where args.out says.
    """

    def __init__(self, args, stop):
        self.args, self.stop, self.out = args, stop, Path(args.out).resolve()
        self.device = ranks.start(args.device)
        self.earlier = open_out(args)
        ranks.everyone()                            # all have looked before anyone writes
        self.record = self.earlier or {"finished": False}
        self.guards = {}                            # {domain: arguments of Policy.roll_back}
        if self.record["finished"]:
            self.say(f"{args.out} is finished: nothing to resume (to train on, give it as --init, with another --out)")
            self.record["metrics"] = nan_for_null(self.record["metrics"])

    def say(self, text):
        """Print something, once for all processes, above the bar if there is one."""
        if ranks.leader():
            tqdm.write(text)

    def load(self):
        """Policy, reference (None without a KL term) and tokenizer, in the state of an interrupted run after --resume.

        Rows are read before the models; nothing is written until all are loaded. UserError for what cannot be used, and if
        --resume finds other rows or files than the run had. Not for a finished run.
        """
        args = self.args
        if args.offload and not torch.cuda.is_available():
            raise UserError("--offload is for one GPU: torch sees none here")
        self.rows = {domain: None if source == "synthetic" else
                     domains.load_rows(domain, source, split_of(args, domain, "train"), args.fields)
                     for domain, source in args.data.items()}
        self.held_out = held_out_rows(args)
        model, self.tokenizer = load(args.init, self.device, torch.float32)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        not_shipped = {*args.domains, *args.mix, *args.guard, *args.eval_domains} - {*domains.DOMAINS}
        files = {name: domains.source(name) for name in sorted(not_shipped)}
        ref = args.teacher or args.beta > 0 and (args.ref or args.init)                        # its checkpoint, or False
        held = {"--protect": args.protect, "--ewc": args.ewc, "--teacher" if args.teacher else "--ref": ref,
                **{f"--guard {domain}": anchor for domain, anchor in args.guard.items()}}
        found = {"data": {domain: fingerprint(some) for domain, some in self.rows.items()},
                 "domain_files": read_run(args.init).get("domain_files", {}) | files,
                 "held": {option: content(path) for option, path in held.items() if path},     # --resume wants the same
                 "prompt": prompt_form(self.tokenizer)}                                         # this may change
        frozen, name = {}, ""
        if args.protect:                            # no file name: seeds differ in it, and share one recipe
            frozen, about = read_coordinates(args.protect)
            check_equal(args.protect, about["shapes"], args.init, shapes)
            name = f"protected-{about['score']}-{about['fraction']:g}"
        self.policy = Policy(model, gradient_checkpointing=args.gradient_checkpointing, frozen=frozen, offload=args.offload)
        if args.l2:
            self.policy.add_regulariser(args.l2)
        if args.ewc:
            self.policy.add_regulariser(args.ewc_weight, *read_fisher(args.ewc, shapes, args.init))
        check_prompt_lengths(args, model, self.tokenizer, [*self.rows.items(), *self.held_out.items()])
        set_judge(args.judge, [*self.rows, *self.held_out], model.device)
        self.guards = {domain: guarded(args, domain, anchor, self.device, shapes) for domain, anchor in args.guard.items()}
        reference = None
        if ref:
            reference, its_tokenizer = startup.load(ref, "cpu" if args.offload else model.device, self.policy.compute_dtype)
            if its_tokenizer.get_vocab() != self.tokenizer.get_vocab():
                raise UserError(f"{ref} has another vocabulary than {args.init}: --ref and --teacher compare models of one "
                                "tokenizer")
        self.begin(stage_name(args, name), found)
        domain = args.domains[0]
        row = (self.rows[domain] or domains.synthetic(domain, "train", 1, seed=f"{args.seed} 0"))[0]
        prompt = encode(self.tokenizer, [domains.prompt(domain, row)], 10**9)[0]
        self.say(f"a prompt as the model reads it: {self.tokenizer.decode(prompt)!r}")
        return self.policy, reference, self.tokenizer

    def begin(self, stage, found):
        """Settle run.json (`record`), restore the state of an interrupted run, and make the directory ready."""
        args, parent = self.args, read_run(self.args.init)
        earlier = self.earlier or {"steps": 0, **found}
        self.before, self.stage = parent.get("recipe", [Path(args.init).name]), stage
        self.record = {
            "parent": args.init, "lineage": [*parent.get("lineage", []), args.init], "domain": args.domain,
            "seed": args.seed, "args": vars(args), **found,
            "settings": [*parent.get("settings", []), {name: getattr(args, name) for name in SAME_RECIPE}],   # of each stage
            "finished": False, "metrics": {}}
        self.done(earlier["steps"])
        for key, problem in (("data", "the data hold other rows"), ("domain_files", "a domain's file has another content"),
                             ("held", f"{' or '.join(found['held'])} names another content")):
            if earlier.get(key) != found[key]:
                raise UserError(f"--resume: {problem} than when this run started; use the same, or --overwrite to start anew")
        if earlier.get("prompt", found["prompt"]) != found["prompt"]:
            self.say("the chat template writes another prompt than when this run started, with another date, say: the rest of "
                     "the run reads that one")
        self.place = self.out                       # where the run writes
        if self.earlier:
            self.policy.load_state(self.out / STATE)
            self.say(f"resuming {args.out} after step {self.record['steps']}")
        elif args.overwrite and self.out.exists():  # what stands there stays until the new run has a checkpoint
            self.place = self.out.with_name(f".{self.out.name}.new")
        if ranks.leader():
            if self.place != self.out:
                shutil.rmtree(self.place, ignore_errors=True)
            for path in self.place.glob("*.jsonl"):
                trim_log(path, earlier["steps"] if self.earlier else -1)                   # steps to be repeated go
        ranks.everyone()
        self.validations = [nan_for_null(line) for line in read_log(self.place / "validation.jsonl")]

    def steps(self):
        """The numbers of the steps to take, from 0; validates and saves between them, finishes after them.

        If a signal to end comes, SystemExit after that step, which is saved. UserError if weights are no longer finite.
        """
        args, record = self.args, self.record
        left = range(record["steps"], args.steps)
        with interruptions() as received, tqdm(left, f"grpo {args.domain}", args.steps, initial=record["steps"],
                                               disable=not ranks.leader()) as self.bar:
            for step in self.bar:
                if (step == 0 or args.eval_every and step % args.eval_every == 0) and self.validate():
                    break
                yield step
                self.done(step + 1)
                if args.keep_every and record["steps"] % args.keep_every == 0:
                    self.save_model(self.place / f"step-{record['steps']:05d}")
                interrupted = sum(ranks.everyone(received), [])     # one that is told to end ends all, at the same step
                if interrupted or record["steps"] % args.save_every == 0 or record["steps"] == args.steps:
                    self.save()
                if interrupted:
                    self.bar.close()
                    self.say(f"interrupted after step {step + 1} and saved; the same command with --resume goes on")
                    raise SystemExit(128 + interrupted[0])
        if record["steps"] < args.steps:            # `stop` ended it, perhaps at a step not saved
            self.save()
        self.validate()
        record |= {"finished": True, "metrics": before_and_after(self.validations)}
        self.save_model(self.out)
        if ranks.leader():
            (self.out / STATE).unlink(missing_ok=True)

    def done(self, steps):
        """Note how far the run is: {"steps": 100, "recipe": ["base", "code 100", "math 100"]}."""
        self.record.update(steps=steps, recipe=[*self.before, f"{self.stage} {steps}"])

    def log(self, line, rollout, rewards, advantages):
        """Add what train_step returned to log.jsonl, to the bar and, now and then, to samples.jsonl.

        Of two prompts samples.jsonl has the completions with the highest and the lowest advantage.
        """
        if not ranks.leader():
            return
        append(self.place / "log.jsonl", [line])
        step, G = line["step"], self.args.group_size
        if (step - 1) % self.args.save_every == 0 or step == self.args.steps:
            texts = decode(self.tokenizer, rollout.ids[:2 * G], rollout.mask[:2 * G])
            chosen = [b * G + i for b in range(len(texts) // G) for i in (advantages[b].argmax(), advantages[b].argmin())]
            append(self.place / "samples.jsonl", [
                {"step": step, "prompt": self.tokenizer.decode(rollout.prompt_ids[n][rollout.prompt_mask[n]]),
                 "completion": texts[n], "reward": rewards.flatten()[n].item(), "advantage": advantages.flatten()[n].item()}
                for n in map(int, chosen)])
        if step in (FIRST_STEPS, self.args.steps):
            self.warn(read_log(self.place / "log.jsonl"))
        self.bar.set_postfix({key: f"{line[key]:.2f}" for key in ("reward_mean", "zero_variance_groups")} |
                             {key: f"{line[key]:.0f}" for key in ("completion_length", "tokens_per_s")}, refresh=False)

    def warn(self, lines):
        """Say, after the first steps or at the end, what a user should know of them. lines: the records of log.jsonl."""
        first = len(lines) <= FIRST_STEPS
        why = nothing_to_learn(lines, self.args.max_completion_length)
        if why:
            self.say(f"warning: in the first {len(lines)} steps {why}" if first else "warning: no step has changed the weights")
        gap = max(line["sampler_gap"] or 0 for line in lines)
        if first and gap > startup.tolerance(self.policy.compute_dtype):
            self.say(f"warning: sampling and scoring are up to {gap:.2g} nats a token apart, more than rounding explains; if this "
                     "model reads long texts in another way than short ones, lower --max-completion-length")

    def scores_of(self, model, tokenizer):
        """Scores on the held-out rows, {domain: summary}; with noise of their own, so validating changes no training."""
        args = self.args
        return evaluate(model, tokenizer, self.held_out, samples=args.eval_samples, temperature=args.temperature,
                        top_p=args.top_p, max_prompt_length=args.max_prompt_length,
                        max_completion_length=args.max_completion_length)

    def validate(self):
        """Score the model at this step, once even if the run resumes here; returns what `stop` says."""
        steps = self.record["steps"]
        if self.held_out and steps not in [line["step"] for line in self.validations]:
            with self.policy.gathered():
                self.validations.append({"step": steps, "scores": self.scores_of(self.policy.model, self.tokenizer)})
            if ranks.leader():
                append(self.place / "validation.jsonl", self.validations[-1:])
        self.record["stopped"] = self.stop(self.validations, self.scores_of) if self.stop and self.validations else None
        return self.record["stopped"]

    def save(self):
        """The checkpoint and what a resumed run needs; the first of a new run takes the old one's place."""
        if not self.policy.finite():
            raise UserError(f"step {self.record['steps']}: the weights are no longer finite; what was saved before stays in "
                            f"{self.args.out}; try a lower --lr")
        self.policy.save_state(self.place / STATE, self.record)
        self.save_model(self.place)
        if self.place != self.out and ranks.leader():
            swap_in(self.place, self.out)
        self.place = self.out

    def save_model(self, directory):
        """Write the model as it is now, with run.json, to a directory."""
        weights = self.policy.state_dict()          # of all ranks
        if ranks.leader():
            save(self.policy.model, self.tokenizer, directory, self.record, weights)


def nothing_to_learn(lines, limit):
    """A text: why no step so far had a gradient, and what to do. None if some step had one.

    lines: the records of log.jsonl. limit: the most tokens of a completion.
    """
    if any(line["zero_variance_groups"] < 1 or line["grad_norm"] > 0 for line in lines):
        return None
    means = [line["reward_mean"] for line in lines if line["reward_mean"] is not None]
    return "no group had two different rewards, so no advantage and no gradient: " + next(text for holds, text in (
        (not means, "no completion could be graded: see the warnings above, and the reward of this domain"),
        (sum(line["truncated"] for line in lines) > 0.9 * len(lines),
         f"nearly all are cut off after {limit} tokens: raise --max-completion-length"),
        (not any(means), "none earned anything. Start from a model that sometimes can, or give easier rows; the tiny base "
         "knows synthetic rows alone, and can read rows of yours only if they have a field `terse` that is true"),
        (means and min(means) == 1, "all are right already: give harder rows"),
        (True, "raise --temperature or --group-size")) if holds)


def before_and_after(validations):
    """First and last validation in short: {domain: {"before", "after", "change": [points, half-width of its interval]}}."""
    if not validations:
        return {}
    before, after = validations[0]["scores"], validations[-1]["scores"]
    short = lambda scores: {key: value for key, value in scores.items() if key != "prompt_scores"}
    return {domain: {"before": short(before[domain]), "after": short(after[domain]),
                     "change": list(paired(after[domain], before[domain]))} for domain in after}


def held_out_rows(args):
    """{domain: rows to validate on}, {} if args.eval_prompts is 0. UserError for what domains.load_rows refuses.

    A domain without rows of its own is left out, and a line says so, where others have real ones.
    """
    names, sources = args.eval_domains if args.eval_prompts else [], args.data | args.eval_data
    real = set(args.data.values()) != {"synthetic"}
    if left_out := [name for name in names if real and name not in sources]:
        print(f"not validated on {', '.join(left_out)}, which have no rows here: give --eval-data DOMAIN=SOURCE")
    return {name: domains.evaluation_rows(name, sources.get(name), args.fields, args.eval_prompts,
                                          split_of(args, name, "validation")) for name in names if name not in left_out}


def guarded(args, domain, name, device, shapes):
    """(theta_A, answers, goal) for Policy.roll_back, of the checkpoint `name` of an earlier domain: its weights, its right
    answers to training rows, its loss on them. UserError if its shapes are not `shapes`, or no answer is right.
    """
    model, tokenizer = load(name, device, torch.float32)
    check_equal(name, {name: p.shape for name, p in model.named_parameters()}, args.init, shapes)
    anchor = Policy(model, offload=args.offload)
    rows = domains.evaluation_rows(domain, args.data[domain], args.fields, GUARD_ROWS, split_of(args, domain, "train"))
    rollout, _, rewards = respond(model, tokenizer, domain, rows, samples=4, temperature=1.0,
                                  max_prompt_length=args.max_prompt_length, max_completion_length=args.max_completion_length)
    right = (rewards.flatten() == 1).nonzero().squeeze(1).tolist()
    if not right:
        raise UserError(f"--guard: none of the answers of {name} in {domain} is right: name an expert of it")
    answers = [rollout.select(index) for index in micro_batches(rollout, right, args.micro_batch_tokens)]
    with torch.no_grad():
        return parameters_to_vector(anchor.masters).detach(), answers, anchor.nll(answers)


def split_of(args, domain, split):
    """The split of a domain's rows to take: "all" where --eval-data has other rows to validate on, so none are set aside."""
    return split if args.eval_data.get(domain, "synthetic") == "synthetic" else "all"


def check_prompt_lengths(args, model, tokenizer, rows):
    """UserError now, not in the middle of the run, if a prompt or a completion is too long. rows: pairs (domain, rows)."""
    context = context_length(model)
    if args.max_completion_length >= context:
        raise UserError(f"--max-completion-length {args.max_completion_length} leaves no room for a prompt in the model's "
                        f"context of {context} tokens")
    overhead, room = len(encode(tokenizer, ["x"], 10**9)[0]), context - args.max_completion_length
    for text in (domains.prompt(domain, row) for domain, some in rows for row in some or []):
        if len(text.encode("utf-8", "replace")) + overhead > min(args.max_prompt_length, room):  # a token is a byte or more
            ids, = encode(tokenizer, [text], args.max_prompt_length)
            if len(ids) > room:
                raise UserError(f"a prompt of {len(ids)} tokens and --max-completion-length {args.max_completion_length} do "
                                f"not fit the model's context of {context}: lower it, or drop the row that begins {text[:60]!r}")


def fingerprint(rows):
    """A text with a hash of the rows that are trained on, "synthetic" for None: a resumed run must see the same."""
    digest = hashlib.sha256()
    for row in rows or []:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return "synthetic" if rows is None else f"{len(rows)} rows, {digest.hexdigest()[:16]}"
