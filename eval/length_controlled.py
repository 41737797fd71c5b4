"""Length-controlled win rate (Dubois et al. 2024): the win rate if both sides had written equally much.

A logistic regression of the judge's preference on tanh of the standardised difference in characters, the instruction's
difficulty where it is known, and a constant; the rate is its mean prediction without a difference. It is the one of the
package alpaca_eval, to four decimals: without difficulties its `length_controlled_minimal`, with them
`length_controlled_noreg`, and with the two gamed baselines beside them `length_controlled_v1`.

Suffixes: I items, R rows of the regression, F features, D bootstrap draws. Of an item there are the preference for ours
in [0, 1] (nan where the judge could not be read), the characters that theirs has more, its difficulty, and of each
gamed baseline its standardised difference and its preference there: 2, 3 or 7 numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REGULARISED = 0.2 / 2  # weight of a gamed baseline's row: upstream's lambda, by the two of them
FOLDS, PENALTIES, SEED = 5, 10, 123  # of upstream's search for the penalty
CHUNK = 250  # draws at a time, for memory
STEPS, TOLERANCE = 50, 1e-5  # of the weights: a hundredth of a digit that is shown
MINIMAL, NOREG, V1 = 2, 3, 7  # numbers of an item
KNOWN = (MINIMAL, NOREG, V1)
NAMES = {MINIMAL: "length-controlled, minimal estimator", NOREG: "length-controlled, difficulties known",
         V1: "length-controlled, difficulties and gamed baselines known"}


def win_rate(values_IN: Floats) -> float:
    """The length-controlled win rate, from 0 to 1."""
    if (same := _same(values_IN)) is not None:
        return same
    weights_F, _ = fit(values_IN)
    return float(_sigmoid(_equal_lengths(values_IN) @ weights_F).mean())


def fit(values_IN: Floats) -> tuple[Floats, float]:
    """Weights of the features and the inverse penalty that five folds chose, as upstream finds them."""
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    features_RF, preference_R, weight_R = _regression(values_IN)
    rows = len(preference_R)
    # A soft label is both labels, each weighing as much as it is believed.
    both_RF, label_R = np.concatenate([features_RF] * 2), np.repeat([1, 0], rows)
    believed_R, weight_R = np.concatenate([preference_R, 1 - preference_R]), np.concatenate([weight_R] * 2)
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties that the search does not choose
        scorer = make_scorer(_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            Cs=PENALTIES, cv=GroupKFold(FOLDS), scoring=scorer.set_score_request(believed=True, weight=True),
            l1_ratios=(1.0,), solver="liblinear", fit_intercept=False, random_state=SEED, use_legacy_attributes=False)
        model.set_fit_request(sample_weight=True)
        model.fit(both_RF, label_R, sample_weight=believed_R * weight_R, groups=np.tile(np.arange(rows), 2),
                  believed=believed_R, weight=weight_R)
    return np.asarray(model.coef_[0], dtype=float), float(model.C_)


def draws(values_IN: Floats, counts_DI: Floats) -> Floats:
    """Bootstrap draws [D]: the regression fitted anew to each draw's items, the point estimate's penalty kept.

    The gamed baselines are no sample of ours and are not resampled.
    """
    if (same := _same(values_IN)) is not None:
        return np.full(len(counts_DI), same)
    start_F, penalty = fit(values_IN)
    parts = [_draws(values_IN, counts_DI[at:at + CHUNK], start_F, penalty) for at in range(0, len(counts_DI), CHUNK)]
    return np.concatenate(parts)


def _draws(values_IN: Floats, counts_DI: Floats, start_F: Floats, penalty: float) -> Floats:
    """One chunk of draws by Newton steps on all of them together; an L1 penalty, as upstream's."""
    there_I = _said(values_IN)
    preference_I = np.where(there_I, values_IN[:, 0], 0.5)
    weights_DI = counts_DI * there_I
    tanh_DI = np.tanh(_standardised(values_IN[:, 1], counts_DI))
    fixed_IG = _equal_lengths(values_IN)[:, 1:]
    gamed_RF, gamed_R, gamed_weight = _gamed(values_IN)
    weights_DF = np.tile(start_F, (len(counts_DI), 1))
    for _ in range(STEPS):
        logits_DI = weights_DF[:, :1] * tanh_DI + weights_DF[:, 1:] @ fixed_IG.T
        gradient_DF, hessian_DFF = _derivatives(logits_DI, preference_I, weights_DI, tanh_DI, fixed_IG)
        if len(gamed_R):
            error_DR = _sigmoid(weights_DF @ gamed_RF.T)
            gradient_DF += gamed_weight * (error_DR - gamed_R) @ gamed_RF
            hessian_DFF += gamed_weight * np.einsum("dr,rf,rg->dfg", error_DR * (1 - error_DR), gamed_RF, gamed_RF,
                                                    optimize=True)
        step_DF = _penalised_step(weights_DF, penalty * gradient_DF, penalty * hessian_DFF)
        weights_DF += step_DF
        if np.abs(step_DF).max() < TOLERANCE:
            break
    predicted_DI = _sigmoid(weights_DF[:, 1:] @ fixed_IG.T)
    return np.asarray((predicted_DI * counts_DI).sum(axis=1) / counts_DI.sum(axis=1))


def _derivatives(
    logits_DI: Floats, preference_I: Floats, weights_DI: Floats, tanh_DI: Floats, fixed_IG: Floats
) -> tuple[Floats, Floats]:
    """Gradient and Hessian of the summed log-loss in the weight of tanh and those of the fixed features."""
    predicted_DI = _sigmoid(logits_DI)
    error_DI, curve_DI = weights_DI * (predicted_DI - preference_I), weights_DI * predicted_DI * (1 - predicted_DI)
    size = 1 + fixed_IG.shape[1]
    gradient_DF, hessian_DFF = np.empty((len(logits_DI), size)), np.empty((len(logits_DI), size, size))
    gradient_DF[:, 0], gradient_DF[:, 1:] = (error_DI * tanh_DI).sum(axis=1), error_DI @ fixed_IG
    bent_DI = curve_DI * tanh_DI
    hessian_DFF[:, 0, 0] = (bent_DI * tanh_DI).sum(axis=1)
    hessian_DFF[:, 0, 1:] = hessian_DFF[:, 1:, 0] = bent_DI @ fixed_IG
    pairs_IH = (fixed_IG[:, :, None] * fixed_IG[:, None, :]).reshape(len(fixed_IG), -1)
    hessian_DFF[:, 1:, 1:] = (curve_DI @ pairs_IH).reshape(len(logits_DI), size - 1, size - 1)
    return gradient_DF, hessian_DFF


def _penalised_step(weights_DF: Floats, gradient_DF: Floats, hessian_DFF: Floats) -> Floats:
    """The step to the minimum of the quadratic model plus the weights' absolute sum, one feature after another.

    A ridge and a bound keep the step finite where a draw separates wins from losses.
    """
    size = weights_DF.shape[1]
    hessian_DFF = hessian_DFF + 1e-9 * np.eye(size)
    step_DF = np.zeros_like(weights_DF)
    for _ in range(STEPS):
        before_DF = step_DF.copy()
        for one in range(size):
            curve_D = hessian_DFF[:, one, one]
            slope_D = gradient_DF[:, one] + np.einsum("df,df->d", hessian_DFF[:, one], step_DF)
            wanted_D = weights_DF[:, one] + step_DF[:, one] - slope_D / curve_D
            step_DF[:, one] = np.sign(wanted_D) * np.maximum(np.abs(wanted_D) - 1 / curve_D, 0) - weights_DF[:, one]
        if np.abs(step_DF - before_DF).max() < TOLERANCE:
            break
    return np.clip(step_DF, -2, 2)


def _regression(values_IN: Floats) -> tuple[Floats, Floats, Floats]:
    """Features, preferences and weights of the rows that are fitted: the gamed baselines' first, as upstream has it."""
    there_I = _said(values_IN)
    own_IF = _equal_lengths(values_IN)
    own_IF[:, 0] = np.tanh(_standardised(values_IN[:, 1], np.ones((1, len(values_IN))))[0])
    gamed_RF, gamed_R, gamed_weight = _gamed(values_IN)
    return (np.concatenate([gamed_RF, own_IF[there_I]]), np.concatenate([gamed_R, values_IN[there_I, 0]]),
            np.concatenate([np.full(len(gamed_R), gamed_weight), np.ones(int(there_I.sum()))]))


def _gamed(values_IN: Floats) -> tuple[Floats, Floats, float]:
    """Features and preferences of the baselines' rows, one baseline after the other, and the weight of a row."""
    gamed = [values_IN[:, at:at + 2] for at in range(NOREG, values_IN.shape[1], 2)]
    features = [np.stack([np.tanh(one[:, 0]), values_IN[:, 2], np.zeros(len(one))], axis=1) for one in gamed]
    size = 1 + (values_IN.shape[1] > MINIMAL) + 1
    return (np.concatenate([np.empty((0, size)), *features]),
            np.concatenate([np.empty(0), *(one[:, 1] for one in gamed)]), REGULARISED)


def _equal_lengths(values_IN: Floats) -> Floats:
    """Features [I, F] at equal lengths: 0, the difficulty where it is known, and 1."""
    columns: Sequence[Floats] = [values_IN[:, 2]] if values_IN.shape[1] > MINIMAL else []
    return np.stack([np.zeros(len(values_IN)), *columns, np.ones(len(values_IN))], axis=1)


def _standardised(difference_I: Floats, counts_DI: Floats) -> Floats:
    """Differences [D, I] by their standard deviation in each draw; 0 where a draw has no difference."""
    total_D = counts_DI.sum(axis=1)
    mean_D = counts_DI @ difference_I / total_D
    square_D = counts_DI @ difference_I**2 - total_D * mean_D**2
    std_D = np.sqrt(np.maximum(square_D, 0) / np.maximum(total_D - 1, 1))[:, None]
    wide_DI = np.broadcast_to(difference_I, counts_DI.shape)
    return np.divide(wide_DI, std_D, out=np.zeros(counts_DI.shape), where=std_D > 1e-9)


def _said(values_IN: Floats) -> NDArray[np.bool_]:
    return np.isfinite(values_IN[:, 0])


def _same(values_IN: Floats) -> float | None:
    """What every judgement says where all say one thing, of which a regression has nothing to learn; else None.

    One half where nothing was judged, as upstream has it for a policy against itself.
    """
    said = set(values_IN[_said(values_IN), 0].tolist()) or {0.5}
    return said.pop() if said in ({0.0}, {0.5}, {1.0}) else None


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp of much is infinite, and one over it 0
        return np.asarray(1 / (1 + np.exp(-logits)))


def _log_loss(y_true: Floats, y_pred: Floats, believed: Floats, weight: Floats) -> float:
    """Of soft labels: `believed` is the probability of each row's own label."""
    preference_R, clipped_R = np.where(y_true == 1, believed, 1 - believed), np.clip(y_pred, 1e-15, 1 - 1e-15)
    loss_R = preference_R * np.log(clipped_R) + (1 - preference_R) * np.log(1 - clipped_R)
    return float(-np.mean(weight * loss_R))
