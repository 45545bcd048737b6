"""The errors that a user can put right; each message is one line that says how."""


class MMVisionLLaMAError(Exception):
    """Base of this package's own errors."""


class CheckpointError(MMVisionLLaMAError, RuntimeError):
    """A checkpoint cannot be read or does not fit."""


class DataError(MMVisionLLaMAError, ValueError):
    """A file of a data set is missing, damaged or does not fit, or a data set is empty."""


class MissingFileError(MMVisionLLaMAError, FileNotFoundError):
    """A file that a metric needs is not there."""


class OptionError(MMVisionLLaMAError, ValueError):
    """A setting that does not fit a model, a config or a data set."""


class MissingExtraError(MMVisionLLaMAError, ImportError):
    """A library of one of the package's extras is not installed."""


class LaunchError(MMVisionLLaMAError, RuntimeError):
    """Something given on the command line is wrong."""
