"""Another name of `unifylens.training.influence`, for `import unifylens.influence`."""

import sys

from unifylens.training import influence
from unifylens.training.influence import *  # noqa: F403 - what type checkers see

sys.modules[__name__] = influence
