//! Throughput of durable letters: `fdatasync` alone, one writer, and 8 writers that share a sync.
//!
//! `cargo bench --bench dead_letter --features dead-letter-file`

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use backstop::dead_letter::{DeadLetterQueue, FileSink, NewLetter};

const TIME: Duration = Duration::from_secs(1);
const ROUNDS: usize = 7;

/// What 8 writers are to reach, unless 50 times the rate of one writer is less.
const GOAL: f64 = 20_000.0;

fn main() {
    let folder = std::env::temp_dir().join(format!("backstop-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (mut one, mut eight) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let raw = fdatasync(&folder.join("raw"));
        println!("round {round}: append + fdatasync       {raw:>8.0} /s");
        for (writers, sync) in [(1, true), (8, true), (256, true), (8, false)] {
            let folder = folder.join(format!("{writers}-{sync}-{round}"));
            let (rate, shared) = letters(&folder, writers, sync);
            match (writers, sync) {
                (1, true) => one.push(rate),
                (8, true) => eight.push(rate),
                _ => {}
            }
            let sync = if sync { "fdatasync" } else { "no sync" };
            println!(
                "round {round}: {writers:>3} writers, {sync:<9}    {rate:>8.0} letters/s, {shared:.1} a commit"
            );
        }
    }
    let (one, eight) = (median(one), median(eight));
    let goal = GOAL.min(50.0 * one);
    println!(
        "8 writers, median: {eight:.0} letters/s, {:.1} times one writer's {one:.0}; goal {goal:.0}: {}",
        eight / one,
        if eight >= goal { "met" } else { "missed" }
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn fdatasync(path: &std::path::Path) -> f64 {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let line = [b'x'; 400];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        file.write_all(&line).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Returns letters per second and per commit, with `writers` tasks that each write one letter at a time.
fn letters(folder: &std::path::Path, writers: usize, sync: bool) -> (f64, f64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sink = FileSink::builder(folder)
            .max_bytes(u64::MAX)
            .max_letters(u64::MAX)
            .fsync(sync);
        let sink = sink.open().unwrap();
        let queue = DeadLetterQueue::builder()
            .sink(sink.clone())
            .build()
            .unwrap();
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut count = 0_u32;
                    while start.elapsed() < TIME {
                        queue
                            .push(NewLetter::new("x".repeat(100)).error("down"))
                            .await
                            .unwrap();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        let rate = f64::from(sum) / start.elapsed().as_secs_f64();
        (rate, f64::from(sum) / sink.snapshot().commits as f64)
    })
}
