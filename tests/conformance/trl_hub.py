"""What TRL's tests fetch from the Hub, built in code: run in a folder, it is found there by its names.

A name such as trl-internal-testing/tiny-Qwen3ForCausalLM that is a folder here is loaded from it.
"""

import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

HUB = "trl-internal-testing"
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 2048,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS = {
    "tiny-Qwen2ForCausalLM-2.5": ("Qwen2", "ForCausalLM", {}),
    "tiny-Qwen2ForSequenceClassification-2.5": ("Qwen2", "ForSequenceClassification", {}),
    "tiny-Qwen3ForCausalLM": ("Qwen3", "ForCausalLM", {}),
    "tiny-Qwen3ForSequenceClassification": ("Qwen3", "ForSequenceClassification", {}),
    "tiny-Qwen3MoeForCausalLM": ("Qwen3Moe", "ForCausalLM", EXPERTS),
    "tiny-LlamaForCausalLM-3.2": ("Llama", "ForCausalLM", {}),
    "tiny-LlamaForSequenceClassification-3.2": ("Llama", "ForSequenceClassification", {}),
    "tiny-MistralForCausalLM-0.2": ("Mistral", "ForCausalLM", {}),
    "tiny-Gemma2ForCausalLM": ("Gemma2", "ForCausalLM", {}),
    "tiny-Cohere2ForCausalLM": ("Cohere2", "ForCausalLM", {}),
    "tiny-GptOssForCausalLM": ("GptOss", "ForCausalLM", {"num_local_experts": 4}),
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> None:
    """Write the models and the data set under a folder."""
    texts = _tokenizer()
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    for name, (family, kind, changes) in MODELS.items():
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(texts), num_labels=1, **ids, **SMALL, **changes
        )
        getattr(transformers, f"{family}{kind}")(config).save_pretrained(folder / HUB / name)
        texts.save_pretrained(folder / HUB / name)
    _data(folder / HUB / "zen")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per byte."""
    special = ["<pad>", "<|im_end|>", "<|im_start|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def _data(folder: Path) -> None:
    """Write the configurations of prompts, texts and conversations, with two splits each."""
    prompts = [f"Line {number} is" for number in range(17)]
    rows = {
        "standard_prompt_only": [{"prompt": text} for text in prompts],
        "conversational_prompt_only": [
            {"prompt": [{"role": "user", "content": text}]} for text in prompts
        ],
    }
    head = ["---", "configs:"]
    for name, found in rows.items():
        head += [f"- config_name: {name}", "  data_files:"]
        for split, part in (("train", found), ("test", found[:2])):
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(map(json.dumps, part)))
            head += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))
