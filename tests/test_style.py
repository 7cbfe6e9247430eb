"""Files and functions of a size that can be read at a sitting."""

import ast

from .conftest import REPOSITORY

LINES = 350  # of a file
FUNCTION_LINES = 40
LONGER = {
    "encode/texts.py find_texts": "its helper is inside it",
    "demo/train_student.py main": "a recipe, from top to bottom",
}


def test_files_and_functions_are_short():
    for path in sorted((REPOSITORY / "rsr_ray").rglob("*.py")):
        text = path.read_text()
        assert text.count("\n") <= LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                name = f"{path.relative_to(REPOSITORY / 'rsr_ray')} {node.name}"
                assert node.end_lineno - node.lineno < FUNCTION_LINES or name in LONGER, name
