"""Free-form settings: YAML values in the words of those who read them."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible_collections.webstack.ha.plugins.module_utils import _settings
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[3]


def lines(text: str, dialect: str) -> list[str]:
    return _settings.lines(yaml.safe_load(text), dialect)


def problems(text: str, variable: str) -> list[str]:
    return _settings.problems(yaml.safe_load(text), variable, _settings.FREE_FORM[variable])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("slow_query_log: on", "slow_query_log = ON"),
        ("slow_query_log: no", "slow_query_log = OFF"),
        ("slow_query_log: 'on'", "slow_query_log = on"),
        ("long_query_time: 0.5", "long_query_time = 0.5"),
        ("innodb_log_file_size: 1G", "innodb_log_file_size = 1G"),
        ("skip_networking:", "skip_networking"),
        ("ft_stopword_file: ''", 'ft_stopword_file = ""'),
        ("init_connect: 'SET NAMES utf8mb4'", "init_connect = SET NAMES utf8mb4"),
        ("init_connect: \"SET @a = 'x#y'\"", "init_connect = \"SET @a = 'x#y'\""),
        ("init_connect: 'say \"it\" # all'", 'init_connect = "say \\"it\\" # all"'),
        ("init_connect: '\"SET NAMES utf8mb4\"'", 'init_connect = "SET NAMES utf8mb4"'),
    ],
)
def test_mariadb_gets_its_own_words(text: str, line: str) -> None:
    assert lines(text, "mariadb") == [line]


def test_a_list_becomes_a_line_for_each() -> None:
    assert lines("replicate_do_db: [a, b]", "mariadb") == ["replicate_do_db = a", "replicate_do_db = b"]
    written = lines("client-output-buffer-limit: [normal 0 0 0, pubsub 32mb 8mb 60]", "redis")
    assert written == ["client-output-buffer-limit normal 0 0 0", "client-output-buffer-limit pubsub 32mb 8mb 60"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("activedefrag: on", "activedefrag yes"),
        ("activedefrag: false", "activedefrag no"),
        ("hz: 20", "hz 20"),
        ("save: ''", 'save ""'),
        ("notify-keyspace-events: Ex", "notify-keyspace-events Ex"),
    ],
)
def test_redis_gets_its_own_words(text: str, line: str) -> None:
    assert lines(text, "redis") == [line]


@pytest.mark.parametrize("variable", sorted(_settings.FREE_FORM))
@pytest.mark.parametrize("value", ["{a: {b: c}}", "{a: [[x]]}", "{a: .inf}", "{a: []}", "{'a b': x}", "{1: x}"])
def test_what_no_reader_takes_is_refused_by_name(variable: str, value: str) -> None:
    found = problems(value, variable)
    assert len(found) == 1
    assert found[0].startswith(f"{variable}.")


@pytest.mark.parametrize("variable", sorted(_settings.FREE_FORM))
@pytest.mark.parametrize("value", ["on", "No", "~", "[a, b]"])
def test_where_only_the_author_knows_the_word_it_has_to_be_a_text(variable: str, value: str) -> None:
    found = problems(f"{{Token: {value}}}", variable)
    if _settings.FREE_FORM[variable] in ("environment", "header"):
        assert len(found) == 1
        assert found[0].startswith(f"{variable}.Token ")
    elif value == "~":
        assert bool(found) == (variable == "redis_shard_settings")
    else:
        assert found == []
    assert problems("{Token: 'on'}", variable) == []
    assert problems("{Token: 7}", variable) == []


def test_no_value_is_shown() -> None:
    for value in ({"x": "secret"}, ["secret"], None, True, "secret\nline"):
        assert "secret" not in str(_settings.problems({"a": value}, "lb_nginx_security_headers", "header"))


@pytest.mark.parametrize(
    "variable", ["mysql_replication_settings", "redis_shard_settings", "lb_nginx_security_headers"]
)
def test_a_line_break_would_be_another_setting(variable: str) -> None:
    assert problems('{a: "1\\nb 2"}', variable)
    assert not problems('{A: "first\\nsecond"}', "was_django_environment")


def read_option(line: str) -> tuple[str, str]:
    """What MariaDB makes of a line of an option file: comments, quotes and escapes as in mysys/my_default.c."""
    quote, escape, end = "", False, len(line)
    for at, letter in enumerate(line):
        if letter in "'\"" and not escape:
            quote = letter if not quote else "" if quote == letter else quote
        if not quote and letter == "#":
            end = at
            break
        escape = bool(quote) and letter == "\\" and not escape
    name, _, value = line[:end].partition("=")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    names = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
    return name.strip(), re.sub(r"\\([ntrbs\"'\\])", lambda m: names[m[1]], value)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_mariadb_reads_the_text_that_was_written(text: str) -> None:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return  # the author's own quotes
    settings: dict[str, Any] = {"init_connect": text}
    assert _settings.problems(settings, "mysql_replication_settings", "mariadb") == []
    assert read_option(_settings.lines(settings, "mariadb")[0]) == ("init_connect", text)


def test_every_free_form_input_is_known_here() -> None:
    """A mapping without keys of its own in a role's specification is somebody else's configuration."""
    # Names of ours as keys, numbers as values, or Python's own words.
    ours = {"redis_shard_password_fallbacks", "redis_shard_sentinel_timing", "was_django_caches", "was_django_source"}
    ours |= {"shared_media_device_ids", "backup_slave_retention"}
    found = set()
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found |= {n for n, s in (entry.get("options") or {}).items() if s.get("type") == "dict"}
    assert found - ours == set(_settings.FREE_FORM)
