import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from rdfia.transfer import linear_svm
from rdfia.transfer.gram import gram_matrix, principal_components, signed_root, standardized, unit_length
from rdfia.transfer.linear_svm import balanced_accuracy, c_grid, choose_c, fit_svm, learning_curve, try_svm


@pytest.fixture(scope="module")
def digits():
    """Real 8x8 digits: 300 to train on, 400 to test with."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[:700]
    return torch.from_numpy(pixels[order]).float(), torch.from_numpy(labels[order])


TRAIN, TEST = torch.arange(300), torch.arange(300, 700)


def whole(features: torch.Tensor) -> torch.Tensor:
    """Return the Gram matrix of features in memory."""
    return gram_matrix(features.__getitem__, len(features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_gram_matrix_is_that_of_the_whole(dtype):
    features = torch.randn(23, 10_000).to(dtype)
    expected = features.double() @ features.double().T
    torch.testing.assert_close(whole(features), expected, rtol=1e-5, atol=1e-3)
    asked = []

    def note(places):
        asked.append(len(features[places]))
        return features[places]

    found = gram_matrix(note, 23, held=10, streamed=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    # 10 held while 13 pass by, 10 while 3, then the last 3
    assert asked == [10, 4, 4, 4, 1, 10, 3, 3]


def test_bfloat16_products_leave_the_settings_as_they_were():
    before = torch.backends.mkldnn.matmul.fp32_precision
    whole(torch.randn(4, 8).bfloat16())
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    wide = torch.randn(64, 4096)
    torch.testing.assert_close(whole(wide), wide.double() @ wide.double().T, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1, 100])
def test_predicts_what_sklearn_predicts_from_the_features(digits, c):
    features, labels = digits
    reference = SVC(kernel="linear", C=c).fit(features[TRAIN], labels[TRAIN])
    gram = whole(features)
    svm = fit_svm(gram[TRAIN][:, TRAIN], labels[TRAIN], c)
    found = svm.predict(gram[TEST][:, TRAIN])
    assert np.array_equal(found, reference.predict(features[TEST]))
    linear = svm.to_linear(features.__getitem__, TRAIN)
    assert torch.equal(linear.predict(features[TEST]), found)
    decisions = SVC(kernel="linear", C=c, decision_function_shape="ovo").fit(features[TRAIN], labels[TRAIN])
    np.testing.assert_allclose(
        linear.linear(features[TEST]), decisions.decision_function(features[TEST]), rtol=1e-2, atol=2e-3
    )


def test_one_against_the_rest_is_sklearns(digits):
    features, labels = digits
    reference = OneVsRestClassifier(SVC(kernel="linear", C=0.01)).fit(features[TRAIN], labels[TRAIN])
    gram = whole(features)
    svm = fit_svm(gram[TRAIN][:, TRAIN], labels[TRAIN], 0.01, "ovr")
    found = svm.predict(gram[TEST][:, TRAIN])
    assert np.array_equal(found, reference.predict(features[TEST]))
    assert torch.equal(svm.to_linear(features.__getitem__, TRAIN).predict(features[TEST]), found)


@pytest.mark.parametrize("multi_class", ["ovo", "ovr"])
def test_two_classes_with_any_labels(digits, multi_class):
    features, labels = digits
    rows = (labels == 3) | (labels == 8)
    features, labels = features[rows], labels[rows]
    train, test = torch.arange(50), torch.arange(50, len(labels))
    gram = whole(features)
    svm = fit_svm(gram[train][:, train], labels[train], 0.01, multi_class)
    found = svm.predict(gram[test][:, train])
    assert np.array_equal(
        found, SVC(kernel="linear", C=0.01).fit(features[train], labels[train]).predict(features[test])
    )
    assert torch.equal(svm.to_linear(features.__getitem__, train).predict(features[test]), found)
    assert set(found.tolist()) == {3, 8}


def test_l2_scaling_is_sklearns_normalizer(digits):
    features, labels = digits
    gram = unit_length(whole(features))
    svm = fit_svm(gram[TRAIN][:, TRAIN], labels[TRAIN], 10)
    reference = make_pipeline(Normalizer(), SVC(kernel="linear", C=10)).fit(features[TRAIN], labels[TRAIN])
    assert np.array_equal(svm.predict(gram[TEST][:, TRAIN]), reference.predict(features[TEST]))


def test_standard_scaling_is_sklearns_and_looks_at_training_images_only(digits):
    features, labels = digits
    assert (features[TRAIN].std(0) == 0).any()  # some pixels are always black
    gram = gram_matrix(standardized(features.__getitem__, TRAIN), 700, held=200)
    scaler = StandardScaler().fit(features[TRAIN].double())
    scaled = scaler.transform(features.double())
    constant = features[TRAIN].std(0).numpy() == 0
    scaled[:, constant] = 0
    np.testing.assert_allclose(gram, scaled @ scaled.T, rtol=1e-4, atol=1e-3)
    svm = fit_svm(gram[TRAIN][:, TRAIN], labels[TRAIN], 0.1)
    reference = SVC(kernel="linear", C=0.1).fit(scaled[TRAIN], labels[TRAIN])
    assert np.array_equal(svm.predict(gram[TEST][:, TRAIN]), reference.predict(scaled[TEST]))


def test_principal_components_are_sklearns(digits):
    features, _ = digits
    found = principal_components(whole(features), TRAIN, 12)
    reference = PCA(12, svd_solver="full").fit(features[TRAIN].double())
    expected = reference.transform(features.double())
    signs = np.sign((found.numpy() * expected).sum(0))
    np.testing.assert_allclose(found.numpy() * signs, expected, rtol=1e-3, atol=1e-2)


def test_components_beyond_the_rank_are_nothing(digits):
    features, _ = digits
    gram = whole(features[:, 20:28])  # 8 pixels
    found = principal_components(gram, TRAIN, 20)
    assert found[:, 8:].abs().max() == 0
    torch.testing.assert_close(found[:, :8], principal_components(gram, TRAIN, 8))
    assert found.abs().max() < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_rounds_no_product(dtype):
    features = torch.randn(8, 500).to(dtype)
    expected = whole(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whole(features), expected)


def test_c_is_chosen_as_sklearns_cross_validation_would(digits):
    features, labels = digits
    gram = whole(features)[TRAIN][:, TRAIN]
    grid = c_grid(gram, 6)
    chosen, _, accuracy = choose_c(gram, labels[TRAIN], grid, folds=3, seed=4)
    folds = StratifiedKFold(3, shuffle=True, random_state=4)
    expected = np.array(
        [cross_val_score(SVC(kernel="linear", C=c), features[TRAIN], labels[TRAIN], cv=folds) for c in grid]
    )
    np.testing.assert_allclose(accuracy, expected)
    assert chosen == grid[int(expected.mean(1).argmax())]


def test_the_grid_follows_the_scale_of_the_features(digits):
    features, _ = digits
    small, large = c_grid(whole(features)), c_grid(whole(10 * features))
    assert small == pytest.approx([100 * c for c in large])
    assert c_grid(torch.eye(3))[3] == pytest.approx(1)
    with pytest.raises(ValueError, match="all features are 0 or not a number"):
        c_grid(torch.zeros(3, 3))


def test_saves_and_loads_without_pickle(digits, tmp_path):
    features, labels = digits
    gram = whole(features)
    linear = fit_svm(gram[TRAIN][:, TRAIN], labels[TRAIN], 0.01).to_linear(features.__getitem__, TRAIN)
    torch.save(linear.state_dict(), tmp_path / "svm.pt")
    state = torch.load(tmp_path / "svm.pt", weights_only=True)
    other = fit_svm(gram[TEST][:, TEST], labels[TEST], 1.0).to_linear(features.__getitem__, TEST)
    other.load_state_dict(state)
    assert torch.equal(other.predict(features), linear.predict(features))
    exported = torch.export.export(linear, (features[:5],)).module()
    assert torch.equal(exported(features[:5]), linear(features[:5]))


def test_shuffled_labels_give_chance(digits):
    features, labels = digits
    gram = whole(features)
    shuffled = labels[TRAIN][torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    svm = fit_svm(gram[TRAIN][:, TRAIN], shuffled, 0.01)
    assert (svm.predict(gram[TEST][:, TRAIN]) == labels[TEST]).float().mean() < 0.2


def test_bad_input_is_named():
    gram, labels = torch.eye(6).double(), torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"two classes, all training images are of class \[7\]"):
        fit_svm(gram, torch.full((6,), 7), 1.0)
    with pytest.raises(ValueError, match="C is positive, got 0"):
        fit_svm(gram, labels, 0)
    with pytest.raises(ValueError, match="5 folds need 5 images of each class, one has 3"):
        choose_c(gram, labels, [1.0])
    with pytest.raises(ValueError, match="not a number"):
        whole(torch.tensor([[1.0], [torch.nan]]))
    with pytest.raises(ValueError, match="have 1 to 5 components, got 6"):
        principal_components(gram, torch.arange(6), 6)


def test_a_trial_chooses_c_on_training_images_only(digits):
    features, labels = digits
    gram = unit_length(whole(features))
    trial = try_svm(gram, labels, TRAIN, TEST, folds=3)
    inside = gram[TRAIN][:, TRAIN]
    c, _, curve = choose_c(inside, labels[TRAIN], c_grid(inside), folds=3)
    assert (trial.c, trial.grid) == (c, c_grid(inside))
    assert torch.equal(trial.cross_validation, curve)
    assert trial.accuracy == (trial.predictions == labels[TEST]).double().mean() > 0.9
    garbage = labels.clone()
    garbage[TEST] = 0
    other = try_svm(gram, garbage, TRAIN, TEST, folds=3)
    assert other.c == trial.c
    assert torch.equal(other.predictions, trial.predictions)


def test_signed_roots_keep_the_sign():
    assert signed_root(torch.tensor([-4.0, 0.0, 9.0])).tolist() == [-2, 0, 3]


def test_more_training_images_help(digits):
    features, labels = digits
    gram = unit_length(whole(features))
    found = learning_curve(gram, labels, TRAIN, TEST, [3, 20], draws=2, folds=3)
    assert [len(values) for values in found.values()] == [2, 2]
    assert found[3][0] != found[3][1]
    assert sum(found[20]) > sum(found[3]) + 0.1
    # the whole set drawn is the plain trial, whatever the order of its images
    few = torch.cat([TRAIN[labels[TRAIN] == label][:5] for label in range(10)])
    (drawn,) = learning_curve(gram, labels, few, TEST, [5], draws=1, folds=5)[5]
    assert abs(drawn - try_svm(gram, labels, few, TEST).accuracy) < 0.05


def test_features_with_a_common_part_lose_nothing():
    """Principal components of mean 1000 and deviation 1 correlated 0.007 with scikit-learn's before."""
    torch.manual_seed(0)
    spread = torch.randn(60, 400) * torch.linspace(3, 0.5, 400)
    features = (1000 + spread).float()
    gram = whole(features)
    expected = features.double() @ features.double().T
    torch.testing.assert_close(gram - gram.mean(), expected - expected.mean(), rtol=0, atol=1e-2)
    train = torch.arange(60)
    found = principal_components(gram, train, 5)
    reference = torch.from_numpy(PCA(5, svd_solver="full").fit_transform(features.double().numpy()))
    for ours, theirs in zip(found.T, reference.T, strict=True):
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1].abs() > 0.999


def test_fresh_features_may_be_changed_and_others_are_not():
    features = torch.rand(12, 50)
    before, expected = features.clone(), features.double() @ features.double().T
    assert torch.equal(whole(features), whole(features))
    assert torch.equal(features, before)
    fresh = gram_matrix(lambda rows: features[rows].clone(), 12, held=5, streamed=3, fresh=True)
    torch.testing.assert_close(fresh, expected, rtol=1e-6, atol=1e-6)


def test_c_is_not_taken_at_the_edge_of_its_grid(digits):
    """With every pixel + 20 the mean squared length says little: C was 100 units, accuracy 0.36 before."""
    features, labels = digits
    trials = {
        shift: try_svm(whole(features + shift), labels, TRAIN, TEST, folds=3)
        for shift in (0.0, 20.0, 200.0, 5000.0)
    }
    reference = SVC(kernel="linear").fit(features[TRAIN], labels[TRAIN]).score(features[TEST], labels[TEST])
    for shift, trial in trials.items():
        assert trial.accuracy > reference - 0.03, shift
        means = trial.cross_validation.mean(1)
        assert len(means) == len(trial.grid)
        assert trial.grid == sorted(trial.grid)
        assert trial.c == trial.grid[int(means.argmax())]
        assert means[-1] <= means.max()
        assert int(means.argmax()) < len(means) - 1
    assert len(trials[0.0].grid) == len(c_grid(whole(features)[TRAIN][:, TRAIN]))  # no more than needed
    assert len(trials[200.0].grid) > len(trials[0.0].grid)


def test_the_grid_is_extended_to_both_sides_and_says_where_it_gave_up(digits, monkeypatch):
    features, labels = digits
    inside = whole(features)[TRAIN][:, TRAIN]
    grid = c_grid(inside)
    best = int(choose_c(inside, labels[TRAIN], grid, folds=3)[2].mean(1).argmax())
    low, high = grid[: best + 1], grid[best : best + 3]
    c, tried, accuracy = choose_c(inside, labels[TRAIN], low, folds=3)
    assert tried[: len(low)] == low
    assert len(tried) > len(low)
    assert accuracy.mean(1)[tried.index(c)] == accuracy.mean(1).max()
    _, tried, accuracy = choose_c(inside, labels[TRAIN], high, folds=3)
    falling = accuracy.mean(1)[-3] > accuracy.mean(1)[-2]
    assert (len(tried) > 3) == bool(falling)  # a first value that is no better than its neighbour is no edge
    monkeypatch.setattr(linear_svm, "EXTENSIONS", 0)
    with pytest.warns(UserWarning, match="C is at the edge of what was tried"):
        choose_c(inside, labels[TRAIN], low, folds=3)


def test_features_that_share_all_but_rounding_are_refused(digits):
    features, _ = digits
    gram = whole(torch.full_like(features, 7.0))
    with pytest.raises(ValueError, match="subtract their mean"):
        c_grid(gram)


@pytest.mark.parametrize("multi_class", ["ovo", "ovr"])
def test_balanced_is_sklearns(multi_class):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 12, 6])
    points = generator.normal(size=(78, 5)) + 0.7 * np.eye(5)[labels]
    gram = torch.from_numpy(points @ points.T)
    ours = fit_svm(gram, torch.from_numpy(labels), 0.3, multi_class, balanced=True).predict(gram)
    if multi_class == "ovo":
        want = SVC(C=0.3, kernel="linear", class_weight="balanced").fit(points, labels).predict(points)
    else:
        machines = [
            SVC(C=0.3, kernel="linear", class_weight="balanced").fit(points, labels == one)
            for one in range(3)
        ]
        want = np.stack([machine.decision_function(points) for machine in machines], 1).argmax(1)
    assert np.array_equal(ours.numpy(), want)
    plain = fit_svm(gram, torch.from_numpy(labels), 0.3, multi_class).predict(gram)
    truth = torch.from_numpy(labels)
    assert balanced_accuracy(ours, truth) > balanced_accuracy(plain, truth) + 0.1
    assert balanced_accuracy(ours, truth) == pytest.approx(balanced_accuracy_score(labels, ours))


def test_c_of_unequal_classes_is_chosen_by_the_mean_over_them():
    generator = np.random.default_rng(1)
    labels = torch.from_numpy(np.repeat([0, 1], [200, 10]))
    points = torch.from_numpy(generator.normal(size=(210, 3))) + labels[:, None]
    options = {"folds": 5, "multi_class": "ovo"}
    _, _, plain = choose_c(points @ points.T, labels, [0.001, 0.1], **options)
    _, _, balanced = choose_c(points @ points.T, labels, [0.001, 0.1], balanced=True, **options)
    assert plain.mean(1).max() > 0.9  # by the large class alone
    assert 0.5 < balanced.mean(1).max() < 0.9
