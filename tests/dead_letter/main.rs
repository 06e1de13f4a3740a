//! Dead letter queues.
#![cfg(feature = "tokio")]

mod cancellation;
mod changes_during_replays;
mod extreme_values;
#[cfg(feature = "dead-letter-file")]
mod files;
#[cfg(feature = "dead-letter-file")]
mod foreign_files;
#[cfg(feature = "dead-letter-file")]
mod kills;
mod letters;
mod random_replays;
mod replays;
mod replays_through_policies;
mod user_code;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backstop::dead_letter::{
    DeadLetterError, DeadLetterQueue, DeadLetterQueueBuilder, Filter, Letter, LetterId, NewLetter,
    Timestamp,
};
use backstop::{Event, ManualClock};

type Queue = DeadLetterQueue<String>;

/// What can be sent and shared, checked by compiling it.
const _: () = {
    const fn shared<T: Send + Sync + std::fmt::Debug>() {}
    const fn cloned<T: Clone + Send + Sync + Unpin + std::fmt::Debug>() {}
    cloned::<Queue>();
    cloned::<Letter<String>>();
    cloned::<NewLetter<String>>();
    cloned::<Filter<String>>();
    cloned::<DeadLetterError>();
    shared::<backstop::dead_letter::MemorySink<String>>();
    shared::<backstop::dead_letter::ChannelSink<String>>();
    #[cfg(feature = "dead-letter-file")]
    cloned::<backstop::dead_letter::FileSink>();
};

/// A time of day that tests set, in microseconds.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What the observer heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn observer(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let heard = self.0.clone();
        move |event: &Event| heard.lock().unwrap().push(event.to_string())
    }
}

fn builder(clock: &ManualClock) -> DeadLetterQueueBuilder<String> {
    DeadLetterQueue::builder().clock(clock.clone()).seed(1)
}

async fn push(queue: &Queue, count: u64) -> Result<(), DeadLetterError> {
    for number in 1..=count {
        let letter = NewLetter::new(format!("request {number}")).error("down");
        queue.push(letter).await?;
    }
    Ok(())
}

async fn all(queue: &Queue) -> Vec<Letter<String>> {
    let page = queue.peek(&Filter::new(), usize::MAX).await.unwrap();
    assert_eq!(page.unreadable, []);
    page.letters
}

async fn ids(queue: &Queue) -> Vec<u64> {
    all(queue)
        .await
        .iter()
        .map(|letter| letter.id().get())
        .collect()
}

const fn id(number: u64) -> LetterId {
    LetterId::new(number)
}

/// A folder that goes with the test.
#[cfg(feature = "dead-letter-file")]
struct Folder(std::path::PathBuf);

#[cfg(feature = "dead-letter-file")]
impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("backstop-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[cfg(feature = "dead-letter-file")]
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
