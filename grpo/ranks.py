"""Several processes: which part of a step each rank does, and what the ranks tell each other. Used by train_grpo.py.

    torchrun --nproc_per_node 4 train_grpo.py --domain math       # one machine; torchrun's --nnodes for more

Every rank runs the same script. Of a step's B prompts each takes a share, samples their groups and grades them; rewards
and lengths are then exchanged, so that advantages and the denominators of the loss are those of the whole batch:

    L = sum over ranks of L_r,    L_r = sum over rank r's completions i, tokens t of  w_i l_it

with the w_i of one process. Because rows and sampling noise are functions of (seed, step) alone, R ranks take the step
that one takes, up to rounding. Weights, gradients and AdamW's moments are cut over the ranks by PyTorch's FSDP2 (policy.py),
which takes the mean of the gradients; Policy.backward makes it their sum. Without torchrun there is one rank, and all of
this does nothing.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from model import UserError

PATIENCE = timedelta(days=1)    # how long ranks wait for each other: one may still sample long answers when others are done


def start(device=None):
    """Join the other processes if torchrun started this one; the device of this rank, without torchrun the one given.

    UserError for a device other than None, "cpu" and "cuda" under torchrun, or where there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return device
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device}: under torchrun each process takes a GPU of its own; leave --device out")
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if not gpus or device == "cpu":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return "cpu"
    if local >= gpus:
        raise UserError(f"torchrun starts more processes here than there are GPUs ({gpus}): lower --nproc_per_node")
    torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    return f"cuda:{local}"


def world():
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leader():
    """Whether this is the one rank that writes files and talks to the user."""
    return int(os.environ.get("RANK", 0)) == 0


def share(n):
    """The part of n things that is this rank's: a slice. Shares are in the order of the ranks, and differ by one at most."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice(n * rank // world(), n * (rank + 1) // world())


def everyone(value=None):
    """[the value of rank 0, that of rank 1, ...] on every rank, by pickle: how ranks exchange all that is not a weight.

    Also how they wait for each other: all ranks call this and its users below equally often.
    """
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def gather(tensor):
    """The ranks' tensors one behind the other along the first dimension: (n of all ranks, ...) on the CPU."""
    return torch.cat(everyone(tensor.cpu()))


def total(numbers):
    """The sum over all ranks of a dict of numbers, key by key."""
    parts = everyone(numbers)
    return {key: sum(part[key] for part in parts) for key in numbers}


def finish():
    """Wait for all ranks, then leave the process group."""
    everyone()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def together():
    """Within, ranks may `start`; at the end, or when a signal has ended all of them (SystemExit), they `finish`.

    UserError in place of what torch says when another process has gone: none can go on without it, or wait for it.
    """
    try:
        yield
    except SystemExit:
        finish()
        raise
    except RuntimeError as error:
        if world() > 1 and any(word in str(error) for word in ("gloo", "NCCL", "onnection", "Broken pipe")):
            raise UserError("another process of this run has died (its own message, or torchrun's, says of what); what was "
                            "saved before stays, and --resume goes on from there, with any number of processes") from error
        raise
    finish()
