from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.leakage import late_notes, leaks, tells_outcome
from fl_client.data.text import identifier_in, read_text, tokenise
from fl_shared.errors import ConsiliumError
from fl_shared.site import Site, TextFiles
from fl_shared.study import ModalityPlan
from fl_shared.weights import directory_digest

RESIDENT = "11010519491231002X"  # the worked example of GB 11643


def check_of(root, name, encoding="utf-8") -> str:
    with pytest.raises(UnreadableError) as error:
        read_text(root, name, encoding=encoding)
    return error.value.check


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("左室射血分数降低,二尖瓣反流。", "gb18030"), ("Mäßige Mitralinsuffizienz, große Narbe", "iso-8859-1")],
)
def test_texts_of_any_language_are_composed_and_become_bytes(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path, "a.txt", encoding=encoding) == text
    tokens = tokenise([text], plan=ModalityPlan(kind="text", max_tokens=64), site=_site({}), name="text")
    kept = tokens.ids[0][tokens.mask[0]][1:-1] - 4
    assert bytes(kept.astype("uint8")).decode() == text


def test_decomposed_letters_are_composed(tmp_path):
    (tmp_path / "a.txt").write_bytes("Ma\u0308ßig".encode())
    assert read_text(tmp_path, "a.txt", encoding="utf-8") == "Mäßig"


def test_unusable_texts_say_why(tmp_path):
    (tmp_path / "gb.txt").write_bytes("心力衰竭".encode("gb18030"))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "big.txt").write_bytes(b"a" * (1024**2 + 1))
    (tmp_path / "id.txt").write_text(f"Patient {RESIDENT}, stable")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    names = ("gb.txt", "empty.txt", "big.txt", "id.txt", "out.txt", "none.txt", "../x.txt")
    assert check_of(tmp_path, "id.txt", "no-such-encoding") == "text-encoding"
    assert [check_of(tmp_path, name) for name in names] == [
        "text-encoding", "text-empty", "file-too-large", "text-identifier", "path-outside-root", "file-missing",
        "path-outside-root",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"身份证{RESIDENT}", "resident-id"),
        ("身份证:１１０１０５１９４９１２３１００２Ｘ", "resident-id"),
        ("tel 13812345678", "mobile-number"),
        ("电话:138 1234 5678。", "mobile-number"),
        ("MRN: 0012345", "record-number"),
        ("住院号：00123456", "record-number"),
        ("Fallnummer 4711081", "record-number"),
        ("姓名:王小明", "name-label"),
        ("Befund\nName: Müller", "name-label"),
        ("Patient name = Smith", "name-label"),
        ("110105194912310021", None),  # checksum fails
        ("NT-proBNP 12345678901 pg/mL", None),
        ("LVEF 45 %, 13.8 mmol/L, Patient 65 years", None),
        ("sinusrhythmus periphere niederspannung", None),
        ("medication name unknown; study number 2019-1234", None),
    ],
)
def test_identifier_gate(text, kind):
    assert identifier_in(text) == kind


def test_pretrained_tokeniser_is_local_pinned_and_fits_the_language(tmp_path):
    folder = tmp_path / "bert"
    _write_tokeniser(folder)
    plan = ModalityPlan(kind="text", max_tokens=8, weights="bert", weights_sha256=directory_digest(folder))
    tokens = tokenise(["heart failure"], plan=plan, site=_site({"bert": folder}), name="text")
    assert tokens.ids.tolist() == [[2, 5, 6, 3, 0, 0, 0, 0]]
    assert tokens.mask.sum() == 4
    with pytest.raises(ConsiliumError, match="does not know"):
        tokenise(["heart failure", "心力衰竭"], plan=plan, site=_site({"bert": folder}), name="text")
    with pytest.raises(ConsiliumError, match=r"weights\.bert: missing"):
        tokenise(["heart"], plan=plan, site=_site({}), name="text")
    (folder / "vocab.txt").write_text("other")
    with pytest.raises(ConsiliumError, match="differs from what the study pinned"):
        tokenise(["heart"], plan=plan, site=_site({"bert": folder}), name="text")


def test_a_long_text_goes_on_in_windows_and_what_is_cut_is_counted():
    plan = ModalityPlan(kind="text", max_tokens=20, window=8)
    tokens = tokenise(["abcdefgh", "x", "a" * 17], plan=plan, site=_site({}), name="text")
    assert tokens.cut == 1
    assert tokens.ids[0].tolist() == [1, *(ord(c) + 4 for c in "abcdef"), 2, 1, ord("g") + 4, ord("h") + 4, 2, *[0] * 8]
    assert tokens.mask.sum(1).tolist() == [12, 3, 16]  # the last 4 hold no character of 4 bytes: unused


def test_windows_of_a_pretrained_tokeniser(tmp_path):
    folder = tmp_path / "bert"
    _write_tokeniser(folder)
    plan = ModalityPlan(kind="text", max_tokens=20, window=8, weights="bert", weights_sha256=directory_digest(folder))
    texts = ["heart " * 7 + "failure", "failure", "heart " * 12 + "failure heart heart"]
    tokens = tokenise(texts, plan=plan, site=_site({"bert": folder}), name="text")
    assert tokens.ids[0].tolist() == [2, *[5] * 6, 3, 2, 5, 6, 3, *[0] * 8]
    assert tokens.ids[1].tolist() == [2, 6, 3, *[0] * 17]
    assert tokens.ids[2].tolist() == [2, *[5] * 6, 3, 2, *[5] * 6, 3, 2, 6, 5, 3]  # the last window has 4 tokens
    assert tokens.mask.sum(1).tolist() == [12, 3, 20]
    assert tokens.cut == 1


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("Patient ist VERSTORBEN.", ["verstorben"], True),
        ("Die Verstorbene wurde", ["verstorben"], True),
        ("ver\u00adstor\u200bben", ["verstorben"], True),  # soft hyphen, zero-width space
        ("Ｄｉｅｄ at home", ["died"], True),  # full width
        ("studied, remedied", ["died"], False),
        ("discharged\n  to   hospice", ["to hospice"], True),
        ("患者死亡。", ["死亡"], True),
        ("患者died昨天", ["died"], True),
        ("große STRASSE", ["straße"], True),
        ("(c.+)", [".+"], True),  # no regular expression
        ("cabc", [".+"], False),
        ("anything", ["", " "], False),
        ("anything", [], False),
    ],
)
def test_leakage_words(text, words, found):
    assert leaks(text, words) == found


@pytest.mark.parametrize("text", ["出院小结：好转", "Exitus letalis", "DISCHARGE SUMMARY", "Discharge diagnosis: HF"])
def test_built_in_outcome_words(text):
    assert tells_outcome(text)
    assert not tells_outcome("Sinusrhythmus, LVEF 45 %, 心力衰竭, no chest pain")


def test_notes_after_the_index_time_are_late():
    frame = pd.DataFrame(
        {
            "index_time": ["2020-01-02 10:00"] * 7,
            "text_path": ["a", "b", "c", "d", "", "f", "g"],
            "written": [
                "2020-01-02 10:00", "2020-01-02 10:01", "2020-01-02T02:30:00Z", "", "2021-01-01", "soon", "2020-01-02",
            ],
        }
    )  # fmt: skip
    site, findings = Site.model_validate({"schema": 1, "name": "s", "timezone": "Asia/Shanghai"}), Findings()
    mapped = TextFiles(kind="text", column="text_path", time_column="written")
    late = late_notes(frame, mapped=mapped, site=site, findings=findings)
    assert late.tolist() == [False, True, True, True, False, True, False]
    assert findings.repairs == {
        "written: naive, taken in the site's time zone": 3,
        "written: missing or unreadable, the note counts as late": 2,
    }
    mapped = TextFiles(kind="text", column="text_path")
    np.testing.assert_array_equal(late_notes(frame, mapped=mapped, site=site, findings=findings), np.zeros(7, bool))


def _site(weights) -> Site:
    return Site.model_validate({"schema": 1, "name": "s", "weights": weights})


def _write_tokeniser(folder) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "heart": 5, "failure": 6}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
