"""What tests of published sets find in the sets' own harnesses: equality as APPS has it, a small pytest, and someone who
runs test functions. No script imports this: domains/code_.py puts its text in front of a test that needs it (`equipped`).

Of pytest there are raises, approx, mark (parametrize, skip), param, fail, and fixtures of the test's own. A row whose test
asks for other fixtures is refused when it is loaded (code_.py).
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import inspect as _inspect
import itertools as _itertools
import math as _math
import re as _re
import sys as _sys
import types as _types


def _same(got, want):
    """Equality of a result and JSON: tuples are lists, keys may be texts of numbers, floats are right within 1e-6."""
    if isinstance(want, list):
        return isinstance(got, (list, tuple)) and len(got) == len(want) and all(map(_same, got, want))
    if isinstance(want, dict) and isinstance(got, dict):
        got, want = ({str(key): value for key, value in side.items()} for side in (got, want))
        return got.keys() == want.keys() and all(_same(got[key], want[key]) for key in want)
    if isinstance(got, float) and type(want) in (int, float) or isinstance(want, float) and type(got) is int:
        return got == want or _math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6)
    return got == want


class _Approx:
    """A number, or numbers in a list, tuple or dict, up to a tolerance: pytest.approx."""
    def __init__(self, want, rel=None, abs=None):
        self.want, self.rel, self.abs = want, rel or 1e-6, 1e-12 if abs is None else abs
    def __eq__(self, got):
        near = lambda got, want: got == _Approx(want, self.rel, self.abs)
        if isinstance(self.want, dict):
            return got.keys() == self.want.keys() and all(near(got[key], self.want[key]) for key in got)
        if isinstance(self.want, (list, tuple)):
            return len(got) == len(self.want) and all(map(near, got, self.want))
        return got == self.want or _math.isclose(got, self.want, rel_tol=self.rel, abs_tol=self.abs)


class _Raises:
    """pytest.raises, as a `with` block or as a call."""
    def __init__(self, kinds, function=None, *args, match=None, **kwargs):
        self.kinds, self.match = kinds, match
        if function:
            with self:
                function(*args, **kwargs)
    def __enter__(self):
        return self
    def __exit__(self, kind, error, trace):
        assert kind is not None, "nothing was raised"
        self.type, self.value = kind, error
        assert not issubclass(kind, self.kinds) or not self.match or _re.search(self.match, str(error)), "another text"
        return issubclass(kind, self.kinds)


class _Marks:
    def parametrize(self, names, rows, **_):
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        rows = [getattr(row, "values", row) if len(names) > 1 else (getattr(row, "values", (row,))[0],) for row in rows]
        def mark(function):
            function.rows = [{**row, **dict(zip(names, more))} for row in getattr(function, "rows", [{}]) for more in rows]
            return function
        return mark
    def __getattr__(self, name):
        def mark(*args, **_):
            def marked(function):
                function.skipped = name in ("skip", "xfail") or name == "skipif" and args and args[0]
                return function
            return marked(args[0]) if len(args) == 1 and callable(args[0]) else marked
        return mark


def _fixture(function=None, **_):
    def mark(function):
        function.fixture = True
        return function
    return mark(function) if function else mark


def _fail(reason=""):
    raise AssertionError(reason)


_pytest = _sys.modules["pytest"] = _types.ModuleType("pytest")
_pytest.approx, _pytest.raises, _pytest.mark, _pytest.fixture, _pytest.fail = _Approx, _Raises, _Marks(), _fixture, _fail
_pytest.param = lambda *values, **_: _types.SimpleNamespace(values=values)


def _run(names):
    """Run what pytest would: functions test*, classes Test*, unittest's cases; the first failure is raised."""
    def supply(function, given, within=()):
        for name, parameter in _inspect.signature(function).parameters.items():
            if name not in given and parameter.default is parameter.empty:
                make = getattr(within, name, None) or names.get(name)
                if name == "request" or not getattr(make, "fixture", False):
                    raise LookupError(f"no fixture {name}")
                given[name] = supply(make, {}, within)
                if _inspect.isgenerator(given[name]):
                    given[name] = next(given[name])
        return function(**given)

    for name, item in list(names.items()):
        if isinstance(item, type) and hasattr(item, "assertEqual"):
            _sys.modules["unittest"].defaultTestLoader.loadTestsFromTestCase(item).debug()
            continue
        is_class = isinstance(item, type) and name.startswith("Test")
        for method in [m for m in dir(item) if m.startswith("test")] if is_class else [name] * name.startswith("test_"):
            for row in getattr(getattr(item, method, item), "rows", [{}]):
                within = item() if is_class else ()
                function = getattr(within, method) if is_class else item
                if _inspect.isroutine(function) and not getattr(function, "skipped", False):
                    getattr(within, "setup_method", lambda *_: None)()
                    supply(function, dict(row), within)
