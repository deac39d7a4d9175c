"""Facts about the machine, and the profile they lead to."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import CPU, card

from modelforge import ConfigError, choose_profile, detect_hardware, list_profiles
from modelforge.machine.hardware import device_arguments


def test_this_machine_has_cores_and_memory():
    found = detect_hardware()
    assert found.cores >= 1 and found.ram_gb > 0
    assert found.device in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("vram", "name"),
    [(7.6, "low"), (11.6, "mid"), (15.8, "high"), (11.9, "mid"), (23.6, "high"), (79.1, "max")],
)
def test_cards_get_the_profile_of_the_size_they_are_sold_as(vram, name):
    profile, choice = choose_profile(card(vram))
    assert profile.name == name
    assert choice.source == "machine" and str(vram) in choice.reason


def test_without_cuda_the_cpu_profile_says_why():
    profile, choice = choose_profile(CPU)
    assert profile.name == "cpu" and "no CUDA" in choice.reason
    assert profile.defaults["use_4bit"] is False


def test_a_budget_takes_the_place_of_the_card():
    assert choose_profile(card(79.0), memory_budget_gb=15)[0].name == "mid"


def test_a_profile_can_be_named_and_a_typo_is_refused():
    assert choose_profile(CPU, name="high")[0].name == "high"
    with pytest.raises(ConfigError, match="did you mean 'high'"):
        choose_profile(CPU, name="hihg")


@given(st.floats(0.1, 1000))
def test_every_size_of_card_has_a_profile(vram):
    assert choose_profile(card(vram))[0] in list_profiles()


def test_half_precision_is_chosen_by_what_the_card_can():
    assert device_arguments(card(16), {})["bf16"].value is True
    assert device_arguments(card(16), {"bf16": False})["bf16"].value is False
    old = device_arguments(card(16, bf16=False), {"bf16": True})
    assert old["fp16"].value is True and old["bf16"].value is False
    assert "bfloat16" in old["bf16"].reason
    cpu = device_arguments(CPU, {"bf16": True})
    assert cpu["bf16"].value is False and cpu["use_cpu"].value is True and cpu["bf16"].reason


def test_facts_are_plain_json():
    assert CPU.to_dict() == dataclasses.asdict(CPU)
