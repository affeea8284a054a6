"""Command lines as people write them: in model cards, blog posts, unit files and chats. Each with what it must become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, parse_command

LLAMA: list[tuple[str, dict[str, Any]]] = [
    ("llama-server -m model.gguf", {"model": "model.gguf"}),
    ("llama-server -m model.gguf --port 8080", {"model": "model.gguf"}),
    ("llama-server -hf ggml-org/gemma-3-4b-it-GGUF", {"hf_repo": "ggml-org/gemma-3-4b-it-GGUF"}),
    (
        "llama-server -hf unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M --jinja -ngl 99 -fa on -c 32768",
        {"hf_repo": "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M", "jinja": True, "gpu_layers": 99, "flash_attn": "on", "ctx_size": 32768},
    ),
    (
        "./llama-server -m /models/llama-3-8b.Q5_K_M.gguf -c 8192 -ngl 33 --host 0.0.0.0 --port 8081 -np 4 -cb",
        {"model": "/models/llama-3-8b.Q5_K_M.gguf", "ctx_size": 8192, "gpu_layers": 33, "parallel": 4, "cont_batching": True},
    ),
    (
        "CUDA_VISIBLE_DEVICES=0 ./build/bin/llama-server --model m.gguf --n-gpu-layers -1 --ctx-size 0 --no-mmap --mlock",
        {"model": "m.gguf", "gpu_layers": -1, "ctx_size": 0, "mmap": False, "mlock": True},
    ),
    (
        'llama-server -m big.gguf -ot ".ffn_.*_exps.=CPU" -ot "blk\\.(1|2)\\.attn=CUDA0" -ngl 999 -ctk q8_0 -ctv q8_0',
        {
            "model": "big.gguf",
            "override_tensor": [".ffn_.*_exps.=CPU", "blk\\.(1|2)\\.attn=CUDA0"],
            "gpu_layers": 999,
            "cache_type_k": "q8_0",
            "cache_type_v": "q8_0",
        },
    ),
    (
        'llama-server -m gpt-oss.gguf --n-cpu-moe 12 -b 4096 -ub 4096 --chat-template-kwargs \'{"reasoning_effort": "high"}\'',
        {
            "model": "gpt-oss.gguf",
            "n_cpu_moe": 12,
            "batch_size": 4096,
            "ubatch_size": 4096,
            "chat_template_kwargs": '{"reasoning_effort": "high"}',
        },
    ),
    (
        "llama-server -m q.gguf --temp 0.6 --top-k 20 --top-p 0.95 --min-p 0 --presence-penalty 1.5",
        {"model": "q.gguf", "temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "presence_penalty": 1.5},
    ),
    ("llama-server -m q.gguf --temperature 0.7 --top-n-sigma 1", {"model": "q.gguf", "temp": 0.7, "top_nsigma": 1.0}),
    (
        "llama-server -m emb.gguf --embedding --pooling mean -c 512 --alias nomic,embed",
        {"model": "emb.gguf", "embedding": True, "pooling": "mean", "ctx_size": 512, "alias": "nomic,embed"},
    ),
    ("llama-server -m rr.gguf --rerank", {"model": "rr.gguf", "reranking": True}),
    ("llama-server -m rr.gguf --reranking", {"model": "rr.gguf", "reranking": True}),
    (
        "llama-server -m m.gguf -md draft.gguf --draft-max 16 --draft-min 4 -ngld 99 -cd 4096 --draft-p-min 0.75",
        {
            "model": "m.gguf",
            "model_draft": "draft.gguf",
            "draft_max": 16,
            "draft_min": 4,
            "gpu_layers_draft": 99,
            "ctx_size_draft": 4096,
            "draft_p_min": 0.75,
        },
    ),
    (
        "llama-server -m m.gguf --mmproj mmproj.gguf --no-mmproj-offload",
        {"model": "m.gguf", "mmproj": "mmproj.gguf", "mmproj_offload": False},
    ),
    ("llama-server -hf a/b --no-mmproj", {"hf_repo": "a/b", "mmproj_auto": False}),
    ("llama-server --models-dir ./models --models-max 2", {"models_dir": "./models", "models_max": 2}),
    ("llama-server --models-preset p.ini --no-models-autoload", {"models_preset": "p.ini", "models_autoload": False}),
    (
        "llama-server -m m.gguf --reasoning-format deepseek --reasoning-budget 0",
        {"model": "m.gguf", "reasoning_format": "deepseek", "reasoning_budget": 0},
    ),
    (
        "llama-server -m m.gguf -ts 3,1 -mg 0 -sm row -dev CUDA0,CUDA1",
        {"model": "m.gguf", "tensor_split": "3,1", "main_gpu": 0, "split_mode": "row", "device": "CUDA0,CUDA1"},
    ),
    (
        "llama-server -m m.gguf --lora a.gguf --lora-scaled b.gguf:0.5",
        {"model": "m.gguf", "lora": ["a.gguf"], "lora_scaled": ["b.gguf:0.5"]},
    ),
    (
        "llama-server -m m.gguf --metrics --slots --props --no-webui",
        {"model": "m.gguf", "metrics": True, "slots": True, "props": True, "webui": False},
    ),
    ('llama-server -m m.gguf --grammar \'root ::= "yes" | "no"\'', {"model": "m.gguf", "grammar": 'root ::= "yes" | "no"'}),
    ("llama-server -m m.gguf -r $'\\nUser:'", {"model": "m.gguf", "reverse_prompt": "\nUser:"}),
    (
        "llama-server -m m.gguf --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 32768",
        {"model": "m.gguf", "rope_scaling": "yarn", "rope_scale": 4.0, "yarn_orig_ctx": 32768},
    ),
    (
        "llama-server -m m.gguf --override-kv qwen3moe.expert_used_count=int:16 -l 15043+1",
        {"model": "m.gguf", "override_kv": ["qwen3moe.expert_used_count=int:16"], "logit_bias": ["15043+1"]},
    ),
    (
        "llama-server -m m.gguf --dry-sequence-breaker '\"' --dry-sequence-breaker none",
        {"model": "m.gguf", "dry_sequence_breaker": ['"', "none"]},
    ),
    (
        "llama-server -m m.gguf --numa distribute -t 16 -tb 32 --prio -1 --poll 100",
        {"model": "m.gguf", "numa": "distribute", "threads": 16, "threads_batch": 32, "prio": -1, "poll": 100},
    ),
    ("llama-server --gpt-oss-20b-default", {"gpt_oss_20b_default": True}),
    ("llama-server --fim-qwen-1.5b-default", {"fim_qwen_1_5b_default": True}),
    ("llama serve -hf ggml-org/Qwen3-0.6B-GGUF -kvu", {"hf_repo": "ggml-org/Qwen3-0.6B-GGUF", "kv_unified": True}),
    (
        "llama-server ^\r\n  -m C:\\models\\phi 4.gguf ^\r\n  -c 4096\r\n",
        {"model": "C:\\models\\phi", "ctx_size": 4096, "extra_args": ["4.gguf"]},
    ),
    (
        'llama-server.exe `\r\n  -m "C:\\My Models\\phi 4.gguf" `\r\n  -c 4096\r\n',
        {"model": "C:\\My Models\\phi 4.gguf", "ctx_size": 4096},
    ),
    (
        "# start it\nllama-server \\\n  -m m.gguf \\\n  # all layers\n  -ngl all # really\n",
        {"model": "m.gguf", "gpu_layers": "all"},
    ),
]

LLAMA_PYTHON: list[tuple[str, dict[str, Any]]] = [
    ("python3 -m llama_cpp.server --model models/7B/llama-model.gguf", {"model": "models/7B/llama-model.gguf"}),
    (
        "python3 -m llama_cpp.server --model m.gguf --n_gpu_layers 35 --host 0.0.0.0 --port 8000 --chat_format functionary",
        {"model": "m.gguf", "n_gpu_layers": 35, "chat_format": "functionary"},
    ),
    (
        "HOST=0.0.0.0 PORT=8000 /opt/venv/bin/python -m llama_cpp.server --model m.gguf --n_gpu_layers -1 --n_ctx 16192",
        {"model": "m.gguf", "n_gpu_layers": -1, "n_ctx": 16192},
    ),
    (
        "python -m llama_cpp.server --hf_model_repo_id Qwen/Qwen2-0.5B-Instruct-GGUF --model '*q8_0.gguf' --verbose False",
        {"hf_model_repo_id": "Qwen/Qwen2-0.5B-Instruct-GGUF", "model": "*q8_0.gguf", "verbose": False},
    ),
    (
        "python3 -m llama_cpp.server --model m --clip_model_path mmproj.gguf --chat_format llava-1-5 --tensor_split 0.5 0.5",
        {"model": "m", "clip_model_path": "mmproj.gguf", "chat_format": "llava-1-5", "tensor_split": [0.5, 0.5]},
    ),
    (
        "python3 -m llama_cpp.server --model m --draft_model prompt-lookup-decoding --draft_model_num_pred_tokens 2 --cache true",
        {"model": "m", "draft_model": "prompt-lookup-decoding", "draft_model_num_pred_tokens": 2, "cache": True},
    ),
    (
        "uvx --from 'llama-cpp-python[server]' python -m llama_cpp.server --model=m --numa 1 --kv_overrides a=int:1 b=bool:1",
        {"model": "m", "numa": True, "kv_overrides": ["a=int:1", "b=bool:1"]},
    ),
    ("python3 -m llama_cpp.server --config_file config.json", {"config_file": "config.json"}),
]

MLX: list[tuple[str, dict[str, Any]]] = [
    ("mlx_lm.server --model mlx-community/Qwen3-4B-4bit", {"model": "mlx-community/Qwen3-4B-4bit"}),
    ("mlx_lm.server --model ~/models/q --port 8080 --log-level DEBUG", {"model": "~/models/q", "log_level": "DEBUG"}),
    (
        "python -m mlx_lm server --model m --temp 0.7 --top-p 0.9 --max-tokens 2048",
        {"model": "m", "temp": 0.7, "top_p": 0.9, "max_tokens": 2048},
    ),
    (
        "python -m mlx_lm.server --model m --trust-remote-code --use-default-chat-template",
        {"model": "m", "trust_remote_code": True, "use_default_chat_template": True},
    ),
    (
        "uv run mlx_lm.server --model m --chat-template-args '{\"enable_thinking\":false}'",
        {"model": "m", "chat_template_args": '{"enable_thinking":false}'},
    ),
    (
        "mlx_lm.server --model m --draft-model d --num-draft-tokens 3 --prompt-cache-bytes 8GB",
        {"model": "m", "draft_model": "d", "num_draft_tokens": 3, "prompt_cache_bytes": "8GB"},
    ),
]

VLLM: list[tuple[str, dict[str, Any]]] = [
    ("vllm serve Qwen/Qwen3-0.6B", {"model": "Qwen/Qwen3-0.6B"}),
    (
        "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 2 --gpu-memory-utilization 0.95 --max-model-len 16384",
        {
            "model": "meta-llama/Llama-3.1-8B",
            "tensor_parallel_size": 2,
            "gpu_memory_utilization": 0.95,
            "max_model_len": 16384,
        },
    ),
    (
        "vllm serve m --max-model-len 128k -tp 4 -pp 2 -dp 2",
        {"model": "m", "max_model_len": "128k", "tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": 2},
    ),
    (
        "vllm serve NousResearch/Meta-Llama-3-8B-Instruct --dtype auto --api-key token-abc123",
        {"model": "NousResearch/Meta-Llama-3-8B-Instruct", "dtype": "auto"},
    ),
    (
        "vllm serve m --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        {"model": "m", "enable_auto_tool_choice": True, "tool_call_parser": "hermes", "reasoning_parser": "qwen3"},
    ),
    (
        "vllm serve m --enable-lora --lora-modules sql=/l/sql chat=/l/chat --max-lora-rank 64",
        {"model": "m", "enable_lora": True, "lora_modules": ["sql=/l/sql", "chat=/l/chat"], "max_lora_rank": 64},
    ),
    ("vllm serve m --served-model-name gpt-4 gpt-3.5-turbo", {"model": "m", "served_model_name": ["gpt-4", "gpt-3.5-turbo"]}),
    (
        'vllm serve m --speculative-config \'{"method": "ngram", "num_speculative_tokens": 5}\'',
        {"model": "m", "speculative_config": '{"method": "ngram", "num_speculative_tokens": 5}'},
    ),
    (
        "vllm serve m -O3 --compilation-config.cudagraph_mode FULL --no-enable-prefix-caching",
        {"model": "m", "extra_args": ["-O3", "--compilation-config.cudagraph_mode", "FULL"], "enable_prefix_caching": False},
    ),
    (
        "vllm serve m --limit-mm-per-prompt '{\"image\":2}' --allowed-origins '[\"*\"]'",
        {"model": "m", "limit_mm_per_prompt": '{"image":2}', "allowed_origins": '["*"]'},
    ),
    (
        "vllm serve m --swap-space 16 --enforce-eager --seed -1",
        {"model": "m", "swap_space": 16.0, "enforce_eager": True, "seed": -1},
    ),
    (
        "vllm serve m --quantization awq -q fp8 --kv-cache-dtype fp8",
        {"model": "m", "quantization": "fp8", "kv_cache_dtype": "fp8"},
    ),
    (
        "HF_HUB_OFFLINE=1 VLLM_USE_V1=1 vllm serve ./models/q --middleware a.b --middleware c.d",
        {"model": "./models/q", "middleware": ["a.b", "c.d"]},
    ),
    (
        "python3 -m vllm.entrypoints.openai.api_server --model m --max_num_seqs 4 --uvicorn-log-level=warning",
        {"model": "m", "max_num_seqs": 4, "uvicorn_log_level": "warning"},
    ),
    ("uvx vllm serve m --hf-token --async-scheduling", {"model": "m", "hf_token": True, "async_scheduling": True}),
    (
        "vllm serve m --hf-token=hf_abc --cudagraph-capture-sizes 1 2 4 8",
        {"model": "m", "hf_token": "hf_abc", "cudagraph_capture_sizes": [1, 2, 4, 8]},
    ),
]

CORPUS = [
    (backend_type, *case)
    for backend_type, cases in (("llama_cpp", LLAMA), ("llama_cpp_python", LLAMA_PYTHON), ("mlx_lm", MLX), ("vllm", VLLM))
    for case in cases
]


@pytest.mark.parametrize(("backend_type", "command", "options"), CORPUS, ids=[case[1][:60] for case in CORPUS])
def test_a_command_becomes_these_options(backend_type: str, command: str, options: dict[str, Any]) -> None:
    parsed = parse_command(command)
    assert (parsed.backend_type, parsed.backend_options) == (backend_type, options)
    backend = BACKENDS[backend_type]
    assert backend.normalise(json.loads(json.dumps(parsed.backend_options))).options == options
    assert parse_command([*backend.command, *backend.arguments(options)]).backend_options == options
