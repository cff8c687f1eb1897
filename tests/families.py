"""Families of language models as tiny random models, and what `load` makes of each: equal to transformers, or refused.

`python tests/families.py` renews the site's list of them.
"""

import re
from importlib import metadata
from pathlib import Path

import torch

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
HEAD = {"head_dim": 8}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
FEW = {"num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
WINDOW = {"sliding_window": 16}

VARIANTS = {
    "GPT-2": ("gpt2", GPT),
    "GPT-2, scaled by layer": (
        "gpt2",
        GPT | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": False},
    ),
    "GPT-2, untied": ("gpt2", GPT | {"tie_word_embeddings": False}),
    "OpenAI GPT": ("openai-gpt", GPT),
    "GPT-Neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 256,
        },
    ),
    "GPT-NeoX (Pythia)": ("gpt_neox", NEOX | {"use_parallel_residual": True}),
    "GPT-NeoX, sequential": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "GPT-J": ("gptj", GPT | {"rotary_dim": 4}),
    "CodeGen": ("codegen", GPT | {"rotary_dim": 4}),
    "GPT-BigCode (StarCoder)": ("gpt_bigcode", GPT | {"multi_query": True}),
    "GPT-BigCode, multi-head": ("gpt_bigcode", GPT | {"multi_query": False}),
    "Llama": ("llama", LLAMA),
    "Llama, multi-head": ("llama", LLAMA | {"num_key_value_heads": 4}),
    "Llama, tied": ("llama", LLAMA | {"tie_word_embeddings": True}),
    "Llama, biases": ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "Llama 3 (scaled rotary)": (
        "llama",
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "Llama, YaRN": (
        "llama",
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "Llama, dynamic rotary": (
        "llama",
        LLAMA | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "Llama, linear rotary": (
        "llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "Mistral": ("mistral", LLAMA | {"sliding_window": None}),
    "Mistral, sliding window": ("mistral", LLAMA | WINDOW),
    "Ministral 3": ("ministral3", LLAMA | HEAD),
    "Mixtral": ("mixtral", LLAMA | LOCAL),
    "Qwen 2": ("qwen2", LLAMA),
    "Qwen 2, sliding window": ("qwen2", LLAMA | WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "Qwen 2 MoE": ("qwen2_moe", LLAMA | EXPERTS | {"shared_expert_intermediate_size": 32}),
    "Qwen 3": ("qwen3", LLAMA | HEAD),
    "Qwen 3 MoE": ("qwen3_moe", LLAMA | HEAD | EXPERTS),
    "Qwen 3 Next": ("qwen3_next", LLAMA | HEAD | EXPERTS | LINEAR | {"shared_expert_intermediate_size": 32}),
    "Qwen 3.5": ("qwen3_5_text", LLAMA | HEAD | LINEAR),
    "Gemma": ("gemma", LLAMA | HEAD),
    "Gemma 2": ("gemma2", LLAMA | HEAD | WINDOW | {"query_pre_attn_scalar": 8}),
    "Gemma 3": ("gemma3_text", LLAMA | HEAD | MIXED | {"query_pre_attn_scalar": 8}),
    "Gemma 3n": (
        "gemma3n_text",
        LLAMA
        | HEAD
        | MIXED
        | {
            "vocab_size_per_layer_input": 90,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "Gemma 4": (
        "gemma4_text",
        LLAMA | HEAD | MIXED | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "global_head_dim": 8},
    ),
    "VaultGemma": ("vaultgemma", LLAMA | HEAD | WINDOW | {"query_pre_attn_scalar": 8}),
    "RecurrentGemma": ("recurrent_gemma", LLAMA | {"lru_width": 32, "attention_window_size": 16}),
    "Phi": ("phi", LLAMA),
    "Phi 3": ("phi3", LLAMA),
    "Phi 3, sliding window": ("phi3", LLAMA | WINDOW),
    "Phi MoE": ("phimoe", LLAMA | LOCAL),
    "OPT": ("opt", OPT | {"word_embed_proj_dim": 32}),
    "OPT, post-norm": ("opt", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "BLOOM": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "BLOOM, post-norm residual": (
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "apply_residual_connection_post_layernorm": True},
    ),
    "Falcon": (
        "falcon",
        NEOX | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "alibi": False},
    ),
    "Falcon, ALiBi": (
        "falcon",
        NEOX
        | {
            "multi_query": False,
            "parallel_attn": False,
            "new_decoder_architecture": False,
            "alibi": True,
            "bias": True,
        },
    ),
    "Falcon, new decoder": ("falcon", NEOX | {"num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False}),
    "MPT": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "StableLM": ("stablelm", LLAMA),
    "StableLM, parallel": ("stablelm", LLAMA | {"use_parallel_residual": True, "qk_layernorm": True}),
    "Cohere": ("cohere", LLAMA | {"logit_scale": 0.25}),
    "Cohere, normed queries": ("cohere", LLAMA | {"use_qk_norm": True}),
    "Cohere 2": ("cohere2", LLAMA | MIXED),
    "OLMo": ("olmo", LLAMA | {"clip_qkv": 1.0}),
    "OLMo 2": ("olmo2", LLAMA),
    "OLMo 3": ("olmo3", LLAMA | MIXED),
    "OLMoE": ("olmoe", LLAMA | FEW),
    "FlexOlmo": ("flex_olmo", LLAMA | FEW),
    "Granite": (
        "granite",
        LLAMA
        | {"embedding_multiplier": 4.0, "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.2},
    ),
    "Granite MoE": ("granitemoe", LLAMA | LOCAL | {"embedding_multiplier": 4.0, "residual_multiplier": 0.5}),
    "Granite MoE hybrid": (
        "granitemoehybrid",
        LLAMA
        | LOCAL
        | {
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_state": 8,
            "shared_intermediate_size": 32,
            "mamba_expand": 2,
            "mamba_d_head": 8,
        },
    ),
    "StarCoder 2": ("starcoder2", LLAMA),
    "StarCoder 2, sliding window": ("starcoder2", LLAMA | WINDOW),
    "XGLM": (
        "xglm",
        {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 256},
    ),
    "BioGPT": ("biogpt", NEOX),
    "Persimmon": ("persimmon", NEOX),
    "Nemotron": ("nemotron", LLAMA | HEAD),
    "GLM": ("glm", LLAMA | HEAD),
    "GLM 4": ("glm4", LLAMA | HEAD),
    "GLM 4 MoE": ("glm4_moe", LLAMA | HEAD | ROUTED),
    "SmolLM 3": ("smollm3", LLAMA | {"no_rope_layers": [1, 0]}),
    "Helium": ("helium", LLAMA | HEAD),
    "ERNIE 4.5": ("ernie4_5", LLAMA | HEAD),
    "ERNIE 4.5 MoE": (
        "ernie4_5_moe",
        LLAMA | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1},
    ),
    "EXAONE 4": ("exaone4", LLAMA | HEAD | MIXED),
    "Apertus": ("apertus", LLAMA),
    "Arcee": ("arcee", LLAMA | HEAD),
    "Seed-OSS": ("seed_oss", LLAMA | HEAD),
    "Youtu": ("youtu", LLAMA | LATENT | {"num_key_value_heads": 4}),
    "HunYuan": ("hunyuan_v1_dense", LLAMA | HEAD),
    "Jais 2": ("jais2", LLAMA | HEAD),
    "nanochat": ("nanochat", LLAMA),
    "ModernBERT decoder": (
        "modernbert-decoder",
        NEOX | {"local_attention": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "DeepSeek 2": ("deepseek_v2", LLAMA | LATENT | ROUTED | {"num_key_value_heads": 4, "n_shared_experts": 1}),
    "DeepSeek 3": ("deepseek_v3", LLAMA | LATENT | ROUTED | {"num_key_value_heads": 4, "n_shared_experts": 1}),
    "gpt-oss": ("gpt_oss", LLAMA | HEAD | LOCAL | MIXED),
    "Llama 4": (
        "llama4_text",
        LLAMA
        | HEAD
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "no_rope_layers": [1, 0],
            "attention_chunk_size": 64,
        },
    ),
    "LFM 2": ("lfm2", LLAMA | {"layer_types": ["conv", "full_attention"]}),
    "JetMoE": (
        "jetmoe",
        LOCAL
        | {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "kv_channels": 8,
        },
    ),
    "BitNet": ("bitnet", LLAMA),
    "MiniMax M2": ("minimax_m2", LLAMA | HEAD | LOCAL),
    "AFMoE": ("afmoe", LLAMA | HEAD | EXPERTS | MIXED | {"num_dense_layers": 1}),
    "Mamba": ("mamba", MAMBA),
    "Mamba 2": ("mamba2", MAMBA | HEAD | {"num_heads": 8, "n_groups": 1}),
    "Falcon Mamba": ("falcon_mamba", MAMBA),
    "Falcon H1": ("falcon_h1", LLAMA | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}),
    "Jamba": (
        "jamba",
        LLAMA
        | {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "Bamba": ("bamba", LLAMA | {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}),
    "Zamba 2": (
        "zamba2",
        LLAMA
        | {
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_ngroups": 1,
            "layers_block_type": ["mamba", "hybrid"],
            "num_mem_blocks": 1,
        },
    ),
    "Nemotron-H": (
        "nemotron_h",
        LLAMA
        | {
            "layers_block_type": ["mamba", "attention"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "OLMo hybrid": ("olmo_hybrid", LLAMA | LINEAR),
    "RWKV": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    "CTRL": ("ctrl", GPT | {"dff": 48}),
    "XLNet": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "BERT": ("bert", NEOX),
    "BERT, decoder": ("bert", NEOX | {"is_decoder": True}),
    "RoBERTa": ("roberta", NEOX),
    "XLM-RoBERTa": ("xlm-roberta", NEOX),
    "ModernBERT": ("modernbert", NEOX),
    "DistilBERT": ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "T5": ("t5", T5),
    "mT5": ("mt5", T5),
    "BART": ("bart", BART),
    "mBART": ("mbart", BART),
    "M2M-100 (NLLB)": ("m2m_100", BART),
}

NO_DECODER = "is no causal language model"
NO_CACHE = "keeps no key-value cache that several answers can go on from"
NOT_WRAPPED = "cannot be wrapped by TransformerLens"
NOT_RUN = "cannot run in TransformerLens"
NOT_CAUSAL = "is not causal"
DIFFERS = "differs in TransformerLens from what transformers computes when run whole"
DIFFERS_CACHED = "differs in TransformerLens from what transformers computes where it goes on from a cached prefix"

REFUSED = {
    "OpenAI GPT": NOT_RUN,
    "GPT-BigCode, multi-head": NOT_WRAPPED,
    "Falcon, new decoder": NOT_WRAPPED,
    "Granite MoE hybrid": NOT_RUN,
    "RecurrentGemma": NOT_RUN,
    "BERT": NOT_CAUSAL,
    **dict.fromkeys(
        ("Gemma 3n", "Phi MoE", "BioGPT", "Persimmon", "Helium", "CTRL", "XLNet", "RoBERTa", "XLM-RoBERTa"), NOT_WRAPPED
    ),
    **dict.fromkeys(("Qwen 3 Next", "Qwen 3.5", "LFM 2", "OLMo hybrid", "Jamba", "Bamba"), NO_CACHE),
    **dict.fromkeys(("Zamba 2", "Nemotron-H", "Falcon H1"), NO_CACHE),
    **dict.fromkeys(("Mamba", "Mamba 2", "Falcon Mamba", "RWKV"), DIFFERS),
    **dict.fromkeys(("ModernBERT", "DistilBERT", "T5", "mT5", "BART", "mBART", "M2M-100 (NLLB)"), NO_DECODER),
}
"""Variants that `load` refuses, and the words it does so in; the others compute what they do in transformers."""
REFUSED_BY_3 = {
    "Falcon, ALiBi": DIFFERS_CACHED,
    "MPT": DIFFERS_CACHED,
    "Cohere": DIFFERS,
    "Cohere, normed queries": NOT_WRAPPED,
    "Cohere 2": DIFFERS,
    "HunYuan": DIFFERS,
}
"""Those that TransformerLens 3 computes differently, and 4 as transformers does."""
REFUSED_HERE = REFUSED | (REFUSED_BY_3 if metadata.version("transformer-lens").startswith("3.") else {})


def words():
    """A tokenizer of whole words, which drops line breaks and puts `<bos>` before a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))]
    vocabulary = ["<pad>", "<bos>", "<eos>", "is", "of", *letters]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


@torch.no_grad()
def save(name, tokenizer, path):
    """A model of the variant with random weights, large enough for each to matter, saved as such models are."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    family, sizes = VARIANTS[name]
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer) + 6, **sizes, **special)
    kinds = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForMaskedLM)[config.is_encoder_decoder :]
    kind = next(kind for kind in kinds if type(config) in kind._model_mapping)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config)
        for weight in model.parameters():
            weight.mul_(5) if weight.ndim > 1 else weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


PAGE = Path(__file__).parents[1] / "docs" / "howto" / "families.md"
BEGIN, END = "<!-- families:start -->\n", "<!-- families:end -->"


def page_list():
    """What the site says of them."""
    equal = [name for name in VARIANTS if name not in REFUSED | REFUSED_BY_3]
    return (
        f"{BEGIN}Tested on tiny random weights: log-probabilities, states and generated text are those of plain "
        f"transformers, to 1e-5, whole and with caches. With TransformerLens 3.9 and 4: {_listed(equal)}. With 4 only "
        f"(3.9 computes them differently, and `load` says so): {_listed(REFUSED_BY_3)}. Refused by name: "
        f"{_listed(REFUSED)}.\n{END}"
    )


def _listed(names):
    """Families, with their variants in brackets."""
    variants = {}
    for name in names:
        family, _, variant = name.partition(", ")
        variants.setdefault(family, []).append(variant)
    written = []
    for family, kinds in variants.items():
        further = ", ".join(kind for kind in kinds if kind)
        written.append(f"{family} ({'also ' * ('' in kinds)}{further})" if further else family)
    return ", ".join(written)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    PAGE.write_text(re.sub(pattern, lambda _: page_list(), text, flags=re.S), encoding="utf-8")
