"""What TRL's tests fetch from the Hub, built in code: run in a folder, it is found there by its names.

A name such as trl-internal-testing/tiny-Qwen3ForCausalLM that is a folder here is loaded from it.
"""

from pathlib import Path

import numpy as np
import transformers
from datasets import Dataset
from PIL import Image
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
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


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
    _vision_model(folder / HUB / "tiny-Qwen2_5_VLForConditionalGeneration", texts)
    prompts = [f"Line {number} is" for number in range(17)]
    asked = [[{"role": "user", "content": text}] for text in prompts]
    picture = Image.fromarray(np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3))
    _data(folder / HUB / "zen", "standard_prompt_only", {"prompt": prompts})
    conversations = {
        "zen": {"prompt": asked},
        "zen-image": {"prompt": asked, "image": [picture] * 17},
        "zen-multi-image": {"prompt": asked, "images": [[picture] * 2] * 17},
    }
    for name, columns in conversations.items():
        _data(folder / HUB / name, "conversational_prompt_only", columns)


def _vision_model(folder: Path, texts: PreTrainedTokenizerFast) -> None:
    """Write a model of images and texts, and its processor."""
    rope = {"rope_type": "default", "mrope_section": [1, 1]}
    text = {name: value for name, value in SMALL.items() if name != "head_dim"}
    text |= {"vocab_size": len(texts), "rope_scaling": rope}
    text |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_heads": 4, "depth": 2}
    vision |= {"fullatt_block_indexes": [1], "out_hidden_size": 16}
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, texts.convert_tokens_to_ids(VISION), strict=True))
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    images, videos = transformers.Qwen2VLImageProcessor(), transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2_5_VLProcessor(images, texts, videos, chat_template=TEMPLATE)
    processor.save_pretrained(folder)


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
        additional_special_tokens=["<|im_start|>", *VISION],
        chat_template=TEMPLATE,
    )


def _data(folder: Path, configuration: str, columns: dict[str, list]) -> None:
    """Write a configuration of a data set, with two splits."""
    rows = Dataset.from_dict(columns)
    (folder / configuration).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 17), ("test", 2)):
        rows.select(range(count)).to_parquet(folder / configuration / f"{split}.parquet")
    card = folder / "README.md"
    known = card.read_text().removesuffix("---\n") if card.exists() else "---\nconfigs:\n"
    files = f"- config_name: {configuration}\n  data_dir: {configuration}\n"
    card.write_text(f"{known}{files}---\n")
