"""Rules of the house that no single module can break unseen."""

import ast
import contextlib
import importlib
import itertools
import operator
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "ftadvisor").rglob("*.py"))
LONGEST_MODULE = 400
LONGEST_FUNCTION = 50
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "base"}
UNIT_FACTORS = {1024, 1024**2, 1024**3, 3600, 86400}
# An absolute path of somebody's machine; a path inside a URL is none.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|farm|opt|tmp|root|home|Users)/[\w.]")
HEAVY = {"torch", "transformers", "peft", "numpy", "scipy", "pandas", "rich", "pydantic"}

each_module = pytest.mark.parametrize(
    "module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def tracked_files() -> list[Path]:
    """What git holds; outside a checkout, everything but hidden folders."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]
    paths = (path for path in ROOT.rglob("*") if path.is_file())
    return [p for p in paths if not any(part[0] == "." for part in p.relative_to(ROOT).parts)]


def test_layers_point_down(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_import_is_light():
    code = f"import sys, ftadvisor; print(sorted({HEAVY!r} & set(sys.modules)))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "[]"


@each_module
def test_unit_factors_live_in_units(module: Path):
    if module.name == "units.py":
        return
    found = {
        f"line {line}: {value}"
        for line, value in constants(module.read_text())
        if value in UNIT_FACTORS
    }
    assert not found, f"{sorted(found)} belong in ftadvisor/units.py"


@each_module
def test_modules_and_functions_are_short(module: Path):
    text = module.read_text()
    assert text.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_every_room_is_a_package():
    # Without it import-linter does not see the room at all.
    folders = {path.parent for path in MODULES}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()] == []


@each_module
def test_module_names_say_something(module: Path):
    assert module.stem not in EMPTY_NAMES


def test_no_file_names_a_path_of_one_machine():
    found: list[str] = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in MACHINE_PATH.findall(text)]
    assert found == []


def test_public_names_are_sorted_and_exist():
    ftadvisor = importlib.import_module("ftadvisor")
    assert ftadvisor.__all__ == sorted(ftadvisor.__all__)
    for name in ftadvisor.__all__:
        assert getattr(ftadvisor, name) is not None
    assert set(ftadvisor.__all__) <= set(dir(ftadvisor))
    with pytest.raises(AttributeError, match="estimat"):
        _ = ftadvisor.estimat


FOLDED = {
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


def constants(text: str) -> list[tuple[int, float]]:
    """Line and value of each number of a module, products and powers of numbers worked out.

    The default of a field (`max_length: int = 1024`) and an argument given by name are quantities,
    not factors.
    """
    found: list[tuple[int, float]] = []
    quantities: set[ast.AST | None] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant() as default):
                quantities |= {default} if name.islower() else set()
            case ast.keyword(value=ast.Constant() as given):
                quantities.add(given)
            case _ if node not in quantities:
                line = getattr(node, "lineno", 0)
                found += [(line, value) for value in (folded(node), *products(node)) if value]
    return found


def products(node: ast.AST) -> list[float]:
    """Of `x * 60 * y * 60`, 3600: the products of any two numbers of a chain."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return []
    numbers: list[float] = []
    chain: list[ast.expr] = [node]
    while chain:
        part = chain.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult):
            chain += [part.left, part.right]
        elif (number := folded(part)) is not None:
            numbers.append(number)
    return [a * b for a, b in itertools.combinations(numbers, 2)]


def folded(node: ast.AST) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in FOLDED:
        left, right = folded(node.left), folded(node.right)
        # No unit factor is made of such powers, and some of them would never end.
        if left is None or right is None or abs(right) > 100_000:
            return None
        with contextlib.suppress(OverflowError, TypeError):
            return FOLDED[type(node.op)](left, right)
    return None


@pytest.mark.parametrize(
    "text",
    [
        "x / 1024",
        "KB = 1024.0",
        "f(2**30)",
        "1 << 20",
        "60 * 60",
        "x * 24 * (60 * 60)",
        "x * 60 * y * 60",
    ],
)
def test_a_factor_is_seen_in_any_spelling(text: str):
    assert {value for _, value in constants(text)} & UNIT_FACTORS


def test_a_quantity_is_no_factor():
    text = "class S:\n    max_length: int = 1024\nf(max_length=1024, size=2 * 1024)"
    assert [value for _, value in constants(text) if value in UNIT_FACTORS] == [1024]
