import numpy as np

from semrec_ray.learn import features
from semrec_ray.learn.features import YEAR_STEP, Metadata, unit

CATEGORIES = [["Drama"], ["Drama", "Comedy"], None, [], ["Drama", "Drama"]]
YEARS = [1990.0, 2000.0, None, 1995.0, 2010.0]
KNOWN = Metadata.fit(CATEGORIES, YEARS, 0.5)


def test_categories_are_ordered_by_frequency_and_coded_at_unit_length():
    assert KNOWN.categories == ("Drama", "Comedy")
    hot = (KNOWN.codes(CATEGORIES, YEARS) + KNOWN.mean)[:, :2]
    half = 2**-0.5
    np.testing.assert_allclose(hot, [[1, 0], [half, half], [0, 0], [0, 0], [1, 0]], rtol=1e-6)


def test_the_mean_code_of_the_catalog_is_zero():
    np.testing.assert_allclose(KNOWN.codes(CATEGORIES, YEARS).mean(axis=0), 0, atol=1e-7)


def test_years_are_alike_as_a_gaussian_of_their_distance():
    codes = (KNOWN.codes([None] * 4, [2000.0, 2001.0, 2005.0, None]) + KNOWN.mean)[:, 2:]
    near, far = codes[0] @ codes[1], codes[0] @ codes[2]
    np.testing.assert_allclose(np.linalg.norm(codes[:3], axis=1), 1, rtol=1e-6)
    assert 1 > near > far > 0
    np.testing.assert_allclose(far, np.exp(-((5 / YEAR_STEP) ** 2) / 4), atol=0.05)  # two unit bells, 5 years apart
    assert not codes[3].any()


def test_a_year_beyond_the_catalog_is_its_nearest_and_an_unknown_category_none():
    now, later = KNOWN.codes([["Drama"], ["Drama", "Opera"]], [float(KNOWN.years[-1]), 9999.0])
    np.testing.assert_array_equal(now, later)


def test_a_catalog_without_years_and_categories_has_features_of_content_alone():
    bare = Metadata.fit([None, []], [None, None], 0.5)
    content = unit(np.array([[3.0, 4.0], [0.0, 2.0]], np.float32))
    np.testing.assert_array_equal(bare.features(content, [["Drama"], None], [1990.0, None]), content)


def test_features_are_of_length_one_with_metadata_at_its_weight():
    content = unit(np.array([[3.0, 4.0]], np.float32))
    found = KNOWN.features(content, [["Drama"]], [1990.0])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    code = KNOWN.codes([["Drama"]], [1990.0])
    np.testing.assert_allclose(found[:, 2:] / np.linalg.norm(found[:, :2]), 0.5 * code, rtol=1e-5)


def test_an_item_alone_has_the_features_it_has_among_others():
    content = unit(np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32))
    together = KNOWN.features(content, CATEGORIES, YEARS)
    for row in range(5):
        alone = KNOWN.features(content[[row]], [CATEGORIES[row]], [YEARS[row]])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-6)


def test_of_many_categories_those_of_the_most_items_are_kept(monkeypatch):
    monkeypatch.setattr(features, "CATEGORIES", 2)
    known = Metadata.fit([["C", "C", "C"], ["B", "A"], ["B"], ["A"]], [None] * 4, 0.5)
    assert known.categories == ("A", "B")
