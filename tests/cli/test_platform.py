"""`tiercel platform`."""

import json

from tests.cli.conftest import Tiercel
from tiercel.platforms import detect


def test_json_is_what_was_detected(tiercel: Tiercel) -> None:
    shown = tiercel("platform", "--json")
    facts = json.loads(shown.out)
    assert shown.code == 0
    assert (facts["cores"], facts["memory_total"], tuple(facts["isa"])) == (
        detect().cores,
        detect().memory_total,
        detect().isa,
    )
    assert facts["versions"]["tiercel"] == "0.1.0"


def test_table(tiercel: Tiercel) -> None:
    shown = tiercel("platform")
    assert shown.code == 0
    assert detect().cpu.split()[0] in shown.out
    assert " GiB available" in shown.out
