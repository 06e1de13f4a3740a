//! Measures backstop and its peers on the same work, interleaved, in one process.
//!
//! ```text
//! cargo run --release                    the table
//! cargo run --release -- --json          the same as JSON, alone on stdout
//!   --row <text>      only rows whose name contains the text
//!   --verbose         every candidate of every row, with its allocations
//!   --build           also the cost of the dependency: cold builds of the crate and of governor
//!   --large           also the rows that need a gigabyte: ten million keys
//!   --quick           rough figures in a few seconds
//! ```
//!
//! Fails if a target is missed by more than the spread of the figures. Run it on an idle machine only.

use std::error::Error;
use std::process::ExitCode;

use serde_json::Value;

use crate::measure::Effort;
use crate::report::Line;
use crate::rows::Row;

mod alloc;
mod measure;
mod report;
mod rows;
mod work;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse(std::env::args().skip(1))?;
    let mut rows = rows::all();
    if args.build {
        rows.extend(rows::build()?);
    }
    if args.large {
        rows.extend(rows::large());
    }
    let wanted = |row: &Row| row.name.contains(args.row.as_str());
    let effort = match args.quick {
        true => Effort::QUICK,
        false => Effort::FULL,
    };

    let mut lines = Vec::new();
    if !args.json {
        Line::print_head();
    }
    for row in rows.into_iter().filter(wanted) {
        let line = Line::of(row, effort);
        if !args.json {
            line.print(args.verbose);
        }
        lines.push(line);
    }
    if args.json {
        let lines = lines.iter().map(Line::json).collect();
        println!("{}", serde_json::to_string_pretty(&Value::Array(lines))?);
    }
    let missed = lines.iter().filter(|line| line.missed()).count();
    if missed > 0 {
        eprintln!("{missed} of {} targets missed", lines.len());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Default, PartialEq)]
struct Args {
    json: bool,
    verbose: bool,
    build: bool,
    large: bool,
    quick: bool,
    row: String,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--json" => parsed.json = true,
                "--verbose" => parsed.verbose = true,
                "--build" => parsed.build = true,
                "--large" => parsed.large = true,
                "--quick" => parsed.quick = true,
                "--row" => parsed.row = args.next().ok_or("--row needs a text")?,
                other => return Err(format!("unknown argument {other}; see src/main.rs")),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        Args::parse(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn arguments_are_parsed_or_rejected() {
        assert_eq!(parse(&[]), Ok(Args::default()));
        let args = parse(&["--json", "--row", "retry"]).unwrap();
        assert!(args.json && args.row == "retry" && !args.quick);
        assert!(parse(&["--row"]).is_err());
        assert!(parse(&["--slow"]).is_err());
    }
}
