"""The base of errors that a user can correct."""


class CloudError(ValueError):
    """Wrong input, settings or surroundings; one line that names the input and the remedy.

    The shell prints it without a traceback. Anything else that is raised is a fault of the program.
    """
