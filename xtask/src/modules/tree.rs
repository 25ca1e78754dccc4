//! The modules of a crate, and which of them names which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tokens::{Token, tokens};

/// Where a module is among the others.
pub(super) type Id = usize;

/// A module: what it holds and what it names, outside of tests.
#[derive(Debug)]
pub(super) struct Module {
    /// Names from the crate down; empty for the crate itself.
    pub(super) path: Vec<String>,
    parent: Option<Id>,
    children: BTreeMap<String, Id>,
    /// Names that `use` brings in, each with the path behind it.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths of which everything is brought in.
    globs: Vec<Vec<String>>,
    /// Items of its own.
    items: Vec<String>,
    /// Every path that it names.
    named: Vec<Named>,
}

/// A path and where it stands.
#[derive(Clone, Debug)]
struct Named {
    file: PathBuf,
    line: usize,
    path: Vec<String>,
}

/// One module names another one, or something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrow {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
}

/// The modules of a crate; the first one is the crate itself.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

/// Words behind which an item has its name.
const ITEMS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];

impl Tree {
    /// Reads the modules from the files of a crate, by their paths below `src`.
    pub(super) fn new(files: &BTreeMap<PathBuf, String>) -> Self {
        let mut tree = Self::default();
        let root = ["lib.rs", "main.rs"].into_iter().map(PathBuf::from).find(|file| files.contains_key(file));
        if let Some(root) = root {
            let id = tree.add(None, Vec::new());
            tree.read(files, &root, Path::new(""), id);
        }
        tree
    }

    fn add(&mut self, parent: Option<Id>, path: Vec<String>) -> Id {
        self.modules.push(Module {
            path,
            parent,
            children: BTreeMap::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
            items: Vec::new(),
            named: Vec::new(),
        });
        self.modules.len() - 1
    }

    fn child(&mut self, parent: Id, name: &str) -> Id {
        let path = [&self.modules[parent].path[..], &[name.to_owned()]].concat();
        let id = self.add(Some(parent), path);
        self.modules[parent].children.insert(name.to_owned(), id);
        id
    }

    /// Reads a file into module `id`, whose own modules are in `folder`.
    fn read(&mut self, files: &BTreeMap<PathBuf, String>, file: &Path, folder: &Path, id: Id) {
        let Some(text) = files.get(file) else { return };
        let tokens = tokens(text);
        let mut reader = Reader { tokens: &tokens, place: 0, file };
        for name in reader.body(self, id) {
            let beside = [folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")];
            if let Some(file) = beside.iter().find(|file| files.contains_key(*file)) {
                let child = self.child(id, &name);
                self.read(files, file, &folder.join(&name), child);
            }
        }
    }

    /// Every arrow between modules of which none holds the other, from one child of what holds both to another one.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut arrows: Vec<Arrow> = Vec::new();
        for (id, module) in self.modules.iter().enumerate() {
            for Named { file, line, path } in &module.named {
                let Some(target) = self.resolve(id, path, 0) else { continue };
                let to = &self.modules[target].path;
                let common = module.path.iter().zip(to).take_while(|(a, b)| a == b).count();
                if common == module.path.len() || common == to.len() {
                    continue;
                }
                let arrow = Arrow {
                    file: file.clone(),
                    line: *line,
                    from: module.path[..=common].to_vec(),
                    to: to[..=common].to_vec(),
                };
                if !arrows.contains(&arrow) {
                    arrows.push(arrow);
                }
            }
        }
        arrows
    }

    /// The module in which what `path` names, seen from module `id`, is written; none if it is not of this crate.
    fn resolve(&self, id: Id, path: &[String], depth: usize) -> Option<Id> {
        /// Longer chains of imports are circles.
        const DEPTH: usize = 16;
        let (first, mut rest) = path.split_first()?;
        let mut here = match first.as_str() {
            "crate" => 0,
            "self" => id,
            "super" => self.modules[id].parent?,
            name => match self.modules[id].children.get(name) {
                Some(child) => *child,
                None if (1..DEPTH).contains(&depth) => return self.find(id, name, rest, depth),
                None => return None,
            },
        };
        while let Some((next, behind)) = rest.split_first() {
            if next == "super" {
                here = self.modules[here].parent?;
            } else if let Some(child) = self.modules[here].children.get(next) {
                here = *child;
            } else if depth < DEPTH {
                return self.find(here, next, behind, depth).or(Some(here));
            } else {
                return Some(here);
            }
            rest = behind;
        }
        Some(here)
    }

    /// The module where `name` is written, which module `id` holds or brings in.
    fn find(&self, id: Id, name: &str, behind: &[String], depth: usize) -> Option<Id> {
        let module = &self.modules[id];
        if module.items.iter().any(|item| item == name) {
            return Some(id);
        }
        if let Some(path) = module.imports.get(name) {
            return self.resolve(id, &[path, behind].concat(), depth + 1);
        }
        let through = |glob: &Vec<String>| {
            let target = self.resolve(id, glob, depth + 1).filter(|target| *target != id)?;
            let holds = &self.modules[target];
            let known = holds.items.iter().any(|item| item == name) || holds.imports.contains_key(name);
            if known { self.find(target, name, behind, depth + 1) } else { None }
        };
        module.globs.iter().find_map(through)
    }
}

/// Reads the tokens of a file.
struct Reader<'a> {
    tokens: &'a [Token<'a>],
    place: usize,
    file: &'a Path,
}

impl Reader<'_> {
    fn word(&self, ahead: usize) -> &str {
        self.tokens.get(self.place + ahead).map_or("", |token| token.text)
    }

    /// Reads a module up to its closing brace or the end of the file; gives the names of modules with files of their own.
    fn body(&mut self, tree: &mut Tree, id: Id) -> Vec<String> {
        let mut declared = Vec::new();
        let mut depth = 0_usize;
        while self.place < self.tokens.len() {
            match (self.word(0), self.word(1)) {
                ("#", _) => self.attribute(),
                ("use", _) => self.import(tree, id),
                ("mod", _) if self.word(2) == ";" => {
                    declared.push(self.word(1).to_owned());
                    self.place += 3;
                }
                ("mod", _) if self.word(2) == "{" => {
                    let child = tree.child(id, self.word(1));
                    self.place += 3;
                    self.body(tree, child);
                }
                ("{", _) => {
                    depth += 1;
                    self.place += 1;
                }
                ("}", _) => {
                    self.place += 1;
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                }
                ("macro_rules", "!") if depth == 0 => {
                    tree.modules[id].items.push(self.word(2).to_owned());
                    self.place += 3;
                }
                (word, name) if depth == 0 && ITEMS.contains(&word) => {
                    tree.modules[id].items.push(name.to_owned());
                    self.place += 1;
                }
                (_, "::") => self.path(tree, id),
                _ => self.place += 1,
            }
        }
        declared
    }

    /// Passes over an attribute, and over the item behind it if that is only there for tests.
    fn attribute(&mut self) {
        let inner = usize::from(self.word(1) == "!");
        if self.word(1 + inner) != "[" {
            self.place += 1;
            return;
        }
        let begun = self.place + 2 + inner;
        self.place = begun;
        let mut depth = 1_usize;
        while depth > 0 && self.place < self.tokens.len() {
            depth = match self.word(0) {
                "[" => depth + 1,
                "]" => depth - 1,
                _ => depth,
            };
            self.place += 1;
        }
        let text: Vec<&str> = self.tokens[begun..self.place].iter().map(|token| token.text).collect();
        if inner == 0 && text.starts_with(&["cfg", "(", "test", ")"]) {
            self.item();
        }
    }

    /// Passes over an item: to its semicolon, or to the end of its braces.
    fn item(&mut self) {
        let mut depth = 0_usize;
        while self.place < self.tokens.len() {
            let word = self.word(0);
            match word {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            let ends = depth == 0 && (word == ";" || word == "}");
            self.place += 1;
            if ends {
                return;
            }
        }
    }

    /// Reads a path in code.
    fn path(&mut self, tree: &mut Tree, id: Id) {
        let line = self.tokens[self.place].line;
        let mut path = vec![self.word(0).to_owned()];
        self.place += 1;
        while self.word(0) == "::" && self.word(1).starts_with(|c: char| c.is_alphabetic() || c == '_') {
            path.push(self.word(1).to_owned());
            self.place += 2;
        }
        // A turbofish, or an import's braces, which are read elsewhere.
        if self.word(0) == "::" {
            self.place += 1;
        }
        tree.modules[id].named.push(Named { file: self.file.to_owned(), line, path });
    }

    /// Reads `use …;`.
    fn import(&mut self, tree: &mut Tree, id: Id) {
        self.place += 1;
        // Precise captures, as in `impl Trait + use<'_>`.
        if self.word(0) == "<" {
            return;
        }
        if self.word(0) == "::" {
            self.place += 1;
        }
        self.branch(tree, id, &[]);
    }

    /// Reads one path of an import, or several in braces, behind `before`; stops at what follows.
    fn branch(&mut self, tree: &mut Tree, id: Id, before: &[String]) {
        let mut path = before.to_vec();
        let line = self.tokens.get(self.place).map_or(0, |token| token.line);
        loop {
            match self.word(0) {
                "{" => {
                    self.place += 1;
                    while !matches!(self.word(0), "}" | "") {
                        self.branch(tree, id, &path);
                        if self.word(0) == "," {
                            self.place += 1;
                        }
                    }
                    self.place += 1;
                    return;
                }
                "*" => {
                    self.place += 1;
                    tree.modules[id].named.push(Named { file: self.file.to_owned(), line, path: path.clone() });
                    tree.modules[id].globs.push(path);
                    return;
                }
                "self" if !path.is_empty() => self.place += 1,
                "::" => self.place += 1,
                "," | "}" | ";" | "" | "as" => break,
                word => {
                    path.push(word.to_owned());
                    self.place += 1;
                }
            }
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if self.word(0) == "as" {
            name = self.word(1).to_owned();
            self.place += 2;
        }
        if !path.is_empty() {
            tree.modules[id].named.push(Named { file: self.file.to_owned(), line, path: path.clone() });
            tree.modules[id].imports.insert(name, path);
        }
    }
}
