"""Expressions: what they compute, what they refer to, what they refuse, and that no value can turn into code."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.expressions import MAX_SOURCE, parse, parse_condition
from skep.flow.functions import MAX_INT, MAX_ITEMS
from skep.flow.templates import compile_value, template

NAMES: dict[str, Any] = {
    "inputs": {"x": 3, "name": "Ada", "list": [3, 1, 2], "none": None, "a-b": "dash", "map": {"k": [10, 20]}, "long": "ab" * 9},
    "tasks": {"a": {"output": {"y": 5, "items": [{"n": 1}, {"n": 2}]}}, "a-b": {"output": "dashed"}, "none": {"output": None}},
    "item": "it's",
    "index": 7,
    "run": {"id": "r1"},
    "secrets": {"key": "hunter2", "json": {"inner": 1}},
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "always": lambda: True,
    "failed": lambda task=None: task == "bad",
    "succeeded": lambda task=None: task != "bad",
    "skipped": lambda task: {"a": False}[task],
}
SCOPE = Scope(NAMES, FUNCTIONS)


def scope_with(**names: Any) -> Scope:
    return Scope({**NAMES, **names}, FUNCTIONS)


def rendered(text: str, scope: Scope = SCOPE, **options: Any) -> Any:
    found = template(text)
    assert found is not None
    return found.render(scope, **options)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("null", None), ("None", None), ("true", True), ("False", False), ("1", 1), ("-1.5", -1.5), ("1e30", 1e30),
        ("'a'", "a"), ("(1, 2)", [1, 2]), ("[1, [2]]", [1, [2]]), ("{'a': {'b': 1}}", {"a": {"b": 1}}), ("inputs.x", 3),
        ("inputs['a-b']", "dash"), ("inputs.map.k[1]", 20), ("inputs.map['k'][-1]", 20), ("inputs[item[:0] + 'x']", 3),
        ("tasks.a.output.y", 5), ("tasks['a-b'].output", "dashed"), ("tasks.a.output.items[1].n", 2), ("run.id", "r1"),
        ("index + 1", 8), ("'abc'[1]", "b"), ("'abc'[::-1]", "cba"), ("inputs.list[1:]", [1, 2]),
        ("inputs.list[:-1]", [3, 1]), ("1 + 2 * 3 - 4", 3), ("7 / 2", 3.5), ("7 // 2", 3), ("7 % 4", 3),
        ("'a' + 'b'", "ab"), ("[1] + [2]", [1, 2]), ("'ab' * 2", "abab"), ("2 * [1]", [1, 1]), ("1 < 2 < 3", True),
        ("1 < 3 < 2", False), ("2 in [1, 2]", True), ("'z' not in 'abc'", True), ("'x' in inputs", True),
        ("inputs.none == null", True), ("not 1", False), ("not inputs.none", True), ("0 or 'b'", "b"),
        ("1 and 0 and 2", 0), ("'' or [] or null", None), ("1 or inputs.nope", 1), ("0 and inputs.nope", 0),
        ("'big' if inputs.x > 2 else inputs.nope", "big"), ("len(inputs.list)", 3), ("min(3, 1)", 1),
        ("max(inputs.list)", 3), ("sum([1, 2.5])", 3.5), ("sorted(inputs.list)", [1, 2, 3]), ("range(3)", [0, 1, 2]),
        ("range(5, 0, -2)", [5, 3, 1]), ("str(true)", "true"), ("str('a')", "a"), ("str([1, 'a'])", '[1,"a"]'),
        ("int('5')", 5), ("int(5.9)", 5), ("float('1.5')", 1.5), ("bool([])", False), ("abs(-2)", 2),
        ("round(2.345, 2)", 2.35), ("round(2.6)", 3), ("any([0, 1])", True), ("all([0, 1])", False),
        ("keys({'a': 1})", ["a"]), ("values({'a': 1})", [1]), ("zip([1, 2], ['a', 'b'])", [[1, "a"], [2, "b"]]),
        ("flatten([[1], 2, [[3]]])", [1, 2, [3]]), ("join(',', [1, 'a', null])", "1,a,null"), ("split('a b')", ["a", "b"]),
        ("split('a,b', ',')", ["a", "b"]), ("lower('Ab')", "ab"), ("upper('Ab')", "AB"), ("startswith('abc', 'ab')", True),
        ("endswith('abc', 'bc')", True), ("contains([1], 1)", True), ("json({'a': [1.0, null]})", '{"a":[1.0,null]}'),
        ("from_json('{\"a\": [1]}')", {"a": [1]}), ("default(inputs.none, 4)", 4), ("default(inputs.x, 4)", 3),
        ("default(0, 4)", 0), ("default(inputs.nope, 4)", 4), ("default(tasks.none.output.deep.er, 4)", 4),
        ("default(inputs.list[9], 4)", 4), ("always()", True), ("failed('bad')", True), ("succeeded()", True),
        ("skipped('a')", False), ("secrets.key", "hunter2"), ("'ü' + \\\n'b'", "üb"), (" ${{ inputs.x }} ", 3),
    ],
)  # fmt: skip
def test_an_expression_computes_its_json_value(source: str, value: Any) -> None:
    result = parse(source).evaluate(SCOPE)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "source",
    [
        "().__class__", "inputs.__class__", "''.__class__.__mro__", "inputs.x.__init__.__globals__", "__import__('os')",
        "open('/etc/passwd')", "eval('1')", "getattr(inputs, 'x')", "'{0.__class__}'.format(inputs)", "f'{inputs.x}'",
        "b'a'", "1j", "...", "lambda: 1", "[x for x in inputs.list]", "{x: 1 for x in 'ab'}", "(x := 1)", "[*inputs.list]",
        "{**inputs}", "await inputs", "yield", "max(*inputs.list)", "sorted(inputs.list, reverse=True)", "inputs.keys()",
        "inputs.name.upper()", "len", "[len][0]([])", "2 ** 9", "2 << 9", "~1", "+1", "1 | 2", "1 @ 2", "1 is 1", "{1, 2}",
        "unknown", "tasks", "keys(tasks)", "tasks[inputs.x]", "tasks[0]", "'a' in tasks", "secrets", "json(secrets)",
        "secrets[inputs.x]", "failed(inputs.x)", "failed('a', 'b')", "skipped()", "always(1)", "len()", "default(1)",
        "9" * 30, "1e999", r"'\ud800'", r"tasks['\ud800']", r"'\d'", "1or 2", "", "  ", "1 +", "a b", "x = 1", "1; 2",
        "inputs.from", "inputs.x # note\n+", "\0", "\ud800", "secrets.key + inputs.name", "[" * 60 + "]" * 60,
        "not " * 60 + "1", "-" * 4_000 + "1", "1" + "+1" * 2_000, "inputs" + ".a" * 60, "[" + "1," * 1_500 + "]",
        "1" * (MAX_SOURCE + 1), "${{ 1 }} tail", "${{ 1 }}${{ 2 }}", "${{ 1", "${{}}",
    ],
)  # fmt: skip
def test_what_is_not_in_the_language_is_refused_when_parsed(source: str) -> None:
    with pytest.raises(ExpressionError):
        parse(source)


@pytest.mark.parametrize(
    "source",
    [
        "'%999d' % 1", "'a' * 10 * 10000000000", "'a' * 1000000000", "[0] * 1000000000", "1000000000 * 'a'",
        "range(1000000000)", "range(0, 1, 0)", "range(9000000000000000000)", "*".join(["999999999999"] * 40),
        "1e300 * 1e300", "sum([1e308, 1e308])", "9223372036854775807 + 1", "[[[0] * 200000] * 200000] * 200000",
        "[[0] * 200000] * 200000 == [[0] * 200000] * 200000", "json([['a' * 1000000] * 200000] * 9)",
        "str([['a' * 1000000] * 200000])", "[0] * 200000 + [0]", "join('a' * 1000000, [''] * 200000)",
        "split('a ' * 500000)", "round(5, -1000000000)", "round(1.5, 'a')", "int('9' * 5000)", "int('9' * 1000000)",
        "float('nan')", "float('inf')", "-float('-inf')", "from_json('[' * 100000)", "from_json('[' * 500 + ']' * 500)",
        "from_json('{')", "from_json('1e999')", "[" + "'a' * 1048576," * 100 + "]", "[" + "[0] * 200000," * 100 + "]",
        "sorted([[0] * 1000] * 200000)", "flatten([[0] * 1000] * 1000)", "1 / 0", "1 % 0", "1 // 0", "'a' + 1",
        "[1] + 'a'", "{} + {}", "-'a'", "'a' < 1", "{} < {}", "1 in 2", "[] in {}", "{[]: 1}", "{1: 2}", "inputs[[1]]",
        "inputs.list.x", "inputs.x.y", "inputs.list['a']", "inputs.list[true]", "inputs.list[::0]", "inputs[1:]",
        "inputs.list['a':]", "inputs.none.y", "len(5)", "min([])", "min(1, 'a')", "sum('ab')", "sum([[1], [2]])",
        "abs('a')", "int('x')", "int(null)", "lower(1)", "keys([1])", "values(1)", "zip([1], [])", "join(1, [2])",
        "join('', 'ab')", "split('a', '')", "startswith('a', ['a'])", "skipped('unknown')", "tasks.missing.output",
        "inputs.clear", "inputs.items", "run.nope",
    ],
)  # fmt: skip
def test_what_has_no_result_or_would_cost_much_is_refused_when_evaluated(source: str) -> None:
    expression = parse(source)
    with pytest.raises(ExpressionError) as refusal:
        expression.evaluate(SCOPE)
    assert len(str(refusal.value)) < 600


def test_a_result_may_use_the_limits_in_full() -> None:
    assert len(parse("range(200000)").evaluate(SCOPE)) == MAX_ITEMS
    assert len(parse("'ab' * 524288").evaluate(SCOPE)) == 1 << 20
    assert parse("9223372036854775806 + 1").evaluate(SCOPE) == MAX_INT


def test_attributes_are_keys_and_never_python_attributes() -> None:
    assert parse("inputs.keys").evaluate(Scope({"inputs": {"keys": 1}})) == 1
    assert parse("inputs['__class__']").evaluate(Scope({"inputs": {"__class__": 2}})) == 2


def test_only_tasks_that_are_named_are_looked_up() -> None:
    asked: list[str] = []

    class Lazy(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            asked.append(key)
            return {"output": key}

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("the whole mapping was read")

        def __len__(self) -> int:
            raise AssertionError("the whole mapping was read")

    assert parse("tasks.a.output + tasks['b-c'].output").evaluate(scope_with(tasks=Lazy())) == "ab-c"
    assert asked == ["a", "b-c"]


def test_a_parsed_expression_says_what_it_refers_to() -> None:
    found = parse("tasks.a.output.b if failed('c') and len(tasks['d e'].output) else inputs.x + inputs['y'] + item")
    assert found.tasks == {"a", "c", "d e"}
    assert found.inputs == {"x", "y"}
    assert found.calls == {"failed", "len"}
    assert (found.uses_item, found.uses_secrets) == (True, False)
    assert parse("index").uses_item
    assert parse("secrets.key").secrets == {"key"}
    assert parse("secrets['key']").uses_secrets
    assert parse("'tasks.a'").tasks == frozenset()


def test_an_error_shows_the_expression_the_place_and_what_there_is() -> None:
    with pytest.raises(ExpressionError) as refusal:
        parse("'äö' + tasks.a.z").evaluate(SCOPE)
    assert str(refusal.value) == "no key 'z'; there is output, at column 16 of `'äö' + tasks.a.z`"
    assert refusal.value.column == 16
    with pytest.raises(ExpressionError, match=r"no key 'nope'; there is x, name, list, none, a-b, map"):
        parse("inputs.nope").evaluate(SCOPE)
    with pytest.raises(ExpressionError, match=r"unknown name 'imputs', expected one of .*inputs.*at column 5"):
        parse("1 + imputs.x")
    with pytest.raises(ExpressionError, match=r"\+ has no result for a number and a text"):
        parse("1 + 'a'").evaluate(SCOPE)
    with pytest.raises(ExpressionError, match="`item` has no value here"):
        parse("item").evaluate(Scope({}))
    with pytest.raises(ExpressionError, match=r"always\(\) is not available here"):
        parse("always()").evaluate(Scope({}))


@pytest.mark.parametrize(
    "source",
    [
        "int(secrets.key)", "{'a': 1}[secrets.key]", "from_json(secrets.key)", "secrets.json[secrets.key]",
    ],
)  # fmt: skip
def test_an_error_never_shows_a_secret(source: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        parse(source).evaluate(SCOPE)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("inputs.x > 2", True), ("${{ inputs.x > 5 }}", False), (True, True), (False, False),
        ("${{ inputs.x }} == 3", True), ("len(${{ inputs.list }}) > 3", False), ("not ${{ inputs.x > 5 or false }}", True),
        ("2 * ${{ inputs.x - 1 }} == 4", True), ("${{ inputs.name }} == '}}' or ${{ inputs.x }} > 2", True),
        ("${{ inputs.name == '}}' }} or '$${{' == '${' + '{'", True),
    ],
)  # fmt: skip
def test_a_condition_is_taken_with_or_without_its_braces(written: str | bool, value: bool) -> None:
    assert parse_condition(written).evaluate(SCOPE) is value


def test_a_condition_of_parts_says_what_it_refers_to() -> None:
    found = parse_condition("${{ inputs.x }} > len(${{ tasks.a.output }})")
    assert found.inputs == {"x"}
    assert found.tasks == {"a"}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("'${{ inputs.name }}' == 'Ada'", "inside of quotes"), ("x == \"${{ inputs.name }}", "inside of quotes"),
        ("${{ inputs.x) + (inputs.x }} == 3", "expected an expression"), ("${{ inputs.x }} ${{ inputs.x }}", "expected a call"),
        ("${{ inputs.x", "expected }}"), ("${{ }} == 3", "expected an expression of 1"),
    ],
)  # fmt: skip
def test_a_condition_whose_parts_are_no_expressions_is_refused(written: str, problem: str) -> None:
    with pytest.raises(ExpressionError, match=problem):
        parse_condition(written)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${{ inputs.x }}", 3), ("${{inputs.list}}", [3, 1, 2]), ("x=${{ inputs.x }}", "x=3"), ("${{ inputs.x }} ", "3 "),
        ("${{ inputs.x }}${{ inputs.name }}", "3Ada"), ("<${{ inputs.map }}>", '<{"k":[10,20]}>'), ("<${{ null }}>", "<null>"),
        ("${{ {'a': {'b': 1}} }}", {"a": {"b": 1}}), ("${{ {'a':{'b':1}}}}", {"a": {"b": 1}}), ("${{ '}}' }}!", "}}!"),
        ('${{ "}}" + \'"}}\' }}', '}}"}}'), (r"${{ 'it\'s }}' }}", "it's }}"), ("$${{ inputs.x }}", "${{ inputs.x }}"),
        ("$$${{ a", "$${{ a"), ("$${{ ${{ inputs.x }}", "${{ 3"), ("a }} ${{ 1 }} }}", "a }} 1 }}"),
    ],
)  # fmt: skip
def test_a_template_keeps_the_type_of_a_single_expression_and_writes_others_as_text(text: str, value: Any) -> None:
    assert rendered(text) == value
    assert compile_value(text).render(SCOPE) == value


@pytest.mark.parametrize("text", ["", "plain", "$x {{ y }}", "$ {{ }}", "}}"])
def test_a_text_without_an_opening_is_no_template(text: str) -> None:
    assert template(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "${{", "a ${{ inputs.x", "${{ inputs.x }", "${{ 'a }}", "${{ {'a': 1 }}", "${{ ${{ 1 }} }}", "${{ }}",
    ],
)  # fmt: skip
def test_an_unbalanced_template_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        template(text)


@pytest.mark.parametrize("text", ["${{ '" + "\\'" * 400_000, "${{ " * 200_000, "${{" + "{" * 900_000])
def test_a_hostile_template_is_refused_without_delay(text: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        template(text)
    assert len(str(refusal.value)) < 600


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.text()), st.integers(), st.none(), st.booleans()))
def test_quoted_values_are_single_words_of_the_shell(value: Any) -> None:
    words = shlex.split(rendered("cmd ${{ item }} --x=${{ inputs.name }} end", scope_with(item=value), quote=shlex.quote))
    values = value if isinstance(value, list) else [value]
    assert words == ["cmd", *(word if isinstance(word, str) else json.dumps(word) for word in values), "--x=Ada", "end"]


def test_a_whole_template_is_quoted_too() -> None:
    assert rendered("${{ item }}", quote=shlex.quote) == shlex.quote("it's")


@pytest.mark.parametrize(
    "script",
    [
        'echo "${{ item }}"', "echo '${{ item }}'", "echo `x ${{ item }}`", "echo \\${{ item }}", "true # ${{ item }}",
        "echo \"a ${{ item }}", "cat <<EOF\n${{ item }}\nEOF\n", "cat <<-'END' | x\n ${{ item }}\n\tEND",
        'echo ok "$(cmd ${{ item }})"', "true;#${{ item }}",
    ],
)  # fmt: skip
def test_a_value_where_quoting_cannot_protect_it_is_refused(script: str) -> None:
    with pytest.raises(ExpressionError, match="put it in `env`"):
        rendered(script, quote=shlex.quote)


@pytest.mark.parametrize(
    "script",
    [
        "echo ${{ item }}", "echo 'a'${{ item }}\"b\"", "echo $(printf %s ${{ item }})", "x=\"it's\" ; echo ${{ item }}",
        "cat <<< ${{ item }}", "# don't\necho ${{ item }}", "cat <<EOF\nit's\nEOF\necho ${{ item }}",
        "echo a#b ${{ item }}", "echo \\\" ${{ item }}",
    ],
)  # fmt: skip
def test_a_value_cannot_run_a_command(script: str) -> None:
    attack = scope_with(item="""'; echo PWNED; "$(echo PWNED)" `echo PWNED`\necho PWNED #""")
    command = ["bash", "-c", rendered(script, attack, quote=shlex.quote)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert " ".join(attack.names["item"].split()) in " ".join(shown.stdout.split())  # echo $(…) joins the lines
    assert "PWNED" not in shown.stdout.splitlines()
    assert not shown.stderr


def test_a_tree_is_compiled_once_and_says_what_all_of_it_refers_to() -> None:
    tree = {
        "a": ["${{ inputs.x }}", {"b": "v=${{ tasks.t.output }}"}],
        "n": 1,
        "c": "${{ failed('u') and item }}",
        "s": "${{ secrets.key }}",
    }
    value = compile_value(tree)
    assert value.tasks == {"t", "u"}
    assert value.inputs == {"x"}
    assert value.secrets == {"key"}
    assert value.calls == {"failed"}
    assert (value.uses_item, value.uses_secrets, value.constant) == (True, True, False)
    scope = scope_with(tasks={"t": {"output": None}})
    assert value.render(scope) == {"a": [3, {"b": "v=null"}], "n": 1, "c": False, "s": "hunter2"}


@pytest.mark.parametrize("tree", [None, 1, "text", [], {}, {"a": [1, {"b": "c"}], "${{ key }}": 1}])
def test_a_tree_without_expressions_is_constant_and_unchanged(tree: Any) -> None:
    value = compile_value(tree)
    assert value.constant
    assert value.render(Scope({})) == tree


def test_an_escape_is_constant_and_still_rendered() -> None:
    assert compile_value(["$${{ x }}"]).constant
    assert compile_value(["$${{ x }}"]).render(Scope({})) == ["${{ x }}"]


def test_a_tree_of_endless_depth_is_refused() -> None:
    tree: Any = []
    for _ in range(5_000):
        tree = [tree]
    with pytest.raises(ExpressionError, match="levels of nesting"):
        compile_value(tree)


NODE = Scope({"secrets": {"key": "S3CRET", "other": "OTHER"}})
PIECES = st.sampled_from(
    ["$", "$$", "${{", "{{", "}}", "secrets.other", " ", "'", "\\", "${{ secrets.other }}", "$${{ secrets.other }}", "x"]
)
HOSTILE = st.lists(PIECES, max_size=6).map("".join)


@settings(deadline=None)
@given(HOSTILE, HOSTILE)
def test_what_the_server_fills_in_never_becomes_an_expression_on_the_node(first: str, second: str) -> None:
    scope = scope_with(inputs={"a": first, "b": second})
    tree = {
        "mixed": "${{ inputs.a }}${{ inputs.b }}{{ secrets.other }}${{ inputs.a }}${{ secrets.key }}${{ inputs.b }}",
        "whole": "${{ inputs.a }}",
        "deep": "${{ [inputs.a, {'k': inputs.b}] }}",
        "kept": "${{ secrets.key }}",
        "plain": "$${{ secrets.other }}",
    }
    sent = compile_value(tree).render(scope, keep_secrets=True)
    assert "S3CRET" not in repr(sent)
    assert compile_value(sent).secrets == {"key"}
    assert compile_value(sent).render(NODE) == {
        "mixed": f"{first}{second}{{{{ secrets.other }}}}{first}S3CRET{second}",
        "whole": first,
        "deep": [first, {"k": second}],
        "kept": "S3CRET",
        "plain": "${{ secrets.other }}",
    }


@settings(deadline=None)
@given(HOSTILE)
def test_a_quoted_script_with_a_secret_has_the_same_words_on_the_node(value: str) -> None:
    sent = rendered("a ${{ item }} k=${{ secrets.key }}", scope_with(item=value), quote=shlex.quote, keep_secrets=True)
    assert shlex.split(rendered(sent, NODE, quote=shlex.quote)) == ["a", value, "k=S3CRET"]


def test_a_kept_secret_stays_as_it_was_written() -> None:
    assert rendered("${{ upper(secrets.key) }}", keep_secrets=True) == "${{ upper(secrets.key) }}"
    assert rendered("n=${{ index }} k=${{ secrets.key }}", keep_secrets=True) == "n=7 k=${{ secrets.key }}"


WORDS = st.sampled_from([
    "inputs", "tasks", "secrets", "item", ".", "a", "x", "output", "[", "]", "(", ")", "{", "}", ":", ",", "+", "-", "*",
    "/", "//", "%", "==", "<", "in", "not", "and", "or", "if", "else", "'a'", '"b"', "1", "9999999999", "1.5", "null",
    "len(", "sorted(", "range(", "split(", "join(", "default(", "failed(", "**", "lambda", "__class__", "${{", "}}", "=",
    "\\", "\n", "#", "*", ")", "'", "[::",
])  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS, max_size=12).map("".join)))
def test_no_text_makes_an_expression_fail_otherwise_than_by_refusing(source: str) -> None:
    with suppress(ExpressionError):
        parse(source).evaluate(SCOPE)
    with suppress(ExpressionError):
        compile_value(f"{source}${{{{{source}}}}}").render(SCOPE, quote=shlex.quote)


NUMBERS = st.integers(-MAX_INT, MAX_INT) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text()


@settings(deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_value_passes_through_unchanged_and_through_json_and_back(value: Any) -> None:
    assert rendered("${{ item }}", scope_with(item=value)) == value
    assert parse("from_json(json(item))").evaluate(scope_with(item=value)) == value
