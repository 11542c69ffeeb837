"""What can go wrong with what a user asks, each with what to do about it.

FtadvisorError
├─ UnknownNameError        no such model, GPU, technique ...; lists the near misses
│  └─ AmbiguousNameError   several that differ in what matters; lists them
├─ InvalidSettingError     a value that makes no sense, or not together with another
├─ UnsupportedError        makes sense but is refused, with the reason and what works instead
├─ DataFileError           a row of a data file: file, row, field, what to write
├─ ModelUnavailableError   a config that the hub does not hand out
└─ MissingExtraError       needs packages that are not installed

"Does not fit" is a result, not an error. The command line turns any of these into one message and
exit code 2; anything else that escapes is a fault of ftadvisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

_LONGEST_QUOTE = 80
_LONG_NUMBER = 3
"""Digits from which on a number is a model's rather than a size."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in a line that can stand inside a sentence."""
    return str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__


class FtadvisorError(Exception):
    """A request that cannot be answered.

    `message` says what is wrong, with the value; `suggestions` are what to type or do instead, best
    first. `str()` gives both, on one line.
    """

    kind: ClassVar[str] = "error"
    lead: ClassVar[str] = "Try"
    """What stands before the suggestions when the error is printed."""

    def __init__(self, message: str, suggestions: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(suggestions))
        self.message = message
        self.suggestions = tuple(suggestions)

    def __str__(self) -> str:
        if not self.suggestions:
            return self.message
        end = "?" if self.lead.startswith("Did") else ""
        return f"{self.message} {self.lead}: {', '.join(self.suggestions)}{end}"

    def as_dict(self) -> dict[str, dict[str, object]]:
        """What `--json` prints: `{"error": {"kind", "message", "suggestions"}}`."""
        return {
            "error": {
                "kind": self.kind,
                "message": self.message,
                "suggestions": list(self.suggestions),
            }
        }

    def __reduce__(self) -> tuple[object, ...]:
        # The subclasses take other arguments than Exception.args holds; processes hand errors over.
        return (_rebuild, (type(self), self.message, self.suggestions), dict(self.__dict__))


class UnknownNameError(FtadvisorError):
    """A name that no catalogue holds.

    Args:
        noun: what was looked for, as a person says it: `GPU`, `model`, `technique`.
        value: what was given.
        names: all names that would have been understood; the nearest become the suggestions.
        see: the command that lists them, `ftadvisor list gpus`.
    """

    kind = "unknown_name"
    lead = "Did you mean"

    def __init__(self, noun: str, value: object, names: Iterable[str], see: str = "") -> None:
        where = f" (`{see}` shows all)" if see else ""
        super().__init__(
            f"No {noun} is called {quoted(value)}{where}.", near_misses(str(value), names)
        )
        self.noun = noun
        self.value = value


class AmbiguousNameError(UnknownNameError):
    """A name that several things answer to, which differ in a way that changes the answer."""

    kind = "ambiguous_name"
    lead = "Write one of"

    def __init__(self, noun: str, value: object, candidates: Sequence[str], differ_in: str) -> None:
        message = f"{quoted(value)} names {len(candidates)} {noun}s that differ in {differ_in}."
        FtadvisorError.__init__(self, message, candidates)
        self.noun = noun
        self.value = value


class InvalidSettingError(FtadvisorError):
    """A setting out of its range, or two that exclude each other."""

    kind = "invalid_setting"

    @classmethod
    def of(
        cls, setting: str, value: object, must: str, suggestions: Sequence[str] = ()
    ) -> InvalidSettingError:
        """The usual form: `lora_r is 0: must be at least 1.`"""
        return cls(f"{setting} is {quoted(value)}: must {must}.", suggestions)


class UnsupportedError(FtadvisorError):
    """Something real that ftadvisor refuses to estimate rather than guess."""

    kind = "unsupported"

    @classmethod
    def of(cls, what: str, reason: str, nearest: Sequence[str] = ()) -> UnsupportedError:
        """The usual form: `what` cannot be estimated because of `reason`; `nearest` can be."""
        return cls(f"{what} is not supported: {reason}.", nearest)


class DataFileError(FtadvisorError):
    """A data file that says something it cannot mean.

    Args:
        file: the file's name as the user knows it.
        row: its line number (from 1) or the id of its row; None: the file as a whole.
        field: the key; None: the row as a whole.
        problem: what is wrong with it, with the value.
        write: what to write instead.
    """

    kind = "data_file"
    lead = "Write"

    def __init__(
        self, file: str, row: int | str | None, field: str | None, problem: str, write: str = ""
    ) -> None:
        place = file
        if row is not None:
            place += f", line {row}" if isinstance(row, int) else f", row {quoted(row)}"
        if field is not None:
            place += f", field {quoted(field)}"
        super().__init__(f"{place}: {problem}.", [write] if write else [])
        self.file = file
        self.row = row
        self.field = field


class ModelUnavailableError(FtadvisorError):
    """A model whose config.json cannot be had: gated, missing, or no network."""

    kind = "model_unavailable"


class MissingExtraError(FtadvisorError):
    """A command that needs packages which `pip install ftadvisor` leaves out."""

    kind = "missing_extra"
    lead = "Run"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed.",
            [f"pip install 'ftadvisor[{extra}]'"],
        )
        self.extra = extra


def quoted(value: object) -> str:
    """A value for an error message: on one line, without control characters, not endless."""
    try:
        text = repr(value)
    except ValueError:
        # Python prints no integer of more than 4300 digits.
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"


def near_misses(value: str, names: Iterable[str], limit: int = 5) -> list[str]:
    """Those of `names` that a person who typed `value` may have meant, best first.

    Case and punctuation do not count. Names that contain the value (or lie in it) come first,
    shortest first; then those spelt alike, of which the same number of a model or a size decides
    before spelling.
    """
    # difflib costs a start-up that only a wrong name should pay.
    from difflib import get_close_matches

    wanted = _bare(value)
    if not wanted:
        return []
    by_bare: dict[str, str] = {}
    for name in names:
        by_bare.setdefault(_bare(name), name)
    inside = [
        bare for bare in by_bare if wanted in bare or (len(bare) >= 3 and wanted.startswith(bare))
    ]
    inside.sort(key=lambda bare: (abs(len(bare) - len(wanted)), bare))
    alike = get_close_matches(wanted[:_LONGEST_QUOTE], by_bare, n=3 * limit, cutoff=0.6)
    numbers = _numbers(value)
    # What a long number names, as in rtx-4090-laptop, is meant however the rest is spelt.
    long = {number for number in numbers if len(number) >= _LONG_NUMBER}
    alike += [bare for bare in by_bare if long and long & _numbers(by_bare[bare])]
    # Characters that changed places, as in rtx3600, whatever the name goes on with.
    order = sorted(wanted)
    swapped = [bare for bare in by_bare if sorted(bare[: len(wanted)]) == order]
    alike = [*swapped, *alike]
    alike.sort(key=lambda bare: -len(numbers & _numbers(by_bare[bare])))
    return [by_bare[bare] for bare in dict.fromkeys([*inside, *alike])][:limit]


def _bare(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def _numbers(name: str) -> set[str]:
    return set("".join(char if char.isdecimal() else " " for char in name).split())


def _rebuild(
    cls: type[FtadvisorError], message: str, suggestions: tuple[str, ...]
) -> FtadvisorError:
    error = cls.__new__(cls)
    FtadvisorError.__init__(error, message, suggestions)
    return error
