"""Forms: what they may say, and what answers are held against them."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.model.fields import Fault, show_path
from skep.model.forms import check_data, parse_form

FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "version": {"type": "string", "pattern": "^v[0-9]+$", "title": "Version"},
        "share": {"type": "number", "minimum": 0, "maximum": 100},
        "where": {"type": "array", "items": {"enum": ["eu", "us"]}, "minItems": 1, "maxItems": 2},
        "note": {"type": ["string", "null"], "maxLength": 5},
        "sure": {"const": True},
    },
    "required": ["version"],
    "additionalProperties": False,
}


def faults(form: Any, data: Any) -> list[str]:
    try:
        check_data(form, data)
    except Fault as fault:
        return [f"{show_path(path)}: {text}" if path else text for path, text in fault.found]
    return []


def test_an_answer_that_fits() -> None:
    answer = {"version": "v1", "share": 5.5, "where": ["eu"], "note": None, "sure": True}
    assert faults(parse_form(FORM), answer) == []
    assert faults(None, {"anything": 1}) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ["found nothing, expected object"]),
        ({}, ["version: is required: give it a value"]),
        ({"version": 1}, ["version: found the number 1, expected string"]),
        ({"version": "1"}, ["version: found '1', expected what matches ^v[0-9]+$"]),
        ({"version": "v1", "share": 101}, ["share: found the number 101, expected at most 100"]),
        ({"version": "v1", "share": True}, ["share: found true, expected number"]),
        ({"version": "v1", "where": []}, ["where: found 0 items, expected at least 1"]),
        ({"version": "v1", "where": ["eu", "mars"]}, ["where[1]: found 'mars', expected one of 'eu', 'us'"]),
        ({"version": "v1", "note": "longer"}, ["note: found 6 characters, expected at most 5"]),
        ({"version": "v1", "sure": 1}, ["sure: found the number 1, expected true"]),
        ({"version": "v1", "shar": 1}, ["shar: is not asked for; did you mean 'share'?"]),
    ],
)
def test_an_answer_that_does_not(answer: Any, expected: list[str]) -> None:
    assert faults(parse_form(FORM), answer) == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ([], "found a list, expected a JSON Schema: a mapping"),
        ({"type": "text"}, "type: found 'text', expected one of object, array"),
        ({"type": []}, "type: found a list, expected one of"),
        ({"anyOf": []}, "anyOf: is not a keyword of forms"),
        ({"requird": ["a"]}, "requird: is not a keyword of forms; did you mean 'required'?"),
        ({"properties": {"a": {"items": {"minimum": "1"}}}}, "properties.a.items.minimum: found '1', expected a number"),
        ({"properties": {"a": True}}, "properties.a: found true, expected a schema: a mapping"),
        ({"pattern": "("}, "pattern: found '(', expected a regular expression"),
        ({"required": [1]}, "required: found a list, expected a list of names"),
        ({"maxLength": -1}, "maxLength: found the number -1, expected a whole number"),
    ],
)
def test_a_form_that_is_none_or_says_more_than_is_checked(form: Any, expected: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_form(form)
    assert str(caught.value).startswith(expected)


def test_what_an_expression_gives_is_not_known_yet() -> None:
    form = {"properties": {"a": {"enum": "${{ inputs.x }}", "pattern": "${{ inputs.y }}"}, "b": "${{ inputs.z }}"}}
    assert parse_form(form) == form
    with pytest.raises(Fault) as caught:
        parse_form(form, filled=True)
    assert [show_path(path) for path, _ in caught.value.found] == ["properties.a.enum", "properties.b"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["", "a", "ab", "abc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
RULES: dict[str, st.SearchStrategy[Any]] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    "additionalProperties": st.booleans(),
    "minimum": st.integers(-5, 5),
    "maximum": st.integers(-5, 5),
    "minLength": st.integers(0, 3),
    "maxLength": st.integers(0, 3),
    "minItems": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "pattern": st.sampled_from(["a", "^b", "c$"]),
}
FORMS = st.recursive(
    st.fixed_dictionaries({}, optional=RULES),
    lambda inner: st.fixed_dictionaries(
        {}, optional=RULES | {"items": inner, "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3)}
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(FORMS, VALUES)
def test_what_is_checked_is_checked_as_json_schema_means_it(form: dict[str, Any], value: Any) -> None:
    assert (faults(parse_form(form), value) == []) == jsonschema.Draft202012Validator(form).is_valid(value)
