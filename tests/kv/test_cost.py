from tiercel.kv.cost import LoadCost


def test_loading_counts_as_right_until_both_sides_are_measured():
    cost = LoadCost()
    assert cost.worth_loading(10**12, 1)
    cost.loaded(1, 100.0)
    assert cost.worth_loading(10**12, 1)
    assert cost.recompute_seconds(1) is None


def test_the_cheaper_side_wins():
    cost = LoadCost()
    cost.loaded(1000, 1.0)
    cost.computed(10, 1.0)
    assert cost.worth_loading(1000, 10)
    assert not cost.worth_loading(1001, 10)
    assert cost.recompute_seconds(50) == 5.0


def test_a_store_that_was_slow_once_gets_another_chance():
    cost = LoadCost()
    cost.loaded(1, 100.0)
    cost.computed(1, 1.0)
    assert sum(not cost.worth_loading(1, 1) for _ in range(100)) < 60


def test_new_measurements_move_the_old_ones():
    cost = LoadCost()
    cost.computed(1, 1.0)
    for _ in range(30):
        cost.computed(1, 3.0)
    assert 2.9 < cost.recompute_seconds(1) < 3.0


def test_nothing_measured_changes_nothing():
    cost = LoadCost()
    cost.loaded(0, 5.0)
    cost.computed(0, 5.0)
    assert cost.seconds_per_byte is None
    assert cost.seconds_per_token is None
