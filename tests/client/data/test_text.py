from __future__ import annotations

import pytest

from fl_client.data.findings import UnreadableError
from fl_client.data.text import identifier_in, read_text, tokenise
from fl_shared.errors import ConsiliumError
from fl_shared.site import Site
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
