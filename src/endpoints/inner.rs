//! State shared by the clones of a set of endpoints.

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use super::node::Member;
use super::plan::{Members, Plan, Published, Replaced};
use super::state::health::{Change, Machine};
use super::state::latency::Decay;
use super::state::routes::Routes;
use super::state::rules::{Rules, Strategy};
use super::state::vitals::Vitals;
use crate::base::Base;
use crate::event::{EndpointEvent, Event, NodeName, Observer, Panics};
use crate::instant::Instant;
use crate::rng::Streams;
use crate::sync::{AtomicU64, Ordering, lock};

pub(super) struct Inner<N> {
    pub(super) base: Base,
    pub(super) settings: Settings,
    pub(super) published: Published<N>,
    core: Mutex<Core<N>>,
    /// When [`Core`] has something to do, in nanoseconds.
    pub(super) due: AtomicU64,
    /// Number of the next call, for round robin.
    pub(super) turn: AtomicU64,
    pub(super) streams: Streams,
    pub(super) rejected: AtomicU64,
}

/// Settings that never change.
pub(super) struct Settings {
    pub(super) strategy: Strategy,
    pub(super) decay: Decay,
    /// The least latency of a failure, in nanoseconds.
    pub(super) penalty: u64,
    pub(super) max_hint: Duration,
    pub(super) consecutive: Option<u32>,
}

/// What changes, behind a lock. No user code runs under it.
pub(super) struct Core<N> {
    pub(super) machine: Machine,
    pub(super) members: Arc<Members<N>>,
    /// Priorities that panic.
    panicking: Vec<u32>,
    /// Health checkers that run.
    pub(super) checkers: u32,
    /// Drains that wait.
    pub(super) drains: Vec<WaitingDrain>,
}

/// A drain that waits for the last call of a node.
pub(super) struct WaitingDrain {
    pub(super) vitals: Arc<Vitals>,
    /// Tells the drains of a node apart.
    pub(super) number: u64,
    pub(super) waker: Waker,
}

impl<N> Core<N> {
    pub(super) fn member(&self, slot: u32) -> Option<&Arc<Member<N>>> {
        self.members.get(slot as usize)?.as_ref()
    }

    /// The slot of the node of this name, if it is part of the set.
    pub(super) fn slot_of(&self, name: &str) -> Option<u32> {
        let members = self.members.iter().flatten();
        let mut slots = members.filter(|member| &*member.name == name);
        let slot = slots.next()?.address.slot;
        self.machine
            .get(slot)
            .filter(|record| !record.is_leaving)
            .map(|_| slot)
    }

    /// Removes nodes that have left the set and have no calls in flight. Returns what to drop outside the
    /// lock.
    fn remove_idle(&mut self) -> Option<Arc<Members<N>>> {
        let is_gone = |slot: usize| {
            let record = self.machine.get(slot as u32);
            record.is_some_and(|record| record.is_leaving && record.vitals.in_flight() == 0)
        };
        let gone: Vec<usize> = (0..self.members.len())
            .filter(|slot| is_gone(*slot))
            .collect();
        if gone.is_empty() {
            return None;
        }
        let mut members = Members::clone(&self.members);
        for slot in gone {
            members[slot] = None;
            self.machine.records[slot] = None;
        }
        Some(std::mem::replace(&mut self.members, Arc::new(members)))
    }

    /// Tells which priorities have begun and ended to panic.
    fn compare_panics(&mut self, routes: &Routes, events: &mut Vec<EndpointEvent>) {
        let panicking = routes.tiers.iter().filter(|tier| tier.share.panics);
        let panicking: Vec<u32> = panicking.map(|tier| tier.priority).collect();
        for &priority in panicking.iter().filter(|now| !self.panicking.contains(now)) {
            events.push(EndpointEvent::PanicStarted { priority });
        }
        for &priority in self
            .panicking
            .iter()
            .filter(|then| !panicking.contains(then))
        {
            events.push(EndpointEvent::PanicEnded { priority });
        }
        self.panicking = panicking;
    }

    fn event(&self, change: Change) -> Option<EndpointEvent> {
        let name = |slot| Some(NodeName::new(&self.member(slot)?.name));
        Some(match change {
            Change::Ejected {
                slot,
                cause,
                length,
                times,
            } => EndpointEvent::Ejected {
                node: name(slot)?,
                cause,
                length,
                times,
            },
            Change::NotEjected {
                slot,
                cause,
                reason,
            } => EndpointEvent::NotEjected {
                node: name(slot)?,
                cause,
                reason,
            },
            Change::Returned { slot } => EndpointEvent::Returned { node: name(slot)? },
            Change::Parked { slot, length } => EndpointEvent::Parked {
                node: name(slot)?,
                length,
            },
            Change::Unhealthy { slot } => EndpointEvent::Unhealthy { node: name(slot)? },
            Change::Healthy { slot } => EndpointEvent::Healthy { node: name(slot)? },
            Change::Draining { slot, in_flight } => EndpointEvent::Draining {
                node: name(slot)?,
                in_flight,
            },
        })
    }
}

/// What follows a change of the core.
pub(super) enum Then {
    /// Nothing changed.
    Nothing,
    /// Events only.
    Report(Vec<Change>),
    /// Calls take other routes.
    Reroute(Vec<Change>),
}

impl From<Option<Change>> for Then {
    fn from(change: Option<Change>) -> Self {
        match change {
            None => Self::Nothing,
            Some(Change::NotEjected { .. }) => Self::Report(change.into_iter().collect()),
            Some(_) => Self::Reroute(change.into_iter().collect()),
        }
    }
}

impl<N> Inner<N> {
    pub(super) fn new(base: Base, settings: Settings, rules: Rules, seed: Option<u64>) -> Self {
        let now = base.now();
        let machine = Machine::new(rules, now);
        let members = Arc::new(Members::new());
        let routes = Routes::new(&machine, now);
        Self {
            base,
            settings,
            published: Published::new(Plan {
                routes,
                members: members.clone(),
            }),
            due: AtomicU64::new(machine.due(now).as_nanos()),
            core: Mutex::new(Core {
                machine,
                members,
                panicking: Vec::new(),
                checkers: 0,
                drains: Vec::new(),
            }),
            turn: AtomicU64::new(0),
            streams: Streams::new(seed),
            rejected: AtomicU64::new(0),
        }
    }

    /// A random number in `[0, 1)`.
    pub(super) fn unit(&self) -> f64 {
        self.streams.begin().unit()
    }

    /// Changes the core, makes new routes if that needs them, and reports what happened.
    pub(super) fn change(
        &self,
        now: Instant,
        listener: Option<&dyn Observer>,
        change: impl FnOnce(&mut Core<N>) -> Then,
    ) {
        let (reports, replaced) = {
            let mut core = self.core();
            match change(&mut core) {
                Then::Nothing => return,
                Then::Report(changes) => (self.number(events(&core, changes), listener), None),
                Then::Reroute(changes) => {
                    let mut events = events(&core, changes);
                    let replaced = self.reroute(&mut core, now, &mut events);
                    (self.number(events, listener), Some(replaced))
                }
            }
        };
        drop(replaced);
        self.report(&reports, listener);
    }

    /// Publishes routes of the core as it is. Returns what to drop outside the lock.
    pub(super) fn reroute(
        &self,
        core: &mut Core<N>,
        now: Instant,
        events: &mut Vec<EndpointEvent>,
    ) -> (Replaced<N>, Option<Arc<Members<N>>>) {
        let removed = core.remove_idle();
        let routes = Routes::new(&core.machine, now);
        core.compare_panics(&routes, events);
        let members = core.members.clone();
        let replaced = self.published.publish(Plan { routes, members });
        let due = core.machine.due(now).as_nanos();
        self.due.store(due, Ordering::Relaxed);
        (replaced, removed)
    }

    pub(super) fn core(&self) -> std::sync::MutexGuard<'_, Core<N>> {
        lock(&self.core)
    }

    /// Makes events of what happened to nodes. Called under the lock, so that their numbers follow the order
    /// of the changes.
    pub(super) fn number(
        &self,
        events: Vec<EndpointEvent>,
        listener: Option<&dyn Observer>,
    ) -> Vec<Event> {
        if !self.base.is_heard(listener) {
            return Vec::new();
        }
        let number = |event| Event::Endpoint {
            policy: self.base.name,
            pipeline: None,
            event,
            sequence: self.base.number(),
        };
        events.into_iter().map(number).collect()
    }

    pub(super) fn report(&self, events: &[Event], listener: Option<&dyn Observer>) {
        let mut panics = Panics::default();
        for event in events {
            self.base.tell_in(&mut panics, *event, listener);
        }
        panics.resume();
    }

    /// Wakes the drains of a node whose last call has ended.
    #[cold]
    pub(super) fn wake_drains(&self, vitals: &Arc<Vitals>) {
        let drains: Vec<WaitingDrain> = {
            let mut core = lock(&self.core);
            let drains = std::mem::take(&mut core.drains).into_iter();
            let (of_node, others) =
                drains.partition(|drain: &WaitingDrain| Arc::ptr_eq(&drain.vitals, vitals));
            core.drains = others;
            of_node
        };
        let mut panics = Panics::default();
        for drain in drains {
            panics.run(|| drain.waker.wake());
        }
        panics.resume();
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Puts a node into a slot of the core.
    pub(super) fn place(members: &mut Members<N>, member: Member<N>) {
        let slot = member.address.slot as usize;
        if members.len() <= slot {
            members.resize_with(slot + 1, || None);
        }
        members[slot] = Some(Arc::new(member));
    }

    /// Finds the node of an attempt.
    pub(super) fn find(&self, word: u64) -> Option<Arc<Member<N>>> {
        if word == 0 {
            return None;
        }
        self.published.read(|plan| plan.find(word).cloned())
    }
}

fn events<N>(core: &Core<N>, changes: Vec<Change>) -> Vec<EndpointEvent> {
    let events = changes.into_iter().map(|change| core.event(change));
    events.flatten().collect()
}
