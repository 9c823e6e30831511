"""The rules that a chapter keeps. Each takes a page and returns what is wrong with it, with the line.

A page is read here by a small scanner of its own, so that the rules see what the author typed and can name its line.
"""

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import exercises as exercise_files
import yaml

# The chapters that were written before the form of two storeys (CONTRIBUTING.md). Remove a number when its chapter is
# rebuilt; a test says when one of them needs no exception any more.
NOT_YET: set[str] = set()

LAST_SECTIONS = ["Summary", "Further Reading"]
OWN_SECTIONS = ["On your own pictures", "On your own data"]  # one of them before Summary, from this chapter on:
FIRST_WITH_OWN = 8
MAX_WORDS, MAX_WORDS_OF_SECTION = 4500, 900  # in view on the main line
MAX_VISIBLE_LINES, MAX_LINES = 20, 60  # of code in a cell; the second for listings and for what is folded away
MAX_CELL_COLUMNS = 112  # the site shows 84 without scrolling
MAX_GLUED = 3  # computed numbers in a paragraph
FIRST_FIGURE_WORDS, FIRST_FIGURE_LINES = 300, 20  # what may stand above the first figure
MIN_WARM_UPS, MIN_CODING, MAX_DEEP = 3, 3, 2
BOXES = ["What you need to know", "What you will be able to do"]
NOT_IN_A_NOTEBOOK = {"remove-cell", "remove-input", "remove_cell", "remove_input"}


# Where a line stands: on the main line, in one of the two boxes at the top, or in what is folded or done.
MAIN, BOX, DEEPER, EXERCISE, SOLUTION, HINT = "main", "box", "deeper", "exercise", "solution", "hint"


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
    place: str = MAIN

    @property
    def tags(self) -> set[str]:
        return set(self.options.get("tags") or [])

    @property
    def visible(self) -> bool:
        return self.place == MAIN and not self.tags & {"hide-input", "hide-cell"}

    @property
    def draws(self) -> bool:
        """Whether it makes a figure of the book."""
        return "figure" in (self.options.get("mystnb") or {})

    @property
    def length(self) -> int:
        """Lines that are not blank."""
        return sum(bool(line.strip()) for line in self.source)

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
    level: str = ""
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
    typed: list[str] = field(default_factory=list)  # the same with the formulas, roles and code within them
    places: list[str] = field(default_factory=list)  # where each line stands
    captions: set[int] = field(default_factory=set)  # lines of figures' captions
    tables: set[int] = field(default_factory=set)  # lines of tables
    words: list[int] = field(default_factory=list)  # words of each line that are in view on the main line

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

    def place_at(self, line: int) -> str:
        return self.places[line - 1]


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
    gate = MAIN  # between …-start and …-end
    page.places = [MAIN] * len(lines)
    index = start
    while index < len(lines):
        line, number = lines[index], index + 1
        page.places[index] = _place(gate, [fence for _, fence in stack])
        if any(fence.name.endswith("table") for _, fence in stack):
            page.tables.add(number)
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
                    page.cells.append(Cell(number, options, source, page.places[index]))
                    if solution:
                        solution.cells += 1
                page.places[index : end + 1] = [page.places[index]] * (end + 1 - index)
                page.prose[index : end + 1] = [""] * (end + 1 - index)
                _restore_caption(page, index, body)
                index = end + 1
                continue
            stack.append((found[1], fence))
            page.fences.append(fence)
            titled = fence.name in {"admonition", "exercise-start", "deeper-start", "dropdown", "tab-item", "table"}
            page.prose[index] = fence.argument if titled else ""
            while index + 1 < len(lines) and (option := re.match(r"^:([\w-]+):\s*(.*)$", lines[index + 1])):
                fence.options[option[1]] = option[2].strip()
                index += 1
                page.prose[index] = ""
            if fence.name in {"exercise-start", "solution-start", "deeper-start"}:
                gate = fence.name.removesuffix("-start")
            elif fence.name in {"exercise-end", "solution-end", "deeper-end"}:
                gate = MAIN
            page.places[number - 1 : index + 1] = [_place(gate, [f for _, f in stack])] * (index + 2 - number)
            match fence.name:
                case "exercise-start":
                    section, level = page.section_at(number), fence.options.get("level", "")
                    exercise = Exercise(number, fence.options.get("label", ""), section, level)
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


def _place(gate: str, stack: list[Fence]) -> str:
    """Where a line stands between these gates, within these directives."""
    if gate != MAIN and gate != EXERCISE:
        return gate
    for fence in stack:
        if "dropdown" in fence.options.get("class", fence.name).split():
            return HINT
        if fence.name == "admonition" and fence.argument in BOXES:
            return BOX
    return gate


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
            page.captions.add(offset + 1)
        elif depth is not None and (indent > depth or not line.strip()):
            page.prose[offset] = line
            page.captions.add(offset + 1)
        else:
            depth = None


# What is not prose within a line or a paragraph: each is blanked, its line breaks kept.
NOT_PROSE = [
    r"<!--.*?-->",
    r"^%[^\n]*$",
    r"(?<!\\)\$\$.*?\$\$(?:[ \t]*\([\w-]+\))?",
    r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"(?<=\])\([^)\s]*(?:\s+\"[^\"]*\")?\)",
    r"<https?://[^>]*>|https?://[^\s)]+",
    r"\[\^[\w-]+\]",
]
LIKE_A_WORD = [  # roles, code and formulas within a line: blanked too, and read as a word
    r"(?:\{[\w:.-]+\})?(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)",
    r"(?<![\\$])\$(?!\s)(?:(?!\n\n)[^$])+?(?<!\\)\$",
]


def _mask(page: Page) -> None:
    page.typed = list(page.prose)
    page.prose = _without([*LIKE_A_WORD, *NOT_PROSE], page.prose)
    main = [
        line if place == MAIN and number not in page.captions and not line.startswith("#") else ""
        for number, (line, place) in enumerate(zip(page.typed, page.places), 1)
    ]
    main = "\n".join(_without(NOT_PROSE[:4], main)).split("\n")
    words = _without(NOT_PROSE[4:], _without(LIKE_A_WORD, main, "x"))
    page.words = [len(re.findall(r"\w[\w'’.,-]*", line)) for line in words]


def _without(patterns: list[str], lines: list[str], instead: str = "") -> list[str]:
    """The lines with what the patterns find blanked, line by line; `instead` stands where it began."""
    text = "\n".join(lines)
    for pattern in patterns:
        blank = lambda m: instead + re.sub(r"[^\n]", " ", m[0])[len(instead) :]  # noqa: E731
        text = re.sub(pattern, blank, text, flags=re.DOTALL | re.MULTILINE)
    return text.split("\n")


# The rules -----------------------------------------------------------------------------------------------------


def headings(page: Page, chapter: dict[str, Any]) -> list[Problem]:
    """The title and the sections are the syllabus's, in its order, then Summary and Further Reading.

    What may or must stand before Summary is the matter of `own_pictures`.
    """
    found = []
    titles = [(line, title) for line, level, title in page.headings if level == 1]
    if [title for _, title in titles] != [chapter["title"]]:
        got = [title for _, title in titles]
        found.append(Problem(titles[0][0] if titles else 1, f"the title is {chapter['title']!r}, not {got}"))
    wanted = [*chapter["sections"], *LAST_SECTIONS]
    sections = [(line, title) for line, level, title in page.headings if level == 2 and title not in OWN_SECTIONS]
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
    return [Problem(1, f"there is no box {title!r} at the top") for title in BOXES if title not in titles]


def exercises(page: Page, chapter: dict[str, Any]) -> list[Problem]:
    """Each section has an exercise; each exercise a hint, unless it is a warm-up, one folded solution, and a check."""
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
        if exercise.hints == 0 and exercise.level != "warm-up":
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
    """A cell is not too long or wide to read, and in view; the first one imports and sets the style of the figures."""
    found = []
    for cell in page.cells:
        if cell.length > MAX_LINES:
            found.append(Problem(cell.line, f"a cell of {cell.length} lines; at most {MAX_LINES}"))
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
    for match in re.finditer(r"\{reported\}`([^`]*)`", page.text):
        line = page.text.count("\n", 0, match.start()) + 1
        source = re.fullmatch(r"[^<>]*\S\s*<([\w:,-]+)>", match[1])
        if not source or not set(source[1].split(",")) <= keys:
            found.append(
                Problem(line, f"write {{reported}}`NUMBER <key>` with a key of references.bib, not {match[1]!r}")
            )
    return found


# The form of two storeys ---------------------------------------------------------------------------------------


def length(page: Page) -> list[Problem]:
    """The main line can be read in an hour or so: visible prose is short, in the whole and in each section."""
    counts: Counter[str] = Counter()
    for line, words in enumerate(page.words, 1):
        counts[page.section_at(line + 1)] += words
    del counts["Further Reading"]
    found = []
    if (total := sum(counts.values())) > MAX_WORDS:
        found.append(Problem(1, f"{total} words in view; at most {MAX_WORDS}: move what can wait to {{deeper-start}}"))
    for line, level, title in page.headings:
        if level == 2 and counts[title] > MAX_WORDS_OF_SECTION:
            message = f"{counts[title]} words in view in {title!r}; at most {MAX_WORDS_OF_SECTION}"
            found.append(Problem(line, message))
    return found


def visible_code(page: Page) -> list[Problem]:
    """A visible cell does one thing; a program, with the tag `listing`, stands at most once in a section."""
    found = []
    listings = Counter(page.section_at(cell.line) for cell in page.cells if cell.visible and "listing" in cell.tags)
    for cell in page.cells:
        if not cell.visible:
            continue
        if "listing" not in cell.tags and cell.length > MAX_VISIBLE_LINES:
            message = (
                f"{cell.length} visible lines; at most {MAX_VISIBLE_LINES}: split it, hide plumbing, or tag it listing"
            )
            found.append(Problem(cell.line, message))
        elif "listing" in cell.tags and listings[section := page.section_at(cell.line)] > 1:
            found.append(Problem(cell.line, f"{listings[section]} listings in {section!r}; at most one"))
    return found


def glued_numbers(page: Page) -> list[Problem]:
    """A paragraph holds at most three computed numbers; more are a table."""
    found = []
    starts = re.compile(
        r"\s*(?:[-*+]|\d+\.)\s|\s*\||#"
    )  # what begins a paragraph of its own: an item, a row, a heading
    block = 0
    blocks = []
    for line, text in enumerate(page.typed, 1):
        block += not text.strip() or bool(starts.match(text))
        if line not in page.tables and not text.lstrip().startswith("|"):
            blocks.append((block, line, len(re.findall(r"\{glue(?::\w+)?\}`", text))))
    for _, lines in groupby(blocks, key=lambda entry: entry[0]):
        entries = list(lines)
        count = sum(glued for _, _, glued in entries)
        if count > MAX_GLUED:
            first = next(line for _, line, glued in entries if glued)
            message = (
                f"{count} computed numbers in a paragraph; at most {MAX_GLUED}: make a table with a line that reads it"
            )
            found.append(Problem(first, message))
    return found


def first_figure(page: Page) -> list[Problem]:
    """The result comes first: the first figure stands near the top."""
    places = [(cell.line, cell) for cell in page.cells if cell.draws and cell.place == MAIN]
    places += [(fence.line, None) for fence in page.fences if fence.name in {"figure", "glue:figure"}]
    if not places:
        return [Problem(1, "there is no figure")]
    line, cell = min(places, key=lambda place: place[0])
    words = sum(page.words[:line])
    code = sum(other.length for other in page.cells if other.visible and (other.line < line or other is cell))
    if words > FIRST_FIGURE_WORDS or code > FIRST_FIGURE_LINES:
        message = (
            f"the first figure comes after {words} words and {code} visible lines of code; "
            f"at most {FIRST_FIGURE_WORDS} and {FIRST_FIGURE_LINES}"
        )
        return [Problem(line, message)]
    return []


def levels(page: Page) -> list[Problem]:
    """A ladder of exercises, each with its level: warm-ups without code, stubs with a check, few that are deep."""
    found = []
    for exercise in page.exercises:
        if exercise.level not in exercise_files.LEVELS:
            wanted = ", ".join(exercise_files.LEVELS)
            found.append(Problem(exercise.line, f"{exercise.label} has no :level: of {wanted}"))
        if exercise.level == "warm-up" and exercise.stubs:
            found.append(Problem(exercise.line, f"{exercise.label} is a warm-up and asks for code"))
        if exercise.level == "coding" and not exercise.stubs:
            found.append(Problem(exercise.line, f"{exercise.label} is for coding and has no stub"))
    count = Counter(exercise.level for exercise in page.exercises)
    for level, least in (("warm-up", MIN_WARM_UPS), ("coding", MIN_CODING)):
        if count[level] < least:
            found.append(Problem(1, f"{count[level]} exercises of level {level}; at least {least}"))
    if count["deep"] > MAX_DEEP:
        found.append(Problem(1, f"{count['deep']} deep exercises; at most {MAX_DEEP}"))
    return found


def deeper(page: Page) -> list[Problem]:
    """A fold says what it needs in its title; its result stands above it, outside."""
    found = []
    for fence in page.fences:
        if fence.name != "deeper-start":
            continue
        if not fence.options.get("needs"):
            found.append(Problem(fence.line, "a fold says what it needs: `:needs: …`, or `:needs: nothing new`"))
        above = next((line for line in range(fence.line - 1, 0, -1) if page.text.split("\n")[line - 1].strip()), 1)
        if page.place_at(above) != MAIN or not page.typed[above - 1].strip() or page.typed[above - 1].startswith("#"):
            found.append(Problem(fence.line, "a sentence above a fold, outside of it, says what comes out in it"))
    return found


LABELS = [
    r"\$\$[ \t]*\(([\w-]+)\)[ \t]*$",  # an equation's
    r"^\(([\w-]+)\)=[ \t]*$",  # a target
    r"^\s*:?(?:name|label):[ \t]*([\w-]+)[ \t]*$",  # a figure's, a table's, a directive's
]


def folded_labels(page: Page) -> set[str]:
    """What is named only inside a fold or a solution. A fold's own label is not: a pointer to it is a signpost."""
    own = {fence.options.get("label") for fence in page.fences if fence.name.endswith("-start")}
    found = set()
    for pattern in LABELS:
        for match in re.finditer(pattern, page.text, flags=re.MULTILINE):
            line = page.text.count("\n", 0, match.start()) + 1
            if page.place_at(line) in {DEEPER, SOLUTION, HINT} and match[1] not in own:
                found.add(match[1])
    return found


def references(page: Page, folded: set[str] = frozenset()) -> list[Problem]:
    """The main line refers to nothing that stands only in a fold or a solution, on this page or (`folded`) another."""
    found = []
    folded = folded | folded_labels(page)
    for match in re.finditer(r"\{(?:ref|numref|eq)\}`(?:[^`<]*<)?([\w-]+)>?`", page.text):
        line = page.text.count("\n", 0, match.start()) + 1
        if page.place_at(line) in {MAIN, BOX} and match[1] in folded:
            found.append(
                Problem(line, f"the main line refers to {match[1]!r}, which stands only in a fold or a solution")
            )
    return found + _borrowed_names(page)


def _borrowed_names(page: Page) -> list[Problem]:
    """Code of the main line that uses what only a fold's or a solution's code has made."""
    found = []
    made, folded = set(dir(builtins)), set()
    answers = [(solution.line, name) for solution in page.solutions for name in solution.answers]
    for cell in page.cells:
        tree = cell.tree()
        bound = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
        }
        bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        bound |= {(n.asname or n.name).partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.alias)}
        if cell.place != MAIN:
            folded |= bound
            continue
        folded |= {_function(name) for line, name in answers if line < cell.line}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for name in sorted((used & folded) - bound - made):
            found.append(Problem(cell.line, f"the main line uses {name!r}, which only a fold or a solution makes"))
        made |= bound
    return found


def _function(answer: str) -> str:
    """The function that an exercise asks for."""
    try:
        return exercise_files.load(answer, exercise_files.FOLDER).function
    except exercise_files.ExerciseError:
        return ""  # the rule of exercises says what is wrong


def needs(page: Page) -> list[Problem]:
    """What you need to know is a list, and each need has its place: a link, or a book that is cited."""
    lines = [(line, text) for line, text in enumerate(page.typed, 1) if page.place_at(line) == BOX]
    box = next((fence for fence in page.fences if fence.argument == BOXES[0]), None)
    end = next((fence.line for fence in page.fences if fence.argument == BOXES[1]), len(page.typed))
    if box is None:
        return []  # the rule of boxes says so
    items: list[tuple[int, str]] = []
    for line, text in lines:
        if box.line < line < end and text.strip():
            if re.match(r"[-*] ", text):
                items.append((line, text))
            elif items:
                items[-1] = (items[-1][0], f"{items[-1][1]} {text}")
    if not items:
        return [Problem(box.line, f"{box.argument!r} is a list, one need an item")]
    place = re.compile(r"\{(?:ref|numref|doc|eq|cite[\w:]*)\}`|\]\(\S+\)")
    return [Problem(line, "a need without a link or a book") for line, text in items if not place.search(text)]


def own_pictures(page: Page) -> list[Problem]:
    """From chapter 8 on, what the reader does with pictures or data of their own stands before Summary."""
    sections = [(line, title) for line, level, title in page.headings if level == 2]
    titles = [title for _, title in sections]
    if int(page.number) < FIRST_WITH_OWN:
        wrong = [line for line, title in sections if title in OWN_SECTIONS]
        return [Problem(line, f"no such section before chapter {FIRST_WITH_OWN}") for line in wrong]
    at = titles.index("Summary") if "Summary" in titles else len(titles)
    if at and titles[at - 1] in OWN_SECTIONS:
        return []
    line = sections[at][0] if at < len(sections) else 1
    return [Problem(line, f"before Summary stands ## {' or ## '.join(OWN_SECTIONS)}")]


def writes(page: Page) -> list[Problem]:
    """A page writes only into a directory that it made, with `tempfile`.

    Here by what the code says: a path that begins with a string or where the page happens to run. What a run leaves
    behind, test_notebooks.py sees.
    """
    made: dict[str, ast.expr] = {}
    found = []
    for cell in page.cells:
        for node in ast.walk(cell.tree()):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                made[node.targets[0].id] = node.value
        for call in ast.walk(cell.tree()):
            if isinstance(call, ast.Call) and (path := _written(call)) and _is_anywhere(path, made):
                code = ast.unparse(call)
                message = (
                    f"{code[:60]} writes outside of a directory that the page made; use tempfile.TemporaryDirectory"
                )
                found.append(Problem(cell.line + call.lineno, message))
    return found


def _written(call: ast.Call) -> ast.expr | None:
    """The path to which a call writes."""
    arguments = [*call.args, None, None]
    match call.func:
        case ast.Attribute(value=path, attr="write_text" | "write_bytes" | "mkdir" | "touch"):
            return path
        case ast.Attribute(value=ast.Name(id="torch"), attr="save") | ast.Name(id="save_file" | "save_model"):
            return arguments[1]
        case ast.Attribute(attr="save" | "savez" | "savefig" | "tofile" | "to_csv"):
            return arguments[0]
        case ast.Name(id="open"):
            mode = next((word.value for word in call.keywords if word.arg == "mode"), arguments[1])
            writing = isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+")
            return arguments[0] if writing else None
    return None


def _is_anywhere(path: ast.expr, made: dict[str, ast.expr], depth: int = 0) -> bool:
    """Whether a path begins with a string, or with where the page runs; one that cannot be told is let be."""
    if depth > 20:
        return False
    match path:
        case ast.BinOp(left=left, op=ast.Div()):
            return _is_anywhere(left, made, depth + 1)
        case ast.Call(func=ast.Name(id="Path"), args=[first, *_]):
            return _is_anywhere(first, made, depth + 1)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="Path"), attr="cwd" | "home")):
            return True
        case ast.Attribute(value=value, attr="parent") | ast.Call(func=ast.Attribute(value=value)):
            return _is_anywhere(value, made, depth + 1)
        case ast.Name(id=name) if name in made:
            return _is_anywhere(made[name], {k: v for k, v in made.items() if k != name}, depth + 1)
        case ast.Constant(value=str()):
            return True
        case ast.JoinedStr(values=[ast.Constant(), *_]):
            return True
    return False


# Works cited, and notebooks ------------------------------------------------------------------------------------


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
