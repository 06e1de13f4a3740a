//! Seeds of failures that proptest found once are replayed: proptest looks for them at a path that follows
//! from the path of the test's source, and ignores a file that is anywhere else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::test_runner::{FailurePersistence, FileFailurePersistence};

/// Returns the files below a folder of the package whose path matches.
fn files(folder: &Path, matches: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, matches));
        } else if matches(&path) {
            found.push(path);
        }
    }
    found
}

fn lines_of_seeds(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).expect("a readable file");
    let lines = text.lines().filter(|line| line.starts_with("cc "));
    lines
        .map(|line| line.split('#').next().unwrap_or(line).trim().to_owned())
        .collect()
}

#[test]
fn every_seed_in_the_tree_is_replayed_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = files(root, &|path| {
        path.extension().is_some_and(|extension| extension == "rs")
            && fs::read_to_string(path).is_ok_and(|text| text.contains("proptest! {"))
    });
    // The rules of proptest itself, as the macro applies them.
    let replayed: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| {
            let source: &'static str = source.to_str().expect("UTF-8").to_owned().leak();
            FileFailurePersistence::default().load_persisted_failures2(Some(source))
        })
        .map(|seed| seed.to_string())
        .collect();
    let saved = files(root, &|path| {
        path.to_string_lossy().contains("proptest-regressions")
    });
    assert!(!saved.is_empty() && !replayed.is_empty());
    let lost: Vec<_> = saved
        .iter()
        .flat_map(|path| {
            lines_of_seeds(path)
                .into_iter()
                .map(move |seed| (path, seed))
        })
        .filter(|(_, seed)| !replayed.contains(seed))
        .collect();
    assert!(lost.is_empty(), "seeds that no test replays: {lost:#?}");
}
