//! Replays the scenarios of files and directories and reports the results.

use std::any::Any;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file::File;
use super::harness::{Adapter, Check, Failure, Scenario, failed, inexpressible};

/// Replays every `*.json` of a directory.
pub(crate) fn run_directory(directory: &Path, adapters: &[Adapter]) -> Report {
    let mut report = Report::default();
    match files(directory) {
        Ok(files) => {
            for (name, file) in files {
                match file {
                    Ok(file) => report.files.push(run_file(&file, adapters)),
                    Err(problem) => report
                        .trouble
                        .push(format!("{name}: unreadable: {problem}")),
                }
            }
        }
        Err(problem) => report.trouble.push(problem),
    }
    report
}

/// The name of a file, and its content or problem.
type Named = (String, Result<File, String>);

/// Reads every `*.json` of a directory, sorted by name.
pub(crate) fn files(directory: &Path) -> Result<Vec<Named>, String> {
    let entries =
        fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_scenario_file(path))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(format!("{}: no scenario files", directory.display()));
    }
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| File::parse(&name, &text));
        (name.into_owned(), file)
    };
    Ok(paths.iter().map(read).collect())
}

/// Returns whether a path matches `*.json` like a shell glob, without hidden files.
fn is_scenario_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".json") && !name.starts_with('.')
}

/// Replays every scenario of a file.
pub(crate) fn run_file(file: &File, adapters: &[Adapter]) -> FileReport {
    let adapters: Vec<_> = adapters
        .iter()
        .filter(|adapter| (adapter.accepts)(file))
        .collect();
    let results = file
        .scenarios
        .iter()
        .enumerate()
        .map(|(index, scenario)| {
            let id = match scenario["id"].as_str() {
                Some(id) => id.to_owned(),
                None => format!("scenario {index}"),
            };
            (id, run_scenario(file, scenario, &adapters))
        })
        .collect();
    FileReport {
        name: file.name.clone(),
        adapters: adapters.iter().map(|adapter| adapter.name).collect(),
        results,
    }
}

/// Returns the result of the first adapter that can express the scenario.
pub(crate) fn run_scenario(file: &File, scenario: &Value, adapters: &[&Adapter]) -> Check {
    let mut reasons = Vec::new();
    for adapter in adapters {
        // Parsed again for each adapter, because each must read all keys itself.
        let replay = || Scenario::parse(file, scenario).and_then(|parsed| (adapter.run)(&parsed));
        match catch_unwind(AssertUnwindSafe(replay)) {
            Ok(Err(Failure::NotExpressible(reason))) => reasons.push(reason),
            Ok(decided) => return decided,
            Err(panic) => return failed(format!("panicked: {}", panic_text(&*panic))),
        }
    }
    match reasons[..] {
        [] => inexpressible("no adapter for this file"),
        _ => inexpressible(reasons.join(" | ")),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no text)")
}

/// The results of all files.
#[derive(Default)]
pub(crate) struct Report {
    files: Vec<FileReport>,
    /// Problems with reading files.
    trouble: Vec<String>,
}

impl Report {
    /// Returns whether scenarios were replayed, none failed, and at most one in fifty is not expressible.
    pub(crate) fn is_good(&self) -> bool {
        let sum = self.sum();
        let replayed = sum.passed + sum.not_expressible;
        self.trouble.is_empty() && sum.failed == 0 && sum.not_expressible * 50 <= replayed
    }

    fn sum(&self) -> Count {
        let mut sum = Count::default();
        for count in self.files.iter().map(FileReport::count) {
            sum.passed += count.passed;
            sum.not_expressible += count.not_expressible;
            sum.failed += count.failed;
        }
        sum
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            write!(f, "{file}")?;
        }
        for problem in &self.trouble {
            writeln!(f, "{problem}")?;
        }
        let mut sum = self.sum();
        sum.failed += self.trouble.len();
        writeln!(f, "conformance: {sum}")
    }
}

/// The results of one file.
pub(crate) struct FileReport {
    name: String,
    adapters: Vec<&'static str>,
    results: Vec<(String, Check)>,
}

impl FileReport {
    pub(crate) fn count(&self) -> Count {
        let mut count = Count::default();
        for (_, result) in &self.results {
            *match result {
                Ok(()) => &mut count.passed,
                Err(Failure::NotExpressible(_)) => &mut count.not_expressible,
                Err(Failure::Failed(_)) => &mut count.failed,
            } += 1;
        }
        count
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.count())?;
        if self.adapters.is_empty() {
            return writeln!(f, " (no adapter)");
        }
        writeln!(f, " ({})", self.adapters.join(" + "))?;
        for (id, result) in &self.results {
            match result {
                Ok(()) => {}
                Err(Failure::NotExpressible(reason)) => {
                    writeln!(f, "    not expressible: {id}: {reason}")?;
                }
                Err(Failure::Failed(what)) => writeln!(f, "    FAILED: {id}: {what}")?,
            }
        }
        Ok(())
    }
}

/// Numbers of scenarios by result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) not_expressible: usize,
    pub(crate) failed: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            not_expressible,
            failed,
        } = self;
        write!(
            f,
            "{passed} passed, {not_expressible} not expressible, {failed} failed"
        )
    }
}
