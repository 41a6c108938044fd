"""Coordinates: a sparse set of single parameters, picked exactly, kept in a file, and moved back to where they were.

    sets = top(names, lambda name: scores[name], [1000, 10000])      # the 1000 and the 10000 highest of all tensors
    write("coordinates.safetensors", sets[0], shapes, {"score": "fisher", "fraction": 0.001})
    chosen, about = read("coordinates.safetensors")                  # {tensor name: flat indices}
    roll_back(theta, anchor, chosen[name], strength)                 # of one tensor: theta_i <- theta_i - beta delta_i

A coordinate is one number of one tensor. The top fraction is global: a small tensor may give all of its coordinates, a
large one none. To find it without sorting (or holding) all scores, count instead: the bits of a positive fp32 number,
read as an integer, have the order of the number. One pass counts the upper 16 bits, a second the lower 16 of those
numbers that share the upper ones of the k-th largest, and so knows it exactly; a third collects. Scores are computed
anew in each pass, a tensor at a time. (Radix selection: Alabi et al., "Fast k-selection algorithms for graphics
processing units", 2012.)

chosen, a set: {tensor name: (m,) int32 or int64 flat indices, ascending, on the CPU}. shapes: {tensor name: torch.Size}
of all parameters of a model. where: what to call that model.
"""
import hashlib
import json
import zlib

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from theory.edits import check_equal
from model import UserError, save_tensors


# ---- pick --------------------------------------------------------------------------------------------------------

def top(names, score, counts):
    """The coordinates with the highest scores over all tensors together: a list of sets, one per count.

    names: of the tensors, a list. score: name -> a tensor of scores, 0 or more, any shape; called three times per
    tensor, so it has to be a function. counts: sizes of the sets. A score of 0 is never picked, so a set can be
    smaller; of scores equal to the smallest that is picked, the first by tensor and index are taken, so it is never
    larger. Exact in fp32. Raises UserError if a score is negative or not finite.
    """
    passes = lambda which: ((name, keys(name, score))
                            for name in tqdm(names, desc=f"pick, pass {which}", leave=False, delay=3))
    upper, positive = 0, 0
    for _, key in passes(1):
        upper, positive = upper + torch.bincount(key >> 16, minlength=2**15), positive + int((key > 0).sum())
    counts = [min(k, positive) for k in counts]
    bins = [kth_largest(upper, k) for k in counts]                     # (upper bits, how many are above them)
    lower = {high: 0 for high, _ in bins}
    for _, key in passes(2):
        for high in lower:
            lower[high] = lower[high] + torch.bincount(key[key >> 16 == high] & 0xFFFF, minlength=2**16)
    limits = []                                                        # (k-th largest key, how many of it are taken)
    for k, (high, above) in zip(counts, bins):
        low, more = kth_largest(lower[high], k - above)
        limits.append((high << 16 | low, k - above - more))
    sets = [{} for _ in counts]
    for name, key in passes(3):
        for j, (limit, ties) in enumerate(limits):
            equal = (key == limit).nonzero().squeeze(1)[:ties]
            limits[j] = (limit, ties - len(equal))
            picked = torch.cat([(key > limit).nonzero().squeeze(1), equal]).sort().values
            if len(picked) and counts[j]:
                sets[j][name] = picked.to("cpu", index_type(len(key)))
    return sets


def index_type(numel):
    """The dtype of indices into a tensor of numel elements: 4 bytes each, or 8 where it has that many."""
    return torch.int32 if numel < 2**31 else torch.int64


def keys(name, score):
    """Scores of one tensor (see `top`) as integers of the same order: (n,) int32, the bits of fp32 without a sign."""
    values = score(name).reshape(-1).float()
    if not (values >= 0).all() or values.isinf().any():
        raise UserError(f"the scores of {name} are not all finite and 0 or more: the model has diverged on these rows")
    return (values + 0.0).view(torch.int32)                            # -0.0 has a sign


def kth_largest(histogram, k):
    """Where the k-th largest lies: its bin, and how many members higher ones have; histogram (bins,) int64, k >= 1."""
    above = histogram.flip(0).cumsum(0).flip(0)                        # (bins,) members of this bin and of all higher ones
    found = int((above >= max(k, 1)).sum()) - 1
    return max(found, 0), int(above[found] - histogram[found]) if found >= 0 else 0


def random(name, shape, seed=0):
    """Random scores of one tensor, fp32, that make all sets of a size equally likely: all bits but the sign are random.

    They depend on (seed, name) alone, so that each pass of `top` sees the same. Of 2^31 - 2^23 - 1 positive finite
    numbers, few come twice.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randint(1, 0x7F800000, shape, generator=generator, dtype=torch.int32).view(torch.float32)


def size(chosen):
    """How many coordinates a set has, over all tensors."""
    return sum(map(len, chosen.values()))


# ---- keep --------------------------------------------------------------------------------------------------------

def write(path, chosen, shapes, about):
    """Write a set: a safetensors file with the flat indices of each tensor, 4 bytes each (8 where it is that large).

    shapes are kept, so that a model of another shape is refused. about: a dict of plain values that says where the set
    is from, its "score" and "fraction" (0 to 1) at least.
    """
    tensors = {name: index.to(index_type(shapes[name].numel())) for name, index in chosen.items()}
    about = {**about, "coordinates": size(chosen), "shapes": {name: list(shape) for name, shape in shapes.items()}}
    save_tensors(tensors, path, {"about": json.dumps(about)})


def read(path):
    """A set that `write` wrote, and what it says about itself: `about`, "coordinates" (how many) and "shapes" (lists).

    Raises UserError if the file holds none.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            chosen = {name: file.get_tensor(name) for name in file.keys()}
        sizes = {name: torch.Size(shape).numel() for name, shape in about["shapes"].items()}
        sound = isinstance(about["score"], str) and isinstance(about["fraction"], float | int) and all(
            index.ndim == 1 and index.dtype in (torch.int32, torch.int64)
            and bool(((index >= 0) & (index < sizes[name])).all()) for name, index in chosen.items())
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} holds no coordinates: write them with rollback.py --out")
    return chosen, about


def protected(path, shapes, where):
    """A set that a training shall leave alone, its name in a recipe ("protected-fisher-0.05"), and its file's hash.

    shapes, where: of the model to be trained. UserError if it has another architecture than the set's, or the file
    holds no set. The name does not say whose set it is: over seeds, each with a set of its own, this is one recipe.
    """
    chosen, about = read(path)
    check_equal(path, about["shapes"], where, shapes)
    return chosen, f"protected-{about['score']}-{about['fraction']:g}", digest(path)


def digest(path):
    """A hash of a file, 16 hexadecimal digits of its SHA-256: a resumed run must find the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_fisher(path, F, theta, about):
    """Write what elastic weight consolidation needs of an expert: F and theta, {name: tensor} each, in one file.

    about: a dict of plain values that says where they are from. (Kirkpatrick et al., arXiv 1612.00796.)
    """
    tensors = {f"{kind}.{name}": t.contiguous()
               for kind, some in (("fisher", F), ("theta", theta)) for name, t in some.items()}
    save_tensors(tensors, path, {"about": json.dumps(about)})


def read_fisher(path, shapes, where):
    """F and theta, {name: tensor on the CPU} each, that write_fisher wrote, as a list.

    shapes, where: of the model to be trained. UserError if it has another architecture, or the file holds no such.
    """
    try:
        with safe_open(path, "pt") as file:
            both = [{key.removeprefix(kind): file.get_tensor(key) for key in file.keys() if key.startswith(kind)}
                    for kind in ("fisher.", "theta.")]
    except (OSError, SafetensorError):
        both = [{}, {}]
    F = both[0].values()
    if not all(both) or not all(t.is_floating_point() and t.isfinite().all() for some in both for t in some.values()) \
            or min(t.min() for t in F) < 0:
        raise UserError(f"{path} holds no Fisher information, which is nowhere negative: write it with rollback.py "
                        "--save-fisher")
    for some in both:
        check_equal(path, {name: t.shape for name, t in some.items()}, where, shapes)
    return both


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
