//! Whether a page needs nothing but itself, and reads well on a telephone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Widths of a telephone and of a window in CSS pixels.
const WIDTHS: [u32; 2] = [390, 1200];
/// Elements without an end.
const VOID: [&str; 6] = ["meta", "img", "br", "hr", "input", "link"];
/// Elements that load something or run something.
const FORBIDDEN: [&str; 10] =
    ["script", "link", "iframe", "object", "embed", "base", "video", "audio", "source", "form"];
/// Attributes that name something to load or to go to.
const REFERENCES: [&str; 7] = ["src", "href", "srcset", "xlink:href", "poster", "action", "data"];

/// Fails if the page would load anything, or if its elements are not properly nested.
pub(crate) fn assert_self_contained(html: &str) {
    for forbidden in ["url(", "@import"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag without an end");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| !c.is_whitespace() && *c != '/').collect();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{name}> closes another element");
            continue;
        }
        assert!(!FORBIDDEN.contains(&name.as_str()), "<{tag}>");
        for (key, value) in attributes(&tag[name.len()..]) {
            assert!(!key.starts_with("on"), "<{tag}>");
            let is_own = value.starts_with("data:") || value.starts_with('#');
            assert!(is_own || !REFERENCES.contains(&key.as_str()), "<{tag}>");
        }
        if !VOID.contains(&name.as_str()) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

/// Names and values of the attributes of a tag.
fn attributes(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(equals) = rest.find("=\"") {
        let key = rest[..equals].split_whitespace().last().unwrap_or_default().to_owned();
        let value = &rest[equals + 2..];
        let end = value.find('"').expect("an attribute without an end");
        found.push((key, value[..end].to_owned()));
        rest = &value[end + 1..];
    }
    found
}

/// Fails if two numbers along one axis of a plot are the same.
pub(crate) fn assert_axes_count(html: &str) {
    for svg in html.split("<svg").skip(1) {
        let svg = svg.split("</svg>").next().unwrap_or_default();
        let mut labels: BTreeSet<(String, String)> = BTreeSet::new();
        for text in svg.split("<text ").skip(1) {
            let (tag, rest) = text.split_once('>').expect("a tag without an end");
            let attributes: BTreeMap<String, String> = attributes(tag).into_iter().collect();
            let words = rest.split('<').next().unwrap_or_default().trim().to_owned();
            let axis = match attributes.get("text-anchor").map(String::as_str) {
                Some("end") => format!("x {}", attributes["x"]),
                Some("middle") => format!("y {}", attributes["y"]),
                _ => continue,
            };
            assert!(labels.insert((axis, words.clone())), "{words} stands twice along one axis: {svg}");
        }
    }
}

/// What a page without faults measures.
fn flawless() -> String {
    WIDTHS.map(|width| format!("width {width}; beyond: ; cut: ; clipped: ;")).join(" ")
}

/// Fails if Chromium reports an error on the page, or if something on it cannot be read without scrolling sideways, on a
/// telephone or in a window: the page is too wide, a table is cut, or text of a plot is clipped. Where there is no Chromium
/// that starts, it says so and does nothing; in CI, which has one, it fails.
#[expect(clippy::print_stdout, reason = "whoever runs the test should know what it left out")]
pub(crate) fn assert_reads_well(html: &str, folder: &Path) {
    let Some(program) = chromium() else {
        assert!(!in_ci(), "no chromium on the path");
        println!("skipped: no chromium on the path, so the page was not opened at {WIDTHS:?} pixels");
        return;
    };
    let Some((probe, _)) = open(&program, "<p>a page</p>", folder) else {
        assert!(!in_ci(), "{} does not open a page", program.display());
        println!("skipped: {} does not open a page here", program.display());
        return;
    };
    assert_eq!(probe, flawless());
    let faulty = "<div style=\"width:1210px\">x</div>\
                  <details><div class=\"scroll\" aria-label=\"t\" style=\"overflow-x:auto\">\
                  <div style=\"width:1210px\">x</div></div></details>\
                  <svg width=\"100\" height=\"20\"><text x=\"90\" y=\"15\">long text</text></svg>";
    let (faulty, _) = open(&program, faulty, folder).expect("a second page");
    for fault in ["beyond: DIV", "cut: t;", "clipped: long text;"] {
        assert_eq!(faulty.matches(fault).count(), WIDTHS.len(), "{fault} went unnoticed: {faulty}");
    }
    let (measured, console) = open(&program, html, folder).expect("the page");
    assert_eq!(console, Vec::<String>::new());
    assert_eq!(measured, flawless(), "nothing is cut and nothing scrolls sideways");
}

/// Whether this runs in CI, where nothing is left out.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}

/// Opens a page in frames of all widths, with everything unfolded: what was measured, and the lines of the console.
fn open(program: &Path, html: &str, folder: &Path) -> Option<(String, Vec<String>)> {
    let page = folder.join("framed.html");
    let quoted = html.replace('&', "&amp;").replace('"', "&quot;");
    let script = "const measure = frame => {\
        const page = frame.contentDocument, all = words => [...page.querySelectorAll(words)];\
        all('details').forEach(element => { element.open = true; });\
        const box = element => element.getBoundingClientRect();\
        const beyond = all('body *').filter(element => !element.closest('.scroll, svg') && \
            box(element).right > page.documentElement.clientWidth + 1).map(element => element.tagName);\
        const cut = all('.scroll').filter(element => element.scrollWidth > element.clientWidth + 1)\
            .map(element => element.getAttribute('aria-label'));\
        const clipped = all('svg text').filter(text => {\
            const own = box(text), whole = box(text.closest('svg'));\
            return own.left < whole.left - 1 || own.right > whole.right + 1 || \
                own.top < whole.top - 1 || own.bottom > whole.bottom + 1;\
        }).map(text => text.textContent.trim());\
        const list = found => found.slice(0, 5).join(', ');\
        return `width ${page.documentElement.scrollWidth}; beyond: ${list(beyond)}; cut: ${list(cut)}; \
            clipped: ${list(clipped)};`.replace(/ +/g, ' ');\
        };\
        addEventListener('load', () => {\
            document.getElementById('found').textContent = [...document.querySelectorAll('iframe')].map(measure).join(' ');\
        });";
    let frames = WIDTHS
        .map(|width| format!("<iframe style=\"width:{width}px;height:900px;border:0\" srcdoc=\"{quoted}\"></iframe>"));
    let frame = format!("<!doctype html><body><p id=\"found\"></p><script>{script}</script>{}</body>", frames.concat());
    std::fs::write(&page, frame).unwrap();
    let profile = folder.join("profile");
    let output = finish_within(
        Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("file://{}", page.display())),
        Duration::from_secs(120),
        folder,
    )?;
    let (dom, log) = output;
    let found = dom.split_once("id=\"found\">")?.1.split_once('<')?.0.to_owned();
    // Without a measure the page did not open.
    let found = Some(found).filter(|found| found.starts_with("width"))?;
    Some((found, log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()))
}

/// Standard output and error of a program that is killed after `limit`.
fn finish_within(command: &mut Command, limit: Duration, folder: &Path) -> Option<(String, String)> {
    let files = ["out.txt", "err.txt"].map(|name| folder.join(name));
    let [out, err] = [&files[0], &files[1]].map(|path| std::fs::File::create(path).unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().ok()?;
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let [out, err] = files.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
    Some((out, err))
}

#[test]
#[should_panic(expected = "img src")]
fn pictures_from_elsewhere_are_noticed() {
    assert_self_contained("<p><img src=\"https://example.invalid/x.png\"></p>");
}

#[test]
#[should_panic(expected = "closes another element")]
fn crossed_elements_are_noticed() {
    assert_self_contained("<p><b>x</p></b>");
}
