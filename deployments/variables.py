"""Environment variables as text: what a name and a value may be, and reading `.env.production`.

Pure. Owns the rules; must not know where variables are kept or who set them. No error message ever
holds a value.
"""

import re

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
NAME_CHARACTERS_MAX = 128
VALUE_BYTES_MAX = 32 * 1024
COUNT_MAX = 200
# Linux gives a new process about 2 MB for arguments and environment.
TOTAL_BYTES_MAX = 512 * 1024

# The runtime sets these itself. The list follows AWS Lambda's reserved names, without the AWS
# credentials, which are not the platform's here. https://docs.aws.amazon.com/lambda/latest/dg/
# configuration-envvars.html
RESERVED = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_EXECUTION_ENV",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)
# LD_*: the dynamic linker would act on them before the function's sandbox is closed.
RESERVED_PREFIXES = ("AWS_LAMBDA_", "LD_")

DOUBLE_QUOTE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


class UnableToUseVariable(Exception):
    """A name or value that no environment can hold, or that the platform keeps for itself."""


class UnableToReadEnvironmentFile(Exception):
    """A line of `.env.production` that is not KEY=VALUE; the message names the line."""


def check_name(name: str) -> None:
    """Raises UnableToUseVariable when a variable cannot be called `name`."""
    if len(name) > NAME_CHARACTERS_MAX:
        raise UnableToUseVariable(
            f"A variable name may have at most {NAME_CHARACTERS_MAX} characters."
        )
    if not NAME_PATTERN.fullmatch(name):
        raise UnableToUseVariable(
            f"{name!r} is not a variable name: use letters, digits and _, not starting with a "
            "digit."
        )
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        raise UnableToUseVariable(f"{name} is reserved for the runtime; choose another name.")


def check_value(name: str, value: str) -> None:
    """Raises UnableToUseVariable when `value` is too long or cannot be in an environment."""
    if "\0" in value:
        raise UnableToUseVariable(f"The value of {name} contains a NUL character.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UnableToUseVariable(f"The value of {name} is not valid Unicode text.") from None
    if size > VALUE_BYTES_MAX:
        raise UnableToUseVariable(
            f"The value of {name} has {size:,} bytes; at most {VALUE_BYTES_MAX:,} are allowed."
        )


def check_count(count: int) -> None:
    """Raises UnableToUseVariable when a deployment would have more than COUNT_MAX variables."""
    if count > COUNT_MAX:
        raise UnableToUseVariable(
            f"That makes {count} variables; a deployment may have at most {COUNT_MAX}."
        )


def check_total(values: dict[str, str]) -> None:
    """Raises UnableToUseVariable when `values` together are more than TOTAL_BYTES_MAX."""
    size = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in values.items())
    if size > TOTAL_BYTES_MAX:
        raise UnableToUseVariable(
            f"The environment has {size:,} bytes in all; at most {TOTAL_BYTES_MAX:,} are allowed."
        )


def read_environment_file(text: str) -> dict[str, str]:
    """The variables of a `.env.production` file; a later line wins.

    Understands blank lines, `#` comments, `export `, single quotes (literal), double quotes (with
    backslash escapes), both over several lines, and a comment after an unquoted value. `$NAME` is
    not expanded. Raises UnableToReadEnvironmentFile naming the line.
    """
    variables: dict[str, str] = {}
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    position = 0
    while position < len(lines):
        line_number = position + 1
        line = lines[position].strip()
        position += 1
        if not line or line.startswith("#"):
            continue
        name, raw = _split_assignment(line, line_number)
        if raw[:1] in {"'", '"'}:
            # The untouched rest of the line: blanks inside quotes count.
            rest = lines[position - 1].split("=", 1)[1].lstrip()
            value, position = _read_quoted(rest, lines, position, line_number)
        else:
            value = re.split(r"\s#", raw, maxsplit=1)[0].strip()
        _check(name, value, line_number)
        variables[name] = value
    if len(variables) > COUNT_MAX:
        raise UnableToReadEnvironmentFile(
            f".env.production has {len(variables)} variables; at most {COUNT_MAX} are allowed."
        )
    return variables


def _split_assignment(line: str, line_number: int) -> tuple[str, str]:
    assignment = re.sub(r"^export\s+", "", line)
    name, equals, raw = assignment.partition("=")
    if not equals:
        raise UnableToReadEnvironmentFile(
            f".env.production line {line_number}: expected KEY=VALUE."
        )
    return name.strip(), raw.strip()


def _check(name: str, value: str, line_number: int) -> None:
    try:
        check_name(name)
        check_value(name, value)
    except UnableToUseVariable as error:
        raise UnableToReadEnvironmentFile(f".env.production line {line_number}: {error}") from None


def _read_quoted(rest: str, lines: list[str], position: int, line_number: int) -> tuple[str, int]:
    """The value that starts with a quote at the start of `rest`, and the next line's position."""
    quote, rest = rest[0], rest[1:]
    parts: list[str] = []
    while True:
        piece, after = _until_quote(rest, quote)
        parts.append(piece)
        if after is not None:
            break
        if position >= len(lines):
            raise UnableToReadEnvironmentFile(
                f".env.production line {line_number}: the {quote} quote is never closed."
            )
        rest = lines[position]
        position += 1
    if after.strip() and not after.strip().startswith("#"):
        raise UnableToReadEnvironmentFile(
            f".env.production line {line_number}: unexpected text after the closing quote."
        )
    return "\n".join(parts), position


def _until_quote(text: str, quote: str) -> tuple[str, str | None]:
    """What comes before the closing quote, and what follows it; None when it is not in `text`."""
    taken: list[str] = []
    characters = iter(enumerate(text))
    for index, character in characters:
        if character == quote:
            return "".join(taken), text[index + 1 :]
        if character == "\\" and quote == '"' and index + 1 < len(text):
            _, escaped = next(characters)
            taken.append(DOUBLE_QUOTE_ESCAPES.get(escaped, "\\" + escaped))
        else:
            taken.append(character)
    return "".join(taken), None
