"""What templates write around turns: the usual conventions are read rightly, and have no fault."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from evalkit.check.turns import control_tokens, turns_of
from evalkit.reward_models.rendering import ConversationRenderer
from tests.shared_data import DEMO_RM, spec_of

# Convention: before a question, after it, before an answer, after it; and the control tokens.
CONVENTIONS = {
    "llama-3": ("<|sh|>user<|eh|>\n\n", "<|eot|>", "<|sh|>assistant<|eh|>\n\n", "<|eot|>",
                ["<|sh|>", "<|eh|>", "<|eot|>"]),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n",
               ["<|im_start|>", "<|im_end|>"]),
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n",
              "<end_of_turn>\n", ["<start_of_turn>", "<end_of_turn>"]),
    "zephyr": ("<|user|>\n", "</s>\n", "<|assistant|>\n", "</s>\n", ["</s>"]),
    "tulu": ("<|u|>\n", "\n", "<|a|>\n", "</s>\n", ["</s>"]),
    "deepseek": ("<|User|>", "", "<|Assistant|>", "</s>", ["<|User|>", "<|Assistant|>", "</s>"]),
    "vicuna": ("USER: ", " ", "ASSISTANT: ", "</s>", ["</s>"]),
    "mistral": ("[INST] ", " ", "[/INST] ", "</s>", ["[INST]", "[/INST]", "</s>"]),
    "alpaca": ("### Instruction:\n", "\n\n", "### Response:\n", "\n\n", []),
    "open turns": ("<|user|>", "", "<|assistant|>", "", ["<|user|>", "<|assistant|>"]),
    "open headers": ("<|sh|>user: ", "", "<|sh|>assistant: ", "", ["<|sh|>"]),
}  # fmt: skip
CLOSING = {
    "llama-3": "<|eot|>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>", "zephyr": "</s>",
    "tulu": "</s>", "deepseek": "</s>", "vicuna": "</s>", "mistral": "</s>", "alpaca": "",
    "open turns": "", "open headers": "",
}  # fmt: skip


def turns(name, *, prompt="{% if add_generation_prompt %}", last=""):
    """What is read of a convention's template."""
    ask, asked, tell, told, tokens = CONVENTIONS[name]
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}"
        f"{{{{ {ask!r} + m.content + {asked!r} }}}}{{% else %}}"
        f"{{{{ {tell!r} + m.content }}}}{last}{{{{ {told!r} }}}}{'{% endif %}' if last else ''}"
        f"{{% endif %}}{{% endfor %}}{prompt}{{{{ {tell!r} }}}}{{% endif %}}"
    )
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    tokenizer.add_special_tokens({"eos_token": CLOSING[name] or "<|end|>"})
    tokenizer.add_tokens(tokens, special_tokens=True)
    spec = replace(spec_of(DEMO_RM), template=template)
    encoder = ConversationRenderer(spec, tokenizer, len(tokenizer))
    return encoder, turns_of(encoder)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_usual_template_closes_its_last_turn_and_begins_no_other(name):
    encoder, found = turns(name)
    assert (found.closing, found.header) == (CLOSING[name], "")
    assert not found.closing or found.closing in control_tokens(encoder, found.tail)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_generation_prompt_left_on_is_seen_whatever_it_looks_like(name):
    tell = CONVENTIONS[name][2]
    _, found = turns(name, prompt="{% if true %}")
    assert found.header.strip() == tell.strip()


@pytest.mark.parametrize("name", [name for name, token in CLOSING.items() if token])
def test_a_last_turn_left_open_is_seen_whatever_closes_the_others(name):
    encoder, found = turns(name, last="{% if not loop.last %}")
    assert found.closing == CLOSING[name]
    assert found.closing not in control_tokens(encoder, found.tail)
