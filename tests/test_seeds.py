import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idiolect import seeds

PURPOSES = st.lists(st.one_of(st.integers(-(10**12), 10**12), st.text(max_size=7)), max_size=4)


def test_derive_is_blake2b_of_the_json_list():
    # printf '[0, "dropout", 3]' | b2sum -l 64   and   printf '[7]' | b2sum -l 64, without their last bit
    assert seeds.derive(0, "dropout", 3) == 0x6B7BF748C81F9979 >> 1
    assert seeds.derive(7) == 0x2FD45850D21B1198 >> 1


def test_numpy_integers_count_as_integers():
    assert seeds.derive(np.int64(0), "dropout", np.uint32(3)) == seeds.derive(0, "dropout", 3)


@given(PURPOSES, PURPOSES)
def test_different_purposes_have_different_seeds(one, other):
    assert (seeds.derive(0, *one) == seeds.derive(0, *other)) == (one == other)


def test_uniform_fills_the_unit_interval_evenly():
    draws = np.array([seeds.uniform(11, "draw", request, position) for request in range(37) for position in range(101)])
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=17, range=(0, 1))[0]
    expected = len(draws) / 17
    assert ((counts - expected) ** 2 / expected).sum() < 39.25  # chi-squared, 16 degrees of freedom, p = 0.001


def test_generators_repeat_and_differ_by_purpose():
    assert torch.equal(
        torch.rand(5, generator=seeds.generator(1, "a")), torch.rand(5, generator=seeds.generator(1, "a"))
    )
    assert not torch.equal(
        torch.rand(5, generator=seeds.generator(1, "a")), torch.rand(5, generator=seeds.generator(1, "b"))
    )
    assert seeds.numpy_generator(1, "a").random() == seeds.numpy_generator(1, "a").random()
    assert seeds.numpy_generator(1, "a").random() != seeds.numpy_generator(2, "a").random()


def test_scope_pins_the_global_generator_and_gives_it_back():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    with seeds.scope(1, "dropout", 2):
        first = torch.rand(3)
    after = torch.rand(3)
    with seeds.scope(1, "dropout", 2):
        again = torch.rand(3)
    with seeds.scope(1, "dropout", 3):
        other = torch.rand(3)
    assert torch.equal(after, undisturbed)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_scope_gives_the_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeds.scope(1, "x"):
        torch.rand(3 // 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65, 1009])
def test_permute_visits_every_number_once(n):
    assert sorted(seeds.permute(np.arange(n), n, seed=3)) == list(range(n))


def test_permute_needs_no_memory_of_the_range_and_no_neighbours():
    n = (1 << 40) + 15
    index = np.arange(n - 1000, n)
    image = seeds.permute(index, n, seed=3)
    assert image.min() >= 0 and image.max() < n and len(set(image)) == 1000
    assert [int(seeds.permute(i, n, seed=3)) for i in index[:5]] == list(image[:5])


def test_permute_differs_by_seed_and_leaves_few_in_place():
    one, other = (seeds.permute(np.arange(1009), 1009, seed) for seed in (3, 4))
    assert (one == other).sum() < 10 and (one == np.arange(1009)).sum() < 10  # 1 is expected of a random permutation


def test_permute_of_small_ranges_reaches_every_order_about_equally():
    orders = [tuple(seeds.permute(np.arange(3), 3, seed)) for seed in range(1200)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.52  # chi-squared, 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("index", [7, -1])
def test_permute_refuses_what_lies_outside(index):
    with pytest.raises((ValueError, OverflowError)):
        seeds.permute(np.array([index]), 7, seed=3)
