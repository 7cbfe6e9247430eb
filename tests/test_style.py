"""Files and functions of a size that can be read at a sitting, signatures that say what is handed
on, and planted faults that fit the code.
"""

import ast
from collections.abc import Iterator

from .conftest import REPOSITORY
from .planted_faults import FAULTS

LINES = 350  # of a file
FUNCTION_LINES = 40
LONGER = {
    "encode/texts.py find_texts": "its helper is inside it",
    "demo/train_student.py main": "a recipe, from top to bottom",
    "engine/lm_head_triton.py _token_stats": "a kernel, and an argument a line",
}

# What is open by its nature, each under a name that says what it is; the rest is typed.
OPEN = {
    "config/load.py Values": "settings that are not checked yet",
    "corpus/row_faults.py Row": "a row of a corpus, or of Arrow",
    "corpus/turns.py Turn": "a turn, with what the student's template reads of it",
    "corpus/turns.py Call": "a tool call, with any arguments",
    "run/table_sums.py Totals": "columns of an aggregation",
    "store/seal.py Record": "JSON of any version",
}
UNTYPED = "dict[str, Any]"


def signatures(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The public functions, fields and aliases of a module: name, and the types it shows."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for holder in [tree, *classes]:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                types = [node.returns, *(argument.annotation for argument in given if argument)]
                yield node.name, " ".join(ast.unparse(kind) for kind in types if kind)
            elif isinstance(node, ast.AnnAssign) and holder is not tree:
                yield ast.unparse(node.target), ast.unparse(node.annotation)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
                yield ast.unparse(node.targets[0]), ast.unparse(node.value)


def test_no_signature_hands_on_a_dict_of_anything():
    """But for `to_json` and `from_json`, and what has a name of its own for it."""
    found = {
        f"{path.relative_to(REPOSITORY / 'rsr_ray')} {name}"
        for path in (REPOSITORY / "rsr_ray").rglob("*.py")
        for name, types in signatures(ast.parse(path.read_text()))
        if UNTYPED in types and not name.startswith("_") and not name.endswith("_json")
    }
    assert found == OPEN.keys()


def test_files_and_functions_are_short():
    for path in sorted((REPOSITORY / "rsr_ray").rglob("*.py")):
        text = path.read_text()
        assert text.count("\n") <= LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                name = f"{path.relative_to(REPOSITORY / 'rsr_ray')} {node.name}"
                assert node.end_lineno - node.lineno < FUNCTION_LINES or name in LONGER, name


def test_every_planted_fault_has_its_place_and_its_test():
    for fault in FAULTS:
        assert (REPOSITORY / fault.file).read_text().count(fault.old) == 1, fault
        file, _, test = fault.test.partition("::")
        assert f"def {test.partition('[')[0]}(" in (REPOSITORY / "tests" / file).read_text(), fault
