from pathlib import Path

import pytest

from headrace.pipeline.config.references import FunctionMissing, load_function


def test_a_function_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine_of_this_test.py").write_text("def double(x):\n    return 2 * x\n")
    assert load_function("mine_of_this_test:double", tmp_path)(4) == 8


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "AttributeError"),
        ("make = 7\n", "is not a function"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("import nowhere\n", "ModuleNotFoundError"),
    ],
)
def test_one_that_is_missing_is_told_with_the_file_to_put_it_into(tmp_path: Path, source: str, words: str) -> None:
    module = f"broken_{len(source)}"
    (tmp_path / f"{module}.py").write_text(source)
    with pytest.raises(FunctionMissing) as caught:
        load_function(f"{module}:make", tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / f"{module}.py") in caught.value.hint
