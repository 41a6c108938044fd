"""Coordinates: a sparse set of single parameters, picked exactly, kept in a file, and moved back to where they were.

    sets = top(names, lambda name: scores[name], [1000, 10000])      # the 1000 and the 10000 highest of all tensors
    write("coordinates.safetensors", sets[0], shapes, {"score": "fisher", "fraction": 0.001})
    roll_back(theta, anchor, sets[0][name], strength)                # of one tensor: theta_i <- theta_i - beta delta_i

Used by rollback.py and merge.py. A coordinate is one number of one tensor. A set is {tensor name: (m,) flat indices,
ascending, on the CPU}, 4 bytes each (8 in a tensor of 2^31 numbers); grpo.policy.read_coordinates reads it back. The top
fraction is global: a small tensor may give all of its coordinates, a large one none.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import json
import math
import zlib
from itertools import accumulate

import numpy as np
import torch

from model import UserError, save_tensors
from theory.edits import in_threads

AT_ONCE = 2**24        # scores that `top` holds beside those that may be picked, 12 bytes each


def highest(scores, k):
    """A bool mask of the k >= 1 highest of `scores`, of any shape and 0 or more: the first of equal ones, and never a 0."""
    if k >= scores.numel():
        return scores > 0
    least = np.partition(scores.flatten().cpu().numpy(), -k)[-k].item()      # five times as fast as topk on millions
    picked = scores > least
    ties = (scores.flatten() == least).nonzero()[:k - int(picked.sum())]
    picked.view(-1)[ties] = True
    return picked & (scores > 0)


def top(names, score, counts):
    """The coordinates with the highest scores over all tensors together: a list of sets, one per size in `counts`.

    names: a list. score: a function name -> a tensor of scores, 0 or more, called once per tensor, in a few threads. As in
    `highest` a set can be smaller, never larger: ties go by tensor and index. Exact in fp32. UserError if a score is negative
    or not finite. A large model has more scores than there is room for: whenever AT_ONCE more are held than can be picked,
    those that are not among the highest so far are dropped.
    """
    held, places, sizes, least = [], [], [], 0.0

    def rest(name):
        """How many scores a tensor has, those of them that may yet be picked (m,), and their indices (m,)."""
        scores = score(name).flatten().float()                                                    # (n of the tensor,)
        if not (scores < math.inf).all():
            raise UserError(f"the scores of {name} are not all finite: the model has diverged on these rows, or the score "
                            "divides by 0")
        if (scores < 0).any():
            raise UserError(f"the scores of {name} are below 0 in places: a score is 0 or more, 0 for what is not to be picked")
        index = (scores > least).nonzero().squeeze(1)
        return len(scores), scores[index], index

    for count, scores, index in in_threads(rest, names, "pick"):
        held.append(scores), places.append(sum(sizes) + index)
        sizes.append(count)
        if sum(map(len, held)) > max(counts) + AT_ONCE:
            held, places = torch.cat(held), torch.cat(places)
            picked = highest(held, max(counts))
            held, places = [held[picked]], [places[picked]]
            least = held[0].min().item()            # a later score has to be higher
    held, places, sets = torch.cat(held), torch.cat(places), []       # places ascend: all tensors, one after the other
    starts = [0, *accumulate(sizes)]
    for k in counts:
        chosen = places[highest(held, k)].cpu()                                                   # (k,)
        parts = chosen.split(torch.searchsorted(chosen, torch.tensor(starts)).diff().tolist())
        sets.append({name: (part - start).to(torch.int32 if size < 2**31 else torch.int64)
                     for name, start, size, part in zip(names, starts, sizes, parts) if len(part)})
    return sets


def random(name, shape, seed=0):
    """Random scores of one tensor, fp32, a function of (seed, name), that make all sets of a size equally likely.

    All bits except the sign are random: of 2^31 - 2^23 - 1 positive finite numbers, few come twice.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randint(1, 0x7F800000, shape, generator=generator, dtype=torch.int32).view(torch.float32)


def size(chosen):
    """How many coordinates a set has, over all tensors."""
    return sum(map(len, chosen.values()))


def write(path, chosen, shapes, about):
    """Write a set as a safetensors file, with the `shapes` {tensor name: torch.Size} of the one model that can take it.

    about: a dict of plain values that says where the set is from, its "score" and "fraction" (0 to 1) at least.
    """
    about = {**about, "coordinates": size(chosen), "shapes": {name: list(shape) for name, shape in shapes.items()}}
    save_tensors(chosen, path, {"about": json.dumps(about)})


def write_fisher(path, F, theta, about):
    """Write what elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796) needs: F and theta, {name: tensor}."""
    both = {f"{kind}.{name}": t.contiguous() for kind, some in (("fisher", F), ("theta", theta)) for name, t in some.items()}
    save_tensors(both, path, {"about": json.dumps(about)})


@torch.no_grad()
def roll_back(theta, anchor, index, strength=1.0):
    """theta_i <- theta_i - beta (theta_i - anchor_i) at the flat indices `index` (m,) of one tensor, in place.

    With strength beta = 1 the anchor's numbers are copied, bit for bit where both have one type; with a smaller one, those
    in bf16 are computed in fp32. theta has to be contiguous; anchor, of its shape, may be on another device.
    """
    flat, index = theta.view(-1), index.to(theta.device).long()
    exact = torch.promote_types(theta.dtype, torch.float32)
    old, target = flat[index].to(exact), anchor.to(theta.device).flatten()[index].to(exact)
    flat[index] = (target if strength == 1 else old + strength * (target - old)).to(theta.dtype)
