"""The rules that a chapter keeps. Each takes a page and returns what is wrong with it, with the line.

A page is read here by a small scanner of its own, so that the rules see what the author typed and can name its line.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LAST_SECTIONS = ["Summary", "Further Reading"]
MAX_CELL_LINES = 45  # about thirty lines of code before they are folded to the width of a page
MAX_CELL_COLUMNS = 112  # the site shows 84 without scrolling
NOT_IN_A_NOTEBOOK = {"remove-cell", "remove-input", "remove_cell", "remove_input"}


@dataclass(frozen=True)
class Problem:
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.line}: {self.message}"


@dataclass
class Cell:
    """A code cell as it stands on the page."""

    line: int
    options: dict[str, Any]
    source: list[str]

    @property
    def tags(self) -> set[str]:
        return set(self.options.get("tags") or [])

    def tree(self) -> ast.Module:
        """The cell's code; lines of IPython's own (`%`, `!`) are left out."""
        code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in self.source)
        return ast.parse(code)


@dataclass
class Fence:
    """A directive of the page, with the lines from its opening to its end."""

    line: int
    name: str  # "admonition", "exercise-start", or "" for a block of code
    argument: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Exercise:
    line: int
    label: str
    section: str
    hints: int = 0
    stubs: list[str] = field(default_factory=list)


@dataclass
class Solution:
    line: int
    target: str
    folded: bool
    answers: list[str] = field(default_factory=list)
    cells: int = 0


@dataclass
class Page:
    text: str
    stem: str = "02-sample"
    headings: list[tuple[int, int, str]] = field(default_factory=list)  # line, level, title
    targets: list[tuple[int, str]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    exercises: list[Exercise] = field(default_factory=list)
    solutions: list[Solution] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)  # the page's lines, blank where they are not prose

    def __post_init__(self) -> None:
        _scan(self)

    @classmethod
    def read(cls, path: Path) -> "Page":
        return cls(path.read_text("utf8"), path.stem)

    @property
    def number(self) -> str:
        return self.stem[:2]

    def section_at(self, line: int) -> str:
        above = [title for at, level, title in self.headings if level == 2 and at < line]
        return above[-1] if above else ""


# The book ------------------------------------------------------------------------------------------------------


def toc_pages(root: Path) -> list[str]:
    """The pages of the table of contents, in order."""

    def files(item: Any) -> Iterator[str]:
        if isinstance(item, dict):
            yield from (str(item[key]).removesuffix(".md") for key in ("root", "file") if key in item)
            item = [item[key] for key in ("parts", "chapters", "sections") if key in item]
        if isinstance(item, list):
            for child in item:
                yield from files(child)

    return list(files(yaml.safe_load((root / "_toc.yml").read_text("utf8"))))


def chapters(root: Path) -> list[Path]:
    """The pages that are chapters: those of the table of contents whose name begins with a number."""
    names = [name for name in toc_pages(root) if re.fullmatch(r"\d\d-[\w-]+", name)]
    return [root / "book" / f"{name}.md" for name in names]


def syllabus(root: Path) -> dict[str, dict[str, Any]]:
    """The chapters of the syllabus by the name of their page."""
    parts = yaml.safe_load((root / "book" / "syllabus.yml").read_text("utf8"))
    return {chapter["page"]: chapter for part in parts for chapter in part["chapters"]}


# Reading a page ------------------------------------------------------------------------------------------------

FENCE = re.compile(r"^\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\})?(.*)$")


def _scan(page: Page) -> None:
    lines = page.text.split("\n")
    page.prose = list(lines)
    start = 0
    if lines[0] == "---":
        start = lines.index("---", 1) + 1
        page.prose[:start] = [""] * start
    stack: list[tuple[str, Fence]] = []
    exercise: Exercise | None = None
    solution: Solution | None = None
    index = start
    while index < len(lines):
        line, number = lines[index], index + 1
        found = FENCE.match(line)
        if found and stack and not found[2] and not found[3].strip():
            mark = stack[-1][0]
            if found[1][0] == mark[0] and len(found[1]) >= len(mark):
                stack.pop()
                page.prose[index] = ""
                index += 1
                continue
        if found and (found[1][0] != ":" or found[2]):
            fence = Fence(number, found[2] or "", found[3].strip())
            if not fence.name or fence.name in {"code-cell", "code-block", "code", "math", "raw", "mermaid"}:
                end = _end_of_code(lines, index, found[1])
                body = lines[index + 1 : end]
                if fence.name == "code-cell":
                    options, source = _options(body)
                    page.cells.append(Cell(number, options, source))
                    if solution:
                        solution.cells += 1
                page.prose[index : end + 1] = [""] * (end + 1 - index)
                _restore_caption(page, index, body)
                index = end + 1
                continue
            stack.append((found[1], fence))
            page.fences.append(fence)
            titled = fence.name in {"admonition", "exercise-start", "dropdown", "tab-item", "table"}
            page.prose[index] = fence.argument if titled else ""
            while index + 1 < len(lines) and (option := re.match(r"^:([\w-]+):\s*(.*)$", lines[index + 1])):
                fence.options[option[1]] = option[2].strip()
                index += 1
                page.prose[index] = ""
            match fence.name:
                case "exercise-start":
                    section = page.section_at(number)
                    exercise = Exercise(number, fence.options.get("label", ""), section)
                    page.exercises.append(exercise)
                case "exercise-end":
                    exercise = None
                case "solution-start":
                    folded = "dropdown" in fence.options.get("class", "").split()
                    solution = Solution(number, fence.argument, folded)
                    page.solutions.append(solution)
                case "solution-end":
                    solution = None
                case "exercise-stub" if exercise:
                    exercise.stubs.append(fence.argument)
                case "exercise-solution" if solution:
                    solution.answers.append(fence.argument)
                case "admonition" | "hint" | "dropdown" if exercise:
                    hint = fence.name == "hint" or fence.argument.lower().startswith("hint")
                    exercise.hints += hint and "dropdown" in fence.options.get("class", fence.name).split()
            index += 1
            continue
        if not stack and (heading := re.match(r"^(#{1,6}) (.*?)\s*$", line)):
            page.headings.append((number, len(heading[1]), heading[2]))
        if target := re.match(r"^\(([\w-]+)\)=\s*$", line):
            page.targets.append((number, target[1]))
            page.prose[index] = ""
        index += 1
    _mask(page)


def _end_of_code(lines: list[str], start: int, mark: str) -> int:
    for index in range(start + 1, len(lines)):
        if re.match(rf"^\s*{re.escape(mark[0])}{{{len(mark)},}}\s*$", lines[index]):
            return index
    return len(lines) - 1


def _options(body: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of a code cell, in either of MyST's two forms, and its code."""
    if body and body[0].strip() == "---":
        end = next(i for i in range(1, len(body)) if body[i].strip() == "---")
        return yaml.safe_load("\n".join(body[1:end])) or {}, body[end + 1 :]
    count = 0
    while count < len(body) and re.match(r"^:[\w-]+:", body[count]):
        count += 1
    options = {key: yaml.safe_load(value) for key, value in (line[1:].split(":", 1) for line in body[:count])}
    return options, body[count:]


def _restore_caption(page: Page, index: int, body: list[str]) -> None:
    """A caption is prose, though it stands among the options of a cell."""
    depth = None
    for offset, line in enumerate(body, index + 1):
        indent = len(line) - len(line.lstrip())
        if found := re.match(r"^\s*caption:\s*(?:[|>][+-]?\s*$)?(.*)$", line):
            depth = indent
            page.prose[offset] = found[1]
        elif depth is not None and (indent > depth or not line.strip()):
            page.prose[offset] = line
        else:
            depth = None


# What is not prose within a line or a paragraph: each is blanked, its line breaks kept.
NOT_PROSE = [
    r"<!--.*?-->",
    r"^%[^\n]*$",
    r"(?<!\\)\$\$.*?\$\$(?:[ \t]*\([\w-]+\))?",
    r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"(?:\{[\w:.-]+\})?(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\2(?!`)",
    r"(?<![\\$])\$(?!\s)(?:(?!\n\n)[^$])+?(?<!\\)\$",
    r"(?<=\])\([^)\s]*(?:\s+\"[^\"]*\")?\)",
    r"<https?://[^>]*>|https?://[^\s)]+",
    r"\[\^[\w-]+\]",
]


def _mask(page: Page) -> None:
    text = "\n".join(page.prose)
    for number, pattern in enumerate(NOT_PROSE):
        # The backreferences above count groups of the whole pattern.
        pattern = pattern.replace(r"\2", r"\1") if number == 4 else pattern
        text = re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL | re.MULTILINE)
    page.prose = text.split("\n")


# The rules -----------------------------------------------------------------------------------------------------


def headings(page: Page, chapter: dict[str, Any]) -> list[Problem]:
    """The title and the sections are the syllabus's, in its order, then Summary and Further Reading."""
    found = []
    titles = [(line, title) for line, level, title in page.headings if level == 1]
    if [title for _, title in titles] != [chapter["title"]]:
        got = [title for _, title in titles]
        found.append(Problem(titles[0][0] if titles else 1, f"the title is {chapter['title']!r}, not {got}"))
    wanted = [*chapter["sections"], *LAST_SECTIONS]
    sections = [(line, title) for line, level, title in page.headings if level == 2]
    if [title for _, title in sections] != wanted:
        got = [title for _, title in sections]
        line = next((at for (at, title), want in zip(sections, wanted) if title != want), 1)
        found.append(Problem(line, f"the sections are {wanted}, not {got}"))
    return found


def labels(page: Page, chapter: dict[str, Any]) -> list[Problem]:
    """A chapter has one label `ch-…`, each of its sections a label `sec-…` right above it."""
    found = []
    at = {line: label for line, label in page.targets}
    for line, label in page.targets:
        if not label.startswith(("ch-", "sec-", "fig-", "tab-")):
            found.append(Problem(line, f"the label {label!r} begins with none of ch-, sec-, fig-, tab-"))
    for line, level, title in page.headings:
        if level == 1 and not at.get(line - 1, "").startswith("ch-"):
            found.append(Problem(line, "the line above the title is its label, (ch-…)="))
        if level == 2 and title in chapter["sections"] and not at.get(line - 1, "").startswith("sec-"):
            found.append(Problem(line, f"the line above the section {title!r} is its label, (sec-…)="))
    return found


def boxes(page: Page) -> list[Problem]:
    """A chapter says what you need to know and what you will be able to do, above its first section."""
    first = next((line for line, level, _ in page.headings if level == 2), len(page.prose))
    titles = [fence.argument for fence in page.fences if fence.name == "admonition" and fence.line < first]
    wanted = ["What you need to know", "What you will be able to do"]
    return [Problem(1, f"there is no box {title!r} at the top") for title in wanted if title not in titles]


def exercises(page: Page, chapter: dict[str, Any]) -> list[Problem]:
    """Each section has an exercise; each exercise a hint, one solution that is folded, and a check."""
    found = []
    for section in chapter["sections"]:
        if not any(exercise.section == section for exercise in page.exercises):
            found.append(Problem(1, f"the section {section!r} has no exercise"))
    known = [exercise.label for exercise in page.exercises]
    for solution in page.solutions:
        if solution.target not in known:
            found.append(Problem(solution.line, f"a solution of {solution.target!r}, which is no exercise here"))
        if not solution.folded:
            found.append(Problem(solution.line, "a solution is folded, `:class: dropdown`"))
    for exercise in page.exercises:
        line, label = exercise.line, exercise.label
        if not re.fullmatch(rf"ex-{page.number}-\d\d?", label) or known.count(label) > 1:
            found.append(Problem(line, f"the label {label!r} is not a new one of the form ex-{page.number}-K"))
        if exercise.hints == 0:
            found.append(Problem(line, f"{label} has no hint in a drop-down"))
        solutions = [solution for solution in page.solutions if solution.target == label]
        if len(solutions) != 1:
            found.append(Problem(line, f"{label} has {len(solutions)} solutions, not one"))
            continue
        answers, cells = solutions[0].answers, solutions[0].cells
        if exercise.stubs != answers:
            found.append(Problem(line, f"{label} asks for {exercise.stubs}, its solution answers {answers}"))
        if not answers and not cells:
            found.append(Problem(line, f"{label} has no check: neither a stub nor a cell in its solution"))
        if any(stub != label.replace("-", "_") for stub in exercise.stubs):
            found.append(Problem(line, f"the file of {label} is {label.replace('-', '_')}.py"))
    for fence in page.fences:
        if fence.name in {"exercise", "solution"}:
            found.append(Problem(fence.line, f"write {{{fence.name}-start}} and {{{fence.name}-end}}"))
    return found


def figures(page: Page) -> list[Problem]:
    """A cell that makes a figure has its name, its caption and what a reader who cannot see it should know."""
    found = []
    for cell in page.cells:
        options = cell.options.get("mystnb") or {}
        figure, image = options.get("figure") or {}, options.get("image") or {}
        if not figure and not image:
            continue
        if not str(figure.get("name", "")).startswith("fig-"):
            found.append(Problem(cell.line, "a figure has a name that begins with fig-"))
        if not str(figure.get("caption") or "").strip():
            found.append(Problem(cell.line, "a figure has a caption"))
        if len(str(image.get("alt") or "").split()) < 4:
            found.append(Problem(cell.line, "a figure has an alt text of a sentence"))
    return found


def numbers(page: Page) -> list[Problem]:
    """A number that the run computes is glued: prose has no decimal, percentage or number of four digits.

    A year from 1900 to 2030 may stand. Math, code, roles, links and labels are not prose; captions are.
    """
    pattern = re.compile(
        r"(?<![\w.,])(?:\d{1,3}(?:[, ]\d{3})+(?![\d])|\d+)"  # an integer, also in groups
        r"(?P<decimal>[.,·]\d+)?(?P<power>e[+-]?\d+)?"
        r"(?P<percent>\s?(?:%|‰|per\s?cent\b))?"
    )
    found = []
    for line, text in enumerate(page.prose, 1):
        for match in pattern.finditer(text):
            integer = int(re.sub(r"\D", "", re.split(r"[.·e%‰p]", match[0])[0]) or 0)
            after = text[match.end() : match.end() + 1]
            if match["decimal"] or match["power"] or match["percent"]:
                wrong = True
            elif after.isalpha():  # a name such as 2D, 5k or 1990s
                wrong = False
            else:
                year = 1900 <= integer <= 2030 and re.fullmatch(r"\d{4}", match[0])
                wrong = integer >= 1000 and not year
            if wrong:
                message = f"the number {match[0].strip()!r} is typed; glue it, or write a parameter in math"
                found.append(Problem(line, message))
    return found


def glue(page: Page) -> list[Problem]:
    """Every glued name is made once on the page, and used on it."""
    made: list[tuple[int, str, bool]] = []  # line, name or pattern, is it a pattern
    found = []
    for cell in page.cells:
        for call in ast.walk(cell.tree()):
            if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith("glue") or not call.args:
                continue
            match call.args[0]:
                case ast.Constant(value=str(name)):
                    made.append((cell.line, name, False))
                case ast.JoinedStr(values=values):
                    parts = [re.escape(v.value) if isinstance(v, ast.Constant) else r"[\w.-]+" for v in values]
                    made.append((cell.line, "".join(parts), True))
                case _:
                    found.append(Problem(cell.line, "a glued name is a string, so that this test can read it"))
    used = [
        (page.text.count("\n", 0, match.start()) + 1, match[1] or match[2])
        for match in re.finditer(r"\{glue(?::\w+)?\}(?:`([^`:]+)(?::[^`]*)?`|[ \t]+([\w.:-]+))", page.text)
    ]

    def makes(name: str, pattern: bool, use: str) -> bool:
        return bool(re.fullmatch(name, use)) if pattern else name == use

    for line, use in used:
        if not any(makes(name, pattern, use) for _, name, pattern in made):
            found.append(Problem(line, f"nothing on this page glues {use!r}"))
    names = [name for _, name, _ in made]
    for line, name, pattern in made:
        if names.count(name) > 1:
            found.append(Problem(line, f"{name!r} is glued more than once"))
        if not any(makes(name, pattern, use) for _, use in used):
            found.append(Problem(line, f"{name!r} is glued and never used"))
    return found


def cells(page: Page) -> list[Problem]:
    """A cell is short and in view; the first one imports and sets the style of the figures."""
    found = []
    for cell in page.cells:
        count = len("\n".join(cell.source).strip().split("\n"))
        if count > MAX_CELL_LINES:
            found.append(Problem(cell.line, f"a cell of {count} lines; at most {MAX_CELL_LINES}"))
        for offset, line in enumerate(cell.source, 1):
            if len(line) > MAX_CELL_COLUMNS:
                found.append(Problem(cell.line + offset, f"a line of {len(line)} columns; at most {MAX_CELL_COLUMNS}"))
        if bad := cell.tags & NOT_IN_A_NOTEBOOK:
            found.append(Problem(cell.line, f"{bad.pop()!r} hides code that a notebook shows; use hide-input"))
    if page.cells and "use_style()" not in "\n".join(page.cells[0].source):
        found.append(Problem(page.cells[0].line, "the first code cell calls viz.use_style()"))
    return found


def markup(page: Page) -> list[Problem]:
    """No raw HTML, and no display math within a line, which would be printed as it is."""
    found = []
    for line, text in enumerate(page.prose, 1):
        if tag := re.search(r"</?[a-zA-Z][\w-]*(\s[^<>]*)?/?>", text):
            found.append(Problem(line, f"raw HTML, {tag[0]!r}: the text must read well in a notebook too"))
    fenced = False
    for line, text in enumerate(page.text.split("\n"), 1):
        fenced ^= text.lstrip().startswith("```")
        if not fenced and re.search(r"[^\s>].*(?<!\\)\$\$.*\$\$", text) and not re.match(r"[\s>]*\$\$", text):
            found.append(Problem(line, "display math begins its own line"))
    return found


def citations(page: Page, keys: set[str]) -> list[Problem]:
    """Every work cited is in the bibliography."""
    found = []
    for match in re.finditer(r"\{(?:foot)?cite[\w:]*\}`([^`]+)`", page.text):
        line = page.text.count("\n", 0, match.start()) + 1
        for key in re.split(r"[,\s]+", match[1].strip()):
            # {cite:p}`{see}key` puts text before or after the key
            key = re.sub(r"\{[^}]*\}", "", key)
            if key and key not in keys:
                found.append(Problem(line, f"{key!r} is not in references.bib"))
    return found


def bibliography(entries: dict[str, dict[str, str]]) -> list[str]:
    """Every entry says who wrote what, when, and where it can be read."""
    found = []
    for key, fields in entries.items():
        missing = [name for name in ("author", "title", "year") if not fields.get(name, "").strip()]
        if not any(fields.get(name, "").strip() for name in ("url", "doi", "eprint")):
            missing.append("url, doi or eprint")
        if missing:
            found.append(f"{key}: no {', no '.join(missing)}")
    return found


def raw_myst(markdown: str) -> list[str]:
    """The directives, roles and labels left in Markdown that a plain Jupyter shows."""
    text = re.sub(r"^(`{3,}|~{3,})[^\n{]*\n.*?^\1\s*$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    patterns = [
        r"^\s*[`~]{3,}\s*\{[^\n]*",
        r"^\s*:{3,}[^\n]*",
        r"\{[a-zA-Z][\w:.+-]*\}`[^`]*`",
        r"^\([\w-]+\)=\s*$",
        r"^\+\+\+[^\n]*",
        r"^:(?:label|class|name|tags):[^\n]*",
    ]
    return [match[0].strip() for p in patterns for match in re.finditer(p, text, flags=re.MULTILINE)]
