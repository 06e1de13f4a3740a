use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::state::{Gcra, Quota};
use super::bucket_map::Entry;
use super::own_limit::{KeyLimit, OwnLimit};
use super::table::{MAX_TAT, Table};
use crate::instant::Instant;

fn gcra(burst: u64) -> Gcra {
    Quota::per_second(burst).gcra(0)
}

/// Runs `act` on the state and the rules of a key.
fn with<R>(
    table: &mut Table<u16>,
    (hash, key): (u32, u16),
    default: &Gcra,
    act: impl FnOnce(&mut u64, Gcra) -> R,
) -> R {
    let (state, gcra) = table.find(hash, &key, default).unwrap();
    let mut word = state.get();
    if word <= MAX_TAT {
        let result = act(&mut word, *gcra);
        state.set(word);
        return result;
    }
    match &mut table.own_limit_mut(word).unwrap().limit {
        KeyLimit::Bucket { gcra, tat } => act(tat, *gcra),
        KeyLimit::Limiter(..) => unreachable!("there are only buckets"),
    }
}

#[test]
fn with_integer_keys_an_entry_is_two_words_and_a_shard_one_cache_line() {
    assert_eq!(size_of::<Option<Entry<u64>>>(), 16);
    assert!(size_of::<std::sync::Mutex<Table<u64>>>() <= 64);
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Key {
    hash: u32,
    tat: u64,
    burst: u64,
    is_default: bool,
    is_paused: bool,
}

proptest! {
    // Few distinct hashes, so that keys collide. The model is a map.
    #[test]
    fn a_table_is_a_map(
        steps in prop::collection::vec((0_u8..8, 0_u16..80, 0_u32..6), 1..600),
        tiers in 1_u64..=3,
    ) {
        let default = gcra(1);
        let mut table = Table::new();
        let mut model: HashMap<u16, Key> = HashMap::new();
        let mut default_burst = 1;
        for (step, key, spread) in steps {
            let hash = ((u32::from(key) % (spread + 1)) << 29) | (u32::from(key) % 7);
            let hash = model.get(&key).map_or(hash, |key| key.hash);
            match step {
                0..=2 if !model.contains_key(&key) => {
                    let burst = u64::from(key) % tiers + 1;
                    let limit = KeyLimit::Bucket { gcra: gcra(burst), tat: 0 };
                    let own_limit = (burst > 1).then(|| OwnLimit::new(false, limit));
                    let is_default = own_limit.is_none();
                    prop_assert!(table.insert(hash, key, own_limit, &default).is_some());
                    let burst = if is_default { default_burst } else { burst };
                    let new = Key { hash, tat: 0, burst, is_default, is_paused: false };
                    model.insert(key, new);
                }
                0..=2 => {
                    with(&mut table, (hash, key), &default, |tat, _| *tat += 1);
                    model.get_mut(&key).unwrap().tat += 1;
                }
                3 => {
                    prop_assert_eq!(table.remove(hash, &key), model.remove(&key).map(|_| key));
                }
                4 => {
                    default_burst = u64::from(spread) + 1;
                    let new = Arc::new(gcra(default_burst));
                    table.replace(&new, &default, |tat, _| tat + 1, &mut Vec::new());
                    for key in model.values_mut().filter(|key| key.is_default) {
                        key.burst = default_burst;
                        key.tat += 1;
                    }
                }
                5 => {
                    let until = Instant::from_nanos(1);
                    let is_known = table.pause(hash, &key, until, &default);
                    prop_assert_eq!(is_known, model.contains_key(&key));
                    if let Some(key) = model.get_mut(&key) {
                        key.is_paused = true;
                    }
                }
                6 => {
                    let (nearest, _) = table.nearest(Instant::ORIGIN, usize::MAX, &default);
                    prop_assert_eq!(nearest.is_some(), !model.is_empty());
                    let removed = table.evict(Instant::ORIGIN, usize::MAX, &default);
                    prop_assert_eq!(removed.count, usize::from(nearest.is_some()));
                    let left: Vec<_> = keys(&table, &default);
                    let fresh_at = |key: &Key| {
                        let full_at = gcra(key.burst).availability(key.tat, Instant::ORIGIN).full_at;
                        full_at.max(Instant::from_nanos(u64::from(key.is_paused)))
                    };
                    let least = model.values().map(fresh_at).min();
                    let gone = model.iter().find(|(key, _)| !left.contains(key));
                    prop_assert_eq!(gone.map(|(_, key)| fresh_at(key)), least);
                    model.retain(|key, _| left.contains(key));
                }
                _ => {
                    let full = |key: &Key| key.tat == 0 && !key.is_paused;
                    let count = [3, usize::MAX][usize::from(key % 2)];
                    let removed = table.sweep(Instant::ORIGIN, count, &default).count;
                    let left = keys(&table, &default);
                    let before = model.len();
                    model.retain(|key, state| left.contains(key) || !full(state));
                    prop_assert_eq!(before - model.len(), removed);
                    prop_assert!(count == 3 || !model.values().any(full));
                }
            }
            prop_assert_eq!(keys(&table, &default).len(), model.len());
            for (name, key) in &model {
                let read = with(&mut table, (key.hash, *name), &default, |tat, gcra| (*tat, gcra));
                prop_assert_eq!(read, (key.tat, gcra(key.burst)));
            }
        }
    }
}

fn keys(table: &Table<u16>, default: &Gcra) -> Vec<u16> {
    let keys = table.keys(default);
    keys.map(|(key, _)| *key).collect()
}
