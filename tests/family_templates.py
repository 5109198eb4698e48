"""Chat templates of common families, short, written for these tests, with the token that ends an answer."""

# name -> (jinja text, the token that ends an answer)
FAMILIES = {
    "chatml": (
        (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        "<|im_end|>",
    ),
    "llama3": (
        (
            "{{ bos_token }}{% for m in messages %}"
            "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
        ),
        "<|eot_id|>",
    ),
    "llama2": (
        (
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
            "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
            "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
        ),
        "</s>",
    ),
    "gemma": (
        (
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
            "{% endif %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
            "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
        ),
        "<end_of_turn>",
    ),
    "phi3": (
        (
            "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
        ),
        "<|end|>",
    ),
    "phi4": (
        (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
        ),
        "<|im_end|>",
    ),
    "zephyr": (
        (
            "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
        ),
        "</s>",
    ),
    "alpaca": (
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
            "{% elif m['role'] == 'assistant' %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}"
            "{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
        ),
        "</s>",
    ),
    "deepseek": (
        (
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + m['content'] }}"
            "{% elif m['role'] == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + m['content'] + '<\uff5cend▁of▁sentence\uff5c>' }}"
            "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}"
        ),
        "<\uff5cend▁of▁sentence\uff5c>",
    ),
    "qwen3": (
        (
            "{% for m in messages %}{% set text = m['content'].split('</think>')[-1].lstrip('\n') if m['role'] == 'assistant' else m['content'] %}"
            "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
            "{{ '<think>\n' + (m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m['content'] else '') + '\n</think>\n\n' }}"
            "{% endif %}{{ text + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        "<|im_end|>",
    ),
    "command-r": (
        (
            "{{ bos_token }}{% for m in messages %}{% set who = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m['role']] %}"
            "{{ '<|START_OF_TURN_TOKEN|><|' + who + '_TOKEN|>' + m['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
        ),
        "<|END_OF_TURN_TOKEN|>",
    ),
}
# What the templates TRL ships end an answer with, by the beginning of their names.
TRL_STOPS = {
    "cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<\uff5cend▁of▁sentence\uff5c>", "gemma4": "<turn|>",
    "diffusion_gemma": "<turn|>", "gemma": "<end_of_turn>", "glm": "<|user|>", "gptoss": "<|return|>",
    "idefics": "<end_of_utterance>", "lfm2": "<|im_end|>", "qwen": "<|im_end|>", "nemotron": "<|im_end|>",
    "llama3": "<|eot_id|>", "llava": "</s>", "muse": "<|eot|>", "phi3": "<|end|>",
}  # fmt: skip
# Names that templates build from the role, so that no marker stands in their text.
BUILT = (
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|endoftext|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
)


def trl_stop(name):
    """Return what a template of TRL ends an answer with; None for one these tests do not know yet."""
    return next((stop for start, stop in TRL_STOPS.items() if name.startswith(start)), None)
