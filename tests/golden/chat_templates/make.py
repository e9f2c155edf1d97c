"""Renders conversations with the chat templates of models as transformers does.

    python make.py [NAME=FILE ...] > cases.json

FILE is a GGUF file or a Jinja template. Without arguments only the templates below are rendered, one
for each construct that published templates use. Needs transformers, jinja2, and for GGUF gguf.
The clock stands at the first of 2025. `published.sh` beside it does the same for published templates.
"""
import datetime
import json
import sys

import transformers.utils.chat_template_utils as chat_template_utils
from jinja2.exceptions import TemplateError, UndefinedError


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 1)


chat_template_utils.datetime = Clock

TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
USER = {"role": "user", "content": "What is 1 < 2 & 'so' on?\n"}
CONVERSATIONS = {
    "one turn": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [
        USER,
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nYes, \"é\"."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Thanks {{ x }} {% y %}"},
    ],
    "wrong order": [USER, USER],
}
CONSTRUCTS = {
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}\n{%- generation -%} {{ m.content }} {%- endgeneration -%}\n{% endif %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{% if loop.index0 == 3 %}{% break %}{% endif %}{{ m.content }}|{% endfor %}",
    "tools": "{% if tools is none %}none{% endif %}{% if documents is none %} none{% endif %}{% if not tools %} no{% endif %}{{ missing is defined }}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}",
    "date": "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%A, %B %-d, %H:%M %p %j') }}",
    "no date": "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% else %}{% set d = '26 Jul 2024' %}{% endif %}{{ d }}",
    "exception": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': [1.0, true, none, '<é😀>']} | tojson }}{{ {'b': 1, 'a': '<é😀>'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}{{ [] | tojson }}{{ {} | tojson(indent=4) }}",
    "line ends": "{% if true %}\r\n  a\r\n{% endif %}\r\nb\r{{ 'c' }}\r\n",
    "percent": "{{ '%s' % messages[0].role }} {{ '%s and %d' % ('a', 2) }} {{ '<|%s|>' % messages[0]['role'] }} {{ 7 % 4 }}{% set x = 'in %s' % 'b' %}{{ x + '!' }} {{ '%' }}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% set ns.n = loop.index0 %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "strings": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{{ m['content'].strip() | upper }}{{ m.content.startswith('Yes') }}{{ m.content is string }}{{ m.content is mapping }}{{ m.get('name', '-') }}{% endfor %}{{ ' a ' | trim }}{{ 'abc'[1:] }}{{ 'abc'.replace('b', '') }}{{ ', '.join(['x', 'y']) }}{{ {'k': 1}.items() | list | length }}",
    "macro": "{% macro turn(m, last=false) -%}\n<{{ m.role }}>{{ m.content }}{% if last %}.{% endif %}\n{%- endmacro %}{% for m in messages %}{{ turn(m, loop.last) }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "lists": "{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ users | length }}{%- set kept = [] %}{%- for m in messages %}{%- if m['role'] not in ['tool', 'tool_results'] and not m.get('tool_calls') %}{%- set kept = kept + [m] %}{%- endif %}{%- endfor %}{{ kept | length }}{{ users[-1] == messages[-1] }}{{ messages[0]['content'][-4:] }}{{ messages | map(attribute='role') | join(',') }}{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}{{ 3 | string + 'x' }}{{ (messages[0] | tojson)[:-1] }}{%- for key, value in messages[0].items() if key != 'content' %}{{ key }}={{ value }}{%- endfor %}{{ [1, 2, 3] | last }}{{ range(3) | list }}{{ messages | first is mapping }}{{ 'a' in 'cat' }}{{ messages is sequence }}{{ 'user' in messages[0].values() }}",
    "escapes": "{{ 'one \\\n    two' }}{{ \"a\\/b \\d \\x41\\u00e9\\U0001F600 \\101 \\\\ \\' \\\" \\a\\v|\" }}{% set x = 'a\\\nb' %}{{ x }}{% if 'a\\\nb' == 'ab' %}!{% endif %}",
    "iterable": "{% for x in [none, missing, 'a', [], {}, 1, true] %}{{ x is iterable }}{{ x is sequence }} {% endfor %}{{ tools is iterable and tools | length > 0 }}{{ missing | length }}{{ missing | count }}{{ 'é' | length }}{{ messages[0] | length }}",
    "none has no length": "{{ tools | length }}",
    "raw": "{% raw %}{{ 'a\\/b' % 1 }}{% generation %}{%- endraw -%} {{ 'c' }}",
    "comments": "a {# {% generation %} it's #}\n{#- b -#} c {{ \"{% generation %} }}\" }}\n",
}


def template_of(path):
    if not path.endswith(".gguf"):
        return open(path, newline="").read()
    from gguf import GGUFReader

    return GGUFReader(path).fields["tokenizer.chat_template"].contents()


def rendered(template, messages):
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return compiled.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **TOKENS
        )
    except (TemplateError, UndefinedError, TypeError):
        return None


def main():
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    templates = {name: template_of(path) for name, path in named.items()} or CONSTRUCTS
    cases = [
        {
            "template": name,
            "conversation": kind,
            "rendered": rendered(template, messages),
        }
        for name, template in templates.items()
        for kind, messages in CONVERSATIONS.items()
    ]
    whole = {
        "tokens": TOKENS,
        "conversations": CONVERSATIONS,
        "templates": templates,
        "cases": cases,
    }
    json.dump(whole, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()
