use super::*;

#[test]
fn how_often_is_read_as_people_write_it() {
    let read = |text: &str| text.parse::<SaveEvery>();
    assert_eq!(read("auto").unwrap(), SaveEvery::Auto);
    assert_eq!(read("200").unwrap(), SaveEvery::Steps(200));
    assert_eq!(read("30s").unwrap(), SaveEvery::Seconds(30.0));
    assert_eq!(read("1m30s").unwrap(), SaveEvery::Seconds(90.0));
    for text in ["", "0", "-3", "never", "3x", "0s", "1e999"] {
        let error = read(text).unwrap_err();
        assert_eq!(error.setting(), Some("checkpoint_every"), "{text}: {error}");
    }
}

#[test]
fn states_are_those_of_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let files = StateFiles::new(&folder.path().join("a.safetensors"), &1, SaveEvery::Auto).unwrap();
    for name in ["a.safetensors", "a.safetensors.state-0", "a.safetensors.state-segment2-1", "b.safetensors.state-0"] {
        fs::write(folder.path().join(name), "no state").unwrap();
    }
    // What is no state has no settings that could be others.
    files.check(false).unwrap();
    files.remove().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.safetensors", "b.safetensors.state-0"]);
    assert!(files.seconds() >= 0.0);
}
