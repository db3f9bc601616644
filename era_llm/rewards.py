"""A verifiable reward for mathematics: +1 for the right final answer, -1 for any other."""

import re
from functools import cache
from importlib import import_module
from threading import current_thread, main_thread
from typing import Any

_ANSWER_LINE = re.compile(r"(?:^|\n)[^\S\n]*\**answer\s*:\s*\**\s*([^\s*].*)", re.IGNORECASE)
# what LaTeX has between groups of digits: math_verify 0.9 reads 12\,345 as 12 + 345
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\\(?:[,;:> ]|thinspace\s*)(?=\d{3}(?!\d))")
_SECONDS = 5


def math_reward(completions: list[Any], answer: list[Any], **_: Any) -> list[float]:
    """Return 1 where the final answer of a completion equals the given one, else -1.

    Equality is that of math_verify, so 1/2 and 0.5 are one, as are sqrt(12) and 2 sqrt(3).

    Args:
        completions: Texts, or conversations whose last message is the completion.
        answer: The right answers, as text or numbers.

    Raises:
        ImportError: If math_verify is not installed.
    """
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    pairs = zip(texts, map(str, answer), strict=True)
    return [1.0 if is_right(*pair) else -1.0 for pair in pairs]


def is_right(completion: str, answer: str) -> bool:
    """Return whether the final answer of a completion equals an answer."""
    found, verifier = final_answer(completion), math_verify()
    if found is None:
        return False
    # math_verify stops by a signal what takes too long, which the main thread alone can do.
    seconds = _SECONDS if current_thread() is main_thread() else None
    right, given = (
        verifier.parse(f"${_BETWEEN_DIGITS.sub('', text)}$", parsing_timeout=seconds)
        for text in (final_answer(answer) or answer, found)
    )
    return verifier.verify(right, given, timeout_seconds=seconds)


@cache
def math_verify() -> Any:
    """Return the package math_verify.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return import_module("math_verify")
    except ImportError as error:
        raise ImportError("math_reward needs math_verify: install era-rl[math]") from error


def final_answer(text: str) -> str | None:
    r"""Return what the last \boxed{} holds, else the last "Answer:" line, else None."""
    start = text.rfind(r"\boxed{")
    if start >= 0:
        return _braced(text, start + len(r"\boxed"))
    lines = _ANSWER_LINE.findall(text)
    return lines[-1].strip().strip("*$").rstrip(".") if lines else None


def _braced(text: str, start: int) -> str | None:
    """Return the content of the balanced braces that open at a position; None if they never close."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start + 1 : index]
    return None
