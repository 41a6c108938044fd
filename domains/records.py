r"""Published rows, before a domain reads them: the records of a file or of the hub, and what is where in them.

    raw = read_source("rows.jsonl")                            # also .json, .parquet, .csv, or a name of a data set
    lookup(raw[0], ("answer", "reward_model", "ground_truth"))                  # ('reward_model.ground_truth', '42')
    lookup(raw[0], ["conversations.0.value"])                  # what --fields question=conversations.0.value names
    text_of([{"role": "user", "content": "6*7?"}])             # '6*7?'
    answer_of('["\\frac{1}{2}"]')                              # '\\frac{1}{2}'

Sets differ in names, in nesting, and in how a list was written into a text. Every script that takes --data comes here
through `domains.load_rows`, and row(record) of a domain file through `text_of`, `answer_of` and `opened`.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import ast
import contextlib
import functools
import glob
import json
import re
from pathlib import Path

from model import UserError

CHAT = ("messages", "conversations", "conversation")  # columns of chats, whose last reply may be an answer


def read_source(source):
    """The raw records of a source: a `datasets` sequence of dicts, not empty."""
    from datasets import disable_progress_bars, load_dataset  # here: --help need not wait for it
    path = Path(source)
    if path.suffix in (".jsonl", ".json", ".parquet", ".csv"):
        if not path.is_file():
            raise UserError(f"no data file at {source}")
        if path.stat().st_size == 0:
            raise UserError(f"{source} is empty")
        if path.suffix == ".jsonl":                 # of which pyarrow would die without a word
            with open(path, errors="replace") as file:
                for i, line in enumerate(file, 1):
                    line = line.lstrip("\ufeff \t")
                    if line.strip() and line[0] != "{":
                        raise UserError(f"cannot read {source} as rows: its line {i} is no JSON object")
        where, arguments = path.suffix[1:].replace("jsonl", "json"), {"data_files": glob.escape(str(path)), "split": "train"}
        disable_progress_bars()
    elif path.is_file():
        raise UserError(f"{source}: data files end in .jsonl, .json, .parquet or .csv")
    else:
        where, config, part = re.fullmatch(r"(.*?)(?:@([^@:]*))?(?::([^:]*))?", source, re.DOTALL).groups()
        if "/" not in where and not Path(where).is_dir():
            raise UserError(f"{source}: there is no such file or directory here, and a name of the hub is OWNER/NAME")
        arguments = {"name": config, "split": part or "train"}
    try:
        raw = load_dataset(where, **arguments)
    except Exception as error:  # pyarrow, json, the hub client: each raises types of its own
        cause = error.__cause__ or error
        raise UserError(f"cannot read {source} as rows: {(str(cause).strip() or repr(cause)).splitlines()[0]}") from error
    if len(raw) == 0:
        raise UserError(f"{source} has no rows")
    return raw


@functools.cache
def bare(name):
    """A field's name without what sets differ in: answerKey, answer_key and Answer Key are one. Dots stay."""
    return re.sub("[^a-z0-9.]", "", name.lower())


def lookup(record, names):
    """(its name there, value) of the first of some names under which a dict has anything, ("", None) if none has.

    A dict that stands under a name is looked into for the same names, or a dict or list for INNER where it is OUTER.INNER.
    """
    columns = {bare(column): column for column in record}
    for name in names:
        outer, _, inner = (name, "", "") if bare(name) in columns else name.partition(".")
        if (column := columns.get(bare(outer))) is not None:
            value, inside = record[column], opened(record[column], one=not inner.partition(".")[0].isdecimal())
            if inner and isinstance(inside, list):
                inside = {str(i): item for i, item in enumerate(inside)}
            if isinstance(inside, dict) and (inner or not messages(inside)):
                if (found := lookup(inside, [inner] if inner else names))[0]:
                    return f"{column}.{found[0]}", found[1]
            if not inner and value not in (None, "", [], {}) and value == value:    # nan, a gap in a csv file, is not itself
                return column, value
    return "", None


def opened(value, one=True):
    """The list or dict that a cell spells in JSON, in Python or as numpy prints it, else the cell. one: not a list of one, but
    what is in it."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        text = re.sub(r"\barray\(|,\s*dtype=\w+\)", "", value)
        if not re.sub(string := r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", "", text).strip("[], \n"):  # ['a' 'b']
            text = f"[{', '.join(re.findall(string, text))}]"
        for read in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = read(text)
                break
    while one and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def messages(value):
    """[(speaker, text)] of chat messages, as OpenAI or ShareGPT write them; of another value []."""
    value = opened(value)
    some = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    some = [(m.get("role") or m.get("from"), m.get("content") or m.get("value")) for m in some if isinstance(m, dict)]
    return [(who, "\n".join(part.get("text") or "" for part in text) if isinstance(text, list) else text)
            for who, text in some if who and text]


def text_of(value, before=None, after=None):
    """The text of a prompt: a string, or chat messages up to the last of a user, between what belongs to it (a passage, an
    input), unless it holds that already. ValueError if it is empty."""
    if chat := messages(value):
        last = max((i for i, (who, _) in enumerate(chat) if who in ("user", "human", "prompter")), default=-1)
        value = "\n\n".join(text for _, text in chat[:last + 1])
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its prompt is empty")
    before, after = (str(text or "") for text in (before, after))
    if before in value or len(value) > 20 and value in before:      # what holds the question may hold its answer, too
        before = ""
    return "\n\n".join(filter(None, (before, value, after * (after not in value))))


def answer_of(value):
    """The one text or number that an answer is: the assistant's last message, what is in a list of one; else None."""
    said = [text for who, text in messages(value) if who in ("assistant", "gpt", "bot", "model")] or [value]
    inside = opened(said[-1])
    if isinstance(inside, float) and inside.is_integer():       # a column of whole numbers with a gap
        return int(inside)
    return next((one for one in (inside, said[-1]) if isinstance(one, (str, int, float))), None)
