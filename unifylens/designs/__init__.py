"""Which experiments the notebooks run, in each profile: lists of `(labels, experiment)` for `train_design`.

Members of a design differ only in what their labels say, so those of one seed start from the same weights.
Reported seeds are 0, 1, 2, ...; everything was tuned on seeds from 1000.
"""

from unifylens.designs.common import SMALL, Design, described, few_seeds, seeds, small
from unifylens.designs.default_dish import (
    BOUNDARIES,
    CRITICAL_PARALLEL,
    FOUR_LAYERS,
    LANGUAGE_TOKEN,
    LATE_READING,
    LATE_READING_POSITIONS,
    MIXED_DIALS,
    ONE_RECIPE_PARALLEL,
    PARALLEL_LEVELS,
    PLASTIC,
    PLASTIC_BOUNDARIES,
    SCHEDULES,
    UNIFIED_AND_SEPARATE,
    critical_period,
    many_models,
    mixed_dials,
    one_recipe,
    parallel_levels,
    plasticity,
    unified_and_separate,
)
from unifylens.designs.diagram import (
    DECAY_AND_RATE,
    DECAYS,
    DIAGRAM,
    DIAGRAM_CORNERS,
    DIAGRAM_PARALLEL,
    DIAGRAM_SHARED,
    DIAGRAM_SKEWS,
    DIAGRAM_VARIANTS,
    RATES,
    decay_and_rate,
    diagram_cell,
    diagram_variants,
    phase_diagram,
)
from unifylens.designs.edited import (
    EDITED_PARALLEL,
    EDITED_TEMPLATES,
    EDITED_WORDS,
    MIDDLING_PARALLEL,
    edited_levels,
    edited_templates,
    edited_words,
)
from unifylens.designs.extractability import (
    EXTRACTABILITY_PARALLEL,
    FEWER_PARALLEL,
    JUDGED_SHARED,
    LANGUAGE_CUES,
    SHARED_FUNCTION_WORDS,
    SHARED_SUBJECTS,
    SHARED_WORDS,
    extractability,
    extractability_dials,
    fewer_parallel,
)
from unifylens.designs.informativeness import (
    EXPOSURE_BALANCES,
    INFORMATION_DIALS,
    INFORMATION_PARALLEL,
    LONGER,
    LONGER_BALANCES,
    MATCHED_BALANCES,
    as_informative,
    informativeness,
    rare_copies,
)
from unifylens.designs.pieces import LEXICAL_DISTANCES, PIECES, TOKENIZERS, lexical_distances, tokenizers
from unifylens.designs.random_dishes import CONDITIONS, across_dishes, dishes, drawn
from unifylens.designs.real_models import (
    ASKED_LANGUAGES,
    ASKED_RELATIONS,
    EDITED_BLOCKS,
    EDITED_RELATIONS,
    n_edited,
    per_relation,
)
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
