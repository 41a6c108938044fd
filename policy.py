"""The policy under training: a model, its fp32 master weights, AdamW, and the one file from which all that resumes.

    policy = Policy(model, torch.bfloat16)
    policy.backward(loss)                          # as often as there are micro-batches
    grad_norm = policy.step(lr, max_grad_norm)
    policy.save_state("out/resume.safetensors", run); policy.load_state("out/resume.safetensors")

The optimizer moves fp32 copies of the weights while the model computes in its own type. At lr 1e-6 one step of Adam
moves a weight by about 1e-6, far less than the 8 bits of a bf16 number can show: it would be rounded away every time.
"""
import json
import math

import torch

from model import save_tensors


class Policy:
    """A model (loaded in fp32) that computes in compute_dtype, and fp32 masters that AdamW moves.

    With compute_dtype fp32 the masters are the model's own weights. Gradients are summed over micro-batches in fp32.
    frozen: {parameter name: flat indices} of coordinates that never move.
    """

    def __init__(self, model, compute_dtype, gradient_checkpointing=False, frozen=None):
        self.model = model
        self.parameters = list(model.parameters())  # tied weights come once
        self.masters = [p.detach().clone() if compute_dtype != torch.float32 else p for p in self.parameters]
        if compute_dtype != torch.float32:
            for p in self.parameters:               # not model.to(): rotary frequencies have to stay fp32
                p.data = p.data.to(compute_dtype)
        frozen = frozen or {}
        names = [name for name, _ in model.named_parameters()]
        self.frozen = [(m, frozen[name].to(m.device)) for name, m in zip(names, self.masters) if name in frozen]
        for module in model.modules():              # dropout would sample from one policy and score another
            for name in ("attention_dropout", "p"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.masters, betas=(0.9, 0.99), weight_decay=0.0,
                                           fused=True)

    def backward(self, loss):
        """Add the gradient of a micro-batch's loss to that of the step."""
        loss.backward()
        if self.masters is not self.parameters:
            for p, master in zip(self.parameters, self.masters):
                if p is not master and p.grad is not None:
                    master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
                    p.grad = None

    def step(self, lr, max_grad_norm):
        """Clip, move the weights, clear the gradient; returns its norm. A non-finite gradient moves nothing."""
        for master, index in self.frozen:           # a gradient of 0 from the start: AdamW's moments and step are 0 too
            if master.grad is not None:
                master.grad.view(-1)[index] = 0
        norm = torch.nn.utils.clip_grad_norm_(self.masters, max_grad_norm).item()
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            for p, master in zip(self.parameters, self.masters):
                if p is not master:
                    p.data.copy_(master)
        self.optimizer.zero_grad()
        return norm

    def state_dict(self):
        """The model's weights in fp32 under their Hugging Face names."""
        master = {id(p): m.detach() for p, m in zip(self.parameters, self.masters)}
        return {name: master[id(p)] if id(p) in master else p
                for name, p in self.model.state_dict(keep_vars=True).items()}

    def save_state(self, path, run):
        """All that a resumed run needs, in one file that is replaced by one rename: weights, moments and `run`."""
        tensors = {f"weight.{i}": m.detach().contiguous() for i, m in enumerate(self.masters)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{key}.{i}": value for key, value in state.items()}
        save_tensors(tensors, path, {"run": json.dumps(run)})

    def load_state(self, path):
        """Restore the weights and moments that save_state wrote."""
        from safetensors import safe_open
        state = {}
        with safe_open(path, "pt") as file:
            for key in file.keys():
                kind, i = key.rsplit(".", 1)
                if kind == "weight":
                    with torch.no_grad():
                        self.masters[int(i)].copy_(file.get_tensor(key))
                        self.parameters[int(i)].data.copy_(self.masters[int(i)])
                else:
                    state.setdefault(int(i), {})[kind] = file.get_tensor(key)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
