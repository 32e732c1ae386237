//! The floors of a crate: a checker that its imports run downwards, from the owner of each name, and in no circle.
//!
//! It reads sources as text. Code for tests alone is passed over, and so are files below `src/bin`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The faults of the imports of the crate in the folder `src`, each with its file and line.
///
/// `floors` are lists of files and folders, without `.rs`, from the top floor down; the longest that a
/// file begins with counts. A file may import from its own floor and those below it.
pub(crate) fn violations(src: &Path, floors: &[&[&str]]) -> Vec<String> {
    let mut files = BTreeMap::new();
    collect(src, "", &mut files);
    let tests: Vec<String> = files.values().flat_map(|file| file.tests.clone()).collect();
    let is_test = |name: &str| tests.iter().any(|test| name == test || name.starts_with(&format!("{test}/")));
    files.retain(|name, _| !is_test(name));

    let mut found = Vec::new();
    for floor in floors.iter().copied().flatten() {
        if !files.keys().any(|name| is_below(name, floor)) {
            found.push(format!("{floor}: a floor has this, and there is no such file or folder"));
        }
    }
    let modules: BTreeMap<Vec<&str>, &str> =
        files.keys().filter(|name| *name != "main").map(|name| (module(name), name.as_str())).collect();
    let floor_of = |name: &str| {
        let on = |floor: &[&str]| floor.iter().filter(|prefix| is_below(name, prefix)).map(|prefix| prefix.len()).max();
        let floors = floors.iter().enumerate().filter_map(|(at, floor)| Some((on(floor)?, at)));
        floors.max().map(|(_, at)| at)
    };
    let faces = faces(&files, &modules);
    let mut edges: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (name, file) in &files {
        let Some(floor) = floor_of(name) else {
            found.push(format!("{name}.rs: is on no floor"));
            continue;
        };
        for Named { line, path, exported } in &file.paths {
            let Some((target, item)) = resolve(name, path, &modules) else { continue };
            let is_face = exported.is_some() && is_inside(target, name);
            if target == name || is_face {
                continue;
            }
            let import = path.join("::");
            let owner = item.and_then(|item| faces.get(&(target, item)));
            if owner.is_some() && is_inside(name, target) || target == "lib" && item.is_some() {
                found.push(format!("{name}.rs:{line}: `{import}` goes through the face of {target}.rs"));
            } else if floor_of(target).is_some_and(|other| other < floor) {
                found.push(format!("{name}.rs:{line}: `{import}` climbs to {target}.rs"));
            }
            edges.entry(name).or_default().entry(owner.unwrap_or(&target)).or_insert(*line);
        }
    }
    for (from, to) in &edges {
        for (to, line) in to {
            if reaches(&edges, to, from) {
                found.push(format!("{from}.rs:{line}: closes a circle with {to}.rs"));
            }
        }
    }
    found
}

/// A source file without its tests.
struct File {
    paths: Vec<Named>,
    /// The modules of it that are compiled for tests alone, as files or folders without `.rs`.
    tests: Vec<String>,
}

/// A path that is imported, or named in full.
struct Named {
    line: usize,
    path: Vec<String>,
    /// The name under which it is exported again.
    exported: Option<String>,
}

fn collect(folder: &Path, below: &str, files: &mut BTreeMap<String, File>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of it").path();
        let name = format!("{below}{}", path.file_stem().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            if name != "bin" {
                collect(&path, &format!("{name}/"), files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let code = without_tests(&without_text(&text));
            let tests = test_modules(&without_text(&text)).map(|test| join(&module(&name), &test)).collect();
            files.insert(name, File { paths: paths(&code), tests });
        }
    }
}

fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a file is in the folder of which another is the `mod.rs`, or in the crate of a `lib.rs`.
fn is_inside(name: &str, face: &str) -> bool {
    face == "lib" || face.strip_suffix("/mod").is_some_and(|folder| is_below(name, folder))
}

/// The owners of the names that a folder's `mod.rs` exports again from files in the folder.
fn faces<'a>(
    files: &'a BTreeMap<String, File>,
    modules: &BTreeMap<Vec<&str>, &'a str>,
) -> BTreeMap<(&'a str, &'a str), &'a str> {
    let exports = files.iter().flat_map(|(name, file)| file.paths.iter().map(move |named| (name.as_str(), named)));
    let owned = exports.filter_map(|(name, named)| {
        let (owner, _) = resolve(name, &named.path, modules)?;
        is_inside(owner, name).then_some(((name, named.exported.as_deref()?), owner))
    });
    owned.collect()
}

/// The path of the module that a file holds.
fn module(name: &str) -> Vec<&str> {
    let mut path: Vec<_> = name.split('/').collect();
    match path.last() {
        Some(&"mod") => drop(path.pop()),
        Some(&("lib" | "main")) if path.len() == 1 => path.clear(),
        _ => {}
    }
    path
}

fn join(module: &[&str], child: &str) -> String {
    module.iter().copied().chain([child]).collect::<Vec<_>>().join("/")
}

/// The file that a path leads to, and what it names in there. `None`: it leads out of the crate.
fn resolve<'a, 'p>(
    name: &'p str,
    path: &'p [String],
    modules: &BTreeMap<Vec<&'p str>, &'a str>,
) -> Option<(&'a str, Option<&'p str>)> {
    let mut at = module(name);
    let mut rest = path.iter().map(String::as_str).peekable();
    match *rest.peek()? {
        "crate" => at.clear(),
        "self" | "super" => {}
        child => {
            let mut relative = at.clone();
            relative.push(child);
            modules.get(&relative)?;
        }
    }
    while let Some(segment) = rest.peek() {
        match *segment {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            child => {
                at.push(child);
                if !modules.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
        }
        rest.next();
    }
    Some((modules.get(&at)?, rest.next()))
}

fn reaches(edges: &BTreeMap<&str, BTreeMap<&str, usize>>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        if file == to {
            return true;
        }
        if seen.insert(file)
            && let Some(targets) = edges.get(file)
        {
            next.extend(targets.keys());
        }
    }
    false
}

/// Blanks comments and what stands in quotes; lines stay where they are.
fn without_text(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = text_len(rest, out.chars().next_back());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// How long a comment or a literal is that starts here; 0 when none does.
fn text_len(rest: &str, before: Option<char>) -> usize {
    let up_to = |start: usize, end: &str| rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return up_to(2, "*/");
    }
    if rest.starts_with('r') && !before.is_some_and(|before| before.is_alphanumeric() && before != 'b' || before == '_')
    {
        let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return up_to(2 + hashes, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    let quoted = |quote: char| {
        let mut escaped = true;
        let end = rest.char_indices().find(|(_, char)| {
            let end = !escaped && *char == quote;
            escaped = !escaped && *char == '\\';
            end
        });
        end.map_or(rest.len(), |(at, _)| at + 1)
    };
    let mut chars = rest.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('"'), ..) => quoted('"'),
        (Some('\''), Some('\\'), _) => quoted('\''),
        // Anything else in a single quote is a lifetime.
        (Some('\''), Some(char), Some('\'')) => 2 + char.len_utf8(),
        _ => 0,
    }
}

const TEST: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test,"];

/// The items that are compiled for tests alone, without their attributes, and where those start.
fn test_items(code: &str) -> impl Iterator<Item = (usize, &str)> {
    TEST.into_iter().flat_map(|test| code.match_indices(test)).map(|(at, _)| {
        let mut item = code[at..].trim_start();
        while item.starts_with("#[") {
            let mut depth = 0;
            let end = item.find(|char| {
                depth += i32::from(char == '[') - i32::from(char == ']');
                char == ']' && depth == 0
            });
            item = item[end.map_or(item.len(), |end| end + 1)..].trim_start();
        }
        (at, item)
    })
}

/// Blanks items that are compiled for tests alone.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for (start, item) in test_items(code) {
        let from = code.len() - item.len();
        let mut depth = 0;
        let end = code[from..].find(|char| {
            depth += i32::from("([{".contains(char)) - i32::from(")]}".contains(char));
            depth < 0 || depth == 0 && "};,".contains(char)
        });
        let end = end.map_or(code.len(), |end| from + end + 1);
        let blank: String = code[start..end].chars().map(|char| if char == '\n' { '\n' } else { ' ' }).collect();
        if blank.len() == end - start {
            out.replace_range(start..end, &blank);
        }
    }
    out
}

/// The modules in other files that are compiled for tests alone.
fn test_modules(code: &str) -> impl Iterator<Item = String> {
    test_items(code).filter_map(|(_, item)| {
        let name = item[item.find("mod ").filter(|at| *at < 12)? + 4..].split_once(';')?.0.trim();
        name.chars().all(|char| char.is_alphanumeric() || char == '_').then(|| name.to_owned())
    })
}

/// Imports and full paths, each with its line.
fn paths(code: &str) -> Vec<Named> {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find(is_name).map(|start| at + start) {
        let end = code[start..].find(|char| !is_name(char)).map_or(code.len(), |end| start + end);
        let line = |at: usize| 1 + code[..at].matches('\n').count();
        at = end;
        match &code[start..end] {
            "use" if code[end..].starts_with(' ') => {
                at = code[end..].find(';').map_or(code.len(), |semicolon| end + semicolon);
                let before = code[..start].trim_end();
                let is_public = before.ends_with("pub") || before.ends_with(')');
                expand(&code[end..at], end, &[], &mut |at, path, exported| {
                    let exported = exported.filter(|_| is_public);
                    found.push(Named { line: line(at), path, exported });
                });
            }
            "crate" | "super" | "self" if code[end..].starts_with("::") => {
                let rest = &code[start..];
                let length = rest.find(|char| !is_name(char) && char != ':').unwrap_or(rest.len());
                at = start + length;
                let path = rest[..length].trim_end_matches(':').split("::").map(str::to_owned).collect();
                found.push(Named { line: line(start), path, exported: None });
            }
            _ => {}
        }
    }
    found
}

/// Takes the tree of a `use` apart, which stands at an offset in its file. `each` is told where a path
/// stands, the path, and the name that it gets.
fn expand(tree: &str, offset: usize, prefix: &[String], each: &mut impl FnMut(usize, Vec<String>, Option<String>)) {
    let (mut depth, mut start) = (0, 0);
    for (at, char) in tree.char_indices().chain([(tree.len(), ',')]) {
        depth += i32::from(char == '{') - i32::from(char == '}');
        if char != ',' || depth > 0 {
            continue;
        }
        let (part, place) = (&tree[start..at], offset + start);
        let place = place + part.len() - part.trim_start().len();
        start = at + 1;
        let (path, nested) = match part.split_once('{') {
            Some((path, nested)) => (path, nested.rfind('}').map(|end| (&nested[..end], path.len() + 1))),
            None => (part, None),
        };
        let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias.trim())));
        let mut whole = prefix.to_vec();
        let names = path.trim().split("::").map(str::trim).filter(|name| !name.is_empty());
        // `self` at the end of a tree is what the tree is of.
        whole.extend(names.filter(|name| *name != "self" || prefix.is_empty()).map(str::to_owned));
        match nested {
            Some((nested, skip)) => expand(nested, offset + at - part.len() + skip, &whole, each),
            None if !path.trim().is_empty() => {
                let exported = alias.map(str::to_owned).or_else(|| whole.last().cloned());
                each(place, whole, exported);
            }
            // Behind the last comma.
            None => {}
        }
    }
}
