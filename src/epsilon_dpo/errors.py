"""The one exception whose message is written for the user."""


class UserError(Exception):
    """Something outside the code is wrong: a number, a file, a folder, a network.

    The message is one sentence that says what is wrong, where, and what to do. A stage prints it without a traceback
    and exits with 1; any other exception is a bug in this project and keeps its traceback.
    """
