"""Lineage: which checkpoint comes from which, by run.json. Used by analyze.py, rollback.py and merge.py; without PyTorch.

    trained_on("checkpoints/math-qa")                  # "qa"
    is_ancestor("checkpoints/math", read_run("checkpoints/math-qa"))           # True
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import os
from itertools import permutations
from pathlib import Path

import domains
from model import UserError, read_run


DIRECTIONS = 48        # eigenvectors that span the conflict subspace S, unless told otherwise
ROUTE = 0.1            # share of the neurons, the most active on a domain's tokens, that is its route


def short(name):
    """A checkpoint's name in a table: its last directory."""
    return Path(name).name


def same(one, other):
    """Whether two names are the same directory."""
    return os.path.realpath(one) == os.path.realpath(other)


def stage(text):
    """Domains and steps of a recipe's stage: "math 100" -> (["math"], 100); "math+qa 10" (mixed), "math/qa 10" (in turn).

    Behind a colon stands how: "qa:protected-fisher-0.05 100", "rollback:fisher:0.001 0". A recipe's first entry is no
    stage: it names the model that all began with.
    """
    names, _, steps = text.rpartition(" ")
    names = names.partition(":")[0]
    return names.replace("+", "/").split("/"), int(steps)


def computed(parent, stage, args, **more):
    """The run.json of a checkpoint that was not trained: a stage without steps after those of its parent, and more fields."""
    run = read_run(parent)
    return {"parent": parent, "lineage": [*run.get("lineage", []), parent], "domain": None, "seed": run.get("seed"),
            "domain_files": run.get("domain_files", {}), "args": vars(args), "steps": 0, "finished": True, "metrics": {},
            "recipe": [*(run.get("recipe") or [short(parent)]), f"{stage} 0"], "settings": run.get("settings", []), **more}


def trained_on(name):
    """The domain that a checkpoint was trained on last; None for several, and where `domains.use` does not know it."""
    run = read_run(name)
    domains.follow(run)
    try:
        return domains.use(run.get("domain") or "")
    except UserError:
        return None


def is_ancestor(name, run):
    """Whether a run.json has a checkpoint among its ancestors: by its place, or by name and seed where that is gone."""
    gone = lambda a: not os.path.isdir(a) and short(a) == short(name) and read_run(name).get("seed") == run.get("seed")
    return any(same(a, name) or gone(a) for a in run.get("lineage", []))


def refreshed(name):
    """Of a refresh on A: theta_A, the last of its ancestors that was trained on A, and theta_A + delta_B, its start.

    UserError if it kept no steps, or they cannot be found.
    """
    run = read_run(name)
    if not trained_on(name):
        raise UserError(f"{name} refreshed {run.get('domain', 'what no run.json says')}: name the refresh of one domain")
    if not any(Path(name).glob("step-*")):
        raise UserError(f"{name} kept none of its steps: run refresh.py with --keep-every 1")
    ancestors = [a for a in run.get("lineage", []) if os.path.isdir(a) and read_run(a).get("domain") == run["domain"]]
    if not ancestors or not os.path.isdir(run["parent"]):
        raise UserError(f"{name}: no ancestor trained on {run['domain']} stands where its run.json says: "
                        f"{', '.join(run.get('lineage', []))}; run this from the directory it was trained in")
    return ancestors[-1], run["parent"]


def displacements(base, experts, later, domain):
    """What was added to each checkpoint theta_A: {anchor: [(name, source, target)]}, theta_target - theta_source.

    A checkpoint of `later` belongs to every expert (and other later one) that its run.json has among its ancestors: to the
    anchor, its source. Two experts without such a checkpoint stand in for one: theta_B - theta_base. domain: {checkpoint:
    its domain or None}; None has no loss, and is no anchor. UserError if one of `later` has no such ancestor.
    """
    found, straight, recipe = {}, set(), lambda name: read_run(name).get("recipe", [])
    for name in later:
        run = read_run(name)
        anchors = [a for a in (*experts, *later)
                   if a != name and is_ancestor(a, run) and recipe(name)[:len(recipe(a))] == recipe(a)]
        if not anchors:
            raise UserError(f"--later {name} was trained from none of the checkpoints named here: its ancestors are "
                            f"{', '.join(run.get('lineage', [])) or 'unknown'}")
        for anchor in filter(domain.get, anchors):
            found.setdefault(anchor, []).append((f"{short(anchor)} -> {short(name)}", anchor, name))
            if len(recipe(name)) == len(recipe(anchor)) + 1 and domain[name]:     # from A straight to one B
                straight.add((anchor, domain[name]))
    for a, b in permutations(experts, 2):
        if domain[a] and domain[a] != domain[b] and (a, domain[b]) not in straight:
            found.setdefault(a, []).append((f"{short(a)} + {short(b)}", base, b))
    return found
