"""Every data set that can be imported: its name on the command line, what it needs, where to get it, who does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fl_sites.importers import heart_failure, mimic_iv, physionet_2012, ptb_xl, sunnybrook, uci_heart
from fl_sites.importers.imported import Imported


@dataclass(frozen=True, kw_only=True)
class Importer:
    """One data set.

    needs: files and folders of an unmodified download; download: where its owner gives it away;
    run: (folder of the download, folder to write) -> what was written.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    download: str
    run: Callable[[Path, Path], Imported]


IMPORTERS = (
    Importer(
        name="ptb-xl",
        title=ptb_xl.TITLE,
        needs=ptb_xl.NEEDS,
        download=ptb_xl.DOWNLOAD,
        run=ptb_xl.import_ptb_xl,
    ),
    Importer(
        name="uci-heart",
        title=uci_heart.TITLE,
        needs=uci_heart.NEEDS,
        download=uci_heart.DOWNLOAD,
        run=uci_heart.import_uci_heart,
    ),
    Importer(
        name="heart-failure-survival",
        title=heart_failure.TITLE,
        needs=heart_failure.NEEDS,
        download=heart_failure.DOWNLOAD,
        run=heart_failure.import_heart_failure,
    ),
    Importer(
        name="physionet-2012",
        title=physionet_2012.TITLE,
        needs=physionet_2012.NEEDS,
        download=physionet_2012.DOWNLOAD,
        run=physionet_2012.import_physionet_2012,
    ),
    Importer(
        name="mimic-iv",
        title=mimic_iv.TITLE,
        needs=mimic_iv.NEEDS,
        download=mimic_iv.DOWNLOAD,
        run=mimic_iv.import_mimic_iv,
    ),
    Importer(
        name="sunnybrook",
        title=sunnybrook.TITLE,
        needs=sunnybrook.NEEDS,
        download=sunnybrook.DOWNLOAD,
        run=sunnybrook.import_sunnybrook,
    ),
)
