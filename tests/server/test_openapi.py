"""The server against its own description: schemathesis makes up requests, valid and not, and checks every answer."""

from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

# The description holds types, not ranges or how fields go together: what fits it may still be refused, by name.
EXCLUDED = [positive_data_acceptance]
POST = ["/v1/completions", "/v1/chat/completions"]
GET = ["/v1/models", "/v1/models/{name}", "/health", "/metrics", "/version"]


@pytest.fixture(scope="module")
def api(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def small(body: object) -> object:
    """The same body, wrong where it was wrong, asking for little work."""
    if isinstance(body, dict):
        for field, most in (("max_tokens", 2), ("max_completion_tokens", 2), ("n", 2)):
            if type(body.get(field)) is int:
                body[field] = min(body[field], most)
        if body.get("max_tokens") is None:
            body["max_tokens"] = 2
    return body


def run(operation, mode: GenerationMode, examples: int) -> Counter[int]:
    """Sends made-up requests. Returns how many answers had which status."""
    statuses: Counter[int] = Counter()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def exchange(case):
        case.body = small(case.body)
        response = case.call()
        statuses[response.status_code] += 1
        case.validate_response(response, excluded_checks=EXCLUDED)
        assert response.status_code < 500, response.text

    exchange()
    return statuses


def test_every_operation_is_described(api):
    described = {(method.upper(), path) for path, methods in api.raw_schema["paths"].items() for method in methods}
    assert described == {("POST", path) for path in POST} | {("GET", path) for path in GET}


@pytest.mark.parametrize("path", POST)
def test_requests_that_fit_the_description(api, path):
    statuses = run(api[path]["POST"], GenerationMode.POSITIVE, 60)
    assert statuses[200] > 0


@pytest.mark.parametrize("path", POST)
def test_requests_that_do_not(api, path):
    statuses = run(api[path]["POST"], GenerationMode.NEGATIVE, 150)
    assert set(statuses) <= {400, 404, 415}


@pytest.mark.parametrize("path", GET)
def test_reading(api, path):
    assert set(run(api[path]["GET"], GenerationMode.POSITIVE, 20)) <= {200, 404}


def test_references_resolve(server):
    description = httpx.get(f"{server.url}/openapi.json").json()
    references = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            references.update([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(description)
    assert references
    assert {r.removeprefix("#/components/schemas/") for r in references} <= set(description["components"]["schemas"])
