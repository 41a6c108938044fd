"""Text in, text out: messages as the ids of a chat prompt, and completions as text. Used by train_grpo.py and all that samples.

    prompts = encode(tokenizer, ["2+2=", "Who are you?"], max_prompt_length=2048)      # lists of token ids
    completions = decode(tokenizer, rollout.ids, rollout.mask)

Two things have to hold, whatever tokenizer and template a model has: a control token that a text spells stays plain text, or a
row could end its own turn and a policy write its judge's; and what the model wrote is what is graded, letter by letter.
"""
# B prompts, N completions of at most T tokens.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import hashlib
import re

import torch

from model import UserError

CUT = "\ufdd0"           # stands in a text where `encode` cuts it: a code point that is no character


def encode(tokenizer, texts, max_prompt_length):
    """Token ids of each text as a user's message, up to where the assistant begins: B lists of ints.

    The chat template alone writes control tokens: what spells one in a text is cut in two, and so stays a text, whoever wrote
    it. No special token is added (no second BOS). UserError if the template cannot render a user's message, or for a prompt
    of more than max_prompt_length tokens: cut short it would ask another question.
    """
    ids_of = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    control, newline, prompts = control_tokens(tokenizer), ids_of("\n"), []
    for text in texts:
        message = text.encode("utf-8", "replace").decode()         # half a surrogate pair, which JSON can hold, is no text
        while spelled := next((token for token in control if token in message), None):
            message = message.replace(spelled, spelled[0] + CUT + spelled[1:])
        first, *others = render(tokenizer, message).split(CUT)
        ids = ids_of(first)
        for part in others:                         # alone it might get a space in front, which a newline prevents
            later = ids_of("\n" + part)
            ids += later[len(newline):] if later[:len(newline)] == newline else ids_of(part)
        if not ids:
            raise UserError("the model's tokenizer makes no tokens of a prompt: is it whole?")
        if len(ids) > max_prompt_length:
            raise UserError(f"a prompt has {len(ids)} tokens, the limit is {max_prompt_length}: raise "
                            f"--max-prompt-length or drop the row that begins {text[:60]!r}")
        prompts.append(ids)
    return prompts


def render(tokenizer, text):
    """What the chat template makes of a user's message, up to where the assistant begins: a text."""
    try:
        return tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
    except Exception as error:                      # jinja's errors, and whatever a template raises itself
        raise UserError(f"the model's chat template cannot render a user's message: {error}") from error


def prompt_form(tokenizer):
    """A hash of what the chat template makes of a message, 16 hexadecimal digits: another day it may write another date."""
    return hashlib.sha256(render(tokenizer, CUT).encode()).hexdigest()[:16]


def control_tokens(tokenizer):
    """What a message must not spell: all special tokens, and other added tokens (no words) that the chat template writes."""
    written = f"{render(tokenizer, CUT)} {tokenizer.chat_template}"
    if CUT not in written:
        raise UserError("the model's chat template leaves out what the user says: is it empty, or one for images?")
    return [token.content for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1 and
            (token.special or token.content in written and not re.fullmatch(r"[\w\s]*", token.content))]


def decode(tokenizer, ids, mask):
    """What the assistant has said, N strings: completions without end and padding tokens. ids, mask: (N, T), see Rollout.

    Before it stands the <think> that some templates write in the assistant's name, so that all see where the thinking ends.
    """
    begun = "<think>" if render(tokenizer, CUT).rstrip().endswith("<think>") else ""
    silent = torch.tensor([tokenizer.pad_token_id, *getattr(tokenizer, "end_ids", [tokenizer.eos_token_id])])
    said = mask.cpu() & ~torch.isin(ids.cpu(), silent)
    return [begun + tokenizer.decode(row[real], clean_up_tokenization_spaces=False) for row, real in zip(ids.cpu(), said)]
