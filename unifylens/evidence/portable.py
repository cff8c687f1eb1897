"""A dish's model outside torch: its matrices, and an ONNX model of them whose states can be patched and shifted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unifylens import environment
from unifylens.config import ModelConfig
from unifylens.model import LOCAL_WINDOW
from unifylens.training import Run

if TYPE_CHECKING:
    import onnx

Weights = dict[str, Float[np.ndarray, "..."]]

EPSILON = 1e-5
"""Under the root of every normalisation, as TransformerLens has it."""
OPSET, IR_VERSION = 17, 8
"""Of ONNX, from 2021: what runtimes of the last years read."""


def shape_of(run: Run) -> dict[str, Any]:
    """What must be known of a model beside its weights. Raises ValueError for parts that are not exported."""
    config = run.experiment.model
    exported = {"positional_embedding_type": "standard", "language_neurons": 0, "n_experts": None}
    for name, allowed in exported.items():
        if (value := getattr(config, name)) != allowed:
            raise ValueError(f"model.{name}={value!r} is not exported; allowed: {allowed!r}.")
    fields = (
        "n_layers",
        "n_heads",
        "act_fn",
        "normalization",
        "local_blocks",
        "attn_only",
        "parallel_attn_mlp",
        "gated_mlp",
    )
    return {name: getattr(config, name) for name in fields} | {"window": LOCAL_WINDOW, "n_ctx": run.corpus.n_ctx}


def weights(run: Run, step: int | None = None) -> Weights:
    """Parameters after a step (None: the last) by `HookedTransformer`'s names, in matrices `[from, to]` over all heads.

    Raises ValueError for a step that was not kept.
    """
    parameters = run.parameters(run.steps[-1] if step is None else step)
    return {name: _flat(name, p.float().numpy()) for name, p in parameters.items()}


def _flat(name: str, value: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Heads side by side: `[head, d_model, d_head]` reads, `[head, d_head, d_model]` writes."""
    kind = name.rpartition(".")[2]
    if kind in ("W_Q", "W_K", "W_V"):
        return np.ascontiguousarray(value.transpose(1, 0, 2).reshape(value.shape[1], -1))
    if kind == "W_O":
        return value.reshape(-1, value.shape[-1])
    return value.reshape(-1) if kind in ("b_Q", "b_K", "b_V") else value


def save_onnx(run: Run, path: str | Path, step: int | None = None) -> Path:
    """Write the model after a step (None: the last) for runtimes of ONNX, float32; returns the path.

    Inputs: `tokens [row, pos]`, and three that may be left out: `replaced [layer, row, pos, 1]` says where a state
    becomes that of `replacement [layer, row, pos, d_model]`, and `added`, of the same shape, is added to states
    afterwards; lengths of 1 stand for all. Outputs: `logits [row, pos, vocab]` and `states [layer, row, pos, d_model]`,
    with all edits, by layer as `unifylens.states` has them (0 is the embedding).
    Raises ImportError, naming what to install, without onnx; ValueError for a step that was not kept and for models
    with rotary positions, experts or modules of languages.

    >>> model = ul.portable.onnx_model(run)
    >>> [each.name for each in model.graph.input], [each.name for each in model.graph.output]
    (['tokens', 'replaced', 'replacement', 'added'], ['logits', 'states'])
    """
    model = onnx_model(run, step)
    path = Path(path)
    path.write_bytes(model.SerializeToString())
    return path


def onnx_model(run: Run, step: int | None = None) -> onnx.ModelProto:
    """What `save_onnx` writes. Raises what it raises; see there."""
    environment.require("onnx", "exports to ONNX", "onnx")
    from onnx import TensorProto, checker, helper

    graph = _Graph(weights(run, step))
    _build(graph, shape_of(run), run.experiment.model)
    n_layers, width = run.experiment.model.n_layers + 1, run.experiment.model.d_model
    given = [
        ("tokens", TensorProto.INT64, ["row", "pos"]),
        ("replaced", TensorProto.BOOL, [n_layers, "rows or 1", "positions or 1", 1]),
        ("replacement", TensorProto.FLOAT, [n_layers, "rows or 1", "positions or 1", width]),
        ("added", TensorProto.FLOAT, [n_layers, "rows or 1", "positions or 1", width]),
    ]
    made = [
        ("logits", TensorProto.FLOAT, ["row", "pos", run.corpus.d_vocab]),
        ("states", TensorProto.FLOAT, [n_layers, "row", "pos", width]),
    ]
    # an input with an initial value may be left out
    for (name, *_), kind, last in zip(given[1:], (bool, np.float32, np.float32), (1, width, width), strict=True):
        graph.constant(np.zeros((n_layers, 1, 1, last), kind), name)
    inputs, outputs = ([helper.make_tensor_value_info(*each) for each in part] for part in (given, made))
    whole = helper.make_graph(graph.nodes, f"unifylens {run.folder.name}", inputs, outputs, graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return model


class _Graph:
    """ONNX nodes as they are added: every method gives the name of a result."""

    def __init__(self, parameters: Weights) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names = set(parameters)
        for name, value in parameters.items():
            self.constant(value, name)

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """A tensor of its own."""
        from onnx import numpy_helper

        name = name or f"constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def op(self, kind: str, *inputs: str | float | list[int], **attributes: Any) -> str:
        """A node; numbers are constants."""
        from onnx import helper

        names = [each if isinstance(each, str) else self._number(each) for each in inputs]
        result = f"{kind} {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def _number(self, value: float | list[int]) -> str:
        return self.constant(np.array(value, np.int64 if isinstance(value, list) else np.float32))

    def linear(self, x: str, matrix: str, bias: str | None = None) -> str:
        """`x @ matrix + bias`."""
        product = self.op("MatMul", x, matrix)
        return product if bias is None else self.op("Add", product, bias)


def _build(graph: _Graph, shape: dict[str, Any], config: ModelConfig) -> None:
    """Nodes from `tokens` to `logits` and `states`."""
    op = graph.op
    length = op("Gather", op("Shape", "tokens"), [1])
    state = op("Add", op("Gather", "embed.W_E", "tokens"), op("Slice", "pos_embed.W_pos", [0], length, [0]))
    place = op("Range", graph.constant(np.int64(0)), op("Squeeze", length), graph.constant(np.int64(1)))
    behind = op("Sub", op("Unsqueeze", place, [1]), op("Unsqueeze", place, [0]))  # [pos, pos], from key to query
    causal = op("GreaterOrEqual", behind, graph.constant(np.int64(0)))
    local = op("And", causal, op("Less", behind, graph.constant(np.int64(shape["window"]))))
    states = [state := _edited(graph, state, 0)]
    for block in range(shape["n_layers"]):
        seen = local if block < shape["local_blocks"] else causal
        state = _edited(graph, _block(graph, state, f"blocks.{block}", seen, shape, config), block + 1)
        states.append(state)
    final = _normalised(graph, state, "ln_final", shape)
    logits = graph.linear(final, "unembed.W_U", "unembed.b_U")
    stacked = op("Concat", *(op("Unsqueeze", each, [0]) for each in states), axis=0)
    for name, made in (("logits", logits), ("states", stacked)):
        graph.nodes.append(_named(made, name))


def _named(result: str, name: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [result], [name])


def _edited(graph: _Graph, state: str, layer: int) -> str:
    """A state with what users replace and add at its layer."""
    number = graph.constant(np.int64(layer))
    replaced, replacement, added = (
        graph.op("Gather", name, number, axis=0) for name in ("replaced", "replacement", "added")
    )
    return graph.op("Add", graph.op("Where", replaced, replacement, state), added)


def _block(graph: _Graph, state: str, name: str, seen: str, shape: dict[str, Any], config: ModelConfig) -> str:
    attention = _attention(graph, _normalised(graph, state, f"{name}.ln1", shape), f"{name}.attn", seen, config)
    middle = graph.op("Add", state, attention)
    if shape["attn_only"]:
        return middle
    read = state if shape["parallel_attn_mlp"] else middle
    return graph.op("Add", middle, _mlp(graph, _normalised(graph, read, f"{name}.ln2", shape), f"{name}.mlp", shape))


def _normalised(graph: _Graph, x: str, name: str, shape: dict[str, Any]) -> str:
    """Layer norm, or RMS norm, which does not centre; weights where it has them."""
    kind, op = shape["normalization"], graph.op
    if kind is None:
        return x
    if kind.startswith("LN"):
        x = op("Sub", x, op("ReduceMean", x, axes=[-1]))
    x = op("Div", x, op("Sqrt", op("Add", op("ReduceMean", op("Mul", x, x), axes=[-1]), EPSILON)))
    for kind, part in (("Mul", f"{name}.w"), ("Add", f"{name}.b")):
        x = op(kind, x, part) if part in graph.names else x
    return x


def _attention(graph: _Graph, x: str, name: str, seen: str, config: ModelConfig) -> str:
    op, width = graph.op, config.d_model // config.n_heads

    def heads(part: str, order: list[int]) -> str:
        flat = graph.linear(x, f"{name}.W_{part}", f"{name}.b_{part}")
        return op("Transpose", op("Reshape", flat, [0, 0, config.n_heads, width]), perm=order)

    scores = op("MatMul", heads("Q", [0, 2, 1, 3]), heads("K", [0, 2, 3, 1]))
    pattern = op("Softmax", op("Where", seen, op("Div", scores, float(np.sqrt(width))), -np.inf), axis=-1)
    mixed = op("Transpose", op("MatMul", pattern, heads("V", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return graph.linear(op("Reshape", mixed, [0, 0, config.d_model]), f"{name}.W_O", f"{name}.b_O")


def _mlp(graph: _Graph, x: str, name: str, shape: dict[str, Any]) -> str:
    if shape["gated_mlp"]:
        gate = _activated(graph, graph.linear(x, f"{name}.W_gate"), shape["act_fn"])
        hidden = graph.op("Add", graph.op("Mul", gate, graph.linear(x, f"{name}.W_in")), f"{name}.b_in")
    else:
        hidden = _activated(graph, graph.linear(x, f"{name}.W_in", f"{name}.b_in"), shape["act_fn"])
    return graph.linear(hidden, f"{name}.W_out", f"{name}.b_out")


def _activated(graph: _Graph, x: str, kind: str) -> str:
    op = graph.op
    if kind == "relu":
        return op("Relu", x)
    if kind == "silu":
        return op("Mul", x, op("Sigmoid", x))
    if kind == "gelu":
        share = op("Erf", op("Div", x, float(np.sqrt(2))))
    else:  # gelu_new, gelu_fast
        cube = op("Mul", op("Mul", op("Mul", x, x), x), 0.044715)
        share = op("Tanh", op("Mul", op("Add", x, cube), float(np.sqrt(2 / np.pi))))
    return op("Mul", op("Mul", x, 0.5), op("Add", share, 1.0))
