"""Every error a user may see, as one small tree.

MoroccoError                 exit 1..3, message: seen, rule, remedy
+-- InvalidResult     (1)    the result is wrong: bad predictions, INVALID run, failed verification
|   +-- Refused       (1)    an archive of somebody else's, by the name of a rule that it breaks
+-- UsageError        (2)    wrong option, missing or unreadable input
+-- EnvironmentFailure (3)   engine, network, disk or device failed; nothing was concluded, run again
"""


class MoroccoError(Exception):
    """A failure that is explained to the user instead of shown as a traceback.

    Args:
        seen: What was found, with numbers and places.
        rule: What holds otherwise.
        remedy: The next thing to do, if possible a command.
    """

    exit_code = 1

    def __init__(self, seen: str, *, rule: str = "", remedy: str = ""):
        self.seen, self.rule, self.remedy = seen, rule, remedy
        super().__init__("; ".join(part for part in (seen, rule, remedy) if part))


class InvalidResult(MoroccoError):
    """Something was produced, and it is not valid."""

    exit_code = 1


class Refused(InvalidResult):
    """An archive is refused; `code` names the rule that it breaks."""

    def __init__(self, code: str, seen: str):
        self.code = code
        super().__init__(f"{code}: {seen}")


class UsageError(MoroccoError):
    """The command or its input cannot be used as given."""

    exit_code = 2


class EnvironmentFailure(MoroccoError):
    """The surroundings failed; the same command may succeed later."""

    exit_code = 3
