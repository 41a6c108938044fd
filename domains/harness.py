"""What tests of published sets find in the sets' own harnesses: equality as APPS has it, a small pytest, and someone who
runs test functions. No script imports this: domains/code_.py puts its text in front of a test that needs it (`equipped`).

Of pytest there are raises, approx, mark (parametrize, skip), param, fail, and fixtures of the test's own. A row whose test
asks for other fixtures is refused when it is loaded (code_.py).
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import inspect as _inspect
import math as _math
import re as _re
import sys as _sys
import types as _types


def _same(got, want, rel=1e-6, abs=1e-6, exact=True):
    """Equality of a result and JSON: tuples are lists, keys may be texts of numbers, floats are right within a tolerance,
    and so are other numbers if they need not be exact."""
    if isinstance(want, (list, tuple)):
        return isinstance(got, (list, tuple)) and len(got) == len(want) and all(
            _same(*pair, rel, abs, exact) for pair in zip(got, want))
    if isinstance(want, dict) and isinstance(got, dict):
        got, want = ({str(key): value for key, value in side.items()} for side in (got, want))
        return got.keys() == want.keys() and all(_same(got[key], want[key], rel, abs, exact) for key in want)
    floats = isinstance(got, float) and type(want) in (int, float) or isinstance(want, float) and type(got) is int
    return got == want or (floats or not exact) and _math.isclose(got, want, rel_tol=rel, abs_tol=abs)


class _Approx:
    """A number, or numbers in a list, tuple or dict, up to a tolerance: pytest.approx."""
    def __init__(self, want, rel=None, abs=None):
        self.settings = want, rel or 1e-6, 1e-12 if abs is None else abs, False
    def __eq__(self, got):
        return _same(got, *self.settings)


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
