"""Facts about the machine, and the profile they lead to."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from machines import CPU, card

from modelforge import ConfigError, choose_profile, detect_hardware, list_profiles
from modelforge.machine.cards import card_named, list_cards
from modelforge.machine.hardware import device_arguments
from modelforge.plan.planner import card as planned


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


@pytest.mark.parametrize("sold", list_cards(), ids=lambda sold: sold.name)
def test_a_card_of_the_table_gets_the_profile_of_its_size_in_a_budget(sold):
    """`--gpu rtx-4090` and `--vram 24` are one card; a T4 has the most taken off its 16 GB."""
    named, said = (choose_profile(c)[0].name for c in (sold.hardware, planned(sold.sold_gb)))
    assert named == said or sold.name == "t4"
    assert 0.9 < sold.vram_gib / sold.sold_gb <= 1 and sold.tflops > 20 and sold.bandwidth > 200


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("a100 40gb", "a100-40gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_cards_are_found_as_driver_and_user_write_them(said, name):
    assert card_named(said).name == name


def test_an_unknown_card_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'rtx-4090'"):
        card_named("RTX 4091")


def test_what_others_take_of_a_card_is_not_planned_with(monkeypatch):
    """A display's share is gone; what this process holds itself is not."""
    gib = 2**30
    facts = SimpleNamespace(name="a card", major=8, minor=9, total_memory=24 * gib)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: facts)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (20 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: 2 * gib)
    found = detect_hardware()
    assert (found.vram_gb, found.free_gb, found.usable_gb) == (24.0, 22.5, 22.5)
    monkeypatch.setenv("WORLD_SIZE", "2")  # the ranks have to come to one plan
    assert detect_hardware().usable_gb == 24.0
