from semrec_ray.serving import Recent


def test_what_is_kept_is_bounded_and_what_came_first_is_forgotten_first():
    recent: Recent[int] = Recent(3)
    recent.keep({"a": 1, "b": 2})
    recent.keep({"c": 3, "a": 4, "d": 5})
    assert dict(recent) == {"b": 2, "c": 3, "d": 5}
    recent.keep({str(i): i for i in range(9)})
    assert dict(recent) == {"6": 6, "7": 7, "8": 8}


def test_nothing_is_kept_where_nothing_may_be():
    recent: Recent[int] = Recent(0)
    recent.keep({"a": 1})
    assert not recent
