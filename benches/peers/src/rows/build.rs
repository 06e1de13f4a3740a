//! The cost of a dependency: the time of a cold release build, and the number of crates built.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{Row, Target};
use crate::measure::Spread;

const RUNS: usize = 3;

pub fn rows() -> Result<Vec<Row>, Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("backstop-build-{}", std::process::id()));
    let rows = rows_in(&dir);
    fs::remove_dir_all(&dir)?;
    rows
}

fn rows_in(dir: &Path) -> Result<Vec<Row>, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crate_dir = here.join("../..").canonicalize()?;
    let ours = Probe::new(
        dir,
        "ours",
        &format!("backstop = {{ path = {crate_dir:?} }}"),
    )?;
    let governor = Probe::new(dir, "governor", "governor = \"0.10\"")?;
    // The features of tokio that backstop needs.
    let tokio = Probe::new(
        dir,
        "tokio",
        "tokio = { version = \"1\", default-features = false, features = [\"rt\", \"time\"] }",
    )?;

    let (mut our_seconds, mut their_seconds) = (vec![], vec![]);
    for _ in 0..RUNS {
        our_seconds.push(ours.build()?);
        their_seconds.push(governor.build()?);
    }
    let beside_tokio = ours.crates()?.difference(&tokio.crates()?).count();
    let governors = governor.crates()?.len();
    Ok(vec![
        Row::known(
            "cold release build, default features",
            "seconds",
            Target::Ratio(0.5),
            Spread::of(our_seconds).median,
            [("governor", Spread::of(their_seconds).median)],
        ),
        Row::known(
            "crates beside tokio's tree, default features",
            "crates",
            Target::AtMost(20.0),
            beside_tokio as f64,
            [("governor", governors as f64)],
        ),
    ])
}

/// An empty program with one dependency.
struct Probe {
    dir: PathBuf,
}

impl Probe {
    fn new(parent: &Path, name: &str, dependency: &str) -> Result<Self, Box<dyn Error>> {
        let dir = parent.join(name);
        fs::create_dir_all(dir.join("src"))?;
        fs::write(dir.join("src/main.rs"), "fn main() {}\n")?;
        fs::write(
            dir.join("Cargo.toml"),
            format!(
                "[package]\nname = \"probe\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n{dependency}\n"
            ),
        )?;
        // The versions measured here; their sources are already downloaded.
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
        fs::copy(lock, dir.join("Cargo.lock"))?;
        Ok(Self { dir })
    }

    /// Returns seconds, from an empty target directory.
    fn build(&self) -> Result<f64, Box<dyn Error>> {
        let target = self.dir.join("target");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let start = Instant::now();
        self.cargo(&["build", "--release", "--quiet", "--offline"])?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Returns the number of crates built, without the program itself.
    fn crates(&self) -> Result<BTreeSet<String>, Box<dyn Error>> {
        let args = [
            "tree",
            "--offline",
            "-e",
            "normal,build",
            "--prefix",
            "none",
        ];
        let tree = self.cargo(&args)?;
        let mut crates: BTreeSet<String> = tree
            .lines()
            .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
            .collect();
        crates.remove("probe");
        // The crate itself does not count.
        crates.remove("backstop");
        Ok(crates)
    }

    fn cargo(&self, args: &[&str]) -> Result<String, Box<dyn Error>> {
        // Under `cargo run` this is the cargo, and therefore the toolchain, that built the bench.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(args)
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
