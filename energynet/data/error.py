"""The error of data that cannot be read."""


class DataError(ValueError):
    """Data are missing, corrupt or not of the expected kind.

    Parameters
    ----------
    source : object
        What was read: a file, a directory, the name of a data set.
    expected : str
        What should have been there.
    got : str
        What was there.
    remedy : str
        What the user can do about it.
    """

    def __init__(self, source: object, expected: str, got: str, remedy: str) -> None:
        super().__init__(source, expected, got, remedy)
        self.source = source
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.source}: expected {self.expected}, got {self.got}; {self.remedy}"
