"""Hostile chat templates: what they may not say, and what they cannot take."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from idiolect.errors import UserError
from idiolect.tokens import sandbox
from idiolect.tokens.sandbox import Program

TALK = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}"
HOSTILE = {
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class by its name": "{{ messages|map(attribute='__class__')|list|first|attr('x') }}",
    "the shell": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "the object of a function": "{{ range.__self__ }}",
    "itself": "{{ self._TemplateReference__context }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
    "another template": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}",
    "inheritance": "{% extends 'x' %}",
    "changing messages": "{{ messages.append(1) }}",
    "a long range": "{% for i in range(999999999) %}{% endfor %}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "recursive loops": "{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "recursive macros": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a test in a filter": "{{ range(9000)|select('in', range(9000)|list)|list|length }}",
    "doubling by +": GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by a block": GROW + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "doubling by replace": GROW + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "doubling by a filter": GROW + "{% set ns.x = ns.x|replace('a', ns.x) %}{% endfor %}",
    "doubling by join": GROW + "{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "doubling by lists": GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "doubling by JSON": GROW + "{% set ns.x = [ns.x, ns.x]|tojson %}{% endfor %}",
    "a long text": "{{ 'a' * 1000000000 }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide column": "{{ 'a'.ljust(1000000000) }}",
    "a wide filter": "{{ 'a'|center(1000000000) }}",
    "deep JSON": "{{ messages|tojson(indent=1000000000) }}",
    "a power": "{{ 9**9**9 }}",
    "a large number": "{% set ns = namespace(x=10) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "constant text": "{% for i in range(9999) %}{% set a %}" + "x" * 9999 + "{% endset %}{% endfor %}",
    "a large source": "x" * (1 << 15),
    "no Jinja": "{% if x %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_soon_and_without_a_child(name):
    began = time.process_time()
    with pytest.raises(UserError, match="the chat template evil cannot be used"):
        Program(HOSTILE[name], "evil", trusted=True).render(TALK, {})
    assert time.process_time() - began < 1.5


def test_what_chat_templates_need_works():
    source = """{%- set ns = namespace(system='', n=0) -%}
{%- macro shown(m) -%}{{ loop_ is defined }}<{{ m['role'] }}|{{ m.content|trim }}>{%- endmacro -%}
{%- for m in messages[::-1] if m.role != 'system' -%}
  {%- if loop.first %}{% continue %}{% endif -%}
  {%- set ns.n = ns.n + 1 -%}{{ shown(m) }}{{ ' ' ~ loop.index0 ~ '/' ~ messages|length }}
{%- endfor -%}
{{- {'a': [1, 'é<']}|tojson }}{{ 'b' if tools is none else 'c' -}}
{{- (messages|selectattr('role', 'equalto', 'user')|list)[0].content }}"""
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": " u "},
        {"role": "assistant", "content": "a"},
    ]
    assert Program(source, "t").render(talk, {"tools": None}) == 'False<user|u> 1/3{"a": [1, "é<"]}b u '


def test_a_foreign_template_is_tried_in_a_child_once_and_ours_are_not(monkeypatch):
    calls = []
    real = subprocess.run
    monkeypatch.setattr(sandbox.subprocess, "run", lambda *a, **k: calls.append(a) or real(*a, **k))
    ours, foreign = Program("a", "ours", trusted=True), Program("a{{ messages[0].content }}", "foreign")
    assert [ours.render(TALK, {}), foreign.render(TALK, {}), foreign.render(TALK, {})] == ["a", "ahi", "ahi"]
    assert len(calls) == 1


def test_the_child_has_little_memory_little_time_and_no_files():
    code = """
import io, os, sys, resource
from idiolect.tokens import sandbox
kept = []
def run(self, messages, variables):
    for name, act in {"memory": lambda: bytearray(1 << 30), "files": lambda: open(os.devnull)}.items():
        try:
            kept.append((name, act()))
        except (MemoryError, OSError):
            pass
sandbox.Program.render = run
sys.stdin = io.StringIO('{"source": "a", "name": "n", "messages": [], "variables": {}}')
sandbox._limited()
limits = [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CPU", "NPROC", "FSIZE")]
print(kept, limits)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[] [(2, 2), (0, 0), (0, 0)]", done.stderr


def test_a_child_that_dies_is_a_template_that_cannot_be_used(monkeypatch):
    monkeypatch.setattr(sandbox, "_limited", None)
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="more than 512 MiB"):
        Program("a", "t").render(TALK, {})
