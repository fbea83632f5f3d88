"""Sizes that make any configuration of Transformers tiny.

`COMMON` has a small value for each name by which configurations call a size; a class takes those
that it declares. `SPECIAL` has what that leaves inconsistent, by model type.
"""

from __future__ import annotations

from typing import Any

VOCAB = 512
CONTEXT = 256

COMMON: dict[str, Any] = {
    # vocabulary and positions
    "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "n_positions": CONTEXT,
    "n_ctx": CONTEXT, "max_seq_len": CONTEXT,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    # widths
    "hidden_size": 128, "n_embd": 128, "d_model": 128, "embedding_size": 128, "emb_dim": 128,
    "word_embed_proj_dim": 128, "embedding_dim": 128,
    "intermediate_size": 256, "n_inner": 256, "ffn_dim": 256, "dff": 256, "d_ff": 256,
    "d_inner": 256, "decoder_ffn_dim": 256, "encoder_ffn_dim": 256,
    "shared_intermediate_size": 128, "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    # layers
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2,
    "decoder_layers": 2, "num_decoder_layers": 2, "first_k_dense_replace": 1,
    # attention
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "attention_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "sliding_window": 24, "local_window_size": 24, "attention_window_size": 24,
    "rotary_dim": 16, "query_pre_attn_scalar": 32, "q_lora_rank": 64, "kv_lora_rank": 64,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32, "index_topk": 16,
    "index_n_heads": 2, "index_head_dim": 32,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1,
    # states
    "state_size": 16, "chunk_size": 16, "mamba_d_state": 16, "mamba_n_heads": 8,
    "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_chunk_size": 16, "linear_key_head_dim": 32,
    "linear_value_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip

SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
DELTA = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
TWO_KINDS = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 32}
INDEX = {"index_n_heads": 12, "index_topk": 36}
"""With fewer heads many keys have a sum of 0, and which of them are chosen is open; with fewer keys what
low bit turns of their choice decides the answers."""
LATENT = {"num_key_value_heads": 4, "head_dim": 16}

SPECIAL: dict[str, dict[str, Any]] = {
    "afmoe": {**SLIDING, "num_dense_layers": 1, "global_attn_every_n_layers": 2},
    "axk1": LATENT,
    "axk2": {"num_key_value_heads": 4},
    "bailing_hybrid": {**MIXED, "num_experts": 64},
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "bert": {"is_decoder": True},
    "cohere2": SLIDING,
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2, "head_dim": 32,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {
            "hidden_size": 128, "ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2,
        },
    },
    "deepseek_v2": {"topk_method": "greedy", **LATENT},
    "deepseek_v3": LATENT,
    "deepseek_v32": {**LATENT, **INDEX},
    "dots3_note_text": {"num_key_value_heads": 4},
    "dory": {
        "num_hidden_layers": 8, "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"] * 2,
        "n_input_layers": 2, "n_recurrent_layers": 4, "n_output_layers": 2, "n_recurrent_loops": 2,
    },
    "exaone4": {**SLIDING, "sliding_window_pattern": "LG"},
    "falcon": {"alibi": False, "num_kv_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 256},
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": SLIDING["layer_types"] * 2,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": VOCAB, "laurel_rank": 16, "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0], "intermediate_size": [256] * 4,
    },
    "gemma4_text": {
        "num_hidden_layers": 4, "layer_types": SLIDING["layer_types"] * 2,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 64,
        "vocab_size_per_layer_input": VOCAB, "global_head_dim": 64,
        "num_global_key_value_heads": 1,
    },
    "glm4_moe": {"partial_rotary_factor": 0.5},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": {"num_key_value_heads": 4, **INDEX},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 24},
    "gpt_oss": SLIDING,
    "granitemoehybrid": {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCAB},
    "inkling2_text": {"unpadded_vocab_size": VOCAB, **TWO_KINDS},
    "inkling_text": TWO_KINDS,
    "jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "use_mamba_kernels": False, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_dt_rank": 8,
    },
    "jetmoe": {"kv_channels": 32},
    "kimi_linear": {
        "num_key_value_heads": 4, "num_local_experts": 8, "linear_num_heads": 2,
        "linear_head_dim": 64, **MIXED,
    },
    "kolibri1": {"num_experts": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {
        "num_hidden_layers": 4, "intermediate_size_mlp": 256, "attention_chunk_size": 32,
        "interleave_moe_layer_step": 2, "no_rope_layers": [1, 1, 1, 0],
    },
    "longcat_flash": {
        **LATENT, "expert_ffn_hidden_size": 64, "ffn_hidden_size": 128, "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 32, "n_groups": 1},
    "mellum": {"num_experts": 8},
    "minicpm3": LATENT,
    "mistral4": {
        "num_key_value_heads": 4, "head_dim": 32, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0,
            "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"], "block_size": 16,
        "sliding_window": None,
    },
    "ministral": SLIDING,
    "modernbert-decoder": {"local_attention": 24, "global_attn_every_n_layers": 2},
    "moshi": {"num_codebooks": 2, "sliding_window": CONTEXT},
    "mpt": {"expansion_ratio": 2},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "moe", "mamba"], "num_hidden_layers": 4,
        "mamba_num_heads": 8, "mamba_head_dim": 32, "n_groups": 1, "ssm_state_size": 16,
        "moe_shared_expert_intermediate_size": 64, "moe_latent_size": None,
    },
    "olmo3": SLIDING,
    "olmo_hybrid": DELTA,
    "phi": {"partial_rotary_factor": 0.5},
    "qwen2": {"use_sliding_window": False},
    "qwen3_5_moe_text": DELTA,
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"], "indexer_n_heads": 2,
        "indexer_kv_heads": 1, "indexer_head_dim": 32, "indexer_budget": 32,
        "indexer_compress_ratio": 4,
    },
    "qwen3_moe": {"num_experts": 8},
    "recurrent_gemma": {
        "num_hidden_layers": 3, "lru_width": 128, "num_key_value_heads": 1,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 128, "context_length": CONTEXT},
    "sarvam_mla": LATENT,
    "smollm3": {"no_rope_layers": [1, 0], "sliding_window": None},
    "stablelm": {"partial_rotary_factor": 0.25},
    "vaultgemma": SLIDING,
    "xlstm": {"num_blocks": 2, "embedding_dim": 128},
    "youtu": LATENT,
    "zamba": {
        "num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2,
        "attention_head_dim": 64, "n_mamba_heads": 2, "mamba_dt_rank": 8,
        "use_mamba_kernels": False, "num_key_value_heads": 4, "attention_hidden_size": 256,
    },
    "zamba2": {
        "num_hidden_layers": 4, "hybrid_layer_ids": [1, 3],
        "layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 8, "mamba_headdim": 32,
        "mamba_ngroups": 1, "num_mem_blocks": 1, "num_key_value_heads": 4,
        "attention_head_dim": 64, "mamba_expand": 2, "adapter_rank": 8, "use_mem_rope": True,
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

UNTIED = (
    "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "bloom", "zamba",
    "recurrent_gemma", "vaultgemma", "biogpt", "xglm", "ctrl",
)  # fmt: skip
"""Types whose tied random embeddings would make them repeat one token."""
