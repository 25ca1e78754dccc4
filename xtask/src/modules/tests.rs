use super::*;

/// A small crate in order: `low` is used by `mid`, and both by `high`.
const CLEAN: [(&str, &str); 6] = [
    ("lib.rs", "mod low;\npub mod mid;\nmod high;\npub use low::Low;\n"),
    ("low.rs", "pub struct Low;\n"),
    ("mid/mod.rs", "mod one;\nmod two;\npub use one::One;\nuse crate::low;\npub struct Own;\n"),
    ("mid/one.rs", "pub struct One(crate::Low);\n#[cfg(test)]\nmod tests { use crate::high::High; }\n"),
    ("mid/two.rs", "use super::{One, Own};\nfn f() { let _ = \"crate::high\"; } // crate::high\n"),
    ("high.rs", "use crate::mid::One;\npub struct High(One, crate::low::Low);\n"),
];

fn order() -> Order {
    let entry = |name: &str| (name.to_owned(), format!("what {name} is for"));
    Order { modules: ["low", "mid", "high"].map(entry).to_vec(), circles: Vec::new() }
}

fn found(order: &Order, changes: &[(&str, &str)]) -> Vec<String> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (path, text) in CLEAN.iter().chain(changes) {
        files.insert(path.into(), (*text).to_owned());
    }
    findings("toy", order, "toy/src", &files)
}

#[test]
fn this_workspace_keeps_its_order() {
    check().unwrap();
    for name in layering::crates().filter(|name| *name != "fbp-benches") {
        assert!(orders().unwrap().contains_key(name), "{name}");
    }
}

#[test]
fn a_crate_in_order_has_no_findings() {
    assert_eq!(found(&order(), &[]), [""; 0]);
}

#[test]
fn every_way_to_name_a_module_behind_is_found() {
    let ways = [
        "\nuse crate::high::High;\n",
        "\nuse crate::{low::Low, high::{High as H}};\n",
        "\nuse super::high;\n",
        "\nfn f(x: &crate::high::High) {}\n",
        "\nfn f() { super::high::f::<u8>() }\n",
        "\nfn f() { println!(\"{}\", crate::high::N) }\n",
        "\nuse crate::Hidden;\n",
        "\npub(crate) use crate::high::*;\n",
        "\nmod inner { use super::super::high::High; }\n",
    ];
    // The root gives it another name: that hides nothing.
    let root = ("lib.rs", "mod low;\npub mod mid;\nmod high;\npub use low::Low;\npub use high::High as Hidden;\n");
    for way in ways {
        let findings = found(&order(), &[root, ("low.rs", way)]);
        let wanted = "toy/src/low.rs:2: in toy, low uses high, which stands behind it in xtask/modules.toml";
        assert!(findings.iter().any(|finding| finding.starts_with(wanted)), "{way}: {findings:?}");
    }
}

#[test]
fn circles_are_found_at_every_depth_and_name_both_uses() {
    let planted = [("low.rs", "use crate::high::High;\npub struct Low;\n")];
    let findings = found(&order(), &planted);
    // Against the order, and a circle of all that lie between.
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[1].contains("a circle of modules, high, low"), "{findings:?}");
    let inner = [("mid/one.rs", "use super::two;\npub struct One;\n")];
    let findings = found(&order(), &inner);
    assert_eq!(findings.len(), 1, "{findings:?}");
    for part in [
        "toy: a circle of modules, mid::one, mid::two:",
        "toy/src/mid/one.rs:1: mid::one uses mid::two",
        "toy/src/mid/two.rs:1: mid::two uses mid::one",
    ] {
        assert!(findings[0].contains(part), "{part}: {findings:?}");
    }
    let mut known = order();
    known.circles.push(rules::Circle { modules: vec!["mid::one".into(), "mid::two".into()], reason: "a test".into() });
    assert_eq!(found(&known, &inner), [""; 0]);
    let stale = found(&known, &[]);
    assert!(stale.len() == 1 && stale[0].contains("no circle of mid::one, mid::two any more"), "{stale:?}");
}

#[test]
fn the_table_lists_every_module_once_and_says_what_it_is_for() {
    let mut short = order();
    short.modules.remove(1);
    assert!(found(&short, &[])[0].contains("module mid is not in xtask/modules.toml"));
    let mut long = order();
    long.modules.push(("gone".into(), "x".into()));
    assert!(found(&long, &[])[0].contains("there is no module gone"));
    let mut silent = order();
    silent.modules[0].1 = " ".into();
    assert!(found(&silent, &[])[0].contains("what low is for"));
}

#[test]
fn everything_of_another_crate_may_be_brought_in() {
    // What `crate::other` is, is looked for in what the other crate may bring in, where its own name is looked for as well.
    let low = "use other::prelude::*;\npub struct Low;\n";
    let high = "use crate::low::missing;\npub struct High;\n";
    assert_eq!(found(&order(), &[("low.rs", low), ("high.rs", high)]), [""; 0]);
}
