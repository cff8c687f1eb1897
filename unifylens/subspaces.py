"""Another name of `unifylens.patching.subspaces`, for `import unifylens.subspaces`."""

import sys

from unifylens.patching import subspaces
from unifylens.patching.subspaces import *  # noqa: F403 - what type checkers see

sys.modules[__name__] = subspaces
