"""Tables of a comparison: which number stands where, what is best, what may be chance, and why a number is missing."""

from __future__ import annotations

import made_up
import pytest
from made_up import comparison, contrast, number, variant

from fl_server.comparison.cell import Standing
from fl_server.comparison.defaults import tables_of
from fl_server.comparison.index import index_of
from fl_server.comparison.outcome import outcomes
from fl_server.comparison.pivot import pivots
from fl_server.comparison.plan import PublishedNumber, TablePlan
from fl_server.comparison.result import CellTold
from fl_server.comparison.words import difference, hidden_share, listed, title_of

THREE = [variant("plain", "Plain"), variant("good", "Good"), variant("odd", "Odd")]


def only(result, **plan):
    """The only table of a plan."""
    (pivot,) = pivots(index_of(result), TablePlan(title="T", **plan))
    return pivot


def values(pivot):
    return [[cell.value for cell in line] for line in pivot.cells]


def test_the_headline_at_external_sites_is_taken_where_nothing_is_said():
    decoys = [
        number("good", 0.1, role="train"), number("good", 0.2, site="harbour"),
        number("good", 0.3, subgroup="sex=male"),
        number("good", 0.4, modalities="ecg"), number("good", 0.5, label="macro"),
    ]  # fmt: skip
    result = comparison(THREE, [*decoys, number("plain", 0.71), number("good", 0.75)])
    pivot = only(result, columns=("mode",))
    assert [row.title for row in pivot.rows] == ["Plain", "Good", "Odd"]
    assert values(pivot) == [[0.71], [0.75], [None]]
    assert pivot.about == ("AUROC of death", "external sites", "summary over the sites", "all inputs")


def test_internal_sites_stand_in_where_there_are_no_others_and_one_site_needs_no_summary():
    told = [number("plain", 0.7, role="train", site="drum_tower")]
    result = comparison(THREE, told, sites={"drum_tower": "train"})
    assert values(only(result, columns=("mode",)))[0] == [0.7]


def test_several_dimensions_are_joined_and_taken_in_the_order_of_only():
    told = [
        number("plain", v, mode=m, role=r)
        for v, (m, r) in enumerate(
            [("federated", "train"), ("federated", "external"), ("pooled", "train"), ("pooled", "external")]
        )
    ]
    result = comparison(THREE[:1], told, modes=("federated", "pooled"))
    pivot = only(
        result, columns=("mode", "role"), only={"mode": ("pooled", "federated"), "role": ("train", "external")}
    )
    assert [column.title for column in pivot.columns] == [
        "pooled / internal", "pooled / external", "federated / internal", "federated / external",
    ]  # fmt: skip
    assert values(pivot) == [[2, 3, 0, 1]]


def test_axes_find_their_variant_and_keep_those_alone_out():
    variants = [variant(f"{a}.{b}", ecg=a, ehr=b) for a in ("cnn", "lstm") for b in ("ft", "tpc")] + [variant("alone")]
    told = [number(v.name, at / 10) for at, v in enumerate(variants)]
    axes = {"ecg": {"cnn": "CNN", "lstm": "LSTM"}, "ehr": {"ft": "FT", "tpc": "TPC"}}
    pivot = only(comparison(variants, told, axes=axes), rows=("ehr",), columns=("ecg",))
    assert [row.title for row in pivot.rows] == ["FT", "TPC"]
    assert values(pivot) == [[0.0, 0.2], [0.1, 0.3]]
    assert [[cell.best for cell in line] for line in pivot.cells] == [[False, False], [False, True]]  # one of all


def test_what_is_neither_row_nor_column_and_has_several_values_splits_the_table():
    told = [number("plain", 0.7), number("plain", 3.0, task="stay", metric="mae")]
    result = comparison(
        THREE[:1], told, tasks=made_up.TASKS, types=made_up.TYPES, headline=dict.fromkeys(made_up.TASKS, "all")
    )
    found = pivots(index_of(result), TablePlan(title="T", columns=("metric",)))
    assert [pivot.title for pivot in found] == ["T, death", "T, stay"]
    assert [[column.title for column in pivot.columns] for pivot in found] == [["AUROC"], ["MAE"]]
    assert [values(pivot) for pivot in found] == [[[0.7]], [[3.0]]]


@pytest.mark.parametrize(
    ("metric", "told", "best"),
    [
        ("auroc", {"plain": 0.7, "good": 0.8, "odd": None}, ["good"]),
        ("mae", {"plain": 3.1, "good": 2.9, "odd": 3.0}, ["good"]),  # lower is better
        ("calibration_slope", {"plain": 1.4, "good": 0.9, "odd": 0.5}, ["good"]),  # 1 is right
        ("auroc", {"plain": 0.7, "good": 0.7, "odd": 0.6}, ["plain", "good"]),
        ("auroc", {"plain": 0.7, "good": None, "odd": None}, []),  # alone it is no best
    ],
)
def test_the_best_is_the_best_of_its_metric(metric, told, best):
    result = comparison(THREE, [number(name, value, metric=metric) for name, value in told.items()])
    pivot = only(result, columns=("metric",))
    assert [cell.at("variant") for cell in pivot.all_cells if cell.best] == best


@pytest.mark.parametrize(
    ("metric", "value", "p", "standing"),
    [
        ("auroc", 0.02, 0.01, Standing.BETTER),
        ("auroc", -0.02, 0.01, Standing.WORSE),
        ("mae", -0.3, 0.01, Standing.BETTER),
        ("mae", 0.3, 0.01, Standing.WORSE),
        ("auroc", 0.02, 0.05, Standing.CHANCE),
        ("auroc", 0.02, 0.0499, Standing.BETTER),
        ("auroc", 0.02, None, Standing.CHANCE),
        ("calibration_slope", 0.2, 0.01, Standing.DIFFERENT),  # nearer to 1 or farther: the difference does not tell
        ("auroc", None, None, Standing.UNTESTED),
    ],
)
def test_a_difference_is_told_by_its_adjusted_p_and_the_side_of_its_metric(metric, value, p, standing):
    told = [number(name, 0.7, metric=metric) for name in ("plain", "good")]
    tested = [contrast("good", value, p, metric=metric).model_copy(update={"p": 0.0001})]  # not adjusted: of no weight
    pivot = only(comparison(THREE[:2], told, tested), columns=("metric",))
    assert [cell.standing for cell in pivot.all_cells] == [Standing.REFERENCE, standing]


def test_a_missing_number_has_its_reason_as_a_footnote_told_once():
    cells = [
        CellTold(variant="good", mode=mode, seed=1, state="refused", reason="no per-patient gradients")
        for mode in ("epsilon_3", "epsilon_8")
    ] + [CellTold(variant="odd", mode="epsilon_3", seed=1, state="waiting")]
    told = [number(name, 0.7, mode=mode) for name, mode in (("plain", "epsilon_3"), ("plain", "epsilon_8"))]
    told.append(number("odd", None, mode="epsilon_8", note="too few events"))
    result = comparison(THREE, told, cells=cells, modes=("epsilon_3", "epsilon_8"))
    pivot = only(result, columns=("mode",))
    assert [[cell.state for cell in line] for line in pivot.cells] == [
        ["finished"] * 2,
        ["refused"] * 2,
        ["waiting", "finished"],
    ]
    assert pivot.footnotes == ("refused: no per-patient gradients", "too few events")
    assert [[pivot.numbers(cell) for cell in line] for line in pivot.cells] == [[[], []], [[1], [1]], [[], [2]]]


def test_rows_without_any_possible_number_are_left_out_but_refused_ones_stay():
    cells = [CellTold(variant="odd", mode="federated", seed=1, state="failed", reason="out of memory")]
    result = comparison(
        THREE,
        [number("plain", 0.7, label=name) for name in ("mi", "hyp")],
        cells=cells,
        tasks={"death": ("mi", "hyp")},
        types={"death": "multilabel"},
    )
    pivot = only(result, columns=("label",))
    assert [column.title for column in pivot.columns] == ["mi", "hyp"]
    assert [[cell.state for cell in line] for line in pivot.cells][2] == ["failed", "failed"]


def test_a_number_of_fewer_seeds_says_so():
    cells = [CellTold(variant="plain", mode="federated", seed=2, state="failed", reason="out of memory")]
    result = comparison(THREE[:1], [number("plain", 0.7, seeds=1)], cells=cells, seeds=(1, 2))
    assert only(result, columns=("mode",)).footnotes == ("1 of 2 seeds; failed: out of memory",)


def test_what_all_numbers_bear_is_told_once_of_the_table():
    notes = {"plain": "one site", "good": "one site", "odd": "few events"}
    told = [number(name, 0.7, note=note) for name, note in notes.items()]
    some = only(comparison(THREE, told), columns=("mode",))
    assert some.footnotes == ("one site", "few events") and "one site" not in some.about
    every = only(comparison(THREE[:2], told[:2]), columns=("mode",))
    assert every.footnotes == () and every.about[-1] == "one site"


def test_a_table_too_wide_is_turned():
    many = [variant(f"v{at}") for at in range(12)]
    told = [number(v.name, at / 20, subgroup=group) for at, v in enumerate(many) for group in ("", "hidden=0.5")]
    pivot = only(comparison(many, told), rows=("subgroup",), columns=("variant",))
    assert len(pivot.rows) == 12 and [column.title for column in pivot.columns] == ["all patients", "50 % hidden"]
    assert values(pivot)[11] == [0.55, 0.55] and pivot.corner == "Variant"
    assert [cell.at("variant") for cell in pivot.all_cells if cell.best] == ["v11", "v11"]


def test_published_figures_find_their_cell_and_none_is_lost():
    figures = (
        PublishedNumber(row="good", column="federated", value=0.77),
        PublishedNumber(row="x", column="pooled", value=0.9),
    )  # fmt: skip
    pivot = only(comparison(THREE, [number("good", 0.7)]), columns=("mode",), published=figures)
    assert [line[0].published for line in pivot.cells] == [None, 0.77, None]
    assert pivot.elsewhere == figures[1:]


def test_the_sentence_names_the_winner_and_what_may_be_chance():
    told = [number("plain", 3.4, metric="mae"), number("good", 3.1, metric="mae"), number("odd", 3.3, metric="mae")]
    tested = [contrast("good", -0.3, 0.01, metric="mae", width=0.1), contrast("odd", -0.1, 0.4, metric="mae")]
    result = comparison(THREE, told, tested, types={"death": "regression"})
    (outcome,) = outcomes(result, only(result, columns=("metric",)))
    assert outcome.winner == "Good"
    assert outcome.sentence == (
        "Good has the lowest MAE, 3.1 (3.06–3.14); clearly better than the reference, Plain: -0.300 "
        "(-0.400 to -0.200), p 0.010. May be chance against the reference: Odd."
    )


def test_a_winner_by_chance_is_called_one():
    told = [number("plain", 0.7), number("good", 0.72), number("odd", 0.6)]
    tested = [contrast("good", 0.02, 0.3), contrast("odd", -0.1, 0.001)]
    result = comparison(THREE, told, tested)
    (outcome,) = outcomes(result, only(result, columns=("mode",)))
    assert outcome.sentence == (
        "Good has the highest AUROC, 0.720 (0.680–0.760); its difference to the reference, Plain, may be chance: "
        "+0.020 (-0.010 to +0.050), p 0.300. Clearly worse than the reference: Odd."
    )


def test_the_reference_may_win_and_a_lonely_number_wins_nothing():
    result = comparison(THREE, [number("plain", 0.7), number("odd", 0.6)], [contrast("odd", -0.1, 0.2)])
    (outcome,) = outcomes(result, only(result, columns=("mode",)))
    assert outcome.said[0].endswith("; it is the reference.") and outcome.winner == "Plain"
    result = comparison(THREE, [number("plain", 0.6), number("odd", 0.7)])
    (outcome,) = outcomes(result, only(result, columns=("mode",)))
    assert outcome.said[0].endswith("it was not tested against the reference, Plain: the difference may be chance.")
    result = comparison(THREE, [number("odd", 0.6)])
    (outcome,) = outcomes(result, only(result, columns=("mode",)))
    assert outcome.best == () and outcome.sentence == "Only Odd has a number: 0.600 (0.560–0.640)."


def test_each_column_has_its_own_outcome_and_modes_of_one_variant_are_not_tested():
    modes = ("local", "federated")
    result = comparison(
        THREE[:2], [number(v.name, 0.6 + at / 10, mode=m) for at, v in enumerate(THREE[:2]) for m in modes], modes=modes
    )
    assert [o.where for o in outcomes(result, only(result, columns=("mode",)))] == ["Each site alone", "Federated"]
    alone = comparison(THREE[:1], [number("plain", 0.6, mode="local"), number("plain", 0.7)], modes=modes)
    (outcome,) = outcomes(alone, only(alone, columns=("mode",)))
    assert outcome.sentence == "federated has the highest AUROC, 0.700 (0.660–0.740). No test compares modes."


def test_a_file_without_tables_gets_what_a_reader_looks_for():
    made = made_up.everything().model_copy(update={"tables": ()})
    plans = tables_of(made)
    assert [(plan.rows, plan.columns, plan.picture) for plan in plans if plan.only["task"] == ("death",)] == [
        (("variant",), ("mode",), "forest"), (("variant",), ("role",), "forest"), (("ecg",), ("ehr",), "heat"),
        (("variant",), ("subgroup",), "lines"),
    ]  # fmt: skip
    assert {plan.only["task"] for plan in plans} == {("death",), ("stay",)}
    assert all(pivots(index_of(made), plan) for plan in plans)
    assert tables_of(made_up.everything()) == made_up.TABLES


def test_words():
    result = made_up.everything()
    assert [title_of(result, "mode", m) for m in made_up.MODES] == [
        "each site alone", "federated", "federated, epsilon 3", "federated, epsilon 8", "pooled",
    ]  # fmt: skip
    assert title_of(result, "ecg", "resnet") == "ResNet-34 1-D" and title_of(result, "role", "train") == "internal"
    assert title_of(result, "subgroup", "hidden=0.25") == "25 % hidden"
    assert [hidden_share(name) for name in ("", "hidden=0.5", "age=65-79")] == [0.0, 0.5, None]
    assert listed(["a", "b", "c"]) == "a, b and c" and listed(["a, x", "b"]) == "a, x and b" and listed(["a"]) == "a"
    assert listed(["a, x", "b", "c"]) == "a, x; b and c" and listed([]) == ""


def test_differences_never_lose_their_sign_or_digits():
    assert difference(contrast("good", 0.0204, 0.1)) == "+0.020 (-0.010 to +0.050)"
    assert difference(contrast("good", -12.345, 0.1, metric="mae", width=100)) == "-12 (-112 to +88)"
    assert difference(contrast("good", 0.1, 0.1).model_copy(update={"low": None})) == "+0.100 (no interval)"
