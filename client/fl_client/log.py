"""The site's own log, ``state/log.jsonl`` (0600): details of failures that never leave the site."""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler

from fl_client.files import private_dir
from fl_shared.site import Site

_MAX_BYTES, _BACKUPS = 10 * 2**20, 3


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> io.TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        return io.TextIOWrapper(io.FileIO(descriptor, "a"), encoding="utf-8")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        body = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False, default=str)


def site_logger(site: Site) -> logging.Logger:
    """A logger of its own for the site; pass ``extra={"fields": {…}}`` for structured values."""
    logger = logging.Logger(f"consilium.{site.name}")
    path = private_dir(site.state_dir) / "log.jsonl"
    handler = _PrivateFile(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, delay=True)
    handler.setFormatter(_JsonFormatter())
    logger.addHandler(handler)
    return logger
