"""Refresh: a few GRPO steps on a damaged domain bring it back and leave the others where they are.

    python refresh.py checkpoints/code-math-qa-cw --domain math --steps 10 --out checkpoints/refreshed
    python refresh.py checkpoints/code-math-qa-cw --domain math --steps 40 --until-recovered checkpoints/code-math
    python refresh.py checkpoints/code-math-qa-cw --domains math,code --steps 20      # alternating refresh
    python refresh.py checkpoints/code-math-qa-cw --domain math --teacher checkpoints/code-math   # by distillation

Training on A ended at theta_A; training on B has since added delta_B and damaged A. Refresh descends A's loss L_A again,

    theta_0 = theta_A + delta_B,    theta_{t+1} = theta_t - alpha g_A(theta_t),    g_A its gradient,

and contracts what delta_B did in the shared conflict subspace S, where A's loss has curvature mu_A or more, while the
rest of delta_B, in which the later domains' gains lie, hardly moves (arXiv 2606.02398, its theory section):

    || P_S (theta_t - theta_A) ||  <=  (1 - alpha mu_A)^t || P_S delta_B ||.

The contraction is geometric, so a tenth of the original steps goes far. Two domains refreshed in turn, a step each,
come close to descent on the sum of their losses. The loop is that of train_grpo.py, and so are all its settings, with
three other defaults, because few steps have to count: twice the rate (a larger alpha contracts faster), no warm-up, and
twice the prompts (noise in g_A is not contracted). Unlike the theorem, this script steps with AdamW, with fresh moments,
along sampled, clipped GRPO gradients; with --keep-every 1, analyze.py measures what contracts and what stays, beside the
theorem's own steps. With --teacher, theta_A say, the damaged model's answers get no rewards: each token has the advantage
A_t = log pi_teacher(o_t) - log pi_old(o_t), see train_grpo.py. This file adds the rule that says when to stop,
and the report over all domains.
"""
import domains
from grpo.settings import add_settings, check, check_places, checkpoint, domain_names, parser, refuse
from model import cli, read_run


def parse(argv=None):
    """The settings of a refresh; UserError also if --until-recovered has no rows to watch, or names what --out replaces."""
    made = parser(__doc__, usage="%(prog)s CKPT --domain DOMAIN [options]")
    made.add_argument("init", type=checkpoint, metavar="CKPT", help="the damaged checkpoint")
    made.add_argument("--until-recovered", type=checkpoint, metavar="REF", help="stop as soon as every refreshed domain is "
                      "no longer significantly below this checkpoint: the paired difference's 95 %% interval reaches 0")
    args = add_settings(made, steps=10, schedule="alternating", warmup_steps=0, prompts_per_step=64).parse_args(argv)
    domains.follow(read_run(args.init))
    args.eval_domains = args.eval_domains or ",".join(dict.fromkeys([*domains.DOMAINS, *domain_names(args.domain)]))
    args.eval_every = args.eval_every or 2 * bool(args.until_recovered)
    args = check(args, out="checkpoints/refreshed-{}", rates=(1e-4, 2e-6))
    check_places({"--out": args.out}, [args.until_recovered])
    watched = {*args.eval_domains} if args.eval_prompts else set()
    refuse((args.until_recovered and not {*args.domains} <= watched, "--until-recovered watches the refreshed domains: name "
            "them in --eval-domains too, with --eval-prompts above 0"))
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

from grpo.ranks import leader
from grpo.scores import paired
from grpo.startup import load
from train_grpo import train


def recovery(args):
    """A stopping rule for `train`: a text once every refreshed domain is back within its interval of the reference.

    Fewer prompts give wider intervals, and so an earlier end. The score that ends a run is a lucky one: so validation rows
    decide, which evaluate.py never uses. UserError if the reference is no model.
    """
    waiting, reference = [load(args.until_recovered, args.device)], {}    # now: a wrong name starts no run

    def stop(validations, scores_of):
        if not reference:
            reference.update(scores_of(*waiting.pop()))
        differences = {d: paired(validations[-1]["scores"][d], reference[d]) for d in args.domains}
        if all(change + half >= 0 for change, half in differences.values()):
            return "recovered: " + ", ".join(f"{d} {change:+.1f} +- {half:.1f} from {args.until_recovered}"
                                             for d, (change, half) in differences.items())
    return stop


def main(args=None):
    """Refresh; print each domain's score before and after, in points 0-100, and the paired change with its interval."""
    args = args or parse()
    record = train(args, recovery(args) if args.until_recovered else None)
    if not leader():
        return
    print(f"{args.out}: {record['steps']} steps of refresh on {args.domain}"
          + (f"; {record['stopped'] or 'not recovered yet'}" if args.until_recovered else ""))
    if record["metrics"]:
        print(f"{'':10}{'before':>8}{'after':>8}{'change (paired, 95 %)':>24}")
    for domain, scores in record["metrics"].items():
        print(f"{domain:10}{scores['before']['score']:8.1f}{scores['after']['score']:8.1f}"
              + "{:+14.1f} +-{:5.1f}".format(*scores["change"]) + "  refreshed" * (domain in args.domains))
    if record.get("stopped"):
        print("These validation rows decided when to stop: run evaluate.py for scores on other rows.")


if __name__ == "__main__":
    cli(lambda: main(ARGS))
