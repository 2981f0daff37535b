"""YAML within bounds: what would fill the memory or hang is refused, and all that is not YAML is one kind of error."""

from __future__ import annotations

import pytest

from mvp_deploy.base.yamlfile import NotYaml, parse

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


def test_values_aliases_and_merges_are_read() -> None:
    assert parse("a: &a {b: 1.5}\nc: {<<: *a, d: [x, *a]}\n")[1] == {
        "a": {"b": 1.5},
        "c": {"b": 1.5, "d": ["x", {"b": 1.5}]},
    }
    assert parse("")[1] is None


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        (BOMB, "more than 20,000 keys and values", 14),
        ("a: 1\nb: &b [*b]", "within what it stands for", 2),
        ("[" * 10_000, "more than 20 levels", 1),
        ("x:\n " + "{a: " * 5_000, "more than 20 levels", 2),
        ("[" + "a," * 50_000, "more than 20,000", 1),
        (f"a: {'x' * 20_000}", "more than 10,000 characters", 1),
        ("a: 1\na: 2", "a: this key is there twice", 2),
        ("a: " + "9" * 30, "too large a number", 1),
        ("a: " + ":".join("1" * 4000), "too large a number", 1),
        (r'a: "\ud800"', "no text has", 1),
        (r'a: "\0"', "no text has", 1),
        ("a: !!python/object/apply:os.system [ls]", "not YAML", 1),
        ("a: 2001-99-99", "not YAML", None),
        ("a: !!int ''", "not YAML", None),
        ("a: !!timestamp x", "not YAML", None),
        ("a: \0", "not YAML", None),
        ("a: [", "not YAML", 1),
    ],
)
def test_the_rest_is_refused_with_its_line(text: str, told: str, line: int | None) -> None:
    with pytest.raises(NotYaml) as error:
        parse(text)
    assert told in str(error.value)
    assert error.value.line == line
