//! The page of pitfalls names only tests that exist.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// Returns the rows of the page's tables, each with the tests that its last column names.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let tables = page.lines().filter(|line| line.starts_with('|'));
    let rows = tables.filter(|line| !line.starts_with("|---") && !line.ends_with("| test |"));
    rows.map(|row| {
        let tests = row.trim_end_matches('|').rsplit('|').next();
        let tests = tests.unwrap_or_default().split('`').skip(1).step_by(2);
        (row, tests.collect())
    })
    .collect()
}

/// Adds the names of all functions in the Rust files below `folder`.
fn collect_functions(folder: &Path, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_functions(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(path)?.lines() {
                let line = line.trim_start();
                if let Some(name) = line
                    .strip_prefix("async ")
                    .unwrap_or(line)
                    .strip_prefix("fn ")
                {
                    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                    names.insert(name[..end.unwrap_or(name.len())].to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Returns the rows without a test, and the tests that do not exist.
fn faults(page: &str, names: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (row, tests) in rows(page) {
        if tests.is_empty() {
            faults.push(format!("no test: {row}"));
        }
        let missing = tests.into_iter().filter(|&test| !names.contains(test));
        faults.extend(missing.map(|test| format!("no such test: {test}")));
    }
    faults
}

#[test]
fn every_test_on_the_page_of_pitfalls_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        collect_functions(&root.join(folder), &mut names).unwrap();
    }
    let page = fs::read_to_string(root.join("docs/pitfalls.md")).unwrap();
    assert!(rows(&page).len() >= 60, "{} rows", rows(&page).len());
    assert_eq!(faults(&page, &names), [""; 0]);
}

#[test]
fn missing_tests_and_rows_without_a_test_are_found() {
    let names = BTreeSet::from(["here".to_owned()]);
    let page = "| what | for | test |\n|---|---|---|\n| a | x | `here`, `gone` |\n| b | `y` | |\n";
    assert_eq!(
        faults(page, &names),
        ["no such test: gone", "no test: | b | `y` | |"]
    );
}
