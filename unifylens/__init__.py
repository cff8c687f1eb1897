"""Grow tiny multilingual Transformers in a dish and see what makes a fact one representation or two.

One fact's way goes through the rooms in this order, and none reaches back:

- `config` says what an experiment is (`model` builds its Transformer); `corpus` makes a `World` of facts, the words of
  its languages, tokens, and who sees what how often
- `training` trains many models at once and keeps each as a `Run`: the model, its checkpoints, its history
- `crosslingual` asks a model of the dish in every language; `pretrained` does so with models that others trained
- `measures` (tensors in, numbers out) and `patching` (any model with TransformerLens hook names) stand on their own;
  `edits` changes what any such model says of a fact
- `designs` lists what the notebooks train, `evidence` what is claimed and found, `reproduce` runs it all
- ground, under all of them: `seeds`, `errors`, `arguments` (what users hand over), `cards` (how things print),
  `environment` (folders, settings), `hardware`
"""

import os

import lazy_loader

# Before torch loads OpenMP: its threads spin while they wait, which beside another busy process costs a factor of 30.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.5.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
