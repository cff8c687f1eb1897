"""Another name of `unifylens.patching.hooks`, for `import unifylens.hooks`."""

import sys

from unifylens.patching import hooks
from unifylens.patching.hooks import *  # noqa: F403 - what type checkers see

sys.modules[__name__] = hooks
