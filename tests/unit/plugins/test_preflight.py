"""The pure core of the preflight check: what is refused, in which words, and what is let through."""

from __future__ import annotations

import copy
import ipaddress
import pathlib
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.filter.core import to_bool
from ansible_collections.webstack.ha.plugins.module_utils import _site_checks as checks
from hypothesis import given
from hypothesis import strategies as st

SPECS = pathlib.Path(__file__).resolve().parents[3] / "meta/site_specs.yml"
SITE = checks.parse_site(yaml.safe_load(SPECS.read_text(encoding="utf-8")))

GROUPS = {
    "lb": ["lb1", "lb2"],
    "was": ["was1", "was2"],
    "redis": ["redis1", "redis2", "redis3"],
    "db": ["db1", "db2"],
}
HOSTS = [host for hosts in GROUPS.values() for host in hosts]


def good() -> dict[str, dict[str, Any]]:
    """Return the settings of a site without a fault."""
    return {
        host: {
            "webstack_address": f"192.0.2.{number}",
            "webstack_network": "192.0.2.0/24",
            "webstack_virtual_addresses": ["192.0.2.100/24", "192.0.2.101/24"],
            "webstack_server_names": ["www.example.com", "*.example.org"],
            "webstack_database_address": "192.0.2.110/24",
            "webstack_database_password": "a" * 40,
            "webstack_cache_password": "b" * 40,
        }
        for number, host in enumerate(HOSTS, 11)
    }


def everything(values: dict[str, dict[str, Any]], groups: dict[str, list[str]] | None = None) -> list[checks.Problem]:
    groups = groups or GROUPS
    return [
        *checks.check_groups(SITE, groups, allow_single=False),
        *checks.check_settings(SITE, groups, values),
        *checks.check_addresses(SITE, groups, values),
    ]


def on_all(name: str, value: Any) -> dict[str, dict[str, Any]]:
    values = good()
    for own in values.values():
        own[name] = value
    return values


def lines(problems: list[checks.Problem]) -> list[str]:
    return [f"{p.host}: {p.variable}: {p.message}" for p in problems]


def test_a_good_site_passes() -> None:
    assert everything(good()) == []


# --- Groups ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["lb", "was", "redis", "db"])
def test_an_empty_group_is_refused_by_name(group: str) -> None:
    for groups in (
        {**GROUPS, group: []},
        {name: hosts for name, hosts in GROUPS.items() if name != group},
    ):
        (problem,) = checks.check_groups(SITE, groups, allow_single=False)
        assert problem.variable == f"group {group}"
        assert "has no hosts" in problem.message


@pytest.mark.parametrize(
    ("group", "hosts", "words"),
    [
        ("lb", ["lb1"], "has only lb1, exactly 2 are needed"),
        ("lb", ["a", "b", "c"], "has 3 hosts (a, b, c), exactly 2 are needed"),
        ("was", ["was1"], "at least 2 are needed"),
        ("redis", ["redis1"], "at least 2 are needed"),
        ("db", ["db1"], "exactly 2 are needed"),
        ("db", ["a", "b", "c"], "exactly 2 are needed"),
        ("sentinel", ["a", "b"], "at least 3 are needed"),
        ("sentinel", ["a", "b", "c", "d"], "an odd number is needed"),
        ("quorum", ["a", "b"], "at least 3 are needed"),
        ("quorum", ["a", "b", "c", "d"], "an odd number is needed"),
        ("quorum", ["db1", "was1", "db2"], "has 2 database hosts (db1, db2): at most one may be a member"),
    ],
)
def test_a_group_of_the_wrong_size_is_refused(group: str, hosts: list[str], words: str) -> None:
    (problem,) = checks.check_groups(SITE, {**GROUPS, group: hosts}, allow_single=False)
    assert problem.variable == f"group {group}"
    assert words in problem.message


def test_what_would_be_refused_all_the_same_is_not_proposed() -> None:
    for hosts, proposed in ((["a"], True), (["a", "b"], False)):
        (problem,) = checks.check_groups(SITE, {**GROUPS, "quorum": hosts}, allow_single=False)
        assert ("webstack_allow_single" in problem.message) == proposed


def test_a_small_site_can_be_allowed() -> None:
    assert checks.check_groups(SITE, {"was": ["was1"], "db": ["db1"]}, allow_single=True) == []
    # ... but never three databases: the roles know a primary and a replica.
    assert checks.check_groups(SITE, {"db": ["a", "b", "c"]}, allow_single=True) != []


# --- Settings --------------------------------------------------------------------------------------------


def test_an_absent_address_names_the_host() -> None:
    values = good()
    del values["redis2"]["webstack_address"]
    assert lines(everything(values)) == ["redis2: webstack_address: is not set"]


@pytest.mark.parametrize("name", ["webstack_network", "webstack_virtual_addresses", "webstack_server_names"])
@pytest.mark.parametrize("value", [None, "", []])
def test_an_empty_setting_is_refused(name: str, value: Any) -> None:
    assert {p.variable for p in everything(on_all(name, value))} == {name}


def test_a_setting_is_one_of_its_choices() -> None:
    said = {f"{p.variable}: {p.message}" for p in everything(on_all("webstack_cache_engine", "memcached"))}
    assert said == {"webstack_cache_engine: must be one of ring, redis_cluster, single, not the text 'memcached'"}


def test_a_secret_is_asked_for_where_it_is_used_only() -> None:
    values = good()
    for own in values.values():
        del own["webstack_cache_password"]
    problems = everything(values)
    assert [p.host for p in problems] == ["was1", "was2", "redis1", "redis2", "redis3"]
    assert {p.message for p in problems} == {"is not set; the playbook webstack.ha.secrets writes the missing secrets"}


def test_what_only_a_tier_needs_is_not_asked_for_without_it() -> None:
    values = {"was1": {"webstack_address": "192.0.2.1", "webstack_network": "192.0.2.0/24"}}
    missing = {p.variable for p in checks.check_settings(SITE, {"was": ["was1"]}, values)}
    assert missing == {
        "webstack_server_names",
        "webstack_database_password",
        "webstack_cache_password",
    }


def test_a_site_wide_setting_must_agree() -> None:
    values = good()
    values["was2"]["webstack_network"] = "192.0.2.0/25"
    assert lines(everything(values)) == [
        "was2: webstack_network: differs from lb1's: it must be the same everywhere"
        " (192.0.2.0/25 here, 192.0.2.0/24 there)"
    ]


def test_a_secret_that_differs_is_refused_without_showing_it() -> None:
    values = good()
    values["db2"]["webstack_database_password"] = "hunter2"
    (line,) = lines(everything(values))
    assert line.startswith("db2: webstack_database_password: differs from lb1's")
    assert "hunter2" not in line
    assert "aaa" not in line


def test_what_could_not_be_templated_is_not_called_absent() -> None:
    values = good()
    del values["lb1"]["webstack_address"]
    assert checks.check_settings(SITE, GROUPS, values, failed={("lb1", "webstack_address")}) == []


# --- Addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.11/24", "without a prefix"),
        ("192.0.2", "must be an IP address"),
        ("192.0.2.256", "must be an IP address"),
        ("db1.example.com", "must be an IP address"),
        ("198.51.100.7", "lies outside webstack_network 192.0.2.0/24"),
        ("192.0.2.0", "the address of the network"),
        ("192.0.2.255", "the broadcast address"),
        ("192.0.2.11", "is also the address of lb1"),
        ("192.0.2.100", "is the address of db2"),
        ("2001:db8::1", "lies outside"),
    ],
)
def test_a_bad_host_address_is_refused(address: str, words: str) -> None:
    values = good()
    values["db2"]["webstack_address"] = address
    (problem,) = everything(values)
    assert words in problem.message


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("192.0.2.0", "must be a network like"),
        ("192.0.2.1/24", "write the network itself, 192.0.2.0/24"),
        ("192.0.2.0/33", "must be a network like"),
        ("my network", "must be a network like"),
        ("192.0.2.0/31", "no room"),
        (["192.0.2.0/24"], "must be a text, not a list"),
    ],
)
def test_a_bad_network_is_refused(network: Any, words: str) -> None:
    problems = everything(on_all("webstack_network", network))
    assert {p.variable for p in problems} == {"webstack_network"}
    assert words in problems[0].message


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.100", "has no prefix: write 192.0.2.100/24"),
        ("198.51.100.100/24", "lies outside webstack_network 192.0.2.0/24"),
        ("192.0.2.255/24", "broadcast"),
        ("192.0.2.0/24", "network"),
        ("192.0.2.11/24", "is the address of lb1"),
        ("192.0.2.101/24", "is there twice"),
        ("192.0.2.100/40", "impossible prefix"),
        ("www/24", "is no IP address"),
        ("224.0.0.1/24", "cannot be the address of a host"),
        ("", "must be address/prefix"),
    ],
)
def test_a_bad_virtual_address_is_refused(address: str, words: str) -> None:
    problems = everything(on_all("webstack_virtual_addresses", [address, "192.0.2.101/24"]))
    assert [(p.host, p.variable) for p in problems] == [("lb1", "webstack_virtual_addresses")]
    assert words in problems[0].message


def test_a_second_address_family_is_let_through() -> None:
    assert everything(on_all("webstack_virtual_addresses", ["192.0.2.100/24", "2001:db8::100/64"])) == []


def test_a_text_is_no_list_of_addresses() -> None:
    problems = everything(on_all("webstack_virtual_addresses", "192.0.2.100/24"))
    assert {p.message for p in problems} == {"must be a list, not the text '192.0.2.100/24'"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.100/24", "is also in webstack_virtual_addresses"),
        ("192.0.2.17/24", "is the address of redis3"),
        ("203.0.113.9/24", "lies outside"),
        ("192.0.2.110", "has no prefix"),
    ],
)
def test_a_bad_writer_address_is_refused(address: str, words: str) -> None:
    (problem,) = everything(on_all("webstack_database_address", address))
    assert problem.variable == "webstack_database_address"
    assert words in problem.message


@given(st.ip_addresses(network="192.0.2.0/24"), st.integers(0, 32))
def test_a_virtual_address_is_refused_exactly_when_it_is_no_free_host_address(
    address: ipaddress.IPv4Address, prefix: int
) -> None:
    values = on_all("webstack_virtual_addresses", [f"{address}/{prefix}"])
    taken = {own["webstack_address"] for own in good().values()} | {
        "192.0.2.0",
        "192.0.2.255",
        "192.0.2.110",
    }
    assert bool(everything(values)) == (str(address) in taken)


@given(st.ip_addresses())
def test_an_address_outside_the_network_never_passes(address: Any) -> None:
    values = good()
    values["was1"]["webstack_address"] = str(address)
    inside = address.version == 4 and address in ipaddress.ip_network("192.0.2.0/24")
    if not inside:
        assert [p for p in everything(values) if p.host == "was1"]


@given(
    st.one_of(
        st.text(),
        st.integers(),
        st.none(),
        st.lists(st.text()),
        st.booleans(),
        st.floats(),
    )
)
def test_no_value_makes_the_check_itself_fail(value: Any) -> None:
    for name in SITE.options:
        problems = everything(on_all(name, value))
        assert "Traceback" not in checks.report(problems)


@pytest.mark.parametrize(
    "name",
    ["-a.example.com", "a b", "a..b", "x" * 64 + ".com", "http://example.com", "", "shop.example.com."],
)
def test_a_bad_server_name_is_refused(name: str) -> None:
    problems = everything(on_all("webstack_server_names", ["www.example.com", name]))
    assert problems[0].variable == "webstack_server_names"
    assert "is no host name" in problems[0].message


def test_a_server_name_is_there_once() -> None:
    (problem,) = everything(on_all("webstack_server_names", ["www.example.com", "WWW.example.com"]))
    assert "is there twice" in problem.message


def test_ports_and_names_of_the_database() -> None:
    assert "is no port" in everything(on_all("webstack_application_port", 70000))[0].message
    assert "only letters" in everything(on_all("webstack_database_name", "site; drop table"))[0].message


def test_without_the_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert checks.missing_library() is None
    monkeypatch.setattr(checks, "netaddr", None)
    message = checks.missing_library()
    assert message is not None
    assert "netaddr is missing on the controller" in message


# --- Names -----------------------------------------------------------------------------------------------

NAMES = checks.Names.build(
    known=[
        "lb_nginx_backends",
        "lb_nginx_backend_port",
        "webstack_address",
        "mysql_replication_server_id",
    ],
    prefixes=["lb_nginx_", "webstack_", "mysql_replication_"],
    ignored_prefixes=["webstack_lab_"],
)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("lb_nginx_backend_prot", "lb_nginx_backend_port"),
        ("webstack_adress", "webstack_address"),
        ("mysql_replication_serverid", "mysql_replication_server_id"),
        ("lb_nginx_quite_another_thing_altogether", None),
    ],
)
def test_an_unknown_variable_is_refused_with_a_guess(name: str, guess: str | None) -> None:
    (problem,) = NAMES.unknown("lb1", ["ansible_host", "lb_nginx_backends", name])
    assert (problem.host, problem.variable) == ("lb1", name)
    assert problem.message == "is no variable of this collection" + (f"; did you mean {guess}?" if guess else "")


def test_foreign_and_lab_variables_are_left_alone() -> None:
    assert (
        NAMES.unknown(
            "lb1",
            [
                "lab_names",
                "webstack_lab_image",
                "my_own",
                "__lb_nginx_files",
                "nginx_port",
            ],
        )
        == []
    )


def test_a_slip_in_the_prefix_is_pointed_out() -> None:
    assert NAMES.suspicious(["lb_ngnix_backend_port", "site_owner"]) == [
        ("lb_ngnix_backend_port", "lb_nginx_backend_port")
    ]


@given(st.sampled_from(NAMES.known))
def test_a_known_name_is_never_refused(name: str) -> None:
    assert NAMES.unknown("h", [name]) == []


# --- Types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        ("a,b", {"type": "list"}, "must be a list, not the text 'a,b'"),
        ({}, {"type": "list"}, "must be a list, not a mapping"),
        ("maybe", {"type": "bool"}, "must be true or false, not the text 'maybe'"),
        ("", {"type": "bool"}, "must be true or false, not the text ''"),
        ("y", {"type": "bool"}, "must be true or false, not the text 'y'"),
        (2, {"type": "bool"}, "must be true or false, not 2"),
        ([True], {"type": "bool"}, "must be true or false, not a list"),
        (True, {"type": "int"}, "must be a whole number, not true"),
        (1.5, {"type": "int"}, "must be a whole number, not 1.5"),
        (["x"], {"type": "str"}, "must be a text, not a list"),
        ("x", {"type": "dict"}, "must be a mapping, not the text 'x'"),
        # What YAML makes of `on`, `no` and the like, at the top and inside.
        (False, {"type": "str"}, "must be a text, not false (YAML makes that of on, yes, off and no"),
        (["GET", True], {"type": "list", "elements": "str"}, "[1] must be a text, not true"),
        ([["x", True]], {"type": "list", "elements": "list"}, "[0][1] must be a text, not true"),
        (
            [{"name": "a", "cache_inactive": True}],
            {"type": "list", "elements": "dict", "options": {"name": {"type": "str"}, "cache_inactive": {}}},
            "[0].cache_inactive must be a text, not true",
        ),
    ],
)
def test_a_wrong_type_is_said_in_words(value: Any, spec: dict[str, Any], message: str) -> None:
    said = checks.wrong_kind(value, spec)
    assert said is not None
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (True, True),
        (1, True),
        *((word, True) for word in ("true", "True", "TRUE", "yes", "Yes", "on", "1")),
        (False, False),
        (0, False),
        *((word, False) for word in ("false", "False", "no", "No", "off", "0")),
    ],
)
def test_a_boolean_is_what_ansible_reads_as_one(value: Any, meaning: bool) -> None:
    """INI files and -e name=value give texts, and the roles read them by the filter `bool`."""
    assert checks.wrong_kind(value, {"type": "bool"}) is None
    assert checks.boolean(value) is to_bool(value) is meaning


def test_no_writer_address_is_a_choice_that_all_make() -> None:
    assert everything(on_all("webstack_database_address", "")) == []
    values = good()
    values["db2"]["webstack_database_address"] = ""
    assert lines(everything(values)) == ["db2: webstack_database_address: is empty"]
    values = on_all("webstack_database_address", "")
    values["db2"]["webstack_database_address"] = "192.0.2.110/24"
    (problem,) = lines(everything(values))
    assert problem.startswith("db2: webstack_database_address: differs from lb1's")
    values = on_all("webstack_server_names", "")
    assert "lb1: webstack_server_names: is empty" in lines(everything(values))


def test_a_text_and_a_boolean_that_mean_the_same_do_not_differ() -> None:
    values = {host: {**own, "webstack_cache_tls_enabled": True} for host, own in good().items()}
    values["was1"]["webstack_cache_tls_enabled"] = "yes"
    assert checks.check_settings(SITE, GROUPS, values) == []
    values["was1"]["webstack_cache_tls_enabled"] = "no"
    assert "differs from" in checks.check_settings(SITE, GROUPS, values)[0].message


@pytest.mark.parametrize(
    ("seconds", "waits", "refused"),
    [
        (60, {"lb1": 60, "lb2": 60}, ""),
        ("600", {"lb1": 600}, ""),
        (30, {}, ""),
        # Balancers with other applications only.
        (60, {"lb1": 0, "lb2": 0}, ""),
        (60, {"lb1": 0, "lb2": 60}, ""),
        (60, {"lb1": 60, "lb2": 600}, "is 60, but the balancers wait 600 s at most"),
        (600, {"lb1": 60}, "is 600, but the balancers wait 60 s at most"),
        ("soon", {"lb1": 60}, ""),
    ],
)
def test_both_tiers_take_a_request_for_the_same_time(seconds: Any, waits: dict[str, int], refused: str) -> None:
    problems = checks.check_wait("was1", seconds, waits)
    assert [(p.host, p.variable) for p in problems] == [("was1", "was_django_request_timeout_seconds")] * bool(refused)
    assert all(refused in problem.message and "lb" in problem.message for problem in problems)


def test_a_right_type_is_not_mentioned() -> None:
    for value, kind in [
        ([], "list"),
        ({}, "dict"),
        (False, "bool"),
        (3, "int"),
        ("3", "int"),
        (3, "str"),
        (0.5, "float"),
    ]:
        assert checks.wrong_kind(value, {"type": kind}) is None
    flags = {"type": "list", "elements": "dict", "options": {"on": {"type": "bool"}, "any": {"type": "raw"}}}
    assert checks.wrong_kind([{"on": True, "any": True, "unknown": True}], flags) is None
    assert checks.wrong_kind({"DEBUG": True}, {"type": "dict"}) is None
    assert checks.wrong_kind([True], {"type": "list", "elements": "raw"}) is None


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        ({"type": "int"}, "many", "must be a whole number, not 'many'"),
        ({"type": "str", "choices": ["a", "b"]}, "c", "must be one of: a, b, got: c"),
        (
            {"type": "list", "elements": "int"},
            ["x"],
            "each element must be a whole number",
        ),
        (
            {
                "type": "list",
                "elements": "dict",
                "options": {"name": {"required": True}},
            },
            [{}],
            "lacks name",
        ),
        (
            {"type": "dict", "options": {"port": {"type": "int"}}},
            {"port": "x"},
            "port must be a whole number",
        ),
        (
            {"type": "dict", "options": {"port": {"type": "int"}}},
            {"prot": 1},
            "thing.prot",
        ),
    ],
)
def test_messages_of_the_validator_become_words(spec: dict[str, Any], value: Any, message: str) -> None:
    found = ArgumentSpecValidator({"thing": spec}).validate({"thing": copy.deepcopy(value)})
    words = [checks.plain_words(text, "thing", spec, secret=False) for text in found.error_messages]
    assert any(message in word for word in words), words
    assert all("argument '" not in word and "unable to convert" not in word for word in words)


def test_a_secret_never_shows_in_a_message() -> None:
    spec = {"type": "int", "no_log": True}
    assert checks.is_secret("anything", spec)
    assert checks.is_secret("was_django_secret_key")
    assert checks.is_secret("mysql_replication_password")
    assert not checks.is_secret("lb_nginx_tls_key_file")
    assert "hunter2" not in str(checks.wrong_kind(["hunter2"], {"type": "str"}, secret=True))
    for text in ArgumentSpecValidator({"p": {"type": "int"}}).validate({"p": "hunter2"}).error_messages:
        assert "hunter2" not in checks.plain_words(text, "p", spec, secret=True)


# --- Between hosts ---------------------------------------------------------------------------------------


def test_equal_server_ids_are_refused() -> None:
    values = {
        "db1": {"mysql_replication_server_id": 1},
        "db2": {"mysql_replication_server_id": "1"},
    }
    assert lines(checks.check_unique("mysql_replication_server_id", ["db1", "db2"], values)) == [
        "db2: mysql_replication_server_id: 1 is also used by db1"
    ]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_as_many_problems_as_values_too_many(ids: list[int]) -> None:
    hosts = [f"h{number}" for number in range(len(ids))]
    values = {host: {"id": value} for host, value in zip(hosts, ids, strict=True)}
    assert len(checks.check_unique("id", hosts, values)) == len(ids) - len(set(ids))
    assert bool(checks.check_equal("id", hosts, values)) == (len(set(ids)) > 1)


def test_ports_of_one_host_must_differ() -> None:
    ports = [
        ("lb_nginx_http_port", 80),
        ("lb_nginx_https_port", 443),
        ("was_django_port", "443"),
        ("x", 0),
    ]
    assert lines(checks.check_ports("h1", ports)) == [
        "h1: was_django_port: port 443 is also used by lb_nginx_https_port on this host",
        "h1: x: 0 is no port: 1 to 65535",
    ]


def test_ports_that_stand_in_lists_count_too() -> None:
    values = {
        "redis_shard_shards": [
            {"name": "s1", "port": 6379, "nodes": [{"name": "h1", "port": 6379}, {"name": "h2", "port": 6379}]},
            {"name": "s2", "port": 8089, "nodes": [{"name": "h1", "port": 8089}]},
        ],
        "redis_shard_sentinels": [{"name": "h2", "port": 26379}, "not an entry"],
        "lb_nginx_health_port": 8089,
        "was_django_port": 8089,
    }
    ports = checks.listening_ports(SITE, "h1", {"redis_shard", "lb_nginx"}, values)
    assert sorted(ports) == [("lb_nginx_health_port", 8089), ("redis_shard_shards", 6379), ("redis_shard_shards", 8089)]
    (line,) = lines(checks.check_ports("h1", ports))
    assert "port 8089 is also used by" in line


# --- Report ----------------------------------------------------------------------------------------------


def test_equal_problems_share_a_line_and_groups_come_first() -> None:
    problems = [
        checks.Problem("db1", "a", "is not set"),
        checks.Problem("db2", "a", "is not set"),
        checks.Problem("db2", "b", "is odd"),
        checks.Problem("", "group lb", "has no hosts"),
    ]
    assert checks.report(problems).splitlines() == [
        "Nothing was changed: 3 inputs are refused.",
        "  group lb: has no hosts",
        "  db1, db2: a: is not set",
        "  db2: b: is odd",
    ]


def test_many_hosts_are_counted() -> None:
    text = checks.report(checks.Problem(f"h{number}", "a", "is not set") for number in range(100))
    assert text.splitlines()[1].endswith("h7 and 92 more: a: is not set")


def test_a_consequence_is_not_reported_beside_its_cause() -> None:
    cause = checks.Problem("was2", "webstack_address", "is not set")
    other = checks.unworkable("lb1", "division by zero.", ["lb_nginx_thing", "lb_nginx_other"])
    problems = [
        checks.unworkable("lb1", "the host 'was2' has no webstack_address", ["lb_nginx_backends"]),
        cause,
        checks.Problem("was2", "webstack_address", "is not set (needed by x)"),
        other,
    ]
    assert checks.only_first(problems) == [cause, other]
    assert other.message == "cannot be worked out: division by zero (and so lb_nginx_other)"


# --- Hosts -----------------------------------------------------------------------------------------------


def facts(**changed: Any) -> dict[str, Any]:
    known = {
        "distribution": "Debian",
        "distribution_major_version": "13",
        "effective_user_id": 0,
        **changed,
    }
    return {"ansible_facts": {f"ansible_{name}": value for name, value in known.items()}}


def test_supported_hosts_pass() -> None:
    assert checks.check_host("h", facts()) == []
    assert checks.check_host("h", facts(distribution_major_version="12")) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"unreachable": True, "msg": "Connection\n refused"},
            "h: connection: not reachable: Connection refused",
        ),
        (None, "h: connection: was not asked"),
        (
            {"rc": 1, "module_stderr": "sudo: a password is required"},
            "sudo: a password is required",
        ),
        ({"msg": "Missing sudo password"}, "Missing sudo password"),
        (
            facts(distribution="Ubuntu", distribution_version="24.04"),
            "Ubuntu 24.04 is not supported",
        ),
        (
            facts(distribution_major_version="11"),
            "Debian 11 is not supported: Debian 12 (bookworm) and 13 (trixie) are",
        ),
        (facts(effective_user_id=1000), "do not run as root"),
    ],
)
def test_unfit_hosts_are_refused(answer: dict[str, Any] | None, words: str) -> None:
    (line,) = lines(checks.check_host("h", answer))
    assert words in line
