"""The policy under training: a model, its fp32 master weights, AdamW, and its resume file. Made by run.py for train_grpo.py.

The optimizer moves fp32 copies of the weights while the model computes in its own type. At lr 1e-6 one step of Adam
moves a weight by about 1e-6, far less than the 8 bits of a bf16 number can show: it would be rounded away every time.

Bytes per parameter, in bf16: 2 for the weight, and for its master, its gradient and Adam's two moments 4 each. With
offload these 16 are in main memory. Each of R ranks holds a part, 1/R, of everything (FSDP2), or all the weights while the
model is `gathered`; all ranks must call a method equally often.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
import json
import math
import types

import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo import ranks
from grpo.directory import opened
from grpo.rollout import token_logps
from grpo.startup import choose_way
from model import UserError, check_equal, save_tensors

GUARD = 0.0005      # share of the coordinates that is rolled back between two looks at the gradient


class Policy:
    """A model (loaded in fp32) that computes in compute_dtype, and fp32 master weights that AdamW moves.

    compute_dtype: by default bf16 on a GPU, fp32 elsewhere. With fp32, and with several ranks, the master weights are the
    model's own. Gradients are summed over micro-batches in fp32. gradient_checkpointing: keep a layer's input alone, and
    compute the rest again in the backward pass. frozen: {parameter name: flat indices} of coordinates that never move.
    offload: masters, gradients and moments live in main memory (one rank). Dropout is switched off.
    """

    def __init__(self, model, compute_dtype=None, gradient_checkpointing=False, frozen=None, offload=False):
        compute_dtype = compute_dtype or (torch.bfloat16 if model.device.type == "cuda" else torch.float32)
        self.model, self.compute_dtype = model, compute_dtype
        model.eval()                                # always: dropout would sample from one policy and score another
        if gradient_checkpointing:
            recompute_layers(model)
        way = choose_way(model, gradient_checkpointing)
        model.token_logps = types.MethodType(token_logps, model)     # a method, so that `shard` can register it
        if ranks.world() > 1:
            shard(model, compute_dtype)
        self.parameters = self.masters = list(model.parameters())            # tied weights come once
        if ranks.world() == 1 and (offload or compute_dtype != torch.float32):
            self.masters = [p.detach().to("cpu" if offload else p.device) for p in self.parameters]
            stay_fp32 = model._keep_in_fp32_modules_strict or ()      # routers, for example
            for name, p in model.named_parameters():
                if not any(part in name for part in stay_fp32):
                    p.data = p.data.to(compute_dtype, copy=True)                # not model.to(): rotary frequencies stay fp32
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(self.take)
            choose_way(model, gradient_checkpointing, way)
        self.named = dict(zip((name for name, _ in model.named_parameters()), self.masters))
        self.frozen = []                            # pairs (master, mask of this rank's part of it)
        for name, index in (frozen or {}).items():
            mask = torch.zeros(self.named[name].shape, dtype=torch.bool)
            mask.view(-1)[index] = True
            self.frozen.append((self.named[name], local(part_of(mask, self.named[name]))))
        self.taken = {}                             # gradients of this step, until `hand_over`; see `take`
        self.regularisers = []                      # see `add_regulariser`
        self.optimizer = torch.optim.AdamW(self.masters, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def take(self, p):
        """A hook, called weight by weight in backward: add its gradient to the step's, in fp32, and free it."""
        self.taken[p] = self.taken[p].add_(p.grad) if p in self.taken else p.grad.float()
        p.grad = None

    def hand_over(self):
        """Give the step's gradient to the masters: with offload it goes to main memory now, once, and not per micro-batch.

        A frozen coordinate gets a gradient of 0, from the start: so AdamW's moments of it, and its steps, are 0 too.
        """
        for p, master in zip(self.parameters, self.masters):
            if p in self.taken:
                master.grad = self.taken.pop(p).to(master.device)
        for master, mask in self.frozen:
            if master.grad is not None:
                local(master.grad).masked_fill_(mask, 0)

    @contextlib.contextmanager
    def gathered(self):
        """Within, every rank has all the weights, so that each may sample for as long as it needs.

        Otherwise a layer is fetched from the other ranks at each use, by all ranks at the same time.
        """
        parts = [module for module in self.model.modules() if hasattr(module, "unshard")]
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        yield
        for part in parts:
            part.set_reshard_after_forward(part is not self.model, recurse=False)
            part.reshard()

    def passes(self, batches):
        """Micro-batches (lists of indices) as (indices, True), and behind them ([0], False) until all ranks have as many.

        Ranks fetch layers from each other, and so must pass equally often; the last ones count for nothing.
        """
        most = max(ranks.everyone(len(batches)))
        return [(index, True) for index in batches] + [([0], False)] * (most - len(batches))

    def logps(self, rollout):
        """rollout.token_logps under the policy: (N, T) fp32."""
        return self.model.token_logps(rollout)

    def backward(self, loss):
        """Add the gradient of a micro-batch's loss (a scalar) to that of the step; losses of ranks are summed."""
        (loss * ranks.world()).backward()           # FSDP takes the mean of the ranks' gradients

    def add_regulariser(self, weight, importance=None, target=None):
        """Add weight/2 sum_i F_i (theta_i - theta*_i)^2 to every step's loss.

        importance, target: F and theta*, {parameter name: whole tensor}, as in EWC (arXiv 1612.00796); without them 1 and
        the weights of this moment, as in L2-SP (1802.01483).
        """
        for p, (name, master) in zip(self.parameters, self.named.items()):
            if not p.requires_grad:
                continue
            F = part_of(importance[name].float(), master) if importance else 1.0
            theta = part_of(target[name].float(), master) if target else master.detach().clone()
            self.regularisers.append((weight, master, F, theta))

    def regularise(self):
        """Add the gradient of all regularisers to that of the step; returns their part of the loss, over all ranks."""
        self.hand_over()
        value = 0.0
        for weight, master, F, theta in self.regularisers:
            away = master.detach() - theta
            pull = weight * F * away
            master.grad = pull if master.grad is None else master.grad.add_(pull)
            value = value + (pull * away).sum() / 2
        return whole(value).item() if self.regularisers else value

    def step(self, lr, max_grad_norm):
        """Clip the gradient to max_grad_norm, move the weights at rate lr if it is finite, and clear it.

        Returns its norm before it was clipped, a float over all ranks.
        """
        self.hand_over()
        norm = whole(clip_grad_norm_(self.masters, max_grad_norm)).item()
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.follow()
        self.optimizer.zero_grad()
        return norm

    def follow(self):
        """Give the model the weights of the masters, in its own type."""
        for p, master in zip(self.parameters, self.masters):
            if p is not master:
                p.data.copy_(master)

    def nll(self, answers):
        """L = - mean of log pi(o), in nats, over whole answers o (Rollouts); adds its gradient, if any, to the step's."""
        value, n = 0.0, sum(len(some.ids) for some in answers)
        for some in answers:
            part = -self.logps(some).sum() / n
            value += part.item()
            if part.requires_grad:
                self.backward(part)
        return value

    def roll_back(self, theta_A, answers, goal):
        """Roll back what hurts an earlier domain A most, until its loss L_A is at most `goal`: a dict for the log.

        theta_A: its weights, in one vector (n,). answers: its right answers, Rollouts; L_A is their `nll`.
        s_i = g_i (theta - theta_A)_i, g the gradient of L_A at the present weights theta, is by how much L_A falls, to first
        order, if coordinate i goes back (rollback.py: gradient). Each round takes back those with the largest s_i > 0, at
        most the share GUARD of all; without any it ends. AdamW's moments stay. For one rank, between two steps.
        """
        losses, rolled_back = [], 0
        while True:
            losses.append(self.nll(answers))
            self.hand_over()
            now = parameters_to_vector(self.masters).detach()                                             # (n,)
            slope = [torch.zeros_like(m) if m.grad is None else m.grad for m in self.masters]
            scores, worst = (parameters_to_vector(slope) * (now - theta_A)).topk(max(1, round(GUARD * len(now))))
            worst = worst[scores > 0]
            self.optimizer.zero_grad()
            if losses[-1] <= goal or not len(worst):
                return {"loss_before": losses[0], "loss": losses[-1], "rolled_back": rolled_back}
            now[worst] = theta_A[worst]
            for m, part in zip(self.masters, now.split([m.numel() for m in self.masters])):
                m.data.copy_(part.view_as(m))
            self.follow()
            rolled_back += len(worst)

    def finite(self):
        """Whether all weights are finite: a step far too large can spoil them though its loss was finite."""
        return all(ranks.everyone(all(local(m.detach()).isfinite().all().item() for m in self.masters)))

    def state_dict(self):
        """The model's weights, {Hugging Face name: fp32 tensor}. All ranks call this; on the leader it is whole."""
        master = {id(p): kept(m) for p, m in zip(self.parameters, self.masters)}
        return {name: master.get(id(p), p) for name, p in self.model.state_dict(keep_vars=True).items()}

    def save_state(self, path, run):
        """All that a resumed run needs, in one file that is replaced by one rename: weights, moments, `run` (a dict).

        The file holds whole tensors, whatever the number of ranks. All ranks call this; the leader writes.
        """
        tensors = {f"weight.{i}": kept(m) for i, m in enumerate(self.masters)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{key}.{i}": kept(value) for key, value in state.items()}
        if ranks.leader():
            save_tensors(tensors, path, {"run": json.dumps(run)})

    def load_state(self, path):
        """Restore the weights and moments that save_state wrote, with any number of ranks; directory.py reads `run`."""
        state = {}
        with opened(path, "does not hold the state of this model: --overwrite starts anew") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys() if key.startswith("weight.")}
            if shapes != {f"weight.{i}": list(master.shape) for i, master in enumerate(self.masters)}:
                raise ValueError
            for i, master in enumerate(self.masters):
                master.data.copy_(part_of(file.get_tensor(f"weight.{i}"), master))
                if f"step.{i}" in file.keys():      # it had a gradient
                    state[i] = {kind: part_of(file.get_tensor(f"{kind}.{i}"), master)
                                for kind in ("step", "exp_avg", "exp_avg_sq")}
        self.follow()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def recompute_layers(model):
    """Let a model's layers keep their input alone, and compute the rest again in the backward pass (checkpointing), in place.

    transformers' own switch needs train mode, and with it all dropout and noise, whatever their names.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"--gradient-checkpointing: {type(model).__name__} has no layers that transformers marks for it")
    for layer in layers:
        def forward(*args, plainly=layer.forward, **kwargs):
            return checkpoint(plainly, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else plainly(*args, **kwargs)
        layer.forward = forward


def shard(model, compute_dtype):
    """Cut a model's weights over the ranks (FSDP2), in place: a layer is whole when it is used, in compute_dtype."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method   # takes a second
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            fully_shard(module, mp_policy=precision)
    fully_shard(model, mp_policy=precision)
    register_fsdp_forward_method(model, "token_logps")           # a way in of its own


# A tensor that is cut over the ranks is a DTensor. These ask by attribute, because importing that class takes a second.

def whole(tensor):
    """A tensor with the parts of all ranks in it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor):
    """This rank's part of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def part_of(tensor, master):
    """A whole tensor cut over the ranks as a master is, on its device; a single number is whole on each."""
    tensor = tensor.to(master.device)
    if not hasattr(master, "to_local") or not tensor.ndim:
        return tensor
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(tensor, master.device_mesh, master.placements, src_data_rank=None)


def kept(tensor):
    """A whole tensor for a file: in main memory on the leader of several ranks, not kept on the others."""
    tensor = whole(tensor.detach()).contiguous()
    return tensor if ranks.world() == 1 else tensor.cpu() if ranks.leader() else tensor.new_empty(0)


# ---- files of rollback.py that hold weights in their place ---------------------------------------------------------

def read_coordinates(path):
    """A set of coordinates, {tensor name: flat indices (m,)}, and what it says about itself, as theory/coordinates.py wrote
    it: a dict with "score", "fraction", "coordinates" (how many) and "shapes" (lists). UserError if the file holds none.
    """
    with opened(path, "holds no coordinates: write them with rollback.py --out") as file:
        about, chosen = json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}
        sizes = {name: math.prod(shape) for name, shape in about["shapes"].items()}
        if not (isinstance(about["score"], str) and isinstance(about["fraction"], float | int) and all(
                index.ndim == 1 and index.dtype in (torch.int32, torch.int64)
                and bool(((index >= 0) & (index < sizes[name])).all()) for name, index in chosen.items())):
            raise ValueError
    return chosen, about


def read_fisher(path, shapes, where):
    """[F, theta], {name: tensor on the CPU} each, of rollback.py --save-fisher; UserError if the file holds no such.

    shapes, where: of the model to be trained, and its name; UserError too if it has another architecture.
    """
    with opened(path, "holds no Fisher information, nowhere negative: write it with rollback.py --save-fisher") as file:
        both = [{key.removeprefix(kind): file.get_tensor(key) for key in file.keys() if key.startswith(kind)}
                for kind in ("fisher.", "theta.")]
        if not all(t.is_floating_point() and t.isfinite().all() for some in both for t in some.values()) \
                or min(t.min() for t in both[0].values()) < 0:
            raise ValueError
    for some in both:
        check_equal(path, {name: t.shape for name, t in some.items()}, where, shapes)
    return both
