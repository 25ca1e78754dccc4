//! Whether a page needs nothing but itself, and reads well on a telephone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Width of a telephone in CSS pixels.
const NARROW: u32 = 390;
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

/// Fails if Chromium reports an error on the page, or if the page is wider than a telephone. Where there is no Chromium that
/// starts, it says so and does nothing; in CI, which has one, it fails.
#[expect(clippy::print_stdout, reason = "whoever runs the test should know what it left out")]
pub(crate) fn assert_reads_well(html: &str, folder: &Path) {
    let Some(program) = chromium() else {
        assert!(!in_ci(), "no chromium on the path");
        println!("skipped: no chromium on the path, so the page was not opened at {NARROW} pixels");
        return;
    };
    let Some((probe, _)) = open(&program, "<p>a page</p>", folder) else {
        assert!(!in_ci(), "{} does not open a page", program.display());
        println!("skipped: {} does not open a page here", program.display());
        return;
    };
    assert!(probe.starts_with(&format!("width {NARROW};")), "{probe}");
    let wide = format!("<div style=\"width:{}px\">x</div>", NARROW + 10);
    let (wide, _) = open(&program, &wide, folder).expect("a second page");
    assert!(!wide.starts_with(&format!("width {NARROW};")) && wide.contains("beyond: DIV"), "unnoticed: {wide}");
    let (measured, console) = open(&program, html, folder).expect("the page");
    assert_eq!(console, Vec::<String>::new());
    assert_eq!(measured, format!("width {NARROW}; beyond: ;"), "no sideways scrolling");
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

/// Opens a page in a frame of a telephone's width: what was measured, and the lines of the console.
fn open(program: &Path, html: &str, folder: &Path) -> Option<(String, Vec<String>)> {
    let page = folder.join("framed.html");
    let quoted = html.replace('&', "&amp;").replace('"', "&quot;");
    let script = "addEventListener('load', () => {\
        const page = document.getElementById('page').contentDocument;\
        const outside = element => !element.closest('.scroll, svg') && \
            element.getBoundingClientRect().right > page.documentElement.clientWidth + 1;\
        const names = [...page.querySelectorAll('body *')].filter(outside).slice(0, 5)\
            .map(element => element.tagName + '.' + element.className);\
        document.getElementById('found').textContent = \
            `width ${page.documentElement.scrollWidth}; beyond: ${names.join(' ')};`;\
        });";
    let frame = format!(
        "<!doctype html><body><p id=\"found\"></p><script>{script}</script><iframe id=\"page\" \
         style=\"width:{NARROW}px;height:900px;border:0\" srcdoc=\"{quoted}\"></iframe></body>"
    );
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
