"""Another name of `unifylens.corpus.interventions`, for `import unifylens.interventions`."""

import sys

from unifylens.corpus import interventions
from unifylens.corpus.interventions import *  # noqa: F403 - what type checkers see

sys.modules[__name__] = interventions
