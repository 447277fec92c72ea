"""A folder of results that appear all at once, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A hidden folder inside `output`, whose files move into `output` when the block ends well, else vanish.

    Raises OSError naming `output` when nothing can be written there.
    """
    made = not output.exists()
    folder = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".predict-", dir=output))
        yield folder
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = output / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        made = False
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            error.errno, f"cannot write the results: {reason}; choose another folder or free some space", str(output)
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):
                output.rmdir()
