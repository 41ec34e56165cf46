#!/usr/bin/env python3
"""Renders chat templates with Python's Jinja, as transformers sets it up, into tests/golden/data/chat_templates.json.

Needs: pip install jinja2. Usage: make_chat_fixtures.py > tests/golden/data/chat_templates.json
"""

import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)  # also in tests/unit/chat_template_test.cc

CONVERSATIONS = {
    "one": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [
        {"role": "system", "content": "  Answer in one word.\n"},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "<think>\nBlue is a colour.\n</think>\n\nBlue."},
        {"role": "user", "content": "Another \u2014 \"quoted\" one? \u00e9\u4e2d\U0001f600 "},
    ],
    "out_of_turn": [{"role": "assistant", "content": "\u00a0Hello.\u3000"}, {"role": "assistant", "content": "Again."}],
    "none": [],
}

# Ways in which published templates are written, in our own words.
TEMPLATES = {
    "chatml": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be kind.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "headers": """{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}

{#- The system's message comes out first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: tools\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
""",
    "thinking": """{%- if tools %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "alternating": """{%- set system = messages[0].content if messages and messages[0]["role"] == "system" else "" -%}
{%- set turns = messages | rejectattr("role", "equalto", "system") | list -%}
{{ bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('turns must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ (system ~ '\n\n' if loop.last and system else '') ~ message.content ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "lines": """
  {% set counts = namespace(total=0, roles=[]) %}
Conversation of {{ messages | length }}:
  {# a remark #}
  {% for message in messages if message.role != 'system' %}
    {% if loop.previtem is defined and loop.previtem.role == message.role %}
      {% continue %}
    {% endif %}
    {% generation %}
* {{ loop.index }}/{{ loop.length }} {{ message.role | upper }}: {{ message.content[:10] | tojson }}
    {% endgeneration %}
    {% set counts.total = counts.total + message.content | length %}
    {% set counts.roles = counts.roles + [message.role] %}
    {% if loop.index >= 3 %}{% break %}{% endif %}
  {% else %}
nobody spoke
  {% endfor %}
{% set note %}total {{ counts.total }}{% endset %}
{{ note | title }}; {{ counts.roles | join('+') }}
  {%+ if true %}kept blanks{% endif +%}
end
""",
}

EXPRESSIONS = """
1 + 2 * 3 - 4 // 3 | 7 % 3 | -7 % 3 | -7 // 2 | 7 / 2 | 2 ** 10 | 1.5 + 1 | 10.0 | 1e3 | - 3
'a' ~ 1 ~ none ~ true ~ 1.0 | 'ab' * 3 | 'x' 'y' | "it's" | 'tab\\there' | 'caf\\u00e9' | 'a\\qb'
1 < 2 < 3 | 1 < 2 > 3 | 'a' < 'b' | 1 == 1.0 | true == 1 | 'a' == none | [1, [2]] == [1, [2]] | {'a': 1} == {'a': 1}
'b' in 'abc' | 'd' not in ['a', 'b'] | 'role' in messages[0] | 3 in [1, 2] | not 3 in [1, 2]
true and 0 | '' or 'else' | not '' | 'a' if false else 'b' | ('a' if false) is undefined | nothing | nothing is defined | nothing or 'x'
[1, 'a', none, true, 2.5, ['b']] | {'k': 'v', 'n': [1]} | {} | [] | messages[0] | 'it\\'s "both"' | ['it\\'s'] | ['a\\nb']
messages[-1].role | messages[99] is defined | messages[0]['content'] | messages[0].nothing is defined | messages[0].get('x', 'd')
'abcdef'[1:3] | 'abcdef'[::-1] | 'abcdef'[-2:] | 'abcdef'[:-2] | [1, 2, 3, 4][::2] | [1, 2, 3][5:] | 'abc'[1] | [1, 2, 3][-1] | [1,2,3][::-2]
'  a b '.strip() | '  a'.lstrip() | 'xxaxx'.strip('x') | 'a,b,c'.split(',') | 'a,b,c'.split(',', 1) | ' a  b '.split() | ' a  b c '.split(None, 1) | 'abc'.startswith('ab') | 'abc'.endswith(('x', 'c')) | 'aXbX'.replace('X', '-') | 'aXbX'.replace('X', '-', 1) | 'abc'.find('c') | 'abc'.upper() | 'a-b'.title() | ', '.join(['a', 'b']) | 'prefix-x'.removeprefix('prefix-') | '12'.isdigit()
' a ' | trim | length ; 'abc' | first ; [3, 4] | last ; [] | first is defined ; 'héé' | length ; 'a b' | title ; 'ABC' | lower | capitalize ; [1, 2] | join ; [1, 2] | join(', ') ; nothing | default('d') ; '' | default('d') ; '' | default('d', true) ; '12' | int ; 'x' | int(7) ; 3.9 | int ; 5 | string ; 'abc' | reverse ; [1, 2] | reverse | list ; {'a': 1, 'b': 2} | items | map('join', '=') | list ; messages[0].items() | map('last') | list ; messages[0].keys() | list ; (1, 2) | list ; messages | map(attribute='role') | list ; ['a', 'b'] | map('upper') | join ; messages | selectattr('role', 'equalto', 'user') | list | length ; [0, 1, 2] | select | list ; [1, 2, 3] | select('odd') | list ; [1, 2] | reject('eq', 1) | list ; 'a' | replace('a', 'b') ; 'abc' | list ; [1, none, 'x'] | tojson ; {'a': ['é', '"', 1.5, false]} | tojson ; {'a': [1, {}], 'b': []} | tojson(indent=2) ; 'abc' | count
1 is number | 1.0 is integer | 'a' is string | [1] is sequence | {} is mapping | 'a' is iterable | none is none | true is boolean | true is true | 3 is odd | 4 is divisibleby 2 | 3 is not even | 1 is eq 1 | 2 is gt(1) | 1 is in [1] | messages is iterable and messages is not mapping
range(3) | list ; range(1, 7, 3) | list ; range(3, 0, -1) | list ; namespace(a=1).a ; dict(a=1, b='x') ; strftime_now('%Y-%m-%d %H:%M') ; strftime_now('%B %d, %a')
"""

REFUSED = [
    "{{ 1 +",
    "{{ 'open }}",
    "{% if true %}",
    "{% for x in %}{% endfor %}",
    "{% endif %}",
    "{% unknown %}",
    "{{ x y }}",
    "{{ messages[0] }",
    "{# open",
    "{{ nothing.member }}",
    "{{ nothing + 'x' }}",
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' | nosuchfilter }}",
    "{{ 'a' is nosuchtest }}",
    "{{ 'a'.nosuchmethod() }}",
    "{{ nosuchfunction() }}",
    "{{ raise_exception('no') }}",
    "{{ 1 < 'a' }}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller):
            return caller()

    result = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = NOW.strftime
    return result


def render(template, messages, add_generation_prompt):
    variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    try:
        return environment().from_string(template).render(**variables, bos_token="<s>", eos_token="</s>")
    except (jinja2.exceptions.TemplateError, ArithmeticError, TypeError):
        return None


def expressions():
    """One template for each: they are separated by "|", or by ";" where a line has filters."""
    for line in EXPRESSIONS.strip().splitlines():
        separator = ";" if ";" in line else " | "
        for expression in line.split(separator):
            yield "{{ " + expression.strip() + " }}"


def main():
    cases = []
    for name, template in TEMPLATES.items():
        for conversation, messages in CONVERSATIONS.items():
            for add in (True, False):
                cases.append({"template": template, "name": f"{name}, {conversation}", "messages": messages, "add_generation_prompt": add,
                              "expected": render(template, messages, add)})
    for template in [*expressions(), *REFUSED]:
        messages = CONVERSATIONS["system"]
        cases.append({"template": template, "name": template, "messages": messages, "add_generation_prompt": True,
                      "expected": render(template, messages, True)})
    refused = [case["name"] for case in cases if case["expected"] is None]
    assert all(template in refused for template in REFUSED), "a template that should be refused was rendered"
    assert len(refused) == len(REFUSED) + 6, refused
    print(json.dumps(cases, indent=1, ensure_ascii=True))


if __name__ == "__main__":
    main()
