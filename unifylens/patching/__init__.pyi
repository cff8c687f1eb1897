from . import edits, hooks, metrics, places, routes, stream, subspaces
from .edits import UNEDITED, Batch, Edit, experiment, patch_at, steer_at
from .metrics import Metric, answered, answered_among, logit_difference, probability
from .places import by_component, by_head, by_layer_and_position, by_neurons
from .routes import by_path
from .stream import last_logits, layer_names, residual, run_prompts
from .subspaces import Subspace

__all__ = [
    "UNEDITED",
    "Batch",
    "Edit",
    "Metric",
    "Subspace",
    "answered",
    "answered_among",
    "by_component",
    "by_head",
    "by_layer_and_position",
    "by_neurons",
    "by_path",
    "edits",
    "experiment",
    "hooks",
    "last_logits",
    "layer_names",
    "logit_difference",
    "metrics",
    "patch_at",
    "places",
    "probability",
    "residual",
    "routes",
    "run_prompts",
    "steer_at",
    "stream",
    "subspaces",
]
