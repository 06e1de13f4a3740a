//! One process of the fleet.

use std::env;
use std::fs::File;
use std::future::Future;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use backstop::event::StoreEvent;
use backstop::shared_rate_limiter::SyncMode;
use backstop::{Clock, Event, Quota, SharedRateLimiter, Sleep, TokioClock};
use backstop_redis::RedisStore;

use crate::run::FAULT;
use crate::{REPORT_EVERY, SHARES, Settings, unix_micros};

/// The calls of the process, for the file and the reports. Times are in microseconds since 1970.
#[derive(Default)]
struct Log {
    /// When calls arrived, and whether they were rejected.
    arrived: Vec<(u64, bool)>,
    admitted: Vec<u64>,
    /// When the store was back after an outage.
    back: Vec<u64>,
    /// The slowest call, in all and since the last report.
    slowest: [Duration; 2],
    /// The slowest `PING`.
    ping: Duration,
}

impl Log {
    fn end(&mut self, number: usize, came: Instant, admitted: bool) {
        for slowest in &mut self.slowest {
            *slowest = came.elapsed().max(*slowest);
        }
        match admitted {
            true => self.admitted.push(unix_micros()),
            false => self.arrived[number].1 = true,
        }
    }
}

/// A clock that can be set ahead.
#[derive(Debug)]
struct Skewed {
    clock: TokioClock,
    ahead: Arc<AtomicU64>,
}

impl Clock for Skewed {
    fn now(&self) -> backstop::Instant {
        self.clock.now() + Duration::from_secs(self.ahead.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, deadline: backstop::Instant) -> Sleep {
        let wait = deadline.saturating_duration_since(self.now());
        self.clock.sleep_until(self.clock.now() + wait)
    }
}

pub(crate) fn run(number: usize, settings: &Settings) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(7)
        .build();
    runtime.expect("a runtime").block_on(work(number, settings));
}

async fn work(number: usize, settings: &Settings) {
    let variable = |name| env::var(name).expect("set by the parent");
    let client = redis::Client::open(variable("FLEET_URL")).expect("a URL");
    let store = RedisStore::builder().connect_lazy(client.clone()).await;
    let log = Arc::new(Mutex::new(Log::default()));
    let ahead = Arc::new(AtomicU64::new(0));
    let skewed = Skewed {
        clock: TokioClock,
        ahead: ahead.clone(),
    };
    let heard = log.clone();
    let builder = SharedRateLimiter::builder().observer(move |event: &Event| {
        if let Event::Store {
            event: StoreEvent::Back { .. },
            ..
        } = event
        {
            heard.lock().unwrap().back.push(unix_micros());
        }
    });
    let has_fault = settings.outage == "clock" && number == 1;
    let builder = match has_fault {
        true => builder.clock(skewed),
        false => builder,
    };
    let limiter = builder
        .store(store)
        .key("fleet")
        .quota(Quota::per_second(settings.rate).burst(settings.burst))
        .sync(if settings.exact {
            SyncMode::Exact
        } else {
            SyncMode::Leased
        })
        .build()
        .expect("a limiter");
    let start: u64 = variable("FLEET_START").parse().expect("a number");
    tokio::time::sleep(Duration::from_micros(start.saturating_sub(unix_micros()))).await;

    tokio::spawn(ping(client, log.clone()));
    let begin = Instant::now();
    let mean = 1.0 / (settings.rate as f64 * settings.load * SHARES[number]);
    let mut random = Random(0x00f1_ee70 + 1000 * settings.seed + number as u64);
    let mut next = random.exponential(mean);
    let mut calls = 0_u64;
    let (mut report_at, mut before) = (REPORT_EVERY, (0, 0, 0));
    while next < settings.seconds {
        // Makes the calls that are due, then pauses.
        while next <= begin.elapsed().as_secs_f64() && next < settings.seconds {
            call(&limiter, &log);
            next += random.exponential(mean);
            calls += 1;
            // A process that is late must not starve its own connection.
            if calls % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let passed = begin.elapsed().as_secs_f64() / settings.seconds;
        let hour = u64::from((FAULT.0..FAULT.1).contains(&passed)) * 3600;
        ahead.store(hour, Ordering::Relaxed);
        if begin.elapsed() >= report_at {
            report_at += REPORT_EVERY;
            before = report(&limiter, &log, before);
        }
        // Sleeps even for short pauses, because four spinning processes would take the processors from the server.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    report(&limiter, &log, before);
    let log = log.lock().unwrap();
    let micros = |time: Duration| time.as_micros() as u64;
    let trips = limiter.snapshot().trips;
    let lists = [
        // The lowest bit is set if the call was rejected.
        &log.arrived
            .iter()
            .map(|call| 2 * call.0 + u64::from(call.1))
            .collect(),
        &log.admitted,
        &log.back,
        &vec![trips, micros(log.slowest[0]), micros(log.ping)],
    ];
    let mut file = BufWriter::new(File::create(variable("FLEET_FILE")).expect("a file"));
    for list in lists {
        file.write_all(&(list.len() as u64).to_le_bytes()).unwrap();
        for number in list {
            file.write_all(&number.to_le_bytes()).unwrap();
        }
    }
    file.flush().unwrap();
}

/// Makes a call. If it is not decided at once, a task awaits its end.
fn call(limiter: &SharedRateLimiter, log: &Arc<Mutex<Log>>) {
    let came = Instant::now();
    let number = {
        let arrived = &mut log.lock().unwrap().arrived;
        arrived.push((unix_micros(), false));
        arrived.len() - 1
    };
    let limiter = limiter.clone();
    let mut call = Box::pin(async move { limiter.try_acquire().await.is_ok() });
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => log.lock().unwrap().end(number, came, admitted),
        Poll::Pending => {
            let log = log.clone();
            tokio::spawn(async move {
                let admitted = call.await;
                log.lock().unwrap().end(number, came, admitted);
            });
        }
    }
}

/// Sends a `PING` on a connection of its own every 10 ms, to measure how fast a trip can be on this machine.
async fn ping(client: redis::Client, log: Arc<Mutex<Log>>) {
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
        return;
    };
    loop {
        let sent = Instant::now();
        let answer: redis::RedisResult<String> =
            redis::cmd("PING").query_async(&mut connection).await;
        if answer.is_err() {
            return;
        }
        {
            let mut log = log.lock().unwrap();
            log.ping = log.ping.max(sent.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prints the counts since the last report: admitted, rejected, trips, whether the store is up, and the slowest call
/// in microseconds.
fn report(
    limiter: &SharedRateLimiter,
    log: &Mutex<Log>,
    before: (usize, u64, u64),
) -> (usize, u64, u64) {
    let snapshot = limiter.snapshot();
    let mut log = log.lock().unwrap();
    let now = (log.admitted.len(), snapshot.rejected, snapshot.trips);
    println!(
        "{} {} {} {} {}",
        now.0 - before.0,
        now.1 - before.1,
        now.2 - before.2,
        u8::from(snapshot.store_up),
        std::mem::take(&mut log.slowest[1]).as_micros(),
    );
    now
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn exponential(&mut self, mean: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        -(1.0 - unit).ln() * mean
    }
}
