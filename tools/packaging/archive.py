"""Archives of code: the same bytes for the same files."""

import io
import zipfile


def zip_archive(files: dict[str, bytes]) -> bytes:
    """Return a zip with the same bytes for the same files: fixed times and order, no compression (zlibs differ)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            entry = zipfile.ZipInfo(path)  # dated 1980
            entry.create_system = 3  # Unix
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
