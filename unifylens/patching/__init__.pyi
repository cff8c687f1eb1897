from . import checks, edits, hooks, metrics, places, positions, prompts, routes, stream, subspaces
from .checks import selfcheck
from .edits import UNEDITED, Edit, experiment, patch_at, steer_at
from .metrics import Metric, answered, answered_among, logit_difference, probability
from .places import by_component, by_head, by_layer_and_position, by_layer_and_role, by_neurons
from .positions import Batch
from .prompts import Prompts
from .routes import by_path
from .stream import last_logits, layer_names, residual, run_prompts
from .subspaces import Subspace

__all__ = [
    "UNEDITED",
    "Batch",
    "Edit",
    "Metric",
    "Prompts",
    "Subspace",
    "answered",
    "answered_among",
    "by_component",
    "by_head",
    "by_layer_and_position",
    "by_layer_and_role",
    "by_neurons",
    "by_path",
    "checks",
    "edits",
    "experiment",
    "hooks",
    "last_logits",
    "layer_names",
    "logit_difference",
    "metrics",
    "patch_at",
    "places",
    "positions",
    "probability",
    "prompts",
    "residual",
    "routes",
    "run_prompts",
    "selfcheck",
    "steer_at",
    "stream",
    "subspaces",
]
