"""Coordinates: a sparse set of single parameters, picked exactly, kept in a file, and moved back to where they were.

    sets = top(names, lambda name: scores[name], [1000, 10000])      # the 1000 and the 10000 highest of all tensors
    write("coordinates.safetensors", sets[0], shapes, {"score": "fisher", "fraction": 0.001})
    roll_back(theta, anchor, sets[0][name], strength)                # of one tensor: theta_i <- theta_i - beta delta_i

Used by rollback.py and merge.py. A coordinate is one number of one tensor. A set is {tensor name: (m,) int32 or int64 flat
indices, ascending, on the CPU}; grpo.policy.read_coordinates reads it back. shapes: {tensor name: torch.Size} of all
parameters of a model. The top fraction is global: a small tensor may give all of its coordinates, a large one none.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import json
import zlib

import torch
from tqdm import tqdm

from model import UserError, save_tensors

AT_ONCE = 2**24        # scores that `top` holds beside those that may be picked, 12 bytes each


# ---- pick --------------------------------------------------------------------------------------------------------

def highest(scores, k):
    """Where the k highest scores stand: (n,) bool; of equal ones the first. scores: (n,), none negative or NaN; k >= 1."""
    if k >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    least = scores.topk(k, sorted=False).values.min()
    picked = scores > least
    picked[(scores == least).nonzero()[:k - int(picked.sum())]] = True
    return picked


def top(names, score, counts):
    """The coordinates with the highest scores over all tensors together: a list of sets, one per count.

    names: of the tensors, a list. score: a function name -> a tensor of scores, 0 or more, any shape; called once per
    tensor. counts: sizes of the sets, at least 1. A score of 0 is never picked, so a set can be smaller; of scores equal
    to the smallest that is picked, the first by tensor and index are taken, so it is never larger. Exact in fp32.
    UserError if a score is negative or not finite.

    A large model has more scores than there is room for. So as soon as many are held, all are dropped that are not among
    the highest so far: memory is that of the largest set, AT_ONCE and one tensor.
    """
    held, places, starts, least = [], [], [0], 0.0
    for name in tqdm(names, desc="pick", unit="tensor", leave=False, delay=3):
        scores = score(name).reshape(-1).float()                                                  # (n of the tensor,)
        if not (scores >= 0).all() or scores.isinf().any():
            raise UserError(f"the scores of {name} are not all finite and 0 or more: the model has diverged on these rows")
        index = (scores > least).nonzero().squeeze(1)
        held.append(scores[index]), places.append(starts[-1] + index)
        starts.append(starts[-1] + len(scores))
        if sum(map(len, held)) > max(counts) + AT_ONCE:
            held, places = torch.cat(held), torch.cat(places)
            picked = highest(held, max(counts))
            held, places = [held[picked]], [places[picked]]
            least = held[0].min()                   # a later score has to be higher
    held, places, sets = torch.cat(held), torch.cat(places), []       # places ascend: all tensors, one after the other
    for k in counts:
        chosen = places[highest(held, k)].cpu()                                                   # (k,)
        bounds = torch.searchsorted(chosen, torch.tensor(starts)).tolist()
        sets.append({name: (chosen[a:b] - start).to(index_type(end - start)) for name, start, end, a, b in
                     zip(names, starts, starts[1:], bounds, bounds[1:]) if b > a})
    return sets


def index_type(numel):
    """The dtype of indices into a tensor of numel elements: 4 bytes each, or 8 where it has that many."""
    return torch.int32 if numel < 2**31 else torch.int64


def random(name, shape, seed=0):
    """Random scores of one tensor, fp32, that make all sets of a size equally likely: all bits but the sign are random.

    They depend on (seed, name) alone, so that each call gives the same. Of 2^31 - 2^23 - 1 positive finite numbers, few
    come twice.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randint(1, 0x7F800000, shape, generator=generator, dtype=torch.int32).view(torch.float32)


def size(chosen):
    """How many coordinates a set has, over all tensors."""
    return sum(map(len, chosen.values()))


# ---- keep: read again by policy.py ---------------------------------------------------------------------------------

def write(path, chosen, shapes, about):
    """Write a set: a safetensors file with the flat indices of each tensor, 4 bytes each (8 where it is that large).

    shapes are kept, so that a model of another shape is refused. about: a dict of plain values that says where the set
    is from, its "score" and "fraction" (0 to 1) at least.
    """
    tensors = {name: index.to(index_type(shapes[name].numel())) for name, index in chosen.items()}
    about = {**about, "coordinates": size(chosen), "shapes": {name: list(shape) for name, shape in shapes.items()}}
    save_tensors(tensors, path, {"about": json.dumps(about)})


def write_fisher(path, F, theta, about):
    """Write what elastic weight consolidation needs of an expert: F and theta, {name: tensor} each, in one file.

    about: a dict of plain values that says where they are from. (Kirkpatrick et al., arXiv 1612.00796.)
    """
    tensors = {f"{kind}.{name}": t.contiguous()
               for kind, some in (("fisher", F), ("theta", theta)) for name, t in some.items()}
    save_tensors(tensors, path, {"about": json.dumps(about)})


# ---- move back ---------------------------------------------------------------------------------------------------

@torch.no_grad()
def roll_back(theta, anchor, index, strength=1.0):
    """theta_i <- theta_i - beta (theta_i - anchor_i) at the flat indices `index` (m,) of one tensor, in place.

    With strength beta = 1 the anchor's numbers are copied, bit for bit where both have one type; below it, bf16 is
    computed with in fp32. theta has to be contiguous; anchor, of its shape, may be on another device.
    """
    flat, index = theta.view(-1), index.to(theta.device).long()
    exact = torch.promote_types(theta.dtype, torch.float32)
    old, target = flat[index].to(exact), anchor.to(theta.device).reshape(-1)[index].to(exact)
    flat[index] = (target if strength == 1 else old + strength * (target - old)).to(theta.dtype)
