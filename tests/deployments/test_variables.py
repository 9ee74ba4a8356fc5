"""Names, values and `.env.production` files."""

import pytest

from deployments import variables


@pytest.mark.parametrize("name", ["A", "_", "openai_api_key", "A1", "AWS_ACCESS_KEY_ID", "a" * 128])
def test_ordinary_names_are_usable(name: str) -> None:
    variables.check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "1A", "A-B", "A B", "A=B", "É", "A\n", "a" * 129),
        *("_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_RUNTIME_API", "LD_PRELOAD"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(variables.UnableToUseVariable):
        variables.check_name(name)


@pytest.mark.parametrize("value", ["secret\0", "é" * 20_000, "secret\ud800"])
def test_values_no_environment_holds_are_refused_without_showing_them(value: str) -> None:
    with pytest.raises(variables.UnableToUseVariable) as refused:
        variables.check_value("A", value)
    assert value[:6] not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=one", "one"),
        ("A = one two ", "one two"),
        ("export A=one", "one"),
        ("A=", ""),
        ("A=one # comment", "one"),
        ("A=one#two", "one#two"),
        ("A=a=b=c", "a=b=c"),
        ("A='one # two'", "one # two"),
        ("A='a\\nb'", "a\\nb"),
        ('A="a\\nb\\t\\"c\\"\\\\"', 'a\nb\t"c"\\'),
        ('A="$HOME" # comment', "$HOME"),
        ('A=" padded "', " padded "),
        ('A="-----BEGIN\nline\n-----END"\nB=2', "-----BEGIN\nline\n-----END"),
        ("\ufeffA=one\r\nB=2\r\n", "one"),
        ("A=first\nA=second", "second"),
    ],
)
def test_environment_files_are_read_as_people_write_them(text: str, value: str) -> None:
    assert variables.read_environment_file(text)["A"] == value


def test_blank_lines_and_comments_are_skipped() -> None:
    assert variables.read_environment_file("\n# A=1\n  \nB=2") == {"B": "2"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\nno equals sign", "line 2: expected KEY=VALUE"),
        ('A=1\nB="never', 'line 2: the " quote is never closed'),
        ("A='x' y", "line 1: unexpected text"),
        ("1A=x", "line 1: '1A' is not a variable name"),
        ("_HANDLER=x", "line 1: _HANDLER is reserved"),
        ("\n".join(f"A{number}=1" for number in range(201)), "201 variables"),
    ],
)
def test_unreadable_environment_files_name_the_line(text: str, problem: str) -> None:
    with pytest.raises(variables.UnableToReadEnvironmentFile) as refused:
        variables.read_environment_file(text)
    assert problem in str(refused.value)
