//! Operations: the work that policies attempt.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::context::Context;
use super::outcome::Outcome;
use crate::error::Error;
use crate::event::Listener;

/// An operation that can be attempted any number of times: a small handle of a few references.
///
/// Policies receive one and attempt it. Code that uses policies passes closures to
/// [`Policy::call`](super::Policy::call) and never sees it.
///
/// The value and the error are associated types, so that a stack can be spawned whatever they are. The attempt is a
/// type with a name, so that generic code can require it to be `Send`.
pub trait Operation: Copy {
    /// The value of a successful attempt.
    type Value;

    /// The error of a failed attempt.
    type Error;

    /// The future of one attempt.
    type Attempt: Future<Output = Outcome<Self::Value, Self::Error>>;

    /// The observer of the calls of this operation; `()` for none, which costs nothing.
    type Listener: Listener;

    /// Whether an attempt may read the times in its context. If not, a layer that has waited need not read the clock
    /// for it.
    const READS_TIME: bool = true;

    /// Starts one attempt. The attempt may begin at once, so poll the future soon, or drop it.
    fn attempt(self, cx: Context) -> Self::Attempt;

    /// Returns the observer of this call. A policy that wraps the operation passes it on.
    fn listener(self) -> Self::Listener;

    /// Returns the number of attempts of the innermost operation in this call. Zero if the operation does not count
    /// them; the closures of [`Policy`](super::Policy) do.
    fn started(self) -> u32 {
        0
    }

    /// Returns the endpoints that this call has tried. Empty if the operation does not keep them; the closures of
    /// [`Policy`](super::Policy) do.
    fn tried(self) -> Tried {
        Tried::NONE
    }

    /// Stores the endpoints that this call has tried, for its further attempts. The default discards them.
    fn keep_tried(self, tried: Tried) {
        let _ = tried;
    }

    /// Returns whether the operation can still be attempted again. `false` for one that finds out during an attempt
    /// that it cannot, such as a request whose body grew too long to be kept. One that knows it before the call sets
    /// it in the context ([`Context::is_repeatable`]). Retries and hedges check both.
    #[inline(always)]
    fn is_repeatable(self) -> bool {
        true
    }

    /// Receives an error that the caller of the policy will not see, because another attempt follows or another error
    /// is returned. [`call_reported`](super::Policy::call_reported) keeps the last ones.
    ///
    /// A policy that replaces an error passes it to this method. The default drops it.
    fn discard(self, error: Error<Self::Error>) {
        drop(error);
    }
}

/// The outcome of an operation.
pub(crate) type OutcomeOf<Op> = Outcome<<Op as Operation>::Value, <Op as Operation>::Error>;

/// Defines the methods of an [`Operation`] that count attempts and keep tried endpoints. They forward to the field
/// given, an [`Attempts`]. Without one they forward to the inner operation `op`, and [`Operation::is_repeatable`] does
/// too.
macro_rules! forward_attempts {
    () => {
        $crate::policy::operation::forward_attempts!(op);

        #[inline(always)]
        fn is_repeatable(self) -> bool {
            self.op.is_repeatable()
        }
    };
    ($($field:tt).+) => {
        #[inline(always)]
        fn started(self) -> u32 {
            self.$($field).+.started()
        }

        #[inline(always)]
        fn tried(self) -> $crate::policy::Tried {
            self.$($field).+.tried()
        }

        #[inline(always)]
        fn keep_tried(self, tried: $crate::policy::Tried) {
            self.$($field).+.keep_tried(tried);
        }
    };
}
pub(crate) use forward_attempts;

/// The endpoints that one call has tried, kept by its [`Operation`] for [`Endpoints`](crate::Endpoints).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// No endpoints.
    pub(crate) const NONE: Self = Self(0);

    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// State that the attempts of one call share. Lives in the caller's future, so that the operation is a reference.
pub(crate) struct Attempts {
    /// Number of attempts started.
    started: AtomicU32,
    /// Endpoints tried.
    tried: AtomicU64,
}

impl Attempts {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            started: AtomicU32::new(0),
            tried: AtomicU64::new(0),
        }
    }

    /// Counts an attempt.
    #[inline(always)]
    pub(crate) fn start(&self) {
        // All attempts of a call start in polls of one future, so no two threads add at once.
        let started = self.started.load(Ordering::Relaxed);
        self.started
            .store(started.wrapping_add(1), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn started(&self) -> u32 {
        self.started.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn tried(&self) -> Tried {
        Tried::from_bits(self.tried.load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub(crate) fn keep_tried(&self, tried: Tried) {
        self.tried.store(tried.bits(), Ordering::Relaxed);
    }
}

/// Counts the attempts that one layer starts, without those that other copies of the call start while the layer is not
/// polled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnAttempts {
    /// Number of attempts started by others.
    others: u32,
    /// Number of all attempts when the layer was polled last.
    paused_at: u32,
}

impl OwnAttempts {
    /// Returns a count of zero. `started` is the number of all attempts of the call so far, here and below.
    #[inline(always)]
    pub(crate) const fn new(started: u32) -> Self {
        Self {
            others: started,
            paused_at: started,
        }
    }

    /// Counts the attempts from now on as the layer's own.
    #[inline(always)]
    pub(crate) const fn resume(&mut self, started: u32) {
        let meanwhile = started.wrapping_sub(self.paused_at);
        self.others = self.others.wrapping_add(meanwhile);
    }

    /// Counts the attempts from now on as those of others.
    #[inline(always)]
    pub(crate) const fn pause(&mut self, started: u32) {
        self.paused_at = started;
    }

    /// Returns the number of the layer's own attempts until the last pause.
    #[inline(always)]
    pub(crate) const fn count(&self) -> u32 {
        self.paused_at.wrapping_sub(self.others)
    }
}

/// Runs an operation under a policy. Implemented for references to policies, `&'a P`.
///
/// A user's policy that decides before a call and inspects its result can be a [`Guard`](super::Guard). Any other
/// policy implements this trait, with a named future: see the [module page](super).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy for this operation",
    label = "not a policy for operations with this value and error",
    note = "policies are `Timeout`, `Retry`, `CircuitBreaker` and so on, `&P`, `Arc<P>`, `Box<P>`, `Option<P>`, `Pipeline<P>` and tuples of them",
    note = "a policy of your own implements `Guard`, or `Run` for `&YourPolicy`",
    note = "a classifier is a policy for the error type of its closure only",
    note = "`build()` returns a `Result`: is a `?` missing?",
    note = "keyed sets and `Coalesce` are not policies: their `get(&key)` returns one",
    note = "a `BoxPolicy` is called and is not a layer; code that is generic over a policy names its operation: see the recipes"
)]
pub trait Run<Op: Operation>: Copy {
    /// The future of a run.
    type Future: Future<Output = Outcome<Op::Value, Op::Error>>;

    /// Runs the operation under this policy. The operation may begin at once, so poll the future soon, or drop it.
    fn run(self, op: Op, cx: Context) -> Self::Future;
}
