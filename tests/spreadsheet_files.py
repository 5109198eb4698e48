"""Writes the smallest xlsx and ods files that hold given sheets, with the standard library alone; and one xls file."""

import base64
import gzip
import zipfile
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def write_xlsx(path, sheets):
    """Write name -> rows of cells (text, number or None)."""
    names = list(sheets)
    types = "".join(
        f'<Override PartName="/xl/worksheets/sheet{i}.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>'
        for i in range(len(names))
    )
    listed = "".join(f'<sheet name="{name}" sheetId="{i + 1}" r:id="r{i}"/>' for i, name in enumerate(names))
    links = "".join(
        f'<Relationship Id="r{i}" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet{i}.xml"/>'
        for i in range(len(names))
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/xl/workbook.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
            f"{types}</Types>",
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r" '
            f'Type="{_RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>{listed}</sheets></workbook>',
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>',
        )
        for i, name in enumerate(names):
            file.writestr(f"xl/worksheets/sheet{i}.xml", _xlsx_sheet(sheets[name]))
    return path


def _xlsx_sheet(rows):
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = "".join(
            _xlsx_cell(f"{chr(ord('A') + column)}{number}", value) for column, value in enumerate(row)
        )
        lines.append(f'<row r="{number}">{cells}</row>')
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def _xlsx_cell(place, value):
    if value is None:
        return ""
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return f'<c r="{place}"><v>{value}</v></c>'


def write_ods(path, sheets):
    """Write name -> rows of cells (text or number)."""
    office = "urn:oasis:names:tc:opendocument:xmlns:"
    tables = "".join(
        f'<table:table table:name="{name}">'
        + "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in rows)
        + "</table:table>"
        for name, rows in sheets.items()
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        file.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}office:1.0" xmlns:table="{office}table:1.0" '
            f'xmlns:text="{office}text:1.0"><office:body><office:spreadsheet>{tables}'
            "</office:spreadsheet></office:body></office:document-content>",
        )
        file.writestr("META-INF/manifest.xml", "<manifest/>")
    return path


def _ods_cell(value):
    if isinstance(value, str):
        return (
            '<table:table-cell office:value-type="string">'
            f"<text:p>{escape(value)}</text:p></table:table-cell>"
        )
    return f'<table:table-cell office:value-type="float" office:value="{value}"/>'


# A sheet "S" with the columns question and answer and two rows (Who? Me, Where? Here), written by xlwt 1.3.0.
_XLS = (
    "H4sIAAAAAAACA+1YPWgUQRT+Zu/2/kgue/EiJEI4AkaNacQmTVwVNDYJUYuICHpJFgwJe7pJCKZJNF4pCFaKTSCNTdTGH7TQzkKI"
    "aKEIwp2WVoKCRXLrm7ezeNErchCDynzHvHn75ns773bevP15tZIpLd5vK+MXHEAEFT+JWJVNUEuGBxZo3PelGvYJar7GP4VkghYy"
    "ZuJJ48u4XEO53mUYuBd9ThL4SO0MLmCg4Dq5LcRhjiEvZAy9JAVukyWNVo6qmeUIy20s7zLzKcuDbLnGspe4JXEaK/ZAV4/K4lNG"
    "B4+lIc/7kH3es2UfWvBCZvHcdRFwTRzyxvITf+dAe7QBS6B163Ncx8tPlJClBVzCNz8HfA136rOctm+tXYDs39fb4zXsN4woMA//"
    "HCd4kYrru0iwwCdX0cN7MRbU1YvTzuTUWMGlw7w7OeN45Dh0vmBT0vY7Mak7nmOT8Rj1KVmneV9b6/Z1I+d7A8lRNLGe4ay3aIbV"
    "O19e9w8P2mfZMs+1PKj4O2WQ8HFZepBzmkc4TuZ2sdzL8gqfdQfrbSyzlKvUdw62KOXoAnOu8mgnzbOf8cbeVaXvJr34+fij9uIn"
    "ew/py33l2ezyW3sRHXSRRslf/hbQLbrFrZsSj+2wF6o6fGDZ+lulSBiWit1Xt7UmrCHFaoZlcCSvjlB8UYMvmG8ovmB+RPGNGnyD"
    "+VHFD66+Ke+0RjMeyEGqWz+RgoaGhoaGhoaGhsbmQ6inePnkKp9NTfWuEFffddaoVfRnkv8WJ1Cg3xS9mB6BS72HS3Xlz3aYIjyX"
    "2KBP+L1QYohm9zCOYY5jvO78pXc9Uf1/Nuxobd4Wqnf+Sj1x/uH5fwB7YaLyABYAAA=="
)


def write_xls(path):
    """Write the xls file."""
    path.write_bytes(gzip.decompress(base64.b64decode(_XLS)))
    return path
