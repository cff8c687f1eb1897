"""Which experiments the notebooks run, in each profile: lists of `(labels, experiment)` for `train_design`.

Members of a design differ only in what their labels say, so those of one seed start from the same weights.
Reported seeds are 0, 1, 2, ...; everything was tuned on seeds from 1000.
"""

from unifylens.designs.common import SMALL, Design, seeds, small
from unifylens.designs.default_dish import (
    BOUNDARIES,
    CRITICAL_PARALLEL,
    LATE_READING,
    LATE_READING_POSITIONS,
    MIXED_DIALS,
    PARALLEL_LEVELS,
    SCHEDULES,
    UNIFIED_AND_SEPARATE,
    critical_period,
    many_models,
    mixed_dials,
    parallel_levels,
    unified_and_separate,
)
from unifylens.designs.diagram import (
    DIAGRAM,
    DIAGRAM_CORNERS,
    DIAGRAM_PARALLEL,
    DIAGRAM_SHARED,
    DIAGRAM_SKEWS,
    DIAGRAM_VARIANTS,
    diagram_cell,
    diagram_variants,
    phase_diagram,
)
from unifylens.designs.extractability import (
    EXTRACTABILITY_PARALLEL,
    LANGUAGE_CUES,
    SHARED_FUNCTION_WORDS,
    SHARED_SUBJECTS,
    SHARED_WORDS,
    extractability,
    extractability_dials,
)
from unifylens.designs.informativeness import (
    EXPOSURE_BALANCES,
    INFORMATION_DIALS,
    INFORMATION_PARALLEL,
    MATCHED_BALANCES,
    as_informative,
    informativeness,
    rare_copies,
)
from unifylens.designs.pieces import LEXICAL_DISTANCES, PIECES, TOKENIZERS, lexical_distances, tokenizers
from unifylens.designs.random_dishes import CONDITIONS, across_dishes, dishes
from unifylens.designs.real_models import ASKED_LANGUAGES, ASKED_RELATIONS, per_relation
from unifylens.designs.real_words import (
    FORCES,
    FORCES_PARALLEL,
    NAMED_FORCES,
    REAL_PARALLEL,
    REAL_WORDS,
    real,
    real_forces,
    real_levels,
)
from unifylens.designs.turning import (
    TURNING,
    TURNS,
    TWO_WAYS,
    Turn,
    dial_ends,
    separate_donors,
    turning,
    two_ways,
)
