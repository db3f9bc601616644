"""A verifiable reward for mathematics: +1 for the right final answer, -1 for any other."""

import re
from fractions import Fraction
from typing import Any

_ANSWER_LINE = re.compile(r"(?:^|\n)[^\S\n]*\**answer\**\s*:\s*(.+)", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}")
# Fraction would write out any exponent: 1e9999999999 has ten billion digits.
_NUMBER = re.compile(r"[-+]?(\d+/\d+|(\d+(\.\d*)?|\.\d+)(e[-+]?\d{1,3})?)", re.IGNORECASE)
_NOISE = re.compile(r"\\left|\\right|\\[,;!%$ ]|[\s$%]")


def math_reward(completions: list[Any], answer: list[Any], **_: Any) -> list[float]:
    """Return 1 where the final answer of a completion equals the given one, else -1.

    Args:
        completions: Texts, or conversations whose last message is the completion.
        answer: The right answers, as text or numbers.
    """
    return [
        1.0 if is_right(_text(completion), str(right)) else -1.0
        for completion, right in zip(completions, answer, strict=True)
    ]


def is_right(completion: str, answer: str) -> bool:
    """Return whether the final answer of a completion equals an answer, as numbers or as text."""
    found = final_answer(completion)
    if found is None:
        return False
    left, right = normalised(found), normalised(final_answer(answer) or answer)
    numbers = _number(left), _number(right)
    return left == right if None in numbers else numbers[0] == numbers[1]


def final_answer(text: str) -> str | None:
    r"""Return what the last \boxed{} holds, else the last "Answer:" line, else None."""
    start = text.rfind(r"\boxed{")
    if start >= 0:
        return _braced(text, start + len(r"\boxed"))
    lines = _ANSWER_LINE.findall(text)
    return lines[-1].strip().rstrip(".") if lines else None


def normalised(answer: str) -> str:
    """Return an answer without LaTeX spacing, dollar and percent signs, and with plain fractions."""
    plain = _FRACTION.sub(r"(\1)/(\2)", _TEXT.sub(r"\1", answer))
    return _NOISE.sub("", plain).rstrip(".")


def _braced(text: str, start: int) -> str | None:
    """Return the content of the balanced braces that open at a position; None if they never close."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start + 1 : index]
    return None


def _number(text: str) -> Fraction | None:
    """Read "1,234", "-0.5", "1e3", "3/4" or "(3)/(4)" exactly; None for anything else."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    plain = re.sub(r"[()]", "", plain) if re.fullmatch(r"-?\([^()]+\)/\([^()]+\)", plain) else plain
    if not _NUMBER.fullmatch(plain):
        return None
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
