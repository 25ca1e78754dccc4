//! A fixed number of changed files for every reader, and every input that once failed.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

use fbp_fuzz::READERS;
use fbp_fuzz::allocation::Counting;
use fbp_fuzz::cases::{Campaign, Tally, Until, found};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Cases of every reader.
const CASES: u64 = 400;

/// One test, as memory is counted for the whole process.
#[test]
fn readers_give_a_result_or_an_error() {
    let mut failed = Vec::new();
    for reader in &READERS {
        let campaign = Campaign::new(reader).unwrap();
        let mut tally = Tally::default();
        assert!(!campaign.seeds().is_empty(), "{} has no seeds", reader.name);
        let accepted = campaign.seeds().iter().filter(|seed| campaign.run(seed, &mut tally).unwrap()).count();
        assert!(accepted > 0, "{}: none of its seeds is read", reader.name);
        for path in found(reader).unwrap() {
            if let Err(finding) = campaign.run(&std::fs::read(&path).unwrap(), &mut tally) {
                failed.push(format!("{}: {}: {}", reader.name, path.display(), finding.reason));
            }
        }
        let tally = campaign.run_many(7, Until::Cases(CASES), None).unwrap();
        failed.extend(tally.findings.iter().map(|finding| format!("{}: {}", reader.name, finding.reason)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
