"""Tries the changes that `cargo mutants --list --json` has listed: all in one build, in which the variable MUTANT chooses
one. Those that cannot be chosen at run time are built one at a time.

usage: mutants.py TREE LIST    a tree of crates, which is changed, and the list; the report goes to standard output
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
OPERATIONS = ("binary_expression", "compound_assignment_expr", "unary_expression")
CONSTANTS = ("const_item", "static_item", "array_type", "type_arguments", "const_block")
CHOOSE = """
#[inline]
pub(crate) fn mutant() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CHOSEN: AtomicU32 = AtomicU32::new(u32::MAX);
    if CHOSEN.load(Ordering::Relaxed) == u32::MAX {
        let number = std::env::var("MUTANT").ok();
        let number = number.map_or(0, |number| number.parse().expect("a number"));
        CHOSEN.store(number, Ordering::Relaxed);
    }
    CHOSEN.load(Ordering::Relaxed)
}
"""


def ancestors(node):
    while node is not None:
        yield node
        node = node.parent


def marked(number, text):
    """The text of a change, by which an error of the compiler is known to be its."""
    return b"/*%d{*/ %s /*}%d*/" % (number, text, number)


def choice(variants, otherwise):
    arms = [marked(number, b"%d => { (%s) }" % (number, text)) for number, text in variants]
    return b"(match crate::mutant() { %s _ => { (%s) } })" % (b" ".join(arms), otherwise)


class File:
    """A source file, and its changes by number."""

    def __init__(self, path, changes):
        self.text = path.read_bytes()
        self.root = PARSER.parse(self.text).root_node
        self.changes = changes
        self.lines = [0]
        for line in self.text.split(b"\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)

    def span(self, change):
        def offset(place):
            begin = self.lines[place["line"] - 1]
            line = self.text[begin : self.lines[place["line"]]].decode()
            return begin + len(line[: place["column"] - 1].encode())

        return offset(change["span"]["start"]), offset(change["span"]["end"])

    def alone(self, change):
        """The file with this change."""
        begin, end = self.span(change)
        rest = self.text[end:]
        if change["genre"] == "StructField":
            rest = rest.lstrip().removeprefix(b",")
        return self.text[:begin] + b" " + change["replacement"].encode() + b" " + rest

    def together(self, without):
        """The file with all changes but some, and the numbers of those that cannot be in there."""
        edits = collections.defaultdict(list)  # By node: what becomes of its text.
        operations = {}
        impossible = set()
        for number, change in self.changes.items():
            if number in without:
                continue
            if not self.place(number, change, edits, operations):
                impossible.add(number)
        for node, variants in operations.values():
            edits[node.id].insert(0, lambda text, variants=variants: choice(variants, text))
        return self.render(self.root, edits), impossible

    def render(self, node, edits):
        parts, at = [], node.start_byte
        for child in node.children:
            parts += [self.text[at : child.start_byte], self.render(child, edits)]
            at = child.end_byte
        text = b"".join([*parts, self.text[at : node.end_byte]])
        for edit in edits.get(node.id, []):
            text = edit(text)
        return text

    def place(self, number, change, edits, operations):
        begin, end = self.span(change)
        genre, replacement = change["genre"], change["replacement"].encode()
        node = self.root.descendant_for_byte_range(begin, end)
        function = None
        for outer in ancestors(node):
            if outer.type == "function_item" and outer.child_by_field_name("body").start_byte <= begin:
                function = outer
                break
            length = outer.type == "array_expression" and outer.child_by_field_name("length")
            if outer.type in CONSTANTS or length and length.start_byte <= begin:
                return False
        if function is None:
            return False

        if genre == "FnValue":
            # Another type than the one that is hidden there.
            if "impl " in change["function"]["return_type"]:
                return False
            early = marked(number, b"if crate::mutant() == %d { return %s; }" % (number, replacement))
            body = function.child_by_field_name("body")
            edits[body.id].append(lambda text: b"{ " + early + text[1:])
            return True
        if genre == "MatchArmGuard":
            pattern = next(outer for outer in ancestors(node) if outer.type == "match_pattern")
            guard = pattern.child_by_field_name("condition")
            edits[guard.id].append(lambda text: choice([(number, replacement)], text))
            return guard.type != "let_chain"
        if genre == "MatchArm":
            pattern = next(outer for outer in ancestors(node) if outer.type == "match_arm")
            pattern = pattern.child_by_field_name("pattern")
            guard = pattern.child_by_field_name("condition")
            other = marked(number, b"crate::mutant() != %d" % number)
            if guard is None:
                edits[pattern.id].append(lambda text: text + b" if " + other)
            else:
                edits[guard.id].append(lambda text: other + b" && (" + text + b")")
            return guard is None or guard.type != "let_chain"
        kinds = ("struct_expression",) if genre == "StructField" else (*OPERATIONS, "let_chain")
        node = next(outer for outer in ancestors(node) if outer.type in kinds)
        if node.type == "let_chain" or any(child.type == "let_condition" for child in node.children):
            return False
        rest = self.text[end : node.end_byte]
        if genre == "StructField":
            rest = rest.lstrip().removeprefix(b",")
        text = self.text[node.start_byte : begin] + b" " + replacement + b" " + rest
        operations.setdefault(node.id, (node, []))[1].append((number, text))
        return True


class Package:
    """The changes of one package."""

    def __init__(self, tree, name, changes):
        self.tree, self.name, self.changes = tree, name, changes
        paths = {change["file"] for change in changes.values()}
        self.files = {path: File(tree / path, self.within(path)) for path in sorted(paths)}
        self.directory = (tree / min(paths)).parents[len(pathlib.Path(min(paths)).parts) - 2]
        self.outcomes, self.tests = {}, []

    def within(self, path):
        return {number: change for number, change in self.changes.items() if change["file"] == path}

    def build(self):
        """The program of the tests, and the errors of the compiler."""
        command = ["cargo", "test", "--no-run", "--offline", "--lib", "--package", self.name]
        command.append("--message-format=json")
        built = subprocess.run(command, cwd=self.tree, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        program, errors = None, []
        for message in map(json.loads, filter(None, built.stdout.splitlines())):
            if message["reason"] == "compiler-artifact" and message["executable"]:
                program = message["executable"]
            elif message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                errors.append(message["message"])
        return program, errors

    def build_together(self):
        """Leaves out what does not compile until the rest does; returns the program, and what to try alone."""
        alone = set()
        library = self.directory / "src/lib.rs"
        original = library.read_text()
        allow = "#![allow(warnings, arithmetic_overflow, overflowing_literals, unconditional_panic)]\n"
        library.write_text(allow + original + CHOOSE)
        while True:
            spans = {}
            for path, file in self.files.items():
                text, impossible = file.together(self.outcomes.keys() | alone)
                alone |= impossible
                (self.tree / path).write_bytes(text)
                found = re.finditer(rb"/\*(\d+)\{\*/.*?/\*\}\1\*/", text, re.DOTALL)
                spans[path] = [(match.start(), match.end(), int(match[1])) for match in found]
            program, errors = self.build()
            if not errors:
                break
            for error in errors:
                self.blame(error, spans, alone)
        for path, file in self.files.items():
            (self.tree / path).write_bytes(file.text)
        library.write_text(original)
        return program, alone

    def blame(self, error, spans, alone):
        for span in sorted(error["spans"], key=lambda span: not span["is_primary"]):
            for begin, end, number in spans.get(span["file_name"], []):
                if begin <= span["byte_start"] and span["byte_end"] <= end:
                    # What cannot be inferred here might be, alone.
                    if (error["code"] or {}).get("code") in ("E0282", "E0283"):
                        alone.add(number)
                    else:
                        self.outcomes[number] = "unviable"
                    return
        if error["spans"]:
            sys.exit(f"mutants: no change is to blame for this: {error['rendered']}")

    def limit(self, program):
        """Five times the processor time that all tests take, seconds."""
        listed = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True)
        self.tests = re.findall("^(.*): test$", listed.stdout, re.MULTILINE)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if self.run(program, 0, self.tests, 600) != "missed":
            sys.exit("mutants: the tests fail without any change")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return int(5 * (after.ru_utime - before.ru_utime)) + 5

    def run(self, program, number, tests, seconds):
        def bound():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        ended = subprocess.run(
            [program, "--test-threads=1", "--exact", *tests],
            env=os.environ | {"MUTANT": str(number)},
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=bound,
        )
        if ended.returncode in (-9, -24):
            return "timeout"
        return "caught" if ended.returncode else "missed"

    def judge(self, program, number, seconds, mutant):
        """The tests of the same module first: most changes need no others. The first panic ends a run."""
        module = pathlib.Path(self.changes[number]["file"]).with_suffix("").parts[2:]
        first = "a_panic::ends_the_run"
        near = []
        while module and not near:
            near = [test for test in self.tests if test.startswith("::".join(module) + "::")]
            module = module[:-1]
        far = [first, *(test for test in self.tests if test not in near)]
        outcome = self.run(program, mutant, [first, *near], seconds)
        return self.run(program, mutant, far, seconds) if outcome == "missed" else outcome

    def judge_all(self):
        program, alone = self.build_together()
        seconds = self.limit(program)
        together = [number for number in self.changes if number not in self.outcomes.keys() | alone]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = pool.map(lambda number: self.judge(program, number, seconds, number), together)
            for number, outcome in zip(together, outcomes):
                self.note(number, outcome)
        for number in sorted(alone):
            file = self.files[self.changes[number]["file"]]
            path = self.tree / self.changes[number]["file"]
            path.write_bytes(file.alone(self.changes[number]))
            program, errors = self.build()
            self.note(number, "unviable" if errors else self.judge(program, number, seconds, 0))
            path.write_bytes(file.text)

    def note(self, number, outcome):
        self.outcomes[number] = outcome
        print(f"{outcome:8} {self.changes[number]['name']}", file=sys.stderr, flush=True)


def main():
    tree, listed = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
    changes = dict(enumerate(listed, 1))
    outcomes = {}
    for name in sorted({change["package"] for change in listed}):
        mine = {number: change for number, change in changes.items() if change["package"] == name}
        package = Package(tree, name, mine)
        package.judge_all()
        outcomes |= package.outcomes
    for outcome, count in sorted(collections.Counter(outcomes.values()).items()):
        print(f"- {outcome}: {count}")
    print("\nNot noticed by any unit test:\n")
    for number, change in changes.items():
        if outcomes[number] == "missed":
            print(f"- {change['name']}")


main()
