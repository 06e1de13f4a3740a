//! State shared by the clones of a set of endpoints.

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use super::node::NodeEntry;
use super::plan::{NodeTable, Plan, Published, Replaced};
use super::state::health::Machine;
use super::state::latency::Decay;
use super::state::record::{Change, Record};
use super::state::routes::Routes;
use super::state::rules::{Rules, Strategy};
use super::state::stats::NodeStats;
use crate::base::Base;
use crate::event::{EndpointEvent, Event, NodeName, Observer, Panics};
use crate::instant::Instant;
use crate::rng::SharedRng;
use crate::sync::{AtomicU64, Ordering, lock};

pub(super) struct Inner<N> {
    pub(super) base: Base,
    pub(super) settings: Settings,
    pub(super) published: Published<N>,
    core: Mutex<Core<N>>,
    /// When the next change by time is due, in nanoseconds.
    pub(super) due: AtomicU64,
    /// Number of the next call, for round robin.
    pub(super) turn: AtomicU64,
    pub(super) rng: SharedRng,
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
    /// Lease of a probe, in nanoseconds: after it, another call may be the probe.
    pub(super) lease: u64,
}

/// Mutable state, behind a lock. No user code runs under it.
pub(super) struct Core<N> {
    pub(super) machine: Machine,
    pub(super) members: Arc<NodeTable<N>>,
    /// Priorities in panic mode.
    panicking: Vec<u32>,
    /// Health checkers that run.
    pub(super) checkers: u32,
    /// Drains that wait.
    pub(super) drains: Vec<WaitingDrain>,
}

/// A drain that waits for the last call of a node.
pub(super) struct WaitingDrain {
    pub(super) stats: Arc<NodeStats>,
    /// Distinguishes the drains of a node.
    pub(super) number: u64,
    pub(super) waker: Waker,
}

impl<N> Core<N> {
    pub(super) fn member(&self, index: u32) -> Option<&Arc<NodeEntry<N>>> {
        self.members.get(index as usize)?.as_ref()
    }

    /// Returns the index of the node of this name, if it is part of the set.
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        let members = self.members.iter().flatten();
        let mut indices = members.filter(|member| &*member.name == name);
        let index = indices.next()?.address.index;
        let record = self.machine.get(index)?;
        (!record.is_leaving).then_some(index)
    }

    /// Returns the node of this name as [`index_of`](Self::index_of) does, with its record.
    pub(super) fn record_of(&mut self, name: &str) -> Option<(u32, &mut Record)> {
        let index = self.index_of(name)?;
        Some((index, self.machine.get_mut(index)?))
    }

    /// Removes nodes that have left the set and have no calls in flight. Returns values to drop outside the lock.
    fn remove_idle(&mut self) -> Option<Arc<NodeTable<N>>> {
        let is_gone = |index: usize| {
            let record = self.machine.get(index as u32);
            record.is_some_and(Record::is_gone)
        };
        let gone: Vec<usize> = (0..self.members.len())
            .filter(|index| is_gone(*index))
            .collect();
        if gone.is_empty() {
            return None;
        }
        let mut members = NodeTable::clone(&self.members);
        for index in gone {
            members[index] = None;
            self.machine.remove(index as u32);
        }
        Some(std::mem::replace(&mut self.members, Arc::new(members)))
    }

    /// Adds events for priorities that enter or leave panic mode.
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

    fn events(&self, changes: Vec<Change>) -> Vec<EndpointEvent> {
        let events = changes.into_iter().map(|change| self.event(change));
        events.flatten().collect()
    }

    fn event(&self, change: Change) -> Option<EndpointEvent> {
        let name = |index| Some(NodeName::new(&self.member(index)?.name));
        Some(match change {
            Change::Ejected {
                index,
                cause,
                length,
                times,
            } => EndpointEvent::Ejected {
                node: name(index)?,
                cause,
                length,
                times,
            },
            Change::NotEjected {
                index,
                cause,
                reason,
            } => EndpointEvent::NotEjected {
                node: name(index)?,
                cause,
                reason,
            },
            Change::Returned { index } => EndpointEvent::Returned { node: name(index)? },
            Change::Parked { index, length } => EndpointEvent::Parked {
                node: name(index)?,
                length,
            },
            Change::Unhealthy { index } => EndpointEvent::Unhealthy { node: name(index)? },
            Change::Healthy { index } => EndpointEvent::Healthy { node: name(index)? },
            Change::Draining { index, in_flight } => EndpointEvent::Draining {
                node: name(index)?,
                in_flight,
            },
        })
    }
}

/// The effect of a change of the core.
pub(super) enum Effect {
    /// Nothing changed.
    Nothing,
    /// Events only.
    Report(Vec<Change>),
    /// Calls take other routes.
    Reroute(Vec<Change>),
}

impl Effect {
    pub(super) fn of(changes: Vec<Change>) -> Self {
        let is_enforced = |change: &Change| !matches!(change, Change::NotEjected { .. });
        if changes.is_empty() {
            Self::Nothing
        } else if changes.iter().any(is_enforced) {
            Self::Reroute(changes)
        } else {
            Self::Report(changes)
        }
    }
}

impl<N> Inner<N> {
    pub(super) fn new(base: Base, settings: Settings, rules: Rules, seed: Option<u64>) -> Self {
        let now = base.now();
        let machine = Machine::new(rules, now);
        let members = Arc::new(NodeTable::new());
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
            rng: SharedRng::new(seed),
            rejected: AtomicU64::new(0),
        }
    }

    /// Changes the core, publishes new routes if needed, and reports what happened.
    pub(super) fn change(
        &self,
        now: Instant,
        listener: Option<&dyn Observer>,
        change: impl FnOnce(&mut Core<N>) -> Effect,
    ) {
        let (reports, replaced) = {
            let mut core = self.core();
            match change(&mut core) {
                Effect::Nothing => return,
                Effect::Report(changes) => {
                    let events = core.events(changes);
                    (self.number(events, listener), Replaced::default())
                }
                Effect::Reroute(changes) => {
                    let mut events = core.events(changes);
                    let replaced = self.reroute(&mut core, now, &mut events);
                    (self.number(events, listener), replaced)
                }
            }
        };
        self.report(&reports, listener, replaced);
    }

    /// Publishes the routes of the current core. Returns values to drop after the lock is released.
    fn reroute(
        &self,
        core: &mut Core<N>,
        now: Instant,
        events: &mut Vec<EndpointEvent>,
    ) -> Replaced<N> {
        let routes = Routes::new(&core.machine, now);
        core.compare_panics(&routes, events);
        let mut replaced = self.publish(core, routes);
        // From here on no call reads routes that lead to the removed nodes.
        core.machine.close_drained();
        if let Some(members) = core.remove_idle() {
            // The same routes, without the nodes that were removed.
            replaced.extend(self.publish(core, Routes::new(&core.machine, now)));
            replaced.push_members(members);
        }
        let due = core.machine.due(now).as_nanos();
        self.due.store(due, Ordering::Relaxed);
        replaced
    }

    fn publish(&self, core: &Core<N>, routes: Routes) -> Replaced<N> {
        let members = core.members.clone();
        self.published.publish(Plan { routes, members })
    }

    pub(super) fn core(&self) -> std::sync::MutexGuard<'_, Core<N>> {
        lock(&self.core)
    }

    /// Numbers events. Called under the lock, so that the numbers follow the order of the changes.
    fn number(&self, events: Vec<EndpointEvent>, listener: Option<&dyn Observer>) -> Vec<Event> {
        if !self.base.has_observer(listener) {
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

    /// Drops the replaced values, which may be values of users, and reports events. Does all of it, even if user code
    /// panics.
    fn report(&self, events: &[Event], listener: Option<&dyn Observer>, replaced: Replaced<N>) {
        let mut panics = Panics::default();
        panics.run(|| drop(replaced));
        for event in events {
            self.base.report_in(&mut panics, *event, listener);
        }
        panics.resume();
    }

    /// Completes the drains and the removal of a closed node whose last call has ended.
    #[cold]
    pub(super) fn after_last_call(&self, stats: &Arc<NodeStats>) {
        let mut panics = Panics::default();
        panics.run(|| {
            self.change(self.base.clock.now(), None, |core| {
                match core.machine.iter().any(|(_, record)| record.is_gone()) {
                    true => Effect::Reroute(Vec::new()),
                    false => Effect::Nothing,
                }
            });
        });
        self.wake_drains_in(&mut panics, std::slice::from_ref(stats));
        panics.resume();
    }

    /// Wakes the drains of these nodes, even if user code that ran before has panicked.
    pub(super) fn wake_drains_in(&self, panics: &mut Panics, nodes: &[Arc<NodeStats>]) {
        if nodes.is_empty() {
            return;
        }
        let is_of_nodes = |drain: &WaitingDrain| {
            let mut nodes = nodes.iter();
            nodes.any(|stats| Arc::ptr_eq(stats, &drain.stats))
        };
        let drains: Vec<WaitingDrain> = {
            let mut core = lock(&self.core);
            let drains = std::mem::take(&mut core.drains).into_iter();
            let (of_nodes, others) = drains.partition(is_of_nodes);
            core.drains = others;
            of_nodes
        };
        panics.wake(drains.into_iter().map(|drain| drain.waker));
    }

    /// Finds the node of an attempt.
    pub(super) fn find(&self, node_id: u64) -> Option<Arc<NodeEntry<N>>> {
        if node_id == 0 {
            return None;
        }
        self.published.read(|plan| plan.find(node_id).cloned())
    }
}
